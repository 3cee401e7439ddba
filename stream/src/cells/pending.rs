//! An entry's events before they are added: column by column, so that each cell is visited
//! once an entry with all that it gets.

use super::gauge::Gauge;
use super::users::Ordinals;
use crate::aggregate::Shape;

/// No user, no value.
pub(super) const NONE: u32 = u32::MAX;
/// No number.
pub(super) const NO_BUCKET: i16 = i16::MIN;

/// What the events of one entry add, in the order of their coming.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// For each cube the cell that each event touches.
    pub(super) cells: Vec<Vec<u32>>,
    /// Bit i: the event adds one to count i.
    pub(super) counts: Vec<u64>,
    pub(super) sums: Vec<Vec<i64>>,
    pub(super) mins: Vec<Vec<Option<i64>>>,
    pub(super) maxs: Vec<Vec<Option<i64>>>,
    /// Ordinals and their hashes.
    pub(super) distincts: Vec<Vec<(u32, u64)>>,
    pub(super) histograms: Vec<Vec<i16>>,
    pub(super) tops: Vec<Vec<u32>>,
}

fn columns<T: Clone>(slots: usize) -> Vec<Vec<T>> {
    vec![Vec::new(); slots]
}

impl Pending {
    pub(super) fn new(shape: Shape, cubes: usize) -> Self {
        Self {
            cells: columns(cubes),
            counts: Vec::new(),
            sums: columns(shape.sums),
            mins: columns(shape.mins),
            maxs: columns(shape.maxs),
            distincts: columns(shape.distincts),
            histograms: columns(shape.histograms),
            tops: columns(shape.tops),
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Takes what one event adds; its cells are pushed beside.
    pub(super) fn push(&mut self, gauge: &Gauge, ordinals: &Ordinals) {
        let mask = gauge
            .counts
            .iter()
            .enumerate()
            .fold(0, |mask, (slot, &count)| mask | count.cast_unsigned() << slot);
        self.counts.push(mask);
        for (column, &value) in self.sums.iter_mut().zip(&gauge.sums) {
            column.push(value);
        }
        for (column, &value) in self.mins.iter_mut().zip(&gauge.mins) {
            column.push(value);
        }
        for (column, &value) in self.maxs.iter_mut().zip(&gauge.maxs) {
            column.push(value);
        }
        for (column, &ordinal) in self.distincts.iter_mut().zip(&gauge.distincts) {
            column.push(ordinal.map_or((NONE, 0), |one| (one, ordinals.hash(one))));
        }
        for (column, &value) in self.histograms.iter_mut().zip(&gauge.histograms) {
            column.push(value.map_or(NO_BUCKET, |(bucket, _)| bucket));
        }
        for (column, &value) in self.tops.iter_mut().zip(&gauge.tops) {
            column.push(value.unwrap_or(NONE));
        }
    }

    pub(super) fn clear(&mut self) {
        self.cells.iter_mut().for_each(Vec::clear);
        self.counts.clear();
        self.sums.iter_mut().for_each(Vec::clear);
        self.mins.iter_mut().for_each(Vec::clear);
        self.maxs.iter_mut().for_each(Vec::clear);
        self.distincts.iter_mut().for_each(Vec::clear);
        self.histograms.iter_mut().for_each(Vec::clear);
        self.tops.iter_mut().for_each(Vec::clear);
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let columns = 4 * self.cells.len()
            + 8
            + 8 * self.sums.len()
            + 16 * (self.mins.len() + self.maxs.len() + self.distincts.len())
            + 2 * self.histograms.len()
            + 4 * self.tops.len();
        self.counts.capacity() * columns
    }
}
