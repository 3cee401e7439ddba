//! Many viewers of one page, against the real binary. Alone in this binary, for cargo runs one
//! after the other: what is promised here is a matter of time, and other tests would take it.

#[expect(dead_code, reason = "shared with tests/faults")]
#[path = "../faults/house.rs"]
mod house;
#[path = "../faults/viewer.rs"]
mod viewer;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::Instant;

use crate::house::{Server, event, events};
use crate::viewer::{INTERVAL, PATIENCE, Viewer, totals_by};

/// Everything that one viewer was sent, revision and when, until the moment that `until` says.
async fn watch(
    mut viewer: Viewer,
    mut until: tokio::sync::watch::Receiver<Option<Instant>>,
) -> Result<Vec<(u64, Instant)>> {
    let mut heard = Vec::new();
    loop {
        let end = async {
            let end = *until.wait_for(Option::is_some).await?;
            tokio::time::sleep_until(end.unwrap_or_else(Instant::now)).await;
            Ok::<_, anyhow::Error>(())
        };
        let message = tokio::select! {
            message = viewer.hear() => message?,
            ended = end => break ended?,
        };
        ensure!(!message.is_null(), "the connection was closed");
        let revision = message["revision"].as_u64().with_context(|| message.to_string())?;
        heard.push((revision, Instant::now()));
    }
    Ok(heard)
}

/// So many viewers of one page; gives the largest delay between two viewers of one tick.
async fn viewers(count: usize, ticks: u32) -> Result<Duration> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"), &[]).await?;
    server.deliver(&events(0..500), PATIENCE).await?;
    server.until_shown(500, PATIENCE).await?;
    let query = totals_by("country", "events,unique_users");
    let mut watching = Vec::with_capacity(count);
    let (all_are_there, until) = tokio::sync::watch::channel(None);
    for _ in 0..count {
        let mut viewer = Viewer::open(&server, None).await?;
        viewer.follow(&query).await?;
        watching.push(tokio::spawn(watch(viewer, until.clone())));
    }
    // While they come, the server has more to do than ticks: what it sends then is not judged.
    let (from, until) = (Instant::now() + INTERVAL, Instant::now() + INTERVAL * (ticks + 1));
    all_are_there.send(Some(until))?;
    let mut number = 1_000;
    while Instant::now() < until {
        server.deliver(&[event(number)], PATIENCE).await?;
        number += 1;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let mut ticks_seen: BTreeMap<u64, Vec<Instant>> = BTreeMap::new();
    for watching in watching {
        let mut heard = watching.await??;
        heard.retain(|&(_, at)| at >= from);
        ensure!(heard.len() + 3 >= usize::try_from(ticks)?, "a viewer got only {heard:?}");
        for pair in heard.windows(2) {
            ensure!(pair[1].0 == pair[0].0 + 1, "a tick was left out: {heard:?}");
            let wait = pair[1].1 - pair[0].1;
            ensure!(wait <= 2 * INTERVAL, "a viewer waited {wait:?}");
        }
        for (revision, at) in heard {
            ticks_seen.entry(revision).or_default().push(at);
        }
    }
    let spreads = ticks_seen
        .values()
        .filter_map(|times| Some(times.iter().max()?.duration_since(*times.iter().min()?)));
    let widest = spreads.max().context("no tick")?;
    ensure!(widest <= 2 * INTERVAL, "viewers are {widest:?} apart");
    Ok(widest)
}

/// Catches: viewers that are served one after the other, or left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_viewers_each_get_every_tick_within_two_intervals() -> Result<()> {
    let widest = viewers(100, 8).await?;
    eprintln!("100 viewers: at most {widest:?} apart");
    Ok(())
}

/// The full dose: `cargo test -p nilometer-server --test viewers -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the full dose, 30 s"]
async fn five_hundred_viewers_each_get_every_tick_within_two_intervals() -> Result<()> {
    let widest = viewers(500, 30).await?;
    eprintln!("500 viewers: at most {widest:?} apart");
    Ok(())
}
