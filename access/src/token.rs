//! Secrets: how they are made, shown once, hashed and compared.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use thiserror::Error;

/// Random bytes of a token: 256 bits, twice what keeps guessing hopeless.
const TOKEN_BYTES: usize = 32;

/// A secret that is shown once: neither `Debug` nor a log line ever tells it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretString(String);

/// The operating system gave no random bytes.
#[derive(Clone, Debug, Error)]
#[error("the operating system gives no random bytes: {reason}")]
pub struct RandomnessMissing {
    reason: String,
}

impl RandomnessMissing {
    pub(crate) fn new(error: &getrandom::Error) -> Self {
        Self { reason: error.to_string() }
    }
}

impl SecretString {
    /// A fresh secret: `prefix`, then 256 random bits in base64url.
    ///
    /// # Errors
    ///
    /// [`RandomnessMissing`]; a server without randomness must not start.
    pub fn random(prefix: &str) -> Result<Self, RandomnessMissing> {
        let mut bytes = [0u8; TOKEN_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| RandomnessMissing::new(&error))?;
        Ok(Self(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes))))
    }

    /// A secret that somebody else made.
    #[must_use]
    pub const fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The secret itself, for the one place that shows it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretString(…)")
    }
}

/// SHA-256 of a token: all that is kept of it (A1).
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Hash of `token`.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// The hash's bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether both are hashes of one token, in time that does not depend on the bytes (A2).
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// The bytes by which a table finds its candidates; the verdict is [`TokenHash::matches`].
    ///
    /// An attacker cannot steer a hash, so finding the candidate tells nothing about the token.
    pub(crate) const fn bucket(&self) -> [u8; 8] {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        [a, b, c, d, e, f, g, h]
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

impl Serialize for TokenHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for TokenHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        URL_SAFE_NO_PAD
            .decode(text)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("a hash is 32 bytes in base64url"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_carries_256_bits_and_never_repeats() {
        let (one, two) =
            (SecretString::random("nw_").unwrap(), SecretString::random("nw_").unwrap());
        assert_ne!(one, two);
        let bits = URL_SAFE_NO_PAD.decode(one.expose().strip_prefix("nw_").unwrap()).unwrap();
        assert_eq!(bits.len(), 32);
    }

    #[test]
    fn debug_never_tells_a_secret() {
        let secret = SecretString::new("nw_secret".to_owned());
        assert!(!format!("{secret:?}{:?}", TokenHash::of("nw_secret")).contains("secret"));
    }
}
