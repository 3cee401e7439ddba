//! What can go wrong with the log: one enum per operation.

use std::io;
use std::sync::Arc;

use nilometer_event::{Offset, Partition, Topic};

/// Whether, and when, it makes sense to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// After that many milliseconds; over HTTP it is 503 with Retry-After.
    AfterMs(u64),
    /// Never with the same input.
    Never,
}

/// Why an append was not acknowledged. The records count zero times or once, at their place;
/// none of them was acknowledged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// The queue of unwritten batches is full.
    #[error("the log's queue is full: try again in {retry_after_ms} ms, or raise queue_bytes_max")]
    Full {
        /// When room is likely.
        retry_after_ms: u64,
    },
    /// Less than the reserve is free on the disk, which only journal and late events may use.
    #[error(
        "the disk is full: {free_bytes} bytes are free and the reserve is {reserve_bytes}; \
         free some space, writing resumes by itself"
    )]
    DiskFull {
        /// Free on the disk.
        free_bytes: u64,
        /// What must stay free.
        reserve_bytes: u64,
    },
    /// The disk refused; what it holds past the last synced record is unknown.
    #[error("{operation} {file}: {source}; writing goes on in a new segment once the disk obeys")]
    Io {
        /// What was tried: `write`, `sync`, `create` …
        operation: &'static str,
        /// The file, relative to the disk's root.
        file: String,
        /// What the disk said.
        source: Arc<io::Error>,
    },
    /// A batch, or a submission, is larger than the log ever takes.
    #[error("{bytes} bytes are over the log's {limit} = {bytes_max}; send smaller batches")]
    TooLarge {
        /// `batch_bytes_max` or `queue_bytes_max`.
        limit: &'static str,
        /// The size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A batch names a partition that the log does not have.
    #[error("partition {partition} is not below the partition count {count}")]
    NoSuchPartition {
        /// The partition that was asked.
        partition: Partition,
        /// How many there are.
        count: u16,
    },
    /// The log is closing.
    #[error("the log is shutting down")]
    ShuttingDown,
}

impl AppendError {
    /// Whether the same append may succeed later.
    #[must_use]
    pub const fn retry(&self) -> Retry {
        match self {
            Self::Full { retry_after_ms } => Retry::AfterMs(*retry_after_ms),
            Self::DiskFull { .. } => Retry::AfterMs(5_000),
            Self::Io { .. } | Self::ShuttingDown => Retry::AfterMs(1_000),
            Self::TooLarge { .. } | Self::NoSuchPartition { .. } => Retry::Never,
        }
    }

    pub(crate) fn io(operation: &'static str, file: &str, source: io::Error) -> Self {
        Self::Io { operation, file: file.to_owned(), source: Arc::new(source) }
    }
}

/// Why a read gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Retention has removed the records.
    #[error("offset {from} of {topic}/{partition} is gone: the log starts at {start}")]
    BeforeStart {
        /// The topic that was asked.
        topic: Topic,
        /// The partition that was asked.
        partition: Partition,
        /// The offset that was asked.
        from: Offset,
        /// The oldest offset kept.
        start: Offset,
    },
    /// Nothing was ever written there.
    #[error("offset {from} of {topic}/{partition} is past the end {end}")]
    PastEnd {
        /// The topic that was asked.
        topic: Topic,
        /// The partition that was asked.
        partition: Partition,
        /// The offset that was asked.
        from: Offset,
        /// The first offset not yet durable.
        end: Offset,
    },
    /// The log has no such partition.
    #[error("partition {partition} is not below the partition count {count}")]
    NoSuchPartition {
        /// The partition that was asked.
        partition: Partition,
        /// How many there are.
        count: u16,
    },
    /// The disk refused; try again.
    #[error("read {file}: {source}")]
    Io {
        /// The file, relative to the disk's root.
        file: String,
        /// What the disk said.
        source: io::Error,
    },
}

/// Why a log could not be opened. Nothing was changed that a later open would miss.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory was made for another partition count.
    #[error(
        "the log has {found} partitions and the configuration asks for {asked}; set partitions = {found}"
    )]
    PartitionCount {
        /// As on disk.
        found: u16,
        /// As configured.
        asked: u16,
    },
    /// The directory was written by a newer release.
    #[error("log/layout says version {found}, and this release reads {known}; run the newer one")]
    Layout {
        /// As on disk.
        found: u32,
        /// What this release reads.
        known: u32,
    },
    /// The disk refused.
    #[error("{operation} {file}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file, relative to the disk's root.
        file: String,
        /// What the disk said.
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn io(operation: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |source| Self::Io { operation, file, source }
    }
}
