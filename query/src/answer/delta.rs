//! The difference of two answers to one question.

use hashbrown::HashMap;
use nilometer_event::EventTime;

use super::{Answer, Row};
use crate::ask::Member;

/// What turns one answer into the next: rows are named by window and members.
#[derive(Debug, Default)]
pub struct Delta<'a> {
    /// Rows that are new or have other values, in the order of the new answer.
    pub changed: Vec<&'a Row>,
    /// Rows that are gone, in the order of the old answer.
    pub removed: Vec<&'a Row>,
}

/// Compares two answers that have the same columns.
#[must_use]
pub fn difference<'a>(before: &'a Answer, after: &'a Answer) -> Delta<'a> {
    if before.tag == after.tag && before.rows.len() == after.rows.len() && before.head == after.head
    {
        return Delta::default();
    }
    let key = |row: &'a Row| -> (EventTime, &'a [Member]) { (row.window, &row.members) };
    let mut old: HashMap<_, &Row> = before.rows.iter().map(|row| (key(row), row)).collect();
    let changed = after
        .rows
        .iter()
        .filter(|row| old.remove(&key(row)).is_none_or(|before| before.values != row.values))
        .collect();
    let removed = before.rows.iter().filter(|row| old.contains_key(&key(row))).collect();
    Delta { changed, removed }
}
