//! A key's quota of new values: what counts for it, and what becomes of the rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::refused::Refused;
use super::sender::{Brought, Sender};
use super::{Guard, Lacking, OWN_VALUES};
use crate::declare::GuardLimits;

/// Of all that the guard remembers one key's new values are a quarter at most, beside
/// [`OWN_VALUES`] a day.
const SHARE: u32 = 4;
/// Memory for what is refused, over all days: half of what values may take that are remembered, and
/// at most so much. Where it is full, the oldest days are closed: they fold whatever is new.
const REFUSED_BYTES_MAX: usize = if cfg!(test) { 1 << 20 } else { 16 << 20 };
/// It has so much in any case.
const REFUSED_BYTES_MIN: usize = 256 << 10;
/// Bytes of memory that the guard needs for a value that it remembers, about.
pub const GUARDED_VALUE_BYTES: usize = 26;

/// What is known over all days.
#[derive(Clone, Debug, Default)]
pub(super) struct Quotas {
    /// How many new values of each key are remembered.
    totals: BTreeMap<u64, u64>,
    /// Of the filters of all days.
    pub(super) filter_bytes: usize,
    /// What days admitted that refused something, since [`Guard::publish`].
    pub(super) admitted: BTreeMap<(u64, i64), Vec<u64>>,
    /// How many values of each key counted as `__other__` for a quota, since
    /// [`Guard::take_over_quota`].
    over: BTreeMap<u64, u64>,
}

/// What is on its way to somebody is no part of what is known.
impl PartialEq for Quotas {
    fn eq(&self, other: &Self) -> bool {
        self.totals == other.totals && self.filter_bytes == other.filter_bytes
    }
}

impl Eq for Quotas {}

impl Quotas {
    pub(super) fn count(&mut self, sender: Sender) {
        *self.over.entry(sender.key()).or_default() += 1;
    }

    pub(super) fn note_admitted(&mut self, day: (u64, i64), value: u64) {
        self.admitted.entry(day).or_default().push(value);
    }

    /// These are remembered no more.
    pub(super) fn give_back(&mut self, brought: &Brought) {
        for (key, count) in brought.counts() {
            let total = self.totals.entry(key).or_default();
            *total -= u64::from(count);
            if *total == 0 {
                self.totals.remove(&key);
            }
        }
    }

    fn take(&mut self, brought: &Brought) {
        for (key, count) in brought.counts() {
            *self.totals.entry(key).or_default() += u64::from(count);
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let admitted = self.admitted.values().map(|values| values.capacity() * 8 + 64);
        (self.totals.len() + self.over.len()) * 32 + admitted.sum::<usize>()
    }
}

impl Guard {
    /// Whether a key may bring no new value on a day.
    pub(super) fn is_over_quota(
        &self,
        of: (u64, i64),
        sender: Sender,
        limits: &GuardLimits,
    ) -> bool {
        if sender.is_nobody() {
            return false;
        }
        let own = self.days.get(&of).map_or(0, |set| set.brought.by(sender));
        let total = self.quotas.totals.get(&sender.key()).copied().unwrap_or_default();
        let has_its_share = total >= u64::from(limits.entries_max / SHARE);
        own >= sender.values_max() || (has_its_share && own as usize >= OWN_VALUES)
    }

    /// Notes whose a stranger is that is admitted.
    pub(super) fn note_brought(&mut self, of: (u64, i64), value: u64, sender: Sender) {
        let set = self.days.entry(of).or_default();
        if !sender.is_nobody() {
            set.brought.add(sender);
            *self.quotas.totals.entry(sender.key()).or_default() += 1;
        }
        if !set.refused.is_empty() {
            self.quotas.note_admitted(of, value);
        }
    }

    /// Folds a value for all of an open day.
    pub(super) fn refuse(&mut self, of: (u64, i64), value: u64, limits: &GuardLimits) {
        let growth = self.days.entry(of).or_default().refused.growth();
        let bytes_max = (limits.entries_max as usize).saturating_mul(GUARDED_VALUE_BYTES / 2);
        let bytes_max = bytes_max.clamp(REFUSED_BYTES_MIN, REFUSED_BYTES_MAX);
        while self.quotas.filter_bytes + growth > bytes_max {
            let Some((key, day)) = self.first_to_close() else { break };
            self.close_for_good(key, day);
            if (key, day) == of {
                return;
            }
        }
        if self.days.entry(of).or_default().lacking.is_none() {
            self.lack(of.0, of.1, Lacking::default());
        }
        self.note_refused(of, value);
    }

    /// Of the days that refused something the oldest; of several the one that takes most.
    fn first_to_close(&self) -> Option<(u64, i64)> {
        let refused = self.days.iter().filter(|(_, set)| !set.refused.is_empty());
        let first = refused
            .min_by_key(|&(&(key, day), set)| (day, std::cmp::Reverse(set.refused.bytes()), key));
        first.map(|(&of, _)| of)
    }

    pub(super) fn note_refused(&mut self, of: (u64, i64), value: u64) {
        let set = self.days.entry(of).or_default();
        let is_first = !set.is_folded();
        if set.closed {
            return;
        }
        self.quotas.filter_bytes += set.refused.growth();
        let grows = set.refused.insert(value);
        if is_first {
            self.tell_readers(of.0, of.1);
        } else if grows {
            Arc::make_mut(&mut self.folded).refuse(of.0, of.1, set.refused.now());
        }
    }

    /// As a checkpoint says.
    pub(super) fn set_refused(&mut self, of: (u64, i64), refused: Refused) {
        let set = self.days.entry(of).or_default();
        self.quotas.filter_bytes = self.quotas.filter_bytes + refused.bytes() - set.refused.bytes();
        set.refused = refused;
        self.tell_readers(of.0, of.1);
    }

    /// As a checkpoint says.
    pub(super) fn set_brought(&mut self, of: (u64, i64), brought: Brought) {
        self.quotas.take(&brought);
        let set = self.days.entry(of).or_default();
        let before = std::mem::replace(&mut set.brought, brought);
        self.quotas.give_back(&before);
    }

    /// Tells readers what days admitted since that refused something: at each entry's end.
    pub(crate) fn publish(&mut self) {
        for ((key, day), values) in std::mem::take(&mut self.quotas.admitted) {
            Arc::make_mut(&mut self.folded).admit(key, day, values);
        }
    }

    /// Hashes of keys, each with how many of its values were folded for a quota, since the last
    /// call.
    pub(crate) fn take_over_quota(&mut self) -> BTreeMap<u64, u64> {
        std::mem::take(&mut self.quotas.over)
    }
}
