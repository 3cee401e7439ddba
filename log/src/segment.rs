//! The embedded log (under construction: keeps its records in memory for the moment).
use std::sync::Arc;

use nilometer_event::clock::Clock;

use crate::{Disk, LogSettings, MemoryLog, OpenError};

/// The embedded log: own files per topic and partition, group commit, recovery.
#[derive(Debug)]
pub struct SegmentLog(MemoryLog);

impl SegmentLog {
    /// Opens the log below `log/` of the disk, recovering what a crash left.
    ///
    /// # Errors
    ///
    /// Another partition count, a newer layout, what the disk says.
    pub fn open(_disk: Arc<dyn Disk>, settings: LogSettings, _clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        Ok(Self(MemoryLog::new(settings.partitions)))
    }

    /// Commits what is queued and stops the writers; later submissions are refused.
    pub fn close(&self) {}
}
