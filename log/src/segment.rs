//! The embedded log: own files per topic and partition, group commit, recovery.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use nilometer_event::clock::Clock;
use nilometer_event::{Offset, Partition, PartitionCount, ReceiveTime, Topic};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::batch::INFLATED_BYTES_MAX;
use crate::disk::{create_dir_durably, write_atomically};
use crate::{
    AppendBatch, AppendError, Bounds, Disk, Fetched, Log, LogSettings, LogStats, OpenError,
    Pending, Quarantined, ReadError, Threads,
};

mod commit;
mod index;
pub(crate) mod inspect;
mod place;
mod read;
mod recovery;
mod retention;
mod scan;
mod syncs;
mod write;

use commit::{Job, JobBatch, Office, PartitionWriter, Queue, Ticket};
use place::{Latest, Place};
use syncs::Syncs;
use write::{Desk, PlaceWriter};

/// Says which release may read the folder, and for how many partitions it was made.
const LAYOUT_FILE: &str = "log/layout";
/// The version of the folder that this release reads and writes.
const LAYOUT_VERSION: u32 = 1;

/// The embedded log: own files per topic and partition, group commit, recovery.
pub struct SegmentLog {
    office: Arc<Office>,
    /// By partition.
    slots: Vec<Arc<Slot>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    closed: AtomicBool,
}

#[derive(Debug)]
struct Slot {
    queue: Queue,
    writer: Mutex<PartitionWriter>,
}

impl SegmentLog {
    /// Opens the log below `log/` of the disk, recovering what a crash left: the tails are
    /// cut at their last whole batch and synced, and damage is named.
    ///
    /// # Errors
    ///
    /// Another partition count, a newer layout, what the disk says.
    pub fn open(
        disk: Arc<dyn Disk>,
        settings: LogSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let settings = LogSettings {
            batch_bytes_max: settings.batch_bytes_max.min(INFLATED_BYTES_MAX),
            ..settings
        };
        check_layout(&*disk, settings.partitions)?;
        let latest = Latest::never();
        let mut places = Vec::new();
        let mut slots = Vec::new();
        for partition in settings.partitions.partitions() {
            let recovered = recover_partition(&*disk, partition, &latest)?;
            places.extend(recovered.iter().map(|writer| Arc::clone(&writer.place)));
            let syncs = match settings.threads {
                Threads::PerPartition => Syncs::at_once(partition)
                    .map_err(OpenError::io("start a thread that syncs for", "log"))?,
                Threads::None => Syncs::InTurn,
            };
            let writer = Mutex::new(PartitionWriter { places: recovered, syncs });
            slots.push(Arc::new(Slot { queue: Queue::default(), writer }));
        }
        // Where the disk does not say how large it is, its own answers decide.
        let total_bytes = disk.total_bytes().unwrap_or(0);
        let reserve_bytes = settings.reserve_on(total_bytes);
        let desk = Desk {
            disk,
            settings,
            latest,
            places,
            reserve_bytes,
            in_flight_bytes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            records: AtomicU64::new(0),
            removed_segments: AtomicU64::new(0),
            removed_early: AtomicU64::new(0),
            removed_early_letters: AtomicU64::new(0),
        };
        let log = Self {
            office: Arc::new(Office::new(desk, clock)),
            slots,
            threads: Mutex::default(),
            closed: AtomicBool::new(false),
        };
        log.start()?;
        Ok(log)
    }

    /// Commits what is queued and stops the writers; later submissions are refused. Reading
    /// goes on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for slot in &self.slots {
            slot.queue.close();
        }
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a writer of the log panicked");
            }
        }
    }

    /// Removes the segments that retention lets go; the writers do so by themselves every few
    /// seconds, and [`Threads::None`] leaves it to the caller.
    pub fn retain(&self) {
        for slot in &self.slots {
            slot.writer.lock().retain(&self.office);
        }
    }

    fn start(&self) -> Result<(), OpenError> {
        if self.office.desk.settings.threads == Threads::None {
            return Ok(());
        }
        for (partition, slot) in self.slots.iter().enumerate() {
            let (slot, office) = (Arc::clone(slot), Arc::clone(&self.office));
            let thread = std::thread::Builder::new()
                .name(format!("log-{partition}"))
                .spawn(move || commit::run(&office, &slot.queue, &slot.writer))
                .map_err(OpenError::io("start writer of", "log"))?;
            self.threads.lock().push(thread);
        }
        Ok(())
    }

    fn place(&self, topic: Topic, partition: Partition) -> Option<&Place> {
        let count = self.partitions().get();
        let index = partition.index() * Topic::ALL.len() + topic as usize;
        (partition.get() < count).then(|| &*self.office.desk.places[index])
    }

    fn readable(&self, topic: Topic, partition: Partition) -> Result<&Place, ReadError> {
        let count = self.partitions().get();
        self.place(topic, partition).ok_or(ReadError::NoSuchPartition { partition, count })
    }

    /// Sorts a submission by partition; refuses what can never be written.
    fn sort(
        &self,
        batches: Vec<AppendBatch>,
    ) -> Result<Vec<(Partition, Vec<JobBatch>)>, AppendError> {
        let bytes_max = self.office.desk.settings.batch_bytes_max;
        let count = self.partitions().get();
        let mut jobs: Vec<(Partition, Vec<JobBatch>)> = Vec::new();
        for (index, AppendBatch { topic, partition, records }) in batches.into_iter().enumerate() {
            if count <= partition.get() {
                return Err(AppendError::NoSuchPartition { partition, count });
            }
            let (limit, bytes) = ("batch_bytes_max", records.bytes());
            if bytes_max < bytes {
                return Err(AppendError::TooLarge { limit, bytes, bytes_max });
            }
            let batch = JobBatch { index, topic, records };
            match jobs.iter_mut().find(|(other, _)| *other == partition) {
                Some((_, of_partition)) => of_partition.push(batch),
                None => jobs.push((partition, vec![batch])),
            }
        }
        Ok(jobs)
    }

    fn hand_over(&self, partition: Partition, job: Job) {
        let slot = &self.slots[partition.index()];
        if self.office.desk.settings.threads == Threads::None {
            slot.writer.lock().commit(&self.office, vec![job]);
        } else if let Err(job) = slot.queue.push(job) {
            self.office.release(job.bytes, job.batches.len());
            job.ticket.answer(Err(AppendError::ShuttingDown));
        }
    }
}

impl Log for SegmentLog {
    fn submit(&self, batches: Vec<AppendBatch>) -> Result<Pending, AppendError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(AppendError::ShuttingDown);
        }
        let count = batches.len();
        if count == 0 {
            return Ok(Pending::ready(Ok(Vec::new())));
        }
        let jobs = self.sort(batches)?;
        let size = |batches: &[JobBatch]| batches.iter().map(|b| b.records.bytes()).sum::<usize>();
        let bytes = jobs.iter().map(|(_, batches)| size(batches)).sum();
        self.office.admit(bytes, count)?;
        let (sender, receiver) = oneshot::channel();
        let ticket = Ticket::new(count, jobs.len(), sender);
        for (partition, batches) in jobs {
            let bytes = size(&batches);
            self.hand_over(partition, Job { batches, bytes, ticket: Arc::clone(&ticket) });
        }
        Ok(Pending::waiting(receiver))
    }

    fn read(
        &self,
        topic: Topic,
        partition: Partition,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Fetched, ReadError> {
        let place = self.readable(topic, partition)?;
        read::read(&*self.office.desk.disk, place, from, max_bytes)
    }

    fn bounds(&self, topic: Topic, partition: Partition) -> Bounds {
        let nothing = Bounds { start: Offset::ZERO, end: Offset::ZERO };
        self.place(topic, partition).map_or(nothing, Place::bounds)
    }

    fn offset_at(
        &self,
        topic: Topic,
        partition: Partition,
        time: ReceiveTime,
    ) -> Result<Offset, ReadError> {
        let place = self.readable(topic, partition)?;
        read::offset_at(&*self.office.desk.disk, place, time)
    }

    fn ensure_past(
        &self,
        topic: Topic,
        partition: Partition,
        named: Offset,
    ) -> Result<u64, AppendError> {
        let Some(slot) = self.slots.get(partition.index()) else {
            return Err(AppendError::NoSuchPartition { partition, count: self.partitions().get() });
        };
        slot.writer.lock().places[topic as usize].ensure_past(&self.office.desk, named)
    }

    fn hold(&self, topic: Topic, partition: Partition, floor: Offset) {
        if let Some(place) = self.place(topic, partition) {
            *place.hold.lock() = Some(floor);
        }
    }

    fn quarantined(&self) -> Vec<Quarantined> {
        self.office.desk.places.iter().flat_map(|place| place.holes()).collect()
    }

    fn partitions(&self) -> PartitionCount {
        self.office.desk.settings.partitions
    }

    fn latest_timestamp(&self) -> Option<ReceiveTime> {
        self.office.desk.latest.get().map(ReceiveTime::from_ms)
    }

    fn stats(&self) -> LogStats {
        let (office, desk) = (&*self.office, &self.office.desk);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let held = |counter: &AtomicUsize| counter.load(Ordering::Relaxed) as u64;
        let (mut bytes, mut dead_letter_bytes, mut segments) = (0, 0, 0);
        for place in &desk.places {
            let (of_place, count) = place.size();
            (bytes, segments) = (bytes + of_place, segments + count);
            if place.topic == Topic::DeadLetters {
                dead_letter_bytes += of_place;
            }
        }
        let lost = self.quarantined();
        LogStats {
            bytes,
            dead_letter_bytes,
            retention_bytes: desk.settings.retention_bytes,
            segments,
            free_bytes: desk.disk.free_bytes().ok(),
            reserve_bytes: desk.reserve_bytes,
            queue_bytes: held(&office.queue_bytes),
            queue_batches: held(&office.queue_batches),
            commits: count(&office.commits),
            records: count(&desk.records),
            syncs: count(&office.syncs),
            sync_us: count(&office.sync_us),
            failures: count(&desk.failures),
            refused_full: count(&office.refused_full),
            refused_disk_full: count(&office.refused_disk_full),
            quarantined_records: lost.iter().map(|hole| hole.next.since(hole.first)).sum(),
            removed_segments: count(&desk.removed_segments),
            removed_early: count(&desk.removed_early),
            removed_early_letters: count(&desk.removed_early_letters),
        }
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.office.changed.subscribe()
    }
}

impl Drop for SegmentLog {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for SegmentLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentLog")
            .field("disk", &self.office.desk.disk)
            .field("settings", &self.office.desk.settings)
            .finish_non_exhaustive()
    }
}

impl Office {
    fn new(desk: Desk, clock: Arc<dyn Clock>) -> Self {
        Self {
            desk,
            clock,
            changed: watch::Sender::new(0),
            queue_bytes: AtomicUsize::new(0),
            queue_batches: AtomicUsize::new(0),
            commits: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            sync_us: AtomicU64::new(0),
            refused_full: AtomicU64::new(0),
            refused_disk_full: AtomicU64::new(0),
        }
    }
}

/// Recovers every topic of a partition, in topic order.
fn recover_partition(
    disk: &dyn Disk,
    partition: Partition,
    latest: &Latest,
) -> Result<Vec<PlaceWriter>, OpenError> {
    let mut writers = Vec::with_capacity(Topic::ALL.len());
    for topic in Topic::ALL {
        let dir = place::dir(topic, partition);
        create_dir_durably(disk, &dir).map_err(OpenError::io("create", &dir))?;
        let recovered = recovery::recover(disk, topic, partition)?;
        for segment in recovered.place.segments.read().iter() {
            latest.raise(segment.tip.read().max_timestamp);
        }
        let place = Arc::new(recovered.place);
        writers.push(PlaceWriter::new(place, recovered.active, recovered.next));
    }
    Ok(writers)
}

/// Refuses a folder that was made for another count or by a newer release; a new folder is
/// marked as ours. A damaged mark is made anew from the folders that are there.
fn check_layout(disk: &dyn Disk, partitions: PartitionCount) -> Result<(), OpenError> {
    let asked = partitions.get();
    let bytes = match disk.read(LAYOUT_FILE) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(OpenError::io("read", LAYOUT_FILE)(error)),
    };
    let found = match Layout::decode(&bytes) {
        Some(layout) if layout.version != LAYOUT_VERSION => {
            let (found, known) = (layout.version, LAYOUT_VERSION);
            return Err(OpenError::Layout { found, known });
        }
        Some(layout) => Some(layout.partitions),
        None => count_folders(disk)?,
    };
    if let Some(found) = found.filter(|&found| found != asked) {
        return Err(OpenError::PartitionCount { found, asked });
    }
    let ours = Layout { version: LAYOUT_VERSION, partitions: asked }.encode();
    if bytes == ours.as_bytes() {
        return Ok(());
    }
    create_dir_durably(disk, "log").map_err(OpenError::io("create", "log"))?;
    write_atomically(disk, LAYOUT_FILE, ours.as_bytes())
        .map_err(OpenError::io("write", LAYOUT_FILE))
}

/// How many partitions the folders tell of; `None` without any.
fn count_folders(disk: &dyn Disk) -> Result<Option<u16>, OpenError> {
    let mut count = None;
    for topic in Topic::ALL {
        let dir = format!("log/{topic}");
        let names = disk.list(&dir).map_err(OpenError::io("list", &dir))?;
        let highest = names.iter().filter_map(|name| name.parse::<u16>().ok()).max();
        count = count.max(highest.and_then(|highest| highest.checked_add(1)));
    }
    Ok(count)
}

/// What the layout file says.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    version: u32,
    partitions: u16,
}

impl Layout {
    fn encode(&self) -> String {
        let text = format!("nilometer-log {}\npartitions {}\n", self.version, self.partitions);
        let check = checksum(text.as_bytes());
        format!("{text}check {check:016x}\n")
    }

    /// `None` where it is missing or damaged.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (head, check) = text.rsplit_once("check ")?;
        if check != format!("{:016x}\n", checksum(head.as_bytes())) {
            return None;
        }
        let mut lines = head.lines();
        let version = lines.next()?.strip_prefix("nilometer-log ")?.parse().ok()?;
        // A newer release may say more.
        let partitions = lines.next()?.strip_prefix("partitions ")?.parse().ok()?;
        Some(Self { version, partitions })
    }
}

fn checksum(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes)
}
