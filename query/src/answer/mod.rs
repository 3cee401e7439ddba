//! An answer: its columns, its rows in order, and what is known about them.

mod delta;
mod json;
mod meta;
mod order;

pub use delta::{Delta, difference};
pub(crate) use json::{RowWriter, put_json};
pub use meta::{Meta, MetaRange, Revised};
pub(crate) use order::{SortKey, sort_and_cut};

use std::sync::Arc;

use bytes::Bytes;
use nilometer_event::{EventTime, ReceiveTime, TimeRange};
use nilometer_rollups::declare::Decimal;

use crate::ask::Member;

/// What one metric is in one row.
#[derive(Clone, Debug)]
pub enum Value {
    /// Not known, or not defined there.
    Null,
    /// A whole number, exact.
    Integer(i64),
    /// Any other number; finite.
    Number(f64),
    /// Exact, with its fraction.
    Decimal(Decimal),
    /// The most frequent values with their counts.
    Top(Arc<[(String, i64)]>),
}

impl PartialEq for Value {
    /// Equal where both are shown alike: numbers by their bits.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Integer(a), Self::Integer(b)) => a == b,
            (Self::Number(a), Self::Number(b)) => a.to_bits() == b.to_bits(),
            (Self::Decimal(a), Self::Decimal(b)) => a == b,
            (Self::Top(a), Self::Top(b)) => a == b,
            _ => false,
        }
    }
}

impl Value {
    /// A number, or null where it is not finite.
    #[must_use]
    pub const fn number(value: f64) -> Self {
        if value.is_finite() { Self::Number(value) } else { Self::Null }
    }
}

/// One row: a window, one member a dimension, one value a metric column.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Where its window starts.
    pub window: EventTime,
    /// In the order of `group_by`; rows of one answer share those of one combination.
    pub members: Arc<[Member]>,
    /// In the order of [`Columns::metrics`].
    pub values: Vec<Value>,
}

/// What an allocation takes beside what is in it.
const ALLOCATION_BYTES: usize = 16;
/// What an answer without rows takes, names and `meta`.
const FIXED_BYTES: usize = 2 << 10;

impl Row {
    /// Memory that it takes, about; members are shared.
    fn bytes(&self) -> usize {
        let members = self.members.iter().map(|member| match member {
            Member::Text(text) => size_of::<Member>() + text.len() + ALLOCATION_BYTES,
            Member::Other | Member::Null => size_of::<Member>(),
        });
        let members = members.sum::<usize>() + ALLOCATION_BYTES;
        let lists = self.values.iter().map(|value| match value {
            Value::Top(values) => values.iter().map(|(text, _)| text.len() + 48).sum(),
            _ => 0_usize,
        });
        let values = self.values.capacity() * size_of::<Value>() + ALLOCATION_BYTES;
        let own = size_of::<Self>() + values + lists.sum::<usize>();
        own + members / Arc::strong_count(&self.members).max(1)
    }
}

/// An answer's columns after `window_start`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// How wide sliding windows are, which have a column `window_end`.
    pub ends_after_ms: Option<i64>,
    /// Dimensions, as grouped by.
    pub dimensions: Vec<String>,
    /// Metrics as asked for, each followed by its `_previous` where it is compared.
    pub metrics: Vec<String>,
}

/// A computed answer, shared by all who ask the same.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Names.
    pub columns: Columns,
    /// Sorted, at most `limit`.
    pub rows: Vec<Row>,
    /// `{"columns":[…],"rows":[…]` without the closing brace, serialised once.
    pub head: Bytes,
    /// Changes when columns or rows change, and not when only `meta` does.
    pub tag: u64,
    /// What is known about the rows.
    pub meta: Meta,
    /// The moments behind `meta`.
    pub moments: Moments,
    /// Memory that rows and text take, about.
    pub bytes: usize,
}

/// The moments that an answer stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moments {
    /// Everything received up to here is counted.
    pub as_of: ReceiveTime,
    /// Windows that end by then are complete but for late events.
    pub final_until: EventTime,
    /// Where windows start.
    pub range: TimeRange,
    /// How long each window is.
    pub width_ms: i64,
}

impl Default for Moments {
    /// Nothing is known yet.
    fn default() -> Self {
        let range = TimeRange { start: EventTime::MIN, end: EventTime::MIN };
        Self { as_of: ReceiveTime::default(), final_until: EventTime::MIN, range, width_ms: 0 }
    }
}

impl Answer {
    /// Serialises columns and rows once, for all who will ask.
    #[must_use]
    pub fn new(columns: Columns, rows: Vec<Row>, meta: Meta, moments: Moments) -> Self {
        let head = Bytes::from(json::head(&columns, &rows));
        let tag = xxhash_rust::xxh3::xxh3_64(&head);
        let bytes = FIXED_BYTES + head.len() + rows.iter().map(Row::bytes).sum::<usize>();
        Self { columns, rows, head, tag, meta, moments, bytes }
    }

    /// The whole JSON body under this `meta`: what is shared by all who ask, and what is not.
    #[must_use]
    pub fn body(&self, meta: &Meta) -> [Bytes; 2] {
        let mut own = b",\"meta\":".to_vec();
        put_json(meta, &mut own);
        own.push(b'}');
        [self.head.clone(), own.into()]
    }

    /// `meta` as it is served at `now`, after `took_ms` of work for this request.
    #[must_use]
    pub fn meta_at(&self, now: ReceiveTime, took_ms: f64) -> Meta {
        let freshness_ms = now.since(self.moments.as_of).max(0);
        Meta { freshness_ms, took_ms, ..self.meta.clone() }
    }

    /// The entity tag of the rows.
    #[must_use]
    pub fn etag(&self) -> String {
        format!("W/\"{:016x}\"", self.tag)
    }
}

#[cfg(test)]
mod tests;
