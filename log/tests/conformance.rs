//! Every implementation keeps every promise.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;
use std::sync::Arc;

use nilometer_event::clock::{Clock, ManualClock};
use nilometer_event::{PartitionCount, ReceiveTime};
use nilometer_log::conformance::{DISK_CASES, LOG_CASES, survives_reopening};
use nilometer_log::disk::sim::SimDisk;
use nilometer_log::{Codec, Disk, Log, LogSettings, MemoryLog, RealDisk, SegmentLog, Threads};

fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::new(ReceiveTime::from_ms(1_700_000_000_000)))
}

/// Small segments, so that every case crosses some.
fn settings(threads: Threads, codec: Codec) -> LogSettings {
    LogSettings {
        segment_bytes: 500,
        codecs: [codec; 7],
        threads,
        ..LogSettings::new(PartitionCount::new(2).unwrap())
    }
}

fn segment_log(disk: Arc<dyn Disk>, threads: Threads, codec: Codec) -> SegmentLog {
    SegmentLog::open(disk, settings(threads, codec), clock()).unwrap()
}

fn real(path: &Path) -> Arc<dyn Disk> {
    Arc::new(RealDisk::open(path).unwrap())
}

#[test]
fn the_reference_keeps_every_promise() {
    for (_name, case) in LOG_CASES {
        case(&MemoryLog::new(PartitionCount::new(2).unwrap()));
    }
}

#[test]
fn the_segment_log_keeps_every_promise_with_threads_on_a_real_disk() {
    for (_name, case) in LOG_CASES {
        let folder = tempfile::tempdir().unwrap();
        case(&segment_log(real(folder.path()), Threads::PerPartition, Codec::Lz4));
    }
}

#[test]
fn the_segment_log_keeps_every_promise_inline_on_a_simulated_disk() {
    for (_name, case) in LOG_CASES {
        for codec in [Codec::None, Codec::Zstd] {
            case(&segment_log(Arc::new(SimDisk::new(1)), Threads::None, codec));
        }
    }
}

#[test]
fn the_segment_log_keeps_every_promise_with_threads_on_a_simulated_disk() {
    for (_name, case) in LOG_CASES {
        case(&segment_log(Arc::new(SimDisk::new(1)), Threads::PerPartition, Codec::Lz4));
    }
}

#[test]
fn the_segment_log_survives_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let on_real = || -> Box<dyn Log> {
        Box::new(segment_log(real(folder.path()), Threads::PerPartition, Codec::Lz4))
    };
    survives_reopening(&on_real);
    let disk = SimDisk::new(3);
    let on_sim = || -> Box<dyn Log> {
        disk.crash();
        Box::new(segment_log(Arc::new(disk.clone()), Threads::None, Codec::Zstd))
    };
    survives_reopening(&on_sim);
}

#[test]
fn both_disks_keep_every_promise() {
    for (_name, case) in DISK_CASES {
        let folder = tempfile::tempdir().unwrap();
        case(&RealDisk::open(folder.path()).unwrap());
        case(&SimDisk::new(1));
    }
}
