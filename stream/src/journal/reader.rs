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

#[cfg(test)]
mod tests {
    use nilometer_event::PartitionCount;
    use nilometer_log::{AppendBatch, MemoryLog, RecordsBuilder};

    use super::*;
    use crate::journal::tests::entry;

    const P0: Partition = Partition::new(0);

    fn append(log: &MemoryLog, value: &[u8]) {
        let mut records = RecordsBuilder::new();
        records.push(nilometer_event::ReceiveTime::from_ms(0), None, value);
        let batch = AppendBatch { topic: Topic::Journal, partition: P0, records: records.build() };
        log.append(vec![batch]).unwrap();
    }

    fn record(seq: u64) -> Vec<u8> {
        let predecessor = (seq > 1).then(|| entry(seq - 1));
        JournalRecord { entry: entry(seq), predecessor }.encode().unwrap()
    }

    fn read(log: &MemoryLog, after: u64) -> (Vec<u64>, u64) {
        let mut reader = Reader::new(log, P0, Offset::ZERO, after);
        let mut seqs = Vec::new();
        while let Some(replayed) = reader.next_entry().unwrap() {
            assert_eq!(replayed.entry, entry(replayed.entry.seq));
            seqs.push(replayed.entry.seq);
        }
        (seqs, reader.damaged())
    }

    #[test]
    fn a_repeat_is_dropped_and_one_damaged_entry_is_read_from_its_successor() {
        let log = MemoryLog::new(PartitionCount::new(1).unwrap());
        for seq in [1, 2, 2, 3] {
            append(&log, &record(seq));
        }
        append(&log, b"what was entry 4");
        append(&log, &record(5));
        append(&log, &record(5));
        assert_eq!(read(&log, 0), (vec![1, 2, 3, 4, 5], 1));
        assert_eq!(read(&log, 3), (vec![4, 5], 1));
    }

    #[test]
    fn entries_lost_for_good_are_passed_over_and_a_later_release_stops_the_reader() {
        let log = MemoryLog::new(PartitionCount::new(1).unwrap());
        append(&log, &record(1));
        append(&log, b"what was entry 2");
        append(&log, b"what was entry 3");
        append(&log, &record(4));
        assert_eq!(read(&log, 0), (vec![1, 3, 4], 2));
        let mut later = record(5);
        later[0] += 1;
        let body = later.len() - 4;
        let crc = crate::checkpoint::crc32c(&later[..body]);
        later[body..].copy_from_slice(&crc.to_le_bytes());
        append(&log, &later);
        let mut reader = Reader::new(&log, P0, Offset::ZERO, 4);
        assert!(matches!(reader.next_entry(), Err(JournalError::Newer { .. })));
    }
}
