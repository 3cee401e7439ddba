//! The cells of the minutes at hand by their codes: an array's place instead of a hash look-up.
//!
//! Most events of an entry fall in one or two minutes and a few thousand combinations. Hashed,
//! those lie scattered among the cells of all late events, and finding them cost three cache
//! misses a cube. An array for each minute is dense. It only remembers what a table said, so
//! forgetting costs time and never a result.

use super::schema::DIMS_MAX;
use super::table::Key;

const NONE: u32 = u32::MAX;
const MINUTE_MS: i64 = 60_000;

/// Codes of all dimensions together may take so many bits; wider sets are hashed.
const BITS_MAX: u32 = 15;
/// Places over all minutes of one set, about; 4 bytes each.
const PLACES: usize = 1 << 16;
/// Arrays of one set: at least the minutes that are live, at most an hour or two of late ones.
const MINUTES: std::ops::RangeInclusive<usize> = 4..=128;
/// A minute gives way to another after so many more misses than hits.
const VOTES_MAX: u32 = 64;
/// What a minute begins with: clearing an array costs more than a few look-ups, and most late
/// minutes are asked for once.
const VOTES_FIRST: u32 = 16;

/// What one set's table said, for some minutes.
#[derive(Clone, Debug, Default)]
pub(super) struct Shortcut {
    /// How the set's codes make a place.
    steps: [Step; DIMS_MAX],
    /// By the minute's number, modulo their count; empty before the first.
    minutes: Vec<Minute>,
    /// True once codes are too wide.
    is_off: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Step {
    /// Bits of a dimension's codes, and of those before it.
    width: u32,
    shift: u32,
}

#[derive(Clone, Debug)]
struct Minute {
    window: i64,
    votes: u32,
    cells: Vec<u32>,
}

impl Shortcut {
    /// The cell of these codes, where it is remembered.
    #[inline(always)]
    pub(super) fn find<const DIMS: usize>(
        &mut self,
        window: i64,
        codes: [u32; DIMS],
    ) -> Option<u32> {
        let (mut place, mut over) = (0, 0);
        for (step, code) in self.steps.iter().zip(codes) {
            over |= code >> step.width;
            place |= code << step.shift;
        }
        let index = self.index(window)?;
        let minute = &mut self.minutes[index];
        if minute.window != window || over != 0 {
            return None;
        }
        minute.votes += u32::from(minute.votes < VOTES_MAX);
        minute.cells.get(place as usize).copied().filter(|&cell| cell != NONE)
    }

    /// Remembers what the table said, if the key's minute is at hand or becomes so.
    pub(super) fn learn(&mut self, key: &Key, cell: u32) {
        if self.is_off || !self.make_room(key) {
            return;
        }
        let bits = self.bits();
        let Some(index) = self.index(key.window) else { return };
        let steps = self.steps.iter().zip(key.dims);
        let place = steps.fold(0, |place, (step, code)| place | code << step.shift);
        let minute = &mut self.minutes[index];
        if minute.window != key.window {
            if minute.votes > 0 {
                minute.votes -= 1;
                return;
            }
            minute.window = key.window;
            minute.votes = VOTES_FIRST;
            minute.cells.clear();
            minute.cells.resize(1 << bits, NONE);
        }
        minute.cells[place as usize] = cell;
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.minutes.iter().map(|minute| minute.cells.capacity() * 4 + size_of::<Minute>()).sum()
    }

    #[inline]
    fn index(&self, window: i64) -> Option<usize> {
        let mask = self.minutes.len().checked_sub(1)?;
        // Negative minutes wrap around as well as any.
        let [a, b, ..] = (window / MINUTE_MS).to_le_bytes();
        Some(usize::from(u16::from_le_bytes([a, b])) & mask)
    }

    fn bits(&self) -> u32 {
        self.steps.iter().map(|step| step.width).sum()
    }

    /// Makes the codes wide enough, which forgets everything; false where they become too wide.
    fn make_room(&mut self, key: &Key) -> bool {
        let fits = self.steps.iter().zip(key.dims).all(|(step, code)| code >> step.width == 0);
        if fits && !self.minutes.is_empty() {
            return true;
        }
        let mut shift = 0;
        for (step, code) in self.steps.iter_mut().zip(key.dims) {
            step.width = step.width.max(u32::BITS - code.leading_zeros());
            step.shift = shift;
            shift += step.width;
        }
        self.minutes = Vec::new();
        let bits = self.bits();
        self.is_off = bits > BITS_MAX;
        if !self.is_off {
            let count = (PLACES >> bits).clamp(*MINUTES.start(), *MINUTES.end());
            let unused = Minute { window: i64::MIN, votes: 0, cells: Vec::new() };
            self.minutes = vec![unused; count];
        } else {
            self.steps.iter_mut().for_each(|step| (step.width, step.shift) = (0, 0));
        }
        !self.is_off
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is asked and learnt, a found cell is the table's.
        #[test]
        fn a_shortcut_says_what_the_table_says_or_nothing(
            asked in prop::collection::vec((-3_i64..300, 0_u32..40, 0_u32..9), 1..2_000),
            wide in prop::option::of(0_u32..1 << 20),
        ) {
            let mut shortcut = Shortcut::default();
            let mut table: HashMap<(i64, u32, u32), u32> = HashMap::new();
            let asked = asked.into_iter().chain(wide.map(|code| (0, code, 0)));
            for (minute, a, b) in asked {
                let key = Key { window: minute * MINUTE_MS, dims: [a, b, 0, 0] };
                let next = u32::try_from(table.len()).unwrap();
                let found = shortcut.find(key.window, key.dims);
                let cell = *table.entry((minute, a, b)).or_insert(next);
                prop_assert!(found.is_none_or(|found| found == cell), "{found:?}, not {cell}");
                shortcut.learn(&key, cell);
            }
            prop_assert!(shortcut.memory_bytes() <= 1 << 20);
        }
    }

    /// Asks as counting does; true where the table had to be asked.
    fn ask(shortcut: &mut Shortcut, key: &Key) -> bool {
        let missed = shortcut.find(key.window, key.dims).is_none();
        if missed {
            shortcut.learn(key, key.dims[0]);
        }
        missed
    }

    #[test]
    fn the_live_minute_is_remembered_through_late_events() {
        let mut shortcut = Shortcut::default();
        let key =
            |minute, code: u32| Key { window: minute * MINUTE_MS, dims: [code * 40, 7, 0, 0] };
        let learnt = (0..50).filter(|&code| ask(&mut shortcut, &key(1_000, code))).count();
        assert_eq!(learnt, 50, "nothing is known at first");
        let missed: Vec<u32> = (0..20_000)
            .filter(|&n| {
                ask(&mut shortcut, &key(i64::from(n % 90), n % 50));
                ask(&mut shortcut, &key(1_000, n % 50))
            })
            .collect();
        assert!(missed.len() < 100, "{} of 20,000 live events were hashed", missed.len());
    }
}
