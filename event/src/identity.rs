//! Whose an event is and which one it is: keyed hashes of the user key and the event id.

use std::fmt;

use xxhash_rust::xxh3;

/// Whose an event is: `user_id`, else `anonymous_id`, else the service's name.
///
/// A `user_id` and an `anonymous_id` of the same text are different users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UserKey<'a> {
    /// A signed-in user.
    User(&'a str),
    /// A user known only by a client-made id.
    Anonymous(&'a str),
    /// A service, which is no user: it has no sessions and is in no distinct count.
    Service(&'a str),
}

impl<'a> UserKey<'a> {
    /// The key's text, without its kind.
    #[must_use]
    pub const fn text(self) -> &'a str {
        match self {
            Self::User(text) | Self::Anonymous(text) | Self::Service(text) => text,
        }
    }

    /// True for a person, known or anonymous; false for a service.
    #[must_use]
    pub const fn is_user(self) -> bool {
        !matches!(self, Self::Service(_))
    }

    /// Which seed of [`IdentityKey`] it is hashed under.
    const fn kind(self) -> usize {
        match self {
            Self::User(_) => 0,
            Self::Anonymous(_) => 1,
            Self::Service(_) => 2,
        }
    }
}

/// Keyed hash of a [`UserKey`]: decides the partition and feeds the distinct counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserHash(u64);

impl UserHash {
    /// From its bits.
    #[must_use]
    pub const fn new(bits: u64) -> Self {
        Self(bits)
    }

    /// Its bits.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Keyed hash of a source's name. That of the default source is none, so that its events have the
/// identities that they had before keys had sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceHash(u64);

/// What makes two records one event. A person is one in all sources: only ids are apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity<'a> {
    /// Of the key that sent it; `None` for the default source.
    pub source: Option<&'a str>,
    /// Whose it is.
    pub user: UserKey<'a>,
    /// The client's id, or the derived one.
    pub event_id: &'a str,
}

/// Keyed hash of (source, user key, event id): the identity of an event.
///
/// Two strangers share one with odds n / 2⁶⁴: 3·10⁻¹² at 50 M ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// From its bits.
    #[must_use]
    pub const fn new(bits: u64) -> Self {
        Self(bits)
    }

    /// Its bits.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// The house's secret for identity hashes; made once per data directory and never rotated.
///
/// A secret seed keeps clients from choosing ids that collide. Hashes made under different
/// keys have nothing in common, so changing the key would make every id new.
#[derive(Clone)]
pub struct IdentityKey {
    user: [u64; 3],
    event: u64,
    derived: u64,
    source: u64,
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentityKey(…)")
    }
}

impl IdentityKey {
    /// From 32 secret bytes.
    #[must_use]
    pub fn new(secret: [u8; 32]) -> Self {
        let seed = |purpose: u64| xxh3::xxh3_64_with_seed(&secret, purpose);
        Self {
            user: [seed(1), seed(2), seed(3)],
            event: seed(4),
            derived: seed(5),
            source: seed(6),
        }
    }

    /// Hash of whose an event is.
    #[must_use]
    pub fn user(&self, key: UserKey<'_>) -> UserHash {
        let seed = self.user[key.kind()];
        UserHash(xxh3::xxh3_64_with_seed(key.text().as_bytes(), seed))
    }

    /// Hash that routes what has no user key: a dead letter's masked bytes.
    #[must_use]
    pub fn keyless(&self, masked: &[u8]) -> UserHash {
        UserHash(xxh3::xxh3_64_with_seed(masked, self.derived))
    }

    /// Hash of a source; `None` is the default one.
    #[must_use]
    pub fn source(&self, source: Option<&str>) -> SourceHash {
        let hash = |name: &str| xxh3::xxh3_64_with_seed(name.as_bytes(), self.source);
        SourceHash(source.map_or(0, hash))
    }

    /// Identity of an event of this user and source.
    #[must_use]
    pub fn event(&self, user: UserHash, source: SourceHash, event_id: &str) -> Fingerprint {
        let seed = self.event ^ user.0 ^ source.0;
        Fingerprint(xxh3::xxh3_64_with_seed(event_id.as_bytes(), seed))
    }

    /// As [`Self::event`], where nothing is hashed yet.
    #[must_use]
    pub fn fingerprint(&self, identity: Identity<'_>) -> Fingerprint {
        let Identity { source, user, event_id } = identity;
        self.event(self.user(user), self.source(source), event_id)
    }

    /// 128-bit keyed hash of an event's content as sent, from which the server derives the id
    /// of an event that came without one.
    #[must_use]
    pub fn content(&self, as_sent: &[u8]) -> u128 {
        xxh3::xxh3_128_with_seed(as_sent, self.derived)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_and_an_anonymous_id_of_the_same_text_are_strangers() {
        let key = IdentityKey::new([7; 32]);
        let user = key.user(UserKey::User("u"));
        let anonymous = key.user(UserKey::Anonymous("u"));
        assert_ne!(user, anonymous);
        let event = |user| key.event(user, SourceHash::default(), "e");
        assert_ne!(event(user), event(anonymous));
    }

    /// What checkpoints of releases without sources remember.
    #[test]
    fn ids_of_the_default_source_are_what_they_were_and_those_of_others_are_strangers() {
        let key = IdentityKey::new([7; 32]);
        let of = |source| {
            let identity =
                Identity { source, user: UserKey::User("alice"), event_id: "order-1001" };
            key.fingerprint(identity).get()
        };
        // xxh3 of the id, by another implementation, under the seed that it always had.
        assert_eq!(of(None), 0xca36_d880_9db4_d7cc);
        let all = [None, Some("shop"), Some("spam"), Some("")].map(of);
        for (at, one) in all.iter().enumerate() {
            assert!(!all[..at].contains(one), "{at}");
        }
    }

    #[test]
    fn another_secret_gives_another_hash() {
        let (one, two) = (IdentityKey::new([1; 32]), IdentityKey::new([2; 32]));
        assert_ne!(one.user(UserKey::User("u")), two.user(UserKey::User("u")));
    }
}
