//! The binary as a child process, with a folder of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

pub(crate) const WRITE_KEY: &str = "cli-test-write-key-0001";
pub(crate) const READ_TOKEN: &str = "cli-test-read-token-0001";
pub(crate) const ADMIN_TOKEN: &str = "cli-test-admin-token-0001";

/// A command of the binary in a clean environment.
pub(crate) fn nilometer(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nilometer"));
    command.args(args).env_clear().stdin(Stdio::null());
    command
}

/// What a finished command left: exit code, stdout, stderr.
pub(crate) fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server in its own process on its own folder; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    folder: TempDir,
    pub(crate) client: reqwest::Client,
}

impl Server {
    /// Starts on a free port and waits until it is ready.
    pub(crate) async fn start() -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), |command| {
            command
                .env("NILOMETER_WRITE_KEY", WRITE_KEY)
                .env("NILOMETER_READ_TOKEN", READ_TOKEN)
                .env("NILOMETER_ADMIN_TOKEN", ADMIN_TOKEN)
                .env("NILOMETER_SERVER__ALLOWED_ORIGINS", "[\"https://board.example\"]")
                .env("NILOMETER_STREAM__CHECKPOINT_INTERVAL_S", "1")
                .env("NILOMETER_ROLLUPS__FOLD_INTERVAL_S", "1")
                .stdout(Stdio::null());
        })
        .await
    }

    /// Starts on this folder, as `furnish` wants it, and waits until it is ready. Its stderr is a
    /// file and its environment empty, unless `furnish` says otherwise.
    pub(crate) async fn start_with(folder: TempDir, furnish: impl FnOnce(&mut Command)) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let data = folder.path().join("data");
        let log = std::fs::File::create(folder.path().join("stderr")).unwrap();
        let mut command =
            nilometer(&["serve", "--data-dir", data.to_str().unwrap(), "--listen", &address]);
        furnish(command.stderr(log));
        let child = command.spawn().unwrap();
        // The pipes of a parent that are left open would be readers.
        drop(command);
        // A connection that lay idle may be closed just when it is used again.
        let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
        let server = Self { child, url: format!("http://{address}"), folder, client };
        for _ in 0..600 {
            let answer = server.client.get(format!("{}/readyz", server.url)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return server;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not ready: {}", server.stderr());
    }

    /// The server's stdout, where it is a pipe.
    pub(crate) fn take_stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().unwrap()
    }

    /// Kills it and keeps its folder.
    pub(crate) fn killed(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.into_folder()
    }

    /// The folder of one that has ended.
    pub(crate) fn into_folder(mut self) -> TempDir {
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }

    /// Stops it and keeps its folder.
    pub(crate) async fn stopped(mut self) -> TempDir {
        assert_eq!(self.stop().await, 0, "{}", self.stderr());
        self.into_folder()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What a first start wrote for whoever may read its folder: its keys, and how to sign in. The
    /// server is ready a moment before.
    pub(crate) async fn first_start(&self) -> String {
        for _ in 0..300 {
            if let Ok(text) = std::fs::read_to_string(self.data().join("keys/first-start.txt")) {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no keys were made: {}", self.stderr());
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stderr(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).unwrap()
    }

    /// A command of the binary beside this server, with its keys.
    pub(crate) fn beside(&self, args: &[&str]) -> Command {
        let mut command = nilometer(args);
        command
            .env("NILOMETER_URL", &self.url)
            .env("NILOMETER_WRITE_KEY", WRITE_KEY)
            .env("NILOMETER_SERVER__DATA_DIR", self.data())
            .env("XDG_STATE_HOME", self.folder.path().join("state"));
        command
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> reqwest::Response {
        self.client.get(format!("{}{path}", self.url)).bearer_auth(token).send().await.unwrap()
    }

    pub(crate) async fn json(&self, path: &str) -> Value {
        let answer = self.get(path, READ_TOKEN).await;
        assert_eq!(answer.status(), 200, "{path}");
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }

    /// Sends one event; the status of the answer.
    pub(crate) async fn send(&self, key: &str, user: &str) -> u16 {
        let body = format!("{{\"event_type\":\"view\",\"user_id\":\"{user}\",\"timestamp\":0}}");
        self.client
            .post(format!("{}/v1/events", self.url))
            .bearer_auth(key)
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    }

    /// SIGTERM; the exit code.
    pub(crate) async fn stop(&mut self) -> i32 {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.ended().await
    }

    /// Waits for its end; the exit code.
    pub(crate) async fn ended(&mut self) -> i32 {
        for _ in 0..600 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("still running: {}", self.stderr());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
