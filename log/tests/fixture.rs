//! A log that the first release wrote is read for good, and so is its damaged twin.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nilometer_event::clock::ManualClock;
use nilometer_event::{Offset, PartitionCount, ReceiveTime, Topic};
use nilometer_log::conformance::{batch, read_all};
use nilometer_log::{Codec, Log, LogSettings, RealDisk, SegmentLog, Threads};

/// One topic for each codec.
const TOPICS: [(Topic, Codec); 3] =
    [(Topic::UserEvents, Codec::Lz4), (Topic::Imports, Codec::Zstd), (Topic::Journal, Codec::None)];
const BATCHES: u64 = 12;
const RECORDS: usize = 5;

fn testdata(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(version)
}

fn open(root: &Path) -> SegmentLog {
    let mut settings = LogSettings {
        segment_bytes: 500,
        threads: Threads::None,
        ..LogSettings::new(PartitionCount::new(1).unwrap())
    };
    for (topic, codec) in TOPICS {
        settings.codecs[topic as usize] = codec;
    }
    let disk = Arc::new(RealDisk::open(root).unwrap());
    SegmentLog::open(disk, settings, Arc::new(ManualClock::default())).unwrap()
}

fn fill(log: &SegmentLog) {
    for seed in 0..BATCHES {
        let batches = TOPICS.map(|(topic, _codec)| batch(topic, 0, seed, RECORDS));
        log.append(batches.into()).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The frozen log, copied so that opening does not touch it.
fn frozen(version: &str) -> (tempfile::TempDir, SegmentLog) {
    let folder = tempfile::tempdir().unwrap();
    copy(&testdata(version), folder.path());
    let log = open(folder.path());
    (folder, log)
}

fn expected(offset: u64) -> Vec<u8> {
    let records = RECORDS as u64;
    format!("{}/{}", offset / records, offset % records).repeat(3).into_bytes()
}

#[test]
fn version_1_is_read_for_good() {
    let (_folder, log) = frozen("v1");
    for (topic, _codec) in TOPICS {
        let read = read_all(&log, topic, 0, 1);
        let all: Vec<_> = (0..60).map(|offset| (offset, expected(offset))).collect();
        assert_eq!(read, all, "{topic}");
    }
    assert_eq!(log.quarantined(), []);
    assert_eq!(log.latest_timestamp(), Some(ReceiveTime::from_ms(1_700_000_011_004)));
    let appended = log.append(vec![batch(Topic::UserEvents, 0, 0, 1)]).unwrap();
    assert_eq!(appended[0].first, Offset::new(60), "and it is written on");
}

#[test]
fn version_1_damaged_is_read_around_its_damage() {
    let (_folder, log) = frozen("v1-corrupt");
    for (topic, _codec) in TOPICS {
        let read = read_all(&log, topic, 0, 1);
        let kept = (0..5).chain(10..60);
        let all: Vec<_> = kept.map(|offset| (offset, expected(offset))).collect();
        assert_eq!(read, all, "{topic}");
    }
    let lost = log.quarantined();
    assert_eq!(lost.len(), 3);
    for lost in lost {
        assert_eq!((lost.first, lost.next), (Offset::new(5), Offset::new(10)));
        assert_eq!(lost.file, format!("log/{}/0/00000000000000000000.log", lost.topic));
        assert!(lost.reason.starts_with("corrupt"), "{}", lost.reason);
    }
}

/// Wrote the fixtures, once: `cargo test -p nilometer-log --test fixture -- --ignored`. A frozen
/// format is never written again; a new version gets a folder of its own.
#[test]
#[ignore = "the fixtures are frozen"]
fn write_the_fixtures_of_a_new_version() {
    let sound = testdata("v1");
    assert!(!sound.exists(), "{} is frozen", sound.display());
    fill(&open(&sound));
    let corrupt = testdata("v1-corrupt");
    copy(&sound, &corrupt);
    for (topic, _codec) in TOPICS {
        let path = corrupt.join(format!("log/{topic}/0/00000000000000000000.log"));
        let mut bytes = fs::read(&path).unwrap();
        let first_len = u32::from_be_bytes(bytes[8..12].try_into().unwrap());
        // In the records of the second batch.
        bytes[12 + usize::try_from(first_len).unwrap() + 70] ^= 0x10;
        fs::write(path, bytes).unwrap();
    }
}
