//! The shell: reads, appends, writes and shows, and decides no result.
//!
//! [`Shell`] is one shard, driven step by step: by a thread of [`Stream`] in production, by the
//! simulator in tests. An entry is appended to the journal, durable, and only then folded;
//! whatever fails is tried again by the next step with the same bytes, and the state only ever
//! holds whole entries.

pub(crate) mod fail;
#[cfg(feature = "failpoints")]
pub use fail::FailPoints;

pub(crate) mod plans;
pub use plans::{PlanBook, PlanLoadError};

mod growth;
use growth::Growth;

mod purge;
pub use purge::{PurgeError, Scratch, Survey, Without};

mod read;

mod recover;

mod step;

mod tracer;
pub use tracer::{TraceError, Tracer};

mod stream;
pub use stream::{ShardStatus, ShutdownReport, Stream, StreamConfig};

pub use crate::checkpoint::{Turns, Writing};

use std::sync::Arc;

use nilometer_event::clock::Clock;
use nilometer_event::{IdentityKey, Offset, Partition, ReceiveTime};
use nilometer_log::{Disk, Log, Records};

use crate::checkpoint::{Job, Kept, Writer};
use crate::fold::{EntryRecords, Named, State};
use crate::journal::Entry;
use crate::settings::StreamSettings;
use crate::tables::TableBook;
use crate::view::{CheckpointStatus, FreshnessMeter, LayerSink, OpenLayer, Views};

/// What a shard is wired to.
#[derive(Clone, Debug)]
pub struct ShellConfig {
    /// Which shard.
    pub partition: Partition,
    /// Hashes user keys and event ids; the gateway's.
    pub identity: IdentityKey,
    /// The knobs.
    pub settings: StreamSettings,
    /// Where records and the journal lie.
    pub log: Arc<dyn Log>,
    /// Where checkpoints lie.
    pub disk: Arc<dyn Disk>,
    /// Who reads the sealed layers.
    pub sink: Arc<dyn LayerSink>,
    /// Where readers look.
    pub views: Arc<Views>,
    /// The dimension tables.
    pub tables: Arc<TableBook>,
    /// The plans.
    pub plans: Arc<PlanBook>,
    /// Measures how long things took, and when events were shown; decides nothing.
    pub clock: Arc<dyn Clock>,
    /// Who writes checkpoints.
    pub writing: Writing,
    /// A deliberate bug, for tests that must catch it.
    #[cfg(feature = "mutants")]
    pub mutant: Option<Mutant>,
}

/// Deliberate bugs; each is caught by a test of that name in `tests/` or by the simulator.
#[cfg(feature = "mutants")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Folds and shows an entry before its append is durable.
    PublishBeforeDurable,
    /// After a restore offers the newest sealed layer once more, as if it were the open one.
    SealedLayerTwice,
    /// Replays with the newest dimension tables instead of those that the entry names.
    NewestTablesInReplay,
    /// Counts repeats as if they were new.
    NoDeduplication,
    /// Ids that went cold are not asked.
    ColdIdsLost,
    /// A cold run that cannot be read answers "new" and closes nothing.
    UnreadableRunIsNew,
    /// A session that changes is counted again, and its old self is not taken back.
    SessionNotRetracted,
}

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, read by name")]
pub struct StepReport {
    /// Records folded, lost ones included.
    pub folded: u64,
    /// Whether an entry was made.
    pub entered: bool,
    /// Whether everything that the log held at the step's begin is folded.
    pub caught_up: bool,
    /// Whether records wait in the log until a layer is written: memory is full.
    pub held_back: bool,
    /// Whether the entry sealed a layer.
    pub sealed: bool,
    /// Whether a checkpoint became durable.
    pub checkpointed: bool,
}

/// An entry on its way into the state.
#[derive(Debug)]
struct Pending {
    entry: Entry,
    named: Named,
    records: EntryRecords,
    /// By how much the open layer may grow.
    layer_bytes: u64,
    /// Whether all the records fit into that, so that the entry is what it will be.
    fits: bool,
    /// Where the journal is read on after it, once it is durable.
    durable: Option<Offset>,
    /// Whether nothing was left to read.
    all_read: bool,
}

/// One shard.
#[derive(Debug)]
pub struct Shell {
    config: ShellConfig,
    state: State,
    /// The first journal offset after the last entry folded.
    journal_next: Offset,
    pending: Option<Pending>,
    /// Late events of the last entry that are not appended yet.
    outbox: Vec<Records>,
    /// A sealed layer that waits for the outbox, the writer or another try.
    to_write: Option<Box<Job>>,
    /// No try before that time.
    write_after: ReceiveTime,
    writer: Writer,
    kept: Kept,
    /// Sealed layers that the sink has not adopted.
    sealing: Vec<Arc<OpenLayer>>,
    checkpoint: CheckpointStatus,
    /// `now` of the last seal; `None` before the first.
    sealed_at: Option<ReceiveTime>,
    /// When it last asked whether the log is short of room.
    log_asked_at: Option<ReceiveTime>,
    seal_requested: bool,
    cold_refused: u32,
    growth: Growth,
    /// What ids and sessions hold after the last entry.
    hot_bytes: u64,
    /// Whether the last step left records in the log for want of memory.
    held_back: bool,
    /// Whether readers may see the shard: once it has recovered.
    shown: bool,
    /// The open layer of the view shown last.
    published: Option<Arc<OpenLayer>>,
    freshness: FreshnessMeter,
}

impl Shell {
    /// The state, for tests and for status.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// The last durable checkpoint.
    #[must_use]
    pub const fn checkpoint(&self) -> CheckpointStatus {
        self.checkpoint
    }

    /// Seals with the next entry, whether or not it is time.
    pub const fn request_seal(&mut self) {
        self.seal_requested = true;
    }

    /// True while a seal is asked for, being written, or waits for another try.
    #[must_use]
    pub const fn is_sealing(&self) -> bool {
        self.seal_requested || self.to_write.is_some() || self.writer.checkpoints.is_busy()
    }
}
