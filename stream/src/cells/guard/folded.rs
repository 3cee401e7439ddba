//! What readers have to know of the guard: whether a value's number is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::super::dictionary::stable_hash_of;
use super::refused::RefusedNow;
use super::{Kept, Lacking, combination_key, set_key};
use crate::cells::DimValue;
use crate::declare::{Plan, SetId};

/// The days on which a shard folded values or combinations into `__other__`, with those that it
/// admitted: of the values with a cell of their own nothing was folded, and of others everything,
/// or where the day is open, of those that it refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoldedDays {
    days: BTreeMap<(u64, i64), FoldedDay>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FoldedDay {
    /// Admitted values without a kept place.
    strangers: Runs,
    /// Values that are admitted whenever they come.
    kept: Kept,
    /// What it folds while it is open; `None` once it folds whatever it does not admit.
    refused: Option<RefusedNow>,
    /// The sets that lack what was folded, where it was combinations; `None` where a release closed
    /// the day that did not note it.
    lacking: Option<Lacking>,
}

/// Values in ascending runs, each more than twice as long as the next: a few are added without a
/// copy of all, and readers share what they have.
#[derive(Clone, Debug, Default)]
struct Runs(Vec<Arc<[u64]>>);

impl Runs {
    fn holds(&self, value: u64) -> bool {
        self.0.iter().any(|run| run.binary_search(&value).is_ok())
    }

    fn add(&mut self, mut values: Vec<u64>) {
        while let Some(last) = self.0.pop_if(|last| last.len() <= 2 * values.len()) {
            values.extend_from_slice(&last);
        }
        values.sort_unstable();
        if !values.is_empty() {
            self.0.push(values.into());
        }
    }

    fn len(&self) -> usize {
        self.0.iter().map(|run| run.len()).sum()
    }
}

/// In whichever runs they are.
impl PartialEq for Runs {
    fn eq(&self, other: &Self) -> bool {
        let all = |runs: &Self| -> BTreeSet<u64> {
            runs.0.iter().flat_map(|run| run.iter().copied()).collect()
        };
        self.len() == other.len() && all(self) == all(other)
    }
}

impl Eq for Runs {}

impl FoldedDay {
    /// Whether it folded a value; of one in some ten thousand that it did not see it says so, too.
    pub(super) fn folds(&self, hash: u64) -> bool {
        let is_refused = self.refused.as_ref().is_none_or(|refused| refused.holds(hash));
        is_refused && !self.kept.contains(&hash) && !self.strangers.holds(hash)
    }
}

impl FoldedDays {
    pub(super) fn fold(
        &mut self,
        key: u64,
        day: i64,
        (strangers, refused): (Vec<u64>, Option<RefusedNow>),
        (kept, lacking): (Kept, Option<Lacking>),
    ) {
        let mut runs = Runs::default();
        runs.add(strangers);
        self.days.insert((key, day), FoldedDay { strangers: runs, kept, refused, lacking });
    }

    /// An open day refuses by these filters from now on.
    pub(super) fn refuse(&mut self, key: u64, day: i64, refused: &RefusedNow) {
        if let Some(own) = self.days.get_mut(&(key, day)) {
            own.refused = Some(refused.clone());
        }
    }

    /// A day that folded something admits these, too.
    pub(super) fn admit(&mut self, key: u64, day: i64, strangers: Vec<u64>) {
        if let Some(own) = self.days.get_mut(&(key, day)) {
            own.strangers.add(strangers);
        }
    }

    pub(super) fn note_lacking(&mut self, key: u64, day: i64, lacking: &Lacking) {
        if let Some(own) = self.days.get_mut(&(key, day)) {
            own.lacking = Some(Arc::clone(lacking));
        }
    }

    /// Those of some days that folded something under `key`.
    pub(super) fn on(
        &self,
        key: u64,
        (first, last): (i64, i64),
    ) -> impl Iterator<Item = &FoldedDay> {
        self.days.range((key, first)..=(key, last)).map(|(_, day)| day)
    }

    /// The days on which a set may lack combinations that are not its own.
    fn lacking(&self, keys: &Keys) -> impl Iterator<Item = i64> {
        let lacks = |key: u64, day: &FoldedDay| match &day.lacking {
            Some(lacking) => lacking.binary_search(&keys.set).is_ok(),
            // What an older plan folded, and under which name, nobody knows.
            None => keys.finer.contains(&key) || keys.plan.binary_search(&key).is_err(),
        };
        let days = self.days.iter().filter(|((key, _), _)| Some(*key) != keys.own);
        let lacking = days.filter(move |&(&(key, _), day)| lacks(key, day));
        lacking.map(|(&(_, day), _)| day)
    }

    /// True where nothing was ever folded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.days.is_empty()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let lacking = |day: &FoldedDay| day.lacking.as_ref().map_or(0, |lacking| lacking.len());
        self.days.values().map(|day| (day.strangers.len() + lacking(day)) * 8 + 80).sum()
    }
}

/// The names under which the guard looks after the cells of one set.
#[derive(Clone, Debug)]
struct Keys {
    /// Of the values of its dimensions.
    dims: Vec<u64>,
    /// Of its combinations as a finest set, where it has several dimensions.
    own: Option<u64>,
    /// Among the sets that lack something.
    set: u64,
    /// Of combinations of the sets that have its dimensions and more.
    finer: Vec<u64>,
    /// Everything that the plan has a name for, ascending.
    plan: Vec<u64>,
}

impl Keys {
    fn of(plan: &Plan, set: SetId) -> Self {
        let dims = &plan.set(set).dims;
        let definitions = plan.definitions(dims);
        let combinations = plan.sets.iter().filter(|other| other.dims.len() > 1);
        let combinations: Vec<(bool, u64)> = combinations
            .map(|other| {
                let is_finer =
                    other.dims != *dims && dims.iter().all(|dim| other.dims.contains(dim));
                (is_finer, combination_key(&plan.definitions(&other.dims)))
            })
            .collect();
        let finer = combinations.iter().filter(|(is_finer, _)| *is_finer).map(|(_, key)| *key);
        let values = plan.dimensions.iter().map(|dimension| dimension.definition);
        let tops = plan.event_slots.tops.iter().map(|slot| slot.definition);
        let all = combinations.iter().map(|(_, key)| *key).chain(values).chain(tops);
        let all: BTreeSet<u64> = all.collect();
        Self {
            own: (dims.len() > 1).then(|| combination_key(&definitions)),
            set: set_key(&definitions),
            finer: finer.collect(),
            plan: all.into_iter().collect(),
            dims: definitions,
        }
    }
}

/// What some shards folded, as far as it concerns the cells of one set.
#[derive(Debug)]
pub struct FoldedOf<'a> {
    shards: &'a [Arc<FoldedDays>],
    keys: Keys,
    /// The days on which combinations were folded that are not the set's own.
    lacking: BTreeSet<i64>,
}

impl<'a> FoldedOf<'a> {
    /// Of a set of the plan.
    #[must_use]
    pub fn new(plan: &Plan, set: SetId, shards: &'a [Arc<FoldedDays>]) -> Self {
        let keys = Keys::of(plan, set);
        let lacking = shards.iter().flat_map(|shard| shard.lacking(&keys)).collect();
        Self { shards, keys, lacking }
    }

    /// On days `first..=last`.
    #[must_use]
    pub fn on(&self, (first, last): (i64, i64)) -> FoldedOn<'a> {
        let shards = self.shards;
        let days = |key: u64| shards.iter().flat_map(move |shard| shard.on(key, (first, last)));
        FoldedOn {
            values: self.keys.dims.iter().map(|&key| days(key).collect()).collect(),
            own: self.keys.own.into_iter().flat_map(days).collect(),
            others: self.lacking.range(first..=last).next().is_some(),
        }
    }
}

/// What was folded of a set's values and combinations on some days.
#[derive(Debug)]
pub struct FoldedOn<'a> {
    /// By place in the set's dimensions.
    values: Vec<Vec<&'a FoldedDay>>,
    own: Vec<&'a FoldedDay>,
    /// Whether combinations were folded of which nobody knows what they are in this set.
    others: bool,
}

impl FoldedOn<'_> {
    /// Whether nothing was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.any_combination() && self.values.iter().all(Vec::is_empty)
    }

    /// Whether any value of the set's dimension `place` was.
    #[must_use]
    pub fn any_value(&self, place: usize) -> bool {
        !self.values[place].is_empty()
    }

    /// Whether the text was, by its hash.
    #[must_use]
    pub fn value(&self, place: usize, hash: u64) -> bool {
        self.values[place].iter().any(|day| day.folds(hash))
    }

    /// Whether any combination was.
    #[must_use]
    pub const fn any_combination(&self) -> bool {
        self.others || !self.own.is_empty()
    }

    /// Whether a combination may have been, by the values that its dimensions have once each was
    /// folded or not. What was folded is in the rest, which lacks nothing.
    #[must_use]
    pub fn combination(&self, values: &[DimValue<'_>]) -> bool {
        if values.iter().all(|value| *value == DimValue::Other) {
            return false;
        }
        if self.own.is_empty() {
            return self.others;
        }
        let hashes: Vec<u64> = values.iter().map(|value| stable_hash_of(*value)).collect();
        let hash = combination_key(&hashes);
        self.others || self.own.iter().any(|day| day.folds(hash))
    }
}

/// What the guard goes by in place of a text.
#[must_use]
pub fn text_hash(text: &str) -> u64 {
    xxh3_64(text.as_bytes())
}
