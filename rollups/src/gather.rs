//! Cells of many sources become the rows of one answer.

use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use hashbrown::{Equivalent, HashMap};
use nilometer_event::{EventTime, Granularity, TimeRange};
use nilometer_stream::aggregate::{Aggregates, Distinct, Histogram, SlotMask};
use nilometer_stream::cells::{
    CellRef, CellSource, CellsDamaged, DimValue, OwnedDimValue, ScanRequest,
};
use nilometer_stream::declare::SetKind;

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

impl Into {
    pub(crate) const fn row_window(self, window: EventTime) -> EventTime {
        match self {
            Self::Windows(granularity) => window.window_start(granularity),
            Self::One(window) => window,
        }
    }
}

/// Stored cells whose distinct counters were not read yet.
pub(crate) trait StoredCells: Send + Sync + std::fmt::Debug {
    /// Adds the wanted distinct counters of a cell.
    fn merge_distincts(&self, cell: usize, into: &mut Aggregates) -> Result<(), CellsDamaged>;
    /// Fills in the estimates of a cell's wanted distinct counters, by the asking plan's slots.
    fn estimates(&self, cell: usize, into: &mut [Option<Estimate>]) -> Result<(), CellsDamaged>;
}

/// An answer under construction.
#[derive(Debug)]
pub(crate) struct Gather {
    request: ScanRequest,
    into: Into,
    sketches: Sketches,
    /// Each combination of dimension values once.
    combinations: Vec<Arc<[OwnedDimValue]>>,
    numbers: HashMap<RowKey, u32>,
    /// By window and combination the place in `cells`.
    places: HashMap<(EventTime, u32), usize>,
    cells: Vec<Cell>,
    /// What rows are put off to.
    stored: Vec<Arc<dyn StoredCells>>,
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
    window: EventTime,
    combination: u32,
    aggregates: Aggregates,
    /// A stored cell whose counters were put off: which of `stored`, and which cell there.
    deferred: Option<(usize, usize)>,
    /// True once anything but `deferred` gave distinct counters.
    merged: bool,
}

impl Gather {
    pub(crate) fn new(
        request: ScanRequest,
        into: Into,
        sketches: Sketches,
        limits: Limits,
    ) -> Self {
        let folded = vec![false; request.filter.len()];
        Self {
            request,
            into,
            sketches,
            combinations: Vec::new(),
            numbers: HashMap::new(),
            places: HashMap::new(),
            cells: Vec::new(),
            stored: Vec::new(),
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
        self.note_coverage(source, tile);
        let scanned = source.scan(tile, &mut |cell| self.add(&cell));
        if let Err(damaged) = scanned {
            self.note_damage(damaged);
        }
    }

    pub(crate) const fn request(&self) -> &ScanRequest {
        &self.request
    }

    pub(crate) const fn rows_into(&self) -> Into {
        self.into
    }

    /// Whether the answer is too large, so that the rest needs not be read.
    pub(crate) const fn is_over(&self) -> bool {
        self.over.is_some()
    }

    /// Notes what a source cannot say.
    pub(crate) fn note_coverage(&mut self, source: &dyn CellSource, tile: &ScanRequest) {
        let coverage = source.coverage(tile);
        self.note_filling(coverage.missing, coverage.filling);
    }

    /// Notes what the cardinality guard folded of a cell's values.
    pub(crate) fn note_folded(&mut self, dims: &[DimValue<'_>]) {
        for (folded, value) in self.folded.iter_mut().zip(dims) {
            *folded |= *value == DimValue::Other;
        }
    }

    /// Adds a cell that has its aggregates at hand.
    fn add(&mut self, cell: &CellRef<'_>) {
        if self.over.is_some() {
            return;
        }
        let combination = self.combination(cell.dims);
        let Some(place) = self.place(cell.window, combination) else { return };
        let resolved = self.resolve(place);
        let own = &mut self.cells[place].aggregates;
        let before = sketch_bytes(own);
        cell.aggregates.merge_into(own);
        let grown = sketch_bytes(own).saturating_sub(before);
        self.grow(grown);
        if let Err(damaged) = resolved {
            self.note_damage(damaged);
        }
    }

    /// Names what cells of the base may be put off to.
    pub(crate) fn store(&mut self, cells: Arc<dyn StoredCells>) -> usize {
        self.stored.push(cells);
        self.stored.len() - 1
    }

    /// Adds a cell of the base: its numbers by `merge` now, its distinct counters only when they
    /// are needed. `stored` is what [`Gather::store`] gave and the cell's place there.
    pub(crate) fn add_stored(
        &mut self,
        window: EventTime,
        combination: u32,
        stored: (usize, usize),
        merge: impl FnOnce(&mut Aggregates) -> Result<(), CellsDamaged>,
    ) -> Result<(), CellsDamaged> {
        let Some(place) = self.place(window, combination) else { return Ok(()) };
        let cell = &mut self.cells[place];
        let before = sketch_bytes(&cell.aggregates);
        merge(&mut cell.aggregates)?;
        if self.request.want.distincts != 0 {
            let estimated = self.sketches == Sketches::Estimated;
            if estimated && !cell.merged && cell.deferred.is_none() {
                cell.deferred = Some(stored);
            } else {
                self.resolve(place)?;
                let (source, number) = stored;
                let into = &mut self.cells[place].aggregates;
                self.stored[source].merge_distincts(number, into)?;
            }
        }
        let grown = sketch_bytes(&self.cells[place].aggregates).saturating_sub(before);
        self.grow(grown);
        Ok(())
    }

    /// Reads the counters of a row that were put off.
    fn resolve(&mut self, place: usize) -> Result<(), CellsDamaged> {
        let cell = &mut self.cells[place];
        cell.merged = true;
        let Some((source, number)) = cell.deferred.take() else { return Ok(()) };
        self.stored[source].merge_distincts(number, &mut cell.aggregates)
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
            let window = self.into.row_window(window);
            let mask = self.filling.entry(window).or_insert(SlotMask::NONE);
            *mask = mask.union(missing);
        }
    }

    pub(crate) fn note_damage(&mut self, damaged: CellsDamaged) {
        self.damaged.push(damaged);
    }

    /// The number of a combination of values; notes what the cardinality guard folded.
    pub(crate) fn combination(&mut self, dims: &[DimValue<'_>]) -> u32 {
        if let Some(&number) = self.numbers.get(&KeyRef(dims)) {
            return number;
        }
        self.note_folded(dims);
        let number = self.combinations.len();
        let number = u32::try_from(number).expect("B2: an answer has fewer than 2^32 rows");
        let key = RowKey::of(dims);
        self.bytes += ROW_BYTES + 64 * dims.len();
        self.combinations.push(Arc::clone(&key.0));
        self.numbers.insert(key, number);
        number
    }

    /// Where the row of a cell is; `None` once the answer is too large: the rest is only passed
    /// over.
    fn place(&mut self, window: EventTime, combination: u32) -> Option<usize> {
        if self.over.is_some() {
            return None;
        }
        let window = self.into.row_window(window);
        let next = self.cells.len();
        let place = *self.places.entry((window, combination)).or_insert(next);
        if place == next {
            if next == self.limits.rows_max {
                self.over = Some(ReadError::TooMany { rows_max: self.limits.rows_max });
                return None;
            }
            let aggregates = self.request.empty();
            self.bytes += aggregates.memory_bytes() + ROW_BYTES;
            let (deferred, merged) = (None, false);
            self.cells.push(Cell { window, combination, aggregates, deferred, merged });
        }
        Some(place)
    }

    /// The rows, ascending by window and then by dimension values.
    pub(crate) fn finish(mut self) -> Result<Answer, ReadError> {
        if let Some(over) = self.over {
            return Err(over);
        }
        let mut cells = std::mem::take(&mut self.cells);
        if may_be_taken_back(&self.request) {
            cells.retain(|cell| !is_nothing(&cell.aggregates));
        }
        let ranks = self.ranks();
        cells.sort_unstable_by_key(|cell| (cell.window, ranks[cell.combination as usize]));
        let mut rows = Vec::with_capacity(cells.len());
        for cell in cells {
            match self.row(cell) {
                Ok(row) => rows.push(row),
                Err(damaged) => self.damaged.push(damaged),
            }
        }
        if let Some(error) = damage(&self.damaged, self.request.range) {
            return Err(error);
        }
        let filling = self.filling.into_iter().collect();
        Ok(Answer { rows, filling, folded: self.folded })
    }

    /// The place of each combination in the order of its values.
    fn ranks(&self) -> Vec<u32> {
        let mut order: Vec<(&Arc<[OwnedDimValue]>, u32)> =
            self.combinations.iter().zip(0..).collect();
        order.sort_unstable();
        let mut ranks = vec![0; order.len()];
        for ((_, number), rank) in order.into_iter().zip(0..) {
            ranks[number as usize] = rank;
        }
        ranks
    }

    fn row(&self, cell: Cell) -> Result<Row, CellsDamaged> {
        let Cell { window, combination, aggregates, deferred, .. } = cell;
        let mut estimates = Vec::new();
        if let Some((source, number)) = deferred {
            estimates = vec![None; aggregates.distincts.len()];
            self.stored[source].estimates(number, &mut estimates)?;
        }
        let filling = self.filling.get(&window).copied().unwrap_or(SlotMask::NONE);
        let dims = Arc::clone(&self.combinations[combination as usize]);
        Ok(Row { window, dims, aggregates, estimates, filling })
    }
}

/// Whether what the cells count may be taken back, as sessions are and events never: then all
/// counts of a cell decide whether anything is left in it.
pub(crate) fn may_be_taken_back(request: &ScanRequest) -> bool {
    request.plan.set(request.set).kind == SetKind::Sessions
}

/// What a row costs beside its aggregates and values, about.
pub(crate) const ROW_BYTES: usize = 192;

pub(crate) fn sketch_bytes(aggregates: &Aggregates) -> usize {
    let distincts: usize = aggregates.distincts.iter().map(Distinct::heap_bytes).sum();
    distincts + aggregates.histograms.iter().map(Histogram::heap_bytes).sum::<usize>()
}

pub(crate) fn is_nothing(aggregates: &Aggregates) -> bool {
    aggregates.counts.iter().all(|&count| count == 0)
        && aggregates.sums.iter().all(|sum| sum.is_zero())
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
pub(crate) struct RowKey(pub(crate) Arc<[OwnedDimValue]>);

/// The same, borrowed from a cell.
pub(crate) struct KeyRef<'a, 'b>(pub(crate) &'a [DimValue<'b>]);

impl RowKey {
    pub(crate) fn of(dims: &[DimValue<'_>]) -> Self {
        Self(dims.iter().map(|value| value.into_owned()).collect())
    }
}

impl Hash for RowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for value in &*self.0 {
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
            && self.0.iter().zip(&*key.0).all(|(own, theirs)| *own == theirs.as_ref())
    }
}
