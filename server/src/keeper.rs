//! Looks after resident memory: what was freed is given back where the limit is near, and the
//! stream's layers get smaller where that is not enough.

use std::sync::Arc;
use std::time::Duration;

use nilometer_rollups::view::Views;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{allocator, metrics};

/// How often it looks. A flood takes a tenth of the limit in so long.
const LOOK: Duration = Duration::from_millis(100);
/// From so many percent of the limit on what was freed is given back.
const NEAR_PERCENT: u64 = 95;
/// Less than so many percent of it are not worth asking for.
const FREED_PERCENT: u64 = 5;
/// From so many percent of the limit on layers get smaller.
const TIGHT_PERCENT: u64 = 103;
/// Below so many they grow again.
const EASY_PERCENT: u64 = 98;
/// Layers keep so many percent of their share whatever comes: the stream goes on.
const LAYERS_PERCENT_MIN: u32 = 15;
/// By so many percent of their share they grow at a look.
const LAYERS_PERCENT_STEP: u32 = 5;

/// Looks after memory until `stop`.
pub(crate) async fn keep(limit_bytes: u64, views: Arc<Views>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let part = move |percent: u64| limit_bytes / 100 * percent;
    let mut layers_percent = 100;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        let Some(mut resident) = metrics::resident_bytes() else { return };
        if resident >= part(NEAR_PERCENT) {
            let freed = part(FREED_PERCENT);
            let looked = tokio::task::spawn_blocking(move || give_back(freed));
            if looked.await.unwrap_or(false) {
                resident = metrics::resident_bytes().unwrap_or(resident);
            }
        }
        layers_percent = if resident >= part(TIGHT_PERCENT) {
            (layers_percent / 2).max(LAYERS_PERCENT_MIN)
        } else if resident < part(EASY_PERCENT) {
            (layers_percent + LAYERS_PERCENT_STEP).min(100)
        } else {
            layers_percent
        };
        views.allow_layers(layers_percent);
    }
}

/// Gives back what was freed, where it is so much; whether it did.
fn give_back(bytes_min: u64) -> bool {
    let freed = allocator::held().map_or(0, |held| held.freed());
    freed >= bytes_min
        && allocator::give_back()
            .inspect_err(|error| tracing::debug!(%error, "freed memory is not given back"))
            .is_ok()
}
