//! Cells of chunks, as far as they come in the order of their groups.
//!
//! Within a window a chunk's cells ascend by their values. By group they do, too, but for breaks:
//! at a window's begin, where dimensions that do not count come first, where a plan had others
//! before. A run goes from one break to the next.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use nilometer_event::EventTime;
use nilometer_stream::cells::{CellsDamaged, DimFilter, DimValue, OwnedDimValue, ScanRequest};

use super::account::{Account, Charge};
use super::key;
use crate::base::{Chunk, OpenBlock, Reader};
use crate::chunk::{Column, Footer};
use crate::project::Projection;
use crate::select::{KeysPart, Selected};

/// Which cells of one chunk go where.
#[derive(Debug)]
pub(super) struct ChunkCells {
    /// The question that they answer.
    pub(super) ask: u16,
    chunk: Arc<Chunk>,
    footer: Arc<Footer>,
    projection: Arc<Projection>,
    tile: ScanRequest,
    naming: Naming,
}

/// How cells are named.
#[derive(Clone, Debug)]
pub(super) struct Naming {
    /// Places of the set's dimensions that make a group.
    pub(super) by: Vec<usize>,
    /// What a cell must be to belong to a group.
    pub(super) wanted: Arc<[Option<DimFilter>]>,
    /// Where windows make groups, what is added to them.
    pub(super) window_shift_ms: Option<i64>,
    /// The row's window, of a cell's.
    pub(super) into: crate::gather::Into,
}

impl Naming {
    /// Whether a cell belongs to a group.
    pub(super) fn wants(&self, dims: &[DimValue<'_>]) -> bool {
        let admits = |(filter, value): (&Option<DimFilter>, &DimValue<'_>)| {
            filter.as_ref().is_none_or(|filter| filter.admits(*value))
        };
        self.wanted.iter().zip(dims).all(admits)
    }

    pub(super) fn put_key<'a>(
        &self,
        window: EventTime,
        value: impl Fn(usize) -> DimValue<'a>,
        out: &mut Vec<u8>,
    ) {
        if let Some(shift_ms) = self.window_shift_ms {
            key::put_window(self.into.row_window(window).plus_ms(shift_ms), out);
        }
        self.by.iter().for_each(|&place| key::put_value(value(place), out));
    }
}

/// Takes row window and values of a cell with folded values.
type NoteRest<'n> = &'n mut dyn FnMut(EventTime, &[DimValue<'_>]);

/// What a run takes beside its block and its key: on its way to the heap it is there twice.
const RUN_BYTES: usize = 160;

/// Why a run does not go on.
#[derive(Debug)]
pub(super) enum Unread {
    Damaged(CellsDamaged),
    /// There is no room for it, which the account tells.
    NoRoom,
}

impl From<CellsDamaged> for Unread {
    fn from(damaged: CellsDamaged) -> Self {
        Self::Damaged(damaged)
    }
}

/// Cells that ascend by group.
#[derive(Debug)]
pub(super) struct ChunkRun {
    /// Of the chunks.
    pub(super) cells: usize,
    block: u32,
    /// Among the block's selected cells.
    at: usize,
    /// Cells that are left, that at `at` among them.
    left: usize,
    loaded: Option<Arc<Loaded>>,
}

/// A block with its selected cells.
#[derive(Debug)]
pub(super) struct Loaded {
    block: Arc<OpenBlock>,
    keys: KeysPart,
    cells: Vec<(EventTime, usize)>,
    _charge: Charge,
}

impl Loaded {
    fn columns(&self, projection: &Projection) -> Vec<&Column> {
        let dims = self.keys.keys().map_or(&[][..], |keys| &keys.dims);
        projection.dims.iter().filter_map(|&column| dims.get(column)).collect()
    }
}

/// Blocks in memory, shared by the runs that are in them.
#[derive(Debug)]
pub(super) struct Shelf {
    loaded: HashMap<(usize, u32), Weak<Loaded>>,
    account: Arc<Account>,
}

impl Shelf {
    pub(super) fn new(account: &Arc<Account>) -> Self {
        Self { loaded: HashMap::new(), account: Arc::clone(account) }
    }
}

impl ChunkCells {
    pub(super) fn new(
        ask: u16,
        chunk: &Arc<Chunk>,
        footer: Arc<Footer>,
        projection: Projection,
        tile: &ScanRequest,
        naming: Naming,
    ) -> Self {
        let (chunk, projection) = (Arc::clone(chunk), Arc::new(projection));
        Self { ask, chunk, footer, projection, tile: tile.clone(), naming }
    }

    /// Appends every run, by reading all keys once; `rest` takes row window and values of the
    /// cells with folded ones, `charge` pays for the runs.
    pub(super) fn runs(
        &self,
        number: usize,
        runs: &mut Vec<ChunkRun>,
        charge: &mut Charge,
        account: &Arc<Account>,
        rest: NoteRest<'_>,
    ) -> Result<(), Unread> {
        let Some(set) = self.projection.set else { return Ok(()) };
        let others = runs.len();
        let (mut before, mut own) = (Vec::new(), Vec::new());
        for (block, _) in Chunk::blocks(&self.footer, set, self.tile.outward()) {
            let loaded = self.load(block, account, rest)?;
            let columns = loaded.columns(&self.projection);
            for (at, &(window, cell)) in loaded.cells.iter().enumerate() {
                own.clear();
                let value = |place: usize| columns[place].value(cell).as_ref();
                self.naming.put_key(window, value, &mut own);
                match runs[others..].last_mut().filter(|_| before <= own) {
                    Some(run) => run.left += 1,
                    None if charge.grow(RUN_BYTES) => {
                        runs.push(ChunkRun { cells: number, block, at, left: 1, loaded: None });
                    }
                    None => return Err(Unread::NoRoom),
                }
                std::mem::swap(&mut before, &mut own);
            }
        }
        Ok(())
    }

    fn load(
        &self,
        block: u32,
        account: &Arc<Account>,
        rest: NoteRest<'_>,
    ) -> Result<Arc<Loaded>, Unread> {
        let open =
            OpenBlock::new(&self.chunk, &self.footer, block, &self.projection, Reader::Query);
        let mut charge = Charge::nothing(account);
        let cells = self.footer.blocks.get(block as usize).map_or(0, |block| block.cells as usize);
        if !charge.grow(open.memory_bytes() + cells * size_of::<(EventTime, usize)>()) {
            return Err(Unread::NoRoom);
        }
        let keys = open.keys()?;
        let mut selected_cells = Vec::with_capacity(cells);
        let mut dims = Vec::new();
        let columns = keys.keys().map_or(&[][..], |keys| &keys.dims);
        let folds = columns.iter().any(|column| column.values.contains(&OwnedDimValue::Other));
        let selected = Selected::new(&keys, &self.projection, &self.tile, self.tile.outward());
        selected.show(&mut |window, values, cell| {
            if folds && values.collect_into(&mut dims).contains(&DimValue::Other) {
                rest(self.naming.into.row_window(window), &dims);
                if !self.naming.wants(&dims) {
                    return Ok(());
                }
            }
            selected_cells.push((window, cell));
            Ok(())
        })?;
        Ok(Arc::new(Loaded { block: open, keys, cells: selected_cells, _charge: charge }))
    }
}

impl ChunkRun {
    /// Puts the key of the cell that it stands at in place of `into`.
    pub(super) fn read_key(
        &mut self,
        all: &[ChunkCells],
        shelf: &mut Shelf,
        into: &mut Vec<u8>,
    ) -> Result<(), Unread> {
        let own = &all[self.cells];
        loop {
            let loaded = self.block(own, shelf)?;
            let Some(&(window, cell)) = loaded.cells.get(self.at) else {
                (self.block, self.at, self.loaded) = (self.block + 1, 0, None);
                continue;
            };
            let columns = loaded.columns(&own.projection);
            into.clear();
            own.naming.put_key(window, |place| columns[place].value(cell).as_ref(), into);
            return Ok(());
        }
    }

    fn block(&mut self, own: &ChunkCells, shelf: &mut Shelf) -> Result<Arc<Loaded>, Unread> {
        if let Some(loaded) = &self.loaded {
            return Ok(Arc::clone(loaded));
        }
        let place = (self.cells, self.block);
        let shared = shelf.loaded.get(&place).and_then(Weak::upgrade);
        let loaded = match shared {
            Some(loaded) => loaded,
            None => {
                let loaded = own.load(self.block, &shelf.account, &mut |_, _| {})?;
                shelf.loaded.insert(place, Arc::downgrade(&loaded));
                loaded
            }
        };
        self.loaded = Some(Arc::clone(&loaded));
        Ok(loaded)
    }

    /// The row that the cell it stands at goes to; `add` takes what it counts. Then goes on:
    /// true where a cell is left.
    pub(super) fn take(
        &mut self,
        all: &[ChunkCells],
        shelf: &mut Shelf,
        add: impl FnOnce(u16, EventTime, &OpenBlock, usize) -> Result<(), Unread>,
    ) -> Result<bool, Unread> {
        let own = &all[self.cells];
        let loaded = self.block(own, shelf)?;
        if let Some(&(window, cell)) = loaded.cells.get(self.at) {
            add(own.ask, own.naming.into.row_window(window), &loaded.block, cell)?;
        }
        self.at += 1;
        self.left -= 1;
        Ok(self.left > 0)
    }
}
