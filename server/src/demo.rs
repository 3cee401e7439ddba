//! `nilometer demo`: a server with a live synthetic audience and a week of history behind it.

use std::collections::BinaryHeap;
use std::cmp::Reverse;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use fastrand::Rng;
use nilometer_event::clock::{Clock, HouseClock};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::audience::{Audience, Visit, rhythm};
use crate::cli::{DemoArgs, Sources};
use crate::config::{self, Secrets};
use crate::send::Sender;
use crate::serve::{self, House};

/// Mean events of a visit; measured over 100,000 of them.
const EVENTS_PER_VISIT: f64 = 7.5;
/// Bytes of a request with history.
const BODY_BYTES: usize = 256 * 1024;
/// Requests with history in flight at once.
const REQUESTS_MAX: usize = 6;
/// How often the live audience sends.
const LIVE_INTERVAL: Duration = Duration::from_millis(200);

/// An audience in motion: visits under way, ordered by when they go on.
struct Motion {
    audience: Audience,
    rng: Rng,
    rate: f64,
    run: u64,
    now_ms: i64,
    next_arrival_ms: i64,
    visits: u64,
    due: BinaryHeap<Reverse<(i64, u64)>>,
    under_way: hashbrown::HashMap<u64, Visit>,
}

impl Motion {
    fn new(args: &DemoArgs, start_ms: i64) -> Self {
        Self {
            audience: Audience::new(args.users, args.seed),
            rng: Rng::with_seed(args.seed),
            rate: args.rate,
            run: start_ms.unsigned_abs(),
            now_ms: start_ms,
            next_arrival_ms: start_ms,
            visits: 0,
            due: BinaryHeap::new(),
            under_way: hashbrown::HashMap::new(),
        }
    }

    /// Moves to `until_ms`, or until `out` holds `bytes_max`; appends what happened as NDJSON.
    /// Returns true once `until_ms` is reached.
    fn advance(&mut self, until_ms: i64, bytes_max: usize, out: &mut Vec<u8>) -> bool {
        loop {
            if out.len() >= bytes_max {
                return false;
            }
            let next_step_ms = self.due.peek().map_or(i64::MAX, |Reverse((time, _))| *time);
            if next_step_ms.min(self.next_arrival_ms) > until_ms {
                self.now_ms = until_ms;
                return true;
            }
            if self.next_arrival_ms <= next_step_ms {
                self.arrive();
            } else if let Some(Reverse((time_ms, number))) = self.due.pop() {
                self.step(time_ms, number, out);
            }
        }
    }

    /// Someone comes; the next one comes after an exponential wait.
    fn arrive(&mut self) {
        let time_ms = self.next_arrival_ms;
        self.visits += 1;
        let person = self.audience.arrival(time_ms, &mut self.rng);
        self.under_way.insert(self.visits, Visit::begin(person, self.visits));
        self.due.push(Reverse((time_ms, self.visits)));
        // The audience as a whole has a milder rhythm than each country: it is spread over
        // the day, so a third of the swing of its middle is left.
        let liveliness = 0.5 + 0.5 * rhythm(time_ms, -1);
        let per_ms = self.rate * liveliness / EVENTS_PER_VISIT / 1000.0;
        let wait_ms = -(1.0 - self.rng.f64()).ln() / per_ms;
        #[expect(clippy::cast_possible_truncation, reason = "a wait of seconds")]
        let wait_ms = wait_ms.min(3.6e6) as i64;
        self.next_arrival_ms = time_ms + wait_ms.max(1);
    }

    fn step(&mut self, time_ms: i64, number: u64, out: &mut Vec<u8>) {
        let Some(visit) = self.under_way.get_mut(&number) else { return };
        let step = visit.step(&mut self.rng);
        visit.write(&step, time_ms, self.run, out);
        out.push(b'\n');
        match step.next_ms {
            Some(pause_ms) => self.due.push(Reverse((time_ms + pause_ms, number))),
            None => drop(self.under_way.remove(&number)),
        }
    }
}

/// Serves the demo until it is interrupted.
///
/// # Errors
///
/// When the server cannot start or history cannot be sent.
pub(crate) fn run(args: DemoArgs) -> Result<()> {
    let folder = match &args.data_dir {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("nilometer-demo-").tempdir()?),
    };
    let data_dir: PathBuf = match (&args.data_dir, &folder) {
        (Some(dir), _) => dir.clone(),
        (None, Some(folder)) => folder.path().to_owned(),
        (None, None) => unreachable!("one of the two is there"),
    };
    let sources =
        Sources { config: None, data_dir: Some(data_dir), listen: Some(args.listen.clone()) };
    let settings = config::load(&sources)?;
    serve::block_on(async move {
        let house = House::start(settings, Secrets::from_environment()).await?;
        let write_key = house.demo_write_key()?;
        announce(&house)?;
        let stop = CancellationToken::new();
        let sender = Sender::new(&house.url(), &write_key)?;
        let audience = tokio::spawn(play(args, sender, stop.clone()));
        house.until_stopped().await;
        stop.cancel();
        if let Err(error) = audience.await.context("stop the audience")? {
            tracing::warn!("audience stopped: {error:#}");
        }
        house.stop().await
    })
}

#[expect(clippy::print_stdout, reason = "the address is the command's answer")]
fn announce(house: &House) -> Result<()> {
    println!("\n  Nilometer's demo is open:  {}\n", house.sign_in_url()?);
    println!("  Its history is on its way in; Ctrl-C ends it.\n");
    Ok(())
}

/// Sends history, then lives.
async fn play(args: DemoArgs, sender: Sender, stop: CancellationToken) -> Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(HouseClock::default());
    let began_ms = clock.now().ms();
    let mut motion = Motion::new(&args, began_ms - i64::from(args.days) * 86_400_000);
    send_history(&mut motion, &sender, &stop, clock.as_ref()).await?;
    let took_s = (clock.now().ms() - began_ms) / 1000;
    tracing::info!(days = args.days, visits = motion.visits, took_s, "history sent");
    let mut tick = tokio::time::interval(LIVE_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        let mut body = Vec::new();
        motion.advance(clock.now().ms(), BODY_BYTES, &mut body);
        if !body.is_empty() {
            sender.post("/v1/events", Bytes::from(body)).await?;
        }
    }
}

/// The days before now, as an import: history moves nobody's watermark.
async fn send_history(
    motion: &mut Motion,
    sender: &Sender,
    stop: &CancellationToken,
    clock: &dyn Clock,
) -> Result<()> {
    let mut sending = JoinSet::new();
    let mut is_done = false;
    while !is_done && !stop.is_cancelled() {
        let mut body = Vec::with_capacity(BODY_BYTES + 1024);
        is_done = motion.advance(clock.now().ms() - 1000, BODY_BYTES, &mut body);
        while sending.len() >= REQUESTS_MAX {
            if let Some(done) = sending.join_next().await {
                done.context("send history")??;
            }
        }
        let sender = sender.clone();
        sending.spawn(async move {
            sender.post("/v1/imports/demo-history/events", Bytes::from(body)).await
        });
    }
    while let Some(done) = sending.join_next().await {
        done.context("send history")??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn a_day_of_the_demo_has_about_the_asked_rate_and_its_events_in_time_order() {
        let cli = Cli::try_parse_from(["nilometer", "demo", "--rate", "0.5"]).unwrap();
        let Command::Demo(args) = cli.command else { panic!("demo was asked") };
        let mut motion = Motion::new(&args, 0);
        let mut out = Vec::new();
        assert!(motion.advance(86_400_000, usize::MAX, &mut out));
        let times: Vec<i64> = String::from_utf8(out)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|event| event["timestamp"].as_i64().unwrap())
            .collect();
        assert!(times.is_sorted());
        #[expect(clippy::cast_precision_loss, reason = "a count of events")]
        let rate = times.len() as f64 / 86_400.0;
        assert!((0.3..0.9).contains(&rate), "{rate} events a second");
    }
}
