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

use super::session::{State, Stored};
use super::shelf::Shelf;
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

#[derive(Debug, Default, Serialize, Deserialize)]
struct Payload {
    texts: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Row {
    user: u64,
    first: EventTime,
    last: EventTime,
    events: u64,
    seq: u64,
    counts: Vec<(u32, u32)>,
    dims: Vec<(u32, u32)>,
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
    payload: Payload,
    texts: HashMap<String, u32>,
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
            payload: Payload::default(),
            texts: HashMap::new(),
            last_key: None,
        })
    }

    pub(crate) fn push(&mut self, shelf: Shelf, session: &Stored) -> io::Result<()> {
        let key = (shelf.group(), session.user);
        let new_group = self.last_key.is_none_or(|(group, _)| group != key.0);
        let full = self.payload.rows.len() >= BLOCK_ROWS_MIN && self.last_key != Some(key);
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
        let row = self.row_of(session);
        self.payload.rows.push(row);
        Ok(())
    }

    pub(crate) fn finish(mut self) -> io::Result<SessionRun> {
        self.flush()?;
        let run = self.writer.finish(self.filter, Filter::for_keys(0, ORDINARY_BITS))?;
        Ok(SessionRun { meta: self.meta, run })
    }

    fn row_of(&mut self, session: &Stored) -> Row {
        let mut number = |text: &String| {
            let next = u32::try_from(self.texts.len()).expect("a block is small");
            *self.texts.entry(text.clone()).or_insert_with(|| {
                self.payload.texts.push(text.clone());
                next
            })
        };
        Row {
            user: session.user,
            first: session.first,
            last: session.last,
            events: session.events,
            seq: session.seq,
            counts: session.counts.iter().map(|(text, count)| (number(text), *count)).collect(),
            dims: session.dims.iter().map(|(name, value)| (number(name), number(value))).collect(),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let payload = std::mem::take(&mut self.payload);
        self.texts.clear();
        let (Some(first), Some((group, _))) = (payload.rows.first(), self.last_key) else {
            return Ok(());
        };
        let first = first.user;
        let rows = u32::try_from(payload.rows.len()).map_err(io::Error::other)?;
        let bytes = postcard::to_stdvec(&payload).map_err(io::Error::other)?;
        self.writer.push(group, first, rows, &bytes)
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
    let mut rows: Vec<(Shelf, &State)> = Vec::with_capacity(states.len() * 2);
    for state in states {
        let (left, right) = Shelf::of(state.first, state.last);
        rows.push((left, state));
        rows.extend(right.map(|right| (right, state)));
    }
    rows.sort_unstable_by_key(|(shelf, state)| (shelf.group(), state.user, state.first));
    let plan = SessionRunPlan {
        file,
        level: 0,
        first_layer: layer,
        last_layer: layer,
        rows_max: rows.len() as u64,
    };
    let mut writer = SessionRunWriter::create(disk, plan)?;
    for (shelf, state) in rows {
        writer.push(shelf, &state.to_stored(texts))?;
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
    let stored = |row: Row| {
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
