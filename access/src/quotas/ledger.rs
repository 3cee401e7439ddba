//! What each key sends: bounded by its quota, and counted for whoever asks who sends most.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::allowance::{Account, Terms};
use super::quota::Quota;
use super::whole_ms;
use crate::{KEYS_MAX, Problem, Status};

const DAY_MS: i64 = 86_400_000;

/// Keys that are counted one by one: twice as many as a book holds, for books change. Those past
/// it are one.
const KEYS_COUNTED_MAX: usize = 2 * KEYS_MAX;

/// Keys that are named, those that sent most; the rest is told as one.
const KEYS_NAMED_MAX: usize = 20;

/// What one request brings, or several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Events, the refused ones among them.
    pub events: u64,
    /// Bytes of bodies, decompressed.
    pub bytes: u64,
}

impl Load {
    /// So many events in so many bytes.
    #[must_use]
    pub fn new(events: usize, bytes: usize) -> Self {
        let wide = |number| u64::try_from(number).unwrap_or(u64::MAX);
        Self { events: wide(events), bytes: wide(bytes) }
    }

    const fn plus(self, more: Self) -> Self {
        Self {
            events: self.events.saturating_add(more.events),
            bytes: self.bytes.saturating_add(more.bytes),
        }
    }

    const fn minus(self, less: Self) -> Self {
        Self {
            events: self.events.saturating_sub(less.events),
            bytes: self.bytes.saturating_sub(less.bytes),
        }
    }
}

/// A moment: by a clock that never goes back, and as the house dates it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) now: Duration,
    /// Milliseconds since 1970 UTC.
    pub(super) ms: i64,
}

/// A key is over its quota.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "key {key} is over its quota of {quota}; nothing of the batch was taken: {}",
    advice(*retry_after, *is_day)
)]
pub struct OverQuota {
    /// The key's id.
    pub key: String,
    /// The bound that was met, as it is written: `events=500/s`.
    pub quota: Quota,
    /// Its number.
    pub limit: u64,
    /// When there is room again: of a day's quota, with the next day.
    pub retry_after: Duration,
    is_day: bool,
}

fn advice(retry_after: Duration, is_day: bool) -> String {
    if is_day {
        let seconds = retry_after.as_secs();
        format!("the day ends at 00:00 UTC, in {} h {} min", seconds / 3600, seconds / 60 % 60)
    } else {
        format!("try again in {} ms", retry_after.as_millis())
    }
}

impl From<OverQuota> for Problem {
    fn from(over: OverQuota) -> Self {
        let title = "the key is over its quota";
        Self::new(Status::TooManyRequests, "quota_exceeded", title, over.to_string())
            .with("key", over.key)
            .with("quota", over.quota.to_string())
            .with("limit", over.limit)
            .after(over.retry_after)
    }
}

/// What one key has sent.
#[derive(Clone, Debug, Default)]
struct KeyAccount {
    events: Account,
    bytes: Account,
    /// Since this UTC day began.
    today: Load,
    /// Since the start.
    sent: Load,
    refused: u64,
    /// What was told of it under no name, at the last telling without one.
    unnamed: Told,
}

/// What is told of one key, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Since the start.
    pub sent: Load,
    /// Requests that were refused for the key's quota.
    pub refused: u64,
}

impl Told {
    const fn plus(self, more: Self) -> Self {
        Self { sent: self.sent.plus(more.sent), refused: self.refused.saturating_add(more.refused) }
    }

    const fn minus(self, less: Self) -> Self {
        Self {
            sent: self.sent.minus(less.sent),
            refused: self.refused.saturating_sub(less.refused),
        }
    }
}

/// One of those that sent most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderCounts {
    /// The key's id.
    pub key: String,
    /// Since the start.
    pub all: Told,
    /// Of these what was never told among the rest.
    pub told: Told,
    /// Since the UTC day began, over restarts.
    pub today: Load,
}

/// What keys have sent on one UTC day: what outlives a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DayCounts {
    /// Days since 1970.
    pub day: i64,
    /// By the key's id.
    pub keys: BTreeMap<String, Load>,
}

/// The accounts of all keys.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Days since 1970.
    day: i64,
    keys: HashMap<String, KeyAccount>,
    /// All keys past [`KEYS_COUNTED_MAX`].
    overflow: KeyAccount,
    /// What keys sent that are counted no more.
    forgotten: Told,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the key may send anything now; charges nothing.
    pub(super) fn look(&self, at: Moment, key: &str, quota: &Quota) -> Result<(), OverQuota> {
        let mut state = self.lock();
        state.turn_to(at.ms);
        let Some(account) = state.keys.get_mut(key) else { return Ok(()) };
        account.admit(at, key, quota, None)
    }

    /// Charges all of `load`, or nothing.
    pub(super) fn charge(
        &self,
        at: Moment,
        key: &str,
        quota: &Quota,
        load: Load,
    ) -> Result<(), OverQuota> {
        let mut state = self.lock();
        state.turn_to(at.ms);
        let account = state.account(key);
        account.admit(at, key, quota, Some(load))?;
        account.sent = account.sent.plus(load);
        account.today = account.today.plus(load);
        let [events, bytes] = terms_of(quota);
        // Nothing pays off what has no rate.
        events.inspect(|_| account.events.charge(small(load.events)));
        bytes.inspect(|_| account.bytes.charge(small(load.bytes)));
        Ok(())
    }

    /// Takes back what [`Ledger::charge`] took, as if it had never come.
    pub(super) fn refund(&self, key: &str, quota: &Quota, load: Load) {
        let mut state = self.lock();
        let account = state.account(key);
        account.today = account.today.minus(load);
        let [events, bytes] = terms_of(quota);
        if let Some(terms) = events {
            account.events.refund(terms, small(load.events));
        }
        if let Some(terms) = bytes {
            account.bytes.refund(terms, small(load.bytes));
        }
    }

    /// Who has sent most, by bytes, and what the rest has sent. What is told of one name, and of
    /// the rest, only ever grows; a name begins anew where it was not told for a while.
    pub(super) fn tell(&self) -> (Vec<SenderCounts>, Told) {
        let mut state = self.lock();
        let mut order: Vec<(u64, String)> =
            state.keys.iter().map(|(key, account)| (account.sent.bytes, key.clone())).collect();
        order.sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        let mut rest = state.forgotten.plus(state.overflow.told());
        let mut named = Vec::new();
        for (at, (_, key)) in order.into_iter().enumerate() {
            let Some(account) = state.keys.get_mut(&key) else { continue };
            if at < KEYS_NAMED_MAX {
                let all = account.told();
                let told = all.minus(account.unnamed);
                named.push(SenderCounts { key, all, told, today: account.today });
            } else {
                account.unnamed = account.told();
            }
            rest = rest.plus(account.unnamed);
        }
        (named, rest)
    }

    /// What was sent on the day.
    pub(super) fn day(&self, ms: i64) -> DayCounts {
        let mut state = self.lock();
        state.turn_to(ms);
        let sent = state.keys.iter().filter(|(_, account)| account.today != Load::default());
        let keys = sent.map(|(key, account)| (key.clone(), account.today)).collect();
        DayCounts { day: state.day, keys }
    }

    /// Goes on from what an earlier process counted, if it is still the same day.
    pub(super) fn resume(&self, counts: DayCounts, ms: i64) {
        let mut state = self.lock();
        state.turn_to(ms);
        if counts.day == state.day {
            for (key, load) in counts.keys.into_iter().take(KEYS_COUNTED_MAX) {
                let account = state.account(&key);
                account.today = account.today.plus(load);
            }
        }
    }
}

impl State {
    /// A new day begins with nothing sent; whoever sent nothing on the old one is forgotten.
    fn turn_to(&mut self, ms: i64) {
        let day = ms.div_euclid(DAY_MS);
        if day <= self.day {
            return;
        }
        self.day = day;
        let forgotten = &mut self.forgotten;
        self.keys.retain(|_, account| {
            let has_sent = account.today != Load::default();
            if !has_sent {
                *forgotten = forgotten.plus(account.told());
            }
            account.today = Load::default();
            has_sent
        });
        self.overflow.today = Load::default();
    }

    fn account(&mut self, key: &str) -> &mut KeyAccount {
        if !self.keys.contains_key(key) && self.keys.len() < KEYS_COUNTED_MAX {
            self.keys.insert(key.to_owned(), KeyAccount::default());
        }
        self.keys.get_mut(key).unwrap_or(&mut self.overflow)
    }
}

impl KeyAccount {
    /// Whether `load` may come now, or where there is none yet, anything at all.
    fn admit(
        &mut self,
        at: Moment,
        key: &str,
        quota: &Quota,
        load: Option<Load>,
    ) -> Result<(), OverQuota> {
        let today = self.admit_today(at, quota, load);
        today.and_then(|()| self.admit_now(at, quota, load)).map_err(|over| {
            self.refused = self.refused.saturating_add(1);
            OverQuota { key: key.to_owned(), ..over }
        })
    }

    const fn told(&self) -> Told {
        Told { sent: self.sent, refused: self.refused }
    }

    /// A day's first batch is admitted whatever its size: else it never would be.
    fn admit_today(&self, at: Moment, quota: &Quota, load: Option<Load>) -> Result<(), OverQuota> {
        let is_full = |used: u64, more: Option<u64>, limit: u64| match more {
            Some(more) => used > 0 && used.saturating_add(more) > limit,
            None => used >= limit,
        };
        let (events, bytes) = (quota.events_per_day, quota.bytes_per_day);
        let (used, more) = (self.today, load);
        let (quota, limit) = match (events, bytes) {
            (Some(max), _) if is_full(used.events, more.map(|it| it.events), max.get()) => {
                (Quota { events_per_day: Some(max), ..Quota::default() }, max.get())
            }
            (_, Some(max)) if is_full(used.bytes, more.map(|it| it.bytes), max.get()) => {
                (Quota { bytes_per_day: Some(max), ..Quota::default() }, max.get())
            }
            _ => return Ok(()),
        };
        let left_ms = DAY_MS - at.ms.rem_euclid(DAY_MS);
        let retry_after = Duration::from_millis(left_ms.unsigned_abs());
        Err(OverQuota { key: String::new(), quota, limit, retry_after, is_day: true })
    }

    fn admit_now(
        &mut self,
        at: Moment,
        quota: &Quota,
        load: Option<Load>,
    ) -> Result<(), OverQuota> {
        let [of_events, of_bytes] = terms_of(quota);
        let costs = load.map(|load| (small(load.events), small(load.bytes)));
        let events = wait(&mut self.events, of_events, at.now, costs.map(|costs| costs.0));
        let bytes = wait(&mut self.bytes, of_bytes, at.now, costs.map(|costs| costs.1));
        let longest = events.max(bytes);
        if longest.is_zero() {
            return Ok(());
        }
        if load.is_some() {
            // What was refused is admitted then, and nothing before it.
            self.events.close(at.now + longest);
            self.bytes.close(at.now + longest);
        }
        let none = Quota::default();
        let (quota, limit) = if events >= bytes {
            (Quota { events_per_second: quota.events_per_second, ..none }, of_events)
        } else {
            (Quota { bytes_per_second: quota.bytes_per_second, ..none }, of_bytes)
        };
        let limit = limit.map_or(0, |terms| u64::from(terms.rate.get()));
        let retry_after = whole_ms(longest);
        Err(OverQuota { key: String::new(), quota, limit, retry_after, is_day: false })
    }
}

/// How long until this may come; nothing, until anything at all may, and then until whatever may.
fn wait(account: &mut Account, terms: Option<Terms>, now: Duration, cost: Option<u32>) -> Duration {
    let Some(terms) = terms else { return Duration::ZERO };
    account.settle(terms, now);
    match cost {
        Some(cost) => account.wait(terms, now, cost),
        None if account.wait(terms, now, 1).is_zero() => Duration::ZERO,
        None => account.rest(terms, now),
    }
}

/// The rates of a second, of events and of bytes.
fn terms_of(quota: &Quota) -> [Option<Terms>; 2] {
    let terms = |rate: NonZeroU32| Terms { rate, burst: rate };
    [quota.events_per_second.map(terms), quota.bytes_per_second.map(terms)]
}

/// A cost as buckets take it.
fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
