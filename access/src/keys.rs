//! The book of keys: made, shown once, revoked, found by their hash.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{KeyKind, Principal, Quota, RandomnessMissing, SecretString, SourceName, TokenHash};

mod options;
pub use options::KeyOptions;
use options::{EVENT_TYPE_BYTES_MAX, LABEL_CHARS_MAX, NARROWED_MAX};

/// Keys that a book holds at most, revoked ones included.
pub const KEYS_MAX: usize = 10_000;

/// Longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 512;

/// Version of the book's text. Version 1 told who gives a key by its label alone; up to version 2
/// keys had no source and no quota, and up to version 3 a quota did not say how many new values.
const BOOK_VERSION: u32 = 4;

/// Who gives the keys that the environment sets.
pub const ENVIRONMENT: &str = "environment";

/// Who gives a key of version 1 that has the label of what the environment gave: it alone, perhaps.
const PERHAPS_ENVIRONMENT: &str = "environment?";

/// One key as the book keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// Its name in logs, quotas and on the command line; no secret.
    pub id: String,
    /// What it was made for.
    pub kind: KeyKind,
    /// SHA-256 of the token.
    pub hash: TokenHash,
    /// When it was made, ms since 1970.
    pub created_ms: i64,
    /// When it was revoked, ms since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_ms: Option<i64>,
    /// What people call it.
    #[serde(default)]
    pub label: String,
    /// Origins that browsers may use it from; empty for any.
    #[serde(default)]
    pub origins: Vec<String>,
    /// Event types that it may send; empty for any.
    #[serde(default)]
    pub event_types: Vec<String>,
    /// True for a key that lives on a server and may send large bodies.
    #[serde(default)]
    pub server: bool,
    /// Whose ids its events share; those of all keys without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceName>,
    /// What it may send; what this does not say goes by its kind.
    #[serde(default, skip_serializing_if = "Quota::is_empty")]
    pub quota: Quota,
    /// What the quota of version 3 does not say: how many new values it may bring to a day.
    #[serde(default, skip_serializing)]
    values_max: Option<NonZeroU32>,
    /// Who gives it anew at each start; a key of the book's own has nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_by: Option<String>,
    /// Since when it is not given any more, ms since 1970: it opens nothing until it is again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent_ms: Option<i64>,
}

impl KeyRecord {
    /// Whether its token opens anything.
    #[must_use]
    pub const fn is_in_force(&self) -> bool {
        self.revoked_ms.is_none() && self.absent_ms.is_none()
    }

    /// Whether it was made, or changed, with more than the environment says of a key.
    fn says_more_than_given(&self) -> bool {
        self.source.is_some()
            || self.server
            || !self.quota.is_empty()
            || !self.origins.is_empty()
            || !self.event_types.is_empty()
    }

    /// Whether it may stand in pages, where everybody finds it. What the environment gives is the
    /// operator's own.
    #[must_use]
    pub fn is_public(&self) -> bool {
        let is_given = matches!(self.given_by.as_deref(), Some(ENVIRONMENT | PERHAPS_ENVIRONMENT));
        self.kind == KeyKind::Write && !self.server && !is_given
    }
}

/// Why a key was not made, adopted or revoked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The book is full.
    #[error(
        "the book holds {KEYS_MAX} keys, its limit, revoked ones included: share a key that there is"
    )]
    Full,
    /// No such key.
    #[error("there is no key {id}: list them to see the ids")]
    Unknown {
        /// Id asked for.
        id: String,
    },
    /// A label that lists have no room for.
    #[error("the label has {found} characters: give it at most {LABEL_CHARS_MAX}")]
    Label {
        /// How many it has.
        found: usize,
    },
    /// More than each request should be compared with.
    #[error("{found} {what}: give at most {NARROWED_MAX}, or several keys")]
    Narrowed {
        /// Of what there are too many.
        what: &'static str,
        /// How many.
        found: usize,
    },
    /// An origin that no browser sends.
    #[error(
        "{origin:?} is no origin: give scheme and host as a browser does, and a port where it is not \
         the scheme's, as in https://shop.example or http://localhost:3000"
    )]
    Origin {
        /// What was given.
        origin: String,
    },
    /// An event type that no event has.
    #[error("{name:?} is no event type: give 1 to {EVENT_TYPE_BYTES_MAX} bytes, as in page_view")]
    EventType {
        /// What was given.
        name: String,
    },
    /// A given token that cannot be one.
    #[error("a token is 1 to {TOKEN_BYTES_MAX} visible ASCII characters without spaces")]
    Shape,
    /// A given token that somebody could guess.
    #[error(
        "the given token can be guessed: it has {found} characters, less than the {LEAST_MIXED} \
         ({LEAST_HEX} where all are hexadecimal, {LEAST_DECIMAL} of digits) that 128 bits take; \
         make one with `openssl rand -base64 32`"
    )]
    Weak {
        /// How long it is.
        found: usize,
    },
    /// A given token that is another key already.
    #[error("the given token is already key {id} of kind {kind}: give every key its own token")]
    InUse {
        /// Key that has it.
        id: String,
        /// Kind of that key.
        kind: &'static str,
    },
    /// A given token that was revoked.
    #[error("the given token is key {id}, which was revoked: choose another token")]
    Revoked {
        /// Key that it was.
        id: String,
    },
    /// A quota for what sends nothing.
    #[error("{id} is {what}, which sends no events: quotas are of write keys")]
    SendsNothing {
        /// Id of the key.
        id: String,
        /// What it is.
        what: &'static str,
    },
    /// See [`RandomnessMissing`].
    #[error(transparent)]
    Randomness(#[from] RandomnessMissing),
}

/// Why bytes are no book.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BookError {
    /// Not the JSON of a book.
    #[error("the book of keys cannot be read")]
    Json(#[from] serde_json::Error),
    /// A version that this binary does not know.
    #[error("the book of keys has version {found}, this binary reads 1 to {BOOK_VERSION}")]
    Version {
        /// Version found.
        found: u32,
    },
    /// More keys than a book may hold.
    #[error("the book holds {found} keys, the limit is {KEYS_MAX}")]
    TooMany {
        /// Keys found.
        found: usize,
    },
    /// Two keys of one id or one token.
    #[error("the book holds key {id} twice")]
    Twice {
        /// Id of the second.
        id: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BookText {
    version: u32,
    keys: Vec<KeyRecord>,
}

/// All keys, found by token or by id.
#[derive(Clone, Debug, Default)]
pub struct KeyBook {
    records: Vec<KeyRecord>,
    /// Keys in force only: a revoked key is in no candidate list (A3).
    live: HashMap<[u8; 8], Vec<(TokenHash, Arc<Principal>)>>,
}

impl KeyBook {
    /// An empty book.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the text of [`KeyBook::to_bytes`].
    ///
    /// # Errors
    ///
    /// [`BookError`] where `bytes` are no book of this version.
    pub fn parse(bytes: &[u8]) -> Result<Self, BookError> {
        let text: BookText = serde_json::from_slice(bytes)?;
        if !(1..=BOOK_VERSION).contains(&text.version) {
            return Err(BookError::Version { found: text.version });
        }
        if text.keys.len() > KEYS_MAX {
            return Err(BookError::TooMany { found: text.keys.len() });
        }
        let mut book = Self::new();
        let mut ids = std::collections::HashSet::new();
        let mut hashes = std::collections::HashSet::new();
        for mut record in text.keys {
            if text.version == 1 && is_given_in_version_1(&record) {
                record.given_by = Some(PERHAPS_ENVIRONMENT.to_owned());
            }
            if let Some(values) = record.values_max.take() {
                record.quota.values_per_day = Some(values);
            }
            if !ids.insert(record.id.clone()) || !hashes.insert(*record.hash.bytes()) {
                return Err(BookError::Twice { id: record.id });
            }
            book.records.push(record);
        }
        book.index();
        Ok(book)
    }

    /// The book as JSON text: hashes, no token. The server owns the file.
    ///
    /// # Panics
    ///
    /// Never: plain data serialises.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let text = BookText { version: BOOK_VERSION, keys: self.records.clone() };
        serde_json::to_vec_pretty(&text).expect("plain data serialises")
    }

    /// Every key, oldest first.
    #[must_use]
    pub fn records(&self) -> &[KeyRecord] {
        &self.records
    }

    /// Makes a key; the token is in the answer and nowhere else.
    ///
    /// # Errors
    ///
    /// [`KeyError`] where the book is full, the options cannot hold, or there is no randomness.
    pub fn create(
        &mut self,
        kind: KeyKind,
        options: impl Into<KeyOptions>,
        now_ms: i64,
    ) -> Result<(KeyRecord, SecretString), KeyError> {
        let options = options.into();
        options.check()?;
        let secret = SecretString::random(kind.prefix())?;
        let record = self.insert(kind, options, TokenHash::of(secret.expose()), now_ms)?;
        Ok((record, secret))
    }

    /// Takes a token that the operator chose. The same token of the same kind again is the
    /// key that it already is; whoever gives it answers for it from then on.
    ///
    /// # Errors
    ///
    /// [`KeyError`] where the token has no fit shape, or is a key of another kind or a
    /// revoked one.
    pub fn adopt(
        &mut self,
        kind: KeyKind,
        token: &str,
        options: impl Into<KeyOptions>,
        now_ms: i64,
    ) -> Result<KeyRecord, KeyError> {
        let shaped = (1..=TOKEN_BYTES_MAX).contains(&token.len())
            && token.bytes().all(|byte| byte.is_ascii_graphic());
        if !shaped {
            return Err(KeyError::Shape);
        }
        if !is_strong(token) {
            return Err(KeyError::Weak { found: token.len() });
        }
        let (hash, options) = (TokenHash::of(token), options.into());
        if let Some(known) = self.records.iter_mut().find(|record| record.hash.matches(&hash)) {
            let id = known.id.clone();
            return if known.revoked_ms.is_some() {
                Err(KeyError::Revoked { id })
            } else if known.kind == kind {
                if options.given_by.is_some() {
                    known.given_by = options.given_by;
                }
                known.absent_ms = None;
                let known = known.clone();
                self.index();
                Ok(known)
            } else {
                Err(KeyError::InUse { id, kind: known.kind.name() })
            };
        }
        self.insert(kind, options, hash, now_ms)
    }

    /// Ends what `giver` gave at an earlier start and gives no more, and answers the ids. It may be
    /// given again later, other than a revoked one. What the environment gave and somebody made
    /// with a source, or anything else that it does not say, stays in the book for then; other keys
    /// are taken out. Where only the label of an old book tells who gave it, somebody else may
    /// have: that key is revoked, and stays to be seen.
    pub fn retire(
        &mut self,
        giver: &str,
        still_given: &[(KeyKind, &str)],
        now_ms: i64,
    ) -> Vec<String> {
        let hashes: Vec<_> =
            still_given.iter().map(|(kind, token)| (*kind, TokenHash::of(token))).collect();
        let is_over = |record: &KeyRecord| {
            record.is_in_force()
                && !hashes
                    .iter()
                    .any(|(kind, hash)| *kind == record.kind && record.hash.matches(hash))
        };
        let mut over = Vec::new();
        self.records.retain_mut(|record| {
            let given_by = record.given_by.as_deref();
            let is_sure = given_by == Some(giver);
            let is_likely = giver == ENVIRONMENT && given_by == Some(PERHAPS_ENVIRONMENT);
            if !(is_sure || is_likely) || !is_over(record) {
                return true;
            }
            over.push(record.id.clone());
            if is_sure && giver == ENVIRONMENT && record.says_more_than_given() {
                record.absent_ms = Some(now_ms);
                return true;
            }
            record.revoked_ms = Some(now_ms);
            is_likely
        });
        self.index();
        over
    }

    /// Revokes a key for good; once more changes nothing.
    ///
    /// # Errors
    ///
    /// [`KeyError::Unknown`] where there is no such key.
    pub fn revoke(&mut self, id: &str, now_ms: i64) -> Result<(), KeyError> {
        self.record_mut(id)?.revoked_ms.get_or_insert(now_ms);
        self.index();
        Ok(())
    }

    /// Puts `quota` in place of a write key's own, and answers the one before.
    ///
    /// # Errors
    ///
    /// [`KeyError`] where there is no such key, or none that sends events.
    pub fn set_quota(&mut self, id: &str, quota: Quota) -> Result<Quota, KeyError> {
        let record = self.record_mut(id)?;
        let what = match record.kind {
            _ if record.revoked_ms.is_some() => "a revoked key",
            KeyKind::Read => "a read token",
            KeyKind::Admin => "an admin token",
            KeyKind::Write => {
                let before = std::mem::replace(&mut record.quota, quota);
                self.index();
                return Ok(before);
            }
        };
        Err(KeyError::SendsNothing { id: id.to_owned(), what })
    }

    /// Whose token this is; `None` for unknown and revoked ones alike.
    #[must_use]
    pub fn authenticate(&self, token: &str) -> Option<Arc<Principal>> {
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let hash = TokenHash::of(token);
        let candidates = self.live.get(&hash.bucket())?;
        let (_, principal) = candidates.iter().find(|(known, _)| known.matches(&hash))?;
        Some(Arc::clone(principal))
    }

    /// The live key of this id: what a session stands on (A3).
    #[must_use]
    pub fn principal(&self, key_id: &str) -> Option<Arc<Principal>> {
        let mut all = self.live.values().flatten();
        all.find(|(_, principal)| principal.key_id == key_id)
            .map(|(_, principal)| Arc::clone(principal))
    }

    fn insert(
        &mut self,
        kind: KeyKind,
        options: KeyOptions,
        hash: TokenHash,
        now_ms: i64,
    ) -> Result<KeyRecord, KeyError> {
        if self.records.len() >= KEYS_MAX {
            return Err(KeyError::Full);
        }
        let record = KeyRecord {
            id: self.fresh_id(kind)?,
            kind,
            hash,
            created_ms: now_ms,
            revoked_ms: None,
            label: options.label,
            origins: options.origins,
            event_types: options.event_types,
            server: options.server,
            source: options.source,
            quota: options.quota,
            values_max: None,
            given_by: options.given_by,
            absent_ms: None,
        };
        self.records.push(record.clone());
        self.index();
        Ok(record)
    }

    fn record_mut(&mut self, id: &str) -> Result<&mut KeyRecord, KeyError> {
        let mut all = self.records.iter_mut();
        all.find(|record| record.id == id).ok_or_else(|| KeyError::Unknown { id: id.to_owned() })
    }

    fn fresh_id(&self, kind: KeyKind) -> Result<String, RandomnessMissing> {
        loop {
            let random = SecretString::random("")?;
            let (short, _) = random.expose().split_at(8);
            let id = format!("{}-{short}", kind.name());
            if self.records.iter().all(|record| record.id != id) {
                return Ok(id);
            }
        }
    }

    fn index(&mut self) {
        self.live.clear();
        for record in self.records.iter().filter(|record| record.is_in_force()) {
            let principal = Principal {
                key_id: record.id.clone(),
                kind: record.kind,
                origins: record.origins.clone(),
                event_types: record.event_types.clone(),
                server: record.server,
                source: record.source.clone(),
                is_public: record.is_public(),
                quota: record.quota,
            };
            let bucket = self.live.entry(record.hash.bucket()).or_default();
            bucket.push((record.hash, Arc::new(principal)));
        }
    }
}

/// Characters that 128 bits take: of 64 kinds, of 16, of 10.
const LEAST_MIXED: usize = 22;
const LEAST_HEX: usize = 32;
const LEAST_DECIMAL: usize = 39;

/// Whether a token has room for 128 bits, by its length and the kind of its characters. How they
/// were chosen cannot be seen.
fn is_strong(token: &str) -> bool {
    let all = |is_kind: fn(&u8) -> bool| {
        token.bytes().filter(|byte| !b"-_".contains(byte)).all(|byte| is_kind(&byte))
    };
    let least = if all(u8::is_ascii_digit) {
        LEAST_DECIMAL
    } else if all(u8::is_ascii_hexdigit) {
        LEAST_HEX
    } else {
        LEAST_MIXED
    };
    token.len() >= least
}

/// What the environment gave had this label, and nothing that narrows it.
fn is_given_in_version_1(record: &KeyRecord) -> bool {
    record.label == ENVIRONMENT
        && record.origins.is_empty()
        && record.event_types.is_empty()
        && !record.server
}

/// The book that is in force, shared by every door; replaced whole.
#[derive(Debug)]
pub struct Keys(ArcSwap<KeyBook>);

impl Keys {
    /// Puts `book` in force.
    #[must_use]
    pub fn new(book: KeyBook) -> Self {
        Self(ArcSwap::from_pointee(book))
    }

    /// The book in force.
    #[must_use]
    pub fn load(&self) -> Arc<KeyBook> {
        self.0.load_full()
    }

    /// Puts another book in force; requests that come after this see it.
    pub fn replace(&self, book: KeyBook) {
        self.0.store(Arc::new(book));
    }

    /// [`KeyBook::authenticate`] against the book in force.
    #[must_use]
    pub fn authenticate(&self, token: &str) -> Option<Arc<Principal>> {
        self.0.load().authenticate(token)
    }
}

#[cfg(test)]
mod tests;
