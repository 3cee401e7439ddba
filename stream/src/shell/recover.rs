//! Recovery: the newest good checkpoint, then the journal to its end.

use std::sync::Arc;

use nilometer_event::{Offset, Partition, ReceiveTime, Topic};
use nilometer_log::Log;

use super::plans::PlanLoadError;
use super::read::reread;
use super::{Pending, PlanBook, Shell, ShellConfig, fail};
use crate::checkpoint::{Found, Kept, Manifest, Writer, find};
use crate::declare::Plan;
use crate::error::{DimensionTableError, RecoverError, StepError};
use crate::fold::{Named, Restored, Shard, State};
use crate::ids::OnDamage;
use crate::journal::{Entry, Reader, Replayed};
use crate::tables::TableVersions;
use crate::view::{CheckpointStatus, FreshnessMeter};

impl Shell {
    /// Brings a shard back as it was after the last entry of its journal, and shows it.
    ///
    /// Begins with the newest good checkpoint; a damaged one is named in the log with the word
    /// `corrupt`, and the one before is used. Changes nothing before it knows that it can.
    ///
    /// # Errors
    ///
    /// [`RecoverError`]; those of disk and log are to be tried again.
    pub fn recover(config: ShellConfig) -> Result<Self, RecoverError> {
        let partition = config.partition;
        let disk = config.disk.as_ref();
        let found = find(disk, config.log.as_ref(), partition)?;
        let (state, kept) = restore(&config, found)?;
        #[cfg(feature = "mutants")]
        let state = state.under(config.mutant);
        config.plans.keep_current().map_err(|source| {
            let path = PlanBook::path(config.plans.current().id);
            RecoverError::Disk { partition, path, source }
        })?;
        let newest = kept.newest().cloned();
        let writer = Writer::start(&config.writing, partition, &config.disk, &config.clock)
            .map_err(|source| RecoverError::Disk {
                partition,
                path: format!("thread checkpoint-{partition}"),
                source,
            })?;
        let mut shell = Self {
            sealed_at: newest.as_ref().map(|it| staggered(&config, it.entry.now)),
            checkpoint: newest.as_ref().map(status).unwrap_or_default(),
            config,
            state,
            journal_next: Offset::ZERO,
            pending: None,
            outbox: Vec::new(),
            to_write: None,
            write_after: ReceiveTime::default(),
            writer,
            kept,
            sealing: Vec::new(),
            log_asked_at: None,
            seal_requested: false,
            cold_refused: 0,
            growth: super::Growth::default(),
            hot_bytes: 0,
            held_back: false,
            shown: false,
            published: None,
            freshness: FreshnessMeter::default(),
        };
        if let Some(newest) = &newest {
            shell.offer_layers(newest);
        }
        shell.replay(newest.as_ref())?;
        shell.kept.sweep(shell.config.disk.as_ref(), partition);
        shell.kept.hold(shell.config.log.as_ref(), &shell.config.tables, partition);
        shell.note_memory(0);
        shell.shown = true;
        shell.publish();
        Ok(shell)
    }

    /// Offers the sink every layer that the checkpoint lists; those that it has are ignored.
    fn offer_layers(&self, newest: &Manifest) {
        for layer in &newest.layers {
            self.config.sink.adopt(layer.sealed(self.config.partition));
        }
        #[cfg(feature = "mutants")]
        if self.config.mutant == Some(super::Mutant::SealedLayerTwice)
            && let Some(last) = newest.layers.last()
        {
            let mut again = last.sealed(self.config.partition);
            again.layer = newest.layer.next();
            self.config.sink.adopt(again);
        }
    }

    fn replay(&mut self, newest: Option<&Manifest>) -> Result<(), RecoverError> {
        let partition = self.config.partition;
        let log = Arc::clone(&self.config.log);
        let stopped = |source| RecoverError::Replay { partition, source };
        let from = newest.map_or(Offset::ZERO, |manifest| Offset::new(manifest.journal_next));
        ensure_past(log.as_ref(), Topic::Journal, partition, from)?;
        if let Some(newest) = newest {
            for (topic, position) in newest.positions() {
                ensure_past(log.as_ref(), topic, partition, position)?;
            }
        }
        self.journal_next = from;
        let mut reader = Reader::new(log.as_ref(), partition, from, self.state.seq());
        while let Some(replayed) =
            reader.next_entry().map_err(|error| stopped(StepError::Journal(error)))?
        {
            fail::reach("recover-before-entry");
            self.replay_entry(replayed)?;
        }
        self.journal_next = reader.position();
        Ok(())
    }

    fn replay_entry(&mut self, replayed: Replayed) -> Result<(), RecoverError> {
        let partition = self.config.partition;
        let Replayed { entry, next } = replayed;
        if !entry.erasures.is_empty() {
            return Err(RecoverError::Erasure { partition, seq: entry.seq });
        }
        let log = Arc::clone(&self.config.log);
        for (topic, end) in Topic::RECEIVED.into_iter().zip(entry.ends) {
            ensure_past(log.as_ref(), topic, partition, Offset::new(end))?;
        }
        let stopped = |source| RecoverError::Replay { partition, source };
        let named = self.resolve(&entry)?;
        let positions = self.state.next_offsets();
        let records = reread(log.as_ref(), partition, positions, entry.ends).map_err(stopped)?;
        let now = entry.now;
        if entry.seal || entry.layer != self.state.open().number() {
            // One seal at a time.
            self.finish_checkpoint(now).map_err(stopped)?;
        }
        let waits = self.to_write.is_some();
        let pending = Pending {
            entry,
            named,
            records,
            layer_bytes: u64::MAX,
            fits: true,
            durable: Some(next),
            all_read: false,
        };
        self.fold(&pending, None, next).map_err(stopped)?;
        // Late events are emitted again under the same keys; readers drop the repeats.
        self.flush_outbox().map_err(stopped)?;
        if waits {
            return Ok(());
        }
        match self.finish_checkpoint(now) {
            // A full disk keeps nobody from reading: it is written once there is room.
            Err(StepError::Checkpoint { reason }) => {
                tracing::warn!(%partition, %reason, "a checkpoint waits, and is tried again");
                Ok(())
            }
            finished => finished.map_err(stopped),
        }
    }

    /// Writes the checkpoint of a seal that is replayed, and waits for it.
    fn finish_checkpoint(&mut self, now: ReceiveTime) -> Result<(), StepError> {
        let partition = self.config.partition;
        let gone = |_gone| StepError::WriterGone { partition };
        let Some(job) = self.to_write.take() else { return Ok(()) };
        self.writer.checkpoints.submit(job).map_err(gone)?;
        while self.writer.checkpoints.is_busy() {
            if let Some(outcome) = self.writer.checkpoints.wait(WAIT).map_err(gone)? {
                self.take_over(outcome, now)?;
            }
        }
        Ok(())
    }

    fn resolve(&self, entry: &Entry) -> Result<Named, RecoverError> {
        let plan = load_plan(&self.config, entry)?;
        let versions = entry.dims;
        #[cfg(feature = "mutants")]
        let versions = match self.config.mutant {
            Some(super::Mutant::NewestTablesInReplay) => self.config.tables.latest().versions(),
            _ => versions,
        };
        Ok(Named { plan, tables: load_tables(&self.config, versions)? })
    }
}

/// The moment from which the next seal counts: shards that began together seal one after the
/// other, so that not all of them encode a layer at once.
pub(super) fn staggered(config: &ShellConfig, sealed_at: ReceiveTime) -> ReceiveTime {
    let interval_ms = i64::from(config.settings.checkpoint_interval_ms);
    let shards = i64::from(config.log.partitions().get());
    sealed_at.plus_ms(-(interval_ms * i64::from(config.partition.get()) / shards))
}

/// How long the writer is waited for at once.
const WAIT: std::time::Duration = std::time::Duration::from_millis(200);

fn status(manifest: &Manifest) -> CheckpointStatus {
    CheckpointStatus { seq: manifest.seq(), at: manifest.entry.now, took_ms: None, failures: 0 }
}

/// The state of the newest checkpoint whose files are good.
fn restore(config: &ShellConfig, found: Found) -> Result<(State, Kept), RecoverError> {
    let partition = config.partition;
    let filter_bytes_max = usize::try_from(config.settings.filter_bytes_max).unwrap_or(usize::MAX);
    let shard = Shard { partition, identity: config.identity.clone(), filter_bytes_max };
    let Found { mut kept, scratch } = found;
    while let Some(manifest) = kept.newest().cloned() {
        let has_fallback = kept.len() > 1 || scratch;
        let on_damage = if has_fallback { OnDamage::Refuse } else { OnDamage::Close };
        let named = Named {
            plan: load_plan(config, &manifest.entry)?,
            tables: load_tables(config, manifest.entry.dims)?,
        };
        let disk = config.disk.as_ref();
        match State::restore(shard.clone(), &manifest, named, disk, on_damage) {
            Restored::Good(state) => return Ok((*state, kept)),
            Restored::Damaged => kept.drop_newest(),
            Restored::Refused { path, source } => {
                return Err(RecoverError::Disk { partition, path, source });
            }
        }
    }
    Ok((State::new(shard, Arc::clone(config.plans.current())), kept))
}

fn load_plan(config: &ShellConfig, entry: &Entry) -> Result<Arc<Plan>, RecoverError> {
    let partition = config.partition;
    config.plans.load(entry.plan).map_err(|error| match error {
        PlanLoadError::Disk(source) => {
            RecoverError::Disk { partition, path: PlanBook::path(entry.plan), source }
        }
        PlanLoadError::Damaged { path, reason } => {
            RecoverError::PlanDamaged { partition, seq: entry.seq, path, reason }
        }
        PlanLoadError::Unknown(reason) => {
            RecoverError::Plan { partition, seq: entry.seq, plan: entry.plan.to_string(), reason }
        }
    })
}

fn load_tables(
    config: &ShellConfig,
    versions: TableVersions,
) -> Result<crate::tables::Tables, RecoverError> {
    let partition = config.partition;
    config.tables.load(versions).map_err(|error| match error {
        DimensionTableError::Disk { path, source } => {
            RecoverError::Disk { partition, path, source }
        }
        other => RecoverError::Table { partition, source: other },
    })
}

fn ensure_past(
    log: &dyn Log,
    topic: Topic,
    partition: Partition,
    named: Offset,
) -> Result<(), RecoverError> {
    if log.bounds(topic, partition).end >= named {
        return Ok(());
    }
    let missing = log
        .ensure_past(topic, partition, named)
        .map_err(|source| RecoverError::EnsurePast { partition, source })?;
    tracing::error!(
        %topic,
        %partition,
        missing,
        "log is corrupt: it ends before what the journal names; the records are quarantined"
    );
    Ok(())
}
