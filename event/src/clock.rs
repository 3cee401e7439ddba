//! The house clock: follows wall time forward at once and backward by standing still.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::ReceiveTime;

/// A source of [`ReceiveTime`] that never runs backwards.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The house's now.
    fn now(&self) -> ReceiveTime;

    /// How far wall time last stood behind the house clock, in milliseconds; 0 when they
    /// agree. Above a second it is an alarm.
    fn stands_still_ms(&self) -> u64 {
        0
    }
}

/// The one reader of the wall clock.
#[derive(Debug, Default)]
pub struct HouseClock {
    latest_ms: AtomicI64,
    behind_ms: AtomicU64,
}

impl HouseClock {
    /// From now on never before `floor`: the latest time that the log has seen, so that
    /// receive times do not run backwards over a restart.
    pub fn not_before(&self, floor: ReceiveTime) {
        self.latest_ms.fetch_max(floor.ms(), Ordering::AcqRel);
    }
}

impl Clock for HouseClock {
    fn now(&self) -> ReceiveTime {
        #[expect(clippy::disallowed_methods, reason = "the one sanctioned wall-clock read")]
        let wall = std::time::SystemTime::now();
        let wall_ms = match wall.duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(_before_1970) => 0,
        };
        let before = self.latest_ms.fetch_max(wall_ms, Ordering::AcqRel);
        let behind = before.saturating_sub(wall_ms).max(0);
        self.behind_ms.store(behind.unsigned_abs(), Ordering::Relaxed);
        ReceiveTime::from_ms(before.max(wall_ms))
    }

    fn stands_still_ms(&self) -> u64 {
        self.behind_ms.load(Ordering::Relaxed)
    }
}

/// A clock that a test moves by hand.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// Starts at `now`.
    #[must_use]
    pub const fn new(now: ReceiveTime) -> Self {
        Self(AtomicI64::new(now.ms()))
    }

    /// Moves to `now`; backwards is standing still.
    pub fn set(&self, now: ReceiveTime) {
        self.0.fetch_max(now.ms(), Ordering::AcqRel);
    }

    /// Moves forward.
    pub fn advance_ms(&self, ms: i64) {
        self.0.fetch_add(ms.max(0), Ordering::AcqRel);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> ReceiveTime {
        ReceiveTime::from_ms(self.0.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_house_clock_stands_still_behind_its_floor_and_says_by_how_much() {
        let tomorrow = HouseClock::default().now().plus_ms(86_400_000);
        let clock = HouseClock::default();
        clock.not_before(tomorrow);
        assert_eq!(clock.now(), tomorrow);
        assert!(clock.stands_still_ms() > 86_000_000);
    }
}
