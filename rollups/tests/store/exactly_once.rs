//! Every cell of every set and granularity against the model, whatever is sealed, folded, read
//! or restarted in between.

use std::collections::BTreeMap;

use crate::house::{self, DAY, Dice, HOUR, House, MINUTE, Seen};
use nilometer_event::{Granularity, TimeRange};
use nilometer_rollups::cells::{DimFilter, OwnedDimValue};
use nilometer_rollups::declare::SetKind;
use nilometer_rollups::view::LayerSink;
use nilometer_rollups::{Ask, FoldLimits, Rows, Store};

/// One step of the storm.
fn step(house: &mut House, dice: &mut Dice) {
    let shard = usize::try_from(dice.below(house.shards.len() as u64)).unwrap();
    match dice.below(10) {
        0..=3 => {
            let now = house.now.as_event_time();
            let seen = (0..dice.below(12)).map(|_| dice.seen(now)).collect();
            house.count(shard, seen);
        }
        4 | 5 => house.seal(shard, |_| {}),
        6 | 7 => {
            let layers_max = usize::try_from(1 + dice.below(6)).unwrap();
            house.store.fold_once(house.now, FoldLimits { layers_min: 1, layers_max }).unwrap();
        }
        8 => house.collect_garbage(),
        _ => house.reopen(),
    }
    let passed = dice.pick(&[1_000, MINUTE, 20 * MINUTE]);
    house.now = house.now.plus_ms(passed);
    house.publish_all();
}

#[test]
fn every_cell_is_counted_once_whatever_is_folded_and_when() {
    for seed in 0..6 {
        let mut dice = Dice::new(seed);
        let mut house = House::new(seed, 2);
        for _ in 0..60 {
            step(&mut house, &mut dice);
            house.check_some(&mut dice);
        }
        house.check_all();
    }
}

#[test]
fn a_pin_taken_between_any_two_steps_of_a_seal_misses_nothing_and_repeats_nothing() {
    let mut dice = Dice::new(7);
    let mut house = House::new(7, 2);
    for _ in 0..8 {
        let now = house.now.as_event_time();
        let seen: Vec<Seen> = (0..20).map(|_| dice.seen(now)).collect();
        house.count(0, seen);
        let expected = house.total_events().unwrap();
        house.seal(0, |house| assert_eq!(house.total_events(), Ok(expected)));
        house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        assert_eq!(house.total_events(), Ok(expected));
    }
}

#[test]
fn a_folded_layer_that_is_offered_again_is_not_counted_again() {
    let mut dice = Dice::new(3);
    let mut house = House::new(3, 1);
    let now = house.now.as_event_time();
    house.count(0, (0..50).map(|_| dice.seen(now)).collect());
    house.seal(0, |_| {});
    let expected = house.total_events().unwrap();
    house.store.fold_once(house.now, FoldLimits::default()).unwrap();
    // The file is kept until a second manifest covers it, so a restart offers it again.
    assert_eq!(house.shards[0].kept.len(), 1);
    house.store.adopt(house.shards[0].kept[0].clone());
    assert_eq!(house.total_events(), Ok(expected));
    house.reopen();
    assert_eq!(house.total_events(), Ok(expected));
    house.check_all();
}

#[test]
fn a_layer_that_is_replayed_as_the_open_one_is_skipped_while_the_base_holds_it() {
    let mut dice = Dice::new(4);
    let mut house = House::new(4, 1);
    let now = house.now.as_event_time();
    let seen: Vec<Seen> = (0..50).map(|_| dice.seen(now)).collect();
    house.count(0, seen.clone());
    house.seal(0, |_| {});
    house.store.fold_once(house.now, FoldLimits::default()).unwrap();
    let expected = house.total_events().unwrap();
    // The stream fell back to the checkpoint before: layer 1 is open again, half replayed.
    house.shards[0].number = nilometer_rollups::view::LayerNumber::FIRST;
    house.shards[0].open = seen[..20].to_vec();
    house.reopen();
    assert_eq!(house.total_events(), Ok(expected));
}

#[test]
fn a_pinned_version_reads_the_same_after_folds_and_removals() {
    let mut dice = Dice::new(5);
    let mut house = House::new(5, 2);
    for _ in 0..6 {
        for shard in 0..2 {
            let now = house.now.as_event_time();
            house.count(shard, (0..30).map(|_| dice.seen(now)).collect());
            house.seal(shard, |_| {});
        }
        house.store.fold_once(house.now, FoldLimits { layers_min: 1, layers_max: 1 }).unwrap();
    }
    let pinned = house.store.pin();
    let range = house.kept_range(Granularity::Day);
    let before = house::total_events(&pinned, range);
    for _ in 0..4 {
        house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        house.collect_garbage();
        house.now = house.now.plus_ms(4 * HOUR);
        let now = house.now.as_event_time();
        house.count(0, vec![dice.seen(now)]);
        house.seal(0, |_| {});
    }
    assert_eq!(house::total_events(&pinned, range), before);
    // Once nothing is pinned, every layer but the newest fold's can go.
    drop(pinned);
    house.store.fold_once(house.now, FoldLimits::default()).unwrap();
    house.collect_garbage();
    let kept: usize = house.shards.iter().map(|shard| shard.kept.len()).sum();
    assert_eq!(kept, 1, "the layer of the last fold waits for the next manifest");
}

#[test]
fn sessions_that_are_taken_back_leave_no_row() {
    let mut house = House::new(6, 1);
    let start = house.now.as_event_time().minus_ms(MINUTE);
    let session = |sign| Seen::Session {
        start,
        dims: [("country", "DE")].into_iter().collect(),
        duration_ms: 5_000,
        sign,
    };
    house.count(0, vec![session(1)]);
    house.seal(0, |_| {});
    house.store.fold_once(house.now, FoldLimits::default()).unwrap();
    house.count(0, vec![session(-1)]);
    house.check_all();
    house.seal(0, |_| {});
    house.store.fold_once(house.now, FoldLimits::default()).unwrap();
    let set = house.set(SetKind::Sessions, &["country"]);
    let request = house.request(set, Granularity::Hour, house.kept_range(Granularity::Hour));
    assert_eq!(house.store.pin().read(&request).unwrap(), Vec::new());
}

#[test]
fn totals_are_read_from_tiles_and_equal_the_model() {
    for seed in 20..24 {
        let mut dice = Dice::new(seed);
        let mut house = House::new(seed, 2);
        for _ in 0..40 {
            step(&mut house, &mut dice);
        }
        for _ in 0..10 {
            let end =
                house.now.as_event_time().minus_ms(i64::try_from(dice.below(5)).unwrap() * 777_777);
            let length = dice.pick(&[7 * MINUTE, 5 * HOUR, 3 * DAY, 29 * DAY, 45 * DAY]);
            let pinned = house.store.pin();
            let range = pinned.outward(TimeRange { start: end.minus_ms(length), end });
            let set = dice.pick(&house.sets());
            let request = house.request(set, Granularity::Minute, range);
            let answer = pinned.total(&request).unwrap();
            let expected = house::model(&house.plan, house.all(), set, range, |_| range.start);
            house::assert_same(&house.plan, set, &answer.rows, &expected);
        }
    }
}

#[test]
fn filters_select_values_nulls_and_what_clients_call_other() {
    let mut dice = Dice::new(8);
    let mut house = House::new(8, 2);
    for round in 0..4 {
        let now = house.now.as_event_time();
        house.count(round % 2, (0..80).map(|_| dice.seen(now)).collect());
        if round < 3 {
            house.seal(round % 2, |_| {});
        }
        if round == 1 {
            house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        }
    }
    let set = house.set(SetKind::Events, &["country", "content_category"]);
    let range = house.kept_range(Granularity::Day);
    let mut request = house.request(set, Granularity::Day, range);
    let text = |text: &str| OwnedDimValue::Text(text.into());
    let names: Vec<&str> = house
        .plan
        .set(set)
        .dims
        .iter()
        .map(|dim| house.plan.dimensions[dim.index()].name.as_str())
        .collect();
    let of = |name: &str| names.iter().position(|own| *own == name).unwrap();
    let (country, category) = (of("country"), of("content_category"));
    request.filter[country] = Some(DimFilter::any_of([text("DE"), OwnedDimValue::Null]));
    request.filter[category] = Some(DimFilter::any_of([text("__other__"), OwnedDimValue::Other]));
    let answer = house.store.pin().answer(&request).unwrap();
    let mut expected = house::model(&house.plan, house.all(), set, range, |time| {
        time.window_start(Granularity::Day)
    });
    expected.retain(|(_, dims), _| {
        [text("DE"), OwnedDimValue::Null].contains(&dims[country])
            && dims[category] == text("__other__")
    });
    assert!(!expected.is_empty());
    house::assert_same(&house.plan, set, &answer.rows, &expected);
    assert_eq!(answer.folded, [false, false], "a client's own __other__ is not ours");
}

#[test]
fn cells_and_facts_of_one_moment_agree() {
    let mut dice = Dice::new(9);
    let mut house = House::new(9, 2);
    for round in 0..6 {
        let now = house.now.as_event_time();
        house.count(round % 2, (0..30).map(|_| dice.seen(now)).collect());
        if round % 3 == 0 {
            house.seal(round % 2, |_| {});
            house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        }
        let pinned = house.store.pin();
        let set = house.set(SetKind::Events, &[]);
        let request = house.request(set, Granularity::Day, house.kept_range(Granularity::Day));
        let ask = Ask { request, rows: Rows::Windows, estimated: true, rows_max: usize::MAX };
        let (answers, moment) = pinned.read_together(&[ask.clone(), ask]);
        let slot = house::count_slot(&house.plan, "events");
        for answer in answers {
            let rows = answer.unwrap().rows;
            let events: i64 = rows.iter().map(|row| row.aggregates.counts[slot]).sum();
            assert_eq!(u64::try_from(events).unwrap(), moment.counters().unique);
        }
    }
}

#[test]
fn many_users_have_the_same_registers_however_they_were_folded() {
    let mut house = House::new(10, 2);
    let now = house.now.as_event_time();
    let user = |user: u64| Seen::Event {
        time: now,
        user: Some(user.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        dims: [("event_type", "view"), ("country", "DE")].into_iter().collect(),
        duration_sec: None,
    };
    let mut direct = nilometer_rollups::aggregate::Distinct::new();
    for layer in 0..5_u64 {
        let users: Vec<Seen> = (layer * 400..layer * 400 + 600).map(user).collect();
        for seen in &users {
            if let Seen::Event { user: Some(user), .. } = seen {
                direct.insert_hash(nilometer_event::UserHash::new(*user));
            }
        }
        let shard = usize::try_from(layer % 2).unwrap();
        house.count(shard, users);
        house.seal(shard, |_| {});
        if layer == 2 {
            house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        }
    }
    let set = house.set(SetKind::Events, &["country"]);
    let slot = house::distinct_slot(&house.plan);
    let read = |house: &House| {
        let range = house.kept_range(Granularity::Hour);
        house.store.pin().read(&house.request(set, Granularity::Hour, range)).unwrap()
    };
    assert_eq!(read(&house)[0].aggregates.distincts[slot], direct);
    house.store.fold_once(house.now, FoldLimits::default()).unwrap();
    assert_eq!(read(&house)[0].aggregates.distincts[slot], direct);
    // One closed cell of the base: its estimate is read without its sketch.
    let range = house.kept_range(Granularity::Hour);
    let request = house.request(set, Granularity::Hour, range);
    let answer = house.store.pin().read_estimated(&request).unwrap();
    let row = &answer.rows[0];
    assert!(row.aggregates.distincts[slot].is_empty());
    let estimate = row.distinct(slot).unwrap();
    assert!((estimate.value - direct.estimate()).abs() < 1e-9);
    assert!(!estimate.exact);
}

#[test]
fn a_fold_splits_what_does_not_fit_its_memory_and_gives_the_same_cells() {
    let mut dice = Dice::new(11);
    let mut house = House::new(11, 1);
    house.settings.fold_bytes_max = 4_096;
    house.reopen();
    for _ in 0..3 {
        let now = house.now.as_event_time();
        house.count(0, (0..60).map(|_| dice.seen(now)).collect());
        house.seal(0, |_| {});
        house.store.fold_once(house.now, FoldLimits::default()).unwrap();
    }
    house.check_all();
}

/// By dimension how often each value counted, the most frequent first.
fn values_by_frequency(house: &House, dimension: &'static str) -> Vec<OwnedDimValue> {
    let mut counts: BTreeMap<OwnedDimValue, i64> = BTreeMap::new();
    for seen in house.all() {
        let Seen::Event { dims, .. } = seen else { continue };
        let value = dims
            .get(dimension)
            .map_or(OwnedDimValue::Null, |text| OwnedDimValue::Text((*text).into()));
        *counts.entry(value).or_default() += 1;
    }
    let mut values: Vec<(i64, OwnedDimValue)> =
        counts.into_iter().map(|(value, count)| (-count, value)).collect();
    values.sort();
    values.into_iter().map(|(_, value)| value).collect()
}

#[test]
fn known_values_of_all_dimensions_come_most_frequent_first_however_many_there_are() {
    let names = ["country", "device_type", "channel", "content_id", "event_type"];
    for many in [0, 3_000] {
        let mut dice = Dice::new(many);
        let mut house = House::new(12, 2);
        let now = house.now.as_event_time();
        for shard in 0..2 {
            let seen = (0..200).map(|_| dice.seen(now));
            house.count(shard, seen.filter(|one| now.since(one.time()) < 20 * DAY).collect());
            let contents = (0..many).map(|n| {
                let text: &'static str = Box::leak(format!("c-{n}").into_boxed_str());
                let dims = BTreeMap::from([("event_type", "view"), ("content_id", text)]);
                Seen::Event { time: now, user: Some(1), dims, duration_sec: None }
            });
            house.count(shard, contents.collect());
            if shard == 0 {
                house.seal(shard, |_| {});
            }
        }
        let dimensions = names.map(|name| house.plan.dimension(name).unwrap());
        for _ in 0..2 {
            for limit in [1, 100] {
                let known = house.store.pin().known_values(&dimensions, limit);
                for (name, known) in names.into_iter().zip(known) {
                    let mut expected = values_by_frequency(&house, name);
                    expected.truncate(limit);
                    assert_eq!(known.unwrap(), expected, "{name}");
                }
            }
            house.seal(1, |_| {});
            house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        }
    }
}
