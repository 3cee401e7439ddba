//! The values that a day folds for good though it is open: those that came over a key's quota.

use std::sync::Arc;

use crate::ids::filter::{Filter, ODD_BITS, SharedFilter};

/// Values that the first filter is made for; each further one is made for twice as many.
const FIRST_VALUES: u32 = 256;

/// A set that takes one in some ten thousand strangers for a member, never a member for a stranger.
#[derive(Debug, Default)]
pub(super) struct Refused {
    filters: RefusedNow,
    /// How many values each took; all but the last are full.
    counts: Vec<u32>,
    /// Values that came since [`Refused::take_fresh`].
    fresh: Vec<u64>,
}

/// The same for readers, with whatever comes later.
#[derive(Clone, Debug, Default)]
pub(super) struct RefusedNow(Vec<Arc<SharedFilter>>);

impl RefusedNow {
    pub(super) fn holds(&self, value: u64) -> bool {
        self.0.iter().any(|filter| filter.may_hold(value))
    }
}

impl PartialEq for RefusedNow {
    fn eq(&self, other: &Self) -> bool {
        self.0.iter().map(|filter| filter.now()).eq(other.0.iter().map(|filter| filter.now()))
    }
}

impl Eq for RefusedNow {}

/// What one copy takes the other does not.
impl Clone for Refused {
    fn clone(&self) -> Self {
        let copy = |filter: &Arc<SharedFilter>| Arc::new(filter.now().into());
        let filters = RefusedNow(self.filters.0.iter().map(copy).collect());
        Self { filters, counts: self.counts.clone(), fresh: self.fresh.clone() }
    }
}

/// What is to be written is no part of what is known.
impl PartialEq for Refused {
    fn eq(&self, other: &Self) -> bool {
        (&self.filters, &self.counts) == (&other.filters, &other.counts)
    }
}

impl Eq for Refused {}

impl Refused {
    pub(super) const fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    pub(super) fn holds(&self, value: u64) -> bool {
        self.filters.holds(value)
    }

    /// For readers: they see what comes later, but for what comes to further filters.
    pub(super) const fn now(&self) -> &RefusedNow {
        &self.filters
    }

    /// Bytes that one more value takes: none where there is room.
    pub(super) fn growth(&self) -> usize {
        match self.counts.last() {
            Some(&values) if values < values_of(self.counts.len() - 1) => 0,
            _ => filter_of(self.counts.len()).bytes(),
        }
    }

    /// Takes a value that it does not hold; true where a further filter took it.
    pub(super) fn insert(&mut self, value: u64) -> bool {
        let grows = self.growth() > 0;
        if grows {
            self.filters.0.push(Arc::new(filter_of(self.counts.len()).into()));
            self.counts.push(0);
        }
        if let (Some(values), Some(filter)) = (self.counts.last_mut(), self.filters.0.last()) {
            *values += 1;
            filter.insert(value);
        }
        self.fresh.push(value);
        grows
    }

    /// What came since the last call.
    pub(super) fn take_fresh(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.fresh)
    }

    /// Of the filters.
    pub(super) fn bytes(&self) -> usize {
        self.filters.0.iter().map(|filter| filter.bytes()).sum()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes() + self.fresh.capacity() * 8
    }

    /// As it is written whole.
    pub(super) fn encode(&self) -> Vec<(u32, Vec<u8>)> {
        let filters = self.filters.0.iter().map(|filter| filter.now().encode());
        self.counts.iter().copied().zip(filters).collect()
    }

    /// `None` for what is no [`Self::encode`].
    pub(super) fn decode(filters: &[(u32, Vec<u8>)]) -> Option<Self> {
        let filter = |(_, bytes): &(u32, Vec<u8>)| Some(Arc::new(Filter::decode(bytes)?.into()));
        let counts = filters.iter().map(|(values, _)| *values).collect();
        let filters = RefusedNow(filters.iter().map(filter).collect::<Option<_>>()?);
        Some(Self { filters, counts, fresh: Vec::new() })
    }
}

/// How many values the filter of that number is made for.
const fn values_of(number: usize) -> u32 {
    FIRST_VALUES << if number < 20 { number } else { 20 }
}

fn filter_of(number: usize) -> Filter {
    Filter::for_keys(u64::from(values_of(number)), ODD_BITS)
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;

    fn value(n: u32) -> u64 {
        xxh3_64(&n.to_le_bytes())
    }

    #[test]
    fn it_holds_what_came_and_hardly_a_stranger_at_every_size() {
        let mut refused = Refused::default();
        for n in 0..100_000 {
            if !refused.holds(value(n)) {
                let before = refused.bytes();
                let growth = refused.growth();
                refused.insert(value(n));
                assert_eq!(refused.bytes(), before + growth);
            }
        }
        assert!((0..100_000).all(|n| refused.holds(value(n))));
        let strangers = (100_000..200_000).filter(|&n| refused.holds(value(n))).count();
        assert!(strangers < 150, "{strangers} of 100,000");
        assert!(refused.bytes() < 100_000 * 8, "{}", refused.bytes());
        assert_eq!(Refused::decode(&refused.encode()), Some(refused));
        assert_eq!(Refused::decode(&[(1, vec![0; 31])]), None);
    }
}
