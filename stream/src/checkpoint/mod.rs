//! Checkpoints: a sealed layer, the ids and sessions that came with it, and one atomic manifest.
//!
//! A seal is a place in the journal. Its files are immutable; the manifest over them is written
//! last and in one piece, so a checkpoint is there whole or not at all. Two manifests are kept:
//! the older one is what recovery falls back to when the newer one, or a file that only the
//! newer one lists, is damaged. A file exists only while a kept manifest lists it.

pub mod inspect;
mod kept;
mod manifest;
mod turns;
pub use turns::Turns;

mod writer;
pub(crate) use kept::{Found, Kept, find};
pub use manifest::{FileRef, LayerRef, Manifest, StateRecord};
pub use writer::Writing;
pub(crate) use writer::{Done, Job, Merge, Merged, Outcome, Scribe, Writer, windows_of};

use nilometer_event::Partition;

/// What this release can fold and recover. A directory of a higher one is refused untouched.
///
/// 2: the guard keeps places for the values of the days before.
/// 3: records tell which key sent them; ids are apart by its source.
pub const ENGINE: u32 = 3;

/// Manifests kept of each shard.
pub const MANIFESTS_KEPT: usize = 2;

/// CRC-32C, as everything that this room writes is checked by.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let checksum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(checksum).unwrap_or(u32::MAX)
}

/// The folder of a shard's checkpoints.
#[must_use]
pub fn folder(partition: Partition) -> String {
    format!("checkpoints/{partition}")
}

/// The folder of a shard's id runs.
pub(crate) fn ids_folder(partition: Partition) -> String {
    format!("{}/ids", folder(partition))
}

/// The folder of a shard's session runs.
pub(crate) fn sessions_folder(partition: Partition) -> String {
    format!("{}/sessions", folder(partition))
}
