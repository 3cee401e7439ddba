//! Reads a chunk: footer first, then only the sections that are asked for.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use nilometer_event::EventTime;
use nilometer_log::disk::{Disk, DiskFile};
use nilometer_stream::aggregate::{Aggregates, Bounds, Distinct, Shape, Sums};
use nilometer_stream::cells::{OwnedDimValue, inflate};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    BlockMeta, Estimate, Footer, MAGIC, Section, SectionMeta, SetSchema, StoredKeys, StoredValue,
    TAIL_BYTES, VERSION, VERSION_NARROW,
};
use crate::manifest::{ChunkMeta, crc32c};

/// A footer's size once decompressed: what a chunk of the largest span needs, many times over.
const FOOTER_BYTES_MAX: usize = 256 << 20;
/// A section's size once decompressed.
const SECTION_BYTES_MAX: u32 = 1 << 30;

/// A chunk, or a part of it, that cannot be read.
#[derive(Debug, Error)]
pub(crate) enum ChunkDamaged {
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("checksum of {0} does not hold")]
    Checksum(&'static str),
    #[error("{0}")]
    Form(&'static str),
}

impl ChunkDamaged {
    /// Whether the disk refused (an error once, no descriptor left): then nothing is known of the
    /// bytes, and another try may read them.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() != io::ErrorKind::NotFound)
    }
}

/// A section of a block, decoded.
#[derive(Debug)]
pub(crate) enum Part {
    Keys(Keys),
    Numbers(Numbers),
    Estimates(Estimates),
    Blobs(Blobs),
}

impl Part {
    /// Bytes in memory, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        match self {
            Self::Keys(keys) => {
                let column = |column: &Column| {
                    let text: usize =
                        column.values.iter().map(|value| 24 + text_bytes(value)).sum();
                    text + column.index.len() * 4
                };
                keys.windows.len() * 32 + keys.dims.iter().map(column).sum::<usize>()
            }
            Self::Numbers(numbers) => numbers.memory_bytes(),
            Self::Estimates(estimates) => estimates.0.iter().map(|slot| slot.len() * 16).sum(),
            Self::Blobs(blobs) => {
                blobs.bytes.len() + blobs.places.iter().map(|slot| slot.len() * 16).sum::<usize>()
            }
        }
    }
}

fn text_bytes(value: &OwnedDimValue) -> usize {
    match value {
        OwnedDimValue::Text(text) => text.len(),
        OwnedDimValue::Null | OwnedDimValue::Other => 0,
    }
}

/// Which cell of a block is which.
#[derive(Debug)]
pub(crate) struct Keys {
    /// Ascending.
    pub(crate) windows: Vec<(EventTime, Range<usize>)>,
    pub(crate) dims: Vec<Column>,
}

/// One dimension of a block's cells.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) values: Vec<OwnedDimValue>,
    /// Per cell its place in `values`, always inside.
    pub(crate) index: Vec<u32>,
}

impl Column {
    /// The value of a cell.
    pub(crate) fn value(&self, cell: usize) -> &OwnedDimValue {
        const NULL: &OwnedDimValue = &OwnedDimValue::Null;
        let place = self.index.get(cell).map(|&place| place as usize);
        place.and_then(|place| self.values.get(place)).unwrap_or(NULL)
    }
}

/// Columns of numbers, by slot.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    pub(crate) counts: Vec<Vec<i64>>,
    pub(crate) sums: Vec<Sums>,
    pub(crate) mins: Vec<Bounds>,
    pub(crate) maxs: Vec<Bounds>,
}

/// Numbers as they lie in a file. Behind them, in the second version alone and where there are
/// any, lie [`Carry`]s.
#[derive(Debug, Serialize, Deserialize)]
struct StoredNumbers<C, S, B> {
    counts: C,
    sums: S,
    mins: B,
    maxs: B,
}

type StoredBounds = Vec<Vec<Option<i128>>>;

/// How often a sum passed 128 bits: slot, cell, times.
type Carry = (u32, u32, i64);

impl Numbers {
    pub(crate) fn new(shape: Shape) -> Self {
        Self {
            counts: vec![Vec::new(); shape.counts],
            sums: vec![Sums::default(); shape.sums],
            mins: vec![Bounds::default(); shape.mins],
            maxs: vec![Bounds::default(); shape.maxs],
        }
    }

    pub(crate) fn push(&mut self, aggregates: &Aggregates) {
        push_each(&mut self.counts, &aggregates.counts);
        for (column, &sum) in self.sums.iter_mut().zip(&aggregates.sums) {
            column.push(sum);
        }
        for (column, &bound) in self.mins.iter_mut().zip(&aggregates.mins) {
            column.push(bound);
        }
        for (column, &bound) in self.maxs.iter_mut().zip(&aggregates.maxs) {
            column.push(bound);
        }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        let Self { counts, sums, mins, maxs } = self;
        let low: Vec<&[i128]> = sums.iter().map(Sums::low).collect();
        let bounds = |columns: &[Bounds]| -> StoredBounds {
            columns.iter().map(|column| column.iter().collect()).collect()
        };
        let (mins, maxs) = (bounds(mins), bounds(maxs));
        let stored = StoredNumbers { counts, sums: low, mins, maxs };
        let mut out = postcard::to_allocvec(&stored)?;
        let narrow = |place: usize| u32::try_from(place).expect("a block has 2,048 cells at most");
        let carries: Vec<Carry> = (0..)
            .zip(sums)
            .flat_map(|(slot, sums)| {
                sums.carries().iter().map(move |(&cell, &times)| (slot, narrow(cell), times))
            })
            .collect();
        if !carries.is_empty() {
            out.extend_from_slice(&postcard::to_allocvec(&carries)?);
        }
        Ok(out)
    }

    pub(super) fn decode(raw: &[u8]) -> Result<Self, postcard::Error> {
        type Stored = StoredNumbers<Vec<Vec<i64>>, Vec<Vec<i128>>, StoredBounds>;
        let bounds = |columns: StoredBounds| -> Vec<Bounds> {
            columns.into_iter().map(Bounds::from_iter).collect()
        };
        let (stored, rest) = postcard::take_from_bytes::<Stored>(raw)?;
        let mut carries = vec![BTreeMap::new(); stored.sums.len()];
        if !rest.is_empty() {
            for (slot, cell, times) in postcard::from_bytes::<Vec<Carry>>(rest)? {
                let known = stored.sums.get(slot as usize).map_or(0, Vec::len);
                if cell as usize >= known || times == 0 {
                    return Err(postcard::Error::DeserializeBadEncoding);
                }
                carries[slot as usize].insert(cell as usize, times);
            }
        }
        let sums = stored.sums.into_iter().zip(carries);
        Ok(Self {
            counts: stored.counts,
            sums: sums.map(|(low, carries)| Sums::from_parts(low, carries)).collect(),
            mins: bounds(stored.mins),
            maxs: bounds(stored.maxs),
        })
    }

    fn memory_bytes(&self) -> usize {
        let count = self.counts.iter().map(|slot| slot.len() * 8).sum::<usize>();
        let sum = self.sums.iter().map(|slot| slot.len() * 16).sum::<usize>();
        let bound = self.mins.iter().chain(&self.maxs).map(Bounds::memory_bytes).sum::<usize>();
        count + sum + bound
    }

    fn fits(&self, shape: Shape, cells: usize) -> bool {
        columns_fit(&self.counts, shape.counts, cells)
            && self.sums.len() == shape.sums
            && self.sums.iter().all(|column| column.len() == cells)
            && (self.mins.len(), self.maxs.len()) == (shape.mins, shape.maxs)
            && self.mins.iter().chain(&self.maxs).all(|column| column.len() == cells)
    }
}

fn push_each<T: Copy>(columns: &mut [Vec<T>], values: &[T]) {
    for (column, value) in columns.iter_mut().zip(values) {
        column.push(*value);
    }
}

fn columns_fit<T>(columns: &[Vec<T>], slots: usize, cells: usize) -> bool {
    columns.len() == slots && columns.iter().all(|column| column.len() == cells)
}

/// Per distinct slot, per cell.
#[derive(Debug)]
pub(crate) struct Estimates(pub(crate) Vec<Vec<Estimate>>);

/// Encoded sketches, decoded one by one when a reader merges them.
#[derive(Debug)]
pub(crate) struct Blobs {
    bytes: Vec<u8>,
    /// Per slot and cell.
    places: Vec<Vec<Range<usize>>>,
}

impl Blobs {
    /// The bytes of one sketch.
    pub(crate) fn get(&self, slot: usize, cell: usize) -> Option<&[u8]> {
        self.bytes.get(self.places.get(slot)?.get(cell)?.clone())
    }

    /// Adds a distinct counter.
    pub(crate) fn merge_distinct(
        &self,
        slot: usize,
        cell: usize,
        into: &mut Distinct,
    ) -> Result<(), ChunkDamaged> {
        let bytes = self.get(slot, cell).ok_or(ChunkDamaged::Form("a sketch is missing"))?;
        let malformed = |_| ChunkDamaged::Form("a distinct counter is malformed");
        into.merge_encoded(bytes).map_err(malformed)
    }

    /// One histogram or one count per value, as aggregates of that one slot.
    pub(crate) fn single(
        &self,
        slot: usize,
        cell: usize,
        shape: Shape,
    ) -> Result<Aggregates, ChunkDamaged> {
        let bytes = self.get(slot, cell).ok_or(ChunkDamaged::Form("a sketch is missing"))?;
        Aggregates::decode(shape, bytes).map_err(|_| ChunkDamaged::Form("a sketch is malformed"))
    }
}

/// Reads the footer of the chunk that the manifest describes.
///
/// # Errors
///
/// [`ChunkDamaged`]: then no window of the chunk can be read.
pub(crate) fn load_footer(disk: &dyn Disk, meta: &ChunkMeta) -> Result<Footer, ChunkDamaged> {
    let file = disk.open_read(&meta.path())?;
    let end = meta.bytes;
    let tail_at = end
        .checked_sub(TAIL_BYTES as u64)
        .ok_or(ChunkDamaged::Form("file is shorter than its tail"))?;
    let tail = read_exact(&*file, tail_at, TAIL_BYTES)?;
    let word = |at: usize| {
        let word = tail.get(at..at + 4).and_then(|word| word.try_into().ok());
        word.map(u32::from_le_bytes).ok_or(ChunkDamaged::Form("tail is cut short"))
    };
    let (length, crc, version) = (word(0)?, word(4)?, word(8)?);
    if !tail.ends_with(MAGIC) || !(VERSION_NARROW..=VERSION).contains(&version) {
        return Err(ChunkDamaged::Form("tail is not a chunk's"));
    }
    let footer_at = tail_at
        .checked_sub(u64::from(length))
        .ok_or(ChunkDamaged::Form("footer is longer than the file"))?;
    let packed = read_exact(&*file, footer_at, length as usize)?;
    if crc32c(&packed) != crc {
        return Err(ChunkDamaged::Checksum("the footer"));
    }
    let raw = zstd::stream::decode_all(io::Read::take(&*packed, FOOTER_BYTES_MAX as u64))
        .map_err(|_| ChunkDamaged::Form("footer cannot be decompressed"))?;
    let footer: Footer =
        postcard::from_bytes(&raw).map_err(|_| ChunkDamaged::Form("footer is malformed"))?;
    if footer.key != meta.key {
        return Err(ChunkDamaged::Form("file is another chunk's"));
    }
    if footer.blocks.iter().any(|block| block.set as usize >= footer.sets.len()) {
        return Err(ChunkDamaged::Form("a block is of no set"));
    }
    // Readers find the blocks of a range by halving.
    let in_order = |pair: &[BlockMeta]| match pair {
        [one, two] => {
            one.set < two.set
                || (one.set == two.set && one.first <= two.first && one.last <= two.last)
        }
        _ => true,
    };
    if !footer.blocks.windows(2).all(in_order) {
        return Err(ChunkDamaged::Form("blocks are out of order"));
    }
    Ok(footer)
}

/// Reads and decodes one section of a block.
///
/// # Errors
///
/// [`ChunkDamaged`]: then the windows of that block cannot be read.
pub(crate) fn load_part(
    disk: &dyn Disk,
    meta: &ChunkMeta,
    set: &SetSchema,
    block: &BlockMeta,
    section: Section,
) -> Result<Part, ChunkDamaged> {
    let file = disk.open_read(&meta.path())?;
    let place = block.sections[section as usize];
    let raw = read_section(&*file, place)?;
    let cells = block.cells as usize;
    let shape = set.slots.shape();
    let malformed = |_| ChunkDamaged::Form("a section is malformed");
    match section {
        Section::Keys => decode_keys(&raw, set.dims.len(), cells).map(Part::Keys),
        Section::Numbers => {
            let numbers = Numbers::decode(&raw).map_err(malformed)?;
            let fits = numbers.fits(shape, cells);
            fits.then_some(Part::Numbers(numbers)).ok_or(ChunkDamaged::Form("numbers do not fit"))
        }
        Section::Estimates => {
            let columns: Vec<Vec<Estimate>> = postcard::from_bytes(&raw).map_err(malformed)?;
            let fits = columns_fit(&columns, shape.distincts, cells);
            fits.then_some(Part::Estimates(Estimates(columns)))
                .ok_or(ChunkDamaged::Form("estimates do not fit"))
        }
        Section::Distincts => decode_blobs(raw, shape.distincts, cells).map(Part::Blobs),
        Section::Others => decode_blobs(raw, shape.histograms + shape.tops, cells).map(Part::Blobs),
    }
}

fn read_section(file: &dyn DiskFile, place: SectionMeta) -> Result<Vec<u8>, ChunkDamaged> {
    if place.raw_bytes > SECTION_BYTES_MAX {
        return Err(ChunkDamaged::Form("a section is over 1 GiB"));
    }
    let packed = read_exact(file, place.offset, place.bytes as usize)?;
    if crc32c(&packed) != place.crc {
        return Err(ChunkDamaged::Checksum("a section"));
    }
    if place.bytes == place.raw_bytes {
        return Ok(packed);
    }
    let raw = inflate(&packed, place.raw_bytes as usize)
        .map_err(|_| ChunkDamaged::Form("a section cannot be decompressed"))?;
    if raw.len() != place.raw_bytes as usize {
        return Err(ChunkDamaged::Form("a section has another length"));
    }
    Ok(raw)
}

fn read_exact(file: &dyn DiskFile, offset: u64, len: usize) -> Result<Vec<u8>, ChunkDamaged> {
    if file.len()? < offset.saturating_add(len as u64) {
        return Err(ChunkDamaged::Form("file is cut short"));
    }
    let mut bytes = vec![0; len];
    let mut read = 0;
    while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(offset + read as u64, rest)? {
            0 => return Err(ChunkDamaged::Form("file is cut short")),
            more => read += more,
        }
    }
    Ok(bytes)
}

fn decode_keys(raw: &[u8], dims: usize, cells: usize) -> Result<Keys, ChunkDamaged> {
    let stored: StoredKeys =
        postcard::from_bytes(raw).map_err(|_| ChunkDamaged::Form("keys are malformed"))?;
    let mut windows = Vec::with_capacity(stored.windows.len());
    let mut next = 0_usize;
    for (window, count) in stored.windows {
        let end = next.saturating_add(count as usize);
        windows.push((EventTime::from_ms(window), next..end));
        next = end;
    }
    if next != cells || stored.dims.len() != dims {
        return Err(ChunkDamaged::Form("keys do not fit"));
    }
    let mut columns = Vec::with_capacity(dims);
    for column in stored.dims {
        let inside = column.index.iter().all(|&place| (place as usize) < column.values.len());
        if !inside || column.index.len() != cells {
            return Err(ChunkDamaged::Form("dimension values do not fit"));
        }
        let values = column.values.into_iter().map(OwnedDimValue::from).collect();
        columns.push(Column { values, index: column.index });
    }
    Ok(Keys { windows, dims: columns })
}

fn decode_blobs(raw: Vec<u8>, slots: usize, cells: usize) -> Result<Blobs, ChunkDamaged> {
    let (lengths, rest): (Vec<Vec<u32>>, _) = postcard::take_from_bytes(&raw)
        .map_err(|_| ChunkDamaged::Form("lengths of sketches are malformed"))?;
    if !columns_fit(&lengths, slots, cells) {
        return Err(ChunkDamaged::Form("sketches do not fit"));
    }
    let mut at = raw.len() - rest.len();
    let mut places = Vec::with_capacity(slots);
    for column in lengths {
        let mut slot = Vec::with_capacity(column.len());
        for length in column {
            let end = at.saturating_add(length as usize);
            slot.push(at..end);
            at = end;
        }
        places.push(slot);
    }
    if at != raw.len() {
        return Err(ChunkDamaged::Form("sketches do not fill their section"));
    }
    Ok(Blobs { bytes: raw, places })
}

impl From<StoredValue> for OwnedDimValue {
    fn from(value: StoredValue) -> Self {
        match value {
            StoredValue::Null => Self::Null,
            StoredValue::Other => Self::Other,
            StoredValue::Text(text) => Self::Text(text.into()),
        }
    }
}
