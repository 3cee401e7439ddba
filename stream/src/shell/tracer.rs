//! Asking the shards what they remember of one event.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, SyncSender, sync_channel};
use std::time::Duration;

use nilometer_event::{
    EventTime, Fingerprint, Identity, IdentityKey, Offset, TimeCorrection, Topic,
};
use nilometer_log::{Disk, Log};

use super::Shell;
use super::stream::Command;
use crate::error::JournalError;
use crate::ids::{Bucket, IdSight, RunReadFailed};
use crate::trace::{Decided, Remembered, SentCopy, decide};

/// How long a shard may take to answer: a step of one that catches up takes about a second.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// An event that a shard is asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    fingerprint: Fingerprint,
    sent: Vec<(EventTime, TimeCorrection)>,
    answer: SyncSender<Sighted>,
}

/// What a shard remembers, of one moment.
#[derive(Debug)]
pub(super) struct Sighted {
    next: [Offset; Topic::RECEIVED.len()],
    buckets: Vec<[Bucket; 2]>,
    ids: IdSight,
}

/// Why an event could not be followed. Ask again.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The shard has ended.
    #[error("the shard of this event has stopped")]
    Stopped,
    /// The shard is at work.
    #[error("the shard of this event did not answer within {} s", ANSWER_WITHIN.as_secs())]
    Busy,
    /// A file of ids could not be read.
    #[error(transparent)]
    Ids(#[from] RunReadFailed),
    /// The journal could not be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Tells what the fold decided about copies of an event; cloning is cheap.
#[derive(Clone, Debug)]
pub struct Tracer {
    pub(super) shards: Vec<Sender<Command>>,
    pub(super) identity: IdentityKey,
    pub(super) log: Arc<dyn Log>,
    pub(super) disk: Arc<dyn Disk>,
}

impl Tracer {
    /// What became of `copies` of one event, in their order. Blocks.
    ///
    /// # Errors
    ///
    /// [`TraceError`]; ask again.
    pub fn decided(
        &self,
        event: Identity<'_>,
        copies: &[SentCopy],
    ) -> Result<Vec<Decided>, TraceError> {
        let partition = self.log.partitions().partition_of(self.identity.user(event.user));
        let (answer, answers) = sync_channel(1);
        let wanted = Wanted {
            fingerprint: self.identity.fingerprint(event),
            sent: copies.iter().map(|copy| (copy.sent, copy.correction)).collect(),
            answer,
        };
        let shard = self.shards.get(partition.index()).ok_or(TraceError::Stopped)?;
        shard.send(Command::Sight(Box::new(wanted))).map_err(|_ended| TraceError::Stopped)?;
        let sighted = answers.recv_timeout(ANSWER_WITHIN).map_err(|error| match error {
            RecvTimeoutError::Timeout => TraceError::Busy,
            RecvTimeoutError::Disconnected => TraceError::Stopped,
        })?;
        let remembered = sighted.remembered(self.disk.as_ref())?;
        Ok(decide(self.log.as_ref(), partition, copies, &remembered)?)
    }
}

impl Sighted {
    /// Reads what the files say.
    fn remembered(self, disk: &dyn Disk) -> Result<Remembered, RunReadFailed> {
        let Self { next, buckets, ids } = self;
        Ok(Remembered { next, buckets, counts: ids.read(disk)? })
    }
}

impl Shell {
    /// What became of `copies` of one event of this shard, in their order.
    ///
    /// # Errors
    ///
    /// [`TraceError`]; ask again.
    pub fn decided(
        &self,
        event: Identity<'_>,
        copies: &[SentCopy],
    ) -> Result<Vec<Decided>, TraceError> {
        let fingerprint = self.config.identity.fingerprint(event);
        let sent = copies.iter().map(|copy| (copy.sent, copy.correction));
        let remembered = self.sighted(fingerprint, sent).remembered(self.config.disk.as_ref())?;
        Ok(decide(self.config.log.as_ref(), self.config.partition, copies, &remembered)?)
    }

    /// Answers a [`Tracer`].
    pub(super) fn sight(&self, wanted: &Wanted) {
        let sighted = self.sighted(wanted.fingerprint, wanted.sent.iter().copied());
        // Who asked may have given up.
        let _gone = wanted.answer.try_send(sighted);
    }

    fn sighted(
        &self,
        fingerprint: Fingerprint,
        sent: impl Iterator<Item = (EventTime, TimeCorrection)>,
    ) -> Sighted {
        let (buckets, ids) = self.state.sight(fingerprint, sent);
        Sighted { next: self.state.next_offsets(), buckets, ids }
    }
}
