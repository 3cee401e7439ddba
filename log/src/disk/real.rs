//! Files below one folder of the machine.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{Disk, DiskFile};

/// Files below one folder of the machine.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// The disk whose root is `root`, which is created if it is missing.
    ///
    /// # Errors
    ///
    /// What the machine says.
    pub fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        Ok(Self { root: root.canonicalize()? })
    }

    /// Its root, from the machine's own.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Below the root, or refused.
    fn resolve(&self, path: &str) -> io::Result<PathBuf> {
        let relative = Path::new(path);
        if relative.components().all(|part| matches!(part, Component::Normal(_))) {
            return Ok(self.root.join(relative));
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("path {path:?} leaves the disk's root"),
        ))
    }

    fn file(file: File) -> Box<dyn DiskFile> {
        Box::new(RealFile(file))
    }

    /// A file of the disk's own: neither what a link points to nor a pipe or device, whose
    /// opening and reading may never end.
    fn open_own(&self, path: &str, options: &mut OpenOptions) -> io::Result<File> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let options = options.mode(0o600).custom_flags(flags.bits().cast_signed());
        let refused = |what| {
            let words = format!("{path} is {what}, not a regular file: put the file in its place");
            Err(io::Error::new(io::ErrorKind::InvalidInput, words))
        };
        let file = match options.open(self.resolve(path)?) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => {
                return refused("a link");
            }
            opened => opened?,
        };
        if file.metadata()?.is_file() { Ok(file) } else { refused("a pipe, device or folder") }
    }
}

impl Disk for RealDisk {
    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let new =
            || self.open_own(path, OpenOptions::new().read(true).append(true).create_new(true));
        let file = match new() {
            // What has the name is not written to: it may be a link, or have another name, too.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.remove(path)?;
                new()?
            }
            made => made?,
        };
        Ok(Self::file(file))
    }

    fn open_append(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        self.open_own(path, OpenOptions::new().read(true).append(true)).map(Self::file)
    }

    fn open_read(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        self.open_own(path, OpenOptions::new().read(true)).map(Self::file)
    }

    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut file = self.open_own(path, OpenOptions::new().read(true))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.resolve(from)?, self.resolve(to)?)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.resolve(path)?)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.resolve(dir)?) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            // A name that is not UTF-8 is not one of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir_all(&self, dir: &str) -> io::Result<()> {
        fs::create_dir_all(self.resolve(dir)?)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.resolve(dir)?)?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.root)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn total_bytes(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.root)?;
        Ok(disk.f_blocks.saturating_mul(disk.f_frsize))
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.0.read_at(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn try_clone(&self) -> io::Result<Box<dyn DiskFile>> {
        Ok(RealDisk::file(self.0.try_clone()?))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::super::write_atomically;
    use super::*;

    #[test]
    fn neither_links_nor_pipes_are_followed_emptied_or_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = folder.path().join("elsewhere");
        fs::write(&elsewhere, "untouched").unwrap();
        let disk = RealDisk::open(&folder.path().join("root")).unwrap();
        let path = |name: &str| folder.path().join("root").join(name);
        symlink(&elsewhere, path("link")).unwrap();
        fs::hard_link(&elsewhere, path("other-name")).unwrap();
        mknodat(CWD, path("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        for name in ["link", "pipe"] {
            assert!(disk.read(name).is_err(), "{name}");
            assert!(disk.open_read(name).is_err(), "{name}");
            assert!(disk.open_append(name).is_err(), "{name}");
        }
        for name in ["link", "other-name", "pipe"] {
            disk.create(name).unwrap().write_all(b"ours").unwrap();
            assert_eq!(disk.read(name).unwrap(), b"ours", "{name}");
        }
        symlink(&elsewhere, path("file.tmp")).unwrap();
        write_atomically(&disk, "file", b"whole").unwrap();
        assert_eq!(disk.read("file").unwrap(), b"whole");
        assert_eq!(fs::read(&elsewhere).unwrap(), b"untouched");
        let mode = path("file").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{mode:o}");
    }
}
