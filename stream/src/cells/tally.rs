//! Counts per code in one cell, sorted by code: what a top-k is cut from.

/// Codes with their counts, ascending, none of them zero.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    counts: Vec<(u32, i64)>,
}

impl Tally {
    /// Its heap with the first code.
    pub(super) const BYTES_MIN: usize = 4 * 16;

    pub(super) fn add(&mut self, code: u32, count: i64) {
        match self.counts.binary_search_by_key(&code, |&(own, _)| own) {
            Ok(place) => {
                self.counts[place].1 += count;
                if self.counts[place].1 == 0 {
                    self.counts.remove(place);
                }
            }
            Err(place) if count != 0 => self.counts.insert(place, (code, count)),
            Err(_) => {}
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        if self.counts.is_empty() {
            self.counts.extend_from_slice(&other.counts);
            return;
        }
        for &(code, count) in &other.counts {
            self.add(code, count);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, i64)> {
        self.counts.iter().copied()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.counts.clear();
    }

    pub(super) const fn heap_bytes(&self) -> usize {
        self.counts.capacity() * 16
    }
}
