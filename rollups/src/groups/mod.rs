//! Answers group by group: for questions over more values than memory holds rows of.
//!
//! Cells of chunks lie sorted; those of layers are packed and sorted, for they are as many as
//! layers hold. A merge of both shows one group after the other with all that belongs to it, in
//! memory for a block a run. Who asks for the first few of many keeps those, and no more.

mod key;
mod many;
mod packed;
mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nilometer_event::EventTime;
use nilometer_stream::aggregate::{Aggregates, SlotMask};
use nilometer_stream::cells::{
    CellRef, CellSource, CellsDamaged, DimFilter, DimValue, OwnedDimValue, ScanRequest,
};

use crate::base::{Base, Chunk};
use crate::error::ReadError;
use crate::gather::{Gather, ROW_BYTES, is_nothing, may_be_taken_back};
use crate::pinned::{Ask, Intake, Moment, Pinned, note_unopened};
use crate::version::AdoptedLayer;
use packed::Packed;
use run::{ChunkCells, ChunkRun, Naming, Shelf};

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
    requests: Vec<ScanRequest>,
    of: GroupsOf,
    chunks: Vec<ChunkCells>,
    shelf: Shelf,
    packed: Packed,
    runs: Vec<Run>,
    /// Runs that have cells, the one with the least key first; each is before those below it.
    heap: Vec<usize>,
    bytes_max: usize,
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
        let mut asked = Vec::with_capacity(asks.len());
        for (number, ask) in (0..).zip(asks) {
            let (gather, tiles) = self.begin(&ask.ask)?;
            let naming = Naming {
                by: ask.by.clone(),
                wanted: ask.wanted.as_slice().into(),
                window_shift_ms: (of == GroupsOf::WindowsAndValues).then_some(ask.shift_ms),
                into: gather.rows_into(),
            };
            asked.push(Asked { number, gather, tiles, naming, rest: BTreeSet::new() });
        }
        let requests: Vec<ScanRequest> =
            asked.iter().map(|own| own.gather.request().clone()).collect();
        let shapes = requests.iter().map(|request| request.empty().shape()).collect();
        let mut taken = Taken {
            asked,
            packed: Packed::new(shapes),
            chunks: Vec::new(),
            runs: Vec::new(),
            shelf: Shelf::default(),
        };
        let moment = self.read_all(&mut taken);
        taken.finish(requests, of, moment, self.limits().bytes_max)
    }
}

/// What has been read so far.
struct Taken {
    asked: Vec<Asked>,
    packed: Packed,
    chunks: Vec<ChunkCells>,
    runs: Vec<ChunkRun>,
    shelf: Shelf,
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
}

impl Asked {
    /// Notes a cell with folded values.
    fn note_rest(&mut self, window: EventTime, dims: &[DimValue<'_>]) {
        self.gather.note_folded(dims);
        self.rest.insert((window, dims.iter().map(|value| value.into_owned()).collect()));
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

    /// Takes the runs of a chunk's cells.
    fn take_chunk(
        &mut self,
        chunk: &Arc<Chunk>,
        tile: &ScanRequest,
        chunks: &mut Vec<ChunkCells>,
        shelf: &mut Shelf,
    ) -> Result<Vec<ChunkRun>, CellsDamaged> {
        let (footer, projection) = chunk.projected(tile, &mut self.gather)?;
        let naming = self.naming.clone();
        let cells = ChunkCells::new(self.number, chunk, footer, projection, tile, naming);
        let mut note = |window: EventTime, dims: &[DimValue<'_>]| self.note_rest(window, dims);
        let runs = cells.runs(chunks.len(), shelf, &mut note)?;
        chunks.push(cells);
        Ok(runs)
    }
}

impl Intake for Taken {
    fn take(&mut self, source: &dyn CellSource) {
        let Self { asked, packed, .. } = self;
        for own in asked {
            for tile in own.tiles.clone() {
                own.gather.note_coverage(source, &tile);
                let scanned =
                    source.scan(&tile, &mut |cell| own.take_cell(&cell, tile.empty(), packed));
                if let Err(damaged) = scanned {
                    own.gather.note_damage(damaged);
                }
            }
        }
    }

    fn note_unopened(&mut self, layer: &AdoptedLayer, reason: &str) {
        for own in &mut self.asked {
            note_unopened(&mut own.gather, &own.tiles, layer, reason);
        }
    }

    fn take_base(&mut self, base: &Base) {
        let Self { asked, chunks, runs, shelf, .. } = self;
        for own in asked {
            for tile in own.tiles.clone() {
                base.note_damage(&tile, &mut own.gather);
                for chunk in base.meeting(tile.granularity, tile.outward()) {
                    match own.take_chunk(chunk, &tile, chunks, shelf) {
                        Ok(of_chunk) => runs.extend(of_chunk),
                        Err(damaged) => own.gather.note_damage(damaged),
                    }
                }
            }
        }
    }
}

impl Taken {
    fn finish(
        mut self,
        requests: Vec<ScanRequest>,
        of: GroupsOf,
        moment: Moment,
        bytes_max: usize,
    ) -> Result<Groups, ReadError> {
        self.packed.sort();
        let mut notes = Vec::with_capacity(self.asked.len());
        for Asked { gather, rest, .. } in self.asked {
            if rest.len() * 2 * ROW_BYTES > bytes_max {
                return Err(ReadError::TooLarge { bytes_max });
            }
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
        let heap = Vec::new();
        let mut groups =
            Groups { moment, notes, requests, of, chunks, shelf, packed, runs, heap, bytes_max };
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
    /// The next group; `None` after the last.
    fn following(&mut self) -> Result<Option<Group>, ReadError> {
        let mut key = Vec::new();
        loop {
            let Some(&first) = self.heap.first() else { return Ok(None) };
            key.clone_from(&self.runs[first].key);
            let mut rows: BTreeMap<(usize, EventTime), Aggregates> = BTreeMap::new();
            while let Some(&run) = self.heap.first()
                && self.runs[run].key == key
            {
                if self.take(run, &mut rows)? {
                    self.read_key(run)?;
                } else {
                    self.runs[run].cells = RunCells::Packed(usize::MAX);
                    self.heap.swap_remove(0);
                }
                self.sink(0);
            }
            rows.retain(|(ask, _), aggregates| {
                !may_be_taken_back(&self.requests[*ask]) || !is_nothing(aggregates)
            });
            if !rows.is_empty() {
                let dims = key::values(&key, self.of == GroupsOf::WindowsAndValues).into();
                let rows = rows.into_iter().map(|((ask, window), own)| (ask, window, own));
                return Ok(Some(Group { dims, rows: rows.collect() }));
            }
        }
    }

    /// Adds the cell that a run stands at to its row; true where the run has another.
    fn take(
        &mut self,
        run: usize,
        rows: &mut BTreeMap<(usize, EventTime), Aggregates>,
    ) -> Result<bool, ReadError> {
        let requests = &self.requests;
        match &mut self.runs[run].cells {
            RunCells::Packed(next) => {
                let cell = self.packed.get(*next);
                *next += 1;
                let more = *next < self.packed.len();
                match rows.entry((usize::from(cell.ask), cell.window)) {
                    std::collections::btree_map::Entry::Vacant(row) => {
                        row.insert(cell.aggregates);
                    }
                    std::collections::btree_map::Entry::Occupied(mut row) => {
                        row.get_mut().merge(&cell.aggregates);
                    }
                }
                Ok(more)
            }
            RunCells::Chunk(run) => {
                let taken = run.take(&self.chunks, &mut self.shelf, |ask, window, block, cell| {
                    let ask = usize::from(ask);
                    let row = rows.entry((ask, window)).or_insert_with(|| requests[ask].empty());
                    block.merge(cell, row)?;
                    block.merge_distincts(cell, row)
                });
                taken.map_err(|damaged| self.damaged(damaged))
            }
        }
    }

    /// Notes the key of the cell that a run stands at.
    fn read_key(&mut self, run: usize) -> Result<(), ReadError> {
        let Self { runs, packed, chunks, shelf, .. } = self;
        let Run { key, cells } = &mut runs[run];
        let read = match cells {
            RunCells::Packed(next) => {
                key.clear();
                key.extend_from_slice(packed.key(*next));
                Ok(())
            }
            RunCells::Chunk(run) => run.read_key(chunks, shelf, key),
        };
        read.map_err(|damaged| self.damaged(damaged))?;
        let bytes = self.packed.memory_bytes() + self.shelf.held.load(Ordering::Relaxed);
        if bytes > self.bytes_max {
            return Err(ReadError::TooLarge { bytes_max: self.bytes_max });
        }
        Ok(())
    }

    fn damaged(&self, damaged: CellsDamaged) -> ReadError {
        ReadError::Damaged { file: damaged.file, windows: vec![damaged.windows] }
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
