//! The workshop: a pure fold over each shard's journal that deduplicates, enriches, windows and
//! sessionises, and the thin shell that feeds it.
//!
//! One shard is one partition of every topic. What the fold does is decided by the journal
//! alone ([`journal`]); the [`shell`] reads, appends, writes files and decides no result. Other
//! rooms read through [`view`]. This room does not answer queries and keeps no base: that is
//! `rollups/`.

pub mod declare;

pub mod aggregate;

pub mod cells;

pub mod ids;

pub mod sessions;

pub mod tables;

pub mod journal;

pub mod fold;

pub mod checkpoint;

pub mod purges;

pub mod view;

pub mod trace;

pub mod shell;

mod error;
pub use error::{DimensionTableError, JournalError, RecoverError, StartError, StepError};

mod settings;
pub use settings::{FoldSettings, StreamSettings};

pub mod metrics;

pub use shell::{
    PurgeError, Scratch, Shell, ShellConfig, StepReport, Stream, StreamConfig, Survey, Turns,
    Without, Writing,
};
