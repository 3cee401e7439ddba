//! The cells of one dimension set at one granularity, in flat arrays with a stride.

use hashbrown::HashTable;
use nilometer_event::{EventTime, Granularity};

use super::dictionary::REST;
use super::pending::{Pending, PendingSessions};
use super::rows::Rows;
use super::schema::DIMS_MAX;
use super::users::{Ordinals, User, UserSet};
use crate::aggregate::{Shape, mix};

/// What a cell is about; unused dimensions are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) window: i64,
    pub(super) dims: [u32; DIMS_MAX],
}

impl Key {
    /// Whether it is about combinations that were folded, and no others.
    pub(super) const fn is_rest(&self) -> bool {
        self.dims[0] == REST
    }

    pub(super) fn hash(&self) -> u64 {
        let [a, b, c, d] = self.dims.map(u64::from);
        let window = self.window.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let upper = (c | d << 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        mix(window ^ (a | b << 32).wrapping_add(upper.rotate_left(29)))
    }
}

/// What an edge keeps of a key on its way to a coarser table.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// These places of the finer set's dimensions; of its rest nothing, for that comes by codes.
    Dims(Vec<usize>),
    /// The same dimensions in a wider window.
    Wider(Granularity),
}

/// From a table to one that is derived from it.
#[derive(Clone, Debug)]
pub(super) struct Edge {
    pub(super) to: usize,
    pub(super) step: Step,
    /// False once the coarser table was dropped.
    pub(super) active: bool,
}

impl Edge {
    /// What a key is there; `None` where it is not carried on.
    pub(super) fn project(&self, key: &Key) -> Option<Key> {
        match &self.step {
            Step::Dims(_) if key.is_rest() => None,
            Step::Dims(places) => {
                let mut dims = [0; DIMS_MAX];
                for (dim, &place) in dims.iter_mut().zip(places) {
                    *dim = key.dims[place];
                }
                Some(Key { window: key.window, dims })
            }
            Step::Wider(granularity) => {
                let window = EventTime::from_ms(key.window).window_start(*granularity);
                Some(Key { window: window.ms(), dims: key.dims })
            }
        }
    }
}

/// Memory is read ahead for so many rows or users: reads overlap, where each would wait for the
/// one before.
const AHEAD: usize = 12;

/// Rows are added so many at a time, for each list of them costs a look at its length.
const GROWTH: usize = 64;

/// Users who were new in some cell during this entry, cell by cell. Its memory comes from the
/// layer and goes back there once the users are handed on: few tables have some at one time.
#[derive(Debug, Default)]
pub(super) struct News {
    runs: Vec<Run>,
    users: Vec<User>,
}

/// The users who are new in one cell.
#[derive(Clone, Copy, Debug)]
struct Run {
    cell: u32,
    slot: u32,
    /// Where they end in [`News::users`]; they begin where the run before ends.
    end: u32,
}

impl News {
    /// Ends the run of the users that were pushed since the last, if there are any.
    fn end_run(&mut self, cell: u32, slot: u32) {
        let end = narrow(self.users.len());
        if self.runs.last().map_or(0, |run| run.end) < end {
            self.runs.push(Run { cell, slot, end });
        }
    }

    /// Takes memory from `spare` where it has none of its own.
    fn equip(&mut self, spare: &mut Vec<Self>) {
        if self.users.capacity() == 0
            && let Some(emptied) = spare.pop()
        {
            *self = emptied;
        }
    }

    /// Gives its memory to `spare`.
    fn give_back(&mut self, spare: &mut Vec<Self>) {
        let Self { mut runs, mut users } = std::mem::take(self);
        if users.capacity() > 0 {
            runs.clear();
            users.clear();
            spare.push(Self { runs, users });
        }
    }

    pub(super) const fn memory_bytes(&self) -> usize {
        self.runs.capacity() * size_of::<Run>() + self.users.capacity() * size_of::<User>()
    }
}

const NONE: u32 = super::pending::NONE;
/// The parent of a cell that is not carried on.
const NOWHERE: u32 = NONE - 1;

/// A number of rows, users or slots of one table.
fn narrow(number: usize) -> u32 {
    u32::try_from(number).expect("C4: rows and users of an entry are below 2^32")
}

/// What an entry adds to a table's cells, until it is carried on; empty between entries.
#[derive(Debug, Default)]
pub(super) struct Added {
    /// Cells that it touched.
    dirty: Vec<u32>,
    /// A row for each of them, and some for those to come.
    delta: Rows,
    /// How many rows `delta` has room for.
    room: usize,
    news: News,
}

impl Added {
    const fn held_bytes(&self) -> usize {
        self.delta.held_bytes() + self.dirty.capacity() * 4 + self.news.memory_bytes()
    }

    pub(super) const fn memory_bytes(&self) -> usize {
        self.delta.memory_bytes() + self.dirty.capacity() * 4 + self.news.memory_bytes()
    }
}

/// Cells, and what this entry added to them.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) set: usize,
    pub(super) granularity: Granularity,
    pub(super) dims: usize,
    shape: Shape,
    index: HashTable<u32>,
    pub(super) keys: Vec<Key>,
    /// For these and some cells to come, as the three lists by cell below.
    pub(super) rows: Rows,
    users: Vec<UserSet>,
    pub(super) edges: Vec<Edge>,
    /// For each cell and edge the cell it adds to.
    parents: Vec<u32>,
    /// For each cell its row in what the entry added.
    delta_of: Vec<u32>,
    pub(super) added: Added,
    heap: usize,
}

impl Table {
    pub(super) fn new(set: usize, granularity: Granularity, dims: usize, shape: Shape) -> Self {
        Self {
            set,
            granularity,
            dims,
            shape,
            index: HashTable::new(),
            keys: Vec::new(),
            rows: Rows::default(),
            users: Vec::new(),
            edges: Vec::new(),
            parents: Vec::new(),
            delta_of: Vec::new(),
            added: Added::default(),
            heap: 0,
        }
    }

    pub(super) const fn shape(&self) -> Shape {
        self.shape
    }

    pub(super) const fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn find(&self, key: &Key) -> Option<u32> {
        self.index.find(key.hash(), |&cell| self.keys[cell as usize] == *key).copied()
    }

    /// The cell of that key, new or known.
    ///
    /// # Panics
    ///
    /// Past 2^32 cells of one table, which no memory cap admits (a cell is over 100 bytes).
    pub(super) fn cell(&mut self, key: &Key) -> u32 {
        let hash = key.hash();
        if let Some(&known) = self.index.find(hash, |&cell| self.keys[cell as usize] == *key) {
            return known;
        }
        let cell = u32::try_from(self.keys.len()).expect("C4: cells of a table are below 2^32");
        self.keys.push(*key);
        let keys = &self.keys;
        self.index.insert_unique(hash, cell, |&cell| keys[cell as usize].hash());
        if self.delta_of.len() < self.keys.len() {
            self.make_room();
        }
        cell
    }

    #[inline(never)]
    fn make_room(&mut self) {
        let cells = self.delta_of.len() + GROWTH;
        self.rows.grow_to(cells, self.shape);
        self.users.resize_with(cells * self.shape.distincts, UserSet::default);
        self.parents.resize(cells * self.edges.len(), NONE);
        self.delta_of.resize(cells, NONE);
    }

    #[inline]
    fn delta_row(&mut self, cell: u32) -> usize {
        match self.delta_of[cell as usize] {
            NONE => self.new_delta_row(cell),
            row => row as usize,
        }
    }

    fn new_delta_row(&mut self, cell: u32) -> usize {
        let row = self.added.dirty.len();
        self.delta_of[cell as usize] = narrow(row);
        self.added.dirty.push(cell);
        if self.added.room <= row {
            self.added.room = row + GROWTH;
            self.added.delta.grow_to(self.added.room, self.shape);
        }
        row
    }

    /// Adds an entry's sessions, or those of them that are named, to their cells; sessions have no
    /// distinct counters.
    pub(super) fn add_sessions(
        &mut self,
        pending: &PendingSessions,
        cells: &[u32],
        named: Option<&[u32]>,
    ) {
        for (place, &cell) in cells.iter().enumerate() {
            let session = named.map_or(place, |named| named[place] as usize);
            let row = self.delta_row(cell);
            self.added.delta.add_session(row, self.shape, pending, session);
        }
    }

    /// Room for as many cells as `other` has, so that lists need not be copied to grow.
    pub(super) fn reserve_as(&mut self, other: &Self) {
        let (cells, shape) = (other.keys.len(), self.shape);
        let keys = &self.keys;
        self.index.reserve(cells, |&cell| keys[cell as usize].hash());
        self.keys.reserve(cells);
        self.rows.reserve(cells, shape);
        self.users.reserve(cells * shape.distincts);
        self.parents.reserve(cells * self.edges.len());
        self.delta_of.reserve(cells);
    }

    /// Adds an entry's events, or those of them that are named: cell by cell, so that what one cell
    /// touches stays in the cache (depth first, each event over all cubes, cost twice as much).
    pub(super) fn add_pending(
        &mut self,
        pending: &Pending,
        (cells, named): (&[u32], Option<&[u32]>),
        ordinals: &Ordinals,
        spare: &mut Vec<News>,
    ) {
        self.added.news.equip(spare);
        let mut rows: Vec<u32> = Vec::with_capacity(cells.len());
        for &cell in cells {
            rows.push(narrow(self.delta_row(cell)));
        }
        let groups = Groups::new(&rows, named, self.added.dirty.len());
        for row in 0..groups.len() {
            let events = groups.of(row);
            if !events.is_empty() {
                self.added.delta.add_events(row, self.shape, pending, events);
            }
        }
        for slot in 0..self.shape.distincts {
            self.add_users(slot, &pending.distincts[slot], &groups, ordinals);
        }
    }

    /// Adds the users of events, cell by cell.
    fn add_users(&mut self, slot: usize, users: &[User], groups: &Groups, ordinals: &Ordinals) {
        let distincts = self.shape.distincts;
        let run_slot = narrow(slot);
        let Self { users: sets, added, heap, .. } = self;
        for (row, &cell) in added.dirty.iter().enumerate() {
            if let Some(&ahead) = added.dirty.get(row + AHEAD)
                && let Some(&event) = groups.of(row + AHEAD).first()
            {
                sets[ahead as usize * distincts + slot].warm(users[event as usize]);
            }
            let set = &mut sets[cell as usize * distincts + slot];
            for &event in groups.of(row) {
                let user = users[event as usize];
                if user.ordinal != NONE && set.insert(user, ordinals, heap) {
                    added.news.users.push(user);
                }
            }
            added.news.end_run(cell, run_slot);
        }
    }

    /// Applies what the entry added to the own cells and hands it to the tables behind; those
    /// come after this one in `later`, whose first is table `first`.
    pub(super) fn propagate(
        &mut self,
        later: &mut [Self],
        first: usize,
        ordinals: &Ordinals,
        spare: &mut Vec<News>,
    ) {
        for (row, &cell) in self.added.dirty.iter().enumerate() {
            if let Some(&ahead) = self.added.dirty.get(row + AHEAD) {
                self.rows.warm(ahead as usize, self.shape);
                std::hint::black_box(self.delta_of[ahead as usize]);
            }
            self.rows.add_row(cell as usize, self.shape, &self.added.delta, row, &mut self.heap);
            self.delta_of[cell as usize] = NONE;
        }
        for edge in 0..self.edges.len() {
            let Edge { to, active, .. } = self.edges[edge];
            if active {
                let to = &mut later[to - first];
                self.hand_on_rows(edge, to);
                self.hand_on_users(edge, to, ordinals, spare);
            }
        }
        self.added.delta.clear(self.added.dirty.len(), self.shape);
        self.added.dirty.clear();
        self.added.news.give_back(spare);
    }

    fn hand_on_rows(&mut self, edge: usize, to: &mut Self) {
        for row in 0..self.added.dirty.len() {
            if let Some(known) =
                self.added.dirty.get(row + AHEAD).and_then(|&one| self.known(one, edge))
            {
                std::hint::black_box(to.delta_of[known as usize]);
            }
            let Some(parent) = self.parent(self.added.dirty[row], edge, to) else { continue };
            let to_row = to.delta_row(parent);
            // Rows of one domain differ in distinct counters alone, which are no part of
            // them. Scratch is not counted as memory that stays.
            let mut scratch = 0;
            to.added.delta.add_row(to_row, self.shape, &self.added.delta, row, &mut scratch);
        }
    }

    /// What a set or a register holds, every coarser one of the layer holds: a user goes on
    /// only from where he was new.
    fn hand_on_users(
        &mut self,
        edge: usize,
        to: &mut Self,
        ordinals: &Ordinals,
        spare: &mut Vec<News>,
    ) {
        let distincts = to.shape.distincts;
        if distincts == 0 || self.added.news.runs.is_empty() {
            return;
        }
        to.added.news.equip(spare);
        let news = std::mem::take(&mut self.added.news);
        let mut start = 0;
        for (index, &Run { cell, slot, end }) in news.runs.iter().enumerate() {
            if let Some(ahead) = news.runs.get(index + AHEAD)
                && let Some(known) = self.known(ahead.cell, edge)
                && let Some(&first) = news.users.get(news.runs[index + AHEAD - 1].end as usize)
            {
                to.users[known as usize * distincts + ahead.slot as usize].warm(first);
            }
            let users = &news.users[start..end as usize];
            start = end as usize;
            let Some(cell) = self.parent(cell, edge, to) else { continue };
            let set = &mut to.users[cell as usize * distincts + slot as usize];
            for &user in users {
                if set.insert(user, ordinals, &mut to.heap) {
                    to.added.news.users.push(user);
                }
            }
            to.added.news.end_run(cell, slot);
        }
        self.added.news = news;
    }

    /// The cell that `cell` adds to over an edge, where it was asked before.
    fn known(&self, cell: u32, edge: usize) -> Option<u32> {
        Some(self.parents[cell as usize * self.edges.len() + edge]).filter(|&cell| cell < NOWHERE)
    }

    /// The cell that `cell` adds to over an edge; `None` where it is not carried on.
    fn parent(&mut self, cell: u32, edge: usize, to: &mut Self) -> Option<u32> {
        let place = cell as usize * self.edges.len() + edge;
        if self.parents[place] == NONE {
            let key = self.edges[edge].project(&self.keys[cell as usize]);
            self.parents[place] = key.map_or(NOWHERE, |key| to.cell(&key));
        }
        Some(self.parents[place]).filter(|&parent| parent != NOWHERE)
    }

    pub(super) fn users(&self, cell: usize, slot: usize) -> Option<&UserSet> {
        if slot < self.shape.distincts {
            self.users.get(cell * self.shape.distincts + slot)
        } else {
            None
        }
    }

    /// True where everything that the cell counted was taken back.
    pub(super) fn is_blank(&self, cell: usize) -> bool {
        let distincts = self.shape.distincts;
        self.rows.is_blank(cell, self.shape)
            && self.users[cell * distincts..][..distincts].iter().all(UserSet::is_empty)
    }

    /// Gives every cell back; the table stays empty until an edge leads here again.
    pub(super) fn drop_cells(&mut self) {
        let edges = std::mem::take(&mut self.edges);
        *self = Self::new(self.set, self.granularity, self.dims, self.shape);
        self.edges = edges;
    }

    /// What a cell takes that an entry makes: its own, and what the entry adds to it.
    pub(super) const fn cell_bytes(&self) -> usize {
        // The index is half full at times.
        10 + size_of::<Key>()
            + 2 * Rows::row_bytes(self.shape)
            + self.shape.distincts * (size_of::<UserSet>() + size_of::<User>() + size_of::<Run>())
            + (self.edges.len() + 2) * 4
    }

    /// Bytes with all that is reserved.
    pub(super) fn held_bytes(&self) -> usize {
        self.index.capacity() * 5
            + self.keys.capacity() * size_of::<Key>()
            + self.rows.held_bytes()
            + self.added.held_bytes()
            + self.users.capacity() * size_of::<UserSet>()
            + (self.parents.capacity() + self.delta_of.capacity()) * 4
            + self.heap
    }

    /// Bytes in use.
    pub(super) fn memory_bytes(&self) -> usize {
        self.index.capacity() * 5
            + self.keys.len() * size_of::<Key>()
            + self.rows.memory_bytes()
            + self.added.memory_bytes()
            + self.users.len() * size_of::<UserSet>()
            + (self.parents.len() + self.delta_of.len()) * 4
            + self.heap
    }
}

/// An entry's events by the row that they add to.
struct Groups {
    order: Vec<u32>,
    ends: Vec<u32>,
}

impl Groups {
    /// `rows` has the row of each event, or of each that is named, below `count`.
    fn new(rows: &[u32], named: Option<&[u32]>, count: usize) -> Self {
        let mut ends = vec![0_u32; count];
        for &row in rows {
            ends[row as usize] += 1;
        }
        let mut next = 0;
        for end in &mut ends {
            // Where the row begins, until its events are laid down.
            next += std::mem::replace(end, next);
        }
        let mut order = vec![0_u32; rows.len()];
        for (event, &row) in (0..).zip(rows) {
            let place = &mut ends[row as usize];
            order[*place as usize] = event;
            *place += 1;
        }
        if let Some(named) = named {
            order.iter_mut().for_each(|event| *event = named[*event as usize]);
        }
        Self { order, ends }
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    /// The events of a row, in their order; none past the last.
    fn of(&self, row: usize) -> &[u32] {
        let Some(&end) = self.ends.get(row) else { return &[] };
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.order[start as usize..end as usize]
    }
}
