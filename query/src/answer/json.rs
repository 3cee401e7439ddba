//! Answers as JSON text, written straight from the rows.

use std::fmt::Write as _;

use nilometer_event::EventTime;
use serde::Serialize;

use super::{Columns, Row, Value};
use crate::ask::{Member, shown};

pub(super) fn head(columns: &Columns, rows: &[Row]) -> Vec<u8> {
    let mut out = Vec::with_capacity(128 + rows.len() * 96);
    out.extend_from_slice(b"{\"columns\":[\"window_start\"");
    if columns.ends_after_ms.is_some() {
        out.extend_from_slice(b",\"window_end\"");
    }
    for name in columns.dimensions.iter().chain(&columns.metrics) {
        out.push(b',');
        put_json(name, &mut out);
    }
    out.extend_from_slice(b"],\"rows\":[");
    let mut writer = RowWriter::new(columns);
    for (index, row) in rows.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        writer.put_row(row, &mut out);
    }
    out.push(b']');
    out
}

/// Writes rows of one answer: the names of its columns are escaped once, and the text of a
/// window is kept for the rows that share it.
pub(crate) struct RowWriter {
    /// `,"name":`
    dimensions: Vec<Vec<u8>>,
    metrics: Vec<Vec<u8>>,
    ends_after_ms: Option<i64>,
    window: Option<EventTime>,
    /// `{"window_start":"…"`, and `,"window_end":"…"` of a sliding window.
    window_text: String,
}

impl RowWriter {
    pub(crate) fn new(columns: &Columns) -> Self {
        let named = |name: &String| {
            let mut out = vec![b','];
            put_json(name, &mut out);
            out.push(b':');
            out
        };
        Self {
            dimensions: columns.dimensions.iter().map(named).collect(),
            metrics: columns.metrics.iter().map(named).collect(),
            ends_after_ms: columns.ends_after_ms,
            window: None,
            window_text: String::new(),
        }
    }

    /// Appends one row as an object.
    pub(crate) fn put_row(&mut self, row: &Row, out: &mut Vec<u8>) {
        self.put_key(row, out);
        for (name, value) in self.metrics.iter().zip(&row.values) {
            out.extend_from_slice(name);
            put_value(value, out);
        }
        out.push(b'}');
    }

    /// Appends what names a row: its window and its members.
    pub(crate) fn put_removed(&mut self, row: &Row, out: &mut Vec<u8>) {
        self.put_key(row, out);
        out.push(b'}');
    }

    fn put_key(&mut self, row: &Row, out: &mut Vec<u8>) {
        if self.window != Some(row.window) {
            self.window = Some(row.window);
            self.window_text.clear();
            // A String takes whatever is written to it.
            write!(self.window_text, "{{\"window_start\":\"{}\"", row.window).unwrap_or_default();
            if let Some(width_ms) = self.ends_after_ms {
                let end = row.window.plus_ms(width_ms);
                write!(self.window_text, ",\"window_end\":\"{end}\"").unwrap_or_default();
            }
        }
        out.extend_from_slice(self.window_text.as_bytes());
        for (name, member) in self.dimensions.iter().zip(&*row.members) {
            out.extend_from_slice(name);
            match member {
                Member::Null => out.extend_from_slice(b"null"),
                Member::Other => out.extend_from_slice(b"\"__other__\""),
                Member::Text(text) => put_json(&shown(text), out),
            }
        }
    }
}

fn put_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Integer(value) => put_json(value, out),
        Value::Number(value) => put_json(value, out),
        // Its digits are a JSON number.
        Value::Decimal(value) => out.extend_from_slice(value.to_string().as_bytes()),
        Value::Top(values) => put_top(values, out),
    }
}

fn put_top(values: &[(String, i64)], out: &mut Vec<u8>) {
    out.push(b'[');
    for (index, (value, count)) in values.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"value\":");
        put_json(value, out);
        out.extend_from_slice(b",\"count\":");
        put_json(count, out);
        out.push(b'}');
    }
    out.push(b']');
}

/// Appends what cannot fail to serialise: text, finite numbers, and structs of them.
pub(crate) fn put_json<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("text and numbers serialise into memory");
}
