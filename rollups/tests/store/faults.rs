//! Crashes, failing calls and flipped bits: nothing lost, nothing twice, nothing smaller.

use std::sync::Arc;

use crate::house::{self, DAY, Dice, HOUR, House, MINUTE, Seen};
use nilometer_event::{EventTime, Granularity, TimeRange};
use nilometer_log::disk::Disk;
use nilometer_log::disk::sim::{Fault, FaultKind, Lie, Op, SimDisk};
use nilometer_rollups::declare::SetKind;
use nilometer_rollups::view::LayerSink;
use nilometer_rollups::{
    Checked, EmbeddedStore, FoldError, FoldLimits, OpenError, ReadError, Store,
};

/// A house with a base, and layers waiting to be folded into it.
fn half_folded(seed: u64) -> House {
    let mut dice = Dice::new(seed);
    let mut house = House::new(seed, 2);
    for round in 0..4 {
        let now = house.now.as_event_time();
        for shard in 0..2 {
            house.count(shard, (0..10).map(|_| dice.seen(now)).collect());
            house.seal(shard, |_| {});
        }
        if round < 3 {
            house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        }
        if round == 1 {
            house.collect_garbage();
        }
        house.now = house.now.plus_ms(20 * MINUTE);
        house.publish_all();
    }
    house
}

pub(crate) fn chunk_paths(disk: &SimDisk) -> Vec<String> {
    disk.paths().into_iter().filter(|path| path.starts_with("rollups/chunks/")).collect()
}

fn manifest_paths(disk: &SimDisk) -> Vec<String> {
    disk.paths().into_iter().filter(|path| path.starts_with("rollups/manifests/")).collect()
}

#[test]
fn a_fold_that_fails_or_loses_power_at_any_call_changes_no_answer() {
    let ops = [Op::Create, Op::Write, Op::Sync, Op::Rename, Op::SyncDir, Op::Remove, Op::Read];
    let mut failed = 0;
    for op in ops {
        for nth in [0, 1, 4, 10, 23, 50] {
            let mut house = half_folded(nth);
            let expected = house.total_events().unwrap();
            house.disk.fail_next(Fault::next(op).after(nth).for_ever());
            failed += usize::from(house.store.fold_once(house.now, FoldLimits::default()).is_err());
            if nth % 2 == 0 {
                house.disk.heal();
                assert_eq!(house.total_events(), Ok(expected), "{op:?} {nth}: still shown");
                house.store.fold_once(house.now, FoldLimits::default()).unwrap();
                assert_eq!(house.total_events(), Ok(expected), "{op:?} {nth}: repeated");
            }
            house.disk.heal();
            house.disk.crash();
            house.reopen();
            assert_eq!(house.total_events(), Ok(expected), "{op:?} {nth}: after the crash");
            house.store.fold_once(house.now, FoldLimits::default()).unwrap();
            house.collect_garbage();
            house.disk.crash();
            house.reopen();
            assert_eq!(house.total_events(), Ok(expected), "{op:?} {nth}: after another");
            if nth == 4 && op == Op::Sync {
                house.check_all();
            }
        }
    }
    assert!(failed > 20, "most of these faults stop a fold, and {failed} did");
}

#[test]
fn the_crash_test_notices_a_disk_that_does_not_sync() {
    // The mutant "no fsync".
    let mut noticed = 0;
    for seed in 0..8 {
        let mut house = half_folded(seed);
        let expected = house.total_events();
        house.disk.lie_about_sync(Lie::On);
        house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        house.store.fold_once(house.now.plus_ms(400 * DAY), FoldLimits::default()).unwrap();
        house.collect_garbage();
        house.disk.crash();
        house.disk.lie_about_sync(Lie::Off);
        let store = EmbeddedStore::open(
            house::dyn_disk(&house.disk),
            house.settings.clone(),
            Arc::clone(&house.views),
            Arc::clone(&house.plan),
        );
        let Ok(store) = store else {
            noticed += 1;
            continue;
        };
        for file in house.shards.iter().flat_map(|shard| &shard.kept) {
            store.adopt(file.clone());
        }
        let range = house.kept_range(Granularity::Day);
        noticed += usize::from(house::total_events(&store.pin(), range) != expected);
    }
    assert!(noticed > 0);
}

#[test]
fn a_full_disk_stops_folds_and_nothing_else() {
    let house = half_folded(1);
    let expected = house.total_events().unwrap();
    let before = house.disk.paths();
    house.disk.fill_up(600);
    assert!(house.store.fold_once(house.now, FoldLimits::default()).is_err());
    assert_eq!(house.total_events(), Ok(expected));
    assert_eq!(house.disk.paths(), before, "a failed fold gives its room back");
    house.disk.fill_up(1 << 30);
    house.store.fold_once(house.now, FoldLimits::default()).unwrap();
    assert_eq!(house.total_events(), Ok(expected));
    assert_eq!(house.store.stats().fold_failures, 1);
}

#[test]
fn a_damaged_newest_manifest_gives_way_to_the_one_before() {
    for seed in 0..6 {
        let mut house = half_folded(seed);
        let expected = house.total_events().unwrap();
        house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        // The stream throws away what the store says it may: never what the older one needs.
        house.collect_garbage();
        let manifests = manifest_paths(&house.disk);
        assert_eq!(manifests.len(), 2, "two are kept");
        let newest = manifests.last().unwrap();
        let bytes = house.disk.len_of(newest).unwrap();
        house.disk.flip_bit(newest, Dice::new(seed).below(bytes));
        house.reopen();
        assert_eq!(house.total_events(), Ok(expected));
        house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        house.check_all();
    }
}

#[test]
fn a_store_without_a_good_manifest_is_refused_and_left_alone() {
    let house = half_folded(2);
    for path in manifest_paths(&house.disk) {
        house.disk.flip_bit(&path, 20);
    }
    let before = house.disk.paths();
    let opened = EmbeddedStore::open(
        house::dyn_disk(&house.disk),
        house.settings.clone(),
        Arc::clone(&house.views),
        Arc::clone(&house.plan),
    );
    assert!(matches!(opened, Err(OpenError::NoGoodManifest { paths }) if paths.len() == 2));
    assert_eq!(house.disk.paths(), before);
}

fn by_window(
    house: &House,
    set: nilometer_rollups::declare::SetId,
    range: TimeRange,
    granularity: Granularity,
) -> house::Cells {
    house::model(&house.plan, house.all(), set, range, |time| time.window_start(granularity))
}

/// Every read of the range is right or says that it is damaged.
fn never_smaller(house: &House) -> usize {
    let mut damaged = 0;
    let pinned = house.store.pin();
    for granularity in Granularity::ALL {
        for set in house.sets() {
            let range = house.kept_range(granularity);
            let days = range.end.since(range.start) / DAY + 1;
            for day in 0..days {
                let start = range.start.plus_ms(day * DAY);
                let part = TimeRange { start, end: start.plus_ms(DAY).min(range.end) };
                let part = TimeRange { start: part.start.window_ceil(granularity), ..part };
                let part = part.outward(granularity);
                let request = house.request(set, granularity, part);
                match pinned.read(&request) {
                    Ok(rows) => {
                        let expected = by_window(house, set, part, granularity);
                        house::assert_same(&house.plan, set, &rows, &expected);
                    }
                    Err(ReadError::Damaged { windows, .. }) => {
                        assert!(!windows.is_empty());
                        damaged += 1;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
    }
    damaged
}

#[test]
fn a_flipped_bit_in_a_chunk_makes_its_windows_damaged_and_never_smaller() {
    let mut told = 0;
    for seed in 0..5 {
        let mut dice = Dice::new(100 + seed);
        let mut house = half_folded(seed);
        house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        let chunks = chunk_paths(&house.disk);
        let victim = &chunks[usize::try_from(dice.below(chunks.len() as u64)).unwrap()];
        let bytes = house.disk.len_of(victim).unwrap();
        // Not the magic of the head, which nobody reads.
        house.disk.flip_bit(victim, 8 + dice.below(bytes - 8));
        // A new store has nothing cached.
        house.reopen();
        never_smaller(&house);
        // Looking it over finds it, whoever asks, and tells it where alarms look.
        let mut after = None;
        let mut found = Vec::new();
        while let Some(chunk) = house.store.check_next(after.as_deref()) {
            found.extend((chunk.found == Checked::Damaged).then(|| chunk.name.clone()));
            after = Some(chunk.name);
        }
        // It may be one that only the older manifest lists.
        assert!(found.iter().all(|one| victim.ends_with(one)), "{found:?}, not {victim}");
        let stats = house.store.stats();
        assert_eq!(stats.chunks_unreadable, found.len() as u64);
        assert_eq!(stats.quarantined_cells > 0, !found.is_empty());
        told += found.len();
        // Folding goes on beside the damaged file, which stays damaged.
        let now = house.now.as_event_time();
        house.count(0, (0..20).map(|_| dice.seen(now)).collect());
        house.seal(0, |_| {});
        house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        never_smaller(&house);
    }
    assert!(told > 0);
}

#[test]
fn a_footer_that_is_damaged_or_a_chunk_that_is_gone_is_an_error_that_names_it() {
    let mut house = half_folded(3);
    house.store.fold_once(house.now, FoldLimits::default()).unwrap();
    let day_chunks = chunk_paths(&house.disk);
    for path in &day_chunks {
        house.disk.remove(path).unwrap();
    }
    house.disk.sync_dir("rollups/chunks").unwrap();
    house.reopen();
    let error = house.total_events().unwrap_err();
    let ReadError::Damaged { file, windows } = &error else { panic!("{error}") };
    assert!(file.starts_with("rollups/chunks/"));
    assert!(!windows.is_empty());
    assert!(error.to_string().contains("corrupt"));
}

#[test]
fn a_damaged_layer_is_read_as_damaged_and_given_up_only_after_several_folds() {
    let mut house = House::new(4, 1);
    let now = house.now.as_event_time();
    let event = |time: EventTime| Seen::Event {
        time,
        user: Some(1),
        dims: [("event_type", "view"), ("country", "DE")].into_iter().collect(),
        duration_sec: None,
    };
    let before = now.minus_ms(3 * DAY);
    house.count(0, vec![event(before)]);
    house.seal(0, |_| {});
    house.count(0, vec![event(now), event(now.minus_ms(2 * HOUR))]);
    house.seal(0, |_| {});
    let path = house.shards[0].kept[1].path.clone();
    // Behind magic and version: the first block, whichever that is.
    house.disk.flip_bit(&path, 14);
    let mut tries = 0;
    while let Err(error) = house.store.fold_once(house.now, FoldLimits::default()) {
        assert!(matches!(error, FoldError::Layer { ref file, .. } if *file == path), "{error}");
        tries += 1;
        assert!(never_smaller(&house) > 0, "damaged while it waits");
    }
    assert_eq!(tries, 3);
    assert!(never_smaller(&house) > 0, "and after it was folded");
    assert!(house.store.stats().damaged > 0);
    assert!(!house.store.pin().damaged().is_empty());
    house.reopen();
    assert!(never_smaller(&house) > 0, "and after a restart");
    let set = house.set(SetKind::Events, &[]);
    let range = TimeRange { start: before, end: before.plus_ms(MINUTE) };
    let rows = house.store.pin().read(&house.request(set, Granularity::Hour, range)).unwrap();
    assert_eq!(rows.len(), 1, "other windows are as they were");
}

#[test]
fn a_layer_whose_file_does_not_open_blocks_its_shard_until_it_is_restored() {
    let mut house = House::new(5, 2);
    let mut dice = Dice::new(5);
    let now = house.now.as_event_time();
    for shard in 0..2 {
        house.count(shard, (0..20).map(|_| dice.seen(now)).collect());
        house.seal(shard, |_| {});
    }
    let expected = house.total_events().unwrap();
    let path = house.shards[0].kept[0].path.clone();
    let end = house.disk.len_of(&path).unwrap();
    house.disk.flip_bit_at(&path, end - 1, 0);
    house.reopen();
    assert!(matches!(house.total_events(), Err(ReadError::Damaged { .. })));
    let report = house.store.fold_once(house.now, FoldLimits::default()).unwrap();
    assert_eq!(report.layers, 1, "the other shard is folded");
    assert_eq!(house.store.stats().layers_unreadable, 1);
    // The stream writes the same bytes again.
    house.disk.flip_bit_at(&path, end - 1, 0);
    house.store.fold_once(house.now, FoldLimits::default()).unwrap();
    assert_eq!(house.total_events(), Ok(expected));
    house.check_all();
}

#[test]
fn a_window_that_needs_a_second_pass_does_not_forget_the_damage_of_the_first() {
    // Every window is over the fold's bytes, at the first layer already.
    for victim in [0, 1, 2] {
        let mut house = House::new(12, 1);
        house.settings.fold_bytes_max = 1;
        house.reopen();
        let now = house.now.as_event_time();
        for _ in 0..3 {
            house.count(0, vec![view(now), view(now.minus_ms(3 * HOUR))]);
            house.seal(0, |_| {});
        }
        let path = house.shards[0].kept[victim].path.clone();
        house.disk.flip_bit(&path, 14);
        let mut tries = 0;
        while let Err(error) = house.store.fold_once(house.now, FoldLimits::default()) {
            assert!(matches!(error, FoldError::Layer { ref file, .. } if *file == path), "{error}");
            tries += 1;
            assert!(never_smaller(&house) > 0, "damaged while it waits");
        }
        assert_eq!(tries, 3, "layer {victim}");
        assert_eq!(house.store.stats().layers_waiting, 0);
        assert!(never_smaller(&house) > 0, "and after it was folded");
        assert!(house.store.stats().damaged > 0);
        house.collect_garbage();
        house.reopen();
        assert!(never_smaller(&house) > 0, "and after a restart");
    }
}

fn view(time: EventTime) -> Seen {
    Seen::Event {
        time,
        user: Some(1),
        dims: [("event_type", "view"), ("country", "DE")].into_iter().collect(),
        duration_sec: None,
    }
}

fn events_of_hour(house: &House, time: EventTime) -> Result<i64, ReadError> {
    let range = TimeRange { start: time, end: time.plus_ms(MINUTE) };
    let request = house.request(house.set(SetKind::Events, &[]), Granularity::Hour, range);
    let rows = house.store.pin().read(&request)?;
    Ok(rows.iter().map(|row| row.aggregates.counts[0]).sum())
}

#[test]
fn a_layer_whose_footer_is_damaged_costs_its_own_windows_and_stops_no_folding() {
    let mut house = House::new(8, 1);
    house.tells_windows = true;
    let now = house.now.as_event_time();
    let [first, second, third] = [3, 2, 1].map(|days| now.minus_ms(days * DAY));
    for time in [first, second, third] {
        house.count(0, vec![view(time)]);
        house.seal(0, |_| {});
    }
    let path = house.shards[0].kept[1].path.clone();
    let end = house.disk.len_of(&path).unwrap();
    house.disk.flip_bit_at(&path, end - 1, 0);
    house.reopen();
    let check = |house: &House| {
        assert!(matches!(events_of_hour(house, first), Ok(1)));
        assert!(matches!(events_of_hour(house, third), Ok(1)));
        let damaged = events_of_hour(house, second).unwrap_err();
        assert!(matches!(&damaged, ReadError::Damaged { file, .. } if *file == path), "{damaged}");
        assert!(matches!(house.total_events(), Err(ReadError::Damaged { .. })), "never smaller");
    };
    check(&house);
    let mut tries = 0;
    while let Err(error) = house.store.fold_once(house.now, FoldLimits::default()) {
        assert!(matches!(error, FoldError::Layer { ref file, .. } if *file == path), "{error}");
        tries += 1;
        check(&house);
    }
    assert_eq!(tries, 3);
    assert_eq!(house.store.stats().layers_waiting, 0, "what lies behind it is folded");
    check(&house);
    house.collect_garbage();
    house.reopen();
    check(&house);
    house.count(0, vec![view(now)]);
    house.seal(0, |_| {});
    assert_eq!(house.store.fold_once(house.now, FoldLimits::default()).unwrap().layers, 1);
    assert!(matches!(events_of_hour(&house, now), Ok(1)));
    check(&house);
}

#[test]
fn a_disk_that_refuses_a_layer_is_asked_for_good_and_loses_no_window() {
    let mut house = House::new(9, 2);
    let mut dice = Dice::new(9);
    let now = house.now.as_event_time();
    for shard in 0..2 {
        house.count(shard, (0..20).map(|_| dice.seen(now)).collect());
        house.seal(shard, |_| {});
    }
    let expected = house.total_events().unwrap();
    house.disk.fail_next(Fault::next(Op::Read).for_ever());
    for _ in 0..12 {
        let refused = house.store.fold_once(house.now, FoldLimits::default());
        let waits = matches!(&refused, Ok(report) if report.layers == 0);
        assert!(waits || matches!(refused, Err(FoldError::Refused { .. })), "{refused:?}");
        assert_eq!(house.store.stats().damaged, 0);
        house.now = house.now.plus_ms(20 * MINUTE);
        house.publish_all();
    }
    assert!(house.store.stats().layers_refused > 0);
    house.disk.heal();
    assert_eq!(house.store.fold_once(house.now, FoldLimits::default()).unwrap().layers, 2);
    assert_eq!(house.store.stats().layers_refused, 0);
    assert_eq!(house.total_events(), Ok(expected));
    house.check_all();
}

#[test]
fn while_one_shard_waits_for_the_disk_the_others_are_folded() {
    let mut house = House::new(10, 2);
    let mut dice = Dice::new(10);
    let now = house.now.as_event_time();
    for shard in 0..2 {
        house.count(shard, (0..20).map(|_| dice.seen(now)).collect());
        house.seal(shard, |_| {});
    }
    let expected = house.total_events().unwrap();
    house.disk.fail_next(Fault::next(Op::Read).for_ever());
    let refused = house.store.fold_once(house.now, FoldLimits::default()).unwrap_err();
    assert!(matches!(refused, FoldError::Refused { tries: 1, .. }), "{refused}");
    house.disk.heal();
    assert_eq!(house.store.fold_once(house.now, FoldLimits::default()).unwrap().layers, 1);
    assert_eq!(house.store.fold_once(house.now, FoldLimits::default()).unwrap().layers, 0);
    assert_eq!(house.total_events(), Ok(expected));
    house.now = house.now.plus_ms(MINUTE);
    house.publish_all();
    assert_eq!(house.store.fold_once(house.now, FoldLimits::default()).unwrap().layers, 1);
    house.check_all();
}

#[test]
fn history_goes_into_the_base_piece_by_piece() {
    let mut house = House::new(11, 2);
    house.settings.fold_file_bytes_max = 1;
    house.reopen();
    let mut dice = Dice::new(11);
    let now = house.now.as_event_time();
    for _ in 0..3 {
        for shard in 0..2 {
            house.count(shard, (0..20).map(|_| dice.seen(now)).collect());
            house.seal(shard, |_| {});
        }
    }
    for left in (0..6).rev() {
        let report = house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        assert_eq!((report.layers, report.waiting), (1, left));
        house.check_some(&mut dice);
    }
    house.check_all();
}

#[test]
fn a_read_that_fails_once_is_an_error_once() {
    let house = half_folded(6);
    let expected = house.total_events().unwrap();
    let mut reopened = half_folded(6);
    reopened.reopen();
    reopened.disk.fail_next(Fault::next(Op::OpenRead).kind(FaultKind::Error));
    assert!(matches!(reopened.total_events(), Err(ReadError::Damaged { .. })));
    assert_eq!(reopened.total_events(), Ok(expected));
}

/// What a look-over finds, of all files of the base or of those that the disk refused.
fn look_over(
    store: &EmbeddedStore,
    next: fn(&EmbeddedStore, Option<&str>) -> Option<nilometer_rollups::CheckedChunk>,
) -> Vec<Checked> {
    let (mut after, mut found) = (None, Vec::new());
    while let Some(chunk) = next(store, after.as_deref()) {
        found.push(chunk.found);
        after = Some(chunk.name);
    }
    found
}

#[test]
fn a_disk_that_refuses_a_file_of_the_base_makes_no_damage_and_is_asked_again() {
    for op in [Op::OpenRead, Op::Read] {
        let mut house = half_folded(6);
        house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        let expected = house.total_events().unwrap();
        house.reopen();
        house.disk.fail_next(Fault::next(op));
        let found = look_over(&house.store, EmbeddedStore::check_next);
        let refused =
            |found: &[Checked]| found.iter().filter(|it| **it == Checked::Refused).count();
        assert_eq!((refused(&found), found.contains(&Checked::Damaged)), (1, false), "{op:?}");
        let known = |house: &House| {
            let stats = house.store.stats();
            (stats.chunks_refused, stats.chunks_unreadable, stats.quarantined_cells)
        };
        assert_eq!(known(&house), (1, 0, 0), "{op:?}");
        // It is read by whoever asks, and folding goes on beside it.
        assert_eq!(house.total_events(), Ok(expected));
        let now = house.now.as_event_time();
        house.count(0, vec![view(now)]);
        house.seal(0, |_| {});
        house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        assert_eq!(house.total_events(), Ok(expected + 1));
        // While the disk goes on refusing it stays as it is; then it is checked.
        house.disk.fail_next(Fault::next(op).for_ever());
        let found = look_over(&house.store, EmbeddedStore::check_next_refused);
        assert_eq!(found, [Checked::Refused], "{op:?}");
        house.disk.heal();
        let found = look_over(&house.store, EmbeddedStore::check_next_refused);
        assert_eq!(found, [Checked::Good], "{op:?}");
        assert_eq!(known(&house), (0, 0, 0), "{op:?}");
        house.check_all();
    }
}

#[test]
fn a_reader_whom_the_disk_refused_leaves_a_file_that_is_checked_again() {
    let mut house = half_folded(6);
    house.store.fold_once(house.now, FoldLimits::default()).unwrap();
    let expected = house.total_events().unwrap();
    house.reopen();
    house.disk.fail_next(Fault::next(Op::Read));
    assert!(matches!(house.total_events(), Err(ReadError::Damaged { .. })));
    let stats = house.store.stats();
    assert_eq!((stats.chunks_refused, stats.chunks_unreadable), (1, 0));
    let found = look_over(&house.store, EmbeddedStore::check_next_refused);
    assert_eq!(found, [Checked::Good]);
    assert_eq!(house.store.stats().chunks_refused, 0);
    assert_eq!(house.total_events(), Ok(expected));
}

#[test]
fn a_layer_that_the_disk_refuses_to_open_is_told_as_refused_and_opens_later() {
    let mut house = House::new(13, 1);
    let now = house.now.as_event_time();
    house.count(0, vec![view(now)]);
    house.seal(0, |_| {});
    house.disk.fail_next(Fault::next(Op::OpenRead));
    house.reopen();
    let stats = house.store.stats();
    assert_eq!((stats.layers_refused, stats.layers_unreadable), (1, 0));
    house.store.fold_once(house.now, FoldLimits::default()).unwrap();
    let stats = house.store.stats();
    assert_eq!((stats.layers_refused, stats.layers_unreadable), (0, 0));
    assert_eq!(house.total_events(), Ok(1));
}

#[test]
fn a_fold_that_forgot_a_layer_would_be_noticed() {
    // The mutant "a fold that loses a layer": the cut passes a layer whose cells were not taken.
    let mut house = half_folded(7);
    let lost = house.shards[0].kept.pop().unwrap();
    let mut skipping = lost.clone();
    skipping.layer = skipping.layer.next();
    let mut dice = Dice::new(7);
    let now = house.now.as_event_time();
    let seen: Vec<Seen> = (0..15).map(|_| dice.seen(now)).collect();
    house.count(0, seen);
    house.disk.crash();
    house.reopen();
    house.seal(0, |_| {});
    house.store.fold_once(house.now, FoldLimits::default()).unwrap();
    house.store.adopt(lost);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| house.check_all()));
    assert!(caught.is_err(), "the model misses the layer's cells");
}
