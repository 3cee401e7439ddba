//! Answers as JSON text, written straight from the rows.

use std::fmt::Write as _;
use std::io::Write as _;

use serde::Serialize;

use super::{Columns, Row, Value};
use crate::ask::{Member, shown};

pub(super) fn head(columns: &Columns, rows: &[Row]) -> Vec<u8> {
    let mut out = Vec::with_capacity(128 + rows.len() * 96);
    out.extend_from_slice(b"{\"columns\":[\"window_start\"");
    for name in columns.dimensions.iter().chain(&columns.metrics) {
        out.push(b',');
        put_json(name, &mut out);
    }
    out.extend_from_slice(b"],\"rows\":[");
    for (index, row) in rows.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        put_row(columns, row, &mut out);
    }
    out.push(b']');
    out
}

/// Appends one row as an object.
pub(crate) fn put_row(columns: &Columns, row: &Row, out: &mut Vec<u8>) {
    put_key(columns, row, out);
    for (name, value) in columns.metrics.iter().zip(&row.values) {
        out.push(b',');
        put_json(name, out);
        out.push(b':');
        put_value(value, out);
    }
    out.push(b'}');
}

/// Appends what names a row: its window and its members.
pub(crate) fn put_removed(columns: &Columns, row: &Row, out: &mut Vec<u8>) {
    put_key(columns, row, out);
    out.push(b'}');
}

fn put_key(columns: &Columns, row: &Row, out: &mut Vec<u8>) {
    let mut window = String::with_capacity(24);
    // A String takes whatever is written to it.
    write!(window, "{}", row.window).unwrap_or_default();
    out.extend_from_slice(b"{\"window_start\":\"");
    out.extend_from_slice(window.as_bytes());
    out.push(b'"');
    for (name, member) in columns.dimensions.iter().zip(&row.members) {
        out.push(b',');
        put_json(name, out);
        out.push(b':');
        match member {
            Member::Null => out.extend_from_slice(b"null"),
            Member::Other => out.extend_from_slice(b"\"__other__\""),
            Member::Text(text) => put_json(&shown(text), out),
        }
    }
}

fn put_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        // A Vec takes whatever is written to it.
        Value::Integer(value) => write!(out, "{value}").unwrap_or_default(),
        Value::Number(value) => put_json(value, out),
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
