//! Who asks, and what that opens.

use serde::{Deserialize, Serialize};

use crate::{Quota, SourceName};

/// What a key was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// Sends events, reads nothing; public by nature.
    Write,
    /// Reads.
    Read,
    /// Reads and administers.
    Admin,
}

impl KeyKind {
    /// What tokens of this kind begin with.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Write => "nw_",
            Self::Read => "nr_",
            Self::Admin => "na_",
        }
    }

    /// As the command line writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Write, Self::Read, Self::Admin].into_iter().find(|kind| kind.name() == name)
    }
}

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Right {
    /// Sending events.
    Ingest,
    /// Reading answers.
    Read,
    /// Changing the house; implies [`Right::Read`].
    Admin,
}

/// Whoever showed a good key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The key's name in logs and quotas; no secret.
    pub key_id: String,
    /// What the key was made for.
    pub kind: KeyKind,
    /// Origins that browsers may use it from; empty for any.
    pub origins: Vec<String>,
    /// Event types that it may send; empty for any. Compared without regard to case.
    pub event_types: Vec<String>,
    /// True for a key that lives on a server and may send large bodies.
    pub server: bool,
    /// Whose ids its events share, as every record says; `None` for the default source.
    pub source: Option<SourceName>,
    /// True for a write key that may stand in pages: the environment's is its operator's own.
    pub is_public: bool,
    /// What it may send; what this does not say goes by its kind.
    pub quota: Quota,
}

impl Principal {
    /// Whether the key opens what asks for `right`.
    #[must_use]
    pub const fn allows(&self, right: Right) -> bool {
        matches!(
            (self.kind, right),
            (KeyKind::Write, Right::Ingest)
                | (KeyKind::Read, Right::Read)
                | (KeyKind::Admin, Right::Read | Right::Admin)
        )
    }

    /// Whether a browser at `origin` may use the key. Whoever is no browser has no origin.
    #[must_use]
    pub fn allows_origin(&self, origin: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        self.origins.is_empty()
            || self.origins.iter().any(|allowed| {
                allowed == "*" || allowed.trim_end_matches('/').eq_ignore_ascii_case(origin)
            })
    }

    /// Whether the key may send events of this type.
    #[must_use]
    pub fn allows_event_type(&self, event_type: &str) -> bool {
        self.event_types.is_empty()
            || self.event_types.iter().any(|allowed| allowed.eq_ignore_ascii_case(event_type))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(kind: KeyKind) -> Principal {
        Principal {
            key_id: "k".to_owned(),
            kind,
            origins: vec!["https://shop.example".to_owned()],
            event_types: vec!["click".to_owned()],
            server: false,
            source: None,
            is_public: true,
            quota: Quota::default(),
        }
    }

    #[test]
    fn a_write_key_reads_nothing_and_a_token_writes_nothing() {
        let table = [
            (KeyKind::Write, [true, false, false]),
            (KeyKind::Read, [false, true, false]),
            (KeyKind::Admin, [false, true, true]),
        ];
        for (kind, expected) in table {
            let principal = principal(kind);
            let got =
                [Right::Ingest, Right::Read, Right::Admin].map(|right| principal.allows(right));
            assert_eq!(got, expected, "{kind:?}");
        }
    }

    #[test]
    fn an_allow_list_narrows_and_an_empty_one_does_not() {
        let mut principal = principal(KeyKind::Write);
        assert!(principal.allows_origin(Some("https://SHOP.example")));
        assert!(principal.allows_origin(None));
        assert!(!principal.allows_origin(Some("https://evil.example")));
        assert!(principal.allows_event_type("Click"));
        assert!(!principal.allows_event_type("purchase"));
        principal.origins.clear();
        principal.event_types.clear();
        assert!(principal.allows_origin(Some("https://evil.example")));
        assert!(principal.allows_event_type("purchase"));
    }
}
