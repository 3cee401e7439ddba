//! One immutable file of the base: the cells of one plan, granularity and span of time.
//!
//! ```text
//! chunk   = magic, section…, footer, tail
//! block   = up to 2,048 cells of one dimension set, ascending by (window, dimension values)
//! section = one zstd frame, or plain bytes where that is no longer: keys | numbers | estimates | distincts | others of a block
//! footer  = one zstd frame: sets, slots by definition, blocks with place and CRC-32C of sections
//! tail    = footer length u32, footer CRC-32C u32, version u32, magic   (little endian)
//! ```
//!
//! Numbers lie apart from sketches, and the estimate of each distinct counter beside it: a reader
//! of counts, or of the distinct users of a single cell, decodes no sketch.

mod reader;
pub(crate) use reader::{
    Blobs, ChunkDamaged, Column, Estimates, Keys, Numbers, Part, load_footer, load_part,
};

mod writer;
pub(crate) use writer::{ChunkWriter, Packer};

use nilometer_event::EventTime;
use nilometer_stream::aggregate::Shape;
use serde::{Deserialize, Serialize};

use crate::manifest::ChunkKey;

const MAGIC: &[u8; 8] = b"NILOCHNK";
/// A chunk with a sum past 128 bits, or a bound or a bucket past 64.
const VERSION: u32 = 2;
/// Any other: releases that know the first version alone read it.
const VERSION_NARROW: u32 = 1;
const TAIL_BYTES: usize = 4 + 4 + 4 + 8;

/// Cells that one block holds at most: about 64 KiB of numbers for the built-in metrics.
pub(crate) const BLOCK_CELLS_MAX: usize = 2_048;
/// Sketch bytes after which a block is closed.
pub(crate) const BLOCK_SKETCH_BYTES: usize = 256 << 10;

/// Level 1: higher ones save a few percent of the bytes, and cost several times the CPU.
const ZSTD_LEVEL: i32 = 1;

/// A section shorter than this is not compressed.
const PLAIN_BYTES: usize = 96;

/// A part of a block that is read by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Section {
    /// Windows and dimension values.
    Keys = 0,
    /// Counts, sums, minima, maxima.
    Numbers = 1,
    /// Of each distinct counter its estimate.
    Estimates = 2,
    /// Distinct counters.
    Distincts = 3,
    /// Histograms, then counts per value.
    Others = 4,
}

const SECTIONS: usize = 5;

impl Section {
    /// Every section, in the order of the file.
    pub(crate) const ALL: [Self; SECTIONS] =
        [Self::Keys, Self::Numbers, Self::Estimates, Self::Distincts, Self::Others];
}

/// Where everything in a chunk lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Footer {
    pub(crate) key: ChunkKey,
    pub(crate) sets: Vec<SetSchema>,
    /// By set, then by first window.
    pub(crate) blocks: Vec<BlockMeta>,
}

/// A dimension set as names and definitions, which outlive the plan's own numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SetSchema {
    /// True for sessions, false for events.
    pub(crate) sessions: bool,
    /// In the order of the cells' values.
    pub(crate) dims: Vec<SetDim>,
    /// Whether its cells count distinct users and values.
    pub(crate) distinct: bool,
    /// What each slot counts.
    pub(crate) slots: SlotDefinitions,
}

/// A dimension of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SetDim {
    /// Hash of name and source.
    pub(crate) definition: u64,
    /// For people who look into a file.
    pub(crate) name: String,
}

/// The definition hash of each slot, by kind of slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SlotDefinitions {
    pub(crate) counts: Vec<u64>,
    pub(crate) sums: Vec<u64>,
    pub(crate) mins: Vec<u64>,
    pub(crate) maxs: Vec<u64>,
    pub(crate) distincts: Vec<u64>,
    pub(crate) histograms: Vec<u64>,
    pub(crate) tops: Vec<u64>,
}

impl SlotDefinitions {
    /// How many slots of each kind.
    pub(crate) const fn shape(&self) -> Shape {
        Shape {
            counts: self.counts.len(),
            sums: self.sums.len(),
            mins: self.mins.len(),
            maxs: self.maxs.len(),
            distincts: self.distincts.len(),
            histograms: self.histograms.len(),
            tops: self.tops.len(),
        }
    }
}

/// One block's place in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlockMeta {
    /// Index into [`Footer::sets`].
    pub(crate) set: u32,
    /// Start of its first window.
    pub(crate) first: EventTime,
    /// Start of its last window.
    pub(crate) last: EventTime,
    pub(crate) cells: u32,
    pub(crate) sections: [SectionMeta; SECTIONS],
}

/// One section's place in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SectionMeta {
    pub(crate) offset: u64,
    pub(crate) bytes: u32,
    /// Bytes once decompressed: what a reader sets aside.
    pub(crate) raw_bytes: u32,
    pub(crate) crc: u32,
}

/// A dimension value as it lies in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum StoredValue {
    Null,
    Other,
    Text(String),
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredKeys {
    /// Start of each window in milliseconds, and how many cells it has.
    windows: Vec<(i64, u32)>,
    dims: Vec<StoredColumn>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct StoredColumn {
    values: Vec<StoredValue>,
    /// Per cell its place in `values`.
    index: Vec<u32>,
}

/// An estimate that stands for a distinct counter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// How many.
    pub value: f64,
    /// True where that is the truth.
    pub exact: bool,
}

#[cfg(test)]
mod tests;
