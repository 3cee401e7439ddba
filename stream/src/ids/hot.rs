//! The hot ids: one table for all layers and buckets, 64-byte lines, about 12 bytes an id.
//!
//! A fingerprint is cut in three: the highest bits choose a shard, the next choose a line by
//! multiply-shift (so lines lie in the order of fingerprints), and the lowest 48 are kept. An id
//! lies in its home line, in the next one, or in the shard's small stash; a bit for each slot
//! tells which of the two lines is home, so that every fingerprint can be told back exactly and
//! a shard can grow. Shards start at different sizes, so that they grow one at a time: one
//! doubling of everything took 245–685 ms (bench/RESULTS.md, "The prototype").

use hashbrown::HashMap;

use super::tags::{FREE, Tag, Tags};

const SHARD_BITS: u32 = 6;
const SHARDS: usize = 1 << SHARD_BITS;
const SLOTS: usize = 7;
/// Fewer lines would leave more than 48 bits to tell apart within one.
const SHARD_LINES_MIN: usize = 1 << (64 - 48 - SHARD_BITS);
/// A shard grows at an average of so many ids a line: the stash then holds about 2 % of them.
const IDS_PER_LINE_MAX: usize = 6;
/// A shard grows by a sixth, so that it is at least 73 % full after its growth.
const GROWTH: (usize, usize) = (7, 6);
/// Bits of a fingerprint that place it within its shard.
const PLACE_BITS: u32 = 64 - SHARD_BITS;
const LOW_BITS_MASK: u64 = (1 << 48) - 1;
const PLACE_MASK: u64 = (1 << PLACE_BITS) - 1;
/// Set in `Line::marks` when an id whose home is the line lies beyond it.
const SPILLED: u8 = 1 << SLOTS;

/// Every hot id with its check byte and the tag of its (layer, bucket).
#[derive(Debug)]
pub(crate) struct HotIds {
    shards: Vec<Shard>,
    next_sweep: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    check: u8,
    tag: Tag,
}

/// Seven ids in one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line {
    low: [u32; SLOTS],
    middle: [u16; SLOTS],
    tag: [Tag; SLOTS],
    check: [u8; SLOTS],
    /// Bit i: slot i holds an id whose home is the line before. Highest bit: [`SPILLED`].
    marks: u8,
}

const EMPTY_LINE: Line =
    Line { low: [0; SLOTS], middle: [0; SLOTS], tag: [FREE; SLOTS], check: [0; SLOTS], marks: 0 };

#[derive(Debug)]
struct Shard {
    index: u64,
    /// Homes of the smallest size; the next is a sixth larger, and so on.
    homes_min: usize,
    /// One more than there are homes, for what spills from the last.
    lines: Vec<Line>,
    stash: HashMap<u64, Entry, foldhash::fast::FixedState>,
    /// Ids in lines and stash, those of dead tags included.
    held: usize,
}

impl HotIds {
    pub(crate) fn new() -> Self {
        let shards = (0..SHARDS)
            .map(|index| {
                Shard::new(index as u64, SHARD_LINES_MIN * (6 * SHARDS + index) / SHARDS / 6)
            })
            .collect();
        Self { shards, next_sweep: 0 }
    }

    /// The check byte of a fingerprint whose tag is alive.
    pub(crate) fn find(&self, fingerprint: u64, tags: &Tags) -> Option<u8> {
        self.shards[shard_of(fingerprint)].find(fingerprint, tags).map(|entry| entry.check)
    }

    /// The tag of a fingerprint, where it is alive.
    pub(crate) fn tag_of(&self, fingerprint: u64, tags: &Tags) -> Option<Tag> {
        self.shards[shard_of(fingerprint)].find(fingerprint, tags).map(|entry| entry.tag)
    }

    /// Reads the id's home line and does nothing with it.
    ///
    /// Called for a batch, the reads overlap, and the lines are in the cache when the ids are
    /// admitted one by one: a prefetch without `unsafe`.
    pub(crate) fn warm(&self, fingerprint: u64) {
        let shard = &self.shards[shard_of(fingerprint)];
        std::hint::black_box(shard.lines[home_of(fingerprint, shard.homes())].marks);
    }

    /// Adds an id that [`Self::find`] does not find.
    pub(crate) fn insert(&mut self, fingerprint: u64, check: u8, tag: Tag, tags: &Tags) {
        let shard = &mut self.shards[shard_of(fingerprint)];
        if shard.is_full() {
            shard.make_room(tags);
        }
        shard.insert(fingerprint, Entry { check, tag });
    }

    /// Drops the dead of a few shards, in turn; true when the round is complete.
    pub(crate) fn sweep(&mut self, shards: usize, tags: &Tags) -> bool {
        let end = (self.next_sweep + shards).min(SHARDS);
        for shard in &mut self.shards[self.next_sweep..end] {
            shard.sweep(tags);
        }
        self.next_sweep = end % SHARDS;
        end == SHARDS
    }

    /// Starts a round from the first shard.
    pub(crate) fn sweep_all(&mut self, tags: &Tags) {
        self.next_sweep = 0;
        self.sweep(SHARDS, tags);
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.shards.iter().map(Shard::memory_bytes).sum()
    }
}

impl Shard {
    fn new(index: u64, homes_min: usize) -> Self {
        let lines = vec![EMPTY_LINE; homes_min + 1];
        Self { index, homes_min, lines, stash: HashMap::default(), held: 0 }
    }

    const fn homes(&self) -> usize {
        self.lines.len() - 1
    }

    const fn is_full(&self) -> bool {
        self.held >= self.homes() * IDS_PER_LINE_MAX
    }

    fn find(&self, fingerprint: u64, tags: &Tags) -> Option<Entry> {
        let home = home_of(fingerprint, self.homes());
        let line = &self.lines[home];
        let alive = |entry: &Entry| tags.is_alive(entry.tag);
        if let Some(entry) = line.find(fingerprint, 0, tags) {
            return Some(entry);
        }
        if line.marks & SPILLED == 0 {
            return None;
        }
        let beyond = self.lines[home + 1].find(fingerprint, 1, tags);
        beyond.or_else(|| self.stash.get(&fingerprint).copied().filter(alive))
    }

    fn insert(&mut self, fingerprint: u64, entry: Entry) {
        let home = home_of(fingerprint, self.homes());
        self.held += 1;
        if self.lines[home].put(fingerprint, entry, 0) {
            return;
        }
        self.lines[home].marks |= SPILLED;
        if !self.lines[home + 1].put(fingerprint, entry, 1) {
            // A dead id of the same fingerprint may lie there: it gives way.
            self.held -= usize::from(self.stash.insert(fingerprint, entry).is_some());
        }
    }

    /// Drops the dead in place, which is cheap, and only if that gives little room grows.
    fn make_room(&mut self, tags: &Tags) {
        self.sweep(tags);
        if self.held + self.held / 20 >= self.homes() * IDS_PER_LINE_MAX {
            self.resize(tags);
        }
    }

    /// Drops the dead and takes the smallest size that leaves room for a twentieth more.
    fn resize(&mut self, tags: &Tags) {
        let mut alive = Vec::with_capacity(self.held);
        self.drain_alive(tags, &mut alive);
        let wanted = alive.len() + alive.len() / 20;
        let mut homes = self.homes_min;
        while homes * IDS_PER_LINE_MAX <= wanted {
            homes = homes * GROWTH.0 / GROWTH.1;
        }
        self.lines.clear();
        self.lines.resize(homes + 1, EMPTY_LINE);
        self.lines.shrink_to_fit();
        self.stash.clear();
        self.held = 0;
        for (fingerprint, entry) in alive {
            self.insert(fingerprint, entry);
        }
    }

    fn drain_alive(&self, tags: &Tags, alive: &mut Vec<(u64, Entry)>) {
        for (index, line) in self.lines.iter().enumerate() {
            for slot in 0..SLOTS {
                if tags.is_alive(line.tag[slot]) {
                    let entry = Entry { check: line.check[slot], tag: line.tag[slot] };
                    alive.push((self.fingerprint_at(index, slot), entry));
                }
            }
        }
        let stashed = self.stash.iter().filter(|(_, entry)| tags.is_alive(entry.tag));
        alive.extend(stashed.map(|(&fingerprint, &entry)| (fingerprint, entry)));
    }

    /// Frees the slots of dead ids in place, and brings the stash back into the lines.
    fn sweep(&mut self, tags: &Tags) {
        let mut held = 0;
        for line in &mut self.lines {
            for slot in 0..SLOTS {
                if !tags.is_alive(line.tag[slot]) {
                    line.tag[slot] = FREE;
                    line.marks &= !(1 << slot);
                }
                held += usize::from(line.tag[slot] != FREE);
            }
            line.marks &= !SPILLED;
        }
        for home in 0..self.homes() {
            if self.lines[home + 1].marks & !SPILLED != 0 {
                self.lines[home].marks |= SPILLED;
            }
        }
        self.held = held;
        for (fingerprint, entry) in std::mem::take(&mut self.stash) {
            if tags.is_alive(entry.tag) {
                self.insert(fingerprint, entry);
            }
        }
        // A shard that grew is fuller than this.
        if self.held * 3 < self.homes() * IDS_PER_LINE_MAX * 2 && self.homes() > self.homes_min {
            self.resize(tags);
        }
    }

    /// Puts the low 48 bits of a slot and the bits that its home implies together again.
    fn fingerprint_at(&self, index: usize, slot: usize) -> u64 {
        let line = &self.lines[index];
        let home = index - usize::from(line.marks >> slot & 1);
        let low = u64::from(line.middle[slot]) << 32 | u64::from(line.low[slot]);
        // The places of one home are a range of at most 2^48, so one of them has these bits.
        let first = first_of_home(home, self.homes());
        let candidate = (first & !LOW_BITS_MASK) | low;
        let place = if candidate < first { candidate + LOW_BITS_MASK + 1 } else { candidate };
        self.index << PLACE_BITS | place
    }

    fn memory_bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>() + self.stash.allocation_size()
    }
}

impl Line {
    fn find(&self, fingerprint: u64, displaced: u8, tags: &Tags) -> Option<Entry> {
        let (low, middle) = parts_of(fingerprint);
        let mut matches = 0_u32;
        for slot in 0..SLOTS {
            matches |= u32::from(self.low[slot] == low) << slot;
        }
        while matches != 0 {
            let slot = matches.trailing_zeros() as usize;
            matches &= matches - 1;
            if self.middle[slot] == middle
                && self.marks >> slot & 1 == displaced
                && tags.is_alive(self.tag[slot])
            {
                return Some(Entry { check: self.check[slot], tag: self.tag[slot] });
            }
        }
        None
    }

    /// False when the line has no room.
    fn put(&mut self, fingerprint: u64, entry: Entry, displaced: u8) -> bool {
        let Some(slot) = self.tag.iter().position(|&tag| tag == FREE) else {
            return false;
        };
        (self.low[slot], self.middle[slot]) = parts_of(fingerprint);
        (self.tag[slot], self.check[slot]) = (entry.tag, entry.check);
        self.marks |= displaced << slot;
        true
    }
}

fn shard_of(fingerprint: u64) -> usize {
    usize::try_from(fingerprint >> PLACE_BITS).expect("six bits")
}

fn home_of(fingerprint: u64, homes: usize) -> usize {
    let product = u128::from(fingerprint & PLACE_MASK) * homes as u128;
    usize::try_from(product >> PLACE_BITS).expect("below the number of homes")
}

/// The least place whose home it is.
fn first_of_home(home: usize, homes: usize) -> u64 {
    let first = ((home as u128) << PLACE_BITS).div_ceil(homes as u128);
    u64::try_from(first).expect("within the shard")
}

fn parts_of(fingerprint: u64) -> (u32, u16) {
    let [a, b, c, d, e, f, ..] = fingerprint.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap as Model;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert { fingerprint: u64, check: u8, tag: Tag },
        Kill(Tag),
        Sweep(usize),
        Resize(usize),
    }

    /// Clustered fingerprints, so that lines overflow, spill and fill the stash.
    fn fingerprint() -> impl Strategy<Value = u64> {
        prop_oneof![
            (0..3_u64, 0..40_u64).prop_map(|(high, low)| high << 57 | low << 20),
            (0..64_u64, 0..4_u64).prop_map(|(low, high)| high << 48 | low),
            Just(u64::MAX),
            any::<u64>(),
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            30 => (fingerprint(), any::<u8>(), 1..9_u16)
                .prop_map(|(fingerprint, check, tag)| Step::Insert { fingerprint, check, tag }),
            1 => (1..9_u16).prop_map(Step::Kill),
            1 => (1..SHARDS).prop_map(Step::Sweep),
            1 => (0..SHARDS).prop_map(Step::Resize),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn hot_ids_equal_a_hash_map(steps in prop::collection::vec(step(), 1..600)) {
            let (mut hot, mut tags) = (HotIds::new(), Tags::new());
            (1..9).for_each(|tag| tags.revive(tag));
            let mut model: Model<u64, (u8, Tag)> = Model::new();
            for step in steps {
                match step {
                    Step::Insert { fingerprint, check, tag } => {
                        let known = model.get(&fingerprint).map(|&(check, _)| check);
                        prop_assert_eq!(hot.find(fingerprint, &tags), known);
                        if known.is_none() && tags.is_alive(tag) {
                            hot.insert(fingerprint, check, tag, &tags);
                            model.insert(fingerprint, (check, tag));
                        }
                    }
                    Step::Kill(tag) => {
                        tags.kill(tag);
                        model.retain(|_, &mut (_, of)| of != tag);
                    }
                    Step::Sweep(shards) => { hot.sweep(shards, &tags); }
                    Step::Resize(shard) => hot.shards[shard].resize(&tags),
                }
            }
            for (&fingerprint, &(check, _)) in &model {
                prop_assert_eq!(hot.find(fingerprint, &tags), Some(check));
            }
        }
    }

    #[test]
    fn growing_keeps_every_id_and_costs_at_most_thirteen_bytes() {
        let (mut hot, mut tags) = (HotIds::new(), Tags::new());
        tags.revive(1);
        let key = |n: u64| xxhash_rust::xxh3::xxh3_64(&n.to_le_bytes());
        let ids = 1_500_000_u64;
        (0..ids).for_each(|n| hot.insert(key(n), 7, 1, &tags));
        assert!((0..ids).all(|n| hot.find(key(n), &tags) == Some(7)));
        assert!((ids..2 * ids).all(|n| hot.find(key(n), &tags).is_none()));
        let bytes = hot.memory_bytes() as u64 * 10 / ids;
        assert!(bytes <= 130, "{bytes} tenths of a byte an id");
        tags.kill(1);
        hot.sweep_all(&tags);
        assert!(hot.memory_bytes() < 8_000_000, "a swept table is small again");
    }
}
