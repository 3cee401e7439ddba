//! RFC 3339 in and out.

use std::fmt;

/// Milliseconds since 1970 UTC, digits past the millisecond cut off (towards the past).
///
/// Taken is RFC 3339, and of what lies beyond it only this: a comma before the fraction, and
/// offsets without a colon (`+0130`) or without minutes (`+01`). A leap second counts as the
/// second before it.
pub(crate) fn parse(text: &[u8]) -> Option<i64> {
    let (moment, rest) = text.split_at_checked(19)?;
    let &[_, _, _, _, b'-', _, _, b'-', _, _, b'T' | b't' | b' ', _, _, b':', _, _, b':', _, _] =
        moment
    else {
        return None;
    };
    let year = digits(&moment[0..4])?;
    let month = digits(&moment[5..7])?;
    let day = digits(&moment[8..10])?;
    let hour = digits(&moment[11..13])?;
    let minute = digits(&moment[14..16])?;
    let second = digits(&moment[17..19])?;
    if !(1..=12).contains(&month)
        || !(1..=days_in_month(year, month)).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let (millis, rest) = fraction(rest)?;
    let ahead_s = 60 * offset_minutes(rest)?;
    let minute_s = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 - ahead_s;
    if second == 60 && !ends_a_month(minute_s + 60) {
        return None;
    }
    Some((minute_s + second.min(59)) * 1000 + millis)
}

/// The milliseconds of a fraction, 0 without one, and what comes after it.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let [b'.' | b',', rest @ ..] = text else { return Some((0, text)) };
    let len = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (fraction, rest) = rest.split_at(len);
    let millis = match fraction {
        [] => return None,
        [a] => 100 * digits(&[*a])?,
        [a, b] => 10 * digits(&[*a, *b])?,
        [a, b, c, ..] => digits(&[*a, *b, *c])?,
    };
    Some((millis, rest))
}

/// How many minutes the written time is ahead of UTC: hours to 23 and minutes to 59, as the
/// grammar has it.
fn offset_minutes(text: &[u8]) -> Option<i64> {
    let (sign, hour, minute): (_, _, &[u8]) = match text {
        [b'Z' | b'z'] => return Some(0),
        [sign, a, b] => (sign, [*a, *b], b"00"),
        [sign, a, b, b':', minute @ ..] | [sign, a, b, minute @ ..] if minute.len() == 2 => {
            (sign, [*a, *b], minute)
        }
        _ => return None,
    };
    let (hour, minute) = (digits(&hour)?, digits(minute)?);
    if hour > 23 || minute > 59 {
        return None;
    }
    match sign {
        b'+' => Some(hour * 60 + minute),
        b'-' => Some(-(hour * 60 + minute)),
        _ => None,
    }
}

/// True for the first second of a month, before which a leap second may be.
fn ends_a_month(seconds: i64) -> bool {
    seconds % 86_400 == 0 && civil_from_days(seconds / 86_400).2 == 1
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

    /// The library's word, for what RFC 3339 and it both know. It ends 26 hours before we do, so
    /// its moments lie 400 years back: the calendar repeats.
    fn oracle(text: &str) -> Option<i64> {
        const YEARS_400_MS: i64 = 146_097 * 86_400_000;
        let year: u32 = text.get(0..4)?.parse().ok()?;
        let (text, back) = match year {
            9999 => (format!("9599{}", &text[4..]), YEARS_400_MS),
            _ => (text.to_owned(), 0),
        };
        let time: jiff::Timestamp = text.parse().ok()?;
        let ms = time.as_nanosecond().div_euclid(1_000_000);
        Some(i64::try_from(ms).ok()? + back)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(ms in -62_135_596_800_000i64..253_402_300_800_000) {
            let text = crate::EventTime::from_ms(ms).to_string();
            prop_assert_eq!(parse(text.as_bytes()), Some(ms));
            prop_assert_eq!(oracle(&text), Some(ms));
        }

        #[test]
        fn a_time_of_rfc_3339_is_read_as_the_library_reads_it(
            day in "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])",
            between in "[Tt ]",
            time in "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.,][0-9]{1,9})?",
            offset in "[Zz]|[+-]([01][0-9]|2[0-3])(:?[0-5][0-9])?",
        ) {
            let text = format!("{day}{between}{time}{offset}");
            prop_assert_eq!(parse(text.as_bytes()), oracle(&text), "{}", text);
        }

        #[test]
        fn nothing_is_taken_that_the_library_refuses(
            text in "[0-9]{4}-[0-9]{2}-[0-3][0-9][Tt ]?[0-2]?[0-9]:?[0-9]{2}(:[0-9]{2})?([.,][0-9]{0,9})?[Zz+-]?[0-9:]{0,6}"
        ) {
            if let Some(ms) = parse(text.as_bytes()) {
                prop_assert_eq!(oracle(&text), Some(ms), "{}", text);
            }
        }
    }

    #[test]
    fn an_offset_and_finer_digits_are_understood() {
        let expected = parse(b"2026-11-21T20:15:03.120Z");
        assert!(expected.is_some());
        for text in [
            "2026-11-21T22:15:03.1209999+02:00",
            "2026-11-21t20:15:03.120z",
            "2026-11-21 20:15:03.12-00:00",
            "2026-11-22T20:14:03.12+23:59",
            "2026-11-20T20:16:03.12-23:59",
            "2026-11-21T20:15:03.12000000000000000000000000Z",
            // Beyond RFC 3339, and all that is.
            "2026-11-21T20:15:03,120Z",
            "2026-11-21T22:15:03.12+0200",
            "2026-11-21T22:15:03.12+02",
        ] {
            assert_eq!(parse(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn digits_past_the_millisecond_are_cut_towards_the_past() {
        for (text, ms) in [
            ("1970-01-01T00:00:00.0009991Z", 0),
            ("1969-12-31T23:59:59.9990001Z", -1),
            ("1969-12-31T23:59:59.0009991Z", -1000),
            ("0000-03-01t00:00:00,0009991Z", -62_162_035_200_000),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(ms), "{text}");
            assert_eq!(oracle(text), Some(ms), "{text}");
        }
    }

    #[test]
    fn an_offset_that_no_clock_has_is_refused() {
        for offset in [
            "+25:00",
            "+24:00",
            "-24:00",
            "+14:00:30",
            "+23:60",
            "+99:99",
            "+2:00",
            "+020",
            "+02:",
            "+02:0",
            "+02:000",
            "+",
            "-",
            "02:00",
            "Z+02:00",
            "+02:00Z",
            "ZZ",
            "UTC",
            "[UTC]",
            "Z[UTC]",
            "\u{2212}02:00",
        ] {
            let text = format!("2026-11-21T20:15:03{offset}");
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_leap_second_is_taken_at_the_end_of_a_month_only() {
        let before = parse(b"2016-12-31T23:59:59.5Z");
        assert_eq!(parse(b"2016-12-31T23:59:60.5Z"), before);
        assert_eq!(parse(b"2017-01-01T00:59:60.5+01:00"), before);
        for text in ["2016-12-30T23:59:60Z", "2016-12-31T22:59:60Z", "2016-12-31T23:59:61Z"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "2026-02-30T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-11-00T00:00:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T23:60:00Z",
            "2026-11-21",
            "yesterday",
            "2026-11-21T20:15:03",
            "2026-11-21T20:15:03.Z",
            "2026-11-21T20:15Z",
            "2026-11-21T20Z",
            "20261121T201503Z",
            "+002026-11-21T20:15:03Z",
            "-000001-11-21T20:15:03Z",
            "12026-11-21T20:15:03Z",
            "2026-W47-6T20:15:03Z",
            "2026-325T20:15:03Z",
            "2026-11-21_20:15:03Z",
            "2026-11-21T20:15:03 Z",
            " 2026-11-21T20:15:03Z",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
