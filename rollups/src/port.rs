//! The store as other rooms hold it: adopts sealed layers, shows one version at a time.

use std::sync::Arc;

use nilometer_event::{EventTime, TimeRange};
use nilometer_stream::aggregate::{Aggregates, SlotMask};
use nilometer_stream::cells::OwnedDimValue;
use nilometer_stream::view::LayerSink;
use tokio::sync::watch;

use crate::chunk::Estimate;
use crate::pinned::Pinned;

/// Shelves for the aggregates of all shards.
///
/// - **R1 once**: a pinned version holds every cell that the shards have shown exactly once:
///   in the base, in an adopted layer, in a sealing or in the open one. A layer that is
///   offered again is not counted again, whatever was folded or restored meanwhile.
/// - **R2 whole**: cells of a file that cannot be read make their windows an error, never a
///   smaller number.
/// - **R3 stable**: adopted cells of a pinned version never change, whatever is folded meanwhile;
///   the open layers of the shards go on counting.
/// - **R4 kept**: [`LayerSink::folded_through`] is never past a layer that the store, or a
///   version of it that it may fall back to or that is still pinned, reads from its file.
/// - **R5 null**: a slot that some cell of a window was counted without is named in
///   [`Answer::filling`].
pub trait Store: LayerSink {
    /// One consistent version over all shards that have recovered.
    fn pin(&self) -> Pinned;

    /// Ticks when what a pin would show has changed.
    fn changed(&self) -> watch::Receiver<u64>;

    /// What the store holds and did.
    fn stats(&self) -> StoreStats;
}

/// One row of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Start of the window, at the granularity asked for.
    pub window: EventTime,
    /// One for each dimension of the set; rows of one answer share those of one combination.
    pub dims: Arc<[OwnedDimValue]>,
    /// The wanted slots; of sessions all counts too. A kind of which no slot is wanted is empty.
    pub aggregates: Aggregates,
    /// By distinct slot, what stands in place of that slot's counter, which is empty then.
    /// Empty but for [`Pinned::read_estimated`].
    pub estimates: Vec<Option<Estimate>>,
    /// Wanted slots that some cell of the window was counted without: they read as null.
    pub filling: SlotMask,
}

impl Row {
    /// The distinct users or values of a slot, from its estimate or its counter.
    #[must_use]
    pub fn distinct(&self, slot: usize) -> Option<Estimate> {
        if let Some(estimate) = self.estimates.get(slot).copied().flatten() {
            return Some(estimate);
        }
        let counter = self.aggregates.distincts.get(slot)?;
        Some(Estimate { value: counter.estimate(), exact: counter.is_exact() })
    }
}

/// The rows of one request, and what holds of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Ascending by window, then by dimension values; none where nothing happened.
    pub rows: Vec<Row>,
    /// Windows in which wanted slots read as null, ascending.
    pub filling: Vec<(EventTime, SlotMask)>,
    /// For each dimension of the set whether values of it are folded into `__other__`.
    pub folded: Vec<bool>,
}

/// Windows of the base that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedWindows {
    /// The file that is damaged.
    pub file: String,
    /// What it held.
    pub windows: TimeRange,
}

/// Numbers about a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes of the base's files that the newest version lists.
    pub bytes: u64,
    /// Files of the newest version.
    pub chunks: u64,
    /// Those that were found damaged.
    pub chunks_unreadable: u64,
    /// Those that the disk refused to read: nothing is known of them, and they are tried again.
    pub chunks_refused: u64,
    /// Cells of files that were found damaged since the store was opened.
    pub quarantined_cells: u64,
    /// Cells in them.
    pub cells: u64,
    /// Adopted layers that no fold has taken yet.
    pub layers_waiting: u64,
    /// Bytes that they hold in memory.
    pub layers_bytes: u64,
    /// Files of layers that could not be opened and wait to be restored.
    pub layers_unreadable: u64,
    /// Layers whose files the disk refused when they were opened or folded; they are tried again,
    /// for good.
    pub layers_refused: u64,
    /// Folds that switched the base.
    pub folds: u64,
    /// Folds that failed and were repeated.
    pub fold_failures: u64,
    /// How long the last fold took, in milliseconds, as its driver measured it; `None` before
    /// the first.
    pub fold_took_ms: Option<u64>,
    /// Ranges of windows that have lost cells for good.
    pub damaged: u64,
    /// Bytes of decoded blocks in memory.
    pub cache_bytes: u64,
    /// Reads that the cache answered.
    pub cache_hits: u64,
    /// Reads that went to the disk.
    pub cache_misses: u64,
}
