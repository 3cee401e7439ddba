//! What the simulated disk forgets, and how it fails.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io;

use nilometer_log::disk::sim::{Fault, FaultKind, Lie, Op, SimDisk};
use nilometer_log::{Disk, create_dir_durably, write_atomically};

/// A disk with one durable file of four bytes.
fn disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    create_dir_durably(&disk, "d/e").unwrap();
    let mut file = disk.create("d/e/file").unwrap();
    file.write_all(b"kept").unwrap();
    file.sync().unwrap();
    disk.sync_dir("d/e").unwrap();
    disk
}

#[test]
fn of_unsynced_bytes_some_prefix_survives_perhaps_torn() {
    let mut lengths = Vec::new();
    for seed in 0..200 {
        let disk = disk(seed);
        let mut file = disk.open_append("d/e/file").unwrap();
        file.write_all(b"lost").unwrap();
        assert_eq!(disk.read("d/e/file").unwrap(), b"keptlost", "before the crash it is there");
        disk.crash();
        let left = disk.read("d/e/file").unwrap();
        assert!(left.starts_with(b"kept"), "D1: synced bytes survive");
        let of_tail = &left[4..];
        assert!(b"lost".starts_with(of_tail) || of_tail.contains(&0), "{of_tail:?}");
        lengths.push(left.len());
        assert!(file.write_all(b"x").is_err(), "the handle is stale");
        assert!(file.sync().is_err());
    }
    lengths.sort_unstable();
    lengths.dedup();
    assert_eq!(lengths, [4, 5, 6, 7, 8], "every outcome comes");
}

#[test]
fn of_unsynced_names_the_first_few_survive() {
    let mut outcomes = Vec::new();
    for seed in 0..100 {
        let disk = disk(seed);
        disk.create("d/e/new").unwrap();
        disk.rename("d/e/file", "d/e/renamed").unwrap();
        disk.remove("d/e/new").unwrap();
        disk.crash();
        outcomes.push(disk.list("d/e").unwrap());
    }
    outcomes.sort_unstable();
    outcomes.dedup();
    assert_eq!(
        outcomes,
        [vec!["file"], vec!["file", "new"], vec!["new", "renamed"], vec!["renamed"]],
        "D2 and D3"
    );
}

#[test]
fn a_folder_that_was_not_synced_takes_its_files_with_it() {
    let gone = (0..50).any(|seed| {
        let disk = SimDisk::new(seed);
        disk.create_dir_all("d").unwrap();
        let mut file = disk.create("d/file").unwrap();
        file.write_all(b"x").unwrap();
        file.sync().unwrap();
        disk.sync_dir("d").unwrap();
        disk.crash();
        disk.paths().is_empty()
    });
    assert!(gone, "the folder's own name was never synced");
}

#[test]
fn a_failed_sync_loses_its_bytes_whatever_a_later_one_says() {
    let disk = disk(0);
    let mut file = disk.open_append("d/e/file").unwrap();
    file.write_all(b"lost").unwrap();
    disk.fail_next(Fault::next(Op::Sync));
    file.sync().unwrap_err();
    file.write_all(b"more").unwrap();
    file.sync().unwrap();
    assert_eq!(disk.read("d/e/file").unwrap(), b"keptlostmore", "the cache still has it");
    disk.crash();
    assert_eq!(disk.read("d/e/file").unwrap(), b"kept\0\0\0\0more");
}

#[test]
fn a_dead_disk_does_nothing_until_it_is_healed() {
    let disk = disk(0);
    let mut file = disk.open_append("d/e/file").unwrap();
    disk.die_after(1);
    file.write_all(b"cached").unwrap();
    file.sync().unwrap_err();
    file.write_all(b"nothing").unwrap_err();
    disk.read("d/e/file").unwrap_err();
    disk.heal();
    file.sync().unwrap();
    assert_eq!(
        disk.read("d/e/file").unwrap(),
        b"keptcached",
        "a sync that was not made loses nothing"
    );
}

#[test]
fn a_disk_that_lies_about_syncs_keeps_nothing_for_sure() {
    let lost = (0..50).any(|seed| {
        let disk = disk(seed);
        disk.lie_about_sync(Lie::On);
        write_atomically(&disk, "d/e/other", b"content").unwrap();
        disk.crash();
        disk.read("d/e/other").ok().as_deref() != Some(b"content".as_slice())
    });
    assert!(lost);
}

#[test]
fn an_atomic_write_leaves_the_old_or_the_new_whole() {
    for seed in 0..100 {
        for op in [Op::Create, Op::Write, Op::Sync, Op::Rename, Op::SyncDir] {
            let disk = disk(seed);
            disk.fail_next(Fault::next(op).kind(FaultKind::Short));
            let written = write_atomically(&disk, "d/e/file", b"replaced");
            assert!(written.is_err(), "{op:?}");
            disk.crash();
            let left = disk.read("d/e/file").unwrap();
            assert!([b"kept".as_slice(), b"replaced"].contains(&left.as_slice()), "{op:?}");
            write_atomically(&disk, "d/e/file", b"at last").unwrap();
            disk.crash();
            assert_eq!(disk.read("d/e/file").unwrap(), b"at last");
        }
    }
}

#[test]
fn a_full_disk_takes_what_fits_and_says_so() {
    let disk = disk(0);
    disk.fill_up(3);
    let mut file = disk.open_append("d/e/file").unwrap();
    let error = file.write_all(b"12345").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.read("d/e/file").unwrap(), b"kept123", "a short write");
    assert_eq!(disk.free_bytes().unwrap(), 0);
    file.truncate(0).unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 7);
    file.write_all(b"12345").unwrap();
}

#[test]
fn a_failure_comes_when_it_was_ordered() {
    let disk = disk(0);
    let calls = disk.calls(Op::List);
    disk.fail_next(Fault::next(Op::List).after(2));
    let answers: Vec<bool> = (0..5).map(|_| disk.list("d").is_ok()).collect();
    assert_eq!(answers, [true, true, false, true, true]);
    assert_eq!(disk.calls(Op::List), calls + 5);
    disk.fail_next(Fault::next(Op::List).for_ever());
    assert!((0..5).all(|_| disk.list("d").is_err()));
    disk.heal();
    disk.list("d").unwrap();
}
