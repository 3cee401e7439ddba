//! Looks after resident memory: what was freed is given back where the limit is near, and where
//! that is not enough, those who can do with less have less: the stream's layers, what is kept of
//! what was read, connections. What a question reads at once is what there is room for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nilometer_rollups::view::Views;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{allocator, metrics};

/// How often it looks. A flood takes a tenth of the limit in so long.
const LOOK: Duration = Duration::from_millis(100);
const LOOKS_A_SECOND: u32 = 10;
/// From so many percent of the limit on what was freed is given back. It is soon needed again, and
/// each page of it costs a fault then: done sooner, that took an eighth of the processor in a flood.
const NEAR_PERCENT: u64 = 97;
/// Less than so many percent of it are not worth asking for.
const FREED_PERCENT: u64 = 6;
/// From so many percent of the limit on those who can do with less have less.
const TIGHT_PERCENT: u64 = 100;
/// Below so many they have more again.
const EASY_PERCENT: u64 = 95;
/// So many percent of their shares they keep whatever comes.
const PERCENT_MIN: u32 = 50;
/// Of the limit the whole process, with what a question reads: below the 115 that are promised by
/// what comes between two looks.
const READING_PERCENT: u64 = 106;
/// From so many percent of the limit on fewer ids and sessions are hot: these are most of what is
/// held, and cold ones cost the least to whoever waits.
const FULL_PERCENT: u64 = 92;
/// Below so many more of them may be hot again.
const ROOMY_PERCENT: u64 = 86;
/// So many percent of them are hot whatever comes.
const HOT_PERCENT_MIN: u32 = 25;
/// By so many percent fewer are hot after a second: a seal, from which on they are, comes all the
/// half minute, and sooner where layers are full.
const HOT_PERCENT_STEP: u32 = 3;
/// By so many percent of their shares they have more again at a look.
const PERCENT_STEP: u32 = 5;

/// What they may have now, of the whole process as its resident memory is.
static PERCENT: AtomicU32 = AtomicU32::new(100);

/// How many percent of their shares those may have now who can do with less.
pub(crate) fn memory_percent() -> u32 {
    PERCENT.load(Ordering::Relaxed)
}

/// Looks after memory until `stop`; questions may read `read_bytes_max` at once where there is room.
pub(crate) async fn keep(
    limit_bytes: u64,
    read_bytes_max: u64,
    views: Arc<Views>,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let part = move |percent: u64| limit_bytes / 100 * percent;
    let (mut percent, mut hot, mut looks) = (100, 100, 0_u32);
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
        percent = if resident >= part(TIGHT_PERCENT) {
            (percent / 2).max(PERCENT_MIN)
        } else if resident < part(EASY_PERCENT) {
            (percent + PERCENT_STEP).min(100)
        } else {
            percent
        };
        PERCENT.store(percent, Ordering::Relaxed);
        views.allow(percent);
        let room = part(READING_PERCENT).saturating_sub(resident);
        views.allow_reading(read_percent(room, read_bytes_max));
        looks = (looks + 1) % LOOKS_A_SECOND;
        if looks == 0 {
            hot = hot_percent(hot, resident * 100 / limit_bytes.max(1));
            views.keep_hot(hot);
        }
    }
}

/// How many percent of what they may read at once there is room for.
fn read_percent(room_bytes: u64, read_bytes_max: u64) -> u32 {
    let percent = room_bytes.saturating_mul(100) / read_bytes_max.max(1);
    u32::try_from(percent).unwrap_or(u32::MAX).clamp(PERCENT_MIN, 100)
}

/// How many percent of ids and sessions are hot from now on, after a second.
const fn hot_percent(hot: u32, resident_percent: u64) -> u32 {
    match resident_percent {
        FULL_PERCENT.. if hot > HOT_PERCENT_MIN + HOT_PERCENT_STEP => hot - HOT_PERCENT_STEP,
        FULL_PERCENT.. => HOT_PERCENT_MIN,
        ..ROOMY_PERCENT if hot < 100 => hot + 1,
        _ => hot,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_read_at_once_what_there_is_room_for_and_half_of_it_in_any_case() {
        let percents = [200, 97, 73, 50, 0].map(|room| read_percent(room, 97));
        assert_eq!(percents, [100, 100, 75, 51, PERCENT_MIN]);
        assert_eq!((read_percent(0, 0), read_percent(u64::MAX, 1)), (PERCENT_MIN, 100));
    }

    #[test]
    fn fewer_are_hot_while_memory_is_short_and_all_again_once_there_is_room() {
        let after = |seconds: u32, hot: u32, resident_percent: u64| {
            (0..seconds).fold(hot, |hot, _| hot_percent(hot, resident_percent))
        };
        assert_eq!(after(100, 100, 91), 100);
        assert_eq!((after(1, 100, 92), after(10, 100, 120)), (97, 70));
        assert_eq!(after(100, 100, 110), HOT_PERCENT_MIN);
        assert_eq!((after(100, 40, 90), after(10, 40, 80), after(100, 40, 80)), (40, 50, 100));
    }
}
