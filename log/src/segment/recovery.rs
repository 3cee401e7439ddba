//! What a crash left: every segment ends where the next begins, the last is cut at its last
//! whole batch and synced, and damage is named.

use std::sync::Arc;

use nilometer_event::{Partition, Topic};

use super::index::{self, Entry, INTERVAL_BYTES};
use super::place::{self, Place, Segment, Tip};
use super::scan::{Scanner, Step};
use crate::batch::Header;
use crate::{Disk, DiskFile, OpenError, write_atomically};

/// How much is read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// A place that is ready to be read, and where its writer goes on.
pub(super) struct Recovered {
    pub(super) place: Place,
    /// The segment that can be written to.
    pub(super) active: Option<Active>,
    /// The next offset to give out.
    pub(super) next: u64,
}

/// A segment that can be written to.
pub(super) struct Active {
    pub(super) segment: Arc<Segment>,
    pub(super) file: Box<dyn DiskFile>,
    /// `None` where the disk refused it; the segment is then scanned when it is opened.
    pub(super) index: Option<Box<dyn DiskFile>>,
    /// Timestamp of its first record.
    pub(super) first_timestamp: Option<i64>,
}

/// How a segment file ends.
enum Ending {
    /// At its last good batch.
    Clean,
    /// In bytes of a batch that was never whole, or that the next segment replaced.
    Torn,
    /// In damage that held about so many records.
    Damaged { count: Option<u32> },
}

struct Walked {
    tip: Tip,
    ending: Ending,
    /// True where a batch within is damaged.
    has_hole: bool,
    first_timestamp: Option<i64>,
}

/// Recovers one place.
///
/// # Errors
///
/// What the disk says; a failed sync of a tail that is to be kept as well.
pub(super) fn recover(
    disk: &dyn Disk,
    topic: Topic,
    partition: Partition,
) -> Result<Recovered, OpenError> {
    let dir = place::dir(topic, partition);
    let names = disk.list(&dir).map_err(OpenError::io("list", &dir))?;
    let mut bases: Vec<u64> = names.iter().filter_map(|name| base_of(name)).collect();
    bases.sort_unstable();
    let place = Place::new(topic, partition, Vec::new());
    let mut segments = Vec::with_capacity(bases.len());
    let sealed = bases.len().saturating_sub(1);
    for pair in bases.windows(2) {
        segments.push(recover_sealed(disk, &place, pair[0], pair[1])?);
    }
    let last = bases.get(sealed).map(|&base| recover_last(disk, &place, base)).transpose()?;
    let Some((segment, active, next)) = last else {
        return Ok(Recovered { place, active: None, next: 0 });
    };
    segments.push(segment);
    // Names that a dead process created may not be durable yet.
    disk.sync_dir(&dir).map_err(OpenError::io("sync", &dir))?;
    place.set_start(segments[0].base);
    place.set_end(next);
    *place.segments.write() = segments;
    Ok(Recovered { place, active, next })
}

pub(super) fn base_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    (digits.len() == 20).then(|| digits.parse().ok())?
}

/// A segment that another follows: its last index entry vouches for a whole file.
fn recover_sealed(
    disk: &dyn Disk,
    place: &Place,
    base: u64,
    limit: u64,
) -> Result<Arc<Segment>, OpenError> {
    let path = place::log_file(&place.dir, base);
    let file = disk.open_read(&path).map_err(OpenError::io("open", &path))?;
    let len = file.len().map_err(OpenError::io("measure", &path))?;
    let entries = load_index(disk, &path, base);
    let whole = entries.last().filter(|last| last.position == len && last.offset <= limit);
    let tip = if let Some(&last) = whole {
        let mut index = vec![Entry::first(base)];
        index.extend(&entries[..entries.len() - 1]);
        Tip { len, next: last.offset, max_timestamp: last.max_timestamp, index }
    } else {
        let walked = walk(place, &*file, &path, (base, limit), &entries)
            .map_err(OpenError::io("read", &path))?;
        let clean = matches!(walked.ending, Ending::Clean);
        drop(write_index(disk, &path, base, &walked, clean && walked.tip.len == len));
        walked.tip
    };
    place.quarantine(tip.next, limit, &path, "records are missing before the next segment");
    Ok(Segment::new(&place.dir, base, tip))
}

/// The segment that was written to last: cut where it is torn, and synced before anything
/// names its records. After damage it is kept as it is, and writing goes on in a new one.
fn recover_last(
    disk: &dyn Disk,
    place: &Place,
    base: u64,
) -> Result<(Arc<Segment>, Option<Active>, u64), OpenError> {
    let path = place::log_file(&place.dir, base);
    let mut file = disk.open_append(&path).map_err(OpenError::io("open", &path))?;
    let entries = load_index(disk, &path, base);
    let walked = walk(place, &*file, &path, (base, u64::MAX), &entries)
        .map_err(OpenError::io("read", &path))?;
    if matches!(walked.ending, Ending::Torn) {
        file.truncate(walked.tip.len).map_err(OpenError::io("truncate", &path))?;
    }
    if file.sync().is_err() {
        // Its bytes are read from memory and may never have reached the disk, and no later sync
        // would bring them there: they are written once more.
        let bytes = disk.read(&path).map_err(OpenError::io("read", &path))?;
        write_atomically(disk, &path, &bytes).map_err(OpenError::io("rewrite", &path))?;
        file = disk.open_append(&path).map_err(OpenError::io("open", &path))?;
    }
    let index = write_index(disk, &path, base, &walked, false);
    let Walked { tip, ending, first_timestamp, .. } = walked;
    let next = tip.next;
    let segment = Segment::new(&place.dir, base, tip);
    if let Ending::Damaged { count } = ending {
        // Its offsets may have been acknowledged, so they are not given out again.
        let lost = u64::from(count.unwrap_or(1));
        let what = match count {
            Some(_known) => "the last batch is damaged",
            None => "the last batch is damaged, and how many records it held is unknown",
        };
        place.quarantine(next, next + lost, &path, what);
        return Ok((segment, None, next + lost));
    }
    let active = Active { segment: Arc::clone(&segment), file, index, first_timestamp };
    Ok((segment, Some(active), next))
}

/// Reads a segment from its last index entry that holds, checking every batch.
fn walk(
    place: &Place,
    file: &dyn DiskFile,
    path: &str,
    (base, limit): (u64, u64),
    entries: &[Entry],
) -> std::io::Result<Walked> {
    let mut scanner = Scanner::new(file, file.len()?, CHUNK_BYTES);
    let first_timestamp = match scanner.step(0, base, limit)? {
        Step::Batch { header, .. } => Some(header.first_timestamp),
        _ => None,
    };
    let mut tip = Tip::empty(base);
    for (at, entry) in entries.iter().enumerate().rev() {
        if entry.offset < limit && holds(&mut scanner, *entry, limit)? {
            tip.index.extend(&entries[..=at]);
            tip.next = entry.offset;
            tip.len = entry.position;
            tip.max_timestamp = entry.max_timestamp;
            break;
        }
    }
    let mut has_hole = false;
    let ending = loop {
        match scanner.step(tip.len, tip.next, limit)? {
            Step::Batch { header, position } => {
                if !advance(&mut tip, &header, position) {
                    break Ending::Damaged { count: None };
                }
            }
            Step::Hole { next, resume } => {
                place.quarantine(tip.next, next, path, "a batch is damaged");
                has_hole = true;
                tip.next = next;
                tip.len = resume;
            }
            Step::DamagedTail { count } => break Ending::Damaged { count },
            Step::Torn => break Ending::Torn,
            Step::End if tip.len < file.len()? => break Ending::Torn,
            Step::End => break Ending::Clean,
        }
    };
    Ok(Walked { tip, ending, has_hole, first_timestamp })
}

fn holds(scanner: &mut Scanner<'_>, entry: Entry, limit: u64) -> std::io::Result<bool> {
    let step = scanner.step(entry.position, entry.offset, limit)?;
    Ok(matches!(step, Step::Batch { position, .. } if position == entry.position))
}

/// Takes a good batch into the tip; false where its offsets do not fit into 64 bits.
fn advance(tip: &mut Tip, header: &Header, position: u64) -> bool {
    let Some(next) = header.next() else { return false };
    let last_entry = tip.index.last().map_or(0, |entry| entry.position);
    if last_entry + INTERVAL_BYTES <= position {
        tip.index.push(Entry { offset: header.base, position, max_timestamp: tip.max_timestamp });
    }
    tip.len = position + header.total as u64;
    tip.next = next;
    tip.max_timestamp = tip.max_timestamp.max(header.max_timestamp);
    true
}

/// What can be used of the index; nothing where it cannot be read.
fn load_index(disk: &dyn Disk, log_file: &str, base: u64) -> Vec<Entry> {
    let bytes = disk.read(&place::index_file(log_file)).unwrap_or_default();
    index::decode(base, &bytes)
}

/// Writes the index anew, with a last entry that vouches for the whole file if it is `whole`.
/// A segment without an index is scanned when it is opened: so failing is allowed, and one with
/// a hole gets none, so that every opening names the hole.
fn write_index(
    disk: &dyn Disk,
    log_file: &str,
    base: u64,
    walked: &Walked,
    whole: bool,
) -> Option<Box<dyn DiskFile>> {
    let path = place::index_file(log_file);
    if walked.has_hole {
        drop(disk.remove(&path));
        return None;
    }
    let tip = &walked.tip;
    let mut bytes: Vec<u8> =
        tip.index.iter().skip(1).flat_map(|entry| entry.encode(base)).collect();
    if whole {
        let last = Entry { offset: tip.next, position: tip.len, max_timestamp: tip.max_timestamp };
        bytes.extend(last.encode(base));
    }
    let mut file = disk.create(&path).ok()?;
    file.write_all(&bytes).ok()?;
    Some(file)
}
