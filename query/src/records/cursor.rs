//! Places in several partitions at once, as one opaque text.

use nilometer_access::{Problem, Status};

/// Offsets as hexadecimal numbers with dots between them.
pub(super) fn write(offsets: impl IntoIterator<Item = u64>) -> String {
    let texts: Vec<String> = offsets.into_iter().map(|offset| format!("{offset:x}")).collect();
    texts.join(".")
}

/// Reads a cursor of exactly `count` places.
pub(super) fn read(parameter: &'static str, text: &str, count: usize) -> Result<Vec<u64>, Problem> {
    let offsets: Option<Vec<u64>> = text
        .split('.')
        .map(|digits| u64::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+')))
        .take(count + 1)
        .collect();
    offsets.filter(|offsets| offsets.len() == count).ok_or_else(|| {
        Problem::new(
            Status::BadRequest,
            "bad_cursor",
            "the cursor is not one of ours",
            format!("{parameter}: leave it out, or give the cursor of the last answer as it was"),
        )
    })
}
