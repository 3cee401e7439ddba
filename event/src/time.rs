//! When something happened and when we heard of it: two clocks, two types.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::rfc3339;

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

    /// Parses RFC 3339, to the millisecond (finer digits are cut off).
    #[must_use]
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        rfc3339::parse(text.as_bytes()).map(Self)
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
    fn each_granularity_divides_the_next() {
        for granularity in Granularity::ALL {
            if let Some(coarser) = granularity.coarser() {
                assert_eq!(coarser.ms() % granularity.ms(), 0);
            }
            assert_eq!(Granularity::from_name(granularity.name()), Some(granularity));
        }
    }
}
