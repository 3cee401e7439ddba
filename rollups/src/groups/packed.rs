//! Cells of layers, which come in no order of ours: packed into bytes, and sorted.

use std::ops::Range;

use nilometer_event::EventTime;
use nilometer_stream::aggregate::{AggregateDamaged, Aggregates, Shape};

/// Bytes after which cells that add up are first added up.
const ADD_UP_AT: usize = 4 << 20;
/// Question and window, after a cell's key.
const NAME_BYTES: usize = 2 + 8;

/// Some cells, sorted once all are in.
#[derive(Debug, Default)]
pub(super) struct Packed {
    /// Of the questions' aggregates.
    shapes: Vec<Shape>,
    /// Of each cell its key, question and window, aggregates.
    bytes: Vec<u8>,
    cells: Vec<PackedCell>,
    add_up_at: usize,
}

#[derive(Clone, Copy, Debug)]
struct PackedCell {
    at: usize,
    key: u32,
    aggregates: u32,
}

impl PackedCell {
    const fn key(&self) -> Range<usize> {
        self.at..self.at + self.key as usize
    }

    /// Key, question and window: equal for cells that add up.
    const fn name(&self) -> Range<usize> {
        self.at..self.at + self.key as usize + NAME_BYTES
    }

    const fn aggregates(&self) -> Range<usize> {
        let start = self.name().end;
        start..start + self.aggregates as usize
    }
}

impl Packed {
    pub(super) fn new(shapes: Vec<Shape>) -> Self {
        Self { shapes, add_up_at: ADD_UP_AT, ..Self::default() }
    }

    /// Adds a cell whose key `put_key` appends.
    pub(super) fn push(
        &mut self,
        ask: u16,
        window: EventTime,
        aggregates: &Aggregates,
        put_key: impl FnOnce(&mut Vec<u8>),
    ) {
        if self.bytes.len() >= self.add_up_at {
            self.sort();
            self.add_up_at = ADD_UP_AT.max(2 * self.bytes.len());
        }
        let at = self.bytes.len();
        put_key(&mut self.bytes);
        let key = self.bytes.len() - at;
        self.bytes.extend_from_slice(&ask.to_be_bytes());
        self.bytes.extend_from_slice(&window.ms().to_be_bytes());
        let from = self.bytes.len();
        aggregates.encode(&mut self.bytes);
        let length = |bytes: usize| u32::try_from(bytes).expect("a cell is far below 4 GiB");
        let (key, aggregates) = (length(key), length(self.bytes.len() - from));
        self.cells.push(PackedCell { at, key, aggregates });
    }

    /// Bytes in memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + self.cells.capacity() * size_of::<PackedCell>()
    }

    /// Sorts by key, and adds up what has one name.
    pub(super) fn sort(&mut self) {
        let Self { bytes, cells, .. } = self;
        // No key is the beginning of another.
        cells.sort_unstable_by(|a, b| bytes[a.name()].cmp(&bytes[b.name()]));
        let repeats = cells.windows(2).any(|pair| bytes[pair[0].name()] == bytes[pair[1].name()]);
        if !repeats {
            return;
        }
        let mut sum = Self::new(self.shapes.clone());
        sum.add_up_at = usize::MAX;
        for same in self.cells.chunk_by(|a, b| self.bytes[a.name()] == self.bytes[b.name()]) {
            let first = self.cell(&same[0]);
            let mut aggregates = first.aggregates;
            same[1..].iter().for_each(|cell| aggregates.merge(&self.cell(cell).aggregates));
            sum.push(first.ask, first.window, &aggregates, |key| {
                key.extend_from_slice(&self.bytes[same[0].key()]);
            });
        }
        sum.add_up_at = self.add_up_at;
        *self = sum;
    }

    pub(super) fn len(&self) -> usize {
        self.cells.len()
    }

    /// The key of the `n`-th cell.
    pub(super) fn key(&self, n: usize) -> &[u8] {
        &self.bytes[self.cells[n].key()]
    }

    /// The `n`-th cell.
    pub(super) fn get(&self, n: usize) -> Unpacked {
        self.cell(&self.cells[n])
    }

    fn cell(&self, cell: &PackedCell) -> Unpacked {
        let name = &self.bytes[cell.key().end..cell.name().end];
        let (ask, window) = name.split_at(2);
        let ask = u16::from_be_bytes(ask.try_into().expect("two bytes"));
        let window = i64::from_be_bytes(window.try_into().expect("eight bytes"));
        let shape = self.shapes[usize::from(ask)];
        let read: Result<Aggregates, AggregateDamaged> =
            Aggregates::decode(shape, &self.bytes[cell.aggregates()]);
        let aggregates = read.expect("what was encoded in memory decodes");
        Unpacked { ask, window: EventTime::from_ms(window), aggregates }
    }
}

/// A cell as it was put in.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub(super) ask: u16,
    pub(super) window: EventTime,
    pub(super) aggregates: Aggregates,
}
