//! Reads the whole log and the whole base once after a start, unhurried, so that damage is found
//! before somebody needs the bytes: log and base name what they meet.

use std::sync::Arc;
use std::time::Duration;

use nilometer_event::{Offset, Partition, Topic};
use nilometer_log::{Log, ReadError};
use nilometer_rollups::EmbeddedStore;
use tokio_util::sync::CancellationToken;

/// Bytes read at once, and the pause after them: at most 32 MB/s, below what readers notice.
const STEP_BYTES: usize = 1 << 20;
const PAUSE: Duration = Duration::from_millis(32);

/// Checks everything that the base holds now; ends early when `stop` is cancelled.
pub(crate) async fn base(store: Arc<EmbeddedStore>, stop: CancellationToken) {
    let (mut after, mut checked, mut damaged) = (None, 0, 0);
    while !stop.is_cancelled() {
        let (store, before) = (Arc::clone(&store), after.clone());
        let step = tokio::task::spawn_blocking(move || store.check_next(before.as_deref()));
        let Ok(Some(chunk)) = step.await else { break };
        checked += 1;
        damaged += u64::from(!chunk.is_good);
        after = Some(chunk.name);
        let steps = u32::try_from(chunk.bytes.div_ceil(STEP_BYTES as u64)).unwrap_or(u32::MAX);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE.saturating_mul(steps)) => {}
        }
    }
    tracing::info!(checked, damaged, "files of the base checked");
}

/// Checks everything that the log holds now; ends early when `stop` is cancelled.
pub(crate) async fn run(log: Arc<dyn Log>, stop: CancellationToken) {
    let lost_before = log.stats().quarantined_records;
    for topic in Topic::ALL {
        for partition in log.partitions().partitions() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = check(&log, topic, partition) => {}
            }
        }
    }
    let lost = log.stats().quarantined_records - lost_before;
    tracing::info!(lost, "log checked from its begin to its end");
}

async fn check(log: &Arc<dyn Log>, topic: Topic, partition: Partition) {
    let bounds = log.bounds(topic, partition);
    let mut at = bounds.start;
    while at < bounds.end {
        let reading = Arc::clone(log);
        let step = move || next_after(reading.as_ref(), topic, partition, at);
        match tokio::task::spawn_blocking(step).await {
            Ok(Ok(next)) if next > at => at = next,
            Ok(Ok(_stuck)) => return,
            Ok(Err(error)) => {
                return tracing::warn!(%topic, %partition, %error, "log could not be checked");
            }
            Err(_panicked) => return,
        }
        tokio::time::sleep(PAUSE).await;
    }
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
