//! Runs of sessions: what their blocks say, and how they are written and read back.
//!
//! The container is that of `ids::run`; a group is a shelf, a hash is the user's. What a block's
//! payload says is in `block.rs`.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use nilometer_event::EventTime;
use nilometer_log::{Disk, DiskFile};
use serde::{Deserialize, Serialize};

use super::block::{BlockWriter, Core, StoredBlock, StoredRow};
use super::packed::PackedStates;
use super::session::State;
use super::shelf::Shelf;
use super::words::Word;
use crate::ids::filter::{Filter, ORDINARY_BITS};
use crate::ids::run::{Kind, Run, RunWriter, Unreadable};

/// About 8 KiB of usual sessions. A user's sessions of one shelf share a block, even past it.
const BLOCK_ROWS_MIN: usize = 128;

/// States are read ahead for so many rows: the reads overlap.
const AHEAD: usize = 8;

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

/// The texts that words stand for, as the blocks of one run number them.
struct BlockTexts<'a> {
    texts: &'a [Arc<str>],
    words: Vec<InRun>,
    /// The list at hand by rank, kept for its memory.
    order: Vec<(u32, Word, u32)>,
}

/// What a run knows of a word.
#[derive(Clone, Copy, Debug, Default)]
struct InRun {
    /// Its text's place among all texts in order.
    rank: u32,
    /// How the block that numbered it last did.
    number: u32,
    /// Which block that was; blocks are counted from 1.
    block: u64,
}

impl<'a> BlockTexts<'a> {
    fn new(texts: &'a [Arc<str>]) -> Self {
        let mut order: Vec<u32> = (0..).take(texts.len()).collect();
        order.sort_unstable_by_key(|&word| &texts[word as usize]);
        let mut words = vec![InRun::default(); texts.len()];
        for (rank, word) in (0..).zip(order) {
            words[word as usize].rank = rank;
        }
        Self { texts, words, order: Vec::new() }
    }

    /// The block's number of a word.
    fn number(&mut self, number_of_block: u64, block: &mut BlockWriter, word: Word) -> u32 {
        let known = &mut self.words[word as usize];
        if known.block != number_of_block {
            known.block = number_of_block;
            known.number = block.add_text(&self.texts[word as usize]);
        }
        known.number
    }

    /// Sets the order to that of the texts that the list's first words stand for.
    fn sort(&mut self, list: &[(Word, u32)]) {
        let Self { words, order, .. } = self;
        order.clear();
        order.extend(list.iter().map(|&(word, beside)| (words[word as usize].rank, word, beside)));
        order.sort_unstable();
    }
}

/// How the blocks of the run that is being written number the texts of a block that is read.
#[derive(Debug, Default)]
pub(crate) struct BlockNumbers(Vec<(u64, u32)>);

impl BlockNumbers {
    /// Of a block that no row was taken from yet.
    pub(crate) fn reset(&mut self, block: &StoredBlock) {
        self.0.clear();
        self.0.resize(block.texts().len(), (0, 0));
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
    block: BlockWriter,
    /// The block's bytes, kept for their memory.
    payload: Vec<u8>,
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
            filter: Filter::for_at_most(plan.rows_max, ORDINARY_BITS),
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
            block: BlockWriter::default(),
            payload: Vec::new(),
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
        texts.sort(&session.counts);
        block.counts.clear();
        for index in 0..texts.order.len() {
            let (_, of, count) = texts.order[index];
            let of = texts.number(number, block, of);
            block.counts.push((of, count));
        }
        texts.sort(&session.dims);
        block.dims.clear();
        for index in 0..texts.order.len() {
            let (_, name, of) = texts.order[index];
            let (name, of) = (texts.number(number, block, name), texts.number(number, block, of));
            block.dims.push((name, of));
        }
        block.push(session.into());
        Ok(())
    }

    /// Adds a session as another run's block holds it: its lists are in order.
    pub(crate) fn push_stored(
        &mut self,
        shelf: Shelf,
        (from, numbers): (&StoredBlock, &mut BlockNumbers),
        row: &StoredRow,
    ) -> io::Result<()> {
        self.make_room(shelf, row.core)?;
        let Self { block, texts, blocks, .. } = self;
        // A text is looked up once for each pair of blocks, not once for each row.
        let mut number = |block: &mut BlockWriter, of: u32| {
            let known = &mut numbers.0[of as usize];
            if known.0 != *blocks {
                let text = &from.texts()[of as usize];
                *known = (*blocks, number_of(texts, block, text));
            }
            known.1
        };
        block.counts.clear();
        for &(of, count) in from.counts(row) {
            let of = number(block, of);
            block.counts.push((of, count));
        }
        block.dims.clear();
        for &(name, of) in from.dims(row) {
            let (name, of) = (number(block, name), number(block, of));
            block.dims.push((name, of));
        }
        block.push(row.core);
        Ok(())
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
        let filter = self.filter.fit(self.meta.rows, ORDINARY_BITS);
        let run = self.writer.finish(filter, Filter::for_keys(0, ORDINARY_BITS))?;
        Ok(SessionRun { meta: self.meta, run })
    }

    fn flush(&mut self) -> io::Result<()> {
        let (rows, first_user) = (self.block.rows, self.block.first_user);
        let Some((group, _)) = self.last_key.filter(|_| rows > 0) else { return Ok(()) };
        self.block.take(&mut self.payload);
        self.blocks += 1;
        self.texts.clear();
        self.writer.push(group, first_user, rows, &self.payload)
    }
}

/// The block's number of a text, by the text.
fn number_of(
    texts: &mut HashMap<String, u32, foldhash::fast::RandomState>,
    block: &mut BlockWriter,
    text: &str,
) -> u32 {
    if let Some(&known) = texts.get(text) {
        return known;
    }
    let new = block.add_text(text);
    texts.insert(text.to_owned(), new);
    new
}

/// Writes the sessions that one layer changed; `None` when it changed none.
pub(crate) fn write_layer(
    disk: &dyn Disk,
    file: String,
    layer: u64,
    states: &PackedStates,
    texts: &[Arc<str>],
) -> io::Result<Option<SessionRun>> {
    if states.len() == 0 {
        return Ok(None);
    }
    // The keys by themselves: sorting must not look for each in its state.
    let mut rows: Vec<((i64, u64, EventTime), usize)> = Vec::with_capacity(states.len());
    for (place, state) in states.iter() {
        let (left, right) = Shelf::of(state.first, state.last);
        let row = |shelf: Shelf| ((shelf.group(), state.user, state.first), place);
        rows.push(row(left));
        rows.extend(right.map(row));
    }
    rows.sort_unstable();
    let plan = SessionRunPlan {
        file,
        level: 0,
        first_layer: layer,
        last_layer: layer,
        rows_max: rows.len() as u64,
    };
    let mut writer = SessionRunWriter::create(disk, plan)?;
    let mut texts = BlockTexts::new(texts);
    for (number, &((group, ..), place)) in rows.iter().enumerate() {
        if let Some(&(_, ahead)) = rows.get(number + AHEAD) {
            states.warm(ahead);
        }
        let shelf = Shelf::from_group(group).expect("made above");
        writer.push(shelf, &states.at(place), &mut texts)?;
    }
    writer.finish().map(Some)
}

/// The sessions of one block, in order.
pub(crate) fn read_rows(
    run: &Run,
    handle: &dyn DiskFile,
    block: usize,
) -> Result<StoredBlock, Unreadable> {
    let payload = run.read_block(handle, block)?;
    let decoded = StoredBlock::decode(&payload);
    decoded.ok_or_else(|| Unreadable::Damaged("a block is not of this version".to_owned()))
}

/// Keeps, of one user's states, those that no newer one overlaps; in the order of their begin.
///
/// A newer state that overlaps an older one grew out of it.
pub(crate) fn newest_only<S>(states: &mut Vec<S>, core: impl Fn(&S) -> Core) {
    if states.len() < 2 {
        return;
    }
    states.sort_by_key(|state| (std::cmp::Reverse(core(state).seq), core(state).first));
    // None overlaps another, so of those that begin by a moment the last one ends last.
    let mut kept: BTreeMap<EventTime, S> = BTreeMap::new();
    for state in states.drain(..) {
        let Core { first, last, .. } = core(&state);
        let newer = kept.range(..=last).next_back();
        if newer.is_none_or(|(_, newer)| core(newer).last < first) {
            kept.insert(first, state);
        }
    }
    *states = kept.into_values().collect();
}
