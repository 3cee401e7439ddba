//! One process per data directory.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

/// Holds the data directory until it is dropped; the kernel lets go when the process dies.
#[derive(Debug)]
pub(crate) struct DataDirLock {
    _file: File,
}

impl DataDirLock {
    /// # Errors
    ///
    /// When another process holds the directory (its pid is named), or the disk refuses.
    pub(crate) fn acquire(data_dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(data_dir)
            .with_context(|| format!("create data directory {}", data_dir.display()))?;
        let path = data_dir.join("lock");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let holder = read_pid(&mut file);
            bail!(
                "data directory {} is in use by process {holder}; stop it or choose another \
                 --data-dir",
                data_dir.display()
            );
        }
        // The kernel's lock counts; the pid is only told, and a full disk may not take it.
        if let Err(error) = write_pid(&mut file) {
            tracing::warn!(file = %path.display(), %error, "the pid was not written");
        }
        Ok(Self { _file: file })
    }

    /// The pid of the process that holds the directory, if one does. Only asks: a lock taken to
    /// find out would refuse a server that starts at that moment.
    pub(crate) fn holder(data_dir: &Path) -> Option<String> {
        let path = data_dir.join("lock");
        let metadata = std::fs::metadata(&path).ok()?;
        let pid = File::open(&path).map(|mut file| read_pid(&mut file)).ok()?;
        let locks = std::fs::read_to_string("/proc/locks").ok()?;
        locks.lines().find_map(|line| holder_in(line, &metadata, &pid))
    }
}

/// The pid in a line of /proc/locks that speaks of our file:
/// `1: FLOCK  ADVISORY  WRITE 4711 08:02:1837 0 EOF`.
fn holder_in(line: &str, file: &Metadata, written: &str) -> Option<String> {
    let mut words = line.split_whitespace().skip(1);
    if words.next()? != "FLOCK" {
        return None;
    }
    let (pid, place) = (words.nth(2)?, words.next()?);
    let mut place = place.split(':');
    let mut number = |radix| u64::from_str_radix(place.next()?, radix).ok();
    let (major, minor, inode) = (number(16)?, number(16)?, number(10)?);
    let device =
        (u64::from(rustix::fs::major(file.dev())), u64::from(rustix::fs::minor(file.dev())));
    // Layered file systems show another device there; the pid in the file is then the witness.
    let is_ours = inode == file.ino() && (device == (major, minor) || pid == written);
    is_ours.then(|| pid.to_owned())
}

/// Over what is there, so that a full disk needs no room for it.
fn write_pid(file: &mut File) -> std::io::Result<()> {
    file.rewind()?;
    let pid = std::process::id().to_string();
    file.write_all(pid.as_bytes())?;
    file.set_len(pid.len() as u64)
}

fn read_pid(file: &mut File) -> String {
    let mut text = String::new();
    match file.read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "(unknown)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_with_the_pid_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataDirLock::acquire(folder.path()).unwrap();
        let error = DataDirLock::acquire(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        assert!(DataDirLock::holder(folder.path()).is_some());
        drop(first);
        assert!(DataDirLock::holder(folder.path()).is_none());
        DataDirLock::acquire(folder.path()).unwrap();
    }
}
