//! One topic of one partition, as readers see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use nilometer_event::{Offset, Partition, Topic};
use parking_lot::{Mutex, RwLock};

use super::index::Entry;
use crate::{Bounds, Quarantined};

/// One topic of one partition: its segments, what can be read, what is lost.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) topic: Topic,
    pub(super) partition: Partition,
    /// Its folder.
    pub(super) dir: String,
    /// By base offset; the last one may be written to.
    pub(super) segments: RwLock<Vec<Arc<Segment>>>,
    start: AtomicU64,
    end: AtomicU64,
    /// Apart from each other, in no order.
    holes: Mutex<Vec<Quarantined>>,
    /// Retention keeps this and what follows; nothing is removed before it is set.
    pub(super) hold: Mutex<Option<Offset>>,
    /// A file that retention has taken out of `segments` but perhaps not off the disk.
    pub(super) removing: Mutex<Option<String>>,
}

/// One file of batches.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) base: u64,
    pub(super) file: String,
    pub(super) tip: RwLock<Tip>,
}

/// How far a segment is durable.
#[derive(Clone, Debug)]
pub(super) struct Tip {
    /// Bytes that count.
    pub(super) len: u64,
    /// The offset after its last good record.
    pub(super) next: u64,
    /// `i64::MIN` where it has no record.
    pub(super) max_timestamp: i64,
    /// Ascending; begins with [`Entry::first`].
    pub(super) index: Vec<Entry>,
}

impl Tip {
    pub(super) fn empty(base: u64) -> Self {
        Self { len: 0, next: base, max_timestamp: i64::MIN, index: vec![Entry::first(base)] }
    }
}

/// Where in the segments a read begins.
pub(super) struct Found {
    pub(super) segment: Arc<Segment>,
    /// The next segment's base, or `u64::MAX`.
    pub(super) limit: u64,
}

impl Place {
    pub(super) fn new(topic: Topic, partition: Partition, segments: Vec<Arc<Segment>>) -> Self {
        let start = segments.first().map_or(0, |segment| segment.base);
        Self {
            topic,
            partition,
            dir: dir(topic, partition),
            segments: RwLock::new(segments),
            start: AtomicU64::new(start),
            end: AtomicU64::new(start),
            holes: Mutex::default(),
            hold: Mutex::default(),
            removing: Mutex::default(),
        }
    }

    pub(super) fn bounds(&self) -> Bounds {
        // The start first: it only grows, and never past an end that was read later.
        let start = Offset::new(self.start.load(Ordering::Acquire));
        Bounds { start, end: Offset::new(self.end.load(Ordering::Acquire)) }
    }

    pub(super) fn set_start(&self, start: u64) {
        self.start.store(start, Ordering::Release);
    }

    /// Readers may go on to `end`: everything before is durable, or named as lost.
    pub(super) fn set_end(&self, end: u64) {
        self.end.store(end, Ordering::Release);
    }

    /// The segment that holds `offset`, or would.
    pub(super) fn find(&self, offset: u64) -> Option<Found> {
        let segments = self.segments.read();
        let after = segments.partition_point(|segment| segment.base <= offset);
        let segment = Arc::clone(segments.get(after.checked_sub(1)?)?);
        Some(Found { segment, limit: segments.get(after).map_or(u64::MAX, |next| next.base) })
    }

    /// Names `first..next` as lost, once; true where that was not known.
    pub(super) fn quarantine(&self, first: u64, next: u64, file: &str, what: &str) -> bool {
        if next <= first {
            return false;
        }
        let (first, next) = (Offset::new(first), Offset::new(next));
        let mut holes = self.holes.lock();
        if holes.iter().any(|hole| hole.first <= first && next <= hole.next) {
            return false;
        }
        // Damage that was first met in its middle, or has grown.
        let (touching, apart): (Vec<_>, Vec<_>) = std::mem::take(&mut *holes)
            .into_iter()
            .partition(|hole| hole.first < next && first < hole.next);
        *holes = apart;
        let hole = Quarantined {
            topic: self.topic,
            partition: self.partition,
            first: touching.iter().map(|hole| hole.first).fold(first, Offset::min),
            next: touching.iter().map(|hole| hole.next).fold(next, Offset::max),
            file: file.to_owned(),
            reason: format!("corrupt: {what}"),
        };
        tracing::error!(
            file = hole.file,
            first = hole.first.get(),
            next = hole.next.get(),
            lost_records = hole.next.since(hole.first),
            reason = hole.reason,
            "records quarantined"
        );
        holes.push(hole);
        true
    }

    pub(super) fn holes(&self) -> Vec<Quarantined> {
        let mut holes = self.holes.lock().clone();
        holes.sort_unstable_by_key(|hole| hole.first);
        holes
    }

    /// Bytes and count of the segments.
    pub(super) fn size(&self) -> (u64, u64) {
        let segments = self.segments.read();
        let bytes = segments.iter().map(|segment| segment.tip.read().len).sum();
        (bytes, segments.len() as u64)
    }
}

impl Segment {
    pub(super) fn new(dir: &str, base: u64, tip: Tip) -> Arc<Self> {
        Arc::new(Self { base, file: log_file(dir, base), tip: RwLock::new(tip) })
    }

    /// The index file beside it.
    pub(super) fn index_file(&self) -> String {
        index_file(&self.file)
    }
}

/// The newest timestamp of all places; `i64::MIN` before the first record.
#[derive(Debug)]
pub(super) struct Latest(AtomicI64);

impl Latest {
    pub(super) const fn never() -> Self {
        Self(AtomicI64::new(i64::MIN))
    }

    pub(super) fn raise(&self, timestamp: i64) {
        self.0.fetch_max(timestamp, Ordering::AcqRel);
    }

    pub(super) fn get(&self) -> Option<i64> {
        Some(self.0.load(Ordering::Acquire)).filter(|&latest| i64::MIN < latest)
    }
}

pub(super) fn dir(topic: Topic, partition: Partition) -> String {
    format!("log/{topic}/{partition}")
}

pub(super) fn log_file(dir: &str, base: u64) -> String {
    format!("{dir}/{base:020}.log")
}

pub(super) fn index_file(log_file: &str) -> String {
    format!("{}.index", log_file.trim_end_matches(".log"))
}
