//! The book's file: changed by one after the other, whole or not at all, with a copy beside it.

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nilometer_access::{BookError, KeyBook, Keys};
use nilometer_log::{Disk, RealDisk};
use parking_lot::Mutex;

use super::{FOLDER, Keyring, take_given};
use crate::config::Secrets;
use crate::lock::Turn;

pub(crate) const BOOK: &str = "keys/book.json";
/// The book as it was last written or read, for whoever finds the book itself damaged.
pub(crate) const GOOD_COPY: &str = "keys/book.good.json";
/// Whoever changes the book holds this from before it is read until it is written.
const LOCK: &str = "keys/lock";
/// Between the name of a file that is being written and its end.
const TEMPORARY: (&str, &str) = ("book.", ".tmp");

/// How long a writer waits for others: each takes a few writes, and the seconds that its key may
/// take to be shown.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of a book at most: its keys with labels and origins of some kilobytes each.
const BOOK_BYTES_MAX: usize = 64 << 20;

impl Keyring {
    /// The book, empty where there is none yet.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be read: a lost book must not become an empty one.
    pub(crate) fn book(&self) -> Result<KeyBook> {
        self.book_of(self.read_file()?.as_deref())
    }

    /// The book, held so that nobody else changes it meanwhile. Waits for whoever does: blocks.
    ///
    /// # Errors
    ///
    /// As [`Keyring::book`], and when somebody else holds it for too long.
    pub(crate) fn edit(self: &Arc<Self>) -> Result<Edit> {
        let turn =
            Turn::wait(&self.root.join(LOCK), PATIENCE).context("change the book of keys")?;
        self.sweep();
        let on_disk = self.read_file()?;
        let before = self.book_of(on_disk.as_deref())?;
        if let Some(bytes) = &on_disk {
            self.keep_copy(bytes);
        }
        let keyring = Arc::clone(self);
        Ok(Edit { book: before.clone(), before, on_disk, keyring, _turn: turn })
    }

    /// The book in force at a start: what the environment gives now, and nothing that it gave
    /// before.
    ///
    /// # Errors
    ///
    /// When the book cannot be read or written, or a token of the environment does not fit.
    pub(crate) fn at_start(
        self: &Arc<Self>,
        keys: Arc<Keys>,
        secrets: &Secrets,
        now_ms: i64,
    ) -> Result<InForce> {
        let mut edit = self.edit()?;
        take_given(&mut edit.book, secrets, now_ms)?;
        // A start that changes nothing writes nothing: it works on a full disk.
        edit.keep()?;
        let in_force = InForce { keyring: Arc::clone(self), keys, stands_for: Mutex::default() };
        in_force.put(&edit);
        Ok(in_force)
    }

    fn read_file(&self) -> Result<Option<Vec<u8>>> {
        match self.disk.open_read(BOOK).and_then(|file| file.len()) {
            Ok(len) if len > BOOK_BYTES_MAX as u64 => {
                bail!("{BOOK} has {len} bytes, more than a book ever has ({BOOK_BYTES_MAX})")
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                ensure!(
                    !self.root.join(GOOD_COPY).exists(),
                    "{BOOK} is missing; {GOOD_COPY} is its last good state: copy it there, or \
                     remove it, too, to begin with new keys"
                );
                Ok(None)
            }
            Ok(_) => self.disk.read(BOOK).map(Some).with_context(|| format!("read {BOOK}")),
            Err(error) => Err(error).with_context(|| format!("read {BOOK}")),
        }
    }

    fn book_of(&self, bytes: Option<&[u8]>) -> Result<KeyBook> {
        bytes.map_or_else(|| Ok(KeyBook::new()), |bytes| parse(bytes, &self.disk))
    }

    /// What a process that was killed left behind; nobody writes but who holds the book.
    fn sweep(&self) {
        let (begin, end) = TEMPORARY;
        for name in self.disk.list(FOLDER).unwrap_or_default() {
            if name.starts_with(begin) && name.ends_with(end) {
                drop(self.disk.remove(&format!("{FOLDER}/{name}")));
            }
        }
    }

    fn keep_copy(&self, bytes: &[u8]) {
        let is_kept = || self.disk.read(GOOD_COPY).is_ok_and(|kept| kept == bytes);
        if !is_kept()
            && let Err(error) = self.replace(GOOD_COPY, bytes)
        {
            tracing::warn!("the book of keys has no fresh copy: {error:#}");
        }
    }

    /// In a new file of an unknown name, which takes the place of `path` once it is durable.
    pub(super) fn replace(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let (begin, end) = TEMPORARY;
        let folder = self.root.join(FOLDER);
        let write = || {
            let mut file =
                tempfile::Builder::new().prefix(begin).suffix(end).tempfile_in(&folder)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(self.root.join(path))?;
            self.disk.sync_dir(FOLDER)
        };
        write().with_context(|| format!("write {path}"))
    }
}

/// The book that these bytes of its file are.
///
/// # Errors
///
/// What is wrong with them, and what to do.
fn parse(bytes: &[u8], disk: &RealDisk) -> Result<KeyBook> {
    let error = match KeyBook::parse(bytes) {
        Ok(book) => return Ok(book),
        Err(error) => error,
    };
    if matches!(error, BookError::Version { .. }) {
        return Err(error).with_context(|| format!("{BOOK} is of another release: use that one"));
    }
    let remedy = if has_good_copy(disk) {
        format!("{GOOD_COPY} is its last good state: copy it there")
    } else {
        "restore it from a backup".to_owned()
    };
    Err(error).with_context(|| format!("{BOOK} is damaged and stays as it is; {remedy}"))
}

/// Whether the book's last good state lies beside it.
pub(crate) fn has_good_copy(disk: &RealDisk) -> bool {
    disk.read(GOOD_COPY).is_ok_and(|bytes| KeyBook::parse(&bytes).is_ok())
}

/// The book while nobody else can change it.
#[derive(Debug)]
pub(crate) struct Edit {
    pub(crate) book: KeyBook,
    keyring: Arc<Keyring>,
    /// The file as it is.
    on_disk: Option<Vec<u8>>,
    /// The book as it was read or last written.
    before: KeyBook,
    _turn: Turn,
}

impl Edit {
    /// Writes the book, durably, where it was changed.
    ///
    /// # Errors
    ///
    /// What the disk says; the old book stands then.
    pub(crate) fn keep(&mut self) -> Result<()> {
        let bytes = self.book.to_bytes();
        if bytes == self.before.to_bytes() {
            return Ok(());
        }
        ensure!(
            bytes.len() <= BOOK_BYTES_MAX,
            "the book would have {} bytes, its limit is {BOOK_BYTES_MAX}: use shorter labels",
            bytes.len()
        );
        self.keyring.replace(BOOK, &bytes)?;
        self.keyring.keep_copy(&bytes);
        self.before = self.book.clone();
        self.on_disk = Some(bytes);
        Ok(())
    }

    /// Takes back what was changed and not kept.
    pub(crate) fn undo(&mut self) {
        self.book = self.before.clone();
    }
}

/// The book that a server has in force, beside the file that it stands for.
#[derive(Debug)]
pub(crate) struct InForce {
    keyring: Arc<Keyring>,
    keys: Arc<Keys>,
    /// The file's bytes when the book in force was made of them. Held while both change, so that
    /// an older book never takes the place of a newer one.
    stands_for: Mutex<Option<Vec<u8>>>,
}

impl InForce {
    /// Puts a book in force, as far as it was changed, kept or not.
    pub(crate) fn put(&self, edit: &Edit) {
        let mut stands_for = self.stands_for.lock();
        self.keys.replace(edit.book.clone());
        stands_for.clone_from(&edit.on_disk);
    }

    /// Puts the file's book in force where it is another than the one in force was made of, and
    /// says so. It goes by what is in the file: what changed before anybody looked is seen, too.
    ///
    /// # Errors
    ///
    /// When the book cannot be read; the one in force stays.
    pub(crate) fn refresh(&self) -> Result<bool> {
        let mut stands_for = self.stands_for.lock();
        let bytes = self.keyring.read_file()?;
        let is_changed = *stands_for != bytes;
        if is_changed {
            self.keys.replace(self.keyring.book_of(bytes.as_deref())?);
            *stands_for = bytes;
        }
        Ok(is_changed)
    }
}

#[cfg(test)]
mod tests;
