//! The release binary as a child, its load generator, and what the kernel says of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const WRITE_KEY: &str = "bench-write-key-of-a-fixed-text";
pub(crate) const ADMIN_TOKEN: &str = "bench-admin-token-of-a-fixed-text";

/// One load.
pub(crate) struct Generate {
    pub(crate) rate: u32,
    pub(crate) seconds: u32,
    pub(crate) users: u32,
}

/// A running server. A data directory of its own goes with it.
pub(crate) struct Server {
    child: Child,
    folder: PathBuf,
    _own: Option<TempDir>,
    port: u16,
    settings: Vec<(String, String)>,
    client: reqwest::blocking::Client,
}

/// A load generator that is running.
pub(crate) struct Load(Option<Child>);

impl Load {
    /// Waits for the end of the load.
    pub(crate) fn end(mut self) -> Result<Value> {
        let child = self.0.take().context("the load has ended already")?;
        tally(&child.wait_with_output()?)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn tally(output: &std::process::Output) -> Result<Value> {
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "generator: {errors}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn flags(load: &Generate) -> Vec<String> {
    let Generate { rate, seconds, users } = load;
    let flags = [("--rate", rate), ("--seconds", seconds), ("--users", users)];
    flags.iter().flat_map(|(flag, value)| [(*flag).to_owned(), value.to_string()]).collect()
}

/// Beside the target directory: /tmp may be memory, and a disk is what is measured.
fn own_folder() -> Result<TempDir> {
    let folder = tempfile::Builder::new()
        .prefix("bench-data-")
        .tempdir_in(binary()?.parent().context("the binary's folder")?)?;
    Ok(folder)
}

fn binary() -> Result<PathBuf> {
    let mut path = std::env::current_exe()?;
    path.set_file_name("nilometer");
    ensure!(path.exists(), "{} is not there: cargo build --release first", path.display());
    Ok(path)
}

impl Server {
    pub(crate) fn start(settings: &[(&str, &str)]) -> Result<Self> {
        let own = own_folder()?;
        let folder = own.path().to_owned();
        Self::launch(folder, Some(own), settings)
    }

    /// On what lies in `folder`, which is left as the server leaves it.
    pub(crate) fn start_on(folder: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        Self::launch(folder.to_owned(), None, settings)
    }

    /// On a copy of what lies in `folder`. Files of checkpoints and rollups are never written
    /// again, only replaced: they are linked.
    pub(crate) fn start_on_copy(folder: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let own = own_folder()?;
        let data = own.path().join("data");
        std::fs::create_dir(&data)?;
        for entry in std::fs::read_dir(folder.join("data"))? {
            let entry = entry?;
            let is_immutable = ["checkpoints", "rollups"].iter().any(|it| entry.file_name() == *it);
            let how = if is_immutable { "-al" } else { "-a" };
            let copied = Command::new("cp").arg(how).arg(entry.path()).arg(&data).status()?;
            ensure!(copied.success(), "cannot copy {}", entry.path().display());
        }
        let folder = own.path().to_owned();
        Self::launch(folder, Some(own), settings)
    }

    fn launch(folder: PathBuf, own: Option<TempDir>, settings: &[(&str, &str)]) -> Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let settings: Vec<_> =
            settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let child = spawn(&folder, port, &settings)?;
        // While history is folded, an entry may hold up a look at the pipeline for long.
        let client =
            reqwest::blocking::Client::builder().timeout(Duration::from_secs(300)).build()?;
        let server = Self { child, folder, _own: own, port, settings, client };
        server.until_ready()?;
        Ok(server)
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    fn until_ready(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            let answer = self.client.get(format!("{}/readyz", self.url())).send();
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            ensure!(began.elapsed() < Duration::from_secs(120), "the server is not ready");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.get_text(path)?)?)
    }

    pub(crate) fn get_text(&self, path: &str) -> Result<String> {
        let answer =
            self.client.get(format!("{}{path}", self.url())).bearer_auth(ADMIN_TOKEN).send()?;
        let (status, text) = (answer.status(), answer.text()?);
        ensure!(status.is_success(), "GET {path}: {status}: {text}");
        Ok(text)
    }

    /// Sends a body of events until it is taken: the server may say 503 while it is behind.
    pub(crate) fn post_events(&self, path: &str, body: &str) -> Result<()> {
        let began = Instant::now();
        loop {
            let request = self.client.post(format!("{}{path}", self.url())).bearer_auth(WRITE_KEY);
            let request = request.header("content-type", "application/x-ndjson");
            let answer = request.body(body.to_owned()).send()?;
            let (status, text) = (answer.status(), answer.text()?);
            if status.is_success() {
                let answer: Value = serde_json::from_str(&text)?;
                ensure!(answer["rejected"] == 0, "POST {path}: {text}");
                return Ok(());
            }
            let waits = status == 503 && began.elapsed() < Duration::from_secs(300);
            ensure!(waits, "POST {path}: {status}: {text}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// One of the server's own numbers, without labels.
    pub(crate) fn metric(&self, name: &str) -> Result<f64> {
        value(&self.metrics()?, name)
    }

    /// All of them at one time, for [`value`] and [`labelled`].
    pub(crate) fn metrics(&self) -> Result<String> {
        self.get_text("/metrics")
    }

    /// A key of its own, once the server knows it.
    pub(crate) fn create_key(&self, kind: &str, label: &str) -> Result<String> {
        let data = self.folder.join("data");
        let mut command = Command::new(binary()?);
        command.args(["keys", "create", kind, "--label", label, "--data-dir"]).arg(data);
        let output = command.output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "keys create: {errors}");
        // The server looks for new keys every second.
        std::thread::sleep(Duration::from_secs(3));
        let text = String::from_utf8(output.stdout)?;
        Ok(text.split_whitespace().last().context("no key")?.to_owned())
    }

    /// Descriptors that are open, those of them that are sockets, and how many may be open.
    pub(crate) fn descriptors(&self) -> Result<(usize, usize, usize)> {
        let process = format!("/proc/{}", self.child.id());
        let (mut open, mut sockets) = (0, 0);
        for entry in std::fs::read_dir(format!("{process}/fd"))? {
            open += 1;
            // One that is closed meanwhile cannot be read any more.
            let target = std::fs::read_link(entry?.path()).unwrap_or_default();
            sockets += usize::from(target.to_string_lossy().starts_with("socket:"));
        }
        let limits = std::fs::read_to_string(format!("{process}/limits"))?;
        let line = limits.lines().find(|line| line.starts_with("Max open files"));
        let max = line.and_then(|line| line.split_whitespace().nth(3)).context("proc limits")?;
        Ok((open, sockets, max.parse()?))
    }

    fn generator(&self, key: &str, flags: &[String]) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command
            .args(["generate", "--url", &self.url(), "--write-key", key])
            .args(["--invalid", "0", "--body-bytes", "262144"])
            .args(flags);
        Ok(command)
    }

    /// A load that runs beside; its tally comes with [`Load::end`].
    pub(crate) fn load(&self, load: &Generate) -> Result<Load> {
        self.load_by(load, WRITE_KEY)
    }

    /// As [`Self::load`], with another key.
    pub(crate) fn load_by(&self, load: &Generate, key: &str) -> Result<Load> {
        let mut command = self.generator(key, &flags(load))?;
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        Ok(Load(Some(child)))
    }

    fn run_generator(&self, flags: &[String]) -> Result<Value> {
        tally(&self.generator(WRITE_KEY, flags)?.output()?)
    }

    pub(crate) fn generate(&self, load: &Generate) -> Result<Value> {
        self.run_generator(&flags(load))
    }

    pub(crate) fn generate_events(&self, events: u64, users: u32) -> Result<Value> {
        let flags = ["--rate", "0", "--events", &events.to_string(), "--users", &users.to_string()];
        self.run_generator(&flags.map(str::to_owned))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// User and system time of the process so far.
    pub(crate) fn cpu_s(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // Fields 14 and 15 of proc(5), counted from the state after the name; 100 ticks a second.
        let ticks = |index: usize| -> Result<f64> {
            Ok(fields.get(index).context("proc stat")?.parse::<f64>()?)
        };
        Ok((ticks(11)? + ticks(12)?) / 100.0)
    }

    /// Lets the peak begin at what is resident now (proc(5), `clear_refs`).
    pub(crate) fn forget_peak(&self) -> Result<()> {
        Ok(std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5")?)
    }

    fn status_mib(&self, name: &str) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with(name)).context("proc status")?;
        let kib: f64 = line.split_whitespace().nth(1).context("proc status")?.parse()?;
        Ok((kib / 102.4).round() / 10.0)
    }

    pub(crate) fn rss_mib(&self) -> Result<f64> {
        self.status_mib("VmRSS:")
    }

    pub(crate) fn peak_rss_mib(&self) -> Result<f64> {
        self.status_mib("VmHWM:")
    }

    pub(crate) fn kill_and_time_restart(&mut self) -> Result<Duration> {
        self.child.kill()?;
        self.child.wait()?;
        self.time_start()
    }

    pub(crate) fn terminate(&mut self) -> Result<()> {
        let killed = Command::new("kill").arg(self.child.id().to_string()).status()?;
        ensure!(killed.success(), "kill failed");
        self.child.wait()?;
        Ok(())
    }

    pub(crate) fn time_start(&mut self) -> Result<Duration> {
        let began = Instant::now();
        self.child = spawn(&self.folder, self.port, &self.settings)?;
        self.until_ready()?;
        Ok(began.elapsed())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A number without labels.
pub(crate) fn value(metrics: &str, name: &str) -> Result<f64> {
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.with_context(|| format!("no metric {name}"))?.trim().parse()?)
}

/// The numbers of a name by its one label.
pub(crate) fn labelled(metrics: &str, name: &str, label: &str) -> Result<BTreeMap<String, f64>> {
    let prefix = format!("{name}{{{label}=\"");
    let numbers = metrics.lines().filter_map(|line| line.strip_prefix(&prefix)?.split_once("\"} "));
    numbers.map(|(label, number)| Ok((label.to_owned(), number.trim().parse()?))).collect()
}

fn spawn(folder: &Path, port: u16, settings: &[(String, String)]) -> Result<Child> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("stderr"))?;
    Command::new(binary()?)
        .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
        .arg(folder.join("data"))
        .env("NILOMETER_WRITE_KEY", WRITE_KEY)
        .env("NILOMETER_READ_TOKEN", "bench-read-token-of-a-fixed-text")
        .env("NILOMETER_ADMIN_TOKEN", ADMIN_TOKEN)
        .envs(settings.iter().map(|(key, value)| (key.as_str(), value.as_str())))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("start the server")
}

pub(crate) fn commit() -> Result<String> {
    let output = Command::new("git").args(["describe", "--always", "--dirty"]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

pub(crate) fn machine() -> Result<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo")?;
    let cores = info.lines().filter(|line| line.starts_with("processor")).count();
    let model = info.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("?", |model| model.trim_start_matches([':', '\t', ' ']));
    Ok(format!("{cores} × {model}"))
}
