//! Writing one topic of one partition: stage, sync, publish; and what happens when the disk
//! refuses.
//!
//! After an error the segment is never written to again: what it holds past its last synced
//! record is unknown. The next batch begins a new segment at the next offset that was never
//! published, and recovery ends the old segment where the new one begins.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nilometer_event::{Offset, ReceiveTime};

use super::index::{Entry, INTERVAL_BYTES};
use super::place::{Latest, Place, Segment, Tip, log_file};
use super::recovery;
use crate::{AppendError, Appended, Disk, DiskFile, LogSettings, Priority, Records, batch};

/// A buffer that grew past this is given back.
const BUFFER_BYTES_KEPT: usize = 4 << 20;

/// What all writers of a log share.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) settings: LogSettings,
    pub(super) latest: Latest,
    /// By partition, then topic.
    pub(super) places: Vec<Arc<Place>>,
    pub(super) reserve_bytes: u64,
    /// Being written by someone: not free any more, whatever the disk says.
    pub(super) in_flight_bytes: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) records: AtomicU64,
    pub(super) removed_segments: AtomicU64,
    /// Records that went for want of room, dead letters apart.
    pub(super) removed_early: AtomicU64,
    pub(super) removed_early_letters: AtomicU64,
}

/// The only writer of one place.
#[derive(Debug)]
pub(super) struct PlaceWriter {
    pub(super) place: Arc<Place>,
    active: Option<Active>,
    /// The next offset to give out; between commits it is the place's end.
    next: u64,
    /// Batches that are not written yet.
    buffer: Vec<u8>,
    in_flight_bytes: u64,
}

/// The segment that is being written to.
#[derive(Debug)]
struct Active {
    segment: Arc<Segment>,
    file: Box<dyn DiskFile>,
    /// `None` after an error: the segment is scanned when it is opened.
    index: Option<Box<dyn DiskFile>>,
    first_timestamp: Option<i64>,
    /// Bytes that are durable.
    durable_bytes: u64,
    /// Bytes that are written since.
    written_bytes: u64,
    staged: Notes,
}

/// What the batches add that are not published yet.
#[derive(Debug, Default)]
struct Notes {
    entries: Vec<Entry>,
    first_timestamp: Option<i64>,
    max_timestamp: Option<i64>,
}

/// What became of the batches of one place in one commit.
#[derive(Debug, Default)]
pub(super) struct Staged {
    /// Where the batches will lie, in order, as far as they were taken.
    pub(super) placed: Vec<Appended>,
    /// Why the rest was not.
    pub(super) error: Option<AppendError>,
}

impl PlaceWriter {
    pub(super) fn new(place: Arc<Place>, active: Option<recovery::Active>, next: u64) -> Self {
        let active = active.map(Active::recovered);
        Self { place, active, next, buffer: Vec::new(), in_flight_bytes: 0 }
    }

    /// Gives every batch its place and writes it; nothing is durable yet.
    pub(super) fn stage(&mut self, desk: &Desk, now: ReceiveTime, batches: &[&Records]) -> Staged {
        let mut staged = Staged::default();
        let all = batches.iter().try_for_each(|records| {
            staged.placed.push(self.stage_one(desk, now, records)?);
            Ok(())
        });
        if let Err(error) = all.and_then(|()| self.write_out(desk)) {
            self.discard();
            staged.error = Some(error);
        }
        staged
    }

    /// A writer of the same place without a segment, which would begin one at the place's end.
    pub(super) fn stand_in(&self) -> Self {
        let place = Arc::clone(&self.place);
        let next = place.bounds().end.get();
        Self { place, active: None, next, buffer: Vec::new(), in_flight_bytes: 0 }
    }

    /// True where something waits for [`PlaceWriter::sync`].
    pub(super) fn is_dirty(&self) -> bool {
        self.active.as_ref().is_some_and(|active| 0 < active.written_bytes)
    }

    /// Makes what is written durable; to be followed by [`PlaceWriter::settle`].
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.active.as_mut().map_or(Ok(()), |active| active.file.sync())
    }

    /// Publishes what is written, or gives up the segment; returns the end of what is durable.
    pub(super) fn settle(
        &mut self,
        desk: &Desk,
        synced: io::Result<()>,
    ) -> (Offset, Option<AppendError>) {
        let error = match synced {
            Ok(()) => {
                self.publish(desk);
                None
            }
            Err(error) => Some(self.fail(desk, "sync", error)),
        };
        (self.place.bounds().end, error)
    }

    /// Begins a segment at `named` if the place ends before it: those offsets are lost.
    pub(super) fn ensure_past(&mut self, desk: &Desk, named: Offset) -> Result<u64, AppendError> {
        let first = self.next;
        let missing = named.since(Offset::new(first));
        if missing == 0 {
            return Ok(0);
        }
        if self.place.segments.read().is_empty() {
            // Without a segment before the gap, the next opening would not see the gap.
            self.begin(desk)?;
        }
        self.seal();
        // From here on these offsets are not given out, whatever the disk says: a segment of
        // that name may be left of an attempt that failed.
        self.next = named.get();
        let file = log_file(&self.place.dir, named.get());
        let what = "the journal names records that the log does not hold";
        self.place.quarantine(first, named.get(), &file, what);
        self.place.set_end(named.get());
        self.begin(desk)?;
        Ok(missing)
    }

    /// Lets go of the active segment, with an index that vouches for it.
    pub(super) fn seal(&mut self) {
        let Some(mut active) = self.active.take() else { return };
        let tip = active.segment.tip.read();
        let last = Entry { offset: tip.next, position: tip.len, max_timestamp: tip.max_timestamp };
        let bytes = last.encode(active.segment.base);
        drop(tip);
        if let Some(index) = &mut active.index
            && let Err(error) = index.write_all(&bytes)
        {
            tracing::warn!(file = active.segment.index_file(), %error, "index not completed");
        }
    }

    fn stage_one(
        &mut self,
        desk: &Desk,
        now: ReceiveTime,
        records: &Records,
    ) -> Result<Appended, AppendError> {
        let first = self.next;
        let next = first + u64::from(records.count);
        let appended = Appended { first: Offset::new(first), next: Offset::new(next) };
        if records.is_empty() {
            return Ok(appended);
        }
        if self.active.as_ref().is_some_and(|active| active.is_aged(desk, now)) {
            self.roll(desk)?;
        }
        let mut start = self.buffer.len();
        batch::encode(records, first, desk.settings.codec(self.place.topic), &mut self.buffer)
            .map_err(|error| AppendError::io("compress", &self.place.dir, error))?;
        let held = self.active.as_ref().map_or(0, |active| active.durable_bytes) + start as u64;
        let size = (self.buffer.len() - start) as u64;
        if 0 < held && desk.settings.segment_bytes_of(self.place.topic) < held + size {
            let batch = self.buffer.split_off(start);
            self.roll(desk)?;
            self.buffer = batch;
            start = 0;
        }
        if self.active.is_none() {
            self.begin(desk)?;
        }
        if let Some(active) = &mut self.active {
            active.note(records, first, start as u64);
        }
        self.next = next;
        Ok(appended)
    }

    /// Makes what is staged durable, and ends the segment.
    fn roll(&mut self, desk: &Desk) -> Result<(), AppendError> {
        self.write_out(desk)?;
        let synced = if self.is_dirty() { self.sync() } else { Ok(()) };
        let (_end, error) = self.settle(desk, synced);
        self.seal();
        error.map_or(Ok(()), Err)
    }

    /// Begins a segment at the next offset. Its name and its first sync are durable when this
    /// returns, so that recovery ends the one before it here.
    fn begin(&mut self, desk: &Desk) -> Result<(), AppendError> {
        let base = self.next;
        let dir = self.place.dir.clone();
        let segment = Segment::new(&dir, base, Tip::empty(base));
        let path = segment.file.as_str();
        let failed = |operation, error| {
            desk.failures.fetch_add(1, Ordering::Relaxed);
            AppendError::io(operation, path, error)
        };
        // A segment that failed before its first record was durable may have left this name;
        // its file is not trusted any more.
        remove_if_there(&*desk.disk, path).map_err(|error| failed("remove", error))?;
        let mut file = desk.disk.create(path).map_err(|error| failed("create", error))?;
        file.sync().map_err(|error| failed("sync", error))?;
        desk.disk.sync_dir(&dir).map_err(|error| failed("sync", error))?;
        let index = desk.disk.create(&segment.index_file()).ok();
        let mut segments = self.place.segments.write();
        segments.retain(|other| other.base != base);
        segments.push(Arc::clone(&segment));
        drop(segments);
        self.active = Some(Active {
            segment,
            file,
            index,
            first_timestamp: None,
            durable_bytes: 0,
            written_bytes: 0,
            staged: Notes::default(),
        });
        Ok(())
    }

    fn write_out(&mut self, desk: &Desk) -> Result<(), AppendError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = self.buffer.len() as u64;
        desk.admit(bytes, Priority::of(self.place.topic))?;
        desk.in_flight_bytes.fetch_add(bytes, Ordering::AcqRel);
        self.in_flight_bytes += bytes;
        let written = match &mut self.active {
            Some(active) => {
                active.written_bytes += bytes;
                active.file.write_all(&self.buffer)
            }
            None => Ok(()),
        };
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        written.map_err(|error| self.fail(desk, "write", error))
    }

    /// Everything that is written is durable now: readers may have it.
    fn publish(&mut self, desk: &Desk) {
        self.land(desk);
        let end = self.next;
        let Some(active) = &mut self.active else { return };
        let Notes { entries, first_timestamp, max_timestamp } = std::mem::take(&mut active.staged);
        active.durable_bytes += std::mem::take(&mut active.written_bytes);
        active.first_timestamp = active.first_timestamp.or(first_timestamp);
        active.write_index(&entries);
        let mut tip = active.segment.tip.write();
        desk.records.fetch_add(end - tip.next, Ordering::Relaxed);
        tip.len = active.durable_bytes;
        tip.next = end;
        tip.max_timestamp = tip.max_timestamp.max(max_timestamp.unwrap_or(i64::MIN));
        tip.index.extend(entries);
        desk.latest.raise(tip.max_timestamp);
        drop(tip);
        self.place.set_end(end);
    }

    /// Gives up the segment: whatever it holds past its last synced record is unknown.
    fn fail(&mut self, desk: &Desk, operation: &'static str, source: io::Error) -> AppendError {
        desk.failures.fetch_add(1, Ordering::Relaxed);
        self.land(desk);
        self.discard();
        let Some(mut active) = self.active.take() else {
            return AppendError::io(operation, &self.place.dir, source);
        };
        let file = active.segment.file.clone();
        tracing::error!(file, operation, error = %source, "segment given up; a new one begins");
        // Gives the space back where the disk lets us; recovery does without.
        drop(active.file.truncate(active.durable_bytes));
        let empty = active.durable_bytes == 0;
        if empty {
            self.place.segments.write().retain(|other| !Arc::ptr_eq(other, &active.segment));
        }
        if source.kind() == io::ErrorKind::StorageFull {
            return AppendError::DiskFull {
                free_bytes: desk.disk.free_bytes().unwrap_or(0),
                reserve_bytes: desk.reserve_bytes,
            };
        }
        AppendError::io(operation, &file, source)
    }

    /// Forgets what is staged but not written.
    fn discard(&mut self) {
        self.buffer.clear();
        self.next = self.place.bounds().end.get();
        if let Some(active) = &mut self.active {
            active.staged = Notes::default();
        }
    }

    /// What was in flight is on the disk, or given up.
    fn land(&mut self, desk: &Desk) {
        let bytes = std::mem::take(&mut self.in_flight_bytes);
        desk.in_flight_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }
}

impl Active {
    fn recovered(from: recovery::Active) -> Self {
        let durable_bytes = from.segment.tip.read().len;
        Self {
            segment: from.segment,
            file: from.file,
            index: from.index,
            first_timestamp: from.first_timestamp,
            durable_bytes,
            written_bytes: 0,
            staged: Notes::default(),
        }
    }

    fn is_aged(&self, desk: &Desk, now: ReceiveTime) -> bool {
        let first = self.first_timestamp.or(self.staged.first_timestamp);
        let age_ms = i64::try_from(desk.settings.segment_age.as_millis()).unwrap_or(i64::MAX);
        first.is_some_and(|first| age_ms <= now.since(ReceiveTime::from_ms(first)))
    }

    /// Takes in a batch that begins `start` bytes into the buffer.
    fn note(&mut self, records: &Records, first: u64, start: u64) {
        let position = self.durable_bytes + start;
        let tip = self.segment.tip.read();
        let last = self.staged.entries.last().or(tip.index.last());
        if last.map_or(0, |entry| entry.position) + INTERVAL_BYTES <= position {
            let before = self.staged.max_timestamp.unwrap_or(i64::MIN);
            let max_timestamp = before.max(tip.max_timestamp);
            self.staged.entries.push(Entry { offset: first, position, max_timestamp });
        }
        drop(tip);
        self.staged.first_timestamp.get_or_insert(records.first_timestamp);
        self.staged.max_timestamp = self.staged.max_timestamp.max(Some(records.max_timestamp));
    }

    fn write_index(&mut self, entries: &[Entry]) {
        if entries.is_empty() {
            return;
        }
        let base = self.segment.base;
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.encode(base)).collect();
        if let Some(index) = &mut self.index
            && let Err(error) = index.write_all(&bytes)
        {
            tracing::warn!(file = self.segment.index_file(), %error, "index given up");
            self.index = None;
        }
    }
}

impl Desk {
    /// Refuses data that would not leave the reserve free.
    fn admit(&self, bytes: u64, priority: Priority) -> Result<(), AppendError> {
        // Where the disk does not say, its own answer to the write decides.
        let Ok(free_bytes) = self.disk.free_bytes() else { return Ok(()) };
        let needed = self.reserve_bytes + self.in_flight_bytes.load(Ordering::Acquire) + bytes;
        if priority == Priority::Internal || needed <= free_bytes {
            return Ok(());
        }
        Err(AppendError::DiskFull { free_bytes, reserve_bytes: self.reserve_bytes })
    }
}

/// Removes a file that may not be there.
pub(super) fn remove_if_there(disk: &dyn Disk, path: &str) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _removed => Ok(()),
    }
}
