//! One step: finish a checkpoint, make an entry, fold it, show it.

use std::sync::Arc;
use std::time::Duration;

use nilometer_event::{Offset, Partition, ReceiveTime, Topic};
use nilometer_log::{AppendBatch, Records, RecordsBuilder};

use super::growth::Taken;
use super::read::{Gathered, Room, gather, is_live};
use super::recover::staggered;
use super::{Pending, Shell, StepReport, fail};
use crate::checkpoint::{Done, Job, Merge, Merged, Outcome};
use crate::error::{JournalError, StepError};
use crate::fold::{Effects, LateEvent, Named, Prepared, Sealed};
use crate::journal::{Entry, JournalRecord};
use crate::view::{Facts, OpenLayer, ShardMemory, ShardView};

/// A batch of late events is closed at about this size.
const LATE_BATCH_BYTES: usize = 4 << 20;

/// A checkpoint that failed is tried again after so long.
const CHECKPOINT_RETRY_MS: i64 = 1_000;

/// So many refusals of the disk, one a step, before cold files count as damaged.
const COLD_REFUSED_MAX: u32 = 20;

/// An idle shard is sealed so many times less often.
const IDLE_SEAL_FACTOR: i64 = 10;
/// A layer is sealed after so long where the log is short of room.
const FREE_LOG_MS: i64 = 3_000;
/// The log is asked for that as often.
const LOG_ASKED_MS: i64 = 1_000;

/// The open layer and those being written may hold so many times the limit of one; then no
/// records are taken any more, and what comes waits in the log.
const LAYERS_MAX: u64 = 2;

/// Layers are lent one part in so many of the memory that ids and sessions do not need yet: a layer
/// that is being written takes about as much again for its file, and what is freed goes back to
/// the system only within seconds (bench/RESULTS.md, "Larger layers").
const LENT_PART: u64 = 3;

/// Layers keep so many percent of their memory whatever else is short: smaller ones are so many
/// that questions, which look into each, wait for one another.
const LAYER_PERCENT_MIN: u32 = 75;

/// A layer may change so many sessions, however few may be hot: a file costs about as much for
/// fewer.
const SESSIONS_MIN: usize = 1 << 14;

/// An entry takes at least so many records while no layer is being written, however small its
/// limit is.
const RECORDS_MIN: u64 = 256;

impl Shell {
    /// Does what there is to do at `now`: at most one entry.
    ///
    /// # Errors
    ///
    /// [`StepError`]: step again; nothing accepted is lost or counted twice.
    pub fn step(&mut self, now: ReceiveTime) -> Result<StepReport, StepError> {
        let mut report = StepReport { checkpointed: self.poll_writer(now)?, ..Default::default() };
        self.flush_outbox()?;
        self.write_waiting(now)?;
        let is_new = self.pending.is_none();
        if is_new {
            self.pending = self.decide(now)?;
        }
        let Some(mut pending) = self.pending.take() else {
            report.held_back = self.held_back;
            report.caught_up = !self.held_back;
            return Ok(report);
        };
        let entered = self.append_and_fold(&mut pending);
        let (folded, all_read, sealed) =
            (pending.records.len(), pending.all_read, pending.entry.seal);
        if let Err(error) = entered {
            self.pending = Some(pending);
            return Err(error);
        }
        report.entered = true;
        report.folded = folded;
        // An entry that is tried again was read earlier: the log may hold more by now.
        report.caught_up = is_new && all_read;
        report.sealed = sealed;
        self.flush_outbox()?;
        self.write_waiting(now)?;
        report.checkpointed |= self.poll_writer(now)?;
        Ok(report)
    }

    /// What the next entry is; `None` when there is nothing to say.
    fn decide(&mut self, now: ReceiveTime) -> Result<Option<Pending>, StepError> {
        let now = now.max(self.state.now());
        let settings = self.config.settings;
        let room = self.room();
        let (log, partition) = (self.config.log.as_ref(), self.config.partition);
        let positions = self.state.next_offsets();
        let gathered = gather(log, partition, positions, room, &self.growth)?;
        self.held_back = gathered.records.is_empty() && !gathered.all_read;
        let seal = self.is_seal_due(now, gathered.records.is_empty());
        let interval_ms = i64::from(settings.entry_interval_ms);
        let is_tick = self.state.last().is_none_or(|last| now.since(last.now) >= interval_ms);
        if gathered.records.is_empty() && !seal && !is_tick {
            return Ok(None);
        }
        let named = self.name_next();
        let number = self.state.open().number();
        let closes = named.plan.id != self.state.plan().id && !self.state.layer_is_fresh();
        let entry = Entry {
            seq: self.state.seq() + 1,
            layer: if closes { number.next() } else { number },
            ends: gathered.records.ends(),
            caught_up: gathered.caught_up,
            now,
            plan: named.plan.id,
            settings: settings.fold.with_hot_percent(self.config.views.hot_percent()),
            dims: named.tables.versions(),
            erasures: Vec::new(),
            seal,
        };
        let Gathered { records, all_read, .. } = gathered;
        let (layer_bytes, fits, durable) = (room.layer_bytes, false, None);
        Ok(Some(Pending { entry, named, records, layer_bytes, fits, durable, all_read }))
    }

    /// The plan and the tables of the next entry. Another plan closes the open layer, so it
    /// waits until the writer is free.
    fn name_next(&self) -> Named {
        let current = self.config.plans.current();
        let change = current.id != self.state.plan().id;
        let closes = change && !self.state.layer_is_fresh();
        let plan = if closes && self.is_writing() { self.state.plan() } else { current };
        let tables = self.config.tables.latest();
        Named { plan: Arc::clone(plan), tables: tables.as_ref().clone() }
    }

    /// True while a seal would have to wait.
    const fn is_writing(&self) -> bool {
        self.to_write.is_some() || self.writer.checkpoints.is_busy()
    }

    /// Memory of the open layer that seals it: its own, and a part of what ids and sessions do not
    /// need yet of theirs, for as many layers as there may be; less where the process is near its
    /// limit.
    fn layer_bytes_max(&self) -> u64 {
        let settings = &self.config.settings;
        let unused = settings.hot_bytes_max.saturating_sub(self.hot_bytes);
        let usual = settings.layer_bytes_max.saturating_add(unused / LENT_PART / LAYERS_MAX);
        match self.config.views.memory_percent().max(LAYER_PERCENT_MIN) {
            percent @ ..100 => usual / 100 * u64::from(percent),
            _ => usual,
        }
    }

    fn layer_bytes(&self) -> u64 {
        bytes_of(self.state.open())
    }

    /// How far the open layer is on its way to the limit that seals it.
    ///
    /// Its entries' scratch counts for at most half of the limit: the next layer takes it over,
    /// so that a seal gives none of it back. Counted in full, scratch alone sealed layers that
    /// held a quarter of what they may, and a file costs about as much for few events as for many.
    fn filled_bytes(&self) -> u64 {
        let scratch = self.state.open().read().layer.scratch_bytes();
        let scratch = u64::try_from(scratch).unwrap_or(u64::MAX);
        let half = self.layer_bytes_max() / 2;
        self.layer_bytes().saturating_sub(scratch.saturating_sub(half))
    }

    /// How many times as many sessions were changed in the open layer as may be hot.
    fn sessions_filled(&self) -> u64 {
        let filled = self.state.sessions().filled(SESSIONS_MIN);
        u64::try_from(filled).unwrap_or(u64::MAX)
    }

    fn sealing_bytes(&self) -> u64 {
        self.sealing.iter().map(|layer| bytes_of(layer)).sum()
    }

    /// What the next entry may take: so much that the open layer ends near its limit, and that
    /// all layers together stay within theirs. No entry takes what is lent as well: one of an
    /// import would hold up live events for longer.
    fn room(&self) -> Room {
        let settings = &self.config.settings;
        let limit = self.layer_bytes_max();
        let held = self.layer_bytes().saturating_add(self.sealing_bytes());
        let left = limit.saturating_mul(LAYERS_MAX).saturating_sub(held);
        let layer_bytes = limit.saturating_sub(self.filled_bytes()).max(limit / 4);
        let layer_bytes = layer_bytes.min(settings.layer_bytes_max).min(left);
        let least = RECORDS_MIN * self.growth.bytes_of(Topic::Imports);
        let is_over = layer_bytes < least || self.sessions_filled() >= LAYERS_MAX;
        let layer_bytes = match (self.is_writing(), is_over) {
            (false, _) => layer_bytes.max(least),
            // An entry of a few records costs more than the wait for the writer.
            (true, true) => 0,
            (true, false) => layer_bytes,
        };
        Room {
            records: u64::from(settings.entry_events_max),
            bytes: usize::try_from(settings.entry_bytes_max).unwrap_or(usize::MAX),
            layer_bytes,
        }
    }

    fn is_seal_due(&mut self, now: ReceiveTime, nothing_new: bool) -> bool {
        if self.is_writing() {
            return false;
        }
        // The entry that changes the plan closes a layer itself: one seal at a time.
        if self.config.plans.current().id != self.state.plan().id && !self.state.layer_is_fresh() {
            return false;
        }
        let settings = &self.config.settings;
        let interval_ms = i64::from(settings.checkpoint_interval_ms);
        let begun = || self.state.birth().map_or(now, |birth| staggered(&self.config, birth));
        let since_ms = now.since(self.sealed_at.unwrap_or_else(begun));
        let idle = nothing_new && self.state.open().read().layer.is_empty();
        let due = if idle {
            since_ms >= interval_ms.saturating_mul(IDLE_SEAL_FACTOR)
        } else {
            since_ms >= interval_ms
        };
        let is_full = self.filled_bytes() >= self.layer_bytes_max() || self.sessions_filled() > 0;
        let may_free_log = since_ms >= interval_ms.min(FREE_LOG_MS);
        due || self.seal_requested || is_full || may_free_log && self.holds_what_log_needs(now)
    }

    /// Whether the log is short of room and keeps records only because the checkpoints are older: a
    /// house that refuses events for a full disk has none to seal for, and would refuse for good.
    /// To ask the log goes through all of its segments, so a step does so now and then.
    fn holds_what_log_needs(&mut self, now: ReceiveTime) -> bool {
        let is_asked = self.log_asked_at.is_some_and(|asked| now.since(asked) < LOG_ASKED_MS);
        if is_asked || !self.kept.holds_before(self.state.next_offsets()) {
            return false;
        }
        self.log_asked_at = Some(now);
        let log = self.config.log.stats();
        log.retention_bytes < log.bytes
            || log.free_bytes.is_some_and(|free_bytes| free_bytes < log.reserve_bytes)
    }

    fn append_and_fold(&mut self, pending: &mut Pending) -> Result<(), StepError> {
        #[cfg(feature = "mutants")]
        if self.config.mutant == Some(super::Mutant::PublishBeforeDurable) {
            let next = self.journal_next.plus(1);
            self.fold(pending, None, next)?;
            return self.append(pending).map(|_durable| ());
        }
        // From now on the entry is what it is: a try to append it that failed may have succeeded.
        let is_new = !std::mem::replace(&mut pending.fits, true);
        let counts_on = self.state.counts_on(&pending.entry, &pending.named);
        let prepared = (is_new && counts_on).then(|| self.state.prepare(&pending.records));
        let prepared = match (is_new, self.over(pending, prepared.as_ref())) {
            (true, Some(over)) => {
                prepared.into_iter().for_each(|prepared| self.state.recycle(prepared));
                pending.keep_first(over.max(RECORDS_MIN));
                None
            }
            _ => prepared,
        };
        let next = match pending.durable {
            Some(next) => next,
            None => self.append(pending)?,
        };
        pending.durable = Some(next);
        self.fold(pending, prepared, next)
    }

    /// How many of an entry's records memory has room for, where it has not for all.
    fn over(&self, pending: &Pending, prepared: Option<&Prepared<'_>>) -> Option<u64> {
        match prepared {
            Some(prepared) => self.state.fit(prepared, pending.layer_bytes),
            // Nothing is known of a layer that is not there yet.
            None => Some(pending.layer_bytes / self.state.event_bytes_max()),
        }
    }

    /// Appends the entry; returns where the journal is read on after it.
    fn append(&self, pending: &Pending) -> Result<Offset, StepError> {
        let predecessor = self.state.last().cloned();
        let record = JournalRecord { entry: pending.entry.clone(), predecessor };
        let mut builder = RecordsBuilder::new();
        builder.push(pending.entry.now, None, &record.encode()?);
        let batch = AppendBatch {
            topic: Topic::Journal,
            partition: self.config.partition,
            records: builder.build(),
        };
        let appended = self
            .config
            .log
            .append(vec![batch])
            .map_err(|source| StepError::Append { what: "journal entry", source })?;
        appended
            .first()
            .map(|appended| appended.next)
            .ok_or(StepError::Journal(JournalError::Stuck { offset: self.journal_next }))
    }

    /// Folds a durable entry. An error leaves the state as it was before the entry's records.
    /// `prepared` is of its records, where they were prepared already.
    pub(super) fn fold<'p>(
        &mut self,
        pending: &'p Pending,
        prepared: Option<Prepared<'p>>,
        next: Offset,
    ) -> Result<(), StepError> {
        let Pending { entry, named, records, .. } = pending;
        let stands = self.state.stands_at(entry, named);
        if let Some(closed) = self.state.begin(entry, named.clone()) {
            self.take_sealed(closed, self.journal_next);
        }
        let prepared = match prepared {
            Some(prepared) if stands => prepared,
            _ => self.state.prepare(records),
        };
        let disk = self.config.disk.as_ref();
        let cold = match prepared.fetch(disk) {
            Ok(cold) => cold,
            Err(_refused) if self.cold_refused >= COLD_REFUSED_MAX => prepared.fetch_anyway(disk),
            Err(source) => {
                self.cold_refused += 1;
                return Err(StepError::Cold { source });
            }
        };
        self.cold_refused = 0;
        fail::reach("before-fold");
        let before = self.layer_bytes();
        let Effects { late, sealed, layer_bytes } = self.state.enter(entry, &prepared, &cold);
        let after = u64::try_from(layer_bytes).unwrap_or(u64::MAX);
        self.growth.learn(Taken::of(records), after.saturating_sub(before));
        self.journal_next = next;
        self.outbox = late_batches(&late, self.config.partition);
        if let Some(sealed) = sealed {
            self.take_sealed(sealed, next);
        }
        fail::reach("before-publish");
        self.measure_freshness(&prepared);
        self.state.recycle(prepared);
        self.note_memory(records.bytes());
        let open = self.state.open();
        if self.published.as_ref().is_some_and(|published| Arc::ptr_eq(published, open)) {
            self.config.views.tick();
        } else {
            self.publish();
        }
        Ok(())
    }

    fn measure_freshness(&mut self, prepared: &Prepared<'_>) {
        let shown_at = self.config.clock.now();
        for &(received_at, records) in prepared.received_at() {
            self.freshness.record(received_at, shown_at, records);
        }
        let mut open = self.state.open().write();
        let freshness = self.freshness.read();
        let facts = Facts { freshness, ..open.facts.clone() };
        open.show(facts);
    }

    /// Tells how long a step took that folded an entry, and how much of it was work.
    pub(super) fn note_step(&self, report: &StepReport, took: Duration, worked: Duration) {
        let (partition, seq) = (self.config.partition, self.state.seq());
        let StepReport { folded, sealed, .. } = *report;
        let took_ms = took.as_secs_f64() * 1e3;
        // An idle shard has an entry every half second, which says nothing.
        if folded > 0 || sealed {
            tracing::debug!(%partition, seq, records = folded, sealed, took_ms, "entry folded");
        } else {
            tracing::trace!(%partition, seq, took_ms, "empty entry folded");
        }
        let steps = self.config.views.steps();
        steps.took.observe(took.as_secs_f64());
        steps.worked.observe(worked.as_secs_f64());
    }

    pub(super) fn note_memory(&mut self, entry: usize) {
        let wide = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        let memory = ShardMemory {
            open: held_by(self.state.open()),
            sealing: self.sealing.iter().map(|layer| held_by(layer)).sum(),
            ids: wide(self.state.ids_mut().memory_bytes()),
            sessions: wide(self.state.sessions().memory_bytes()),
            guard: wide(self.state.guard_bytes()),
            entry: wide(entry + self.state.spare_bytes()),
        };
        // The guard lives on what is set aside for ids.
        self.hot_bytes = memory.ids.saturating_add(memory.sessions).saturating_add(memory.guard);
        self.config.views.note_memory(self.config.partition, memory);
    }

    /// Keeps a closed layer shown until its file is, and prepares its checkpoint.
    fn take_sealed(&mut self, sealed: Sealed, journal_next: Offset) {
        self.sealing.push(Arc::clone(&sealed.layer));
        self.sealed_at = Some(sealed.entry.now);
        self.seal_requested = false;
        let partition = self.config.partition;
        let folded_through = self.config.sink.folded_through(partition);
        let before = self.kept.newest();
        let needed = before.map(|manifest| manifest.layers.as_slice()).unwrap_or_default();
        self.to_write = Some(Box::new(Job {
            partition,
            partitions: self.config.log.partitions().get(),
            journal_next: journal_next.get(),
            layers: needed.iter().filter(|it| it.layer > folded_through).cloned().collect(),
            guard: before.map(|manifest| manifest.guard.clone()).unwrap_or_default(),
            before: before.map(crate::checkpoint::Manifest::files).unwrap_or_default(),
            sealed,
        }));
    }

    /// Hands the waiting checkpoint to the writer, once its late events are durable.
    fn write_waiting(&mut self, now: ReceiveTime) -> Result<(), StepError> {
        if !self.outbox.is_empty() || now < self.write_after {
            return Ok(());
        }
        if let Some(job) = self.to_write.take() {
            let partition = self.config.partition;
            self.writer
                .checkpoints
                .submit(job)
                .map_err(|_gone| StepError::WriterGone { partition })?;
        }
        Ok(())
    }

    /// Takes over what the writer has finished; true where a checkpoint has become durable.
    fn poll_writer(&mut self, now: ReceiveTime) -> Result<bool, StepError> {
        let partition = self.config.partition;
        let gone = |_gone| StepError::WriterGone { partition };
        if let Some(merged) = self.writer.merges.poll().map_err(gone)? {
            self.take_merged(merged);
        }
        match self.writer.checkpoints.poll().map_err(gone)? {
            None => Ok(false),
            Some(outcome) => self.take_over(outcome, now).map(|()| true),
        }
    }

    fn take_merged(&mut self, merged: Merged) {
        match merged.ids {
            Some(Ok(merged)) => self.state.ids_mut().merged(merged),
            Some(Err(error)) => {
                tracing::error!(%error, "id runs were not merged");
                self.state.ids_mut().merge_failed(&error);
            }
            None => {}
        }
        match merged.sessions {
            Some(Ok(merged)) => self.state.sessions_mut().merged(merged),
            Some(Err(error)) => {
                tracing::error!(%error, "session runs were not merged");
                self.state.sessions_mut().merge_failed(&error);
            }
            None => {}
        }
    }

    /// Begins to merge old runs, where there are enough of them.
    fn begin_merge(&mut self) -> Result<(), StepError> {
        // The sweep at the end of recovery knows no file that is being merged.
        if !self.shown || self.writer.merges.is_busy() {
            return Ok(());
        }
        let ids = self.state.ids_mut().plan_merge();
        let sessions = self.state.sessions_mut().plan_merge();
        if ids.is_none() && sessions.is_none() {
            return Ok(());
        }
        let partition = self.config.partition;
        self.writer
            .merges
            .submit(Merge { ids, sessions })
            .map_err(|_gone| StepError::WriterGone { partition })
    }

    pub(super) fn take_over(
        &mut self,
        outcome: Outcome,
        now: ReceiveTime,
    ) -> Result<(), StepError> {
        let done = match outcome {
            Ok(done) => *done,
            Err((job, error)) => {
                self.to_write = Some(job);
                self.write_after = now.plus_ms(CHECKPOINT_RETRY_MS);
                self.checkpoint.failures += 1;
                self.publish();
                return Err(StepError::Checkpoint { reason: error.to_string() });
            }
        };
        let Done { manifest, ids, sessions, took_ms } = done;
        self.state.ids_mut().installed(ids);
        self.state.sessions_mut().installed(sessions);
        self.checkpoint = crate::view::CheckpointStatus {
            seq: manifest.seq(),
            at: manifest.entry.now,
            took_ms: Some(took_ms),
            failures: 0,
        };
        let (partition, layer) = (self.config.partition, manifest.layer);
        tracing::debug!(%partition, seq = manifest.seq(), took_ms, "checkpoint written");
        let file = manifest.layers.last().filter(|file| file.layer == layer);
        let adopted = file.map(|file| file.sealed(partition));
        self.kept.push(manifest, self.config.disk.as_ref());
        self.kept.hold(self.config.log.as_ref(), &self.config.tables, partition);
        if let Some(file) = adopted {
            self.config.sink.adopt(file);
        }
        fail::reach("checkpoint-before-swap");
        self.sealing.retain(|sealing| sealing.number() > layer);
        self.publish();
        self.begin_merge()
    }

    pub(super) fn flush_outbox(&mut self) -> Result<(), StepError> {
        while let Some(records) = self.outbox.first() {
            let batch = AppendBatch {
                topic: Topic::LateEvents,
                partition: self.config.partition,
                records: records.clone(),
            };
            self.config
                .log
                .append(vec![batch])
                .map_err(|source| StepError::Append { what: "late events", source })?;
            self.outbox.remove(0);
        }
        Ok(())
    }

    /// Shows the shard as it is now, in one swap.
    pub(super) fn publish(&mut self) {
        // A shard is not shown before it has recovered.
        if !self.shown {
            return;
        }
        self.published = Some(Arc::clone(self.state.open()));
        self.config.views.publish(ShardView {
            partition: self.config.partition,
            plan: Arc::clone(self.state.plan()),
            layer: self.state.open().number(),
            open: Arc::clone(self.state.open()),
            sealing: self.sealing.clone(),
            checkpoint: self.checkpoint,
        });
    }
}

impl Pending {
    /// Leaves all but the first `count` records of events in the log.
    fn keep_first(&mut self, count: u64) {
        let before = self.entry.ends;
        self.records.keep_first(count);
        self.entry.ends = self.records.ends();
        for (index, topic) in Topic::RECEIVED.into_iter().enumerate() {
            let is_cut = self.entry.ends[index] < before[index];
            self.all_read &= !is_cut;
            self.entry.caught_up &= !(is_cut && is_live(topic));
        }
    }
}

fn held_by(layer: &OpenLayer) -> u64 {
    u64::try_from(layer.read().layer.held_bytes()).unwrap_or(u64::MAX)
}

fn bytes_of(layer: &OpenLayer) -> u64 {
    u64::try_from(layer.read().layer.memory_bytes()).unwrap_or(u64::MAX)
}

/// Late events as records of `late-events`: the key is where the event was received, topic (one
/// byte), partition (two) and offset (eight), big endian. By it readers drop what a replay emits
/// again, and what another entry emits of the same records after damage to the journal.
fn late_batches(late: &[LateEvent], partition: Partition) -> Vec<Records> {
    let mut batches = Vec::new();
    let mut builder = RecordsBuilder::new();
    for event in late {
        let mut key = [0; 11];
        key[0] = event.topic as u8;
        key[1..3].copy_from_slice(&partition.get().to_be_bytes());
        key[3..].copy_from_slice(&event.offset.get().to_be_bytes());
        builder.push(event.received_at, Some(&key), &event.value);
        if builder.bytes() >= LATE_BATCH_BYTES {
            batches.push(std::mem::take(&mut builder).build());
        }
    }
    if !builder.is_empty() {
        batches.push(builder.build());
    }
    batches
}
