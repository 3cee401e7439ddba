//! An entry's events before they are added: column by column, so that each cell is visited
//! once an entry with all that it gets.

use super::coded::CodedEvents;
use super::users::Ordinals;
use crate::aggregate::Shape;

/// No user, no value.
pub(super) const NONE: u32 = u32::MAX;
/// No number.
pub(super) const NO_BUCKET: i16 = i16::MIN;

/// What events add to each cell that they touch, but for users and values.
#[derive(Debug, Default)]
pub(super) struct Columns {
    /// Bit i: the event adds one to count i.
    pub(super) counts: Vec<u64>,
    pub(super) sums: Vec<Vec<i64>>,
    pub(super) mins: Vec<Vec<Option<i64>>>,
    pub(super) maxs: Vec<Vec<Option<i64>>>,
    pub(super) histograms: Vec<Vec<i16>>,
}

impl Columns {
    /// Empties them, and makes them of this shape; keeps their memory.
    pub(super) fn reset(&mut self, shape: Shape) {
        fn columns<T>(list: &mut Vec<Vec<T>>, slots: usize) {
            list.resize_with(slots, Vec::new);
            list.iter_mut().for_each(Vec::clear);
        }
        self.counts.clear();
        columns(&mut self.sums, shape.sums);
        columns(&mut self.mins, shape.mins);
        columns(&mut self.maxs, shape.maxs);
        columns(&mut self.histograms, shape.histograms);
    }

    fn push(&mut self, other: &Self, row: usize) {
        fn copy<T: Copy>(own: &mut [Vec<T>], theirs: &[Vec<T>], row: usize) {
            for (own, theirs) in own.iter_mut().zip(theirs) {
                own.push(theirs[row]);
            }
        }
        self.counts.push(other.counts[row]);
        copy(&mut self.sums, &other.sums, row);
        copy(&mut self.mins, &other.mins, row);
        copy(&mut self.maxs, &other.maxs, row);
        copy(&mut self.histograms, &other.histograms, row);
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let columns = 8
            + 8 * self.sums.len()
            + 16 * (self.mins.len() + self.maxs.len())
            + 2 * self.histograms.len();
        self.counts.capacity() * columns
    }
}

/// What the events of one entry add, in the order of their coming.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// For each cube the cell that each event touches.
    pub(super) cells: Vec<Vec<u32>>,
    pub(super) columns: Columns,
    /// Ordinals and their hashes.
    pub(super) distincts: Vec<Vec<(u32, u64)>>,
    pub(super) tops: Vec<Vec<u32>>,
}

impl Pending {
    pub(super) fn new(shape: Shape, cubes: usize) -> Self {
        let mut columns = Columns::default();
        columns.reset(shape);
        Self {
            cells: vec![Vec::new(); cubes],
            columns,
            distincts: vec![Vec::new(); shape.distincts],
            tops: vec![Vec::new(); shape.tops],
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.columns.counts.is_empty()
    }

    /// Takes what one event adds; its cells and its values of top-k slots are pushed beside.
    pub(super) fn push(&mut self, coded: &CodedEvents, row: usize, ordinals: &mut Ordinals) {
        self.columns.push(&coded.columns, row);
        for (column, hashes) in self.distincts.iter_mut().zip(&coded.distincts) {
            let ordinal = hashes[row].and_then(|x| ordinals.of(x));
            column.push(ordinal.map_or((NONE, 0), |one| (one, ordinals.hash(one))));
        }
    }

    /// Empties it for another entry; keeps its memory.
    pub(super) fn clear(&mut self, shape: Shape) {
        self.cells.iter_mut().for_each(Vec::clear);
        self.columns.reset(shape);
        self.distincts.iter_mut().for_each(Vec::clear);
        self.tops.iter_mut().for_each(Vec::clear);
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let beside = 4 * (self.cells.len() + self.tops.len()) + 16 * self.distincts.len();
        self.columns.memory_bytes() + self.columns.counts.capacity() * beside
    }
}
