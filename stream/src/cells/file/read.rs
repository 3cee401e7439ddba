//! Reading a layer's file: the footer at opening, then only the blocks that a scan needs.

use std::sync::Arc;

use nilometer_event::{EventTime, Granularity, TimeRange};
use nilometer_log::{Disk, DiskFile};

use super::block::{Block, BlockCell};
use super::codes::{passes, value_of, wanted_codes};
use super::inflate::inflate;
use super::shelf::{BlockPlace, BlockShelf, LayerBlock};
use super::texts::Texts;
use super::{
    BLOCK_CELLS_MAX, BlockIndex, MAGIC, SECTION_BYTES_MAX, Section, TRAILER_BYTES, VERSION, crc32c,
};
use crate::aggregate::{AggregateDamaged, Reader, Shape};
use crate::cells::scan::filling;
use crate::cells::schema::{DIMS_MAX, Projection, Schema, SchemaDim, SetSchema, kind_index};
use crate::cells::source::{
    CellRef, CellSource, CellView, CellsDamaged, Coverage, DimValue, ScanRequest,
};
use crate::declare::{PlanId, SetKind};

/// A layer's file that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LayerFileError {
    /// The disk refused; nothing is known of the file.
    #[error("cannot read layer file {path}: {source}")]
    Io {
        /// Which file.
        path: String,
        /// What the disk said.
        source: std::io::Error,
    },
    /// Its frame is damaged: none of its cells can be read.
    #[error("layer file {path} is corrupt: {reason}; restore it or rebuild its windows")]
    Damaged {
        /// Which file.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A later release wrote it.
    #[error("layer file {path} has format {version}, this release reads up to {VERSION}; upgrade")]
    TooNew {
        /// Which file.
        path: String,
        /// Its format.
        version: u16,
    },
}

/// A sealed layer on disk.
#[derive(Debug)]
pub struct LayerFile {
    path: String,
    file: Box<dyn DiskFile>,
    bytes: u64,
    schema: Schema,
    /// Minutes with cells, of events and of sessions.
    pub(super) minutes: [Vec<EventTime>; 2],
    /// By dimension's definition, sorted texts.
    pub(super) dictionaries: Vec<(u64, Texts)>,
    pub(super) blocks: Vec<BlockIndex>,
}

impl LayerFile {
    /// Opens a file and reads its footer.
    ///
    /// # Errors
    ///
    /// [`LayerFileError`] where the disk refuses, or the footer is damaged or too new.
    pub fn open(disk: &dyn Disk, path: &str) -> Result<Self, LayerFileError> {
        let io = |source| LayerFileError::Io { path: path.to_owned(), source };
        let damaged = |reason| LayerFileError::Damaged { path: path.to_owned(), reason };
        let file = disk.open_read(path).map_err(io)?;
        let bytes = file.len().map_err(io)?;
        let mut head = [0; 10];
        read_exact(&*file, 0, &mut head).map_err(io)?.ok_or_else(|| damaged("cut short"))?;
        if &head[..8] != MAGIC {
            return Err(damaged("not a layer file"));
        }
        let version = u16::from_le_bytes([head[8], head[9]]);
        if version > VERSION {
            return Err(LayerFileError::TooNew { path: path.to_owned(), version });
        }
        let mut trailer = [0; TRAILER_BYTES];
        let at = bytes.checked_sub(TRAILER_BYTES as u64).ok_or_else(|| damaged("cut short"))?;
        read_exact(&*file, at, &mut trailer).map_err(io)?.ok_or_else(|| damaged("cut short"))?;
        let section = footer_section(&trailer).map_err(|error| damaged(error.0))?;
        let footer = load(&*file, &section, bytes).map_err(|failure| match failure {
            Failure::Io(source) => io(source),
            Failure::Damaged(reason) => damaged(reason),
        })?;
        let mut reader = Reader::new(&footer);
        let parsed = Footer::read(&mut reader).map_err(|error| damaged(error.0))?;
        let Footer { schema, minutes, dictionaries, blocks } = parsed;
        Ok(Self { path: path.to_owned(), file, bytes, schema, minutes, dictionaries, blocks })
    }

    /// Its path on the disk.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The plan that its cells were counted by.
    #[must_use]
    pub const fn plan(&self) -> PlanId {
        self.schema.plan
    }

    /// Its size.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Cells of every set and granularity.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.blocks.iter().map(|block| block.cells).sum()
    }

    /// The minutes that hold cells of a domain, ascending.
    #[must_use]
    pub fn minutes(&self, kind: SetKind) -> &[EventTime] {
        &self.minutes[kind_index(kind)]
    }

    /// From the first minute with cells of a domain to the last one's end.
    #[must_use]
    pub fn span(&self, kind: SetKind) -> Option<TimeRange> {
        let minutes = self.minutes(kind);
        let end = minutes.last()?.plus_ms(Granularity::Minute.ms());
        Some(TimeRange { start: *minutes.first()?, end })
    }

    /// Reads and checks every block.
    ///
    /// # Errors
    ///
    /// [`CellsDamaged`] for the first block that cannot be read.
    pub fn verify(&self) -> Result<(), CellsDamaged> {
        for block in &self.blocks {
            self.decode(block, true)?;
        }
        Ok(())
    }

    fn texts(&self, dim: &SchemaDim) -> &Texts {
        static NONE: Texts = Texts::NONE;
        let found = self.dictionaries.iter().find(|(own, _)| *own == dim.definition);
        found.map_or(&NONE, |(_, texts)| texts)
    }

    fn decode(&self, block: &BlockIndex, sketches: bool) -> Result<Block, CellsDamaged> {
        let set = &self.schema.sets[block.set];
        let slots = &self.schema.slots[kind_index(set.kind)];
        let shape = Shape {
            counts: slots[0].len(),
            sums: slots[1].len(),
            mins: slots[2].len(),
            maxs: slots[3].len(),
            distincts: if set.distinct { slots[4].len() } else { 0 },
            histograms: slots[5].len(),
            tops: slots[6].len(),
        };
        let dictionaries: Vec<usize> =
            set.dims.iter().map(|dim| self.texts(dim).len() + 2).collect();
        let read = || -> Result<Block, Failure> {
            let raw = load(&*self.file, &block.numbers, self.bytes)?;
            let mut own = Block::numbers(&raw, block.cells, &dictionaries, shape)?;
            if sketches {
                let raw = load(&*self.file, &block.sketches, self.bytes)?;
                own.read_sketches(&raw, block.cells, shape)?;
            }
            Ok(own)
        };
        read().map_err(|failure| CellsDamaged {
            file: self.path.clone(),
            windows: block_range(block),
            reason: match failure {
                Failure::Io(error) => error.to_string(),
                Failure::Damaged(reason) => reason.to_owned(),
            },
        })
    }
}

fn granularity_of(number: u8) -> Option<Granularity> {
    Granularity::ALL.get(usize::from(number)).copied()
}

fn block_range(block: &BlockIndex) -> TimeRange {
    let width = granularity_of(block.granularity).map_or(0, Granularity::ms);
    TimeRange {
        start: EventTime::from_ms(block.first_window),
        end: EventTime::from_ms(block.last_window).plus_ms(width),
    }
}

impl LayerFile {
    /// As [`CellSource::scan`]; blocks are taken from `shelf` and put there.
    ///
    /// # Errors
    ///
    /// As [`CellSource::scan`].
    pub fn scan_through(
        &self,
        shelf: Option<&dyn BlockShelf>,
        request: &ScanRequest,
        visit: &mut dyn FnMut(CellRef<'_>),
    ) -> Result<(), CellsDamaged> {
        let projection = Projection::new(&self.schema, request);
        let Some(set) = projection.set else { return Ok(()) };
        let asked = request.granularity as u8;
        let kept = |number: u8| {
            self.blocks.iter().any(|block| block.set == set && block.granularity == number)
        };
        let number = if kept(asked) { asked } else { Granularity::Minute as u8 };
        let Some(granularity) = granularity_of(number) else { return Ok(()) };
        let range = request.outward();
        let texts: Vec<&Texts> = projection
            .dims
            .iter()
            .map(|&place| self.texts(&self.schema.sets[set].dims[place]))
            .collect();
        let wanted = wanted_codes(request, &texts);
        let mut values = [DimValue::Null; DIMS_MAX];
        for (place, _) in self.blocks.iter().enumerate().filter(|(_, block)| {
            block.set == set
                && block.granularity == number
                && EventTime::from_ms(block.first_window) < range.end
                && range.start <= EventTime::from_ms(block.last_window)
        }) {
            let block = self.block(shelf, place, !projection.numbers_only())?;
            let block = &block.0;
            for (row, &window) in block.windows.iter().enumerate() {
                let window = EventTime::from_ms(window);
                let code = |place: usize| block.dims[projection.dims[place]][row];
                if !range.contains(window) || !passes(&wanted, code) {
                    continue;
                }
                for (place, texts) in texts.iter().enumerate() {
                    values[place] = value_of(texts, code(place));
                }
                let cell = BlockCell { block, row, projection: &projection };
                visit(CellRef {
                    window,
                    granularity,
                    dims: &values[..texts.len()],
                    aggregates: CellView::block(cell),
                });
            }
        }
        Ok(())
    }

    fn block(
        &self,
        shelf: Option<&dyn BlockShelf>,
        place: usize,
        sketches: bool,
    ) -> Result<Arc<LayerBlock>, CellsDamaged> {
        let decode = || {
            let block = self.decode(&self.blocks[place], sketches)?;
            Ok(Arc::new(LayerBlock(block)))
        };
        let (Some(shelf), Ok(block)) = (shelf, u32::try_from(place)) else { return decode() };
        // What has sketches has numbers, too.
        let known = [true, sketches].map(|sketches| BlockPlace { block, sketches });
        if let Some(block) = known.into_iter().find_map(|place| shelf.get(place)) {
            return Ok(block);
        }
        let decoded = decode()?;
        shelf.put(BlockPlace { block, sketches }, &decoded);
        Ok(decoded)
    }
}

impl CellSource for LayerFile {
    fn scan(
        &self,
        request: &ScanRequest,
        visit: &mut dyn FnMut(CellRef<'_>),
    ) -> Result<(), CellsDamaged> {
        self.scan_through(None, request, visit)
    }

    fn coverage(&self, request: &ScanRequest) -> Coverage {
        let projection = Projection::new(&self.schema, request);
        if projection.missing.is_empty() {
            return Coverage::default();
        }
        let minutes = self.minutes(request.plan.set(request.set).kind);
        Coverage { missing: projection.missing, filling: filling(minutes, request) }
    }
}

enum Failure {
    Io(std::io::Error),
    Damaged(&'static str),
}

impl From<AggregateDamaged> for Failure {
    fn from(damaged: AggregateDamaged) -> Self {
        Self::Damaged(damaged.0)
    }
}

/// `None` where the file ends before.
fn read_exact(
    file: &dyn DiskFile,
    offset: u64,
    into: &mut [u8],
) -> Result<Option<()>, std::io::Error> {
    let mut filled = 0;
    while filled < into.len() {
        let read = file.read_at(offset + filled as u64, &mut into[filled..])?;
        if read == 0 {
            return Ok(None);
        }
        filled += read;
    }
    Ok(Some(()))
}

fn load(file: &dyn DiskFile, section: &Section, file_bytes: u64) -> Result<Vec<u8>, Failure> {
    let end = section.offset.checked_add(u64::from(section.stored));
    if end.is_none_or(|end| end > file_bytes) || section.raw as usize > SECTION_BYTES_MAX {
        return Err(Failure::Damaged("section out of range"));
    }
    let mut stored = vec![0; section.stored as usize];
    let read = read_exact(file, section.offset, &mut stored).map_err(Failure::Io)?;
    read.ok_or(Failure::Damaged("cut short"))?;
    if crc32c(&stored) != section.crc {
        return Err(Failure::Damaged("checksum does not match"));
    }
    let raw = inflate(&stored, section.raw as usize)
        .map_err(|_| Failure::Damaged("does not decompress"))?;
    if raw.len() == section.raw as usize {
        Ok(raw)
    } else {
        Err(Failure::Damaged("decompresses to another size"))
    }
}

fn footer_section(trailer: &[u8; TRAILER_BYTES]) -> Result<Section, AggregateDamaged> {
    let mut reader = Reader::new(trailer);
    let offset = reader.u64()?;
    let mut narrow = || -> Result<u32, AggregateDamaged> {
        let bytes = reader.take(4)?;
        Ok(u32::from_le_bytes(bytes.try_into().map_err(|_| AggregateDamaged("cut short"))?))
    };
    let section = Section { offset, stored: narrow()?, raw: narrow()?, crc: narrow()? };
    if reader.take(8)? == MAGIC {
        Ok(section)
    } else {
        Err(AggregateDamaged("the trailer is missing"))
    }
}

struct Footer {
    schema: Schema,
    minutes: [Vec<EventTime>; 2],
    dictionaries: Vec<(u64, Texts)>,
    blocks: Vec<BlockIndex>,
}

impl Footer {
    fn read(reader: &mut Reader<'_>) -> Result<Self, AggregateDamaged> {
        let schema = read_schema(reader)?;
        let minutes = [read_minutes(reader)?, read_minutes(reader)?];
        let mut dictionaries = Vec::new();
        for _ in 0..reader.count()? {
            let definition = reader.u64()?;
            let count = reader.count()?;
            let mut texts = Texts::with_room(count);
            for _ in 0..count {
                if !texts.push(read_text(reader)?) {
                    return Err(AggregateDamaged("texts out of range"));
                }
            }
            texts.shrink();
            dictionaries.push((definition, texts));
        }
        let mut blocks = Vec::new();
        for _ in 0..reader.count()? {
            blocks.push(read_block(reader, schema.sets.len())?);
        }
        if reader.is_empty() {
            Ok(Self { schema, minutes, dictionaries, blocks })
        } else {
            Err(AggregateDamaged("bytes left over"))
        }
    }
}

fn read_block(reader: &mut Reader<'_>, sets: usize) -> Result<BlockIndex, AggregateDamaged> {
    let small =
        |value: u64| usize::try_from(value).map_err(|_| AggregateDamaged("number out of range"));
    let block = BlockIndex {
        set: small(reader.varint()?)?,
        granularity: reader.byte()?,
        cells: small(reader.varint()?)?,
        first_window: reader.signed()?,
        last_window: reader.signed()?,
        numbers: Section::read(reader)?,
        sketches: Section::read(reader)?,
    };
    let known = block.set < sets && granularity_of(block.granularity).is_some();
    if known && block.cells <= BLOCK_CELLS_MAX {
        Ok(block)
    } else {
        Err(AggregateDamaged("block out of range"))
    }
}

fn read_text<'a>(reader: &mut Reader<'a>) -> Result<&'a str, AggregateDamaged> {
    let len = reader.count()?;
    std::str::from_utf8(reader.take(len)?).map_err(|_| AggregateDamaged("text is not UTF-8"))
}

fn read_schema(reader: &mut Reader<'_>) -> Result<Schema, AggregateDamaged> {
    let plan = PlanId::new(reader.u64()?);
    let mut sets = Vec::new();
    for _ in 0..reader.count()? {
        let kind = if reader.byte()? == 0 { SetKind::Events } else { SetKind::Sessions };
        let distinct = reader.byte()? != 0;
        let mut dims = Vec::new();
        for _ in 0..reader.count()? {
            let definition = reader.u64()?;
            dims.push(SchemaDim { definition, name: read_text(reader)?.to_owned() });
        }
        if dims.len() > DIMS_MAX {
            return Err(AggregateDamaged("set of too many dimensions"));
        }
        sets.push(SetSchema { kind, dims, distinct });
    }
    let mut slots: [[Vec<u64>; 7]; 2] = Default::default();
    for list in slots.iter_mut().flatten() {
        for _ in 0..reader.count()? {
            list.push(reader.u64()?);
        }
    }
    Ok(Schema { plan, sets, slots })
}

fn read_minutes(reader: &mut Reader<'_>) -> Result<Vec<EventTime>, AggregateDamaged> {
    let mut before = 0_i64;
    let mut minutes = Vec::new();
    for _ in 0..reader.count()? {
        before = before.wrapping_add(reader.signed()?);
        minutes.push(EventTime::from_ms(before));
    }
    Ok(minutes)
}
