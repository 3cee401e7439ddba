//! RFC 3339 in and out: a fast path for the shapes that clients send, jiff for the rest.

use std::fmt;

/// Milliseconds since 1970 UTC, digits past the millisecond cut off (towards the past).
pub(crate) fn parse(text: &[u8]) -> Option<i64> {
    fast(text).or_else(|| slow(text))
}

/// `YYYY-MM-DDTHH:MM:SS[.fff…]Z`, valid calendar dates only; anything else is left to jiff.
fn fast(text: &[u8]) -> Option<i64> {
    if text.len() < 20 || text[text.len() - 1] != b'Z' {
        return None;
    }
    if text[4] != b'-'
        || text[7] != b'-'
        || text[10] != b'T'
        || text[13] != b':'
        || text[16] != b':'
    {
        return None;
    }
    let year = digits(&text[0..4])?;
    let month = digits(&text[5..7])?;
    let day = digits(&text[8..10])?;
    let hour = digits(&text[11..13])?;
    let minute = digits(&text[14..16])?;
    let second = digits(&text[17..19])?;
    if !(1..=12).contains(&month)
        || !(1..=days_in_month(year, month)).contains(&day)
        || hour > 23
        || minute > 59
        || second > 59
    {
        return None;
    }
    let fraction = &text[19..text.len() - 1];
    let millis = match fraction {
        [] => 0,
        [b'.', rest @ ..] if !rest.is_empty() && rest.len() <= 9 => {
            let value = digits(rest)?;
            let mut scaled = value;
            for _ in rest.len()..3 {
                scaled *= 10;
            }
            for _ in 3..rest.len() {
                scaled /= 10;
            }
            scaled
        }
        _ => return None,
    };
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(seconds * 1000 + millis)
}

/// Offsets, leap seconds, lower case: jiff's rules.
fn slow(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    // RFC 3339 alone: jiff would also take an RFC 9557 zone annotation.
    if text.len() > 40 || text.contains('[') {
        return None;
    }
    let time: jiff::Timestamp = text.parse().ok()?;
    let micros = time.as_microsecond();
    Some(micros.div_euclid(1000))
}

fn digits(text: &[u8]) -> Option<i64> {
    let mut value = 0i64;
    for byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + i64::from(digit);
    }
    Some(value)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01. Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Inverse of [`days_from_civil`]; same source.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Writes `ms` as RFC 3339 in UTC, with milliseconds only where there are any.
pub(crate) fn write(ms: i64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (days, of_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let (year, month, day) = civil_from_days(days);
    let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (second, millis) = (of_day / 1000 % 60, of_day % 1000);
    write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
    if millis != 0 {
        write!(f, ".{millis:03}")?;
    }
    f.write_str("Z")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_fast_path_agrees_with_jiff(ms in -62_135_596_800_000i64..253_402_300_800_000) {
            let text = crate::EventTime::from_ms(ms).to_string();
            prop_assert_eq!(fast(text.as_bytes()), Some(ms));
            prop_assert_eq!(slow(text.as_bytes()), Some(ms));
        }

        #[test]
        fn both_paths_agree_on_any_text(text in "[0-9]{4}-[0-9]{2}-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{1,9})?Z") {
            if let Some(ms) = fast(text.as_bytes()) {
                prop_assert_eq!(slow(text.as_bytes()), Some(ms));
            }
        }
    }

    #[test]
    fn an_offset_and_finer_digits_are_understood() {
        let expected = parse(b"2026-11-21T20:15:03.120Z");
        assert!(expected.is_some());
        assert_eq!(parse(b"2026-11-21T22:15:03.1209999+02:00"), expected);
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "2026-02-30T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-21",
            "yesterday",
            "2026-11-21T20:15:03",
            "2026-11-21T20:15:03Z[UTC]",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
