//! Flipped bytes and torn tails under a server that was killed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::house::{Server, event, events, files, files_ending, now_ms, rows};

const BATCHES: u64 = 60;
const BATCH: u64 = 50;

/// A data directory after kill -9, and what was shown of it.
struct Prepared {
    folder: tempfile::TempDir,
    from_ms: i64,
    rows: Value,
}

impl Prepared {
    async fn new(settings: &[(&str, &str)]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let from_ms = now_ms() - 3_600_000;
        let mut server = Server::start(&folder.path().join("whole"), settings).await?;
        for batch in 0..BATCHES {
            let batch = events(batch * BATCH..(batch + 1) * BATCH);
            server.deliver(&batch, Duration::from_secs(10)).await?;
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        server.until_shown(BATCHES * BATCH, Duration::from_secs(10)).await?;
        server.at_rest().await?;
        let rows = rows(&server, from_ms).await?;
        server.kill()?;
        Ok(Self { folder, from_ms, rows })
    }

    /// A copy to do harm to.
    fn copy(&self, name: &str) -> Result<PathBuf> {
        let copy = self.folder.path().join(name);
        let done = Command::new("cp")
            .arg("-a")
            .arg(self.folder.path().join("whole"))
            .arg(&copy)
            .status()?;
        ensure!(done.success(), "cp failed");
        Ok(copy)
    }
}

fn flip(path: &Path, at: usize) -> Result<()> {
    let mut bytes = std::fs::read(path)?;
    let byte = bytes.get_mut(at).context("the file is shorter")?;
    *byte ^= 0x10;
    std::fs::write(path, bytes).context("write")
}

/// Some line of the log has the file's name and the word.
fn is_named(server: &Server, file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    server.log().lines().any(|line| line.contains(&name) && line.contains("corrupt"))
}

/// Catches: a damaged checkpoint that stops the start or loses what it held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_in_the_newest_checkpoint_falls_back_to_the_one_before() -> Result<()> {
    let settings = [
        ("NILOMETER_STREAM__CHECKPOINT_INTERVAL_S", "1"),
        ("NILOMETER_ROLLUPS__FOLD_INTERVAL_S", "1"),
    ];
    let prepared = Prepared::new(&settings).await?;
    for at in [9, 40, 0] {
        let dir = prepared.copy(&format!("at-{at}"))?;
        let mut damaged = Vec::new();
        for partition in std::fs::read_dir(dir.join("checkpoints"))? {
            let mut manifests = files(&partition?.path())?;
            manifests.retain(|path| path.to_string_lossy().contains("manifest-"));
            ensure!(manifests.len() >= 2, "no second checkpoint: {manifests:?}");
            let newest = manifests.pop().context("no manifest")?;
            let len = usize::try_from(newest.metadata()?.len())?;
            flip(&newest, if at == 0 { len - 1 } else { at })?;
            damaged.push(newest);
        }
        let server = Server::start(&dir, &settings).await?;
        server.at_rest().await?;
        ensure!(rows(&server, prepared.from_ms).await? == prepared.rows, "other answers");
        for file in damaged {
            ensure!(is_named(&server, &file), "{} is not named: {}", file.display(), server.log());
        }
    }
    Ok(())
}

/// Catches: damage in what nobody reads any more, found only when a replay needs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_behind_the_checkpoint_is_named_after_a_start_and_changes_no_answer() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("data");
    let from_ms = now_ms() - 3_600_000;
    let mut server = Server::start(&dir, &[]).await?;
    for batch in 0..20 {
        let batch = events(batch * BATCH..(batch + 1) * BATCH);
        server.deliver(&batch, Duration::from_secs(10)).await?;
    }
    server.at_rest().await?;
    server.until_shown(20 * BATCH, Duration::from_secs(10)).await?;
    let before = rows(&server, from_ms).await?;
    server.signal(Signal::TERM)?;
    server.ended_within(Duration::from_secs(30)).await?;
    let segments = files_ending(&dir.join("log/user-events"), ".log")?;
    for segment in &segments {
        flip(segment, usize::try_from(segment.metadata()?.len())? / 3)?;
    }
    let server = Server::start(&dir, &[]).await?;
    for segment in &segments {
        for _ in 0..200 {
            if is_named(&server, segment) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        ensure!(is_named(&server, segment), "{} is not named: {}", segment.display(), server.log());
    }
    ensure!(server.metric_total("quarantined").await? >= 4, "not counted");
    server.at_rest().await?;
    ensure!(rows(&server, from_ms).await? == before, "other answers");
    Ok(())
}

/// Without a checkpoint, so that the next start reads log and journal from their begin.
const NO_CHECKPOINT: [(&str, &str); 1] = [("NILOMETER_STREAM__CHECKPOINT_INTERVAL_S", "3600")];

/// Catches: damage in mid-log that is cut off with all that follows, or passed over in silence;
/// a lost journal entry; a torn tail that stops the start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_in_log_and_journal_is_quarantined_bridged_or_cut_as_promised() -> Result<()> {
    let prepared = Prepared::new(&NO_CHECKPOINT).await?;
    damage_in_mid_log(&prepared).await?;
    damage_in_the_journal(&prepared).await?;
    torn_tails(&prepared).await
}

async fn damage_in_mid_log(prepared: &Prepared) -> Result<()> {
    let dir = prepared.copy("mid-log")?;
    let segments = files_ending(&dir.join("log/user-events"), ".log")?;
    for segment in &segments {
        flip(segment, usize::try_from(segment.metadata()?.len())? / 3)?;
    }
    let server = Server::start(&dir, &NO_CHECKPOINT).await?;
    let pipeline = server.at_rest().await?;
    let totals = &pipeline["totals"];
    let quarantined = totals["quarantined"].as_u64().context("no number")?;
    let received = totals["received"].as_u64().context("no number")?;
    ensure!(received == BATCHES * BATCH, "received {received}: a part was cut off: {pipeline}");
    // One batch of each partition: a few of the 50 events of one request.
    ensure!((4..=4 * BATCH).contains(&quarantined), "quarantined {quarantined}: {pipeline}");
    ensure!(totals["unique"].as_u64() == Some(received - quarantined), "{pipeline}");
    ensure!(pipeline["quarantined"].as_array().is_some_and(|list| list.len() == segments.len()));
    server.until_shown(received - quarantined, Duration::from_secs(5)).await?;
    let metric = server.metric_total("quarantined").await?;
    ensure!(metric >= quarantined, "the metric says {metric}");
    for segment in &segments {
        ensure!(is_named(&server, segment), "{} is not named: {}", segment.display(), server.log());
    }
    // Sent again, the lost events are new, and the others are not.
    for batch in 0..BATCHES {
        let batch = events(batch * BATCH..(batch + 1) * BATCH);
        server.deliver(&batch, Duration::from_secs(10)).await?;
    }
    let pipeline = server.at_rest().await?;
    ensure!(pipeline["totals"]["unique"] == BATCHES * BATCH, "{pipeline}");
    Ok(())
}

async fn damage_in_the_journal(prepared: &Prepared) -> Result<()> {
    let dir = prepared.copy("journal")?;
    let segments = files_ending(&dir.join("log/journal"), ".log")?;
    ensure!(segments.len() == 4, "{segments:?}");
    for segment in &segments {
        flip(segment, usize::try_from(segment.metadata()?.len())? / 2)?;
    }
    let server = Server::start(&dir, &NO_CHECKPOINT).await?;
    server.at_rest().await?;
    let shown = rows(&server, prepared.from_ms).await?;
    ensure!(shown == prepared.rows, "other answers: {shown} not {}", prepared.rows);
    for segment in &segments {
        ensure!(is_named(&server, segment), "{} is not named: {}", segment.display(), server.log());
    }
    Ok(())
}

/// Every byte of a torn batch is a room's test (log/tests/crash.rs); here a few of them, one for
/// each partition of each topic, under the whole house.
async fn torn_tails(prepared: &Prepared) -> Result<()> {
    let dir = prepared.copy("torn")?;
    let mut segments = files_ending(&dir.join("log/user-events"), ".log")?;
    segments.extend(files_ending(&dir.join("log/journal"), ".log")?);
    let kept = [1, 11, 12, 17, 60, 61, 75, 90];
    for (segment, keep) in segments.iter().zip(kept) {
        let mut bytes = std::fs::read(segment)?;
        // A batch that was being written: the first one again, cut short.
        let torn = bytes[..keep].to_vec();
        bytes.extend(torn);
        std::fs::write(segment, bytes)?;
    }
    let mut server = Server::start(&dir, &NO_CHECKPOINT).await?;
    let pipeline = server.at_rest().await?;
    ensure!(pipeline["totals"]["quarantined"] == 0, "{pipeline}");
    ensure!(rows(&server, prepared.from_ms).await? == prepared.rows, "other answers");
    let more: Vec<Value> = (100_000..100_050).map(event).collect();
    server.deliver(&more, Duration::from_secs(10)).await?;
    server.kill()?;
    let server = Server::start(&dir, &NO_CHECKPOINT).await?;
    server.at_rest().await?;
    server.until_shown(BATCHES * BATCH + 50, Duration::from_secs(5)).await
}
