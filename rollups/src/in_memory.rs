//! The bytes of one file as a disk: whatever is asked of it, it never refuses.

use std::io;
use std::sync::Arc;

use nilometer_log::{Disk, DiskFile};

/// Every path is this file, to be read only.
#[derive(Clone, Debug)]
pub(crate) struct InMemory(pub(crate) Arc<[u8]>);

fn read_only<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Disk for InMemory {
    fn create(&self, _path: &str) -> io::Result<Box<dyn DiskFile>> {
        read_only()
    }

    fn open_append(&self, _path: &str) -> io::Result<Box<dyn DiskFile>> {
        read_only()
    }

    fn open_read(&self, _path: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(self.clone()))
    }

    fn read(&self, _path: &str) -> io::Result<Vec<u8>> {
        Ok(self.0.to_vec())
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        read_only()
    }

    fn remove(&self, _path: &str) -> io::Result<()> {
        read_only()
    }

    fn list(&self, _dir: &str) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn create_dir_all(&self, _dir: &str) -> io::Result<()> {
        read_only()
    }

    fn sync_dir(&self, _dir: &str) -> io::Result<()> {
        read_only()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(0)
    }
}

impl DiskFile for InMemory {
    fn write_all(&mut self, _bytes: &[u8]) -> io::Result<()> {
        read_only()
    }

    fn sync(&mut self) -> io::Result<()> {
        read_only()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.0.get(at..)).unwrap_or_default();
        let read = rest.len().min(buf.len());
        buf[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn len(&self) -> io::Result<u64> {
        u64::try_from(self.0.len()).map_err(io::Error::other)
    }

    fn truncate(&mut self, _len: u64) -> io::Result<()> {
        read_only()
    }

    fn try_clone(&self) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(self.clone()))
    }
}
