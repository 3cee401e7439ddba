//! The promises of [`Log`] and [`Disk`] as functions, for every implementation to run.
//!
//! Each case wants a fresh log, or a fresh disk, and panics with the number of the guarantee
//! that is broken.
#![expect(clippy::missing_panics_doc, reason = "every case panics where a promise is broken")]

use std::io;

use nilometer_event::{Offset, Partition, ReceiveTime, Topic};

use crate::{
    AppendBatch, AppendError, Appended, Bounds, Disk, Log, ReadError, Records, RecordsBuilder,
    write_atomically,
};

/// One promise of a log.
pub type LogCase = (&'static str, fn(&dyn Log));
/// One promise of a disk.
pub type DiskCase = (&'static str, fn(&dyn Disk));

/// Every promise of a log with two partitions or more.
pub const LOG_CASES: &[LogCase] = &[
    ("L1 dense", dense),
    ("L2 ordered", ordered),
    ("L2 places are apart", places_are_apart),
    ("L4 bounds", bounds_grow_with_what_is_durable),
    ("L5 whole", whole),
    ("L5 reads go on from any offset", reads_go_on_from_any_offset),
    ("a read gives about as much as it was asked", reads_are_bounded),
    ("an empty batch has a place", empty_batches),
    ("outside the bounds is an error", outside_the_bounds),
    ("a time finds its offset", times_find_offsets),
    ("L4 named offsets are not given out again", named_offsets_are_not_given_out_again),
    ("L6 what can never be written is refused whole", impossible_batches_are_refused),
    ("commits tick", commits_tick),
];

/// Every promise of a disk.
pub const DISK_CASES: &[DiskCase] = &[
    ("files keep what is written", files_keep_what_is_written),
    ("files grow at their end", files_grow_at_their_end),
    ("names", names),
    ("D3 whole or not at all", whole_or_not_at_all),
    ("nothing leaves the root", nothing_leaves_the_root),
    ("missing is said", missing_is_said),
];

/// Records with these values, a millisecond apart from `first_ms`.
#[must_use]
pub fn records(first_ms: i64, values: &[&[u8]]) -> Records {
    let mut builder = RecordsBuilder::new();
    let mut timestamp = ReceiveTime::from_ms(first_ms);
    for value in values {
        builder.push(timestamp, value.first_chunk::<1>().map(<[u8; 1]>::as_slice), value);
        timestamp = timestamp.plus_ms(1);
    }
    builder.build()
}

/// A batch of `count` small records, different for each `seed`.
#[must_use]
pub fn batch(topic: Topic, partition: u16, seed: u64, count: usize) -> AppendBatch {
    let values: Vec<Vec<u8>> =
        (0..count).map(|index| format!("{seed}/{index}").repeat(3).into_bytes()).collect();
    let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
    let first_ms = 1_700_000_000_000 + i64::try_from(seed).unwrap_or(0) * 1_000;
    AppendBatch { topic, partition: Partition::new(partition), records: records(first_ms, &values) }
}

/// Offset and value of every record of a place, read in steps of about `step_bytes`.
#[must_use]
pub fn read_all(
    log: &dyn Log,
    topic: Topic,
    partition: u16,
    step_bytes: usize,
) -> Vec<(u64, Vec<u8>)> {
    let partition = Partition::new(partition);
    let Bounds { start, end } = log.bounds(topic, partition);
    let mut all = Vec::new();
    let mut at = start;
    while at < end {
        let fetched = log.read(topic, partition, at, step_bytes).expect("read");
        all.extend(fetched.iter().map(|record| (record.offset.get(), record.value.to_vec())));
        assert!(at < fetched.next(), "L5: a read below the end moves on, at {at}");
        at = fetched.next();
    }
    all
}

/// L1: the offsets of a batch are adjacent, and batches follow each other without a gap.
pub fn dense(log: &dyn Log) {
    let mut expected = 0;
    for count in [1, 7, 0, 3, 100] {
        let appended = log.append(vec![batch(Topic::UserEvents, 0, expected, count)]);
        let next = expected + count as u64;
        let place = Appended { first: Offset::new(expected), next: Offset::new(next) };
        assert_eq!(appended.expect("append"), [place], "L1 dense");
        expected = next;
    }
    let offsets: Vec<u64> =
        read_all(log, Topic::UserEvents, 0, 1).into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(offsets, (0..expected).collect::<Vec<_>>(), "L1 dense");
}

/// L2: reads give records in offset order, and one submission's batches in their order.
pub fn ordered(log: &dyn Log) {
    let submission = (0..5).map(|seed| batch(Topic::Journal, 1, seed, 3)).collect();
    let pending = log.submit(submission).expect("submit");
    let later = log.submit(vec![batch(Topic::Journal, 1, 5, 3)]).expect("submit");
    let appended = pending.wait().expect("append");
    assert!(appended.is_sorted_by_key(|batch| batch.first), "L2 within a submission");
    assert!(appended[4].next <= later.wait().expect("append")[0].first, "L2 between submissions");
    let values: Vec<Vec<u8>> =
        read_all(log, Topic::Journal, 1, 1 << 20).into_iter().map(|(_, value)| value).collect();
    let expected: Vec<Vec<u8>> = (0..6u64)
        .flat_map(|seed| (0..3).map(move |index| format!("{seed}/{index}").repeat(3).into_bytes()))
        .collect();
    assert_eq!(values, expected, "L2 ordered");
}

/// L2: topics and partitions count for themselves, and one answer waits for all of them.
pub fn places_are_apart(log: &dyn Log) {
    let submission = Topic::ALL
        .into_iter()
        .flat_map(|topic| (0..2).map(move |partition| batch(topic, partition, 9, 2)))
        .collect();
    let appended = log.append(submission).expect("append");
    assert_eq!(appended.len(), Topic::ALL.len() * 2);
    for place in appended {
        assert_eq!(place, Appended { first: Offset::ZERO, next: Offset::new(2) }, "L2 apart");
    }
    for topic in Topic::ALL {
        assert_eq!(read_all(log, topic, 1, 1 << 20).len(), 2, "L4 readable once answered");
    }
}

/// L4: what was answered can be read, and the bounds say so.
pub fn bounds_grow_with_what_is_durable(log: &dyn Log) {
    let partition = Partition::new(0);
    let at = |start, end| Bounds { start: Offset::new(start), end: Offset::new(end) };
    assert_eq!(log.bounds(Topic::Imports, partition), at(0, 0));
    assert_eq!(log.latest_timestamp(), None);
    log.append(vec![batch(Topic::Imports, 0, 1, 4)]).expect("append");
    assert_eq!(log.bounds(Topic::Imports, partition), at(0, 4), "L4 bounds");
    let latest = ReceiveTime::from_ms(1_700_000_001_003);
    assert_eq!(log.latest_timestamp(), Some(latest), "the newest timestamp");
    let nowhere = Partition::new(log.partitions().get());
    assert_eq!(log.bounds(Topic::Imports, nowhere), at(0, 0));
}

/// L5: key, value and timestamp come back as they were.
pub fn whole(log: &dyn Log) {
    let long = vec![b'x'; 100_000];
    let pushed = [
        (5, None, b"plain".as_slice()),
        (3, Some(b"".as_slice()), b""),
        (-9, Some(b"key"), &[0, 255, 1]),
        (i64::from(i32::MAX) * 1_000, Some(&long), b"v"),
        (5, None, &long),
    ];
    let mut builder = RecordsBuilder::new();
    for (timestamp, key, value) in pushed {
        builder.push(ReceiveTime::from_ms(timestamp), key, value);
    }
    let (topic, partition) = (Topic::ServerEvents, Partition::new(0));
    log.append(vec![AppendBatch { topic, partition, records: builder.build() }]).expect("append");
    let fetched = log.read(topic, partition, Offset::ZERO, 1).expect("read");
    let read: Vec<_> =
        fetched.iter().map(|record| (record.timestamp.ms(), record.key, record.value)).collect();
    assert_eq!(read, pushed, "L5 whole");
}

/// L5: a read from the middle of a batch begins there.
pub fn reads_go_on_from_any_offset(log: &dyn Log) {
    let (topic, partition) = (Topic::ContentViews, Partition::new(1));
    for seed in 0..4 {
        log.append(vec![batch(topic, 1, seed, 5)]).expect("append");
    }
    for from in 0..=20 {
        let fetched = log.read(topic, partition, Offset::new(from), 1 << 20).expect("read");
        let offsets: Vec<u64> = fetched.iter().map(|record| record.offset.get()).collect();
        assert_eq!(offsets, (from..20).collect::<Vec<_>>(), "L5 from {from}");
        assert_eq!(fetched.next(), Offset::new(20));
        assert_eq!(fetched.is_empty(), from == 20);
    }
}

/// A read gives one batch at least, and stops soon after it has enough.
pub fn reads_are_bounded(log: &dyn Log) {
    let (topic, partition) = (Topic::UserEvents, Partition::new(0));
    for seed in 0..20 {
        log.append(vec![batch(topic, 0, seed, 10)]).expect("append");
    }
    let least = log.read(topic, partition, Offset::ZERO, 0).expect("read");
    assert_eq!(least.next(), Offset::new(10), "at least one batch");
    let some = log.read(topic, partition, Offset::ZERO, least.bytes() * 3).expect("read");
    assert!(some.next() <= Offset::new(50), "about as much as asked, not {}", some.next());
    assert!(Offset::new(10) < some.next(), "more than one batch where more was asked");
}

/// An empty batch lies between its neighbours and takes no offset.
pub fn empty_batches(log: &dyn Log) {
    assert_eq!(log.append(Vec::new()).expect("append"), []);
    let empty = || batch(Topic::UserEvents, 0, 0, 0);
    let appended =
        log.append(vec![empty(), batch(Topic::UserEvents, 0, 1, 2), empty()]).expect("append");
    let place = |first, next| Appended { first: Offset::new(first), next: Offset::new(next) };
    assert_eq!(appended, [place(0, 0), place(0, 2), place(2, 2)]);
    assert_eq!(read_all(log, Topic::UserEvents, 0, 1).len(), 2);
}

/// What was never written and what does not exist are errors.
pub fn outside_the_bounds(log: &dyn Log) {
    log.append(vec![batch(Topic::UserEvents, 0, 0, 2)]).expect("append");
    let read = |partition, from| {
        log.read(Topic::UserEvents, Partition::new(partition), Offset::new(from), 1)
    };
    assert!(matches!(read(0, 3), Err(ReadError::PastEnd { .. })));
    assert!(matches!(read(log.partitions().get(), 0), Err(ReadError::NoSuchPartition { .. })));
}

/// The first offset at or after a time, in any batch, with timestamps in any order.
pub fn times_find_offsets(log: &dyn Log) {
    let (topic, partition) = (Topic::UserEvents, Partition::new(0));
    let mut times = Vec::new();
    for batch_ms in [100, 50, 400, 300, 400, 900] {
        let values: [&[u8]; 3] = [b"a", b"b", b"c"];
        let records = records(batch_ms, &values);
        times.extend([batch_ms, batch_ms + 1, batch_ms + 2]);
        log.append(vec![AppendBatch { topic, partition, records }]).expect("append");
    }
    for asked in [i64::MIN, 0, 50, 101, 103, 400, 401, 403, 902, 903, i64::MAX] {
        let expected = times.iter().position(|&time| asked <= time).unwrap_or(times.len());
        let found = log.offset_at(topic, partition, ReceiveTime::from_ms(asked));
        assert_eq!(found.expect("offset_at"), Offset::new(expected as u64), "at {asked}");
    }
}

/// L4: recovery can ask for offsets that the journal names not to be given out again.
pub fn named_offsets_are_not_given_out_again(log: &dyn Log) {
    let (topic, partition) = (Topic::UserEvents, Partition::new(1));
    log.append(vec![batch(topic, 1, 0, 3)]).expect("append");
    let ensure = |named| log.ensure_past(topic, partition, Offset::new(named)).expect("ensure");
    assert_eq!((ensure(0), ensure(3)), (0, 0), "nothing is missing");
    assert_eq!(log.quarantined(), []);
    assert_eq!(ensure(10), 7, "the missing ones are counted");
    assert_eq!(ensure(10), 0, "once");
    let lost = log.quarantined();
    assert_eq!((lost.len(), lost[0].first, lost[0].next), (1, Offset::new(3), Offset::new(10)));
    assert!(lost[0].reason.starts_with("corrupt"), "{}", lost[0].reason);
    assert_eq!(log.stats().quarantined_records, 7);
    assert_eq!(log.bounds(topic, partition).end, Offset::new(10));
    let over = log.read(topic, partition, Offset::new(5), 1).expect("read");
    assert!(over.is_empty() && over.next() == Offset::new(10), "L5: over the hole");
    let appended = log.append(vec![batch(topic, 1, 1, 1)]).expect("append");
    assert_eq!(appended[0].first, Offset::new(10), "L4 not given out again");
    let offsets: Vec<u64> =
        read_all(log, topic, 1, 1 << 20).into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(offsets, [0, 1, 2, 10], "L5 over the hole");
}

/// L6: a submission with one impossible batch leaves nothing behind.
pub fn impossible_batches_are_refused(log: &dyn Log) {
    let good = || batch(Topic::UserEvents, 0, 0, 1);
    let nowhere = batch(Topic::UserEvents, log.partitions().get(), 0, 1);
    let refused = log.append(vec![good(), nowhere]);
    assert!(matches!(refused, Err(AppendError::NoSuchPartition { .. })));
    assert_eq!(log.bounds(Topic::UserEvents, Partition::new(0)).end, Offset::ZERO);
}

/// Whoever waits for changes hears of each commit.
pub fn commits_tick(log: &dyn Log) {
    let mut changed = log.changed();
    changed.mark_unchanged();
    log.append(vec![batch(Topic::UserEvents, 0, 0, 1)]).expect("append");
    assert!(changed.has_changed().expect("the log lives"));
    assert_eq!(log.stats().commits, 1);
    assert_eq!(log.stats().records, 1);
}

/// L3: what was acknowledged is there after the log was dropped and opened again, and offsets
/// go on.
pub fn survives_reopening(open: &dyn Fn() -> Box<dyn Log>) {
    let mut expected = Vec::new();
    for round in 0..4u64 {
        let log = open();
        assert_eq!(read_all(&*log, Topic::UserEvents, 0, 1_000), expected, "L3, round {round}");
        assert_eq!(log.quarantined(), []);
        for seed in 0..8 {
            let appended = log.append(vec![batch(Topic::UserEvents, 0, seed, 5)]).expect("append");
            assert_eq!(appended[0].first, Offset::new(expected.len() as u64), "L1 over reopening");
            for index in 0..5 {
                let value = format!("{seed}/{index}").repeat(3).into_bytes();
                expected.push((expected.len() as u64, value));
            }
        }
        assert_eq!(log.latest_timestamp(), Some(ReceiveTime::from_ms(1_700_000_007_004)));
    }
}

/// Bytes come back, whole and in part.
pub fn files_keep_what_is_written(disk: &dyn Disk) {
    disk.create_dir_all("a/b").expect("create_dir_all");
    let mut file = disk.create("a/b/file").expect("create");
    file.write_all(b"hello ").expect("write");
    file.write_all(b"river").expect("write");
    file.sync().expect("sync");
    disk.sync_dir("a/b").expect("sync_dir");
    assert_eq!(file.len().expect("len"), 11);
    assert_eq!(disk.read("a/b/file").expect("read"), b"hello river");
    let mut part = [0; 5];
    let reader = disk.open_read("a/b/file").expect("open");
    assert_eq!(reader.read_at(6, &mut part).expect("read_at"), 5);
    assert_eq!(&part, b"river");
    assert_eq!(reader.read_at(9, &mut part).expect("read_at"), 2, "the file ends");
    assert_eq!(reader.read_at(99, &mut part).expect("read_at"), 0, "past the end");
    let twin = file.try_clone().expect("clone");
    assert_eq!(twin.len().expect("len"), 11);
}

/// Writes go to the end, after a cut too; creating empties.
pub fn files_grow_at_their_end(disk: &dyn Disk) {
    let mut file = disk.create("file").expect("create");
    file.write_all(b"0123456789").expect("write");
    file.truncate(4).expect("truncate");
    file.write_all(b"ab").expect("write");
    drop(file);
    let mut file = disk.open_append("file").expect("open");
    file.write_all(b"c").expect("write");
    assert_eq!(disk.read("file").expect("read"), b"0123abc");
    let emptied = disk.create("file").expect("create");
    assert_eq!(emptied.len().expect("len"), 0);
}

/// Names are listed in order, renamed over old ones, removed.
pub fn names(disk: &dyn Disk) {
    assert_eq!(disk.list("nowhere").expect("list"), Vec::<String>::new());
    disk.create_dir_all("d/sub").expect("create_dir_all");
    for name in ["d/2", "d/1"] {
        disk.create(name).expect("create").write_all(name.as_bytes()).expect("write");
    }
    assert_eq!(disk.list("d").expect("list"), ["1", "2", "sub"]);
    disk.rename("d/1", "d/2").expect("rename");
    assert_eq!(disk.read("d/2").expect("read"), b"d/1");
    disk.remove("d/2").expect("remove");
    disk.sync_dir("d").expect("sync_dir");
    disk.sync_dir("").expect("sync_dir of the root");
    assert_eq!(disk.list("d").expect("list"), ["sub"]);
    assert_eq!(disk.list("").expect("list"), ["d"]);
    assert!(disk.free_bytes().expect("free") <= disk.total_bytes().expect("total"));
}

/// D3: an atomic write replaces the file and leaves nothing beside it.
pub fn whole_or_not_at_all(disk: &dyn Disk) {
    disk.create_dir_all("d").expect("create_dir_all");
    for content in [b"old".as_slice(), b"new"] {
        write_atomically(disk, "d/file", content).expect("write");
        assert_eq!(disk.read("d/file").expect("read"), content);
    }
    assert_eq!(disk.list("d").expect("list"), ["file"]);
}

/// No path leads out.
pub fn nothing_leaves_the_root(disk: &dyn Disk) {
    for path in ["../out", "/etc/passwd", "a/../../out"] {
        let kind = disk.create(path).expect_err(path).kind();
        assert_eq!(kind, io::ErrorKind::InvalidInput, "{path}");
    }
}

/// A file or folder that is not there is said to be missing.
pub fn missing_is_said(disk: &dyn Disk) {
    let missing = [
        disk.read("file").map(drop),
        disk.open_read("file").map(drop),
        disk.open_append("file").map(drop),
        disk.remove("file"),
        disk.rename("file", "other"),
        disk.create("nowhere/file").map(drop),
        disk.sync_dir("nowhere"),
    ];
    for answer in missing {
        assert_eq!(answer.expect_err("missing").kind(), io::ErrorKind::NotFound);
    }
}
