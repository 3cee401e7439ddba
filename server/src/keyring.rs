//! The folder `keys/` of a data directory: the book of keys and the house's own secrets.

mod book;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nilometer_access::{
    ENVIRONMENT, Keeper, KeyBook, KeyKind, KeyOptions, SecretString, SignedOut,
};
use nilometer_log::{Disk, RealDisk, create_dir_durably, write_atomically};

pub(crate) use self::book::{BOOK, Edit, InForce, has_good_copy};
use crate::config::Secrets;

pub(crate) const FOLDER: &str = "keys";
pub(crate) const IDENTITY: &str = "keys/identity.key";
pub(crate) const MASKING: &str = "keys/masking.key";
pub(crate) const SESSIONS: &str = "keys/sessions.key";
pub(crate) const SIGNED_OUT: &str = "keys/signed-out.json";

/// The keys of a first start whose stdout is no terminal, in clear, until somebody takes them.
pub(crate) const FIRST_KEYS: &str = "keys/first-start.txt";

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

    /// Keeps the keys of a first start for whoever may read this folder; answers where.
    ///
    /// # Errors
    ///
    /// What the disk says.
    pub(crate) fn keep_first_keys(&self, text: &str) -> Result<PathBuf> {
        self.replace(FIRST_KEYS, text.as_bytes())?;
        Ok(self.disk.root().join(FIRST_KEYS))
    }

    /// Where they lie, if nobody took them away.
    pub(crate) fn first_keys(&self) -> Option<PathBuf> {
        let file = self.disk.root().join(FIRST_KEYS);
        file.exists().then_some(file)
    }

    /// What sessions of browsers stand on: a secret that signs them, and which were signed out.
    /// Damage to either costs a sign-in of everybody, never an old session that opens again.
    ///
    /// # Errors
    ///
    /// When there is no randomness.
    pub(crate) fn sessions(&self) -> Result<([u8; SECRET_BYTES], SignedOut)> {
        let read = |path: &str| self.root.join(path).exists().then(|| self.disk.read(path));
        let (secret, list) = (read(SESSIONS), read(SIGNED_OUT));
        let secret = secret.map(|read| read.ok()?.try_into().ok());
        let list = match list {
            Some(read) => read.ok().and_then(|bytes| SignedOut::parse(&bytes).ok()),
            None => Some(SignedOut::default()),
        };
        if let (Some(Some(secret)), Some(list)) = (secret, &list) {
            return Ok((secret, list.clone()));
        }
        if list.is_none() || secret.is_some() {
            let file = if list.is_none() { SIGNED_OUT } else { SESSIONS };
            tracing::error!(file, "corrupt; every browser signs in again");
        }
        let secret = random_secret(SESSIONS)?;
        let kept = write_atomically(&self.disk, SESSIONS, &secret)
            .map_err(anyhow::Error::from)
            .and_then(|()| close_to_others(&self.root.join(SESSIONS)))
            .and_then(|()| self.keep(&SignedOut::default().to_bytes()).map_err(Into::into));
        if let Err(error) = kept {
            tracing::warn!("sessions of browsers end with this start: {error:#}");
        }
        Ok((secret, SignedOut::default()))
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
        let secret = random_secret(path)?;
        write_atomically(&self.disk, path, &secret).with_context(|| format!("write {path}"))?;
        close_to_others(&self.root.join(path))?;
        Ok(secret)
    }
}

/// Puts the environment's tokens in force, in place of those that it gave before.
///
/// # Errors
///
/// When one does not fit, by the variable's name.
pub(crate) fn take_given(book: &mut KeyBook, secrets: &Secrets, now_ms: i64) -> Result<()> {
    let given: Vec<_> = secrets.given().collect();
    for (at, (_, token, variable)) in given.iter().enumerate() {
        if let Some((_, _, other)) = given[..at].iter().find(|(_, earlier, _)| earlier == token) {
            bail!("{other} and {variable} are one token: give each its own");
        }
    }
    let still: Vec<_> = given.iter().map(|(kind, token, _)| (*kind, *token)).collect();
    for id in book.retire(ENVIRONMENT, &still, now_ms) {
        tracing::warn!(id, "key ended: the environment does not give it any more");
    }
    for (kind, token, variable) in given {
        let options =
            KeyOptions { given_by: Some(ENVIRONMENT.to_owned()), ..KeyOptions::from(ENVIRONMENT) };
        book.adopt(kind, token, options, now_ms).with_context(|| format!("use {variable}"))?;
    }
    Ok(())
}

/// Whether nobody has made a key yet: what the environment gives is not the book's own.
pub(crate) fn is_first(book: &KeyBook) -> bool {
    book.records().iter().all(|record| record.given_by.is_some())
}

/// Makes what a first start needs and the environment does not give. A book that has keys of its
/// own is past that.
///
/// # Errors
///
/// When there is no randomness, or the book is full.
pub(crate) fn make_first(book: &mut KeyBook, secrets: &Secrets, now_ms: i64) -> Result<Vec<Made>> {
    if !is_first(book) {
        return Ok(Vec::new());
    }
    let mut made = Vec::new();
    for kind in [KeyKind::Write, KeyKind::Read, KeyKind::Admin] {
        if secrets.given().all(|(given, ..)| given != kind) {
            let (_, token) = book.create(kind, KeyOptions::from("first start"), now_ms)?;
            made.push(Made { kind, token });
        }
    }
    Ok(made)
}

/// Beside the other secrets: whoever is signed out stays so over a restart.
impl Keeper for Keyring {
    fn keep(&self, signed_out: &[u8]) -> std::io::Result<()> {
        write_atomically(&self.disk, SIGNED_OUT, signed_out)
    }
}

fn random_secret(path: &str) -> Result<[u8; SECRET_BYTES]> {
    let mut secret = [0; SECRET_BYTES];
    getrandom::fill(&mut secret).map_err(|error| anyhow::anyhow!("make {path}: {error}"))?;
    Ok(secret)
}

fn close_to_others(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = if path.is_dir() { 0o700 } else { 0o600 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("close {} to other users", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::sync::Arc;

    use nilometer_access::Keys;

    use super::*;

    const FIRST: &str = "the-first-of-what-is-given";
    const SECOND: &str = "the-second-of-what-is-given";

    /// A keyring and what it has in force after a start.
    fn started(keyring: &Arc<Keyring>, secrets: &Secrets) -> (Arc<Keys>, InForce) {
        let keys = Arc::new(Keys::new(KeyBook::new()));
        let in_force = keyring.at_start(Arc::clone(&keys), secrets, 1).unwrap();
        (keys, in_force)
    }

    /// The same, with what a first start makes, which is kept where somebody sees it.
    fn first(keyring: &Arc<Keyring>, secrets: &Secrets, is_seen: bool) -> (Arc<Keys>, Vec<Made>) {
        let (keys, in_force) = started(keyring, secrets);
        let mut edit = keyring.edit().unwrap();
        let made = make_first(&mut edit.book, secrets, 1).unwrap();
        in_force.put(&edit);
        assert!(made.iter().all(|made| keys.authenticate(made.token.expose()).is_some()));
        if is_seen {
            edit.keep().unwrap();
        } else {
            edit.undo();
        }
        in_force.put(&edit);
        assert!(!in_force.refresh().unwrap(), "it is what is on disk");
        (keys, made)
    }

    fn write_key(token: &str) -> Secrets {
        Secrets { write_key: Some(token.to_owned()), ..Secrets::default() }
    }

    #[test]
    fn a_first_start_makes_three_keys_until_they_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let keyring = Arc::new(Keyring::open(folder.path()).unwrap());
        let none = Secrets::default();
        let (keys, unseen) = first(&keyring, &none, false);
        assert!(unseen.iter().all(|made| keys.authenticate(made.token.expose()).is_none()));
        let (keys, made) = first(&keyring, &none, true);
        assert_eq!((unseen.len(), made.len()), (3, 3));
        assert!(made.iter().all(|made| keys.authenticate(made.token.expose()).is_some()));
        assert!(unseen.iter().all(|made| keys.authenticate(made.token.expose()).is_none()));
        let (again, none) = first(&keyring, &none, true);
        assert!(none.is_empty());
        assert!(again.authenticate(made[0].token.expose()).is_some());
        let text = std::fs::read_to_string(folder.path().join(BOOK)).unwrap();
        assert!(made.iter().all(|made| !text.contains(made.token.expose())));
    }

    #[test]
    fn a_token_of_the_environment_stands_instead_and_while_it_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let keyring = Arc::new(Keyring::open(folder.path()).unwrap());
        let opens = |secrets: &Secrets, token: &str| {
            started(&keyring, secrets).0.authenticate(token).is_some()
        };
        let (_, made) = first(&keyring, &write_key(FIRST), false);
        assert_eq!(made.len(), 2, "unseen: the next start makes them again");
        let (keys, made) = first(&keyring, &write_key(FIRST), true);
        assert_eq!(made.len(), 2);
        let id = keys.authenticate(FIRST).unwrap().key_id.clone();
        let (keys, none) = first(&keyring, &write_key(FIRST), true);
        assert!(none.is_empty());
        assert_eq!(keys.authenticate(FIRST).unwrap().key_id, id, "the same key, not another");
        assert!(opens(&write_key(SECOND), SECOND) && !opens(&write_key(SECOND), FIRST));
        // Two that change places at one start.
        let given = |write: &str, read: &str| Secrets {
            read_token: Some(read.to_owned()),
            ..write_key(write)
        };
        assert!(opens(&given(FIRST, SECOND), FIRST) && opens(&given(SECOND, FIRST), FIRST));
        assert!(!opens(&Secrets::default(), FIRST), "given no more");
        assert!(opens(&Secrets::default(), made[0].token.expose()), "the book's own stay");
        let error = keyring
            .at_start(Arc::new(Keys::new(KeyBook::new())), &given(FIRST, FIRST), 1)
            .unwrap_err();
        assert!(format!("{error:#}").contains("NILOMETER_READ_TOKEN"), "{error:#}");
    }

    #[test]
    fn the_secret_of_sessions_stays_and_damage_ends_them_all() {
        let folder = tempfile::tempdir().unwrap();
        let keyring = Keyring::open(folder.path()).unwrap();
        let (first, list) = keyring.sessions().unwrap();
        assert_eq!(keyring.sessions().unwrap(), (first, list));
        std::fs::write(folder.path().join(SESSIONS), "short").unwrap();
        let (second, _) = keyring.sessions().unwrap();
        assert_ne!(first, second);
        // A list that cannot be read must not become an empty one beside the same secret.
        std::fs::write(folder.path().join(SIGNED_OUT), "{}").unwrap();
        let (third, list) = keyring.sessions().unwrap();
        assert_ne!(second, third);
        assert_eq!(keyring.sessions().unwrap(), (third, list));
        let mode = folder.path().join(SESSIONS).metadata().unwrap().mode();
        assert_eq!(mode & 0o077, 0, "{mode:o}");
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
