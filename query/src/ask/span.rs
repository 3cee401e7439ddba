//! Ranges of time as they are asked for: moments and durations.

use std::borrow::Cow;

use nilometer_event::{EventTime, Granularity, TimeRange};

use super::{AskError, Step};

/// The range that a query has when it names none: one hour.
const LAST_DEFAULT_MS: i64 = 3_600_000;
/// The longest `last`: ten years.
const LAST_MAX_MS: i64 = 3_650 * 86_400_000;

/// A range of time as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Span {
    /// So many milliseconds up to now.
    Last {
        /// Their number, above 0.
        ms: i64,
    },
    /// From a moment up to now.
    Since {
        /// First moment inside.
        from: EventTime,
    },
    /// Between two moments, `from < to`.
    Between {
        /// First moment inside.
        from: EventTime,
        /// First moment after.
        to: EventTime,
    },
}

impl Span {
    pub(super) fn of(
        from: Option<EventTime>,
        to: Option<EventTime>,
        last_ms: Option<i64>,
    ) -> Result<Self, AskError> {
        match (from, to, last_ms) {
            (None, None, None) => Ok(Self::Last { ms: LAST_DEFAULT_MS }),
            (None, None, Some(ms)) => Ok(Self::Last { ms }),
            (Some(from), None, None) => Ok(Self::Since { from }),
            (Some(from), Some(to), None) if from < to => Ok(Self::Between { from, to }),
            (Some(_), Some(_), None) => Err(AskError::bad("from", "is not before to")),
            (None, Some(_), None) => {
                Err(AskError::bad("from", "is missing; to alone has no beginning"))
            }
            (_, _, Some(_)) => {
                Err(AskError::bad("last", "stands beside from or to; give one or the other"))
            }
        }
    }

    /// The same range for all who ask for the same windows: what is asked between two moments goes
    /// outward to them. Where the range decides on the windows, it is left as it is.
    pub(super) fn on_whole_windows(self, step: Option<Step>) -> Self {
        let granularity = match step {
            Some(Step::Every(granularity)) => granularity,
            Some(Step::Total) => Granularity::Minute,
            None => return self,
        };
        match self {
            Self::Between { from, to } => {
                let TimeRange { start, end } =
                    TimeRange { start: from, end: to }.outward(granularity);
                Self::Between { from: start, to: end }
            }
            Self::Last { .. } | Self::Since { .. } => self,
        }
    }
}

/// Reads RFC 3339 or milliseconds since 1970.
///
/// # Errors
///
/// [`AskError`] where `text` is neither, looks like seconds, or lies outside the years 1 to 9999.
pub fn parse_moment(parameter: &str, text: &str) -> Result<EventTime, AskError> {
    let text = text.trim();
    if let Ok(number) = text.parse() {
        return moment_of_number(parameter, number);
    }
    // In a URL a bare plus, as in +02:00, arrives as a space; one before the time is meant.
    let text = match text.rsplit_once(' ') {
        Some((time, offset)) if time.len() > DATE_LEN => Cow::Owned(format!("{time}+{offset}")),
        _ => Cow::Borrowed(text),
    };
    EventTime::parse_rfc3339(&text).ok_or_else(|| {
        if EventTime::is_absent_leap_second(&text) {
            let what = "is no time: there is no leap second then; there may be one at 23:59:60 \
                        UTC of the last day of a month";
            return AskError::bad(parameter, what);
        }
        let what = "is neither RFC 3339 (2026-11-21T20:15:00Z) nor epoch milliseconds, of the \
                    years 1 to 9999";
        AskError::bad(parameter, what)
    })
}

/// Letters of a date.
const DATE_LEN: usize = "2026-11-21".len();

/// A moment as a number of milliseconds since 1970.
pub(super) fn moment_of_number(parameter: &str, number: i64) -> Result<EventTime, AskError> {
    EventTime::from_given_ms(number)
        .map_err(|no_time| AskError::bad(parameter, format!("is no time: {no_time}")))
}

/// Reads `15m`, `1h`, `24h`, `7d`, `2w`: a positive number and a unit of s, m, h, d or w.
///
/// # Errors
///
/// [`AskError`] where `text` is no such duration or is longer than ten years.
pub fn parse_duration_ms(parameter: &str, text: &str) -> Result<i64, AskError> {
    let text = text.trim();
    let wrong = || {
        AskError::bad(
            parameter,
            "is no duration; write 15m, 1h, 24h, 7d, 30d or 90d (at most 3650d)",
        )
    };
    let unit_at =
        text.len().checked_sub(1).filter(|at| text.is_char_boundary(*at)).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit_at);
    let unit_ms = match unit {
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 7 * 86_400_000,
        _ => return Err(wrong()),
    };
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let ms = number.parse::<i64>().ok().and_then(|number| number.checked_mul(unit_ms));
    ms.filter(|ms| (1..=LAST_MAX_MS).contains(ms)).ok_or_else(wrong)
}
