//! Records on their way in and out, in the form of RecordBatch v2.
//!
//! Source of the layout: Apache Kafka documentation, "Message Format", record v2.

use bytes::Bytes;
use nilometer_event::{Offset, ReceiveTime};

/// Records of one batch under construction; values are written straight into their final form.
#[derive(Clone, Debug, Default)]
pub struct RecordsBuilder(Records);

/// The records of one batch, not yet compressed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    pub(crate) section: Vec<u8>,
    pub(crate) count: u32,
    pub(crate) first_timestamp: i64,
    pub(crate) max_timestamp: i64,
}

impl RecordsBuilder {
    /// No records.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// No records, with room for `bytes`.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Records { section: Vec::with_capacity(bytes), ..Records::default() })
    }

    /// Adds a record.
    ///
    /// # Panics
    ///
    /// Past `i32::MAX` records, which is beyond any `batch_bytes_max`.
    pub fn push(&mut self, timestamp: ReceiveTime, key: Option<&[u8]>, value: &[u8]) {
        let records = &mut self.0;
        let timestamp = timestamp.ms();
        if records.count == 0 {
            records.first_timestamp = timestamp;
            records.max_timestamp = timestamp;
        }
        records.max_timestamp = records.max_timestamp.max(timestamp);
        // Kafka's producers wrap here as well; the reader wraps back.
        let timestamp_delta = timestamp.wrapping_sub(records.first_timestamp);
        let offset_delta = i64::from(records.count);
        let key_len = key.map_or(-1, length);
        // Attributes and the count of headers are one byte each, both 0.
        let body = 2
            + varint_len(timestamp_delta)
            + varint_len(offset_delta)
            + varint_len(key_len)
            + key.map_or(0, <[u8]>::len)
            + varint_len(length(value))
            + value.len();
        let out = &mut records.section;
        out.reserve(body + 5);
        put_varint(out, i64::try_from(body).unwrap_or(i64::MAX));
        out.push(0);
        put_varint(out, timestamp_delta);
        put_varint(out, offset_delta);
        put_varint(out, key_len);
        out.extend_from_slice(key.unwrap_or_default());
        put_varint(out, length(value));
        out.extend_from_slice(value);
        out.push(0);
        records.count += 1;
        assert!(records.count < i32::MAX.unsigned_abs(), "a batch counts its records in 31 bits");
    }

    /// How many records.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// True before the first record.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Size before compression.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// The batch.
    #[must_use]
    pub fn build(self) -> Records {
        self.0
    }
}

impl Records {
    /// How many records.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// True where there are no records.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Size before compression.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.section.len()
    }
}

/// What a read gave: whole batches, of which the records from the asked offset are shown.
#[derive(Clone, Debug)]
pub struct Fetched {
    from: u64,
    next: u64,
    batches: Vec<Decoded>,
}

/// The records of one batch with their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub(crate) base: u64,
    pub(crate) first_timestamp: i64,
    pub(crate) count: u32,
    /// Shared, so that a log in memory need not copy what it gives out.
    pub(crate) section: Bytes,
}

/// One record, borrowed from what was fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its place.
    pub offset: Offset,
    /// When it was received.
    pub timestamp: ReceiveTime,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: &'a [u8],
}

impl Fetched {
    pub(crate) const fn new(from: Offset, next: Offset, batches: Vec<Decoded>) -> Self {
        Self { from: from.get(), next: next.get(), batches }
    }

    /// The records in offset order, from the asked offset on.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        self.batches
            .iter()
            .flat_map(Decoded::iter)
            .skip_while(|record| record.offset.get() < self.from)
    }

    /// Where to read on: past what was fetched, and past quarantined holes that follow it.
    #[must_use]
    pub const fn next(&self) -> Offset {
        Offset::new(self.next)
    }

    /// True where no record was fetched: the log ends, or everything up to [`Fetched::next`]
    /// is quarantined.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Size after decompression.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.batches.iter().map(|batch| batch.section.len()).sum()
    }
}

impl Decoded {
    /// The offset after its last record.
    pub(crate) fn end(&self) -> u64 {
        self.base + u64::from(self.count)
    }

    /// The records; nothing is checked again that [`is_well_formed`] has checked.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        let mut rest = &*self.section;
        (0..u64::from(self.count)).map_while(move |index| {
            let raw = take_record(&mut rest)?;
            Some(Record {
                offset: Offset::new(self.base + index),
                timestamp: ReceiveTime::from_ms(
                    self.first_timestamp.wrapping_add(raw.timestamp_delta),
                ),
                key: raw.key,
                value: raw.value,
            })
        })
    }
}

/// True where `section` is exactly `count` records with the offset deltas 0, 1, 2 …
pub(crate) fn is_well_formed(mut section: &[u8], count: u32) -> bool {
    (0..i64::from(count))
        .all(|index| take_record(&mut section).is_some_and(|raw| raw.offset_delta == index))
        && section.is_empty()
}

struct RawRecord<'a> {
    timestamp_delta: i64,
    offset_delta: i64,
    key: Option<&'a [u8]>,
    value: &'a [u8],
}

fn take_record<'a>(rest: &mut &'a [u8]) -> Option<RawRecord<'a>> {
    let body_len = usize::try_from(take_varint(rest)?).ok()?;
    let mut body = take(rest, body_len)?;
    let body = &mut body;
    let [_attributes] = take(body, 1)? else { return None };
    let timestamp_delta = take_varint(body)?;
    let offset_delta = take_varint(body)?;
    let key = match take_varint(body)? {
        -1 => None,
        len => Some(take(body, usize::try_from(len).ok()?)?),
    };
    let value = match take_varint(body)? {
        // A null value, as other writers of the format know it, reads as an empty one.
        -1 => &[],
        len => take(body, usize::try_from(len).ok()?)?,
    };
    for _ in 0..take_varint(body)? {
        let name = usize::try_from(take_varint(body)?).ok()?;
        let _name = take(body, name)?;
        if let Ok(len) = usize::try_from(take_varint(body)?) {
            let _value = take(body, len)?;
        }
    }
    body.is_empty().then_some(RawRecord { timestamp_delta, offset_delta, key, value })
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(taken)
}

fn length(bytes: &[u8]) -> i64 {
    i64::try_from(bytes.len()).unwrap_or(i64::MAX)
}

/// Zigzag: small numbers of either sign are short.
const fn zigzag(value: i64) -> u64 {
    (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned()
}

const fn varint_len(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push((rest & 0x7f) as u8);
}

#[inline]
fn take_varint(rest: &mut &[u8]) -> Option<i64> {
    // Most are one byte.
    if let Some((&byte, after)) = rest.split_first()
        && byte < 0x80
    {
        *rest = after;
        return Some(i64::from(byte >> 1) ^ -i64::from(byte & 1));
    }
    take_long_varint(rest)
}

fn take_long_varint(rest: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_come_back_and_their_length_is_known(value: i64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            prop_assert_eq!(out.len(), varint_len(value));
            let mut rest = out.as_slice();
            prop_assert_eq!(take_varint(&mut rest), Some(value));
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn records_come_back_as_they_were_pushed(
            pushed: Vec<(i64, Option<Vec<u8>>, Vec<u8>)>,
        ) {
            let mut builder = RecordsBuilder::new();
            for (timestamp, key, value) in &pushed {
                builder.push(ReceiveTime::from_ms(*timestamp), key.as_deref(), value);
            }
            let records = builder.build();
            prop_assert!(is_well_formed(&records.section, records.count));
            let decoded = Decoded {
                base: 7,
                first_timestamp: records.first_timestamp,
                count: records.count,
                section: records.section.into(),
            };
            let read: Vec<_> = decoded
                .iter()
                .map(|r| (r.timestamp.ms(), r.key.map(<[u8]>::to_vec), r.value.to_vec()))
                .collect();
            prop_assert_eq!(read, pushed);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, count in 0u32..100) {
            let _verdict = is_well_formed(&bytes, count);
        }
    }
}
