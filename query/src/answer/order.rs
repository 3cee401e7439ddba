//! Order of rows: by the columns asked for, ties by the dimension values, then by window.

use std::cmp::Ordering;

use super::{Row, Value};
use crate::ask::Direction;

/// What a row is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SortKey {
    /// `window_start`.
    Window,
    /// The member of one dimension, by its place in `group_by`.
    Member(usize),
    /// The value of one metric column, by its place.
    Value(usize),
}

/// Sorts and keeps the first `limit` rows; true where that cut any off.
///
/// Without keys rows go by window, then by members. Nulls (and lists, which have no order) come
/// last in either direction.
pub(crate) fn sort_and_cut(
    rows: &mut Vec<Row>,
    keys: &[(SortKey, Direction)],
    limit: usize,
) -> bool {
    let compare = |a: &Row, b: &Row| compare(a, b, keys);
    let truncated = rows.len() > limit;
    if truncated && limit > 0 {
        rows.select_nth_unstable_by(limit - 1, compare);
        rows.truncate(limit);
    }
    rows.sort_unstable_by(compare);
    truncated
}

fn compare(a: &Row, b: &Row, keys: &[(SortKey, Direction)]) -> Ordering {
    for (key, direction) in keys {
        let ordering = match key {
            SortKey::Window => directed(a.window.cmp(&b.window), *direction),
            SortKey::Member(place) => members(&a.members[*place], &b.members[*place], *direction),
            SortKey::Value(place) => values(&a.values[*place], &b.values[*place], *direction),
        };
        if ordering.is_ne() {
            return ordering;
        }
    }
    if keys.is_empty() {
        a.window.cmp(&b.window).then_with(|| a.members.cmp(&b.members))
    } else {
        a.members.cmp(&b.members).then_with(|| a.window.cmp(&b.window))
    }
}

const fn directed(ordering: Ordering, direction: Direction) -> Ordering {
    match direction {
        Direction::Ascending => ordering,
        Direction::Descending => ordering.reverse(),
    }
}

fn members(a: &crate::ask::Member, b: &crate::ask::Member, direction: Direction) -> Ordering {
    use crate::ask::Member::Null;
    match (a, b) {
        (Null, _) | (_, Null) => a.cmp(b),
        _ => directed(a.cmp(b), direction),
    }
}

fn values(a: &Value, b: &Value, direction: Direction) -> Ordering {
    match (a, b) {
        (Value::Null | Value::Top(_), Value::Null | Value::Top(_)) => Ordering::Equal,
        (Value::Null | Value::Top(_), _) => Ordering::Greater,
        (_, Value::Null | Value::Top(_)) => Ordering::Less,
        (Value::Integer(a), Value::Integer(b)) => directed(a.cmp(b), direction),
        (Value::Decimal(a), Value::Decimal(b)) if a.scale == b.scale => {
            directed(a.value.cmp(&b.value), direction)
        }
        _ => {
            let nearest = as_f64(a).total_cmp(&as_f64(b));
            directed(nearest.then_with(|| beyond(a).cmp(&beyond(b))), direction)
        }
    }
}

/// Where doubles find two numbers of one column equal: a decimal is what was too long for the
/// other kinds, so it lies farther from 0.
const fn beyond(value: &Value) -> i8 {
    match value {
        Value::Decimal(value) if value.value.is_negative() => -1,
        Value::Decimal(_) => 1,
        _ => 0,
    }
}

/// Only for comparing numbers of different kinds: one column rarely holds both.
#[expect(clippy::cast_precision_loss, reason = "order of mixed columns, to a double's precision")]
fn as_f64(value: &Value) -> f64 {
    match value {
        Value::Null | Value::Top(_) => f64::NAN,
        Value::Integer(value) => *value as f64,
        Value::Number(value) => *value,
        Value::Decimal(value) => value.as_f64(),
    }
}
