//! A chunk as a fold reads it: beside layers, past the cache.

use std::sync::Arc;

use nilometer_stream::cells::{CellRef, CellSource, CellView, CellsDamaged, Coverage, ScanRequest};

use super::{Chunk, OpenBlock, Reader};
use crate::project::Projection;
use crate::select::Selected;

/// A chunk as one of many sources: what a fold merges.
#[derive(Debug)]
pub(crate) struct ChunkSource(pub(crate) Arc<Chunk>);

impl CellSource for ChunkSource {
    fn scan(
        &self,
        request: &ScanRequest,
        visit: &mut dyn FnMut(CellRef<'_>),
    ) -> Result<(), CellsDamaged> {
        let chunk = &self.0;
        let footer = chunk.footer()?;
        let projection = Arc::new(Projection::new(&footer, request));
        let Some(set) = projection.set else { return Ok(()) };
        let range = request.outward();
        for (place, _) in Chunk::blocks(&footer, set, range) {
            let block = OpenBlock::new(chunk, &footer, place, &projection, Reader::Fold);
            let keys = block.keys()?;
            let cells = Selected::new(&keys, &projection, request, range);
            let mut dims = Vec::new();
            cells.show(&mut |window, values, cell| {
                let mut aggregates = request.empty();
                block.merge(cell, &mut aggregates)?;
                block.merge_distincts(cell, &mut aggregates)?;
                visit(CellRef {
                    window,
                    granularity: chunk.meta.key.granularity,
                    dims: values.collect_into(&mut dims),
                    aggregates: CellView::whole(&aggregates, request.want),
                });
                Ok(())
            })?;
        }
        Ok(())
    }

    fn coverage(&self, request: &ScanRequest) -> Coverage {
        let known = self.0.footer().and_then(|footer| {
            let projection = Projection::new(&footer, request);
            self.0.coverage_of(&footer, &projection, request)
        });
        // A scan of the same request says what is damaged.
        known.unwrap_or_default()
    }
}
