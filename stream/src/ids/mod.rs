//! Which events were counted before: ids hot in memory, then cold in run files, never forgotten
//! within the horizon.
//!
//! - **I1** an id sent again under the same timestamp is a duplicate, hot or cold, in whatever
//!   layer it first came; so is one of a corrected event whose time as sent tells nothing: their
//!   ids share the odd bucket, which every look-up asks.
//! - **I2** an id sent again under a timestamp of another bucket is a duplicate while it is hot:
//!   a pure function of the journal (see [`Ids::seal`]). Once cold it is new here, and found by
//!   silver.
//! - **I3** verdicts are a function of the calls in their order: neither merges, nor recovery, nor
//!   filters that found no room in memory change one.
//! - **I4** no unreadable file ever answers "new": what may lie in it is [`Verdict::Closed`].
//!
//! [`Ids`] never touches a disk. It plans what has to be read ([`ColdLookups`]) or written
//! ([`IdsSealed`], [`IdsMerge`]), and the shell does it.

mod key;
pub use key::{Bucket, BucketWidth, Hour, IdKey, Source, is_far_behind};

mod hours;
pub use hours::ClosedHours;

mod damage;
pub use damage::{MergeRunsError, OnDamage, RecoverRunsError, RunDamaged, RunReadFailed};

mod tags;

mod hot;

mod heat;

pub(crate) mod filter;

pub(crate) mod run;

mod store;

mod cold;
pub use cold::{ColdIds, ColdLookups};

mod merge;
pub use merge::{IdsMerge, IdsMerged};

mod sight;
pub use sight::{IdSight, Sighting};

mod manifest;
pub use manifest::IdsManifest;

mod sealed;
pub(crate) use sealed::emptied;
pub use sealed::{IdsSealed, IdsWritten};

mod state;
pub use state::{Ids, IdsSettings, Verdict};

#[cfg(test)]
mod tests;
