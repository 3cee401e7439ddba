//! An answer: its columns, its rows in order, and what is known about them.

mod delta;
mod json;
mod meta;
mod order;

pub use delta::{Delta, difference};
pub(crate) use json::{put_removed, put_row};
pub use meta::{Meta, MetaRange, Revised};
pub(crate) use order::sort_and_cut;

use bytes::Bytes;
use nilometer_event::EventTime;

use crate::ask::Member;

/// What one metric is in one row.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    /// Not known, or not defined there.
    Null,
    /// A whole number, exact.
    Integer(i64),
    /// Any other number; finite.
    Number(f64),
}

impl PartialEq for Value {
    /// Equal where both are shown alike: numbers by their bits.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Integer(a), Self::Integer(b)) => a == b,
            (Self::Number(a), Self::Number(b)) => a.to_bits() == b.to_bits(),
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
    /// In the order of `group_by`.
    pub members: Vec<Member>,
    /// In the order of [`Columns::metrics`].
    pub values: Vec<Value>,
}

/// Names of an answer's columns after `window_start`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
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
}

impl Answer {
    /// Serialises columns and rows once, for all who will ask.
    #[must_use]
    pub fn new(columns: Columns, rows: Vec<Row>, meta: Meta) -> Self {
        let head = Bytes::from(json::head(&columns, &rows));
        let tag = xxhash_rust::xxh3::xxh3_64(&head);
        Self { columns, rows, head, tag, meta }
    }

    /// The whole JSON body under this `meta`.
    #[must_use]
    pub fn body(&self, meta: &Meta) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.head.len() + 512);
        out.extend_from_slice(&self.head);
        out.extend_from_slice(b",\"meta\":");
        json::put_json(meta, &mut out);
        out.push(b'}');
        out
    }

    /// The entity tag of the rows.
    #[must_use]
    pub fn etag(&self) -> String {
        format!("\"{:016x}\"", self.tag)
    }
}

#[cfg(test)]
mod tests;
