//! The small state of the ids that a checkpoint's manifest holds; the ids themselves lie in runs.

use serde::{Deserialize, Serialize};

use super::heat::Eviction;
use super::hours::ClosedHours;
use super::key::BucketWidth;
use super::store::IdRunMeta;

/// All that [`super::Ids::recover`] needs beside the run files that it names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdsManifest {
    pub(crate) width: BucketWidth,
    pub(crate) closed: ClosedHours,
    pub(crate) eviction: Eviction,
    /// Days of arrival whose corrected events' ids are lost, by damage.
    pub(crate) odd_lost: Vec<i64>,
    pub(crate) next_merge: u64,
    pub(crate) runs: Vec<IdRunMeta>,
}

impl IdsManifest {
    /// Every run file that must be there while this manifest is kept.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.runs.iter().map(|run| run.file.as_str())
    }
}
