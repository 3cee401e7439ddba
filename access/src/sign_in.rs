//! Sign-in for browsers: one-time codes, exchanged for sessions whose cookie is signed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::signed_out::{Nonce, SignedOut};
use crate::{KeyBook, Principal, RandomnessMissing, SecretString, TokenHash};

/// Name of the session cookie.
pub const COOKIE_NAME: &str = "nilometer_session";

/// One-time codes that wait at most; the one that ends first makes room.
pub const CODES_MAX: usize = 64;

/// What a session's cookie begins with.
const SESSION_PREFIX: &str = "ns1_";
/// Said before what is signed, so that no other signature of this secret is one of a session.
const SESSION_DOMAIN: &[u8] = b"nilometer session 1\0";
/// Longest cookie that is looked at.
const COOKIE_BYTES_MAX: usize = 512;

#[derive(Clone, Debug)]
struct Ticket {
    hash: TokenHash,
    key_id: String,
    expires_ms: i64,
    /// A one-time code that opened its session; it stays, so that the next one is told so.
    is_used: bool,
}

/// Why a code opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeRefused {
    /// This process issued no such code, or forgot it: a restart forgets all of them.
    Unknown,
    /// It opened its session already.
    Used,
    /// It came too late.
    Expired,
}

/// One-time codes for the sign-in address, at most `max` of them; each stands for one key.
#[derive(Debug)]
pub struct SignInCodes {
    max: usize,
    by_bucket: Mutex<HashMap<[u8; 8], Ticket>>,
}

impl Default for SignInCodes {
    fn default() -> Self {
        Self { max: CODES_MAX, by_bucket: Mutex::new(HashMap::new()) }
    }
}

impl SignInCodes {
    /// No codes yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing panics while the lock is held, and a half-made change cannot be seen.
    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 8], Ticket>> {
        self.by_bucket.lock().unwrap_or_else(PoisonError::into_inner)
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
        let secret = SecretString::random("nc_")?;
        let hash = TokenHash::of(secret.expose());
        let expires_ms = now_ms.saturating_add(ttl_ms);
        let mut tickets = self.lock();
        if tickets.len() >= self.max {
            tickets.retain(|_, ticket| now_ms < ticket.expires_ms && !ticket.is_used);
        }
        while tickets.len() >= self.max {
            let first = tickets.iter().min_by_key(|(_, ticket)| ticket.expires_ms);
            let Some(bucket) = first.map(|(bucket, _)| *bucket) else { break };
            tickets.remove(&bucket);
        }
        let ticket = Ticket { hash, key_id: key_id.to_owned(), expires_ms, is_used: false };
        tickets.insert(hash.bucket(), ticket);
        Ok(secret)
    }

    /// The key that `code` stands for; the code opens nothing afterwards.
    ///
    /// # Errors
    ///
    /// [`CodeRefused`].
    pub fn redeem(&self, code: &str, now_ms: i64) -> Result<String, CodeRefused> {
        let hash = TokenHash::of(code);
        let mut tickets = self.lock();
        let ticket = tickets.get_mut(&hash.bucket()).filter(|ticket| ticket.hash.matches(&hash));
        let ticket = ticket.ok_or(CodeRefused::Unknown)?;
        if ticket.is_used {
            return Err(CodeRefused::Used);
        }
        if now_ms >= ticket.expires_ms {
            return Err(CodeRefused::Expired);
        }
        ticket.is_used = true;
        Ok(ticket.key_id.clone())
    }
}

/// Keeps the list of sessions that were signed out, for the next start.
pub trait Keeper: Send + Sync + std::fmt::Debug {
    /// Replaces what was kept, durably; may block.
    ///
    /// # Errors
    ///
    /// What the disk says; what was kept before stands then.
    fn keep(&self, signed_out: &[u8]) -> std::io::Result<()>;
}

/// Keeps nothing.
impl Keeper for () {
    fn keep(&self, _signed_out: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
}

/// What sessions stand on.
#[derive(Debug)]
pub struct SessionParts {
    /// What cookies are signed with; whoever has it opens every door.
    pub secret: [u8; 32],
    /// How long a session lasts.
    pub ttl_ms: i64,
    /// What was signed out before this start.
    pub signed_out: SignedOut,
    /// Where it is kept.
    pub keeper: Arc<dyn Keeper>,
}

/// Sessions of browsers. Nothing is kept of them but which ones were signed out: the cookie says,
/// under a signature, which key the session stands on and falls with (A3), and when it ends. So
/// they outlive a restart, and there is no bound on how many are open.
pub struct Sessions {
    secret: [u8; 32],
    ttl_ms: i64,
    signed_out: ArcSwap<SignedOut>,
    /// Held while the list changes, so that the last one kept is the last one made.
    keeper: Mutex<Arc<dyn Keeper>>,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").field("ttl_ms", &self.ttl_ms).finish_non_exhaustive()
    }
}

/// What a good cookie says.
#[derive(Debug)]
struct Claim {
    nonce: Nonce,
    ends_ms: i64,
    key_id: String,
}

impl Sessions {
    /// Sessions as `parts` has them.
    #[must_use]
    pub fn new(parts: SessionParts) -> Self {
        Self {
            secret: parts.secret,
            ttl_ms: parts.ttl_ms,
            signed_out: ArcSwap::from_pointee(parts.signed_out),
            keeper: Mutex::new(parts.keeper),
        }
    }

    /// Opens a session of key `key_id`; the secret is the cookie's value.
    ///
    /// # Errors
    ///
    /// [`RandomnessMissing`].
    pub fn open(&self, key_id: &str, now_ms: i64) -> Result<SecretString, RandomnessMissing> {
        let ends_ms = now_ms.saturating_add(self.ttl_ms);
        let mut bytes = Nonce::random()?.bytes().to_vec();
        bytes.extend_from_slice(&ends_ms.to_be_bytes());
        bytes.extend_from_slice(key_id.as_bytes());
        let signature = self.signer(&bytes).finalize().into_bytes();
        bytes.extend_from_slice(&signature);
        Ok(SecretString::new(format!("{SESSION_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))))
    }

    /// Whose session this cookie value is, by the book in force.
    #[must_use]
    pub fn authenticate(
        &self,
        cookie: &str,
        book: &KeyBook,
        now_ms: i64,
    ) -> Option<Arc<Principal>> {
        let claim = self.claim(cookie, now_ms)?;
        let signed_out = self.signed_out.load();
        if signed_out.holds(&claim.nonce, &claim.key_id, claim.ends_ms) {
            return None;
        }
        book.principal(&claim.key_id)
    }

    /// Ends a session; unknown ones are ended already. May block.
    ///
    /// # Errors
    ///
    /// What the keeper says: the session is ended, and would be open again after a restart.
    pub fn close(&self, cookie: &str, now_ms: i64) -> std::io::Result<()> {
        let Some(claim) = self.claim(cookie, now_ms) else { return Ok(()) };
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        let mut signed_out = SignedOut::clone(&self.signed_out.load());
        signed_out.add(claim.nonce, &claim.key_id, claim.ends_ms, now_ms);
        let text = signed_out.to_bytes();
        self.signed_out.store(Arc::new(signed_out));
        keeper.keep(&text)
    }

    /// How long a session lasts.
    #[must_use]
    pub const fn ttl_ms(&self) -> i64 {
        self.ttl_ms
    }

    /// What the cookie says, where the signature is ours (in constant time, A2) and the end is
    /// still to come.
    fn claim(&self, cookie: &str, now_ms: i64) -> Option<Claim> {
        if cookie.len() > COOKIE_BYTES_MAX {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(cookie.strip_prefix(SESSION_PREFIX)?).ok()?;
        let (said, signature) = bytes.split_last_chunk::<32>()?;
        self.signer(said).verify_slice(signature).ok()?;
        let (nonce, said) = said.split_first_chunk::<16>()?;
        let (ends_ms, key_id) = said.split_first_chunk::<8>()?;
        let ends_ms = i64::from_be_bytes(*ends_ms);
        let key_id = std::str::from_utf8(key_id).ok()?.to_owned();
        (now_ms < ends_ms).then_some(Claim { nonce: Nonce::new(*nonce), ends_ms, key_id })
    }

    fn signer(&self, said: &[u8]) -> Hmac<Sha256> {
        let mut signer =
            Hmac::<Sha256>::new_from_slice(&self.secret).expect("HMAC takes a key of any length");
        signer.update(SESSION_DOMAIN);
        signer.update(said);
        signer
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

    /// What is kept, as a file would have it.
    #[derive(Clone, Debug, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Keeper for Kept {
        fn keep(&self, signed_out: &[u8]) -> std::io::Result<()> {
            *self.0.lock().unwrap() = signed_out.to_vec();
            Ok(())
        }
    }

    /// A start with what was kept before.
    fn started(secret: u8, kept: &Kept) -> Sessions {
        let text = kept.0.lock().unwrap().clone();
        let signed_out = match text.as_slice() {
            [] => SignedOut::default(),
            text => SignedOut::parse(text).unwrap(),
        };
        let keeper = Arc::new(kept.clone());
        Sessions::new(SessionParts { secret: [secret; 32], ttl_ms: 1_000, signed_out, keeper })
    }

    #[test]
    fn a_code_opens_once_and_in_time_and_says_why_it_does_not() {
        let codes = SignInCodes::new();
        let code = codes.issue("k1", 1_000, 500).unwrap();
        assert_eq!(codes.redeem("nc_wrong", 1_000), Err(CodeRefused::Unknown));
        assert_eq!(codes.redeem(code.expose(), 1_499).as_deref(), Ok("k1"));
        assert_eq!(codes.redeem(code.expose(), 1_499), Err(CodeRefused::Used));
        let late = codes.issue("k1", 1_000, 500).unwrap();
        assert_eq!(codes.redeem(late.expose(), 1_500), Err(CodeRefused::Expired));
    }

    #[test]
    fn used_codes_make_room_before_codes_that_may_be_needed() {
        let codes = SignInCodes { max: 2, ..SignInCodes::default() };
        let (used, kept) = (codes.issue("a", 0, 9).unwrap(), codes.issue("b", 0, 5).unwrap());
        codes.redeem(used.expose(), 0).unwrap();
        codes.issue("c", 0, 9).unwrap();
        assert_eq!(codes.redeem(kept.expose(), 0).as_deref(), Ok("b"));
    }

    #[test]
    fn more_codes_than_the_bound_push_out_the_ones_that_end_first() {
        let codes = SignInCodes { max: 3, ..SignInCodes::default() };
        let first = codes.issue("k", 0, 100).unwrap();
        let last = (1..=5).map(|now| codes.issue("k", now, 100).unwrap()).last().unwrap();
        assert_eq!(codes.lock().len(), 3);
        assert_eq!(codes.redeem(first.expose(), 5), Err(CodeRefused::Unknown));
        assert_eq!(codes.redeem(last.expose(), 5).as_deref(), Ok("k"));
    }

    #[test]
    fn a_session_outlives_a_restart_and_ends_with_time_sign_out_and_its_key() {
        let mut book = KeyBook::new();
        let (record, _) = book.create(KeyKind::Read, "r", 0).unwrap();
        let kept = Kept::default();
        let sessions = started(7, &kept);
        let (one, two) =
            (sessions.open(&record.id, 0).unwrap(), sessions.open(&record.id, 0).unwrap());
        let sessions = started(7, &kept);
        let opens = |sessions: &Sessions, cookie: &SecretString, book: &KeyBook, now_ms| {
            sessions.authenticate(cookie.expose(), book, now_ms).is_some()
        };
        let whose = sessions.authenticate(one.expose(), &book, 999).unwrap();
        assert_eq!(whose.key_id, record.id);
        assert!(!opens(&sessions, &one, &book, 1_000), "out of time");
        sessions.close(one.expose(), 10).unwrap();
        sessions.close("ns1_unknown", 10).unwrap();
        assert!(!opens(&sessions, &one, &book, 10) && opens(&sessions, &two, &book, 10));
        let sessions = started(7, &kept);
        assert!(!opens(&sessions, &one, &book, 10), "a restart brings no session back");
        assert!(opens(&sessions, &two, &book, 10));
        assert!(!opens(&started(8, &kept), &two, &book, 10), "another house's secret");
        book.revoke(&record.id, 11).unwrap();
        assert!(!opens(&sessions, &two, &book, 11));
    }

    #[test]
    fn a_cookie_with_any_bit_changed_opens_nothing() {
        let mut book = KeyBook::new();
        let (record, _) = book.create(KeyKind::Admin, "a", 0).unwrap();
        let sessions = started(7, &Kept::default());
        let cookie = sessions.open(&record.id, 0).unwrap();
        let text = cookie.expose().strip_prefix(SESSION_PREFIX).unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(text).unwrap();
        for at in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            let forged = format!("{SESSION_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
            assert!(sessions.authenticate(&forged, &book, 1).is_none(), "bit {at}");
        }
        for length in 0..bytes.len() {
            let cut = format!("{SESSION_PREFIX}{}", URL_SAFE_NO_PAD.encode(&bytes[..length]));
            assert!(sessions.authenticate(&cut, &book, 1).is_none(), "{length} bytes");
        }
        for other in ["", SESSION_PREFIX, text, &"x".repeat(10_000)] {
            assert!(sessions.authenticate(other, &book, 1).is_none(), "{other}");
        }
        assert!(sessions.authenticate(cookie.expose(), &book, 1).is_some());
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
