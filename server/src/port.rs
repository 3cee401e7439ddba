//! An address that we cannot listen on: why, who has it, and what to do.

use std::ffi::OsStr;
use std::io::{Error, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// What the system said, in words that help.
pub(crate) fn refused(address: SocketAddr, error: &Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::AddrInUse => {
            let holder = holder(address).unwrap_or_else(|| "another process".to_owned());
            let free = SocketAddr::new(address.ip(), address.port().checked_add(1).unwrap_or(0));
            anyhow::anyhow!(
                "{address} is in use by {holder}; stop it, or listen elsewhere: --listen {free}"
            )
        }
        ErrorKind::PermissionDenied => anyhow::anyhow!(
            "{address} needs the right to ports below 1024 (CAP_NET_BIND_SERVICE); give it, or \
             listen on a higher one with --listen"
        ),
        ErrorKind::AddrNotAvailable => anyhow::anyhow!(
            "{address} is no address of this machine; choose one of its own with --listen"
        ),
        _ => anyhow::anyhow!("listen on {address}: {error}; choose another with --listen"),
    }
}

/// The process that listens there, as far as the kernel tells us: our own user's, or any as root.
fn holder(address: SocketAddr) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let inode = tables.iter().find_map(|path| listener_in(&text(path), address))?;
    let socket = format!("socket:[{inode}]");
    let processes = std::fs::read_dir("/proc").ok()?;
    let mut folders = processes.flatten().map(|entry| entry.path());
    // `self` and `thread-self` lie there, too.
    let is_process = |folder: &PathBuf| folder.file_name().is_some_and(is_number);
    let folder = folders.find(|folder| is_process(folder) && holds(folder, &socket))?;
    let pid = folder.file_name()?.to_string_lossy();
    let name = std::fs::read_to_string(folder.join("comm")).unwrap_or_default();
    Some(format!("process {pid} ({})", name.trim()))
}

/// The inode of the listening socket in a table like /proc/net/tcp:
/// `0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 1000 0 24581 …`.
fn listener_in(table: &str, address: SocketAddr) -> Option<String> {
    const LISTENS: &str = "0A";
    let wanted = match address.ip() {
        IpAddr::V4(ip) => words(&ip.octets()),
        IpAddr::V6(ip) => words(&ip.octets()),
    };
    table.lines().find_map(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let (ip, port) = columns.next()?.split_once(':')?;
        let is_ours =
            ip == wanted || address.ip().is_unspecified() || ip.bytes().all(|c| c == b'0');
        let is_there = is_ours
            && u16::from_str_radix(port, 16) == Ok(address.port())
            && columns.nth(1) == Some(LISTENS);
        is_there.then(|| columns.nth(5).map(str::to_owned)).flatten()
    })
}

/// An address as the kernel's table has it: words of the machine, in hexadecimal.
fn words(octets: &[u8]) -> String {
    let (words, _) = octets.as_chunks::<4>();
    words.iter().map(|word| format!("{:08X}", u32::from_ne_bytes(*word))).collect()
}

fn is_number(name: &OsStr) -> bool {
    name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
}

fn holds(process: &Path, socket: &str) -> bool {
    let Ok(open) = std::fs::read_dir(process.join("fd")) else { return false };
    open.flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .any(|target| target.as_os_str() == socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_is_named_and_another_address_proposed() {
        for ip in ["127.0.0.1", "[::1]", "0.0.0.0"] {
            let held = std::net::TcpListener::bind(format!("{ip}:0")).unwrap();
            let address = held.local_addr().unwrap();
            let error = std::net::TcpListener::bind(address).unwrap_err();
            let said = refused(address, &error).to_string();
            let pid = format!("process {} (", std::process::id());
            assert!(said.contains(&pid), "{said}");
            assert!(said.contains(&format!("--listen {ip}:")), "{said}");
            drop(held);
            assert_eq!(holder(address), None);
        }
    }

    #[test]
    fn an_address_of_another_machine_is_told_as_such() {
        let address: SocketAddr = "192.0.2.1:8080".parse().unwrap();
        let error = std::net::TcpListener::bind(address).unwrap_err();
        assert!(refused(address, &error).to_string().contains("no address of this machine"));
    }
}
