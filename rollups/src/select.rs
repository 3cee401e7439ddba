//! Which cells of a block a request selects, and what they are about.

use std::ops::Range;
use std::sync::Arc;

use hashbrown::HashMap;
use nilometer_event::{EventTime, TimeRange};
use nilometer_stream::cells::{CellsDamaged, DimFilter, DimValue, ScanRequest};

use crate::chunk::{Column, Keys, Part};
use crate::gather::Gather;
use crate::project::Projection;

/// A [`Part`] that is known to be keys.
#[derive(Debug)]
pub(crate) struct KeysPart(pub(crate) Arc<Part>);

impl KeysPart {
    pub(crate) fn keys(&self) -> Option<&Keys> {
        match &*self.0 {
            Part::Keys(keys) => Some(keys),
            Part::Numbers(_) | Part::Estimates(_) | Part::Blobs(_) => None,
        }
    }
}

/// Takes the window, the dimension values and the place of a cell.
pub(crate) type Visit<'v, 's> =
    &'v mut dyn FnMut(EventTime, Values<'s>, usize) -> Result<(), CellsDamaged>;

/// The dimension values of one cell of a block.
#[derive(Clone, Copy)]
pub(crate) struct Values<'a> {
    columns: &'a [&'a Column],
    cell: usize,
}

impl<'a> Values<'a> {
    /// Puts the values into `dims`, in place of what it held.
    pub(crate) fn collect_into<'d>(&self, dims: &'d mut Vec<DimValue<'a>>) -> &'d [DimValue<'a>] {
        dims.clear();
        dims.extend(self.columns.iter().map(|column| column.value(self.cell).as_ref()));
        dims
    }

    /// A number that is equal for equal values of one block, and no other; `None` where the
    /// block's values are too many to number.
    fn place(&self) -> Option<u64> {
        self.columns.iter().try_fold(0_u64, |place, column| {
            let own = column.index.get(self.cell).copied().unwrap_or_default();
            place.checked_mul(column.values.len() as u64)?.checked_add(u64::from(own))
        })
    }
}

/// The combinations of one block that an answer has given a number: their texts are compared
/// once a block.
#[derive(Default)]
pub(crate) struct Combinations(HashMap<u64, u32>);

impl Combinations {
    pub(crate) fn number(&mut self, values: &Values<'_>, gather: &mut Gather) -> u32 {
        let place = values.place();
        if let Some(number) = place.and_then(|place| self.0.get(&place)) {
            return *number;
        }
        let number = gather.combination(values.collect_into(&mut Vec::new()));
        if let Some(place) = place {
            self.0.insert(place, number);
        }
        number
    }
}

/// The cells of a block that a request selects.
pub(crate) struct Selected<'a> {
    windows: &'a [(EventTime, Range<usize>)],
    /// In the order of the answer's dimensions.
    columns: Vec<&'a Column>,
    range: TimeRange,
    /// Per dimension of the answer, which of the column's values pass; `None` for all.
    pass: Vec<Option<Vec<bool>>>,
}

impl<'a> Selected<'a> {
    pub(crate) fn new(
        keys: &'a KeysPart,
        projection: &'a Projection,
        request: &ScanRequest,
        range: TimeRange,
    ) -> Self {
        let columns: Vec<&Column> = keys.keys().map_or_else(Vec::new, |keys| {
            projection.dims.iter().filter_map(|&column| keys.dims.get(column)).collect()
        });
        let passes = |(wanted, column): (&Option<DimFilter>, &&Column)| {
            let wanted = wanted.as_ref()?;
            Some(column.values.iter().map(|value| wanted.admits(value.as_ref())).collect())
        };
        let pass = request.filter.iter().zip(&columns).map(passes).collect();
        let windows = keys.keys().map_or(&[][..], |keys| &keys.windows);
        Self { windows, columns, range, pass }
    }

    pub(crate) fn show<'s>(&'s self, visit: Visit<'_, 's>) -> Result<(), CellsDamaged> {
        let columns = &self.columns;
        // Most cells of a block are often not wanted: only these columns decide that.
        let filters: Vec<(&Column, &[bool])> = columns
            .iter()
            .zip(&self.pass)
            .filter_map(|(column, pass)| Some((*column, pass.as_deref()?)))
            .collect();
        if filters.iter().any(|(_, pass)| !pass.contains(&true)) {
            return Ok(());
        }
        let passes = |cell: usize| {
            filters.iter().all(|(column, pass)| {
                let place = column.index.get(cell).map_or(0, |&place| place as usize);
                pass.get(place).copied().unwrap_or(false)
            })
        };
        let wanted = self.windows.iter().filter(|(window, _)| self.range.contains(*window));
        for (window, cells) in wanted {
            for cell in cells.clone().filter(|&cell| passes(cell)) {
                visit(*window, Values { columns, cell }, cell)?;
            }
        }
        Ok(())
    }
}
