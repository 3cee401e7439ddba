//! How much one key may send: events and bytes, of a second and of a day, and how many values that
//! are new to the day, as people write it.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The largest bound of a second: buckets count in 64 bits, at a thousand million parts of one.
const SECOND_MAX: u64 = u32::MAX as u64;
/// The largest bound of a day: any reader of JSON holds it.
const DAY_MAX: u64 = 1 << 53;
/// The largest bound of new values: as many as a dimension may have.
const VALUES_MAX: u64 = 1 << 24;

/// Suffixes of numbers, the largest first of each kind; the binary ones are of bytes alone.
const SUFFIXES: [(&str, u64, bool); 8] = [
    ("TiB", 1 << 40, true),
    ("GiB", 1 << 30, true),
    ("MiB", 1 << 20, true),
    ("KiB", 1 << 10, true),
    ("T", 1_000_000_000_000, false),
    ("G", 1_000_000_000, false),
    ("M", 1_000_000, false),
    ("k", 1_000, false),
];

/// What one key may send: `events=500/s,bytes=1MiB/s,events=5M/day,bytes=2GiB/day,values=9k/day`,
/// each part by itself. What is not said goes by another quota ([`Quota::or`]), or is not bounded.
///
/// Bytes are those of bodies, decompressed. A day is one of UTC. Values are those of a dimension
/// that nobody sent before on that day, in each shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Quota {
    /// Events a second.
    pub events_per_second: Option<NonZeroU32>,
    /// Bytes a second.
    pub bytes_per_second: Option<NonZeroU32>,
    /// Events a day.
    pub events_per_day: Option<NonZeroU64>,
    /// Bytes a day.
    pub bytes_per_day: Option<NonZeroU64>,
    /// New values of a dimension, by shard and day. Past it events are accepted, and their values
    /// count as the rest.
    pub values_per_day: Option<NonZeroU32>,
}

/// Why a text is no quota.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum QuotaError {
    /// A part that cannot be read.
    #[error(
        "{found:?} is no part of a quota; expected events=N/s, bytes=N/s, events=N/day, \
         bytes=N/day or values=N/day, where N is a whole number, with k, M, G, T, or for bytes \
         KiB, MiB, GiB, TiB behind it where you like: events=500/s,bytes=2GiB/day"
    )]
    Part {
        /// The part.
        found: String,
    },
    /// A number outside its range.
    #[error("{found:?}: the number is 1 to {max}; to stop a key, revoke it")]
    Range {
        /// The part.
        found: String,
        /// The largest number.
        max: u64,
    },
    /// Two parts that say the same.
    #[error("{found:?} stands beside another bound of the same; which shall hold?")]
    Twice {
        /// The second part.
        found: String,
    },
}

impl Quota {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// This quota, and of `other` what it does not say.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        const fn first<T: Copy>(own: Option<T>, other: Option<T>) -> Option<T> {
            match own {
                Some(own) => Some(own),
                None => other,
            }
        }
        Self {
            events_per_second: first(self.events_per_second, other.events_per_second),
            bytes_per_second: first(self.bytes_per_second, other.bytes_per_second),
            events_per_day: first(self.events_per_day, other.events_per_day),
            bytes_per_day: first(self.bytes_per_day, other.bytes_per_day),
            values_per_day: first(self.values_per_day, other.values_per_day),
        }
    }

    fn add(&mut self, part: &str) -> Result<(), QuotaError> {
        let unreadable = || QuotaError::Part { found: part.to_owned() };
        let (what, rest) = part.split_once('=').ok_or_else(unreadable)?;
        let (number, period) = rest.split_once('/').ok_or_else(unreadable)?;
        let (what, period) = (what.trim(), period.trim());
        let number = number_of(number.trim(), what == "bytes").ok_or_else(unreadable)?;
        let max = match (what, period) {
            ("values", _) => VALUES_MAX,
            (_, "s") => SECOND_MAX,
            _ => DAY_MAX,
        };
        let fit = number.filter(|number| *number <= max).and_then(NonZeroU64::new);
        let fit = fit.ok_or_else(|| QuotaError::Range { found: part.to_owned(), max });
        let small = |fit: NonZeroU64| NonZeroU32::try_from(fit).ok();
        let was = match (what, period) {
            ("events", "s") => put(&mut self.events_per_second, small(fit?)),
            ("bytes", "s") => put(&mut self.bytes_per_second, small(fit?)),
            ("events", "day") => put(&mut self.events_per_day, Some(fit?)),
            ("bytes", "day") => put(&mut self.bytes_per_day, Some(fit?)),
            ("values", "day") => put(&mut self.values_per_day, small(fit?)),
            _ => return Err(unreadable()),
        };
        if was { Err(QuotaError::Twice { found: part.to_owned() }) } else { Ok(()) }
    }
}

/// Sets what is said; whether it was said before.
const fn put<T: Copy>(place: &mut Option<T>, value: Option<T>) -> bool {
    let was = place.is_some();
    *place = value;
    was
}

/// `2GiB` as a number; `Some(None)` where it is past 64 bits, `None` where it is no number.
fn number_of(text: &str, is_bytes: bool) -> Option<Option<u64>> {
    let suffix = SUFFIXES
        .iter()
        .find(|(suffix, _, of_bytes)| text.ends_with(suffix) && (is_bytes || !of_bytes));
    let (digits, times) = match suffix {
        Some((suffix, times, _)) => (text.strip_suffix(suffix)?, *times),
        None => (text, 1),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse::<u64>().ok().and_then(|number| number.checked_mul(times)))
}

impl FromStr for Quota {
    type Err = QuotaError;

    fn from_str(text: &str) -> Result<Self, QuotaError> {
        let mut quota = Self::default();
        for part in text.split(',') {
            quota.add(part.trim())?;
        }
        Ok(quota)
    }
}

impl TryFrom<String> for Quota {
    type Error = QuotaError;

    fn try_from(text: String) -> Result<Self, QuotaError> {
        text.parse()
    }
}

impl From<Quota> for String {
    fn from(quota: Quota) -> Self {
        quota.to_string()
    }
}

/// A number with the largest suffix that leaves it whole.
struct Short {
    number: u64,
    is_bytes: bool,
}

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = SUFFIXES.iter().find(|(_, times, of_bytes)| {
            (self.is_bytes || !of_bytes) && self.number.is_multiple_of(*times)
        });
        match whole {
            Some((suffix, times, _)) => write!(f, "{}{suffix}", self.number / times),
            None => write!(f, "{}", self.number),
        }
    }
}

impl fmt::Display for Quota {
    /// As it is written: what is shown reads back as itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wide = |number: NonZeroU32| u64::from(number.get());
        let parts = [
            ("events", self.events_per_second.map(wide), "s"),
            ("bytes", self.bytes_per_second.map(wide), "s"),
            ("events", self.events_per_day.map(NonZeroU64::get), "day"),
            ("bytes", self.bytes_per_day.map(NonZeroU64::get), "day"),
            ("values", self.values_per_day.map(wide), "day"),
        ];
        let mut comma = "";
        for (what, number, period) in parts {
            if let Some(number) = number {
                let short = Short { number, is_bytes: what == "bytes" };
                write!(f, "{comma}{what}={short}/{period}")?;
                comma = ",";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_quota_is_read_as_it_is_written() {
        let text = "events=500/s,bytes=1MiB/s,events=5M/day,bytes=2GiB/day,values=9k/day";
        let quota: Quota = text.replace(',', ", ").parse().unwrap();
        let expected = Quota {
            events_per_second: NonZeroU32::new(500),
            bytes_per_second: NonZeroU32::new(1 << 20),
            events_per_day: NonZeroU64::new(5_000_000),
            bytes_per_day: NonZeroU64::new(2 << 30),
            values_per_day: NonZeroU32::new(9_000),
        };
        assert_eq!(quota, expected);
        assert_eq!(quota.to_string(), text);
        let some: Quota = "bytes=3000/day".parse().unwrap();
        assert_eq!(some.to_string(), "bytes=3k/day");
        let both = some.or(quota);
        assert_eq!(both.bytes_per_day, NonZeroU64::new(3_000));
        assert_eq!(both.events_per_day, quota.events_per_day);
        assert_eq!(both.values_per_day, quota.values_per_day);
    }

    #[test]
    fn what_is_no_quota_is_refused_with_what_would_be_right() {
        for (text, told) in [
            ("", "expected events=N/s"),
            ("500", "expected events=N/s"),
            ("events=500", "expected events=N/s"),
            ("events=/s", "expected events=N/s"),
            ("events=-1/s", "expected events=N/s"),
            ("events=1.5k/s", "expected events=N/s"),
            ("events=1KiB/s", "expected events=N/s"),
            ("events=1/hour", "expected events=N/s"),
            ("people=1/s", "expected events=N/s"),
            ("values=1/s", "expected events=N/s"),
            ("values=1KiB/day", "expected events=N/s"),
            ("events=1/s,", "expected events=N/s"),
            ("events=0/s", "1 to 4294967295"),
            ("bytes=4GiB/s", "1 to 4294967295"),
            ("bytes=99999999TiB/day", "1 to 9007199254740992"),
            ("values=0/day", "1 to 16777216"),
            ("values=17M/day", "1 to 16777216"),
            ("events=1/s,events=2/s", "which shall hold"),
            ("values=1/day,values=2/day", "which shall hold"),
        ] {
            let error = text.parse::<Quota>().unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back_as_itself(
            seconds in prop::array::uniform2(prop::option::of(1..=u32::MAX)),
            days in prop::array::uniform2(prop::option::of(1..=DAY_MAX)),
            values in prop::option::of(1..=1_u32 << 24),
        ) {
            let quota = Quota {
                events_per_second: seconds[0].and_then(NonZeroU32::new),
                bytes_per_second: seconds[1].and_then(NonZeroU32::new),
                events_per_day: days[0].and_then(NonZeroU64::new),
                bytes_per_day: days[1].and_then(NonZeroU64::new),
                values_per_day: values.and_then(NonZeroU32::new),
            };
            prop_assume!(!quota.is_empty());
            prop_assert_eq!(quota.to_string().parse::<Quota>(), Ok(quota));
        }
    }
}
