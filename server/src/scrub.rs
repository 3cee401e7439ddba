//! Reads the whole log and the whole base once after a start, unhurried, so that damage is found
//! before somebody needs the bytes: log and base name what they meet. What the disk refuses is no
//! damage: it is not checked, and tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nilometer_event::{Offset, Partition, Topic};
use nilometer_log::{Bounds, Log, ReadError};
use nilometer_rollups::{Checked, CheckedChunk, EmbeddedStore};
use tokio_util::sync::CancellationToken;

/// Bytes read at once, and the pause after them: at most 32 MB/s, below what readers notice.
const STEP_BYTES: usize = 1 << 20;
const PAUSE: Duration = Duration::from_millis(32);

/// What the disk refused is tried again after so long; each further time after twice as long, up
/// to the longest.
const AGAIN: Duration = Duration::from_secs(30);
const AGAIN_MAX: Duration = Duration::from_secs(600);

/// Partitions of topics that the disk refuses to the check.
static LOG_UNCHECKED: AtomicU64 = AtomicU64::new(0);

/// Partitions of topics that are not checked, as the disk refuses to read them.
pub(crate) fn log_unchecked() -> u64 {
    LOG_UNCHECKED.load(Ordering::Relaxed)
}

/// Waits, longer each time; false where `stop` came first.
async fn wait(again: &mut Duration, stop: &CancellationToken) -> bool {
    let wait = std::mem::replace(again, (*again * 2).min(AGAIN_MAX));
    tokio::select! {
        () = stop.cancelled() => false,
        () = tokio::time::sleep(wait) => true,
    }
}

/// Finds the next file of the base behind a name, and checks it.
type Next = fn(&EmbeddedStore, Option<&str>) -> Option<CheckedChunk>;

/// Checks everything that the base holds now, and then whatever the disk refuses to anybody; ends
/// when `stop` is cancelled.
pub(crate) async fn base(store: Arc<EmbeddedStore>, stop: CancellationToken) {
    let (mut next, mut again): (Next, _) = (EmbeddedStore::check_next, AGAIN);
    loop {
        let [good, damaged, refused] = look_over(&store, next, &stop).await;
        if good + damaged + refused > 0 {
            let checked = good + damaged;
            tracing::info!(checked, damaged, not_checked = refused, "files of the base checked");
        }
        if refused == 0 {
            again = AGAIN;
        }
        if !wait(&mut again, &stop).await {
            return;
        }
        next = EmbeddedStore::check_next_refused;
    }
}

/// How many files were found good, damaged, and refused by the disk.
async fn look_over(store: &Arc<EmbeddedStore>, next: Next, stop: &CancellationToken) -> [u64; 3] {
    let (mut after, mut found): (Option<String>, _) = (None, [0; 3]);
    while !stop.is_cancelled() {
        let (store, before) = (Arc::clone(store), after.clone());
        let step = tokio::task::spawn_blocking(move || next(&store, before.as_deref()));
        let Ok(Some(chunk)) = step.await else { break };
        found[match chunk.found {
            Checked::Good => 0,
            Checked::Damaged => 1,
            Checked::Refused => 2,
        }] += 1;
        after = Some(chunk.name);
        let steps = u32::try_from(chunk.bytes.div_ceil(STEP_BYTES as u64)).unwrap_or(u32::MAX);
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(PAUSE.saturating_mul(steps)) => {}
        }
    }
    found
}

/// Checks everything that the log holds now; ends early when `stop` is cancelled.
pub(crate) async fn run(log: Arc<dyn Log>, stop: CancellationToken) {
    let lost_before = log.stats().quarantined_records;
    let mut left: Vec<Part> = Vec::new();
    for topic in Topic::ALL {
        for partition in log.partitions().partitions() {
            let bounds = log.bounds(topic, partition);
            left.push(Part { topic, partition, bounds, is_refused: false });
        }
    }
    let mut again = AGAIN;
    loop {
        let mut refused = Vec::new();
        for part in left {
            tokio::select! {
                () = stop.cancelled() => return,
                rest = check(&log, part) => refused.extend(rest),
            }
        }
        let (lost, not_checked) = (log.stats().quarantined_records - lost_before, refused.len());
        tracing::info!(lost, not_checked, "log checked from its begin to its end");
        if refused.is_empty() || !wait(&mut again, &stop).await {
            return;
        }
        left = refused;
    }
}

/// What is to be checked of one partition of a topic.
struct Part {
    topic: Topic,
    partition: Partition,
    bounds: Bounds,
    /// Whether the disk refused it before.
    is_refused: bool,
}

/// Checks one; returns what the disk refused of it.
async fn check(log: &Arc<dyn Log>, mut part: Part) -> Option<Part> {
    let Part { topic, partition, is_refused, .. } = part;
    while part.bounds.start < part.bounds.end {
        let (reading, at) = (Arc::clone(log), part.bounds.start);
        let step = move || next_after(reading.as_ref(), topic, partition, at);
        match tokio::task::spawn_blocking(step).await {
            Ok(Ok(next)) if next > at => part.bounds.start = next,
            Ok(Ok(_stuck)) => break,
            Ok(Err(error)) => {
                tracing::warn!(%topic, %partition, %error, "log not checked: it is tried again");
                LOG_UNCHECKED.fetch_add(u64::from(!is_refused), Ordering::Relaxed);
                return Some(Part { is_refused: true, ..part });
            }
            Err(_panicked) => break,
        }
        tokio::time::sleep(PAUSE).await;
    }
    LOG_UNCHECKED.fetch_sub(u64::from(is_refused), Ordering::Relaxed);
    None
}

/// Where to read on after one step from `at`.
fn next_after(
    log: &dyn Log,
    topic: Topic,
    partition: Partition,
    at: Offset,
) -> Result<Offset, ReadError> {
    match log.read(topic, partition, at, STEP_BYTES) {
        Ok(fetched) => Ok(fetched.next()),
        // Retention was faster.
        Err(ReadError::BeforeStart { start, .. }) => Ok(start),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use nilometer_event::PartitionCount;
    use nilometer_event::clock::ManualClock;
    use nilometer_log::conformance::batch;
    use nilometer_log::disk::sim::{Fault, Op, SimDisk};
    use nilometer_log::{LogSettings, SegmentLog, Threads};

    use super::*;

    #[tokio::test]
    async fn a_log_that_the_disk_refuses_once_is_not_checked_and_then_it_is() {
        let (disk, topic) = (SimDisk::new(1), Topic::UserEvents);
        let settings = LogSettings {
            threads: Threads::None,
            ..LogSettings::new(PartitionCount::new(1).unwrap())
        };
        let clock = Arc::new(ManualClock::default());
        let opened = SegmentLog::open(Arc::new(disk.clone()), settings, clock);
        let log: Arc<dyn Log> = Arc::new(opened.unwrap());
        // An append waits, which no task of the runtime may.
        let append = || log.append(vec![batch(topic, 0, 1, 5)]).unwrap();
        std::thread::scope(|scope| scope.spawn(append).join().unwrap());
        let partition = Partition::new(0);
        let bounds = log.bounds(topic, partition);
        let whole = Part { topic, partition, bounds, is_refused: false };
        disk.fail_next(Fault::next(Op::Read).for_ever());
        let refused = check(&log, whole).await.unwrap();
        assert_eq!(log_unchecked(), 1);
        let refused = check(&log, refused).await.unwrap();
        assert_eq!(log_unchecked(), 1, "it is one");
        assert_eq!((refused.bounds.start, refused.bounds.end), (bounds.start, bounds.end));
        disk.heal();
        assert!(check(&log, refused).await.is_none());
        assert_eq!(log_unchecked(), 0);
        assert_eq!(log.stats().quarantined_records, 0, "it was no damage");
    }

    #[tokio::test]
    async fn who_waits_longer_each_time_hears_a_stop() {
        let (mut again, stop) = (Duration::from_millis(1), CancellationToken::new());
        for _ in 0..3 {
            assert!(wait(&mut again, &stop).await);
        }
        assert_eq!(again, Duration::from_millis(8));
        again = AGAIN_MAX;
        stop.cancel();
        assert!(!wait(&mut again, &stop).await);
        assert_eq!(again, AGAIN_MAX);
    }
}
