//! Decimal numbers of any length as integers at a scale, exactly.

use std::fmt;

use crate::aggregate::Sum;

/// An integer and how many of its digits stand behind the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal {
    /// The number times 10^`scale`.
    pub value: Sum,
    /// Decimal digits.
    pub scale: u8,
    /// So many of them are shown at least; zeros at the end beyond are not.
    pub digits_min: u8,
}

impl Decimal {
    /// The nearest double.
    #[must_use]
    pub fn as_f64(&self) -> f64 {
        self.value.as_f64() / 10_f64.powi(i32::from(self.scale))
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = usize::from(self.scale);
        let text = format!("{:0>width$}", self.value.digits(), width = scale + 1);
        let (whole, fraction) = text.split_at(text.len() - scale);
        let shown = fraction.trim_end_matches('0').len().max(self.digits_min.into());
        let sign = if self.value.is_negative() { "-" } else { "" };
        match &fraction[..shown.min(scale)] {
            "" => write!(f, "{sign}{whole}"),
            fraction => write!(f, "{sign}{whole}.{fraction}"),
        }
    }
}

/// The text of a JSON number × 10^`scale`, rounded half away from zero; `None` where that does
/// not fit 128 bits.
pub(super) fn scaled(number: &str, scale: u8) -> Option<i128> {
    let (is_negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number),
    };
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = || whole.bytes().chain(fraction.bytes()).skip_while(|&digit| digit == b'0');
    let len = digits().count();
    if len == 0 {
        return Some(0);
    }
    // A longer one is as good as endless.
    let endless = if exponent.starts_with('-') { -EXPONENT_END } else { EXPONENT_END };
    let exponent = exponent.strip_prefix('+').unwrap_or(exponent).parse().unwrap_or(endless);
    let exponent = exponent.clamp(-EXPONENT_END, EXPONENT_END);
    // So many digits are left of the point once it is moved.
    let behind = i64::try_from(fraction.len()).ok()?;
    let kept = exponent - behind + i64::from(scale) + i64::try_from(len).ok()?;
    let Ok(kept) = usize::try_from(kept) else { return Some(0) };
    if kept > DIGITS_MAX {
        return None;
    }
    let mut shown = digits().chain(std::iter::repeat(b'0')).take(kept);
    let magnitude = shown.try_fold(0_u128, |value, digit| {
        value.checked_mul(10)?.checked_add(u128::from(digit - b'0'))
    })?;
    let is_half = digits().nth(kept).is_some_and(|digit| digit >= b'5');
    let magnitude = i128::try_from(magnitude.checked_add(u128::from(is_half))?).ok()?;
    Some(if is_negative { -magnitude } else { magnitude })
}

/// Digits of 2^127.
const DIGITS_MAX: usize = 39;
/// Far past what the digits of any event could make up for.
const EXPONENT_END: i64 = 1 << 40;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_read_to_their_last_digit() {
        let table = [
            ("0", 6, Some(0)),
            ("-0", 6, Some(0)),
            ("0e99999999999999999999", 6, Some(0)),
            ("19.99", 2, Some(1_999)),
            ("1.005", 2, Some(101)),
            ("-1.005", 2, Some(-101)),
            ("1.00499999999999999999999999999999999999999", 2, Some(100)),
            ("1.0000005", 6, Some(1_000_001)),
            ("1e13", 6, Some(10_000_000_000_000_000_000)),
            ("1E+13", 0, Some(10_000_000_000_000)),
            ("9223372036854.775808", 6, Some(1 << 63)),
            ("12345678901234567890123", 6, Some(12_345_678_901_234_567_890_123_000_000)),
            ("1e30", 6, Some(10_i128.pow(36))),
            ("1e32", 6, Some(10_i128.pow(38))),
            ("1e33", 6, None),
            ("170141183460469231731687303715884105727", 0, Some(i128::MAX)),
            ("170141183460469231731687303715884105728", 0, None),
            ("-170141183460469231731687303715884105727", 0, Some(-i128::MAX)),
            ("0.5", 0, Some(1)),
            ("0.49", 0, Some(0)),
            ("0.05", 0, Some(0)),
            ("5e-7", 6, Some(1)),
            ("5e-8", 6, Some(0)),
            ("1e-99999999999999999999", 6, Some(0)),
            ("1e99999999999999999999", 6, None),
            ("0.000000000000000000000000000000000000000000001e45", 3, Some(1_000)),
        ];
        for (text, scale, value) in table {
            assert_eq!(scaled(text, scale), value, "{text} at {scale}");
        }
    }

    #[test]
    fn a_decimal_shows_the_digits_that_it_was_given() {
        let shown = |value: i128, scale, digits_min| {
            Decimal { value: value.into(), scale, digits_min }.to_string()
        };
        assert_eq!(shown(5_995, 2, 2), "59.95");
        assert_eq!(shown(6_000, 2, 2), "60.00");
        assert_eq!(shown(-5, 2, 2), "-0.05");
        assert_eq!(shown(0, 2, 2), "0.00");
        assert_eq!(shown(59_950_000, 6, 1), "59.95");
        assert_eq!(shown(60_000_000, 6, 1), "60.0");
        assert_eq!(shown(7, 0, 0), "7");
        assert_eq!(shown(i128::MIN, 0, 0), i128::MIN.to_string());
        assert_eq!(shown(i128::MAX, 9, 9), "170141183460469231731687303715.884105727");
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(value in any::<i128>(), bits in 0_u32..128, scale in 0_u8..=9) {
            let value = (value >> bits).max(-i128::MAX);
            let text = Decimal { value: value.into(), scale, digits_min: 1 }.to_string();
            prop_assert_eq!(scaled(&text, scale), Some(value), "{}", text);
        }

        #[test]
        fn whole_numbers_and_exponents_are_what_they_say(
            whole in any::<i32>(), exponent in 0_u32..12, scale in 0_u8..=9,
        ) {
            let expected = i128::from(whole) * 10_i128.pow(exponent + u32::from(scale));
            prop_assert_eq!(scaled(&format!("{whole}e{exponent}"), scale), Some(expected));
        }
    }
}
