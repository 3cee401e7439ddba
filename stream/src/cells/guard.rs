//! The cardinality guard: which values and combinations a shard admits on a UTC day.

use std::collections::{BTreeMap, HashMap, HashSet};

use nilometer_event::{EventTime, Granularity};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::declare::{GuardLimits, Plan, SetKind};

/// Admits values first come, never withdraws one, and remembers both over checkpoints.
///
/// A day that folded anything is closed: it admits nothing more, so a session's −old always
/// meets the cell of its +old.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    days: HashMap<(u64, i64), DaySet>,
    entries: u64,
    changes: Vec<Change>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct DaySet {
    admitted: HashSet<u64, Passed>,
    closed: bool,
}

/// Values are hashed already.
#[derive(Clone, Copy, Debug, Default)]
struct Passed;

impl std::hash::BuildHasher for Passed {
    type Hasher = PassedHasher;

    fn build_hasher(&self) -> PassedHasher {
        PassedHasher(0)
    }
}

#[derive(Clone, Copy, Debug)]
struct PassedHasher(u64);

impl std::hash::Hasher for PassedHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Change {
    Admitted { key: u64, day: i64, value: u64 },
    Closed { key: u64, day: i64 },
    Forgot { before: i64 },
}

/// Guard bytes that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guard changes are corrupt: {0}; restore an older checkpoint")]
pub struct GuardDamaged(String);

/// A day on which some values of these dimensions are in `__other__`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Folded {
    /// Start of the UTC day of the window.
    pub day: EventTime,
    /// Names of the dimensions: one, or those of a cube whose combinations are too many.
    pub dimensions: Vec<String>,
}

pub(super) const fn day_of(window: EventTime) -> i64 {
    window.ms().div_euclid(Granularity::Day.ms())
}

/// The guard's name for combinations of these dimensions.
pub(super) fn combination_key(definitions: &[u64]) -> u64 {
    let bytes: Vec<u8> = definitions.iter().flat_map(|part| part.to_le_bytes()).collect();
    xxh3_64(&bytes)
}

impl Guard {
    /// A guard that has admitted nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether `value` has a cell of its own under `key` on that day, where at most `max` do.
    pub(super) fn admit(
        &mut self,
        key: u64,
        day: i64,
        value: u64,
        max: u32,
        limits: &GuardLimits,
    ) -> bool {
        let set = self.days.entry((key, day)).or_default();
        if set.admitted.contains(&value) {
            return true;
        }
        if set.closed {
            return false;
        }
        if set.admitted.len() >= max as usize || self.entries >= u64::from(limits.entries_max) {
            set.closed = true;
            self.changes.push(Change::Closed { key, day });
            return false;
        }
        set.admitted.insert(value);
        self.entries += 1;
        self.changes.push(Change::Admitted { key, day, value });
        true
    }

    /// Forgets what days before `day` admitted, save those that folded anything: for days past
    /// the horizon, to bound memory.
    pub fn forget_before(&mut self, day: EventTime) {
        let before = day_of(day);
        let had = self.entries;
        self.drop_before(before);
        if self.entries < had {
            self.changes.push(Change::Forgot { before });
        }
    }

    fn drop_before(&mut self, before: i64) {
        let mut dropped = 0;
        self.days.retain(|&(_, day), set| {
            let kept = day >= before || set.closed;
            dropped += if kept { 0 } else { set.admitted.len() as u64 };
            kept
        });
        self.entries -= dropped;
    }

    /// What changed since the last call, for a checkpoint; empty where nothing did.
    pub fn take_changes(&mut self) -> Vec<u8> {
        let changes = std::mem::take(&mut self.changes);
        if changes.is_empty() { Vec::new() } else { encode(&changes) }
    }

    /// The whole state as one change, to stand in place of all before it.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let days: BTreeMap<_, _> = self.days.iter().collect();
        let mut changes = Vec::new();
        for (&(key, day), set) in days {
            let mut values: Vec<u64> = set.admitted.iter().copied().collect();
            values.sort_unstable();
            changes.extend(values.into_iter().map(|value| Change::Admitted { key, day, value }));
            if set.closed {
                changes.push(Change::Closed { key, day });
            }
        }
        encode(&changes)
    }

    /// The guard that wrote these changes, oldest first: it decides exactly as it did.
    ///
    /// # Errors
    ///
    /// [`GuardDamaged`] where bytes cannot be read.
    pub fn restore<'a>(changes: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, GuardDamaged> {
        let mut guard = Self::default();
        for bytes in changes.into_iter().filter(|bytes| !bytes.is_empty()) {
            let changes: Vec<Change> =
                postcard::from_bytes(bytes).map_err(|error| GuardDamaged(error.to_string()))?;
            for change in changes {
                guard.apply(&change);
            }
        }
        Ok(guard)
    }

    fn apply(&mut self, change: &Change) {
        match *change {
            Change::Admitted { key, day, value } => {
                if self.days.entry((key, day)).or_default().admitted.insert(value) {
                    self.entries += 1;
                }
            }
            Change::Closed { key, day } => {
                self.days.entry((key, day)).or_default().closed = true;
            }
            Change::Forgot { before } => self.drop_before(before),
        }
    }

    /// The days and dimensions of this plan that are folded, ascending.
    #[must_use]
    pub fn folded(&self, plan: &Plan) -> Vec<Folded> {
        let mut names: HashMap<u64, Vec<String>> = HashMap::new();
        for dimension in &plan.dimensions {
            names.insert(dimension.definition, vec![dimension.name.clone()]);
        }
        for set in plan.sets.iter().filter(|set| set.kind == SetKind::Events) {
            let dims = set.dims.iter().map(|dim| &plan.dimensions[dim.index()]);
            let definitions: Vec<u64> = dims.clone().map(|one| one.definition).collect();
            names.insert(combination_key(&definitions), dims.map(|one| one.name.clone()).collect());
        }
        let closed = self.days.iter().filter(|(_, set)| set.closed);
        let mut folded: Vec<Folded> = closed
            .filter_map(|((key, day), _)| {
                let day = EventTime::from_ms(day.saturating_mul(Granularity::Day.ms()));
                names.get(key).map(|names| Folded { day, dimensions: names.clone() })
            })
            .collect();
        folded.sort_unstable();
        folded
    }

    /// Values and combinations remembered.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// Bytes in memory, about.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let sets: usize = self.days.values().map(|set| set.admitted.capacity() * 9 + 64).sum();
        sets + self.changes.capacity() * size_of::<Change>()
    }
}

fn encode(changes: &[Change]) -> Vec<u8> {
    // Writing to memory cannot fail; an empty change would read as "nothing changed".
    postcard::to_stdvec(changes).unwrap_or_default()
}

/// What counting needs of the shard beside the layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tallies {
    /// The cardinality guard.
    pub guard: Guard,
}

impl Tallies {
    /// For a new shard.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With a restored guard.
    #[must_use]
    pub const fn with_guard(guard: Guard) -> Self {
        Self { guard }
    }
}
