//! The cardinality guard: which values and combinations a shard admits on a UTC day.

mod changes;
mod folded;
mod quota;
mod refused;
mod sender;
#[cfg(test)]
mod tests;
mod watched;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use nilometer_event::{EventTime, Granularity};
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use changes::Change;
pub use changes::GuardDamaged;
pub use folded::{FoldedDays, FoldedOf, FoldedOn, text_hash};
pub use quota::GUARDED_VALUE_BYTES;
use quota::Quotas;
pub use sender::Sender;

use refused::Refused;
use sender::Brought;
use watched::Watched;

use super::schema::DIMS_MAX;
use crate::declare::{GuardLimits, Plan, SetId};

/// Values that counted on so many days before have places kept.
const RANKED_DAYS: i64 = 7;
/// Values that a key may have on a day however many entries others took: what is flooded with
/// values takes no place of a dimension that has few.
const OWN_VALUES: usize = 1_000;

/// Admits values first come, never withdraws one, and remembers both over checkpoints.
///
/// Beyond the limit of a day there are places ([`GuardLimits::kept_percent`] of it) for the values
/// that counted most on the seven days before, as of the last seal before the day's first value:
/// what comes first and is junk does not fold them away, and what keeps within the limit is never
/// folded. They are fixed for the day. Those that nobody came to are given up once the key has
/// begun two later days, or is past them. What was folded on the days before counts as well, as
/// far as it was watched ([`GuardLimits::watched_max`]): what comes up while a flood folds it has
/// a place on the next day, though the flood goes on.
///
/// A day that is full is closed: beside the values whose places are kept it admits nothing more.
/// What is new when a key brings it counts for that key's quota; over it the value is refused: it
/// is folded for the whole day, whoever brings it, and the day stays open for what others bring.
/// So each value is admitted from its first event of the day on or not at all, and a session's
/// −old always meets the cell of its +old.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// By key and UTC day: a key's days lie together.
    days: BTreeMap<(u64, i64), DaySet>,
    /// Values admitted, and places kept.
    entries: u64,
    changes: Vec<Change>,
    folded: Arc<FoldedDays>,
    quotas: Quotas,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct DaySet {
    /// Each with how often it counted, as of the last seal.
    admitted: HashMap<u64, u32, Passed>,
    kept: Kept,
    /// How many admitted values have no kept place.
    strangers: usize,
    closed: bool,
    /// Of a day that folded something the sets that lack it; `None` where a release closed it that
    /// did not note them.
    lacking: Option<Lacking>,
    /// What was folded most.
    watched: Watched,
    /// Whose strangers they are.
    brought: Brought,
    /// What is folded though the day is open.
    refused: Refused,
}

/// Whether a value that comes to a day has a cell of its own there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It came before.
    Known,
    /// It does from now on.
    New,
    Folded,
}

/// What becomes of a value that comes to a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is there already.
    Admitted,
    /// It comes to the place that is kept for it.
    Kept,
    /// It takes a place.
    New,
    /// It was folded before, or the day folds whatever is new.
    Folded,
    /// The day has places, and its sender none of them.
    OverQuota,
    NoPlace,
}

/// Keys of sets, as [`set_key`] gives them, ascending.
pub(super) type Lacking = Arc<[u64]>;

/// The values that have a place kept on a day.
type Kept = Arc<HashSet<u64, Passed>>;

impl DaySet {
    fn entries(&self) -> u64 {
        (self.strangers + self.kept.len()) as u64
    }

    /// Whether it folded anything.
    const fn is_folded(&self) -> bool {
        self.closed || !self.refused.is_empty()
    }

    /// Places that nobody came to.
    fn idle(&self) -> usize {
        self.kept.len() - (self.admitted.len() - self.strangers)
    }

    /// False where the value is not admitted.
    fn note(&mut self, value: u64, count: u32) -> bool {
        let Some(own) = self.admitted.get_mut(&value) else { return false };
        *own = own.saturating_add(count);
        true
    }

    /// Admits a value that is not admitted yet.
    fn insert(&mut self, value: u64) {
        self.admitted.insert(value, 0);
        self.strangers += usize::from(!self.kept.contains(&value));
    }
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

pub(super) const fn day_of(window: EventTime) -> i64 {
    window.ms().div_euclid(Granularity::Day.ms())
}

/// The guard's name for combinations of these dimensions.
pub(super) fn combination_key(definitions: &[u64]) -> u64 {
    let bytes = definitions.iter().flat_map(|part| part.to_le_bytes());
    xxh3_64(&bytes.collect::<SmallVec<[u8; 8 * DIMS_MAX]>>())
}

/// The guard's name for a set that is derived from combinations, in whatever order its dimensions
/// come.
fn set_key(definitions: &[u64]) -> u64 {
    let mut definitions = definitions.to_vec();
    definitions.sort_unstable();
    combination_key(&definitions)
}

/// The sets that lack what this one folds: itself, and where its rest is carried on those that are
/// derived from it.
pub(super) fn lacking(plan: &Plan, folding: SetId) -> Lacking {
    let lacks = |&set: &SetId| {
        let mut parents = std::iter::successors(Some(set), |set| plan.set(*set).parent);
        set == folding || (plan.guard.carries_rest() && parents.any(|parent| parent == folding))
    };
    let sets = (0..plan.sets.len()).filter_map(SetId::from_index).filter(lacks);
    let mut keys: Vec<u64> =
        sets.map(|set| set_key(&plan.definitions(&plan.set(set).dims))).collect();
    keys.sort_unstable();
    keys.into()
}

impl Guard {
    /// A guard that has admitted nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether `value`, which `sender` brings, has a cell of its own under `key` on that day, where
    /// at most `max` do.
    pub(super) fn admit(
        &mut self,
        (key, day): (u64, i64),
        value: u64,
        sender: Sender,
        max: u32,
        limits: &GuardLimits,
    ) -> bool {
        self.judge((key, day), value, sender, max, limits) != Verdict::Folded
    }

    /// As [`Self::admit`], and whether it is the first time.
    pub(super) fn judge(
        &mut self,
        (key, day): (u64, i64),
        value: u64,
        sender: Sender,
        max: u32,
        limits: &GuardLimits,
    ) -> Verdict {
        if !self.days.contains_key(&(key, day)) {
            self.begin_day(key, day, max, limits);
        }
        self.days.entry((key, day)).or_default();
        match self.fate(&self.days[&(key, day)], (key, day), value, sender, max, limits) {
            Fate::Admitted => return Verdict::Known,
            Fate::Folded => return Verdict::Folded,
            Fate::OverQuota => {
                self.refuse((key, day), value, limits);
                return Verdict::Folded;
            }
            Fate::NoPlace => {
                self.close_for_good(key, day);
                return Verdict::Folded;
            }
            Fate::Kept => {}
            Fate::New => {
                self.note_brought((key, day), value, sender);
                self.entries += 1;
            }
        }
        self.days.entry((key, day)).or_default().insert(value);
        self.changes.push(Change::Admitted { key, day, value });
        Verdict::New
    }

    /// Whether anything ever came under `key`.
    pub(super) fn knows(&self, key: u64) -> bool {
        self.days.range((key, i64::MIN)..=(key, i64::MAX)).next().is_some()
    }

    /// Whether `value` would be folded on that day, if `sender` brought it now.
    pub(super) fn folds(
        &self,
        (key, day): (u64, i64),
        value: u64,
        sender: Sender,
        max: u32,
        limits: &GuardLimits,
    ) -> bool {
        self.days.get(&(key, day)).is_some_and(|set| {
            let fate = self.fate(set, (key, day), value, sender, max, limits);
            matches!(fate, Fate::Folded | Fate::OverQuota | Fate::NoPlace)
        })
    }

    /// What becomes of `value` on the day `of` that is `set`, if `sender` brings it now.
    fn fate(
        &self,
        set: &DaySet,
        of: (u64, i64),
        value: u64,
        sender: Sender,
        max: u32,
        limits: &GuardLimits,
    ) -> Fate {
        if set.admitted.contains_key(&value) {
            Fate::Admitted
        } else if set.kept.contains(&value) {
            Fate::Kept
        } else if set.closed || set.refused.holds(value) {
            Fate::Folded
        } else if self.is_over_quota(of, sender, limits) {
            Fate::OverQuota
        } else if self.is_full(of, max, limits) {
            Fate::NoPlace
        } else {
            Fate::New
        }
    }

    /// Whether a day has no place for one more stranger.
    fn is_full(&self, of: (u64, i64), max: u32, limits: &GuardLimits) -> bool {
        let had = self.days.get(&of).map_or(0, |set| set.admitted.len());
        let own = if limits.kept_percent > 0 { OWN_VALUES } else { 0 };
        let others_took_all = self.entries >= u64::from(limits.entries_max) && had >= own;
        had >= max as usize || others_took_all
    }

    fn close_for_good(&mut self, key: u64, day: i64) {
        self.close(key, day);
        self.changes.push(Change::Closed { key, day });
        if self.days.get(&(key, day)).is_some_and(|set| set.lacking.is_none()) {
            self.lack(key, day, Lacking::default());
        }
    }

    /// Notes that a value of `sender`'s counted that is folded on that day.
    pub(super) fn watch(
        &mut self,
        (key, day): (u64, i64),
        value: u64,
        sender: Sender,
        limits: &GuardLimits,
    ) {
        let max = limits.watched_max as usize;
        let Some(set) = self.days.get_mut(&(key, day)).filter(|set| set.is_folded()) else {
            return;
        };
        if !set.closed {
            self.quotas.count(sender);
        }
        if max > 0 {
            set.watched.add(value, max);
        }
    }

    /// Keeps places for what counted most on the days before, and gives up those of older days.
    fn begin_day(&mut self, key: u64, day: i64, max: u32, limits: &GuardLimits) {
        for day in self.with_idle_places(key, day) {
            self.trim(key, day);
            self.changes.push(Change::Trimmed { key, day });
        }
        self.forget_watched(key, day);
        let percent = u64::from(limits.kept_percent.min(100));
        let places = usize::try_from(u64::from(max) * percent / 100).unwrap_or(usize::MAX);
        let values = self.ranked(key, day, places);
        let after = self.entries + values.len() as u64;
        if values.is_empty() || after > u64::from(limits.entries_max) {
            return;
        }
        self.keep(key, day, &values);
        self.changes.push(Change::Kept { key, day, values });
    }

    /// The values that counted most on the days before `day`, at most `places`, ascending.
    fn ranked(&self, key: u64, day: i64, places: usize) -> Vec<u64> {
        if places == 0 {
            return Vec::new();
        }
        let mut counts: HashMap<u64, u64, Passed> = HashMap::default();
        let before = self.days.range((key, day.saturating_sub(RANKED_DAYS))..(key, day));
        let before = before.map(|(_, set)| set);
        for (&value, &count) in before
            .flat_map(|set| set.admitted.iter().chain(set.watched.counts()))
            .filter(|(_, count)| **count > 0)
        {
            *counts.entry(value).or_default() += u64::from(count);
        }
        let mut ranked: Vec<(u64, u64)> = counts.into_iter().collect();
        if places < ranked.len() {
            let order = |&(value, count): &(u64, u64)| (std::cmp::Reverse(count), value);
            ranked.select_nth_unstable_by_key(places, order);
            ranked.truncate(places);
        }
        let mut values: Vec<u64> = ranked.into_iter().map(|(value, _)| value).collect();
        values.sort_unstable();
        values
    }

    /// The days of a key with places that nobody came to, but for `begun` and its newest, and the
    /// day before each.
    fn with_idle_places(&self, key: u64, begun: i64) -> Vec<i64> {
        let own = self.days.range((key, i64::MIN)..=(key, i64::MAX));
        let newest = own.clone().next_back().map_or(begun, |((_, day), _)| begun.max(*day));
        let is_past =
            |day: i64| ![begun, newest].iter().any(|last| (last - 1..=*last).contains(&day));
        let idle = own.filter(|((_, day), set)| is_past(*day) && set.idle() > 0);
        idle.map(|((_, day), _)| *day).collect()
    }

    /// What was folded on days that no new day looks back to any more.
    fn forget_watched(&mut self, key: u64, begun: i64) {
        let newest = self.days.range((key, i64::MIN)..=(key, i64::MAX)).next_back();
        let newest = newest.map_or(begun, |((_, day), _)| begun.max(*day));
        let past = (key, i64::MIN)..(key, newest.saturating_sub(RANKED_DAYS));
        for (&(key, day), set) in self.days.range_mut(past) {
            if !set.watched.counts().is_empty() {
                set.watched = Watched::default();
                self.changes.push(Change::Watched { key, day, counts: Vec::new() });
            }
        }
    }

    /// Gives up the places of a day that nobody came to.
    fn trim(&mut self, key: u64, day: i64) {
        let set = self.days.entry((key, day)).or_default();
        self.entries -= set.idle() as u64;
        let came = set.kept.iter().filter(|value| set.admitted.contains_key(value));
        set.kept = Arc::new(came.copied().collect());
        if set.is_folded() {
            self.tell_readers(key, day);
        }
    }

    fn keep(&mut self, key: u64, day: i64, values: &[u64]) {
        let set = self.days.entry((key, day)).or_default();
        self.entries += values.len() as u64;
        set.kept = Arc::new(values.iter().copied().collect());
    }

    fn close(&mut self, key: u64, day: i64) {
        let set = self.days.entry((key, day)).or_default();
        set.closed = true;
        self.quotas.filter_bytes -= std::mem::take(&mut set.refused).bytes();
        self.tell_readers(key, day);
    }

    /// Tells readers what a day that folded something admitted.
    fn tell_readers(&mut self, key: u64, day: i64) {
        let set = self.days.entry((key, day)).or_default();
        let strangers = set.admitted.keys().filter(|value| !set.kept.contains(value)).copied();
        let (kept, lacking) = (Arc::clone(&set.kept), set.lacking.clone());
        let refused = (!set.closed).then(|| set.refused.now().clone());
        self.quotas.admitted.remove(&(key, day));
        let told = (strangers.collect(), refused);
        Arc::make_mut(&mut self.folded).fold(key, day, told, (kept, lacking));
    }

    /// Notes which sets lack what is folded under `key` on a day on which this release folded.
    pub(super) fn note_lacking(&mut self, key: u64, day: i64, sets: &Lacking) {
        let own = self.days.get(&(key, day)).and_then(|set| set.lacking.as_ref());
        let Some(own) = own.filter(|own| !sets.iter().all(|set| own.contains(set))) else { return };
        let all: BTreeSet<u64> = own.iter().chain(&**sets).copied().collect();
        self.lack(key, day, all.into_iter().collect());
    }

    fn lack(&mut self, key: u64, day: i64, sets: Lacking) {
        self.set_lacking(key, day, &sets);
        self.changes.push(Change::Lacking { key, day, sets: sets.to_vec() });
    }

    fn set_lacking(&mut self, key: u64, day: i64, sets: &Lacking) {
        self.days.entry((key, day)).or_default().lacking = Some(Arc::clone(sets));
        Arc::make_mut(&mut self.folded).note_lacking(key, day, sets);
    }

    /// Notes how often admitted values counted in the layer that is sealed, by ascending value.
    pub(super) fn count(&mut self, key: u64, day: i64, mut counts: Vec<(u64, u32)>) {
        let Some(set) = self.days.get_mut(&(key, day)) else { return };
        counts.retain(|&(value, count)| set.note(value, count));
        if !counts.is_empty() {
            self.changes.push(Change::Counted { key, day, counts });
        }
    }

    /// Forgets what days before `day` admitted, save those that folded anything: for days past
    /// the horizon, to bound memory. While more than half of all entries are taken, the oldest
    /// days that folded anything forget their values, too, and fold whatever still comes.
    pub fn forget_before(&mut self, day: EventTime, limits: &GuardLimits) {
        let before = day_of(day);
        let had = self.entries;
        self.drop_before(before);
        if self.entries < had {
            self.changes.push(Change::Forgot { before });
        }
        if limits.kept_percent == 0 || self.entries <= u64::from(limits.entries_max / 2) {
            return;
        }
        let full = self.days.iter().filter(|((_, day), set)| *day < before && set.entries() > 0);
        let mut oldest: Vec<(i64, u64)> = full.map(|(&(key, day), _)| (day, key)).collect();
        oldest.sort_unstable();
        for (day, key) in oldest {
            if self.entries <= u64::from(limits.entries_max / 2) {
                break;
            }
            self.empty(key, day);
            self.changes.push(Change::Emptied { key, day });
        }
    }

    fn drop_before(&mut self, before: i64) {
        let Self { days, quotas, .. } = self;
        let mut dropped = 0;
        days.retain(|&(_, day), set| {
            let kept = day >= before || set.is_folded();
            if !kept {
                dropped += set.entries();
                quotas.give_back(&set.brought);
            }
            kept
        });
        self.entries -= dropped;
    }

    fn empty(&mut self, key: u64, day: i64) {
        let set = self.days.entry((key, day)).or_default();
        self.entries -= set.entries();
        self.quotas.give_back(&set.brought);
        self.quotas.filter_bytes -= set.refused.bytes();
        *set = DaySet { lacking: set.lacking.take(), ..DaySet::default() };
        self.close(key, day);
    }

    /// The days that folded something, with what they admitted.
    #[must_use]
    pub const fn folded(&self) -> &Arc<FoldedDays> {
        &self.folded
    }

    /// Values and combinations remembered, and places kept.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// As many values as take the memory of all that it remembers, about.
    pub(crate) fn charged_entries(&self) -> u64 {
        self.entries + (self.quotas.filter_bytes / GUARDED_VALUE_BYTES) as u64
    }

    /// Bytes in memory, about.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let set = |set: &DaySet| {
            let lacking = set.lacking.as_ref().map_or(0, |lacking| lacking.len());
            set.admitted.capacity() * 17
                + set.kept.capacity() * 9
                + lacking * 8
                + set.watched.memory_bytes()
                + set.brought.memory_bytes()
                + set.refused.memory_bytes()
                + 240
        };
        self.days.values().map(set).sum::<usize>()
            + self.folded.memory_bytes()
            + self.quotas.memory_bytes()
            + self.changes.iter().map(Change::memory_bytes).sum::<usize>()
    }
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
