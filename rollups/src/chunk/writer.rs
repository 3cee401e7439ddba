//! Writes a chunk: cells in, blocks out, footer last.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;

use nilometer_event::{EventTime, ReceiveTime};
use nilometer_log::disk::{Disk, DiskFile};
use nilometer_stream::aggregate::{Aggregates, Shape};
use nilometer_stream::cells::OwnedDimValue;
use serde::Serialize;

use super::{
    BLOCK_CELLS_MAX, BLOCK_SKETCH_BYTES, BlockMeta, Estimate, Footer, MAGIC, PLAIN_BYTES, SECTIONS,
    SectionMeta, SetSchema, StoredColumn, StoredKeys, StoredValue, TAIL_BYTES, VERSION,
    VERSION_NARROW, ZSTD_LEVEL,
};
use crate::chunk::reader::Numbers;
use crate::error::FoldError;
use crate::manifest::{CHUNKS, ChunkKey, ChunkMeta, crc32c};

/// A chunk under construction; dropped before [`ChunkWriter::finish`], it leaves a file that
/// nothing lists.
pub(crate) struct ChunkWriter {
    file: Box<dyn DiskFile>,
    name: String,
    offset: u64,
    footer: Footer,
    block: Block,
    cells: u64,
    is_wide: bool,
    packer: Packer,
}

/// Compresses the sections of any number of chunks: a context costs more to set up than a small
/// section to compress, and a megabyte to keep.
#[derive(Clone)]
pub(crate) struct Packer(Rc<RefCell<zstd::bulk::Compressor<'static>>>);

impl Packer {
    /// A context of its own.
    ///
    /// # Errors
    ///
    /// Where there is no memory for it.
    pub(crate) fn new() -> io::Result<Self> {
        zstd::bulk::Compressor::new(ZSTD_LEVEL).map(|context| Self(Rc::new(RefCell::new(context))))
    }

    fn pack(&self, raw: &[u8]) -> io::Result<Vec<u8>> {
        self.0.borrow_mut().compress(raw)
    }
}

impl std::fmt::Debug for ChunkWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChunkWriter").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ChunkWriter {
    /// Begins the file `name`.
    ///
    /// # Errors
    ///
    /// [`FoldError::Io`].
    pub(crate) fn begin(
        disk: &dyn Disk,
        name: String,
        key: ChunkKey,
        packer: Packer,
    ) -> Result<Self, FoldError> {
        let path = format!("{CHUNKS}/{name}");
        let begun = disk.create(&path).and_then(|mut file| {
            file.write_all(MAGIC)?;
            Ok(file)
        });
        let file = begun.map_err(|source| FoldError::Io { path, source })?;
        Ok(Self {
            file,
            name,
            offset: MAGIC.len() as u64,
            footer: Footer { key, sets: Vec::new(), blocks: Vec::new() },
            block: Block::default(),
            cells: 0,
            is_wide: false,
            packer,
        })
    }

    /// Goes on with the cells of the next dimension set.
    ///
    /// # Errors
    ///
    /// [`FoldError`].
    pub(crate) fn begin_set(&mut self, set: SetSchema) -> Result<(), FoldError> {
        self.close_block()?;
        self.block = Block::new(set.dims.len(), set.slots.shape());
        self.footer.sets.push(set);
        Ok(())
    }

    /// Adds a cell of the current set; cells come ascending by window, then by values.
    ///
    /// # Errors
    ///
    /// [`FoldError`].
    pub(crate) fn cell(
        &mut self,
        window: EventTime,
        dims: &[OwnedDimValue],
        aggregates: &Aggregates,
    ) -> Result<(), FoldError> {
        self.block.push(window, dims, aggregates);
        self.cells += 1;
        self.is_wide |= aggregates.is_wide();
        if self.block.is_full() { self.close_block() } else { Ok(()) }
    }

    /// Ends the file and makes its bytes durable (its name only once the folder is synced);
    /// `None` and an empty file where there was no cell.
    ///
    /// # Errors
    ///
    /// [`FoldError`].
    pub(crate) fn finish(
        mut self,
        weight: u64,
        made_at: ReceiveTime,
    ) -> Result<Option<ChunkMeta>, FoldError> {
        self.close_block()?;
        let firsts = self.footer.blocks.iter().map(|block| block.first).min();
        let lasts = self.footer.blocks.iter().map(|block| block.last).max();
        let (Some(first), Some(last)) = (firsts, lasts) else { return Ok(None) };
        let footer = postcard::to_allocvec(&self.footer)
            .map_err(|error| self.encode_error(&error.to_string()))?;
        let footer = self.compress(&footer)?;
        let length =
            u32::try_from(footer.len()).map_err(|_| self.encode_error("footer over 4 GiB"))?;
        let mut tail = Vec::with_capacity(TAIL_BYTES);
        tail.extend_from_slice(&length.to_le_bytes());
        tail.extend_from_slice(&crc32c(&footer).to_le_bytes());
        let version = if self.is_wide { VERSION } else { VERSION_NARROW };
        tail.extend_from_slice(&version.to_le_bytes());
        tail.extend_from_slice(MAGIC);
        self.write(&footer)?;
        self.write(&tail)?;
        let synced = self.file.sync();
        self.done(synced)?;
        Ok(Some(ChunkMeta {
            key: self.footer.key,
            file: self.name,
            bytes: self.offset,
            cells: self.cells,
            first,
            last,
            weight,
            made_at,
        }))
    }

    /// Ends the block under construction: no more cells come soon.
    ///
    /// # Errors
    ///
    /// [`FoldError`].
    pub(crate) fn close_block(&mut self) -> Result<(), FoldError> {
        if self.block.cells() == 0 {
            return Ok(());
        }
        let parts = self.block.encode().map_err(|error| self.encode_error(&error.to_string()))?;
        let mut sections = [SectionMeta::default(); SECTIONS];
        for (section, raw) in sections.iter_mut().zip(&parts) {
            *section = self.write_section(raw)?;
        }
        let (Some(&(first, _)), Some(&(last, _))) =
            (self.block.keys.windows.first(), self.block.keys.windows.last())
        else {
            return Ok(());
        };
        let over = |_| self.encode_error("over 4 G sets or cells");
        let set = u32::try_from(self.footer.sets.len().saturating_sub(1)).map_err(over)?;
        let cells = u32::try_from(self.block.cells()).map_err(over)?;
        self.footer.blocks.push(BlockMeta {
            set,
            first: EventTime::from_ms(first),
            last: EventTime::from_ms(last),
            cells,
            sections,
        });
        self.block = self.block.emptied();
        Ok(())
    }

    fn write_section(&mut self, raw: &[u8]) -> Result<SectionMeta, FoldError> {
        // As it is where that is no longer: equal lengths say so to the reader.
        let packed = match raw.len() {
            0..PLAIN_BYTES => raw.to_vec(),
            _ => Some(self.compress(raw)?)
                .filter(|packed| packed.len() < raw.len())
                .unwrap_or_else(|| raw.to_vec()),
        };
        let over = |_| self.encode_error("section over 4 GiB");
        let section = SectionMeta {
            offset: self.offset,
            bytes: u32::try_from(packed.len()).map_err(over)?,
            raw_bytes: u32::try_from(raw.len()).map_err(over)?,
            crc: crc32c(&packed),
        };
        self.write(&packed)?;
        Ok(section)
    }

    fn compress(&self, raw: &[u8]) -> Result<Vec<u8>, FoldError> {
        let packed = self.packer.pack(raw);
        packed.map_err(|error| self.encode_error(&error.to_string()))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), FoldError> {
        let written = self.file.write_all(bytes);
        self.done(written)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn done(&self, outcome: io::Result<()>) -> Result<(), FoldError> {
        outcome.map_err(|source| FoldError::Io { path: format!("{CHUNKS}/{}", self.name), source })
    }

    fn encode_error(&self, reason: &str) -> FoldError {
        FoldError::Encode { path: format!("{CHUNKS}/{}", self.name), reason: reason.to_owned() }
    }
}

/// The columns of the block under construction.
#[derive(Debug)]
struct Block {
    shape: Shape,
    keys: StoredKeys,
    /// Per dimension the place of a value in its column.
    places: Vec<HashMap<OwnedDimValue, u32>>,
    numbers: Numbers,
    estimates: Vec<Vec<Estimate>>,
    distincts: BlobColumns,
    others: BlobColumns,
}

impl Default for Block {
    fn default() -> Self {
        Self::new(0, Shape::default())
    }
}

impl Block {
    fn new(dims: usize, shape: Shape) -> Self {
        Self {
            shape,
            keys: StoredKeys {
                windows: Vec::new(),
                dims: (0..dims).map(|_| StoredColumn::default()).collect(),
            },
            places: vec![HashMap::new(); dims],
            numbers: Numbers::new(shape),
            estimates: vec![Vec::new(); shape.distincts],
            distincts: BlobColumns::new(shape.distincts),
            others: BlobColumns::new(shape.histograms + shape.tops),
        }
    }

    fn emptied(&self) -> Self {
        Self::new(self.keys.dims.len(), self.shape)
    }

    fn cells(&self) -> usize {
        self.keys.windows.iter().map(|&(_, cells)| cells as usize).sum()
    }

    fn is_full(&self) -> bool {
        self.cells() >= BLOCK_CELLS_MAX
            || self.distincts.bytes() + self.others.bytes() >= BLOCK_SKETCH_BYTES
    }

    fn push(&mut self, window: EventTime, dims: &[OwnedDimValue], aggregates: &Aggregates) {
        match self.keys.windows.last_mut() {
            Some((last, cells)) if *last == window.ms() => *cells += 1,
            _ => self.keys.windows.push((window.ms(), 1)),
        }
        for ((column, places), value) in self.keys.dims.iter_mut().zip(&mut self.places).zip(dims) {
            let place = *places.entry(value.clone()).or_insert_with(|| {
                column.values.push(StoredValue::from(value));
                let place = column.values.len() - 1;
                u32::try_from(place).expect("B4: a block has few values")
            });
            column.index.push(place);
        }
        self.numbers.push(aggregates);
        for ((estimates, blobs), distinct) in
            self.estimates.iter_mut().zip(&mut self.distincts.0).zip(&aggregates.distincts)
        {
            estimates.push(Estimate { value: distinct.estimate(), exact: distinct.is_exact() });
            blobs.push(|out| distinct.encode(out));
        }
        let histograms = aggregates.histograms.len();
        for (blobs, histogram) in self.others.0.iter_mut().zip(&aggregates.histograms) {
            blobs.push(|out| histogram.encode(out));
        }
        for (blobs, top) in self.others.0.iter_mut().skip(histograms).zip(&aggregates.tops) {
            blobs.push(|out| top.encode(out));
        }
    }

    /// The sections, in the order of [`super::Section`].
    fn encode(&self) -> Result<[Vec<u8>; SECTIONS], postcard::Error> {
        Ok([
            postcard::to_allocvec(&self.keys)?,
            self.numbers.encode()?,
            postcard::to_allocvec(&self.estimates)?,
            self.distincts.encode()?,
            self.others.encode()?,
        ])
    }
}

/// Per slot a column of encoded sketches.
#[derive(Debug)]
struct BlobColumns(Vec<BlobColumn>);

#[derive(Clone, Debug, Default)]
struct BlobColumn {
    lengths: Vec<u32>,
    bytes: Vec<u8>,
}

impl BlobColumns {
    fn new(slots: usize) -> Self {
        Self(vec![BlobColumn::default(); slots])
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(|column| column.bytes.len()).sum()
    }

    fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        #[derive(Serialize)]
        struct Lengths<'a>(Vec<&'a [u32]>);
        let lengths = Lengths(self.0.iter().map(|column| &*column.lengths).collect());
        let mut out = postcard::to_allocvec(&lengths)?;
        for column in &self.0 {
            out.extend_from_slice(&column.bytes);
        }
        Ok(out)
    }
}

impl BlobColumn {
    fn push(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let before = self.bytes.len();
        encode(&mut self.bytes);
        let length = u32::try_from(self.bytes.len() - before);
        self.lengths.push(length.expect("B4: the guard bounds what a sketch counts"));
    }
}

impl From<&OwnedDimValue> for StoredValue {
    fn from(value: &OwnedDimValue) -> Self {
        match value {
            OwnedDimValue::Null => Self::Null,
            OwnedDimValue::Other => Self::Other,
            OwnedDimValue::Text(text) => Self::Text(text.to_string()),
        }
    }
}
