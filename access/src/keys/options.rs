//! What may be said about a new key, and what of it could never hold.

use super::{KeyError, SourceName};
use crate::Quota;

/// Longest label of a key that is made.
pub(super) const LABEL_CHARS_MAX: usize = 200;
/// Origins of a key that is made, and event types: each of its requests is compared with them.
pub(super) const NARROWED_MAX: usize = 100;
/// No event's type is longer.
pub(super) const EVENT_TYPE_BYTES_MAX: usize = 256;

/// What may be said about a new key beside its kind.
#[derive(Clone, Debug, Default)]
pub struct KeyOptions {
    /// What people call it.
    pub label: String,
    /// Origins that browsers may use it from; empty for any.
    pub origins: Vec<String>,
    /// Event types that it may send; empty for any.
    pub event_types: Vec<String>,
    /// True for a key that lives on a server and may send large bodies.
    pub server: bool,
    /// Whose ids its events share; those of all keys without one.
    pub source: Option<SourceName>,
    /// What it may send; what this does not say goes by its kind.
    pub quota: Quota,
    /// Who gives it anew at each start; see [`super::KeyBook::retire`].
    pub given_by: Option<String>,
}

impl KeyOptions {
    /// Whether a key can be told by its label, and may be used from where and for what it says.
    pub(super) fn check(&self) -> Result<(), KeyError> {
        let found = self.label.chars().count();
        if found > LABEL_CHARS_MAX {
            return Err(KeyError::Label { found });
        }
        for (what, found) in
            [("origins", self.origins.len()), ("event types", self.event_types.len())]
        {
            if found > NARROWED_MAX {
                return Err(KeyError::Narrowed { what, found });
            }
        }
        if let Some(origin) = self.origins.iter().find(|origin| !is_origin(origin)) {
            return Err(KeyError::Origin { origin: origin.clone() });
        }
        let is_type = |name: &&String| (1..=EVENT_TYPE_BYTES_MAX).contains(&name.trim().len());
        match self.event_types.iter().find(|name| !is_type(name)) {
            Some(name) => Err(KeyError::EventType { name: name.clone() }),
            None => Ok(()),
        }
    }
}

/// As a browser sends it (RFC 6454, 6.2), a slash behind it at most; or any.
fn is_origin(text: &str) -> bool {
    let host = |rest: &str| {
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        !rest.is_empty()
            && rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@\\\"'<>*".contains(&byte))
    };
    let is_scheme = |scheme: &str| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    let parts = text.split_once("://");
    text == "*"
        || text == "null"
        || parts.is_some_and(|(scheme, rest)| is_scheme(scheme) && host(rest))
}

impl From<&str> for KeyOptions {
    fn from(label: &str) -> Self {
        Self { label: label.to_owned(), ..Self::default() }
    }
}
