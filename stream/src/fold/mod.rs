//! The fold: one entry and its records in, the next state and its effects out.
//!
//! No clock, no task, no I/O: what a cold look-up finds is fetched by the shell beforehand. Two
//! folds of one journal give the same state, byte for byte.

mod enter;
mod fit;
#[cfg(feature = "mutants")]
mod mutant;
mod purge;
mod records;
mod restore;
mod seal;
mod source;
mod words;
pub(crate) use purge::{Mark, PurgeTally, Purging, day_of};
use records::Walk;
pub use records::{EntryRecords, TopicRecords};
pub use restore::Restored;
pub use seal::{GuardSealed, Sealed};
use words::LayerWords;

use std::collections::BTreeMap;
use std::sync::Arc;

use nilometer_event::{
    EventTime, Fingerprint, IdentityKey, Offset, Partition, ReceiveTime, TimeCorrection, Topic,
    UserHash,
};
use nilometer_log::Disk;

use crate::cells::{CodedEvents, Layer, Sender, Tallies};
use crate::checkpoint::{ids_folder, sessions_folder};
use crate::declare::Plan;
use crate::ids::{Bucket, ColdIds, IdKey, IdSight, Ids, IdsSettings, RunReadFailed};
use crate::journal::Entry;
use crate::sessions::{ColdSessions, Sessions, SessionsSettings};
use crate::settings::FoldSettings;
use crate::tables::Tables;
use crate::view::{
    ConflictsBySource, CorrectedHours, Counters, Facts, LateDays, LayerNumber, OpenLayer, Positions,
};

/// Event time past `now` by which an idle shard's watermark still stays behind: records that
/// were received before `now` are durable within it.
const CAUGHT_UP_MARGIN_MS: i64 = 60_000;

/// Keys over their quotas of new values are told one by one, up to so many.
const KEYS_NAMED_MAX: usize = 100;
/// The name of all others together, and of the house itself; no id of a key.
pub(crate) const OTHER_KEYS: &str = "(others)";

/// History counts as being imported for so long after its last record.
const IMPORT_RUNNING_MS: i64 = 60_000;

/// What a shard is, whatever it has folded.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Which one.
    pub partition: Partition,
    /// Hashes user keys and event ids.
    pub identity: IdentityKey,
    /// Memory for the filters of cold runs.
    pub filter_bytes_max: usize,
}

/// Everything that a shard knows after one entry.
#[derive(Debug)]
pub struct State {
    shard: Shard,
    plan: Arc<Plan>,
    tables: Tables,
    /// The last entry folded.
    last: Option<Entry>,
    birth: ReceiveTime,
    watermark: EventTime,
    positions: Positions,
    counters: Counters,
    imported_at: Option<ReceiveTime>,
    /// See [`Facts::unread`]; metrics of the plan only.
    unread: Arc<BTreeMap<String, u64>>,
    /// See [`Facts::over_quota`].
    over_quota: Arc<BTreeMap<String, u64>>,
    corrected: Arc<CorrectedHours>,
    late: Arc<LateDays>,
    conflicts: Arc<ConflictsBySource>,
    ids: Ids,
    sessions: Sessions,
    tallies: Tallies,
    open: Arc<OpenLayer>,
    words: LayerWords,
    spare: Spare,
    /// The first entry of the open layer.
    layer_seq_first: u64,
    /// How often guard changes were kept since the last whole copy.
    guard_changes_kept: usize,
    /// Of a replay that leaves a key's events out; `None` in every shard that shows anything.
    purging: Option<Box<Purging>>,
    #[cfg(feature = "mutants")]
    mutant: Option<crate::shell::Mutant>,
}

/// What an entry names, resolved.
#[derive(Clone, Debug)]
pub struct Named {
    /// The plan of [`Entry::plan`].
    pub plan: Arc<Plan>,
    /// The tables of [`Entry::dims`].
    pub tables: Tables,
}

/// An entry's records, decoded once: whose they are, what is known of their cells, and what
/// they need from cold files. Found without I/O.
#[derive(Debug)]
pub struct Prepared<'r> {
    records: &'r EntryRecords,
    seen: [Seen; Topic::RECEIVED.len()],
    /// One for each record of the event topics, in order; `None` for what is no event.
    keys: Vec<Option<Key>>,
    /// One row for each event.
    coded: CodedEvents,
    /// The records of events that have texts which are new to the layer, by their rows.
    unknown: Vec<(usize, &'r [u8])>,
    received_at: Vec<(ReceiveTime, u64)>,
    ids: crate::ids::ColdLookups,
    sessions: crate::sessions::ColdSessionLookups,
}

/// What there was of one topic.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    records: usize,
    /// The newest receive time.
    newest: ReceiveTime,
    /// When the last event was received.
    last_event_at: Option<ReceiveTime>,
}

/// Identity and time of one event.
#[derive(Clone, Copy, Debug)]
struct Key {
    id: IdKey,
    user: UserHash,
    time: EventTime,
    /// A service has neither sessions nor a place in distinct counts.
    is_user: bool,
    correction: TimeCorrection,
}

impl Key {
    /// Whose session it may touch, and when.
    fn session(&self) -> Option<(UserHash, EventTime)> {
        self.is_user.then_some((self.user, self.time))
    }
}

/// Memory of an entry's preparation, for the next one.
#[derive(Debug, Default)]
struct Spare {
    keys: Vec<Option<Key>>,
    coded: CodedEvents,
}

/// What cold files say.
#[derive(Debug)]
pub struct Cold {
    ids: ColdIds,
    sessions: ColdSessions,
}

/// An event that counts only once the lake merges it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LateEvent {
    /// The topic on which it was received.
    pub topic: Topic,
    /// Its place there.
    pub offset: Offset,
    /// When it was received.
    pub received_at: ReceiveTime,
    /// The record's bytes, as they lie on its topic.
    pub value: Vec<u8>,
}

/// What the shell does next, in this order.
#[derive(Debug, Default)]
pub struct Effects {
    /// To be appended to `late-events`.
    pub late: Vec<LateEvent>,
    /// To be written as a checkpoint.
    pub sealed: Option<Sealed>,
    /// Memory of the layer that counted the entry, before a seal.
    pub layer_bytes: usize,
}

impl State {
    /// A shard that has folded nothing.
    #[must_use]
    pub fn new(shard: Shard, plan: Arc<Plan>) -> Self {
        let layer = Layer::new(Arc::clone(&plan), LayerNumber::FIRST.get());
        let open = OpenLayer::new(LayerNumber::FIRST, layer, Facts::default());
        let birth = ReceiveTime::default();
        let settings = FoldSettings::default();
        Self {
            ids: Ids::new(ids_settings(&shard, &settings), birth.as_event_time()),
            sessions: Sessions::new(sessions_settings(&shard, &settings), birth.as_event_time()),
            shard,
            plan,
            tables: Tables::default(),
            last: None,
            birth,
            watermark: EventTime::MIN,
            positions: Positions::default(),
            counters: Counters::default(),
            imported_at: None,
            unread: Arc::default(),
            over_quota: Arc::default(),
            corrected: Arc::default(),
            late: Arc::default(),
            conflicts: Arc::default(),
            tallies: Tallies::new(),
            open: Arc::new(open),
            words: LayerWords::default(),
            spare: Spare::default(),
            layer_seq_first: 1,
            guard_changes_kept: 0,
            purging: None,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }

    /// The last entry folded; `None` before the first.
    #[must_use]
    pub const fn last(&self) -> Option<&Entry> {
        self.last.as_ref()
    }

    /// Its seq; 0 before the first.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.last.as_ref().map_or(0, |entry| entry.seq)
    }

    /// Its `now`.
    #[must_use]
    pub fn now(&self) -> ReceiveTime {
        self.last.as_ref().map_or(ReceiveTime::default(), |entry| entry.now)
    }

    /// `now` of the first entry; `None` before it.
    #[must_use]
    pub fn birth(&self) -> Option<ReceiveTime> {
        self.last.as_ref().map(|_| self.birth)
    }

    /// The plan that the open layer counts by.
    #[must_use]
    pub const fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The tables of the last entry.
    #[must_use]
    pub const fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The open layer.
    #[must_use]
    pub const fn open(&self) -> &Arc<OpenLayer> {
        &self.open
    }

    /// True where no entry has counted in the open layer.
    #[must_use]
    pub fn layer_is_fresh(&self) -> bool {
        self.layer_seq_first == self.seq() + 1
    }

    /// The first offset of each received topic that is not folded.
    #[must_use]
    pub fn next_offsets(&self) -> [Offset; Topic::RECEIVED.len()] {
        self.positions.0.map(|position| position.next)
    }

    /// Where the received records went.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The watermark.
    #[must_use]
    pub const fn watermark(&self) -> EventTime {
        self.watermark
    }

    /// Where the id of an event lies, in the buckets of its copies' timestamps.
    pub(crate) fn sight(
        &self,
        fingerprint: Fingerprint,
        sent: impl Iterator<Item = (EventTime, TimeCorrection)>,
    ) -> (Vec<[Bucket; 2]>, IdSight) {
        let buckets: Vec<[Bucket; 2]> =
            sent.map(|(sent, correction)| self.ids.buckets_of(sent, correction)).collect();
        let mut different = buckets.concat();
        different.sort_unstable();
        different.dedup();
        (buckets, self.ids.sight(fingerprint, &different, self.open.number().get()))
    }

    /// The ids, for what the writer of checkpoints found out.
    pub(crate) const fn ids_mut(&mut self) -> &mut Ids {
        &mut self.ids
    }

    /// Memory of what the guard remembers, about.
    pub(crate) fn guard_bytes(&self) -> usize {
        self.tallies.guard.memory_bytes()
    }

    /// Memory that is kept to prepare the next entry.
    pub(crate) fn spare_bytes(&self) -> usize {
        let Spare { keys, coded } = &self.spare;
        let prepared = keys.capacity() * size_of::<Option<Key>>() + coded.memory_bytes();
        prepared + self.words.memory_bytes()
    }

    /// The sessions.
    pub(crate) const fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The sessions, for what the writer of checkpoints found out.
    pub(crate) const fn sessions_mut(&mut self) -> &mut Sessions {
        &mut self.sessions
    }

    /// Tells the sessions which dimensions the plan keeps of them.
    fn name_session_dims(&mut self) {
        let plan = Arc::clone(&self.plan);
        let names: Vec<&str> = plan
            .session_dims
            .iter()
            .map(|dim| plan.dimensions[dim.index()].name.as_str())
            .collect();
        self.sessions.set_dimensions(&names);
    }

    /// Adds what the open layer counted without its number, by metric of the plan.
    fn note_unread(&mut self, unread: &[u64]) {
        for (metric, &events) in self.plan.metrics.iter().zip(unread) {
            if events > 0 {
                let known = Arc::make_mut(&mut self.unread);
                *known.entry(metric.name.clone()).or_default() += events;
            }
        }
    }

    /// Adds what was folded for the quotas of keys, by their ids; past some hundred keys the others
    /// are one.
    fn note_over_quota(&mut self, coded: &CodedEvents) {
        let mut over = self.tallies.guard.take_over_quota();
        if over.is_empty() {
            return;
        }
        let known = Arc::make_mut(&mut self.over_quota);
        for (sender, name) in coded.senders() {
            let Some(values) = over.remove(&sender.key()) else { continue };
            let has_room = known.len() < KEYS_NAMED_MAX || known.contains_key(name);
            let name = if has_room && sender != Sender::NOBODY { name } else { OTHER_KEYS };
            *known.entry(name.to_owned()).or_default() += values;
        }
    }

    /// Forgets what was counted of metrics that `next` declares otherwise, or not at all.
    fn forget_unread(&mut self, next: &Plan) {
        let definition = |of: &Plan, name: &str| of.metric(name).map(|metric| metric.definition);
        let before = &self.plan;
        Arc::make_mut(&mut self.unread)
            .retain(|name, _| definition(next, name) == definition(before, name));
    }

    /// The facts that hold now.
    fn facts(&mut self) -> Facts {
        Facts {
            seq: self.seq(),
            now: self.now(),
            watermark: self.watermark,
            counters: self.counters,
            positions: self.positions,
            oldest_open_session: self.sessions.oldest_open_start(self.watermark),
            overlong_sessions: self.sessions.long_open() as u64,
            unrevised_sessions: self.sessions.unrevised(),
            import_running: self
                .imported_at
                .is_some_and(|at| self.now().since(at) < IMPORT_RUNNING_MS),
            folded: Arc::clone(self.tallies.guard.folded()),
            unread: Arc::clone(&self.unread),
            over_quota: Arc::clone(&self.over_quota),
            corrected: Arc::clone(&self.corrected),
            late: Arc::clone(&self.late),
            conflicts: Arc::clone(&self.conflicts),
            freshness: None,
        }
    }
}

const HOUR_MS: i64 = 3_600_000;

/// Of the memory for filters sessions have so many parts of a hundred: a session that goes on has
/// one row in each of a few runs, an id one for as long as it is remembered.
const SESSION_FILTERS_PERCENT: usize = 20;

/// What the guard remembers of a value takes about as much memory as so many hot ids.
const IDS_PER_GUARDED: u64 = 2;

/// Hot ids beside `guarded` values that the guard remembers: up to three quarters of theirs is its memory.
const fn ids_beside(hot_ids_max: u64, guarded: u64) -> u64 {
    let (given, most) = (guarded.saturating_mul(IDS_PER_GUARDED), hot_ids_max / 4 * 3);
    hot_ids_max - if given < most { given } else { most }
}

fn ids_settings(shard: &Shard, settings: &FoldSettings) -> IdsSettings {
    let mut ids = IdsSettings::new(ids_folder(shard.partition));
    ids.filter_bytes_max = shard.filter_bytes_max / 100 * (100 - SESSION_FILTERS_PERCENT);
    ids.hot_ms = i64::from(settings.hot_ms);
    ids.hot_ids_max = settings.hot_ids_max;
    ids.horizon_ms = i64::from(settings.horizon_hours) * HOUR_MS;
    ids
}

fn sessions_settings(shard: &Shard, settings: &FoldSettings) -> SessionsSettings {
    let mut sessions = SessionsSettings::new(sessions_folder(shard.partition));
    sessions.filter_bytes_max = shard.filter_bytes_max / 100 * SESSION_FILTERS_PERCENT;
    // More than memory can address is as good as no limit.
    sessions.hot_sessions_max = usize::try_from(settings.hot_sessions_max).unwrap_or(usize::MAX);
    sessions.horizon_ms = i64::from(settings.horizon_hours) * HOUR_MS;
    sessions
}

impl Prepared<'_> {
    /// Receive times of the live events, each with how many came at it in a row.
    #[must_use]
    pub fn received_at(&self) -> &[(ReceiveTime, u64)] {
        &self.received_at
    }

    /// Reads the cold files. Damage is part of the answer.
    ///
    /// # Errors
    ///
    /// What the disk says; to be tried again, after some tries by [`Self::fetch_anyway`].
    pub fn fetch(&self, disk: &dyn Disk) -> Result<Cold, RunReadFailed> {
        Ok(Cold { ids: self.ids.fetch(disk)?, sessions: self.sessions.fetch(disk)? })
    }

    /// As [`Self::fetch`]; what the disk refuses to read counts as damaged.
    #[must_use]
    pub fn fetch_anyway(&self, disk: &dyn Disk) -> Cold {
        Cold { ids: self.ids.fetch_anyway(disk), sessions: self.sessions.fetch_anyway(disk) }
    }
}
