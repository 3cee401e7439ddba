//! Runs of sessions: what their blocks say, and how they are written and read back.
//!
//! The container is that of `ids::run`; a group is a shelf, a hash is the user's. A block's payload
//! is the postcard form (version 1) of its distinct texts and its rows, which name texts by index.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use nilometer_event::EventTime;
use nilometer_log::{Disk, DiskFile};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::session::{State, Stored};
use super::shelf::Shelf;
use super::words::Word;
use crate::ids::filter::{Filter, ORDINARY_BITS};
use crate::ids::run::{Kind, Run, RunWriter, Unreadable};

/// About 8 KiB of usual sessions. A user's sessions of one shelf share a block, even past it.
const BLOCK_ROWS_MIN: usize = 128;

/// What a manifest says about one run of sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionRunMeta {
    pub(crate) file: String,
    pub(crate) level: u8,
    pub(crate) first_layer: u64,
    pub(crate) last_layer: u64,
    pub(crate) rows: u64,
    pub(crate) earliest: EventTime,
    pub(crate) latest: EventTime,
    /// Groups of the shelves that it fills, sorted.
    pub(crate) groups: Vec<i64>,
}

/// A run of sessions that is open for look-ups.
#[derive(Clone, Debug)]
pub(crate) struct SessionRun {
    pub(crate) meta: SessionRunMeta,
    pub(crate) run: Run,
}

#[derive(Debug, Deserialize)]
struct Payload {
    texts: Vec<String>,
    rows: Vec<Row<Vec<(u32, u32)>>>,
}

/// `L` is a list of pairs, owned or borrowed: both have the same bytes.
#[derive(Debug, Serialize, Deserialize)]
struct Row<L> {
    user: u64,
    first: EventTime,
    last: EventTime,
    events: u64,
    seq: u64,
    counts: L,
    dims: L,
}

/// What of a session names no text.
#[derive(Clone, Copy, Debug)]
struct Core {
    user: u64,
    first: EventTime,
    last: EventTime,
    events: u64,
    seq: u64,
}

impl From<&State> for Core {
    fn from(&State { user, first, last, events, seq, .. }: &State) -> Self {
        Self { user, first, last, events, seq }
    }
}

impl From<&Stored> for Core {
    fn from(&Stored { user, first, last, events, seq, .. }: &Stored) -> Self {
        Self { user, first, last, events, seq }
    }
}

/// The rows of a block so far, encoded one by one as [`Payload`] will be read.
#[derive(Debug, Default)]
struct Block {
    texts: Vec<String>,
    rows: u32,
    first_user: u64,
    bytes: Vec<u8>,
    /// The row at hand, kept for its memory.
    counts: Vec<(u32, u32)>,
    dims: Vec<(u32, u32)>,
}

impl Block {
    fn add_text(&mut self, text: &str) -> u32 {
        self.texts.push(text.to_owned());
        u32::try_from(self.texts.len() - 1).expect("a block is small")
    }

    /// Ends the row whose lists are in `counts` and `dims`.
    fn push(&mut self, session: Core) -> io::Result<()> {
        let row = Row {
            user: session.user,
            first: session.first,
            last: session.last,
            events: session.events,
            seq: session.seq,
            counts: self.counts.as_slice(),
            dims: self.dims.as_slice(),
        };
        if self.rows == 0 {
            self.first_user = row.user;
        }
        self.rows += 1;
        self.bytes =
            postcard::to_extend(&row, std::mem::take(&mut self.bytes)).map_err(io::Error::other)?;
        Ok(())
    }

    /// The block's payload; empties it.
    fn take(&mut self) -> io::Result<Vec<u8>> {
        let head = (std::mem::take(&mut self.texts), std::mem::take(&mut self.rows));
        let mut payload = postcard::to_stdvec(&head).map_err(io::Error::other)?;
        payload.append(&mut self.bytes);
        Ok(payload)
    }
}

/// The texts that words stand for, as the blocks of one run number them.
struct BlockTexts<'a> {
    texts: &'a [Arc<str>],
    /// Of each word its place among all texts in order.
    ranks: Vec<u32>,
    /// Of each word the block that numbered it last, and how.
    numbers: Vec<(u64, u32)>,
}

impl<'a> BlockTexts<'a> {
    fn new(texts: &'a [Arc<str>]) -> Self {
        let mut order: Vec<u32> = (0..).take(texts.len()).collect();
        order.sort_unstable_by_key(|&word| &texts[word as usize]);
        let mut ranks = vec![0; texts.len()];
        for (rank, word) in (0..).zip(order) {
            ranks[word as usize] = rank;
        }
        Self { texts, ranks, numbers: vec![(0, 0); texts.len()] }
    }

    /// The block's number of a word; blocks are counted from 1.
    fn number(&mut self, number_of_block: u64, block: &mut Block, word: Word) -> u32 {
        let known = &mut self.numbers[word as usize];
        if known.0 != number_of_block {
            *known = (number_of_block, block.add_text(&self.texts[word as usize]));
        }
        known.1
    }
}

/// What is known of a run before its rows are.
#[derive(Clone, Debug)]
pub(crate) struct SessionRunPlan {
    pub(crate) file: String,
    pub(crate) level: u8,
    pub(crate) first_layer: u64,
    pub(crate) last_layer: u64,
    /// At most so many rows will come.
    pub(crate) rows_max: u64,
}

/// Takes rows in the order of (shelf, user, first) and makes a run of them.
pub(crate) struct SessionRunWriter<'d> {
    writer: RunWriter<'d>,
    meta: SessionRunMeta,
    filter: Filter,
    block: Block,
    /// Blocks begun.
    blocks: u64,
    /// Of the block, by text: for sessions of other runs.
    texts: HashMap<String, u32, foldhash::fast::RandomState>,
    last_key: Option<(i64, u64)>,
}

impl<'d> SessionRunWriter<'d> {
    pub(crate) fn create(disk: &'d dyn Disk, plan: SessionRunPlan) -> io::Result<Self> {
        Ok(Self {
            writer: RunWriter::create(disk, &plan.file, Kind::Sessions)?,
            filter: Filter::for_keys(plan.rows_max, ORDINARY_BITS),
            meta: SessionRunMeta {
                file: plan.file,
                level: plan.level,
                first_layer: plan.first_layer,
                last_layer: plan.last_layer,
                rows: 0,
                earliest: EventTime::MAX,
                latest: EventTime::MIN,
                groups: Vec::new(),
            },
            block: Block::default(),
            blocks: 1,
            texts: HashMap::default(),
            last_key: None,
        })
    }

    /// Adds a session whose words are those of `texts`.
    fn push(
        &mut self,
        shelf: Shelf,
        session: &State,
        texts: &mut BlockTexts<'_>,
    ) -> io::Result<()> {
        self.make_room(shelf, session.into())?;
        let (block, number) = (&mut self.block, self.blocks);
        let mut order: SmallVec<[(u32, Word, u32); 8]> = session
            .counts
            .iter()
            .map(|&(of, count)| (texts.ranks[of as usize], of, count))
            .collect();
        order.sort_unstable();
        block.counts.clear();
        for (_, of, count) in order {
            let of = texts.number(number, block, of);
            block.counts.push((of, count));
        }
        let mut order: SmallVec<[(u32, Word, Word); 8]> =
            session.dims.iter().map(|&(name, of)| (texts.ranks[name as usize], name, of)).collect();
        order.sort_unstable();
        block.dims.clear();
        for (_, name, of) in order {
            let (name, of) = (texts.number(number, block, name), texts.number(number, block, of));
            block.dims.push((name, of));
        }
        block.push(session.into())
    }

    /// Adds a session as another run holds it: its lists are in order.
    pub(crate) fn push_stored(&mut self, shelf: Shelf, session: &Stored) -> io::Result<()> {
        self.make_room(shelf, session.into())?;
        let Self { block, texts, .. } = self;
        let mut number = |block: &mut Block, text: &String| match texts.get(text) {
            Some(&known) => known,
            None => {
                let new = block.add_text(text);
                texts.insert(text.clone(), new);
                new
            }
        };
        block.counts.clear();
        for (of, count) in &session.counts {
            let of = number(block, of);
            block.counts.push((of, *count));
        }
        block.dims.clear();
        for (name, of) in &session.dims {
            let (name, of) = (number(block, name), number(block, of));
            block.dims.push((name, of));
        }
        block.push(session.into())
    }

    /// Ends the block where the session belongs in another.
    fn make_room(&mut self, shelf: Shelf, session: Core) -> io::Result<()> {
        let key = (shelf.group(), session.user);
        let new_group = self.last_key.is_none_or(|(group, _)| group != key.0);
        let full = self.block.rows as usize >= BLOCK_ROWS_MIN && self.last_key != Some(key);
        if new_group || full {
            self.flush()?;
        }
        if new_group {
            self.meta.groups.push(key.0);
        }
        self.last_key = Some(key);
        self.filter.insert(shelf.filter_key(session.user));
        self.meta.rows += 1;
        self.meta.earliest = self.meta.earliest.min(session.first);
        self.meta.latest = self.meta.latest.max(session.last);
        Ok(())
    }

    pub(crate) fn finish(mut self) -> io::Result<SessionRun> {
        self.flush()?;
        let run = self.writer.finish(self.filter, Filter::for_keys(0, ORDINARY_BITS))?;
        Ok(SessionRun { meta: self.meta, run })
    }

    fn flush(&mut self) -> io::Result<()> {
        let (rows, first_user) = (self.block.rows, self.block.first_user);
        let Some((group, _)) = self.last_key.filter(|_| rows > 0) else { return Ok(()) };
        let payload = self.block.take()?;
        self.blocks += 1;
        self.texts.clear();
        self.writer.push(group, first_user, rows, &payload)
    }
}

/// Writes the sessions that one layer changed; `None` when it changed none.
pub(crate) fn write_layer(
    disk: &dyn Disk,
    file: String,
    layer: u64,
    states: &[State],
    texts: &[Arc<str>],
) -> io::Result<Option<SessionRun>> {
    if states.is_empty() {
        return Ok(None);
    }
    // The keys by themselves: sorting must not look for each in its state.
    let mut rows: Vec<((i64, u64, EventTime), Shelf, &State)> = Vec::with_capacity(states.len());
    for state in states {
        let (left, right) = Shelf::of(state.first, state.last);
        let row = |shelf: Shelf| ((shelf.group(), state.user, state.first), shelf, state);
        rows.push(row(left));
        rows.extend(right.map(row));
    }
    rows.sort_unstable_by_key(|&(key, ..)| key);
    let plan = SessionRunPlan {
        file,
        level: 0,
        first_layer: layer,
        last_layer: layer,
        rows_max: rows.len() as u64,
    };
    let mut writer = SessionRunWriter::create(disk, plan)?;
    let mut texts = BlockTexts::new(texts);
    for (_, shelf, state) in rows {
        writer.push(shelf, state, &mut texts)?;
    }
    writer.finish().map(Some)
}

/// The sessions of one block, in order.
pub(crate) fn read_rows(
    run: &Run,
    handle: &dyn DiskFile,
    block: usize,
) -> Result<Vec<Stored>, Unreadable> {
    let payload = run.read_block(handle, block)?;
    decode(&payload).ok_or_else(|| Unreadable::Damaged("a block is not of this version".to_owned()))
}

fn decode(payload: &[u8]) -> Option<Vec<Stored>> {
    let Payload { texts, rows } = postcard::from_bytes(payload).ok()?;
    let text = |number: u32| texts.get(number as usize).cloned();
    let stored = |row: Row<Vec<(u32, u32)>>| {
        let counts = row.counts.iter().map(|&(of, count)| Some((text(of)?, count)));
        let dims = row.dims.iter().map(|&(name, value)| Some((text(name)?, text(value)?)));
        Some(Stored {
            user: row.user,
            first: row.first,
            last: row.last,
            events: row.events,
            seq: row.seq,
            counts: counts.collect::<Option<_>>()?,
            dims: dims.collect::<Option<_>>()?,
        })
    };
    rows.into_iter().map(stored).collect()
}

/// Keeps, of one user's states, those that no newer one overlaps.
///
/// A newer state that overlaps an older one grew out of it.
pub(crate) fn newest_only(states: &mut Vec<Stored>) {
    states.sort_by(|one, other| other.seq.cmp(&one.seq).then(one.first.cmp(&other.first)));
    let mut kept: Vec<Stored> = Vec::with_capacity(states.len());
    for state in states.drain(..) {
        let superseded = |newer: &Stored| newer.first <= state.last && state.first <= newer.last;
        if !kept.iter().any(superseded) {
            kept.push(state);
        }
    }
    kept.sort_by_key(|state| state.first);
    *states = kept;
}
