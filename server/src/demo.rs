//! `nilometer demo`: a server with a live synthetic audience and a week of history behind it.

mod history;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use fastrand::Rng;
use nilometer_event::clock::{Clock, HouseClock};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::history::History;
use crate::audience::{Audience, Visit, rhythm};
use crate::cli::{DemoArgs, Sources};
use crate::config::{self, Secrets};
use crate::send::Sender;
use crate::serve::{self, House};

/// Mean events of a visit; measured over 488,697 of them.
const EVENTS_PER_VISIT: f64 = 12.0;
const DAY_MS: i64 = 86_400_000;
/// The live audience has been there for this long: longer than anybody stays.
const HEAD_MS: i64 = 6 * 3_600_000;
/// Bytes of a request with history.
const BODY_BYTES: usize = 256 * 1024;
/// Requests with history in flight at once.
const REQUESTS_MAX: usize = 6;
/// How often the live audience sends.
const LIVE_INTERVAL: Duration = Duration::from_millis(200);
/// Shares of live events that a client sends twice, sends only minutes later, or garbles.
const REPEATED: f64 = 0.01;
const HELD_BACK: f64 = 0.005;
const GARBLED: f64 = 0.003;
/// Events that wait in pockets and tunnels at most.
const HELD_BACK_MAX: usize = 1000;

/// Who comes, and how many: with the time of the first arrival this decides every event.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Crowd {
    users: u32,
    rate: f64,
    seed: u64,
}

/// An audience in motion: visits under way, ordered by when they go on.
struct Motion {
    audience: Audience,
    rng: Rng,
    rate: f64,
    run: u64,
    next_arrival_ms: i64,
    /// Nobody comes from here on; who is there goes on.
    last_arrival_ms: i64,
    visits: u64,
    due: BinaryHeap<Reverse<(i64, u64)>>,
    under_way: hashbrown::HashMap<u64, Visit>,
}

impl Motion {
    /// People who come from `start_ms` on and before `end_ms`.
    fn new(crowd: Crowd, start_ms: i64, end_ms: i64) -> Self {
        Self {
            audience: Audience::new(crowd.users, crowd.seed),
            rng: Rng::with_seed(crowd.seed ^ start_ms.unsigned_abs()),
            rate: crowd.rate,
            run: start_ms.unsigned_abs(),
            next_arrival_ms: start_ms,
            last_arrival_ms: end_ms,
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
                return true;
            }
            if self.next_arrival_ms <= next_step_ms {
                self.arrive();
            } else if let Some(Reverse((time_ms, number))) = self.due.pop() {
                self.step(time_ms, number, out);
            }
        }
    }

    /// Moves to `until_ms`; what happened before it is nobody's concern.
    fn skip_to(&mut self, until_ms: i64) {
        let mut unsent = Vec::new();
        while !self.advance(until_ms, BODY_BYTES, &mut unsent) {
            unsent.clear();
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
        if self.next_arrival_ms >= self.last_arrival_ms {
            self.next_arrival_ms = i64::MAX;
        }
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
    let sources = Sources {
        config: None,
        data_dir: Some(data_dir.clone()),
        listen: Some(args.listen.clone()),
    };
    let settings = config::load(&sources)?;
    let is_new = history::is_new(&data_dir);
    serve::block_on(async move {
        let mut house = House::start(settings, Secrets::from_environment()).await?;
        let shown = show(&mut house, &args, &data_dir, is_new).await;
        let stopped = house.stop().await;
        shown.and(stopped)
    })
}

/// Plays the demo in an open house until it is to stop.
async fn show(house: &mut House, args: &DemoArgs, data_dir: &Path, is_new: bool) -> Result<()> {
    let now_ms = HouseClock::default().now().ms();
    let crowd = Crowd { users: args.users, rate: args.rate, seed: args.seed };
    let history = if is_new {
        Some(History::begin(data_dir, crowd, args.days, now_ms)?)
    } else {
        History::read(data_dir)?
    };
    announce(house, history.as_ref()).await?;
    let write_key = house.demo_write_key().await?;
    let stop = CancellationToken::new();
    let sender = Sender::new(&house.url(), &write_key)?;
    let stop_audience = stop.clone();
    let audience = tokio::spawn(async move {
        // A request that is being tried again does not hold the stop up.
        let played = tokio::select! {
            () = stop_audience.cancelled() => return,
            played = play(crowd, history, now_ms, sender, stop_audience.clone()) => played,
        };
        if let Err(error) = played {
            tracing::error!("the audience stopped: {error:#}");
        }
    });
    house.until_stopped().await;
    stop.cancel();
    audience.await.context("stop the audience")
}

async fn announce(house: &mut House, history: Option<&History>) -> Result<()> {
    let address = house.sign_in_url().unwrap_or_else(|| house.url());
    let address = format!("\n  Nilometer's demo is open:  {address}\n");
    let is_coming = history.is_some_and(|history| history.next_chunk().is_some());
    let told = if is_coming { "Its history is on its way in" } else { "It goes on from now" };
    house.greet(&address, "", &format!("\n  {told}; Ctrl-C ends it.\n\n")).await
}

/// What goes wrong between an audience and a server, in small shares.
struct Mishaps {
    rng: Rng,
    /// When it is sent after all, and the event.
    held_back: Vec<(i64, Vec<u8>)>,
}

impl Mishaps {
    fn new(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed), held_back: Vec::new() }
    }

    /// What arrives at `now_ms` of what was sent, an event a line.
    fn befall(&mut self, sent: &[u8], now_ms: i64) -> Vec<u8> {
        let mut out = Vec::with_capacity(sent.len() + 1024);
        self.held_back.retain(|(due_ms, line)| {
            let waits = *due_ms > now_ms;
            if !waits {
                out.extend_from_slice(line);
            }
            waits
        });
        for line in sent.split_inclusive(|byte| *byte == b'\n') {
            let draw = self.rng.f64();
            if draw < GARBLED {
                out.extend_from_slice(&garbled(line));
            } else if draw < GARBLED + HELD_BACK && self.held_back.len() < HELD_BACK_MAX {
                let due_ms = now_ms + self.rng.i64(30_000..20 * 60_000);
                self.held_back.push((due_ms, line.to_vec()));
            } else {
                out.extend_from_slice(line);
                if draw > 1.0 - REPEATED {
                    out.extend_from_slice(line);
                }
            }
        }
        out
    }
}

/// The event as a client would send it that writes its country as a number.
fn garbled(line: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(line)
        .replacen("\"country\":\"", "\"country\":49,\"was\":\"", 1)
        .into_bytes()
}

/// The last hours first, so that the page lives at once; then it goes on living, while the days
/// before are filled in, the newest first. In a folder that has seen a demo before people go on
/// coming from now, and what of its history is missing is filled in.
async fn play(
    crowd: Crowd,
    mut history: Option<History>,
    began_ms: i64,
    sender: Sender,
    stop: CancellationToken,
) -> Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(HouseClock::default());
    let motion = match history.as_mut().filter(|history| history.began_ms() == began_ms) {
        Some(history) => {
            let mut motion = Motion::new(crowd, history.head_ms(), i64::MAX);
            send_history(&mut motion, &sender, &stop, &|| clock.now().ms() - 1000).await?;
            if let Some(head) = history.next_chunk().filter(|_| !stop.is_cancelled()) {
                history.filled(&head)?;
            }
            motion
        }
        None => {
            let going_on = move || {
                let mut motion = Motion::new(crowd, began_ms - HEAD_MS, i64::MAX);
                motion.skip_to(began_ms);
                motion
            };
            tokio::task::spawn_blocking(going_on).await.context("gather the audience")?
        }
    };
    let live = live(motion, sender.clone(), stop.clone(), Arc::clone(&clock), crowd.seed);
    let live = AbortOnDropHandle::new(tokio::spawn(live));
    if let Some(mut history) = history {
        while let Some(chunk) = history.next_chunk().filter(|_| !stop.is_cancelled()) {
            let mut day = Motion::new(history.crowd(), chunk.start, chunk.end);
            let until_ms = history.began_ms();
            send_history(&mut day, &sender, &stop, &|| until_ms).await?;
            if !stop.is_cancelled() {
                history.filled(&chunk)?;
            }
        }
        let took_s = (clock.now().ms() - began_ms) / 1000;
        tracing::info!(took_s, "history sent");
    }
    live.await.context("live audience")?
}

/// Sends what happens as it happens.
async fn live(
    mut motion: Motion,
    sender: Sender,
    stop: CancellationToken,
    clock: Arc<dyn Clock>,
    seed: u64,
) -> Result<()> {
    let mut mishaps = Mishaps::new(seed);
    let mut tick = tokio::time::interval(LIVE_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        let now_ms = clock.now().ms();
        let mut sent = Vec::new();
        motion.advance(now_ms, BODY_BYTES, &mut sent);
        let arrived = mishaps.befall(&sent, now_ms);
        if !arrived.is_empty() {
            sender.post("/v1/events", Bytes::from(arrived)).await?;
        }
    }
}

/// What happens up to `until_ms`, as an import: history moves nobody's watermark.
async fn send_history(
    motion: &mut Motion,
    sender: &Sender,
    stop: &CancellationToken,
    until_ms: &(dyn Fn() -> i64 + Sync),
) -> Result<()> {
    let mut sending = JoinSet::new();
    let mut is_done = false;
    while !is_done && !stop.is_cancelled() {
        let mut body = Vec::with_capacity(BODY_BYTES + 1024);
        is_done = motion.advance(until_ms(), BODY_BYTES, &mut body);
        if body.is_empty() {
            continue;
        }
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
    use super::*;

    fn crowd(rate: f64) -> Crowd {
        Crowd { users: 100_000, rate, seed: 1 }
    }

    #[test]
    fn the_same_stretch_has_the_same_events_in_however_many_pieces() {
        let all = |bytes_max: usize| {
            let mut motion = Motion::new(crowd(1.0), 1_000_000, 1_000_000 + DAY_MS / 4);
            let (mut text, mut piece) = (Vec::new(), Vec::new());
            let mut until_ms = 1_000_000;
            while until_ms < DAY_MS {
                if motion.advance(until_ms, bytes_max, &mut piece) {
                    until_ms += 7_777_777;
                }
                text.append(&mut piece);
            }
            text
        };
        let whole = all(usize::MAX);
        assert!(whole.len() > 1_000_000);
        assert_eq!(all(10_000), whole);
    }

    #[test]
    fn a_day_of_the_demo_has_about_the_asked_rate_and_its_events_in_time_order() {
        let mut motion = Motion::new(crowd(0.5), 0, i64::MAX);
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

    #[test]
    fn who_came_before_the_end_stays_to_the_end_of_the_visit() {
        let mut motion = Motion::new(crowd(2.0), 0, 3_600_000);
        let mut out = Vec::new();
        assert!(motion.advance(DAY_MS, usize::MAX, &mut out));
        assert!(motion.visits > 100 && motion.under_way.is_empty(), "{} visits", motion.visits);
        let times: Vec<i64> = String::from_utf8(out)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|event| event["timestamp"].as_i64().unwrap())
            .collect();
        let last = times.last().copied().unwrap();
        assert!((3_600_000..3_600_000 + HEAD_MS).contains(&last), "{last}");
    }

    #[test]
    fn mishaps_lose_nothing_and_garble_and_repeat_a_few() {
        let mut mishaps = Mishaps::new(1);
        let line = "{\"event_id\":\"1\",\"country\":\"DE\"}\n";
        let sent = line.repeat(10_000);
        let mut arrived = mishaps.befall(sent.as_bytes(), 0);
        let waiting = mishaps.held_back.len();
        assert!((20..100).contains(&waiting), "{waiting} wait");
        arrived.extend(mishaps.befall(b"", 20 * 60_000));
        assert!(mishaps.held_back.is_empty());
        let arrived = String::from_utf8(arrived).unwrap();
        let garbled = arrived.lines().filter(|line| line.contains("\"country\":49")).count();
        assert!((10..60).contains(&garbled), "{garbled} garbled");
        let repeated = arrived.lines().count() - 10_000;
        assert!((50..200).contains(&repeated), "{repeated} repeated");
        assert!(
            arrived.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok())
        );
    }
}
