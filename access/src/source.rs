//! The name of a source: what keys have in common whose events share their ids.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest name, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// What the source of keys without one is called.
const DEFAULT: &str = "default";

/// Whose ids a key's events share: two events of one id and user are one event only within it.
/// Keys without one are of the default source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SourceName(String);

/// Why a text names no source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "a source is named by 1 to {NAME_BYTES_MAX} of a to z, 0 to 9, `.`, `_`, `-`, beginning with \
     a letter or a digit, other than {DEFAULT}, which keys have that name none"
)]
pub struct NoSourceName;

impl SourceName {
    /// Reads a name; `default` is the source of keys that have none.
    ///
    /// # Errors
    ///
    /// [`NoSourceName`]
    pub fn named(text: &str) -> Result<Option<Self>, NoSourceName> {
        if text == DEFAULT { Ok(None) } else { Self::try_from(text.to_owned()).map(Some) }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How the source of a key is called, the default one, too.
    #[must_use]
    pub fn shown(source: Option<&Self>) -> &str {
        source.map_or(DEFAULT, Self::as_str)
    }
}

impl TryFrom<String> for SourceName {
    type Error = NoSourceName;

    fn try_from(name: String) -> Result<Self, NoSourceName> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_shaped = name.len() <= NAME_BYTES_MAX
            && name.bytes().next().is_some_and(plain)
            && name.bytes().all(|byte| plain(byte) || b"._-".contains(&byte));
        if is_shaped && name != DEFAULT { Ok(Self(name)) } else { Err(NoSourceName) }
    }
}

impl From<SourceName> for String {
    fn from(name: SourceName) -> Self {
        name.0
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_plain_and_default_is_none() {
        let longest = "s".repeat(64);
        for good in ["a", "7", "shop.example", "web_eu-1", &longest] {
            let named = SourceName::named(good).unwrap();
            assert_eq!(SourceName::shown(named.as_ref()), good);
        }
        assert_eq!(SourceName::named("default"), Ok(None));
        assert_eq!(SourceName::shown(None), "default");
        let longer = "s".repeat(65);
        for bad in ["", "Shop", "a b", "a/b", "__other__", ".a", "-a", "ä", "a\n", &longer] {
            assert_eq!(SourceName::named(bad), Err(NoSourceName), "{bad:?}");
        }
        assert!(serde_json::from_str::<SourceName>("\"default\"").is_err());
    }
}
