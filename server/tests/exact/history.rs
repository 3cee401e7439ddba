//! Real history through `nilometer import`, against the answers that pandas and DuckDB gave.
//!
//! The files are not in the repository: the tests skip where `../shared/data` is not there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::calendar::{rfc3339, time_ms};
use crate::compare::Distincts;
use crate::harness::{Server, WRITE_KEY};

const DAY_MS: i64 = 86_400_000;

/// A file of the data folder; `None` where the folder is not there.
fn data(path: &str) -> Option<PathBuf> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(path);
    if file.exists() {
        return Some(file);
    }
    eprintln!("skipped: {} is not there", file.display());
    None
}

fn truth(path: &str) -> Result<Option<Value>> {
    let Some(file) = data(path) else { return Ok(None) };
    Ok(Some(serde_json::from_slice(&std::fs::read(file)?)?))
}

/// Runs `nilometer import` as a user would.
fn import(server: &Server, file: &Path, name: &str, flags: &[&str]) -> Result<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_nilometer"))
        .args(["import", "--url", &server.url, "--write-key", WRITE_KEY, "--name", name])
        .args(flags)
        .arg(file)
        .env("XDG_STATE_HOME", server.data_dir().with_extension("state"))
        .output()
        .context("run nilometer import")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "import failed: {errors}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

const DESKDROP: [&str; 16] = [
    "--map",
    "timestamp=timestamp",
    "--map",
    "eventType=event_type",
    "--map",
    "contentId=content_id",
    "--map",
    "personId=user_id",
    "--map",
    "sessionId=session_id",
    "--map",
    "userCountry=country",
    "--time-unit",
    "s",
    "--connections",
    "4",
];

const MOVIES: [&str; 8] =
    ["--map", "ts_ms=timestamp", "--time-unit", "ms", "--connections", "4", "--drop", "row"];

/// Everything that the truth file knows and this server answers, within one data set's span.
async fn check(server: &Server, truth: &Value, distincts: &mut Distincts) -> Result<()> {
    let first = truth["first_ts_ms"].as_i64().context("first_ts_ms")?.div_euclid(DAY_MS) * DAY_MS;
    let last = truth["last_ts_ms"].as_i64().context("last_ts_ms")?.div_euclid(DAY_MS) * DAY_MS;
    let span = |mut query: Value| {
        query["from"] = rfc3339(first).into();
        query["to"] = rfc3339(last + DAY_MS).into();
        query["limit"] = 100_000.into();
        query
    };
    let daily = json!({"metrics": ["events", "dau", "wau", "mau"], "granularity": "1d"});
    let daily = server.query(&span(daily)).await?;
    let rows = daily["rows"].as_array().context("rows")?;
    let mut events_days = 0;
    for row in rows {
        let start = row["window_start"].as_str().and_then(time_ms).context("window_start")?;
        let day = rfc3339(start)[..10].to_owned();
        let events = truth["events_per_day"][&day].as_u64().unwrap_or(0);
        ensure!(row["events"].as_u64().unwrap_or(0) == events, "{day}: {row}, {events} expected");
        events_days += usize::from(events > 0);
        for (metric, name) in [
            ("dau", "dau_per_day"),
            ("wau", "wau_trailing_7_days"),
            ("mau", "mau_trailing_30_days"),
        ] {
            let expected = truth[name][&day].as_u64().unwrap_or(0);
            let shown = row[metric].as_f64().unwrap_or(0.0);
            distincts.check(shown, usize::try_from(expected)?, &format!("{metric} {day}"))?;
        }
    }
    ensure!(
        events_days as u64 == truth["days_with_events"].as_u64().context("days")?,
        "{events_days} days with events"
    );

    let by_type =
        json!({"metrics": ["events"], "group_by": ["event_type"], "granularity": "total"});
    for row in server.query(&span(by_type)).await?["rows"].as_array().context("rows")? {
        let kind = row["event_type"].as_str().context("event_type")?;
        ensure!(row["events"] == truth["events_by_type"][kind], "{row}");
    }

    let sessions = json!({"metrics": ["sessions", "avg_session_duration"], "granularity": "total"});
    let answer = server.query(&span(sessions)).await?;
    let expected = &truth["sessions_30min"];
    let row = &answer["rows"][0];
    ensure!(row["sessions"] == expected["count"], "{row}, {} expected", expected["count"]);
    let mean = expected["length_s_mean"].as_f64().context("mean")?;
    let shown = row["avg_session_duration"].as_f64().context("avg_session_duration")?;
    ensure!((shown - mean).abs() < 1e-5 * mean.max(1.0), "mean session {shown}, {mean} expected");

    let top = json!({"metrics": ["events"], "group_by": ["content_id"], "granularity": "total",
        "order_by": ["-events"]});
    let mut query = span(top);
    query["limit"] = 10.into();
    let answer = server.query(&query).await?;
    let shown: Vec<(&str, u64)> = answer["rows"]
        .as_array()
        .context("rows")?
        .iter()
        .filter_map(|row| Some((row["content_id"].as_str()?, row["events"].as_u64()?)))
        .collect();
    let expected: Vec<(&str, u64)> = truth["top10_contents_all_events"]
        .as_array()
        .context("top 10")?
        .iter()
        .filter_map(|top| Some((top["id"].as_str()?, top["count"].as_u64()?)))
        .collect();
    ensure!(shown == expected, "top 10 {shown:?}, {expected:?} expected");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imported_history_gives_the_truth_once_and_twice_and_beside_live_traffic() -> Result<()> {
    let (Some(file), Some(deskdrop)) =
        (data("deskdrop/users_interactions.csv.zip"), truth("deskdrop/truth.json")?)
    else {
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let server = Arc::new(Server::start(&folder.path().join("data"), &[]).await?);
    let mut distincts = Distincts::default();
    import(&server, &file, "deskdrop", &DESKDROP)?;
    let pipeline = server.at_rest().await?;
    ensure!(pipeline["totals"]["unique"] == deskdrop["events_total"], "{pipeline}");
    check(&server, &deskdrop, &mut distincts).await.context("deskdrop")?;

    import(&server, &file, "deskdrop", &DESKDROP)?;
    let pipeline = server.at_rest().await?;
    ensure!(pipeline["totals"]["unique"] == deskdrop["events_total"], "again: {pipeline}");
    ensure!(pipeline["totals"]["duplicate"] == deskdrop["events_total"], "again: {pipeline}");
    check(&server, &deskdrop, &mut distincts).await.context("deskdrop again")?;

    // Three years earlier, into the same server, beside live traffic.
    let (Some(file), Some(movies)) =
        (data("movietweetings/events.csv.gz"), truth("movietweetings/truth.json")?)
    else {
        return Ok(());
    };
    let live = tokio::spawn(live(Arc::clone(&server)));
    let importing = Arc::clone(&server);
    tokio::task::spawn_blocking(move || import(&importing, &file, "movies", &MOVIES)).await??;
    let sent = live.await??;
    let pipeline = server.at_rest().await?;
    ensure!(pipeline["residual"] == 0, "{pipeline}");
    check(&server, &movies, &mut distincts).await.context("movies")?;
    check(&server, &deskdrop, &mut distincts).await.context("deskdrop beside movies")?;
    distincts.check_share()?;
    let answer =
        server.query(&json!({"metrics": ["events"], "last": "1h", "granularity": "total"})).await?;
    ensure!(answer["rows"][0]["events"] == sent, "live {answer}, {sent} sent");
    Ok(())
}

/// Sends a little live traffic for a while; returns how much.
async fn live(server: Arc<Server>) -> Result<u64> {
    let mut sent = 0;
    for round in 0..30 {
        let now = jiff::Timestamp::now().as_millisecond();
        let body: String = (0..20)
            .map(|number| {
                json!({"event_id": format!("live-{round}-{number}"), "event_type": "click",
                    "user_id": format!("live-{number}"), "timestamp": now})
                .to_string()
                    + "\n"
            })
            .collect();
        server.post("/v1/events", &body).await?;
        sent += 20;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok(sent)
}
