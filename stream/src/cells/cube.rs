//! The sets that events and sessions touch: from codes to cells.
//!
//! A touch goes to its cell of each of the finest sets, and from there up to those that are derived
//! from them. Where the guard folds its combination it goes to the set's rest, which is carried no
//! further: the sets behind get the touch by its own codes, so that they lack nothing of it.

use nilometer_event::EventTime;
use smallvec::SmallVec;

use super::dictionary::{Dictionary, OTHER, REST};
use super::guard::{Guard, Lacking, Sender, Verdict, combination_key, day_of, lacking};
use super::pending::{Columns, Touches};
use super::schema::DIMS_MAX;
use super::shortcut::Shortcut;
use super::table::{Key, Table};
use crate::declare::{DimId, DimensionSet, GuardLimits, Plan, SetId, SetKind};

/// A set whose cells are found by codes.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) table: usize,
    pub(super) dims: Vec<DimId>,
    /// Where the codes of each dimension lie in [`Touches`].
    pub(super) columns: Vec<usize>,
    /// The guard's name for its combinations; `None` for one dimension, whose values are
    /// guarded already.
    pub(super) guarded: Option<u64>,
    /// The sets that lack combinations once they are folded.
    lacking: Lacking,
    /// The code of what is folded.
    rest: u32,
    /// The sets that are derived from it, in [`Cubes::derived`].
    pub(super) behind: Vec<usize>,
}

/// One of the finest sets.
#[derive(Clone, Debug)]
pub(super) struct Cube {
    pub(super) node: Node,
    shortcut: Shortcut,
}

/// The sets of one kind.
#[derive(Clone, Debug)]
pub(super) struct Cubes {
    pub(super) finest: Vec<Cube>,
    pub(super) derived: Vec<Node>,
    /// For each of these what the entry at hand adds to it by codes, until the cube is done.
    pub(super) late: Vec<Late>,
}

/// What an entry adds to a derived set past those that it is derived from.
#[derive(Clone, Debug, Default)]
pub(super) struct Late {
    /// Events or sessions, ascending.
    pub(super) rows: Vec<u32>,
    /// The cell of each.
    pub(super) cells: Vec<u32>,
}

/// What finding cells needs beside the cube.
pub(super) struct Around<'a> {
    pub(super) tables: &'a mut [Table],
    pub(super) dictionaries: &'a [Dictionary],
    pub(super) guard: &'a mut Guard,
    pub(super) limits: &'a GuardLimits,
}

/// As [`Cubes::derived`] and [`Cubes::late`].
pub(super) type Behind<'a> = (&'a [Node], &'a mut [Late]);

/// One event or session.
#[derive(Clone, Copy)]
struct Touch<'a> {
    touches: &'a Touches,
    row: usize,
}

impl Cubes {
    /// Those of a plan; `table` gives a set's table of minutes, `column` a dimension's column of
    /// codes.
    pub(super) fn of(
        plan: &Plan,
        kind: SetKind,
        table: impl Fn(SetId) -> Option<usize>,
        column: impl Fn(DimId) -> Option<usize>,
    ) -> Self {
        let sets = plan.sets.iter().enumerate().filter(|(_, set)| set.kind == kind);
        let named =
            sets.map(|(index, set)| (SetId::from_index(index).expect("C3: sets are few"), set));
        let (finest, derived): (Vec<_>, Vec<_>) = named.partition(|(_, set)| set.parent.is_none());
        let behind = |of: SetId| {
            let sets = derived.iter().enumerate();
            sets.filter(move |(_, (_, set))| set.parent == Some(of)).map(|(place, _)| place)
        };
        let node = |&(id, set): &(SetId, &DimensionSet)| {
            let definitions = plan.definitions(&set.dims);
            let columns = set.dims.iter().map(|&dim| column(dim)).collect::<Option<_>>();
            let guarded = (definitions.len() > 1).then(|| combination_key(&definitions));
            Node {
                table: table(id).expect("C3: each set has a table"),
                dims: set.dims.clone(),
                columns: columns.expect("C3: each dimension of a set is coded"),
                guarded,
                lacking: lacking(plan, id),
                rest: if plan.guard.carries_rest() { OTHER } else { REST },
                behind: behind(id).collect(),
            }
        };
        let cube = |set| Cube { node: node(set), shortcut: Shortcut::default() };
        Self {
            finest: finest.iter().map(cube).collect(),
            late: vec![Late::default(); derived.len()],
            derived: derived.iter().map(node).collect(),
        }
    }

    /// All sets that have combinations.
    pub(super) fn guarded(&self) -> impl Iterator<Item = (u64, &Node)> {
        let all = self.finest.iter().map(|cube| &cube.node).chain(&self.derived);
        all.filter_map(|node| Some((node.guarded?, node)))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.finest.iter().map(|cube| cube.shortcut.memory_bytes()).sum()
    }
}

/// What came by codes to the sets behind a cube, each with its table; it is there no more, for it
/// is rare and may be much.
pub(super) fn take_late<'a>(
    (derived, late): Behind<'a>,
) -> impl Iterator<Item = (usize, Late)> + 'a {
    let late = derived.iter().zip(late).filter(|(_, late)| !late.rows.is_empty());
    late.map(|(node, late)| (node.table, std::mem::take(late)))
}

impl Cube {
    /// Fills `cells` with the cell of each touch, new or known; combinations over the guard's
    /// limit share one, and go on to the sets `behind` by their own codes.
    pub(super) fn find_cells(
        &mut self,
        touches: &Touches,
        around: &mut Around<'_>,
        cells: &mut Vec<u32>,
        behind: Behind<'_>,
    ) {
        match self.node.columns[..] {
            [] => self.find_each(touches, [], around, cells, behind),
            [a] => self.find_each(touches, [a], around, cells, behind),
            [a, b] => self.find_each(touches, [a, b], around, cells, behind),
            [a, b, c] => self.find_each(touches, [a, b, c], around, cells, behind),
            [a, b, c, d, ..] => self.find_each(touches, [a, b, c, d], around, cells, behind),
        }
    }

    /// A loop for each number of dimensions: nothing but the codes differs from event to event.
    fn find_each<const DIMS: usize>(
        &mut self,
        touches: &Touches,
        columns: [usize; DIMS],
        around: &mut Around<'_>,
        cells: &mut Vec<u32>,
        (derived, late): Behind<'_>,
    ) {
        let windows = touches.windows.as_slice();
        let columns = columns.map(|column| &touches.codes[column][..windows.len()]);
        cells.clear();
        cells.extend(windows.iter().enumerate().map(|(row, &window)| {
            let codes = columns.map(|column| column[row]);
            match self.shortcut.find(window, codes) {
                Some(cell) => cell,
                None => self.hashed_cell(Touch { touches, row }, around, (derived, &mut *late)),
            }
        }));
    }

    /// The cell by its table.
    #[inline(never)]
    fn hashed_cell(
        &mut self,
        touch: Touch<'_>,
        around: &mut Around<'_>,
        behind: Behind<'_>,
    ) -> u32 {
        let node = &self.node;
        let own = node.key(touch);
        let known = match node.guarded {
            None => Some(around.tables[node.table].cell(&own)),
            Some(_) => around.tables[node.table].find(&own),
        };
        let is_own = known.is_some() || node.admits(touch, around, behind.0);
        let key = if is_own { own } else { node.rest(&own) };
        let cell = known.unwrap_or_else(|| around.tables[node.table].cell(&key));
        if key.is_rest() {
            node.go_on(touch, around, behind);
        } else if is_own {
            self.shortcut.learn(&key, cell);
        }
        cell
    }
}

impl Node {
    fn key(&self, Touch { touches, row }: Touch<'_>) -> Key {
        let mut key = Key { window: touches.windows[row], dims: [0; DIMS_MAX] };
        for (dim, &column) in key.dims.iter_mut().zip(&self.columns) {
            *dim = touches.codes[column][row];
        }
        key
    }

    /// The cell that combinations share once they are folded.
    pub(super) fn rest(&self, key: &Key) -> Key {
        let mut rest = *key;
        rest.dims[..self.columns.len()].fill(self.rest);
        rest
    }

    /// Notes the cells of the sets behind that a touch goes to by its own codes.
    fn go_on(&self, touch: Touch<'_>, around: &mut Around<'_>, (derived, late): Behind<'_>) {
        for &place in &self.behind {
            let node = &derived[place];
            // What a cell has by way of other combinations says nothing of this one.
            let own = node.key(touch);
            let key = if node.admits(touch, around, derived) { own } else { node.rest(&own) };
            late[place].cells.push(around.tables[node.table].cell(&key));
            late[place].rows.push(Columns::row(touch.row));
            if key.is_rest() {
                node.go_on(touch, around, (derived, &mut *late));
            }
        }
    }

    /// Whether the guard has a place for a touch's combination. One that is new to the day is told
    /// to the sets behind, too: what they have of it is whole, or known not to be.
    fn admits(&self, touch: Touch<'_>, around: &mut Around<'_>, derived: &[Self]) -> bool {
        let Some((of, value, verdict)) = self.ask(touch, around) else { return true };
        if verdict == Verdict::New && self.rest == REST {
            self.tell_behind(touch, around, derived);
        } else if verdict == Verdict::Folded {
            let sender = touch.sender(around.limits);
            around.guard.watch(of, value, sender, around.limits);
        }
        verdict != Verdict::Folded
    }

    fn tell_behind(&self, touch: Touch<'_>, around: &mut Around<'_>, derived: &[Self]) {
        for node in self.behind.iter().map(|&place| &derived[place]) {
            node.ask(touch, around);
            node.tell_behind(touch, around, derived);
        }
    }

    /// What becomes of a touch's combination on its day; `None` where its values are guarded by
    /// themselves.
    fn ask(&self, touch: Touch<'_>, around: &mut Around<'_>) -> Option<((u64, i64), u64, Verdict)> {
        let guarded = self.guarded?;
        let Around { dictionaries, guard, limits, .. } = around;
        let codes = self.columns.iter().map(|&column| touch.touches.codes[column][touch.row]);
        let hashes = self.dims.iter().zip(codes);
        let hashes: SmallVec<[u64; DIMS_MAX]> =
            hashes.map(|(dim, code)| dictionaries[dim.index()].stable_hash(code)).collect();
        let day = day_of(EventTime::from_ms(touch.touches.windows[touch.row]));
        let (of, value) = ((guarded, day), combination_key(&hashes));
        let sender = touch.sender(limits);
        let verdict = guard.judge(of, value, sender, limits.combinations_max, limits);
        if verdict == Verdict::Folded {
            guard.note_lacking(guarded, day, &self.lacking);
        }
        Some((of, value, verdict))
    }
}

impl Touch<'_> {
    /// Who brings it, with how many combinations he may.
    fn sender(self, limits: &GuardLimits) -> Sender {
        self.touches.sender(self.row).of_combinations(limits)
    }
}
