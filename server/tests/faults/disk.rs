//! A disk that refuses to sync, and one that is full.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::house::{Server, event, events, now_ms, signal_to};

/// strace, attached to a running process, making system calls fail.
struct Faults {
    strace: Child,
}

impl Faults {
    /// `None`, with the reason printed, where this machine does not let us.
    async fn attach(pid: u32, inject: &str) -> Result<Option<Self>> {
        let strace = Command::new("strace")
            .args(["-f", "-qq", "-p", &pid.to_string(), "-o", "/dev/null"])
            .args(["-e", "trace=fdatasync", "-e", &format!("inject={inject}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut strace = match strace {
            Ok(strace) => strace,
            Err(error) => {
                eprintln!("skipped: strace cannot be started ({error})");
                return Ok(None);
            }
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if strace.try_wait()?.is_some() {
                let said = strace.wait_with_output()?.stderr;
                eprintln!("skipped: {}", String::from_utf8_lossy(&said).trim());
                return Ok(None);
            }
            if all_traced(pid)? {
                return Ok(Some(Self { strace }));
            }
            ensure!(Instant::now() < deadline, "strace does not attach");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn detach(mut self) -> Result<()> {
        signal_to(self.strace.id(), Signal::INT)?;
        self.strace.wait().context("reap strace")?;
        Ok(())
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        drop(self.strace.kill());
        drop(self.strace.wait());
    }
}

fn all_traced(pid: u32) -> Result<bool> {
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end while we look.
        let status = std::fs::read_to_string(task?.path().join("status")).unwrap_or_default();
        if status.lines().any(|line| line.starts_with("TracerPid:") && line.ends_with("\t0")) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Catches: an acknowledgement without a sync, and a sync that is tried again until it says yes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_synced_is_not_acknowledged_and_writing_resumes_by_itself() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("data");
    let mut server = Server::start(&dir, &[]).await?;
    server.deliver(&events(0..100), Duration::from_secs(10)).await?;
    server.until_shown(100, Duration::from_secs(10)).await?;

    let Some(faults) = Faults::attach(server.pid(), "fdatasync:error=EIO").await? else {
        return Ok(());
    };
    for batch in 10..30 {
        let answer = server.send_events(&events(batch * 10..batch * 10 + 10)).await?;
        ensure!(answer.status == 503, "acknowledged without a sync: {answer:?}");
        ensure!(answer.json()["code"] == "log_unavailable", "{answer:?}");
        ensure!(answer.headers.contains_key("retry-after"), "{answer:?}");
        ensure!(server.events_shown().await? == 100, "reading changed");
    }
    ensure!(server.get("/healthz").await?.status == 200, "not alive");
    faults.detach()?;

    let resumed = Instant::now();
    for batch in 10..30 {
        let patience = Duration::from_secs(10).saturating_sub(resumed.elapsed());
        server.deliver(&events(batch * 10..batch * 10 + 10), patience).await?;
    }
    server.until_shown(300, Duration::from_secs(10)).await?;
    server.at_rest().await?;

    let given_up = server.log().matches("segment given up").count();
    // Now and then a sync fails, under clients that try again: nothing twice, nothing lost.
    // strace counts by thread, and a batch waits for a sync of each of four threads: with every
    // third failing they can take turns, so that no batch ever passes. Of eleven, four fail.
    let Some(faults) = Faults::attach(server.pid(), "fdatasync:error=EIO:when=2+11").await? else {
        return Ok(());
    };
    for batch in 30..60 {
        let batch = events(batch * 10..batch * 10 + 10);
        server.deliver(&batch, Duration::from_secs(20)).await?;
    }
    faults.detach()?;
    server.until_shown(600, Duration::from_secs(20)).await?;
    let given_up_now = server.log().matches("segment given up").count();
    ensure!(given_up_now > given_up, "no sync failed at all");
    server.kill()?;
    let server = Server::start(&dir, &[]).await?;
    server.at_rest().await?;
    server.until_shown(600, Duration::from_secs(10)).await
}

/// A file system of its own, in memory.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// `None`, with the reason printed, where we may not mount.
    fn mount(at: &Path, size: &str) -> Result<Option<Self>> {
        std::fs::create_dir_all(at)?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(at)
            .output();
        match mounted {
            Ok(done) if done.status.success() => Ok(Some(Self(at.to_owned()))),
            Ok(done) => {
                eprintln!("skipped: {}", String::from_utf8_lossy(&done.stderr).trim());
                Ok(None)
            }
            Err(error) => {
                eprintln!("skipped: mount cannot be started ({error})");
                Ok(None)
            }
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// Takes `bytes` of the disk, or all that there is.
fn ballast(path: &Path, bytes: usize) -> Result<()> {
    let mut file = std::fs::File::create(path)?;
    for _ in 0..bytes / 65_536 {
        if file.write_all(&[7; 65_536]).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Events of 60 kB that do not compress.
fn large_events(first: u64, count: u64) -> Vec<Value> {
    let mut rng = fastrand::Rng::with_seed(first);
    (first..first + count)
        .map(|number| {
            let mut event = event(number);
            let texts = (0..7).map(|_| {
                let text: String = (0..8_000).map(|_| rng.alphanumeric()).collect();
                Value::from(text)
            });
            event["properties"] = json!({ "noise": texts.collect::<Vec<_>>() });
            event
        })
        .collect()
}

/// Sends large events from that number on until the disk is full; the first that was refused.
async fn fill_up(server: &Server, first: u64) -> Result<u64> {
    for number in (first..first + 4_000).step_by(10) {
        let answer = server.send_events(&large_events(number, 10)).await?;
        if answer.status != 200 {
            ensure!(answer.status == 503 && answer.json()["code"] == "disk_full", "{answer:?}");
            ensure!(answer.headers.contains_key("retry-after"), "{answer:?}");
            return Ok(number);
        }
    }
    anyhow::bail!("4,000 events of 60 kB never fill the disk")
}

/// Catches: a full disk that ends the process, that is acknowledged, or that never lets go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_with_503_goes_on_reading_and_resumes_by_itself() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let Some(disk) = Tmpfs::mount(&folder.path().join("disk"), "40m")? else { return Ok(()) };
    let dir = disk.0.join("data");
    let settings = [("NILOMETER_STREAM__CHECKPOINT_INTERVAL_S", "2")];
    let mut server = Server::start(&dir, &settings).await?;
    server.deliver(&events(0..100), Duration::from_secs(10)).await?;
    server.until_shown(100, Duration::from_secs(10)).await?;

    ballast(&disk.0.join("ballast"), 12 << 20)?;
    let number = fill_up(&server, 100).await?;
    ensure!(number >= 200, "only {number} events fitted into 40 MB");
    // What was acknowledged is shown even while the disk is full. A batch of several partitions
    // may be there in part: so at least that, and at most the refused batch more.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let shown = server.events_shown().await?;
        if (number..number + 10).contains(&shown) {
            break;
        }
        ensure!(Instant::now() < deadline, "{shown} shown of {number} acknowledged");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Nothing at all is left: reading goes on.
    ballast(&disk.0.join("more"), 40 << 20)?;
    let begun = now_ms();
    while now_ms() - begun < 3_000 {
        let shown = server.events_shown().await?;
        ensure!((number..number + 10).contains(&shown), "{shown} shown of {number}");
        let answer = server.send_events(&events(9_000..9_010)).await?;
        ensure!(answer.status == 503, "acknowledged on a full disk: {answer:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    ensure!(server.is_alive()?, "the server ended: {}", server.log());

    std::fs::remove_file(disk.0.join("more"))?;
    std::fs::remove_file(disk.0.join("ballast"))?;
    let patience = Duration::from_secs(10);
    let space = Instant::now();
    server.deliver(&large_events(number, 10), patience).await?;
    server.deliver(&events(9_000..9_010), patience.saturating_sub(space.elapsed())).await?;
    server.until_shown(number + 20, patience).await?;
    server.at_rest().await?;
    server.kill()?;
    let server = Server::start(&dir, &settings).await?;
    server.at_rest().await?;
    server.until_shown(number + 20, patience).await
}

/// Catches: a flood that fills the disk before there is a checkpoint, none of which may go then: a
/// house that takes no events has nothing to write one for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_of_log_before_a_checkpoint_makes_room_by_itself() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let Some(disk) = Tmpfs::mount(&folder.path().join("disk"), "120m")? else { return Ok(()) };
    let mut server = Server::start(&disk.0.join("data"), &[]).await?;
    let number = fill_up(&server, 0).await?;
    ensure!(metric(&server, "nilometer_log_removed_early_records_total").await? == 0, "too early");
    server.deliver(&large_events(number, 10), Duration::from_secs(40)).await?;
    ensure!(metric(&server, "nilometer_log_removed_early_records_total").await? > 0, "no room");
    server.until_shown(number + 10, Duration::from_secs(10)).await?;
    ensure!(server.is_alive()?, "the server ended: {}", server.log());
    server.at_rest().await?;
    server.kill()?;
    let server = Server::start(&disk.0.join("data"), &[]).await?;
    server.until_shown(number + 10, Duration::from_secs(10)).await
}

/// How a server ended before it was started on a full disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    Killed,
    Clean,
    /// As by a power cut; a clean stop where fail points are not built in.
    InTheCheckpoint,
}

/// Catches: a server that a full disk keeps from coming back, or that shows less than it had
/// acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_on_a_full_disk_shows_everything_and_takes_more_once_there_is_room() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let Some(disk) = Tmpfs::mount(&folder.path().join("disk"), "40m")? else { return Ok(()) };
    let (dir, full) = (disk.0.join("data"), disk.0.join("ballast"));
    let settings = [("NILOMETER_STREAM__CHECKPOINT_INTERVAL_S", "2")];
    let patience = Duration::from_secs(10);
    let mut server = Server::start(&dir, &settings).await?;
    let mut shown = 0;
    for stop in [Stop::Killed, Stop::Clean, Stop::InTheCheckpoint] {
        server.deliver(&events(shown..shown + 500), patience).await?;
        shown += 500;
        server.until_shown(shown, patience).await?;
        if stop == Stop::InTheCheckpoint {
            // The journal ends with a seal whose checkpoint was never written.
            server.kill()?;
            let point = ("FAILPOINTS", "checkpoint-before-manifest=return");
            server =
                Server::start(&dir, &[("NILOMETER_STREAM__CHECKPOINT_INTERVAL_S", "3600"), point])
                    .await?;
            server.deliver(&events(shown..shown + 500), patience).await?;
            shown += 500;
            server.until_shown(shown, patience).await?;
        }
        if stop == Stop::Killed {
            server.kill()?;
        } else {
            server.signal(Signal::TERM)?;
            server.ended_within(Duration::from_secs(30)).await?;
        }
        ballast(&full, 40 << 20)?;
        server = Server::start(&dir, &settings).await?;
        server.until_shown(shown, patience).await?;
        for _ in 0..5 {
            let answer = server.send_events(&events(90_000..90_010)).await?;
            ensure!(answer.status == 503, "acknowledged on a full disk: {answer:?}");
            ensure!(server.events_shown().await? == shown, "not everything is shown");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        ensure!(server.is_alive()?, "the server ended: {}", server.log());
        std::fs::remove_file(&full)?;
        server.deliver(&events(shown..shown + 100), patience).await?;
        shown += 100;
        server.until_shown(shown, patience).await?;
        server.at_rest().await?;
    }
    Ok(())
}

/// Catches: a first start that leaves half a data directory on a full disk, or that does not
/// say why it ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_on_a_full_disk_says_so_and_a_later_one_begins_anew() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let Some(disk) = Tmpfs::mount(&folder.path().join("disk"), "8m")? else { return Ok(()) };
    let (dir, full) = (disk.0.join("data"), disk.0.join("ballast"));
    std::fs::create_dir(&dir)?;
    ballast(&full, 8 << 20)?;
    let refused = Server::start(&dir, &[]).await.err().context("started without room for keys")?;
    let said = format!("{refused:#}").to_lowercase();
    ensure!(said.contains("no space left"), "{said}");
    ensure!(said.contains("keys"), "no file is named: {said}");
    std::fs::remove_file(&full)?;
    let server = Server::start(&dir, &[]).await?;
    server.deliver(&events(0..10), Duration::from_secs(10)).await?;
    server.until_shown(10, Duration::from_secs(10)).await
}

/// The value of a metric without labels.
async fn metric(server: &Server, name: &str) -> Result<u64> {
    let text = server.get("/metrics").await?.text;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.with_context(|| format!("no {name}"))?.parse().context(name.to_owned())
}

/// Sends so many events of a thousand bytes each; without a type they are refused.
async fn fill(server: &Server, name: &str, count: u64, event_type: Option<&str>) -> Result<()> {
    for from in (0..count).step_by(200) {
        let events: Vec<Value> = (from..count.min(from + 200))
            .map(|number| {
                json!({
                    "event_id": format!("{name}-{number}"), "event_type": event_type,
                    "user_id": format!("u-{}", number % 50), "timestamp": now_ms(),
                    "properties": {"text": "x".repeat(1_000)},
                })
            })
            .collect();
        let answer = server.send_events(&events).await?;
        ensure!(answer.status == 200, "{answer:?}");
        let refused = answer.json()["rejected"].as_u64() == Some(events.len() as u64);
        ensure!(refused == event_type.is_none(), "{answer:?}");
    }
    Ok(())
}

/// Waits until retention has done what it is to do.
async fn until(server: &Server, what: &str, done: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done().await? {
        let log = server.read("/v1/pipeline").await?["log"].clone();
        ensure!(Instant::now() < deadline, "{what}: {log}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Catches: a bound for each topic and partition, so that the log has many times as much; junk
/// that takes the place of what was accepted; events that go uncounted when they go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_keeps_to_its_bound_and_what_is_refused_pushes_nothing_out() -> Result<()> {
    const BOUND: u64 = 3 << 20;
    const LETTERS: u64 = 256 << 10;
    // Of each of seven topics the segment that is being written stays, and half a second's entry.
    const SLACK: u64 = 1 << 20;
    let folder = tempfile::tempdir()?;
    let settings = [
        ("NILOMETER_LOG__PARTITIONS", "1"),
        ("NILOMETER_LOG__COMPRESSION", "none"),
        ("NILOMETER_LOG__RETENTION_BYTES", &BOUND.to_string()),
        ("NILOMETER_LOG__DEAD_LETTER_BYTES_MAX", &LETTERS.to_string()),
        ("NILOMETER_STREAM__CHECKPOINT_INTERVAL_S", "1"),
    ];
    let server = Server::start(&folder.path().join("data"), &settings).await?;
    fill(&server, "first", 1_000, Some("click")).await?;
    fill(&server, "junk", 5_000, None).await?;
    // Checkpoints are made where there is something new.
    until(&server, "dead letters stay", async || {
        fill(&server, "more-junk", 1, None).await?;
        Ok(metric(&server, "nilometer_log_dead_letter_bytes").await? <= LETTERS)
    })
    .await?;
    let early = "nilometer_log_removed_early_records_total";
    ensure!(metric(&server, early).await? == 0, "junk pushed events out");
    let letters = metric(&server, "nilometer_log_removed_early_dead_letters_total").await?;
    ensure!(letters > 4_000, "{letters} dead letters went");

    fill(&server, "next", 7_000, Some("click")).await?;
    until(&server, "the log grows", async || {
        fill(&server, "last", 1, Some("click")).await?;
        Ok(metric(&server, "nilometer_log_bytes").await? <= BOUND + SLACK)
    })
    .await?;
    ensure!(metric(&server, early).await? > 3_000, "nothing went");
    server.at_rest().await?;
    // The last one is one, however often it came.
    server.until_shown(8_001, Duration::from_secs(10)).await
}
