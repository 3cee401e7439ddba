//! What an operator may say about the log, with the defaults.

use std::time::Duration;

use nilometer_event::{PartitionCount, Topic};

/// Default of [`LogSettings::segment_bytes`].
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// Default of [`LogSettings::retention_age`]: 7 days (L1).
pub const RETENTION_AGE: Duration = Duration::from_hours(7 * 24);
/// Default of [`LogSettings::queue_bytes_max`].
pub const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Default of [`LogSettings::queue_batches_max`].
pub const QUEUE_BATCHES_MAX: usize = 16_384;
/// Default of [`LogSettings::batch_bytes_max`]; above the gateway's 16 MiB of inflated body.
pub const BATCH_BYTES_MAX: usize = 32 << 20;
/// Default of [`LogSettings::reserve_bytes`].
pub const RESERVE_BYTES: u64 = 64 << 20;
/// The reserve is at most this share of the disk, one in so many: small disks work too.
pub const RESERVE_DISK_SHARE: u64 = 20;

/// Default of [`LogSettings::dead_letter_bytes_max`].
pub const DEAD_LETTER_BYTES_MAX: u64 = 1 << 30;
/// Dead letters have at most this share of the log, one in so many, whatever their bound.
const DEAD_LETTER_SHARE: u64 = 4;
/// Retention has at least about so many segments of each place to choose from.
const SEGMENTS_OF_PLACE: u64 = 4;
/// Segments are not made smaller than this for its sake.
const SMALL_SEGMENT_BYTES: u64 = 64 << 10;

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    None,
    /// LZ4 frames: 0.9 GB/s a core (DEPENDENCIES.md), the default.
    Lz4,
    /// Zstandard at level 1: 0.4 GB/s a core, smaller.
    Zstd,
}

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// One named thread per partition, which owns that partition's files of every topic.
    PerPartition,
    /// `submit` commits inline before it returns: one thread, one order, for the simulator.
    None,
}

/// What an operator may say about the log.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// How many partitions every topic has; fixed when the directory is created.
    pub partitions: PartitionCount,
    /// A segment is rolled before it grows past this, or [`LogSettings::segment_bytes_of`] its
    /// topic where that is less.
    pub segment_bytes: u64,
    /// A segment is rolled when its first record is older than this.
    pub segment_age: Duration,
    /// Sealed segments whose newest record is older than this go, down to the hold.
    pub retention_age: Duration,
    /// The oldest sealed segments of all topics and partitions go while the log holds more than
    /// this, down to the holds.
    pub retention_bytes: u64,
    /// The oldest sealed segments of dead letters go while they hold more than this, or a quarter
    /// of [`LogSettings::retention_bytes`]: what is refused pushes nothing out that was accepted.
    pub dead_letter_bytes_max: u64,
    /// Batches wait for their commit in at most this much memory.
    pub queue_bytes_max: usize,
    /// At most this many batches wait for their commit.
    pub queue_batches_max: usize,
    /// A batch holds at most this much before compression.
    pub batch_bytes_max: usize,
    /// Data is refused while less than this is free, or [`RESERVE_DISK_SHARE`] of the disk if
    /// that is smaller; journal and late events may use it.
    pub reserve_bytes: u64,
    /// How each topic is compressed, by `Topic as usize`.
    pub codecs: [Codec; Topic::ALL.len()],
    /// Who writes.
    pub threads: Threads,
}

impl LogSettings {
    /// The defaults.
    #[must_use]
    pub const fn new(partitions: PartitionCount) -> Self {
        Self {
            partitions,
            segment_bytes: SEGMENT_BYTES,
            segment_age: Duration::from_hours(24),
            retention_age: RETENTION_AGE,
            retention_bytes: u64::MAX,
            dead_letter_bytes_max: DEAD_LETTER_BYTES_MAX,
            queue_bytes_max: QUEUE_BYTES_MAX,
            queue_batches_max: QUEUE_BATCHES_MAX,
            batch_bytes_max: BATCH_BYTES_MAX,
            reserve_bytes: RESERVE_BYTES,
            codecs: [Codec::Lz4; Topic::ALL.len()],
            threads: Threads::PerPartition,
        }
    }

    /// How `topic` is compressed.
    #[must_use]
    pub const fn codec(&self, topic: Topic) -> Codec {
        self.codecs[topic as usize]
    }

    /// What dead letters may hold.
    #[must_use]
    pub fn dead_letter_bytes(&self) -> u64 {
        self.dead_letter_bytes_max.min(self.retention_bytes / DEAD_LETTER_SHARE)
    }

    /// How large a segment of `topic` becomes: the last one of a place cannot go, and all of them
    /// together are to be a part of what retention keeps.
    #[must_use]
    pub fn segment_bytes_of(&self, topic: Topic) -> u64 {
        let partitions = u64::from(self.partitions.get());
        let of_place = match topic {
            Topic::DeadLetters => self.dead_letter_bytes() / partitions,
            _ => self.retention_bytes / (partitions * Topic::ALL.len() as u64),
        };
        self.segment_bytes.min((of_place / SEGMENTS_OF_PLACE).max(SMALL_SEGMENT_BYTES))
    }

    /// What must stay free on a disk of `total_bytes`.
    #[must_use]
    pub fn reserve_on(&self, total_bytes: u64) -> u64 {
        self.reserve_bytes.min(total_bytes / RESERVE_DISK_SHARE)
    }
}
