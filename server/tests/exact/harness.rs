//! The real binary as a child process, and a client that retries as the contract says.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

pub(crate) const WRITE_KEY: &str = "exact-test-write-key-0001";
pub(crate) const ADMIN_TOKEN: &str = "exact-test-admin-token-0001";
const READ_TOKEN: &str = "exact-test-read-token-0001";

/// How long a start may take, recovery included.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// A server in its own process; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    port: u16,
    data_dir: PathBuf,
    settings: Vec<(String, String)>,
    client: reqwest::Client,
}

impl Server {
    /// Starts on a free port and waits until it is ready.
    pub(crate) async fn start(data_dir: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let settings: Vec<(String, String)> =
            settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let server = Self {
            child: spawn(data_dir, port, &settings)?,
            url: format!("http://127.0.0.1:{port}"),
            port,
            data_dir: data_dir.to_owned(),
            settings,
            client: reqwest::Client::new(),
        };
        server.until_ready().await?;
        Ok(server)
    }

    pub(crate) async fn until_ready(&self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + READY_TIMEOUT;
        loop {
            let answer = self.client.get(format!("{}/readyz", self.url)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            ensure!(tokio::time::Instant::now() < deadline, "not ready: {}", self.log_tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill().context("kill -9")?;
        self.child.wait().map(drop).context("reap")
    }

    /// kill -9, then a new process on the same directory and port.
    pub(crate) fn kill_and_restart(&mut self) -> Result<()> {
        self.kill()?;
        self.child = spawn(&self.data_dir, self.port, &self.settings)?;
        Ok(())
    }

    /// Restarts with a fail point armed: the process ends itself there.
    pub(crate) fn restart_armed(&mut self, place: &str) -> Result<()> {
        let mut settings = self.settings.clone();
        settings.push(("FAILPOINTS".to_owned(), format!("{place}=return")));
        if self.child.try_wait()?.is_none() {
            self.child.kill().context("kill -9")?;
        }
        self.child.wait().context("reap")?;
        self.child = spawn(&self.data_dir, self.port, &settings)?;
        Ok(())
    }

    /// True once the process has ended by itself.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub(crate) fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(log_path(&self.data_dir)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Sends NDJSON once; `None` when the server did not acknowledge.
    pub(crate) async fn try_post(&self, path: &str, body: String) -> Result<Option<Value>> {
        let answer = self
            .client
            .post(format!("{}{path}", self.url))
            .bearer_auth(WRITE_KEY)
            .header("content-type", "application/x-ndjson")
            .timeout(Duration::from_secs(20))
            .body(body)
            .send()
            .await;
        let Ok(answer) = answer else { return Ok(None) };
        let status = answer.status();
        if status == 429 || status.is_server_error() {
            return Ok(None);
        }
        let text = answer.text().await;
        let Ok(text) = text else { return Ok(None) };
        ensure!(status.is_success(), "{status}: {text}");
        Ok(Some(serde_json::from_str(&text)?))
    }

    /// Sends bytes as they are, once: the status and the answer.
    pub(crate) async fn send_raw(
        &self,
        path: &str,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    ) -> Result<(u16, Value)> {
        let mut request = self.client.post(format!("{}{path}", self.url)).body(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let answer = request.timeout(Duration::from_secs(20)).send().await?;
        let (status, text) = (answer.status().as_u16(), answer.text().await?);
        Ok((status, serde_json::from_str(&text).with_context(|| format!("{status}: {text}"))?))
    }

    /// Sends until it is acknowledged.
    pub(crate) async fn post(&self, path: &str, body: &str) -> Result<Value> {
        for _ in 0..600 {
            if let Some(answer) = self.try_post(path, body.to_owned()).await? {
                return Ok(answer);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("never acknowledged: {}", self.log_tail())
    }

    /// A GET with the admin token.
    pub(crate) async fn get(&self, path_and_query: &str) -> Result<Value> {
        let answer = self
            .client
            .get(format!("{}{path_and_query}", self.url))
            .bearer_auth(ADMIN_TOKEN)
            .send()
            .await
            .with_context(|| format!("GET {path_and_query}"))?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "GET {path_and_query}: {status}: {text}");
        serde_json::from_str(&text).with_context(|| format!("GET {path_and_query}: {text}"))
    }

    pub(crate) async fn query(&self, query: &Value) -> Result<Value> {
        let answer = self
            .client
            .post(format!("{}/v1/query", self.url))
            .bearer_auth(ADMIN_TOKEN)
            .json(query)
            .send()
            .await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "query {query}: {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Waits until everything received is folded, and says how the pipeline stands then.
    pub(crate) async fn at_rest(&self) -> Result<Value> {
        let mut last = Value::Null;
        for _ in 0..600 {
            last = self.get("/v1/pipeline").await?;
            if last["totals"]["in_flight"] == 0 {
                return Ok(last);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("in flight does not drain: {last}")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn log_path(data_dir: &Path) -> PathBuf {
    data_dir.with_extension("log")
}

fn spawn(data_dir: &Path, port: u16, settings: &[(String, String)]) -> Result<Child> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log_path(data_dir))?;
    Command::new(env!("CARGO_BIN_EXE_nilometer"))
        .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
        .arg(data_dir)
        .env("NILOMETER_WRITE_KEY", WRITE_KEY)
        .env("NILOMETER_READ_TOKEN", READ_TOKEN)
        .env("NILOMETER_ADMIN_TOKEN", ADMIN_TOKEN)
        .envs(settings.iter().map(|(key, value)| (key.as_str(), value.as_str())))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("start the binary")
}
