//! What goes when: by age, by size, never past a hold, never with a gap.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;
use std::time::Duration;

use nilometer_event::clock::ManualClock;
use nilometer_event::{Offset, Partition, PartitionCount, ReceiveTime, Topic};
use nilometer_log::conformance::{read_all, records};
use nilometer_log::disk::sim::{Op, SimDisk};
use nilometer_log::{AppendBatch, Log, LogSettings, ReadError, SegmentLog, Threads};

const HOUR_MS: i64 = 3_600_000;
const TOPIC: Topic = Topic::ContentViews;
const PARTITION: Partition = Partition::new(0);

struct House {
    disk: SimDisk,
    clock: Arc<ManualClock>,
    settings: LogSettings,
}

impl House {
    fn new(settings: LogSettings) -> Self {
        let clock = Arc::new(ManualClock::new(ReceiveTime::from_ms(0)));
        Self { disk: SimDisk::new(5), clock, settings }
    }

    fn open(&self) -> SegmentLog {
        let clock = Arc::clone(&self.clock);
        SegmentLog::open(Arc::new(self.disk.clone()), self.settings.clone(), clock).unwrap()
    }

    /// Twenty hours, each with a batch of three records.
    fn fill(&self) -> SegmentLog {
        let log = self.open();
        for hour in 0..20 {
            self.clock.set(ReceiveTime::from_ms(hour * HOUR_MS));
            let records = records(hour * HOUR_MS, &[b"a", b"b", b"c"]);
            log.append(vec![AppendBatch { topic: TOPIC, partition: PARTITION, records }]).unwrap();
        }
        log
    }
}

fn settings() -> LogSettings {
    LogSettings {
        segment_bytes: 250,
        threads: Threads::None,
        ..LogSettings::new(PartitionCount::new(1).unwrap())
    }
}

fn start(log: &SegmentLog) -> u64 {
    log.bounds(TOPIC, PARTITION).start.get()
}

#[test]
fn nothing_goes_before_someone_holds() {
    let house = House::new(LogSettings { retention_age: Duration::ZERO, ..settings() });
    let log = house.fill();
    log.retain();
    assert_eq!(start(&log), 0, "L7");
}

#[test]
fn the_old_goes_and_the_held_stays() {
    let house = House::new(LogSettings { retention_age: Duration::from_hours(10), ..settings() });
    let log = house.fill();
    log.hold(TOPIC, PARTITION, Offset::new(12));
    log.retain();
    let held = start(&log);
    assert!(0 < held && held <= 12, "L7: whole segments up to the hold, not {held}");
    log.hold(TOPIC, PARTITION, Offset::new(60));
    log.retain();
    let young = start(&log);
    assert!(held < young && young <= 27, "hour 9 and what is younger stays: {young}");
    let read = read_all(&log, TOPIC, 0, 100);
    assert_eq!(read.iter().map(|r| r.0).collect::<Vec<_>>(), (young..60).collect::<Vec<_>>());
    let gone = log.read(TOPIC, PARTITION, Offset::ZERO, 1);
    assert!(matches!(gone, Err(ReadError::BeforeStart { start, .. }) if start.get() == young));
    let first = log.offset_at(TOPIC, PARTITION, ReceiveTime::from_ms(0)).unwrap();
    assert_eq!(first.get(), young, "a time before the start finds the start");
    assert!(log.stats().removed_segments > 0);
}

#[test]
fn removals_are_durable() {
    for seed in 0..10 {
        let house = House { disk: SimDisk::new(seed), ..House::new(settings()) };
        let log = house.fill();
        log.hold(TOPIC, PARTITION, Offset::new(60));
        house.clock.advance_ms(1_000 * HOUR_MS);
        log.retain();
        let kept = start(&log);
        assert!(0 < kept);
        drop(log);
        house.disk.crash();
        assert_eq!(start(&house.open()), kept, "seed {seed}");
    }
}

#[test]
fn the_segment_that_is_written_to_stays() {
    let house = House::new(LogSettings { retention_age: Duration::ZERO, ..settings() });
    let log = house.fill();
    house.clock.advance_ms(1_000 * HOUR_MS);
    log.hold(TOPIC, PARTITION, Offset::new(60));
    log.retain();
    assert!(start(&log) < 60);
    assert_eq!(log.stats().segments, 1);
}

#[test]
fn too_much_goes_oldest_first() {
    let house = House::new(LogSettings { retention_bytes: 600, ..settings() });
    let log = house.fill();
    log.hold(TOPIC, PARTITION, Offset::new(60));
    log.retain();
    assert!(log.stats().bytes <= 600, "{:?}", log.stats());
    assert!(600 < log.stats().bytes + 250, "no more than needed: {:?}", log.stats());
}

#[test]
fn segments_are_rolled_by_age() {
    let house = House::new(LogSettings {
        segment_bytes: 1 << 20,
        segment_age: Duration::from_hours(4),
        ..settings()
    });
    assert_eq!(house.fill().stats().segments, 5);
    // The age is counted from the first record, over a restart too.
    let log = house.open();
    let records = records(20 * HOUR_MS, &[b"a"]);
    house.clock.advance_ms(HOUR_MS);
    log.append(vec![AppendBatch { topic: TOPIC, partition: PARTITION, records }]).unwrap();
    assert_eq!(log.stats().segments, 6);
}

#[test]
fn no_failure_and_no_crash_leaves_a_gap() {
    for seed in 0..60 {
        let house = House {
            disk: SimDisk::new(seed),
            ..House::new(LogSettings { retention_age: Duration::from_hours(5), ..settings() })
        };
        let log = house.fill();
        log.hold(TOPIC, PARTITION, Offset::new(60));
        for op in [Op::Remove, Op::SyncDir] {
            house.disk.set_fault_rate(op, 300_000);
        }
        for _ in 0..seed % 4 {
            log.retain();
        }
        house.disk.heal();
        drop(log);
        house.disk.crash();
        let log = house.open();
        assert_eq!(log.quarantined(), [], "seed {seed}");
        let start = start(&log);
        let offsets: Vec<u64> = read_all(&log, TOPIC, 0, 100).iter().map(|r| r.0).collect();
        assert_eq!(offsets, (start..60).collect::<Vec<_>>(), "seed {seed}");
    }
}
