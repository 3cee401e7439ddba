//! Which id an event has, and where that id is filed.

use std::fmt;

use nilometer_event::{EventTime, Fingerprint, TimeCorrection};
use serde::{Deserialize, Serialize};

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 3_600_000;
const HOUR_MINUTES: i32 = 60;
/// A client whose clock is further behind names hours that are forgotten long before its events:
/// its ids are filed by arrival.
const BEHIND_MS_MAX: i64 = 86_400_000;

/// The identity of one event as the stream remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdKey {
    /// Keyed hash of (user key, event id).
    pub fingerprint: Fingerprint,
    /// Hash of the decoded fields in schema order: the same id with another check is a conflict.
    pub check: u8,
    /// Where the id is asked for once it is cold.
    pub bucket: Bucket,
    /// Whether it is filed with the odd ids, though its bucket is asked as well, for as long as
    /// that is remembered: there an older release filed it, or a copy that came while the clocks
    /// differed by a moment less.
    pub by_arrival: bool,
}

impl IdKey {
    /// Where the id is filed once it is cold.
    pub(super) const fn filed(&self) -> Bucket {
        if self.by_arrival { Bucket::ODD } else { self.bucket }
    }
}

/// Whether the clock of an event's client is too far behind to file the event's id by it.
#[must_use]
pub fn is_far_behind(sent: EventTime, time: EventTime, correction: TimeCorrection) -> bool {
    correction == TimeCorrection::ByOffset && time.since(sent) > BEHIND_MS_MAX
}

/// A stretch of 5 to 15 minutes of the client's timestamp as sent, or the one odd bucket for
/// ids of events whose time as sent tells nothing.
///
/// Its number is the minute since 1970 at which the stretch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Bucket(i32);

impl Bucket {
    /// Ids of events from the future, whatever their timestamp; sorts before every other.
    pub const ODD: Self = Self(i32::MIN);

    /// The bucket of a client's timestamp; never [`Bucket::ODD`].
    ///
    /// Times further than 4,000 years from 1970 share the last bucket on their side.
    ///
    /// # Panics
    ///
    /// Never: the number is within 32 bits.
    #[must_use]
    pub fn of(sent: EventTime, correction: TimeCorrection, width: BucketWidth) -> Self {
        match correction {
            TimeCorrection::None | TimeCorrection::ByOffset => {}
            TimeCorrection::BySentAt | TimeCorrection::ToReceiveTime => return Self::ODD,
        }
        let minute = sent.ms().div_euclid(MINUTE_MS);
        let width = i64::from(width.minutes());
        let start = minute.saturating_sub(minute.rem_euclid(width));
        // Hour-aligned ends, so that a bucket lies within one hour there too.
        const FIRST: i64 = -2_147_483_640;
        const LAST: i64 = 2_147_483_580;
        Self(i32::try_from(start.clamp(FIRST, LAST)).expect("clamped to 32 bits"))
    }

    /// From its number on disk.
    #[must_use]
    pub const fn from_number(number: i32) -> Self {
        Self(number)
    }

    /// Its number on disk.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }

    /// The hour that it lies in; `None` for the odd bucket.
    #[must_use]
    pub fn hour(self) -> Option<Hour> {
        (self != Self::ODD).then(|| Hour(i64::from(self.0.div_euclid(HOUR_MINUTES))))
    }
}

/// How wide a [`Bucket`] is: a divisor of the hour between 5 and 15 minutes.
///
/// Fixed when a shard is born, because another width would file the same id elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketWidth(u8);

impl BucketWidth {
    /// Ten minutes.
    pub const DEFAULT: Self = Self(10);

    /// `None` unless `minutes` is 5, 6, 10, 12 or 15.
    #[must_use]
    pub const fn new(minutes: u8) -> Option<Self> {
        if matches!(minutes, 5 | 6 | 10 | 12 | 15) { Some(Self(minutes)) } else { None }
    }

    /// The width in minutes.
    #[must_use]
    pub const fn minutes(self) -> u8 {
        self.0
    }
}

/// An hour of event time, counted from 1970; may be negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hour(i64);

impl Hour {
    /// The hour that this moment falls in.
    #[must_use]
    pub const fn of(time: EventTime) -> Self {
        Self(time.ms().div_euclid(HOUR_MS))
    }

    /// From its number.
    #[must_use]
    pub const fn from_number(number: i64) -> Self {
        Self(number)
    }

    /// Hours since 1970.
    #[must_use]
    pub const fn number(self) -> i64 {
        self.0
    }

    /// Its first moment, stopping at the ends of time.
    #[must_use]
    pub const fn start(self) -> EventTime {
        EventTime::from_ms(self.0.saturating_mul(HOUR_MS))
    }
}

impl fmt::Display for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.start().fmt(f)
    }
}

/// How an event came, which decides whether its age matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// By a live topic: too old behind the horizon.
    Live,
    /// By an import: welcome in every hour that was never closed.
    Import,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Bucket {
        Bucket::of(EventTime::from_ms(ms), TimeCorrection::None, BucketWidth::DEFAULT)
    }

    #[test]
    fn a_bucket_is_ten_minutes_of_one_hour_before_1970_too() {
        assert_eq!(at(0), at(599_999));
        assert_ne!(at(599_999), at(600_000));
        assert_ne!(at(-1), at(0));
        assert_eq!(at(-1).hour(), Some(Hour::from_number(-1)));
        for ms in [i64::MIN, -1, 0, 3_599_999, i64::MAX] {
            assert_ne!(at(ms), Bucket::ODD);
        }
        assert_eq!(at(3_599_999).hour(), Some(Hour::of(EventTime::from_ms(3_599_999))));
    }

    #[test]
    fn an_event_from_the_future_is_odd_whatever_its_time() {
        let bucket = |how| Bucket::of(EventTime::from_ms(5), how, BucketWidth::DEFAULT);
        for how in [TimeCorrection::BySentAt, TimeCorrection::ToReceiveTime] {
            assert_eq!((bucket(how), bucket(how).hour()), (Bucket::ODD, None));
        }
        assert_eq!(bucket(TimeCorrection::ByOffset), at(5));
    }
}
