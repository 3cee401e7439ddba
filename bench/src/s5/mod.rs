//! S-5: what the dashboard asks of 90 days, uncached, beside live events and viewers.
//!
//! The store is made once by the server itself ([`store`]) and kept; each run works on a copy.

mod ask;
mod store;
mod summary;
mod viewers;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::round;
use crate::server::{Generate, Server};
use ask::Pace;
pub(crate) use ask::{Kind, now_ms};
pub(crate) use store::until_folded;
pub(crate) use summary::summary;
use viewers::Viewers;

/// Users of the live load.
const LIVE_USERS: u32 = 1_000_000;
/// From the first viewer and live event to the first query: layers are sealed and folded by then.
const WARM_UP_S: u32 = 70;

#[derive(Args, Clone, Debug)]
pub(crate) struct S5 {
    /// Where the store is kept; made there first, which takes minutes.
    #[arg(long)]
    store: PathBuf,
    #[command(flatten)]
    history: store::History,
    /// Queries a second.
    #[arg(long, default_value_t = 83.0)]
    queries: f64,
    /// How long each kind of query is asked.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Live events a second; 0 for none.
    #[arg(long, default_value_t = 20_000)]
    rate: u32,
    /// WebSocket viewers of the Live page.
    #[arg(long, default_value_t = 500)]
    viewers: usize,
    /// Seconds of live load before the first query.
    #[arg(long, default_value_t = WARM_UP_S)]
    warm_up: u32,
    /// Kinds to ask, of a, b, c, d and e.
    #[arg(long, default_value = "abcde")]
    kinds: String,
    /// Waits for Enter before each kind and names the server's process: for a profiler.
    #[arg(long)]
    hold: bool,
}

pub(crate) fn run(args: &S5) -> Result<Value> {
    let made = store::ensure_made(&args.store, &args.history)?;
    let server = Server::start_on_copy(&args.store, &[])?;
    let figures = measure(args, &server)?;
    let shares = store::shares(&server)?;
    Ok(json!({ "store": made, "share_of_dense_sketches": shares, "measured": figures }))
}

fn measure(args: &S5, server: &Server) -> Result<Value> {
    // Viewers and questions live on a worker each, so that no question waits for what viewers do
    // with their messages; what blocks is done here, outside of them.
    let worker =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let (watching, asking) = (worker()?, worker()?);
    let kinds: Vec<Kind> =
        Kind::ALL.into_iter().filter(|kind| args.kinds.contains(kind.letter())).collect();
    ensure!(!kinds.is_empty(), "--kinds names none of a, b, c, d, e");
    let asked_s = kinds.iter().filter(|kind| !kind.is_slow()).count();
    let asked_s = u32::try_from(asked_s)?.saturating_mul(args.seconds + 1);
    let live = args.rate > 0 || args.viewers > 0;
    let seconds = args.warm_up + asked_s + 30;
    let load = match args.rate {
        0 => None,
        rate => Some(server.load(&Generate { rate, seconds, users: LIVE_USERS })?),
    };
    let viewers = watching.block_on(Viewers::open(&server.address(), args.viewers))?;
    if live {
        std::thread::sleep(Duration::from_secs(u64::from(args.warm_up)));
    }
    let cpu_before_s = server.cpu_s()?;
    let began = std::time::Instant::now();
    viewers.forget();
    let mut answers = serde_json::Map::new();
    for kind in kinds {
        if args.hold {
            hold(server, kind)?;
        }
        let pace = Pace { per_second: args.queries, seconds: args.seconds };
        let (misses, cpu_s) = (uncached(server)?, server.cpu_s()?);
        let mut asked = asking.block_on(ask::ask(&server.address(), kind, pace))?;
        asked["uncached"] = json!(uncached(server)? - misses);
        asked["server_cpu_s"] = json!(round(server.cpu_s()? - cpu_s));
        answers.insert(kind.name().to_owned(), asked);
    }
    let cpu_cores = (server.cpu_s()? - cpu_before_s) / began.elapsed().as_secs_f64();
    let ticks = watching.block_on(viewers.close())?;
    let pipeline = server.get("/v1/pipeline")?;
    let mut figures = json!({
        "queries": answers,
        "server_cores": round(cpu_cores),
        "rss_mib": server.rss_mib()?,
        "peak_rss_mib": server.peak_rss_mib()?,
        "viewers": ticks,
        "load_average": load_average()?,
    });
    if let Some(load) = load {
        let tally = load.end()?;
        figures["live"] = json!({
            "events_per_second": tally["events_per_second"],
            "acknowledged_ms": tally["acknowledged_ms"],
            "freshness_ms": pipeline["freshness_ms"],
        });
    }
    Ok(figures)
}

/// Queries that were computed so far; viewers' ticks are among them.
fn uncached(server: &Server) -> Result<f64> {
    server.metric("nilometer_query_cache_misses_total")
}

#[expect(clippy::print_stderr, reason = "a hint for whoever waits with a profiler")]
fn hold(server: &Server, kind: Kind) -> Result<()> {
    eprintln!("next: {}; the server is process {}; Enter goes on", kind.name(), server.pid());
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

fn load_average() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().context("loadavg")?.parse()?)
}
