//! The whole house against a naive model that imports no crate of ours.
//!
//! The real binary takes a seeded audience over HTTP from several clients; then every cell of
//! every cube and granularity, the sessions and the rolling counts are compared with the model,
//! which reads what was received from the log's files with other people's code.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    clippy::float_cmp,
    reason = "a model in plain arithmetic over small numbers"
)]
#![expect(clippy::print_stderr, reason = "how much was compared, and what was skipped")]

mod calendar;
mod compare;
mod harness;
mod history;
mod kills;
mod log_reader;
mod model;
mod retention;
mod small;
mod traffic;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::harness::Server;
use crate::log_reader::Stored;
use crate::model::Model;
use crate::traffic::{Batch, Moved, Traffic};

/// Events of the full runs (the issue asks for at least 200,000).
const EVENTS: usize = 200_000;

/// Clients that send at once.
const CLIENTS: usize = 4;

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Sends the batches from several clients; checks each answer's counts.
async fn send(server: Arc<Server>, batches: Vec<Batch>) -> Result<u64> {
    let batches = Arc::new(batches);
    let next = Arc::new(AtomicU64::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (server, batches, next) =
            (Arc::clone(&server), Arc::clone(&batches), Arc::clone(&next));
        clients.spawn(async move {
            let mut accepted = 0;
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed) as usize;
                let Some(batch) = batches.get(index) else { return anyhow::Ok(accepted) };
                let answer = server.post("/v1/events", &batch.body).await?;
                ensure!(
                    answer["accepted"] == batch.accepted && answer["rejected"] == batch.rejected,
                    "batch {index}: {answer}, expected {} and {}",
                    batch.accepted,
                    batch.rejected
                );
                accepted += batch.accepted;
            }
        });
    }
    let mut accepted = 0;
    while let Some(client) = clients.join_next().await {
        accepted += client??;
    }
    Ok(accepted)
}

/// Everything that the log holds, topic by topic.
fn stored(server: &Server) -> Result<Vec<Stored>> {
    let mut records = Vec::new();
    for topic in ["user-events", "content-views", "server-events", "imports"] {
        records.extend(log_reader::events(server.data_dir(), topic)?);
    }
    Ok(records)
}

fn total(pipeline: &Value, name: &str) -> Result<u64> {
    pipeline["totals"][name].as_u64().with_context(|| format!("{name} in {pipeline}"))
}

/// The conservation sum, term by term.
fn check_pipeline(pipeline: &Value, model: &Model, dead_lettered: Option<u64>) -> Result<()> {
    ensure!(pipeline["residual"] == 0, "residual in {pipeline}");
    ensure!(
        total(pipeline, "unique")? == model.unique() as u64,
        "unique: {} in {pipeline}",
        model.unique()
    );
    ensure!(
        total(pipeline, "duplicate")? == model.duplicates as u64,
        "duplicates: {} in {pipeline}",
        model.duplicates
    );
    ensure!(
        total(pipeline, "late_pending")? == model.beyond_horizon as u64,
        "beyond the horizon: {} in {pipeline}",
        model.beyond_horizon
    );
    if let Some(dead) = dead_lettered {
        ensure!(total(pipeline, "dead_lettered")? == dead, "dead letters: {dead} in {pipeline}");
    }
    ensure!(total(pipeline, "quarantined")? == 0, "quarantined in {pipeline}");
    Ok(())
}

async fn run(name: &str, moved: Moved, settings: &[(&str, &str)]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Arc::new(Server::start(&folder.path().join("data"), settings).await?);
    let traffic = Traffic::new(7, EVENTS, now_ms(), moved);
    let accepted = send(Arc::clone(&server), traffic.first.clone()).await?;
    let accepted_again = send(Arc::clone(&server), traffic.again.clone()).await?;
    let pipeline = server.at_rest().await?;
    let records = stored(&server)?;
    ensure!(
        records.len() as u64 == accepted + accepted_again,
        "{} records in the log, {accepted} + {accepted_again} were accepted",
        records.len()
    );
    let model = Model::new(records);
    ensure!(
        model.unique() + model.beyond_horizon >= traffic.unique,
        "{} of {} events are in the log",
        model.unique(),
        traffic.unique
    );
    ensure!(model.corrected() > 100, "future events were corrected");
    check_pipeline(&pipeline, &model, Some(traffic.invalid as u64))?;
    let cells = compare::every_cell(&server, &model).await.context(name.to_owned())?;
    eprintln!("{name}: {cells} cells compared");
    ensure!(cells > 100_000, "only {cells} cells were compared");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_cell_equals_the_models() -> Result<()> {
    run("all hot", Moved::Anywhere, &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_cell_equals_the_models_when_everything_is_cold() -> Result<()> {
    run(
        "all cold",
        Moved::WithinBucket,
        &[
            ("NILOMETER_STREAM__HOT_IDS_MAX", "1000"),
            ("NILOMETER_STREAM__CHECKPOINT_INTERVAL_S", "0"),
            ("NILOMETER_ROLLUPS__FOLD_INTERVAL_S", "1"),
        ],
    )
    .await
}
