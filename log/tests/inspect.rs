//! What a look over the folder finds, and that it changes nothing.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;

use nilometer_event::clock::ManualClock;
use nilometer_event::{Offset, Partition, PartitionCount, Topic};
use nilometer_log::conformance::batch;
use nilometer_log::disk::sim::SimDisk;
use nilometer_log::{
    Disk, Inspection, Log as _, LogSettings, Onlooker, Record, SegmentLog, Threads, inspect,
};

#[derive(Default)]
struct Seen {
    bytes: u64,
    values: Vec<Vec<u8>>,
}

impl Onlooker for Seen {
    fn checked(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    fn record(&mut self, topic: Topic, _partition: Partition, record: &Record<'_>) {
        assert_eq!(topic, Topic::UserEvents);
        self.values.push(record.value.to_vec());
    }
}

fn look(disk: &SimDisk) -> (Inspection, Seen) {
    let before: Vec<_> = disk.paths().iter().map(|path| (path.clone(), disk.read(path))).collect();
    let mut seen = Seen::default();
    let inspection = inspect(disk, &mut seen);
    for (path, bytes) in before {
        assert_eq!(disk.read(&path).unwrap(), bytes.unwrap(), "{path} was changed");
    }
    (inspection, seen)
}

/// Ten batches of three records in several segments.
fn written() -> (SimDisk, Vec<String>) {
    let disk = SimDisk::new(4);
    let settings = LogSettings {
        segment_bytes: 300,
        threads: Threads::None,
        ..LogSettings::new(PartitionCount::new(1).unwrap())
    };
    let log = SegmentLog::open(Arc::new(disk.clone()), settings, Arc::new(ManualClock::default()));
    let log = log.unwrap();
    for number in 0..10_u64 {
        log.append(vec![batch(Topic::UserEvents, 0, number, 3)]).unwrap();
    }
    let paths = disk.paths();
    let segments: Vec<String> = paths.into_iter().filter(|path| path.ends_with(".log")).collect();
    assert!(segments.len() > 3, "{segments:?}");
    (disk, segments)
}

fn rewrite(disk: &SimDisk, path: &str, bytes: &[u8]) {
    disk.create(path).unwrap().write_all(bytes).unwrap();
}

#[test]
fn a_good_log_has_no_findings_and_every_record_is_shown() {
    let (disk, segments) = written();
    let (inspection, seen) = look(&disk);
    assert_eq!(inspection.findings, []);
    assert_eq!((inspection.records, seen.values.len()), (30, 30));
    assert_eq!((inspection.segments, inspection.bytes), (segments.len() as u64, seen.bytes));
    assert_eq!(inspection.partitions, Some(1));
    let place = inspection.places[0];
    assert_eq!((place.start, place.end), (Offset::ZERO, Offset::new(30)));
}

#[test]
fn every_flipped_bit_is_found_by_its_file_with_what_it_costs() {
    let (disk, segments) = written();
    let path = &segments[1];
    let good = disk.read(path).unwrap();
    let mut lost = 0;
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        rewrite(&disk, path, &bytes);
        let (inspection, seen) = look(&disk);
        assert_eq!(inspection.findings.len(), 1, "bit {bit}: {:?}", inspection.findings);
        let finding = &inspection.findings[0];
        assert_eq!(&finding.file, path);
        // All but the damaged batch is still there.
        assert_eq!(finding.lost_records, Some(3), "bit {bit}: {finding:?}");
        assert_eq!(inspection.records, 27);
        lost += 30 - seen.values.len();
    }
    assert_eq!(lost, good.len() * 8 * 3);
}

#[test]
fn a_torn_tail_is_no_finding_and_a_cut_before_another_segment_is() {
    let (disk, segments) = written();
    let last = segments.last().unwrap();
    let good = disk.read(last).unwrap();
    for len in 0..good.len() {
        rewrite(&disk, last, &good[..len]);
        assert_eq!(look(&disk).0.findings, [], "cut to {len}");
    }
    rewrite(&disk, last, &good);
    let first = &segments[0];
    let good = disk.read(first).unwrap();
    rewrite(&disk, first, &good[..good.len() - 1]);
    let (inspection, _) = look(&disk);
    assert_eq!(inspection.findings.len(), 1);
    assert_eq!(inspection.findings[0].lost_records, Some(3));
    assert!(inspection.findings[0].reason.contains("missing"));
    disk.remove(&segments[2]).unwrap();
    let (inspection, _) = look(&disk);
    assert_eq!(inspection.findings.len(), 2, "a segment in the middle is missed");
}

#[test]
fn a_damaged_layout_is_named_and_a_folder_without_a_log_is_empty() {
    let (disk, _) = written();
    let mut layout = disk.read("log/layout").unwrap();
    layout[3] ^= 1;
    rewrite(&disk, "log/layout", &layout);
    assert_eq!(look(&disk).0.findings[0].file, "log/layout");
    let (nothing, _) = look(&SimDisk::new(1));
    assert!(nothing.findings.is_empty() && nothing.places.is_empty());
}
