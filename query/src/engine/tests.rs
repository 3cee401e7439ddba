//! The engine against a brute-force model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use nilometer_event::{EventTime, Granularity, Partition, TimeRange, UserHash};
use nilometer_rollups::aggregate::SlotMask;
use nilometer_rollups::cells::{Layer, Tallies};
use nilometer_rollups::declare::{Declarations, GuardLimits, MetricDecl, Plan, SetId};
use nilometer_rollups::view::{CheckpointStatus, Facts, LayerNumber, OpenLayer, ShardView};
use nilometer_rollups::{Store, StoreSettings};
use proptest::prelude::*;

use super::*;
use crate::ask::{Direction, Filter, Member, Order, Span, Step};
use crate::engine::version::GroupsOf;
use crate::shelves::Pin;
use crate::testing::{NOW_MS, Shelf, Stayed, Told};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const VIEWS: [&str; 4] = ["page_view", "content_view", "play_start", "view"];

fn ask(query: &[(&str, &str)]) -> Ask {
    Ask::from_params(query.iter().copied()).unwrap()
}

fn answered(shelf: &Shelf, ask: &Ask) -> Result<Answer, Problem> {
    answer_of(ask, &Pin::new(shelf.store.pin()))
}

fn answer_of(ask: &Ask, version: &dyn Version) -> Result<Answer, Problem> {
    let answer = answer(ask, version, ReceiveTime::from_ms(NOW_MS), Length::Long);
    answer.map(|answer| answer.expect("long work ends with an answer"))
}

fn refused(query: &[(&str, &str)]) -> Problem {
    answered(&Shelf::new(), &ask(query)).unwrap_err()
}

// ---- The naive model: every window by looking at every event. ----

/// What the model says of one metric over a span of events: `None` is null.
fn naive(metric: &str, events: &[&Told], sessions: &[&Stayed], elapsed_ms: i64) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    let count = |n: usize| n as f64;
    let of = |types: &[&str]| events.iter().filter(|e| types.contains(&e.event_type)).count();
    let users: BTreeSet<u64> = events.iter().map(|e| e.user).filter(|user| *user > 0).collect();
    let durations: Vec<f64> = events.iter().filter_map(|e| e.duration_sec).collect();
    let divided = |a: f64, b: f64| (b != 0.0).then(|| a / b);
    let completed = events.iter().filter(|e| e.completed == Some(true)).count();
    match metric {
        "events" => Some(count(events.len())),
        "unique_users" | "dau" | "wau" | "mau" | "active_now" => Some(count(users.len())),
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        "events_per_second" => divided(count(events.len()) * 1e3, elapsed_ms as f64),
        "total_duration" => Some(durations.iter().sum()),
        "avg_duration" => divided(durations.iter().sum(), count(durations.len())),
        "completions" => Some(count(completed)),
        "completion_rate" => {
            let carrying = events.iter().filter(|e| e.completed.is_some()).count();
            divided(count(completed), count(carrying))
        }
        "content_views" => Some(count(of(&VIEWS))),
        "click_through_rate" => {
            divided(count(of(&["click"])), count(of(&["impression"]) + of(&VIEWS)))
        }
        "sessions" => Some(count(sessions.len())),
        "bounce_rate" => {
            divided(count(sessions.iter().filter(|s| s.events == 1).count()), count(sessions.len()))
        }
        other => panic!("no model of {other}"),
    }
}

fn is_of_sessions(metric: &str) -> bool {
    matches!(metric, "sessions" | "bounce_rate")
}

/// The span that a metric looks at for the window `[start, end)`.
fn span(metric: &str, start: i64, end: i64) -> (i64, i64) {
    let days = |n: i64| {
        let last = (end - 1).div_euclid(DAY);
        ((last - n + 1) * DAY, (last + 1) * DAY)
    };
    match metric {
        "dau" => days(1),
        "wau" => days(7),
        "mau" => days(30),
        "active_now" => {
            let last = (end - 1).div_euclid(MINUTE).min(NOW_MS.div_euclid(MINUTE));
            ((last - 4) * MINUTE, (last + 1) * MINUTE)
        }
        _ => (start, end),
    }
}

type NaiveRows = BTreeMap<(i64, Vec<Member>), Vec<Option<f64>>>;

fn member(value: Option<&str>) -> Member {
    value.map_or(Member::Null, |text| Member::Text(text.into()))
}

/// The windows that the model looks at.
#[derive(Clone, Debug)]
struct NaiveWindows {
    from: i64,
    to: i64,
    starts: Vec<i64>,
    width: i64,
}

impl NaiveWindows {
    fn back_by(&self, ms: i64) -> Self {
        let starts = self.starts.iter().map(|start| start - ms).collect();
        Self { from: self.from - ms, to: self.to - ms, starts, width: self.width }
    }
}

/// By the two filters that wishes have.
fn admits(filter: &Filter, member: &Member) -> bool {
    let is = |text: &str| *member == Member::Text(text.into());
    match filter.dimension.as_str() {
        "country" if filter.rule.any_of.is_some() => is("DE") || *member == Member::Null,
        "country" => !is("FR"),
        "device_type" if filter.rule.any_of.is_some() => is("tv") || is("mobile"),
        "device_type" => !is("tv"),
        other => panic!("no model of {other}"),
    }
}

fn naive_rows(
    ask: &Ask,
    windows: &NaiveWindows,
    events: &[Told],
    sessions: &[Stayed],
) -> NaiveRows {
    let of = |name: &str, country: Option<&'static str>, device: Option<&'static str>| match name {
        "country" => member(country),
        "device_type" => member(device),
        other => panic!("no model of {other}"),
    };
    let admitted = |country, device| {
        ask.filters.iter().all(|filter| admits(filter, &of(&filter.dimension, country, device)))
    };
    let group = |country, device| -> Vec<Member> {
        ask.group_by.iter().map(|name| of(name, country, device)).collect()
    };
    let mut groups: BTreeMap<Vec<Member>, (Vec<&Told>, Vec<&Stayed>)> = BTreeMap::new();
    for told in events.iter().filter(|told| admitted(told.country, told.device_type)) {
        groups.entry(group(told.country, told.device_type)).or_default().0.push(told);
    }
    for stayed in sessions.iter().filter(|stayed| admitted(stayed.country, None)) {
        groups.entry(group(stayed.country, None)).or_default().1.push(stayed);
    }
    let mut rows = NaiveRows::new();
    for (members, (events, sessions)) in groups {
        for &start in &windows.starts {
            let end = start + windows.width;
            let elapsed = (NOW_MS - start).clamp(0, windows.width);
            let mut happened = false;
            let mut values = Vec::new();
            for metric in &ask.metrics {
                let (a, b) = span(metric, start, end);
                let seen: Vec<&Told> =
                    events.iter().copied().filter(|e| (a..b).contains(&e.at_ms)).collect();
                let stayed: Vec<&Stayed> =
                    sessions.iter().copied().filter(|s| (a..b).contains(&s.start_ms)).collect();
                happened |=
                    if is_of_sessions(metric) { !stayed.is_empty() } else { !seen.is_empty() };
                values.push(naive(metric, &seen, &stayed, elapsed));
            }
            if happened {
                rows.insert((start, members.clone()), values);
            }
        }
    }
    rows
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Null => None,
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        Value::Integer(value) => Some(*value as f64),
        Value::Number(value) => Some(*value),
        Value::Decimal(value) => Some(value.as_f64()),
        Value::Top(_) => panic!("no list was asked for"),
    }
}

fn close(a: Option<f64>, b: Option<f64>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => (a - b).abs() <= 1e-6 * a.abs().max(1.0),
        _ => false,
    }
}

// ---- Any audience, any question. ----

fn told() -> impl Strategy<Value = Told> {
    (
        // Three days, the last two hours more often.
        prop_oneof![NOW_MS - 3 * DAY..NOW_MS, NOW_MS - 2 * HOUR..NOW_MS],
        0_u64..7,
        prop::sample::select(vec!["view", "click", "impression", "purchase"]),
        prop::sample::select(vec![None, Some("DE"), Some("FR")]),
        prop::sample::select(vec![None, Some("tv"), Some("mobile")]),
        prop::option::of(any::<bool>()),
        prop::option::of(0.0_f64..900.0),
    )
        .prop_map(
            |(at_ms, user, event_type, country, device_type, completed, duration_sec)| Told {
                at_ms,
                user,
                event_type,
                country,
                device_type,
                content_id: None,
                completed,
                duration_sec,
                ..Told::default()
            },
        )
}

fn stayed() -> impl Strategy<Value = Stayed> {
    (
        NOW_MS - 2 * DAY..NOW_MS,
        1_u64..7,
        prop::sample::select(vec![None, Some("DE"), Some("FR")]),
        1_u64..4,
    )
        .prop_map(|(start_ms, user, country, events)| Stayed {
            start_ms,
            user,
            country,
            events,
        })
}

const EVENT_METRICS: [&str; 13] = [
    "events",
    "unique_users",
    "dau",
    "wau",
    "mau",
    "active_now",
    "events_per_second",
    "total_duration",
    "avg_duration",
    "completions",
    "completion_rate",
    "content_views",
    "click_through_rate",
];

#[derive(Clone, Debug)]
struct Wish {
    metrics: Vec<&'static str>,
    group_by: Vec<&'static str>,
    filter: Option<&'static str>,
    from_ms: i64,
    length_ms: i64,
    step: Step,
    /// Of sliding windows.
    steps_wide: Option<i64>,
}

fn wish() -> impl Strategy<Value = Wish> {
    (
        prop::sample::subsequence(EVENT_METRICS.to_vec(), 1..5),
        prop::sample::select(vec![vec![], vec!["country"], vec!["device_type", "country"]]),
        prop::sample::select(vec![
            None,
            Some("country:DE,null"),
            Some("country:!F*"),
            Some("device_type:t*,mob*"),
            Some("device_type:!tv"),
        ]),
        (NOW_MS - 2 * DAY..NOW_MS - MINUTE, MINUTE..DAY),
        prop::sample::select(vec![
            Step::Every(Granularity::FiveMinutes),
            Step::Every(Granularity::HalfHour),
            Step::Every(Granularity::Hour),
            Step::Every(Granularity::Day),
            Step::Total,
        ]),
        prop::sample::select(vec![None, None, Some(1_i64), Some(3), Some(12)]),
        any::<bool>(),
    )
        .prop_map(
            |(mut metrics, group_by, filter, (from_ms, length_ms), step, wide, sessions)| {
                let by_country = group_by.len() < 2 && !group_by.contains(&"device_type");
                let by_device = filter.is_some_and(|filter| filter.starts_with("device_type"));
                if sessions && by_country && !by_device {
                    metrics.extend(["sessions", "bounce_rate"]);
                }
                let steps_wide = wide.filter(|_| step != Step::Total);
                Wish { metrics, group_by, filter, from_ms, length_ms, step, steps_wide }
            },
        )
}

/// The wish as a question, and the windows that the model looks at.
fn question_of(wish: &Wish) -> (Ask, NaiveWindows) {
    let (from, to) = (wish.from_ms, wish.from_ms + wish.length_ms);
    let (from_text, to_text) = (from.to_string(), to.to_string());
    let (metrics, group_by) = (wish.metrics.join(","), wish.group_by.join(","));
    let mut query = vec![
        ("metrics", metrics.as_str()),
        ("group_by", group_by.as_str()),
        ("from", from_text.as_str()),
        ("to", to_text.as_str()),
        ("granularity", wish.step.name()),
        ("limit", "100000"),
    ];
    query.extend(wish.filter.map(|filter| ("filter", filter)));
    let (step, rounding) = match wish.step {
        Step::Every(granularity) => (granularity.ms(), granularity.ms()),
        Step::Total => (0, MINUTE),
    };
    let window = wish.steps_wide.map(|steps| format!("{}m", step * steps / MINUTE));
    query.extend(window.as_deref().map(|window| ("window", window)));
    let from = from.div_euclid(rounding) * rounding;
    let to = -((-to).div_euclid(rounding)) * rounding;
    let step = if step == 0 { to - from } else { step };
    let every = |count: i64| (0..count).map(move |n| from + n * step);
    let starts: Vec<i64> = match wish.steps_wide {
        None => every((to - from) / step).collect(),
        // Every step after from, up to to, at which a whole window lies behind us.
        Some(wide) => every((to - from) / step + 1)
            .skip(1)
            .filter(|end| *end <= NOW_MS)
            .map(|end| end - step * wide)
            .collect(),
    };
    let width = step * wish.steps_wide.unwrap_or(1);
    (ask(&query), NaiveWindows { from, to, starts, width })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]
    #[test]
    fn every_answer_is_what_looking_at_every_event_gives(
        events in prop::collection::vec(told(), 0..60),
        sessions in prop::collection::vec(stayed(), 0..12),
        wish in wish(),
        narrow in any::<bool>(),
    ) {
        let shelf = if narrow { Shelf::narrow(Plan::builtin()) } else { Shelf::new() };
        shelf.show(&events, &sessions, NOW_MS);
        let (ask, windows) = question_of(&wish);
        let expected = naive_rows(&ask, &windows, &events, &sessions);
        let answer = answered(&shelf, &ask).map_err(|problem| TestCaseError::fail(problem.detail))?;
        let got: NaiveRows = answer
            .rows
            .iter()
            .map(|row| {
                let values = row.values.iter().map(number).collect();
                ((row.window.ms(), row.members.to_vec()), values)
            })
            .collect();
        prop_assert_eq!(got.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (key, values) in &expected {
            for ((metric, expected), got) in ask.metrics.iter().zip(values).zip(&got[key]) {
                prop_assert!(close(*expected, *got), "{metric} at {key:?}: {expected:?}, got {got:?}");
            }
        }
    }

    #[test]
    fn a_comparison_shows_both_periods_side_by_side(
        events in prop::collection::vec(told(), 0..60),
        wish in wish(),
        narrow in any::<bool>(),
    ) {
        let shelf = if narrow { Shelf::narrow(Plan::builtin()) } else { Shelf::new() };
        shelf.show(&events, &[], NOW_MS);
        let wish = Wish { metrics: vec!["events", "unique_users"], ..wish };
        let (ask, windows) = question_of(&wish);
        let compared = Ask { compare: Compare::PreviousPeriod, ..ask.clone() };
        let length = windows.to - windows.from;
        let now = naive_rows(&ask, &windows, &events, &[]);
        let before = naive_rows(&ask, &windows.back_by(length), &events, &[]);
        let answer = answered(&shelf, &compared).map_err(|problem| TestCaseError::fail(problem.detail))?;
        let mut expected = BTreeMap::new();
        for (key, values) in &now {
            expected.insert(key.clone(), [values[0], Some(0.0), values[1], Some(0.0)]);
        }
        for ((start, members), values) in &before {
            let key = (start + length, members.clone());
            let row = expected.entry(key).or_insert([Some(0.0); 4]);
            (row[1], row[3]) = (values[0], values[1]);
        }
        let got: BTreeMap<_, _> = answer
            .rows
            .iter()
            .map(|row| {
                let values: Vec<Option<f64>> = row.values.iter().map(number).collect();
                ((row.window.ms(), row.members.to_vec()), values)
            })
            .collect();
        let expected: BTreeMap<_, _> =
            expected.into_iter().map(|(key, values)| (key, values.to_vec())).collect();
        prop_assert_eq!(got, expected);
        let columns = ["events", "events_previous", "unique_users", "unique_users_previous"];
        prop_assert_eq!(&answer.columns.metrics, &columns);
    }

    #[test]
    fn the_first_rows_of_many_are_those_of_all(
        events in prop::collection::vec(told(), 0..60),
        sessions in prop::collection::vec(stayed(), 0..12),
        wish in wish(),
        limit in 1_usize..6,
        keys in prop::collection::vec((0_usize..5, any::<bool>()), 0..3),
        compared in any::<bool>(),
    ) {
        let (ask, _) = question_of(&wish);
        let columns = [ask.group_by.clone(), ask.metrics.clone(), vec!["window_start".to_owned()]];
        let columns = columns.concat();
        let order_by = keys.into_iter().map(|(place, descending)| Order {
            column: columns[place % columns.len()].clone(),
            direction: if descending { Direction::Descending } else { Direction::Ascending },
        });
        let compare = if compared { Compare::PreviousPeriod } else { Compare::Nothing };
        let ask = Ask { limit, order_by: order_by.collect(), compare, ..ask };
        let (wide, narrow) = (Shelf::new(), Shelf::narrow(Plan::builtin()));
        for shelf in [&wide, &narrow] {
            shelf.show(&events, &sessions, NOW_MS);
        }
        let failed = |problem: Problem| TestCaseError::fail(problem.detail);
        let all = answered(&wide, &ask).map_err(failed)?;
        let first = answered(&narrow, &ask).map_err(failed)?;
        prop_assert_eq!(&first.rows, &all.rows);
        prop_assert_eq!(first.meta, all.meta);
    }
}

#[test]
fn a_top_list_over_many_values_is_exact_in_little_memory() {
    const VALUES: usize = 60_000;
    let settings = StoreSettings { read_bytes_max: 16 << 20, ..StoreSettings::default() };
    let shelf = Shelf::of(Plan::builtin(), settings);
    // Some values more often than others, by users of both shards; ties go by the value.
    let times = |n: usize| 1 + n * 7_919 % 5 + if n.is_multiple_of(9_999) { 3 } else { 0 };
    let content = |n: usize| &*Box::leak(format!("c-{n:05}").into_boxed_str());
    let mut events = Vec::new();
    for n in 0..VALUES {
        let content_id = Some(content(n));
        let told =
            Told { at_ms: NOW_MS - MINUTE, event_type: "view", content_id, ..Told::default() };
        events.extend((0..times(n) as u64).map(|user| Told { user: user + 1, ..told.clone() }));
    }
    shelf.show(&events, &[], NOW_MS);
    let query = [
        ("metrics", "events,unique_users"),
        ("group_by", "content_id"),
        ("order_by", "-events"),
        ("granularity", "total"),
        ("limit", "8"),
    ];
    let mut expected: Vec<(i64, String)> =
        (0..VALUES).map(|n| (i64::try_from(times(n)).unwrap(), format!("c-{n:05}"))).collect();
    expected.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let shown = |query: &[(&str, &str)]| -> Vec<(i64, String)> {
        let answer = answered(&shelf, &ask(query)).unwrap();
        assert!(answer.meta.truncated);
        let row = |row: &Row| match (&row.values[0], &row.members[0]) {
            (Value::Integer(events), Member::Text(text)) => {
                assert_eq!(row.values[1], row.values[0], "each event is another user's");
                (*events, text.to_string())
            }
            other => panic!("{other:?}"),
        };
        answer.rows.iter().map(row).collect()
    };
    assert_eq!(shown(&query), expected[..8]);
    let filtered = [&query[..], &[("filter", "content_id:c-1*")]].concat();
    let of_filter = expected.iter().filter(|(_, text)| text.starts_with("c-1"));
    assert_eq!(shown(&filtered), of_filter.take(8).cloned().collect::<Vec<_>>());
}

/// A pin that notes how many cells an answer was given at once, and how groups were asked for.
struct Watched {
    pin: Pin,
    at_once: AtomicUsize,
    groups: Mutex<Vec<GroupsOf>>,
}

impl Watched {
    fn of(shelf: &Shelf) -> Self {
        let pin = Pin::new(shelf.store.pin());
        Self { pin, at_once: AtomicUsize::new(0), groups: Mutex::default() }
    }
}

impl Version for Watched {
    fn plan(&self) -> &Plan {
        self.pin.plan()
    }

    fn kept_from(&self, granularity: Granularity) -> EventTime {
        self.pin.kept_from(granularity)
    }

    fn keeps(&self, granularity: Granularity, range: TimeRange) -> bool {
        self.pin.keeps(granularity, range)
    }

    fn finest_over(&self, range: TimeRange) -> Granularity {
        self.pin.finest_over(range)
    }

    fn outward(&self, range: TimeRange) -> TimeRange {
        self.pin.outward(range)
    }

    fn as_of(&self) -> ReceiveTime {
        self.pin.as_of()
    }

    fn known_from(&self, set: SetId, slots: SlotMask, range: TimeRange) -> Option<EventTime> {
        self.pin.known_from(set, slots, range)
    }

    fn read(&self, scans: &[Scan], rows_max: usize) -> (Vec<Result<Cells, Problem>>, Moment) {
        let (cells, moment) = self.pin.read(scans, rows_max);
        let given = cells.iter().flatten().map(|cells| cells.cells.len());
        self.at_once.fetch_add(given.sum(), Ordering::Relaxed);
        (cells, moment)
    }

    fn has_too_many(&self, scans: &[Scan], rows_max: usize) -> bool {
        self.pin.has_too_many(scans, rows_max)
    }

    fn read_groups(&self, scans: &[GroupScan], of: GroupsOf) -> Result<GroupedCells, Problem> {
        self.groups.lock().unwrap().push(of);
        self.pin.read_groups(scans, of)
    }
}

/// By values alone each of the 8,640 windows is a run with a block of its own in memory.
#[test]
fn a_filtered_question_is_read_by_windows_though_values_are_folded() {
    let guard = GuardLimits { values_max: 3, ..GuardLimits::default() };
    let plan = Plan::compile(&Declarations { guard, ..Declarations::default() }).unwrap();
    let shelf = Shelf::narrow(plan);
    let seen = |content_id| Told {
        at_ms: NOW_MS - MINUTE,
        event_type: "view",
        user: 1,
        content_id: Some(content_id),
        ..Told::default()
    };
    let asked = |shelf: &Shelf| {
        let version = Watched::of(shelf);
        let query = [("metrics", "events"), ("group_by", "content_id"), ("limit", "8")];
        let fine = [("granularity", "5m"), ("last", "2d"), ("filter", "content_id:c-*")];
        let query = ask(&[&query[..], &fine].concat());
        let answer = answer_of(&query, &version).unwrap();
        (answer.rows.len(), version.groups.into_inner().unwrap())
    };
    let mut events = vec![seen("c-1"), seen("c-2"), seen("d-1")];
    for last in ["d-1", "c-3"] {
        events.push(seen(last));
        shelf.show(&events, &[], NOW_MS);
        assert_eq!(asked(&shelf), (2, vec![GroupsOf::WindowsAndValues]), "{last}");
    }
}

#[test]
fn few_rows_of_very_many_are_shown_without_holding_the_others() {
    let shelf = Shelf::new();
    let content = |n: usize| Some(&*Box::leak(format!("c-{n:05}").into_boxed_str()));
    let told = Told { at_ms: NOW_MS - MINUTE, event_type: "view", user: 1, ..Told::default() };
    let events: Vec<Told> =
        (0..60_000).map(|n| Told { content_id: content(n), ..told.clone() }).collect();
    shelf.show(&events, &[], NOW_MS);
    let at_once = |limit: &str| {
        let version = Watched::of(&shelf);
        let query = [("metrics", "events"), ("group_by", "content_id"), ("limit", limit)];
        let query = [&query[..], &[("granularity", "total")]].concat();
        let answer = answer_of(&ask(&query), &version).unwrap();
        assert_eq!(answer.rows.len(), limit.parse::<usize>().unwrap().min(60_000));
        version.at_once.into_inner()
    };
    let short = |group_by: &str| {
        let query = [("metrics", "events"), ("group_by", group_by), ("limit", "8")];
        let query = ask(&[&query[..], &[("granularity", "total")]].concat());
        let pin = Pin::new(shelf.store.pin());
        answer(&query, &pin, ReceiveTime::from_ms(NOW_MS), Length::Short).unwrap()
    };
    assert!(short("content_id").is_none(), "eight of 60,000 rows are no short work");
    assert_eq!(short("event_type").expect("one row is").rows.len(), 1);
    assert_eq!(at_once("8"), 0, "none of 60,000 rows is held for eight");
    assert_eq!(at_once("20000"), 60_000, "rows of which a third is shown are read at once");
}

#[test]
fn distinct_users_are_merged_and_never_added() {
    let shelf = Shelf::new();
    let at = |minutes: i64, user| Told {
        at_ms: NOW_MS - minutes * MINUTE,
        user,
        event_type: "view",
        ..Told::default()
    };
    let events: Vec<Told> = (1..50).flat_map(|minute| [at(minute, 1), at(minute, 2)]).collect();
    shelf.show(&events, &[], NOW_MS);
    let total = ask(&[("metrics", "unique_users"), ("granularity", "total")]);
    let answer = answered(&shelf, &total).unwrap();
    assert_eq!(answer.rows[0].values, [Value::Integer(2)]);
    assert!(answer.meta.approximate.is_empty(), "2 users are counted exactly");
}

#[test]
fn an_estimate_says_its_error_and_an_exact_count_none() {
    let shelf = Shelf::new();
    let events: Vec<Told> = (1..2_000)
        .map(|user| Told { at_ms: NOW_MS - MINUTE, user, event_type: "view", ..Told::default() })
        .collect();
    shelf.show(&events, &[], NOW_MS);
    let answer =
        answered(&shelf, &ask(&[("metrics", "events,unique_users"), ("granularity", "1m")]))
            .unwrap();
    let approximate: Vec<_> = answer.meta.approximate.into_iter().collect();
    assert_eq!(approximate, [("unique_users".to_owned(), 0.016)]);
}

#[test]
fn names_that_there_are_not_come_with_those_that_there_are() {
    let problem = refused(&[("metrics", "evnts")]);
    assert_eq!((problem.code, &problem.extra["near"]), ("unknown_metric", &["events"][..].into()));
    let problem = refused(&[("metrics", "events"), ("group_by", "contry")]);
    assert_eq!(
        (problem.code, &problem.extra["near"]),
        ("unknown_dimension", &["country"][..].into())
    );
    let problem = refused(&[("metrics", "events"), ("filter", "divice_type:tv")]);
    assert_eq!(problem.code, "unknown_dimension");
}

#[test]
fn what_rows_cannot_be_ordered_by_says_what_is_missing() {
    for (column, detail) in [
        ("-unique_users", "unique_users is a metric that is not asked for; add it to metrics"),
        ("country", "country is a dimension that rows are not grouped by; add it to group_by"),
        ("events_previous", "events is not compared with anything; add compare=previous_period"),
        ("window_end", "window_end is a column of sliding windows; give window"),
        ("evnts", "there is no \"evnts\"; did you mean events?"),
    ] {
        let problem = refused(&[("metrics", "events"), ("order_by", column)]);
        assert_eq!(problem.code, "unknown_column");
        assert_eq!(problem.detail, format!("order_by: {detail}"));
    }
}

#[test]
fn a_combination_without_cells_says_how_to_declare_it() {
    let problem = refused(&[("metrics", "events"), ("group_by", "content_id,country")]);
    assert_eq!(problem.code, "no_such_cube");
    assert!(
        problem.detail.contains("[[cube]] dimensions = [\"country\", \"content_id\"]"),
        "{}",
        problem.detail
    );
    let problem = refused(&[("metrics", "sessions"), ("group_by", "app_version")]);
    assert_eq!(problem.code, "no_such_cube");
    assert!(problem.detail.contains("subscription_tier"), "{}", problem.detail);
}

#[test]
fn a_granularity_past_its_retention_names_the_finest_kept() {
    let from = (NOW_MS - 20 * DAY).to_string();
    let problem = refused(&[("metrics", "events"), ("from", &from), ("granularity", "1m")]);
    assert_eq!((problem.code, &problem.extra["finest"]), ("granularity_expired", &"5m".into()));
    let to = (NOW_MS - 19 * DAY).to_string();
    let query = [("metrics", "active_now"), ("from", &from), ("to", &to), ("granularity", "1d")];
    assert_eq!(refused(&query).code, "granularity_expired");
    let fine = [("metrics", "mau"), ("from", &from), ("granularity", "1d")];
    assert!(answered(&Shelf::new(), &ask(&fine)).is_ok());
}

#[test]
fn the_granularity_that_is_not_asked_for_follows_the_range_and_what_is_kept() {
    let used = |last: &str| {
        let query = [("metrics", "events"), ("last", last)];
        answered(&Shelf::new(), &ask(&query)).unwrap().meta.range.granularity
    };
    let got = ["15m", "6h", "24h", "7d", "30d", "90d", "3650d"].map(used);
    assert_eq!(got, ["1m", "1m", "5m", "30m", "1h", "1d", "1d"]);
    // 40 days ago 1 h is kept and 5 m is not, however short the range.
    let from = (NOW_MS - 40 * DAY).to_string();
    let to = (NOW_MS - 40 * DAY + HOUR).to_string();
    let query = [("metrics", "events"), ("from", from.as_str()), ("to", to.as_str())];
    assert_eq!(answered(&Shelf::new(), &ask(&query)).unwrap().meta.range.granularity, "30m");
}

#[test]
fn ranges_are_rounded_outward_and_say_so() {
    let query = [
        ("metrics", "events"),
        ("from", "2026-11-24T05:07:30Z"),
        ("to", "2026-11-24T06:01:00Z"),
        ("granularity", "1h"),
    ];
    let meta = answered(&Shelf::new(), &ask(&query)).unwrap().meta;
    assert_eq!(meta.range.from, "2026-11-24T05:00:00Z");
    assert_eq!(meta.range.to, "2026-11-24T07:00:00Z");
}

#[test]
fn what_is_cut_off_and_what_is_not_final_is_said() {
    let shelf = Shelf::new();
    let at = |ago: i64, country| Told {
        at_ms: NOW_MS - ago,
        user: 1,
        event_type: "view",
        country: Some(country),
        ..Told::default()
    };
    shelf.show(&[at(MINUTE, "DE"), at(MINUTE, "FR"), at(5 * HOUR, "FR")], &[], NOW_MS);
    let query = [
        ("metrics", "events"),
        ("group_by", "country"),
        ("last", "6h"),
        ("order_by", "-events"),
        ("granularity", "total"),
        ("limit", "1"),
    ];
    let answer = answered(&shelf, &ask(&query)).unwrap();
    assert_eq!(*answer.rows[0].members, [Member::Text("FR".into())]);
    assert!(answer.meta.truncated);
    let query = [("metrics", "events"), ("last", "6h"), ("granularity", "1h")];
    let answer = answered(&shelf, &ask(&query)).unwrap();
    assert_eq!((answer.rows.len(), answer.meta.provisional_rows), (2, 1));
    assert_eq!(answer.meta.final_until, EventTime::from_ms(NOW_MS - 7_260_000).to_string());
}

#[test]
fn a_sliding_window_ends_at_its_step_and_none_reaches_past_now() {
    let shelf = Shelf::new();
    // One event a minute for three hours, at its 15th second.
    let events: Vec<Told> = (0..180)
        .map(|ago| Told {
            at_ms: NOW_MS - 15_000 - ago * MINUTE,
            user: 1,
            event_type: "view",
            ..Told::default()
        })
        .collect();
    shelf.show(&events, &[], NOW_MS);
    let query = [
        ("metrics", "events"),
        ("last", "1h"),
        ("granularity", "5m"),
        ("window", "1h"),
        ("order_by", "window_end"),
    ];
    let answer = answered(&shelf, &ask(&query)).unwrap();
    let body: serde_json::Value =
        serde_json::from_slice(&answer.body(&answer.meta).concat()).unwrap();
    assert_eq!(body["columns"], serde_json::json!(["window_start", "window_end", "events"]));
    let rows = body["rows"].as_array().unwrap();
    let ends: Vec<&str> = rows.iter().map(|row| row["window_end"].as_str().unwrap()).collect();
    let minutes = ["05", "10", "15", "20", "25", "30", "35", "40", "45", "50", "55"];
    let mut expected: Vec<String> =
        minutes.iter().map(|minute| format!("2026-11-24T06:{minute}:00Z")).collect();
    expected.push("2026-11-24T07:00:00Z".to_owned());
    assert_eq!(ends, expected);
    assert_eq!(rows[0]["window_start"], "2026-11-24T05:05:00Z");
    assert!(rows.iter().all(|row| row["events"] == 60), "every row is of a whole hour: {rows:?}");
    // Up to a moment in the past the last window ends there.
    let query = [
        ("metrics", "events"),
        ("from", "2026-11-24T05:00:00Z"),
        ("to", "2026-11-24T05:10:00Z"),
        ("granularity", "5m"),
        ("window", "10m"),
    ];
    let answer = answered(&shelf, &ask(&query)).unwrap();
    let starts: Vec<String> = answer.rows.iter().map(|row| row.window.to_string()).collect();
    assert_eq!(starts, ["2026-11-24T04:55:00Z", "2026-11-24T05:00:00Z"]);
}

#[test]
fn a_sliding_window_needs_the_retention_of_all_that_it_reaches_back_over() {
    let from = (NOW_MS - 14 * DAY + HOUR).to_string();
    let query = |window| {
        ask(&[("metrics", "events"), ("from", &from), ("granularity", "1m"), ("window", window)])
    };
    assert!(answered(&Shelf::new(), &query("30m")).is_ok());
    let problem = answered(&Shelf::new(), &query("3h")).unwrap_err();
    assert_eq!(problem.code, "granularity_expired");
    // Where the granularity is ours to choose, it is one that is kept.
    let free = ask(&[("metrics", "events"), ("from", &from), ("window", "1d")]);
    assert!(answered(&Shelf::new(), &free).is_ok());
}

#[test]
fn every_time_of_an_answer_can_be_asked_for() {
    let mut query =
        vec![("metrics", "events"), ("granularity", "1d"), ("from", "9999-12-31T00:00:00Z")];
    query.push(("to", "9999-12-31T23:59:59Z"));
    for granularity in ["1d", "1h", "1m", "total"] {
        query[1].1 = granularity;
        let answer = answered(&Shelf::new(), &ask(&query)).unwrap();
        let range = answer.meta.range;
        assert_eq!(range.to, "9999-12-31T23:59:59.999Z", "{granularity}");
        let again = ask(&[
            ("metrics", "events"),
            ("granularity", granularity),
            ("from", &range.from),
            ("to", &range.to),
        ]);
        assert_eq!(answered(&Shelf::new(), &again).unwrap().meta.range.to, range.to);
    }
    let longest = [
        ("metrics", "events"),
        ("granularity", "1d"),
        ("from", "0002-01-01T00:00:00Z"),
        ("to", "9999-12-31T23:59:59Z"),
        ("compare", "previous_period"),
    ];
    let problem = refused(&longest);
    assert!(problem.detail.contains("before the year 1"), "{}", problem.detail);
    let widest = [
        ("metrics", "events"),
        ("granularity", "1d"),
        ("from", "0001-01-01T00:00:00Z"),
        ("to", "0001-01-02T00:00:00Z"),
        ("window", "2d"),
    ];
    let problem = refused(&widest);
    assert!(problem.detail.contains("before the year 1"), "{}", problem.detail);
}

#[test]
fn windows_that_cannot_be_named_one_by_one_are_refused() {
    let query = [("metrics", "dau"), ("from", "0001-01-01T00:00:00Z"), ("granularity", "1d")];
    assert_eq!(refused(&query).code, "bad_parameter");
    let query = [("metrics", "events"), ("window", "7m"), ("granularity", "5m")];
    assert_eq!(refused(&query).code, "bad_parameter");
    let query = [("metrics", "events"), ("window", "1h"), ("granularity", "total")];
    assert_eq!(refused(&query).code, "bad_parameter");
}

#[test]
fn a_span_up_to_now_holds_this_very_moment() {
    let at = |ago| Told { at_ms: NOW_MS - ago, user: 1, event_type: "view", ..Told::default() };
    let shelf = Shelf::new();
    shelf.show(&[at(0), at(30_000)], &[], NOW_MS);
    let asked = Ask {
        span: Span::Last { ms: MINUTE },
        ..ask(&[("metrics", "events"), ("granularity", "total")])
    };
    assert_eq!(answered(&shelf, &asked).unwrap().rows[0].values, [Value::Integer(2)]);
}

/// Shelves of two layers: an older plan's, and one of a plan with `watchers` besides.
fn shelf_of_two_plans(older: &[Told], newer: &[Told]) -> Shelf {
    let watchers: MetricDecl = serde_json::from_str(
        r#"{"name":"watchers","aggregate":"distinct","filter":"device_type:tv"}"#,
    )
    .unwrap();
    let declarations = Declarations { metrics: vec![watchers], ..Declarations::default() };
    let shelf = Shelf::with(Plan::compile(&declarations).unwrap());
    let layer = |plan: &Arc<Plan>, number: u64, events: &[Told]| {
        let mut layer = Layer::new(Arc::clone(plan), number);
        let mut tallies = Tallies::new();
        for told in events {
            let user = (told.user > 0).then(|| UserHash::new(told.user << 33));
            layer.count(&mut tallies, &crate::testing::event(told, ""), user);
        }
        layer.end_entry(&mut tallies);
        let now = ReceiveTime::from_ms(NOW_MS);
        let facts = Facts { seq: number, now, ..Facts::default() };
        Arc::new(OpenLayer::new(LayerNumber::new(number), layer, facts))
    };
    shelf.views.publish(ShardView {
        partition: Partition::new(0),
        plan: Arc::clone(&shelf.plan),
        layer: LayerNumber::new(2),
        open: layer(&shelf.plan, 2, newer),
        sealing: vec![layer(&Arc::new(Plan::builtin()), 1, older)],
        checkpoint: CheckpointStatus::default(),
    });
    shelf
}

#[test]
fn a_new_metric_says_since_when_it_is_known_and_is_null_before() {
    let seen = |at_ms: i64, user: u64| Told {
        at_ms,
        user,
        event_type: "view",
        device_type: Some("tv"),
        ..Told::default()
    };
    let minute = NOW_MS.div_euclid(MINUTE) * MINUTE;
    let at = |minutes: i64| minute - minutes * MINUTE;
    let older = [seen(at(300), 2), seen(at(41), 2), seen(at(40), 4)];
    let newer = [seen(at(40), 6), seen(at(30), 2), seen(at(3), 4), seen(at(2), 4)];
    let shelf = shelf_of_two_plans(&older, &newer);
    let since = EventTime::from_ms(at(39)).to_string();
    let of = |rest: &[(&str, &str)]| {
        let query = [&[("metrics", "watchers,events")], rest].concat();
        answered(&shelf, &ask(&query)).unwrap()
    };
    for granularity in ["total", "1h", "1m"] {
        let answer = of(&[("last", "6h"), ("granularity", granularity)]);
        assert_eq!(answer.meta.since, BTreeMap::from([("watchers".to_owned(), since.clone())]));
        assert!(answer.meta.filling.is_empty(), "nothing fills it in");
        let values = answer.rows.iter().map(|row| (row.values[0].clone(), row.values[1].clone()));
        let values: Vec<(Value, Value)> = values.collect();
        if granularity == "total" {
            assert_eq!(values, [(Value::Null, Value::Integer(7))], "never as if it were the whole");
        }
        if granularity == "1m" {
            let whole = (Value::Integer(1), Value::Integer(1));
            assert_eq!(values[3..], [whole.clone(), whole.clone(), whole]);
            assert!(values[..3].iter().all(|(watchers, _)| *watchers == Value::Null));
        }
    }
    // What there is, asked for from that moment on.
    let answer = of(&[("from", since.as_str()), ("granularity", "total")]);
    assert_eq!(answer.rows[0].values, [Value::Integer(2), Value::Integer(3)]);
    assert!(answer.meta.since.is_empty());
    // A range in which it is known nowhere, and a comparison with one.
    let (from, to) = (at(302).to_string(), at(290).to_string());
    let answer = of(&[("from", &from), ("to", &to), ("granularity", "total")]);
    let last = EventTime::from_ms(at(299)).to_string();
    assert_eq!(answer.meta.since["watchers"], last);
    let answer = of(&[("last", "35m"), ("granularity", "total"), ("compare", "previous_period")]);
    assert_eq!(
        answer.meta.since,
        BTreeMap::from([("watchers_previous".to_owned(), since.clone())])
    );
}
