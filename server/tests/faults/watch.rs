//! What an operator is told to watch (docs/operations.md), at the running house.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use tokio::time::Instant;

use crate::alarms::{Scrape, documented};
use crate::house::{Server, event, events, files};

const SETTINGS: [(&str, &str); 2] =
    [("NILOMETER_STREAM__CHECKPOINT_INTERVAL_S", "1"), ("NILOMETER_ROLLUPS__FOLD_INTERVAL_S", "1")];

async fn scrape(server: &Server) -> Result<Scrape> {
    Ok(Scrape::of(&server.get("/metrics").await?.text))
}

fn firing(before: &Scrape, now: &Scrape) -> Vec<String> {
    let alarms = documented().into_iter().filter(|alarm| alarm.fires(before, now));
    alarms.map(|alarm| alarm.expression).collect()
}

/// Waits until this alarm fires, and no other did.
async fn until_fires(server: &Server, before: &Scrape, alarm: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let fired = firing(before, &scrape(server).await?);
        if fired == [alarm] {
            return Ok(());
        }
        ensure!(fired.is_empty(), "{fired:?}, not {alarm}: {}", server.log());
        ensure!(Instant::now() < deadline, "{alarm} does not fire: {}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Catches: a value that is not known yet and is told as 0, or as the time since 1970.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_documented_alarm_fires_on_a_fresh_and_idle_server() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(folder.path(), &[]).await?;
    let fresh = scrape(&server).await?;
    ensure!(firing(&Scrape::default(), &fresh).is_empty(), "{:?}", firing(&fresh, &fresh));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let later = scrape(&server).await?;
    ensure!(firing(&fresh, &later).is_empty(), "{:?}", firing(&fresh, &later));
    // Nor as a client is wrong; answers are counted by their status.
    let refused = server.send("text/csv", "a,b").await?;
    let text = server.get("/metrics").await?.text;
    let counted = format!("nilometer_gateway_requests_total{{status=\"{}\"}} 1\n", refused.status);
    ensure!((400..500).contains(&refused.status) && text.contains(&counted), "{refused:?} {text}");
    ensure!(firing(&fresh, &Scrape::of(&text)).is_empty(), "{:?}", firing(&fresh, &later));
    // Nor as its first events come, long before the first checkpoint.
    server.deliver(&events(0..5), Duration::from_secs(10)).await?;
    server.until_shown(5, Duration::from_secs(10)).await?;
    let busy = scrape(&server).await?;
    ensure!(firing(&later, &busy).is_empty(), "{:?}", firing(&later, &busy));
    let mut other = event(3);
    other["country"] = json!("XX");
    server.deliver(&[other], Duration::from_secs(10)).await?;
    until_fires(&server, &busy, "increase(nilometer_stream_conflicts_total[10m]) > 0").await
}

/// Catches: damage that every metric is silent about until somebody asks for its windows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_base_is_an_alarm_before_anybody_asks_for_its_windows() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut server = Server::start(folder.path(), &SETTINGS).await?;
    server.deliver(&events(0..50), Duration::from_secs(10)).await?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while server.read("/v1/pipeline").await?["store"]["chunks"].as_u64() == Some(0) {
        ensure!(Instant::now() < deadline, "nothing is folded: {}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.kill()?;
    for path in &files(&folder.path().join("rollups/chunks"))? {
        let mut bytes = std::fs::read(path)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        std::fs::write(path, bytes)?;
    }
    let server = Server::start(folder.path(), &SETTINGS).await?;
    until_fires(&server, &Scrape::default(), "nilometer_rollups_chunks_unreadable > 0").await?;
    let cells = server.metric_total("rollups_quarantined_cells").await?;
    ensure!(cells > 0, "{cells} cells");
    ensure!(server.log().contains("corrupt chunk"), "{}", server.log());
    Ok(())
}
