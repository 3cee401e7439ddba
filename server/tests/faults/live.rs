//! `/v1/live` over real sockets: deltas, slow readers, reconnects. Many viewers have a binary of
//! their own, `tests/viewers`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

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

/// Rows of each of the answers below, by so many queries.
const ROWS: u64 = 12_000;
const QUERIES: u64 = 60;

/// Follows what is large on two connections, and reads whatever comes: how many of each kind did.
async fn crowd(server: &Server) -> Result<Vec<tokio::task::JoinHandle<BTreeMap<String, u64>>>> {
    let mut reading = Vec::new();
    for connection in 0..2 {
        let mut viewer = Viewer::open(server, None).await?;
        for n in 0..QUERIES / 2 {
            let mut query = totals_by("content_id", "events,unique_users,total_duration");
            query["limit"] = (100_000 - connection * QUERIES - n).into();
            let id = format!("q{n}");
            let message =
                json!({"type": "subscribe", "id": id, "query": query, "interval_ms": 1000});
            viewer.say(Message::text(message.to_string())).await?;
        }
        reading.push(tokio::spawn(async move {
            let mut heard = BTreeMap::new();
            while let Ok(message) = viewer.hear().await
                && let Some(kind) = message["type"].as_str()
            {
                *heard.entry(kind.to_owned()).or_default() += 1;
            }
            heard
        }));
    }
    Ok(reading)
}

/// Catches: live answers that no budget knows of, and a crowd of them before which everybody else's
/// questions wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_large_live_answers_holds_little_memory_and_nobody_else_up() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut server = Server::start(&folder.path().join("data"), &[]).await?;
    for first in (0..ROWS).step_by(3_000) {
        let mut events = events(first..first + 3_000);
        for (event, content) in events.iter_mut().zip(first..) {
            event["content_id"] = format!("a-content-with-a-rather-long-name-{content:06}").into();
        }
        server.deliver(&events, PATIENCE).await?;
    }
    server.until_shown(ROWS, PATIENCE).await?;
    let before_kib = server.memory_kib("VmRSS")?;
    let crowd = crowd(&server).await?;
    let (mut took, mut most_kib) = (Vec::new(), 0);
    for n in 0..40 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let begun = Instant::now();
        // Each another question, so that none finds an answer that is there.
        let path = format!("/v1/query?metrics=events&granularity=total&last=2h&limit={}", 100 + n);
        server.read(&path).await?;
        took.push(begun.elapsed());
        most_kib = most_kib.max(server.memory_kib("VmRSS")?);
    }
    let text = server.get("/metrics").await?.text;
    let named = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.parse::<u64>().ok())
    };
    let (held, slowed) =
        (named("nilometer_query_answer_bytes"), named("nilometer_query_live_queries_slowed"));
    took.sort_unstable();
    let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
    let grown_kib = most_kib.saturating_sub(before_kib);
    println!(
        "{QUERIES} live answers of {ROWS} rows: {grown_kib} KiB more; another's question took \
         {median:?}, at most {longest:?}; held {held:?} bytes, slowed {slowed:?}"
    );
    ensure!(server.is_alive()?, "the server ended: {}", server.log());
    drop(server);
    for connection in crowd {
        let heard = connection.await?;
        println!("a connection of the crowd heard {heard:?}");
        ensure!(heard.contains_key("snapshot"), "the crowd is shown nothing: {heard:?}");
        ensure!(heard.contains_key("pace"), "the crowd is slowed and not told: {heard:?}");
    }
    ensure!(grown_kib < 200 << 10, "{grown_kib} KiB more");
    ensure!(held.is_some_and(|held| held <= 48 << 20), "held: {held:?}");
    // The machine is shared: on one that is not, some ten milliseconds.
    ensure!(median < Duration::from_millis(500), "{took:?}");
    ensure!(longest < Duration::from_secs(5), "{took:?}");
    Ok(())
}
