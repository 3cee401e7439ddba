//! The obvious model: one list of facts for each cell of each set and granularity.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nilometer_event::{Event, EventTime, Field, Granularity, TimeRange, UserHash};

use crate::aggregate::Aggregates;
use crate::cells::{CellSource, OwnedDimValue, ScanRequest, SessionMeasure};
use crate::declare::{
    CubeDecl, Decimal, Declarations, DimensionDecl, MetricContext, MetricDecl, MetricValue, Plan,
    SetKind,
};

/// A small generator of its own, so that a failing seed can be run again.
#[derive(Clone, Debug)]
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(super) fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        let at = usize::try_from(self.below(from.len() as u64)).unwrap();
        from[at]
    }

    pub(super) fn maybe(&mut self, from: &[&str]) -> Option<String> {
        (self.below(8) > 0).then(|| self.pick(from).to_owned())
    }

    pub(super) fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            let j = usize::try_from(self.below(i as u64 + 1)).unwrap();
            list.swap(i, j);
        }
    }
}

/// An event that owns its text.
#[derive(Clone, Debug)]
pub(super) struct Fact {
    pub(super) time: i64,
    pub(super) user: Option<u64>,
    pub(super) event_type: String,
    pub(super) texts: BTreeMap<&'static str, String>,
    pub(super) duration: Option<f64>,
    pub(super) completed: Option<bool>,
    /// In cents.
    pub(super) price: Option<i128>,
    /// What stands where the price is, and is none.
    pub(super) no_price: Option<&'static str>,
    pub(super) coupon: Option<String>,
    pub(super) properties: Option<String>,
}

impl Fact {
    pub(super) fn random(rng: &mut Rng, start: i64, span_ms: u64, users: u64) -> Self {
        let mut texts = BTreeMap::new();
        let mut put = |name, value: Option<String>| value.map(|value| texts.insert(name, value));
        put("country", rng.maybe(&["DE", "FR", "JP", "__other__"]));
        put("device_type", rng.maybe(&["tv", "mobile", "desktop"]));
        put("content_category", rng.maybe(&["drama", "news"]));
        let content = format!("c-{}", rng.below(20));
        put("content_id", rng.maybe(&[content.as_str()]));
        put("app_version", rng.maybe(&["5.1", "5.2"]));
        put("subscription_tier", rng.maybe(&["free", "premium"]));
        put("cohort", rng.maybe(&["a", "b"]));
        put("channel", rng.maybe(&["mail", "ads", "organic"]));
        let service = rng.below(10) == 0;
        put("service_name", service.then(|| "cdn".to_owned()));
        let duration = (rng.below(3) > 0).then(|| {
            let ms = i32::try_from(rng.below(4_000_000)).unwrap();
            f64::from(ms) / 1_000.0
        });
        let price = (rng.below(4) == 0).then(|| {
            let cents = i128::from(rng.below(500)) - 100;
            let far = u32::try_from(18 + rng.below(17)).unwrap();
            if rng.below(8) == 0 { cents * 10_i128.pow(far) } else { cents }
        });
        let no_price = ["\"19.99\"", "true", "[1]", "{}", "1e40", "-1e999"];
        let no_price = (rng.below(12) == 0).then(|| rng.pick(&no_price));
        let coupon = rng.maybe(&["x", "y", "z"]);
        let properties = (rng.below(5) > 0).then(|| {
            let price = price.map_or("null".to_owned(), |cents| {
                format!(
                    "{}{}.{:02}",
                    if cents < 0 { "-" } else { "" },
                    cents.abs() / 100,
                    cents.abs() % 100
                )
            });
            let price = no_price.map_or(price, str::to_owned);
            let coupon = coupon.as_ref().map_or("[1]".to_owned(), |text| format!("{text:?}"));
            format!("{{\"price\":{price},\"cart\":{{\"coupon\":{coupon}}}}}")
        });
        Self {
            time: start + i64::try_from(rng.below(span_ms)).unwrap(),
            user: (!service).then(|| rng.below(users).wrapping_mul(0x1234_5678_9abc_def1)),
            event_type: rng
                .pick(&["view", "Play_Start", "click", "impression", "purchase", "heartbeat"])
                .to_owned(),
            texts,
            duration,
            completed: [None, Some(true), Some(false)][usize::try_from(rng.below(3)).unwrap()],
            price: price.filter(|_| properties.is_some() && no_price.is_none()),
            no_price: no_price.filter(|_| properties.is_some()),
            coupon: coupon.filter(|_| properties.is_some()),
            properties,
        }
    }

    pub(super) fn event(&self) -> Event<'_> {
        let text = |name| self.texts.get(name).map(String::as_str);
        Event {
            timestamp: EventTime::from_ms(self.time),
            event_id: "e",
            event_type: &self.event_type,
            service_name: text("service_name"),
            country: text("country"),
            device_type: text("device_type"),
            app_version: text("app_version"),
            content_id: text("content_id"),
            content_category: text("content_category"),
            subscription_tier: text("subscription_tier"),
            cohort: text("cohort"),
            channel: text("channel"),
            session_duration_sec: self.duration,
            completed: self.completed,
            properties: self.properties.as_deref(),
            ..Event::default()
        }
    }

    pub(super) fn user(&self) -> Option<UserHash> {
        self.user.map(UserHash::new)
    }

    fn value(&self, dimension: &str) -> Option<String> {
        match dimension {
            "event_type" => Some(self.event_type.clone()),
            "coupon" => self.coupon.clone(),
            name => self.texts.get(name).cloned(),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct SessionFactOf {
    pub(super) start: i64,
    pub(super) dims: [Option<String>; 4],
    pub(super) measure: SessionMeasure,
}

impl SessionFactOf {
    pub(super) fn random(rng: &mut Rng, start: i64, span_ms: u64) -> Self {
        let duration = [0, 9_999, 10_000, 754_321][usize::try_from(rng.below(4)).unwrap()];
        Self {
            start: start + i64::try_from(rng.below(span_ms)).unwrap(),
            dims: [
                rng.maybe(&["DE", "FR"]),
                rng.maybe(&["tv", "mobile"]),
                rng.maybe(&["mail"]),
                rng.maybe(&["free"]),
            ],
            measure: SessionMeasure {
                duration_ms: duration,
                events: 1 + rng.below(3),
                views: rng.below(3),
                conversions: rng.below(8) / 7,
            },
        }
    }

    pub(super) fn dims(&self) -> [Option<&str>; 4] {
        [0, 1, 2, 3].map(|place| self.dims[place].as_deref())
    }
}

pub(super) fn plan() -> Arc<Plan> {
    plan_with(Declarations::default())
}

pub(super) fn metric(name: &str, aggregate: &str, rest: &str) -> MetricDecl {
    let rest = if rest.is_empty() { String::new() } else { format!(",{rest}") };
    let json = format!("{{\"name\":{name:?},\"aggregate\":{aggregate:?}{rest}}}");
    serde_json::from_str(&json).unwrap()
}

pub(super) fn plan_with(mut declarations: Declarations) -> Arc<Plan> {
    declarations.dimensions.push(DimensionDecl {
        name: "coupon".into(),
        source: "properties.cart.coupon".into(),
        description: String::new(),
    });
    declarations.cubes.push(CubeDecl {
        dimensions: vec!["coupon".into(), "country".into(), "event_type".into()],
        distinct: true,
    });
    declarations
        .cubes
        .push(CubeDecl { dimensions: vec!["cohort".into(), "channel".into()], distinct: false });
    let price = r#""field":"properties.price","scale":2"#;
    declarations.metrics.extend([
        metric("revenue", "sum", &format!(r#"{price},"filter":"event_type:PURCHASE""#)),
        metric("cheapest", "min", price),
        metric("dearest", "max", price),
        metric("typical", "quantile", &format!(r#"{price},"quantile":0.5"#)),
        metric("titles", "distinct", r#""field":"content_id","filter":"!country:DE,null""#),
        metric("coupons", "top_k", r#""field":"properties.cart.coupon","k":2"#),
        metric("buy_rate", "ratio", r#""numerator":"event_type:purchase","denominator":"events""#),
    ]);
    Arc::new(Plan::compile(&declarations).unwrap())
}

/// First come, first admitted; the day closes at the first value too many.
#[derive(Clone, Debug, Default)]
struct NaiveGuard(BTreeMap<(String, i64), NaiveDay>);

/// What was admitted, and whether anything was not.
type NaiveDay = (BTreeSet<Vec<OwnedDimValue>>, bool);

impl NaiveGuard {
    /// Whether it has a place, and whether it is the first time that it has.
    fn admits(
        &mut self,
        key: &str,
        time: i64,
        value: &[OwnedDimValue],
        max: usize,
    ) -> (bool, bool) {
        let day = time.div_euclid(86_400_000);
        let (seen, closed) = self.0.entry((key.to_owned(), day)).or_default();
        if seen.contains(value) {
            return (true, false);
        }
        if *closed || seen.len() >= max {
            *closed = true;
            return (false, false);
        }
        seen.insert(value.to_vec());
        (true, true)
    }
}

type SetCells<T> = BTreeMap<(usize, Granularity), BTreeMap<Key, Vec<T>>>;

pub(super) type Key = (i64, Vec<OwnedDimValue>);
pub(super) type Cells = BTreeMap<Key, Aggregates>;

/// Facts with their resolved values; cells are found by looking at each fact.
#[derive(Debug)]
pub(super) struct Model {
    plan: Arc<Plan>,
    guard: NaiveGuard,
    /// For each event cell what it holds.
    events: SetCells<Arc<Fact>>,
    sessions: SetCells<(SessionMeasure, i64)>,
}

fn owned(value: Option<String>) -> OwnedDimValue {
    value.map_or(OwnedDimValue::Null, |text| OwnedDimValue::Text(text.into()))
}

fn own_values(
    plan: &Plan,
    set: usize,
    by_dim: &BTreeMap<usize, OwnedDimValue>,
) -> Vec<OwnedDimValue> {
    plan.sets[set].dims.iter().map(|dim| by_dim[&dim.index()].clone()).collect()
}

/// The sets that are derived from one.
fn behind(plan: &Plan, set: usize) -> Vec<usize> {
    let is_behind = |one: &usize| plan.sets[*one].parent.is_some_and(|own| own.index() == set);
    (0..plan.sets.len()).filter(is_behind).collect()
}

/// And those that are derived from these.
fn all_behind(plan: &Plan, set: usize) -> Vec<usize> {
    let own = behind(plan, set);
    let further = own.iter().flat_map(|one| all_behind(plan, *one));
    own.iter().copied().chain(further).collect()
}

impl Model {
    pub(super) fn new(plan: &Arc<Plan>) -> Self {
        Self {
            plan: Arc::clone(plan),
            guard: NaiveGuard::default(),
            events: BTreeMap::new(),
            sessions: BTreeMap::new(),
        }
    }

    fn guarded(&mut self, name: &str, time: i64, value: Option<String>) -> OwnedDimValue {
        let value = owned(value);
        let max = self.plan.guard.values_max as usize;
        if value == OwnedDimValue::Null
            || self.guard.admits(name, time, std::slice::from_ref(&value), max).0
        {
            value
        } else {
            OwnedDimValue::Other
        }
    }

    /// The values that each set of a kind has for one event or session.
    fn values(
        &mut self,
        kind: SetKind,
        time: i64,
        by_dim: &BTreeMap<usize, OwnedDimValue>,
    ) -> BTreeMap<usize, Vec<OwnedDimValue>> {
        let plan = Arc::clone(&self.plan);
        let finest = plan.sets.iter().enumerate();
        let finest = finest.filter(|(_, set)| set.kind == kind && set.parent.is_none());
        let mut values = BTreeMap::new();
        for (set, _) in finest {
            self.judge(set, time, by_dim, &mut values);
        }
        values
    }

    /// What a set has that is asked for its own values, and those that are derived from it.
    fn judge(
        &mut self,
        set: usize,
        time: i64,
        by_dim: &BTreeMap<usize, OwnedDimValue>,
        values: &mut BTreeMap<usize, Vec<OwnedDimValue>>,
    ) {
        let plan = Arc::clone(&self.plan);
        let mut own = own_values(&plan, set, by_dim);
        let (is_admitted, is_new) = self.ask(set, time, by_dim);
        if is_new && !plan.guard.carries_rest() {
            for behind in all_behind(&plan, set) {
                self.ask(behind, time, by_dim);
            }
        }
        if !is_admitted {
            own.fill(OwnedDimValue::Other);
        }
        if !is_admitted && !plan.guard.carries_rest() {
            values.insert(set, own);
            for behind in behind(&plan, set) {
                self.judge(behind, time, by_dim, values);
            }
            return;
        }
        for derived in all_behind(&plan, set) {
            let place = |dim| plan.sets[set].dims.iter().position(|own| own == dim).unwrap();
            let dims = plan.sets[derived].dims.iter();
            values.insert(derived, dims.map(|dim| own[place(dim)].clone()).collect());
        }
        values.insert(set, own);
    }

    fn ask(
        &mut self,
        set: usize,
        time: i64,
        by_dim: &BTreeMap<usize, OwnedDimValue>,
    ) -> (bool, bool) {
        let dims = &self.plan.sets[set].dims;
        if dims.len() < 2 {
            return (true, false);
        }
        let own = own_values(&self.plan, set, by_dim);
        let max = self.plan.guard.combinations_max as usize;
        self.guard.admits(&format!("{dims:?}"), time, &own, max)
    }

    pub(super) fn count(&mut self, fact: &Fact) {
        let plan = Arc::clone(&self.plan);
        let shared = Arc::new(fact.clone());
        let mut by_dim = BTreeMap::new();
        for (index, dimension) in plan.dimensions.iter().enumerate() {
            let value = self.guarded(&dimension.name, fact.time, fact.value(&dimension.name));
            by_dim.insert(index, value);
        }
        for (set, values) in self.values(SetKind::Events, fact.time, &by_dim) {
            for granularity in Granularity::ALL {
                let window = fact.time - fact.time.rem_euclid(granularity.ms());
                let cells = self.events.entry((set, granularity)).or_default();
                cells.entry((window, values.clone())).or_default().push(Arc::clone(&shared));
            }
        }
    }

    pub(super) fn count_session(&mut self, session: &SessionFactOf, sign: i64) {
        let plan = Arc::clone(&self.plan);
        let mut by_dim = BTreeMap::new();
        for (place, dim) in plan.session_dims.iter().enumerate() {
            let name = &plan.dimensions[dim.index()].name;
            let value = self.guarded(name, session.start, session.dims[place].clone());
            by_dim.insert(dim.index(), value);
        }
        for (set, values) in self.values(SetKind::Sessions, session.start, &by_dim) {
            for granularity in Granularity::ALL {
                let window = session.start - session.start.rem_euclid(granularity.ms());
                let cells = self.sessions.entry((set, granularity)).or_default();
                cells.entry((window, values.clone())).or_default().push((session.measure, sign));
            }
        }
    }

    /// Compares every cell of every set and granularity.
    pub(super) fn check(&self, sources: &[&dyn CellSource]) {
        for (index, set) in self.plan.sets.iter().enumerate() {
            for granularity in Granularity::ALL {
                let got = read(&self.plan, index, granularity, sources);
                let want = match set.kind {
                    SetKind::Events => self.want_events((index, granularity), &got),
                    SetKind::Sessions => self.want_sessions((index, granularity), &got),
                };
                let got: BTreeSet<_> = got.into_keys().collect();
                assert_eq!(got, want, "cells of {set:?} at {granularity}");
            }
        }
    }

    fn want_events(&self, at: (usize, Granularity), got: &Cells) -> BTreeSet<Key> {
        let none = BTreeMap::new();
        let cells = self.events.get(&at).unwrap_or(&none);
        for (key, facts) in cells {
            let cell = got.get(key).unwrap_or_else(|| panic!("no cell {key:?} of {at:?}"));
            self.check_events(cell, facts, self.plan.sets[at.0].distinct, key);
        }
        cells.keys().cloned().collect()
    }

    fn want_sessions(&self, at: (usize, Granularity), got: &Cells) -> BTreeSet<Key> {
        let none = BTreeMap::new();
        let mut want = BTreeSet::new();
        for (key, facts) in self.sessions.get(&at).unwrap_or(&none) {
            if let Some(cell) = got.get(key) {
                self.check_sessions(cell, facts);
                want.insert(key.clone());
            } else {
                let left: i64 = facts.iter().map(|(_, sign)| sign).sum();
                assert_eq!(left, 0, "no cell {key:?} of {at:?}");
            }
        }
        want
    }

    fn value(&self, name: &str, cell: &Aggregates) -> MetricValue {
        let context = MetricContext { window: EventTime::from_ms(0), elapsed_ms: 60_000 };
        self.plan.metric(name).unwrap().value(cell, &context)
    }

    fn expect(&self, name: &str, cell: &Aggregates, want: Option<f64>, tolerance: f64) {
        let got = self.value(name, cell).as_f64();
        let close = match (got, want) {
            (None, None) => true,
            (Some(got), Some(want)) => (got - want).abs() <= tolerance * want.abs() + 1e-12,
            _ => false,
        };
        assert!(close, "{name}: got {got:?}, want {want:?}");
    }

    /// To the last digit.
    fn expect_cents(&self, name: &str, cell: &Aggregates, want: Option<i128>) {
        let want = want.map_or(MetricValue::Null, |value| {
            MetricValue::Decimal(Decimal { value: value.into(), scale: 2, digits_min: 2 })
        });
        assert_eq!(self.value(name, cell), want, "{name}");
    }

    fn check_events(&self, cell: &Aggregates, facts: &[Arc<Fact>], distinct: bool, key: &Key) {
        let all = || facts.iter();
        let count = |n: usize| f64::from(u32::try_from(n).unwrap());
        let typed =
            |types: &[&str]| all().filter(|fact| types.contains(&fact.event_type.as_str())).count();
        let expect = |name: &str, want: Option<f64>| self.expect(name, cell, want, 1e-12);
        expect("events", Some(count(facts.len())));
        expect("events_per_second", Some(count(facts.len()) / 60.0));
        let micros: Vec<i64> = all()
            .filter_map(|fact| fact.duration)
            .map(|seconds| {
                #[expect(clippy::cast_possible_truncation, reason = "at most 4,000 seconds")]
                let micros = (seconds * 1e6).round() as i64;
                micros
            })
            .collect();
        let total: i64 = micros.iter().sum();
        expect("total_duration", Some(total as f64 / 1e6));
        let known = (!micros.is_empty()).then(|| total as f64 / (count(micros.len()) * 1e6));
        expect("avg_duration", known);
        for (name, parts) in [("p50_duration", 50), ("p95_duration", 95)] {
            let mut sorted = micros.clone();
            sorted.sort_unstable();
            let rank = (sorted.len() * parts).div_ceil(100).max(1);
            let want = sorted.get(rank - 1).map(|micros| *micros as f64 / 1e6);
            self.expect(name, cell, want, 0.01);
        }
        let completed = all().filter(|fact| fact.completed == Some(true)).count();
        let carries = all().filter(|fact| fact.completed.is_some()).count();
        let ratio = |over: usize, under: usize| (under > 0).then(|| count(over) / count(under));
        expect("completions", Some(count(completed)));
        expect("completion_rate", ratio(completed, carries));
        let views = typed(&["view", "Play_Start"]);
        expect("content_views", Some(count(views)));
        let shown = views + typed(&["impression"]);
        expect("click_through_rate", ratio(typed(&["click"]), shown));
        expect("buy_rate", ratio(typed(&["purchase"]), facts.len()));
        let bought = all().filter(|fact| fact.event_type == "purchase");
        self.expect_cents("revenue", cell, Some(bought.filter_map(|fact| fact.price).sum()));
        let mut prices: Vec<i128> = all().filter_map(|fact| fact.price).collect();
        prices.sort_unstable();
        self.expect_cents("cheapest", cell, prices.first().copied());
        self.expect_cents("dearest", cell, prices.last().copied());
        let median = prices.get(prices.len().div_ceil(2).max(1) - 1);
        self.expect("typical", cell, median.map(|cents| *cents as f64 / 100.0), 0.01);
        self.check_tops(cell, facts);
        let users: BTreeSet<_> = all().filter_map(|fact| fact.user).collect();
        let titles: BTreeSet<_> = all()
            .filter(|fact| {
                !matches!(fact.texts.get("country").map(String::as_str), None | Some("DE"))
            })
            .filter_map(|fact| fact.texts.get("content_id"))
            .collect();
        if distinct {
            let tolerance = if users.len() > 512 { 0.04 } else { 0.0 };
            for name in ["unique_users", "dau", "active_now"] {
                self.expect(name, cell, Some(count(users.len())), tolerance);
            }
            expect("titles", Some(count(titles.len())));
        } else {
            assert!(cell.distincts.iter().all(|one| one.is_empty()), "users in {key:?}");
        }
    }

    fn check_tops(&self, cell: &Aggregates, facts: &[Arc<Fact>]) {
        if self.plan.guard.values_max < 1_000 {
            return;
        }
        let mut coupons: BTreeMap<String, i64> = BTreeMap::new();
        for coupon in facts.iter().filter_map(|fact| fact.coupon.clone()) {
            *coupons.entry(coupon).or_default() += 1;
        }
        let mut top: Vec<_> = coupons.into_iter().collect();
        top.sort_by_key(|(text, n)| (-n, text.clone()));
        top.truncate(2);
        assert_eq!(self.value("coupons", cell), MetricValue::Top(top));
    }

    fn check_sessions(&self, cell: &Aggregates, facts: &[(SessionMeasure, i64)]) {
        let sum = |of: &dyn Fn(&SessionMeasure) -> i64| -> f64 {
            let all: i64 = facts.iter().map(|(one, sign)| of(one) * sign).sum();
            all as f64
        };
        let sessions = sum(&|_| 1);
        let share = |n: f64| (sessions != 0.0).then(|| n / sessions);
        let expect = |name: &str, want| self.expect(name, cell, want, 1e-12);
        expect("sessions", Some(sessions));
        expect("bounce_rate", share(sum(&|one| i64::from(one.events == 1))));
        let engaged = |one: &SessionMeasure| {
            i64::from(one.duration_ms >= 10_000 || one.views >= 2 || one.conversions >= 1)
        };
        expect("engagement_rate", share(sum(&engaged)));
        expect("avg_session_duration", share(sum(&|one| one.duration_ms) / 1e3));
    }
}

/// Everything that the sources hold of one set, truncated to one granularity.
pub(super) fn read(
    plan: &Arc<Plan>,
    set: usize,
    granularity: Granularity,
    sources: &[&dyn CellSource],
) -> Cells {
    let id = plan.set_for(plan.sets[set].kind, &plan.sets[set].dims).unwrap();
    let range = TimeRange { start: EventTime::from_ms(-1 << 50), end: EventTime::from_ms(1 << 50) };
    let request = ScanRequest::new(Arc::clone(plan), id, granularity, range);
    scan(&request, sources)
}

pub(super) fn scan(request: &ScanRequest, sources: &[&dyn CellSource]) -> Cells {
    let mut all = BTreeMap::new();
    for source in sources {
        source
            .scan(request, &mut |cell| {
                assert!(cell.granularity <= request.granularity);
                let window = cell.window.window_start(request.granularity).ms();
                let dims = cell.dims.iter().map(|value| value.into_owned()).collect();
                let into = all.entry((window, dims)).or_insert_with(|| request.empty());
                cell.aggregates.merge_into(into);
            })
            .unwrap();
    }
    all
}

pub(super) fn fields() -> Vec<&'static str> {
    Field::ALL.map(Field::name).to_vec()
}
