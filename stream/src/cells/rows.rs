//! What many cells hold, in flat arrays with a stride.

use super::pending::{NO_BUCKET, NONE, Pending, PendingSessions};
use super::tally::Tally;
use crate::aggregate::{Histogram, Shape, lower};

/// Values of many cells, each slot kind in one array.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) counts: Vec<i64>,
    pub(super) sums: Vec<i128>,
    pub(super) mins: Vec<Option<i64>>,
    pub(super) maxs: Vec<Option<i64>>,
    pub(super) histograms: Vec<Histogram>,
    pub(super) tops: Vec<Tally>,
}

impl Rows {
    /// Makes room for `rows` rows, all of them nothing that were not there.
    pub(super) fn grow_to(&mut self, rows: usize, shape: Shape) {
        self.counts.resize(rows * shape.counts, 0);
        self.sums.resize(rows * shape.sums, 0);
        self.mins.resize(rows * shape.mins, None);
        self.maxs.resize(rows * shape.maxs, None);
        self.histograms.resize_with(rows * shape.histograms, Histogram::new);
        self.tops.resize_with(rows * shape.tops, Tally::default);
    }

    pub(super) fn reserve(&mut self, rows: usize, shape: Shape) {
        self.counts.reserve(rows * shape.counts);
        self.sums.reserve(rows * shape.sums);
        self.mins.reserve(rows * shape.mins);
        self.maxs.reserve(rows * shape.maxs);
        self.histograms.reserve(rows * shape.histograms);
        self.tops.reserve(rows * shape.tops);
    }

    /// Makes the first `rows` rows nothing; they stay, with the memory of their lists.
    pub(super) fn clear(&mut self, rows: usize, shape: Shape) {
        self.counts[..rows * shape.counts].fill(0);
        self.sums[..rows * shape.sums].fill(0);
        self.mins[..rows * shape.mins].fill(None);
        self.maxs[..rows * shape.maxs].fill(None);
        self.histograms[..rows * shape.histograms].iter_mut().for_each(Histogram::clear);
        self.tops[..rows * shape.tops].iter_mut().for_each(Tally::clear);
    }

    /// Adds a session: counts, sums and bucket counts alone can be taken back.
    #[inline]
    pub(super) fn add_session(
        &mut self,
        row: usize,
        shape: Shape,
        pending: &PendingSessions,
        at: usize,
    ) {
        add_counts(
            &mut self.counts[row * shape.counts..][..shape.counts],
            &pending.counts[at * shape.counts..][..shape.counts],
        );
        let duration_ms = i128::from(pending.durations_ms[at]);
        for own in &mut self.sums[row * shape.sums..][..shape.sums] {
            *own += duration_ms;
        }
        for own in &mut self.histograms[row * shape.histograms..][..shape.histograms] {
            if pending.comes[at] != NO_BUCKET {
                own.add(pending.comes[at], 1);
            }
            if pending.goes[at] != NO_BUCKET {
                own.add(pending.goes[at], -1);
            }
        }
    }

    /// Adds what these events of an entry add to one cell.
    pub(super) fn add_events(
        &mut self,
        row: usize,
        shape: Shape,
        pending: &Pending,
        events: &[u32],
    ) {
        let counts = &mut self.counts[row * shape.counts..][..shape.counts];
        for &event in events {
            let mut mask = pending.columns.counts[event as usize];
            while mask != 0 {
                counts[mask.trailing_zeros() as usize] += 1;
                mask &= mask - 1;
            }
        }
        for (slot, column) in pending.columns.sums.iter().enumerate() {
            let added: i128 = events.iter().map(|&one| i128::from(column[one as usize])).sum();
            self.sums[row * shape.sums + slot] += added;
        }
        for (slot, column) in pending.columns.mins.iter().enumerate() {
            for &event in events {
                lower(&mut self.mins[row * shape.mins + slot], column[event as usize]);
            }
        }
        for (slot, column) in pending.columns.maxs.iter().enumerate() {
            let own = &mut self.maxs[row * shape.maxs + slot];
            *own = events.iter().fold(*own, |own, &event| own.max(column[event as usize]));
        }
        for (slot, column) in pending.columns.histograms.iter().enumerate() {
            let seen = events.iter().map(|&event| column[event as usize]);
            let seen = seen.filter(|&bucket| bucket != NO_BUCKET);
            self.histograms[row * shape.histograms + slot].add_all(seen);
        }
        for (slot, column) in pending.tops.iter().enumerate() {
            let own = &mut self.tops[row * shape.tops + slot];
            for &event in events {
                let code = column[event as usize];
                if code != NONE {
                    own.add(code, 1);
                }
            }
        }
    }

    /// Reads what adding to a row will read: a prefetch without `unsafe`.
    pub(super) fn warm(&self, row: usize, shape: Shape) {
        std::hint::black_box((
            self.counts.get(row * shape.counts).copied(),
            self.sums.get(row * shape.sums).copied(),
            self.histograms.get(row * shape.histograms).map(Histogram::heap_bytes),
        ));
    }

    /// Adds row `their_row` of `other`; `heap` follows the bytes that histograms hold.
    pub(super) fn add_row(
        &mut self,
        row: usize,
        shape: Shape,
        other: &Self,
        their_row: usize,
        heap: &mut usize,
    ) {
        add_counts(
            &mut self.counts[row * shape.counts..][..shape.counts],
            &other.counts[their_row * shape.counts..][..shape.counts],
        );
        let theirs = &other.sums[their_row * shape.sums..];
        let sums = &mut self.sums[row * shape.sums..][..shape.sums];
        for (own, add) in sums.iter_mut().zip(theirs) {
            *own += add;
        }
        let theirs = &other.mins[their_row * shape.mins..];
        for (own, seen) in self.mins[row * shape.mins..][..shape.mins].iter_mut().zip(theirs) {
            lower(own, *seen);
        }
        let theirs = &other.maxs[their_row * shape.maxs..];
        for (own, seen) in self.maxs[row * shape.maxs..][..shape.maxs].iter_mut().zip(theirs) {
            *own = (*own).max(*seen);
        }
        for slot in 0..shape.histograms {
            let own = &mut self.histograms[row * shape.histograms + slot];
            let before = own.heap_bytes();
            own.merge(&other.histograms[their_row * shape.histograms + slot]);
            // An entry's own rows are counted from 0 each, and a histogram may shrink.
            *heap = (*heap + own.heap_bytes()).saturating_sub(before);
        }
        for slot in 0..shape.tops {
            let own = &mut self.tops[row * shape.tops + slot];
            let before = own.heap_bytes();
            own.merge(&other.tops[their_row * shape.tops + slot]);
            *heap = (*heap + own.heap_bytes()).saturating_sub(before);
        }
    }

    /// True where a row is nothing.
    pub(super) fn is_blank(&self, row: usize, shape: Shape) -> bool {
        self.counts[row * shape.counts..][..shape.counts].iter().all(|&count| count == 0)
            && self.sums[row * shape.sums..][..shape.sums].iter().all(|&sum| sum == 0)
            && self.histograms[row * shape.histograms..][..shape.histograms]
                .iter()
                .all(Histogram::is_empty)
            && self.mins[row * shape.mins..][..shape.mins].iter().all(Option::is_none)
            && self.maxs[row * shape.maxs..][..shape.maxs].iter().all(Option::is_none)
            && self.tops[row * shape.tops..][..shape.tops].iter().all(Tally::is_empty)
    }

    /// Bytes in use; what is reserved beyond is not in memory.
    pub(super) const fn memory_bytes(&self) -> usize {
        self.counts.len() * 8
            + (self.sums.len() + self.mins.len() + self.maxs.len()) * 16
            + self.histograms.len() * size_of::<Histogram>()
            + self.tops.len() * size_of::<Tally>()
    }
}

/// Adds four at a time: rows have about seven counts, too few for a loop of unknown length
/// (464 instructions an event became 430).
#[inline]
fn add_counts(own: &mut [i64], theirs: &[i64]) {
    let ((own, own_rest), (theirs, their_rest)) =
        (own.as_chunks_mut::<4>(), theirs.as_chunks::<4>());
    for (own, add) in own.iter_mut().zip(theirs) {
        *own = std::array::from_fn(|slot| own[slot] + add[slot]);
    }
    for (own, add) in own_rest.iter_mut().zip(their_rest) {
        *own += add;
    }
}
