//! How many records fit into memory: learnt from how the open layer grew.

use nilometer_event::Topic;

use crate::fold::EntryRecords;

/// Assumed of live events before the first entry.
const LIVE_BYTES_FIRST: u64 = 1 << 10;
/// Assumed of imports before the first: history lies in many windows, so that an event makes
/// cells in every set (measured with the demo's week: docs/operations.md, "Memory").
const IMPORT_BYTES_FIRST: u64 = 8 << 10;
/// So many records weigh as much as everything that was learnt before.
const RECORDS_FULL: u64 = 8_192;
/// Fewer records say nothing: a table that doubles is not theirs.
const RECORDS_MIN: u64 = 64;

/// What one record adds to the open layer, about: of live topics, and of imports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    live: u64,
    imports: u64,
}

/// Records of one entry, by what they cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) live: u64,
    pub(super) imports: u64,
}

impl Taken {
    pub(super) fn of(records: &EntryRecords) -> Self {
        let mut taken = Self::default();
        for (index, topic) in Topic::RECEIVED.into_iter().enumerate() {
            match topic {
                Topic::Imports => taken.imports += records.topic(index).len(),
                Topic::DeadLetters => {}
                _ => taken.live += records.topic(index).len(),
            }
        }
        taken
    }
}

impl Default for Growth {
    fn default() -> Self {
        Self { live: LIVE_BYTES_FIRST, imports: IMPORT_BYTES_FIRST }
    }
}

impl Growth {
    /// What one record of `topic` is expected to add.
    pub(super) const fn bytes_of(&self, topic: Topic) -> u64 {
        match topic {
            Topic::Imports => self.imports,
            // They count in no cell.
            Topic::DeadLetters => 0,
            _ => self.live,
        }
    }

    /// The layer has grown by `bytes` over an entry. Up at once, down by and by: an entry that
    /// is too small costs little, one that is too large is over the bound.
    pub(super) fn learn(&mut self, taken: Taken, bytes: u64) {
        let expected = taken.live.saturating_mul(self.live);
        if taken.imports >= RECORDS_MIN {
            let theirs = bytes.saturating_sub(expected);
            approach(&mut self.imports, theirs / taken.imports, taken.imports);
        } else if taken.live >= RECORDS_MIN {
            approach(&mut self.live, bytes / taken.live, taken.live);
        }
    }
}

fn approach(own: &mut u64, seen: u64, records: u64) {
    let weight = records.min(RECORDS_FULL);
    let fallen = (seen * weight + *own * (RECORDS_FULL - weight)) / RECORDS_FULL;
    *own = fallen.max(seen).max(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_record_adds_is_learnt_at_once_upwards_and_slowly_downwards() {
        let mut growth = Growth::default();
        growth.learn(Taken { live: 0, imports: 1_000 }, 20_000_000);
        assert_eq!(growth.bytes_of(Topic::Imports), 20_000);
        growth.learn(Taken { live: 0, imports: 1_024 }, 0);
        assert_eq!(growth.bytes_of(Topic::Imports), 17_500);
        // A few records beside a table that doubles say nothing.
        growth.learn(Taken { live: 10, imports: 0 }, 50_000_000);
        assert_eq!(growth.bytes_of(Topic::UserEvents), LIVE_BYTES_FIRST);
        for _ in 0..100 {
            growth.learn(Taken { live: 50_000, imports: 0 }, 0);
        }
        assert_eq!(growth.bytes_of(Topic::UserEvents), 1);
    }

    #[test]
    fn live_records_in_the_same_entry_are_not_taken_for_imports() {
        let mut growth = Growth::default();
        growth.learn(Taken { live: 10_000, imports: 100 }, 10_000 * LIVE_BYTES_FIRST + 500_000);
        assert_eq!(growth.bytes_of(Topic::UserEvents), LIVE_BYTES_FIRST);
        assert_eq!(growth.bytes_of(Topic::Imports), (5_000 * 100 + 8_192 * 8_092) / 8_192);
    }
}
