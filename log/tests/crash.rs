//! What survives: crashes by seed, torn tails, flipped bits, failing calls, a full disk.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nilometer_event::clock::ManualClock;
use nilometer_event::{Offset, Partition, PartitionCount, ReceiveTime, Topic};
use nilometer_log::conformance::{batch, read_all};
use nilometer_log::disk::sim::{Fault, FaultKind, Lie, Op, SimDisk};
use nilometer_log::{
    AppendError, Codec, Disk, Log, LogSettings, OpenError, Retry, SegmentLog, Threads,
};

const TOPICS: [Topic; 3] = [Topic::UserEvents, Topic::DeadLetters, Topic::Journal];
const PARTITIONS: u16 = 2;

fn settings() -> LogSettings {
    LogSettings {
        segment_bytes: 1_500,
        threads: Threads::None,
        codecs: [Codec::Lz4; 7],
        ..LogSettings::new(PartitionCount::new(PARTITIONS).unwrap())
    }
}

fn try_open(disk: &SimDisk) -> Result<SegmentLog, OpenError> {
    SegmentLog::open(Arc::new(disk.clone()), settings(), Arc::new(ManualClock::default()))
}

fn open_with(disk: &SimDisk, settings: LogSettings) -> SegmentLog {
    let clock = Arc::new(ManualClock::new(ReceiveTime::from_ms(1_700_000_000_000)));
    SegmentLog::open(Arc::new(disk.clone()), settings, clock).unwrap()
}

fn open(disk: &SimDisk) -> SegmentLog {
    open_with(disk, settings())
}

fn values(seed: u64, count: usize) -> impl Iterator<Item = Vec<u8>> {
    (0..count).map(move |index| format!("{seed}/{index}").repeat(3).into_bytes())
}

/// What a producer knows: by place and offset, what was acknowledged; and what was tried.
#[derive(Default)]
struct Oracle {
    acknowledged: BTreeMap<(Topic, u16, u64), Vec<u8>>,
    /// Seed of a batch, and where it went.
    tried: Vec<(u64, Topic, u16)>,
}

impl Oracle {
    /// Appends a batch or three and notes what came of it.
    fn append(&mut self, log: &SegmentLog, rng: &mut fastrand::Rng) -> Result<(), AppendError> {
        let mut asked = Vec::new();
        for _ in 0..rng.usize(1..4) {
            let seed = self.tried.len() as u64;
            let place = (*rng.choice(&TOPICS).unwrap(), rng.u16(0..PARTITIONS), rng.usize(1..9));
            self.tried.push((seed, place.0, place.1));
            asked.push((seed, place));
        }
        let batches = asked
            .iter()
            .map(|&(seed, (topic, partition, count))| batch(topic, partition, seed, count));
        let appended = log.append(batches.collect())?;
        for (&(seed, (topic, partition, count)), appended) in asked.iter().zip(appended) {
            for (offset, value) in (appended.first.get()..).zip(values(seed, count)) {
                let twice = self.acknowledged.insert((topic, partition, offset), value);
                assert_eq!(twice, None, "L4: offset {offset} was given out twice");
            }
        }
        Ok(())
    }

    /// What is wrong with the log, if anything is.
    fn judge(&self, log: &SegmentLog) -> Result<(), String> {
        for topic in TOPICS {
            for partition in 0..PARTITIONS {
                self.judge_place(log, topic, partition)
                    .map_err(|wrong| format!("{topic}/{partition}: {wrong}"))?;
            }
        }
        Ok(())
    }

    fn judge_place(&self, log: &SegmentLog, topic: Topic, partition: u16) -> Result<(), String> {
        let read = read_all(log, topic, partition, 400);
        let lost: Vec<_> = log
            .quarantined()
            .into_iter()
            .filter(|lost| (lost.topic, lost.partition.get()) == (topic, partition))
            .map(|lost| lost.first.get()..lost.next.get())
            .collect();
        let mut expected = 0;
        let mut seen = BTreeSet::new();
        for (offset, value) in &read {
            let hole = expected..*offset;
            let named = lost.iter().any(|lost| lost.start <= hole.start && hole.end <= lost.end);
            if !hole.is_empty() && !named {
                return Err(format!("L1: a gap {hole:?}"));
            }
            expected = offset + 1;
            let text = String::from_utf8(value.clone()).map_err(|error| error.to_string())?;
            let known = self.tried.iter().any(|&(seed, to, at)| {
                (to, at) == (topic, partition) && text.starts_with(&format!("{seed}/"))
            });
            if !known || !seen.insert(text.clone()) {
                return Err(format!("L3, L5: nobody wrote {text:?}, or once only"));
            }
        }
        let read: BTreeMap<u64, Vec<u8>> = read.into_iter().collect();
        let here = (topic, partition, 0)..=(topic, partition, u64::MAX);
        let gone = self
            .acknowledged
            .range(here)
            .find(|((_, _, offset), value)| read.get(offset) != Some(value));
        gone.map_or(Ok(()), |((_, _, offset), _)| Err(format!("L3: lost {offset}")))
    }
}

/// A few lives of one log, each ended by power loss; what is wrong, if anything.
fn storm(seed: u64, lie: Lie, faults: &[(Op, u32)]) -> Result<(), String> {
    let disk = SimDisk::new(seed);
    disk.lie_about_sync(lie);
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut oracle = Oracle::default();
    for _life in 0..4 {
        let log = try_open(&disk).map_err(|error| format!("seed {seed}: {error}"))?;
        oracle.judge(&log).map_err(|wrong| format!("seed {seed}: {wrong}"))?;
        for &(op, per_million) in faults {
            disk.set_fault_rate(op, per_million);
        }
        for _ in 0..rng.usize(1..25) {
            // Unacknowledged is allowed while the disk fails.
            let answer = oracle.append(&log, &mut rng);
            if faults.is_empty() {
                answer.map_err(|error| error.to_string())?;
            }
        }
        disk.heal();
        oracle.judge(&log).map_err(|wrong| format!("seed {seed}, alive: {wrong}"))?;
        // A process that is killed leaves what the kernel has: it may not be durable either.
        if rng.u8(0..4) == 0 { disk.kill() } else { disk.crash() }
    }
    let log = try_open(&disk).map_err(|error| format!("seed {seed}: {error}"))?;
    oracle.judge(&log).map_err(|wrong| format!("seed {seed}: {wrong}"))
}

#[test]
fn what_was_acknowledged_survives_power_loss() {
    for seed in 0..300 {
        storm(seed, Lie::Off, &[]).unwrap();
    }
}

#[test]
fn what_was_acknowledged_survives_power_loss_on_a_failing_disk() {
    let often = [Op::Write, Op::Sync, Op::SyncDir, Op::Create, Op::Remove].map(|op| (op, 60_000));
    // What is left past the last synced record is mostly not given back.
    let faults = [often.as_slice(), &[(Op::Truncate, 700_000)]].concat();
    for seed in 0..300 {
        storm(seed, Lie::Off, &faults).unwrap();
    }
}

#[test]
fn the_crash_test_catches_a_log_that_does_not_sync() {
    let caught = (0..20).filter(|&seed| storm(seed, Lie::On, &[]).is_err()).count();
    assert!(10 < caught, "the mutant was caught by {caught} seeds of 20");
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_at_the_last_whole_batch() {
    let (topic, path) = (Topic::UserEvents, "log/user-events/0/00000000000000000000.log");
    let disk = SimDisk::new(0);
    let log = open_with(&disk, LogSettings { segment_bytes: 1 << 20, ..settings() });
    let mut ends = vec![0];
    for seed in 0..3 {
        log.append(vec![batch(topic, 0, seed, 4)]).unwrap();
        ends.push(disk.len_of(path).unwrap());
    }
    let whole = disk.read(path).unwrap();
    for torn in 0..=whole.len() {
        let disk = SimDisk::new(1);
        disk.create_dir_all("log/user-events/0").unwrap();
        disk.create_dir_all("log/user-events/1").unwrap();
        disk.create(path).unwrap().write_all(&whole[..torn]).unwrap();
        let log = open(&disk);
        let batches = ends.iter().filter(|&&end| end <= torn as u64).count() - 1;
        assert_eq!(read_all(&log, topic, 0, 1).len(), batches * 4, "torn at {torn}");
        assert_eq!(log.quarantined(), [], "torn at {torn}: a torn tail is no damage");
        let appended = log.append(vec![batch(topic, 0, 9, 1)]).unwrap();
        assert_eq!(appended[0].first, Offset::new(batches as u64 * 4));
        drop(log);
        disk.crash();
        assert_eq!(read_all(&open(&disk), topic, 0, 1).len(), batches * 4 + 1);
    }
}

/// A log of several segments, and the bytes of each of its files.
fn written(segment_bytes: u64) -> (SimDisk, LogSettings, Vec<(u64, Vec<u8>)>) {
    let disk = SimDisk::new(0);
    let settings = LogSettings { segment_bytes, ..settings() };
    let log = open_with(&disk, settings.clone());
    for seed in 0..12 {
        log.append(vec![batch(Topic::UserEvents, 0, seed, 5)]).unwrap();
    }
    let all = read_all(&log, Topic::UserEvents, 0, 1);
    assert_eq!(all.len(), 60);
    (disk, settings, all)
}

#[test]
fn a_flipped_bit_anywhere_is_named_and_everything_else_is_read() {
    for segment_bytes in [400, 1 << 20] {
        let (disk, settings, all) = written(segment_bytes);
        let paths: Vec<String> =
            disk.paths().into_iter().filter(|path| path.contains("user-events/0")).collect();
        for path in paths {
            for offset in (0..disk.len_of(&path).unwrap()).step_by(3) {
                let bit = u8::try_from(offset % 8).unwrap();
                disk.flip_bit_at(&path, offset, bit);
                let copy = copy_of(&disk);
                disk.flip_bit_at(&path, offset, bit);
                // An opening that nobody reads from does not hide the damage from the next.
                drop(open_with(&copy, settings.clone()));
                let log = open_with(&copy, settings.clone());
                check_damaged(&log, &all, &format!("{path} byte {offset}"));
                if path.ends_with(".index") {
                    assert_eq!(log.quarantined(), [], "an index decides nothing");
                }
            }
        }
    }
}

/// Every record is read or named as lost, and no offset is given out again.
fn check_damaged(log: &SegmentLog, all: &[(u64, Vec<u8>)], context: &str) {
    let read = read_all(log, Topic::UserEvents, 0, 1);
    let lost = log.quarantined();
    for record in &read {
        assert!(all.contains(record), "L5 at {context}");
    }
    let named = |offset: &u64| {
        lost.iter().any(|hole| hole.first.get() <= *offset && *offset < hole.next.get())
    };
    let unnamed = all
        .iter()
        .filter(|record| !read.contains(record) && !named(&record.0))
        .map(|record| record.0)
        .collect::<Vec<_>>();
    assert_eq!(unnamed, Vec::<u64>::new(), "lost without a word at {context}: {lost:?}");
    assert!(read.len() + 5 >= all.len(), "one flipped bit costs one batch, at {context}");
    let appended = log.append(vec![batch(Topic::UserEvents, 0, 99, 1)]).unwrap();
    assert!(Offset::new(all.len() as u64) <= appended[0].first, "L4 at {context}");
}

/// The same files on another disk.
fn copy_of(disk: &SimDisk) -> SimDisk {
    let copy = SimDisk::new(0);
    for path in disk.paths() {
        copy.create_dir_all(path.rsplit_once('/').unwrap().0).unwrap();
        copy.create(&path).unwrap().write_all(&disk.read(&path).unwrap()).unwrap();
    }
    copy
}

#[test]
fn damage_that_comes_while_the_log_is_open_is_named_by_the_read_that_meets_it() {
    let (disk, _settings, all) = written(400);
    let log = open_with(&disk, LogSettings { segment_bytes: 400, ..settings() });
    let path = "log/user-events/0/00000000000000000000.log";
    disk.flip_bit(path, 70);
    assert_eq!(log.quarantined(), []);
    check_damaged(&log, &all, "an open log");
    let lost = log.quarantined();
    assert_eq!((lost.len(), lost[0].file.as_str()), (1, path));
    assert_eq!(lost[0].reason.split(' ').next(), Some("corrupt:"));
    assert_eq!(log.stats().quarantined_records, 5);
    drop(log);
    for _ in 0..2 {
        let log = open_with(&disk, LogSettings { segment_bytes: 400, ..settings() });
        assert_eq!(log.stats().quarantined_records, 5, "every opening names it again");
        assert_eq!(log.quarantined()[0].file, path);
    }
}

#[test]
fn a_missing_segment_is_named_and_jumped_over() {
    let (disk, settings, all) = written(400);
    let second = disk.paths().into_iter().filter(|path| path.ends_with(".log")).nth(1).unwrap();
    disk.remove(&second).unwrap();
    let log = open_with(&disk, settings);
    let read = read_all(&log, Topic::UserEvents, 0, 1);
    assert!(read.len() < all.len());
    assert_eq!(log.stats().quarantined_records, (all.len() - read.len()) as u64);
}

#[test]
fn any_call_may_fail_and_nothing_acknowledged_is_lost() {
    for op in Op::ALL {
        for kind in [FaultKind::Error, FaultKind::Short, FaultKind::NoSpace] {
            for after in 0..12 {
                one_fault(Fault { op, after, kind, times: 1 });
            }
        }
    }
}

fn one_fault(fault: Fault) {
    let disk = SimDisk::new(fault.after);
    let mut rng = fastrand::Rng::with_seed(fault.after);
    let mut oracle = Oracle::default();
    let log = open(&disk);
    oracle.append(&log, &mut rng).unwrap();
    disk.fail_next(fault);
    let mut refused = 0;
    for _ in 0..20 {
        if let Err(error) = oracle.append(&log, &mut rng) {
            assert!(matches!(error.retry(), Retry::AfterMs(_)), "{fault:?}: {error}");
            refused += 1;
        }
    }
    disk.heal();
    assert!(refused <= 1, "{fault:?}: one failing call refuses one submission, not {refused}");
    oracle.append(&log, &mut rng).unwrap_or_else(|error| panic!("{fault:?}: {error}"));
    oracle.judge(&log).unwrap_or_else(|wrong| panic!("{fault:?}: {wrong}"));
    assert_eq!(log.stats().failures > 0, refused > 0, "{fault:?}: failures are counted");
    drop(log);
    disk.crash();
    oracle.judge(&open(&disk)).unwrap_or_else(|wrong| panic!("{fault:?}, crashed: {wrong}"));
}

#[test]
fn an_opening_that_fails_at_any_call_leaves_everything_for_the_next() {
    for op in Op::ALL {
        for after in 0..40 {
            let disk = SimDisk::new(after);
            let mut rng = fastrand::Rng::with_seed(after);
            let mut oracle = Oracle::default();
            let log = open(&disk);
            for _ in 0..8 {
                oracle.append(&log, &mut rng).unwrap();
            }
            drop(log);
            disk.crash();
            disk.fail_next(Fault::next(op).after(after));
            let opened = try_open(&disk);
            disk.heal();
            if let Ok(log) = &opened {
                oracle.judge(log).unwrap();
            }
            disk.crash();
            oracle.judge(&open(&disk)).unwrap_or_else(|wrong| panic!("{op:?} {after}: {wrong}"));
        }
    }
}

#[test]
fn reading_goes_on_while_the_disk_refuses_to_sync() {
    let disk = SimDisk::new(0);
    let log = open(&disk);
    let append = |seed| log.append(vec![batch(Topic::UserEvents, 0, seed, 2)]);
    append(0).unwrap();
    disk.fail_next(Fault::next(Op::Sync).for_ever());
    for seed in 1..5 {
        let error = append(seed).unwrap_err();
        assert!(matches!(error, AppendError::Io { operation: "sync", .. }), "{error}");
        assert_eq!(read_all(&log, Topic::UserEvents, 0, 1).len(), 2, "reading goes on");
    }
    disk.heal();
    assert_eq!(append(9).unwrap()[0].first, Offset::new(2), "in a new segment, without a gap");
    let second = "log/user-events/0/00000000000000000002.log";
    assert!(disk.paths().iter().any(|path| path == second));
    assert_eq!(read_all(&log, Topic::UserEvents, 0, 1).len(), 4);
}

#[test]
fn a_full_disk_refuses_data_keeps_the_journal_going_and_resumes() {
    let disk = SimDisk::new(0);
    disk.set_capacity(40 << 20);
    let log = open_with(&disk, LogSettings { segment_bytes: 1 << 20, ..settings() });
    let reserve = log.stats().reserve_bytes;
    assert_eq!(reserve, (40 << 20) / 20, "a share of a small disk");
    let append = |topic| log.append(vec![batch(topic, 0, 7, 3)]);
    append(Topic::UserEvents).unwrap();
    disk.fill_up(reserve);
    for _ in 0..3 {
        let error = append(Topic::UserEvents).unwrap_err();
        assert!(matches!(error, AppendError::DiskFull { .. }), "{error}");
        append(Topic::Journal).unwrap();
        append(Topic::LateEvents).unwrap();
        assert_eq!(read_all(&log, Topic::UserEvents, 0, 1).len(), 3, "reading goes on");
    }
    disk.fill_up(10);
    let error = append(Topic::Journal).unwrap_err();
    assert!(matches!(error, AppendError::DiskFull { .. }), "{error}");
    assert_eq!(log.stats().refused_disk_full, 4);
    disk.fill_up(reserve + (1 << 20));
    append(Topic::UserEvents).unwrap();
    append(Topic::Journal).unwrap();
    assert_eq!(read_all(&log, Topic::UserEvents, 0, 1).len(), 6);
    assert_eq!(read_all(&log, Topic::Journal, 0, 1).len(), 12);
    disk.crash();
    assert_eq!(read_all(&open(&disk), Topic::Journal, 0, 1).len(), 12);
}

#[test]
fn a_tail_that_is_kept_is_synced_or_written_anew_before_anyone_reads_it() {
    for (seed, refuses) in (0..20).flat_map(|seed| [(seed, false), (seed, true)]) {
        let disk = SimDisk::new(seed);
        let log = open(&disk);
        disk.lie_about_sync(Lie::On);
        log.append(vec![batch(Topic::UserEvents, 0, 0, 3)]).unwrap();
        drop(log);
        // The process died before its syncs.
        disk.kill();
        disk.lie_about_sync(Lie::Off);
        if refuses {
            // The kernel could not write the page either.
            disk.fail_next(Fault::next(Op::Sync));
        }
        let log = open(&disk);
        assert_eq!(read_all(&log, Topic::UserEvents, 0, 1).len(), 3);
        drop(log);
        disk.crash();
        let log = open(&disk);
        assert_eq!(read_all(&log, Topic::UserEvents, 0, 1).len(), 3, "L4, seed {seed}");
        assert_eq!(log.quarantined(), []);
    }
}

#[test]
fn offsets_that_the_journal_names_stay_taken_when_the_disk_refuses_to_say_so() {
    for op in [Op::Create, Op::Sync, Op::SyncDir] {
        let disk = SimDisk::new(0);
        let log = open(&disk);
        let append = || log.append(vec![batch(Topic::UserEvents, 0, 0, 2)]).unwrap()[0].first;
        append();
        disk.fail_next(Fault::next(op));
        log.ensure_past(Topic::UserEvents, Partition::new(0), Offset::new(9)).unwrap_err();
        assert_eq!(append(), Offset::new(9));
        drop(log);
        disk.crash();
        let log = open(&disk);
        let offsets: Vec<u64> =
            read_all(&log, Topic::UserEvents, 0, 1).iter().map(|record| record.0).collect();
        assert_eq!(offsets, [0, 1, 9, 10], "{op:?}");
        assert_eq!(log.stats().quarantined_records, 7);
    }
}

#[test]
fn a_shortfall_that_the_journal_names_is_named_again_by_every_opening() {
    let disk = SimDisk::new(0);
    let partition = Partition::new(0);
    open(&disk).ensure_past(Topic::Imports, partition, Offset::new(9)).unwrap();
    for _ in 0..2 {
        disk.crash();
        let log = open(&disk);
        assert_eq!(log.bounds(Topic::Imports, partition).end, Offset::new(9));
        assert_eq!(log.stats().quarantined_records, 9);
        assert_eq!(read_all(&log, Topic::Imports, 0, 1), []);
    }
}

#[test]
fn a_folder_for_another_count_or_of_a_newer_release_is_refused_untouched() {
    let (disk, _settings, all) = written(400);
    let three = LogSettings { partitions: PartitionCount::new(3).unwrap(), ..settings() };
    let open_three = || {
        let clock = Arc::new(ManualClock::default());
        SegmentLog::open(Arc::new(disk.clone()), three.clone(), clock)
    };
    let paths = disk.paths();
    let refused = open_three().unwrap_err();
    assert!(matches!(refused, OpenError::PartitionCount { found: 2, asked: 3 }), "{refused}");
    assert_eq!(disk.paths(), paths);
    // Whatever is wrong with the mark, the folders tell.
    for offset in 0..disk.len_of("log/layout").unwrap() {
        disk.flip_bit("log/layout", offset);
        let refused = open_three().unwrap_err();
        assert!(matches!(refused, OpenError::PartitionCount { found: 2, asked: 3 }), "{refused}");
        assert_eq!(read_all(&open(&disk), Topic::UserEvents, 0, 1), all);
    }
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let run = |seed| {
        let disk = SimDisk::new(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut oracle = Oracle::default();
        let log = open(&disk);
        disk.set_fault_rate(Op::Sync, 100_000);
        for _ in 0..30 {
            drop(oracle.append(&log, &mut rng));
        }
        disk.crash();
        let read = |path: String| (disk.read(&path).unwrap(), path);
        disk.paths().into_iter().map(read).collect::<Vec<_>>()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}
