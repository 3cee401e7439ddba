//! Answers group by group against the model: every row once, in order, in little memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use nilometer_event::{EventTime, Granularity, TimeRange};
use nilometer_log::disk::Disk;
use nilometer_rollups::cells::{DimFilter, OwnedDimValue};
use nilometer_rollups::declare::{SetId, SetKind};
use nilometer_rollups::{Ask, FoldLimits, GroupAsk, GroupsOf, ReadError, Row, Rows, Store};

use crate::house::{self, Cells, Dice, Expected, HOUR, House, MINUTE, Seen};

/// The model's cells by fewer dimensions, of the windows that each has.
fn by_places(cells: Cells, by: &[usize]) -> Cells {
    let mut grouped = Cells::new();
    for ((window, dims), cell) in cells {
        let dims: Vec<OwnedDimValue> = by.iter().map(|&place| dims[place].clone()).collect();
        let own: &mut Expected = grouped.entry((window, dims)).or_default();
        own.count += cell.count;
        own.sum += cell.sum;
        own.users.extend(cell.users);
    }
    grouped.retain(|_, cell| cell.count != 0);
    grouped
}

/// Every row of one question, whose groups must ascend and come once.
fn rows_of(house: &House, ask: &GroupAsk, of: GroupsOf) -> Result<Vec<Row>, ReadError> {
    let mut groups = house.store.pin().groups(std::slice::from_ref(ask), of)?;
    let (mut rows, mut before) = (Vec::new(), None);
    for group in groups.by_ref() {
        let group = group?;
        let window = match of {
            GroupsOf::Values => EventTime::MIN,
            GroupsOf::WindowsAndValues => group.rows[0].1,
        };
        let key = (window, Arc::clone(&group.dims));
        assert!(before.as_ref().is_none_or(|before| *before < key), "{before:?}, then {key:?}");
        before = Some(key);
        for (asked, window, aggregates) in group.rows {
            assert_eq!(asked, 0);
            let filling = nilometer_rollups::aggregate::SlotMask::NONE;
            let dims = Arc::clone(&group.dims);
            rows.push(Row { window, dims, aggregates, estimates: Vec::new(), filling });
        }
    }
    assert!(groups.most_bytes() <= house.settings.read_bytes_max, "{}", groups.most_bytes());
    rows.sort_by(|a, b| (a.window, &a.dims).cmp(&(b.window, &b.dims)));
    Ok(rows)
}

fn check(house: &House, dice: &mut Dice, set: SetId) {
    let granularity = dice.pick(&Granularity::ALL);
    let range = house.kept_range(granularity);
    let plan = &house.plan;
    let dims = plan.set(set).dims.len();
    let by: Vec<usize> = (0..dims).filter(|_| !dice.one_in(3)).collect();
    let of = dice.pick(&[GroupsOf::Values, GroupsOf::WindowsAndValues]);
    let mut request = house.request(set, granularity, range);
    // A dimension that is left out of the group may be filtered.
    let filtered = (0..dims).find(|place| !by.contains(place)).filter(|_| dice.one_in(2));
    let values =
        [OwnedDimValue::Text("DE".into()), OwnedDimValue::Text("tv".into()), OwnedDimValue::Null];
    if let Some(place) = filtered {
        request.filter[place] = Some(DimFilter::any_of(values.clone()));
    }
    let total = dice.one_in(3);
    let rows = if total { Rows::Total } else { Rows::Windows };
    if total {
        request.range = house.store.pin().outward(range);
    }
    let start = request.range.start;
    let window = |time: EventTime| if total { start } else { time.window_start(granularity) };
    let mut expected = house::model(plan, house.all(), set, request.range, window);
    if let Some(place) = filtered {
        expected.retain(|(_, dims), _| values.contains(&dims[place]));
    }
    let wanted = request.filter.clone();
    let ask = Ask { request, rows, estimated: false, rows_max: usize::MAX };
    let ask = GroupAsk { ask, by, wanted, shift_ms: 0 };
    let got = rows_of(house, &ask, of).unwrap();
    house::assert_same(plan, set, &got, &by_places(expected, &ask.by));
}

#[test]
fn groups_hold_every_cell_once_whatever_is_folded_and_what_makes_them() {
    for seed in 0..4 {
        let mut dice = Dice::new(seed);
        let mut house = House::new(seed, 2);
        for round in 0..8 {
            let now = house.now.as_event_time();
            let shard = usize::from(dice.one_in(2));
            house.count(shard, (0..40).map(|_| dice.seen(now)).collect());
            if dice.one_in(2) {
                house.seal(shard, |_| {});
            }
            if round % 3 == 1 {
                house.store.fold_once(house.now, FoldLimits::default()).unwrap();
            }
            house.now = house.now.plus_ms(10 * MINUTE);
            house.publish_all();
            let sets = house.sets();
            for _ in 0..12 {
                let set = dice.pick(&sets);
                check(&house, &mut dice, set);
            }
        }
    }
}

/// An event of one content, three minutes ago.
fn view(house: &House, content: usize) -> Seen {
    let text: &'static str = Box::leak(format!("c-{content:05}").into_boxed_str());
    let dims = BTreeMap::from([("event_type", "view"), ("content_id", text)]);
    let time = house.now.as_event_time().minus_ms(3 * MINUTE);
    Seen::Event { time, user: Some(content as u64), dims, duration_sec: None }
}

#[test]
fn more_values_than_memory_holds_rows_of_are_shown_one_after_the_other() {
    const VALUES: usize = 20_000;
    let mut house = House::new(7, 2);
    house.settings.read_bytes_max = 6 << 20;
    house.reopen();
    // Half of the values in chunks, a part of them in a waiting layer, too, a part in the open one.
    for shard in 0..2 {
        let mine = |range: std::ops::Range<usize>| range.filter(move |n| n % 2 == shard);
        let seen: Vec<Seen> = mine(0..VALUES / 2).map(|n| view(&house, n)).collect();
        house.count(shard, seen);
        house.seal(shard, |_| {});
    }
    house.store.fold_once(house.now, FoldLimits::default()).unwrap();
    house.now = house.now.plus_ms(MINUTE);
    for shard in 0..2 {
        let mine = |range: std::ops::Range<usize>| range.filter(move |n| n % 2 == shard);
        let seen: Vec<Seen> = mine(VALUES / 4..VALUES * 3 / 4).map(|n| view(&house, n)).collect();
        house.count(shard, seen);
        house.seal(shard, |_| {});
        let seen: Vec<Seen> = mine(VALUES / 2..VALUES).map(|n| view(&house, n)).collect();
        house.count(shard, seen);
    }
    let set = house.set(SetKind::Events, &["content_id"]);
    let end = house.now.as_event_time();
    let range = TimeRange { start: end.minus_ms(HOUR), end }.outward(Granularity::Hour);
    let mut request = house.request(set, Granularity::Hour, range);
    request.want = house.plan.metric("events").unwrap().slots();
    let whole = house.store.pin().total(&request).unwrap_err();
    assert!(matches!(whole, ReadError::TooLarge { .. }), "{whole}");
    let ask = Ask { request, rows: Rows::Total, estimated: false, rows_max: usize::MAX };
    assert!(!house.store.pin().has_too_many(&ask), "half of the values would do");
    let ask = GroupAsk { ask, by: vec![0], wanted: vec![None], shift_ms: 0 };
    let slot = house::count_slot(&house.plan, "events");
    let got: Vec<(OwnedDimValue, i64)> = rows_of(&house, &ask, GroupsOf::Values)
        .unwrap()
        .into_iter()
        .map(|row| (row.dims[0].clone(), row.aggregates.counts[slot]))
        .collect();
    let times = |n: usize| {
        [0..VALUES / 2, VALUES / 4..VALUES * 3 / 4, VALUES / 2..VALUES]
            .iter()
            .filter(|range| range.contains(&n))
            .count()
    };
    let expected: Vec<(OwnedDimValue, i64)> = (0..VALUES)
        .map(|n| {
            (OwnedDimValue::Text(format!("c-{n:05}").into()), i64::try_from(times(n)).unwrap())
        })
        .collect();
    assert!(got == expected, "{} groups, not {}", got.len(), expected.len());
    // Once chunks hold them all, that is known beforehand.
    (0..2).for_each(|shard| house.seal(shard, |_| {}));
    house.store.fold_once(house.now, FoldLimits::default()).unwrap();
    assert!(house.store.pin().has_too_many(&ask.ask));
    assert_eq!(rows_of(&house, &ask, GroupsOf::Values).unwrap().len(), VALUES);
    // The catalogue's values are found among as many.
    let content = house.plan.dimension("content_id").unwrap();
    let known = house.store.pin().known_values(&[content], 3).pop().unwrap().unwrap();
    let first = VALUES / 4;
    let expected: Vec<OwnedDimValue> =
        (first..first + 3).map(|n| OwnedDimValue::Text(format!("c-{n:05}").into())).collect();
    assert_eq!(known, expected);
}

#[test]
fn groups_of_what_is_damaged_are_an_error_and_never_fewer() {
    let mut house = House::new(8, 1);
    let seen: Vec<Seen> = (0..5_000).map(|n| view(&house, n)).collect();
    house.count(0, seen);
    house.seal(0, |_| {});
    house.store.fold_once(house.now, FoldLimits::default()).unwrap();
    let set = house.set(SetKind::Events, &["content_id"]);
    let end = house.now.as_event_time();
    let range = TimeRange { start: end.minus_ms(HOUR), end }.outward(Granularity::Hour);
    let request = house.request(set, Granularity::Hour, range);
    let ask = Ask { request, rows: Rows::Total, estimated: false, rows_max: usize::MAX };
    let ask = GroupAsk { ask, by: vec![0], wanted: vec![None], shift_ms: 0 };
    assert_eq!(rows_of(&house, &ask, GroupsOf::Values).unwrap().len(), 5_000);
    for path in crate::faults::chunk_paths(&house.disk) {
        // Every section; the footer stays as it is.
        let sections = house.disk.read(&path).unwrap().len() / 2;
        (8..sections).step_by(16).for_each(|at| house.disk.flip_bit(&path, at as u64));
    }
    house.reopen();
    let refused = rows_of(&house, &ask, GroupsOf::Values).map(|rows| rows.len()).unwrap_err();
    assert!(matches!(refused, ReadError::Damaged { .. }), "{refused}");
}

#[test]
fn whatever_layers_hold_an_answer_keeps_to_its_bytes_or_is_refused() {
    const VALUES: usize = 3_000;
    let mut house = House::new(9, 2);
    // The same values in each of many layers, waiting and open, and in chunks.
    for round in 0..6 {
        for shard in 0..2 {
            let seen: Vec<Seen> = (0..VALUES).map(|n| view(&house, n)).collect();
            house.count(shard, seen);
            house.seal(shard, |_| {});
        }
        if round == 1 {
            house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        }
        house.now = house.now.plus_ms(MINUTE);
    }
    (0..2).for_each(|shard| house.count(shard, (0..VALUES).map(|n| view(&house, n)).collect()));
    let set = house.set(SetKind::Events, &["content_id"]);
    let end = house.now.as_event_time();
    let range = TimeRange { start: end.minus_ms(HOUR), end }.outward(Granularity::Hour);
    let expected = house::model(&house.plan, house.all(), set, range, |_| range.start);
    let mut outcomes = Vec::new();
    for kib in [32, 256, 1_024, 1_536, 2_048, 8_192, 65_536] {
        house.settings.read_bytes_max = kib << 10;
        house.reopen();
        let mut request = house.request(set, Granularity::Minute, range);
        request.want = house.plan.metric("events").unwrap().slots();
        let ask = Ask { request, rows: Rows::Total, estimated: false, rows_max: usize::MAX };
        let ask = GroupAsk { ask, by: vec![0], wanted: vec![None], shift_ms: 0 };
        match rows_of(&house, &ask, GroupsOf::Values) {
            Ok(rows) => {
                let slot = house::count_slot(&house.plan, "events");
                let counts = rows.iter().map(|row| (&row.dims[..], row.aggregates.counts[slot]));
                let expected = expected.iter().map(|((_, dims), cell)| (&dims[..], cell.count));
                assert!(counts.eq(expected), "{kib} KiB");
                outcomes.push((kib, true));
            }
            Err(ReadError::TooLarge { bytes_max }) => {
                assert_eq!(bytes_max, kib << 10);
                outcomes.push((kib, false));
            }
            Err(other) => panic!("{other}"),
        }
    }
    let fits: Vec<bool> = outcomes.iter().map(|(_, fits)| *fits).collect();
    assert!(fits.is_sorted(), "what fits into less fits into more: {outcomes:?}");
    // One unsummed layer has 0.3 MB here, and there are ten beside the chunks.
    assert!(!fits[0] && fits[4], "{outcomes:?}");
}
