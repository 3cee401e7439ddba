//! Quantiles: integer counts in logarithmic buckets, within 1 % of the exact value.

use super::wire::{AggregateDamaged, Reader, put_signed, put_varint};

/// Relative error of a quantile: half the width of a bucket, always kept.
pub const QUANTILE_ERROR: f64 = 0.01;

/// Buckets for the magnitudes 1..=2^63: the integers `[low, low × 101 / 99]` each.
///
/// Bounds are integers found by integer arithmetic, so every machine and every engine draws
/// them alike; up to 49 each integer has a bucket of its own and is exact.
const BUCKETS: usize = count_buckets();

/// First magnitude of each bucket, and a sentinel.
static LOWS: [u64; BUCKETS + 1] = lows();

/// For each power of two the bucket that holds it.
static OCTAVES: [u16; 65] = octaves();

const MAGNITUDE_MAX: u64 = 1 << 63;

const fn last_of(low: u64) -> u64 {
    let last = low as u128 * 101 / 99;
    #[expect(clippy::cast_possible_truncation, reason = "below 2^64: low is at most 2^63")]
    if last > u64::MAX as u128 { u64::MAX } else { last as u64 }
}

const fn count_buckets() -> usize {
    let (mut low, mut count) = (1, 0);
    while low <= MAGNITUDE_MAX {
        low = last_of(low).saturating_add(1);
        count += 1;
    }
    count
}

const fn lows() -> [u64; BUCKETS + 1] {
    let mut lows = [1; BUCKETS + 1];
    let mut bucket = 1;
    while bucket <= BUCKETS {
        lows[bucket] = last_of(lows[bucket - 1]).saturating_add(1);
        bucket += 1;
    }
    lows
}

const fn octaves() -> [u16; 65] {
    let lows = lows();
    #[expect(clippy::cast_possible_truncation, reason = "there are about 2,100 buckets")]
    let mut octaves = [BUCKETS as u16; 65];
    let mut bits = 0;
    let mut bucket = 0_u16;
    while bits < 64 {
        while (bucket as usize) + 1 < BUCKETS && lows[bucket as usize + 1] <= 1 << bits {
            bucket += 1;
        }
        octaves[bits] = bucket;
        bits += 1;
    }
    octaves
}

/// The bucket of a value: 0 for zero, k for magnitudes of bucket k, −k for negative ones.
#[must_use]
pub(crate) fn bucket_of(value: i64) -> i16 {
    let magnitude = value.unsigned_abs();
    if magnitude == 0 {
        return 0;
    }
    let octave = magnitude.ilog2() as usize;
    let (first, next) = (usize::from(OCTAVES[octave]), usize::from(OCTAVES[octave + 1]));
    let within = LOWS[first + 1..=next.min(BUCKETS - 1)].partition_point(|&low| low <= magnitude);
    let bucket = i16::try_from(first + within + 1).unwrap_or(i16::MAX);
    if value < 0 { -bucket } else { bucket }
}

/// The value that stands for a bucket: at most 1 % from every integer in it.
fn middle_of(bucket: i16) -> f64 {
    let Some(index) = usize::from(bucket.unsigned_abs()).checked_sub(1) else { return 0.0 };
    let low = LOWS[index.min(BUCKETS - 1)] as f64;
    let last = last_of(LOWS[index.min(BUCKETS - 1)]) as f64;
    let middle = 2.0 * low * last / (low + last);
    if bucket < 0 { -middle } else { middle }
}

/// Counts by bucket, ascending, none of them zero. Signed: sessions take back what they gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    buckets: Vec<(i16, i64)>,
}

impl Histogram {
    /// Nothing counted.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts `value` `count` times; a negative count takes back.
    pub fn record(&mut self, value: i64, count: i64) {
        self.add(bucket_of(value), count);
    }

    pub(crate) fn add(&mut self, bucket: i16, count: i64) {
        match self.buckets.binary_search_by_key(&bucket, |&(own, _)| own) {
            Ok(place) => {
                self.buckets[place].1 += count;
                if self.buckets[place].1 == 0 {
                    self.buckets.remove(place);
                }
            }
            Err(_) if count == 0 => {}
            Err(place) => self.buckets.insert(place, (bucket, count)),
        }
    }

    /// Adds all that `other` counted.
    pub fn merge(&mut self, other: &Self) {
        if self.buckets.is_empty() {
            self.buckets.extend_from_slice(&other.buckets);
        } else if other.buckets.len() <= 8 {
            for &(bucket, count) in &other.buckets {
                self.add(bucket, count);
            }
        } else {
            self.buckets = sum(&self.buckets, &other.buckets);
        }
    }

    /// How many values were counted.
    #[must_use]
    pub fn count(&self) -> i64 {
        self.buckets.iter().map(|&(_, count)| count).sum()
    }

    /// True where every count cancelled out.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Forgets everything and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.buckets.clear();
    }

    /// The nearest-rank quantile, `parts` in a million, within [`QUANTILE_ERROR`]; `None`
    /// where nothing was counted.
    #[must_use]
    pub fn quantile(&self, parts: u32) -> Option<f64> {
        let total = self.count();
        if total <= 0 {
            return None;
        }
        let rank = (i128::from(total) * i128::from(parts) + 999_999) / 1_000_000;
        let mut left = rank.max(1);
        for &(bucket, count) in &self.buckets {
            left -= i128::from(count);
            if left <= 0 {
                return Some(middle_of(bucket));
            }
        }
        None
    }

    /// Bytes on the heap.
    #[must_use]
    pub const fn heap_bytes(&self) -> usize {
        self.buckets.capacity() * 16
    }

    /// Appends the canonical bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.buckets.len() as u64);
        let mut before = 0;
        for &(bucket, count) in &self.buckets {
            put_signed(out, i64::from(bucket) - before);
            put_signed(out, count);
            before = i64::from(bucket);
        }
    }

    /// Reads what [`Histogram::encode`] wrote, all of it.
    ///
    /// # Errors
    ///
    /// [`AggregateDamaged`] where the bytes are not a canonical form.
    pub fn decode(bytes: &[u8]) -> Result<Self, AggregateDamaged> {
        let mut reader = Reader::new(bytes);
        let histogram = Self::read(&mut reader)?;
        if reader.is_empty() { Ok(histogram) } else { Err(AggregateDamaged("bytes left over")) }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, AggregateDamaged> {
        let len = reader.count()?;
        let mut buckets: Vec<(i16, i64)> = Vec::with_capacity(len);
        let mut before = 0_i64;
        for _ in 0..len {
            let bucket = before.saturating_add(reader.signed()?);
            let narrow =
                i16::try_from(bucket).map_err(|_| AggregateDamaged("bucket out of range"))?;
            if usize::from(narrow.unsigned_abs()) > BUCKETS {
                return Err(AggregateDamaged("bucket out of range"));
            }
            if buckets.last().is_some_and(|&(last, _)| last >= narrow) {
                return Err(AggregateDamaged("buckets out of order"));
            }
            let count = reader.signed()?;
            if count == 0 {
                return Err(AggregateDamaged("empty bucket"));
            }
            buckets.push((narrow, count));
            before = bucket;
        }
        Ok(Self { buckets })
    }
}

fn sum(one: &[(i16, i64)], two: &[(i16, i64)]) -> Vec<(i16, i64)> {
    let mut all = Vec::with_capacity(one.len() + two.len());
    let (mut i, mut j) = (0, 0);
    while let (Some(&a), Some(&b)) = (one.get(i), two.get(j)) {
        let both = a.0 == b.0;
        let taken = if both { (a.0, a.1 + b.1) } else { a.min(b) };
        i += usize::from(a.0 <= b.0);
        j += usize::from(b.0 <= a.0);
        if taken.1 != 0 {
            all.push(taken);
        }
    }
    all.extend_from_slice(&one[i..]);
    all.extend_from_slice(&two[j..]);
    all
}

#[cfg(test)]
mod tests;
