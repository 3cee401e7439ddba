//! Chunks of neighbouring spans, written side by side.
//!
//! A block of a layer's file holds a thousand cells in the order of their windows: for a set of
//! few dimensions that is a day of minutes. Chunk by chunk it would be decoded for each of the
//! spans that it touches.

use std::sync::Arc;

use nilometer_event::{EventTime, Granularity, ReceiveTime, TimeRange};
use nilometer_log::Disk;
use nilometer_stream::aggregate::Aggregates;
use nilometer_stream::cells::OwnedDimValue;

use crate::base::Chunk;
use crate::chunk::{ChunkWriter, Packer, SetSchema};
use crate::error::FoldError;
use crate::manifest::{CHUNKS, ChunkKey, ChunkMeta};
use crate::merge::CellOut;
use crate::retention::span_of;

/// A chunk to be written.
#[derive(Debug)]
pub(crate) struct Strand {
    pub(crate) key: ChunkKey,
    /// The older chunks that it takes the place of.
    pub(crate) merged: Vec<Arc<Chunk>>,
    /// Windows that it may hold.
    pub(crate) range: TimeRange,
}

/// A chunk that is written.
#[derive(Debug)]
pub(crate) struct Woven {
    /// The older chunks that it takes the place of.
    pub(crate) merged: Vec<Arc<Chunk>>,
    pub(crate) key: ChunkKey,
    /// How many of its cells have something from layers.
    pub(crate) added: u64,
    /// What it is; `None` where there was no cell.
    pub(crate) meta: Option<ChunkMeta>,
}

/// A strand under construction.
struct Spun {
    strand: Strand,
    writer: ChunkWriter,
    /// Cells that layers have added.
    added: u64,
}

/// Chunks under construction, ascending by span; all are of one granularity.
pub(crate) struct Weave {
    strands: Vec<Spun>,
    /// The strand that took the last cell of the set.
    at: usize,
}

impl Weave {
    /// Begins a file for each strand, named by `name`.
    ///
    /// # Errors
    ///
    /// [`FoldError::Io`].
    pub(crate) fn begin(
        disk: &dyn Disk,
        strands: Vec<Strand>,
        name: &mut dyn FnMut() -> String,
    ) -> Result<Self, FoldError> {
        let packer =
            Packer::new().map_err(|source| FoldError::Io { path: CHUNKS.to_owned(), source })?;
        let begin = |strand: Strand| {
            let writer = ChunkWriter::begin(disk, name(), strand.key, packer.clone())?;
            Ok(Spun { strand, writer, added: 0 })
        };
        let strands = strands.into_iter().map(begin).collect::<Result<_, FoldError>>()?;
        Ok(Self { strands, at: 0 })
    }

    /// Everything from the first strand's windows to the last one's.
    pub(crate) fn range(&self) -> TimeRange {
        let ranges = || self.strands.iter().map(|spun| spun.strand.range);
        let start = ranges().map(|range| range.start).min().unwrap_or(EventTime::MIN);
        let end = ranges().map(|range| range.end).max().unwrap_or(start);
        TimeRange { start, end }
    }

    /// The older chunks whose cells go in.
    pub(crate) fn merged(&self) -> impl Iterator<Item = &Arc<Chunk>> {
        self.strands.iter().flat_map(|spun| &spun.strand.merged)
    }

    /// Goes on with the cells of the next dimension set.
    ///
    /// # Errors
    ///
    /// [`FoldError`].
    pub(crate) fn begin_set(&mut self, set: &SetSchema) -> Result<(), FoldError> {
        self.at = 0;
        self.strands.iter_mut().try_for_each(|spun| spun.writer.begin_set(set.clone()))
    }

    /// Ends the files.
    ///
    /// # Errors
    ///
    /// [`FoldError`].
    pub(crate) fn finish(self, made_at: ReceiveTime) -> Result<Vec<Woven>, FoldError> {
        let finish = |Spun { strand, writer, added }: Spun| {
            let Strand { merged, key, .. } = strand;
            let weight = 1 + merged.iter().map(|chunk| chunk.meta.weight).sum::<u64>();
            Ok(Woven { merged, key, added, meta: writer.finish(weight, made_at)? })
        };
        self.strands.into_iter().map(finish).collect()
    }

    fn granularity(&self) -> Granularity {
        self.strands.first().map_or(Granularity::Minute, |spun| spun.strand.key.granularity)
    }
}

impl CellOut for Weave {
    fn cell(
        &mut self,
        window: EventTime,
        dims: &[OwnedDimValue],
        aggregates: &Aggregates,
    ) -> Result<(), FoldError> {
        let start = span_of(self.granularity(), window).start;
        // Cells of a set come ascending: a strand that was passed gets no more of them.
        while let Some(Spun { strand, writer, .. }) = self.strands.get_mut(self.at) {
            if strand.key.start == start {
                return writer.cell(window, dims, aggregates);
            }
            writer.close_block()?;
            self.at += 1;
        }
        let reason = format!("a cell of {window} is in no span that is folded");
        Err(FoldError::Encode { path: CHUNKS.to_owned(), reason })
    }

    fn added(&mut self, window: EventTime, cells: u64) {
        let start = span_of(self.granularity(), window).start;
        let own = self.strands.iter_mut().find(|spun| spun.strand.key.start == start);
        own.into_iter().for_each(|spun| spun.added += cells);
    }
}
