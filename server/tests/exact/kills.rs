//! kill -9 under load, with clients that retry in another order.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use fastrand::Rng;
use tokio::sync::RwLock;

use crate::harness::Server;
use crate::model::Model;
use crate::traffic::{Moved, Traffic};
use crate::{check_pipeline, compare, now_ms, stored};

/// Kills by the test, at any moment, and kills by the binary itself at named places.
const KILLS: usize = 20;
const FAIL_POINTS: [&str; 10] = [
    "checkpoint-after-layer",
    "checkpoint-before-manifest",
    "checkpoint-after-manifest",
    "checkpoint-before-swap",
    "before-fold",
    "before-publish",
    "recover-before-entry",
    "fold-before-manifest",
    "fold-after-manifest",
    "before-publish",
];

/// Events of the run.
const EVENTS: usize = 60_000;

/// Events of a request: few, so that the load outlasts the kills.
const BODY_EVENTS: usize = 40;

fn take_any(waiting: &mut Vec<String>, rng: &mut Rng) -> Option<String> {
    (!waiting.is_empty()).then(|| waiting.swap_remove(rng.usize(..waiting.len())))
}

/// Clients take batches from the end or the beginning by turns and put back what was not
/// acknowledged: a retry comes in another order. Unhurried, the load lasts over two minutes.
async fn clients(
    server: Arc<RwLock<Server>>,
    bodies: Vec<String>,
    hurry: Arc<AtomicBool>,
) -> Result<()> {
    let waiting = Arc::new(tokio::sync::Mutex::new(bodies));
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..4u64 {
        let (server, waiting) = (Arc::clone(&server), Arc::clone(&waiting));
        let hurry = Arc::clone(&hurry);
        tasks.spawn(async move {
            let mut rng = Rng::with_seed(client);
            loop {
                let Some(body) = take_any(&mut *waiting.lock().await, &mut rng) else {
                    return anyhow::Ok(());
                };
                let answer = server.read().await.try_post("/v1/events", body.clone()).await?;
                if answer.is_none() {
                    waiting.lock().await.push(body);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                if !hurry.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(rng.u64(200..600))).await;
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// Starts with a place armed until the binary has killed itself there: a recovery that finds no
/// entry behind its checkpoint does not come to it, and the next one may. Each try waits longer:
/// beside many builds a fold takes its time, and a restart begins it anew.
async fn kill_at(server: &RwLock<Server>, place: &str) -> Result<()> {
    for tries in 1..=6 {
        server.write().await.restart_armed(place)?;
        for _ in 0..150 * tries {
            if server.write().await.has_ended()? {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    anyhow::bail!("the process never came to {place}")
}

#[cfg_attr(not(feature = "failpoints"), ignore = "its named kills need --features failpoints")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_kills_under_load_leave_every_cell_as_it_was() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = [
        ("NILOMETER_STREAM__CHECKPOINT_INTERVAL_S", "1"),
        ("NILOMETER_ROLLUPS__FOLD_INTERVAL_S", "1"),
    ];
    let server = Server::start(&folder.path().join("data"), &settings).await?;
    let server = Arc::new(RwLock::new(server));
    let traffic = Traffic::new(11, EVENTS, now_ms(), Moved::WithinBucket);
    let lines: Vec<&str> =
        traffic.first.iter().flat_map(|batch| batch.body.split_inclusive('\n')).collect();
    let bodies: Vec<String> = lines.chunks(BODY_EVENTS).map(<[&str]>::concat).collect();
    let hurry = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn(clients(Arc::clone(&server), bodies, Arc::clone(&hurry)));
    let mut rng = Rng::with_seed(3);
    for kill in 0..KILLS + FAIL_POINTS.len() {
        tokio::time::sleep(Duration::from_millis(rng.u64(100..900))).await;
        if kill % 3 == 2 {
            kill_at(&server, FAIL_POINTS[kill / 3]).await?;
        }
        server.write().await.kill_and_restart()?;
    }
    ensure!(!load.is_finished(), "the load ended before the kills did");
    hurry.store(true, Ordering::Relaxed);
    load.await??;
    let server = server.read().await;
    server.until_ready().await?;
    let pipeline = server.at_rest().await?;
    let model = Model::new(stored(&server)?);
    let sent: HashSet<_> = model.identities();
    ensure!(sent.len() + model.beyond_horizon >= traffic.unique, "an acknowledged event is lost");
    check_pipeline(&pipeline, &model, None)?;
    let cells = compare::every_cell(&server, &model).await?;
    eprintln!("after thirty kills: {cells} cells compared");
    Ok(())
}
