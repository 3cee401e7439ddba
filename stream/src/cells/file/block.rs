//! A block of a layer's file, decoded: columns by slot, and what a cell of them adds to others.

use crate::aggregate::{
    AggregateDamaged, Aggregates, Bounds, Distinct, Histogram, Reader, Shape, Sums, TopCounts,
    lower, read_bound, read_sum,
};
use crate::cells::schema::Projection;

/// One cell of a decoded block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockCell<'a> {
    pub(super) block: &'a Block,
    pub(super) row: usize,
    pub(super) projection: &'a Projection,
}

impl BlockCell<'_> {
    pub(crate) fn merge_into(&self, into: &mut Aggregates) {
        let (block, row) = (self.block, self.row);
        let [counts, sums, mins, maxs, distincts, histograms, tops] = &self.projection.slots;
        for &(from, to) in counts {
            into.counts[to] += block.counts[from][row];
        }
        for &(from, to) in sums {
            into.sums[to] += block.sums[from].get(row);
        }
        for &(from, to) in mins {
            lower(&mut into.mins[to], block.mins[from].get(row));
        }
        for &(from, to) in maxs {
            into.maxs[to] = into.maxs[to].max(block.maxs[from].get(row));
        }
        for &(from, to) in distincts {
            into.distincts[to].merge(&block.distincts[from][row]);
        }
        for &(from, to) in histograms {
            into.histograms[to].merge(&block.histograms[from][row]);
        }
        for &(from, to) in tops {
            into.tops[to].merge(&block.tops[from][row]);
        }
    }
}

/// A decoded block, slot by slot.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) windows: Vec<i64>,
    pub(super) dims: Vec<Vec<u32>>,
    counts: Vec<Vec<i64>>,
    sums: Vec<Sums>,
    mins: Vec<Bounds>,
    maxs: Vec<Bounds>,
    distincts: Vec<Vec<Distinct>>,
    histograms: Vec<Vec<Histogram>>,
    tops: Vec<Vec<TopCounts>>,
}

fn column<T>(
    cells: usize,
    mut one: impl FnMut() -> Result<T, AggregateDamaged>,
) -> Result<Vec<T>, AggregateDamaged> {
    (0..cells).map(|_| one()).collect()
}

fn read_bounds(reader: &mut Reader<'_>, cells: usize) -> Result<Bounds, AggregateDamaged> {
    let mut bounds = Bounds::with_capacity(cells);
    for _ in 0..cells {
        bounds.push(read_bound(reader)?);
    }
    Ok(bounds)
}

impl Block {
    pub(super) fn memory_bytes(&self) -> usize {
        let columns = 4 * self.dims.len() + 8 * (1 + self.counts.len()) + 16 * self.sums.len();
        let bounds = self.mins.iter().chain(&self.maxs);
        let distincts = self.distincts.iter().flatten();
        let histograms = self.histograms.iter().flatten();
        let tops = self.tops.iter().flatten();
        size_of::<Self>()
            + self.windows.len() * columns
            + bounds.map(Bounds::memory_bytes).sum::<usize>()
            + distincts.map(|one| size_of::<Distinct>() + one.heap_bytes()).sum::<usize>()
            + histograms.map(|one| size_of::<Histogram>() + one.heap_bytes()).sum::<usize>()
            + tops.map(|one| size_of::<TopCounts>() + one.heap_bytes()).sum::<usize>()
    }

    pub(super) fn numbers(
        raw: &[u8],
        cells: usize,
        dictionaries: &[usize],
        shape: Shape,
    ) -> Result<Self, AggregateDamaged> {
        let mut reader = Reader::new(raw);
        let mut own = Self::default();
        let mut before = 0_i64;
        own.windows = column(cells, || {
            before = before.wrapping_add(reader.signed()?);
            Ok(before)
        })?;
        for &codes in dictionaries {
            own.dims.push(column(cells, || {
                let code = u32::try_from(reader.varint()?).ok();
                let known = code.filter(|&code| (code as usize) < codes);
                known.ok_or(AggregateDamaged("unknown dimension value"))
            })?);
        }
        for _ in 0..shape.counts {
            own.counts.push(column(cells, || reader.signed())?);
        }
        for _ in 0..shape.sums {
            let mut sums = Sums::default();
            sums.reserve(cells);
            for _ in 0..cells {
                sums.push(read_sum(&mut reader)?);
            }
            own.sums.push(sums);
        }
        for _ in 0..shape.mins {
            own.mins.push(read_bounds(&mut reader, cells)?);
        }
        for _ in 0..shape.maxs {
            own.maxs.push(read_bounds(&mut reader, cells)?);
        }
        if reader.is_empty() { Ok(own) } else { Err(AggregateDamaged("bytes left over")) }
    }

    pub(super) fn read_sketches(
        &mut self,
        raw: &[u8],
        cells: usize,
        shape: Shape,
    ) -> Result<(), AggregateDamaged> {
        let mut reader = Reader::new(raw);
        self.distincts = vec![Vec::with_capacity(cells); shape.distincts];
        self.histograms = vec![Vec::with_capacity(cells); shape.histograms];
        self.tops = vec![Vec::with_capacity(cells); shape.tops];
        for _ in 0..cells {
            for column in &mut self.distincts {
                column.push(Distinct::read(&mut reader)?);
            }
            for column in &mut self.histograms {
                column.push(Histogram::read(&mut reader)?);
            }
            for column in &mut self.tops {
                column.push(TopCounts::read(&mut reader)?);
            }
        }
        if reader.is_empty() { Ok(()) } else { Err(AggregateDamaged("bytes left over")) }
    }
}
