//! One process per data directory.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
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
        file.set_len(0).context("write the lock")?;
        file.rewind().context("write the lock")?;
        write!(file, "{}", std::process::id()).context("write the lock")?;
        Ok(Self { _file: file })
    }

    /// The pid of the process that holds the directory, if one does.
    pub(crate) fn holder(data_dir: &Path) -> Option<String> {
        let mut file = OpenOptions::new().read(true).write(true).open(data_dir.join("lock")).ok()?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => None,
            Err(_held) => Some(read_pid(&mut file)),
        }
    }
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
