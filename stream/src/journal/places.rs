//! Finding entries of a journal by what they took, without reading all of it.

use nilometer_event::{Offset, Partition, Topic};
use nilometer_log::{Bounds, Log};

use super::{Entry, JournalRecord};
use crate::error::JournalError;

/// Bytes of journal that are read at once: a few entries.
const READ_BYTES: usize = 4 << 10;

/// The entries that the log still holds of one shard's journal.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    log: &'a dyn Log,
    partition: Partition,
    bounds: Bounds,
}

impl<'a> Places<'a> {
    /// What the log holds now.
    #[must_use]
    pub fn new(log: &'a dyn Log, partition: Partition) -> Self {
        Self { log, partition, bounds: log.bounds(Topic::Journal, partition) }
    }

    /// The entry that took a record.
    ///
    /// # Errors
    ///
    /// As [`Self::first`].
    pub fn entry_of(&self, topic: Topic, offset: Offset) -> Result<Option<Entry>, JournalError> {
        self.first(|entry| entry.end(topic).is_some_and(|end| offset < end))
    }

    /// The last entry of a layer: its seal acts after it.
    ///
    /// # Errors
    ///
    /// As [`Self::first`].
    pub fn last_of_layer(&self, layer: u64) -> Result<Option<Entry>, JournalError> {
        let Some(next) = self.first(|entry| entry.layer.get() > layer)? else { return Ok(None) };
        self.first(|entry| entry.seq + 1 >= next.seq)
    }

    /// The first entry of which `is_past` holds, where it holds of every later one as well.
    ///
    /// # Errors
    ///
    /// [`JournalError::Read`], to be tried again.
    pub fn first(&self, is_past: impl Fn(&Entry) -> bool) -> Result<Option<Entry>, JournalError> {
        let (mut low, mut high) = (self.bounds.start, self.bounds.end);
        let mut found = None;
        while low < high {
            let middle = low.plus(high.since(low) / 2);
            match self.told_from(middle)? {
                // Nothing that can be read lies there or later.
                None => high = middle,
                Some((_, told)) if is_past(&told.entry) => {
                    // The one before may lie in a record that is damaged.
                    let before = told.predecessor.filter(|before| is_past(before));
                    found = Some(before.unwrap_or(told.entry));
                    high = middle;
                }
                Some((offset, _)) => low = offset.plus(1),
            }
        }
        Ok(found)
    }

    /// The first record at `from` or later that can be read.
    fn told_from(&self, from: Offset) -> Result<Option<(Offset, JournalRecord)>, JournalError> {
        let mut at = from;
        while at < self.bounds.end {
            let fetched = self
                .log
                .read(Topic::Journal, self.partition, at, READ_BYTES)
                .map_err(|source| JournalError::Read { source })?;
            for record in fetched.iter().filter(|record| at <= record.offset) {
                match JournalRecord::decode(record.value) {
                    Ok(told) => return Ok(Some((record.offset, told))),
                    Err(JournalError::Corrupt) => {}
                    Err(newer) => return Err(newer),
                }
            }
            if fetched.next() <= at {
                return Err(JournalError::Stuck { offset: at });
            }
            at = fetched.next();
        }
        Ok(None)
    }
}
