//! The list of sessions that were ended before their time.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::RandomnessMissing;

/// Sessions that are listed one by one at most. Where the list is full, signing out ends all
/// sessions of that token that end no later: never one is open that was signed out.
pub const SIGNED_OUT_MAX: usize = 10_000;

/// Version of the list's text.
const LIST_VERSION: u32 = 1;

/// What tells one session from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Nonce([u8; 16]);

impl Nonce {
    pub(crate) const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub(crate) fn random() -> Result<Self, RandomnessMissing> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| RandomnessMissing::new(&error))?;
        Ok(Self(bytes))
    }

    pub(crate) const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// Why bytes are no list.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SignedOutError {
    /// Not the JSON of a list.
    #[error("the list of ended sessions cannot be read")]
    Json(#[from] serde_json::Error),
    /// A version that this binary does not know.
    #[error("the list of ended sessions has version {found}, this binary reads {LIST_VERSION}")]
    Version {
        /// Version found.
        found: u32,
    },
    /// A session that is named by anything but 16 bytes.
    #[error("the list of ended sessions names {name:?}, which is none")]
    Name {
        /// Name found.
        name: String,
    },
}

/// Sessions that were signed out, each until it would have ended by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignedOut {
    sessions: BTreeMap<Nonce, i64>,
    /// Of these keys all sessions that end no later than this.
    keys: BTreeMap<String, i64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListText {
    version: u32,
    sessions: BTreeMap<String, i64>,
    keys: BTreeMap<String, i64>,
}

impl SignedOut {
    /// Reads the text of [`SignedOut::to_bytes`].
    ///
    /// # Errors
    ///
    /// [`SignedOutError`] where `bytes` are no list of this version.
    pub fn parse(bytes: &[u8]) -> Result<Self, SignedOutError> {
        let text: ListText = serde_json::from_slice(bytes)?;
        if text.version != LIST_VERSION {
            return Err(SignedOutError::Version { found: text.version });
        }
        let read = |(name, ends_ms): (String, i64)| {
            let bytes = URL_SAFE_NO_PAD.decode(&name).ok();
            match bytes.and_then(|bytes| bytes.try_into().ok()) {
                Some(bytes) => Ok((Nonce(bytes), ends_ms)),
                None => Err(SignedOutError::Name { name }),
            }
        };
        let sessions = text.sessions.into_iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self { sessions, keys: text.keys })
    }

    /// The list as JSON text. The server owns the file.
    ///
    /// # Panics
    ///
    /// Never: plain data serialises.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let named = |(nonce, ends_ms): (&Nonce, &i64)| (URL_SAFE_NO_PAD.encode(nonce.0), *ends_ms);
        let text = ListText {
            version: LIST_VERSION,
            sessions: self.sessions.iter().map(named).collect(),
            keys: self.keys.clone(),
        };
        serde_json::to_vec_pretty(&text).expect("plain data serialises")
    }

    pub(crate) fn holds(&self, nonce: &Nonce, key_id: &str, ends_ms: i64) -> bool {
        self.sessions.contains_key(nonce)
            || self.keys.get(key_id).is_some_and(|until_ms| ends_ms <= *until_ms)
    }

    pub(crate) fn add(&mut self, nonce: Nonce, key_id: &str, ends_ms: i64, now_ms: i64) {
        self.sessions.retain(|_, ends_ms| now_ms < *ends_ms);
        self.keys.retain(|_, until_ms| now_ms < *until_ms);
        if self.sessions.len() < SIGNED_OUT_MAX {
            self.sessions.insert(nonce, ends_ms);
        } else {
            let until_ms = self.keys.entry(key_id.to_owned()).or_insert(ends_ms);
            *until_ms = ends_ms.max(*until_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonce(number: usize) -> Nonce {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        Nonce(bytes)
    }

    #[test]
    fn a_full_list_opens_no_session_again_and_spares_other_keys() {
        let mut list = SignedOut::default();
        for number in 0..SIGNED_OUT_MAX + 5 {
            list.add(nonce(number), "k", 100 + i64::try_from(number).unwrap(), 0);
        }
        assert_eq!((list.sessions.len(), list.keys.len()), (SIGNED_OUT_MAX, 1));
        for number in 0..SIGNED_OUT_MAX + 5 {
            let ends_ms = 100 + i64::try_from(number).unwrap();
            assert!(list.holds(&nonce(number), "k", ends_ms), "{number}");
        }
        let unknown = nonce(usize::MAX);
        assert!(!list.holds(&unknown, "other", 100));
        assert!(!list.holds(&unknown, "k", 200_000), "one that was opened later");
        assert_eq!(SignedOut::parse(&list.to_bytes()).unwrap(), list);
        list.add(unknown, "k", 300_000, 200_000);
        assert_eq!((list.sessions.len(), list.keys.len()), (1, 0), "what has ended makes room");
    }

    #[test]
    fn the_list_of_version_1_is_read_and_others_are_refused() {
        let list = SignedOut::parse(include_bytes!("../testdata/v1/signed-out.json")).unwrap();
        assert!(
            list.holds(&nonce(7), "k", 1) && list.holds(&nonce(8), "admin-1", 1_796_000_000_000)
        );
        assert!(!list.holds(&nonce(8), "admin-1", 1_796_000_000_001));
        for (text, told) in [
            (r#"{"version":2,"sessions":{},"keys":{}}"#, "version 2"),
            (r#"{"version":1,"sessions":{"x":1},"keys":{}}"#, "\"x\""),
            ("{}", "cannot be read"),
        ] {
            let error = SignedOut::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
