//! One distinct (query, interval): computed, compared and serialised once a tick for all viewers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hashbrown::HashMap;
use nilometer_access::{Problem, Status};
use nilometer_event::clock::Clock;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::{Answer, RowWriter, difference, put_json};
use crate::ask::Ask;
use crate::desk::Desk;
use crate::metrics::QueryMetrics;

/// A frame this young is good enough for a new viewer; an older one is made anew.
const YOUNG: Duration = Duration::from_secs(1);
/// Ids under which one frame's text is kept; viewers of one page all use the same.
const TEXTS_MAX: usize = 16;

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
}

/// What a tick gave.
#[derive(Debug)]
pub(crate) struct Frame {
    /// Grows by one a tick.
    pub(crate) revision: u64,
    /// The rows, or why there are none.
    pub(crate) rows: Result<FrameRows, Problem>,
    made_at: Instant,
}

/// Rows of a tick, as bytes that all viewers share.
#[derive(Debug)]
pub(crate) struct FrameRows {
    answer: Arc<Answer>,
    /// `"revision":…,"columns":…,"rows":…,"meta":…}`
    snapshot: String,
    /// `"revision":…,"from":…,"changed":…,"removed":…,"meta":…}`, where the tick before had rows.
    delta: Option<String>,
    texts: Mutex<Vec<(Kind, String, Utf8Bytes)>>,
}

/// Which of the two messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Snapshot,
    Delta,
}

impl FrameRows {
    fn new(answer: Arc<Answer>, meta: &str, revision: u64, before: Option<&Self>) -> Self {
        let columns_and_rows = String::from_utf8_lossy(&answer.head);
        let snapshot = format!(
            "\"revision\":{revision},{},\"meta\":{meta}}}",
            columns_and_rows.trim_start_matches('{')
        );
        let delta = before.map(|before| delta_text(&before.answer, &answer, meta, revision));
        Self { answer, snapshot, delta, texts: Mutex::default() }
    }

    /// The message under the viewer's id; `None` for a delta where there is none.
    pub(crate) fn text(&self, kind: Kind, id: &str) -> Option<Utf8Bytes> {
        let mut texts = self.texts.lock();
        if let Some((.., text)) = texts.iter().find(|(k, i, _)| *k == kind && i == id) {
            return Some(text.clone());
        }
        let (name, body) = match kind {
            Kind::Snapshot => ("snapshot", &self.snapshot),
            Kind::Delta => ("delta", self.delta.as_ref()?),
        };
        let id_json = serde_json::Value::from(id).to_string();
        let text = Utf8Bytes::from(format!("{{\"type\":\"{name}\",\"id\":{id_json},{body}"));
        if texts.len() < TEXTS_MAX {
            texts.push((kind, id.to_owned(), text.clone()));
        }
        Some(text)
    }
}

fn delta_text(before: &Arc<Answer>, after: &Arc<Answer>, meta: &str, revision: u64) -> String {
    let from = revision - 1;
    let mut out = format!("\"revision\":{revision},\"from\":{from},\"changed\":[").into_bytes();
    let (mut changed, mut removed) = (Vec::new(), Vec::new());
    if !Arc::ptr_eq(before, after) {
        let delta = difference(before, after);
        (changed, removed) = (delta.changed, delta.removed);
    }
    let mut writer = RowWriter::new(&after.columns);
    for (index, row) in changed.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        writer.put_row(row, &mut out);
    }
    out.extend_from_slice(b"],\"removed\":[");
    for (index, row) in removed.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        writer.put_removed(row, &mut out);
    }
    out.extend_from_slice(b"],\"meta\":");
    out.extend_from_slice(meta.as_bytes());
    out.push(b'}');
    String::from_utf8(out).expect("JSON text is UTF-8")
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

    /// Follows a query; the receiver always holds the latest frame, and nothing older.
    ///
    /// # Errors
    ///
    /// 503 `too_many_live_queries` where too many distinct queries are followed already.
    pub(crate) fn follow(
        self: &Arc<Self>,
        ask: Arc<Ask>,
        interval_ms: u64,
    ) -> Result<watch::Receiver<Option<Arc<Frame>>>, Problem> {
        let key = (ask, interval_ms);
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(&key) {
            let mut frames = channel.frames.subscribe();
            let young = |frame: &Arc<Frame>| frame.made_at.elapsed() < YOUNG;
            if frames.borrow().as_ref().is_some_and(young) {
                frames.mark_changed();
            } else {
                channel.wanted.notify_one();
            }
            return Ok(frames);
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
        let channel = Arc::new(Channel { frames: watch::Sender::new(None), wanted: Notify::new() });
        let frames = channel.frames.subscribe();
        // The first frame is made at once.
        channel.wanted.notify_one();
        channels.insert(key.clone(), Arc::clone(&channel));
        self.count(channels.len());
        self.tasks.spawn(Arc::clone(self).run(key, channel));
        Ok(frames)
    }

    /// Ticks until nobody follows or the house stops.
    async fn run(self: Arc<Self>, key: Key, channel: Arc<Channel>) {
        let interval = Duration::from_millis(key.1);
        let opened_before = self.opened.fetch_add(1, Ordering::Relaxed);
        let mut ticks = interval_at(Instant::now() + moment_of(opened_before, interval), interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = channel.wanted.notified() => {}
                () = self.stop.cancelled() => break,
            }
            if self.end_if_unwatched(&key, &channel) {
                return;
            }
            let before = channel.frames.borrow().clone();
            let frame = self.frame(&key.0, before.as_deref()).await;
            channel.frames.send_replace(Some(Arc::new(frame)));
        }
        self.channels.lock().remove(&key);
    }

    async fn frame(&self, ask: &Arc<Ask>, before: Option<&Frame>) -> Frame {
        let revision = before.map_or(1, |before| before.revision + 1);
        let begun = Instant::now();
        let rows = self.desk.answer(ask).await.map(|answer| {
            let took_ms = begun.elapsed().as_secs_f64() * 1e3;
            let mut meta = Vec::with_capacity(512);
            put_json(&answer.meta_at(self.clock.now(), took_ms), &mut meta);
            let before = before.and_then(|before| before.rows.as_ref().ok());
            FrameRows::new(answer, &String::from_utf8_lossy(&meta), revision, before)
        });
        Frame { revision, rows, made_at: Instant::now() }
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
