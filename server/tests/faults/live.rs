//! `/v1/live` over real sockets: deltas, slow readers, reconnects. Many viewers have a binary of
//! their own, `tests/viewers`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::time::Instant;

use crate::house::{Server, event, events};
use crate::viewer::{INTERVAL, PATIENCE, Viewer, totals_by};

/// Rows by the value of a dimension.
fn by(rows: &Value, dimension: &str) -> BTreeMap<String, Value> {
    let rows = rows.as_array().cloned().unwrap_or_default();
    rows.into_iter().map(|row| (row[dimension].as_str().unwrap_or("").to_owned(), row)).collect()
}

/// Catches: a delta that repeats everything, and a reconnect that misses what came meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_one_event_only_its_row_comes_and_a_reconnect_gets_a_snapshot() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"), &[]).await?;
    server.deliver(&events(0..500), PATIENCE).await?;
    server.until_shown(500, PATIENCE).await?;
    let query = totals_by("country", "events,unique_users");

    let mut viewer = Viewer::open(&server, None).await?;
    viewer.follow(&query).await?;
    let snapshot = viewer.hear().await?;
    ensure!(snapshot["type"] == "snapshot" && snapshot["id"] == "q", "{snapshot}");
    let mut rows = by(&snapshot["rows"], "country");
    ensure!(rows.len() == 5 && rows["DE"]["events"] == 100, "{snapshot}");
    let mut revision = snapshot["revision"].as_u64().context("no revision")?;

    server.deliver(&[event(1_000)], PATIENCE).await?;
    let changed = loop {
        let delta = viewer.hear().await?;
        ensure!(delta["type"] == "delta", "{delta}");
        ensure!(delta["from"].as_u64() == Some(revision), "{delta} after {revision}");
        revision = delta["revision"].as_u64().context("no revision")?;
        ensure!(delta["removed"].as_array().is_some_and(Vec::is_empty), "{delta}");
        let changed = by(&delta["changed"], "country");
        if !changed.is_empty() {
            break changed;
        }
    };
    ensure!(changed.keys().eq(["DE"]), "more than the row of the event came: {changed:?}");
    ensure!(changed["DE"]["events"] == 101, "{changed:?}");
    rows.extend(changed);

    drop(viewer);
    server.deliver(&[event(1_001)], PATIENCE).await?;
    server.until_shown(502, PATIENCE).await?;
    let mut viewer = Viewer::open(&server, None).await?;
    viewer.follow(&query).await?;
    let mut message = viewer.hear().await?;
    ensure!(message["type"] == "snapshot", "{message}");
    let number = rows["US"]["events"].as_u64().context("no number")? + 1;
    rows = by(&message["rows"], "country");
    ensure!(rows.len() == 5, "{message}");
    // The first answer may be the shared one of the tick before; the next has everything.
    while rows["US"]["events"] != number {
        let revision = message["revision"].as_u64();
        message = viewer.hear().await?;
        ensure!(message["type"] == "delta" && message["from"].as_u64() == revision, "{message}");
        rows.extend(by(&message["changed"], "country"));
    }
    ensure!(rows["DE"]["events"] == 101, "{rows:?}");
    Ok(())
}

const CONTENTS: u64 = 3_000;

/// An event for every content, so that every row of a large answer changes.
fn round(number: u64) -> Vec<Value> {
    (0..CONTENTS)
        .map(|content| {
            let mut event = event(number * CONTENTS + content);
            event["content_id"] = format!("a-content-with-a-rather-long-name-{content:06}").into();
            event
        })
        .collect()
}

/// Catches: a queue of old answers for whoever reads slowly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_skips_to_the_latest() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"), &[]).await?;
    server.deliver(&round(0), PATIENCE).await?;
    server.until_shown(CONTENTS, PATIENCE).await?;
    let query = totals_by("content_id", "events,unique_users,total_duration");
    let mut slow = Viewer::open(&server, Some(4_096)).await?;
    slow.follow(&query).await?;
    let mut fast = Viewer::open(&server, None).await?;
    fast.follow(&query).await?;
    // Until the network between them is full and every revision changes every row.
    let begun = Instant::now();
    let (mut number, mut latest) = (1, 0);
    while begun.elapsed() < Duration::from_secs(9) {
        server.deliver(&round(number), PATIENCE).await?;
        number += 1;
        latest = fast.hear().await?["revision"].as_u64().context("no revision")?;
    }
    server.until_shown(number * CONTENTS, PATIENCE).await?;
    tokio::time::sleep(2 * INTERVAL).await;
    let mut heard = Vec::new();
    loop {
        let message = slow.hear().await?;
        let revision = message["revision"].as_u64().context("no revision")?;
        let kind = message["type"].as_str().unwrap_or("").to_owned();
        heard.push((kind, revision));
        if revision >= latest {
            let rows =
                if message["type"] == "snapshot" { &message["rows"] } else { &message["changed"] };
            ensure!(rows[0]["events"] == number, "{heard:?}: not the latest: {}", rows[0]);
            break;
        }
        ensure!(heard.len() < 30, "never the latest: {heard:?}");
    }
    let skipped = heard.windows(2).any(|pair| pair[1].1 > pair[0].1 + 1 && pair[1].0 == "snapshot");
    ensure!(skipped, "nothing was skipped, up to {latest}: {heard:?}");
    Ok(())
}
