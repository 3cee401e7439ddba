//! At which time an event counts: as it says, moved by what its client's clock is off, or now.

use nilometer_event::{EventTime, ReceiveTime, TimeCorrection};

use crate::refusal::{Refusal, TIMESTAMP_IN_FUTURE};

/// A time as sent that lies further ahead than this would be remembered by an hour that is far
/// from over: its id is filed by arrival instead.
const AHEAD_MS_MAX: i64 = 86_400_000;

/// Accepted events whose time was changed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Corrected {
    /// Moved by what the client's clock was off.
    pub(crate) by_offset: u64,
    /// Yet to come, and set to the receive time.
    pub(crate) to_receive_time: u64,
}

impl Corrected {
    pub(super) fn note(&mut self, correction: TimeCorrection) {
        match correction {
            TimeCorrection::None => {}
            TimeCorrection::BySentAt | TimeCorrection::ByOffset => self.by_offset += 1,
            TimeCorrection::ToReceiveTime => self.to_receive_time += 1,
        }
    }
}

/// When a batch came, by our clock and by its client's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receipt {
    /// The house clock.
    pub(super) now: ReceiveTime,
    /// When what `sent_at` speaks of came: now, but for a letter that is sent once more.
    pub(super) received_at: ReceiveTime,
    /// The client's clock as it sent.
    pub(super) sent_at: Option<EventTime>,
    /// How far two clocks may differ and still be one.
    pub(super) tolerance_ms: i64,
}

impl Receipt {
    /// How far the client's clock is behind ours; 0 where it is right.
    ///
    /// One number for all events that were sent together, so that their order stays.
    fn offset_ms(&self) -> i64 {
        let offset_ms = self.sent_at.map_or(0, |sent| self.received_at.as_event_time().since(sent));
        if offset_ms.abs() <= self.tolerance_ms { 0 } else { offset_ms }
    }

    /// The time at which a live event counts that says `time`, and what was done to it.
    pub(super) fn live(&self, time: EventTime) -> (EventTime, TimeCorrection) {
        let now = self.now.as_event_time();
        let offset_ms = self.offset_ms();
        let moved = time.plus_ms(offset_ms).clamp(EventTime::EARLIEST, EventTime::LATEST);
        if moved.since(now) > self.tolerance_ms {
            return (now, TimeCorrection::ToReceiveTime);
        }
        let correction = if offset_ms == 0 {
            TimeCorrection::None
        } else if time.since(now) > AHEAD_MS_MAX {
            TimeCorrection::BySentAt
        } else {
            TimeCorrection::ByOffset
        };
        (moved, correction)
    }

    /// The time at which a row of an import counts: as it says.
    ///
    /// # Errors
    ///
    /// [`Refusal`] where that is yet to come: nobody can tell when it was.
    pub(super) fn imported(&self, time: EventTime) -> Result<EventTime, Refusal> {
        let now = self.now.as_event_time();
        if time.since(now) <= self.tolerance_ms {
            return Ok(time);
        }
        let minutes = self.tolerance_ms / 60_000;
        let message = format!(
            "field timestamp: {time} is yet to come; an import takes what has happened, up to \
             {minutes} min after {now}"
        );
        Err(Refusal::new(TIMESTAMP_IN_FUTURE, message))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE_MS: i64 = 60_000;
    const HOUR_MS: i64 = 60 * MINUTE_MS;
    const NOW_MS: i64 = 1_795_291_200_000;

    fn receipt(sent_ms: Option<i64>) -> Receipt {
        let now = ReceiveTime::from_ms(NOW_MS);
        let sent_at = sent_ms.map(EventTime::from_ms);
        Receipt { now, received_at: now, sent_at, tolerance_ms: 5 * MINUTE_MS }
    }

    fn live(sent_ms: Option<i64>, time_ms: i64) -> (i64, TimeCorrection) {
        let (time, correction) = receipt(sent_ms).live(EventTime::from_ms(time_ms));
        (time.ms(), correction)
    }

    #[test]
    fn all_events_of_a_client_are_moved_by_what_its_clock_is_off() {
        for off_ms in [HOUR_MS, 301_000, -301_000, -HOUR_MS, -48 * HOUR_MS] {
            let clients = NOW_MS + off_ms;
            for age_ms in [0, 20 * MINUTE_MS, 70 * MINUTE_MS, 30 * 24 * HOUR_MS] {
                let expected = (NOW_MS - age_ms, TimeCorrection::ByOffset);
                assert_eq!(live(Some(clients), clients - age_ms), expected, "{off_ms} {age_ms}");
            }
        }
        // Where its time as sent lies days ahead, the id is filed by arrival.
        let (clients, age_ms) = (NOW_MS + 48 * HOUR_MS, HOUR_MS);
        let expected = (NOW_MS - age_ms, TimeCorrection::BySentAt);
        assert_eq!(live(Some(clients), clients - age_ms), expected);
    }

    #[test]
    fn a_clock_that_is_off_by_five_minutes_at_most_is_right() {
        for off_ms in [0, 1, 300_000, -1, -300_000] {
            for age_ms in [0, HOUR_MS] {
                let time = NOW_MS + off_ms - age_ms;
                assert_eq!(live(Some(NOW_MS + off_ms), time), (time, TimeCorrection::None));
            }
        }
    }

    #[test]
    fn what_is_yet_to_come_happens_now() {
        let now = (NOW_MS, TimeCorrection::ToReceiveTime);
        assert_eq!(live(None, NOW_MS + 300_001), now);
        assert_eq!(live(None, NOW_MS + 300_000), (NOW_MS + 300_000, TimeCorrection::None));
        // After it was sent, by the client's own clock.
        assert_eq!(live(Some(NOW_MS + HOUR_MS), NOW_MS + HOUR_MS + 300_001), now);
        assert_eq!(live(Some(NOW_MS), NOW_MS + HOUR_MS), now);
        assert_eq!(live(Some(EventTime::EARLIEST.ms()), NOW_MS), now);
        let history = |time_ms: i64| receipt(None).imported(EventTime::from_ms(time_ms));
        assert_eq!(history(NOW_MS + 300_000), Ok(EventTime::from_ms(NOW_MS + 300_000)));
        let refused = history(NOW_MS + 300_001).unwrap_err();
        assert_eq!(refused.code, "timestamp_in_future");
        assert!(refused.message.contains("5 min after 2026-11-21T20:00:00Z"), "{refused:?}");
    }

    proptest! {
        #[test]
        fn the_order_of_what_was_sent_together_never_changes(
            off_ms in -400 * 24 * HOUR_MS..400 * 24 * HOUR_MS,
            ages_ms in prop::collection::vec(0..400 * 24 * HOUR_MS, 2..20),
        ) {
            let sent = NOW_MS + off_ms;
            let moved = |age_ms: &i64| live(Some(sent), sent - age_ms).0;
            for (one, next) in ages_ms.iter().zip(&ages_ms[1..]) {
                prop_assert_eq!(next - one, moved(one) - moved(next));
            }
        }

        #[test]
        fn no_time_leaves_the_years_that_can_be_asked_for(
            sent in EventTime::EARLIEST.ms()..=EventTime::LATEST.ms(),
            time in EventTime::EARLIEST.ms()..=EventTime::LATEST.ms(),
        ) {
            let (time, _) = live(Some(sent), time);
            prop_assert!((EventTime::EARLIEST.ms()..=NOW_MS + 5 * MINUTE_MS).contains(&time));
        }
    }
}
