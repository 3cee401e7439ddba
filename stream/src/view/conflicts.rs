//! How often an id came again with other content, by the source of the key that sent it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Sources of a shard that are told by name; conflicts of those that come later are of
/// [`ConflictsBySource::OTHER`].
pub const SOURCES_TOLD_MAX: usize = 100;

/// Conflicts of every source but the default one, which has what is left of
/// [`super::Counters::conflicts`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictsBySource {
    by_name: BTreeMap<String, u64>,
}

impl ConflictsBySource {
    /// The sources that are not told by name; no source has this one.
    pub const OTHER: &str = "__other__";

    /// What the source of keys without one is called.
    pub const DEFAULT: &str = "default";

    /// Counts one.
    pub fn note(&mut self, source: &str) {
        if let Some(known) = self.by_name.get_mut(source) {
            *known += 1;
            return;
        }
        let is_full = self.by_name.len() >= SOURCES_TOLD_MAX;
        let name = if is_full { Self::OTHER } else { source };
        *self.by_name.entry(name.to_owned()).or_default() += 1;
    }

    /// By the names of all sources that had one, out of so many; the default source is told in
    /// any case.
    #[must_use]
    pub fn of_all<'a>(all: impl IntoIterator<Item = (&'a Self, u64)>) -> BTreeMap<String, u64> {
        let mut told = BTreeMap::from([(Self::DEFAULT.to_owned(), 0)]);
        for (conflicts, mut left) in all {
            for (name, &count) in &conflicts.by_name {
                *told.entry(name.clone()).or_default() += count;
                left = left.saturating_sub(count);
            }
            *told.entry(Self::DEFAULT.to_owned()).or_default() += left;
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_over_all_sources_is_exact_however_many_there_are() {
        let (mut one, mut two) = (ConflictsBySource::default(), ConflictsBySource::default());
        for number in 0..250 {
            one.note(&format!("s{}", number % 125));
            two.note("s7");
        }
        let told = ConflictsBySource::of_all([(&one, 260), (&two, 250)]);
        assert_eq!(told.len(), SOURCES_TOLD_MAX + 2);
        assert_eq!((told["default"], told["s7"], told["s99"]), (10, 252, 2));
        assert_eq!(told["__other__"], 2 * 25);
        assert_eq!(told.values().sum::<u64>(), 510);
    }

    #[test]
    fn conflicts_of_before_there_were_sources_are_the_default_ones() {
        let none = ConflictsBySource::default();
        let told = ConflictsBySource::of_all([(&none, 3)]);
        assert_eq!(told, BTreeMap::from([("default".to_owned(), 3)]));
    }
}
