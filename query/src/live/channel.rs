//! One distinct (query, interval): computed, compared and serialised once a tick for all viewers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hashbrown::HashMap;
use nilometer_access::{Problem, Status};
use nilometer_event::clock::Clock;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::frame::{Delta, Frame, FrameRows};
use super::pace::Pace;
use crate::answer::put_json;
use crate::ask::Ask;
use crate::desk::{Desk, Kept};
use crate::metrics::QueryMetrics;
use crate::turns::{Caller, Length};

/// A frame this young is good enough for a new viewer; an older one is made anew. As long it has
/// its rows in any case, later only while memory lasts.
const YOUNG: Duration = Duration::from_secs(1);
/// Differences of answers with more rows are long work.
const SHORT_ROWS_MAX: usize = 10_000;

/// All channels that have viewers.
#[derive(Debug)]
pub(crate) struct Hub {
    desk: Arc<Desk>,
    clock: Arc<dyn Clock>,
    channels_max: usize,
    channels: Mutex<HashMap<Key, Arc<Channel>>>,
    /// Channels opened so far: each ticks at another moment of its interval.
    opened: AtomicU32,
    tasks: TaskTracker,
    stop: CancellationToken,
    metrics: QueryMetrics,
}

type Key = (Arc<Ask>, u64);

/// One distinct (query, interval).
#[derive(Debug)]
struct Channel {
    frames: watch::Sender<Option<Arc<Frame>>>,
    /// Asks for a frame before its time: a new viewer has come.
    wanted: Notify,
    followers: Mutex<Followers>,
}

/// Who follows, by key: the connection that came first, and how many there are. A frame is made
/// in the turn of whichever comes first, so that a crowd of queries slows nobody who shares one.
#[derive(Debug, Default)]
struct Followers(Vec<(Caller, usize)>);

impl Followers {
    fn add(&mut self, caller: &Caller) {
        match self.0.iter_mut().find(|(own, _)| own.key == caller.key) {
            Some((_, count)) => *count += 1,
            None => self.0.push((caller.clone(), 1)),
        }
    }

    fn remove(&mut self, key: &str) {
        if let Some((_, count)) = self.0.iter_mut().find(|(own, _)| *own.key == *key) {
            *count -= 1;
        }
        self.0.retain(|(_, count)| *count > 0);
    }
}

/// A viewer's end of a channel: the latest frame, and nothing older.
#[derive(Debug)]
pub(super) struct Following {
    pub(super) frames: watch::Receiver<Option<Arc<Frame>>>,
    channel: Arc<Channel>,
    key: Arc<str>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.channel.followers.lock().remove(&self.key);
    }
}

/// The moment of its interval at which the `n`-th channel ticks.
///
/// A page follows a dozen queries within milliseconds: computed and sent at one moment of each
/// second, they would keep whoever asks just then waiting for all of them.
///
/// Multiples of the golden ratio spread however many there are evenly (Knuth, The Art of
/// Computer Programming 3, 6.4).
fn moment_of(n: u32, interval: Duration) -> Duration {
    /// 2^32 divided by the golden ratio.
    const STEP: u32 = 2_654_435_769;
    let fraction = n.wrapping_add(1).wrapping_mul(STEP);
    interval.mul_f64((f64::from(fraction) + 1.0) / (f64::from(u32::MAX) + 1.0))
}

impl Hub {
    pub(crate) fn new(
        desk: Arc<Desk>,
        clock: Arc<dyn Clock>,
        channels_max: usize,
        tasks: TaskTracker,
        stop: CancellationToken,
        metrics: QueryMetrics,
    ) -> Self {
        let (channels, opened) = (Mutex::default(), AtomicU32::new(0));
        Self { desk, clock, channels_max, channels, opened, tasks, stop, metrics }
    }

    /// Follows a query.
    ///
    /// # Errors
    ///
    /// 503 `too_many_live_queries` where too many distinct queries are followed already.
    pub(super) fn follow(
        self: &Arc<Self>,
        caller: &Caller,
        ask: Arc<Ask>,
        interval_ms: u64,
    ) -> Result<Following, Problem> {
        let key = (ask, interval_ms);
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(&key) {
            let mut following = channel.followed_by(caller);
            let young = |frame: &Arc<Frame>| frame.made_at.elapsed() < YOUNG;
            if following.frames.borrow().as_ref().is_some_and(young) {
                following.frames.mark_changed();
            } else {
                channel.wanted.notify_one();
            }
            return Ok(following);
        }
        if channels.len() >= self.channels_max {
            return Err(Problem::new(
                Status::Unavailable,
                "too_many_live_queries",
                "too many distinct live queries",
                format!("{} are followed already; try again", self.channels_max),
            )
            .after(Duration::from_secs(5)));
        }
        let channel = Arc::new(Channel {
            frames: watch::Sender::new(None),
            wanted: Notify::new(),
            followers: Mutex::default(),
        });
        let following = channel.followed_by(caller);
        // The first frame is made at once.
        channel.wanted.notify_one();
        channels.insert(key.clone(), Arc::clone(&channel));
        self.count(channels.len());
        self.tasks.spawn(Arc::clone(self).run(key, channel));
        Ok(following)
    }

    /// Ticks until nobody follows or the house stops.
    async fn run(self: Arc<Self>, key: Key, channel: Arc<Channel>) {
        let interval = Duration::from_millis(key.1);
        let opened_before = self.opened.fetch_add(1, Ordering::Relaxed);
        let mut pace = Pace::of(interval, &self.metrics.live_slowed);
        let mut next = Instant::now() + moment_of(opened_before, interval);
        // The rows of a young frame.
        let mut young: Option<Arc<Kept>> = None;
        let mut young_until = next;
        loop {
            tokio::select! {
                () = sleep_until(next) => next += pace.interval(),
                () = channel.wanted.notified() => {}
                () = sleep_until(young_until), if young.is_some() => {
                    young = None;
                    continue;
                }
                () = self.stop.cancelled() => break,
            }
            if self.end_if_unwatched(&key, &channel) {
                return;
            }
            drop(young.take());
            let begun = Instant::now();
            let made = self.make(&channel, &key.0).await;
            match &made {
                Ok(_) => pace.after(Some(begun.elapsed())),
                Err(problem) if is_busy(problem) => pace.after(None),
                // What is wrong is so at any pace.
                Err(_) => {}
            }
            young = self.publish(&channel, made, &pace);
            young_until = Instant::now() + YOUNG;
            // What was missed is not made up for.
            if next < Instant::now() {
                next = Instant::now() + pace.interval();
            }
        }
        self.channels.lock().remove(&key);
    }

    /// Shows what was made to all who follow; the rows, which it alone does not hold.
    fn publish(
        &self,
        channel: &Channel,
        made: Result<(FrameRows, Arc<Kept>), Problem>,
        pace: &Pace,
    ) -> Option<Arc<Kept>> {
        let before = channel.frames.borrow().clone();
        let revision = before.as_ref().map_or(1, |before| before.revision + 1);
        let (interval, made_at) = (pace.interval(), Instant::now());
        let (frame, kept) = match made {
            Ok((rows, kept)) => {
                (Frame { revision, rows: Ok(Arc::new(rows)), interval, made_at }, Some(kept))
            }
            // What is there stays for a while longer.
            Err(problem) if is_busy(&problem) => {
                self.metrics.live_postponed.inc();
                match before.as_deref() {
                    Some(before) => (Frame { interval, ..before.clone() }, None),
                    None => (Frame { revision, rows: Err(problem), interval, made_at }, None),
                }
            }
            Err(problem) => (Frame { revision, rows: Err(problem), interval, made_at }, None),
        };
        channel.frames.send_replace(Some(Arc::new(frame)));
        kept
    }

    async fn make(
        &self,
        channel: &Channel,
        ask: &Arc<Ask>,
    ) -> Result<(FrameRows, Arc<Kept>), Problem> {
        let callers: Vec<Caller> =
            channel.followers.lock().0.iter().map(|(caller, _)| caller.clone()).collect();
        let caller = self.desk.first_of(&callers);
        let caller = caller.ok_or_else(|| Problem::internal("nobody follows"))?;
        let begun = Instant::now();
        let before = channel.frames.borrow().clone();
        let revision = before.as_ref().map_or(1, |before| before.revision + 1);
        let mut before = before.and_then(|before| before.rows.as_ref().ok()?.kept());
        let kept = match self.desk.answer(caller, ask).await {
            // Without what it would be compared with there may be room for it.
            Err(problem) if is_busy(&problem) && before.take().is_some() => {
                self.desk.answer(caller, ask).await?
            }
            answered => answered?,
        };
        let bytes_max = self.desk.budget().key_max();
        if kept.bytes > bytes_max {
            return Err(too_large(&kept, bytes_max));
        }
        let took_ms = begun.elapsed().as_secs_f64() * 1e3;
        let mut meta = Vec::with_capacity(512);
        put_json(&kept.meta_at(self.clock.now(), took_ms), &mut meta);
        let meta = Bytes::from(meta);
        let delta = match before {
            Some(before) => self.delta(caller, before, &kept, &meta, revision).await?,
            None => None,
        };
        Ok((FrameRows::new(&kept, meta, revision, delta), kept))
    }

    /// What changed, where that is less than the whole and there is memory for it.
    async fn delta(
        &self,
        caller: &Caller,
        before: Arc<Kept>,
        after: &Arc<Kept>,
        meta: &Bytes,
        revision: u64,
    ) -> Result<Option<Delta>, Problem> {
        let (after, meta) = (Arc::clone(after), meta.clone());
        let text = if Arc::ptr_eq(&before, &after) {
            Delta::text(&before, &after, &meta, revision)
        } else {
            let is_long = before.rows.len().max(after.rows.len()) > SHORT_ROWS_MAX;
            let length = if is_long { Length::Long } else { Length::Short };
            let turn = self.desk.turn(caller, length).await?;
            turn.run(move || Delta::text(&before, &after, &meta, revision)).await?
        };
        Ok(text.and_then(|text| Delta::held(text, &caller.key, self.desk.budget())))
    }

    /// Removes a channel that nobody follows. Followers come under the same lock.
    fn end_if_unwatched(&self, key: &Key, channel: &Channel) -> bool {
        let mut channels = self.channels.lock();
        let unwatched = channel.frames.receiver_count() == 0;
        if unwatched {
            channels.remove(key);
            self.count(channels.len());
        }
        unwatched
    }

    fn count(&self, channels: usize) {
        self.metrics.live_queries.set(i64::try_from(channels).unwrap_or(i64::MAX));
    }
}

impl Channel {
    fn followed_by(self: &Arc<Self>, caller: &Caller) -> Following {
        self.followers.lock().add(caller);
        let (frames, key) = (self.frames.subscribe(), Arc::clone(&caller.key));
        Following { frames, channel: Arc::clone(self), key }
    }
}

/// Whether there was no room, which passes.
fn is_busy(problem: &Problem) -> bool {
    problem.code == "busy"
}

/// What has no room even alone is not followed.
fn too_large(kept: &Kept, bytes_max: usize) -> Problem {
    let mib = |bytes: usize| bytes.div_ceil(1 << 20);
    let (rows, bytes, bytes_max) = (kept.rows.len(), mib(kept.bytes), mib(bytes_max));
    Problem::new(
        Status::BadRequest,
        "too_many_rows",
        "the query has too many rows",
        format!(
            "its {rows} rows take {bytes} MiB, and a live answer at most {bytes_max}; follow fewer \
             (limit), or ask GET /v1/query now and then"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_tick_far_apart_however_many_there_are() {
        let interval = Duration::from_millis(1_000);
        for channels in [2, 12, 100] {
            let mut moments: Vec<Duration> =
                (0..channels).map(|n| moment_of(n, interval)).collect();
            moments.sort_unstable();
            assert!(moments[moments.len() - 1] <= interval);
            let around = moments[0] + interval;
            moments.push(around);
            let closest = moments.windows(2).map(|pair| pair[1] - pair[0]).min();
            // An even spread would leave 1 / channels; the golden ratio leaves over a third of it.
            assert!(closest > Some(interval / channels / 3), "{channels}: {closest:?}");
        }
    }
}
