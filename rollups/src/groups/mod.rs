//! Answers group by group: for questions over more values than memory holds rows of.
//!
//! Cells of chunks lie sorted; those of layers are packed and sorted, for they are as many as
//! layers hold. A merge of both shows one group after the other with all that belongs to it, in
//! memory for a block a run. Who asks for the first few of many keeps those, and no more.
//!
//! Everything that is held is on one account (`account.rs`), before it is held: an answer that
//! needs more is refused.

mod account;
mod key;
mod many;
mod packed;
mod rows;
mod run;

use std::collections::BTreeSet;
use std::sync::Arc;

use nilometer_event::EventTime;
use nilometer_stream::aggregate::{Aggregates, Shape, SlotMask};
use nilometer_stream::cells::{
    CellRef, CellSource, CellsDamaged, DimFilter, DimValue, Layer, OwnedDimValue, ScanRequest,
};

use crate::base::{Base, Chunk};
use crate::error::ReadError;
use crate::gather::{Gather, ROW_BYTES};
use crate::pinned::{Ask, Intake, Moment, Pinned, note_unopened};
use crate::version::AdoptedLayer;
use account::{Account, Charge};
use packed::{Packed, Unpacked};
use rows::GroupRows;
use run::{ChunkCells, ChunkRun, Naming, Shelf, Unread};

/// One of the questions that are answered group by group.
#[derive(Clone, Debug)]
pub struct GroupAsk {
    /// Which cells.
    pub ask: Ask,
    /// The set's dimensions that make a group, by their places, ascending.
    pub by: Vec<usize>,
    /// For each dimension of the set, what a cell must be to belong to a group: the request may
    /// ask for folded values beside that.
    pub wanted: Vec<Option<DimFilter>>,
    /// What is added to this question's windows where they make groups.
    pub shift_ms: i64,
}

/// What makes a group, beside the values of its dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupsOf {
    /// Nothing: a group has rows of all windows.
    Values,
    /// The window of its rows, too.
    WindowsAndValues,
}

/// Everything that belongs to one combination of values.
#[derive(Debug)]
pub struct Group {
    /// The values, in the order of [`GroupAsk::by`].
    pub dims: Arc<[OwnedDimValue]>,
    /// Question, window and counts of each row; none of them twice.
    pub rows: Vec<(usize, EventTime, Aggregates)>,
}

/// What is known of one question's rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupNotes {
    /// Windows in which wanted slots read as null, ascending.
    pub filling: Vec<(EventTime, SlotMask)>,
    /// For each dimension of the set whether values of it are folded into `__other__`.
    pub folded: Vec<bool>,
    /// Window and values of each cell with folded values, wanted or not, ascending.
    pub rest: Vec<(EventTime, Arc<[OwnedDimValue]>)>,
}

/// Groups in ascending order.
#[derive(Debug)]
pub struct Groups {
    /// The cells hold exactly what its facts count.
    pub moment: Moment,
    /// By question.
    pub notes: Vec<GroupNotes>,
    requests: Arc<[ScanRequest]>,
    of: GroupsOf,
    chunks: Vec<ChunkCells>,
    shelf: Shelf,
    packed: Packed,
    runs: Vec<Run>,
    /// Runs that have cells, the one with the least key first; each is before those below it.
    heap: Vec<usize>,
    account: Arc<Account>,
    /// For the runs and their keys.
    charge: Charge,
}

#[derive(Debug)]
struct Run {
    /// Of the cell that it stands at.
    key: Vec<u8>,
    cells: RunCells,
}

#[derive(Debug)]
enum RunCells {
    /// From this one on.
    Packed(usize),
    Chunk(ChunkRun),
}

impl Pinned {
    /// Answers all questions of one moment, group by group in ascending order.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn groups(&self, asks: &[GroupAsk], of: GroupsOf) -> Result<Groups, ReadError> {
        let account = Account::new(self.limits().bytes_max);
        let mut asked = Vec::with_capacity(asks.len());
        for (number, ask) in (0..).zip(asks) {
            let (gather, tiles) = self.begin(&ask.ask)?;
            let naming = Naming {
                by: ask.by.clone(),
                wanted: ask.wanted.as_slice().into(),
                window_shift_ms: (of == GroupsOf::WindowsAndValues).then_some(ask.shift_ms),
                into: gather.rows_into(),
            };
            let charge = Charge::nothing(&account);
            asked.push(Asked { number, gather, tiles, naming, rest: BTreeSet::new(), charge });
        }
        let requests: Arc<[ScanRequest]> =
            asked.iter().map(|own| own.gather.request().clone()).collect();
        let shapes: Vec<Shape> = requests.iter().map(|request| request.empty().shape()).collect();
        let mut taken = Taken {
            asked,
            packed: Packed::new(shapes.into(), &account),
            chunks: Vec::new(),
            runs: Vec::new(),
            shelf: Shelf::new(&account),
            charge: Charge::nothing(&account),
            account,
        };
        let moment = self.read_all(&mut taken);
        taken.finish(requests, of, moment)
    }
}

/// What has been read so far.
struct Taken {
    asked: Vec<Asked>,
    packed: Packed,
    chunks: Vec<ChunkCells>,
    runs: Vec<ChunkRun>,
    shelf: Shelf,
    /// For the runs.
    charge: Charge,
    account: Arc<Account>,
}

/// One question, and what is known of its rows.
struct Asked {
    number: u16,
    /// It holds no cells: only what is noted.
    gather: Gather,
    tiles: Vec<ScanRequest>,
    naming: Naming,
    /// Window and values of the cells with folded values.
    rest: BTreeSet<(EventTime, Arc<[OwnedDimValue]>)>,
    /// For `rest`.
    charge: Charge,
}

impl Asked {
    /// Notes a cell with folded values.
    fn note_rest(&mut self, window: EventTime, dims: &[DimValue<'_>]) {
        self.gather.note_folded(dims);
        let cell = (window, dims.iter().map(|value| value.into_owned()).collect());
        let text = |value: &DimValue<'_>| match value {
            DimValue::Text(text) => text.len(),
            DimValue::Null | DimValue::Other => 0,
        };
        // Once here, and once with who asks.
        let bytes = || 2 * (ROW_BYTES + dims.iter().map(text).sum::<usize>());
        if !self.rest.contains(&cell) && self.charge.grow(bytes()) {
            self.rest.insert(cell);
        }
    }

    fn take_cell(&mut self, cell: &CellRef<'_>, empty: Aggregates, packed: &mut Packed) {
        let window = self.naming.into.row_window(cell.window);
        if cell.dims.contains(&DimValue::Other) {
            self.note_rest(window, cell.dims);
            if !self.naming.wants(cell.dims) {
                return;
            }
        }
        let mut aggregates = empty;
        cell.aggregates.merge_into(&mut aggregates);
        let value = |place: usize| cell.dims.get(place).copied().unwrap_or(DimValue::Null);
        packed.push(self.number, window, &aggregates, |key| {
            self.naming.put_key(cell.window, value, key);
        });
    }

    /// Takes the runs of a chunk's cells; where there is no room for all of them, none is shown.
    fn take_chunk(
        &mut self,
        chunk: &Arc<Chunk>,
        tile: &ScanRequest,
        into: (&mut Vec<ChunkCells>, &mut Vec<ChunkRun>),
        on: (&mut Charge, &Arc<Account>),
    ) {
        if let Err(Unread::Damaged(damaged)) = self.try_chunk(chunk, tile, into, on) {
            self.gather.note_damage(damaged);
        }
    }

    fn try_chunk(
        &mut self,
        chunk: &Arc<Chunk>,
        tile: &ScanRequest,
        (chunks, runs): (&mut Vec<ChunkCells>, &mut Vec<ChunkRun>),
        (charge, account): (&mut Charge, &Arc<Account>),
    ) -> Result<(), Unread> {
        let (footer, projection) = chunk.projected(tile, &mut self.gather)?;
        let naming = self.naming.clone();
        let cells = ChunkCells::new(self.number, chunk, footer, projection, tile, naming);
        let mut note = |window: EventTime, dims: &[DimValue<'_>]| self.note_rest(window, dims);
        cells.runs(chunks.len(), runs, charge, account, &mut note)?;
        chunks.push(cells);
        Ok(())
    }
}

impl Intake for Taken {
    fn take(&mut self, source: &dyn CellSource) {
        let Self { asked, packed, account, .. } = self;
        for own in asked {
            for tile in own.tiles.clone() {
                if account.is_over() {
                    return;
                }
                own.gather.note_coverage(source, &tile);
                let scanned =
                    source.scan(&tile, &mut |cell| own.take_cell(&cell, tile.empty(), packed));
                if let Err(damaged) = scanned {
                    own.gather.note_damage(damaged);
                }
            }
        }
    }

    fn make_room(&mut self) {
        self.packed.make_room();
    }

    fn take_open(&mut self, layer: &Layer) {
        self.packed.set_waited_for(true);
        self.take(layer);
        self.packed.set_waited_for(false);
    }

    fn note_unopened(&mut self, layer: &AdoptedLayer, reason: &str) {
        for own in &mut self.asked {
            note_unopened(&mut own.gather, &own.tiles, layer, reason);
        }
    }

    fn take_base(&mut self, base: &Base) {
        let Self { asked, chunks, runs, charge, account, .. } = self;
        for own in asked {
            for tile in own.tiles.clone() {
                base.note_damage(&tile, &mut own.gather);
                for chunk in base.meeting(tile.granularity, tile.outward()) {
                    own.take_chunk(chunk, &tile, (chunks, runs), (charge, account));
                }
            }
        }
    }
}

impl Taken {
    fn finish(
        mut self,
        requests: Arc<[ScanRequest]>,
        of: GroupsOf,
        moment: Moment,
    ) -> Result<Groups, ReadError> {
        self.account.check()?;
        self.packed.sort();
        let mut notes = Vec::with_capacity(self.asked.len());
        // Who asks holds the notes as long as the groups.
        let mut charge = self.charge;
        for Asked { gather, rest, charge: own, .. } in self.asked {
            charge.join(own);
            let answer = gather.finish()?;
            let rest = rest.into_iter().collect();
            notes.push(GroupNotes { filling: answer.filling, folded: answer.folded, rest });
        }
        let mut cells: Vec<RunCells> = self.runs.into_iter().map(RunCells::Chunk).collect();
        if self.packed.len() > 0 {
            cells.push(RunCells::Packed(0));
        }
        let runs = cells.into_iter().map(|cells| Run { key: Vec::new(), cells }).collect();
        let (chunks, shelf, packed) = (self.chunks, self.shelf, self.packed);
        let (heap, account) = (Vec::new(), self.account);
        let mut groups = Groups {
            moment,
            notes,
            requests,
            of,
            chunks,
            shelf,
            packed,
            runs,
            heap,
            account,
            charge,
        };
        for run in 0..groups.runs.len() {
            groups.read_key(run)?;
            groups.heap.push(run);
        }
        for place in (0..groups.heap.len() / 2).rev() {
            groups.sink(place);
        }
        Ok(groups)
    }
}

impl Iterator for Groups {
    /// An error where cells are damaged: then none of the answer is worth anything.
    type Item = Result<Group, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.following().transpose()
    }
}

impl Groups {
    /// The most bytes that were held at one time, about.
    #[must_use]
    pub fn most_bytes(&self) -> usize {
        self.account.most()
    }

    /// The next group; `None` after the last.
    fn following(&mut self) -> Result<Option<Group>, ReadError> {
        let mut key = Vec::new();
        loop {
            let Some(&first) = self.heap.first() else { return Ok(None) };
            key.clone_from(&self.runs[first].key);
            let mut rows = GroupRows::new(&self.requests, &self.account);
            while let Some(&run) = self.heap.first()
                && self.runs[run].key == key
            {
                if self.take(run, &mut rows).map_err(|unread| self.unread(unread))? {
                    self.read_key(run)?;
                } else {
                    self.runs[run].cells = RunCells::Packed(usize::MAX);
                    self.heap.swap_remove(0);
                }
                self.sink(0);
            }
            let rows = rows.finish();
            if !rows.is_empty() {
                let dims = key::values(&key, self.of == GroupsOf::WindowsAndValues).into();
                return Ok(Some(Group { dims, rows }));
            }
        }
    }

    /// Adds the cell that a run stands at to its row; true where the run has another.
    fn take(&mut self, run: usize, rows: &mut GroupRows) -> Result<bool, Unread> {
        match &mut self.runs[run].cells {
            RunCells::Packed(next) => {
                let Unpacked { ask, window, aggregates } = self.packed.get(*next);
                *next += 1;
                rows.add(ask, window, |row| {
                    row.merge(&aggregates);
                    Ok(())
                })?;
                Ok(*next < self.packed.len())
            }
            RunCells::Chunk(run) => {
                run.take(&self.chunks, &mut self.shelf, |ask, window, block, cell| {
                    rows.add(ask, window, |row| {
                        block.merge(cell, row)?;
                        Ok(block.merge_distincts(cell, row)?)
                    })
                })
            }
        }
    }

    /// Notes the key of the cell that a run stands at.
    fn read_key(&mut self, run: usize) -> Result<(), ReadError> {
        let Self { runs, packed, chunks, shelf, charge, .. } = self;
        let Run { key, cells } = &mut runs[run];
        let before = key.capacity();
        let read = match cells {
            RunCells::Packed(next) => {
                key.clear();
                key.extend_from_slice(packed.key(*next));
                Ok(())
            }
            RunCells::Chunk(run) => run.read_key(chunks, shelf, key),
        };
        let has_room = charge.grow(key.capacity() - before);
        let read = if has_room { read } else { Err(Unread::NoRoom) };
        read.map_err(|unread| self.unread(unread))
    }

    fn unread(&self, unread: Unread) -> ReadError {
        match unread {
            Unread::Damaged(CellsDamaged { file, windows, .. }) => {
                ReadError::Damaged { file, windows: vec![windows] }
            }
            Unread::NoRoom => ReadError::TooLarge { bytes_max: self.account.bytes_max() },
        }
    }

    /// Lets the run at `place` of the heap sink to where those below it are not before it.
    fn sink(&mut self, mut place: usize) {
        let key = |heap: &[usize], place: usize| &self.runs[heap[place]].key;
        loop {
            let below = [2 * place + 1, 2 * place + 2];
            let least = below
                .into_iter()
                .filter(|&one| one < self.heap.len())
                .min_by(|&a, &b| key(&self.heap, a).cmp(key(&self.heap, b)));
            match least.filter(|&one| key(&self.heap, one) < key(&self.heap, place)) {
                Some(one) => {
                    self.heap.swap(one, place);
                    place = one;
                }
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nilometer_event::{Granularity, TimeRange};
    use nilometer_stream::declare::{Plan, SetKind};

    use super::*;
    use crate::gather::{Into, Limits, Sketches};

    #[test]
    fn cells_with_folded_values_are_noted_as_far_as_there_is_room() {
        const BYTES_MAX: usize = 1 << 20;
        let plan = Arc::new(Plan::builtin());
        let dimension = plan.dimension("content_id").unwrap();
        let set = plan.set_for(SetKind::Events, &[dimension]).unwrap();
        let range = TimeRange { start: EventTime::MIN, end: EventTime::MAX };
        let request = ScanRequest::new(plan, set, Granularity::Minute, range);
        let into = Into::Windows(Granularity::Minute);
        let limits = Limits { rows_max: usize::MAX, bytes_max: usize::MAX };
        let account = Account::new(BYTES_MAX);
        let mut asked = Asked {
            number: 0,
            gather: Gather::new(request, into, Sketches::Merged, limits),
            tiles: Vec::new(),
            naming: Naming { by: vec![0], wanted: [None].into(), window_shift_ms: None, into },
            rest: BTreeSet::new(),
            charge: Charge::nothing(&account),
        };
        let note = |asked: &mut Asked, minute: i64| {
            asked.note_rest(EventTime::from_ms(60_000 * minute), &[DimValue::Other]);
        };
        for minute in 0..1_000 {
            note(&mut asked, minute);
            note(&mut asked, 0);
        }
        assert_eq!(asked.rest.len(), 1_000);
        assert!(!account.is_over(), "each counts once");
        for minute in 0..100_000 {
            note(&mut asked, minute);
        }
        assert!(account.is_over());
        assert!(asked.rest.len() * ROW_BYTES <= BYTES_MAX, "{} are noted", asked.rest.len());
    }
}
