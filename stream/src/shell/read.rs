//! Reading the records of one entry from the log.

use nilometer_event::{Offset, Partition, Topic};
use nilometer_log::{Log, ReadError};

use super::growth::Growth;
use crate::error::StepError;
use crate::fold::{EntryRecords, TopicRecords};

/// Bytes asked of the log at once.
const READ_BYTES: usize = 1 << 20;

/// What is left of an entry's limits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) records: u64,
    pub(super) bytes: usize,
    /// By how much the open layer may grow.
    pub(super) layer_bytes: u64,
}

impl Room {
    /// What one topic may take of it, where a record adds so many bytes to the layer.
    fn for_records_of(self, layer_bytes: u64) -> Self {
        let fit = self.layer_bytes.checked_div(layer_bytes).unwrap_or(u64::MAX);
        Self { records: self.records.min(fit), ..self }
    }
}

/// What there is to fold now, live topics first.
#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) records: EntryRecords,
    /// Whether the live topics were read to the ends that they had before.
    pub(super) caught_up: bool,
    /// Whether every topic was.
    pub(super) all_read: bool,
}

/// Whether readers wait for what comes on it.
pub(super) const fn is_live(topic: Topic) -> bool {
    !matches!(topic, Topic::Imports | Topic::DeadLetters)
}

/// Reads what there is, within `room`.
pub(super) fn gather(
    log: &dyn Log,
    partition: Partition,
    positions: [Offset; Topic::RECEIVED.len()],
    mut room: Room,
    growth: &Growth,
) -> Result<Gathered, StepError> {
    let ends = Topic::RECEIVED.map(|topic| log.bounds(topic, partition).end);
    let mut records = EntryRecords::at(positions);
    for (index, topic) in Topic::RECEIVED.into_iter().enumerate() {
        let taken = records.topic_mut(index);
        let each = growth.bytes_of(topic);
        let mut own = room.for_records_of(each);
        read_up_to(log, topic, partition, taken, ends[index], &mut own)?;
        room.records = room.records.saturating_sub(taken.len());
        room.bytes = own.bytes;
        room.layer_bytes = room.layer_bytes.saturating_sub(taken.len().saturating_mul(each));
    }
    let read = |index: usize| records.topic(index).end() >= ends[index];
    let caught_up = Topic::RECEIVED
        .into_iter()
        .enumerate()
        .all(|(index, topic)| !is_live(topic) || read(index));
    let all_read = (0..Topic::RECEIVED.len()).all(read);
    Ok(Gathered { records, caught_up, all_read })
}

/// Reads exactly what an entry took.
pub(super) fn reread(
    log: &dyn Log,
    partition: Partition,
    positions: [Offset; Topic::RECEIVED.len()],
    ends: [u64; Topic::RECEIVED.len()],
) -> Result<EntryRecords, StepError> {
    let mut records = EntryRecords::at(positions);
    for (index, topic) in Topic::RECEIVED.into_iter().enumerate() {
        let mut room = Room { records: u64::MAX, bytes: usize::MAX, layer_bytes: u64::MAX };
        let end = Offset::new(ends[index]);
        read_up_to(log, topic, partition, records.topic_mut(index), end, &mut room)?;
    }
    Ok(records)
}

fn read_up_to(
    log: &dyn Log,
    topic: Topic,
    partition: Partition,
    taken: &mut TopicRecords,
    end: Offset,
    room: &mut Room,
) -> Result<(), StepError> {
    while taken.end() < end && room.records > 0 && room.bytes > 0 {
        let at = taken.end();
        let fetched = match log.read(topic, partition, at, room.bytes.min(READ_BYTES)) {
            Ok(fetched) => fetched,
            Err(ReadError::BeforeStart { start, .. }) => {
                tracing::error!(
                    %topic,
                    %partition,
                    lost = start.min(end).since(at),
                    "log is corrupt: records are gone before they were folded"
                );
                taken.skip_to(start.min(end));
                continue;
            }
            Err(source) => return Err(StepError::Read { source }),
        };
        let next = fetched.next().min(end).min(at.plus(room.records.min(end.since(at))));
        if next <= at {
            return Err(StepError::Stalled { topic, offset: at });
        }
        room.records -= next.since(at);
        room.bytes = room.bytes.saturating_sub(fetched.bytes());
        taken.push(fetched, next);
    }
    Ok(())
}
