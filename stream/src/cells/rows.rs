//! What many cells hold, in flat arrays with a stride.

use super::pending::{NO_BUCKET, NONE, Pending, PendingSessions, Wide, WideSlot};
use super::tally::Tally;
use crate::aggregate::{Histogram, Shape, Sums, is_wide, lower};

/// Values of many cells, each slot kind in one array.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) counts: Vec<i64>,
    pub(super) sums: Sums,
    pub(super) mins: Vec<Option<i128>>,
    pub(super) maxs: Vec<Option<i128>>,
    pub(super) histograms: Vec<Histogram>,
    pub(super) tops: Vec<Tally>,
}

impl Rows {
    /// Makes room for `rows` rows, all of them nothing that were not there.
    pub(super) fn grow_to(&mut self, rows: usize, shape: Shape) {
        self.counts.resize(rows * shape.counts, 0);
        self.sums.grow_to(rows * shape.sums);
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
        self.sums.clear_first(rows * shape.sums);
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
        for slot in 0..shape.sums {
            self.sums.add(row * shape.sums + slot, duration_ms);
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
            self.sums.add(row * shape.sums + slot, added);
        }
        for (slot, column) in pending.columns.mins.iter().enumerate() {
            for &event in events {
                let seen = column[event as usize].map(i128::from);
                lower(&mut self.mins[row * shape.mins + slot], seen);
            }
        }
        for (slot, column) in pending.columns.maxs.iter().enumerate() {
            let own = &mut self.maxs[row * shape.maxs + slot];
            let seen = events.iter().filter_map(|&event| column[event as usize]).max();
            *own = (*own).max(seen.map(i128::from));
        }
        for (slot, column) in pending.columns.histograms.iter().enumerate() {
            let seen = events.iter().map(|&event| column[event as usize]);
            let seen = seen.filter(|&bucket| bucket != NO_BUCKET);
            self.histograms[row * shape.histograms + slot].add_all(seen);
        }
        if !pending.columns.wide.is_empty() {
            for &event in events {
                self.add_wide(row, shape, pending.columns.wide_of(event));
            }
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

    /// Adds an event's values past 64 bits.
    #[cold]
    fn add_wide(&mut self, row: usize, shape: Shape, values: &[Wide]) {
        for &Wide { of, value, .. } in values {
            match of {
                WideSlot::Sum(slot) => self.sums.add(row * shape.sums + slot, value),
                WideSlot::Min(slot) => {
                    lower(&mut self.mins[row * shape.mins + slot], Some(value));
                }
                WideSlot::Max(slot) => {
                    let own = &mut self.maxs[row * shape.maxs + slot];
                    *own = (*own).max(Some(value));
                }
            }
        }
    }

    /// Reads what adding to a row will read: a prefetch without `unsafe`.
    pub(super) fn warm(&self, row: usize, shape: Shape) {
        std::hint::black_box((
            self.counts.get(row * shape.counts).copied(),
            self.sums.low().get(row * shape.sums).copied(),
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
        self.sums.add_all(row * shape.sums, &other.sums, their_row * shape.sums, shape.sums);
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
            && self.sums.are_zero(row * shape.sums, shape.sums)
            && self.histograms[row * shape.histograms..][..shape.histograms]
                .iter()
                .all(Histogram::is_empty)
            && self.mins[row * shape.mins..][..shape.mins].iter().all(Option::is_none)
            && self.maxs[row * shape.maxs..][..shape.maxs].iter().all(Option::is_none)
            && self.tops[row * shape.tops..][..shape.tops].iter().all(Tally::is_empty)
    }

    /// True where something is past what the first version of files has a form for.
    pub(super) fn is_wide(&self) -> bool {
        !self.sums.carries().is_empty()
            || self.mins.iter().chain(&self.maxs).any(|&bound| is_wide(bound))
            || self.histograms.iter().any(Histogram::is_wide)
    }

    /// Bytes of one row whose lists and sketches are short.
    pub(super) const fn row_bytes(shape: Shape) -> usize {
        shape.counts * 8
            + shape.sums * 16
            + (shape.mins + shape.maxs) * 32
            + shape.histograms * size_of::<Histogram>()
            + shape.tops * (size_of::<Tally>() + Tally::BYTES_MIN)
    }

    /// Bytes with all that is reserved, which is in memory where the allocator had it before.
    pub(super) const fn held_bytes(&self) -> usize {
        self.counts.capacity() * 8
            + self.sums.held_bytes()
            + (self.mins.capacity() + self.maxs.capacity()) * 32
            + self.histograms.capacity() * size_of::<Histogram>()
            + self.tops.capacity() * size_of::<Tally>()
    }

    /// Bytes in use, without what is reserved beyond.
    pub(super) const fn memory_bytes(&self) -> usize {
        self.counts.len() * 8
            + self.sums.len() * 16
            + (self.mins.len() + self.maxs.len()) * 32
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
