//! What is kept in memory, seen from outside by the reads that it saves.

use nilometer_event::Granularity;
use nilometer_rollups::declare::SetKind;
use nilometer_rollups::{FoldLimits, Store};

use crate::house::{Dice, House, Seen};

/// Counts and seals some hundred events, so that every span of days has some.
fn round(house: &mut House, dice: &mut Dice) {
    let now = house.now.as_event_time();
    let seen: Vec<Seen> = (0..300).map(|_| dice.seen(now)).collect();
    house.count(0, seen);
    house.seal(0, |_| {});
}

/// Reads days by country, users too; gives how often that went to the disk.
fn misses_of_a_read(house: &House) -> u64 {
    let before = house.store.stats().cache_misses;
    let set = house.set(SetKind::Events, &["country"]);
    let request = house.request(set, Granularity::Day, house.kept_range(Granularity::Day));
    let pinned = house.store.pin();
    assert!(!pinned.read(&request).unwrap().is_empty());
    assert!(!pinned.read_estimated(&request).unwrap().rows.is_empty());
    house.store.stats().cache_misses - before
}

#[test]
fn a_layer_that_waits_is_decoded_once() {
    let mut house = House::new(21, 1);
    round(&mut house, &mut Dice::new(21));
    assert!(misses_of_a_read(&house) > 0);
    assert_eq!(misses_of_a_read(&house), 0);
}

#[test]
fn after_a_fold_nobody_goes_to_the_disk_who_did_not_before() {
    let mut house = House::new(22, 1);
    let mut dice = Dice::new(22);
    for fold in 0..4 {
        round(&mut house, &mut dice);
        let report = house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        assert!(report.chunks_written > 0);
        let misses = misses_of_a_read(&house);
        assert_eq!(misses > 0, fold == 0, "{misses} misses after fold {fold}");
        house.check_set(house.set(SetKind::Events, &["country"]), Granularity::Day);
    }
}
