//! Writing a checkpoint: the sealed files, then the manifest over them; merges of old runs beside.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::Duration;

use nilometer_event::clock::Clock;
use nilometer_event::{EventTime, Granularity, Partition, TimeRange};
use nilometer_log::{Disk, create_dir_durably, step_back, write_atomically};

use super::manifest::measure;
use super::turns::{Gate, Turns};
use super::{FileRef, LayerRef, Manifest, folder};
use crate::cells::{LayerFile, write_layer};
use crate::declare::SetKind;
use crate::fold::{GuardSealed, Sealed};
use crate::ids::{IdsMerge, IdsMerged, IdsWritten, MergeRunsError};
use crate::sessions::{SessionsMerge, SessionsMerged, SessionsWritten};
use crate::shell::fail;

/// Who writes checkpoints.
#[derive(Clone, Debug)]
pub enum Writing {
    /// Named threads of each shard, in turn with those of the others: the fold goes on meanwhile.
    Threads(Turns),
    /// The shell itself, for the simulator: one thread, one order.
    Inline,
}

/// A checkpoint to be written. May be tried again after an error.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) sealed: Sealed,
    pub(crate) partition: Partition,
    pub(crate) partitions: u16,
    /// Where the journal is read on after the sealing entry.
    pub(crate) journal_next: u64,
    /// Layers of the checkpoint before that the sink may still need.
    pub(crate) layers: Vec<LayerRef>,
    /// Guard files of the checkpoint before.
    pub(crate) guard: Vec<FileRef>,
    /// Every file of the checkpoint before.
    pub(crate) before: BTreeSet<String>,
}

/// A durable checkpoint, to be taken over by the shell.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) manifest: Manifest,
    pub(crate) ids: IdsWritten,
    pub(crate) sessions: SessionsWritten,
    pub(crate) took_ms: u64,
}

/// What became of a job; after an error the job comes back.
pub(crate) type Outcome = Result<Box<Done>, (Box<Job>, io::Error)>;

/// Old runs to be merged into fewer: cost, never results.
#[derive(Debug)]
pub(crate) struct Merge {
    pub(crate) ids: Option<IdsMerge>,
    pub(crate) sessions: Option<SessionsMerge>,
}

/// What became of a merge.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) ids: Option<Result<IdsMerged, MergeRunsError>>,
    pub(crate) sessions: Option<Result<SessionsMerged, MergeRunsError>>,
}

/// Writes checkpoints and, beside them, merges: a long merge delays no checkpoint.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) checkpoints: Lane<Box<Job>, Outcome>,
    pub(crate) merges: Lane<Merge, Merged>,
}

impl Writer {
    pub(crate) fn start(
        writing: &Writing,
        partition: Partition,
        disk: &Arc<dyn Disk>,
        clock: &Arc<dyn Clock>,
    ) -> io::Result<Self> {
        let scribe = Scribe { disk: Arc::clone(disk), clock: Arc::clone(clock) };
        let disk = Arc::clone(disk);
        let merge = move |merge: Merge| Merged {
            ids: merge.ids.map(|merge| merge.run(disk.as_ref())),
            sessions: merge.sessions.map(|merge| merge.run(disk.as_ref())),
        };
        let write = move |job| scribe.write(job);
        let (checkpoints, merges) = match writing {
            Writing::Inline => (Lane::inline(write), Lane::inline(merge)),
            Writing::Threads(turns) => (
                Lane::thread(format!("checkpoint-{partition}"), turns.checkpoints(), write)?,
                Lane::thread(format!("merge-{partition}"), turns.merges(), merge)?,
            ),
        };
        Ok(Self { checkpoints, merges })
    }
}

/// Takes one job at a time, here or on a thread.
pub(crate) enum Lane<J, O> {
    /// Works when it is given a job.
    Inline { work: Box<dyn Fn(J) -> O + Send>, outcome: Option<O> },
    /// Hands it to a thread.
    Thread { jobs: Sender<J>, outcomes: Receiver<O>, busy: bool },
}

/// The thread has ended: the process is to be restarted.
#[derive(Debug)]
pub(crate) struct WriterGone;

impl<J, O> std::fmt::Debug for Lane<J, O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("busy", &self.is_busy()).finish()
    }
}

impl<J, O> Lane<J, O> {
    /// True while a job is under way or its outcome waits.
    pub(crate) const fn is_busy(&self) -> bool {
        match self {
            Self::Inline { outcome, .. } => outcome.is_some(),
            Self::Thread { busy, .. } => *busy,
        }
    }

    /// Begins to work; the outcome before has been taken.
    pub(crate) fn submit(&mut self, job: J) -> Result<(), WriterGone> {
        match self {
            Self::Inline { work, outcome } => *outcome = Some(work(job)),
            Self::Thread { jobs, busy, .. } => {
                jobs.send(job).map_err(|_gone| WriterGone)?;
                *busy = true;
            }
        }
        Ok(())
    }

    /// The outcome, once there is one; `None` while it is under way or nothing is.
    pub(crate) fn poll(&mut self) -> Result<Option<O>, WriterGone> {
        match self {
            Self::Inline { outcome, .. } => Ok(outcome.take()),
            Self::Thread { outcomes, busy, .. } => match outcomes.try_recv() {
                Ok(outcome) => {
                    *busy = false;
                    Ok(Some(outcome))
                }
                Err(TryRecvError::Empty) => Ok(None),
                Err(TryRecvError::Disconnected) => Err(WriterGone),
            },
        }
    }

    /// The outcome, waiting for it at most so long.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Result<Option<O>, WriterGone> {
        match self {
            Self::Inline { outcome, .. } => Ok(outcome.take()),
            Self::Thread { busy: false, .. } => Ok(None),
            Self::Thread { outcomes, busy, .. } => match outcomes.recv_timeout(timeout) {
                Ok(outcome) => {
                    *busy = false;
                    Ok(Some(outcome))
                }
                Err(RecvTimeoutError::Timeout) => Ok(None),
                Err(RecvTimeoutError::Disconnected) => Err(WriterGone),
            },
        }
    }
}

impl<J: Send + 'static, O: Send + 'static> Lane<J, O> {
    fn inline(work: impl Fn(J) -> O + Send + 'static) -> Self {
        Self::Inline { work: Box::new(work), outcome: None }
    }

    fn thread(
        name: String,
        gate: Arc<Gate>,
        work: impl Fn(J) -> O + Send + 'static,
    ) -> io::Result<Self> {
        let (jobs, queue) = channel::<J>();
        let (answers, outcomes) = channel();
        // Ends when the shell drops its side; a job under way is finished first.
        let _detached = std::thread::Builder::new().name(name).spawn(move || {
            step_back();
            for job in queue {
                let turn = gate.take();
                let outcome = work(job);
                drop(turn);
                if answers.send(outcome).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self::Thread { jobs, outcomes, busy: false })
    }
}

/// Who holds the pen.
#[derive(Debug)]
pub(crate) struct Scribe {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
}

impl Scribe {
    fn write(&self, job: Box<Job>) -> Outcome {
        let began = self.clock.now();
        match self.checkpoint(&job) {
            Ok((manifest, mut ids, mut sessions)) => {
                ids.keep_memory(job.sealed.ids);
                sessions.keep_memory(job.sealed.sessions);
                let took_ms = u64::try_from(self.clock.now().since(began)).unwrap_or(0);
                Ok(Box::new(Done { manifest, ids, sessions, took_ms }))
            }
            Err(error) => Err((job, error)),
        }
    }

    pub(crate) const fn new(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>) -> Self {
        Self { disk, clock }
    }

    /// Every file first, the manifest last: what a manifest lists is durable.
    fn checkpoint(&self, job: &Job) -> io::Result<(Manifest, IdsWritten, SessionsWritten)> {
        let (manifest, ids, sessions) = self.write_files(job)?;
        fail::reach("checkpoint-before-manifest");
        manifest.write(self.disk.as_ref())?;
        fail::reach("checkpoint-after-manifest");
        Ok((manifest, ids, sessions))
    }

    /// Every file, and the manifest over them, which is not written.
    pub(crate) fn write_files(
        &self,
        job: &Job,
    ) -> io::Result<(Manifest, IdsWritten, SessionsWritten)> {
        let disk = self.disk.as_ref();
        let sealed = &job.sealed;
        create_dir_durably(disk, &folder(job.partition))?;
        let layer = self.write_layer(job)?;
        fail::reach("checkpoint-after-layer");
        let ids = sealed.ids.write(disk)?;
        let sessions = sealed.sessions.write(disk)?;
        let guard = self.write_guard(job)?;
        let mut layers = job.layers.clone();
        layers.extend(layer);
        let mut manifest = Manifest {
            partition: job.partition.get(),
            partitions: job.partitions,
            entry: sealed.entry.clone(),
            journal_next: job.journal_next,
            layer: sealed.layer.number(),
            state: sealed.state.clone(),
            ids: ids.manifest().clone(),
            sessions: sessions.manifest().clone(),
            guard,
            layers,
            fresh: Vec::new(),
        };
        manifest.name_fresh(disk, &job.before)?;
        Ok((manifest, ids, sessions))
    }

    fn write_layer(&self, job: &Job) -> io::Result<Option<LayerRef>> {
        let sealed = &job.sealed;
        let open = sealed.layer.read();
        if open.layer.is_empty() {
            return Ok(None);
        }
        let layer = sealed.layer.number();
        let path = format!("{}/layer-{:020}", folder(job.partition), layer.get());
        let disk = self.disk.as_ref();
        write_layer(disk, &path, &open.layer).map_err(io::Error::other)?;
        let written = LayerFile::open(disk, &path).map_err(io::Error::other)?;
        Ok(Some(LayerRef {
            layer,
            seq_first: sealed.seq_first,
            seq_last: sealed.entry.seq,
            plan: sealed.plan.id,
            file: measure(disk, &path)?,
            windows: windows_of(&written),
        }))
    }

    /// The guard's files after this checkpoint.
    fn write_guard(&self, job: &Job) -> io::Result<Vec<FileRef>> {
        let (mut files, bytes) = match &job.sealed.guard {
            GuardSealed::Changes(changes) => (job.guard.clone(), changes),
            GuardSealed::Whole(whole) => (Vec::new(), whole),
        };
        if bytes.is_empty() {
            return Ok(files);
        }
        let number = job.sealed.layer.number().get();
        let path = format!("{}/guard-{number:020}", folder(job.partition));
        write_atomically(self.disk.as_ref(), &path, bytes)?;
        files.push(measure(self.disk.as_ref(), &path)?);
        Ok(files)
    }
}

/// Ranges that a layer's windows are told by, at most.
const WINDOWS_MAX: usize = 16;

/// The hours that hold cells of a layer, near ones as one range.
pub(crate) fn windows_of(file: &LayerFile) -> Vec<TimeRange> {
    let minutes = [SetKind::Events, SetKind::Sessions].map(|kind| file.minutes(kind));
    let hours: BTreeSet<EventTime> =
        minutes.into_iter().flatten().map(|at| at.window_start(Granularity::Hour)).collect();
    let hour = |start: EventTime| TimeRange { start, end: start.plus_ms(Granularity::Hour.ms()) };
    few(hours.into_iter().map(hour).collect())
}

/// Ascending ranges, with the narrowest gaps closed until they are few.
fn few(ranges: Vec<TimeRange>) -> Vec<TimeRange> {
    let gap = |pair: &[TimeRange]| pair[1].start.since(pair[0].end);
    let mut gaps: Vec<i64> = ranges.windows(2).map(gap).filter(|&gap| gap > 0).collect();
    gaps.sort_unstable();
    let surplus = (gaps.len() + 1).saturating_sub(WINDOWS_MAX);
    let closed = surplus.checked_sub(1).map_or(0, |last| gaps[last]);
    let mut few: Vec<TimeRange> = Vec::new();
    for range in ranges {
        match few.last_mut() {
            Some(last) if range.start.since(last.end) <= closed => last.end = range.end,
            _ => few.push(range),
        }
    }
    few
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(hours: &[i64]) -> Vec<TimeRange> {
        let at = |hour: i64| EventTime::from_ms(hour * 3_600_000);
        hours.iter().map(|&hour| TimeRange { start: at(hour), end: at(hour + 1) }).collect()
    }

    #[test]
    fn neighbours_are_one_range_and_many_ranges_lose_their_narrowest_gaps() {
        assert_eq!(few(Vec::new()), []);
        let three = few(hours(&[1, 2, 3, 7, 20]));
        assert_eq!(three.len(), 3);
        assert_eq!(three[0].end, hours(&[4])[0].start);
        // Gaps of 1 to 39 hours: the widest stay.
        let wide: Vec<i64> = (0..40).map(|n| n * (n + 3) / 2).collect();
        let told = few(hours(&wide));
        assert_eq!(told.len(), WINDOWS_MAX);
        for hour in hours(&wide) {
            assert!(told.iter().any(|one| one.start <= hour.start && hour.end <= one.end));
        }
        let even: Vec<i64> = (0..100).map(|n| n * 5).collect();
        assert_eq!(few(hours(&even)).len(), 1, "no gap is narrower than another");
    }
}
