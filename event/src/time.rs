//! When something happened and when we heard of it: two clocks, two types.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::rfc3339;

/// Why a number is no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoTime {
    /// Nine or ten digits: seconds of the years 1973 to 2286; as milliseconds a day of 1970.
    #[error("{number} looks like seconds; give milliseconds since 1970: {number}000")]
    Seconds {
        /// As given.
        number: i64,
    },
    /// Before the year 1 or after the year 9999.
    #[error("{number} milliseconds since 1970 lie outside the years 1 to 9999")]
    OutOfYears {
        /// As given.
        number: i64,
    },
}

/// When an event happened, as its producer tells: milliseconds since 1970 UTC, may be negative.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct EventTime(i64);

/// When the gateway heard of an event, by the house clock: milliseconds since 1970 UTC.
///
/// Never runs backwards within a log. Journal entries carry the same clock as `now`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ReceiveTime(i64);

impl EventTime {
    /// The earliest time there is.
    pub const MIN: Self = Self(i64::MIN);
    /// The latest time there is.
    pub const MAX: Self = Self(i64::MAX);

    /// 0001-01-01T00:00:00Z, the earliest time that anybody may send or ask for.
    pub const EARLIEST: Self = Self(-62_135_596_800_000);
    /// 9999-12-31T23:59:59.999Z, the latest.
    pub const LATEST: Self = Self(253_402_300_799_999);

    /// From milliseconds since 1970 UTC.
    #[must_use]
    pub const fn from_ms(ms: i64) -> Self {
        Self(ms)
    }

    /// From a number that somebody gave as milliseconds since 1970 UTC.
    ///
    /// # Errors
    ///
    /// [`NoTime`] where it looks like seconds, or lies outside the years 1 to 9999.
    pub const fn from_given_ms(number: i64) -> Result<Self, NoTime> {
        match number.unsigned_abs() {
            100_000_000..=9_999_999_999 => Err(NoTime::Seconds { number }),
            _ if number < Self::EARLIEST.0 || Self::LATEST.0 < number => {
                Err(NoTime::OutOfYears { number })
            }
            _ => Ok(Self(number)),
        }
    }

    /// Milliseconds since 1970 UTC.
    #[must_use]
    pub const fn ms(self) -> i64 {
        self.0
    }

    /// Moved by `ms`, stopping at the ends.
    #[must_use]
    pub const fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Moved back by `ms`, stopping at the ends.
    #[must_use]
    pub const fn minus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_sub(ms))
    }

    /// Milliseconds from `earlier` to here; negative if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The start of the aligned window of `granularity` that this moment falls in.
    #[must_use]
    pub const fn window_start(self, granularity: Granularity) -> Self {
        Self(self.0.saturating_sub(self.0.rem_euclid(granularity.ms())))
    }

    /// The first aligned window start that is not before this moment.
    #[must_use]
    pub const fn window_ceil(self, granularity: Granularity) -> Self {
        let start = self.window_start(granularity);
        if start.0 == self.0 { start } else { start.plus_ms(granularity.ms()) }
    }

    /// Parses RFC 3339, to the millisecond (finer digits are cut off); `None` where the text is no
    /// such time, or one outside the years 1 to 9999.
    #[must_use]
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let time = rfc3339::parse(text.as_bytes()).map(Self)?;
        (Self::EARLIEST <= time && time <= Self::LATEST).then_some(time)
    }

    /// Whether `text` is RFC 3339 but for its second, a sixtieth where there is none.
    #[must_use]
    pub fn is_absent_leap_second(text: &str) -> bool {
        let second_before = || Some(format!("{}59{}", text.get(..17)?, text.get(19..)?));
        text.get(17..19) == Some("60")
            && Self::parse_rfc3339(text).is_none()
            && second_before().is_some_and(|text| Self::parse_rfc3339(&text).is_some())
    }
}

impl ReceiveTime {
    /// From milliseconds since 1970 UTC.
    #[must_use]
    pub const fn from_ms(ms: i64) -> Self {
        Self(ms)
    }

    /// Milliseconds since 1970 UTC.
    #[must_use]
    pub const fn ms(self) -> i64 {
        self.0
    }

    /// The event time of something that happens as we hear of it.
    #[must_use]
    pub const fn as_event_time(self) -> EventTime {
        EventTime(self.0)
    }

    /// Moved by `ms`, stopping at the ends.
    #[must_use]
    pub const fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to here; negative if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for EventTime {
    /// RFC 3339 with milliseconds only where there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        rfc3339::write(self.0, f)
    }
}

impl fmt::Display for ReceiveTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        rfc3339::write(self.0, f)
    }
}

/// Half-open range of event time, `[start, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimeRange {
    /// First moment inside.
    pub start: EventTime,
    /// First moment after.
    pub end: EventTime,
}

impl TimeRange {
    /// True where `time` lies inside.
    #[must_use]
    pub fn contains(&self, time: EventTime) -> bool {
        self.start <= time && time < self.end
    }

    /// Rounded outward to whole windows of `granularity`.
    #[must_use]
    pub const fn outward(self, granularity: Granularity) -> Self {
        Self { start: self.start.window_start(granularity), end: self.end.window_ceil(granularity) }
    }
}

/// Width of a tumbling window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Granularity {
    /// One minute, the finest.
    #[serde(rename = "1m")]
    Minute = 0,
    /// Five minutes.
    #[serde(rename = "5m")]
    FiveMinutes = 1,
    /// Thirty minutes.
    #[serde(rename = "30m")]
    HalfHour = 2,
    /// One hour.
    #[serde(rename = "1h")]
    Hour = 3,
    /// One UTC day.
    #[serde(rename = "1d")]
    Day = 4,
}

impl Granularity {
    /// Finest first; each divides the next.
    pub const ALL: [Self; 5] =
        [Self::Minute, Self::FiveMinutes, Self::HalfHour, Self::Hour, Self::Day];

    /// Width in milliseconds.
    #[must_use]
    pub const fn ms(self) -> i64 {
        match self {
            Self::Minute => 60_000,
            Self::FiveMinutes => 300_000,
            Self::HalfHour => 1_800_000,
            Self::Hour => 3_600_000,
            Self::Day => 86_400_000,
        }
    }

    /// As queries write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Minute => "1m",
            Self::FiveMinutes => "5m",
            Self::HalfHour => "30m",
            Self::Hour => "1h",
            Self::Day => "1d",
        }
    }

    /// The granularity of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|granularity| granularity.name() == name)
    }

    /// The next coarser one; `None` for a day.
    #[must_use]
    pub const fn coarser(self) -> Option<Self> {
        match self {
            Self::Minute => Some(Self::FiveMinutes),
            Self::FiveMinutes => Some(Self::HalfHour),
            Self::HalfHour => Some(Self::Hour),
            Self::Hour => Some(Self::Day),
            Self::Day => None,
        }
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_align_before_1970_too() {
        let just_before = EventTime::from_ms(-1);
        assert_eq!(just_before.window_start(Granularity::Day), EventTime::from_ms(-86_400_000));
        assert_eq!(just_before.window_ceil(Granularity::Minute), EventTime::from_ms(0));
    }

    #[test]
    fn a_number_of_nine_or_ten_digits_is_no_time() {
        for number in [100_000_000, 999_999_999, 1_795_000_000, 9_999_999_999] {
            for number in [number, -number] {
                let refused = EventTime::from_given_ms(number);
                assert_eq!(refused, Err(NoTime::Seconds { number }));
            }
        }
        let taken = [0, 1, -1, 99_999_999, -99_999_999, 10_000_000_000, -10_000_000_000];
        for number in taken.into_iter().chain([EventTime::EARLIEST.ms(), EventTime::LATEST.ms()]) {
            assert_eq!(EventTime::from_given_ms(number), Ok(EventTime::from_ms(number)));
        }
        for number in [EventTime::EARLIEST.ms() - 1, EventTime::LATEST.ms() + 1, i64::MIN, i64::MAX]
        {
            let refused = EventTime::from_given_ms(number);
            assert_eq!(refused, Err(NoTime::OutOfYears { number }));
        }
    }

    #[test]
    fn only_times_of_the_years_1_to_9999_are_read() {
        for (text, time) in [
            ("0001-01-01T00:00:00Z", Some(EventTime::EARLIEST)),
            ("9999-12-31T23:59:59.999999Z", Some(EventTime::LATEST)),
            ("9999-12-31T23:59:59.999+00:00", Some(EventTime::LATEST)),
            ("0000-12-31T23:59:59.999Z", None),
            ("0001-01-01T00:00:00+00:01", None),
            ("9999-12-31T23:59:00-00:01", None),
        ] {
            assert_eq!(EventTime::parse_rfc3339(text), time, "{text}");
        }
    }

    #[test]
    fn each_granularity_divides_the_next() {
        for granularity in Granularity::ALL {
            if let Some(coarser) = granularity.coarser() {
                assert_eq!(coarser.ms() % granularity.ms(), 0);
            }
            assert_eq!(Granularity::from_name(granularity.name()), Some(granularity));
        }
    }
}
