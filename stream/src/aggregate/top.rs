//! Exact counts per value; the top k are cut out when read.

use std::collections::BTreeMap;

use super::wire::{AggregateDamaged, Reader, put_signed, put_varint};

/// How often each value came. The cardinality guard bounds the values; what it folded is
/// counted together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopCounts {
    counts: BTreeMap<Box<str>, i64>,
    other: i64,
}

impl TopCounts {
    /// Nothing counted.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts `value` `count` times; `None` is what the guard folded.
    pub fn add(&mut self, value: Option<&str>, count: i64) {
        let Some(value) = value else {
            self.other += count;
            return;
        };
        if let Some(own) = self.counts.get_mut(value) {
            *own += count;
            if *own == 0 {
                self.counts.remove(value);
            }
        } else if count != 0 {
            self.counts.insert(value.into(), count);
        }
    }

    /// Adds all that `other` counted.
    pub fn merge(&mut self, other: &Self) {
        for (value, &count) in &other.counts {
            self.add(Some(value), count);
        }
        self.other += other.other;
    }

    /// The `k` most frequent values, ties by value.
    #[must_use]
    pub fn top(&self, k: usize) -> Vec<(&str, i64)> {
        let mut all: Vec<_> = self.counts.iter().map(|(value, &n)| (&**value, n)).collect();
        all.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        all.truncate(k);
        all
    }

    /// What the guard folded.
    #[must_use]
    pub const fn other(&self) -> i64 {
        self.other
    }

    /// True where every count cancelled out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty() && self.other == 0
    }

    /// Bytes on the heap, about.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.counts.keys().map(|value| value.len() + 48).sum()
    }

    /// Appends the canonical bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_signed(out, self.other);
        put_varint(out, self.counts.len() as u64);
        for (value, &count) in &self.counts {
            put_varint(out, value.len() as u64);
            out.extend_from_slice(value.as_bytes());
            put_signed(out, count);
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, AggregateDamaged> {
        let other = reader.signed()?;
        let len = reader.count()?;
        let mut counts = BTreeMap::new();
        for _ in 0..len {
            let bytes = reader.count()?;
            let value = std::str::from_utf8(reader.take(bytes)?)
                .map_err(|_| AggregateDamaged("value is not UTF-8"))?;
            counts.insert(value.into(), reader.signed()?);
        }
        Ok(Self { counts, other })
    }
}
