//! The memory limit under events that cost as much of it as events can: resident memory stays
//! under it, to 15 %, and says who holds it; so does the replay after a kill.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::house::{DIMENSIONS, Server, events, now_ms};

const PATIENCE: Duration = Duration::from_secs(120);
/// 512 MiB, the default, and 15 % of it.
const PEAK_KIB_MAX: u64 = 590 << 10;

/// An event that shares no value with any other.
fn strange(number: u64, now_ms: i64) -> Value {
    let mut event = json!({
        "event_id": format!("strange-{number}"),
        "user_id": format!("stranger-{number}"),
        "timestamp": now_ms,
    });
    for dimension in DIMENSIONS {
        event[dimension] = json!(format!("{dimension}-{number}"));
    }
    event
}

/// Sends what nobody expects, four bodies at a time.
async fn flood(server: &Server, count: u64) -> Result<()> {
    let now_ms = now_ms();
    let body = |first: u64| (first..first + 2_000).map(|number| strange(number, now_ms)).collect();
    let bodies: Vec<Vec<Value>> = (0..count / 2_000).map(|place| body(place * 2_000)).collect();
    for four in bodies.chunks(4) {
        let sent = four.iter().map(|body| server.deliver(body, PATIENCE));
        futures_util::future::try_join_all(sent).await?;
    }
    Ok(())
}

/// Bytes by part.
async fn parts(server: &Server) -> Result<Vec<(String, u64)>> {
    let text = server.get("/metrics").await?.text;
    let part = |line: &str| {
        let (name, bytes) =
            line.strip_prefix("nilometer_process_memory_bytes{part=\"")?.split_once("\"} ")?;
        Some((name.to_owned(), bytes.parse().ok()?))
    };
    Ok(text.lines().filter_map(part).collect())
}

async fn start(data: &Path) -> Result<Server> {
    // No checkpoint on time: the replay has all that memory did not seal.
    Server::start(data, &[("NILOMETER_STREAM__CHECKPOINT_INTERVAL_S", "3600")]).await
}

/// Catches: an entry whose records make more cells than memory holds; freed pages that are kept
/// beside it; parts that nobody counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_share_no_value_stay_within_the_memory_limit_and_so_does_their_replay()
-> Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let mut server = start(&data).await?;
    // What a record adds is known, and little.
    for place in 0..10 {
        server.deliver(&events(place * 2_000..(place + 1) * 2_000), PATIENCE).await?;
    }
    server.until_shown(20_000, PATIENCE).await?;
    flood(&server, 80_000).await?;
    let (mut told, mut share) = (Vec::new(), 0);
    while server.read("/v1/pipeline").await?["totals"]["in_flight"] != 0 {
        let (found, resident_kib) = (parts(&server).await?, server.memory_kib("VmRSS")?);
        let sum_kib = found.iter().map(|(_, bytes)| bytes >> 10).sum::<u64>();
        let own = (sum_kib * 100).checked_div(resident_kib).context("nothing is resident")?;
        (told, share) = if share == 0 || own < share { (found, own) } else { (told, share) };
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let peak_kib = server.memory_kib("VmHWM")?;
    println!("80,000 events that share no value: peak {} MiB", peak_kib >> 10);
    println!("at least {share} % of it is told: {told:?}");
    server.kill()?;
    let server = start(&data).await?;
    server.at_rest().await?;
    let replay_kib = server.memory_kib("VmHWM")?;
    println!("the replay after kill -9: peak {} MiB", replay_kib >> 10);
    server.until_shown(100_000, PATIENCE).await?;
    ensure!(peak_kib < PEAK_KIB_MAX, "{peak_kib} KiB");
    ensure!(replay_kib < PEAK_KIB_MAX, "{replay_kib} KiB in the replay");
    ensure!(share >= 80, "only {share} % is told: {told:?}");
    Ok(())
}
