//! The shelves: aggregates of all shards, ready to be read in milliseconds.
//!
//! [`Store`] is the port that other rooms hold: it adopts the layers that shards have sealed and
//! shows one consistent version over all of them, [`Pinned`]. [`EmbeddedStore`] folds layers
//! into a base of immutable chunks under one atomic manifest; [`MemoryStore`] is the reference
//! that never folds.
//! This room does not deduplicate, enrich or decide what a metric is: it adds up cells.

mod port;
pub use port::{Answer, DamagedWindows, Row, Store, StoreStats};

mod pinned;
pub use pinned::{Ask, Moment, Pinned, Rows};

mod error;
pub use error::{FoldError, OpenError, ReadError, ReplaceError};

pub mod settings;
pub use settings::{SettingsError, StoreSettings};

pub mod retention;
pub use retention::{Kept, Retention, Tile};

mod dropped;

mod version;

mod gather;

mod groups;
pub use groups::{Group, GroupAsk, GroupNotes, Groups, GroupsOf};

mod memory;
pub use memory::MemoryStore;

mod embedded;
pub use embedded::{Checked, CheckedChunk, EmbeddedStore, PlanFinder};

mod base;

mod project;

mod select;

mod chunk;
pub use chunk::Estimate;

mod cache;

mod manifest;

pub mod inspect;

mod trials;

mod fold;
pub use fold::{FoldLimits, FoldReport, Replaced};

mod merge;

mod sets;

mod weave;

mod in_memory;

pub mod purge;

mod fail;

mod run;
pub use run::{Pace, run};

pub mod metrics;

#[cfg(feature = "conformance")]
pub mod conformance;

// What readers need of the stream, so that they hold one room.
pub use nilometer_stream::{aggregate, cells, declare, trace, view};
