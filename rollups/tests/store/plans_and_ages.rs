//! Plans that change, and granularities that grow old.

use std::sync::Arc;

use crate::house::{self, DAY, Dice, HOUR, House, MINUTE, Seen};
use nilometer_event::{EventTime, Granularity, TimeRange};
use nilometer_log::disk::{create_dir_durably, write_atomically};
use nilometer_rollups::aggregate::SlotMask;
use nilometer_rollups::conformance::as_version_1;
use nilometer_rollups::declare::{
    AggregateDecl, CubeDecl, Declarations, MetricDecl, Plan, SetKind,
};
use nilometer_rollups::{Ask, FoldLimits, Pinned, ReadError, Retention, Rows, Store};

fn event(time: EventTime, country: &'static str) -> Seen {
    Seen::Event {
        time,
        user: Some(1),
        dims: [("event_type", "view"), ("country", country), ("cohort", "a")].into_iter().collect(),
        duration_sec: Some(2),
    }
}

/// The built-in plan and one more count, and one more cube.
fn newer() -> Declarations {
    Declarations {
        metrics: vec![MetricDecl {
            name: "plays".to_owned(),
            title: None,
            description: String::new(),
            unit: String::new(),
            aggregate: AggregateDecl::Count,
            field: None,
            scale: None,
            quantile: None,
            k: None,
            filter: Some("event_type:view".to_owned()),
            numerator: None,
            denominator: None,
        }],
        cubes: vec![CubeDecl {
            dimensions: vec!["country".to_owned(), "content_id".to_owned()],
            distinct: true,
        }],
        ..Declarations::default()
    }
}

fn keep_plan(house: &House, declarations: &Declarations) {
    let plan = Plan::compile(declarations).unwrap();
    create_dir_durably(&house.disk, "plans").unwrap();
    let bytes = serde_json::to_vec(declarations).unwrap();
    write_atomically(&house.disk, &format!("plans/{}.json", plan.id), &bytes).unwrap();
}

/// The house goes on under another plan.
fn change_plan(house: &mut House, declarations: &Declarations) {
    keep_plan(house, declarations);
    house.plan = Arc::new(Plan::compile(declarations).unwrap());
    house.reopen();
}

/// What the newer plan's own metric reads in each hour: a number, or null.
fn plays(house: &House, range: TimeRange) -> Vec<(EventTime, Option<i64>)> {
    let slot = house::count_slot(&house.plan, "plays");
    let set = house.set(SetKind::Events, &["country"]);
    let answer = house.store.pin().answer(&house.request(set, Granularity::Hour, range)).unwrap();
    let rows = answer.rows.iter().map(|row| {
        let filling = row.filling.counts >> slot & 1 == 1;
        assert_eq!(filling, answer.filling.iter().any(|(window, _)| *window == row.window));
        (row.window, (!filling).then(|| row.aggregates.counts[slot]))
    });
    rows.collect()
}

fn two_plans([fold_between, fold_after, plan_file]: [bool; 3]) {
    let mut house = House::new(1, 1);
    let now = house.now.as_event_time().window_start(Granularity::Hour);
    let (first, second, third) = (now.minus_ms(3 * HOUR), now.minus_ms(2 * HOUR), now);
    if plan_file {
        keep_plan(&house, &Declarations::default());
    }
    house.count(0, vec![event(first, "DE"), event(second, "DE")]);
    house.seal(0, |_| {});
    if fold_between {
        house.store.fold_once(house.now, FoldLimits::default()).unwrap();
    }
    change_plan(&mut house, &newer());
    house.count(0, vec![event(second, "FR"), event(third, "FR"), event(third, "FR")]);
    house.seal(0, |_| {});
    if fold_after {
        house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        house.store.fold_once(house.now, FoldLimits::default()).unwrap();
    }
    let range = TimeRange { start: first, end: third.plus_ms(HOUR) };
    assert_eq!(
        plays(&house, range),
        [
            (first, None),
            // Both rows of a window in which the older plan counted: it may have counted FR too.
            (second, None),
            (second, None),
            (third, Some(2)),
        ],
        "fold between {fold_between}, after {fold_after}, plan file {plan_file}"
    );
    // What both plans count alike is whole.
    for granularity in Granularity::ALL {
        house.check_set(house.set(SetKind::Events, &["country"]), granularity);
        house.check_set(house.set(SetKind::Events, &[]), granularity);
    }
    // A set that the older plan lacks is filling where the older plan counted anything.
    let set = house.set(SetKind::Events, &["country", "content_id"]);
    let answer = house.store.pin().answer(&house.request(set, Granularity::Hour, range)).unwrap();
    let filling: Vec<EventTime> = answer.filling.iter().map(|(window, _)| *window).collect();
    assert_eq!(filling, [first, second]);
}

#[test]
fn a_new_metric_is_null_where_an_older_plan_counted_and_never_0() {
    for fold_between in [false, true] {
        for fold_after in [false, true] {
            for plan_file in [false, true] {
                two_plans([fold_between, fold_after, plan_file]);
            }
        }
    }
}

#[test]
fn what_is_new_is_known_from_the_minute_after_the_last_that_an_older_plan_counted() {
    for folds in [[false, false], [true, false], [true, true]] {
        let mut house = House::new(1, 1);
        let hour = house.now.as_event_time().window_start(Granularity::Hour).minus_ms(HOUR);
        keep_plan(&house, &Declarations::default());
        let at = |minutes: i64| hour.plus_ms(minutes * MINUTE);
        house.count(0, vec![event(at(-3_000), "DE"), event(at(1), "DE"), event(at(5), "DE")]);
        house.seal(0, |_| {});
        if folds[0] {
            house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        }
        change_plan(&mut house, &newer());
        house.count(0, vec![event(at(2), "FR"), event(at(9), "FR"), event(at(30), "DE")]);
        house.seal(0, |_| {});
        if folds[1] {
            house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        }
        let slot = house::count_slot(&house.plan, "plays");
        let known = |dims: &[&str], slot: usize, range: TimeRange| {
            let set = house.set(SetKind::Events, dims);
            let mut request = house.request(set, Granularity::Hour, range);
            request.want = SlotMask { counts: 1 << slot, ..SlotMask::NONE };
            house.store.pin().known_from(&request)
        };
        let all = TimeRange { start: at(-9_000), end: at(60) };
        let events = house::count_slot(&house.plan, "events");
        assert_eq!(known(&["country"], slot, all), Some(at(6)), "{folds:?}");
        assert_eq!(known(&["country"], events, all), None, "both plans count events");
        assert_eq!(known(&["country", "content_id"], events, all), Some(at(6)), "a new set");
        let part = |start, end| TimeRange { start: at(start), end: at(end) };
        assert_eq!(known(&[], slot, part(6, 60)), None);
        assert_eq!(known(&[], slot, part(0, 4)), Some(at(2)));
        assert_eq!(known(&[], slot, part(-100, 1)), None);
    }
}

#[test]
fn what_only_the_older_plan_counts_comes_back_with_it() {
    let mut house = House::new(2, 1);
    let now = house.now.as_event_time().window_start(Granularity::Hour);
    house.reopen();
    change_plan(&mut house, &newer());
    house.count(0, vec![event(now, "DE"), event(now, "DE")]);
    house.seal(0, |_| {});
    // The layer is folded after the operator went back to the plan without "plays".
    change_plan(&mut house, &Declarations::default());
    house.store.fold_once(house.now, FoldLimits::default()).unwrap();
    house.check_all();
    change_plan(&mut house, &newer());
    let range = TimeRange { start: now, end: now.plus_ms(HOUR) };
    assert_eq!(plays(&house, range), [(now, Some(2))]);
}

#[test]
fn a_granularity_past_its_retention_is_refused_and_the_finest_kept_is_named() {
    let house = House::new(3, 1);
    let set = house.set(SetKind::Events, &[]);
    let now = house.now.as_event_time();
    let ask = |granularity, days: i64| {
        let start = now.minus_ms(days * DAY);
        let range = TimeRange { start, end: start.plus_ms(HOUR) };
        house.store.pin().read(&house.request(set, granularity, range))
    };
    assert!(ask(Granularity::Minute, 14).is_ok());
    let expired = |granularity, days| match ask(granularity, days) {
        Err(ReadError::Expired { finest, .. }) => finest,
        other => panic!("{other:?}"),
    };
    assert_eq!(expired(Granularity::Minute, 15), Granularity::FiveMinutes);
    assert_eq!(expired(Granularity::Minute, 31), Granularity::HalfHour);
    assert_eq!(expired(Granularity::FiveMinutes, 91), Granularity::Hour);
    assert_eq!(expired(Granularity::Hour, 366), Granularity::Day);
    assert!(ask(Granularity::Day, 5_000).is_ok());
    let pinned = house.store.pin();
    assert_eq!(pinned.finest_at(now.minus_ms(60 * DAY)), Granularity::HalfHour);
}

#[test]
fn old_windows_lose_their_fine_cells_and_keep_their_days() {
    let mut house = House::new(4, 1);
    house.settings.retention = Retention::from_days([1, 2, 3, 4]).unwrap();
    house.reopen();
    let mut dice = Dice::new(4);
    for _ in 0..12 {
        let now = house.now.as_event_time();
        house.count(0, (0..10).map(|_| dice.seen(now)).collect());
        house.seal(0, |_| {});
        house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        house.collect_garbage();
        // check_all asks from the first window that each granularity keeps.
        house.check_all();
        house.now = house.now.plus_ms(13 * HOUR + 7 * MINUTE);
        house.publish_all();
    }
    // An import of something old is kept by the day alone.
    let old = house.now.as_event_time().minus_ms(200 * DAY);
    house.count(0, vec![event(old, "DE")]);
    house.seal(0, |_| {});
    house.store.fold_once(house.now, FoldLimits::default()).unwrap();
    house.check_all();
    let set = house.set(SetKind::Events, &["country"]);
    let range = TimeRange { start: old, end: old.plus_ms(1) };
    let rows = house.store.pin().read(&house.request(set, Granularity::Day, range)).unwrap();
    assert_eq!(rows.len(), 1);
    // Without any new layer, time alone drops whole files.
    let before = house.store.stats().chunks;
    house.now = house.now.plus_ms(30 * DAY);
    house.publish_all();
    let report = house.store.fold_once(house.now, FoldLimits::default()).unwrap();
    assert!(report.chunks_dropped > 0);
    assert!(house.store.stats().chunks < before);
    assert_eq!(house.store.pin().kept_from(Granularity::Day), EventTime::MIN);
    house.check_all();
}

/// Events of a range at a granularity, or the finest granularity that is kept there.
fn events_at(
    house: &House,
    granularity: Granularity,
    range: TimeRange,
) -> Result<i64, Granularity> {
    let set = house.set(SetKind::Events, &[]);
    match house.store.pin().read(&house.request(set, granularity, range)) {
        Ok(rows) => Ok(rows.iter().map(|row| row.aggregates.counts[0]).sum()),
        Err(ReadError::Expired { finest, .. }) => Err(finest),
        Err(other) => panic!("{other}"),
    }
}

fn day_of(time: EventTime) -> TimeRange {
    TimeRange { start: time, end: time.plus_ms(1) }.outward(Granularity::Day)
}

#[test]
fn what_was_too_old_to_be_written_is_expired_for_good_however_long_retention_becomes() {
    for is_v1 in [false, true] {
        let mut house = House::new(7, 1);
        let now = house.now.as_event_time();
        let (old, older, recent) = (now.minus_ms(600 * DAY), now.minus_ms(700 * DAY), now);
        let seen = [old, old.plus_ms(HOUR), recent].map(|time| event(time, "DE"));
        house.count(0, seen.to_vec());
        house.seal(0, |_| {});
        house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        house.collect_garbage();
        if is_v1 {
            as_version_1(&house.disk).unwrap();
        }
        house.settings.retention = Retention::from_days([30_000; 4]).unwrap();
        for round in 0..3 {
            house.reopen();
            for granularity in Granularity::ALL {
                let day = granularity == Granularity::Day;
                let expected = if day { Ok(2) } else { Err(Granularity::Day) };
                let shown = events_at(&house, granularity, day_of(old));
                assert_eq!(shown, expected, "{granularity} v1 {is_v1} round {round}");
                // A range that begins before it and ends behind it has lost something, too.
                let around = TimeRange { start: older, end: recent.plus_ms(DAY) };
                let around = events_at(&house, granularity, around.outward(Granularity::Day));
                assert_eq!(around.is_ok(), day, "{granularity}");
                // What was always kept is.
                assert_eq!(events_at(&house, granularity, day_of(recent)), Ok(1), "{granularity}");
            }
            house.store.fold_once(house.now, FoldLimits::default()).unwrap();
            house.now = house.now.plus_ms(MINUTE);
            house.publish_all();
        }
        // A day of which nothing was ever dropped is written and read as retention is now.
        house.count(0, vec![event(older, "FR"), event(old, "FR")]);
        house.seal(0, |_| {});
        house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        house.reopen();
        for granularity in Granularity::ALL {
            assert_eq!(events_at(&house, granularity, day_of(older)), Ok(1), "{granularity}");
            let expected =
                if granularity == Granularity::Day { Ok(3) } else { Err(Granularity::Day) };
            assert_eq!(events_at(&house, granularity, day_of(old)), expected, "{granularity}");
        }
        assert_eq!(house.total_events(), Ok(1), "within 500 days");
    }
}

#[test]
fn a_window_that_is_whole_stays_so_whatever_is_dropped_around_it_and_far_away() {
    let mut house = House::new(8, 1);
    let now = house.now.as_event_time();
    let gone = now.minus_ms(600 * DAY).window_start(Granularity::Day);
    let (whole, also_gone) = (gone.plus_ms(HOUR), gone.plus_ms(2 * HOUR));
    let fold = |house: &mut House, times: Vec<EventTime>| {
        house.count(0, times.into_iter().map(|time| event(time, "DE")).collect());
        house.seal(0, |_| {});
        house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        house.collect_garbage();
    };
    // Too old to be kept by the minute, but for their day.
    fold(&mut house, vec![gone, also_gone]);
    house.settings.retention = Retention::from_days([700; 4]).unwrap();
    house.reopen();
    fold(&mut house, vec![whole]);
    let minute = |house: &House, time: EventTime| {
        let minute = TimeRange { start: time, end: time.plus_ms(MINUTE) };
        events_at(house, Granularity::Minute, minute)
    };
    let expected = [Err(Granularity::Day), Ok(1), Err(Granularity::Day)];
    assert_eq!([gone, whole, also_gone].map(|time| minute(&house, time)), expected);
    // A day each, further apart than those.
    let old: Vec<_> = (0..1_100).map(|days| gone.minus_ms((200 + days) * DAY)).collect();
    fold(&mut house, old.clone());
    house.reopen();
    assert_eq!([gone, whole, also_gone].map(|time| minute(&house, time)), expected);
    assert!(old.iter().all(|&time| minute(&house, time) == Err(Granularity::Day)));
}

/// A total over the range, rounded outward, against the model.
fn check_total(house: &House, pinned: &Pinned, kind: SetKind, asked: TimeRange) {
    let set = house.set(kind, &[]);
    let range = pinned.outward(asked);
    assert!(range.start <= asked.start && asked.end <= range.end);
    let request = house.request(set, Granularity::Day, range);
    let ask = Ask { request, rows: Rows::Total, estimated: false, rows_max: usize::MAX };
    let (mut answers, _) = pinned.read_together(&[ask]);
    let rows = answers.pop().unwrap().unwrap().rows;
    let expected = house::model(&house.plan, house.all(), set, range, |_| range.start);
    house::assert_same(&house.plan, set, &rows, &expected);
}

/// A day at a granularity, or at the finest that is kept there, against the model; how many rows,
/// and whether they are as fine as asked.
fn check_day(
    house: &House,
    pinned: &Pinned,
    kind: SetKind,
    granularity: Granularity,
    day: EventTime,
) -> (usize, bool) {
    let (set, day) = (house.set(kind, &[]), day_of(day));
    let shown = match pinned.read(&house.request(set, granularity, day)) {
        Ok(_) => granularity,
        Err(ReadError::Expired { finest, .. }) => finest,
        Err(other) => panic!("{other}"),
    };
    let rows = pinned.read(&house.request(set, shown, day)).unwrap();
    let window = |time: EventTime| time.window_start(shown);
    let expected = house::model(&house.plan, house.all(), set, day, window);
    house::assert_same(&house.plan, set, &rows, &expected);
    (rows.len(), shown == granularity)
}

/// Sixty days at every granularity; how many rows, and how many days are not as fine as asked.
fn check_days(house: &House, kind: SetKind) -> (usize, usize) {
    let (pinned, now) = (house.store.pin(), house.now.as_event_time());
    let (mut read, mut expired) = (0, 0);
    for granularity in Granularity::ALL {
        for days in 0..60 {
            let day = now.minus_ms(days * DAY);
            let (rows, as_asked) = check_day(house, &pinned, kind, granularity, day);
            read += rows;
            expired += usize::from(!as_asked);
        }
    }
    (read, expired)
}

/// Totals over any ranges of the last fifty days.
fn check_totals(house: &House, kind: SetKind, dice: &mut Dice) {
    let (pinned, now) = (house.store.pin(), house.now.as_event_time());
    for _ in 0..20 {
        let mut back = || i64::try_from(dice.below(50 * 1_440)).unwrap() * MINUTE;
        let (one, other) = (back(), back());
        let (start, end) = (now.minus_ms(one.max(other)), now.minus_ms(one.min(other)));
        check_total(house, &pinned, kind, TimeRange { start, end: end.plus_ms(MINUTE) });
    }
}

#[test]
fn whatever_retention_becomes_no_answer_is_smaller() {
    let mut expired = 0;
    let mut read = 0;
    for seed in 0..3 {
        let mut dice = Dice::new(70 + seed);
        let mut house = House::new(seed, 1);
        let [long, short, half] = [[30, 40, 50, 60], [1, 2, 3, 4], [5, 9, 20, 40]];
        for _ in 0..7 {
            house.settings.retention =
                Retention::from_days(dice.pick(&[long, short, half])).unwrap();
            house.reopen();
            let now = house.now.as_event_time();
            house.count(0, (0..12).map(|_| dice.seen(now)).collect());
            house.seal(0, |_| {});
            house.store.fold_once(house.now, FoldLimits::default()).unwrap();
            house.collect_garbage();
            if dice.one_in(3) {
                as_version_1(&house.disk).unwrap();
                house.reopen();
            }
            house.now = house.now.plus_ms(i64::try_from(dice.below(72)).unwrap() * HOUR);
            house.publish_all();
            for kind in [SetKind::Events, SetKind::Sessions] {
                let shown = check_days(&house, kind);
                read += shown.0;
                expired += shown.1;
                check_totals(&house, kind, &mut dice);
            }
        }
    }
    assert!(expired > 1_000 && read > 1_000, "{expired} expired, {read} rows");
}

#[test]
fn a_run_of_chunks_stays_short_and_becomes_one_once_it_is_quiet() {
    let mut house = House::new(5, 1);
    let midnight = house.now.as_event_time().window_start(Granularity::Day);
    house.now = nilometer_event::ReceiveTime::from_ms(midnight.ms());
    house.publish_all();
    let mut dice = Dice::new(5);
    for _ in 0..70 {
        let now = house.now.as_event_time();
        let time = now.minus_ms(i64::try_from(dice.below(20_000)).unwrap());
        house.count(0, vec![event(time, "DE")]);
        house.seal(0, |_| {});
        house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        house.collect_garbage();
        house.now = house.now.plus_ms(30_000);
        house.publish_all();
    }
    // 35 minutes: two spans of an hour at most, and one of each coarser granularity.
    let chunks = house.store.stats().chunks;
    assert!(chunks <= 6 * 5, "{chunks} files after 70 folds");
    let files = house.disk.paths().iter().filter(|path| path.contains("chunks/")).count();
    assert!(
        files as u64 <= 2 * chunks + 10,
        "only two manifests keep files, and there are {files}"
    );
    house.check_all();
    house.now = house.now.plus_ms(70 * DAY);
    house.publish_all();
    for _ in 0..4 {
        house.store.fold_once(house.now, FoldLimits::default()).unwrap();
    }
    let quiet = house.store.stats().chunks;
    assert!(quiet < chunks && quiet <= 4, "{quiet} files of 30 m, 1 h and 1 d are left");
    house.check_all();
}

#[test]
fn what_was_imported_in_one_piece_is_not_written_again_for_a_few_events() {
    let mut house = House::new(6, 1);
    let now = house.now.as_event_time();
    let halves = 0..20 * 48;
    house.count(0, halves.map(|at| event(now.minus_ms(at * 30 * MINUTE), "DE")).collect());
    house.seal(0, |_| {});
    let imported = house.store.fold_once(house.now, FoldLimits::default()).unwrap();
    let days = || house.disk.paths().into_iter().filter(|path| path.contains("chunks/"));
    let before: Vec<String> = days().collect();
    let mut live = 0;
    let mut replaced = Vec::new();
    for round in 0..12 {
        if round == 6 {
            // What was known of earlier folds is gone.
            house.reopen();
        }
        house.now = house.now.plus_ms(MINUTE);
        house.publish_all();
        let now = house.now.as_event_time();
        let late = now.minus_ms(90 * MINUTE);
        house.count(0, vec![event(now, "DE"), event(late, "FR")]);
        house.seal(0, |_| {});
        let report = house.store.fold_once(house.now, FoldLimits::default()).unwrap();
        live += report.cells;
        house.collect_garbage();
        replaced = before.iter().filter(|path| !house.disk.paths().contains(path)).collect();
        house.check_all();
    }
    // Those of the last hours' minutes may be as small as what comes, not the four last ones:
    // three weeks of hours, and the days.
    let small = before.len() - 4;
    assert!(replaced.iter().all(|path| before[..small].contains(path)), "{replaced:?} are gone");
    assert!(live < imported.cells / 2, "{live} cells for 24 events, {} imported", imported.cells);
}
