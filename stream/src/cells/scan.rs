//! Reading an open layer: filters by code, the 1-minute cells where no coarser ones are kept.

use nilometer_event::EventTime;

use super::dictionary::{NULL, OTHER, shown};
use super::filter::WantedCodes;
use super::layer::{Layer, LayerCell};
use super::schema::{DIMS_MAX, Projection};
use super::source::{
    CellRef, CellSource, CellView, CellsDamaged, Coverage, DimValue, OwnedDimValue, ScanRequest,
};

impl CellSource for Layer {
    fn scan(
        &self,
        request: &ScanRequest,
        visit: &mut dyn FnMut(CellRef<'_>),
    ) -> Result<(), CellsDamaged> {
        let projection = Projection::new(&self.schema, request);
        let Some(set) = projection.set else { return Ok(()) };
        let places = self.places[set];
        let place = places[request.granularity as usize].or(places[0]);
        let Some(table) = place.map(|place| &self.tables[place]) else { return Ok(()) };
        let range = request.outward();
        let dims = &self.plan().sets[set].dims;
        let dictionaries: Vec<_> =
            projection.dims.iter().map(|&place| &self.dictionaries[dims[place].index()]).collect();
        let wanted: Vec<Option<WantedCodes>> = request
            .filter
            .iter()
            .zip(&dictionaries)
            .map(|(filter, dictionary)| {
                let code = |value: &OwnedDimValue| match value {
                    OwnedDimValue::Null => Some(NULL),
                    OwnedDimValue::Other => Some(OTHER),
                    OwnedDimValue::Text(text) => dictionary.lookup(text),
                };
                let value = |code| dictionary.value(code);
                let filter = filter.as_ref()?;
                Some(WantedCodes::of(filter, code, dictionary.codes(), value))
            })
            .collect();
        let mut values = [DimValue::Null; DIMS_MAX];
        for (cell, key) in table.keys.iter().enumerate() {
            let window = EventTime::from_ms(key.window);
            let code = |place: usize| shown(key.dims[projection.dims[place]]);
            let passes = wanted.iter().enumerate().all(|(place, wanted)| {
                wanted.as_ref().is_none_or(|codes| codes.contain(code(place)))
            });
            if !range.contains(window) || !passes || table.is_blank(cell) {
                continue;
            }
            for (place, dictionary) in dictionaries.iter().enumerate() {
                values[place] = dictionary.value(code(place));
            }
            let cell = LayerCell { layer: self, table, cell, projection: &projection };
            visit(CellRef {
                window,
                granularity: table.granularity,
                dims: &values[..dictionaries.len()],
                aggregates: CellView::layer(cell),
            });
        }
        Ok(())
    }

    fn coverage(&self, request: &ScanRequest) -> Coverage {
        let projection = Projection::new(&self.schema, request);
        if projection.missing.is_empty() {
            return Coverage::default();
        }
        let kind = request.plan.set(request.set).kind;
        Coverage { missing: projection.missing, filling: filling(&self.minutes(kind), request) }
    }
}

/// The asked windows that hold any of these minutes.
pub(super) fn filling(minutes: &[EventTime], request: &ScanRequest) -> Vec<EventTime> {
    let range = request.outward();
    let start = |minute: &EventTime| minute.window_start(request.granularity);
    let mut windows: Vec<_> =
        minutes.iter().map(start).filter(|&one| range.contains(one)).collect();
    windows.dedup();
    windows
}
