//! The small state of the sessions that a checkpoint's manifest holds; the sessions lie in runs.

use std::collections::{BTreeMap, BTreeSet};

use nilometer_event::EventTime;
use serde::{Deserialize, Serialize};

use super::store::SessionRunMeta;
use crate::ids::ClosedHours;

/// All that [`super::Sessions::recover`] needs beside the run files that it names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionsManifest {
    pub(crate) closed: ClosedHours,
    pub(crate) watermark: EventTime,
    /// Nothing that ends later was ever evicted.
    pub(crate) evicted_latest: EventTime,
    /// Sessions that were evicted open: earliest start by the minute of their end.
    pub(crate) evicted_open: BTreeMap<i64, EventTime>,
    /// Groups of shelves whose sessions are lost.
    pub(crate) lost: BTreeSet<i64>,
    pub(crate) unrevised: u64,
    pub(crate) next_merge: u64,
    pub(crate) runs: Vec<SessionRunMeta>,
}

impl SessionsManifest {
    /// Every run file that must be there while this manifest is kept.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.runs.iter().map(|run| run.file.as_str())
    }
}
