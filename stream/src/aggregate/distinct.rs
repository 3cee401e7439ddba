//! Distinct users: the exact set of hashes up to 512, from 513 HyperLogLog registers.

use nilometer_event::UserHash;

use super::registers::{RANK_MAX, REGISTERS, Registers, mix};
use super::wire::{AggregateDamaged, Reader, put_varint};

/// The largest set that is kept exactly; ClickHouse's bound for `uniqCombined64(14)` too.
pub const EXACT_MAX: usize = 512;

/// Relative error of an estimate at 95 %: twice the standard error 0.81 % of 2^14 registers.
pub const DISTINCT_ERROR: f64 = 0.016;

/// Below this many set registers, gaps and ranks are shorter than six bits a register.
const SPARSE_MAX: usize = 6_000;

const EXACT: u8 = 0;
const SPARSE: u8 = 1;
const PACKED: u8 = 2;

/// Counts distinct users; its form and its bytes are functions of the set alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distinct(Form);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// Ascending, at most [`EXACT_MAX`].
    Exact(Vec<u64>),
    Estimated(Registers),
}

impl Default for Distinct {
    fn default() -> Self {
        Self(Form::Exact(Vec::new()))
    }
}

impl Distinct {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a user; true where that changed anything.
    pub fn insert_hash(&mut self, user: UserHash) -> bool {
        self.insert_mixed(mix(user.get()))
    }

    /// Adds a hash that went through [`mix`] already; true where that changed anything.
    pub fn insert_mixed(&mut self, h: u64) -> bool {
        match &mut self.0 {
            Form::Estimated(registers) => registers.insert(h),
            Form::Exact(set) => {
                let Err(place) = set.binary_search(&h) else { return false };
                if set.len() < EXACT_MAX {
                    set.insert(place, h);
                } else {
                    self.0 = Form::Estimated(registers_of(set.iter().copied().chain([h])));
                }
                true
            }
        }
    }

    /// Adds all that `other` holds.
    pub fn merge(&mut self, other: &Self) {
        match &other.0 {
            Form::Exact(theirs) => self.merge_sorted(theirs),
            Form::Estimated(theirs) => self.merge_registers(theirs),
        }
    }

    /// Adds all that the counter holds whose [`Distinct::encode`] gave `bytes`, without making
    /// that counter: a reader of many merges each straight into its sum.
    ///
    /// # Errors
    ///
    /// [`AggregateDamaged`] as of [`Distinct::decode`]; some of it may have been added then.
    pub fn merge_encoded(&mut self, bytes: &[u8]) -> Result<(), AggregateDamaged> {
        let mut reader = Reader::new(bytes);
        let form = reader.byte()?;
        match &mut self.0 {
            Form::Estimated(registers) if form == SPARSE => raise_sparse(&mut reader, registers)?,
            Form::Estimated(registers) if form == PACKED => raise_packed(&mut reader, registers)?,
            Form::Estimated(registers) if form == EXACT => {
                each_exact(&mut reader, |h| {
                    registers.insert(h);
                })?;
            }
            _ => {
                self.merge(&Self::decode(bytes)?);
                return Ok(());
            }
        }
        if reader.is_empty() { Ok(()) } else { Err(AggregateDamaged("bytes left over")) }
    }

    /// Adds hashes that are ascending and without repeats.
    pub(crate) fn merge_sorted(&mut self, theirs: &[u64]) {
        match &mut self.0 {
            Form::Estimated(registers) => {
                for &h in theirs {
                    registers.insert(h);
                }
            }
            Form::Exact(own) if own.is_empty() && theirs.len() <= EXACT_MAX => {
                own.extend_from_slice(theirs);
            }
            Form::Exact(_) if theirs.len() <= 4 => {
                for &h in theirs {
                    self.insert_mixed(h);
                }
            }
            Form::Exact(own) => {
                let union = union(own, theirs);
                self.0 = if union.len() <= EXACT_MAX {
                    Form::Exact(union)
                } else {
                    Form::Estimated(registers_of(union.into_iter()))
                };
            }
        }
    }

    pub(crate) fn merge_registers(&mut self, theirs: &Registers) {
        match &mut self.0 {
            Form::Estimated(registers) => registers.merge(theirs),
            Form::Exact(own) => {
                let mut registers = theirs.clone();
                for &h in own.iter() {
                    registers.insert(h);
                }
                self.0 = Form::Estimated(registers);
            }
        }
    }

    /// How many: exact up to 512, else Ertl's estimate (± [`DISTINCT_ERROR`] at 95 %).
    #[must_use]
    pub fn estimate(&self) -> f64 {
        match &self.0 {
            Form::Exact(set) => set.len() as f64,
            Form::Estimated(registers) => registers.estimate(),
        }
    }

    /// True up to 512 users, where [`Distinct::estimate`] is the truth.
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        matches!(self.0, Form::Exact(_))
    }

    /// True where nobody was added.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        matches!(&self.0, Form::Exact(set) if set.is_empty())
    }

    /// Bytes on the heap.
    #[must_use]
    pub const fn heap_bytes(&self) -> usize {
        match &self.0 {
            Form::Exact(set) => set.capacity() * 8,
            Form::Estimated(_) => REGISTERS,
        }
    }

    /// Appends the canonical bytes: equal sets give equal bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match &self.0 {
            Form::Exact(set) => {
                out.push(EXACT);
                put_varint(out, set.len() as u64);
                let start = out.len();
                out.resize(start + set.len() * 8, 0);
                for (bytes, h) in out[start..].as_chunks_mut::<8>().0.iter_mut().zip(set) {
                    *bytes = h.to_le_bytes();
                }
            }
            Form::Estimated(registers) => encode_registers(registers.ranks(), out),
        }
    }

    /// Reads what [`Distinct::encode`] wrote, all of it.
    ///
    /// # Errors
    ///
    /// [`AggregateDamaged`] where the bytes are not a canonical form.
    pub fn decode(bytes: &[u8]) -> Result<Self, AggregateDamaged> {
        let mut reader = Reader::new(bytes);
        let distinct = Self::read(&mut reader)?;
        if reader.is_empty() { Ok(distinct) } else { Err(AggregateDamaged("bytes left over")) }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, AggregateDamaged> {
        match reader.byte()? {
            EXACT => {
                let len = reader.clone().count()?;
                let mut set = Vec::with_capacity(len.min(EXACT_MAX));
                each_exact(reader, |h| set.push(h))?;
                Ok(Self(Form::Exact(set)))
            }
            SPARSE => {
                let mut registers = Registers::new();
                raise_sparse(reader, &mut registers)?;
                Ok(Self(Form::Estimated(registers)))
            }
            PACKED => {
                let mut registers = Registers::new();
                raise_packed(reader, &mut registers)?;
                Ok(Self(Form::Estimated(registers)))
            }
            _ => Err(AggregateDamaged("unknown form of a distinct counter")),
        }
    }

    /// The state as `AggregateFunction(uniqCombined64(14), UInt64)` stores it.
    #[must_use]
    pub fn to_clickhouse(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match &self.0 {
            Form::Exact(set) => {
                out.push(if set.len() <= 16 { 1 } else { 2 });
                put_varint(&mut out, set.len() as u64);
                for h in set {
                    out.extend_from_slice(&h.to_le_bytes());
                }
            }
            Form::Estimated(registers) => {
                out.push(3);
                pack(registers.ranks(), &mut out);
                let histogram = registers.histogram();
                for count in histogram {
                    out.extend_from_slice(&count.to_le_bytes());
                }
                let zeros = u16::try_from(histogram[0]).unwrap_or(u16::MAX);
                out.extend_from_slice(&zeros.to_le_bytes());
            }
        }
        out
    }
}

fn registers_of(hashes: impl Iterator<Item = u64>) -> Registers {
    let mut registers = Registers::new();
    for h in hashes {
        registers.insert(h);
    }
    registers
}

fn union(one: &[u64], two: &[u64]) -> Vec<u64> {
    let mut union = Vec::with_capacity(one.len() + two.len());
    let (mut i, mut j) = (0, 0);
    while let (Some(&a), Some(&b)) = (one.get(i), two.get(j)) {
        union.push(a.min(b));
        i += usize::from(a <= b);
        j += usize::from(b <= a);
    }
    union.extend_from_slice(&one[i..]);
    union.extend_from_slice(&two[j..]);
    union
}

fn encode_registers(ranks: &[u8], out: &mut Vec<u8>) {
    let set = count_set(ranks);
    if set >= SPARSE_MAX {
        out.push(PACKED);
        pack(ranks, out);
        return;
    }
    out.push(SPARSE);
    put_varint(out, set as u64);
    out.reserve(set * 2);
    let mut next = 0;
    for_each_set(ranks, |bucket, rank| {
        match u8::try_from(bucket - next) {
            Ok(gap) if gap < 0x80 => out.extend_from_slice(&[gap, rank]),
            _ => {
                put_varint(out, (bucket - next) as u64);
                out.push(rank);
            }
        }
        next = bucket + 1;
    });
}

/// How many registers are not zero: in pieces that a byte can count, which vectorises.
fn count_set(ranks: &[u8]) -> usize {
    let of = |piece: &[u8]| piece.iter().map(|&rank| u8::from(rank > 0)).sum::<u8>();
    ranks.chunks(128).map(|piece| usize::from(of(piece))).sum()
}

/// Shows each register that is not zero, ascending: most are, and eight are passed over at once.
fn for_each_set(ranks: &[u8], mut show: impl FnMut(usize, u8)) {
    const LOW_BITS: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let (words, _) = ranks.as_chunks::<8>();
    for (first, bytes) in (0..).step_by(8).zip(words) {
        let word = u64::from_le_bytes(*bytes);
        // The highest bit of each byte that is not zero.
        let mut set = (((word & LOW_BITS) + LOW_BITS) | word) & !LOW_BITS;
        while set != 0 {
            let within = set.trailing_zeros() as usize / 8;
            show(first + within, bytes[within]);
            set &= set - 1;
        }
    }
}

/// Shows each hash of an exact set, ascending.
fn each_exact(reader: &mut Reader<'_>, mut show: impl FnMut(u64)) -> Result<(), AggregateDamaged> {
    let len = reader.count()?;
    if len > EXACT_MAX {
        return Err(AggregateDamaged("exact set over 512"));
    }
    let mut before = None;
    for bytes in reader.take(len * 8)?.as_chunks::<8>().0 {
        let h = u64::from_le_bytes(*bytes);
        if before.is_some_and(|before| before >= h) {
            return Err(AggregateDamaged("exact set out of order"));
        }
        before = Some(h);
        show(h);
    }
    Ok(())
}

/// Raises the registers that a sparse form names.
fn raise_sparse(
    reader: &mut Reader<'_>,
    registers: &mut Registers,
) -> Result<(), AggregateDamaged> {
    let set = reader.count()?;
    let mut next = 0_usize;
    for _ in 0..set {
        let (gap, rank) = match reader.short_gap() {
            Some((gap, rank)) => (usize::from(gap), rank),
            None => {
                let gap = usize::try_from(reader.varint()?).unwrap_or(REGISTERS);
                (gap, reader.byte()?)
            }
        };
        let bucket = next.saturating_add(gap);
        if bucket >= REGISTERS {
            return Err(AggregateDamaged("register out of range"));
        }
        registers.raise(bucket, checked_rank(rank)?);
        next = bucket + 1;
    }
    Ok(())
}

/// Raises every register to a packed form's.
fn raise_packed(
    reader: &mut Reader<'_>,
    registers: &mut Registers,
) -> Result<(), AggregateDamaged> {
    for (group, three) in reader.take(REGISTERS / 4 * 3)?.as_chunks::<3>().0.iter().enumerate() {
        for (within, rank) in unpack(*three).into_iter().enumerate() {
            registers.raise(group * 4 + within, checked_rank(rank)?);
        }
    }
    Ok(())
}

const fn checked_rank(rank: u8) -> Result<u8, AggregateDamaged> {
    if rank > RANK_MAX { Err(AggregateDamaged("rank out of range")) } else { Ok(rank) }
}

/// Four ranks of six bits in three bytes, least significant first.
fn pack(ranks: &[u8], out: &mut Vec<u8>) {
    let (fours, _) = ranks.as_chunks::<4>();
    let start = out.len();
    out.resize(start + fours.len() * 3, 0);
    for (three, four) in out[start..].as_chunks_mut::<3>().0.iter_mut().zip(fours) {
        let [a, b, c, d] = four.map(|rank| u32::from(rank & 63));
        let [low, middle, high, _] = (a | b << 6 | c << 12 | d << 18).to_le_bytes();
        *three = [low, middle, high];
    }
}

fn unpack([a, b, c]: [u8; 3]) -> [u8; 4] {
    let bits = u32::from_le_bytes([a, b, c, 0]);
    [0, 6, 12, 18].map(|shift| ((bits >> shift) & 63) as u8)
}

#[cfg(test)]
mod tests;
