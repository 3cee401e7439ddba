//! The finest sets, which events and sessions touch: from codes to cells.

use nilometer_event::EventTime;

use super::dictionary::{Dictionary, OTHER};
use super::guard::{Guard, Lacking, Sender, combination_key, day_of, derived};
use super::pending::Touches;
use super::schema::DIMS_MAX;
use super::shortcut::Shortcut;
use super::table::{Key, Table};
use crate::declare::{DimId, DimensionSet, GuardLimits, Plan, SetId, SetKind};

/// One of the finest sets.
#[derive(Clone, Debug)]
pub(super) struct Cube {
    pub(super) table: usize,
    pub(super) dims: Vec<DimId>,
    /// Where the codes of each dimension lie in [`Touches`].
    pub(super) columns: Vec<usize>,
    /// The guard's name for its combinations; `None` for one dimension, whose values are
    /// guarded already.
    pub(super) guarded: Option<u64>,
    /// The sets that lack combinations once they are folded.
    derived: Lacking,
    shortcut: Shortcut,
}

/// What finding cells needs beside the cube.
pub(super) struct Around<'a> {
    pub(super) tables: &'a mut [Table],
    pub(super) dictionaries: &'a [Dictionary],
    pub(super) guard: &'a mut Guard,
    pub(super) limits: &'a GuardLimits,
}

/// The finest sets of a plan; `table` gives a set's table of minutes, `column` a dimension's
/// column of codes.
pub(super) fn cubes(
    plan: &Plan,
    kind: SetKind,
    table: impl Fn(SetId) -> Option<usize>,
    column: impl Fn(DimId) -> Option<usize>,
) -> Vec<Cube> {
    let finest = plan.sets.iter().enumerate();
    let finest = finest.filter(|(_, set)| set.kind == kind && set.parent.is_none());
    let cube = |(index, set): (usize, &DimensionSet)| {
        let id = SetId::from_index(index).expect("C3: sets are few");
        let definitions = plan.definitions(&set.dims);
        let columns = set.dims.iter().map(|&dim| column(dim)).collect::<Option<_>>();
        Cube {
            table: table(id).expect("C3: each set has a table"),
            dims: set.dims.clone(),
            columns: columns.expect("C3: each dimension of a set is coded"),
            guarded: (definitions.len() > 1).then(|| combination_key(&definitions)),
            derived: derived(plan, id),
            shortcut: Shortcut::default(),
        }
    };
    finest.map(cube).collect()
}

impl Cube {
    /// Fills `cells` with the cell of each touch, new or known; combinations over the guard's
    /// limit share one.
    pub(super) fn find_cells(
        &mut self,
        touches: &Touches,
        around: &mut Around<'_>,
        cells: &mut Vec<u32>,
    ) {
        match self.columns[..] {
            [] => self.find_each(touches, [], around, cells),
            [a] => self.find_each(touches, [a], around, cells),
            [a, b] => self.find_each(touches, [a, b], around, cells),
            [a, b, c] => self.find_each(touches, [a, b, c], around, cells),
            [a, b, c, d, ..] => self.find_each(touches, [a, b, c, d], around, cells),
        }
    }

    /// A loop for each number of dimensions: nothing but the codes differs from event to event.
    fn find_each<const DIMS: usize>(
        &mut self,
        touches: &Touches,
        columns: [usize; DIMS],
        around: &mut Around<'_>,
        cells: &mut Vec<u32>,
    ) {
        let windows = touches.windows.as_slice();
        let columns = columns.map(|column| &touches.codes[column][..windows.len()]);
        cells.clear();
        cells.extend(windows.iter().enumerate().map(|(index, &window)| {
            let codes = columns.map(|column| column[index]);
            match self.shortcut.find(window, codes) {
                Some(cell) => cell,
                None => self.hashed_cell(window, &codes, around),
            }
        }));
    }

    /// The cell by its table.
    #[inline(never)]
    fn hashed_cell(&mut self, window: i64, codes: &[u32], around: &mut Around<'_>) -> u32 {
        let mut key = Key { window, dims: [0; DIMS_MAX] };
        key.dims[..codes.len()].copy_from_slice(codes);
        let table = &mut around.tables[self.table];
        let (known, guarded) = match self.guarded {
            None => (Some(table.cell(&key)), 0),
            Some(guarded) => (table.find(&key), guarded),
        };
        if let Some(cell) = known {
            self.shortcut.learn(&key, cell);
            return cell;
        }
        let texts = self.dims.iter().zip(codes);
        let hashes: Vec<u64> =
            texts.map(|(dim, &code)| around.dictionaries[dim.index()].stable_hash(code)).collect();
        let (limits, day) = (around.limits, day_of(EventTime::from_ms(window)));
        let value = combination_key(&hashes);
        let (of, nobody) = ((guarded, day), Sender::NOBODY);
        if !around.guard.admit(of, value, nobody, limits.combinations_max, limits) {
            around.guard.note_lacking(guarded, day, &self.derived);
            around.guard.watch(of, value, nobody, limits);
            key.dims[..codes.len()].fill(OTHER);
            return table.cell(&key);
        }
        let cell = table.cell(&key);
        self.shortcut.learn(&key, cell);
        cell
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.shortcut.memory_bytes()
    }
}
