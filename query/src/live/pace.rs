//! How often a channel ticks: as asked, or as often as it can.

use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;

use super::INTERVAL_MS_MAX;

/// No channel is slowed beyond that.
const SLOWEST: Duration = Duration::from_millis(INTERVAL_MS_MAX);
/// A channel is slowed after so many frames in a row that took longer than its interval, for one
/// may be somebody's backup.
const LATE_MAX: u32 = 2;
/// It is quickened after so many in a row that took less than a quarter of it.
const EARLY_MAX: u32 = 2;

/// The pace of one channel.
#[derive(Debug)]
pub(super) struct Pace {
    asked: Duration,
    now: Duration,
    late: u32,
    early: u32,
    /// Counts it while it is slower than asked.
    slowed: Gauge,
}

impl Pace {
    pub(super) fn of(asked: Duration, slowed: &Gauge) -> Self {
        Self { asked, now: asked, late: 0, early: 0, slowed: slowed.clone() }
    }

    pub(super) const fn interval(&self) -> Duration {
        self.now
    }

    /// After a frame that took so long, from when it was due, its turn included; or that could not
    /// be made at all for want of room.
    pub(super) fn after(&mut self, took: Option<Duration>) {
        let was_slowed = self.is_slowed();
        match took {
            Some(took) if took <= self.now => {
                self.late = 0;
                self.early = if took <= self.now / 4 { self.early + 1 } else { 0 };
            }
            Some(_) => (self.late, self.early) = (self.late + 1, 0),
            None => (self.late, self.early) = (LATE_MAX, 0),
        }
        if self.late >= LATE_MAX {
            self.late = 0;
            self.now = (self.now * 2).min(SLOWEST);
        } else if self.early >= EARLY_MAX {
            self.early = 0;
            self.now = (self.now / 2).max(self.asked);
        }
        match (was_slowed, self.is_slowed()) {
            (false, true) => drop(self.slowed.inc()),
            (true, false) => drop(self.slowed.dec()),
            _ => {}
        }
    }

    fn is_slowed(&self) -> bool {
        self.now > self.asked
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        if self.is_slowed() {
            self.slowed.dec();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_cannot_keep_up_is_slowed_and_quickened_again_once_it_can() {
        let slowed = Gauge::default();
        let mut pace = Pace::of(SECOND, &slowed);
        pace.after(Some(2 * SECOND));
        assert_eq!((pace.interval(), slowed.get()), (SECOND, 0), "once is nothing");
        pace.after(Some(SECOND / 2));
        pace.after(Some(2 * SECOND));
        assert_eq!(pace.interval(), SECOND);
        pace.after(Some(2 * SECOND));
        assert_eq!((pace.interval(), slowed.get()), (2 * SECOND, 1));
        pace.after(None);
        assert_eq!(pace.interval(), 4 * SECOND, "without room at once");
        for _ in 0..10 {
            pace.after(None);
        }
        assert_eq!(pace.interval(), SLOWEST);
        for _ in 0..EARLY_MAX * 6 {
            pace.after(Some(SECOND / 10));
        }
        assert_eq!((pace.interval(), slowed.get()), (SECOND, 0));
    }

    #[test]
    fn a_channel_that_ends_is_no_slow_one_any_more() {
        let slowed = Gauge::default();
        let mut pace = Pace::of(20 * SECOND, &slowed);
        pace.after(None);
        assert_eq!((pace.interval(), slowed.get()), (30 * SECOND, 1));
        drop(pace);
        assert_eq!(slowed.get(), 0);
    }
}
