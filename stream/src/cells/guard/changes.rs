//! The guard over checkpoints: what changed since the last, and all of it as one change.

use serde::{Deserialize, Serialize};

use super::refused::Refused;
use super::sender::Brought;
use super::watched::Watched;
use super::{DaySet, Guard};

/// On disk in this order; new ones come last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Change {
    Admitted {
        key: u64,
        day: i64,
        value: u64,
    },
    Closed {
        key: u64,
        day: i64,
    },
    Forgot {
        before: i64,
    },
    /// Places are kept on a new day.
    Kept {
        key: u64,
        day: i64,
        values: Vec<u64>,
    },
    /// So often values counted in a layer.
    Counted {
        key: u64,
        day: i64,
        counts: Vec<(u64, u32)>,
    },
    /// A closed day forgot its values.
    Emptied {
        key: u64,
        day: i64,
    },
    /// A day gave up the places that nobody came to.
    Trimmed {
        key: u64,
        day: i64,
    },
    /// These sets, and no others, lack what a closed day folded.
    Lacking {
        key: u64,
        day: i64,
        sets: Vec<u64>,
    },
    /// So often folded values counted on a day, of those that did most.
    Watched {
        key: u64,
        day: i64,
        counts: Vec<(u64, u32)>,
    },
    /// These came over a key's quota.
    Refused {
        key: u64,
        day: i64,
        values: Vec<u64>,
    },
    /// All that came over a key's quota.
    RefusedAll {
        key: u64,
        day: i64,
        filters: Vec<(u32, Vec<u8>)>,
    },
    /// So many admitted values are those of each key.
    Brought {
        key: u64,
        day: i64,
        counts: Vec<(u64, u32)>,
    },
}

/// Guard bytes that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guard changes are corrupt: {0}; restore an older checkpoint")]
pub struct GuardDamaged(String);

impl Change {
    pub(super) const fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Kept { values, .. }
                | Self::Lacking { sets: values, .. }
                | Self::Refused { values, .. } => values.capacity() * 8,
                Self::Counted { counts, .. }
                | Self::Watched { counts, .. }
                | Self::Brought { counts, .. } => counts.capacity() * 16,
                _ => 0,
            }
    }
}

impl Guard {
    /// What changed since the last call, for a checkpoint; empty where nothing did.
    pub fn take_changes(&mut self) -> Vec<u8> {
        for (&(key, day), set) in &mut self.days {
            let counts = set.watched.take_change();
            self.changes.extend(counts.map(|counts| Change::Watched { key, day, counts }));
            let counts = set.brought.take_change();
            self.changes.extend(counts.map(|counts| Change::Brought { key, day, counts }));
            let values = set.refused.take_fresh();
            if !values.is_empty() {
                self.changes.push(Change::Refused { key, day, values });
            }
        }
        let changes = std::mem::take(&mut self.changes);
        if changes.is_empty() { Vec::new() } else { encode(&changes) }
    }

    /// The whole state as one change, to stand in place of all before it.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        self.snapshot_of(|_any| true)
    }

    /// What is known of some days, as one change.
    pub(crate) fn snapshot_of(&self, is_wanted: impl Fn(i64) -> bool) -> Vec<u8> {
        let days = self.days.iter().filter(|((_, day), _)| is_wanted(*day));
        let changes: Vec<Change> =
            days.flat_map(|(&(key, day), set)| set.as_changes(key, day)).collect();
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
                guard.apply(change)?;
            }
        }
        guard.publish();
        Ok(guard)
    }

    fn apply(&mut self, change: Change) -> Result<(), GuardDamaged> {
        match change {
            Change::Admitted { key, day, value } => {
                let set = self.days.entry((key, day)).or_default();
                let before = set.entries();
                if !set.admitted.contains_key(&value) {
                    set.insert(value);
                }
                self.entries += set.entries() - before;
                if set.is_folded() && !set.closed && !set.kept.contains(&value) {
                    self.quotas.note_admitted((key, day), value);
                }
            }
            Change::Closed { key, day } => self.close(key, day),
            Change::Forgot { before } => self.drop_before(before),
            Change::Kept { key, day, values } => self.keep(key, day, &values),
            Change::Counted { key, day, counts } => {
                let set = self.days.entry((key, day)).or_default();
                for (value, count) in counts {
                    set.note(value, count);
                }
            }
            Change::Emptied { key, day } => self.empty(key, day),
            Change::Trimmed { key, day } => self.trim(key, day),
            Change::Lacking { key, day, sets } => self.set_lacking(key, day, &sets.into()),
            Change::Watched { key, day, counts } => {
                self.days.entry((key, day)).or_default().watched = Watched::of(counts);
            }
            Change::Refused { key, day, values } => {
                values.into_iter().for_each(|value| self.note_refused((key, day), value));
                self.days.entry((key, day)).or_default().refused.take_fresh();
            }
            Change::RefusedAll { key, day, filters } => {
                let refused = Refused::decode(&filters)
                    .ok_or_else(|| GuardDamaged("a filter has no whole block".to_owned()))?;
                self.set_refused((key, day), refused);
            }
            Change::Brought { key, day, counts } => {
                self.set_brought((key, day), Brought::of(counts));
            }
        }
        Ok(())
    }
}

impl DaySet {
    fn as_changes(&self, key: u64, day: i64) -> Vec<Change> {
        let sorted = |values: &mut dyn Iterator<Item = u64>| {
            let mut values: Vec<u64> = values.collect();
            values.sort_unstable();
            values
        };
        let mut changes = Vec::new();
        if !self.kept.is_empty() {
            let values = sorted(&mut self.kept.iter().copied());
            changes.push(Change::Kept { key, day, values });
        }
        let admitted = sorted(&mut self.admitted.keys().copied());
        changes.extend(admitted.iter().map(|&value| Change::Admitted { key, day, value }));
        let counted = admitted.iter().filter_map(|value| {
            let count = *self.admitted.get(value)?;
            (count > 0).then_some((*value, count))
        });
        let counts: Vec<(u64, u32)> = counted.collect();
        if !counts.is_empty() {
            changes.push(Change::Counted { key, day, counts });
        }
        if !self.brought.is_empty() {
            let counts = self.brought.counts().collect();
            changes.push(Change::Brought { key, day, counts });
        }
        if !self.refused.is_empty() {
            let filters = self.refused.encode();
            changes.push(Change::RefusedAll { key, day, filters });
        }
        if self.closed {
            changes.push(Change::Closed { key, day });
        }
        if let Some(sets) = &self.lacking {
            changes.push(Change::Lacking { key, day, sets: sets.to_vec() });
        }
        if !self.watched.counts().is_empty() {
            changes.push(Change::Watched { key, day, counts: self.watched.sorted() });
        }
        changes
    }
}

fn encode(changes: &[Change]) -> Vec<u8> {
    // None at all would read as "nothing changed".
    postcard::to_stdvec(changes).expect("G1: changes of the guard are written to memory")
}
