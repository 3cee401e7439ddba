//! Cells of many sources become the rows of one answer.

use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};

use hashbrown::{Equivalent, HashMap};
use nilometer_event::{EventTime, Granularity, TimeRange};
use nilometer_stream::aggregate::{Aggregates, SlotMask};
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
    rows_max: usize,
    over: bool,
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

impl Gather {
    pub(crate) fn new(
        request: ScanRequest,
        into: Into,
        sketches: Sketches,
        rows_max: usize,
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
            rows_max,
            over: false,
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
        entry.merged = true;
        cell.aggregates.merge_into(&mut entry.aggregates);
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
        merge(&mut entry.aggregates)?;
        if !wants_distincts {
            return Ok(());
        }
        let stored = stored();
        if estimated && !entry.merged && entry.deferred.is_none() {
            entry.deferred = Some(stored);
            return Ok(());
        }
        if let Some(first) = entry.deferred.take() {
            first.merge_distincts(&mut entry.aggregates)?;
        }
        entry.merged = true;
        stored.merge_distincts(&mut entry.aggregates)
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

    /// The row of a cell; `None` once there are too many.
    fn cell(&mut self, window: EventTime, dims: &[DimValue<'_>]) -> Option<&mut Cell> {
        let window = self.row_window(window);
        let table = self.windows.entry(window).or_default();
        let key = KeyRef(dims);
        if !table.contains_key(&key) {
            if self.rows == self.rows_max {
                self.over = true;
                return None;
            }
            self.rows += 1;
            let aggregates = self.request.empty();
            table.insert(RowKey::of(dims), Cell { aggregates, deferred: None, merged: false });
        }
        table.get_mut(&key)
    }

    /// The rows, ascending by window and then by dimension values.
    pub(crate) fn finish(mut self) -> Result<Answer, ReadError> {
        if self.over {
            return Err(ReadError::TooMany { rows_max: self.rows_max });
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
        window.start = window.start.max(range.start.minus_ms(Granularity::Day.ms()));
        window.end = window.end.min(range.end.plus_ms(Granularity::Day.ms()));
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
