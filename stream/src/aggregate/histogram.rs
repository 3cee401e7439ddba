//! Quantiles: integer counts in logarithmic buckets, within 1 % of the exact value.

use smallvec::SmallVec;

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

/// Buckets for magnitudes past those of 64 bits, up to 2^127, numbered on.
const WIDE_BUCKETS: usize = count_wide_buckets();

/// First magnitude of each of them.
static WIDE_LOWS: [u128; WIDE_BUCKETS] = wide_lows();

const WIDE_MAGNITUDE_MAX: u128 = 1 << 127;

/// As [`last_of`], where 128 bits would be passed on the way.
const fn wide_last_of(low: u128) -> u128 {
    low + low / 99 * 2 + low % 99 * 2 / 99
}

const fn count_wide_buckets() -> usize {
    let (mut low, mut count) = (lows()[BUCKETS] as u128, 0);
    while low <= WIDE_MAGNITUDE_MAX {
        low = wide_last_of(low) + 1;
        count += 1;
    }
    count
}

const fn wide_lows() -> [u128; WIDE_BUCKETS] {
    let mut wide = [lows()[BUCKETS] as u128; WIDE_BUCKETS];
    let mut bucket = 1;
    while bucket < WIDE_BUCKETS {
        wide[bucket] = wide_last_of(wide[bucket - 1]) + 1;
        bucket += 1;
    }
    wide
}

/// As [`bucket_of`], for any value.
#[must_use]
pub(crate) fn bucket_of_wide(value: i128) -> i16 {
    if let Ok(narrow) = i64::try_from(value) {
        return bucket_of(narrow);
    }
    let magnitude = value.unsigned_abs();
    let wide = WIDE_LOWS.partition_point(|&low| low <= magnitude);
    let bucket = i16::try_from(BUCKETS + wide).expect("some 4,000 buckets");
    if value < 0 { -bucket } else { bucket }
}

/// The value that stands for a bucket: at most 1 % from every integer in it.
fn middle_of(bucket: i16) -> f64 {
    let Some(index) = usize::from(bucket.unsigned_abs()).checked_sub(1) else { return 0.0 };
    let (low, last) = match index.checked_sub(BUCKETS) {
        None => (LOWS[index] as f64, last_of(LOWS[index]) as f64),
        Some(wide) => (WIDE_LOWS[wide] as f64, wide_last_of(WIDE_LOWS[wide]) as f64),
    };
    let middle = 2.0 * low * last / (low + last);
    if bucket < 0 { -middle } else { middle }
}

/// Counts by bucket. Signed: sessions take back what they gave.
///
/// Few buckets lie in a sorted list, many in an array from the least to the greatest. Which of
/// the two is no part of the value: equality and bytes see the buckets that are not zero.
#[derive(Clone, Debug)]
pub struct Histogram(Form);

#[derive(Clone, Debug)]
enum Form {
    /// Ascending, none of them zero.
    Sparse(Vec<(i16, i64)>),
    /// Counts of `base`, `base + 1`, …
    Dense { base: i16, counts: Vec<i64> },
}

/// From so many buckets an array is shorter and faster than a list.
const SPARSE_MAX: usize = 32;
/// An array has at most so many places for each bucket of the list that it replaces. Of 4 it
/// saved 2 % of a layer's memory and cost a quarter of its speed (benches/cells.rs, 2026-11-24).
const DENSE_WIDTH_MAX: usize = 16;

impl Default for Histogram {
    fn default() -> Self {
        Self(Form::Sparse(Vec::new()))
    }
}

impl PartialEq for Histogram {
    fn eq(&self, other: &Self) -> bool {
        self.buckets().eq(other.buckets())
    }
}

impl Eq for Histogram {}

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

    #[inline]
    pub(crate) fn add(&mut self, bucket: i16, count: i64) {
        if let Form::Dense { base, counts } = &mut self.0 {
            let place = usize::try_from(i32::from(bucket) - i32::from(*base));
            if let Some(own) = place.ok().and_then(|place| counts.get_mut(place)) {
                *own += count;
                return;
            }
        }
        self.add_bucket(bucket, count);
    }

    /// Counts one in each of these buckets, in any order.
    pub(crate) fn add_all(&mut self, buckets: impl Iterator<Item = i16>) {
        if matches!(self.0, Form::Dense { .. }) {
            buckets.for_each(|bucket| self.add(bucket, 1));
            return;
        }
        let mut sorted: SmallVec<[i16; 64]> = SmallVec::new();
        for bucket in buckets {
            sorted.push(bucket);
        }
        sorted.sort_unstable();
        let mut counts: SmallVec<[(i16, i64); 64]> = SmallVec::new();
        for run in sorted.chunk_by(|one, next| one == next) {
            counts.push((run[0], i64::try_from(run.len()).unwrap_or(i64::MAX)));
        }
        self.add_sorted(&counts);
    }

    /// Adds buckets that ascend.
    fn add_sorted(&mut self, theirs: &[(i16, i64)]) {
        match &mut self.0 {
            Form::Sparse(own) => {
                merge_lists(own, theirs);
                self.widen();
            }
            Form::Dense { base, counts } => {
                let (Some(&(first, _)), Some(&(last, _))) = (theirs.first(), theirs.last()) else {
                    return;
                };
                cover(base, counts, first, last);
                for &(bucket, count) in theirs {
                    counts[offset(*base, bucket)] += count;
                }
            }
        }
    }

    fn add_bucket(&mut self, bucket: i16, count: i64) {
        match &mut self.0 {
            Form::Dense { base, counts } => {
                if count != 0 {
                    cover(base, counts, bucket, bucket);
                    counts[offset(*base, bucket)] += count;
                }
            }
            Form::Sparse(buckets) => match buckets.binary_search_by_key(&bucket, |&(own, _)| own) {
                Ok(place) => {
                    buckets[place].1 += count;
                    if buckets[place].1 == 0 {
                        buckets.remove(place);
                    }
                }
                Err(_) if count == 0 => {}
                Err(place) => {
                    buckets.insert(place, (bucket, count));
                    self.widen();
                }
            },
        }
    }

    /// Turns a long list into an array where that is not much longer.
    fn widen(&mut self) {
        let Form::Sparse(buckets) = &self.0 else { return };
        let (Some(&(base, _)), Some(&(last, _))) = (buckets.first(), buckets.last()) else {
            return;
        };
        if buckets.len() > SPARSE_MAX && offset(base, last) < DENSE_WIDTH_MAX * buckets.len() {
            let mut counts = vec![0; offset(base, last) + 1];
            for &(bucket, count) in buckets {
                counts[offset(base, bucket)] = count;
            }
            self.0 = Form::Dense { base, counts };
        }
    }

    /// Adds all that `other` counted.
    pub fn merge(&mut self, other: &Self) {
        match (&mut self.0, &other.0) {
            (_, Form::Sparse(theirs)) => self.add_sorted(theirs),
            (Form::Sparse(own), Form::Dense { base, counts }) => {
                let (own, mut dense) = (std::mem::take(own), (*base, counts.clone()));
                if let (Some(&(first, _)), Some(&(last, _))) = (own.first(), own.last()) {
                    cover(&mut dense.0, &mut dense.1, first, last);
                }
                for (bucket, count) in own {
                    dense.1[offset(dense.0, bucket)] += count;
                }
                self.0 = Form::Dense { base: dense.0, counts: dense.1 };
            }
            (Form::Dense { base, counts }, Form::Dense { base: from, counts: theirs }) => {
                let last = i32::from(*from) + i32::try_from(theirs.len()).unwrap_or(0) - 1;
                cover(base, counts, *from, i16::try_from(last).unwrap_or(i16::MAX));
                for (own, theirs) in counts[offset(*base, *from)..].iter_mut().zip(theirs) {
                    *own += theirs;
                }
            }
        }
    }

    /// The buckets that are not zero, ascending.
    fn buckets(&self) -> impl Iterator<Item = (i16, i64)> {
        let (sparse, base, dense) = match &self.0 {
            Form::Sparse(buckets) => (buckets.as_slice(), 0, [].as_slice()),
            Form::Dense { base, counts } => ([].as_slice(), *base, counts.as_slice()),
        };
        let dense = (base..).zip(dense.iter().copied()).filter(|&(_, count)| count != 0);
        sparse.iter().copied().chain(dense)
    }

    /// True where a value past 64 bits was counted.
    #[must_use]
    pub fn is_wide(&self) -> bool {
        let wide = |bucket: i16| usize::from(bucket.unsigned_abs()) > BUCKETS;
        let may_be = match &self.0 {
            Form::Sparse(buckets) => {
                [buckets.first(), buckets.last()].into_iter().flatten().any(|&(one, _)| wide(one))
            }
            Form::Dense { base, counts } => {
                let width = i16::try_from(counts.len()).unwrap_or(i16::MAX);
                wide(*base) || wide(base.saturating_add(width))
            }
        };
        may_be && self.buckets().any(|(bucket, _)| wide(bucket))
    }

    /// How many values were counted.
    #[must_use]
    pub fn count(&self) -> i64 {
        self.buckets().map(|(_, count)| count).sum()
    }

    /// True where every count cancelled out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buckets().next().is_none()
    }

    /// Forgets everything and keeps the memory of a list.
    pub(crate) fn clear(&mut self) {
        match &mut self.0 {
            Form::Sparse(buckets) => buckets.clear(),
            Form::Dense { .. } => self.0 = Form::Sparse(Vec::new()),
        }
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
        for (bucket, count) in self.buckets() {
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
        match &self.0 {
            Form::Sparse(buckets) => buckets.capacity() * 16,
            Form::Dense { counts, .. } => counts.capacity() * 8,
        }
    }

    /// Appends the canonical bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.buckets().count() as u64);
        let mut before = 0;
        for (bucket, count) in self.buckets() {
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
            if usize::from(narrow.unsigned_abs()) > BUCKETS + WIDE_BUCKETS {
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
        let mut own = Self(Form::Sparse(buckets));
        own.widen();
        Ok(own)
    }
}

/// Places from `base` to `bucket`, which is not before it.
fn offset(base: i16, bucket: i16) -> usize {
    usize::try_from(i32::from(bucket) - i32::from(base)).unwrap_or(0)
}

/// Adds a sorted list to another; buckets that cancel out are no part of it.
fn merge_lists(own: &mut Vec<(i16, i64)>, theirs: &[(i16, i64)]) {
    match (own.last(), theirs.first()) {
        (_, None) => return,
        (Some(&(last, _)), Some(&(first, _))) if first <= last => {}
        _ => return own.extend_from_slice(theirs),
    }
    let mut fresh = theirs.len();
    let mut rest = own.iter().peekable();
    for &(bucket, _) in theirs {
        while rest.next_if(|&&(own, _)| own < bucket).is_some() {}
        fresh -= usize::from(rest.peek().is_some_and(|&&(own, _)| own == bucket));
    }
    // From the back, where there is room, so that nothing moves twice.
    let mut from = own.len();
    own.resize(from + fresh, (0, 0));
    let (mut to, mut cancelled) = (own.len(), false);
    for &(bucket, count) in theirs.iter().rev() {
        while from > 0 && own[from - 1].0 > bucket {
            (from, to) = (from - 1, to - 1);
            own[to] = own[from];
        }
        to -= 1;
        let known = from > 0 && own[from - 1].0 == bucket;
        let before = if known { own[from - 1].1 } else { 0 };
        from -= usize::from(known);
        own[to] = (bucket, before + count);
        cancelled |= before + count == 0;
    }
    if cancelled {
        own.retain(|&(_, count)| count != 0);
    }
}

/// Makes an array reach from `first` to `last` too.
fn cover(base: &mut i16, counts: &mut Vec<i64>, first: i16, last: i16) {
    if first < *base {
        let before = offset(first, *base);
        counts.splice(0..0, std::iter::repeat_n(0, before));
        *base = first;
    }
    let needed = offset(*base, last) + 1;
    if counts.len() < needed {
        counts.resize(needed, 0);
    }
}

#[cfg(test)]
mod tests;
