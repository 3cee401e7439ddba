//! Measures the whole house: the release binary under its own load generator.
//!
//! `cargo build --release && cargo run --release -p nilometer-bench -- s1`. Prints one line for
//! `bench/RESULTS.md` with commit, machine and command, and the raw figures as JSON.

#![expect(clippy::print_stdout, reason = "the figures are the answer")]
#![expect(clippy::disallowed_methods, reason = "a benchmark measures wall time and waits")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod attacks;
mod s5;
mod server;
mod top;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use serde_json::{Value, json};

use crate::server::{Generate, Server};

#[derive(Debug, Parser)]
#[command(about = "Measures the whole house; build with --release first")]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Clone, Debug, Subcommand)]
enum Bench {
    /// S-1: as many events a second as go, 1 M users; rate and the server's CPU per event.
    S1 {
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// S-3: 50,000 events a second; acknowledgement and freshness.
    S3 {
        #[arg(long, default_value_t = 50_000)]
        rate: u32,
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// S-4: resident memory and steps of the fold at a rate, with so many ids hot before.
    S4(S4),
    /// S-5: the dashboard's queries on 90 days, beside live events and viewers.
    S5(s5::S5),
    /// S-6: restart after kill -9 with this many events since the last checkpoint.
    S6 {
        #[arg(long, default_value_t = 10_000_000)]
        events: u64,
    },
    /// Top lists over many values of a day: latency and memory.
    Top(top::Top),
    /// All attacks at once, beside honest senders and readers.
    Attacks(attacks::Attacks),
}

#[derive(Clone, Debug, clap::Args)]
struct S4 {
    #[arg(long, default_value_t = 50_000)]
    rate: u32,
    #[arg(long, default_value_t = 600)]
    seconds: u32,
    #[arg(long, default_value_t = 20_000_000)]
    ids: u64,
    /// What lets so many ids be hot (docs/operations.md).
    #[arg(long, default_value_t = 830)]
    memory_limit_mib: u32,
}

fn main() -> Result<()> {
    let mut held = Ok(());
    let figures = match Cli::parse().bench {
        Bench::S1 { seconds } => s1(seconds)?,
        Bench::S3 { rate, seconds } => s3(rate, seconds)?,
        Bench::S4(args) => s4(&args)?,
        Bench::S5(args) => s5::run(&args)?,
        Bench::S6 { events } => s6(events)?,
        Bench::Top(args) => top::run(&args)?,
        Bench::Attacks(args) => {
            let (figures, all) = attacks::run(&args)?;
            held = all;
            figures
        }
    };
    let command: Vec<String> = std::env::args().skip(1).collect();
    println!(
        "| {} | `{}` | {} | {figures} |",
        server::commit()?,
        command.join(" "),
        server::machine()?
    );
    held
}

/// Waits until all is folded; returns how long that took and the pipeline.
fn drain(server: &Server) -> Result<(Duration, Value)> {
    let began = Instant::now();
    loop {
        let pipeline = server.get("/v1/pipeline")?;
        if pipeline["totals"]["in_flight"] == 0 {
            ensure!(pipeline["residual"] == 0, "residual: {pipeline}");
            return Ok((began.elapsed(), pipeline));
        }
        ensure!(began.elapsed() < Duration::from_secs(300), "never drains: {pipeline}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Under which S-1 and S-3 run; the default limit is for a small load.
const MEMORY_LIMIT: (&str, &str) = ("NILOMETER_SERVER__MEMORY_LIMIT_MIB", "1024");

fn s1(seconds: u32) -> Result<Value> {
    let server = Server::start(&[MEMORY_LIMIT])?;
    let before_s = server.cpu_s()?;
    let tally = server.generate(&Generate { rate: 0, seconds, users: 1_000_000 })?;
    let (drain, pipeline) = drain(&server)?;
    let cpu_s = server.cpu_s()? - before_s;
    let sent = tally["sent"].as_u64().context("sent")?;
    let received = pipeline["totals"]["received"].as_u64().context("received")?;
    ensure!(received == sent, "{received} received of {sent} sent");
    Ok(json!({
        "events_per_second": tally["events_per_second"],
        "server_cpu_us_per_event": round(cpu_s * 1e6 / sent as f64),
        "drain_ms": drain.as_millis(),
        "events": sent,
        "rss_mib": server.rss_mib()?,
        "peak_rss_mib": server.peak_rss_mib()?,
        "acknowledged_ms": tally["acknowledged_ms"],
    }))
}

fn s3(rate: u32, seconds: u32) -> Result<Value> {
    let server = Server::start(&[MEMORY_LIMIT])?;
    let before_s = server.cpu_s()?;
    let tally = server.generate(&Generate { rate, seconds, users: 1_000_000 })?;
    let pipeline = server.get("/v1/pipeline")?;
    let cpu_s = server.cpu_s()? - before_s;
    drain(&server)?;
    Ok(json!({
        "events_per_second": tally["events_per_second"],
        "freshness_ms": pipeline["freshness_ms"],
        "acknowledged_ms": tally["acknowledged_ms"],
        "server_cpu_us_per_event": round(cpu_s * 1e6 / tally["sent"].as_f64().context("sent")?),
        "rss_mib": server.rss_mib()?,
    }))
}

fn s4(args: &S4) -> Result<Value> {
    let limit = args.memory_limit_mib.to_string();
    let server = Server::start(&[(MEMORY_LIMIT.0, limit.as_str())])?;
    server.generate_events(args.ids, 1_000_000)?;
    drain(&server)?;
    let filled = server.rss_mib()?;
    let before = [steps(&server, STEPS_TOOK)?, steps(&server, STEPS_WORKED)?];
    server.forget_peak()?;
    let &S4 { rate, seconds, .. } = args;
    let tally = server.generate(&Generate { rate, seconds, users: 1_000_000 })?;
    let (rss, peak) = (server.rss_mib()?, server.peak_rss_mib()?);
    let [took, worked] = &before;
    let took = steps_since(took, steps(&server, STEPS_TOOK)?);
    let worked = steps_since(worked, steps(&server, STEPS_WORKED)?);
    drain(&server)?;
    Ok(json!({
        "events_per_second": tally["events_per_second"],
        "events": tally["sent"],
        "ids_before": args.ids,
        "filled_rss_mib": filled,
        "rss_mib": rss,
        "peak_rss_mib": peak,
        "steps_up_to_seconds": took,
        "steps_worked_up_to_seconds": worked,
        "acknowledged_ms": tally["acknowledged_ms"],
    }))
}

/// Steps of the fold from begin to end, and the processor time of their shard.
const STEPS_TOOK: &str = "nilometer_stream_step_seconds";
const STEPS_WORKED: &str = "nilometer_stream_step_cpu_seconds";

/// Steps by the bound in seconds that they kept to.
type Steps = BTreeMap<String, u64>;

fn steps_since(before: &Steps, now: Steps) -> Steps {
    let since = |(bound, count)| {
        let earlier = before.get(&bound).unwrap_or(&0);
        (bound, count - earlier)
    };
    now.into_iter().map(since).collect()
}

/// How many steps of the fold kept to each bound of `metric`.
fn steps(server: &Server, metric: &str) -> Result<Steps> {
    let metrics = server.get_text("/metrics")?;
    let buckets = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(metric)?.strip_prefix("_bucket{le=\"")?;
        let (bound, count) = rest.split_once("\"} ")?;
        Some((bound.to_owned(), count.trim().parse().ok()?))
    });
    let buckets: Steps = buckets.collect();
    ensure!(!buckets.is_empty(), "no steps in {metrics}");
    Ok(buckets)
}

fn s6(events: u64) -> Result<Value> {
    let mut server = Server::start(&[("NILOMETER_STREAM__CHECKPOINT_INTERVAL_S", "3600")])?;
    server.generate_events(events, 1_000_000)?;
    drain(&server)?;
    let full = server.kill_and_time_restart()?;
    let (_, pipeline) = drain(&server)?;
    let received = pipeline["totals"]["received"].as_u64().context("received")?;
    ensure!(received >= events, "{received} of {events} are there");
    server.terminate()?;
    let clean = server.time_start()?;
    Ok(json!({
        "ready_after_kill_ms": full.as_millis(),
        "ready_after_clean_stop_ms": clean.as_millis(),
        "events": events,
        "rss_mib": server.rss_mib()?,
    }))
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
