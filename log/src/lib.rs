//! The spine of the house: a partitioned, durable record of every accepted event.
//!
//! [`Log`] is the port that other rooms hold; [`SegmentLog`] is the embedded default and
//! [`MemoryLog`] the forgetful reference. [`disk::Disk`] is the one port for file access of
//! this room, the stream and the rollups.
//! This room does not deduplicate, reorder or interpret payloads.

pub mod disk;
pub use disk::{Disk, DiskFile, RealDisk, create_dir_durably, write_atomically};

mod threads;
pub use threads::{Precedence, cpu_time, step_back};

mod records;
pub use records::{Fetched, Record, Records, RecordsBuilder};

mod port;
pub use port::{AppendBatch, Appended, Bounds, Log, LogStats, Pending, Priority, Quarantined};

mod error;
pub use error::{AppendError, OpenError, ReadError, Retry};

pub mod settings;
pub use settings::{Codec, LogSettings, Threads};

mod memory;
pub use memory::MemoryLog;

mod batch;

/// What fuzz targets reach by itself: one batch.
#[doc(hidden)]
pub mod fuzz;

mod segment;
pub use segment::SegmentLog;
pub use segment::inspect::{Finding, InspectedPlace, Inspection, Onlooker, inspect};

#[cfg(feature = "conformance")]
pub mod conformance;
