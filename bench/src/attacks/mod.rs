//! All attacks at once, beside honest senders and readers.
//!
//! What is asked of the server meanwhile (docs/security.md): honest events are
//! acknowledged within seconds and exact, honest questions answered, memory and descriptors stay
//! within their bounds, and all of it is given back afterwards.

mod held;
mod honest;
mod kinds;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::server::{Generate, Server};
use held::Held;
use kinds::{Attack, Target};

/// How long buffers may take to be given back.
const CALM_AFTER: Duration = Duration::from_secs(10);
/// How often what is held is told.
const COURSE_SECONDS: u64 = 15;
/// Sockets of honest readers and senders, who come and go meanwhile.
const SOCKETS_BESIDE: usize = 8;
/// What a process may be above its memory limit, in percent.
const MEMORY_PERCENT: f64 = 115.0;
/// What of its descriptors may be taken, in percent.
const DESCRIPTORS_PERCENT: usize = 80;
/// Longest that an honest batch may wait for its acknowledgement, in milliseconds.
const ACKNOWLEDGED_MS: f64 = 5_000.0;
/// Longest that 99 of 100 honest questions may take, in milliseconds.
const ANSWERED_MS: f64 = 500.0;

#[derive(Args, Clone, Debug)]
pub(crate) struct Attacks {
    #[arg(long, default_value_t = 300)]
    seconds: u32,
    /// Honest events a second.
    #[arg(long, default_value_t = 20_000)]
    rate: u32,
    /// Honest questions a second.
    #[arg(long, default_value_t = 83.0)]
    queries: f64,
    /// Attacks, parted by commas; all where none is named.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Attack>,
    /// None at all: what the same machine does in peace.
    #[arg(long, conflicts_with = "only")]
    peace: bool,
    /// Memory limit of the server, in MiB; its default where absent.
    #[arg(long, default_value_t = 512)]
    memory_limit_mib: u32,
}

impl Attacks {
    fn attacks(&self) -> Vec<Attack> {
        match (self.peace, self.only.is_empty()) {
            (true, _) => Vec::new(),
            (false, true) => Attack::value_variants().to_vec(),
            (false, false) => self.only.clone(),
        }
    }
}

/// Runs them. What does not hold ends it with an error, after the figures were printed.
pub(crate) fn run(args: &Attacks) -> Result<(Value, Result<()>)> {
    let limit = args.memory_limit_mib.to_string();
    let server = Server::start(&[("NILOMETER_SERVER__MEMORY_LIMIT_MIB", limit.as_str())])?;
    let sender = server.create_key("server", "honest")?;
    let target = Target {
        address: server.address().parse()?,
        browser_key: server.create_key("write", "attacker")?,
        read_token: server.create_key("read", "attacker")?,
    };
    let worker =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let (attacking, asking) = (worker()?, worker()?);
    let before = Held::of(&server)?;
    let load = Generate { rate: args.rate, seconds: args.seconds, users: 100_000 };
    let load = server.load_by(&load, &sender)?;
    let attacks = attacking.block_on(async { kinds::begin(&args.attacks(), &target) });
    let questions = asking.spawn(honest::ask(server.address(), args.queries, args.seconds));
    let (worst, course) = watch(&server, args.seconds)?;
    let asked = asking.block_on(questions)??;
    let sent = load.end()?;
    let attempts = attacking.block_on(attacks.end());
    drop(attacking);
    let (calm, after) = until_calm(&server, &before)?;
    let exact = honest::exact(&server, &sent)?;
    let figures = json!({
        "sent": sent["sent"],
        "acknowledged_ms": sent["acknowledged_ms"],
        "exact": exact,
        "questions": asked,
        "attempts": attempts,
        "worst": worst.json(),
        "course": course,
        "before": before.json(),
        "after": after.json(),
        "calm_after_ms": calm.map(|took| took.as_millis()),
        "server_rss_mib": server.rss_mib()?,
        "peak_rss_mib": server.peak_rss_mib()?,
    });
    let held = held(args, &figures, &worst, calm);
    Ok((figures, held))
}

/// Whether all holds that attacks must leave alone.
fn held(args: &Attacks, figures: &Value, worst: &Held, calm: Option<Duration>) -> Result<()> {
    let mut broken = Vec::new();
    let mut hold = |what: &str, holds: bool| {
        if !holds {
            broken.push(what.to_owned());
        }
    };
    let number = |value: &Value| value.as_f64().unwrap_or(f64::INFINITY);
    let peak_mib = number(&figures["peak_rss_mib"]);
    hold("memory", peak_mib <= f64::from(args.memory_limit_mib) * MEMORY_PERCENT / 100.0);
    hold("descriptors", worst.descriptors * 100 <= worst.descriptors_max * DESCRIPTORS_PERCENT);
    hold("acknowledgements", number(&figures["acknowledged_ms"]["max"]) <= ACKNOWLEDGED_MS);
    hold("exactness", figures["exact"]["counted"] == figures["exact"]["sent"]);
    hold("residual", figures["exact"]["residual"] == 0);
    hold("answers", figures["questions"]["failed"] == json!({}));
    hold("latency", number(&figures["questions"]["latency_ms"]["p99"]) <= ANSWERED_MS);
    hold("calm", calm.is_some());
    ensure!(broken.is_empty(), "did not hold: {}", broken.join(", "));
    Ok(())
}

/// Looks each second until it is over: the worst of it, and what was held every so often.
fn watch(server: &Server, seconds: u32) -> Result<(Held, Vec<Value>)> {
    let bar = indicatif::ProgressBar::new(u64::from(seconds));
    let began = Instant::now();
    let (mut worst, mut course) = (Held::of(server)?, Vec::new());
    while began.elapsed() < Duration::from_secs(u64::from(seconds)) {
        std::thread::sleep(Duration::from_secs(1));
        let second = began.elapsed().as_secs();
        bar.set_position(second);
        let now = Held::of(server)?;
        if second / COURSE_SECONDS > u64::try_from(course.len())? {
            course.push(now.json());
        }
        worst = worst.worst(&now);
    }
    bar.finish_and_clear();
    Ok((worst, course))
}

/// How long bodies, queues and sockets took to be as few as before, `None` beyond the bound; and
/// what was held then.
fn until_calm(server: &Server, before: &Held) -> Result<(Option<Duration>, Held)> {
    let began = Instant::now();
    loop {
        let now = Held::of(server)?;
        let few = now.sockets <= before.sockets + SOCKETS_BESIDE;
        if few && now.bodies_free_bytes >= before.bodies_free_bytes && now.queue_bytes == 0.0 {
            return Ok((Some(began.elapsed()), now));
        }
        if began.elapsed() >= CALM_AFTER {
            return Ok((None, now));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
