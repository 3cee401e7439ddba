//! Compares every cell that the server answers with the model's.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::calendar::{rfc3339, time_ms};
use crate::harness::Server;
use crate::model::{Cell, Key, Model, SessionCell};

/// Every combination of dimensions that always exists.
pub(crate) const CUBES: [&[&str]; 20] = [
    &[],
    &["country"],
    &["device_type"],
    &["content_category"],
    &["country", "device_type"],
    &["country", "content_category"],
    &["device_type", "content_category"],
    &["country", "device_type", "content_category"],
    &["event_type"],
    &["content_id"],
    &["app_version"],
    &["subscription_tier"],
    &["cohort"],
    &["channel"],
    &["service_name"],
    &["event_type", "country"],
    &["app_version", "country"],
    &["subscription_tier", "country"],
    &["cohort", "country"],
    &["channel", "country"],
];

const SESSION_CUBES: [&[&str]; 5] =
    [&[], &["country"], &["device_type"], &["channel"], &["subscription_tier"]];

pub(crate) const GRANULARITIES: [(&str, i64); 5] =
    [("1m", 60_000), ("5m", 300_000), ("30m", 1_800_000), ("1h", 3_600_000), ("1d", 86_400_000)];

/// Most rows that one query is asked for.
const ROWS_PER_QUERY: usize = 40_000;

/// Up to here distinct counts are exact.
const EXACT_DISTINCT_MAX: usize = 512;

/// How the estimated distinct counts compare.
#[derive(Default)]
pub(crate) struct Distincts {
    compared: usize,
    within_one: usize,
}

impl Distincts {
    pub(crate) fn check(&mut self, shown: f64, truth: usize, place: &str) -> Result<()> {
        if truth <= EXACT_DISTINCT_MAX {
            ensure!(shown == truth as f64, "{place}: {shown} distinct, exactly {truth} expected");
            return Ok(());
        }
        let error = (shown / truth as f64 - 1.0).abs();
        ensure!(error <= 0.033, "{place}: {shown} distinct, {truth} expected");
        self.compared += 1;
        self.within_one += usize::from(error <= 0.016);
        Ok(())
    }

    pub(crate) fn check_share(&self) -> Result<()> {
        ensure!(
            self.compared < 20 || self.within_one as f64 >= 0.93 * self.compared as f64,
            "{} of {} distinct counts within 1.6 %",
            self.within_one,
            self.compared
        );
        Ok(())
    }
}

/// Every cell of every cube and granularity, the sessions and the rolling counts.
/// Returns how many cells were compared.
pub(crate) async fn every_cell(server: &Server, model: &Model) -> Result<usize> {
    let mut distincts = Distincts::default();
    let mut compared = cells(server, model, &GRANULARITIES, &mut distincts).await?;
    for (metric, days) in [("dau", 1), ("wau", 7), ("mau", 30)] {
        let truth = model.rolling_users(days);
        compared += rolling(server, metric, &truth, &mut distincts).await.context(metric)?;
    }
    distincts.check_share()?;
    Ok(compared)
}

/// Every cell of the days, which are kept for good.
pub(crate) async fn every_day(server: &Server, model: &Model) -> Result<usize> {
    cells(server, model, &GRANULARITIES[4..], &mut Distincts::default()).await
}

async fn cells(
    server: &Server,
    model: &Model,
    granularities: &[(&str, i64)],
    distincts: &mut Distincts,
) -> Result<usize> {
    let mut compared = 0;
    for &(granularity, ms) in granularities {
        for cube in CUBES {
            let cells = model.cells(cube, ms);
            compared += cells.len();
            events(server, cube, granularity, ms, &cells, distincts)
                .await
                .with_context(|| format!("{granularity} by {cube:?}"))?;
        }
        for cube in SESSION_CUBES {
            let cells = model.session_cells(cube, ms);
            compared += cells.len();
            sessions(server, cube, granularity, ms, &cells)
                .await
                .with_context(|| format!("sessions {granularity} by {cube:?}"))?;
        }
    }
    Ok(compared)
}

async fn events(
    server: &Server,
    cube: &[&str],
    granularity: &str,
    granularity_ms: i64,
    cells: &BTreeMap<Key, Cell>,
    distincts: &mut Distincts,
) -> Result<()> {
    let metrics = [
        "events",
        "unique_users",
        "total_duration",
        "avg_duration",
        "completions",
        "completion_rate",
        "content_views",
        "click_through_rate",
        "p50_duration",
        "p95_duration",
    ];
    let rows = all_rows(server, &metrics, cube, granularity, granularity_ms, cells).await?;
    for (key, cell) in cells {
        let place = format!("{} {:?}", rfc3339(key.0), key.1);
        let row = rows.get(key).with_context(|| format!("{place}: no row"))?;
        same_int(row, "events", cell.events, &place)?;
        let users = row["unique_users"].as_f64().context("unique_users")?;
        distincts.check(users, cell.users.len(), &place)?;
        let carried = cell.durations.len() as f64;
        let total = cell.duration_us as f64 / 1e6;
        same(row, "total_duration", Some(total), 1e-6, &place)?;
        same(row, "avg_duration", (carried > 0.0).then(|| total / carried), 1e-6, &place)?;
        same_int(row, "completions", cell.completions, &place)?;
        same(row, "completion_rate", ratio(cell.completions, cell.completed), 1e-9, &place)?;
        same_int(row, "content_views", cell.views, &place)?;
        same(row, "click_through_rate", ratio(cell.clicks, cell.impressions), 1e-9, &place)?;
        same(row, "p50_duration", quantile(&cell.durations, 0.50), 0.0101, &place)?;
        same(row, "p95_duration", quantile(&cell.durations, 0.95), 0.0101, &place)?;
    }
    Ok(())
}

async fn sessions(
    server: &Server,
    cube: &[&str],
    granularity: &str,
    granularity_ms: i64,
    cells: &BTreeMap<Key, SessionCell>,
) -> Result<()> {
    let metrics = [
        "sessions",
        "avg_session_duration",
        "bounce_rate",
        "engagement_rate",
        "p50_session_duration",
        "p95_session_duration",
    ];
    let rows = all_rows(server, &metrics, cube, granularity, granularity_ms, cells).await?;
    for (key, cell) in cells {
        let place = format!("{} {:?}", rfc3339(key.0), key.1);
        let row = rows.get(key).with_context(|| format!("{place}: no row"))?;
        same_int(row, "sessions", cell.sessions, &place)?;
        let mean = cell.duration_ms as f64 / 1000.0 / cell.sessions as f64;
        same(row, "avg_session_duration", Some(mean), 1e-6, &place)?;
        same(row, "bounce_rate", ratio(cell.bounces, cell.sessions), 1e-9, &place)?;
        same(row, "engagement_rate", ratio(cell.engaged, cell.sessions), 1e-9, &place)?;
        same(row, "p50_session_duration", quantile(&cell.durations_s, 0.50), 0.0101, &place)?;
        same(row, "p95_session_duration", quantile(&cell.durations_s, 0.95), 0.0101, &place)?;
    }
    Ok(())
}

async fn rolling(
    server: &Server,
    metric: &str,
    truth: &BTreeMap<i64, usize>,
    distincts: &mut Distincts,
) -> Result<usize> {
    let (Some((&first, _)), Some((&last, _))) = (truth.first_key_value(), truth.last_key_value())
    else {
        return Ok(0);
    };
    let answer = server
        .query(
            &json!({"metrics": [metric], "from": rfc3339(first), "to": rfc3339(last + 86_400_000),
            "granularity": "1d", "limit": 100_000}),
        )
        .await?;
    let now = answer["meta"]["as_of"].as_str().and_then(time_ms).context("as_of")?;
    let mut compared = 0;
    for row in answer["rows"].as_array().context("rows")? {
        let day = row["window_start"].as_str().and_then(time_ms).context("window_start")?;
        let shown = row[metric].as_f64().with_context(|| format!("{metric} in {row}"))?;
        distincts.check(shown, truth.get(&day).copied().unwrap_or(0), &rfc3339(day))?;
        compared += 1;
    }
    let expected = truth.range(..=now).filter(|(_, users)| **users > 0).count();
    ensure!(compared >= expected, "{compared} rows of {metric}, {expected} expected");
    Ok(compared)
}

/// All rows that the server has in the span of the cells, in queries small enough; a row that
/// the model lacks is an error.
async fn all_rows<C>(
    server: &Server,
    metrics: &[&str],
    cube: &[&str],
    granularity: &str,
    granularity_ms: i64,
    cells: &BTreeMap<Key, C>,
) -> Result<BTreeMap<Key, Value>> {
    let mut rows = BTreeMap::new();
    for (from, to) in spans(cells, granularity_ms) {
        let answer = server
            .query(&json!({"metrics": metrics, "group_by": cube, "from": rfc3339(from),
                "to": rfc3339(to), "granularity": granularity, "limit": 100_000}))
            .await?;
        ensure!(answer["meta"]["truncated"] != json!(true), "an answer was cut off");
        for row in answer["rows"].as_array().context("rows")? {
            let window = row["window_start"].as_str().and_then(time_ms).context("window_start")?;
            let values = cube
                .iter()
                // What a client itself calls `__other__` is shown apart from what was folded.
                .map(|name| {
                    row[*name].as_str().map(|text| text.replace("\\__other__", "__other__"))
                })
                .collect();
            let key = (window, values);
            ensure!(cells.contains_key(&key), "a row that never happened: {row}");
            ensure!(rows.insert(key, row.clone()).is_none(), "a row twice: {row}");
        }
    }
    Ok(rows)
}

/// Ranges of whole windows that hold every cell, each with a bounded number of cells.
fn spans<C>(cells: &BTreeMap<Key, C>, granularity_ms: i64) -> Vec<(i64, i64)> {
    let mut per_window: BTreeMap<i64, usize> = BTreeMap::new();
    for (window, _) in cells.keys() {
        *per_window.entry(*window).or_default() += 1;
    }
    let (Some((&first, _)), Some((&last, _))) =
        (per_window.first_key_value(), per_window.last_key_value())
    else {
        return Vec::new();
    };
    let mut spans = Vec::new();
    let (mut start, mut in_span) = (first, 0);
    for (window, count) in per_window {
        if in_span > 0 && in_span + count > ROWS_PER_QUERY {
            spans.push((start, window));
            (start, in_span) = (window, 0);
        }
        in_span += count;
    }
    spans.push((start, last + granularity_ms));
    spans
}

fn ratio(numerator: u64, denominator: u64) -> Option<f64> {
    (denominator > 0).then(|| numerator as f64 / denominator as f64)
}

/// The nearest-rank quantile.
fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = ((q * sorted.len() as f64).ceil() as usize).max(1);
    sorted.get(rank - 1).copied()
}

fn same_int(row: &Value, metric: &str, truth: u64, place: &str) -> Result<()> {
    ensure!(
        row[metric].as_u64() == Some(truth),
        "{place}: {metric} {} is not {truth}",
        row[metric]
    );
    Ok(())
}

fn same(row: &Value, metric: &str, truth: Option<f64>, tolerance: f64, place: &str) -> Result<()> {
    let shown = row[metric].as_f64();
    let is_same = match (shown, truth) {
        (None, None) => true,
        (Some(shown), Some(truth)) => (shown - truth).abs() <= tolerance * truth.abs().max(1e-3),
        _ => false,
    };
    ensure!(is_same, "{place}: {metric} {:?} is not {truth:?}", row[metric]);
    Ok(())
}
