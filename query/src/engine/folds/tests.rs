//! Answers over folded values against looking at every event: a number is right or null.

use std::collections::{BTreeMap, BTreeSet};

use nilometer_event::ReceiveTime;
use nilometer_rollups::Store;
use nilometer_rollups::declare::{Declarations, GuardLimits, Plan};
use proptest::prelude::*;

use crate::answer::{Answer, Value};
use crate::ask::{Ask, Member};
use crate::engine::answer;
use crate::shelves::Pin;
use crate::testing::{NOW_MS, SHARDS, Shelf, Told};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
const COUNTRIES: [&str; 5] = ["DE", "DK", "FR", "IT", "AT"];
const DEVICES: [&str; 3] = ["tv", "mobile", "web"];

/// The same shelves twice: the second holds no row at once, and reads group by group.
fn shelf(values_max: u32, combinations_max: u32, events: &[Told]) -> [Shelf; 2] {
    let guard = GuardLimits { values_max, combinations_max, ..GuardLimits::default() };
    let metric = r#"{"name":"pages","aggregate":"top_k","field":"content_id","k":2}"#;
    let metrics = vec![serde_json::from_str(metric).unwrap()];
    let declarations = Declarations { guard, metrics, ..Declarations::default() };
    let plan = || Plan::compile(&declarations).unwrap();
    let shelves = [Shelf::with(plan()), Shelf::narrow(plan())];
    shelves.iter().for_each(|shelf| shelf.show(events, &[], NOW_MS));
    shelves
}

fn asked(shelves: &[Shelf; 2], query: &[(&str, &str)]) -> Answer {
    let ask = Ask::from_params(query.iter().copied()).unwrap();
    let [wide, narrow] = shelves.each_ref().map(|shelf| {
        answer(&ask, &Pin::new(shelf.store.pin()), ReceiveTime::from_ms(NOW_MS)).unwrap()
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

/// First come, per shard and day.
fn naive_guard(events: &[Told], values_max: usize) -> (Folded, Vec<[bool; 2]>) {
    let mut admitted: BTreeMap<(u64, i64, &str), BTreeSet<&str>> = BTreeMap::new();
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
    (folded, each)
}

#[derive(Clone, Debug)]
struct Wish {
    group_by: &'static [&'static str],
    filter: Option<&'static str>,
    granularity: &'static str,
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
        prop::sample::select(vec!["1h", "1d", "total"]),
        prop::sample::select(vec!["events", "dau"]),
    )
        .prop_map(|(group_by, filter, granularity, metric)| Wish {
            group_by,
            filter,
            granularity,
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
    let of =
        |name: &&str| Member::of(if *name == "country" { told.country } else { told.device_type });
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
        let from = (NOW_MS - 2 * DAY).to_string();
        let to = NOW_MS.to_string();
        let mut query = vec![
            ("metrics", wish.metric), ("granularity", wish.granularity),
            ("from", from.as_str()), ("to", to.as_str()),
        ];
        if !group_by.is_empty() {
            query.push(("group_by", group_by.as_str()));
        }
        query.extend(wish.filter.map(|filter| ("filter", filter)));
        let answer = asked(&shelf, &query);
        let (folded, each) = naive_guard(&events, values_max as usize);
        let width = answer.moments.width_ms;
        let mut rows = BTreeMap::new();
        for row in &answer.rows {
            rows.insert((row.window.ms(), row.members.to_vec()), row.values[0].clone());
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
                        let its = folded.iter().any(|(_, day, dim, value)| {
                            days.contains(day) && *dim == "country" && *value == &**own
                        });
                        let closed = folded.iter().any(|(_, day, dim, _)| days.contains(day) && *dim == "country");
                        let admitted = events.iter().any(|told| told.country == Some(&**own) && days.contains(&told.at_ms.div_euclid(DAY)));
                        prop_assert!(its || (closed && admitted), "{own} was never folded");
                    }
                    prop_assert!(!answer.meta.folded.is_empty());
                }
                other => panic!("{other:?}"),
            }
        }
        // What happened is there, unless a whole group is in the rest.
        let names_countries = matches!(wish.filter, Some("country:DE" | "country:DE,FR"));
        let is_named = wish.metric == "events"
            && (wish.group_by.is_empty() || (wish.group_by == ["country"] && names_countries));
        let named = events.iter().filter(|told| is_named && wants(wish.filter, told));
        for told in named {
            let members = group_of(&wish, told);
            let there = rows.keys().any(|(start, own)| {
                *own == members && (*start..start + width).contains(&told.at_ms)
            });
            prop_assert!(there, "no row of {told:?} in {rows:?}");
        }
    }
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
