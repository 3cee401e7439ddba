//! The load generator: a synthetic audience against any server, with duplicates, late and
//! invalid events mixed in by seed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use fastrand::Rng;
use nilometer_event::clock::Clock;
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::audience::{Audience, Visit};
use crate::cli::GenerateArgs;
use crate::output;
use crate::progress;
use crate::send::{Answer, Sender};

/// Events kept so that one of them can be sent again.
const REPEATABLE_MAX: usize = 4096;
/// Late events are up to this late.
const LATE_MS_MAX: i64 = 90 * 60_000;
/// Batches whose wait is remembered.
const WAITS_MAX: usize = 1_000_000;
/// Visits under way at once, per event a second; between the two bounds.
const VISITS_PER_RATE: f64 = 30.0;

/// What was sent, as the generator knows it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Tally {
    /// Everything sent, duplicates and invalid events included.
    pub(crate) sent: u64,
    /// Different valid events.
    pub(crate) unique: u64,
    pub(crate) duplicates: u64,
    pub(crate) late: u64,
    pub(crate) invalid: u64,
}

/// Makes bodies of events.
pub(crate) struct Generator {
    audience: Audience,
    rng: Rng,
    run: u64,
    visits: Vec<Visit>,
    next_visit: u64,
    shares: Shares,
    repeatable: VecDeque<Vec<u8>>,
    pub(crate) tally: Tally,
}

/// Shares of what is not the usual event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares {
    pub(crate) duplicates: f64,
    pub(crate) late: f64,
    pub(crate) invalid: f64,
}

impl Generator {
    pub(crate) fn new(users: u32, seed: u64, rate: f64, shares: Shares, run: u64) -> Self {
        let wanted =
            if rate > 0.0 { (rate * VISITS_PER_RATE).clamp(100.0, 200_000.0) } else { 1e5 };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to at most 200,000"
        )]
        let wanted = wanted as usize;
        Self {
            audience: Audience::new(users, seed),
            rng: Rng::with_seed(seed),
            run,
            visits: Vec::with_capacity(wanted),
            next_visit: 0,
            shares,
            repeatable: VecDeque::new(),
            tally: Tally::default(),
        }
    }

    /// Appends one event and a newline.
    pub(crate) fn write(&mut self, now_ms: i64, out: &mut Vec<u8>) {
        self.tally.sent += 1;
        let draw = self.rng.f64();
        if draw < self.shares.duplicates
            && let Some(event) = self.repeat()
        {
            self.tally.duplicates += 1;
            out.extend_from_slice(&event);
            return;
        }
        if draw > 1.0 - self.shares.invalid {
            self.tally.invalid += 1;
            self.write_invalid(out);
            return;
        }
        self.tally.unique += 1;
        let begins_at = out.len();
        let time_ms = if self.rng.f64() < self.shares.late {
            self.tally.late += 1;
            now_ms - self.rng.i64(10_000..LATE_MS_MAX)
        } else {
            // Clients batch: most events are some hundred milliseconds old.
            now_ms - self.rng.i64(0..800)
        };
        self.step(time_ms, out);
        out.push(b'\n');
        if self.shares.duplicates > 0.0 && self.rng.u8(..) < 32 {
            if self.repeatable.len() == REPEATABLE_MAX {
                self.repeatable.pop_front();
            }
            self.repeatable.push_back(out[begins_at..].to_vec());
        }
    }

    fn repeat(&mut self) -> Option<Vec<u8>> {
        if self.repeatable.is_empty() {
            return None;
        }
        let index = self.rng.usize(..self.repeatable.len());
        self.repeatable.swap_remove_back(index)
    }

    fn step(&mut self, time_ms: i64, out: &mut Vec<u8>) {
        if self.visits.len() < self.visits.capacity() {
            let person = self.audience.arrival(time_ms, &mut self.rng);
            self.next_visit += 1;
            self.visits.push(Visit::begin(person, self.next_visit));
        }
        let index = self.rng.usize(..self.visits.len());
        let visit = &mut self.visits[index];
        let step = visit.step(&mut self.rng);
        visit.write(&step, time_ms, self.run, out);
        if step.next_ms.is_none() {
            self.visits.swap_remove(index);
        }
    }

    fn write_invalid(&mut self, out: &mut Vec<u8>) {
        let body: &[u8] = match self.rng.u8(..5) {
            0 => br#"{"event_type":"click","user_id":"u-1","timestamp":"yesterday"}"#,
            1 => br#"{"event_type":"click","timestamp":1700000000000}"#,
            2 => br#"{"event_type":"click","user_id":"u-1","timestamp":1700000000000,"country":7}"#,
            3 => br#"{"event_type":"click","user_id":"u-1","timestamp":1700000000000"#,
            _ => br#"{"user_id":"u-1","timestamp":1700000000000,"completed":"yes"}"#,
        };
        out.extend_from_slice(body);
        out.push(b'\n');
    }
}

/// Runs the generator against a server and prints a tally.
///
/// # Errors
///
/// When the server refuses for good or stays away.
pub(crate) async fn run(args: GenerateArgs, clock: Arc<dyn Clock>) -> Result<()> {
    let sender = Sender::new(&args.target.url, args.target.write_key())?;
    sender.ready(Duration::from_secs(30)).await?;
    let (bodies, receiver) = mpsc::channel(usize::try_from(args.connections)? * 2);
    let connections = usize::try_from(args.connections)?;
    let sending = tokio::spawn(send_all(sender, receiver, connections));
    let began = Instant::now();
    let tally = tokio::task::spawn_blocking(move || make_bodies(&args, clock.as_ref(), &bodies))
        .await
        .context("generate events")?;
    let answered = sending.await.context("send events")??;
    print_tally(&tally, answered, began.elapsed())
}

/// Makes bodies at the asked rate until the end; a full channel is the back-pressure.
fn make_bodies(args: &GenerateArgs, clock: &dyn Clock, bodies: &mpsc::Sender<Bytes>) -> Tally {
    let shares = Shares { duplicates: args.duplicates, late: args.late, invalid: args.invalid };
    let run = clock.now().ms().unsigned_abs() ^ args.seed.rotate_left(32);
    let mut generator = Generator::new(args.users, args.seed, args.rate, shares, run);
    let began_ms = clock.now().ms();
    let body_bytes = usize::try_from(args.body_bytes).unwrap_or(usize::MAX);
    let bar = progress::count("events", args.events);
    let pause = std::sync::mpsc::channel::<()>();
    loop {
        let elapsed_s = seconds_since(began_ms, clock);
        if args.seconds.is_some_and(|limit| elapsed_s >= limit) {
            break;
        }
        let due = due(args, elapsed_s, generator.tally.sent);
        if due == 0 {
            if args.events.is_some_and(|limit| generator.tally.sent >= limit) {
                break;
            }
            // A timed wait on a channel that nobody writes: the thread is the generator's own.
            let _timed_out = pause.1.recv_timeout(Duration::from_millis(5));
            continue;
        }
        let mut body = Vec::with_capacity(body_bytes + 1024);
        let first = generator.tally.sent;
        let now_ms = clock.now().ms();
        while body.len() < body_bytes && generator.tally.sent - first < due {
            generator.write(now_ms, &mut body);
        }
        bar.set_position(generator.tally.sent);
        if bodies.blocking_send(body.into()).is_err() {
            break;
        }
    }
    bar.finish_and_clear();
    generator.tally
}

/// How many events should be made now.
fn due(args: &GenerateArgs, elapsed_s: f64, sent: u64) -> u64 {
    let left = args.events.map_or(u64::MAX, |limit| limit.saturating_sub(sent));
    // A batch holds at most 10,000 events.
    let most = left.min(8_000);
    if args.rate == 0.0 {
        return most;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rate and time are not negative; a float becomes the nearest u64"
    )]
    let wanted = (args.rate * elapsed_s) as u64;
    wanted.saturating_sub(sent).min(most)
}

fn seconds_since(began_ms: i64, clock: &dyn Clock) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of one run")]
    let seconds = (clock.now().ms() - began_ms) as f64 / 1000.0;
    seconds
}

/// What the server answered, over all batches.
#[derive(Debug, Default)]
struct Answered {
    accepted: u64,
    rejected: u64,
    /// From sending a batch to its acknowledgement, tries included; one per batch.
    waits_ms: Vec<f64>,
}

impl Answered {
    fn add(&mut self, (answer, wait): (Answer, Duration)) {
        self.accepted += answer.accepted;
        self.rejected += answer.rejected;
        if self.waits_ms.len() < WAITS_MAX {
            self.waits_ms.push(wait.as_secs_f64() * 1e3);
        }
    }

    /// The nearest-rank quantile of the waits.
    fn wait_ms(&mut self, q: f64) -> Option<f64> {
        self.waits_ms.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index within a bounded list"
        )]
        let rank = ((q * self.waits_ms.len() as f64).ceil() as usize).max(1);
        self.waits_ms.get(rank - 1).copied()
    }
}

async fn send_all(
    sender: Sender,
    mut bodies: mpsc::Receiver<Bytes>,
    connections: usize,
) -> Result<Answered> {
    let permits = Arc::new(Semaphore::new(connections));
    let mut sending = JoinSet::new();
    let mut total = Answered::default();
    while let Some(body) = bodies.recv().await {
        let permit = Arc::clone(&permits).acquire_owned().await.context("wait for a connection")?;
        let sender = sender.clone();
        sending.spawn(async move {
            let began = Instant::now();
            let answer = sender.post("/v1/events", body).await;
            drop(permit);
            answer.map(|answer| (answer, began.elapsed()))
        });
        while let Some(done) = sending.try_join_next() {
            total.add(done.context("send a batch")??);
        }
    }
    while let Some(done) = sending.join_next().await {
        total.add(done.context("send a batch")??);
    }
    Ok(total)
}

fn print_tally(tally: &Tally, mut answered: Answered, took: Duration) -> Result<()> {
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = tally.sent as f64 / took.as_secs_f64();
    let report = serde_json::json!({
        "sent": tally.sent,
        "unique": tally.unique,
        "duplicates": tally.duplicates,
        "late": tally.late,
        "invalid": tally.invalid,
        "accepted": answered.accepted,
        "rejected": answered.rejected,
        "seconds": took.as_secs_f64(),
        "events_per_second": rate.round(),
        "acknowledged_ms": {
            "p50": answered.wait_ms(0.50),
            "p99": answered.wait_ms(0.99),
            "max": answered.wait_ms(1.0),
        },
    });
    output::answer(&format!("{}\n", serde_json::to_string_pretty(&report)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(seed: u64) -> (Tally, String) {
        let shares = Shares { duplicates: 0.02, late: 0.05, invalid: 0.01 };
        let mut generator = Generator::new(500, seed, 1000.0, shares, 9);
        let mut out = Vec::new();
        for index in 0..20_000 {
            generator.write(1_700_000_000_000 + index, &mut out);
        }
        (generator.tally, String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_tally_is_what_stands_in_the_bodies() {
        let (tally, text) = bodies(3);
        let valid: Vec<serde_json::Value> = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(|event: &serde_json::Value| event["event_id"].is_string())
            .collect();
        let ids: std::collections::HashSet<_> =
            valid.iter().map(|event| event["event_id"].as_str().unwrap()).collect();
        assert_eq!(tally.sent, 20_000);
        assert_eq!(tally.unique, ids.len() as u64);
        assert_eq!(tally.duplicates, (valid.len() - ids.len()) as u64);
        assert!(tally.duplicates > 200 && tally.late > 500 && tally.invalid > 100, "{tally:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        assert_eq!(bodies(4).1, bodies(4).1);
        assert_ne!(bodies(4).1, bodies(5).1);
    }
}
