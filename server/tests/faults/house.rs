//! The real binary as a child process, and the requests that every test needs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::Instant;

/// The dimensions that every event may have.
pub(crate) const DIMENSIONS: [&str; 10] = [
    "event_type",
    "country",
    "device_type",
    "content_category",
    "content_id",
    "app_version",
    "subscription_tier",
    "cohort",
    "channel",
    "service_name",
];

pub(crate) const WRITE_KEY: &str = "faults-test-write-key-0123456789";
pub(crate) const READ_TOKEN: &str = "faults-test-read-token-0123456789";
pub(crate) const ADMIN_TOKEN: &str = "faults-test-admin-token-0123456789";

/// How long a start may take, recovery included, on a machine that runs other tests as well.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

static STARTS: AtomicU32 = AtomicU32::new(0);

/// A server in its own process; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    log_path: PathBuf,
    pub(crate) client: reqwest::Client,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) async fn of(response: reqwest::Response) -> Result<Self> {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await?;
        Ok(Self { status, headers, text: String::from_utf8_lossy(&bytes).into_owned() })
    }

    /// Null where it is no JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }
}

impl Server {
    /// Starts on a free port, with its log beside `data_dir`, and waits until it is ready.
    pub(crate) async fn start(data_dir: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        Self::start_after("true", data_dir, settings).await
    }

    /// As [`Server::start`], after a line of shell: `ulimit -n 600`.
    pub(crate) async fn start_after(
        line: &str,
        data_dir: &Path,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        let number = STARTS.fetch_add(1, Ordering::Relaxed);
        let log_path = std::env::temp_dir()
            .join(format!("nilometer-faults-{}-{number}.log", std::process::id()));
        let log = std::fs::File::create(&log_path)?;
        let child = Command::new("sh")
            .args(["-c", &format!("{line}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_nilometer")])
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            .env("NILOMETER_WRITE_KEY", WRITE_KEY)
            .env("NILOMETER_READ_TOKEN", READ_TOKEN)
            .env("NILOMETER_ADMIN_TOKEN", ADMIN_TOKEN)
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start the binary")?;
        let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).build()?;
        let mut server = Self { child, address: String::new(), log_path, client };
        server.until_ready().await?;
        Ok(server)
    }

    async fn until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        while self.address.is_empty() {
            ensure!(self.child.try_wait()?.is_none(), "the server ended: {}", self.log());
            ensure!(Instant::now() < deadline, "not ready: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
            let log = self.log();
            let ready = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let ready = ready.into_iter().find(|line| line["message"] == "server ready");
            if let Some(address) = ready.as_ref().and_then(|line| line["address"].as_str()) {
                self.address = address.to_owned();
            }
        }
        let answer = self.get("/readyz").await?;
        ensure!(answer.status == 200, "says that it is ready and is not: {answer:?}");
        Ok(())
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        signal_to(self.pid(), signal)
    }

    /// kill -9, and until it is gone.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill().context("kill -9")?;
        self.child.wait().context("reap")?;
        Ok(())
    }

    pub(crate) fn is_alive(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    pub(crate) async fn ended_within(&mut self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "still running after {patience:?}: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Everything that it has printed.
    pub(crate) fn log(&self) -> String {
        std::fs::read(&self.log_path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// A number of /proc/PID/status, in KiB.
    pub(crate) fn memory_kib(&self, name: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.context("no such number")?.parse().context("no number")
    }

    /// Sends a body of events as `content_type`.
    pub(crate) async fn send(
        &self,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> Result<Answer> {
        let request = self
            .client
            .post(self.url("/v1/events"))
            .bearer_auth(WRITE_KEY)
            .header("content-type", content_type)
            .body(body);
        Answer::of(request.send().await?).await
    }

    /// Sends events as an array.
    pub(crate) async fn send_events(&self, events: &[Value]) -> Result<Answer> {
        self.send("application/json", serde_json::to_vec(events)?).await
    }

    /// Sends events until they are acknowledged, all of them.
    pub(crate) async fn deliver(&self, events: &[Value], patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let answer = self.send_events(events).await;
            if let Ok(answer) = &answer
                && answer.status == 200
            {
                let accepted = answer.json()["accepted"].as_u64();
                ensure!(accepted == Some(events.len() as u64), "not all accepted: {answer:?}");
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "never acknowledged: {answer:?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A GET with the admin token.
    pub(crate) async fn get(&self, path: &str) -> Result<Answer> {
        let request = self.client.get(self.url(path)).bearer_auth(ADMIN_TOKEN);
        Answer::of(request.send().await?).await
    }

    /// A GET that must succeed.
    pub(crate) async fn read(&self, path: &str) -> Result<Value> {
        let answer = self.get(path).await?;
        ensure!(answer.status == 200, "GET {path}: {answer:?}");
        Ok(answer.json())
    }

    /// Events that the dashboard would show.
    pub(crate) async fn events_shown(&self) -> Result<u64> {
        let answer = self.read("/v1/query?metrics=events&last=2h&granularity=total").await?;
        Ok(answer["rows"][0]["events"].as_u64().unwrap_or(0))
    }

    /// Waits until so many events are shown.
    pub(crate) async fn until_shown(&self, events: u64, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let shown = self.events_shown().await?;
            if shown == events {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{shown} events are shown, not {events}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until everything received is folded; the sum must hold then.
    pub(crate) async fn at_rest(&self) -> Result<Value> {
        for _ in 0..300 {
            let pipeline = self.read("/v1/pipeline").await?;
            if pipeline["totals"]["in_flight"] == 0 {
                ensure!(pipeline["residual"] == 0, "residual: {pipeline}");
                return Ok(pipeline);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("in flight does not drain: {}", self.log())
    }

    /// The sum of the metrics whose name holds `part` and ends in `_total`.
    pub(crate) async fn metric_total(&self, part: &str) -> Result<u64> {
        let text = self.get("/metrics").await?.text;
        let of_name = text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(name, _)| name.contains(part) && name.ends_with("_total"));
        Ok(of_name.filter_map(|(_, value)| value.parse::<u64>().ok()).sum())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(std::fs::remove_file(&self.log_path));
    }
}

pub(crate) fn signal_to(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("pid 0")?;
    kill_process(pid, signal).context("signal")
}

pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// A plain event with an id of its own.
pub(crate) fn event(number: u64) -> Value {
    let countries = ["DE", "US", "EG", "FR", "BR"];
    let country = countries[usize::try_from(number % 5).unwrap_or(0)];
    json!({
        "event_id": format!("e-{number}"),
        "event_type": "click",
        "user_id": format!("u-{}", number % 97),
        "timestamp": now_ms(),
        "country": country,
        "session_duration_sec": 1.5,
    })
}

pub(crate) fn events(numbers: std::ops::Range<u64>) -> Vec<Value> {
    numbers.map(event).collect()
}

/// What a viewer sees of the last two hours, minute by minute; `from` keeps it comparable.
pub(crate) async fn rows(server: &Server, from_ms: i64) -> Result<Value> {
    let to_ms = from_ms + 3 * 3_600_000;
    let path = format!(
        "/v1/query?metrics=events,unique_users,total_duration,sessions&group_by=country\
         &from={from_ms}&to={to_ms}&granularity=1h"
    );
    Ok(server.read(&path).await?["rows"].clone())
}

/// Every file under `dir`, by name order.
pub(crate) fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The files under `dir` with this ending.
pub(crate) fn files_ending(dir: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let mut found = files(dir)?;
    found.retain(|path| path.to_string_lossy().ends_with(ending));
    Ok(found)
}
