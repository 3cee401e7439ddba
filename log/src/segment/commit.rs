//! Group commit: one writer per partition takes whatever is queued, writes it, syncs every
//! file that it touched, then answers everyone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use nilometer_event::{Offset, Topic};
use parking_lot::{Condvar, Mutex};
use tokio::sync::{oneshot, watch};

use super::retention;
use super::syncs::{Synced, Syncs};
use super::write::{Desk, PlaceWriter, Staged};
use crate::{AppendError, Appended, Records};

/// A commit takes at most about this much from the queue, so that nobody waits for the sync of
/// more than this.
const COMMIT_BYTES_MAX: usize = 16 << 20;
/// A writer looks after retention this often: the log is over its bound by what comes meanwhile.
const RETAIN_EVERY: Duration = Duration::from_secs(5);

/// The batches of one submission for one partition.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) batches: Vec<JobBatch>,
    pub(super) bytes: usize,
    pub(super) ticket: Arc<Ticket>,
}

/// One batch, and its place in the submission.
#[derive(Debug)]
pub(super) struct JobBatch {
    pub(super) index: usize,
    pub(super) topic: Topic,
    pub(super) records: Records,
}

/// A submission that waits until every partition has answered.
#[derive(Debug)]
pub(super) struct Ticket(Mutex<Waiting>);

#[derive(Debug)]
struct Waiting {
    appended: Vec<Appended>,
    error: Option<AppendError>,
    partitions_left: usize,
    answer: Option<oneshot::Sender<Result<Vec<Appended>, AppendError>>>,
}

impl Ticket {
    pub(super) fn new(
        batches: usize,
        partitions: usize,
        answer: oneshot::Sender<Result<Vec<Appended>, AppendError>>,
    ) -> Arc<Self> {
        let nowhere = Appended { first: Offset::ZERO, next: Offset::ZERO };
        Arc::new(Self(Mutex::new(Waiting {
            appended: vec![nowhere; batches],
            error: None,
            partitions_left: partitions,
            answer: Some(answer),
        })))
    }

    /// One partition's answer; the last one answers the submission.
    pub(super) fn answer(&self, result: Result<Vec<(usize, Appended)>, AppendError>) {
        let mut waiting = self.0.lock();
        match result {
            Ok(appended) => {
                for (index, appended) in appended {
                    waiting.appended[index] = appended;
                }
            }
            Err(error) => {
                waiting.error.get_or_insert(error);
            }
        }
        waiting.partitions_left = waiting.partitions_left.saturating_sub(1);
        if waiting.partitions_left == 0
            && let Some(sender) = waiting.answer.take()
        {
            let appended = std::mem::take(&mut waiting.appended);
            let answer = waiting.error.take().map_or(Ok(appended), Err);
            // Nobody listens any more: the records are durable all the same.
            drop(sender.send(answer));
        }
    }
}

/// What waits for one partition's writer.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waits>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Waits {
    jobs: VecDeque<Job>,
    closing: bool,
}

impl Queue {
    /// Queues a job, or gives it back when the writer has stopped.
    pub(super) fn push(&self, job: Job) -> Result<(), Job> {
        let mut waiting = self.waiting.lock();
        if waiting.closing {
            return Err(job);
        }
        waiting.jobs.push_back(job);
        drop(waiting);
        self.wake.notify_one();
        Ok(())
    }

    /// Refuses later jobs; the writer stops once it has committed those that wait.
    pub(super) fn close(&self) {
        self.waiting.lock().closing = true;
        self.wake.notify_one();
    }

    /// What is to be committed next: empty after an idle while, `None` at the end.
    fn take(&self) -> Option<Vec<Job>> {
        let mut waiting = self.waiting.lock();
        if waiting.jobs.is_empty() && !waiting.closing {
            let _timed_out = self.wake.wait_for(&mut waiting, RETAIN_EVERY);
        }
        if waiting.jobs.is_empty() && waiting.closing {
            return None;
        }
        let mut jobs = Vec::new();
        let mut bytes = 0;
        while bytes < COMMIT_BYTES_MAX
            && let Some(job) = waiting.jobs.pop_front()
        {
            bytes += job.bytes;
            jobs.push(job);
        }
        Some(jobs)
    }
}

/// What all partitions share beside the desk.
#[derive(Debug)]
pub(super) struct Office {
    pub(super) desk: Desk,
    pub(super) clock: Arc<dyn nilometer_event::clock::Clock>,
    pub(super) changed: watch::Sender<u64>,
    pub(super) queue_bytes: AtomicUsize,
    pub(super) queue_batches: AtomicUsize,
    pub(super) commits: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) sync_us: AtomicU64,
    pub(super) refused_full: AtomicU64,
    pub(super) refused_disk_full: AtomicU64,
}

/// The owner of one partition's files.
#[derive(Debug)]
pub(super) struct PartitionWriter {
    /// By `Topic as usize`.
    pub(super) places: Vec<PlaceWriter>,
    pub(super) syncs: Syncs,
}

impl PartitionWriter {
    /// Writes, syncs, publishes, answers.
    pub(super) fn commit(&mut self, office: &Office, jobs: Vec<Job>) {
        let now = office.clock.now();
        let mut of_topic: [Vec<&Records>; Topic::ALL.len()] = Default::default();
        for batch in jobs.iter().flat_map(|job| &job.batches) {
            of_topic[batch.topic as usize].push(&batch.records);
        }
        let mut staged: Vec<Staged> = Vec::with_capacity(self.places.len());
        for (place, batches) in self.places.iter_mut().zip(&of_topic) {
            staged.push(if batches.is_empty() {
                Staged::default()
            } else {
                place.stage(&office.desk, now, batches)
            });
        }
        let synced = self.syncs.sync(&mut self.places);
        let mut longest = Duration::ZERO;
        for ((place, staged), synced) in self.places.iter_mut().zip(&mut staged).zip(synced) {
            let Some(Synced { result, took }) = synced else { continue };
            office.note_sync(took);
            longest = longest.max(took);
            let (_end, error) = place.settle(&office.desk, result);
            staged.error = staged.error.take().or(error);
        }
        let is_whole = staged.iter().all(|staged| staged.error.is_none());
        office.commits.fetch_add(u64::from(is_whole), Ordering::Relaxed);
        // Readers are woken before producers are answered: who hears of a record can read it.
        office.changed.send_modify(|commits| *commits += 1);
        let batches = jobs.iter().map(|job| job.batches.len()).sum::<usize>();
        let records = of_topic.iter().flatten().map(|records| records.len()).sum::<usize>();
        let synced_ms = longest.as_secs_f64() * 1e3;
        tracing::debug!(batches, records, synced_ms, is_whole, "batches committed");
        self.answer(office, jobs, &staged);
    }

    fn answer(&self, office: &Office, jobs: Vec<Job>, staged: &[Staged]) {
        let mut placed: Vec<_> = staged.iter().map(|staged| staged.placed.iter()).collect();
        for job in jobs {
            let answers: Result<Vec<_>, AppendError> = job
                .batches
                .iter()
                .map(|batch| {
                    let topic = batch.topic as usize;
                    let end = self.places[topic].place.bounds().end;
                    match placed[topic].next() {
                        Some(appended) if appended.next <= end => Ok((batch.index, *appended)),
                        _not_durable => Err(staged[topic].error.clone()),
                    }
                })
                // Every batch takes its answer, so that the next job finds its own.
                .collect::<Vec<_>>()
                .into_iter()
                .map(|answer| answer.map_err(|error| error.unwrap_or(AppendError::ShuttingDown)))
                .collect();
            if matches!(answers, Err(AppendError::DiskFull { .. })) {
                office.refused_disk_full.fetch_add(job.batches.len() as u64, Ordering::Relaxed);
            }
            office.release(job.bytes, job.batches.len());
            job.ticket.answer(answers);
        }
    }

    /// Removes what retention lets go of this partition.
    pub(super) fn retain(&self, office: &Office) {
        let going = retention::plan(&office.desk, office.clock.now());
        for place in self.places.iter().map(|writer| &writer.place) {
            let at = place.partition.index() * Topic::ALL.len() + place.topic as usize;
            retention::apply(&office.desk, place, going[at]);
        }
    }
}

impl Office {
    /// Room in the queue for so much, or [`AppendError::Full`]; [`AppendError::TooLarge`] for
    /// what an empty queue has no room for.
    pub(super) fn admit(&self, bytes: usize, batches: usize) -> Result<(), AppendError> {
        let settings = &self.desk.settings;
        if settings.queue_bytes_max < bytes {
            let (limit, bytes_max) = ("queue_bytes_max", settings.queue_bytes_max);
            return Err(AppendError::TooLarge { limit, bytes, bytes_max });
        }
        let fits = |held: usize, more: usize, max: usize| {
            let next = held.checked_add(more)?;
            // Batches are a means to bound what bytes do not: alone, any number has room.
            (next <= max || held == 0).then_some(next)
        };
        let (order, seen) = (Ordering::AcqRel, Ordering::Acquire);
        let bytes_in = self
            .queue_bytes
            .fetch_update(order, seen, |held| fits(held, bytes, settings.queue_bytes_max));
        let full = AppendError::Full { retry_after_ms: RETRY_AFTER_MS };
        if bytes_in.is_ok() {
            let batches_in = self
                .queue_batches
                .fetch_update(order, seen, |held| fits(held, batches, settings.queue_batches_max));
            if batches_in.is_ok() {
                return Ok(());
            }
            self.queue_bytes.fetch_sub(bytes, order);
        }
        self.refused_full.fetch_add(batches as u64, Ordering::Relaxed);
        Err(full)
    }

    fn note_sync(&self, took: Duration) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.sync_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Gives room in the queue back.
    pub(super) fn release(&self, bytes: usize, batches: usize) {
        self.queue_bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.queue_batches.fetch_sub(batches, Ordering::AcqRel);
    }
}

/// A full queue drains in well under this on any disk that keeps up at all.
const RETRY_AFTER_MS: u64 = 1_000;

/// The life of a writer thread: commits until the queue is closed and empty.
pub(super) fn run(office: &Office, queue: &Queue, writer: &Mutex<PartitionWriter>) {
    let _stopped = Stopped(queue);
    let mut retained_at = office.clock.now();
    while let Some(jobs) = queue.take() {
        let mut writer = writer.lock();
        if !jobs.is_empty() {
            writer.commit(office, jobs);
        }
        let now = office.clock.now();
        if RETAIN_EVERY.as_millis() <= u128::from(now.since(retained_at).unsigned_abs()) {
            retained_at = now;
            writer.retain(office);
        }
    }
}

/// Closes the queue when its writer stops, by a panic too, so that nobody waits for it.
struct Stopped<'a>(&'a Queue);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.lock();
        waiting.closing = true;
        // Tickets that are dropped answer that the log is shutting down.
        waiting.jobs.clear();
    }
}
