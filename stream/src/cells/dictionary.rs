//! One dimension's values as small numbers; never leaves its layer.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use super::guard::{Guard, Sender};
use super::short::ShortTexts;
use super::source::DimValue;
use crate::declare::GuardLimits;

/// The code of a value that is absent.
pub(super) const NULL: u32 = 0;
/// The code of what the guard folded.
pub(super) const OTHER: u32 = 1;
/// What is no code: the layer has not met the text.
pub(super) const MISSING: u32 = u32::MAX;
/// In keys of cells, of every dimension: what the guard folded of the combinations that their
/// values make. No dictionary has it.
pub(super) const REST: u32 = u32::MAX - 1;
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
    /// The same in every layer.
    hashes: Vec<u64>,
    short: ShortTexts,
    /// Of the texts that are not short.
    index: HashTable<u32>,
    /// For `index` alone.
    hasher: foldhash::fast::RandomState,
    /// What the guard said of each value, for the days last seen.
    verdicts: Vec<(i64, Vec<u8>)>,
}

impl Dictionary {
    pub(super) fn new(key: u64) -> Self {
        Self { key, ..Self::default() }
    }

    /// The guard's name for the dimension.
    pub(super) const fn key(&self) -> u64 {
        self.key
    }

    /// The code that cells of a day, as [`super::guard::day_of`] counts, use for this value of
    /// `sender`'s.
    pub(super) fn code(
        &mut self,
        guard: &mut Guard,
        limits: &GuardLimits,
        (day, sender): (i64, Sender),
        value: Option<&str>,
    ) -> u32 {
        let raw = self.raw(value);
        if raw != MISSING {
            return self.admitted(guard, limits, (day, || sender), raw);
        }
        let Some(text) = value else { return NULL };
        let hash = xxh3_64(text.as_bytes());
        if !guard.admit((self.key, day), hash, sender, limits.values_max, limits) {
            return OTHER;
        }
        let place = self.insert(hash, text);
        *self.verdict(day, place) = ADMITTED;
        place + FIRST
    }

    /// What is known of a value without asking the guard: [`NULL`], the code that it has where
    /// it is admitted, or [`MISSING`].
    #[inline]
    pub(super) fn raw(&self, value: Option<&str>) -> u32 {
        let Some(text) = value else { return NULL };
        self.find(text).map_or(MISSING, |place| place + FIRST)
    }

    /// The code that cells of `day` use for what [`Self::raw`] knew; who brings it is asked only
    /// where it is new to the day.
    #[inline(always)]
    pub(super) fn admitted(
        &mut self,
        guard: &mut Guard,
        limits: &GuardLimits,
        (day, sender): (i64, impl Fn() -> Sender),
        raw: u32,
    ) -> u32 {
        let Some(place) = raw.checked_sub(FIRST) else { return raw };
        match self.verdicts.last() {
            Some((own, all)) if *own == day && all.get(place as usize) == Some(&ADMITTED) => raw,
            _ => self.judged(guard, limits, (day, sender), place),
        }
    }

    /// Whether the guard is known to admit on that day what has a code.
    pub(super) fn is_admitted(&self, day: i64, code: u32) -> bool {
        let Some(place) = code.checked_sub(FIRST) else { return true };
        let all = self.verdicts.iter().rfind(|(own, _)| *own == day).map(|(_, all)| all);
        all.is_some_and(|all| all.get(place as usize) == Some(&ADMITTED))
    }

    #[inline(never)]
    fn judged(
        &mut self,
        guard: &mut Guard,
        limits: &GuardLimits,
        (day, sender): (i64, impl Fn() -> Sender),
        place: u32,
    ) -> u32 {
        if *self.verdict(day, place) == UNKNOWN {
            let hash = self.hashes[place as usize];
            let max = limits.values_max;
            let admitted = guard.admit((self.key, day), hash, sender(), max, limits);
            *self.verdict(day, place) = if admitted { ADMITTED } else { FOLDED };
        }
        if *self.verdict(day, place) == ADMITTED { place + FIRST } else { OTHER }
    }

    /// The code of a text that some cell may hold.
    pub(super) fn lookup(&self, text: &str) -> Option<u32> {
        self.find(text).map(|place| place + FIRST)
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
            Some(place) => self.hashes[place as usize],
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
            + self.short.memory_bytes()
            + self.index.capacity() * 5
            + self.verdicts.iter().map(|(_, all)| all.capacity()).sum::<usize>()
    }

    fn text(&self, place: u32) -> &str {
        &self.texts[span(&self.ends, place)]
    }

    fn bytes(&self, place: u32) -> &[u8] {
        &self.texts.as_bytes()[span(&self.ends, place)]
    }

    #[inline]
    fn find(&self, text: &str) -> Option<u32> {
        self.short.find(text.as_bytes()).unwrap_or_else(|| self.find_long(text))
    }

    fn find_long(&self, text: &str) -> Option<u32> {
        let same = |&place: &u32| self.bytes(place) == text.as_bytes();
        self.index.find(self.hasher.hash_one(text.as_bytes()), same).copied()
    }

    /// # Panics
    ///
    /// Past 4 GB of texts, which the memory cap seals long before.
    fn insert(&mut self, hash: u64, text: &str) -> u32 {
        let place = u32::try_from(self.ends.len()).expect("C4: values of a layer are below 2^32");
        let end = u32::try_from(self.texts.len() + text.len());
        let end = end.expect("C4: texts of a layer are below 4 GB");
        self.texts.push_str(text);
        self.ends.push(end);
        self.hashes.push(hash);
        if self.short.insert(text.as_bytes(), place) {
            return place;
        }
        let Self { index, hasher, texts, ends, .. } = self;
        let quick = |place: u32| hasher.hash_one(&texts.as_bytes()[span(ends, place)]);
        index.insert_unique(quick(place), place, |&place| quick(place));
        place
    }

    fn verdict(&mut self, day: i64, place: u32) -> &mut u8 {
        let known = self.verdicts.iter().rposition(|(own, _)| *own == day);
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

/// What readers see of a code in a cell's key: two cells may look alike.
pub(super) const fn shown(code: u32) -> u32 {
    if code == REST { OTHER } else { code }
}

/// What [`Dictionary::stable_hash`] gives for the code of a value.
pub(super) fn stable_hash_of(value: DimValue<'_>) -> u64 {
    match value {
        DimValue::Null => u64::from(NULL),
        DimValue::Other => u64::from(OTHER),
        DimValue::Text(text) => xxh3_64(text.as_bytes()),
    }
}

/// Where a text lies among all.
fn span(ends: &[u32], place: u32) -> std::ops::Range<usize> {
    let place = place as usize;
    let start = place.checked_sub(1).map_or(0, |before| ends[before]);
    start as usize..ends[place] as usize
}
