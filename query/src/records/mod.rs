//! What is read straight from the log: the tail, dead letters, traces. Blocking; run on a pool.

mod backwards;
mod cursor;
mod letters;
mod tail;
mod trace;

pub(crate) use letters::LETTERS_LIMIT_MAX;
pub use letters::{Letter, LetterFilter, LetterPage, find_letter, letters};
pub use tail::{TAIL_LIMIT_MAX, Tail, TailEvent, TailFilter, tail};
pub(crate) use trace::trace;
pub use trace::{Copy, Trace, TraceLimits, TracedEvent};

use nilometer_access::{Problem, Status};
use nilometer_log::ReadError;

/// A read that the log refused: damage is quarantined by the log, so this is the disk.
pub(crate) fn unreadable(error: &ReadError) -> Problem {
    Problem::new(
        Status::Unavailable,
        "log_unreadable",
        "the log cannot be read now",
        "the disk refused a read; try again",
    )
    .after(std::time::Duration::from_secs(1))
    .logged(error.to_string())
}

#[cfg(test)]
mod tests;
