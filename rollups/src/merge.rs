//! Merges the cells of one dimension set over a range of windows, within a bound of memory.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;
use nilometer_event::{EventTime, Granularity, TimeRange};
use nilometer_stream::aggregate::Aggregates;
use nilometer_stream::cells::{CellRef, CellsDamaged, OwnedDimValue, ScanRequest};

use crate::error::FoldError;
use crate::fold::FoldSource;
use crate::gather::{KeyRef, RowKey, sketch_bytes};

/// How a merge ended.
#[derive(Debug)]
pub(crate) enum Merged {
    /// Every cell is written.
    All,
    /// An older chunk does not read; what was written is of no use.
    ChunkDamaged,
    /// Every cell is written but those of these layer files, for the reasons, in these windows.
    Lost(Vec<(String, String, TimeRange)>),
}

/// Takes merged cells, ascending by window, then by values.
pub(crate) trait CellOut {
    /// One cell.
    ///
    /// # Errors
    ///
    /// [`FoldError`] of the writer.
    fn cell(
        &mut self,
        window: EventTime,
        dims: &[OwnedDimValue],
        aggregates: &Aggregates,
    ) -> Result<(), FoldError>;

    /// So many of the cells in a window have something from layers.
    fn added(&mut self, window: EventTime, cells: u64);
}

/// Writes the cells of `request`, merged over all sources, in order. Layers come before chunks
/// in `sources`.
///
/// A range whose cells are over `bytes_max` (about) is halved until one window is left, and
/// what follows is taken in ranges that fitted; a range in which a layer does not read is
/// halved too, so that as few windows as possible are lost.
///
/// What is written comes from one pass in which every source was read whole, but for those
/// layers that are told as lost in that very range: a pass that meets damage writes nothing.
///
/// # Errors
///
/// [`FoldError`] of the writer.
pub(crate) fn merge(
    request: &ScanRequest,
    sources: &[FoldSource<'_>],
    bytes_max: usize,
    out: &mut dyn CellOut,
) -> Result<Merged, FoldError> {
    let mut lost = Vec::new();
    // How many windows are thought to fit.
    let mut fit = i64::MAX;
    // The last is the earliest: cells are written ascending.
    let mut ranges = vec![request.range];
    while let Some(range) = ranges.pop() {
        if let Some([first, rest]) = cut(range, fit, request) {
            ranges.extend([rest, first]);
            continue;
        }
        let mut part = request.clone();
        part.range = range;
        let whole = match halves(range, &part) {
            None => whole_window(&part, sources, &mut lost),
            Some([first, second]) => {
                let mut table = Table::new(&part, bytes_max);
                match table.fill(sources, &[]) {
                    Filled::All => Some(table),
                    Filled::ChunkDamaged => None,
                    Filled::Over => {
                        fit = windows(second, &part);
                        ranges.extend([second, first]);
                        continue;
                    }
                    Filled::LayersDamaged(_) => {
                        ranges.extend([second, first]);
                        continue;
                    }
                }
            }
        };
        let Some(table) = whole else { return Ok(Merged::ChunkDamaged) };
        if table.bytes < bytes_max / 4 {
            fit = fit.saturating_mul(2);
        }
        table.write(out)?;
    }
    Ok(if lost.is_empty() { Merged::All } else { Merged::Lost(lost) })
}

/// One window, which the cardinality guard bounds: it is held whatever it takes. Layers that do
/// not read go to `lost`, and the window is read again without them, until a pass meets no
/// other. `None` where a chunk does not read.
fn whole_window<'a>(
    window: &'a ScanRequest,
    sources: &[FoldSource<'_>],
    lost: &mut Vec<(String, String, TimeRange)>,
) -> Option<Table<'a>> {
    let mut without = Vec::new();
    loop {
        let mut table = Table::new(window, usize::MAX);
        match table.fill(sources, &without) {
            Filled::All => return Some(table),
            Filled::ChunkDamaged => return None,
            Filled::LayersDamaged(damaged) => {
                for (source, one) in damaged {
                    without.push(source);
                    lost.push((one.file, one.reason, window.range));
                }
            }
            Filled::Over => unreachable!("B1: a window is over a bound that it does not have"),
        }
    }
}

/// How many windows a range has.
fn windows(range: TimeRange, request: &ScanRequest) -> i64 {
    range.end.since(range.start) / request.granularity.ms()
}

/// The first `windows` of a range and the rest; `None` where there is no rest.
fn cut(range: TimeRange, windows_max: i64, request: &ScanRequest) -> Option<[TimeRange; 2]> {
    if windows(range, request) <= windows_max {
        return None;
    }
    let end = range.start.plus_ms(windows_max.max(1) * request.granularity.ms());
    Some([TimeRange { start: range.start, end }, TimeRange { start: end, end: range.end }])
}

/// A range cut at a window near its middle; `None` for a single window.
fn halves(range: TimeRange, request: &ScanRequest) -> Option<[TimeRange; 2]> {
    let windows = windows(range, request);
    if windows < 2 { None } else { cut(range, windows / 2, request) }
}

enum Filled {
    All,
    /// Over the bound of memory.
    Over,
    ChunkDamaged,
    /// Which sources, and why.
    LayersDamaged(Vec<(usize, CellsDamaged)>),
}

/// The merged cells of some windows.
struct Table<'a> {
    request: &'a ScanRequest,
    granularity: Granularity,
    windows: BTreeMap<EventTime, HashMap<RowKey, Aggregates>>,
    /// By window the cells that layers have added, once they are in.
    added: Option<Vec<(EventTime, u64)>>,
    /// Bytes in memory, about.
    bytes: usize,
    bytes_max: usize,
}

impl<'a> Table<'a> {
    fn new(request: &'a ScanRequest, bytes_max: usize) -> Self {
        Self {
            request,
            granularity: request.granularity,
            windows: BTreeMap::new(),
            added: None,
            bytes: 0,
            bytes_max,
        }
    }

    fn fill(&mut self, sources: &[FoldSource<'_>], without: &[usize]) -> Filled {
        let mut damaged = Vec::new();
        for (place, source) in sources.iter().enumerate() {
            if without.contains(&place) {
                continue;
            }
            if matches!(source, FoldSource::Chunk(_)) {
                self.note_added();
            }
            let scanned = source.cells().scan(self.request, &mut |cell| self.add(&cell));
            match (scanned, source) {
                (Err(_), FoldSource::Chunk(_)) => return Filled::ChunkDamaged,
                (Err(one), FoldSource::Layer(_)) => damaged.push((place, one)),
                (Ok(()), _) => {}
            }
            if self.bytes > self.bytes_max {
                return Filled::Over;
            }
        }
        self.note_added();
        if damaged.is_empty() { Filled::All } else { Filled::LayersDamaged(damaged) }
    }

    /// Notes what is there once the layers are in and no chunk is yet; later calls do nothing.
    fn note_added(&mut self) {
        let cells = |(window, table): (&EventTime, &HashMap<_, _>)| (*window, table.len() as u64);
        self.added.get_or_insert_with(|| self.windows.iter().map(cells).collect());
    }

    fn add(&mut self, cell: &CellRef<'_>) {
        // Over the bound the cells are thrown away: only their place in the scan is lost.
        if self.bytes > self.bytes_max {
            return;
        }
        let window = cell.window.window_start(self.granularity);
        let table = match self.windows.last_entry() {
            // Cells of a source come in order: mostly it is the window of the one before.
            Some(last) if *last.key() == window => last.into_mut(),
            _ => self.windows.entry(window).or_default(),
        };
        let own = match table.entry_ref(&KeyRef(cell.dims)) {
            EntryRef::Occupied(known) => known.into_mut(),
            EntryRef::Vacant(new) => {
                let empty = self.request.empty();
                self.bytes += empty.memory_bytes() + 64 * (1 + cell.dims.len());
                new.insert_with_key(RowKey::of(cell.dims), empty)
            }
        };
        let before = sketch_bytes(own);
        cell.aggregates.merge_into(own);
        self.bytes += sketch_bytes(own).saturating_sub(before);
    }

    fn write(self, out: &mut dyn CellOut) -> Result<(), FoldError> {
        for (window, cells) in self.added.unwrap_or_default() {
            out.added(window, cells);
        }
        for (window, table) in self.windows {
            let mut cells: Vec<(RowKey, Aggregates)> = table.into_iter().collect();
            cells.sort_unstable_by(|a, b| a.0.0.cmp(&b.0.0));
            for (key, aggregates) in cells.iter().filter(|(_, cell)| !cell.is_empty()) {
                out.cell(window, &key.0, aggregates)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
