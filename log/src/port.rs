//! The port that other rooms hold, with its numbered guarantees.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use nilometer_event::{Offset, Partition, PartitionCount, ReceiveTime, Topic};
use tokio::sync::{oneshot, watch};

use crate::{AppendError, Fetched, ReadError, Records};

/// A partitioned, durable, append-only record.
///
/// - **L1 dense**: the records of one batch get adjacent offsets, and batches follow each other
///   without a gap; only damage leaves one, and it is named in [`Log::quarantined`].
/// - **L2 ordered**: a read gives records in offset order, and the batches of one submission
///   for one place in the order in which they were given.
/// - **L3 durable**: what was acknowledged survives a crash of process and machine; what was
///   not counts zero times or once, at its place.
/// - **L4 readable is durable**: [`Log::bounds`] ends before anything that a crash could take
///   back, and an offset below it is never given out again.
/// - **L5 whole**: a read gives the bytes that were appended, or names the damage; it never
///   gives other bytes, and never stops at damage.
/// - **L6 bounded**: a full queue and a full disk are answered at once, as errors with a
///   [`crate::Retry`].
/// - **L7 held**: retention passes no [`Log::hold`], and removes nothing where none is set.
///
/// Every method but `submit` may block on the disk: call them from blocking threads.
pub trait Log: Send + Sync + fmt::Debug {
    /// Queues the batches; the answer comes once all of them are durable, in one group
    /// commit with whatever else is queued.
    ///
    /// # Errors
    ///
    /// [`AppendError::Full`] at once when the queue is full, [`AppendError::TooLarge`] for a
    /// batch over the limit; nothing was queued then. Later errors come through [`Pending`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the answer does not take the batches back.
    fn submit(&self, batches: Vec<AppendBatch>) -> Result<Pending, AppendError>;

    /// [`Log::submit`], waiting; for blocking threads only.
    ///
    /// # Errors
    ///
    /// As [`Log::submit`] and [`Pending`].
    fn append(&self, batches: Vec<AppendBatch>) -> Result<Vec<Appended>, AppendError> {
        self.submit(batches)?.wait()
    }

    /// Whole batches from the one that holds `from`, about `max_bytes` of them and at least one
    /// where there is one; empty at the end.
    ///
    /// # Errors
    ///
    /// [`ReadError::BeforeStart`] and [`ReadError::PastEnd`] outside the bounds, and what the
    /// disk says.
    fn read(
        &self,
        topic: Topic,
        partition: Partition,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Fetched, ReadError>;

    /// What can be read. A partition that does not exist is empty.
    fn bounds(&self, topic: Topic, partition: Partition) -> Bounds;

    /// The first offset whose timestamp is `time` or later; the end if there is none.
    ///
    /// # Errors
    ///
    /// What the disk says.
    fn offset_at(
        &self,
        topic: Topic,
        partition: Partition,
        time: ReceiveTime,
    ) -> Result<Offset, ReadError>;

    /// Makes sure that no offset below `named` is given out any more: recovery calls it with
    /// what the journal names. Returns how many records are missing; they are quarantined.
    ///
    /// # Errors
    ///
    /// What the disk says; this process does not give the offsets out all the same, but the next
    /// one has to be asked again.
    fn ensure_past(
        &self,
        topic: Topic,
        partition: Partition,
        named: Offset,
    ) -> Result<u64, AppendError>;

    /// From now on retention keeps `floor` and what follows it (the oldest kept checkpoint's).
    fn hold(&self, topic: Topic, partition: Partition, floor: Offset);

    /// The records lost to damage that is known, by name.
    fn quarantined(&self) -> Vec<Quarantined>;

    /// How many partitions every topic has.
    fn partitions(&self) -> PartitionCount;

    /// The newest timestamp that the log holds: a floor for the house clock.
    fn latest_timestamp(&self) -> Option<ReceiveTime>;

    /// The log in numbers.
    fn stats(&self) -> LogStats;

    /// Ticks on each commit.
    fn changed(&self) -> watch::Receiver<u64>;
}

/// Records for one place.
#[derive(Debug)]
pub struct AppendBatch {
    /// Which stream.
    pub topic: Topic,
    /// Which shard.
    pub partition: Partition,
    /// The records.
    pub records: Records,
}

/// Where a batch lies: `first..next`, empty for an empty batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record.
    pub first: Offset,
    /// The offset after the last one.
    pub next: Offset,
}

/// What can be read: `start..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The oldest offset kept.
    pub start: Offset,
    /// The first offset that is not yet durable.
    pub end: Offset,
}

/// What may use the last of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Refused while less than the reserve is free.
    Data,
    /// May use the reserve: what makes accepted records visible.
    Internal,
}

impl Priority {
    /// Of the records of `topic`.
    #[must_use]
    pub const fn of(topic: Topic) -> Self {
        match topic {
            Topic::Journal | Topic::LateEvents => Self::Internal,
            Topic::UserEvents
            | Topic::ContentViews
            | Topic::ServerEvents
            | Topic::Imports
            | Topic::DeadLetters => Self::Data,
        }
    }
}

/// Records lost to damage: `first..next` of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Which stream.
    pub topic: Topic,
    /// Which shard.
    pub partition: Partition,
    /// The first lost offset.
    pub first: Offset,
    /// The first offset that is good again.
    pub next: Offset,
    /// The damaged file, relative to the disk's root.
    pub file: String,
    /// What is wrong, beginning with the word `corrupt`.
    pub reason: String,
}

/// The log in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// In all segments.
    pub bytes: u64,
    /// Of these, dead letters.
    pub dead_letter_bytes: u64,
    /// What retention keeps at most.
    pub retention_bytes: u64,
    /// Of all topics and partitions.
    pub segments: u64,
    /// Free on the disk; `None` where the disk does not say.
    pub free_bytes: Option<u64>,
    /// What must stay free for the journal, a layer and a checkpoint.
    pub reserve_bytes: u64,
    /// Waiting for their commit.
    pub queue_bytes: u64,
    /// Waiting for their commit.
    pub queue_batches: u64,
    /// Group commits that succeeded.
    pub commits: u64,
    /// Records made durable.
    pub records: u64,
    /// Files synced.
    pub syncs: u64,
    /// Time spent in syncs, in microseconds, summed over files.
    pub sync_us: u64,
    /// Writes, syncs and creations that the disk refused.
    pub failures: u64,
    /// Batches refused because the queue was full.
    pub refused_full: u64,
    /// Batches refused because the disk was full.
    pub refused_disk_full: u64,
    /// Records lost to damage that is known.
    pub quarantined_records: u64,
    /// Segments that retention removed.
    pub removed_segments: u64,
    /// Records, dead letters apart, that it removed before they were old enough, for room.
    pub removed_early: u64,
    /// Dead letters that it removed so.
    pub removed_early_letters: u64,
}

/// The answer to a submission, once it is durable: a future, and [`Pending::wait`] for
/// blocking threads.
#[derive(Debug)]
pub struct Pending(State);

#[derive(Debug)]
enum State {
    Ready(Option<Result<Vec<Appended>, AppendError>>),
    Waiting(oneshot::Receiver<Result<Vec<Appended>, AppendError>>),
}

impl Pending {
    /// An answer that is already there.
    #[must_use]
    pub const fn ready(answer: Result<Vec<Appended>, AppendError>) -> Self {
        Self(State::Ready(Some(answer)))
    }

    /// An answer to come; a sender that is dropped says [`AppendError::ShuttingDown`].
    #[must_use]
    pub const fn waiting(receiver: oneshot::Receiver<Result<Vec<Appended>, AppendError>>) -> Self {
        Self(State::Waiting(receiver))
    }

    /// Blocks until the answer is there.
    ///
    /// # Errors
    ///
    /// Why the submission was not acknowledged.
    ///
    /// # Panics
    ///
    /// On a thread that runs asynchronous tasks.
    pub fn wait(self) -> Result<Vec<Appended>, AppendError> {
        match self.0 {
            State::Ready(answer) => answer.unwrap_or(Err(AppendError::ShuttingDown)),
            State::Waiting(receiver) => {
                receiver.blocking_recv().unwrap_or(Err(AppendError::ShuttingDown))
            }
        }
    }
}

impl Future for Pending {
    type Output = Result<Vec<Appended>, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Ready(answer) => {
                Poll::Ready(answer.take().unwrap_or(Err(AppendError::ShuttingDown)))
            }
            State::Waiting(receiver) => Pin::new(receiver)
                .poll(context)
                .map(|answer| answer.unwrap_or(Err(AppendError::ShuttingDown))),
        }
    }
}
