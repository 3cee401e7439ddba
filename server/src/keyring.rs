//! The folder `keys/` of a data directory: the book of keys and the house's own secrets.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use nilometer_access::{KeyBook, KeyKind, KeyOptions, SecretString};
use nilometer_log::{Disk, RealDisk, create_dir_durably, write_atomically};

use crate::config::Secrets;

pub(crate) const FOLDER: &str = "keys";
pub(crate) const BOOK: &str = "keys/book.json";
pub(crate) const IDENTITY: &str = "keys/identity.key";
pub(crate) const MASKING: &str = "keys/masking.key";

/// Bytes of a secret of the house.
pub(crate) const SECRET_BYTES: usize = 32;

/// The folder `keys/`.
#[derive(Debug)]
pub(crate) struct Keyring {
    disk: RealDisk,
    root: PathBuf,
}

/// A key or token that was just made, to be shown once.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) kind: KeyKind,
    pub(crate) token: SecretString,
}

impl Keyring {
    /// # Errors
    ///
    /// When the folder cannot be made or is readable by others and cannot be closed to them.
    pub(crate) fn open(data_dir: &Path) -> Result<Self> {
        let disk = RealDisk::open(data_dir)
            .with_context(|| format!("open data directory {}", data_dir.display()))?;
        create_dir_durably(&disk, FOLDER).context("create the folder of keys")?;
        close_to_others(&data_dir.join(FOLDER))?;
        Ok(Self { disk, root: data_dir.to_owned() })
    }

    /// The book, empty where there is none yet.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be read: a lost book must not become an empty one.
    pub(crate) fn book(&self) -> Result<KeyBook> {
        if !self.root.join(BOOK).exists() {
            return Ok(KeyBook::new());
        }
        let bytes = self.disk.read(BOOK).with_context(|| format!("read {BOOK}"))?;
        KeyBook::parse(&bytes).with_context(|| format!("{BOOK} is corrupt"))
    }

    /// Replaces the book, durably.
    ///
    /// # Errors
    ///
    /// What the disk says; the old book stands then.
    pub(crate) fn write_book(&self, book: &KeyBook) -> Result<()> {
        write_atomically(&self.disk, BOOK, &book.to_bytes())
            .with_context(|| format!("write {BOOK}"))
    }

    /// When the book last changed: a running server looks every second.
    pub(crate) fn book_changed(&self) -> Option<SystemTime> {
        self.root.join(BOOK).metadata().and_then(|metadata| metadata.modified()).ok()
    }

    /// The secret behind identity hashes; made once and never rotated.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is missing beside data that was hashed under it.
    pub(crate) fn identity(&self) -> Result<[u8; SECRET_BYTES]> {
        self.secret(IDENTITY)
    }

    /// The secret behind the tokens that stand for personal data.
    ///
    /// # Errors
    ///
    /// As [`Keyring::identity`].
    pub(crate) fn masking(&self) -> Result<[u8; SECRET_BYTES]> {
        self.secret(MASKING)
    }

    fn secret(&self, path: &str) -> Result<[u8; SECRET_BYTES]> {
        if self.root.join(path).exists() {
            let bytes = self.disk.read(path).with_context(|| format!("read {path}"))?;
            return match <[u8; SECRET_BYTES]>::try_from(bytes.as_slice()) {
                Ok(secret) => Ok(secret),
                Err(_length) => bail!(
                    "{path} is corrupt: {} bytes, expected {SECRET_BYTES}; restore it from a \
                     backup, without it no earlier id is recognised",
                    bytes.len()
                ),
            };
        }
        ensure!(
            !self.root.join("checkpoints").exists(),
            "{path} is missing beside existing data; restore it from a backup, without it no \
             earlier id is recognised"
        );
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret).map_err(|error| anyhow::anyhow!("make {path}: {error}"))?;
        write_atomically(&self.disk, path, &secret).with_context(|| format!("write {path}"))?;
        close_to_others(&self.root.join(path))?;
        Ok(secret)
    }

    /// The book in force at a start: what the environment sets is adopted; what is then still
    /// missing on a first start is made, to be shown once.
    ///
    /// # Errors
    ///
    /// When the book cannot be read or written, or a token of the environment does not fit.
    pub(crate) fn prepare(&self, secrets: &Secrets, now_ms: i64) -> Result<(KeyBook, Vec<Made>)> {
        let mut book = self.book()?;
        let is_first_start = book.records().is_empty();
        let before = book.to_bytes();
        let mut made = Vec::new();
        let given = [
            (KeyKind::Write, &secrets.write_key, "NILOMETER_WRITE_KEY"),
            (KeyKind::Read, &secrets.read_token, "NILOMETER_READ_TOKEN"),
            (KeyKind::Admin, &secrets.admin_token, "NILOMETER_ADMIN_TOKEN"),
        ];
        for (kind, token, variable) in given {
            match token {
                Some(token) => {
                    book.adopt(kind, token, KeyOptions::from("environment"), now_ms)
                        .with_context(|| format!("use {variable}"))?;
                }
                None if is_first_start => {
                    let (_, token) = book.create(kind, KeyOptions::from("first start"), now_ms)?;
                    made.push(Made { kind, token });
                }
                None => {}
            }
        }
        // A start that changes nothing writes nothing: it works on a full disk.
        if is_first_start || book.to_bytes() != before {
            self.write_book(&book)?;
        }
        Ok((book, made))
    }
}

fn close_to_others(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = if path.is_dir() { 0o700 } else { 0o600 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("close {} to other users", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_start_makes_three_keys_and_a_second_none() {
        let folder = tempfile::tempdir().unwrap();
        let keyring = Keyring::open(folder.path()).unwrap();
        let (book, made) = keyring.prepare(&Secrets::default(), 1).unwrap();
        assert_eq!(made.len(), 3);
        assert!(made.iter().all(|made| book.authenticate(made.token.expose()).is_some()));
        let (again, none) = keyring.prepare(&Secrets::default(), 2).unwrap();
        assert!(none.is_empty());
        assert!(again.authenticate(made[0].token.expose()).is_some());
        let text = std::fs::read_to_string(folder.path().join(BOOK)).unwrap();
        assert!(made.iter().all(|made| !text.contains(made.token.expose())));
    }

    #[test]
    fn tokens_of_the_environment_stand_instead() {
        let folder = tempfile::tempdir().unwrap();
        let keyring = Keyring::open(folder.path()).unwrap();
        let secrets =
            Secrets { write_key: Some("given-write-key".to_owned()), ..Secrets::default() };
        let (book, made) = keyring.prepare(&secrets, 1).unwrap();
        assert_eq!(made.len(), 2);
        assert!(book.authenticate("given-write-key").is_some());
    }

    #[test]
    fn a_lost_identity_beside_data_is_refused_and_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let keyring = Keyring::open(folder.path()).unwrap();
        let first = keyring.identity().unwrap();
        assert_eq!(keyring.identity().unwrap(), first);
        std::fs::create_dir(folder.path().join("checkpoints")).unwrap();
        std::fs::remove_file(folder.path().join(IDENTITY)).unwrap();
        assert!(keyring.identity().unwrap_err().to_string().contains("backup"));
    }
}
