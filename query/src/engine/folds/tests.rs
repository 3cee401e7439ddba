//! Answers over folded values against looking at every event: a number is right or null.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nilometer_event::{EventTime, ReceiveTime, TimeRange};
use nilometer_rollups::Store;
use nilometer_rollups::declare::{Declarations, GuardLimits, Plan, SetKind};
use proptest::prelude::*;

use super::Judge;
use crate::answer::{Answer, Value};
use crate::ask::{Ask, Member};
use crate::engine::{Question, Version, answer};
use crate::shelves::Pin;
use crate::testing::{NOW_MS, SHARDS, Shelf, Told};
use crate::turns::Length;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
const COUNTRIES: [&str; 5] = ["DE", "DK", "FR", "IT", "AT"];
const DEVICES: [&str; 3] = ["tv", "mobile", "web"];

/// The same shelves twice: the second holds no row at once, and reads group by group.
fn shelf(values_max: u32, combinations_max: u32, events: &[Told]) -> [Shelf; 2] {
    let shelves = shelves(|| plan(values_max, combinations_max, &[]));
    shelves.iter().for_each(|shelf| shelf.show(events, &[], NOW_MS));
    shelves
}

fn shelves(plan: impl Fn() -> Plan) -> [Shelf; 2] {
    [Shelf::with(plan()), Shelf::narrow(plan())]
}

fn plan(values_max: u32, combinations_max: u32, cube: &[&str]) -> Plan {
    compiled(GuardLimits { values_max, combinations_max, ..GuardLimits::default() }, cube)
}

fn compiled(guard: GuardLimits, cube: &[&str]) -> Plan {
    let metric = r#"{"name":"pages","aggregate":"top_k","field":"content_id","k":2}"#;
    let metrics = vec![serde_json::from_str(metric).unwrap()];
    let cube = (!cube.is_empty()).then(|| serde_json::json!({ "dimensions": cube }));
    let cubes = cube.into_iter().map(|cube| serde_json::from_value(cube).unwrap()).collect();
    let declarations = Declarations { guard, metrics, cubes, ..Declarations::default() };
    Plan::compile(&declarations).unwrap()
}

fn asked(shelves: &[Shelf; 2], query: &[(&str, &str)]) -> Answer {
    let ask = Ask::from_params(query.iter().copied()).unwrap();
    let [wide, narrow] = shelves.each_ref().map(|shelf| {
        answer(&ask, &Pin::new(shelf.store.pin()), ReceiveTime::from_ms(NOW_MS), Length::Long)
            .unwrap()
            .unwrap()
    });
    assert_eq!(narrow.rows, wide.rows, "group by group, {query:?}");
    assert_eq!(narrow.meta, wide.meta, "group by group, {query:?}");
    wide
}

fn seen(at_ms: i64, user: u64, country: &'static str) -> Told {
    Told { at_ms, user, event_type: "view", country: Some(country), ..Told::default() }
}

/// What the naive guard of each shard folded: by shard, day and dimension the values.
type Folded = BTreeSet<(u64, i64, &'static str, &'static str)>;

/// By shard, day and dimension the values with a cell of their own.
type Admitted = BTreeMap<(u64, i64, &'static str), BTreeSet<&'static str>>;

/// First come, per shard and day.
fn naive_guard(events: &[Told], values_max: usize) -> (Folded, Admitted, Vec<[bool; 2]>) {
    let mut admitted = Admitted::new();
    let mut folded = Folded::new();
    let mut each = Vec::new();
    for told in events {
        let (shard, day) = (told.user % u64::from(SHARDS), told.at_ms.div_euclid(DAY));
        let mut of_event = [false; 2];
        let dims = [("country", told.country), ("device_type", told.device_type)];
        for (own, (dim, value)) in of_event.iter_mut().zip(dims) {
            let Some(value) = value else { continue };
            let known = admitted.entry((shard, day, dim)).or_default();
            if !known.contains(value) && known.len() >= values_max {
                folded.insert((shard, day, dim, value));
                *own = true;
            } else {
                known.insert(value);
            }
        }
        each.push(of_event);
    }
    (folded, admitted, each)
}

#[derive(Clone, Debug)]
struct Wish {
    group_by: &'static [&'static str],
    filter: Option<&'static str>,
    granularity: &'static str,
    /// Of windows that slide.
    window: Option<&'static str>,
    compares: bool,
    metric: &'static str,
}

fn wish() -> impl Strategy<Value = Wish> {
    (
        prop::sample::select(vec![
            &[][..],
            &["country"],
            &["device_type"],
            &["country", "device_type"],
        ]),
        prop::sample::select(vec![
            None,
            Some("country:DE"),
            Some("country:DE,FR"),
            Some("country:!DE"),
            Some("country:D*"),
            Some("device_type:tv"),
        ]),
        prop::sample::select(vec![("1h", None), ("1d", None), ("total", None), ("1h", Some("3h"))]),
        any::<bool>(),
        prop::sample::select(vec!["events", "dau"]),
    )
        .prop_map(|(group_by, filter, (granularity, window), compares, metric)| Wish {
            group_by,
            filter,
            granularity,
            window,
            compares,
            metric,
        })
}

fn told() -> impl Strategy<Value = Told> {
    (
        NOW_MS - 2 * DAY..NOW_MS,
        1_u64..7,
        prop::sample::select(COUNTRIES.to_vec()),
        prop::option::of(prop::sample::select(DEVICES.to_vec())),
    )
        .prop_map(|(at_ms, user, country, device_type)| Told {
            device_type,
            ..seen(at_ms, user, country)
        })
}

fn wants(filter: Option<&str>, told: &Told) -> bool {
    let country = told.country.unwrap_or_default();
    match filter {
        None => true,
        Some("country:DE") => country == "DE",
        Some("country:DE,FR") => ["DE", "FR"].contains(&country),
        Some("country:!DE") => country != "DE",
        Some("country:D*") => country.starts_with('D'),
        Some("device_type:tv") => told.device_type == Some("tv"),
        Some(other) => panic!("no model of {other}"),
    }
}

fn group_of(wish: &Wish, told: &Told) -> Vec<Member> {
    let of = |name: &&str| match *name {
        "country" => Member::of(told.country),
        "device_type" => Member::of(told.device_type),
        "content_id" => Member::of(told.content_id),
        other => panic!("no model of {other}"),
    };
    wish.group_by.iter().map(of).collect()
}

/// What the row says, by looking at every event.
fn truth(wish: &Wish, events: &[Told], (start, end): (i64, i64), members: &[Member]) -> i64 {
    let of_row =
        |told: &&Told| wants(wish.filter, told) && group_of(wish, told).as_slice() == members;
    let within = |a: i64, b: i64| {
        events.iter().filter(of_row).filter(move |told| (a..b).contains(&told.at_ms))
    };
    if wish.metric == "events" {
        return i64::try_from(within(start, end).count()).unwrap();
    }
    let day = (end - 1).div_euclid(DAY) * DAY;
    let users: BTreeSet<u64> = within(day, day + DAY).map(|told| told.user).collect();
    i64::try_from(users.len()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(384))]
    #[test]
    fn a_number_over_folded_values_is_what_looking_at_every_event_gives_or_null(
        events in prop::collection::vec(told(), 1..60),
        wish in wish(),
        values_max in 1..5_u32,
        combinations_max in prop::sample::select(vec![2_u32, 5, 1_000]),
    ) {
        let shelf = shelf(values_max, combinations_max, &events);
        let group_by = wish.group_by.join(",");
        let from_ms = NOW_MS - if wish.compares { DAY } else { 2 * DAY };
        let from = from_ms.to_string();
        let to = NOW_MS.to_string();
        let mut query = vec![
            ("metrics", wish.metric), ("granularity", wish.granularity),
            ("from", from.as_str()), ("to", to.as_str()),
        ];
        if !group_by.is_empty() {
            query.push(("group_by", group_by.as_str()));
        }
        query.extend(wish.filter.map(|filter| ("filter", filter)));
        query.extend(wish.window.map(|window| ("window", window)));
        query.extend(wish.compares.then_some(("compare", "previous_period")));
        let answer = asked(&shelf, &query);
        let (folded, admitted, each) = naive_guard(&events, values_max as usize);
        let width = answer.moments.width_ms;
        let mut rows = BTreeMap::new();
        let from_to = answer.meta.range.previous_from.as_ref().map(|from| {
            let at = |text: &str| EventTime::parse_rfc3339(text).unwrap();
            at(&answer.meta.range.from).since(at(from))
        });
        for row in &answer.rows {
            for (value, shift_ms) in row.values.iter().zip([0].into_iter().chain(from_to)) {
                rows.insert((row.window.ms() - shift_ms, row.members.to_vec()), value.clone());
            }
        }
        for ((start, members), value) in &rows {
            if members.contains(&Member::Other) {
                continue;
            }
            let window = (*start, start + width);
            match value {
                Value::Integer(value) => {
                    prop_assert_eq!(*value, truth(&wish, &events, window, members), "{:?}", members);
                }
                Value::Null => {
                    // Something of the kind was folded in what the number reaches over.
                    let reached = if wish.metric == "dau" {
                        let day = (window.1 - 1).div_euclid(DAY) * DAY;
                        (day, day + DAY)
                    } else {
                        window
                    };
                    let any = events.iter().zip(&each).any(|(told, own)| {
                        (reached.0..reached.1).contains(&told.at_ms) && (own[0] || own[1])
                    });
                    prop_assert!(any || combinations_max < 1_000, "null, and nothing is folded");
                    if combinations_max == 1_000 && wish.group_by == ["country"] && wish.filter.is_none() {
                        let Member::Text(own) = &members[0] else { panic!("null country") };
                        let days = reached.0.div_euclid(DAY)..=(reached.1 - 1).div_euclid(DAY);
                        // Some shard folded others on such a day, and did not admit it.
                        let lacks = folded.iter().any(|(shard, day, dim, _)| {
                            let known = admitted.get(&(*shard, *day, *dim));
                            days.contains(day)
                                && *dim == "country"
                                && !known.is_some_and(|known| known.contains(&**own))
                        });
                        prop_assert!(lacks, "{own} was never folded");
                    }
                    prop_assert!(!answer.meta.folded.is_empty());
                }
                other => panic!("{other:?}"),
            }
        }
        // What happened is there, unless a whole group is in the rest.
        let names_countries = matches!(wish.filter, Some("country:DE" | "country:DE,FR"));
        let is_named = wish.metric == "events"
            && wish.window.is_none()
            && (wish.group_by.is_empty() || (wish.group_by == ["country"] && names_countries));
        let named = events.iter().filter(|told| told.at_ms >= from_ms);
        let named = named.filter(|told| is_named && wants(wish.filter, told));
        for told in named {
            let members = group_of(&wish, told);
            let there = rows.keys().any(|(start, own)| {
                *own == members && (*start..start + width).contains(&told.at_ms)
            });
            prop_assert!(there, "no row of {told:?} in {rows:?}");
        }
    }
}

/// Cubes that a plan may have beside the built-in ones.
const CUBES: [&[&str]; 5] = [
    &[],
    &["country", "content_id"],
    &["device_type", "content_id"],
    &["country", "device_type"],
    &["country", "device_type", "content_id"],
];

fn told_of_page() -> impl Strategy<Value = Told> {
    let page = prop::option::of(prop::sample::select(vec!["/a", "/b", "/c", "/d"]));
    let by = prop::sample::select(vec![None, Some(("write-a", 1)), Some(("write-b", 3))]);
    (told(), page, by).prop_map(|(told, content_id, by)| Told { content_id, by, ..told })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    /// Cells of a set are derived from another one of the finest, or are such themselves.
    #[test]
    fn a_number_is_right_or_null_whatever_cubes_there_were_when_it_was_counted(
        before in prop::collection::vec(told_of_page(), 1..40),
        events in prop::collection::vec(told_of_page(), 0..20),
        cubes in [prop::sample::select(CUBES.to_vec()), prop::sample::select(CUBES.to_vec())],
        group_by in prop::sample::select(CUBES.to_vec()),
        filter in prop::sample::select(vec![None, Some("country:DE"), Some("country:!DE")]),
        values_max in prop::sample::select(vec![2_u32, 3, 1_000]),
        combinations_max in 1..8_u32,
        granularity in prop::sample::select(vec!["1h", "1d", "total"]),
        // A release that gave keys no combinations may have been there before.
        given in prop::sample::select(vec![[0, 0], [0, 2], [2, 2], [1, 1]]),
    ) {
        let limits = |combinations_per_value| GuardLimits {
            values_max,
            combinations_max,
            combinations_per_value,
            ..GuardLimits::default()
        };
        let [old, new] =
            [0, 1].map(|at| (limits(given[at]), cubes[at])).map(|(guard, cube)| move || compiled(guard, cube));
        let shelves = shelves(new);
        shelves.iter().for_each(|shelf| shelf.show_since(&Arc::new(old()), &before, &events));
        let (window, compares) = (None, false);
        let wish = Wish { group_by, filter, granularity, window, compares, metric: "events" };
        let from = (NOW_MS - 2 * DAY).to_string();
        let named = group_by.join(",");
        let mut query = vec![("metrics", "events"), ("granularity", granularity), ("from", &from)];
        query.extend((!named.is_empty()).then_some(("group_by", named.as_str())));
        query.extend(filter.map(|filter| ("filter", filter)));
        let ask = Ask::from_params(query.iter().copied()).unwrap();
        // The dimensions may have no cells together.
        prop_assume!(Question::resolve(&ask, &shelves[0].plan).is_ok());
        let all = [before, events].concat();
        let answer = asked(&shelves, &query);
        for row in answer.rows.iter().filter(|row| !row.members.contains(&Member::Other)) {
            let window = (row.window.ms(), row.window.ms() + answer.moments.width_ms);
            match row.values[0] {
                Value::Integer(value) => {
                    prop_assert_eq!(value, truth(&wish, &all, window, &row.members), "{:?}", row);
                }
                ref other => prop_assert_eq!(other, &Value::Null),
            }
        }
    }
}

#[test]
fn what_a_cube_folded_that_is_gone_since_is_whole_or_null_and_not_smaller() {
    let visit = |country, page| Told { content_id: Some(page), ..seen(NOW_MS, 1, country) };
    // The second combination of /a is folded, and the third page by itself.
    let before = [visit("DE", "/a"), visit("FR", "/a"), visit("DE", "/b"), visit("DE", "/c")];
    // By plans of the first releases pages lacked what their combinations with countries folded.
    for (combinations_per_value, expected) in [(2, Value::Integer(2)), (0, Value::Null)] {
        let guard = GuardLimits {
            values_max: 2,
            combinations_max: 1,
            combinations_per_value,
            ..GuardLimits::default()
        };
        let shelves = shelves(|| compiled(guard, &[]));
        let old = Arc::new(compiled(guard, &["country", "content_id"]));
        shelves.iter().for_each(|shelf| shelf.show_since(&old, &before, &[]));
        let query = [("metrics", "events"), ("last", "1h"), ("granularity", "total")];
        let answer = asked(&shelves, &[&query[..], &[("group_by", "content_id")]].concat());
        let page = Member::Text("/a".into());
        let row = answer.rows.iter().find(|row| row.members[0] == page).unwrap();
        assert_eq!(row.values, [expected], "one would be smaller than two");
    }
}

/// A key whose quota of combinations is used up, beside one that has room, on either shard.
#[test]
fn what_is_folded_of_one_keys_combinations_is_no_doubt_about_anothers_nor_about_single_values() {
    let (junk, shop) = (Some(("write-junk", 3)), Some(("write-shop", 50)));
    let seen = |user, country, device, by| Told {
        device_type: Some(device),
        by,
        ..seen(NOW_MS, user, country)
    };
    // Six of the nine have places.
    let crossed = |user| {
        let all =
            COUNTRIES[..3].iter().flat_map(|country| DEVICES.map(|device| (*country, device)));
        all.map(move |(country, device)| seen(user, country, device, junk))
    };
    let own = [("IT", "tv"), ("AT", "web"), ("DE", "tv")];
    let own = |user| own.map(|(country, device)| seen(user, country, device, shop));
    let events: Vec<Told> =
        [1, 2].into_iter().flat_map(|user| crossed(user).chain(own(user))).collect();
    let shelf = shelf(1_000, 10, &events);
    let query = [("metrics", "events"), ("last", "1h"), ("granularity", "total")];
    let of = |group_by: &'static str| {
        let answer = asked(&shelf, &[&query[..], &[("group_by", group_by)]].concat());
        let rows = answer.rows.iter().filter(|row| !row.members.contains(&Member::Other));
        let name = |member: &Member| match member {
            Member::Text(text) => text.to_string(),
            other => panic!("{other:?}"),
        };
        rows.map(|row| (row.members.iter().map(name).collect(), row.values[0].clone()))
            .collect::<BTreeMap<Vec<String>, Value>>()
    };
    let both = of("country,device_type");
    let pair = |country: &str, device: &str| both.get(&vec![country.to_owned(), device.to_owned()]);
    assert_eq!(pair("IT", "tv"), Some(&Value::Integer(2)));
    assert_eq!(pair("AT", "web"), Some(&Value::Integer(2)));
    assert_eq!(pair("DE", "tv"), Some(&Value::Integer(4)));
    assert!(pair("FR", "tv").is_none_or(|folded| *folded == Value::Null), "{both:?}");
    let counts = [("DE", 8), ("DK", 6), ("FR", 6), ("IT", 2), ("AT", 2)];
    let expected = counts.map(|(country, count)| (vec![country.to_owned()], Value::Integer(count)));
    assert_eq!(of("country"), BTreeMap::from(expected));
    let counts = [("tv", 10), ("mobile", 6), ("web", 8)];
    let expected = counts.map(|(device, count)| (vec![device.to_owned()], Value::Integer(count)));
    assert_eq!(of("device_type"), BTreeMap::from(expected));
}

#[test]
fn what_counted_under_a_cube_of_today_is_shown_though_another_folded() {
    let visit = |country, page| Told { content_id: Some(page), ..seen(NOW_MS, 1, country) };
    let events = [visit("DE", "/a"), visit("DE", "/b"), visit("FR", "/a")];
    let shelf = shelves(|| plan(1, 2, &["country", "content_id"]));
    shelf.iter().for_each(|shelf| shelf.show(&events, &[], NOW_MS));
    let query = [("metrics", "events"), ("last", "1h"), ("granularity", "total")];
    let answer = asked(&shelf, &[&query[..], &[("group_by", "country")]].concat());
    // Pages were folded, and their combinations: countries come of another cube.
    assert_eq!(answer.rows[0].values, [Value::Integer(2)], "{:?}", answer.rows);
}

#[test]
fn a_filter_on_a_value_that_is_folded_away_says_so_and_gives_null() {
    // On one shard junk comes first, on the other the page does.
    let mut events = vec![seen(NOW_MS - HOUR, 1, "FR"), seen(NOW_MS - HOUR, 1, "DE")];
    events.extend((0..5).map(|_| seen(NOW_MS - HOUR, 2, "DE")));
    let shelf = shelf(1, 1_000, &events);
    let query = [("metrics", "events"), ("last", "2h"), ("granularity", "total")];
    let of = |filter: &'static str| asked(&shelf, &[&query[..], &[("filter", filter)]].concat());
    let answer = of("country:DE");
    assert_eq!(answer.rows.len(), 1);
    assert_eq!(answer.rows[0].values, [Value::Null], "five events would be smaller than six");
    assert_eq!(answer.meta.folded, ["country"]);
    // The other value is admitted where anything was folded.
    assert_eq!(of("country:FR").rows[0].values, [Value::Integer(1)]);
    let total = asked(&shelf, &query);
    assert_eq!(total.rows[0].values, [Value::Integer(7)], "totals stay exact");
    assert!(total.meta.folded.is_empty());
    let grouped = asked(&shelf, &[&query[..], &[("group_by", "country")]].concat());
    let values: Vec<(Member, Value)> =
        grouped.rows.iter().map(|row| (row.members[0].clone(), row.values[0].clone())).collect();
    assert_eq!(
        values,
        [
            (Member::Text("DE".into()), Value::Null),
            (Member::Text("FR".into()), Value::Integer(1)),
            (Member::Other, Value::Integer(1)),
        ]
    );
}

#[test]
fn a_value_is_looked_up_once_a_day_however_many_windows_have_it() {
    let hours = |day: i64| (0..24).map(move |hour| (day * 24 + hour) * HOUR);
    let today = NOW_MS.div_euclid(DAY);
    let each = |at_ms| COUNTRIES.map(|country| seen(at_ms, 1, country));
    let events: Vec<Told> = hours(today).chain(hours(today - 1)).flat_map(each).collect();
    let [shelf, _] = shelf(2, 1_000, &events);
    let ask = [("metrics", "events"), ("group_by", "country"), ("granularity", "1h")];
    let ask = Ask::from_params(ask).unwrap();
    let question = Question::resolve(&ask, &shelf.plan).unwrap();
    let source = question.source(SetKind::Events).unwrap();
    let (_, moment) = Pin::new(shelf.store.pin()).read(&[], 0);
    let judge = Judge::new(&shelf.plan, source.set, source, &moment.folded);
    for (days, start) in [(1, today), (1, today), (2, today - 1)] {
        for start in hours(start).map(EventTime::from_ms) {
            let at = judge.at(TimeRange { start, end: start.plus_ms(HOUR) });
            let judged = at.judged(&[[Member::Other].into()]);
            for country in COUNTRIES {
                let is_lost = at.is_row_lossy(&[Member::Text(country.into())].into(), &judged);
                assert_eq!(is_lost, !["DE", "DK"].contains(&country), "{country}");
            }
        }
        assert_eq!(judge.verdicts.borrow().looked_up, days * COUNTRIES.len());
    }
}

#[test]
fn a_window_in_which_nothing_was_folded_is_whole_though_its_day_folded_the_value() {
    let mut events = vec![seen(NOW_MS - 3 * HOUR, 2, "FR")];
    events.push(seen(NOW_MS - HOUR, 2, "DE"));
    let shelf = shelf(1, 1_000, &events);
    let query =
        [("metrics", "events"), ("last", "4h"), ("granularity", "1h"), ("filter", "country:DE")];
    let answer = asked(&shelf, &query);
    assert_eq!(answer.rows.len(), 1, "{:?}", answer.rows);
    assert_eq!(answer.rows[0].window.ms(), (NOW_MS - HOUR).div_euclid(HOUR) * HOUR);
    assert_eq!(answer.rows[0].values, [Value::Null]);
}

#[test]
fn a_list_of_the_most_frequent_of_which_values_are_folded_says_so_and_is_null() {
    let visit = |at_ms, page| Told { content_id: Some(page), ..seen(at_ms, 2, "DE") };
    // Yesterday junk came first and took the only place; today there is none.
    let mut events = vec![visit(NOW_MS - DAY, "/junk")];
    events.extend((0..5).map(|_| visit(NOW_MS - DAY, "/home")));
    events.extend((0..3).map(|_| visit(NOW_MS, "/home")));
    let shelf = shelf(1, 1_000, &events);
    let of = |granularity: &'static str| {
        asked(&shelf, &[("metrics", "pages"), ("last", "3d"), ("granularity", granularity)])
    };
    let total = of("total");
    assert_eq!(total.rows[0].values, [Value::Null], "/home thrice would be smaller than 8 times");
    assert_eq!(total.meta.folded, ["pages"]);
    let values: Vec<Value> = of("1d").rows.iter().map(|row| row.values[0].clone()).collect();
    let today = Value::Top(vec![("/home".to_owned(), 3)].into());
    assert!(values.contains(&Value::Null) && values.contains(&today), "{values:?}");
}
