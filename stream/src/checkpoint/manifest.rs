//! The manifest: everything that a checkpoint is, in one small file.
//!
//! Layout: magic, version byte, engine (u32, little endian), postcard of [`Manifest`], then of
//! what later releases added (windows of layers, events from the future, events without their
//! numbers, late events, conflicts by source, values over quotas), CRC-32C.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use nilometer_event::{EventTime, Offset, Partition, ReceiveTime, TimeRange, Topic};
use nilometer_log::{Disk, write_atomically};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{ENGINE, crc32c, folder};
use crate::declare::PlanId;
use crate::ids::IdsManifest;
use crate::journal::Entry;
use crate::sessions::SessionsManifest;
use crate::view::{
    ConflictsBySource, CorrectedHours, Counters, LateDays, LayerNumber, SealedLayerFile,
};

const MAGIC: &[u8; 8] = b"NILOCKPT";

/// Version of the layout around the manifest.
const VERSION: u8 = 1;

const HEAD_BYTES: usize = MAGIC.len() + 1 + 4;

/// How a manifest's file begins; its seq follows in 20 digits.
const FILE_PREFIX: &str = "manifest-";

/// An immutable file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileRef {
    /// Path on the disk.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// CRC-32C of all of it.
    pub crc: u32,
}

/// A sealed layer's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRef {
    /// Its number.
    pub layer: LayerNumber,
    /// The first entry that counted in it.
    pub seq_first: u64,
    /// The last one.
    pub seq_last: u64,
    /// The plan that it was counted by.
    pub plan: PlanId,
    /// The file.
    pub file: FileRef,
    /// Every window that it may hold cells of, ascending; empty where an older release wrote
    /// the manifest. Written after the manifest's other fields, which older ones read alone.
    #[serde(skip)]
    pub windows: Vec<TimeRange>,
}

impl LayerRef {
    /// As the sink takes it.
    #[must_use]
    pub fn sealed(&self, partition: Partition) -> SealedLayerFile {
        SealedLayerFile {
            partition,
            layer: self.layer,
            seq_first: self.seq_first,
            seq_last: self.seq_last,
            plan: self.plan,
            path: self.file.path.clone(),
            windows: self.windows.clone(),
        }
    }
}

/// Ranges of time as they are written: begin and end.
type Windows = Vec<(EventTime, EventTime)>;

/// The small part of a shard's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRecord {
    /// `now` of the first entry.
    pub birth: ReceiveTime,
    /// The watermark.
    pub watermark: EventTime,
    /// Receive time of the last record folded, by [`Topic::RECEIVED`].
    pub folded_to: [ReceiveTime; Topic::RECEIVED.len()],
    /// Where the received records went.
    pub counters: Counters,
    /// `now` of the last entry with imports.
    pub imported_at: Option<ReceiveTime>,
    /// Events from the future. Written at the manifest's end; empty where an older release wrote
    /// it.
    #[serde(skip)]
    pub corrected: CorrectedHours,
    /// Events without their numbers, by metric. Written behind that; empty where an older release
    /// wrote it.
    #[serde(skip)]
    pub unread: BTreeMap<String, u64>,
    /// Events that are late, pending. Written behind that; empty where an older release wrote it.
    #[serde(skip)]
    pub late: LateDays,
    /// Conflicts by source. Written behind that; empty where an older release wrote it.
    #[serde(skip)]
    pub conflicts: ConflictsBySource,
    /// Values that were folded for a quota, by key. Written behind that; empty where an older
    /// release wrote it.
    #[serde(skip)]
    pub over_quota: BTreeMap<String, u64>,
}

/// A checkpoint: the state after one entry, in files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The shard.
    pub partition: u16,
    /// How many shards there are.
    pub partitions: u16,
    /// The last entry that it holds; it also names the positions.
    pub entry: Entry,
    /// Where the journal is read on.
    pub journal_next: u64,
    /// The layer that it sealed.
    pub layer: LayerNumber,
    /// The small part of the state.
    pub state: StateRecord,
    /// Cold ids: runs, evictions, closed hours.
    pub ids: IdsManifest,
    /// Cold sessions.
    pub sessions: SessionsManifest,
    /// The cardinality guard's changes, oldest first.
    pub guard: Vec<FileRef>,
    /// Layers that the sink may still need, oldest first.
    pub layers: Vec<LayerRef>,
    /// Files that this checkpoint wrote, checked whole at recovery.
    pub fresh: Vec<FileRef>,
}

/// Why a manifest could not be used.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// The bytes are wrong: the checkpoint before is to be used.
    Corrupt(String),
    /// A later release wrote it: nothing may be changed.
    Newer(u32),
    /// The disk refused: to be tried again.
    Disk(io::Error),
}

impl Manifest {
    /// The seq of the last entry that it holds.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.entry.seq
    }

    /// Where each received topic is read on, in the order of [`Topic::RECEIVED`].
    pub fn positions(&self) -> impl Iterator<Item = (Topic, Offset)> + '_ {
        Topic::RECEIVED.into_iter().zip(self.entry.ends.iter().copied().map(Offset::new))
    }

    /// Every file that it lists.
    pub(crate) fn files(&self) -> BTreeSet<String> {
        let listed = self.guard.iter().map(|file| file.path.clone());
        let layers = self.layers.iter().map(|layer| layer.file.path.clone());
        let ids = self.ids.files().map(ToOwned::to_owned);
        let sessions = self.sessions.files().map(ToOwned::to_owned);
        listed.chain(layers).chain(ids).chain(sessions).collect()
    }

    /// Measures the files that it lists beside those of `before`.
    pub(crate) fn name_fresh(
        &mut self,
        disk: &dyn Disk,
        before: &BTreeSet<String>,
    ) -> io::Result<()> {
        let known: Vec<&FileRef> =
            self.guard.iter().chain(self.layers.iter().map(|layer| &layer.file)).collect();
        let mut fresh = Vec::new();
        for path in self.files().difference(before) {
            let measured = known.iter().find(|file| file.path == *path);
            fresh.push(measured.map_or_else(|| measure(disk, path), |&file| Ok(file.clone()))?);
        }
        self.fresh = fresh;
        Ok(())
    }

    /// The path of its file.
    pub(crate) fn path(partition: Partition, seq: u64) -> String {
        format!("{}/{FILE_PREFIX}{seq:020}", folder(partition))
    }

    /// The seq in a manifest's file name.
    pub(crate) fn seq_of(name: &str) -> Option<u64> {
        let digits = name.strip_prefix(FILE_PREFIX)?;
        (digits.len() == 20).then(|| digits.parse().ok())?
    }

    /// Writes it whole or not at all.
    pub(crate) fn write(&self, disk: &dyn Disk) -> io::Result<()> {
        let path = Self::path(Partition::new(self.partition), self.seq());
        write_atomically(disk, &path, &self.to_bytes()?)
    }

    /// What its file holds.
    #[doc(hidden)]
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut head = MAGIC.to_vec();
        head.push(VERSION);
        head.extend_from_slice(&ENGINE.to_le_bytes());
        let bytes = postcard::to_extend(self, head).map_err(io::Error::other)?;
        let pairs = |layer: &LayerRef| -> Windows {
            layer.windows.iter().map(|range| (range.start, range.end)).collect()
        };
        let windows: Vec<Windows> = self.layers.iter().map(pairs).collect();
        let bytes = postcard::to_extend(&windows, bytes).map_err(io::Error::other)?;
        let bytes = postcard::to_extend(&self.state.corrected, bytes).map_err(io::Error::other)?;
        let bytes = postcard::to_extend(&self.state.unread, bytes).map_err(io::Error::other)?;
        let bytes = postcard::to_extend(&self.state.late, bytes).map_err(io::Error::other)?;
        let bytes = postcard::to_extend(&self.state.conflicts, bytes).map_err(io::Error::other)?;
        let mut bytes =
            postcard::to_extend(&self.state.over_quota, bytes).map_err(io::Error::other)?;
        let crc = crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        Ok(bytes)
    }

    /// What a file holds; `None` where that is no manifest.
    #[doc(hidden)]
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::parse(bytes).ok()
    }

    /// The manifest in that file, for who looks from outside; `None` where it is not whole.
    #[must_use]
    pub fn load(disk: &dyn Disk, path: &str) -> Option<Self> {
        Self::read(disk, path).ok()
    }

    pub(crate) fn read(disk: &dyn Disk, path: &str) -> Result<Self, Unusable> {
        let bytes = disk.read(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Unusable::Corrupt("the file is missing".to_owned()),
            _ => Unusable::Disk(error),
        })?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Self, Unusable> {
        let short = || Unusable::Corrupt("it is too short".to_owned());
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or_else(short)?;
        if crc32c(body) != u32::from_le_bytes(*crc) {
            return Err(Unusable::Corrupt("its checksum is wrong".to_owned()));
        }
        let (head, body) = body.split_at_checked(HEAD_BYTES).ok_or_else(short)?;
        if !head.starts_with(MAGIC) {
            return Err(Unusable::Corrupt("it is no manifest".to_owned()));
        }
        let engine = head.last_chunk::<4>().map_or(u32::MAX, |bytes| u32::from_le_bytes(*bytes));
        if engine > ENGINE || head[MAGIC.len()] > VERSION {
            return Err(Unusable::Newer(engine));
        }
        let corrupt = |error: postcard::Error| Unusable::Corrupt(error.to_string());
        let (mut manifest, rest): (Self, _) = postcard::take_from_bytes(body).map_err(corrupt)?;
        let (windows, added) = take_added::<Vec<Windows>>(rest).map_err(corrupt)?;
        for (layer, windows) in manifest.layers.iter_mut().zip(windows) {
            let range = |(start, end)| TimeRange { start, end };
            layer.windows = windows.into_iter().map(range).collect();
        }
        let (corrected, added) = take_added(added).map_err(corrupt)?;
        let (unread, added) = take_added(added).map_err(corrupt)?;
        let (late, added) = take_added(added).map_err(corrupt)?;
        let (conflicts, added) = take_added(added).map_err(corrupt)?;
        let (over_quota, _) = take_added(added).map_err(corrupt)?;
        manifest.state =
            StateRecord { corrected, unread, late, conflicts, over_quota, ..manifest.state };
        Ok(manifest)
    }
}

/// What a later release added, and what follows it; nothing of it where an older one wrote.
fn take_added<T: DeserializeOwned + Default>(bytes: &[u8]) -> Result<(T, &[u8]), postcard::Error> {
    if bytes.is_empty() { Ok((T::default(), bytes)) } else { postcard::take_from_bytes(bytes) }
}

/// Reads a file in pieces and gives its length and CRC-32C.
pub(crate) fn measure(disk: &dyn Disk, path: &str) -> io::Result<FileRef> {
    // Stays in the cache; a megabyte was fresh pages each time.
    const PIECE: usize = 1 << 16;
    let file = disk.open_read(path)?;
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    let mut piece = vec![0; PIECE];
    let mut at = 0u64;
    loop {
        let read = file.read_at(at, &mut piece)?;
        if read == 0 {
            break;
        }
        digest.update(&piece[..read]);
        at += u64::try_from(read).map_err(io::Error::other)?;
    }
    let crc = u32::try_from(digest.finalize()).map_err(io::Error::other)?;
    Ok(FileRef { path: path.to_owned(), bytes: at, crc })
}
