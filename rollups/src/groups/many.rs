//! Whether the rows of an answer are more than memory holds, before any is read.

use std::collections::BTreeMap;

use nilometer_event::EventTime;
use nilometer_stream::cells::ScanRequest;

use crate::base::Chunk;
use crate::gather::ROW_BYTES;
use crate::pinned::{Ask, Pinned, Rows};
use crate::project::Projection;

impl Pinned {
    /// Whether chunks alone are known to hold more rows than [`Pinned::read_together`] may keep:
    /// then [`Pinned::groups`] reads them once, and not a second time after the first has failed.
    #[must_use]
    pub fn has_too_many(&self, ask: &Ask) -> bool {
        // How much a filter leaves is not known.
        if ask.request.filter.iter().any(Option::is_some) {
            return false;
        }
        let Ok((gather, tiles)) = self.begin(ask) else { return false };
        let row_bytes = gather.request().empty().memory_bytes() + ROW_BYTES;
        let limits = self.limits_at_once();
        let fit = limits.rows_max.min(ask.rows_max).min(limits.bytes_max / row_bytes);
        let rows: Vec<usize> =
            tiles.iter().map(|tile| self.rows_at_least(tile, ask.rows)).collect();
        match ask.rows {
            Rows::Windows => rows.iter().sum::<usize>() > fit,
            Rows::Total => rows.iter().any(|rows| *rows > fit),
        }
    }

    /// Rows that one tile has at least: no chunk has a cell twice.
    fn rows_at_least(&self, tile: &ScanRequest, rows: Rows) -> usize {
        let mut by_span: BTreeMap<EventTime, usize> = BTreeMap::new();
        for chunk in self.base().meeting(tile.granularity, tile.outward()) {
            let most = by_span.entry(chunk.meta.key.start).or_default();
            *most = (*most).max(cells_at_least(chunk, tile, rows).unwrap_or(0));
        }
        match rows {
            Rows::Windows => by_span.values().sum(),
            Rows::Total => by_span.values().copied().max().unwrap_or(0),
        }
    }
}

/// Cells of a chunk that lie in the tile as a whole; of one window where windows make one row.
fn cells_at_least(chunk: &Chunk, tile: &ScanRequest, rows: Rows) -> Option<usize> {
    // Whoever reads it meets the damage.
    let footer = chunk.footer().ok()?;
    let set = Projection::new(&footer, tile).set?;
    let range = tile.outward();
    let mut cells: BTreeMap<EventTime, usize> = BTreeMap::new();
    for (_, block) in Chunk::blocks(&footer, set, range) {
        let within = range.start <= block.first && block.last < range.end;
        let window = match rows {
            Rows::Windows => Some(EventTime::MIN),
            Rows::Total => (block.first == block.last).then_some(block.first),
        };
        if let Some(window) = window.filter(|_| within) {
            *cells.entry(window).or_default() += block.cells as usize;
        }
    }
    cells.into_values().max()
}
