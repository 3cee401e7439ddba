//! Reading a journal from a place: each entry once, in order, over damage where one successor
//! still tells it.

use std::collections::VecDeque;

use nilometer_event::{Offset, Partition, Topic};
use nilometer_log::Log;

use super::{Entry, JournalRecord};
use crate::error::JournalError;

/// Bytes of journal that are read at once.
const READ_BYTES: usize = 256 << 10;

/// An entry of the journal, and where to read on once it is folded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The entry.
    pub entry: Entry,
    /// The offset after the record that told it.
    pub next: Offset,
}

/// Gives the entries after one seq, each once: repeats are dropped, damaged records are read
/// from their successors.
#[derive(Debug)]
pub struct Reader<'a> {
    log: &'a dyn Log,
    partition: Partition,
    next: Offset,
    /// The seq given last.
    seq: u64,
    ready: VecDeque<Replayed>,
    /// Records that could not be read.
    damaged: u64,
}

impl<'a> Reader<'a> {
    /// Reads from `from`, giving entries after `seq`.
    #[must_use]
    pub fn new(log: &'a dyn Log, partition: Partition, from: Offset, seq: u64) -> Self {
        Self { log, partition, next: from, seq, ready: VecDeque::new(), damaged: 0 }
    }

    /// Records that were damaged; their entries were read from a successor, or named.
    #[must_use]
    pub const fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Where reading stands.
    #[must_use]
    pub const fn position(&self) -> Offset {
        self.next
    }

    /// The next entry; `None` at the journal's end.
    ///
    /// # Errors
    ///
    /// [`JournalError::Read`] to be tried again; [`JournalError::Newer`] for an entry of a
    /// later release.
    pub fn next_entry(&mut self) -> Result<Option<Replayed>, JournalError> {
        loop {
            if let Some(replayed) = self.ready.pop_front() {
                return Ok(Some(replayed));
            }
            let end = self.log.bounds(Topic::Journal, self.partition).end;
            if self.next >= end {
                return Ok(None);
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<(), JournalError> {
        let from = self.next;
        let fetched = self
            .log
            .read(Topic::Journal, self.partition, from, READ_BYTES)
            .map_err(|source| JournalError::Read { source })?;
        let mut at = from;
        for record in fetched.iter() {
            self.damaged += record.offset.since(at);
            at = record.offset.plus(1);
            match JournalRecord::decode(record.value) {
                Ok(told) => self.take(told, at),
                Err(JournalError::Corrupt) => {
                    self.damaged += 1;
                    tracing::error!(
                        partition = self.partition.get(),
                        offset = record.offset.get(),
                        "journal entry is corrupt; it is read from its successor"
                    );
                }
                Err(newer) => return Err(newer),
            }
        }
        self.damaged += fetched.next().since(at);
        self.next = fetched.next().max(at);
        if self.next == from {
            // A log that neither gives a record nor moves on would hold us here forever.
            return Err(JournalError::Stuck { offset: from });
        }
        Ok(())
    }

    fn take(&mut self, told: JournalRecord, next: Offset) {
        for entry in told.predecessor.into_iter().chain([told.entry]) {
            if entry.seq <= self.seq {
                continue;
            }
            if entry.seq != self.seq + 1 {
                tracing::error!(
                    partition = self.partition.get(),
                    missing_first = self.seq + 1,
                    missing_last = entry.seq - 1,
                    "journal is corrupt: entries are lost; their records are folded with the \
                     entry after them"
                );
            }
            self.seq = entry.seq;
            self.ready.push_back(Replayed { entry, next });
        }
    }
}
