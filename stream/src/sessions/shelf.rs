//! Where a session is filed: one or two shelves, so that whoever asks for any hour that it
//! touches finds it, however long it is.

use nilometer_event::EventTime;

use crate::ids::Hour;

/// Sixty-four-bit times have hours of 42 bits.
const LEVELS: u32 = 43;
const LEVEL_SHIFT: u32 = 48;
const INDEX_OFFSET: i64 = 1 << 47;

/// 2^level hours, aligned.
///
/// A session lies on the lowest level where at most two shelves cover it. A state that grew out
/// of another covers it, so it lies on the same shelves or on shelves around them: who finds the
/// older finds the newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Shelf {
    level: u32,
    index: i64,
}

impl Shelf {
    /// The shelves of a session from `first` to `last`; the second differs if there are two.
    pub(crate) fn of(first: EventTime, last: EventTime) -> (Self, Option<Self>) {
        let (first, last) = (Hour::of(first).number(), Hour::of(last).number());
        let fits = |&level: &u32| (last >> level) - (first >> level) <= 1;
        let level = (0..LEVELS).find(fits).unwrap_or(LEVELS);
        let (left, right) = (first >> level, last >> level);
        let right = (right != left).then_some(Self { level, index: right });
        (Self { level, index: left }, right)
    }

    /// The shelves of that level that the hours from `first` to `last` lie on.
    pub(crate) fn range(level: u32, first: Hour, last: Hour) -> impl Iterator<Item = Self> {
        let indices = first.number() >> level..=last.number() >> level;
        indices.map(move |index| Self { level, index })
    }

    pub(crate) const fn level(self) -> u32 {
        self.level
    }

    /// Its group in a run.
    pub(crate) fn group(self) -> i64 {
        (i64::from(self.level) << LEVEL_SHIFT) + INDEX_OFFSET + self.index
    }

    /// `None` for a number that no version of ours wrote.
    pub(crate) fn from_group(group: i64) -> Option<Self> {
        let level = u32::try_from(group >> LEVEL_SHIFT).ok().filter(|&level| level <= LEVELS)?;
        let index = group - (i64::from(level) << LEVEL_SHIFT) - INDEX_OFFSET;
        Some(Self { level, index })
    }

    /// What a run's filter knows of a user on this shelf.
    pub(crate) fn filter_key(self, user: u64) -> u64 {
        // User hashes are uniform; the multiplier (2^64 / golden ratio) spreads the shelves.
        user ^ self.group().cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// Its first and its last hour.
    pub(crate) const fn hours(self) -> (Hour, Hour) {
        let first = self.index << self.level;
        (Hour::from_number(first), Hour::from_number(first + (1 << self.level) - 1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn who_asks_for_an_hour_finds_the_session_and_every_state_that_grew_out_of_it(
            first in -9_000_000_000_i64..9_000_000_000,
            length in 0..400_000_000_i64,
            (before, after) in (0..400_000_000_i64, 0..400_000_000_i64),
            asked in 0.0..1.0_f64,
        ) {
            let at = EventTime::from_ms;
            let last = first + length;
            #[expect(clippy::cast_possible_truncation, reason = "a share of a length")]
            #[expect(clippy::cast_precision_loss, reason = "a share of a length")]
            let hour = Hour::of(at(first + (length as f64 * asked) as i64));
            let finds = |hour: Hour, (left, right): (Shelf, Option<Shelf>)| {
                Shelf::range(left.level(), hour, hour)
                    .any(|shelf| shelf == left || Some(shelf) == right)
            };
            prop_assert!(finds(hour, Shelf::of(at(first), at(last))));
            let (left, right) = Shelf::of(at(first), at(last));
            for shelf in [Some(left), right].into_iter().flatten() {
                prop_assert_eq!(Shelf::from_group(shelf.group()), Some(shelf));
                for hour in [shelf.hours().0, shelf.hours().1] {
                    prop_assert!(finds(hour, Shelf::of(at(first - before), at(last + after))));
                }
            }
        }
    }

    #[test]
    fn the_longest_session_there_can_be_has_a_shelf() {
        let (left, right) = Shelf::of(EventTime::MIN, EventTime::MAX);
        for shelf in [Some(left), right].into_iter().flatten() {
            assert_eq!(Shelf::from_group(shelf.group()), Some(shelf));
        }
    }
}
