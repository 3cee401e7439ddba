//! What can go wrong on the shelves: one enum per operation.

use std::io;

use nilometer_event::{EventTime, Granularity, TimeRange};
use thiserror::Error;

/// Why a store did not open.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The disk refused.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file or folder.
        path: String,
        /// What the disk said.
        source: io::Error,
    },
    /// A newer release wrote here; nothing was touched.
    #[error(
        "{path} is of format {version}, this release knows {known}: start the release that wrote it"
    )]
    NewerVersion {
        /// The manifest.
        path: String,
        /// Its format.
        version: u32,
        /// Ours.
        known: u32,
    },
    /// There are manifests and every one is damaged; nothing was touched.
    #[error(
        "every base manifest is corrupt ({}): restore `rollups/` from a backup", paths.join(", ")
    )]
    NoGoodManifest {
        /// All of them.
        paths: Vec<String>,
    },
}

/// Why a fold did not finish; the store shows what it showed before, and a later fold repeats it.
#[derive(Debug, Error)]
pub enum FoldError {
    /// The disk refused.
    #[error("cannot write {path}: {source}; the fold is repeated")]
    Io {
        /// The file.
        path: String,
        /// What the disk said.
        source: io::Error,
    },
    /// A layer's file cannot be read; after some tries its windows are given up.
    #[error("layer file {file} is corrupt ({reason}), seen {tries} time(s); the fold is repeated")]
    Layer {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
        /// Folds that have met it.
        tries: u32,
    },
    /// The disk refuses a layer's file whose bytes are not known to be damaged: its shard waits
    /// for it, as long as it takes.
    #[error(
        "layer file {file} is refused by the disk ({reason}), {tries} time(s) by now; the other \
         shards are folded, and this one once the file can be read: look after the disk"
    )]
    Refused {
        /// The file.
        file: String,
        /// What the disk said.
        reason: String,
        /// Folds that have met it.
        tries: u32,
    },
    /// A part of a chunk could not be encoded.
    #[error("cannot encode {path}: {reason}")]
    Encode {
        /// The file.
        path: String,
        /// What the encoder said.
        reason: String,
    },
}

/// Why a day could not be replaced. Nothing was changed.
#[derive(Debug, Error)]
pub enum ReplaceError {
    /// A chunk could not be written.
    #[error(transparent)]
    Write(#[from] FoldError),
    /// Layers are not folded yet.
    #[error("{layers} layers are not in the base yet")]
    Waiting {
        /// How many.
        layers: usize,
    },
    /// A chunk that meets the day is damaged or refused by the disk.
    #[error(
        "a file of the base that meets the day cannot be read: `nilometer doctor` names it, \
         restore it from a backup"
    )]
    Unreadable,
    /// No plan writes the sets of a chunk that meets the day.
    #[error("a plan is gone by which cells of the day were counted: restore plans/ from a backup")]
    Plan,
}

/// Why rows could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// A file that holds cells of the range is damaged.
    #[error(
        "{} window range(s) from {} are corrupt in {file}: ask for a range without them",
        windows.len(), first_start(windows)
    )]
    Damaged {
        /// The first file found.
        file: String,
        /// What cannot be read, in order; never empty.
        windows: Vec<TimeRange>,
    },
    /// The granularity is not kept at that age.
    #[error("{granularity} is kept from {kept_from} on: ask for {finest} or coarser")]
    Expired {
        /// As asked.
        granularity: Granularity,
        /// Its first window that is kept.
        kept_from: EventTime,
        /// The finest that is kept at the range's start.
        finest: Granularity,
    },
    /// The range of a total does not lie on windows that are kept.
    #[error("range from {start} to {end} does not lie on kept windows: round it outward first")]
    Misaligned {
        /// As asked.
        start: EventTime,
        /// As asked.
        end: EventTime,
    },
    /// More rows than one answer may hold.
    #[error("answer has more than {rows_max} rows: narrow the range, the filter or the dimensions")]
    TooMany {
        /// The limit.
        rows_max: usize,
    },
    /// Rows with more sketches than one answer may hold in memory.
    #[error(
        "answer needs more than {bytes_max} bytes: narrow the range, the filter, the dimensions \
         or the metrics"
    )]
    TooLarge {
        /// The limit.
        bytes_max: usize,
    },
}

fn first_start(windows: &[TimeRange]) -> EventTime {
    windows.first().map_or(EventTime::MIN, |range| range.start)
}
