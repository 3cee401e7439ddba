//! Stopping under load, and one process per data directory.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::house::{Server, WRITE_KEY, events};

const CLIENTS: u64 = 4;
const BATCH: u64 = 50;

/// Sends until it is told to stop; gives the numbers of the batches that were acknowledged.
async fn client(url: String, own: u64, stop: Arc<AtomicBool>, sent: Arc<AtomicU64>) -> Vec<u64> {
    let http = reqwest::Client::new();
    let mut acknowledged = Vec::new();
    for batch in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let first = (batch * CLIENTS + own) * BATCH;
        let request = http.post(&url).bearer_auth(WRITE_KEY).json(&events(first..first + BATCH));
        match request.send().await {
            Ok(answer) if answer.status().is_success() => acknowledged.push(first),
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
        sent.fetch_add(1, Ordering::Relaxed);
    }
    acknowledged
}

/// Catches: a stop that cuts off accepted requests, or that leaves the state uncheckpointed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_drains_ends_well_and_the_next_start_is_ready_at_once() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("data");
    let mut server = Server::start(&dir, &[]).await?;
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|own| {
            let url = server.url("/v1/events");
            tokio::spawn(client(url, own, Arc::clone(&stop), Arc::clone(&sent)))
        })
        .collect();
    while sent.load(Ordering::Relaxed) < 100 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.signal(Signal::TERM)?;
    let ended = server.ended_within(Duration::from_secs(30)).await?;
    ensure!(ended.code() == Some(0), "exit {ended}: {}", server.log());
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for client in clients {
        acknowledged.extend(client.await?);
    }
    ensure!(acknowledged.len() >= 90, "only {} batches were acknowledged", acknowledged.len());

    let begun = Instant::now();
    let server = Server::start(&dir, &[]).await?;
    let took = begun.elapsed();
    ensure!(took < Duration::from_secs(5), "the next start took {took:?}");
    // What was acknowledged is there; every one of it again changes nothing.
    let pipeline = server.at_rest().await?;
    let unique = pipeline["totals"]["unique"].as_u64().unwrap_or(0);
    ensure!(unique >= acknowledged.len() as u64 * BATCH, "{unique} of {acknowledged:?}");
    for first in &acknowledged {
        server.deliver(&events(*first..first + BATCH), Duration::from_secs(10)).await?;
    }
    let pipeline = server.at_rest().await?;
    ensure!(pipeline["totals"]["unique"] == unique, "{pipeline}");
    server.until_shown(unique, Duration::from_secs(5)).await
}

/// Catches: two processes that write to one directory.
#[tokio::test]
async fn a_second_start_on_a_directory_in_use_is_refused_with_the_holders_pid() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("data");
    let server = Server::start(&dir, &[]).await?;
    let second = Command::new(env!("CARGO_BIN_EXE_nilometer"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(&dir)
        .output()?;
    let said = String::from_utf8_lossy(&second.stderr);
    ensure!(second.status.code() == Some(1), "exit {}: {said}", second.status);
    ensure!(said.contains(&server.pid().to_string()), "the pid is not named: {said}");
    ensure!(server.get("/readyz").await?.status == 200, "the first one suffered");
    Ok(())
}
