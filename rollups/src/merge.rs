//! Merges the cells of one dimension set over a range of windows, within a bound of memory.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;
use nilometer_event::{EventTime, Granularity, TimeRange};
use nilometer_stream::aggregate::Aggregates;
use nilometer_stream::cells::{CellRef, CellsDamaged, DimValue, OwnedDimValue, ScanRequest};

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
    /// This layer's file, for the reason, does not read any more in a window of which a part is
    /// written; what was written is of no use.
    Torn(String, String),
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
/// halved too, so that as few windows as possible are lost. A window that is over it by itself is
/// read several times, each for the cells that follow those before.
///
/// What is written of a range comes from passes in which every source was read whole, but for those
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
        let Some([first, second]) = halves(range, &part) else {
            match write_window(&part, sources, bytes_max, &mut lost, out)? {
                Ok(bytes) if bytes < bytes_max / 4 => fit = fit.saturating_mul(2),
                Ok(_) => {}
                Err(ended) => return Ok(ended),
            }
            continue;
        };
        let mut table = Table::new(&part, bytes_max);
        match table.fill(sources, &[]) {
            Filled::All => {
                if table.bytes < bytes_max / 4 {
                    fit = fit.saturating_mul(2);
                }
                table.write(out)?;
            }
            Filled::ChunkDamaged => return Ok(Merged::ChunkDamaged),
            Filled::Over => {
                fit = windows(second, &part);
                ranges.extend([second, first]);
            }
            Filled::LayersDamaged(_) => ranges.extend([second, first]),
        }
    }
    Ok(if lost.is_empty() { Merged::All } else { Merged::Lost(lost) })
}

/// Writes one window, part by part where it is over the bound; how many bytes it took at most, or
/// how the merge ended. Layers that do not read go to `lost`, and the window is read again without
/// them, until a pass meets no other.
fn write_window(
    window: &ScanRequest,
    sources: &[FoldSource<'_>],
    bytes_max: usize,
    lost: &mut Vec<(String, String, TimeRange)>,
    out: &mut dyn CellOut,
) -> Result<Result<usize, Merged>, FoldError> {
    let mut without = Vec::new();
    let mut part = Part::default();
    let mut bytes = 0;
    loop {
        let begun = part.after.is_some();
        let mut table = Table::of_part(window, bytes_max, part);
        match table.fill(sources, &without) {
            Filled::All => {}
            Filled::ChunkDamaged => return Ok(Err(Merged::ChunkDamaged)),
            Filled::LayersDamaged(damaged) => {
                part = Part { after: table.part.and_then(|part| part.after), through: None };
                for (source, one) in damaged {
                    if begun {
                        return Ok(Err(Merged::Torn(one.file, one.reason)));
                    }
                    without.push(source);
                    lost.push((one.file, one.reason, window.range));
                }
                continue;
            }
            Filled::Over => unreachable!("B1: a part of a window is over a bound that it keeps"),
        }
        bytes = table.bytes.max(bytes);
        let after = table.part.as_mut().and_then(|part| part.through.take());
        table.write(out)?;
        match after {
            Some(_) => part = Part { after, through: None },
            None => return Ok(Ok(bytes)),
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

/// Which cells of a window are taken, by their values.
#[derive(Debug, Default)]
struct Part {
    /// Those up to here were written before.
    after: Option<RowKey>,
    /// Those behind this one had no room.
    through: Option<RowKey>,
}

impl Part {
    fn takes(&self, dims: &[DimValue<'_>]) -> bool {
        self.after.as_ref().is_none_or(|after| order(dims, after) == Ordering::Greater)
            && self.through.as_ref().is_none_or(|last| order(dims, last) != Ordering::Greater)
    }
}

fn order(dims: &[DimValue<'_>], key: &RowKey) -> Ordering {
    dims.iter().copied().cmp(key.0.iter().map(OwnedDimValue::as_ref))
}

/// What a cell takes beside its sketches, about.
fn cell_bytes(empty: &Aggregates, key: &RowKey) -> usize {
    let text = |value: &OwnedDimValue| match value {
        OwnedDimValue::Text(text) => text.len(),
        OwnedDimValue::Null | OwnedDimValue::Other => 0,
    };
    empty.memory_bytes() + 64 * (1 + key.0.len()) + key.0.iter().map(text).sum::<usize>()
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
    /// Of a single window: what has no room waits for another pass.
    part: Option<Part>,
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
            part: None,
        }
    }

    fn of_part(window: &'a ScanRequest, bytes_max: usize, part: Part) -> Self {
        Self { part: Some(part), ..Self::new(window, bytes_max) }
    }

    const fn is_over(&self) -> bool {
        self.bytes > self.bytes_max && self.part.is_none()
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
            if self.is_over() {
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
        let is_taken = self.part.as_ref().is_none_or(|part| part.takes(cell.dims));
        if self.is_over() || !is_taken {
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
                let (empty, key) = (self.request.empty(), RowKey::of(cell.dims));
                self.bytes += cell_bytes(&empty, &key);
                new.insert_with_key(key, empty)
            }
        };
        let before = sketch_bytes(own);
        cell.aggregates.merge_into(own);
        self.bytes += sketch_bytes(own).saturating_sub(before);
        if self.bytes > self.bytes_max {
            self.halve();
        }
    }

    /// Leaves the second half of a single window's cells to another pass.
    #[cold]
    fn halve(&mut self) {
        let Some(part) = &mut self.part else { return };
        let Some((&window, table)) = self.windows.iter_mut().next() else { return };
        if table.len() < 2 {
            return;
        }
        let mut cells: Vec<(RowKey, Aggregates)> = std::mem::take(table).into_iter().collect();
        cells.sort_unstable_by(|a, b| a.0.0.cmp(&b.0.0));
        cells.truncate(cells.len() / 2);
        part.through = cells.last().map(|(key, _)| RowKey(Arc::clone(&key.0)));
        let empty = self.request.empty();
        let own = |(key, own): &(RowKey, Aggregates)| cell_bytes(&empty, key) + sketch_bytes(own);
        self.bytes = cells.iter().map(own).sum();
        self.windows.insert(window, cells.into_iter().collect());
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
