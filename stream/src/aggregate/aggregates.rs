//! One cell's aggregates: a slot for each thing that some metric counts.

use super::wire::{AggregateDamaged, Reader, put_signed};
use super::{Distinct, Histogram, Sum, TopCounts};

/// How many slots of each kind a cell of one domain has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Numeric counts.
    pub counts: usize,
    /// Scaled sums.
    pub sums: usize,
    /// Minima.
    pub mins: usize,
    /// Maxima.
    pub maxs: usize,
    /// Distinct counters.
    pub distincts: usize,
    /// Histograms.
    pub histograms: usize,
    /// Counts per value.
    pub tops: usize,
}

impl Shape {
    /// The same without the kinds of which no slot is wanted.
    #[must_use]
    pub const fn of_kinds(self, want: SlotMask) -> Self {
        const fn kept(slots: usize, want: u64) -> usize {
            if want == 0 { 0 } else { slots }
        }
        Self {
            counts: kept(self.counts, want.counts),
            sums: kept(self.sums, want.sums),
            mins: kept(self.mins, want.mins),
            maxs: kept(self.maxs, want.maxs),
            distincts: kept(self.distincts, want.distincts),
            histograms: kept(self.histograms, want.histograms),
            tops: kept(self.tops, want.tops),
        }
    }
}

/// Which slots a reader needs: bit i for slot i of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SlotMask {
    /// Numeric counts.
    pub counts: u64,
    /// Scaled sums.
    pub sums: u64,
    /// Minima.
    pub mins: u64,
    /// Maxima.
    pub maxs: u64,
    /// Distinct counters.
    pub distincts: u64,
    /// Histograms.
    pub histograms: u64,
    /// Counts per value.
    pub tops: u64,
}

impl SlotMask {
    /// No slot.
    pub const NONE: Self =
        Self { counts: 0, sums: 0, mins: 0, maxs: 0, distincts: 0, histograms: 0, tops: 0 };

    /// Every slot.
    pub const ALL: Self = Self {
        counts: u64::MAX,
        sums: u64::MAX,
        mins: u64::MAX,
        maxs: u64::MAX,
        distincts: u64::MAX,
        histograms: u64::MAX,
        tops: u64::MAX,
    };

    /// The slots of either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self {
            counts: self.counts | other.counts,
            sums: self.sums | other.sums,
            mins: self.mins | other.mins,
            maxs: self.maxs | other.maxs,
            distincts: self.distincts | other.distincts,
            histograms: self.histograms | other.histograms,
            tops: self.tops | other.tops,
        }
    }

    /// The slots of both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self {
            counts: self.counts & other.counts,
            sums: self.sums & other.sums,
            mins: self.mins & other.mins,
            maxs: self.maxs & other.maxs,
            distincts: self.distincts & other.distincts,
            histograms: self.histograms & other.histograms,
            tops: self.tops & other.tops,
        }
    }

    /// True where no slot is named.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::NONE
    }

    /// True where any slot needs more than numbers: a sketch, a histogram, counts per value.
    #[must_use]
    pub const fn needs_sketches(self) -> bool {
        self.distincts | self.histograms | self.tops != 0
    }
}

/// What one cell holds, free of order: merging in any order and grouping gives equal values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aggregates {
    /// Numeric counts; negative in a layer that takes back sessions.
    pub counts: Vec<i64>,
    /// Sums at their slot's scale.
    pub sums: Vec<Sum>,
    /// Smallest value seen.
    pub mins: Vec<Option<i128>>,
    /// Largest value seen.
    pub maxs: Vec<Option<i128>>,
    /// Distinct counters.
    pub distincts: Vec<Distinct>,
    /// Histograms for quantiles.
    pub histograms: Vec<Histogram>,
    /// Exact counts per value.
    pub tops: Vec<TopCounts>,
}

impl Aggregates {
    /// Empty slots of this shape.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        Self {
            counts: vec![0; shape.counts],
            sums: vec![Sum::default(); shape.sums],
            mins: vec![None; shape.mins],
            maxs: vec![None; shape.maxs],
            distincts: vec![Distinct::new(); shape.distincts],
            histograms: vec![Histogram::new(); shape.histograms],
            tops: vec![TopCounts::new(); shape.tops],
        }
    }

    /// How many slots of each kind.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        Shape {
            counts: self.counts.len(),
            sums: self.sums.len(),
            mins: self.mins.len(),
            maxs: self.maxs.len(),
            distincts: self.distincts.len(),
            histograms: self.histograms.len(),
            tops: self.tops.len(),
        }
    }

    /// Adds all that `other` holds. Both have one shape; slots that only one has are left.
    pub fn merge(&mut self, other: &Self) {
        for (own, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *own += theirs;
        }
        for (own, &theirs) in self.sums.iter_mut().zip(&other.sums) {
            *own += theirs;
        }
        for (own, theirs) in self.mins.iter_mut().zip(&other.mins) {
            lower(own, *theirs);
        }
        for (own, theirs) in self.maxs.iter_mut().zip(&other.maxs) {
            *own = (*own).max(*theirs);
        }
        for (own, theirs) in self.distincts.iter_mut().zip(&other.distincts) {
            own.merge(theirs);
        }
        for (own, theirs) in self.histograms.iter_mut().zip(&other.histograms) {
            own.merge(theirs);
        }
        for (own, theirs) in self.tops.iter_mut().zip(&other.tops) {
            own.merge(theirs);
        }
    }

    /// True where nothing was counted, or everything was taken back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.iter().all(|&count| count == 0)
            && self.sums.iter().all(|sum| sum.is_zero())
            && self.mins.iter().all(Option::is_none)
            && self.maxs.iter().all(Option::is_none)
            && self.distincts.iter().all(Distinct::is_empty)
            && self.histograms.iter().all(Histogram::is_empty)
            && self.tops.iter().all(TopCounts::is_empty)
    }

    /// Bytes in memory, about.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.counts.len() * 8
            + (self.sums.len() + self.mins.len() + self.maxs.len()) * 32
            + self.distincts.iter().map(|one| 32 + one.heap_bytes()).sum::<usize>()
            + self.histograms.iter().map(|one| 24 + one.heap_bytes()).sum::<usize>()
            + self.tops.iter().map(|one| 32 + one.heap_bytes()).sum::<usize>()
    }

    /// True where something is past what the first version of files has a form for.
    #[must_use]
    pub fn is_wide(&self) -> bool {
        self.sums.iter().any(|sum| sum.narrow().is_none())
            || self.mins.iter().chain(&self.maxs).any(|&bound| is_wide(bound))
            || self.histograms.iter().any(Histogram::is_wide)
    }

    /// Appends the canonical bytes: equal aggregates give equal bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for &count in &self.counts {
            put_signed(out, count);
        }
        for &sum in &self.sums {
            put_sum(out, sum);
        }
        for &bound in self.mins.iter().chain(&self.maxs) {
            put_bound(out, bound);
        }
        for distinct in &self.distincts {
            distinct.encode(out);
        }
        for histogram in &self.histograms {
            histogram.encode(out);
        }
        for top in &self.tops {
            top.encode(out);
        }
    }

    /// Reads what [`Aggregates::encode`] wrote for this shape, all of it.
    ///
    /// # Errors
    ///
    /// [`AggregateDamaged`] where the bytes are not a canonical form of this shape.
    pub fn decode(shape: Shape, bytes: &[u8]) -> Result<Self, AggregateDamaged> {
        let mut reader = Reader::new(bytes);
        let mut own = Self::new(shape);
        for count in &mut own.counts {
            *count = reader.signed()?;
        }
        for sum in &mut own.sums {
            *sum = read_sum(&mut reader)?;
        }
        for bound in own.mins.iter_mut().chain(&mut own.maxs) {
            *bound = read_bound(&mut reader)?;
        }
        for distinct in &mut own.distincts {
            *distinct = Distinct::read(&mut reader)?;
        }
        for histogram in &mut own.histograms {
            *histogram = Histogram::read(&mut reader)?;
        }
        for top in &mut own.tops {
            *top = TopCounts::read(&mut reader)?;
        }
        if reader.is_empty() { Ok(own) } else { Err(AggregateDamaged("bytes left over")) }
    }
}

/// The lesser of two minima, where `None` is no value at all.
pub(crate) fn lower(own: &mut Option<i128>, theirs: Option<i128>) {
    *own = match (*own, theirs) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
}

/// True for a bound that the first version of files has no form for.
pub(crate) fn is_wide(bound: Option<i128>) -> bool {
    bound.is_some_and(|value| i64::try_from(value).is_err())
}

/// A sum: short where it fits 64 bits, else 128 bits, else those and how often they were passed,
/// which files of the first version never hold.
pub(crate) fn put_sum(out: &mut Vec<u8>, sum: Sum) {
    match sum.narrow() {
        Some(value) => put_wide(out, value),
        None => {
            let (low, carry) = sum.parts();
            out.push(2);
            out.extend_from_slice(&low.to_le_bytes());
            put_signed(out, carry);
        }
    }
}

fn put_wide(out: &mut Vec<u8>, value: i128) {
    if let Ok(narrow) = i64::try_from(value) {
        out.push(0);
        put_signed(out, narrow);
    } else {
        out.push(1);
        out.extend_from_slice(&value.to_le_bytes());
    }
}

pub(crate) fn read_sum(reader: &mut Reader<'_>) -> Result<Sum, AggregateDamaged> {
    match reader.byte()? {
        0 => Ok(Sum::from(i128::from(reader.signed()?))),
        1 => read_wide(reader).map(Sum::from),
        2 => {
            let low = read_wide(reader)?;
            match reader.signed()? {
                0 => Err(AggregateDamaged("unknown form of a sum")),
                carry => Ok(Sum::from_parts(low, carry)),
            }
        }
        _ => Err(AggregateDamaged("unknown form of a sum")),
    }
}

fn read_wide(reader: &mut Reader<'_>) -> Result<i128, AggregateDamaged> {
    let bytes = reader.take(16)?;
    Ok(i128::from_le_bytes(bytes.try_into().map_err(|_| AggregateDamaged("cut short"))?))
}

pub(crate) fn put_bound(out: &mut Vec<u8>, bound: Option<i128>) {
    match bound.map(|value| (value, i64::try_from(value))) {
        None => out.push(0),
        Some((_, Ok(narrow))) => {
            out.push(1);
            put_signed(out, narrow);
        }
        Some((wide, Err(_))) => {
            out.push(2);
            out.extend_from_slice(&wide.to_le_bytes());
        }
    }
}

pub(crate) fn read_bound(reader: &mut Reader<'_>) -> Result<Option<i128>, AggregateDamaged> {
    match reader.byte()? {
        0 => Ok(None),
        1 => reader.signed().map(|narrow| Some(i128::from(narrow))),
        2 => read_wide(reader).map(Some),
        _ => Err(AggregateDamaged("unknown form of a bound")),
    }
}

#[cfg(test)]
mod tests;
