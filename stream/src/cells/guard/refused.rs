//! The values that a day folds for good though it is open: those that came over a key's quota.

use crate::ids::filter::{Filter, ODD_BITS};

/// Values that the first filter is made for; each further one is made for twice as many.
const FIRST_VALUES: u32 = 256;

/// A set that takes one in some ten thousand strangers for a member, never a member for a stranger.
#[derive(Clone, Debug, Default)]
pub(super) struct Refused {
    /// Each with how many values it took; all but the last are full.
    filters: Vec<(u32, Filter)>,
    /// Values that came since [`Refused::take_fresh`].
    fresh: Vec<u64>,
}

/// What is to be written is no part of what is known.
impl PartialEq for Refused {
    fn eq(&self, other: &Self) -> bool {
        self.filters == other.filters
    }
}

impl Eq for Refused {}

impl Refused {
    pub(super) const fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    pub(super) fn holds(&self, value: u64) -> bool {
        self.filters.iter().any(|(_, filter)| filter.may_hold(value))
    }

    /// Bytes that one more value takes: none where there is room.
    pub(super) fn growth(&self) -> usize {
        let is_full = |(at, (values, _)): (usize, &(u32, Filter))| *values >= values_of(at);
        match self.filters.iter().enumerate().next_back() {
            Some(last) if !is_full(last) => 0,
            _ => filter_of(self.filters.len()).bytes(),
        }
    }

    /// Takes a value that it does not hold.
    pub(super) fn insert(&mut self, value: u64) {
        if self.growth() > 0 {
            self.filters.push((0, filter_of(self.filters.len())));
        }
        if let Some((values, filter)) = self.filters.last_mut() {
            *values += 1;
            filter.insert(value);
        }
        self.fresh.push(value);
    }

    /// What came since the last call.
    pub(super) fn take_fresh(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.fresh)
    }

    /// Of the filters.
    pub(super) fn bytes(&self) -> usize {
        self.filters.iter().map(|(_, filter)| filter.bytes()).sum()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes() + self.fresh.capacity() * 8
    }

    /// As it is written whole.
    pub(super) fn encode(&self) -> Vec<(u32, Vec<u8>)> {
        self.filters.iter().map(|(values, filter)| (*values, filter.encode())).collect()
    }

    /// `None` for what is no [`Self::encode`].
    pub(super) fn decode(filters: &[(u32, Vec<u8>)]) -> Option<Self> {
        let filter = |(values, bytes): &(u32, Vec<u8>)| Some((*values, Filter::decode(bytes)?));
        let filters = filters.iter().map(filter).collect::<Option<_>>()?;
        Some(Self { filters, fresh: Vec::new() })
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
