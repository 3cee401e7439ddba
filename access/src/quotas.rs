//! Limits per key and per address: rates, and things held at once.

mod allowance;
mod ledger;
mod quota;

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;

use allowance::{Account, Terms};
use ledger::{Ledger, Moment};

pub use ledger::{DayCounts, Load, OverQuota, SenderCounts, Told};
pub use quota::{Quota, QuotaError};

use crate::Principal;

/// Keys or addresses whose rate is followed one by one; the rest shares one limit (A4).
pub const TRACKED_MAX: usize = 65_536;

/// Failed sign-ins a second with tokens or codes of one beginning from one address, and how many
/// may come at once.
const FAILURES_PER_SECOND: NonZeroU32 = NonZeroU32::MIN;
const FAILURES_BURST: NonZeroU32 = NonZeroU32::new(20).expect("not zero");

/// As much of a token or code tells one guesser's target from others.
const BEGINNING_BYTES: usize = 8;

/// Entries at rest are looked for at most this often.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Time since any fixed moment; it never goes back.
type Now = Arc<dyn Fn() -> Duration + Send + Sync>;

/// The client's address as the server understood it (behind a proxy, the forwarded one): a
/// request extension that the server sets and the doors read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// What one key, and one address, may do. Every limit is at least 1.
#[derive(Clone, Debug)]
pub struct QuotaSettings {
    /// Events a second.
    pub events_per_second: NonZeroU32,
    /// Events that may come at once after a pause, at least one whole batch.
    pub events_burst: NonZeroU32,
    /// What a browser key may send, where its own quota does not say.
    pub browser_quota: Quota,
    /// What another key may send, likewise.
    pub server_quota: Quota,
    /// Queries a second.
    pub queries_per_second: NonZeroU32,
    /// Connections of one address at once.
    pub connections_max: u32,
    /// Live subscriptions of one key or address at once.
    pub subscriptions_max: u32,
}

impl Default for QuotaSettings {
    fn default() -> Self {
        const EVENTS: NonZeroU32 = NonZeroU32::new(1_000_000).expect("not zero");
        const QUERIES: NonZeroU32 = NonZeroU32::new(200).expect("not zero");
        Self {
            events_per_second: EVENTS,
            events_burst: EVENTS,
            browser_quota: Quota::default(),
            server_quota: Quota::default(),
            queries_per_second: QUERIES,
            connections_max: 1_000,
            subscriptions_max: 500,
        }
    }
}

/// A limit was reached.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("over the limit of {limit} {what} of one {whose}: {}", advice(*retry_after))]
pub struct TooMany {
    /// The limit's value.
    pub limit: u32,
    /// What is counted: `events a second`, `connections at once`, …
    pub what: &'static str,
    /// Whose limit it is: `key` or `address`.
    pub whose: &'static str,
    /// When trying again makes sense; `None` where time alone changes nothing, for what is held
    /// is held until its holder ends it.
    pub retry_after: Option<Duration>,
}

fn advice(retry_after: Option<Duration>) -> String {
    match retry_after {
        Some(after) => format!("try again in {} ms", after.as_millis()),
        None => "end one first".to_owned(),
    }
}

impl From<TooMany> for crate::Problem {
    fn from(too_many: TooMany) -> Self {
        let problem = Self::rate_limited(too_many.to_string()).with("limit", too_many.limit);
        match too_many.retry_after {
            Some(after) => problem.after(after),
            None => problem,
        }
    }
}

/// Who sends, and when.
#[derive(Clone, Copy, Debug)]
pub struct Sending<'a> {
    /// Whose key it is.
    pub principal: &'a Principal,
    /// From where.
    pub address: IpAddr,
    /// When, as the house dates it: milliseconds since 1970 UTC.
    pub ms: i64,
}

/// Why a key may not send now.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MayNotSend {
    /// The key's own quota is used up.
    #[error(transparent)]
    Quota(#[from] Box<OverQuota>),
    /// The rate of any key or address.
    #[error(transparent)]
    Rate(#[from] TooMany),
}

impl From<MayNotSend> for crate::Problem {
    fn from(refused: MayNotSend) -> Self {
        match refused {
            MayNotSend::Quota(over) => (*over).into(),
            MayNotSend::Rate(too_many) => too_many.into(),
        }
    }
}

/// One rate, followed for at most `tracked_max` keys of type `K`.
struct Rates<K> {
    terms: Terms,
    what: &'static str,
    whose: &'static str,
    tracked_max: usize,
    state: Mutex<RatesState<K>>,
}

struct RatesState<K> {
    accounts: HashMap<K, Account>,
    overflow: Account,
    swept: Duration,
}

impl<K: Hash + Eq> Rates<K> {
    fn new(
        rate: NonZeroU32,
        burst: NonZeroU32,
        (what, whose): (&'static str, &'static str),
        tracked_max: usize,
    ) -> Self {
        let state = RatesState {
            accounts: HashMap::new(),
            overflow: Account::default(),
            swept: Duration::ZERO,
        };
        let terms = Terms { rate, burst: burst.max(rate) };
        Self { terms, what, whose, tracked_max, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, RatesState<K>> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn too_many(&self, retry_after: Duration) -> TooMany {
        let (limit, what, whose) = (self.terms.rate.get(), self.what, self.whose);
        TooMany { limit, what, whose, retry_after: Some(whole_ms(retry_after)) }
    }

    fn check<Q>(&self, now: Duration, key: &Q, cost: u32) -> Result<(), TooMany>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let mut state = self.lock();
        let account = state.account(self, now, key);
        let wait = account.wait(self.terms, now, cost);
        if wait > Duration::ZERO {
            account.close(now + wait);
            return Err(self.too_many(wait));
        }
        account.charge(cost);
        Ok(())
    }
}

impl<K: Hash + Eq> RatesState<K> {
    /// The account of `key`, settled.
    fn account<Q>(&mut self, rates: &Rates<K>, now: Duration, key: &Q) -> &mut Account
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        if !self.accounts.contains_key(key) {
            self.make_room(rates, now);
            if self.accounts.len() < rates.tracked_max {
                self.accounts.insert(key.to_owned(), Account::default());
            }
        }
        let account = self.accounts.get_mut(key).unwrap_or(&mut self.overflow);
        account.settle(rates.terms, now);
        account
    }

    fn make_room(&mut self, rates: &Rates<K>, now: Duration) {
        if self.accounts.len() < rates.tracked_max || now < self.swept + SWEEP_EVERY {
            return;
        }
        self.swept = now;
        // Whoever owes nothing has the whole burst again, so forgetting it is free.
        self.accounts.retain(|_, account| {
            account.settle(rates.terms, now);
            !account.is_rested(now)
        });
    }
}

/// One rate of one client, by its address and by its key: what one of them refuses is charged
/// to neither, or the advice of the one would be untrue for the other.
struct Pair {
    by_address: Rates<IpAddr>,
    by_key: Rates<String>,
}

impl Pair {
    fn new(rate: NonZeroU32, burst: NonZeroU32, what: &'static str) -> Self {
        Self {
            by_address: Rates::new(rate, burst, (what, "address"), TRACKED_MAX),
            by_key: Rates::new(rate, burst, (what, "key"), TRACKED_MAX),
        }
    }

    /// Whether a charge of 1 would be admitted; where not, when a charge of any size would.
    fn look(&self, now: Duration, key_id: &str, address: IpAddr) -> Result<(), TooMany> {
        let (mut addresses, mut keys) = (self.by_address.lock(), self.by_key.lock());
        let by_address = addresses.account(&self.by_address, now, &network(address));
        let by_key = keys.account(&self.by_key, now, key_id);
        let is_open = |terms, account: &Account| account.wait(terms, now, 1).is_zero();
        let (address_terms, key_terms) = (self.by_address.terms, self.by_key.terms);
        if is_open(address_terms, by_address) && is_open(key_terms, by_key) {
            return Ok(());
        }
        self.longer(by_address.rest(address_terms, now), by_key.rest(key_terms, now))
    }

    fn check(
        &self,
        now: Duration,
        key_id: &str,
        address: IpAddr,
        cost: u32,
    ) -> Result<(), TooMany> {
        let (mut addresses, mut keys) = (self.by_address.lock(), self.by_key.lock());
        let by_address = addresses.account(&self.by_address, now, &network(address));
        let by_key = keys.account(&self.by_key, now, key_id);
        let address_wait = by_address.wait(self.by_address.terms, now, cost);
        let key_wait = by_key.wait(self.by_key.terms, now, cost);
        if address_wait.is_zero() && key_wait.is_zero() {
            by_address.charge(cost);
            by_key.charge(cost);
            return Ok(());
        }
        // Whoever is over the limit is refused before anything is parsed, until the charge
        // that was refused would be admitted.
        by_address.close(now + address_wait);
        by_key.close(now + key_wait);
        self.longer(address_wait, key_wait)
    }

    fn refund(&self, now: Duration, key_id: &str, address: IpAddr, cost: u32) {
        let (mut addresses, mut keys) = (self.by_address.lock(), self.by_key.lock());
        let by_address = addresses.account(&self.by_address, now, &network(address));
        by_address.refund(self.by_address.terms, cost);
        keys.account(&self.by_key, now, key_id).refund(self.by_key.terms, cost);
    }

    fn longer(&self, address_wait: Duration, key_wait: Duration) -> Result<(), TooMany> {
        Err(if key_wait > address_wait {
            self.by_key.too_many(key_wait)
        } else {
            self.by_address.too_many(address_wait)
        })
    }
}

/// Rounded up: earlier would be refused again.
fn whole_ms(wait: Duration) -> Duration {
    let ms = wait.as_nanos().div_ceil(1_000_000).max(1);
    Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
}

/// Things held at once, counted per holder; an entry lives as long as something is held.
#[derive(Debug)]
struct Held<K> {
    max: u32,
    what: &'static str,
    whose: &'static str,
    counts: Mutex<HashMap<K, u32>>,
}

impl<K: Hash + Eq + Clone> Held<K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, u32>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>, key: K) -> Result<HeldOne<K>, TooMany> {
        let mut counts = self.lock();
        let count = counts.entry(key.clone()).or_insert(0);
        if *count >= self.max {
            let (limit, what, whose) = (self.max, self.what, self.whose);
            return Err(TooMany { limit, what, whose, retry_after: None });
        }
        *count += 1;
        Ok(HeldOne { held: Arc::clone(self), key })
    }
}

#[derive(Debug)]
struct HeldOne<K: Hash + Eq + Clone> {
    held: Arc<Held<K>>,
    key: K,
}

impl<K: Hash + Eq + Clone> Drop for HeldOne<K> {
    fn drop(&mut self) {
        let mut counts = self.held.lock();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

/// A connection or a subscription that is held; dropping it gives it back.
#[derive(Debug)]
pub struct Slot {
    _address: HeldOne<IpAddr>,
    _key: Option<HeldOne<String>>,
}

/// All limits of one house. An IPv6 address counts by its /64, which one client owns whole.
pub struct Quotas {
    now: Now,
    events: Pair,
    ledger: Ledger,
    browser_quota: Quota,
    server_quota: Quota,
    queries: Pair,
    strangers: Rates<IpAddr>,
    failures: Rates<(IpAddr, Beginning)>,
    connections: Arc<Held<IpAddr>>,
    subscriptions_by_key: Arc<Held<String>>,
    subscriptions_by_address: Arc<Held<IpAddr>>,
}

impl std::fmt::Debug for Quotas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Quotas").finish_non_exhaustive()
    }
}

impl Quotas {
    /// Limits by the monotonic clock.
    #[must_use]
    pub fn new(settings: &QuotaSettings) -> Self {
        let begun = tokio::time::Instant::now();
        Self::with_clock(settings, Arc::new(move || begun.elapsed()))
    }

    /// Limits by a clock of the caller's: time since any fixed moment, which never goes back.
    #[must_use]
    pub fn with_clock(
        settings: &QuotaSettings,
        now: Arc<dyn Fn() -> Duration + Send + Sync>,
    ) -> Self {
        let queries = settings.queries_per_second;
        let held = |max, what| Held { max, what, whose: "address", counts: Mutex::default() };
        let (connections, subscriptions) = (settings.connections_max, settings.subscriptions_max);
        Self {
            now,
            events: Pair::new(settings.events_per_second, settings.events_burst, "events a second"),
            ledger: Ledger::default(),
            browser_quota: settings.browser_quota,
            server_quota: settings.server_quota,
            queries: Pair::new(queries, queries, "queries a second"),
            strangers: Rates::new(
                queries,
                queries,
                ("requests a second without a key", "address"),
                TRACKED_MAX,
            ),
            failures: Rates::new(
                FAILURES_PER_SECOND,
                FAILURES_BURST,
                ("failed sign-ins a second", "address"),
                TRACKED_MAX,
            ),
            connections: Arc::new(held(connections, "connections at once")),
            subscriptions_by_key: Arc::new(Held {
                max: subscriptions,
                what: "live subscriptions",
                whose: "key",
                counts: Mutex::default(),
            }),
            subscriptions_by_address: Arc::new(held(subscriptions, "live subscriptions")),
        }
    }

    /// Whether this client may send at all now: before a body is read. Charges nothing.
    ///
    /// # Errors
    ///
    /// [`MayNotSend`], with the time after which a batch of any size is admitted.
    pub fn look_events(&self, sending: Sending<'_>) -> Result<(), MayNotSend> {
        let (key, quota) = (sending.principal.key_id.as_str(), self.quota_of(sending.principal));
        self.ledger.look(self.moment(sending), key, &quota).map_err(Box::new)?;
        Ok(self.events.look((self.now)(), key, sending.address)?)
    }

    /// Charges `load` to the key's quota, and its events to the rates of key and address: to all
    /// or to none. More than may come at once is admitted once nothing is owed; what it is over
    /// is owed then. So is a day's first batch.
    ///
    /// # Errors
    ///
    /// [`MayNotSend`]: refuse the batch whole. After `retry_after` it is admitted, if nobody else
    /// is charged meanwhile; until then, but for a day's quota, every charge is refused.
    pub fn check_events(&self, sending: Sending<'_>, load: Load) -> Result<(), MayNotSend> {
        let (key, quota) = (sending.principal.key_id.as_str(), self.quota_of(sending.principal));
        self.ledger.charge(self.moment(sending), key, &quota, load).map_err(Box::new)?;
        let checked = self.events.check((self.now)(), key, sending.address, whole_events(load));
        Ok(checked.inspect_err(|_| self.ledger.refund(key, &quota, load))?)
    }

    /// Takes back what [`Quotas::check_events`] has charged, for none of the batch was taken, and
    /// not for a fault of the client: it comes again with all of it when it is told to.
    pub fn refund_events(&self, sending: Sending<'_>, load: Load) {
        let (key, quota) = (sending.principal.key_id.as_str(), self.quota_of(sending.principal));
        self.ledger.refund(key, &quota, load);
        self.events.refund((self.now)(), key, sending.address, whole_events(load));
    }

    /// What this key may send: its own quota, and what that does not say by its kind.
    #[must_use]
    pub const fn quota_of(&self, principal: &Principal) -> Quota {
        let of_kind = if principal.is_public { self.browser_quota } else { self.server_quota };
        principal.quota.or(of_kind)
    }

    /// The keys that have sent most, by bytes, and what all others have sent; both only grow.
    #[must_use]
    pub fn senders(&self) -> (Vec<SenderCounts>, Told) {
        self.ledger.tell()
    }

    /// What keys have sent on the UTC day of `ms`, to be kept over a restart.
    #[must_use]
    pub fn day_counts(&self, ms: i64) -> DayCounts {
        self.ledger.day(ms)
    }

    /// Goes on from what an earlier process counted on the same day; once, at the start.
    pub fn resume_day(&self, counts: DayCounts, ms: i64) {
        self.ledger.resume(counts, ms);
    }

    fn moment(&self, sending: Sending<'_>) -> Moment {
        Moment { now: (self.now)(), ms: sending.ms }
    }

    /// Charges `queries` to the key and to the address, to both or to neither.
    ///
    /// # Errors
    ///
    /// [`TooMany`].
    pub fn check_queries(
        &self,
        key_id: &str,
        address: IpAddr,
        queries: u32,
    ) -> Result<(), TooMany> {
        self.queries.check((self.now)(), key_id, address, queries)
    }

    /// Charges requests to an address alone: for doors that open before a key is shown. Whoever
    /// at the same address shows one is not held up by it.
    ///
    /// # Errors
    ///
    /// [`TooMany`].
    pub fn check_address(&self, address: IpAddr, requests: u32) -> Result<(), TooMany> {
        self.strangers.check((self.now)(), &network(address), requests)
    }

    /// Charges a token or code that opened nothing: to those of its address that begin so, and to
    /// the requests without a key of its address. What opens something is never asked for here, so
    /// that nobody's guesses lock others out; it has 128 bits or more, which no rate would guess.
    ///
    /// # Errors
    ///
    /// [`TooMany`], where the address has shown too many.
    pub fn sign_in_failed(&self, address: IpAddr, token: &str) -> Result<(), TooMany> {
        let own = self.failures.check((self.now)(), &(network(address), beginning(token)), 1);
        self.check_address(address, 1)?;
        own
    }

    /// Holds a connection of `address`.
    ///
    /// # Errors
    ///
    /// [`TooMany`].
    pub fn connection(&self, address: IpAddr) -> Result<Slot, TooMany> {
        Ok(Slot { _address: self.connections.take(network(address))?, _key: None })
    }

    /// Holds a live subscription of this key at `address`.
    ///
    /// # Errors
    ///
    /// [`TooMany`].
    pub fn subscription(&self, key_id: &str, address: IpAddr) -> Result<Slot, TooMany> {
        let by_address = self.subscriptions_by_address.take(network(address))?;
        let by_key = self.subscriptions_by_key.take(key_id.to_owned())?;
        Ok(Slot { _address: by_address, _key: Some(by_key) })
    }
}

/// The events of a load, as rates take them.
fn whole_events(load: Load) -> u32 {
    u32::try_from(load.events).unwrap_or(u32::MAX)
}

/// How a token or code begins.
type Beginning = [u8; BEGINNING_BYTES];

fn beginning(token: &str) -> Beginning {
    let mut beginning = Beginning::default();
    beginning.iter_mut().zip(token.bytes()).for_each(|(own, byte)| *own = byte);
    beginning
}

/// The address, or the /64 that an IPv6 client owns whole.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let prefix = u128::from(v6) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(prefix))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests;
