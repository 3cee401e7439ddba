//! Writing a checkpoint: the sealed files, then the manifest over them; merges of old runs after.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use nilometer_event::Partition;
use nilometer_event::clock::Clock;
use nilometer_log::{Disk, create_dir_durably, write_atomically};

use super::manifest::measure;
use super::{FileRef, LayerRef, Manifest, folder};
use crate::cells::write_layer;
use crate::fold::{GuardSealed, Sealed};
use crate::ids::{IdsMerge, IdsMerged, IdsWritten, MergeRunsError};
use crate::sessions::{SessionsMerge, SessionsMerged, SessionsWritten};
use crate::shell::fail;

/// Who writes checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writing {
    /// One named thread per shard: the fold goes on meanwhile.
    Thread,
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
    /// Merges to be run once the manifest is durable.
    pub(crate) merge_ids: Option<IdsMerge>,
    pub(crate) merge_sessions: Option<SessionsMerge>,
}

/// A durable checkpoint, to be taken over by the shell.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) manifest: Manifest,
    pub(crate) ids: IdsWritten,
    pub(crate) sessions: SessionsWritten,
    pub(crate) merged_ids: Option<Result<IdsMerged, MergeRunsError>>,
    pub(crate) merged_sessions: Option<Result<SessionsMerged, MergeRunsError>>,
    pub(crate) took_ms: u64,
}

/// What became of a job; after an error the job comes back.
pub(crate) type Outcome = Result<Box<Done>, (Box<Job>, io::Error)>;

/// Takes one job at a time.
#[derive(Debug)]
pub(crate) enum Writer {
    /// Writes when it is given a job.
    Inline { scribe: Scribe, outcome: Option<Outcome> },
    /// Hands it to a thread.
    Thread { jobs: Sender<Box<Job>>, outcomes: Receiver<Outcome>, busy: bool },
}

/// The thread that writes has ended: the process is to be restarted.
#[derive(Debug)]
pub(crate) struct WriterGone;

impl Writer {
    pub(crate) fn start(
        writing: Writing,
        partition: Partition,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        let scribe = Scribe { disk, clock };
        if writing == Writing::Inline {
            return Ok(Self::Inline { scribe, outcome: None });
        }
        let (jobs, queue) = channel::<Box<Job>>();
        let (answers, outcomes) = channel();
        // Ends when the shell drops its side; a job under way is finished first.
        let _detached = std::thread::Builder::new().name(format!("checkpoint-{partition}")).spawn(
            move || {
                for job in queue {
                    if answers.send(scribe.write(job)).is_err() {
                        break;
                    }
                }
            },
        )?;
        Ok(Self::Thread { jobs, outcomes, busy: false })
    }

    /// True while a job is under way or its outcome waits.
    pub(crate) const fn is_busy(&self) -> bool {
        match self {
            Self::Inline { outcome, .. } => outcome.is_some(),
            Self::Thread { busy, .. } => *busy,
        }
    }

    /// Begins to write; the one before has been polled.
    pub(crate) fn submit(&mut self, job: Box<Job>) -> Result<(), WriterGone> {
        match self {
            Self::Inline { scribe, outcome } => *outcome = Some(scribe.write(job)),
            Self::Thread { jobs, busy, .. } => {
                jobs.send(job).map_err(|_gone| WriterGone)?;
                *busy = true;
            }
        }
        Ok(())
    }

    /// The outcome, once there is one; `None` while it is under way or nothing is.
    pub(crate) fn poll(&mut self) -> Result<Option<Outcome>, WriterGone> {
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
    pub(crate) fn wait(
        &mut self,
        timeout: std::time::Duration,
    ) -> Result<Option<Outcome>, WriterGone> {
        use std::sync::mpsc::RecvTimeoutError;
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
            Ok((manifest, ids, sessions)) => {
                let took_ms = u64::try_from(self.clock.now().since(began)).unwrap_or(0);
                let disk = self.disk.as_ref();
                Ok(Box::new(Done {
                    manifest,
                    ids,
                    sessions,
                    merged_ids: job.merge_ids.as_ref().map(|merge| merge.run(disk)),
                    merged_sessions: job.merge_sessions.as_ref().map(|merge| merge.run(disk)),
                    took_ms,
                }))
            }
            Err(error) => Err((job, error)),
        }
    }

    /// Every file first, the manifest last: what a manifest lists is durable.
    fn checkpoint(&self, job: &Job) -> io::Result<(Manifest, IdsWritten, SessionsWritten)> {
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
        for path in manifest.files().difference(&job.before) {
            manifest.fresh.push(measure(disk, path)?);
        }
        fail::reach("checkpoint-before-manifest");
        manifest.write(disk)?;
        fail::reach("checkpoint-after-manifest");
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
        write_layer(self.disk.as_ref(), &path, &open.layer).map_err(io::Error::other)?;
        Ok(Some(LayerRef {
            layer,
            seq_first: sealed.seq_first,
            seq_last: sealed.entry.seq,
            plan: sealed.plan.id,
            file: measure(self.disk.as_ref(), &path)?,
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
