//! What a shard shows: open layer, sealing layers and the facts that belong to them, by one pointer.
//!
//! A reader calls [`Views::pin`] once, then [`OpenLayer::read`] for each shard, and keeps the
//! guard as long as it reads: the cells and the [`Facts`] behind one guard are of one seq. The
//! fold waits for guards, so nobody may wait for the fold while holding one.
//! A layer that is sealed while it is pinned stays readable and no longer changes. Which
//! layers of a view a store already holds is decided by [`LayerNumber`] alone.

mod conflicts;
pub use conflicts::{ConflictsBySource, SOURCES_TOLD_MAX};

mod hours;
pub use hours::{CorrectedHours, LateDays};

mod freshness;
pub use freshness::{Freshness, FreshnessMeter};

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwapOption;
use nilometer_event::{
    EventTime, Offset, Partition, PartitionCount, ReceiveTime, TimeRange, Topic,
};
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use prometheus_client::metrics::histogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::cells::{FoldedDays, Layer};
use crate::declare::{Plan, PlanId};

/// Number of a layer of one shard, counted from 1; 0 is before the first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct LayerNumber(u64);

impl LayerNumber {
    /// Before the first layer.
    pub const NONE: Self = Self(0);
    /// The first layer of a shard.
    pub const FIRST: Self = Self(1);

    /// From its number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The one after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Where the producers' records of one shard went (N3). All since the shard's birth.
///
/// `received = unique + duplicate + late_pending + dead_lettered + erased + quarantined` holds
/// after every entry; [`Counters::residual`] is the difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Records of the received topics that were folded, lost ones included.
    pub received: u64,
    /// First occurrences, each counted in exactly one layer.
    pub unique: u64,
    /// Repeats of an identity.
    pub duplicate: u64,
    /// Events in closed hours, handed to `late-events` and not merged yet.
    pub late_pending: u64,
    /// Records of `dlq-events`.
    pub dead_lettered: u64,
    /// Events that purges took out again.
    pub erased: u64,
    /// Records that were lost to damage or are no record of ours.
    pub quarantined: u64,
    /// Live events that were behind the watermark of their entry's begin, wherever they went.
    pub late: u64,
    /// Repeats whose content differs from the first occurrence; each is also a duplicate.
    pub conflicts: u64,
}

impl Counters {
    /// What the terms miss of `received`; 0 unless the fold is wrong.
    #[must_use]
    pub fn residual(&self) -> i128 {
        let terms = [
            self.unique,
            self.duplicate,
            self.late_pending,
            self.dead_lettered,
            self.erased,
            self.quarantined,
        ];
        i128::from(self.received) - terms.into_iter().map(i128::from).sum::<i128>()
    }

    /// Adds another shard's counters.
    pub const fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.unique += other.unique;
        self.duplicate += other.duplicate;
        self.late_pending += other.late_pending;
        self.dead_lettered += other.dead_lettered;
        self.erased += other.erased;
        self.quarantined += other.quarantined;
        self.late += other.late;
        self.conflicts += other.conflicts;
    }
}

/// How far one received topic is folded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The first offset that is not folded.
    pub next: Offset,
    /// Receive time of the last record folded; the default before the first.
    pub folded_to: ReceiveTime,
}

/// How far each topic of [`Topic::RECEIVED`] is folded, in that order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions(pub [Position; Topic::RECEIVED.len()]);

impl Positions {
    /// The position in `topic`; `None` for a topic that is not received.
    #[must_use]
    pub fn of(&self, topic: Topic) -> Option<Position> {
        Topic::RECEIVED.iter().position(|&received| received == topic).map(|index| self.0[index])
    }

    /// Every received topic with its position.
    pub fn iter(&self) -> impl Iterator<Item = (Topic, Position)> + '_ {
        Topic::RECEIVED.into_iter().zip(self.0)
    }
}

/// What holds of a shard at one seq.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The last entry folded; 0 before the first.
    pub seq: u64,
    /// The house's `now` of that entry: `as_of`.
    pub now: ReceiveTime,
    /// Windows that end at or before it are complete but for late events.
    pub watermark: EventTime,
    /// Where the received records went.
    pub counters: Counters,
    /// How far the topics are folded.
    pub positions: Positions,
    /// Start of the oldest session that can still grow (sessions open over 24 h left out):
    /// session metrics are final up to here at most.
    pub oldest_open_session: Option<EventTime>,
    /// Sessions open over 24 h, which do not hold `final_until`.
    pub overlong_sessions: u64,
    /// Events that came near sessions that can no longer be read, because a file was damaged.
    pub unrevised_sessions: u64,
    /// Whether history was imported within the last minute of `now`.
    pub import_running: bool,
    /// Days of which some values are folded into `__other__`.
    pub folded: Arc<FoldedDays>,
    /// By metric, all events that it counted without their number since it was declared as it is:
    /// what they carry is no number, or does not fit at the metric's scale.
    pub unread: Arc<BTreeMap<String, u64>>,
    /// By key, values of its events that count as `__other__` because a key had brought all the new
    /// ones that it may.
    pub over_quota: Arc<BTreeMap<String, u64>>,
    /// Events from the future, by the hour in which they count.
    pub corrected: Arc<CorrectedHours>,
    /// Events that are late, pending, by the day in which they would count.
    pub late: Arc<LateDays>,
    /// Conflicts by source.
    pub conflicts: Arc<ConflictsBySource>,
    /// Receive-to-shown latency of the last minutes; `None` before the first event.
    pub freshness: Option<Freshness>,
}

/// The last durable checkpoint of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointStatus {
    /// The entry that it holds everything up to; 0 before the first.
    pub seq: u64,
    /// `now` of that entry.
    pub at: ReceiveTime,
    /// How long writing it took; `None` where another process did.
    pub took_ms: Option<u64>,
    /// Tries that failed since; each is repeated.
    pub failures: u64,
}

impl CheckpointStatus {
    /// False before the first.
    #[must_use]
    pub const fn is_there(&self) -> bool {
        self.seq > 0
    }
}

/// One consistent picture of a shard, replaced as a whole.
#[derive(Clone, Debug)]
pub struct ShardView {
    /// The shard.
    pub partition: Partition,
    /// The plan that the open layer counts by.
    pub plan: Arc<Plan>,
    /// The open layer's number.
    pub layer: LayerNumber,
    /// The open layer, with the newest facts.
    pub open: Arc<OpenLayer>,
    /// Layers that are sealed and not yet adopted by the sink, oldest first.
    pub sealing: Vec<Arc<OpenLayer>>,
    /// The last durable checkpoint.
    pub checkpoint: CheckpointStatus,
}

impl ShardView {
    /// The facts of the open layer, copied, without waiting for an entry that is being folded:
    /// cells that are read afterwards are of this seq or a later one. Where cells are read as
    /// well, take both from one [`OpenLayer::read`].
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.open.shown.read().clone()
    }
}

/// A layer in memory with the facts at its last entry, under one lock. Once sealed it is
/// never written again, and stays readable for everyone who holds it.
#[derive(Debug)]
pub struct OpenLayer {
    number: LayerNumber,
    inner: RwLock<LayerAndFacts>,
    /// The same facts, for those who read no cells. Changed while `inner` is locked, so never
    /// ahead of the cells that are read next.
    shown: RwLock<Facts>,
}

/// What an [`OpenLayer`] holds: the cells and the facts of one seq.
#[derive(Debug)]
pub struct LayerAndFacts {
    /// The cells.
    pub layer: Layer,
    /// The facts at the last entry that counted in these cells.
    pub facts: Facts,
}

/// Both, of one seq, for as long as it is held. The fold waits meanwhile: read, do not compute.
#[derive(Debug)]
pub struct OpenGuard<'a>(RwLockReadGuard<'a, LayerAndFacts>);

impl Deref for OpenGuard<'_> {
    type Target = LayerAndFacts;

    fn deref(&self) -> &LayerAndFacts {
        &self.0
    }
}

/// The fold's side of the lock.
#[derive(Debug)]
pub(crate) struct FoldGuard<'a> {
    inner: RwLockWriteGuard<'a, LayerAndFacts>,
    shown: &'a RwLock<Facts>,
}

impl Deref for FoldGuard<'_> {
    type Target = LayerAndFacts;

    fn deref(&self) -> &LayerAndFacts {
        &self.inner
    }
}

impl DerefMut for FoldGuard<'_> {
    fn deref_mut(&mut self) -> &mut LayerAndFacts {
        &mut self.inner
    }
}

impl FoldGuard<'_> {
    /// Lets the readers in that wait, and waits until they have read; returns at once where none
    /// waits. They see what they would have seen before the entry: no cell and no fact has
    /// changed yet.
    pub(crate) fn let_readers_in(&mut self) {
        RwLockWriteGuard::bump(&mut self.inner);
    }

    /// Replaces the facts.
    pub(crate) fn show(&mut self, facts: Facts) {
        self.shown.write().clone_from(&facts);
        self.inner.facts = facts;
    }
}

impl OpenLayer {
    /// A layer with the facts that hold at its begin.
    #[must_use]
    pub fn new(number: LayerNumber, layer: Layer, facts: Facts) -> Self {
        let shown = RwLock::new(facts.clone());
        Self { number, inner: RwLock::new(LayerAndFacts { layer, facts }), shown }
    }

    /// Its number.
    #[must_use]
    pub const fn number(&self) -> LayerNumber {
        self.number
    }

    /// Cells and facts of one seq.
    pub fn read(&self) -> OpenGuard<'_> {
        // Recursive, so that a thread that holds a guard may take another while the fold waits.
        OpenGuard(self.inner.read_recursive())
    }

    /// As [`OpenLayer::read`]; `None` while an entry is being folded, so that a reader of many
    /// shards can read the others first.
    pub fn try_read(&self) -> Option<OpenGuard<'_>> {
        self.inner.try_read_recursive().map(OpenGuard)
    }

    pub(crate) fn write(&self) -> FoldGuard<'_> {
        FoldGuard { inner: self.inner.write(), shown: &self.shown }
    }
}

/// Memory that a shard holds, in bytes, about, by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardMemory {
    /// The open layer.
    pub open: u64,
    /// Sealed layers that are not adopted yet.
    pub sealing: u64,
    /// Hot ids, and the indices of cold ones.
    pub ids: u64,
    /// Hot sessions, and the indices of cold ones.
    pub sessions: u64,
    /// What the cardinality guard remembers.
    pub guard: u64,
    /// Records of the entry folded last, and what is kept to prepare the next.
    pub entry: u64,
}

/// How long the steps of all shards took that folded an entry, in seconds.
#[derive(Debug)]
pub(crate) struct Steps {
    /// From begin to end.
    pub(crate) took: Histogram,
    /// Of the shard's own processor; what is between them it waited, for a core or for the disk.
    pub(crate) worked: Histogram,
}

/// Where [`Steps`] are told apart; a stall of the fold is one over a tenth of a second.
const STEP_BUCKETS_S: [f64; 8] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

/// The views of every shard; readers and shells share it.
#[derive(Debug)]
pub struct Views {
    shards: Vec<ArcSwapOption<ShardView>>,
    memory: Vec<Mutex<ShardMemory>>,
    /// How many percent of their memory those may take now who can do with less.
    memory_percent: AtomicU32,
    read_percent: AtomicU32,
    hot_percent: AtomicU32,
    steps: Steps,
    changed: tokio::sync::watch::Sender<u64>,
}

impl Views {
    /// Room for every shard; none is shown yet.
    #[must_use]
    pub fn new(partitions: PartitionCount) -> Self {
        let shards = partitions.partitions().map(|_| ArcSwapOption::empty()).collect();
        let memory = partitions.partitions().map(|_| Mutex::default()).collect();
        let histogram = || Histogram::new(STEP_BUCKETS_S);
        let steps = Steps { took: histogram(), worked: histogram() };
        let [memory_percent, read_percent, hot_percent] = [100; 3].map(AtomicU32::new);
        let changed = tokio::sync::watch::Sender::new(0);
        Self { shards, memory, memory_percent, read_percent, hot_percent, steps, changed }
    }

    /// Lets those who can do with less take so many percent of the memory that the settings give
    /// them: less where the process is near its limit. Layers, from each shard's next entry on,
    /// and what the store keeps of what was read.
    pub fn allow(&self, percent: u32) {
        self.memory_percent.store(percent, Ordering::Relaxed);
    }

    /// Lets a question that begins now read so many percent at once of what the settings let it.
    pub fn allow_reading(&self, percent: u32) {
        self.read_percent.store(percent, Ordering::Relaxed);
    }

    /// How many percent of it a question may read at once, 100 at most.
    #[must_use]
    pub fn read_percent(&self) -> u32 {
        self.read_percent.load(Ordering::Relaxed)
    }

    /// Lets each shard keep so many percent of the ids and sessions hot that the settings let it,
    /// from its next seal on.
    pub fn keep_hot(&self, percent: u32) {
        self.hot_percent.store(percent, Ordering::Relaxed);
    }

    /// How many percent of them may be hot now, 100 at most.
    #[must_use]
    pub fn hot_percent(&self) -> u32 {
        self.hot_percent.load(Ordering::Relaxed)
    }

    /// How many percent of it they may take now, 100 at most.
    #[must_use]
    pub fn memory_percent(&self) -> u32 {
        self.memory_percent.load(Ordering::Relaxed)
    }

    /// What every shard held after its last entry, in partition order.
    #[must_use]
    pub fn memory(&self) -> Vec<ShardMemory> {
        self.memory.iter().map(|shard| *shard.lock()).collect()
    }

    pub(crate) const fn steps(&self) -> &Steps {
        &self.steps
    }

    pub(crate) fn note_memory(&self, partition: Partition, memory: ShardMemory) {
        if let Some(shard) = self.memory.get(partition.index()) {
            *shard.lock() = memory;
        }
    }

    /// The view of each shard that has recovered, in partition order.
    #[must_use]
    pub fn pin(&self) -> Vec<Arc<ShardView>> {
        self.shards.iter().filter_map(ArcSwapOption::load_full).collect()
    }

    /// Whether every shard is shown: before that, answers would lack some.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.shards.iter().all(|shard| shard.load().is_some())
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Ticks after every entry that a shard folded and after every swap of a view.
    #[must_use]
    pub fn changed(&self) -> tokio::sync::watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Shows `view` in place of its shard's last one. The shell calls it; tests of readers do.
    pub fn publish(&self, view: ShardView) {
        if let Some(shard) = self.shards.get(view.partition.index()) {
            shard.store(Some(Arc::new(view)));
        }
        self.tick();
    }

    /// Wakes readers: what a pinned view shows has moved on.
    pub(crate) fn tick(&self) {
        self.changed.send_modify(|ticks| *ticks = ticks.wrapping_add(1));
    }
}

/// The file of a sealed layer, durable, immutable and listed by a durable manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedLayerFile {
    /// The shard.
    pub partition: Partition,
    /// Its number.
    pub layer: LayerNumber,
    /// The first entry that counted in it.
    pub seq_first: u64,
    /// The last entry that counted in it: the revision of its cells.
    pub seq_last: u64,
    /// The plan that it was counted by.
    pub plan: PlanId,
    /// Path on the shared disk.
    pub path: String,
    /// Every window that it may hold cells of, ascending, so that a damaged file costs no
    /// others; empty where that is not known.
    pub windows: Vec<TimeRange>,
}

/// A reader of the layers with a position of its own (rollups' store).
///
/// The shell calls [`LayerSink::adopt`] once a layer's manifest is durable and before the
/// layer leaves the shard's view; at recovery for every file that the manifest lists, so a
/// layer may be offered again, with the same bytes: a repeat is ignored. Layers come in rising
/// order; numbers of layers without cells are left out. Neither call may wait for the stream.
pub trait LayerSink: Send + Sync + std::fmt::Debug {
    /// Shows the layer from its file from now on. A damaged file reads as damaged windows.
    fn adopt(&self, sealed: SealedLayerFile);

    /// The layer up to which the sink no longer needs files, whichever of its own versions
    /// it may have to fall back to; [`LayerNumber::NONE`] at first. Never falls.
    fn folded_through(&self, partition: Partition) -> LayerNumber;
}
