//! A data directory of an older release opens with its numbers: log, journal, manifests, layers,
//! id and session runs, chunks, plans and keys as that release wrote them.
//!
//! `UPDATE=1 cargo test -p nilometer-server --test upgrade` writes the directory of this release
//! where there is none; one that is committed is never written again.

#[path = "../exact/harness.rs"]
#[expect(dead_code, reason = "these tests need a part of it")]
mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::harness::Server;

/// 2026-11-20T00:00Z.
const FIRST_DAY_MS: i64 = 1_795_132_800_000;
const DAY_MS: i64 = 86_400_000;
const MINUTE_MS: i64 = 60_000;
const DAYS: i64 = 3;

/// What these events are does not grow old within ten years.
const SETTINGS: [(&str, &str); 4] = [
    ("NILOMETER_LOG__PARTITIONS", "2"),
    ("NILOMETER_STREAM__HORIZON_DAYS", "3650"),
    ("NILOMETER_STREAM__CHECKPOINT_INTERVAL_S", "1"),
    ("NILOMETER_ROLLUPS__FOLD_INTERVAL_S", "1"),
];

struct Said {
    id: String,
    user: String,
    country: &'static str,
    time_ms: i64,
}

/// On each day six users of two countries, each with two sessions of four events.
fn said() -> Vec<Said> {
    let mut all = Vec::new();
    for day in 0..DAYS {
        for user in 0..6 {
            for number in 0..8 {
                let minute = 60 * (8 + user) + 300 * (number / 4) + 7 * (number % 4);
                all.push(Said {
                    id: format!("{day}-{user}-{number}"),
                    user: format!("user-{user}"),
                    country: if user % 3 == 0 { "EG" } else { "ET" },
                    time_ms: FIRST_DAY_MS + day * DAY_MS + minute * MINUTE_MS,
                });
            }
        }
    }
    all
}

fn lines(said: &[Said]) -> String {
    let line = |one: &Said| {
        let event = json!({
            "event_id": one.id, "event_type": "page_view", "user_id": one.user,
            "country": one.country, "timestamp": one.time_ms,
        });
        format!("{event}\n")
    };
    said.iter().map(line).collect()
}

/// Events, users and sessions of each country and day, in plain counting.
fn expected(said: &[Said]) -> BTreeMap<(i64, String), (u64, u64, u64)> {
    let mut users: BTreeMap<(i64, &str), BTreeSet<&str>> = BTreeMap::new();
    let mut times: BTreeMap<(&str, &str), Vec<i64>> = BTreeMap::new();
    let mut cells: BTreeMap<(i64, String), (u64, u64, u64)> = BTreeMap::new();
    let day_of = |time_ms: i64| time_ms.div_euclid(DAY_MS) * DAY_MS;
    for one in said {
        users.entry((day_of(one.time_ms), one.country)).or_default().insert(&one.user);
        times.entry((&one.user, one.country)).or_default().push(one.time_ms);
        cells.entry((day_of(one.time_ms), one.country.to_owned())).or_default().0 += 1;
    }
    for ((day, country), set) in users {
        cells.entry((day, country.to_owned())).or_default().1 = set.len() as u64;
    }
    for ((_, country), mut times) in times {
        times.sort_unstable();
        for session in times.chunk_by(|one, next| next - one <= 30 * MINUTE_MS) {
            cells.entry((day_of(session[0]), country.to_owned())).or_default().2 += 1;
        }
    }
    cells
}

async fn shown(server: &Server) -> Result<BTreeMap<(i64, String), (u64, u64, u64)>> {
    let answer = server
        .query(&json!({
            "metrics": ["events", "unique_users", "sessions"],
            "group_by": ["country"], "granularity": "1d",
            "from": "2026-11-20T00:00:00Z", "to": "2026-11-23T00:00:00Z",
        }))
        .await?;
    let rows = answer["rows"].as_array().with_context(|| answer.to_string())?;
    let number = |value: &Value| {
        let text = format!("{:.0}", value.as_f64().unwrap_or_default());
        text.parse().unwrap_or(u64::MAX)
    };
    let mut cells = BTreeMap::new();
    for row in rows {
        let start = row["window_start"].as_str().context("a window's start")?;
        let start: jiff::Timestamp = start.parse()?;
        let country = row["country"].as_str().unwrap_or_default().to_owned();
        let values =
            (number(&row["events"]), number(&row["unique_users"]), number(&row["sessions"]));
        if values.0 > 0 {
            cells.insert((start.as_millisecond(), country), values);
        }
    }
    Ok(cells)
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/upgrade/v0.1.0")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy(&from, &to)?;
        } else {
            std::fs::copy(&from, &to)?;
        }
    }
    Ok(())
}

/// All but the last day goes through checkpoints into the base; the rest is left in the journal.
async fn write_fixture(to: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let mut server = Server::start(&data, &SETTINGS).await?;
    let said = said();
    let (old, new) = said.split_at(said.len() * 2 / 3);
    server.post("/v1/events", &lines(old)).await?;
    server.at_rest().await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    server.post("/v1/events", &lines(new)).await?;
    server.at_rest().await?;
    server.kill()?;
    copy(&data, to)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_of_version_0_1_opens_with_its_numbers() -> Result<()> {
    if !fixture().exists() {
        ensure!(std::env::var_os("UPDATE").is_some(), "{} is not there", fixture().display());
        write_fixture(&fixture()).await?;
    }
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    copy(&fixture(), &data)?;
    let server = Server::start(&data, &SETTINGS).await?;
    let mut said = said();
    server.at_rest().await?;
    ensure!(shown(&server).await? == expected(&said), "{:?}", shown(&server).await?);

    // Its ids are known: all of it again counts nothing.
    let before = server.get("/v1/pipeline").await?["totals"]["duplicate"].as_u64();
    server.post("/v1/events", &lines(&said)).await?;
    let pipeline = server.at_rest().await?;
    let repeats = pipeline["totals"]["duplicate"].as_u64().zip(before).map(|(now, old)| now - old);
    ensure!(repeats == Some(said.len() as u64), "repeats in {pipeline}");
    ensure!(pipeline["residual"] == 0, "residual in {pipeline}");
    ensure!(shown(&server).await? == expected(&said), "{:?}", shown(&server).await?);

    // Its sessions are known: an event between two of one user's joins them.
    let between = FIRST_DAY_MS + (60 * 8 + 21 + 25) * MINUTE_MS;
    let joins = (0..10).map(|number| Said {
        id: format!("joins-{number}"),
        user: "user-0".to_owned(),
        country: "EG",
        time_ms: between + number * 25 * MINUTE_MS,
    });
    let joins: Vec<Said> = joins.collect();
    server.post("/v1/events", &lines(&joins)).await?;
    server.at_rest().await?;
    said.extend(joins);
    let sessions: u64 = expected(&said).values().map(|cell| cell.2).sum();
    ensure!(sessions == 2 * 6 * 3 - 1, "the test joins two sessions: {sessions}");
    ensure!(shown(&server).await? == expected(&said), "{:?}", shown(&server).await?);

    // A key of another source has ids of its own, for the same users and sessions.
    send_from_another_source(&server, &lines(&said)).await?;
    server.at_rest().await?;
    let mut twice = expected(&said);
    twice.values_mut().for_each(|cell| cell.0 *= 2);
    ensure!(shown(&server).await? == twice, "{:?}", shown(&server).await?);
    Ok(())
}

async fn send_from_another_source(server: &Server, lines: &str) -> Result<()> {
    let made = std::process::Command::new(env!("CARGO_BIN_EXE_nilometer"))
        .args(["keys", "create", "write", "--source", "other"])
        .env_clear()
        .env("NILOMETER_SERVER__DATA_DIR", server.data_dir())
        .output()?;
    let key = String::from_utf8(made.stdout)?;
    for _ in 0..100 {
        let headers = vec![
            ("authorization", format!("Bearer {}", key.trim())),
            ("content-type", "application/x-ndjson".to_owned()),
        ];
        let (status, answer) = server.send_raw("/v1/events", headers, lines.into()).await?;
        // The key is in force within seconds.
        if status != 401 {
            ensure!(status == 200 && answer["rejected"] == 0, "{answer}");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("the key is not in force: {}", String::from_utf8_lossy(&made.stderr))
}
