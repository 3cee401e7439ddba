//! What readers have to know of the guard: whether a value's number is whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::super::dictionary::stable_hash_of;
use super::{Kept, combination_key};
use crate::cells::DimValue;
use crate::declare::{Plan, SetId};

/// The days on which a shard folded values or combinations into `__other__`, with those that it
/// admitted. What such a day admitted does not change any more: of the values with a cell of
/// their own nothing was folded, of others everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoldedDays {
    days: BTreeMap<(u64, i64), FoldedDay>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FoldedDay {
    /// Admitted values without a kept place, ascending.
    strangers: Arc<[u64]>,
    /// Values that are admitted whenever they come.
    kept: Kept,
}

/// The names under which the guard looks after the cells of one set.
#[derive(Clone, Debug)]
pub struct GuardKeys {
    dims: Vec<u64>,
    /// Of the finest set that the set is derived from, where that has several dimensions.
    combinations: Option<u64>,
    /// Whether the set is that finest one.
    is_finest: bool,
}

/// What a shard did with something on some days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It folded nothing of the kind.
    Open,
    /// It folded others.
    Whole,
    /// What came of it is in `__other__`.
    Folded,
}

impl GuardKeys {
    /// Of a set of the plan.
    #[must_use]
    pub fn of(plan: &Plan, set: SetId) -> Self {
        let definitions = |set: SetId| -> Vec<u64> {
            let dims = plan.set(set).dims.iter();
            dims.map(|dim| plan.dimensions[dim.index()].definition).collect()
        };
        let mut finest = set;
        while let Some(parent) = plan.set(finest).parent {
            finest = parent;
        }
        let of_finest = definitions(finest);
        let combinations = (of_finest.len() > 1).then(|| combination_key(&of_finest));
        Self { dims: definitions(set), combinations, is_finest: finest == set }
    }
}

impl FoldedDays {
    pub(super) fn close(&mut self, key: u64, day: i64, mut strangers: Vec<u64>, kept: Kept) {
        strangers.sort_unstable();
        self.days.insert((key, day), FoldedDay { strangers: strangers.into(), kept });
    }

    /// What became of a value of the set's dimension `place` on days `first..=last`.
    #[must_use]
    pub fn value(
        &self,
        keys: &GuardKeys,
        place: usize,
        (first, last): (i64, i64),
        value: Option<DimValue<'_>>,
    ) -> Admission {
        match value {
            // Never folded, or folded by what it is.
            Some(DimValue::Null | DimValue::Other) => Admission::Whole,
            Some(DimValue::Text(text)) => {
                self.ask(keys.dims[place], (first, last), Some(xxh3_64(text.as_bytes())))
            }
            None => self.ask(keys.dims[place], (first, last), None),
        }
    }

    /// What became of a combination on days `first..=last`, by the values that its dimensions
    /// have once each was folded or not; `None` for any.
    #[must_use]
    pub fn combination(
        &self,
        keys: &GuardKeys,
        days: (i64, i64),
        values: Option<&[DimValue<'_>]>,
    ) -> Admission {
        let Some(key) = keys.combinations else { return Admission::Open };
        let hash = values.filter(|_| keys.is_finest).map(|values| {
            let hashes: Vec<u64> = values.iter().map(|value| stable_hash_of(*value)).collect();
            combination_key(&hashes)
        });
        self.ask(key, days, hash)
    }

    pub(super) fn ask(&self, key: u64, (first, last): (i64, i64), hash: Option<u64>) -> Admission {
        let mut admission = Admission::Open;
        for (_, day) in self.days.range((key, first)..=(key, last)) {
            let admitted = hash.is_some_and(|hash| {
                day.kept.contains(&hash) || day.strangers.binary_search(&hash).is_ok()
            });
            if !admitted {
                return Admission::Folded;
            }
            admission = Admission::Whole;
        }
        admission
    }

    /// True where nothing was ever folded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.days.is_empty()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.days.values().map(|day| day.strangers.len() * 8 + 64).sum()
    }
}
