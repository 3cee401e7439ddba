//! Who brings a day's new values, and how many of them each may.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

use crate::declare::GuardLimits;

/// Whose key sent an event, and how many new values of a dimension it may bring on a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    key: u64,
    values_max: u32,
}

impl Sender {
    /// The house itself, and records of releases that did not say: bounded by what all are.
    pub const NOBODY: Self = Self { key: 0, values_max: u32::MAX };

    /// The key of that id; where it or its quota is not known, [`Self::NOBODY`].
    #[must_use]
    pub fn of(key: &str, values_max: Option<u32>) -> Self {
        match values_max {
            Some(values_max) if !key.is_empty() => {
                Self { key: xxh3_64(key.as_bytes()), values_max }
            }
            _ => Self::NOBODY,
        }
    }

    /// The same where combinations of a cube are at stake, of which a key may bring more; by plans
    /// of the first releases whoever comes first may.
    pub(crate) fn of_combinations(self, limits: &GuardLimits) -> Self {
        match limits.combinations_per_value {
            0 => Self::NOBODY,
            times => Self { values_max: self.values_max.saturating_mul(times), ..self },
        }
    }

    /// Hash of the key's id.
    pub(crate) const fn key(self) -> u64 {
        self.key
    }

    pub(super) const fn values_max(self) -> u32 {
        self.values_max
    }

    pub(super) fn is_nobody(self) -> bool {
        self == Self::NOBODY
    }
}

/// How many values were new when each key brought them: each stands for one that is admitted, so
/// there are never more keys than values.
#[derive(Clone, Debug, Default)]
pub(super) struct Brought {
    by_key: BTreeMap<u64, u32>,
    /// Whether any changed since [`Brought::take_change`].
    changed: bool,
}

/// What is to be written is no part of what is known.
impl PartialEq for Brought {
    fn eq(&self, other: &Self) -> bool {
        self.by_key == other.by_key
    }
}

impl Eq for Brought {}

impl Brought {
    pub(super) fn of(counts: Vec<(u64, u32)>) -> Self {
        Self { by_key: counts.into_iter().collect(), changed: false }
    }

    pub(super) fn by(&self, sender: Sender) -> u32 {
        self.by_key.get(&sender.key).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, sender: Sender) {
        self.changed = true;
        *self.by_key.entry(sender.key).or_default() += 1;
    }

    /// Each key with its count, by ascending key.
    pub(super) fn counts(&self) -> impl Iterator<Item = (u64, u32)> {
        self.by_key.iter().map(|(&key, &count)| (key, count))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// All counts, where any changed since the last call.
    pub(super) fn take_change(&mut self) -> Option<Vec<(u64, u32)>> {
        std::mem::take(&mut self.changed).then(|| self.counts().collect())
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.by_key.len() * 20
    }
}
