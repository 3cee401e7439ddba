//! How far back the log reaches, and what of it purges take.

use nilometer_event::{EventTime, Offset, Partition, Topic, avro};
use nilometer_log::{Log, ReadError};

use super::PurgeError;
use crate::fold::{EntryRecords, Mark};
use crate::journal::{Entry, Places};
use crate::purges::Purge;
use crate::shell::read::reread;

/// Events happen at most so long after they are received: the gateway's tolerance, and some more.
const AHEAD_MS: i64 = 600_000;

/// Earlier purges that one replay may leave out: as many as there are bits for.
pub(super) const PURGES_MAX: usize = 63;

/// Where a replay begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begin {
    /// How far the topics were read.
    pub(super) ends: [Offset; Topic::RECEIVED.len()],
    /// The last entry before it; 0 where there is none.
    pub(super) seq: u64,
    /// Every event of this time or later is in the log.
    pub(super) from: EventTime,
}

impl Begin {
    /// The first place from which the log holds all that the journal says was read.
    pub(super) fn find(log: &dyn Log, partition: Partition) -> Result<Self, PurgeError> {
        let starts = Topic::RECEIVED.map(|topic| log.bounds(topic, partition).start);
        let of_events =
            || Topic::RECEIVED.into_iter().zip(starts).filter(|(topic, _)| is_read(*topic));
        let is_whole = of_events().all(|(_, start)| start == Offset::ZERO);
        if is_whole && log.bounds(Topic::Journal, partition).start == Offset::ZERO {
            return Ok(Self { ends: starts.map(|_| Offset::ZERO), seq: 0, from: EventTime::MIN });
        }
        let covers = |entry: &Entry| {
            of_events().all(|(topic, start)| entry.end(topic).is_some_and(|end| start <= end))
        };
        let first = Places::new(log, partition).first(covers)?;
        let first = first.ok_or(PurgeError::Empty { partition })?;
        let from = first.now.as_event_time().plus_ms(AHEAD_MS);
        Ok(Self { ends: first.ends.map(Offset::new), seq: first.seq, from })
    }
}

/// Whether it holds events.
pub(super) const fn is_read(topic: Topic) -> bool {
    !matches!(topic, Topic::DeadLetters)
}

/// What one purge takes of a shard.
#[derive(Clone, Debug)]
pub(super) struct Taking {
    pub(super) key: String,
    pub(super) day: i64,
    pub(super) ends: [u64; Topic::RECEIVED.len()],
}

/// The purges that may have taken records behind `begin`, oldest first, and this one.
pub(super) fn takings(
    purges: &[Purge],
    partition: Partition,
    begin: &Begin,
    own: Taking,
) -> Result<Vec<Taking>, PurgeError> {
    let mut takings = Vec::new();
    for purge in purges {
        let Some(shard) = purge.shards.get(partition.index()) else { continue };
        if shard.ends.iter().zip(begin.ends).any(|(&end, begun)| begun.get() < end) {
            let (key, day, ends) = (purge.key.clone(), purge.day, shard.ends);
            takings.push(Taking { key, day, ends });
        }
    }
    if takings.len() > PURGES_MAX {
        return Err(PurgeError::TooMany { purges: takings.len() });
    }
    takings.push(own);
    Ok(takings)
}

/// What the records of an entry are to these purges.
pub(super) fn marks(records: &EntryRecords, takings: &[Taking]) -> Vec<Mark> {
    let mut marks = Vec::new();
    for (index, topic) in Topic::RECEIVED.into_iter().enumerate() {
        if !is_read(topic) {
            continue;
        }
        for record in records.topic(index).iter() {
            let mut mark = Mark::default();
            let of = avro::decode(record.value).ok();
            let of = of.map(|event| (event.key, crate::fold::day_of(event.timestamp)));
            for (number, taking) in takings.iter().enumerate() {
                if record.offset.get() < taking.ends[index] {
                    mark.before |= 1 << number;
                    let is_its = of == Some((Some(taking.key.as_str()), taking.day));
                    mark.taken_by = mark.taken_by.or(is_its.then_some(number));
                }
            }
            marks.push(mark);
        }
    }
    marks
}

/// The records of events up to `ends`.
///
/// # Errors
///
/// Where the log does not give all of them.
pub(super) fn read(
    log: &dyn Log,
    partition: Partition,
    positions: [Offset; Topic::RECEIVED.len()],
    mut ends: [u64; Topic::RECEIVED.len()],
) -> Result<EntryRecords, PurgeError> {
    for (index, topic) in Topic::RECEIVED.into_iter().enumerate() {
        ends[index] = ends[index].max(positions[index].get());
        if !is_read(topic) {
            ends[index] = positions[index].get();
        }
    }
    let records = reread(log, partition, positions, ends)?;
    let held: u64 = (0..ends.len()).map(|index| records.topic(index).iter().count() as u64).sum();
    match records.len() - held {
        0 => Ok(records),
        lost => Err(PurgeError::Lost { partition, lost }),
    }
}

/// Shows every event of a shard from `begin` to `ends`, a piece at a time.
pub(super) fn each_event(
    log: &dyn Log,
    partition: Partition,
    begin: &Begin,
    ends: [u64; Topic::RECEIVED.len()],
    see: &mut dyn FnMut(&[u8], Mark),
    takings: &[Taking],
    seen: &dyn Fn(u64),
) -> Result<(), PurgeError> {
    const PIECE_BYTES: usize = 1 << 20;
    for (index, topic) in Topic::RECEIVED.into_iter().enumerate() {
        let mut at = begin.ends[index];
        while is_read(topic) && at.get() < ends[index] {
            let fetched = log
                .read(topic, partition, at, PIECE_BYTES)
                .map_err(|source: ReadError| PurgeError::Read { source })?;
            let next = fetched.next().min(Offset::new(ends[index]));
            if next <= at {
                return Err(PurgeError::Lost { partition, lost: ends[index] - at.get() });
            }
            let mut positions = begin.ends;
            positions[index] = at;
            let mut records = EntryRecords::at(positions);
            records.topic_mut(index).push(fetched, next);
            let marks = marks(&records, takings);
            for (record, mark) in records.topic(index).iter().zip(marks) {
                see(record.value, mark);
            }
            seen(next.since(at));
            at = next;
        }
    }
    Ok(())
}
