//! Which hours the shard has forgotten, and which it closed because a file was lost.

use std::collections::BTreeSet;

use nilometer_event::EventTime;
use serde::{Deserialize, Serialize};

use super::key::{Hour, Source};

/// Hours that take no event any more.
///
/// An hour is *forgotten* once the horizon passed it: from `birth` to `forgotten_through` these
/// hours were held once and are closed for everybody. Hours before the shard's birth were never
/// held, so imports still may fill them. Hours closed by damage are listed one by one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedHours {
    birth: Hour,
    forgotten_through: Hour,
    damaged: BTreeSet<Hour>,
}

impl ClosedHours {
    /// Of a shard born at `birth`, which remembers from `horizon` on: nothing is closed to
    /// imports, and live events from before the horizon are too old from the first one on.
    #[must_use]
    pub fn new(birth: EventTime, horizon: EventTime) -> Self {
        Self {
            birth: Hour::of(birth),
            forgotten_through: Hour::of(horizon),
            damaged: BTreeSet::new(),
        }
    }

    /// Forgets every hour that ends at or before `horizon`; never remembers one again.
    pub fn forget_before(&mut self, horizon: EventTime) {
        self.forgotten_through = self.forgotten_through.max(Hour::of(horizon));
        let (birth, through) = (self.birth, self.forgotten_through);
        self.damaged.retain(|&hour| !(birth <= hour && hour < through));
    }

    /// Closes an hour whose ids can no longer be read.
    pub fn close(&mut self, hour: Hour) {
        if !self.is_closed(hour) {
            self.damaged.insert(hour);
        }
    }

    /// True where no event is taken, from whatever source.
    #[must_use]
    pub fn is_closed(&self, hour: Hour) -> bool {
        (self.birth <= hour && hour < self.forgotten_through) || self.damaged.contains(&hour)
    }

    /// True where an hour's ids can no longer be read, though it is not forgotten.
    #[must_use]
    pub fn is_lost(&self, hour: Hour) -> bool {
        self.damaged.contains(&hour)
    }

    /// True where an event of that time from that source goes to `late-events` unasked.
    #[must_use]
    pub fn is_forgotten(&self, time: EventTime, source: Source) -> bool {
        let hour = Hour::of(time);
        match source {
            Source::Live => hour < self.forgotten_through || self.is_closed(hour),
            Source::Import => self.is_closed(hour),
        }
    }

    /// True where every moment of `[first, last]` lies in forgotten hours.
    #[must_use]
    pub fn spans_forgotten(&self, first: EventTime, last: EventTime) -> bool {
        self.birth <= Hour::of(first) && Hour::of(last) < self.forgotten_through
    }

    /// The first moment that is not forgotten.
    #[must_use]
    pub const fn horizon(&self) -> EventTime {
        self.forgotten_through.start()
    }

    /// Hours closed by damage, oldest first.
    pub fn damaged(&self) -> impl Iterator<Item = Hour> + '_ {
        self.damaged.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_fill_hours_before_birth_and_live_events_do_not() {
        let at = |hour| Hour::from_number(hour).start();
        let mut hours = ClosedHours::new(at(100), EventTime::MIN);
        assert!(!hours.is_forgotten(at(90), Source::Live));
        hours.forget_before(at(110));
        for (hour, live, import) in [(99, true, false), (100, true, true), (110, false, false)] {
            assert_eq!(hours.is_forgotten(at(hour), Source::Live), live, "live in {hour}");
            assert_eq!(hours.is_forgotten(at(hour), Source::Import), import, "import in {hour}");
        }
        hours.close(Hour::from_number(120));
        assert!(hours.is_forgotten(at(120), Source::Import));
    }

    #[test]
    fn a_forgotten_hour_stays_forgotten() {
        let mut hours = ClosedHours::new(EventTime::from_ms(0), EventTime::MIN);
        hours.forget_before(Hour::from_number(9).start());
        hours.forget_before(Hour::from_number(3).start());
        assert!(hours.is_closed(Hour::from_number(8)));
    }
}
