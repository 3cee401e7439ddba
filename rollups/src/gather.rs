//! Cells of many sources become the rows of one answer.

use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};

use hashbrown::{Equivalent, HashMap};
use nilometer_event::{EventTime, Granularity, TimeRange};
use nilometer_stream::aggregate::{Aggregates, Distinct, Histogram, SlotMask};
use nilometer_stream::cells::{
    CellRef, CellSource, CellsDamaged, DimValue, OwnedDimValue, ScanRequest,
};

use crate::chunk::Estimate;
use crate::error::ReadError;
use crate::port::{Answer, Row};

/// Whether a row may carry estimates in place of distinct counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sketches {
    /// Every row has its distinct counters.
    Merged,
    /// A row of one stored cell has the estimates that lie beside them.
    Estimated,
}

/// How much one answer may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) rows_max: usize,
    pub(crate) bytes_max: usize,
}

/// Which row a stored window goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Into {
    /// A row for each window of the granularity.
    Windows(Granularity),
    /// One row, named by this window.
    One(EventTime),
}

/// A stored cell whose distinct counters were not read yet.
pub(crate) trait StoredCell: Send + Sync + std::fmt::Debug {
    /// Adds the wanted distinct counters.
    fn merge_distincts(&self, into: &mut Aggregates) -> Result<(), CellsDamaged>;
    /// Fills in the estimates of the wanted distinct counters, by the asking plan's slots.
    fn estimates(&self, into: &mut [Option<Estimate>]) -> Result<(), CellsDamaged>;
}

/// An answer under construction.
#[derive(Debug)]
pub(crate) struct Gather {
    request: ScanRequest,
    into: Into,
    sketches: Sketches,
    windows: BTreeMap<EventTime, HashMap<RowKey, Cell>>,
    rows: usize,
    /// Bytes of rows in memory, about.
    bytes: usize,
    limits: Limits,
    over: Option<ReadError>,
    filling: BTreeMap<EventTime, SlotMask>,
    folded: Vec<bool>,
    damaged: Vec<CellsDamaged>,
}

#[derive(Debug)]
struct Cell {
    aggregates: Aggregates,
    deferred: Option<Box<dyn StoredCell>>,
    /// True once anything but `deferred` gave distinct counters.
    merged: bool,
}

impl Cell {
    /// Adds the distinct counters of a stored cell, or remembers where they lie.
    fn merge_distincts(
        &mut self,
        stored: Box<dyn StoredCell>,
        estimated: bool,
    ) -> Result<(), CellsDamaged> {
        if estimated && !self.merged && self.deferred.is_none() {
            self.deferred = Some(stored);
            return Ok(());
        }
        self.resolve()?;
        stored.merge_distincts(&mut self.aggregates)
    }

    /// Reads the counters that were put off.
    fn resolve(&mut self) -> Result<(), CellsDamaged> {
        self.merged = true;
        match self.deferred.take() {
            Some(first) => first.merge_distincts(&mut self.aggregates),
            None => Ok(()),
        }
    }
}

impl Gather {
    pub(crate) fn new(
        request: ScanRequest,
        into: Into,
        sketches: Sketches,
        limits: Limits,
    ) -> Self {
        let folded = vec![false; request.filter.len()];
        let mut request = request;
        // Whether anything happened in a cell is decided by all its counts.
        request.want.counts = u64::MAX;
        Self {
            request,
            into,
            sketches,
            windows: BTreeMap::new(),
            rows: 0,
            bytes: 0,
            limits,
            over: None,
            filling: BTreeMap::new(),
            folded,
            damaged: Vec::new(),
        }
    }

    /// Takes all cells of a source for one tile of the request.
    pub(crate) fn take(&mut self, source: &dyn CellSource, tile: &ScanRequest) {
        let coverage = source.coverage(tile);
        self.note_filling(coverage.missing, coverage.filling);
        let scanned = source.scan(tile, &mut |cell| self.add(&cell));
        if let Err(damaged) = scanned {
            self.note_damage(damaged);
        }
    }

    /// Adds a cell that has its aggregates at hand.
    fn add(&mut self, cell: &CellRef<'_>) {
        self.note_folded(cell.dims);
        let Some(entry) = self.cell(cell.window, cell.dims) else { return };
        let before = sketch_bytes(&entry.aggregates);
        let resolved = entry.resolve();
        cell.aggregates.merge_into(&mut entry.aggregates);
        let grown = sketch_bytes(&entry.aggregates).saturating_sub(before);
        self.grow(grown);
        if let Err(damaged) = resolved {
            self.note_damage(damaged);
        }
    }

    /// Adds a cell of the base: `numbers` now, its distinct counters only when they are needed.
    pub(crate) fn add_stored(
        &mut self,
        window: EventTime,
        dims: &[DimValue<'_>],
        stored: impl FnOnce() -> Box<dyn StoredCell>,
        merge: impl FnOnce(&mut Aggregates) -> Result<(), CellsDamaged>,
    ) -> Result<(), CellsDamaged> {
        let wants_distincts = self.request.want.distincts != 0;
        let estimated = self.sketches == Sketches::Estimated;
        let Some(entry) = self.cell(window, dims) else { return Ok(()) };
        let before = sketch_bytes(&entry.aggregates);
        merge(&mut entry.aggregates)?;
        if wants_distincts {
            entry.merge_distincts(stored(), estimated)?;
        }
        let grown = sketch_bytes(&entry.aggregates).saturating_sub(before);
        self.grow(grown);
        Ok(())
    }

    fn grow(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes > self.limits.bytes_max && self.over.is_none() {
            self.over = Some(ReadError::TooLarge { bytes_max: self.limits.bytes_max });
        }
    }

    /// Notes that the cells of these windows lack wanted slots.
    pub(crate) fn note_filling(&mut self, missing: SlotMask, windows: Vec<EventTime>) {
        let missing = missing.intersection(self.request.want);
        if missing.is_empty() {
            return;
        }
        for window in windows {
            let window = self.row_window(window);
            let mask = self.filling.entry(window).or_insert(SlotMask::NONE);
            *mask = mask.union(missing);
        }
    }

    pub(crate) fn note_damage(&mut self, damaged: CellsDamaged) {
        self.damaged.push(damaged);
    }

    /// Notes which dimensions hold values that the cardinality guard folded.
    pub(crate) fn note_folded(&mut self, dims: &[DimValue<'_>]) {
        for (folded, value) in self.folded.iter_mut().zip(dims) {
            *folded |= *value == DimValue::Other;
        }
    }

    fn row_window(&self, window: EventTime) -> EventTime {
        match self.into {
            Into::Windows(granularity) => window.window_start(granularity),
            Into::One(window) => window,
        }
    }

    /// The row of a cell; `None` once the answer is too large: the rest is only passed over.
    fn cell(&mut self, window: EventTime, dims: &[DimValue<'_>]) -> Option<&mut Cell> {
        if self.over.is_some() {
            return None;
        }
        let window = self.row_window(window);
        let table = self.windows.entry(window).or_default();
        let key = KeyRef(dims);
        if !table.contains_key(&key) {
            if self.rows == self.limits.rows_max {
                self.over = Some(ReadError::TooMany { rows_max: self.limits.rows_max });
                return None;
            }
            self.rows += 1;
            let aggregates = self.request.empty();
            self.bytes += aggregates.memory_bytes() + ROW_BYTES + 32 * dims.len();
            table.insert(RowKey::of(dims), Cell { aggregates, deferred: None, merged: false });
        }
        table.get_mut(&key)
    }

    /// The rows, ascending by window and then by dimension values.
    pub(crate) fn finish(mut self) -> Result<Answer, ReadError> {
        if let Some(over) = self.over {
            return Err(over);
        }
        let mut rows = Vec::with_capacity(self.rows);
        for (window, table) in std::mem::take(&mut self.windows) {
            let first = rows.len();
            for (key, cell) in table {
                // Sessions that were taken back leave a cell in which nothing happened.
                if is_nothing(&cell.aggregates) {
                    continue;
                }
                match self.row(window, key, cell) {
                    Ok(row) => rows.push(row),
                    Err(damaged) => self.damaged.push(damaged),
                }
            }
            if let Some(window_rows) = rows.get_mut(first..) {
                window_rows.sort_unstable_by(|a: &Row, b: &Row| a.dims.cmp(&b.dims));
            }
        }
        if let Some(error) = damage(&self.damaged, self.request.range) {
            return Err(error);
        }
        let filling = self.filling.into_iter().collect();
        Ok(Answer { rows, filling, folded: self.folded })
    }

    fn row(&self, window: EventTime, key: RowKey, cell: Cell) -> Result<Row, CellsDamaged> {
        let mut estimates = Vec::new();
        if let Some(stored) = &cell.deferred {
            estimates = vec![None; cell.aggregates.distincts.len()];
            stored.estimates(&mut estimates)?;
        }
        let filling = self.filling.get(&window).copied().unwrap_or(SlotMask::NONE);
        Ok(Row { window, dims: key.0.into_vec(), aggregates: cell.aggregates, estimates, filling })
    }
}

/// What a row costs beside its aggregates and values, about.
const ROW_BYTES: usize = 192;

pub(crate) fn sketch_bytes(aggregates: &Aggregates) -> usize {
    let distincts: usize = aggregates.distincts.iter().map(Distinct::heap_bytes).sum();
    distincts + aggregates.histograms.iter().map(Histogram::heap_bytes).sum::<usize>()
}

fn is_nothing(aggregates: &Aggregates) -> bool {
    aggregates.counts.iter().all(|&count| count == 0)
        && aggregates.sums.iter().all(|&sum| sum == 0)
        && aggregates.mins.iter().chain(&aggregates.maxs).all(Option::is_none)
}

/// One error for all damage that touches `range`.
fn damage(damaged: &[CellsDamaged], range: TimeRange) -> Option<ReadError> {
    let mut windows: Vec<TimeRange> = damaged.iter().map(|one| one.windows).collect();
    let file = damaged.first()?.file.clone();
    windows.sort_unstable_by_key(|window| (window.start, window.end));
    let mut seen = HashSet::new();
    windows.retain(|window| seen.insert(*window));
    for window in &mut windows {
        window.start = window.start.max(range.start);
        window.end = window.end.min(range.end).max(window.start);
    }
    Some(ReadError::Damaged { file, windows })
}

/// A row's dimension values.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RowKey(pub(crate) Box<[OwnedDimValue]>);

/// The same, borrowed from a cell.
pub(crate) struct KeyRef<'a, 'b>(pub(crate) &'a [DimValue<'b>]);

impl RowKey {
    pub(crate) fn of(dims: &[DimValue<'_>]) -> Self {
        Self(dims.iter().map(|value| value.into_owned()).collect())
    }
}

impl Hash for RowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for value in &self.0 {
            value.as_ref().hash(state);
        }
    }
}

impl Hash for KeyRef<'_, '_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for value in self.0 {
            value.hash(state);
        }
    }
}

impl Equivalent<RowKey> for KeyRef<'_, '_> {
    fn equivalent(&self, key: &RowKey) -> bool {
        self.0.len() == key.0.len()
            && self.0.iter().zip(&key.0).all(|(own, theirs)| *own == theirs.as_ref())
    }
}
