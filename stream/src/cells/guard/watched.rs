//! How often values counted that a day folded, of those that did most.

use std::collections::HashMap;

use super::Passed;

/// Counters of folded values: of so many that one value was more than its share of, it is known.
///
/// Source: Misra & Gries 1982. With `max` counters and `n` events, a value that counted more than
/// `n / (max + 1)` times has a counter, which is at most that much too low, and never too high.
#[derive(Clone, Debug, Default)]
pub(super) struct Watched {
    counts: HashMap<u64, u32, Passed>,
    /// Whether any counter changed since [`Watched::take_change`].
    changed: bool,
}

/// What is to be written is no part of what is known.
impl PartialEq for Watched {
    fn eq(&self, other: &Self) -> bool {
        self.counts == other.counts
    }
}

impl Eq for Watched {}

impl Watched {
    pub(super) fn of(counts: Vec<(u64, u32)>) -> Self {
        Self { counts: counts.into_iter().collect(), changed: false }
    }

    pub(super) fn add(&mut self, value: u64, max: usize) {
        self.changed = true;
        if let Some(own) = self.counts.get_mut(&value) {
            *own = own.saturating_add(1);
        } else if self.counts.len() < max {
            self.counts.insert(value, 1);
        } else {
            self.counts.retain(|_, count| {
                *count -= 1;
                *count > 0
            });
        }
    }

    /// Each value with its counter.
    pub(super) const fn counts(&self) -> &HashMap<u64, u32, Passed> {
        &self.counts
    }

    /// All counters, by ascending value.
    pub(super) fn sorted(&self) -> Vec<(u64, u32)> {
        let mut counts: Vec<_> =
            self.counts.iter().map(|(&value, &count)| (value, count)).collect();
        counts.sort_unstable();
        counts
    }

    /// All counters, where any changed since the last call.
    pub(super) fn take_change(&mut self) -> Option<Vec<(u64, u32)>> {
        std::mem::take(&mut self.changed).then(|| self.sorted())
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.counts.capacity() * 17
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_counter_is_never_too_high_and_too_low_by_its_share_at_most(
            values in prop::collection::vec(prop_oneof![0..4_u64, 0..60_u64], 0..400),
            max in 1..12_usize,
        ) {
            let mut watched = Watched::default();
            let mut exact: BTreeMap<u64, u32> = BTreeMap::new();
            for &value in &values {
                watched.add(value, max);
                *exact.entry(value).or_default() += 1;
            }
            let share = u32::try_from(values.len() / (max + 1)).unwrap();
            prop_assert!(watched.counts().len() <= max);
            for (value, count) in exact {
                let own = watched.counts().get(&value).copied().unwrap_or_default();
                prop_assert!(own <= count && count - own <= share, "{value}: {own} of {count}");
            }
            prop_assert_eq!(Watched::of(watched.sorted()), watched);
        }
    }
}
