//! How many events claimed to be yet to come, by the hour in which they count instead.

use std::collections::BTreeMap;

use nilometer_event::{EventTime, Granularity, TimeRange};
use serde::{Deserialize, Serialize};

/// So many hours are remembered, the latest ones: a month.
const HOURS_MAX: usize = 31 * 24;

/// Live events that lay in the future and were set to their receive time, each counted once, by
/// the hour of that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorrectedHours {
    by_hour: BTreeMap<EventTime, u64>,
}

impl CorrectedHours {
    /// Counts one that was set to `time`.
    pub fn note(&mut self, time: EventTime) {
        *self.by_hour.entry(time.window_start(Granularity::Hour)).or_default() += 1;
        if self.by_hour.len() > HOURS_MAX {
            self.by_hour.pop_first();
        }
    }

    /// How many there are in the hours that `range` touches.
    #[must_use]
    pub fn within(&self, range: TimeRange) -> u64 {
        let TimeRange { start, end } = range.outward(Granularity::Hour);
        if start >= end {
            return 0;
        }
        self.by_hour.range(start..end).map(|(_, events)| events).sum()
    }

    /// True where there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_hour.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

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
}
