//! Sign-in for browsers: one-time codes, exchanged for cookie sessions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{KeyBook, Principal, RandomnessMissing, SecretString, TokenHash};

/// Name of the session cookie.
pub const COOKIE_NAME: &str = "nilometer_session";

/// One-time codes that wait at most; the one that ends first makes room.
pub const CODES_MAX: usize = 64;

/// Sessions open at most; the one that ends first makes room.
pub const SESSIONS_MAX: usize = 10_000;

#[derive(Clone, Debug)]
struct Ticket {
    hash: TokenHash,
    key_id: String,
    expires_ms: i64,
}

/// Secrets with an end, at most `max` of them, found by hash.
#[derive(Debug)]
struct Tickets {
    max: usize,
    by_bucket: Mutex<HashMap<[u8; 8], Ticket>>,
}

impl Tickets {
    fn new(max: usize) -> Self {
        Self { max, by_bucket: Mutex::new(HashMap::new()) }
    }

    /// Nothing panics while the lock is held, and a half-made change cannot be seen.
    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 8], Ticket>> {
        self.by_bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn issue(
        &self,
        prefix: &str,
        key_id: &str,
        now_ms: i64,
        ttl_ms: i64,
    ) -> Result<SecretString, RandomnessMissing> {
        let secret = SecretString::random(prefix)?;
        let hash = TokenHash::of(secret.expose());
        let expires_ms = now_ms.saturating_add(ttl_ms);
        let mut tickets = self.lock();
        if tickets.len() >= self.max {
            tickets.retain(|_, ticket| now_ms < ticket.expires_ms);
        }
        while tickets.len() >= self.max {
            let first = tickets.iter().min_by_key(|(_, ticket)| ticket.expires_ms);
            let Some(bucket) = first.map(|(bucket, _)| *bucket) else { break };
            tickets.remove(&bucket);
        }
        tickets.insert(hash.bucket(), Ticket { hash, key_id: key_id.to_owned(), expires_ms });
        Ok(secret)
    }

    fn find(&self, secret: &str, now_ms: i64) -> Option<String> {
        let hash = TokenHash::of(secret);
        let tickets = self.lock();
        let ticket = tickets.get(&hash.bucket()).filter(|ticket| ticket.hash.matches(&hash))?;
        (now_ms < ticket.expires_ms).then(|| ticket.key_id.clone())
    }

    fn take(&self, secret: &str, now_ms: i64) -> Option<String> {
        let hash = TokenHash::of(secret);
        let mut tickets = self.lock();
        let known = tickets.get(&hash.bucket()).is_some_and(|ticket| ticket.hash.matches(&hash));
        let ticket = if known { tickets.remove(&hash.bucket()) } else { None };
        ticket.filter(|ticket| now_ms < ticket.expires_ms).map(|ticket| ticket.key_id)
    }
}

/// One-time codes for the sign-in address; each stands for one key.
#[derive(Debug)]
pub struct SignInCodes(Tickets);

impl Default for SignInCodes {
    fn default() -> Self {
        Self(Tickets::new(CODES_MAX))
    }
}

impl SignInCodes {
    /// No codes yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a code that opens one session of key `key_id` within `ttl_ms`.
    ///
    /// # Errors
    ///
    /// [`RandomnessMissing`].
    pub fn issue(
        &self,
        key_id: &str,
        now_ms: i64,
        ttl_ms: i64,
    ) -> Result<SecretString, RandomnessMissing> {
        self.0.issue("nc_", key_id, now_ms, ttl_ms)
    }

    /// The key that `code` stands for; the code is gone afterwards.
    #[must_use]
    pub fn redeem(&self, code: &str, now_ms: i64) -> Option<String> {
        self.0.take(code, now_ms)
    }
}

/// Open sessions of browsers; each stands on one key and falls with it (A3).
#[derive(Debug)]
pub struct Sessions {
    tickets: Tickets,
    ttl_ms: i64,
}

impl Sessions {
    /// Sessions that last `ttl_ms`.
    #[must_use]
    pub fn new(ttl_ms: i64) -> Self {
        Self { tickets: Tickets::new(SESSIONS_MAX), ttl_ms }
    }

    /// Opens a session of key `key_id`; the secret is the cookie's value.
    ///
    /// # Errors
    ///
    /// [`RandomnessMissing`].
    pub fn open(&self, key_id: &str, now_ms: i64) -> Result<SecretString, RandomnessMissing> {
        self.tickets.issue("ns_", key_id, now_ms, self.ttl_ms)
    }

    /// Whose session this cookie value is, by the book in force.
    #[must_use]
    pub fn authenticate(
        &self,
        cookie: &str,
        book: &KeyBook,
        now_ms: i64,
    ) -> Option<Arc<Principal>> {
        let key_id = self.tickets.find(cookie, now_ms)?;
        book.principal(&key_id)
    }

    /// Ends a session; unknown ones are ended already.
    pub fn close(&self, cookie: &str) {
        self.tickets.take(cookie, i64::MIN);
    }

    /// Open sessions, expired ones included until they make room.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tickets.lock().len()
    }

    /// True where no session is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How long a session lasts.
    #[must_use]
    pub const fn ttl_ms(&self) -> i64 {
        self.ttl_ms
    }
}

/// Whether the cookie travels over TLS only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cookie {
    /// The server is reached over plain HTTP (loopback).
    Plain,
    /// The server is reached over TLS.
    Secure,
}

/// The value of `Set-Cookie` for a session; an empty `value` with `max_age_ms` 0 signs out.
#[must_use]
pub fn session_cookie(value: &str, max_age_ms: i64, cookie: Cookie) -> String {
    let secure = if cookie == Cookie::Secure { "; Secure" } else { "" };
    let seconds = max_age_ms / 1_000;
    format!("{COOKIE_NAME}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyKind;

    #[test]
    fn a_code_opens_once_and_in_time() {
        let codes = SignInCodes::new();
        let code = codes.issue("k1", 1_000, 500).unwrap();
        assert_eq!(codes.redeem("nc_wrong", 1_000), None);
        assert_eq!(codes.redeem(code.expose(), 1_499).as_deref(), Some("k1"));
        assert_eq!(codes.redeem(code.expose(), 1_499), None);
        let late = codes.issue("k1", 1_000, 500).unwrap();
        assert_eq!(codes.redeem(late.expose(), 1_500), None);
    }

    #[test]
    fn a_session_ends_with_time_sign_out_and_its_key() {
        let mut book = KeyBook::new();
        let (record, _) = book.create(KeyKind::Read, "r", 0).unwrap();
        let sessions = Sessions::new(1_000);
        let (one, two) =
            (sessions.open(&record.id, 0).unwrap(), sessions.open(&record.id, 0).unwrap());
        assert_eq!(sessions.authenticate(one.expose(), &book, 999).unwrap().key_id, record.id);
        assert!(sessions.authenticate(one.expose(), &book, 1_000).is_none());
        sessions.close(one.expose());
        assert!(sessions.authenticate(one.expose(), &book, 0).is_none());
        book.revoke(&record.id, 1).unwrap();
        assert!(sessions.authenticate(two.expose(), &book, 1).is_none());
    }

    #[test]
    fn more_sessions_than_the_bound_push_out_the_ones_that_end_first() {
        let sessions = Sessions { tickets: Tickets::new(3), ttl_ms: 100 };
        let first = sessions.open("k", 0).unwrap();
        for now in 1..=5 {
            sessions.open("k", now).unwrap();
        }
        assert_eq!(sessions.len(), 3);
        assert_eq!(sessions.tickets.find(first.expose(), 5), None);
    }

    #[test]
    fn the_cookie_is_out_of_reach_of_scripts_and_other_sites() {
        let cookie = session_cookie("ns_1", 60_000, Cookie::Secure);
        assert_eq!(
            cookie,
            "nilometer_session=ns_1; Path=/; Max-Age=60; HttpOnly; SameSite=Strict; Secure"
        );
    }
}
