//! Where the server listens: `127.0.0.1:8080`, `localhost:8080`, `:8080`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

use anyhow::{Context, Result};

/// The address that `text` says. Without a host it is the loopback, which is the default; a name
/// is looked up, and of what it means the first IPv4 address is taken, else the first.
///
/// # Errors
///
/// What is wrong, and what would be right.
pub(super) fn address(text: &str) -> Result<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let forms = || format!("expected ADDRESS:PORT, NAME:PORT or :PORT, found {text:?}");
    let (host, port) = text.rsplit_once(':').with_context(forms)?;
    let port: u16 = port.parse().ok().with_context(forms)?;
    if host.is_empty() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    // What is left of an IPv6 address without brackets would be taken for a name.
    if host.contains(':') {
        anyhow::bail!("an IPv6 address stands in brackets, as in [::1]:8080; found {text:?}");
    }
    let found: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .with_context(|| format!("the name {host:?} cannot be looked up"))?
        .collect();
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().with_context(|| format!("the name {host:?} has no address"))
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn a_name_a_port_alone_and_an_address_say_where() {
        for (text, told) in [
            (":8080", "127.0.0.1:8080"),
            (":0", "127.0.0.1:0"),
            ("localhost:8080", "127.0.0.1:8080"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::1]:8080", "[::1]:8080"),
        ] {
            assert_eq!(address(text).unwrap().to_string(), told, "{text}");
        }
        for (text, told) in [
            ("8080", ":PORT"),
            ("localhost", "NAME:PORT"),
            ("localhost:", "NAME:PORT"),
            (":65536", ":PORT"),
            ("::1:8080", "brackets"),
            ("", "ADDRESS:PORT"),
            ("no such name:80", "no such name"),
        ] {
            let error = format!("{:#}", address(text).unwrap_err());
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
