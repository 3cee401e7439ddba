//! Group commit, back-pressure and reading beside writing, with real threads.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nilometer_event::clock::ManualClock;
use nilometer_event::{Offset, Partition, PartitionCount, ReceiveTime, Topic};
use nilometer_log::conformance::{batch, read_all};
use nilometer_log::disk::sim::{Fault, Op, SimDisk};
use nilometer_log::{AppendError, Disk, Log, LogSettings, RealDisk, Retry, SegmentLog};

fn open(disk: impl Disk + 'static, settings: LogSettings) -> SegmentLog {
    let clock = Arc::new(ManualClock::new(ReceiveTime::from_ms(1_700_000_000_000)));
    SegmentLog::open(Arc::new(disk), settings, clock).unwrap()
}

fn settings(partitions: u16) -> LogSettings {
    LogSettings {
        segment_bytes: 4_000,
        ..LogSettings::new(PartitionCount::new(partitions).unwrap())
    }
}

#[test]
fn what_waits_together_is_synced_together() {
    let disk = SimDisk::new(0);
    let log = open(disk.clone(), LogSettings { segment_bytes: 1 << 20, ..settings(1) });
    let stalled = disk.stall();
    let pending: Vec<_> = (0..100)
        .map(|seed| log.submit(vec![batch(Topic::UserEvents, 0, seed, 2)]).unwrap())
        .collect();
    drop(stalled);
    for (index, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.wait().unwrap()[0].first, Offset::new(index as u64 * 2), "L1 and L2");
    }
    let stats = log.stats();
    assert!(stats.commits <= 2, "{stats:?}");
    assert!(stats.syncs <= 2, "{stats:?}");
    assert_eq!((stats.records, stats.queue_bytes, stats.queue_batches), (200, 0, 0));
}

#[test]
fn a_full_queue_is_refused_at_once_and_drains() {
    let disk = SimDisk::new(0);
    let limits = LogSettings { queue_bytes_max: 10_000, ..settings(2) };
    let log = open(disk.clone(), limits);
    let stalled = disk.stall();
    let mut pending = Vec::new();
    let refused = loop {
        let seed = pending.len() as u64;
        match log.submit(vec![batch(Topic::UserEvents, 1, seed, 20)]) {
            Ok(answer) => pending.push(answer),
            Err(error) => break error,
        }
        assert!(pending.len() < 100, "L6: the queue is bounded");
    };
    assert!(matches!(refused, AppendError::Full { .. }), "{refused}");
    assert!(matches!(refused.retry(), Retry::AfterMs(ms) if 0 < ms));
    drop(stalled);
    let accepted = pending.len() as u64;
    for pending in pending {
        pending.wait().unwrap();
    }
    log.append(vec![batch(Topic::UserEvents, 1, accepted, 20)]).unwrap();
    let read = read_all(&log, Topic::UserEvents, 1, 5_000).len() as u64;
    assert_eq!(read, (accepted + 1) * 20, "what was refused left nothing behind");
    let too_large = log.append((0..30).map(|seed| batch(Topic::Journal, 0, seed, 20)).collect());
    assert!(matches!(too_large, Err(AppendError::TooLarge { .. })), "never would it fit");
}

#[test]
fn many_small_batches_fill_the_queue_as_well() {
    let disk = SimDisk::new(0);
    let log = open(disk.clone(), LogSettings { queue_batches_max: 5, ..settings(1) });
    let stalled = disk.stall();
    let pending: Vec<_> =
        (0..8).map(|_| log.submit(vec![batch(Topic::Journal, 0, 0, 1)])).collect();
    assert_eq!(pending.iter().filter(|answer| answer.is_err()).count(), 3);
    assert_eq!(pending.iter().position(Result::is_err), Some(5));
    drop(stalled);
}

#[test]
fn one_answer_waits_for_all_its_partitions_and_tells_of_any_failure() {
    let disk = SimDisk::new(0);
    let log = open(disk.clone(), settings(3));
    let everywhere = || (0..3).map(|partition| batch(Topic::UserEvents, partition, 1, 2)).collect();
    assert_eq!(log.append(everywhere()).unwrap().len(), 3);
    disk.fail_next(Fault::next(Op::Sync));
    let error = log.append(everywhere()).unwrap_err();
    assert!(matches!(error, AppendError::Io { operation: "sync", .. }), "{error}");
    let ends: Vec<u64> = (0..3)
        .map(|partition| log.bounds(Topic::UserEvents, Partition::new(partition)).end.get())
        .collect();
    assert_eq!(ends.iter().sum::<u64>(), 10, "two of three are durable, unacknowledged: {ends:?}");
    let appended = log.append(everywhere()).unwrap();
    for (appended, end) in appended.iter().zip(ends) {
        assert_eq!(appended.first, Offset::new(end), "L1: no gap after a failure");
    }
}

#[test]
fn closing_commits_what_is_queued_and_refuses_the_rest() {
    let disk = SimDisk::new(0);
    let log = open(disk.clone(), settings(2));
    let stalled = disk.stall();
    let pending: Vec<_> =
        (0..20).map(|seed| log.submit(vec![batch(Topic::Imports, 1, seed, 1)]).unwrap()).collect();
    drop(stalled);
    log.close();
    for pending in pending {
        pending.wait().unwrap();
    }
    let late = log.append(vec![batch(Topic::Imports, 1, 0, 1)]);
    assert!(matches!(late, Err(AppendError::ShuttingDown)));
    assert_eq!(read_all(&log, Topic::Imports, 1, 1).len(), 20, "reading goes on");
}

#[test]
fn an_answer_can_be_awaited() {
    let log = open(SimDisk::new(0), settings(1));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let appended = runtime
        .block_on(async { log.submit(vec![batch(Topic::UserEvents, 0, 0, 3)]).unwrap().await });
    assert_eq!(appended.unwrap()[0].next, Offset::new(3));
}

#[test]
fn readers_beside_writers_see_every_record_once_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(RealDisk::open(folder.path()).unwrap(), settings(2));
    let topics = [Topic::UserEvents, Topic::Imports];
    let (writers, rounds) = (3u64, 40u64);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = topics
            .into_iter()
            .flat_map(|topic| (0..2).map(move |partition| (topic, partition)))
            .map(|(topic, partition)| {
                let (log, done) = (&log, &done);
                scope.spawn(move || follow(log, topic, partition, done))
            })
            .collect();
        let writing: Vec<_> = (0..writers)
            .map(|writer| {
                let log = &log;
                scope.spawn(move || {
                    for round in 0..rounds {
                        let seed = writer * rounds + round;
                        let partition = u16::try_from(seed % 2).unwrap();
                        let both = topics.map(|topic| batch(topic, partition, seed, 5));
                        log.append(both.into()).unwrap();
                    }
                })
            })
            .collect();
        for writer in writing {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Release);
        let seen: u64 = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        assert_eq!(seen, writers * rounds * 2 * 5, "L1 to L5 beside writers");
    });
    assert_eq!(log.quarantined(), []);
    assert!(log.stats().segments > 8, "segments were rolled under the readers");
}

/// Reads a place as it grows; returns how many records there were.
fn follow(log: &SegmentLog, topic: Topic, partition: u16, done: &AtomicBool) -> u64 {
    let mut at = Offset::ZERO;
    loop {
        let ending = done.load(Ordering::Acquire);
        let fetched = log.read(topic, Partition::new(partition), at, 2_000).unwrap();
        for record in fetched.iter() {
            assert_eq!(record.offset, at, "L1 in {topic}/{partition}");
            at = at.plus(1);
        }
        assert_eq!(fetched.next(), at, "nothing is jumped over");
        if fetched.is_empty() && ending {
            return at.get();
        }
        std::thread::yield_now();
    }
}
