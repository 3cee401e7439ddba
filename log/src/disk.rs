//! The one port for file access of the log, the stream and the rollups.
//!
//! Paths are relative to the disk's root, with `/` between their parts. Every call blocks.

use std::fmt;
use std::io;

mod real;
pub use real::RealDisk;

#[cfg(feature = "conformance")]
pub mod sim;

/// A place for files, with the durability rules of POSIX said aloud.
///
/// - **D1** bytes are durable after [`DiskFile::sync`] of their file returned `Ok`, and only
///   then; after an error the unsynced bytes are lost, whatever a later sync says.
/// - **D2** a creation, renaming or removal is durable after [`Disk::sync_dir`] of its folder.
/// - **D3** a rename is seen whole or not at all, after a crash too.
pub trait Disk: Send + Sync + fmt::Debug {
    /// A new file, or an old one emptied; writes go to its end.
    ///
    /// # Errors
    ///
    /// What the disk says; the folder must exist.
    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>>;

    /// An existing file; writes go to its end.
    ///
    /// # Errors
    ///
    /// What the disk says.
    fn open_append(&self, path: &str) -> io::Result<Box<dyn DiskFile>>;

    /// An existing file, to be read only.
    ///
    /// # Errors
    ///
    /// What the disk says.
    fn open_read(&self, path: &str) -> io::Result<Box<dyn DiskFile>>;

    /// The whole file.
    ///
    /// # Errors
    ///
    /// What the disk says.
    fn read(&self, path: &str) -> io::Result<Vec<u8>>;

    /// Gives a file another name, replacing what had it.
    ///
    /// # Errors
    ///
    /// What the disk says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// What the disk says; [`io::ErrorKind::NotFound`] when there is none.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Names of files and folders in `dir`, sorted; none when `dir` does not exist.
    ///
    /// # Errors
    ///
    /// What the disk says.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Creates `dir` and what is missing above it.
    ///
    /// # Errors
    ///
    /// What the disk says.
    fn create_dir_all(&self, dir: &str) -> io::Result<()>;

    /// Makes creations, renamings and removals in `dir` durable; `""` is the root.
    ///
    /// # Errors
    ///
    /// What the disk says.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Free for us.
    ///
    /// # Errors
    ///
    /// What the disk says.
    fn free_bytes(&self) -> io::Result<u64>;

    /// Size of the whole disk; at least what is free.
    ///
    /// # Errors
    ///
    /// What the disk says.
    fn total_bytes(&self) -> io::Result<u64> {
        self.free_bytes()
    }
}

/// One open file.
#[expect(clippy::len_without_is_empty, reason = "it asks the disk, and nobody asks for empty")]
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Appends all of `bytes`.
    ///
    /// # Errors
    ///
    /// What the disk says; an unknown prefix of `bytes` may be written then.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes the file's bytes durable (fdatasync).
    ///
    /// # Errors
    ///
    /// What the disk says; never repeat it to get an `Ok` (D1).
    fn sync(&mut self) -> io::Result<()>;

    /// Reads at `offset` until `buf` is full or the file ends; returns how much.
    ///
    /// # Errors
    ///
    /// What the disk says.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// The file's length in bytes.
    ///
    /// # Errors
    ///
    /// What the disk says.
    fn len(&self) -> io::Result<u64>;

    /// Cuts the file; the next write goes to its new end.
    ///
    /// # Errors
    ///
    /// What the disk says.
    fn truncate(&mut self, len: u64) -> io::Result<()>;

    /// A second handle on the same file, for syncs and reads beside the first.
    ///
    /// # Errors
    ///
    /// What the disk says.
    fn try_clone(&self) -> io::Result<Box<dyn DiskFile>>;
}

/// Writes a file so that it is there whole or not at all, and durable when this returns:
/// temporary file, sync, rename, sync of the folder.
///
/// # Errors
///
/// What the disk says; the old file, if any, is untouched unless the last sync failed.
pub fn write_atomically(disk: &dyn Disk, path: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{path}.tmp");
    let mut file = disk.create(&temporary)?;
    let written = file.write_all(bytes).and_then(|()| file.sync());
    drop(file);
    if let Err(error) = written {
        // What is left is ours alone, and the next attempt empties it anyway.
        drop(disk.remove(&temporary));
        return Err(error);
    }
    disk.rename(&temporary, path)?;
    disk.sync_dir(parent(path))
}

/// Creates `dir` and what is missing above it, durably.
///
/// # Errors
///
/// What the disk says.
pub fn create_dir_durably(disk: &dyn Disk, dir: &str) -> io::Result<()> {
    disk.create_dir_all(dir)?;
    let mut child = dir;
    while !child.is_empty() {
        child = parent(child);
        disk.sync_dir(child)?;
    }
    Ok(())
}

/// The folder of `path`; `""` at the root.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _name)| dir)
}
