//! From when on something is counted: what cells of older plans lack.

use std::collections::BTreeSet;
use std::sync::Arc;

use nilometer_event::{EventTime, Granularity, TimeRange};
use nilometer_stream::cells::{CellSource, Coverage, ScanRequest};

use super::Pinned;
use crate::base::ChunkSource;

impl Pinned {
    /// The end of the last window of the request's range in which some cell lacks a wanted slot,
    /// as fine as cells are kept there; `None` where none does. From it on nothing is missing.
    #[must_use]
    pub fn known_from(&self, request: &ScanRequest) -> Option<EventTime> {
        self.last_lacking(request, Granularity::Day, request.range)
    }

    fn last_lacking(
        &self,
        request: &ScanRequest,
        granularity: Granularity,
        range: TimeRange,
    ) -> Option<EventTime> {
        let finer = Granularity::ALL.into_iter().rev().find(|finer| *finer < granularity);
        for start in self.lacking(request, granularity, range).into_iter().rev() {
            let end = start.plus_ms(granularity.ms());
            let window = TimeRange { start: start.max(range.start), end: end.min(range.end) };
            let found = match finer.filter(|finer| self.kept.keeps(*finer, window)) {
                Some(finer) => self.last_lacking(request, finer, window),
                None => Some(end),
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Windows within `range` in which some cell lacks a wanted slot.
    fn lacking(
        &self,
        request: &ScanRequest,
        granularity: Granularity,
        range: TimeRange,
    ) -> BTreeSet<EventTime> {
        let request = ScanRequest { granularity, range, ..request.clone() };
        let mut windows = BTreeSet::new();
        let mut take = |coverage: Coverage| {
            if !coverage.missing.intersection(request.want).is_empty() {
                windows.extend(coverage.filling);
            }
        };
        for view in &self.views {
            let through = self.version.through(view.partition);
            let layers = view.sealing.iter().chain([&view.open]);
            for layer in layers.filter(|layer| through < layer.number()) {
                take(layer.read().layer.coverage(&request));
            }
        }
        for file in self.version.layers.iter().filter_map(|layer| layer.file.as_ref().ok()) {
            take(file.coverage(&request));
        }
        for chunk in self.version.base.meeting(granularity, request.outward()) {
            take(ChunkSource(Arc::clone(chunk)).coverage(&request));
        }
        let meets =
            |start: &EventTime| *start < range.end && range.start < start.plus_ms(granularity.ms());
        windows.retain(meets);
        windows
    }
}
