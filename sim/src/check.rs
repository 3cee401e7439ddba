//! Compares what readers see with the model, cell by cell.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use nilometer_event::{EventTime, Field, Granularity, Offset, TimeRange, Topic};
use nilometer_log::Log;
use nilometer_rollups::aggregate::Aggregates;
use nilometer_rollups::cells::{OwnedDimValue, ScanRequest};
use nilometer_rollups::declare::{DimensionSet, MetricContext, Plan, SetKind};
use nilometer_rollups::view::Counters;
use nilometer_rollups::{Answer, Ask, Pinned, Rows};

use crate::client::Client;
use crate::model::{Cell, Key, Model};

/// Far before and after everything that a client says.
const EVER_MS: i64 = 10_000_000_000_000;

/// How much is compared.
#[derive(Debug)]
pub enum Look<'a> {
    /// Every set at every granularity.
    Everything,
    /// A few of them, by chance.
    Glance(&'a mut Rng),
}

/// Compares cells at the model's place in the journals.
///
/// # Errors
///
/// The first difference.
pub fn cells(pin: &Pinned, model: &Model, look: Look<'_>) -> Result<()> {
    let plan = Arc::clone(&pin.plan);
    let mut questions: Vec<(usize, Granularity)> = (0..plan.sets.len())
        .filter(|&set| is_modelled(&plan, set))
        .flat_map(|set| Granularity::ALL.map(|granularity| (set, granularity)))
        .collect();
    if let Look::Glance(rng) = look {
        rng.shuffle(&mut questions);
        questions.truncate(4);
    }
    let asks = questions.iter().map(|&(set, granularity)| ask(pin, &plan, set, granularity));
    let asks = asks.collect::<Result<Vec<_>>>()?;
    let (answers, moment) = pin.read_together(&asks);
    for (shard, facts) in moment.shards() {
        let durable = model.seq(*shard);
        ensure!(facts.seq == durable, "shard {shard} shows entry {} of {durable}", facts.seq);
    }
    for (((set, granularity), ask), answer) in questions.into_iter().zip(&asks).zip(answers) {
        let names = names_of(&plan, set)?;
        let kind = plan.sets[set].kind;
        let told = || format!("{kind:?} by {names:?} at {granularity}");
        let answer = answer.with_context(told)?;
        let from_ms = ask.request.range.start.ms();
        let expected = match kind {
            SetKind::Events => model.events_by(&names, granularity, from_ms),
            SetKind::Sessions => model.sessions_by(&names, granularity, from_ms),
        };
        compare(&plan, &plan.sets[set], granularity, &expected, &answer).with_context(told)?;
    }
    Ok(())
}

fn ask(pin: &Pinned, plan: &Arc<Plan>, set: usize, granularity: Granularity) -> Result<Ask> {
    let own = &plan.sets[set];
    let id = plan.set_for(own.kind, &own.dims).context("a set that the plan does not find")?;
    let start = EventTime::from_ms(-EVER_MS).max(pin.kept_from(granularity));
    let range = TimeRange { start, end: EventTime::from_ms(EVER_MS) }.outward(granularity);
    let request = ScanRequest::new(Arc::clone(plan), id, granularity, range);
    Ok(Ask { request, rows: Rows::Windows, estimated: false, rows_max: usize::MAX })
}

/// A dimension of the operator's own only lies beside what is compared.
fn is_modelled(plan: &Plan, set: usize) -> bool {
    let is_builtin = |name: &String| Field::from_name(name).is_some();
    names_of(plan, set).is_ok_and(|names| names.iter().all(is_builtin))
}

fn names_of(plan: &Plan, set: usize) -> Result<Vec<String>> {
    let dims = plan.sets[set].dims.iter();
    let names = dims.map(|dim| plan.dimensions.get(dim.index()).map(|found| found.name.clone()));
    names.collect::<Option<Vec<_>>>().context("a dimension that the plan does not have")
}

fn compare(
    plan: &Plan,
    set: &DimensionSet,
    granularity: Granularity,
    expected: &BTreeMap<Key, Cell>,
    answer: &Answer,
) -> Result<()> {
    ensure!(answer.filling.is_empty(), "windows are filling: {:?}", answer.filling);
    let mut found: HashMap<Key, &Aggregates> = HashMap::new();
    for row in &answer.rows {
        let dims = row.dims.iter().map(|value| match value {
            OwnedDimValue::Null => Ok(None),
            OwnedDimValue::Text(text) => Ok(Some(text.to_string())),
            OwnedDimValue::Other => bail!("a value is folded into __other__"),
        });
        let key = (row.window.ms(), dims.collect::<Result<Vec<_>>>()?);
        ensure!(expected.contains_key(&key), "unexpected cell {key:?}");
        ensure!(found.insert(key, &row.aggregates).is_none(), "a cell twice");
    }
    for (key, cell) in expected {
        let aggregates = found.get(key).with_context(|| format!("no cell {key:?}"))?;
        let window = EventTime::from_ms(key.0);
        let context = MetricContext::of(window, granularity, EventTime::MAX);
        for (name, want) in values(set, cell) {
            let metric = plan.metric(name).with_context(|| format!("no metric {name}"))?;
            let got = metric.value(aggregates, &context).as_f64();
            ensure!(is_same(got, want), "{name} of {key:?} is {got:?}, expected {want:?}");
        }
    }
    Ok(())
}

fn values(set: &DimensionSet, cell: &Cell) -> Vec<(&'static str, Option<f64>)> {
    let whole = |value: i64| Some(value as f64);
    let ratio = |one: i64, of: i64| (of != 0).then(|| one as f64 / of as f64);
    if set.kind == SetKind::Sessions {
        return vec![
            ("sessions", whole(cell.sessions)),
            ("bounce_rate", ratio(cell.bounces, cell.sessions)),
            ("engagement_rate", ratio(cell.engaged, cell.sessions)),
            ("avg_session_duration", ratio(cell.session_ms, cell.sessions * 1_000)),
        ];
    }
    let mut values = vec![
        ("events", whole(cell.events)),
        ("total_duration", Some(cell.duration_us as f64 / 1e6)),
        ("avg_duration", ratio(cell.duration_us, cell.durations * 1_000_000)),
        ("completions", whole(cell.completions)),
        ("completion_rate", ratio(cell.completions, cell.completables)),
        ("content_views", whole(cell.views)),
    ];
    if set.distinct {
        values.push(("unique_users", i64::try_from(cell.users.len()).ok().and_then(whole)));
    }
    values
}

fn is_same(got: Option<f64>, want: Option<f64>) -> bool {
    match (got, want) {
        (Some(got), Some(want)) => (got - want).abs() <= 1e-9 * want.abs(),
        _ => got == want,
    }
}

/// N1, N2 and N3 in numbers: every acknowledged event counts once, and nothing else does.
///
/// # Errors
///
/// The first thing that is missing or too much.
pub fn conservation(pin: &Pinned, model: &Model, log: &dyn Log, client: &Client) -> Result<()> {
    let counters = pin.counters();
    ensure!(counters.residual() == 0, "N3: residual {} in {counters:?}", counters.residual());
    let modelled = Counters { late: 0, conflicts: 0, ..counters };
    ensure!(modelled == model.counters(), "N3: {modelled:?}, expected {:?}", model.counters());
    let mut held = 0;
    for shard in log.partitions().partitions() {
        for topic in Topic::RECEIVED {
            held += log.bounds(topic, shard).end.get();
        }
    }
    ensure!(counters.received == held, "N3: received {} of {held}", counters.received);
    let late = late_events(log)?;
    ensure!(counters.late_pending == late, "N3: {late} late events of {counters:?}");
    let mut said = client.said().iter().filter(|said| said.sent_ms > 1_000_000_000_000);
    let lost = said.find(|said| {
        let name = (said.who.clone(), said.id.clone());
        client.acknowledged().contains(&name) && !model.seen().contains(&name)
    });
    ensure!(lost.is_none(), "N1: acknowledged and not counted: {lost:?}");
    Ok(())
}

/// Records of `late-events`; what a replay emitted again has the key of the first time.
fn late_events(log: &dyn Log) -> Result<u64> {
    let mut keys = HashSet::new();
    for shard in log.partitions().partitions() {
        let bounds = log.bounds(Topic::LateEvents, shard);
        let mut next: Offset = bounds.start;
        while next < bounds.end {
            let fetched = log.read(Topic::LateEvents, shard, next, 1 << 20)?;
            for record in fetched.iter() {
                keys.insert(record.key.context("a late event has a key")?.to_vec());
            }
            ensure!(fetched.next() > next, "late-events gives nothing at {next}");
            next = fetched.next();
        }
    }
    Ok(u64::try_from(keys.len())?)
}
