//! What goes when: by age, by size over all places, never past a hold, never with a gap.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;
use std::time::Duration;

use nilometer_event::clock::ManualClock;
use nilometer_event::{Offset, Partition, PartitionCount, ReceiveTime, Topic};
use nilometer_log::conformance::{read_all, records};
use nilometer_log::disk::sim::{Op, SimDisk};
use nilometer_log::{AppendBatch, Bounds, Codec, Log, LogSettings, ReadError, SegmentLog, Threads};

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

/// Four places, of which each hour one gets a record of a hundred bytes, for forty hours.
fn fill_places(house: &House, topics: [Topic; 2]) -> SegmentLog {
    let log = house.open();
    for hour in 0..40_i64 {
        house.clock.set(ReceiveTime::from_ms(hour * HOUR_MS));
        let number = hour.unsigned_abs();
        let (topic, partition) = (topics[usize::from(number % 2 == 1)], (number / 2 % 2) as u16);
        let value = vec![b'x'; 100];
        let records = records(hour * HOUR_MS, &[&value]);
        let partition = Partition::new(partition);
        log.append(vec![AppendBatch { topic, partition, records }]).unwrap();
    }
    log
}

/// The hours that are kept, over all topics and partitions.
fn hours(log: &SegmentLog) -> Vec<i64> {
    let mut hours = Vec::new();
    for topic in Topic::ALL {
        for partition in (0..2).map(Partition::new) {
            let Bounds { start, end } = log.bounds(topic, partition);
            let mut at = start;
            while at < end {
                let fetched = log.read(topic, partition, at, 1).unwrap();
                hours.extend(fetched.iter().map(|record| record.timestamp.ms() / HOUR_MS));
                at = fetched.next();
            }
        }
    }
    hours.sort_unstable();
    hours
}

fn hold_all(log: &SegmentLog, but: Option<(Topic, Partition)>) {
    for topic in Topic::ALL {
        for partition in (0..2).map(Partition::new) {
            let floor = if but == Some((topic, partition)) { 0 } else { 1_000 };
            log.hold(topic, partition, Offset::new(floor));
        }
    }
}

/// No compression, so that all batches are of one size; and each is a segment.
fn two_partitions() -> LogSettings {
    LogSettings {
        partitions: PartitionCount::new(2).unwrap(),
        segment_bytes: 100,
        codecs: [Codec::None; Topic::ALL.len()],
        retention_age: Duration::from_hours(1_000),
        ..settings()
    }
}

#[test]
fn the_bound_is_that_of_all_places_together_and_what_is_oldest_goes_first() {
    let house = House::new(two_partitions());
    let log = fill_places(&house, [Topic::ContentViews, Topic::Imports]);
    let of_hour = log.stats().bytes / 40;
    drop(log);
    let settings = LogSettings { retention_bytes: 10 * of_hour + 5, ..two_partitions() };
    let log = House { settings, ..house }.open();
    hold_all(&log, None);
    log.retain();
    assert_eq!(hours(&log), (30..40).collect::<Vec<_>>());
    let stats = log.stats();
    assert_eq!((stats.removed_segments, stats.removed_early), (30, 30), "{stats:?}");
    assert_eq!(stats.removed_early_letters, 0);
}

#[test]
fn what_is_held_stays_whatever_the_bound_is_and_others_go_in_its_place() {
    let house = House::new(two_partitions());
    let log = fill_places(&house, [Topic::ContentViews, Topic::Imports]);
    let of_hour = log.stats().bytes / 40;
    drop(log);
    let settings = LogSettings { retention_bytes: 15 * of_hour + 5, ..two_partitions() };
    let log = House { settings, ..house }.open();
    let held = (Topic::ContentViews, Partition::new(1));
    hold_all(&log, Some(held));
    log.retain();
    let is_held = |hour: &i64| hour % 4 == 2;
    let kept = hours(&log);
    assert_eq!(kept.iter().filter(|hour| is_held(hour)).count(), 10, "L7: {kept:?}");
    // Of the others the five youngest.
    let others: Vec<i64> = kept.into_iter().filter(|hour| !is_held(hour)).collect();
    assert_eq!(others, [33, 35, 36, 37, 39]);
}

#[test]
fn dead_letters_over_their_bound_push_nothing_out_but_dead_letters() {
    for is_quarter in [false, true] {
        let house = House::new(two_partitions());
        let log = fill_places(&house, [Topic::ContentViews, Topic::DeadLetters]);
        let of_hour = log.stats().bytes / 40;
        assert_eq!(log.stats().dead_letter_bytes, 20 * of_hour);
        drop(log);
        let four = 4 * of_hour + 5;
        // They never have more than a quarter of the whole.
        let (dead_letter_bytes_max, retention_bytes) =
            if is_quarter { (u64::MAX, 4 * four) } else { (four, u64::MAX) };
        let settings = LogSettings { dead_letter_bytes_max, retention_bytes, ..two_partitions() };
        let log = House { settings, ..house }.open();
        hold_all(&log, None);
        log.retain();
        let (letters, events): (Vec<i64>, Vec<i64>) =
            hours(&log).into_iter().partition(|hour| hour % 2 == 1);
        assert_eq!(letters, [33, 35, 37, 39]);
        assert_eq!(log.stats().removed_early_letters, 16);
        assert_eq!(events.len(), if is_quarter { 12 } else { 20 }, "{events:?}");
    }
}

#[test]
fn a_bound_is_kept_by_segments_that_are_small_beside_it() {
    let settings = LogSettings {
        retention_bytes: 28 << 20,
        dead_letter_bytes_max: 1 << 20,
        ..LogSettings::new(PartitionCount::new(1).unwrap())
    };
    assert_eq!(settings.segment_bytes_of(Topic::UserEvents), 1 << 20);
    assert_eq!(settings.segment_bytes_of(Topic::DeadLetters), 256 << 10);
    let most = LogSettings::new(PartitionCount::new(4).unwrap());
    assert_eq!(most.segment_bytes_of(Topic::UserEvents), most.segment_bytes);
}

#[test]
fn late_events_go_for_room_and_not_by_age() {
    let house =
        House::new(LogSettings { retention_age: Duration::from_hours(5), ..two_partitions() });
    let log = fill_places(&house, [Topic::ContentViews, Topic::LateEvents]);
    hold_all(&log, None);
    log.retain();
    let late = |log: &SegmentLog| hours(log).into_iter().filter(|hour| hour % 2 == 1).count();
    assert_eq!(late(&log), 20);
    let of_hour = log.stats().bytes / hours(&log).len() as u64;
    drop(log);
    let settings = LogSettings { retention_bytes: 10 * of_hour + 5, ..two_partitions() };
    let log = House { settings, ..house }.open();
    hold_all(&log, None);
    log.retain();
    assert_eq!(hours(&log).len(), 10);
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
