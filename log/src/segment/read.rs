//! Reading: whole batches, checked each time, over whatever is damaged.

use std::io;

use nilometer_event::{Offset, ReceiveTime};

use super::place::{Found, Place, Tip};
use super::scan::{Scanner, Step};
use crate::records::Decoded;
use crate::{Disk, Fetched, ReadError};

/// How much is read at once, at least and at most.
const CHUNK_BYTES_MIN: usize = 64 << 10;
const CHUNK_BYTES_MAX: usize = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Show the next batch.
    More,
    /// It is enough.
    Enough,
}

/// Whole batches from the one that holds `from`, until they are `max_bytes`.
///
/// # Errors
///
/// [`ReadError`].
pub(super) fn read(
    disk: &dyn Disk,
    place: &Place,
    from: Offset,
    max_bytes: usize,
) -> Result<Fetched, ReadError> {
    let bounds = place.bounds();
    let (topic, partition) = (place.topic, place.partition);
    if bounds.end < from {
        return Err(ReadError::PastEnd { topic, partition, from, end: bounds.end });
    }
    if from < bounds.start {
        return Err(ReadError::BeforeStart { topic, partition, from, start: bounds.start });
    }
    let mut batches = Vec::new();
    let mut bytes = 0;
    let mut at = from.get();
    while at < bounds.end.get() && (batches.is_empty() || bytes < max_bytes) {
        let Some(found) = place.find(at) else { break };
        let chunk = max_bytes.clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
        // The end was read before the segment was found.
        let within = (&found, bounds.end.get());
        let walked = walk(disk, place, within, at, chunk, &mut |batch: Decoded| {
            bytes += batch.section.len();
            batches.push(batch);
            if bytes < max_bytes { Flow::More } else { Flow::Enough }
        });
        match walked {
            Ok(next) => at = next,
            // What was read is shown first; the next read meets the error again.
            Err(_) if !batches.is_empty() => break,
            Err(error) => return Err(explain(place, &found, from, error)),
        }
    }
    Ok(Fetched::new(from, Offset::new(at), batches))
}

/// The first offset whose timestamp is `time` or later.
///
/// # Errors
///
/// What the disk says.
pub(super) fn offset_at(
    disk: &dyn Disk,
    place: &Place,
    time: ReceiveTime,
) -> Result<Offset, ReadError> {
    let bounds = place.bounds();
    let mut answer = None;
    let mut at = bounds.start.get();
    while answer.is_none() && at < bounds.end.get() {
        let Some(found) = place.find(at) else { break };
        let from = {
            let tip = found.segment.tip.read();
            if tip.max_timestamp < time.ms() {
                at = found.limit.min(bounds.end.get());
                continue;
            }
            // Every record before the last entry that is older than `time` is older as well.
            let after = tip.index.partition_point(|entry| entry.max_timestamp < time.ms());
            at.max(tip.index[after.saturating_sub(1)].offset)
        };
        let within = (&found, bounds.end.get());
        let walked = walk(disk, place, within, from, CHUNK_BYTES_MIN, &mut |batch: Decoded| {
            answer = batch.iter().find(|record| time <= record.timestamp).map(|r| r.offset);
            if answer.is_none() { Flow::More } else { Flow::Enough }
        });
        at = walked.map_err(|error| explain(place, &found, Offset::new(from), error))?;
    }
    Ok(answer.unwrap_or(bounds.end))
}

/// Shows the batches of a segment from the one that holds `from`, naming damage on the way;
/// returns where to read on.
/// `seen_end` is an end of the place that was read before the segment was found.
fn walk(
    disk: &dyn Disk,
    place: &Place,
    (found, seen_end): (&Found, u64),
    from: u64,
    chunk: usize,
    show: &mut dyn FnMut(Decoded) -> Flow,
) -> io::Result<u64> {
    let segment = &found.segment;
    // The tip's lock is not held while the disk is asked.
    let (len, end, entry) = {
        let tip = segment.tip.read();
        let after = tip.index.partition_point(|entry| entry.offset <= from);
        (tip.len, tip.next, tip.index[after.saturating_sub(1)])
    };
    // Without a next segment there is nothing between its end and the end that was seen before.
    let past = if found.limit == u64::MAX { end.max(seen_end) } else { found.limit };
    if end <= from {
        return Ok(past);
    }
    let file = disk.open_read(&segment.file)?;
    let mut scanner = Scanner::new(&*file, len, chunk);
    let (mut position, mut expected) = (entry.position, entry.offset);
    let lost = |first, next, what| {
        if place.quarantine(first, next, &segment.file, what) {
            // Without an index that vouches for it, every opening scans the segment and names
            // the damage again.
            drop(disk.remove(&segment.index_file()));
        }
    };
    while expected < end {
        match scanner.step(position, expected, end)? {
            Step::Batch { header, position: start } => {
                let next = header.next().unwrap_or(end);
                if from < next {
                    let Some(batch) = header.decode(scanner.bytes(start, header.total)?) else {
                        lost(expected, next, "a batch cannot be decompressed");
                        (position, expected) = (start + header.total as u64, next);
                        continue;
                    };
                    if show(batch) == Flow::Enough {
                        return Ok(next);
                    }
                }
                (position, expected) = (start + header.total as u64, next);
            }
            Step::Hole { next, resume } => {
                lost(expected, next, "a batch is damaged");
                (position, expected) = (resume, next);
            }
            Step::DamagedTail { .. } => {
                lost(expected, end, "a batch is damaged");
                expected = end;
            }
            Step::Torn | Step::End => {
                lost(expected, end, "the file is shorter than it was");
                expected = end;
            }
        }
    }
    Ok(past)
}

/// A file that is not there was removed by retention, or is lost.
fn explain(place: &Place, found: &Found, from: Offset, source: io::Error) -> ReadError {
    let start = place.bounds().start;
    if source.kind() == io::ErrorKind::NotFound {
        if from < start {
            let (topic, partition) = (place.topic, place.partition);
            return ReadError::BeforeStart { topic, partition, from, start };
        }
        let segment = &found.segment;
        let end = segment.tip.read().next;
        place.quarantine(segment.base, end, &segment.file, "the file is missing");
        // From now on reads jump over it.
        let mut tip = segment.tip.write();
        *tip = Tip { max_timestamp: tip.max_timestamp, ..Tip::empty(segment.base) };
    }
    ReadError::Io { file: found.segment.file.clone(), source }
}
