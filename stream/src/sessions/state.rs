//! The sessions of one shard: touched by events, told to the cells, sealed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::Arc;

use nilometer_event::{EventTime, ReceiveTime, UserHash};
use nilometer_log::Disk;
use smallvec::SmallVec;

use super::cold::{ColdSessionLookups, ColdSessions, Probe};
use super::hot::HotSessions;
use super::manifest::SessionsManifest;
use super::merge::{SessionsMerge, SessionsMerged, choose, is_run_forgotten};
use super::open::{Open, Span};
use super::packed::PackedStates;
use super::session::{around, is_all_near};
use super::shelf::Shelf;
use super::store::{SessionRun, write_layer};
use super::touch::{Before, Touched};
use super::words::{Word, Words};
use crate::ids::filter::Filter;
use crate::ids::{ClosedHours, Hour, MergeRunsError};

/// What an operator may choose about sessions.
#[derive(Clone, Debug)]
pub struct SessionsSettings {
    /// Folder of the run files on the disk port, such as `checkpoints/0/sessions`.
    pub dir: String,
    /// The longest silence within a session.
    pub gap_ms: i64,
    /// How many sessions stay hot, once their run is written: fewer where their texts take more
    /// than [`HOT_SESSION_BYTES`] leaves for them.
    pub hot_sessions_max: usize,
    /// How far behind the watermark an hour is forgotten; the ids' horizon.
    pub horizon_ms: i64,
    /// Memory for the filters of runs; what finds no room is asked on disk.
    pub filter_bytes_max: usize,
}

/// Memory that a hot session needs, with its places in the indices and what texts usually take
/// (docs/operations.md, "Memory").
pub const HOT_SESSION_BYTES: usize = 176;

/// So much texts take that are not told from those that all sessions have in common.
const COMMON_BYTES: usize = 1 << 20;

impl SessionsSettings {
    /// The defaults: 30 min, 2 M sessions, 90 days, 32 MiB.
    #[must_use]
    pub fn new(dir: impl Into<String>) -> Self {
        Self {
            dir: dir.into(),
            gap_ms: 30 * 60_000,
            hot_sessions_max: 2_000_000,
            horizon_ms: 90 * 86_400_000,
            filter_bytes_max: 32 << 20,
        }
    }
}

/// The sessions of one shard.
#[derive(Debug)]
pub struct Sessions {
    pub(super) settings: SessionsSettings,
    pub(super) closed: ClosedHours,
    pub(super) watermark: EventTime,
    pub(super) hot: HotSessions,
    pub(super) words: Words,
    pub(super) dimensions: Vec<Word>,
    pub(super) open: Open,
    /// What the entry changes; both empty between entries, and kept for their memory.
    pub(super) touched: Vec<Touched>,
    pub(super) befores: Vec<Before>,
    /// The event's dimensions, kept for its memory.
    pub(super) scratch: Vec<(Word, Word)>,
    pub(super) runs: Vec<SessionRun>,
    /// Which runs fill a shelf, as indices into `runs`.
    cold: HashMap<i64, Vec<usize>>,
    /// The levels of all shelves filled or lost.
    levels: BTreeSet<u32>,
    /// No session that is not hot has a later event.
    pub(super) evicted_latest: EventTime,
    pub(super) lost: BTreeSet<i64>,
    pub(super) unrevised: u64,
    sealed: Option<u64>,
    /// What the sealed layer's sessions take on their way to a run file.
    sealed_bytes: usize,
    /// Memory of the layer written last, for the next seal: fresh memory made it a stall.
    spare: PackedStates,
    merging: bool,
    pub(super) next_merge: u64,
    unmergeable: HashSet<String>,
}

/// A layer's changed sessions on their way to a run file, with the state as it was at the seal.
#[derive(Clone, Debug)]
pub struct SessionsSealed {
    layer: u64,
    file: String,
    states: PackedStates,
    texts: Vec<Arc<str>>,
    manifest: SessionsManifest,
}

/// A layer's changed sessions in their run file.
#[derive(Clone, Debug)]
pub struct SessionsWritten {
    layer: u64,
    run: Option<SessionRun>,
    manifest: SessionsManifest,
    spare: PackedStates,
}

impl Sessions {
    /// Of a new shard, created at `birth`.
    #[must_use]
    pub fn new(settings: SessionsSettings, birth: EventTime) -> Self {
        Self {
            settings,
            closed: ClosedHours::new(birth, EventTime::MIN),
            watermark: EventTime::MIN,
            hot: HotSessions::default(),
            words: Words::default(),
            dimensions: Vec::new(),
            open: Open::default(),
            touched: Vec::new(),
            befores: Vec::new(),
            scratch: Vec::new(),
            runs: Vec::new(),
            cold: HashMap::new(),
            levels: BTreeSet::new(),
            evicted_latest: EventTime::MIN,
            lost: BTreeSet::new(),
            unrevised: 0,
            sealed: None,
            sealed_bytes: 0,
            spare: PackedStates::default(),
            merging: false,
            next_merge: 0,
            unmergeable: HashSet::new(),
        }
    }

    /// Names the plan's session dimensions, in the order in which [`Self::touch`] gets their
    /// values; between entries.
    pub fn set_dimensions(&mut self, names: &[&str]) {
        self.dimensions = names.iter().map(|name| self.words.number(name)).collect();
    }

    /// Takes over the settings of the next entry: how many sessions stay hot, and how far behind
    /// the watermark an hour is forgotten. They act at the next seal.
    pub const fn configure(&mut self, hot_sessions_max: usize, horizon_ms: i64) {
        self.settings.hot_sessions_max = hot_sessions_max;
        self.settings.horizon_ms = horizon_ms;
    }

    /// What has to be read before these events, the next entry's, can touch their sessions.
    #[must_use]
    pub fn plan_lookups(
        &self,
        touches: impl IntoIterator<Item = (UserHash, EventTime)>,
    ) -> ColdSessionLookups {
        let gap_ms = self.settings.gap_ms;
        let mut lookups = ColdSessionLookups::new(gap_ms, self.evicted_latest);
        for (user, time) in touches {
            if time.minus_ms(gap_ms) > self.evicted_latest {
                continue;
            }
            let near = self.hot.of_user(user.get(), around(time, gap_ms));
            let near: SmallVec<[Span; 2]> =
                near.map(|(_, state)| (state.first, state.last)).collect();
            self.probe(user.get(), time, &near, &mut lookups);
        }
        if !lookups.probes.is_empty() {
            lookups.runs.clone_from(&self.runs);
        }
        lookups
    }

    /// The task's number of a text; holds until the next seal.
    pub(crate) fn word(&mut self, text: &str) -> Word {
        self.words.number(text)
    }

    /// Reads what touching these users' sessions will read, and does nothing with it: the reads
    /// overlap, which they do not once each waits for the one before.
    pub(crate) fn warm(&self, users: impl Iterator<Item = UserHash>) {
        self.hot.warm(users.map(UserHash::get));
    }

    /// Adds one counted event of a user (never of a service); `dims` in the order of
    /// [`Self::set_dimensions`], `cold` answers the entry's look-ups.
    pub fn touch(
        &mut self,
        user: UserHash,
        time: EventTime,
        event_type: &str,
        dims: &[Option<&str>],
        cold: &ColdSessions,
    ) {
        let event_type = self.words.number(event_type);
        let dims: SmallVec<[Option<Word>; 8]> =
            dims.iter().map(|value| value.map(|value| self.words.number(value))).collect();
        self.touch_words((user, time), event_type, &dims, cold);
    }

    /// The start of the oldest session that an event at the watermark could still prolong; those
    /// open over 24 h are left out (see [`Self::long_open`]).
    ///
    /// Of sessions that were evicted open at the cap only a bound is kept, to the minute: the
    /// answer is then as early as it has to be, or earlier.
    pub fn oldest_open_start(&mut self, watermark: EventTime) -> Option<EventTime> {
        self.watermark = self.watermark.max(watermark);
        let span_of = |slot| {
            let state = self.hot.state(slot);
            (state.first, state.last)
        };
        self.open.oldest(self.watermark, self.settings.gap_ms, span_of)
    }

    /// How many hot sessions are open over 24 h.
    #[must_use]
    pub fn long_open(&self) -> usize {
        let span_of = |slot| {
            let state = self.hot.state(slot);
            (state.first, state.last)
        };
        self.open.long_open(self.watermark, self.settings.gap_ms, span_of)
    }

    /// How many events came near sessions that can no longer be read.
    #[must_use]
    pub const fn unrevised(&self) -> u64 {
        self.unrevised
    }

    /// How many sessions are hot.
    #[must_use]
    pub const fn hot_len(&self) -> usize {
        self.hot.len()
    }

    /// How many times as much as hot sessions may take do those that the open layer changed, about:
    /// sessions that no file holds cannot go cold. What `len_min` take it may change in any case.
    #[must_use]
    pub fn filled(&self, len_min: usize) -> usize {
        let may = self.settings.hot_sessions_max.max(len_min).saturating_mul(HOT_SESSION_BYTES);
        self.hot.changed_len().saturating_mul(self.bytes_each()) / may
    }

    /// The run files in use.
    #[must_use]
    pub fn files(&self) -> Vec<&str> {
        self.runs.iter().map(|run| run.meta.file.as_str()).collect()
    }

    /// How many run files are in use.
    #[must_use]
    pub const fn runs_len(&self) -> usize {
        self.runs.len()
    }

    /// Memory of hot sessions, texts, indices and filters.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let runs: usize = self.runs.iter().map(|run| run.run.memory_bytes()).sum();
        self.hot.memory_bytes()
            + self.words.memory_bytes()
            + self.open.memory_bytes()
            + runs
            + self.spare.memory_bytes()
            + self.sealed_bytes
    }

    /// Closes the open layer: what it changed is to be written, ended sessions go cold, and hours
    /// past the horizon are forgotten.
    ///
    /// # Panics
    ///
    /// When the layer before was not [`Self::installed`], or within an entry.
    pub fn seal(&mut self, layer: u64, _now: ReceiveTime, watermark: EventTime) -> SessionsSealed {
        assert!(self.sealed.is_none(), "S1: layer {:?} was sealed but not installed", self.sealed);
        assert!(self.touched.is_empty(), "S2: a seal within an entry");
        self.sealed = Some(layer);
        self.watermark = self.watermark.max(watermark);
        self.closed.forget_before(self.watermark.minus_ms(self.settings.horizon_ms));
        self.evict();
        self.forget_words();
        let (closed, gap_ms) = (&self.closed, self.settings.gap_ms);
        self.runs.retain(|run| !is_run_forgotten(&run.meta, closed, gap_ms));
        self.lost.retain(|&group| {
            let hours = Shelf::from_group(group).map(Shelf::hours);
            // What cannot be told is not known to be forgotten.
            hours.is_none_or(|(first, last)| !closed.spans_forgotten(first.start(), last.start()))
        });
        self.refresh();
        let mut states = std::mem::take(&mut self.spare);
        self.hot.take_changed(&mut states);
        self.hot.compact(|from, to, first| self.open.relist((from, to), first));
        let texts = self.words.texts();
        self.sealed_bytes = states.memory_bytes() + texts.len() * size_of::<Arc<str>>();
        SessionsSealed {
            layer,
            file: format!("{}/{layer:020}.sessions", self.settings.dir),
            states,
            texts,
            manifest: self.manifest(),
        }
    }

    /// Takes the layer's run into use, before the next seal.
    ///
    /// # Panics
    ///
    /// When another layer is awaited.
    pub fn installed(&mut self, written: SessionsWritten) {
        assert!(self.sealed == Some(written.layer), "S1: layer {} was not sealed", written.layer);
        self.sealed = None;
        self.sealed_bytes = 0;
        self.spare = written.spare;
        self.runs.extend(written.run);
        self.refresh();
    }

    /// Runs to merge, if any are worth it and no merge is under way.
    pub fn plan_merge(&mut self) -> Option<SessionsMerge> {
        if self.merging {
            return None;
        }
        let is_mergeable = |run: &&SessionRun| !self.unmergeable.contains(&run.meta.file);
        let mergeable: Vec<&SessionRun> = self.runs.iter().filter(is_mergeable).collect();
        let (inputs, level) = choose(&mergeable)?;
        let inputs: Vec<SessionRun> = inputs.into_iter().cloned().collect();
        let first = inputs.iter().map(|run| run.meta.first_layer).min()?;
        let file = format!("{}/{first:020}-{:010}.sessions", self.settings.dir, self.next_merge);
        self.next_merge += 1;
        self.merging = true;
        let (closed, gap_ms) = (self.closed.clone(), self.settings.gap_ms);
        Some(SessionsMerge { inputs, file, level, closed, gap_ms })
    }

    /// Takes a merged run into use in place of its inputs; any time between two entries.
    ///
    /// The inputs' files stay needed while a kept manifest lists them.
    pub fn merged(&mut self, merged: SessionsMerged) {
        self.merging = false;
        let known = |file: &String| self.runs.iter().any(|run| run.meta.file == *file);
        if !merged.inputs.iter().all(known) {
            // An input was forgotten meanwhile; the others still answer for themselves.
            return;
        }
        self.runs.retain(|run| !merged.inputs.contains(&run.meta.file));
        self.runs.extend(merged.output);
        self.refresh();
    }

    /// Gives up the merge under way; a damaged input is left out of later ones.
    pub fn merge_failed(&mut self, error: &MergeRunsError) {
        self.merging = false;
        if let MergeRunsError::Damaged { file, .. } = error {
            self.unmergeable.insert(file.clone());
        }
    }

    fn manifest(&self) -> SessionsManifest {
        SessionsManifest {
            closed: self.closed.clone(),
            watermark: self.watermark,
            evicted_latest: self.evicted_latest,
            evicted_open: self.open.evicted.clone(),
            lost: self.lost.clone(),
            unrevised: self.unrevised,
            next_merge: self.next_merge,
            runs: self.runs.iter().map(|run| run.meta.clone()).collect(),
        }
    }

    /// Asks the runs that may know sessions near the event besides the hot ones in `near`.
    fn probe(&self, user: u64, time: EventTime, near: &[Span], lookups: &mut ColdSessionLookups) {
        let gap_ms = self.settings.gap_ms;
        let is_known = |latest: EventTime| {
            let latest = latest.min(self.evicted_latest);
            near.iter().any(|&span| is_all_near(span, time, latest, gap_ms))
        };
        if is_known(EventTime::MAX) {
            return;
        }
        let hours = (Hour::of(time.minus_ms(gap_ms)), Hour::of(time.plus_ms(gap_ms)));
        let shelves = self.levels.iter().flat_map(|&level| Shelf::range(level, hours.0, hours.1));
        for shelf in shelves {
            let group = shelf.group();
            if self.lost.contains(&group) {
                lookups.lost.insert(user);
            }
            for &index in self.cold.get(&group).map_or(&[][..], Vec::as_slice) {
                let SessionRun { meta, run } = &self.runs[index];
                let may_hold = |filter: &Arc<Filter>| filter.may_hold(shelf.filter_key(user));
                if !is_known(meta.latest) && run.filter.as_ref().is_none_or(may_hold) {
                    let block = run.find(group, user);
                    let probe = |block| Probe { run: index, block, user, time };
                    lookups.probes.extend(block.map(probe));
                }
            }
        }
    }

    /// How many sessions may be hot: where theirs take more than is meant for so many, as many as
    /// it is enough for.
    pub(super) fn len_max(&self) -> usize {
        let most = self.settings.hot_sessions_max;
        most.saturating_mul(HOT_SESSION_BYTES) / self.bytes_each()
    }

    /// What a hot session takes, on average.
    fn bytes_each(&self) -> usize {
        let texts = self.words.memory_bytes().saturating_sub(COMMON_BYTES);
        HOT_SESSION_BYTES + (self.hot.lists_bytes() + texts) / self.hot.len().max(1)
    }

    fn evict(&mut self) {
        let len_max = self.len_max();
        let Self { hot, open, evicted_latest, settings, watermark, .. } = self;
        hot.evict(*watermark, settings.gap_ms, len_max, |slot, state| {
            open.unlist(slot);
            *evicted_latest = state.last.max(*evicted_latest);
            if state.last.plus_ms(settings.gap_ms) >= *watermark {
                open.evict_open((state.first, state.last));
            }
        });
    }

    fn forget_words(&mut self) {
        if !self.words.is_worth_forgetting() {
            return;
        }
        let Self { hot, words, dimensions, .. } = self;
        words.forget_unused(|visit| {
            dimensions.iter_mut().for_each(&mut *visit);
            hot.for_each_word(visit);
        });
    }

    /// Finds out anew which runs fill what shelf, and gives filters the memory there is.
    pub(super) fn refresh(&mut self) {
        self.cold.clear();
        for (index, run) in self.runs.iter().enumerate() {
            for &group in &run.meta.groups {
                self.cold.entry(group).or_default().push(index);
            }
        }
        let groups = self.cold.keys().chain(&self.lost);
        self.levels =
            groups.filter_map(|&group| Shelf::from_group(group)).map(Shelf::level).collect();
        let mut left = self.settings.filter_bytes_max;
        let mut newest: Vec<&mut SessionRun> = self.runs.iter_mut().collect();
        newest.sort_by_key(|run| std::cmp::Reverse(run.meta.last_layer));
        for run in newest {
            let bytes = run.run.filter_bytes();
            if bytes <= left {
                left -= bytes;
            } else {
                run.run.filter = None;
            }
        }
    }
}

impl SessionsSealed {
    /// The layer whose sessions these are.
    #[must_use]
    pub const fn layer(&self) -> u64 {
        self.layer
    }

    /// Writes the run file durably; may be called again after an error.
    ///
    /// # Errors
    ///
    /// What the disk says.
    pub fn write(&self, disk: &dyn Disk) -> io::Result<SessionsWritten> {
        let run = write_layer(disk, self.file.clone(), self.layer, &self.states, &self.texts)?;
        let mut manifest = self.manifest.clone();
        manifest.runs.extend(run.iter().map(|run| run.meta.clone()));
        Ok(SessionsWritten { layer: self.layer, run, manifest, spare: PackedStates::default() })
    }
}

impl SessionsWritten {
    /// The state as it was right after the seal, this run included.
    #[must_use]
    pub const fn manifest(&self) -> &SessionsManifest {
        &self.manifest
    }

    /// Gives the memory of what was written back with it.
    pub(crate) fn keep_memory(&mut self, sealed: SessionsSealed) {
        self.spare = sealed.states.emptied();
    }
}
