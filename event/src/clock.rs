//! The house clock: the wall clock where that is believed.
//!
//! It follows wall time forward at once, if that has not jumped by more than 5 minutes, and
//! backward by standing still, or at half speed where that would take more than an hour
//! (`clock/judge.rs`).

mod judge;
pub use judge::{AHEAD_MS_MAX, BEHIND_MS_MAX, STOOD_MS, Standing};

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use self::judge::{Judge, Reading};
use crate::ReceiveTime;

/// A source of [`ReceiveTime`] that never runs backwards.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The house's now.
    fn now(&self) -> ReceiveTime;

    /// How the wall clock stood to it when it was last asked for. Behind by more than a second, or
    /// ahead, is an alarm.
    fn standing(&self) -> Standing {
        Standing::default()
    }

    /// From now on the wall clock is believed, wherever it stands: an operator says so.
    fn follow_wall(&self) {}
}

/// The one reader of the wall clock.
#[derive(Debug, Default)]
pub struct HouseClock(Mutex<Judge>);

impl HouseClock {
    /// From now on never before `floor`: the latest time that the log has seen, so that
    /// receive times do not run backwards over a restart.
    pub fn not_before(&self, floor: ReceiveTime) {
        self.judge().not_before(floor.ms());
    }

    fn judge(&self) -> MutexGuard<'_, Judge> {
        // Nothing in there can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for HouseClock {
    fn now(&self) -> ReceiveTime {
        let mut judge = self.judge();
        // Read under the lock, so that readings come in their order.
        let now_ms = judge.now_ms(read());
        ReceiveTime::from_ms(now_ms)
    }

    fn standing(&self) -> Standing {
        self.judge().standing()
    }

    fn follow_wall(&self) {
        self.judge().believe(read());
    }
}

fn read() -> Reading {
    #[expect(clippy::disallowed_methods, reason = "the one sanctioned wall-clock read")]
    let wall = std::time::SystemTime::now();
    let wall_ms = match wall.duration_since(std::time::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(_before_1970) => 0,
    };
    Reading { wall_ms, steady_ms: steady_ms() }
}

/// Goes on while the machine sleeps, as this one does on Linux and the monotonic one elsewhere.
fn steady_ms() -> i64 {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let steady = rustix::time::ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let steady = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(steady);
    time.tv_sec * 1_000 + time.tv_nsec / 1_000_000
}

/// A clock that a test moves by hand.
#[derive(Debug, Default)]
pub struct ManualClock {
    now_ms: AtomicI64,
    standing: Mutex<Standing>,
}

impl ManualClock {
    /// Starts at `now`.
    #[must_use]
    pub const fn new(now: ReceiveTime) -> Self {
        let standing = Standing { behind_ms: 0, is_slow: false, ahead_ms: 0, follows_in_ms: 0 };
        Self { now_ms: AtomicI64::new(now.ms()), standing: Mutex::new(standing) }
    }

    /// Moves to `now`; backwards is standing still.
    pub fn set(&self, now: ReceiveTime) {
        self.now_ms.fetch_max(now.ms(), Ordering::AcqRel);
    }

    /// Moves forward.
    pub fn advance_ms(&self, ms: i64) {
        self.now_ms.fetch_add(ms.max(0), Ordering::AcqRel);
    }

    /// What it says of a wall clock from now on.
    pub fn stand(&self, standing: Standing) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = standing;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> ReceiveTime {
        ReceiveTime::from_ms(self.now_ms.load(Ordering::Acquire))
    }

    fn standing(&self) -> Standing {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow_wall(&self) {
        self.advance_ms(self.standing().ahead_ms);
        self.stand(Standing::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_house_clock_stays_behind_its_floor_and_says_by_how_much() {
        let now = HouseClock::default().now();
        let clock = HouseClock::default();
        assert_eq!((clock.standing(), clock.now() >= now), (Standing::default(), true));
        let (soon, tomorrow) = (now.plus_ms(1_800_000), now.plus_ms(86_400_000));
        clock.not_before(soon);
        assert_eq!(clock.now(), soon);
        assert!(clock.standing().behind_ms > 1_700_000 && !clock.standing().is_slow);
        clock.not_before(tomorrow);
        assert!(tomorrow <= clock.now() && clock.now() < tomorrow.plus_ms(3_600_000));
        assert!(clock.standing().behind_ms > 86_000_000 && clock.standing().is_slow);
    }
}
