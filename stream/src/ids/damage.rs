//! What is said about a run file that cannot be read.

use std::fmt;
use std::io;

use super::key::Hour;

/// A part of a run file that gives no answer any more; its hours are closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("run file {file} is corrupt: {reason}; {}", Hours(&self.hours, self.odd))]
pub struct RunDamaged {
    /// Path on the disk port.
    pub file: String,
    /// Hours whose ids or sessions are lost, sorted.
    pub hours: Vec<Hour>,
    /// True where ids of corrected events are lost.
    pub odd: bool,
    /// What is wrong with it.
    pub reason: String,
}

struct Hours<'a>(&'a [Hour], bool);

impl fmt::Display for Hours<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("no hour is affected")?,
            [hour] => write!(f, "the hour {hour} is affected")?,
            [first, .., last] => {
                write!(f, "{} hours from {first} to {last} are affected", self.0.len())?;
            }
        }
        if self.1 { f.write_str(", ids of corrected events with them") } else { Ok(()) }
    }
}

/// The disk refused to read a run file; the file itself may be whole, so try again.
#[derive(Debug, thiserror::Error)]
#[error("read run file {file}")]
pub struct RunReadFailed {
    /// Path on the disk port.
    pub file: String,
    /// What the disk said.
    pub source: io::Error,
}

/// What recovery does about a damaged run file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDamage {
    /// Stops, so that an older manifest can be tried.
    Refuse,
    /// Closes the file's hours and goes on.
    Close,
}

/// Why ids or sessions did not come back from their manifest.
#[derive(Debug, thiserror::Error)]
pub enum RecoverRunsError {
    /// See [`RunDamaged`]; only under [`OnDamage::Refuse`].
    #[error(transparent)]
    Damaged(#[from] RunDamaged),
    /// See [`RunReadFailed`].
    #[error(transparent)]
    Read(#[from] RunReadFailed),
}

/// Why runs were not merged; their answers stay as they are.
#[derive(Debug, thiserror::Error)]
pub enum MergeRunsError {
    /// An input cannot be read; it is left out of merges from now on.
    #[error("merge: run file {file} is corrupt: {reason}")]
    Damaged {
        /// The input.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An input could not be read this time.
    #[error(transparent)]
    Read(#[from] RunReadFailed),
    /// The output could not be written.
    #[error("merge: write run file {file}")]
    Write {
        /// The output.
        file: String,
        /// What the disk said.
        source: io::Error,
    },
}
