//! Limits per key and per address: rates by governor's GCRA, and things held at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock, Reference as _};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use thiserror::Error;

/// Keys or addresses whose rate is followed one by one; the rest shares one limit (A4).
pub const TRACKED_MAX: usize = 65_536;

/// An entry unused for longer than this has its whole burst again, so forgetting it is free.
const IDLE: Duration = Duration::from_secs(60);

/// Idle entries are looked for at most this often.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

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
            queries_per_second: QUERIES,
            connections_max: 1_000,
            subscriptions_max: 500,
        }
    }
}

/// A limit was reached.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("over the limit of {limit} {what} of one {whose}: try again in {} ms", retry_after.as_millis())]
pub struct TooMany {
    /// The limit's value.
    pub limit: u32,
    /// What is counted: `events a second`, `connections at once`, …
    pub what: &'static str,
    /// Whose limit it is: `key` or `address`.
    pub whose: &'static str,
    /// When trying again makes sense.
    pub retry_after: Duration,
}

impl From<TooMany> for crate::Problem {
    fn from(too_many: TooMany) -> Self {
        Self::rate_limited(too_many.to_string(), too_many.retry_after).with("limit", too_many.limit)
    }
}

type Limiter<C> = RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<<C as Clock>::Instant>>;

struct Entry<C: Clock> {
    limiter: Limiter<C>,
    used: C::Instant,
    /// A charge that was refused keeps the door closed until it would have been admitted:
    /// whoever is over the limit is refused before anything is parsed.
    closed_until: Option<C::Instant>,
}

/// One rate, followed for at most [`TRACKED_MAX`] keys of type `K`.
struct Rates<K, C: Clock> {
    rate: u32,
    quota: Quota,
    what: &'static str,
    whose: &'static str,
    tracked_max: usize,
    clock: C,
    state: Mutex<RatesState<K, C>>,
}

struct RatesState<K, C: Clock> {
    entries: HashMap<K, Entry<C>>,
    overflow: Entry<C>,
    swept: C::Instant,
}

impl<K: Hash + Eq + Clone, C: Clock + Clone> Rates<K, C> {
    fn new(
        rate: NonZeroU32,
        burst: NonZeroU32,
        words: (&'static str, &'static str),
        tracked_max: usize,
        clock: C,
    ) -> Self {
        let quota = Quota::per_second(rate).allow_burst(burst.max(rate));
        let now = clock.now();
        let state = RatesState {
            entries: HashMap::new(),
            overflow: Entry {
                limiter: RateLimiter::direct_with_clock(quota, clock.clone()),
                used: now,
                closed_until: None,
            },
            swept: now,
        };
        let (what, whose) = words;
        Self { rate: rate.get(), quota, what, whose, tracked_max, clock, state: Mutex::new(state) }
    }

    fn check(&self, key: &K, cost: u32) -> Result<(), TooMany> {
        let now = self.clock.now();
        // Nothing panics while the lock is held.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        if !state.entries.contains_key(key) {
            self.make_room(state, now);
            if state.entries.len() < self.tracked_max {
                let limiter = RateLimiter::direct_with_clock(self.quota, self.clock.clone());
                let entry = Entry { limiter, used: now, closed_until: None };
                state.entries.insert(key.clone(), entry);
            }
        }
        let entry = state.entries.get_mut(key).unwrap_or(&mut state.overflow);
        entry.used = now;
        self.charge(entry, cost, now)
    }

    fn charge(&self, entry: &mut Entry<C>, cost: u32, now: C::Instant) -> Result<(), TooMany> {
        if let Some(until) = entry.closed_until {
            if now < until {
                return Err(self.too_many(until.duration_since(now).into()));
            }
            entry.closed_until = None;
        }
        // What is larger than the whole burst costs the whole burst: it could never be paid.
        let cost = cost.min(self.quota.burst_size().get());
        let Some(cost) = NonZeroU32::new(cost) else { return Ok(()) };
        match entry.limiter.check_n(cost) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => {
                entry.closed_until = Some(not_until.earliest_possible());
                Err(self.too_many(not_until.wait_time_from(now)))
            }
            Err(_larger_than_burst) => Err(self.too_many(Duration::from_secs(1))),
        }
    }

    fn make_room(&self, state: &mut RatesState<K, C>, now: C::Instant) {
        let sweep = state.entries.len() >= self.tracked_max
            && Duration::from(now.duration_since(state.swept)) >= SWEEP_EVERY;
        if sweep {
            state.swept = now;
            state.entries.retain(|_, entry| Duration::from(now.duration_since(entry.used)) < IDLE);
        }
    }

    fn too_many(&self, retry_after: Duration) -> TooMany {
        let (limit, what, whose) = (self.rate, self.what, self.whose);
        TooMany { limit, what, whose, retry_after: retry_after.max(Duration::from_millis(1)) }
    }
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
            return Err(TooMany { limit, what, whose, retry_after: Duration::from_secs(1) });
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
pub struct Quotas<C: Clock = DefaultClock> {
    events_by_key: Rates<String, C>,
    events_by_address: Rates<IpAddr, C>,
    queries_by_key: Rates<String, C>,
    queries_by_address: Rates<IpAddr, C>,
    connections: Arc<Held<IpAddr>>,
    subscriptions_by_key: Arc<Held<String>>,
    subscriptions_by_address: Arc<Held<IpAddr>>,
}

impl<C: Clock> std::fmt::Debug for Quotas<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Quotas").finish_non_exhaustive()
    }
}

impl Quotas {
    /// Limits by the monotonic clock.
    #[must_use]
    pub fn new(settings: &QuotaSettings) -> Self {
        Self::with_clock(settings, DefaultClock::default())
    }
}

impl<C: Clock + Clone> Quotas<C> {
    /// Limits by a clock of the caller's.
    #[must_use]
    pub fn with_clock(settings: &QuotaSettings, clock: C) -> Self {
        let (events, burst) = (settings.events_per_second, settings.events_burst);
        let queries = settings.queries_per_second;
        let held = |max, what| Held { max, what, whose: "address", counts: Mutex::default() };
        let (connections, subscriptions) = (settings.connections_max, settings.subscriptions_max);
        Self {
            events_by_key: Rates::new(
                events,
                burst,
                ("events a second", "key"),
                TRACKED_MAX,
                clock.clone(),
            ),
            events_by_address: Rates::new(
                events,
                burst,
                ("events a second", "address"),
                TRACKED_MAX,
                clock.clone(),
            ),
            queries_by_key: Rates::new(
                queries,
                queries,
                ("queries a second", "key"),
                TRACKED_MAX,
                clock.clone(),
            ),
            queries_by_address: Rates::new(
                queries,
                queries,
                ("queries a second", "address"),
                TRACKED_MAX,
                clock,
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

    /// Charges `events` to the key and to the address; 1 before a body is read, the rest once
    /// its events are counted.
    ///
    /// # Errors
    ///
    /// [`TooMany`]: refuse the batch whole; until `retry_after` every charge is refused.
    pub fn check_events(&self, key_id: &str, address: IpAddr, events: u32) -> Result<(), TooMany> {
        self.events_by_address.check(&network(address), events)?;
        self.events_by_key.check(&key_id.to_owned(), events)
    }

    /// Charges `queries` to the key and to the address.
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
        self.queries_by_address.check(&network(address), queries)?;
        self.queries_by_key.check(&key_id.to_owned(), queries)
    }

    /// Charges queries to an address alone: for doors that open before a key is shown.
    ///
    /// # Errors
    ///
    /// [`TooMany`].
    pub fn check_address(&self, address: IpAddr, queries: u32) -> Result<(), TooMany> {
        self.queries_by_address.check(&network(address), queries)
    }

    /// Charges queries to a key alone.
    ///
    /// # Errors
    ///
    /// [`TooMany`].
    pub fn check_key(&self, key_id: &str, queries: u32) -> Result<(), TooMany> {
        self.queries_by_key.check(&key_id.to_owned(), queries)
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
mod tests {
    use std::net::Ipv4Addr;

    use governor::clock::FakeRelativeClock;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn quotas(per_second: u32) -> (Quotas<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let rate = NonZeroU32::new(per_second).unwrap();
        let settings = QuotaSettings {
            events_per_second: rate,
            events_burst: rate,
            queries_per_second: rate,
            connections_max: 2,
            subscriptions_max: 1,
        };
        (Quotas::with_clock(&settings, clock.clone()), clock)
    }

    fn there(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(203, 0, 113, last))
    }

    #[test]
    fn a_second_admits_the_rate_and_the_next_second_again() {
        let (quotas, clock) = quotas(100);
        quotas.check_events("k", HERE, 100).unwrap();
        let refused = quotas.check_events("k", HERE, 1).unwrap_err();
        assert!(refused.retry_after <= Duration::from_millis(10), "{refused}");
        clock.advance(Duration::from_secs(1));
        quotas.check_events("k", HERE, 100).unwrap();
    }

    #[test]
    fn one_key_over_its_limit_leaves_the_others_alone_and_an_address_counts_all_its_keys() {
        let (quotas, _clock) = quotas(100);
        quotas.check_events("a", there(1), 100).unwrap();
        assert_eq!(quotas.check_events("a", there(2), 1).unwrap_err().whose, "key");
        assert_eq!(quotas.check_events("b", there(1), 1).unwrap_err().whose, "address");
        quotas.check_events("b", there(3), 1).unwrap();
    }

    #[test]
    fn a_refused_batch_closes_the_door_until_it_would_have_been_admitted() {
        let (quotas, clock) = quotas(100);
        quotas.check_events("k", HERE, 60).unwrap();
        quotas.check_events("k", HERE, 60).unwrap_err();
        quotas.check_events("k", HERE, 1).unwrap_err();
        clock.advance(Duration::from_millis(250));
        quotas.check_events("k", HERE, 60).unwrap();
    }

    #[test]
    fn a_charge_larger_than_the_burst_is_admitted_by_a_rested_client() {
        let (quotas, _clock) = quotas(100);
        quotas.check_events("k", HERE, 5_000).unwrap();
        quotas.check_events("k", HERE, 1).unwrap_err();
    }

    #[test]
    fn an_ipv6_client_cannot_hide_in_its_own_network() {
        let (quotas, _clock) = quotas(1);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        quotas.check_address(address("2001:db8::1"), 1).unwrap();
        quotas.check_address(address("2001:db8::2"), 1).unwrap_err();
        quotas.check_address(address("2001:db8:0:1::1"), 1).unwrap();
        quotas.check_address(address("::ffff:203.0.113.9"), 1).unwrap();
        quotas.check_address(there(9), 1).unwrap_err();
    }

    #[test]
    fn strangers_past_the_bound_share_one_limit_and_idle_ones_make_room() {
        let clock = FakeRelativeClock::default();
        let one = NonZeroU32::new(1).unwrap();
        let rates = Rates::new(one, one, ("queries a second", "address"), 2, clock.clone());
        for stranger in 0..3 {
            rates.check(&stranger, 1).unwrap();
        }
        assert!(rates.check(&3, 1).is_err());
        assert_eq!(rates.state.lock().unwrap().entries.len(), 2);
        clock.advance(Duration::from_secs(61));
        rates.check(&3, 1).unwrap();
        assert!(rates.state.lock().unwrap().entries.contains_key(&3));
    }

    #[test]
    fn what_is_held_is_given_back_when_dropped() {
        let (quotas, _clock) = quotas(1);
        let slots = [quotas.connection(HERE).unwrap(), quotas.connection(HERE).unwrap()];
        assert_eq!(quotas.connection(HERE).unwrap_err().limit, 2);
        drop(slots);
        quotas.connection(HERE).unwrap();
        assert!(quotas.connections.lock().is_empty());

        let live = quotas.subscription("k", HERE).unwrap();
        assert_eq!(quotas.subscription("j", HERE).unwrap_err().whose, "address");
        assert_eq!(quotas.subscription("k", there(1)).unwrap_err().whose, "key");
        // The refused one gave its address back.
        quotas.subscription("j", there(1)).unwrap();
        drop(live);
        quotas.subscription("k", HERE).unwrap();
    }
}
