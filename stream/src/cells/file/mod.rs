//! A sealed layer's file: blocks of cells, and a footer that says where each lies.
//!
//! ```text
//! magic, version        "NILOCELL", u16
//! blocks                for each set and granularity, sorted by (window, dimension values):
//!                       a section of numbers, a section of sketches; each zstd
//! footer                zstd: schema, minutes, dictionaries, index of blocks with CRC-32C
//! trailer               offset u64, stored u32, raw u32, CRC-32C u32 of the footer, magic
//! ```
//!
//! Integers are little endian or variable-length. Codes of dimension values count the sorted
//! texts that the file's cells use, from 2; 0 is null, 1 what the guard folded. So equal layers
//! have equal bytes, whatever order they were counted in.

mod inflate;
pub use inflate::inflate;

mod block;
pub(super) use block::BlockCell;

mod read;
pub use read::{LayerFile, LayerFileError};

mod codes;
mod texts;

mod shelf;
pub use shelf::{BlockPlace, BlockShelf, LayerBlock};

mod write;
pub use write::{layer_bytes, write_layer};

use std::collections::BTreeSet;

use nilometer_event::Granularity;

use crate::aggregate::{AggregateDamaged, Reader, put_varint};

const MAGIC: &[u8; 8] = b"NILOCELL";
/// A layer with a sum past 128 bits, or a bound or a bucket past 64.
const VERSION: u16 = 2;
/// Any other: releases that know the first version alone read it.
const VERSION_NARROW: u16 = 1;
const TRAILER_BYTES: usize = 8 + 4 + 4 + 4 + 8;

/// Cells of one block: a scan decodes whole blocks.
const BLOCK_CELLS_MAX: usize = 1_024;
/// A block is closed once its sketches are over this size; one cell's may be larger.
const BLOCK_SKETCH_BYTES: usize = 1 << 20;
/// What a section may inflate to; more is damage. One cell of 64 dense counters is 1 MB.
const SECTION_BYTES_MAX: usize = 1 << 28;
/// Level 1 is within a few percent of the size of the higher ones.
const ZSTD_LEVEL: i32 = 1;

/// Where a section lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Section {
    offset: u64,
    stored: u32,
    raw: u32,
    crc: u32,
}

impl Section {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.offset);
        put_varint(out, u64::from(self.stored));
        put_varint(out, u64::from(self.raw));
        put_varint(out, u64::from(self.crc));
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, AggregateDamaged> {
        let offset = reader.varint()?;
        let mut narrow = || {
            u32::try_from(reader.varint()?).map_err(|_| AggregateDamaged("section out of range"))
        };
        Ok(Self { offset, stored: narrow()?, raw: narrow()?, crc: narrow()? })
    }
}

/// Some neighbouring cells of one set and granularity.
#[derive(Clone, Debug, PartialEq, Eq)]
struct BlockIndex {
    set: usize,
    granularity: u8,
    cells: usize,
    first_window: i64,
    last_window: i64,
    numbers: Section,
    sketches: Section,
}

impl LayerFile {
    /// Bytes in memory while it is open, about: its texts, minutes and index.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.dictionaries.iter().map(|(_, texts)| texts.memory_bytes()).sum::<usize>()
            + self.minutes.iter().map(|minutes| minutes.capacity() * 8).sum::<usize>()
            + self.blocks.capacity() * size_of::<BlockIndex>()
            + size_of::<Self>()
    }

    /// Cells that scans of every set at a granularity show, at most.
    #[must_use]
    pub fn cells_at(&self, granularity: Granularity) -> usize {
        let of = |number: Granularity| {
            self.blocks.iter().filter(move |block| block.granularity == number as u8)
        };
        let kept: BTreeSet<usize> = of(granularity).map(|block| block.set).collect();
        let minutes = of(Granularity::Minute).filter(|block| !kept.contains(&block.set));
        of(granularity).chain(minutes).map(|block| block.cells).sum()
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(sum & 0xffff_ffff).expect("32 bits")
}
