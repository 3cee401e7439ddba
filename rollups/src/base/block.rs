//! A block of a chunk: its sections, and what they add to a cell.

use std::sync::{Arc, OnceLock};

use nilometer_event::TimeRange;
use nilometer_stream::aggregate::{Aggregates, Shape};
use nilometer_stream::cells::{CellsDamaged, ScanRequest};

use super::{Chunk, Reader};
use crate::chunk::{Blobs, ChunkDamaged, Estimate, Estimates, Footer, Numbers, Part, Section};
use crate::gather::{Gather, StoredCells};
use crate::project::{COUNTS, DISTINCTS, HISTOGRAMS, MAXS, MINS, Projection, SUMS, TOPS};
use crate::select::{Combinations, KeysPart, Selected};

/// A block whose sections are read once, when first needed.
#[derive(Debug)]
pub(crate) struct OpenBlock {
    chunk: Arc<Chunk>,
    footer: Arc<Footer>,
    place: u32,
    projection: Arc<Projection>,
    reader: Reader,
    numbers: OnceLock<Arc<Part>>,
    estimates: OnceLock<Arc<Part>>,
    distincts: OnceLock<Arc<Part>>,
    others: OnceLock<Arc<Part>>,
}

impl OpenBlock {
    pub(crate) fn new(
        chunk: &Arc<Chunk>,
        footer: &Arc<Footer>,
        place: u32,
        projection: &Arc<Projection>,
        reader: Reader,
    ) -> Arc<Self> {
        Arc::new(Self {
            chunk: Arc::clone(chunk),
            footer: Arc::clone(footer),
            place,
            projection: Arc::clone(projection),
            reader,
            numbers: OnceLock::new(),
            estimates: OnceLock::new(),
            distincts: OnceLock::new(),
            others: OnceLock::new(),
        })
    }

    /// Shows the cells that are in `range` and that `tile` selects.
    pub(super) fn gather(
        self: &Arc<Self>,
        tile: &ScanRequest,
        range: TimeRange,
        gather: &mut Gather,
    ) -> Result<(), CellsDamaged> {
        let keys = self.keys()?;
        let stored = gather.store(Arc::clone(self) as Arc<dyn StoredCells>);
        let cells = Selected::new(&keys, &self.projection, tile, range);
        let mut known = Combinations::default();
        cells.show(&mut |window, values, cell| {
            let combination = known.number(&values, gather);
            let merge = |into: &mut Aggregates| self.merge(cell, into);
            gather.add_stored(window, combination, (stored, cell), merge)
        })
    }

    /// Bytes of what is wanted of it once it is decoded, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        let Some(block) = self.footer.blocks.get(self.place as usize) else { return 0 };
        let others = self.projection.wants(HISTOGRAMS) || self.projection.wants(TOPS);
        let wanted = [
            (Section::Keys, true),
            (Section::Numbers, true),
            (Section::Distincts, self.projection.wants(DISTINCTS)),
            (Section::Others, others),
        ];
        let wanted = wanted.into_iter().filter(|(_, wanted)| *wanted);
        // Keys and numbers take about twice the room of their bytes.
        wanted.map(|(section, _)| 2 * block.sections[section as usize].raw_bytes as usize).sum()
    }

    pub(crate) fn keys(&self) -> Result<KeysPart, CellsDamaged> {
        let part = self.chunk.part(&self.footer, self.place, Section::Keys, self.reader)?;
        if matches!(*part, Part::Keys(_)) { Ok(KeysPart(part)) } else { Err(self.malformed()) }
    }

    fn once<'a>(
        &self,
        cell: &'a OnceLock<Arc<Part>>,
        section: Section,
    ) -> Result<&'a Part, CellsDamaged> {
        if let Some(part) = cell.get() {
            return Ok(part);
        }
        let part = self.chunk.part(&self.footer, self.place, section, self.reader)?;
        Ok(cell.get_or_init(|| part))
    }

    fn numbers(&self) -> Result<&Numbers, CellsDamaged> {
        match self.once(&self.numbers, Section::Numbers)? {
            Part::Numbers(numbers) => Ok(numbers),
            _ => Err(self.malformed()),
        }
    }

    fn blobs<'a>(
        &'a self,
        cell: &'a OnceLock<Arc<Part>>,
        section: Section,
    ) -> Result<&'a Blobs, CellsDamaged> {
        match self.once(cell, section)? {
            Part::Blobs(blobs) => Ok(blobs),
            _ => Err(self.malformed()),
        }
    }

    fn malformed(&self) -> CellsDamaged {
        self.damaged(&ChunkDamaged::Form("a section is another's"))
    }

    fn damaged(&self, reason: &ChunkDamaged) -> CellsDamaged {
        let block = self.footer.blocks.get(self.place as usize);
        let windows = block.map_or(self.chunk.meta.windows(), |block| self.chunk.windows_of(block));
        self.chunk.damaged(windows, reason)
    }

    /// Adds everything wanted of a cell but its distinct counters.
    pub(crate) fn merge(&self, cell: usize, into: &mut Aggregates) -> Result<(), CellsDamaged> {
        let numbers = self.numbers()?;
        self.merge_numbers(numbers, cell, into).ok_or_else(|| self.malformed())?;
        if self.projection.wants(HISTOGRAMS) || self.projection.wants(TOPS) {
            self.merge_others(cell, into).map_err(|reason| self.or_damaged(reason))?;
        }
        Ok(())
    }

    /// `None` where a slot is not there: then nothing may be read as 0.
    fn merge_numbers(&self, numbers: &Numbers, cell: usize, into: &mut Aggregates) -> Option<()> {
        let slots = &self.projection.slots;
        for &(from, to) in &slots[COUNTS] {
            *into.counts.get_mut(to)? += *numbers.counts.get(from)?.get(cell)?;
        }
        for &(from, to) in &slots[SUMS] {
            let sums = numbers.sums.get(from).filter(|sums| cell < sums.len())?;
            *into.sums.get_mut(to)? += sums.get(cell);
        }
        for &(from, to) in &slots[MINS] {
            let bound = numbers.mins.get(from).filter(|mins| cell < mins.len())?.get(cell);
            let own = into.mins.get_mut(to)?;
            *own = match (*own, bound) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        for &(from, to) in &slots[MAXS] {
            let bound = numbers.maxs.get(from).filter(|maxs| cell < maxs.len())?.get(cell);
            let own = into.maxs.get_mut(to)?;
            *own = (*own).max(bound);
        }
        Some(())
    }

    fn merge_others(&self, cell: usize, into: &mut Aggregates) -> Result<(), Trouble> {
        const MISSING: ChunkDamaged = ChunkDamaged::Form("a sketch is missing");
        let blobs = self.blobs(&self.others, Section::Others)?;
        let slots = &self.projection.slots;
        let one = Shape { histograms: 1, ..Shape::default() };
        for &(from, to) in &slots[HISTOGRAMS] {
            let single = blobs.single(from, cell, one)?;
            let theirs = single.histograms.first().ok_or(MISSING)?;
            into.histograms.get_mut(to).ok_or(MISSING)?.merge(theirs);
        }
        let set = self.projection.set.and_then(|set| self.footer.sets.get(set));
        let histograms = set.map_or(0, |set| set.slots.histograms.len());
        let one = Shape { tops: 1, ..Shape::default() };
        for &(from, to) in &slots[TOPS] {
            let single = blobs.single(histograms + from, cell, one)?;
            let theirs = single.tops.first().ok_or(MISSING)?;
            into.tops.get_mut(to).ok_or(MISSING)?.merge(theirs);
        }
        Ok(())
    }

    /// Adds the wanted distinct counters of a cell.
    pub(crate) fn merge_distincts(
        &self,
        cell: usize,
        into: &mut Aggregates,
    ) -> Result<(), CellsDamaged> {
        if !self.projection.wants(DISTINCTS) {
            return Ok(());
        }
        let blobs = self.blobs(&self.distincts, Section::Distincts)?;
        for &(from, to) in &self.projection.slots[DISTINCTS] {
            let own = into.distincts.get_mut(to).ok_or_else(|| self.malformed())?;
            let merged = blobs.merge_distinct(from, cell, own);
            merged.map_err(|reason| self.damaged(&reason))?;
        }
        Ok(())
    }

    fn estimates(&self, cell: usize, into: &mut [Option<Estimate>]) -> Result<(), CellsDamaged> {
        if !self.projection.wants(DISTINCTS) {
            return Ok(());
        }
        let Part::Estimates(Estimates(columns)) = self.once(&self.estimates, Section::Estimates)?
        else {
            return Err(self.malformed());
        };
        for &(from, to) in &self.projection.slots[DISTINCTS] {
            let estimate = columns.get(from).and_then(|column| column.get(cell)).copied();
            let own = into.get_mut(to).ok_or_else(|| self.malformed())?;
            *own = Some(estimate.ok_or_else(|| self.malformed())?);
        }
        Ok(())
    }

    fn or_damaged(&self, trouble: Trouble) -> CellsDamaged {
        match trouble {
            Trouble::Read(damaged) => damaged,
            Trouble::Form(reason) => self.damaged(&reason),
        }
    }
}

enum Trouble {
    Read(CellsDamaged),
    Form(ChunkDamaged),
}

impl From<CellsDamaged> for Trouble {
    fn from(damaged: CellsDamaged) -> Self {
        Self::Read(damaged)
    }
}

impl From<ChunkDamaged> for Trouble {
    fn from(reason: ChunkDamaged) -> Self {
        Self::Form(reason)
    }
}

impl StoredCells for OpenBlock {
    fn merge_distincts(&self, cell: usize, into: &mut Aggregates) -> Result<(), CellsDamaged> {
        self.merge_distincts(cell, into)
    }

    fn estimates(&self, cell: usize, into: &mut [Option<Estimate>]) -> Result<(), CellsDamaged> {
        self.estimates(cell, into)
    }
}
