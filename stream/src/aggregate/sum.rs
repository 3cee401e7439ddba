//! Sums without an end: 128 bits each, and what passes them beside.

use std::collections::BTreeMap;
use std::ops::AddAssign;

/// One sum at its slot's scale. Values of 128 bits add up exactly, however many: `low` wraps
/// around, and `carry` counts how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sum {
    // First, for the order: `low` is less than half a carry.
    carry: i64,
    low: i128,
}

impl Sum {
    /// From its parts: `low + carry × 2^128`.
    pub(crate) const fn from_parts(low: i128, carry: i64) -> Self {
        Self { low, carry }
    }

    /// The sum modulo 2^128, and how often that was passed.
    #[must_use]
    pub const fn parts(self) -> (i128, i64) {
        (self.low, self.carry)
    }

    /// The sum, where it fits 128 bits.
    #[must_use]
    pub const fn narrow(self) -> Option<i128> {
        if self.carry == 0 { Some(self.low) } else { None }
    }

    /// True for what is less than 0.
    #[must_use]
    pub const fn is_negative(self) -> bool {
        self.carry < 0 || (self.carry == 0 && self.low < 0)
    }

    /// The decimal digits of its magnitude, all of them.
    #[must_use]
    pub fn digits(self) -> String {
        // As much as 64 bits hold.
        const GROUP: u128 = 10_u128.pow(19);
        const HALF: u128 = 1 << 64;
        let mut limbs = self.magnitude();
        let mut groups = Vec::new();
        while groups.is_empty() || limbs != [0; 3] {
            let mut rest = 0;
            for limb in &mut limbs {
                let part = rest * HALF + *limb;
                (*limb, rest) = (part / GROUP, part % GROUP);
            }
            groups.push(rest);
        }
        let mut digits = String::new();
        for group in groups.iter().rev() {
            let width = if digits.is_empty() { 1 } else { 19 };
            digits += &format!("{group:0width$}");
        }
        digits
    }

    /// Its magnitude in limbs of 64 bits, the highest first.
    fn magnitude(self) -> [u128; 3] {
        // As two's complement: `low` as it is, and what its sign and the carry make above it.
        let (low, high) = (self.low.cast_unsigned(), self.carry - i64::from(self.low < 0));
        let (low, high) = match self.is_negative() {
            true => (low.wrapping_neg(), -high - i64::from(low != 0)),
            false => (low, high),
        };
        [u128::from(high.cast_unsigned()), low >> 64, low & u128::from(u64::MAX)]
    }

    /// True for 0.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.low == 0 && self.carry == 0
    }

    /// The nearest double, about.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        // 2^128
        const CARRY: f64 = 340_282_366_920_938_463_463_374_607_431_768_211_456.0;
        self.carry as f64 * CARRY + self.low as f64
    }
}

impl From<i128> for Sum {
    fn from(low: i128) -> Self {
        Self { low, carry: 0 }
    }
}

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        let (low, over) = self.low.overflowing_add(other.low);
        self.low = low;
        self.carry += other.carry + if over { direction(other.low) } else { 0 };
    }
}

/// Which end of 128 bits was passed by adding `value`.
const fn direction(value: i128) -> i64 {
    if value > 0 { 1 } else { -1 }
}

/// Many sums: 16 bytes each, and the few past 128 bits by their places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    low: Vec<i128>,
    /// None of them zero.
    carries: BTreeMap<usize, i64>,
}

impl Sums {
    /// From sums modulo 2^128, and how often those at some places passed that.
    #[must_use]
    pub fn from_parts(low: Vec<i128>, carries: BTreeMap<usize, i64>) -> Self {
        Self { low, carries }
    }

    /// Sums modulo 2^128.
    #[must_use]
    pub fn low(&self) -> &[i128] {
        &self.low
    }

    /// How often sums at some places passed 2^128.
    #[must_use]
    pub const fn carries(&self) -> &BTreeMap<usize, i64> {
        &self.carries
    }

    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.low.len()
    }

    /// Bytes in memory, those that wait for more sums included.
    #[must_use]
    pub const fn held_bytes(&self) -> usize {
        self.low.capacity() * size_of::<i128>()
    }

    /// True where there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.low.is_empty()
    }

    /// Adds one at the end.
    pub fn push(&mut self, sum: Sum) {
        if sum.carry != 0 {
            self.carries.insert(self.low.len(), sum.carry);
        }
        self.low.push(sum.low);
    }

    /// The sum at a place.
    ///
    /// # Panics
    ///
    /// Past the end.
    #[inline]
    #[must_use]
    pub fn get(&self, place: usize) -> Sum {
        let carry = match self.carries.is_empty() {
            true => 0,
            false => self.carries.get(&place).copied().unwrap_or(0),
        };
        Sum { low: self.low[place], carry }
    }

    /// Adds `value` at a place.
    #[inline]
    pub(crate) fn add(&mut self, place: usize, value: i128) {
        let (low, over) = self.low[place].overflowing_add(value);
        self.low[place] = low;
        if over {
            self.add_carry(place, direction(value));
        }
    }

    #[cold]
    fn add_carry(&mut self, place: usize, carry: i64) {
        let own = self.carries.entry(place).or_insert(0);
        *own += carry;
        if *own == 0 {
            self.carries.remove(&place);
        }
    }

    /// Adds `len` sums of `other` from its place `from` to those from `place`.
    #[inline]
    pub(crate) fn add_all(&mut self, place: usize, other: &Self, from: usize, len: usize) {
        for slot in 0..len {
            self.add(place + slot, other.low[from + slot]);
        }
        if !other.carries.is_empty() {
            for (&theirs, &carry) in other.carries.range(from..from + len) {
                self.add_carry(place + theirs - from, carry);
            }
        }
    }

    /// Makes it so long; new sums are 0.
    pub(crate) fn grow_to(&mut self, len: usize) {
        self.low.resize(len, 0);
    }

    pub(crate) fn reserve(&mut self, more: usize) {
        self.low.reserve(more);
    }

    /// Makes the first `len` sums 0.
    pub(crate) fn clear_first(&mut self, len: usize) {
        self.low[..len].fill(0);
        self.carries.retain(|&place, _| place >= len);
    }

    /// True where `len` sums from `place` are 0.
    pub(crate) fn are_zero(&self, place: usize, len: usize) -> bool {
        self.low[place..place + len].iter().all(|&low| low == 0)
            && (self.carries.is_empty() || self.carries.range(place..place + len).next().is_none())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = i128> {
        prop_oneof![any::<i128>(), Just(i128::MAX), Just(i128::MIN), Just(-1), Just(0), Just(1)]
    }

    /// The sum as high and low halves of 64 bits, added by hand.
    fn naive(values: &[i128]) -> (i128, i128) {
        let high: i128 = values.iter().map(|value| value >> 64).sum();
        let low: i128 = values.iter().map(|value| value & i128::from(u64::MAX)).sum();
        (high + (low >> 64), low & i128::from(u64::MAX))
    }

    proptest! {
        #[test]
        fn any_order_and_grouping_gives_the_exact_sum(
            values in prop::collection::vec(value(), 0..60),
            cut in 0_usize..60,
        ) {
            let add = |values: &mut dyn Iterator<Item = &i128>| {
                let mut sum = Sum::default();
                values.for_each(|&value| sum += Sum::from(value));
                sum
            };
            let straight = add(&mut values.iter());
            let (left, right) = values.split_at(cut.min(values.len()));
            let mut grouped = add(&mut right.iter().rev());
            grouped += add(&mut left.iter().rev());
            prop_assert_eq!(grouped, straight);
            let (low, carry) = straight.parts();
            let found = ((low >> 64) + (i128::from(carry) << 64), low & i128::from(u64::MAX));
            prop_assert_eq!(found, naive(&values));
            prop_assert_eq!(straight.is_negative(), naive(&values).0 < 0);
            prop_assert_eq!(add(&mut left.iter()).cmp(&straight), naive(left).cmp(&naive(&values)));

            let mut sums = Sums::default();
            sums.grow_to(6);
            for &value in left {
                sums.add(1, value);
            }
            let mut others = Sums::default();
            others.grow_to(4);
            for &value in right {
                others.add(3, value);
            }
            sums.add_all(0, &others, 2, 2);
            prop_assert_eq!(sums.get(1), straight);
            prop_assert_eq!(sums.are_zero(1, 1), straight.is_zero());
            prop_assert!(sums.are_zero(2, 4));
            sums.clear_first(2);
            prop_assert!(sums.are_zero(0, 6));
        }

        /// By what they leave when divided by numbers of which no two share a factor.
        #[test]
        fn its_digits_are_the_sum_to_the_last_one(
            values in prop::collection::vec(value(), 0..60),
            carry in -3_000_000_000_i64..3_000_000_000,
        ) {
            let mut sum = Sum::from_parts(0, carry);
            values.iter().for_each(|&value| sum += Sum::from(value));
            let digits = sum.digits();
            prop_assert!(digits == "0" || !digits.starts_with('0'), "{}", digits);
            let sign = if sum.is_negative() { -1 } else { 1 };
            for by in [(1_i128 << 61) - 1, 1_000_000_000_000_000_003, 1_000_000_000_000_000_009] {
                let told = digits.bytes().fold(0, |rest, digit| {
                    (rest * 10 + i128::from(digit - b'0')) % by
                });
                let carries = i128::from(carry) * ((1_i128 << 64) % by) % by * ((1_i128 << 64) % by);
                let wanted = values.iter().fold(carries % by, |rest, value| (rest + value % by) % by);
                prop_assert_eq!((sign * told - wanted) % by, 0, "{} of {:?}", digits, values);
            }
        }
    }
}
