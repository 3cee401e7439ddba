//! The file that ids and sessions lie in once they are cold: sorted blocks, two filters, an index.
//!
//! Frozen layout, version 1, little-endian:
//!
//! ```text
//! "NILRUN01"
//! blocks    each: payload, CRC-32C of the payload (u32)
//! filter    of ordinary rows: 32-byte Bloom blocks, CRC-32C
//! filter    of odd rows (none in a file of sessions): the same
//! index     each block: group i64, first hash u64, offset u64, payload bytes u32, rows u32; CRC-32C
//! footer    kind u32, 0 u32, filter offset u64, filter bytes u64, odd filter bytes u64,
//!           blocks u64, rows u64, 0 u32, CRC-32C of the footer so far, "NILRUN01"
//! ```
//!
//! Rows are sorted by (group, hash); rows of one (group, hash) never straddle blocks, so a look-up
//! reads one block. What a payload says is the business of whoever wrote it.

use std::io;
use std::sync::Arc;

use nilometer_log::{Disk, DiskFile, create_dir_durably};

use super::filter::Filter;

const MAGIC: &[u8; 8] = b"NILRUN01";
const FOOTER_BYTES: usize = 8 + 5 * 8 + 4 + 4 + 8;
const INDEX_ENTRY_BYTES: usize = 32;
const CRC_BYTES: usize = 4;
/// Written at once, so that a run costs few calls and little memory.
const WRITE_BYTES: usize = 256 * 1024;
/// No index or filter of ours is larger; a longer claim is damage.
const SECTION_BYTES_MAX: u64 = 1 << 34;

/// What a run's rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ids = 1,
    Sessions = 2,
}

/// One block's place and the first row in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) group: i64,
    pub(crate) first: u64,
    pub(crate) rows: u32,
    offset: u64,
    bytes: u32,
}

/// A run file that was opened: its index, and its filters where there is room for them.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) file: String,
    pub(crate) blocks: Arc<Vec<Block>>,
    /// `None`: ask the disk.
    pub(crate) filter: Option<Arc<Filter>>,
    /// `None`: ask the disk; empty where no row is odd.
    pub(crate) odd_filter: Option<Arc<Filter>>,
}

/// Why a file or a part of it gave no answer.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// The bytes are wrong or missing: they will not get better.
    Damaged(String),
    /// The disk refused; it may not the next time.
    Io(io::Error),
}

impl Unreadable {
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Damaged(reason) => reason.clone(),
            Self::Io(error) => error.to_string(),
        }
    }

    /// The same fact, told a second time.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Damaged(reason) => Self::Damaged(reason.clone()),
            Self::Io(error) => Self::Io(io::Error::new(error.kind(), error.to_string())),
        }
    }

    fn damaged(what: &str) -> Self {
        Self::Damaged(what.to_owned())
    }
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::damaged("the file is missing"),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                Self::Damaged(error.to_string())
            }
            _ => Self::Io(error),
        }
    }
}

impl Run {
    /// Reads index and filters.
    pub(crate) fn open(disk: &dyn Disk, file: &str, kind: Kind) -> Result<Self, Unreadable> {
        let handle = disk.open_read(file)?;
        let bytes = handle.len()?;
        let footer = Footer::read(&*handle, bytes, kind)?;
        let filter = read_section(&*handle, footer.filter_at, footer.filter_bytes, "filter")?;
        let odd = read_section(&*handle, footer.odd_at(), footer.odd_bytes, "odd filter")?;
        let index = read_section(&*handle, footer.index_at(), footer.index_bytes(), "index")?;
        let blocks = decode_index(&index, footer.filter_at)?;
        let rows: u64 = blocks.iter().map(|block| u64::from(block.rows)).sum();
        if rows != footer.rows {
            return Err(Unreadable::damaged("the index does not sum to the footer's rows"));
        }
        let decode = |bytes: &[u8]| {
            Filter::decode(bytes).map(Arc::new).ok_or(Unreadable::damaged("a filter is cut"))
        };
        Ok(Self {
            file: file.to_owned(),
            blocks: Arc::new(blocks),
            filter: Some(decode(&filter)?),
            odd_filter: Some(decode(&odd)?),
        })
    }

    /// The one block that may hold rows of this group and hash.
    pub(crate) fn find(&self, group: i64, hash: u64) -> Option<usize> {
        let after =
            self.blocks.partition_point(|block| (block.group, block.first) <= (group, hash));
        let index = after.checked_sub(1)?;
        (self.blocks[index].group == group).then_some(index)
    }

    /// A block's payload, checked.
    pub(crate) fn read_block(
        &self,
        handle: &dyn DiskFile,
        index: usize,
    ) -> Result<Vec<u8>, Unreadable> {
        let block = self.blocks[index];
        read_section(handle, block.offset, u64::from(block.bytes), "block")
    }

    /// The distinct groups with their rows, in order.
    pub(crate) fn groups(&self) -> Vec<(i64, u64)> {
        let mut groups: Vec<(i64, u64)> = Vec::new();
        for block in self.blocks.iter() {
            match groups.last_mut() {
                Some((group, rows)) if *group == block.group => *rows += u64::from(block.rows),
                _ => groups.push((block.group, u64::from(block.rows))),
            }
        }
        groups
    }

    /// Memory of index and filters.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.blocks.len() * size_of::<Block>() + self.filter_bytes()
    }

    /// Memory of the filters alone.
    pub(crate) fn filter_bytes(&self) -> usize {
        let of = |filter: &Option<Arc<Filter>>| filter.as_ref().map_or(0, |filter| filter.bytes());
        of(&self.filter) + of(&self.odd_filter)
    }
}

/// Writes one run, block by block, into a temporary file that gets its name when whole.
pub(crate) struct RunWriter<'d> {
    disk: &'d dyn Disk,
    handle: Box<dyn DiskFile>,
    file: String,
    temporary: String,
    kind: Kind,
    blocks: Vec<Block>,
    pending: Vec<u8>,
    written: u64,
}

impl<'d> RunWriter<'d> {
    pub(crate) fn create(disk: &'d dyn Disk, file: &str, kind: Kind) -> io::Result<Self> {
        create_dir_durably(disk, folder_of(file))?;
        let temporary = format!("{file}.tmp");
        Ok(Self {
            handle: disk.create(&temporary)?,
            disk,
            file: file.to_owned(),
            temporary,
            kind,
            blocks: Vec::new(),
            pending: MAGIC.to_vec(),
            written: 0,
        })
    }

    /// Appends a block; blocks come in the order of (group, first).
    pub(crate) fn push(
        &mut self,
        group: i64,
        first: u64,
        rows: u32,
        payload: &[u8],
    ) -> io::Result<()> {
        let bytes = u32::try_from(payload.len())
            .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, "block past 4 GiB"))?;
        let offset = self.written + self.pending.len() as u64;
        self.blocks.push(Block { group, first, rows, offset, bytes });
        self.section(payload)
    }

    /// Makes the file durable under its name.
    pub(crate) fn finish(mut self, filter: Filter, odd_filter: Filter) -> io::Result<Run> {
        let filter_at = self.written + self.pending.len() as u64;
        self.section(&filter.encode())?;
        self.section(&odd_filter.encode())?;
        let index = encode_index(&self.blocks);
        self.section(&index)?;
        let footer = Footer {
            filter_at,
            filter_bytes: filter.bytes() as u64,
            odd_bytes: odd_filter.bytes() as u64,
            blocks: self.blocks.len() as u64,
            rows: self.blocks.iter().map(|block| u64::from(block.rows)).sum(),
        };
        self.pending.extend_from_slice(&footer.encode(self.kind));
        self.flush()?;
        self.handle.sync()?;
        self.disk.rename(&self.temporary, &self.file)?;
        self.disk.sync_dir(folder_of(&self.file))?;
        Ok(Run {
            file: self.file,
            blocks: Arc::new(self.blocks),
            filter: Some(Arc::new(filter)),
            odd_filter: Some(Arc::new(odd_filter)),
        })
    }

    fn section(&mut self, payload: &[u8]) -> io::Result<()> {
        self.pending.extend_from_slice(payload);
        self.pending.extend_from_slice(&crc(payload).to_le_bytes());
        if self.pending.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.handle.write_all(&self.pending)?;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

struct Footer {
    filter_at: u64,
    filter_bytes: u64,
    odd_bytes: u64,
    blocks: u64,
    rows: u64,
}

impl Footer {
    fn read(handle: &dyn DiskFile, bytes: u64, kind: Kind) -> Result<Self, Unreadable> {
        let footer_bytes = FOOTER_BYTES as u64;
        let at = bytes
            .checked_sub(footer_bytes)
            .ok_or(Unreadable::damaged("the file is shorter than its footer"))?;
        let mut footer = [0; FOOTER_BYTES];
        read_exactly(handle, at, &mut footer)?;
        let (body, tail) = footer.split_at(FOOTER_BYTES - CRC_BYTES - MAGIC.len());
        if tail[CRC_BYTES..] != *MAGIC || le32(tail) != crc(body) {
            return Err(Unreadable::damaged("the footer's checksum is wrong"));
        }
        if le32(body) != kind as u32 {
            return Err(Unreadable::damaged("the file is a run of another kind"));
        }
        let word = |index: usize| le64(&body[8 + index * 8..]);
        let footer = Self {
            filter_at: word(0),
            filter_bytes: word(1),
            odd_bytes: word(2),
            blocks: word(3),
            rows: word(4),
        };
        let sections = [footer.filter_bytes, footer.odd_bytes, footer.blocks, footer.filter_at];
        let whole = sections[..3].iter().all(|&bytes| bytes <= SECTION_BYTES_MAX)
            && footer.filter_at <= bytes
            && footer.index_at() + footer.index_bytes() + CRC_BYTES as u64 == at;
        if whole { Ok(footer) } else { Err(Unreadable::damaged("the footer's lengths are wrong")) }
    }

    fn encode(&self, kind: Kind) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FOOTER_BYTES);
        bytes.extend_from_slice(&(kind as u32).to_le_bytes());
        bytes.extend_from_slice(&0_u32.to_le_bytes());
        for word in [self.filter_at, self.filter_bytes, self.odd_bytes, self.blocks, self.rows] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&0_u32.to_le_bytes());
        let checksum = crc(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.extend_from_slice(MAGIC);
        bytes
    }

    const fn odd_at(&self) -> u64 {
        self.filter_at + self.filter_bytes + CRC_BYTES as u64
    }

    const fn index_at(&self) -> u64 {
        self.odd_at() + self.odd_bytes + CRC_BYTES as u64
    }

    const fn index_bytes(&self) -> u64 {
        self.blocks * INDEX_ENTRY_BYTES as u64
    }
}

fn encode_index(blocks: &[Block]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(blocks.len() * INDEX_ENTRY_BYTES);
    for block in blocks {
        bytes.extend_from_slice(&block.group.to_le_bytes());
        bytes.extend_from_slice(&block.first.to_le_bytes());
        bytes.extend_from_slice(&block.offset.to_le_bytes());
        bytes.extend_from_slice(&block.bytes.to_le_bytes());
        bytes.extend_from_slice(&block.rows.to_le_bytes());
    }
    bytes
}

fn decode_index(bytes: &[u8], blocks_end: u64) -> Result<Vec<Block>, Unreadable> {
    let (entries, _) = bytes.as_chunks::<INDEX_ENTRY_BYTES>();
    let blocks: Vec<Block> = entries
        .iter()
        .map(|entry| Block {
            group: le64(entry).cast_signed(),
            first: le64(&entry[8..]),
            offset: le64(&entry[16..]),
            bytes: le32(&entry[24..]),
            rows: le32(&entry[28..]),
        })
        .collect();
    let sorted = blocks.is_sorted_by_key(|block| (block.group, block.first));
    let inside = blocks.iter().all(|block| {
        block.offset.saturating_add(u64::from(block.bytes)) <= blocks_end && block.rows > 0
    });
    if sorted && inside {
        Ok(blocks)
    } else {
        Err(Unreadable::damaged("the index is not in order"))
    }
}

fn read_section(
    handle: &dyn DiskFile,
    at: u64,
    bytes: u64,
    what: &str,
) -> Result<Vec<u8>, Unreadable> {
    let bytes = usize::try_from(bytes).map_err(|_| Unreadable::damaged("a length is absurd"))?;
    let mut section = vec![0; bytes + CRC_BYTES];
    read_exactly(handle, at, &mut section)?;
    let checksum = le32(&section[bytes..]);
    section.truncate(bytes);
    if crc(&section) == checksum {
        Ok(section)
    } else {
        Err(Unreadable::Damaged(format!("the checksum of the {what} at byte {at} is wrong")))
    }
}

fn read_exactly(handle: &dyn DiskFile, at: u64, buf: &mut [u8]) -> Result<(), Unreadable> {
    let read = handle.read_at(at, buf)?;
    if read == buf.len() { Ok(()) } else { Err(Unreadable::damaged("the file is cut short")) }
}

pub(crate) fn crc(bytes: &[u8]) -> u32 {
    let checksum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(checksum).expect("a 32-bit checksum")
}

/// The first four bytes, little-endian.
pub(crate) fn le32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(*bytes.first_chunk().expect("four bytes"))
}

/// The first eight bytes, little-endian.
pub(crate) fn le64(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(*bytes.first_chunk().expect("eight bytes"))
}

fn folder_of(file: &str) -> &str {
    file.rsplit_once('/').map_or("", |(folder, _)| folder)
}
