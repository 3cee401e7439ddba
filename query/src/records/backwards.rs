//! Reading one partition from its end towards its start, a block at a time.

use nilometer_event::{Offset, Partition, ReceiveTime, Topic};
use nilometer_log::{Log, ReadError};

/// Records that one block asks for.
const BLOCK_RECORDS: u64 = 128;
/// Bytes of values that one block keeps at most (and at least one record).
const BLOCK_BYTES_MAX: usize = 256 << 10;
/// Bytes that one read asks the log for.
const READ_BYTES: usize = 1 << 20;

/// A record that outlives its fetch.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) topic: Topic,
    pub(super) partition: Partition,
    pub(super) offset: Offset,
    pub(super) timestamp: ReceiveTime,
    pub(super) value: Vec<u8>,
}

/// Walks a partition from `before` down to `floor`.
#[derive(Debug)]
pub(super) struct Backwards<'a> {
    log: &'a dyn Log,
    topic: Topic,
    partition: Partition,
    floor: u64,
    /// Everything from here on has been given.
    before: u64,
    /// Offset order; given from its end.
    block: Vec<Kept>,
}

impl<'a> Backwards<'a> {
    pub(super) const fn new(
        log: &'a dyn Log,
        topic: Topic,
        partition: Partition,
        floor: u64,
        before: u64,
    ) -> Self {
        Self { log, topic, partition, floor, before, block: Vec::new() }
    }

    /// The record that [`Backwards::take`] would give.
    pub(super) fn peek(&mut self) -> Result<Option<&Kept>, ReadError> {
        while self.block.is_empty() && self.floor < self.before {
            self.fill()?;
        }
        Ok(self.block.last())
    }

    pub(super) fn take(&mut self) -> Option<Kept> {
        let kept = self.block.pop()?;
        self.before = kept.offset.get();
        Some(kept)
    }

    /// Everything at and after this offset has been taken.
    pub(super) const fn before(&self) -> u64 {
        self.before
    }

    fn fill(&mut self) -> Result<(), ReadError> {
        let from = self.before.saturating_sub(BLOCK_RECORDS).max(self.floor);
        let mut at = Offset::new(from);
        let mut bytes = 0;
        while at.get() < self.before {
            let fetched = match self.log.read(self.topic, self.partition, at, READ_BYTES) {
                Ok(fetched) => fetched,
                // Retention went by while we walked.
                Err(ReadError::BeforeStart { start, .. }) if at < start => {
                    self.floor = start.get().min(self.before);
                    at = start;
                    continue;
                }
                Err(error) => return Err(error),
            };
            for record in fetched.iter().filter(|record| record.offset.get() < self.before) {
                bytes += record.value.len();
                self.block.push(Kept {
                    topic: self.topic,
                    partition: self.partition,
                    offset: record.offset,
                    timestamp: record.timestamp,
                    value: record.value.to_vec(),
                });
            }
            // What is nearest to `before` is kept; the rest is read again by the next block.
            while bytes > BLOCK_BYTES_MAX && self.block.len() > 1 {
                bytes -= self.block.remove(0).value.len();
            }
            if fetched.next() <= at {
                break;
            }
            at = fetched.next();
        }
        if self.block.is_empty() {
            self.before = from;
        }
        Ok(())
    }
}

/// Gives the records of several partitions, newest first by receive time.
pub(super) fn newest(walks: &mut [Backwards<'_>]) -> Result<Option<Kept>, ReadError> {
    let mut best: Option<(ReceiveTime, usize)> = None;
    for (index, walk) in walks.iter_mut().enumerate() {
        if let Some(kept) = walk.peek()?
            && best.is_none_or(|(timestamp, _)| timestamp < kept.timestamp)
        {
            best = Some((kept.timestamp, index));
        }
    }
    Ok(best.and_then(|(_, index)| walks[index].take()))
}
