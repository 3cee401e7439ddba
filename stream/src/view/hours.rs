//! How many events there were of a kind, by the hour or day in which they count or would.

use std::collections::BTreeMap;

use nilometer_event::{EventTime, TimeRange};
use serde::{Deserialize, Serialize};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Live events that lay in the future and were set to their receive time, each counted once, by
/// the hour of that; of the last month.
pub type CorrectedHours = EventsByWindow<HOUR_MS, { 31 * 24 }>;

/// Events that were accepted and are late, pending, by the day of their event time; of the latest
/// 4,096 days.
pub type LateDays = EventsByWindow<DAY_MS, 4_096>;

/// Events by windows of `WINDOW_MS`; of the latest `WINDOWS_MAX` of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsByWindow<const WINDOW_MS: i64, const WINDOWS_MAX: usize> {
    /// By the window's start.
    by_window: BTreeMap<EventTime, u64>,
}

impl<const WINDOW_MS: i64, const WINDOWS_MAX: usize> EventsByWindow<WINDOW_MS, WINDOWS_MAX> {
    /// Counts one of this time.
    pub fn note(&mut self, time: EventTime) {
        *self.by_window.entry(Self::window(time)).or_default() += 1;
        if self.by_window.len() > WINDOWS_MAX {
            self.by_window.pop_first();
        }
    }

    /// How many there are in the windows that `range` touches.
    #[must_use]
    pub fn within(&self, range: TimeRange) -> u64 {
        if range.start >= range.end {
            return 0;
        }
        let windows = self.by_window.range(Self::window(range.start)..range.end);
        windows.map(|(_, events)| events).sum()
    }

    /// True where there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_window.is_empty()
    }

    const fn window(time: EventTime) -> EventTime {
        EventTime::from_ms(time.ms().div_euclid(WINDOW_MS) * WINDOW_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(hours: &CorrectedHours, start: i64, end: i64) -> u64 {
        hours.within(TimeRange { start: EventTime::from_ms(start), end: EventTime::from_ms(end) })
    }

    #[test]
    fn events_are_told_by_the_hours_that_a_range_touches() {
        let mut hours = CorrectedHours::default();
        for time in [0, 1, HOUR_MS - 1, 5 * HOUR_MS] {
            hours.note(EventTime::from_ms(time));
        }
        assert_eq!(within(&hours, HOUR_MS - 1, HOUR_MS), 3);
        assert_eq!(within(&hours, HOUR_MS, 5 * HOUR_MS), 0);
        assert_eq!(within(&hours, HOUR_MS - 1, 5 * HOUR_MS + 1), 4);
        assert_eq!(within(&hours, 0, 0), 0);
    }

    #[test]
    fn a_month_of_hours_is_remembered() {
        let mut hours = CorrectedHours::default();
        for hour in 0..10_000 {
            hours.note(EventTime::from_ms(hour * HOUR_MS));
        }
        assert_eq!(within(&hours, 0, 10_000 * HOUR_MS), 744);
        assert_eq!(within(&hours, 9_999 * HOUR_MS, 10_000 * HOUR_MS), 1);
    }

    #[test]
    fn days_are_whole_before_1970_too() {
        let mut days = LateDays::default();
        days.note(EventTime::from_ms(-1));
        days.note(EventTime::from_ms(DAY_MS));
        let within = |start, end| {
            days.within(TimeRange {
                start: EventTime::from_ms(start),
                end: EventTime::from_ms(end),
            })
        };
        assert_eq!(within(-DAY_MS, -DAY_MS + 1), 1);
        assert_eq!((within(0, DAY_MS), within(0, DAY_MS + 1)), (0, 1));
        assert_eq!(within(-2 * DAY_MS, -DAY_MS), 0);
    }
}
