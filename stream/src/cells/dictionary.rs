//! One dimension's values as small numbers; never leaves its layer.

use hashbrown::HashTable;
use nilometer_event::EventTime;
use xxhash_rust::xxh3::xxh3_64;

use super::guard::{Guard, day_of};
use super::source::DimValue;
use crate::declare::GuardLimits;

/// The code of a value that is absent.
pub(super) const NULL: u32 = 0;
/// The code of what the guard folded.
pub(super) const OTHER: u32 = 1;
/// The code of the first text.
const FIRST: u32 = 2;

/// Days whose verdicts are remembered; older ones are asked again.
const DAYS_MAX: usize = 8;

const UNKNOWN: u8 = 0;
const ADMITTED: u8 = 1;
const FOLDED: u8 = 2;

/// Values of one dimension in the order of their first coming.
#[derive(Debug, Default)]
pub(super) struct Dictionary {
    /// The guard's name for the dimension.
    key: u64,
    texts: String,
    ends: Vec<u32>,
    hashes: Vec<u64>,
    index: HashTable<u32>,
    /// What the guard said of each value, for the days last seen.
    verdicts: Vec<(i64, Vec<u8>)>,
}

impl Dictionary {
    pub(super) fn new(key: u64) -> Self {
        Self { key, ..Self::default() }
    }

    /// The code that cells of `window` use for this value.
    pub(super) fn code(
        &mut self,
        guard: &mut Guard,
        limits: &GuardLimits,
        window: EventTime,
        value: Option<&str>,
    ) -> u32 {
        let Some(text) = value else { return NULL };
        let hash = xxh3_64(text.as_bytes());
        let day = day_of(window);
        if let Some(place) = self.find(hash, text) {
            let verdict = self.verdict(day, place);
            if *verdict == UNKNOWN {
                let key = self.key;
                let admitted = guard.admit(key, day, hash, limits.values_max, limits);
                *self.verdict(day, place) = if admitted { ADMITTED } else { FOLDED };
                return if admitted { place + FIRST } else { OTHER };
            }
            return if *verdict == ADMITTED { place + FIRST } else { OTHER };
        }
        if !guard.admit(self.key, day, hash, limits.values_max, limits) {
            return OTHER;
        }
        let Some(place) = self.insert(hash, text) else { return OTHER };
        *self.verdict(day, place) = ADMITTED;
        place + FIRST
    }

    /// The code of a text that some cell may hold.
    pub(super) fn lookup(&self, text: &str) -> Option<u32> {
        self.find(xxh3_64(text.as_bytes()), text).map(|place| place + FIRST)
    }

    pub(super) fn value(&self, code: u32) -> DimValue<'_> {
        match code {
            NULL => DimValue::Null,
            OTHER => DimValue::Other,
            text => DimValue::Text(self.text(text - FIRST)),
        }
    }

    /// A number that is the same in every layer for the same value.
    pub(super) fn stable_hash(&self, code: u32) -> u64 {
        match code.checked_sub(FIRST) {
            None => u64::from(code),
            Some(place) => self.hashes.get(place as usize).copied().unwrap_or_default(),
        }
    }

    /// One past the last code.
    pub(super) fn codes(&self) -> usize {
        self.ends.len() + FIRST as usize
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.texts.capacity()
            + self.ends.capacity() * 4
            + self.hashes.capacity() * 8
            + self.index.capacity() * 5
            + self.verdicts.iter().map(|(_, all)| all.capacity()).sum::<usize>()
    }

    fn text(&self, place: u32) -> &str {
        let place = place as usize;
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.texts[start as usize..self.ends[place] as usize]
    }

    fn find(&self, hash: u64, text: &str) -> Option<u32> {
        let same = |&place: &u32| self.hashes[place as usize] == hash && self.text(place) == text;
        self.index.find(hash, same).copied()
    }

    /// `None` past 4 GB of texts, which the memory cap seals long before.
    fn insert(&mut self, hash: u64, text: &str) -> Option<u32> {
        let place = u32::try_from(self.ends.len()).ok()?;
        let end = u32::try_from(self.texts.len() + text.len()).ok()?;
        self.texts.push_str(text);
        self.ends.push(end);
        self.hashes.push(hash);
        let hashes = &self.hashes;
        self.index.insert_unique(hash, place, |&place| hashes[place as usize]);
        Some(place)
    }

    fn verdict(&mut self, day: i64, place: u32) -> &mut u8 {
        let known = self.verdicts.iter().position(|(own, _)| *own == day);
        let at = known.unwrap_or_else(|| {
            if self.verdicts.len() == DAYS_MAX {
                self.verdicts.remove(0);
            }
            self.verdicts.push((day, Vec::new()));
            self.verdicts.len() - 1
        });
        let all = &mut self.verdicts[at].1;
        if all.len() <= place as usize {
            all.resize(place as usize + 1, UNKNOWN);
        }
        &mut all[place as usize]
    }
}
