//! Whoever looks after the house clock: what is said where it and the wall clock disagree.

use std::sync::Arc;
use std::time::Duration;

use nilometer_event::ReceiveTime;
use nilometer_event::clock::{Clock, HouseClock, STOOD_MS, Standing};
use tokio_util::sync::CancellationToken;

/// How often the clock is looked at, so that it sees a jump even where nothing else happens.
const LOOK: Duration = Duration::from_secs(1);

/// What to do about a log that the wall clock has not reached.
pub(crate) const MEND_LOG_AHEAD: &str = "if the wall clock is wrong, set it and restart; if it is \
    right, another clock ran ahead before: live events count at the house clock's time, which \
    goes at half speed until the wall clock has caught up; for true dates stop the server and \
    restore a backup from before";

/// What to do about a wall clock that jumped.
pub(crate) const MEND_JUMP: &str = "if the wall clock is wrong, set it right; if it is right, POST \
    /v1/clock/follow with an admin token, or wait: it is followed once it has stood there for 10 \
    minutes";

/// Says so where the log, up to `latest`, is far ahead of the wall clock at the start.
pub(crate) fn tell_of_log(clock: &dyn Clock, latest: ReceiveTime) {
    let now = clock.now();
    let Standing { is_slow, behind_ms, .. } = clock.standing();
    if is_slow {
        let wall = now.plus_ms(-behind_ms);
        let ahead = spoken(behind_ms);
        tracing::error!(%latest, %wall, ahead, "the log is ahead of the wall clock: {MEND_LOG_AHEAD}");
    }
}

/// Looks at the clock until `stop`, and says what changed.
pub(crate) async fn watch(clock: Arc<HouseClock>, stop: CancellationToken) {
    let mut before = clock.standing();
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let now = clock.now();
        let standing = clock.standing();
        tell(before, standing, now);
        before = standing;
    }
}

fn tell(before: Standing, standing: Standing, now: ReceiveTime) {
    let (was_ahead, is_ahead) = (before.ahead_ms > 0, standing.ahead_ms > 0);
    let wall = now.plus_ms(standing.ahead_ms - standing.behind_ms);
    if is_ahead && !was_ahead {
        let jumped = spoken(standing.ahead_ms);
        tracing::error!(%now, %wall, jumped, "the wall clock jumped ahead and is not followed: {MEND_JUMP}");
    }
    if was_ahead && !is_ahead {
        let minutes = STOOD_MS / 60_000;
        tracing::info!(%now, %wall, "the wall clock is back, stood still for {minutes} min, or was said to be right");
    }
    if standing.is_slow && !before.is_slow {
        let behind = spoken(standing.behind_ms);
        tracing::error!(%now, %wall, behind, "the wall clock was set back by more than an hour: {MEND_LOG_AHEAD}");
    }
    if before.is_slow && !standing.is_slow {
        tracing::info!(%now, "the house clock is the wall clock again");
    }
}

/// A length of time as people say it: its two largest units.
pub(crate) fn spoken(ms: i64) -> String {
    let seconds = ms.unsigned_abs() / 1_000;
    let units = [("d", seconds / 86_400), ("h", seconds / 3_600 % 24), ("min", seconds / 60 % 60)];
    let units = units.into_iter().chain([("s", seconds % 60)]);
    let told: Vec<String> = units
        .skip_while(|(_, count)| *count == 0)
        .take(2)
        .filter(|(_, count)| *count > 0)
        .map(|(unit, count)| format!("{count} {unit}"))
        .collect();
    if told.is_empty() { "0 s".to_owned() } else { told.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_said_by_its_two_largest_units() {
        for (ms, said) in [
            (0, "0 s"),
            (999, "0 s"),
            (61_000, "1 min 1 s"),
            (3_600_000, "1 h"),
            (-3_660_000, "1 h 1 min"),
            (86_400_000 * 100 + 1_000, "100 d"),
        ] {
            assert_eq!(spoken(ms), said);
        }
    }
}
