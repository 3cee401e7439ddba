//! One process per data directory, and one after the other where several may write.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

/// In place of a pid.
const UNKNOWN: &str = "(unknown)";

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
        let mut file = open(&path)?;
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
        let metadata = std::fs::symlink_metadata(&path).ok().filter(Metadata::is_file)?;
        let pid = File::open(&path).map(|mut file| read_pid(&mut file)).ok()?;
        holder_of(&metadata, &pid)
    }
}

/// A file that processes take turns by. Waiting blocks: not on a runtime's worker.
#[derive(Debug)]
pub(crate) struct Turn {
    _file: File,
}

/// How often whoever waits looks again.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

impl Turn {
    /// Waits for the turn, until it is dropped or the process dies.
    ///
    /// # Errors
    ///
    /// When another process has it for as long as `patience` (it is named), or the disk refuses.
    pub(crate) fn wait(path: &Path, patience: Duration) -> Result<Self> {
        let file = open(path)?;
        let mut waited = Duration::ZERO;
        while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if !matches!(error, Errno::WOULDBLOCK | Errno::INTR) {
                return Err(error).with_context(|| format!("lock {}", path.display()));
            }
            if waited >= patience {
                let holder = file.metadata().ok().and_then(|metadata| holder_of(&metadata, ""));
                let holder = holder.unwrap_or_else(|| UNKNOWN.to_owned());
                bail!(
                    "process {holder} has held {} for {} s: wait for it or end it, then try again",
                    path.display(),
                    patience.as_secs()
                );
            }
            std::thread::park_timeout(LOOK_INTERVAL);
            waited += LOOK_INTERVAL;
        }
        Ok(Self { _file: file })
    }
}

/// Opens a file to be locked, never what a link in its place points to.
fn open(path: &Path) -> Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    let is_link = |error: &io::Error| Errno::from_io_error(error) == Some(Errno::LOOP);
    ensure!(!file.as_ref().is_err_and(is_link), "{} is a link: remove it", path.display());
    let file = file.with_context(|| format!("open {}", path.display()))?;
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    ensure!(is_file, "{} is no regular file: remove it", path.display());
    Ok(file)
}

/// Who has locked this file, by what the kernel tells.
fn holder_of(file: &Metadata, written: &str) -> Option<String> {
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| holder_in(line, file, written))
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
fn write_pid(file: &mut File) -> io::Result<()> {
    file.rewind()?;
    let pid = std::process::id().to_string();
    file.write_all(pid.as_bytes())?;
    file.set_len(pid.len() as u64)
}

fn read_pid(file: &mut File) -> String {
    let mut text = String::new();
    match file.read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => UNKNOWN.to_owned(),
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

    #[test]
    fn a_turn_is_waited_for_and_whoever_has_it_too_long_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("turn");
        let wait = |patience_ms| Turn::wait(&path, Duration::from_millis(patience_ms));
        let first = wait(0).unwrap();
        let error = wait(100).unwrap_err().to_string();
        assert!(error.contains(&format!("process {} has held", std::process::id())), "{error}");
        std::thread::scope(|scope| {
            let second = scope.spawn(|| wait(60_000));
            std::thread::park_timeout(Duration::from_millis(100));
            drop(first);
            second.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_link_in_the_place_of_a_lock_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = folder.path().join("elsewhere");
        std::fs::write(&elsewhere, "untouched").unwrap();
        std::os::unix::fs::symlink(&elsewhere, folder.path().join("lock")).unwrap();
        assert!(DataDirLock::acquire(folder.path()).is_err());
        assert!(Turn::wait(&folder.path().join("lock"), Duration::ZERO).is_err());
        assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "untouched");
    }
}
