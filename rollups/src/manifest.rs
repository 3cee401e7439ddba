//! The one atomic list of what the base is made of: chunks, cuts, damage.
//!
//! A manifest is written whole or not at all and never changed. The last [`MANIFESTS_KEPT`] good
//! ones are kept; a chunk file exists only while one of them lists it.

use std::collections::BTreeMap;
use std::io;

use nilometer_event::{EventTime, Granularity, ReceiveTime, TimeRange};
use nilometer_log::Finding;
use nilometer_log::disk::{Disk, write_atomically};
use serde::{Deserialize, Serialize};

use crate::dropped::Dropped;
use crate::error::OpenError;

/// Where manifests lie on the disk.
pub(crate) const MANIFESTS: &str = "rollups/manifests";
/// Where chunks lie on the disk.
pub(crate) const CHUNKS: &str = "rollups/chunks";
/// How many good manifests are kept.
pub(crate) const MANIFESTS_KEPT: usize = 2;

const MAGIC: &[u8; 8] = b"NILOBASE";
const VERSION: u32 = 2;
const HEAD_BYTES: usize = 8 + 4 + 4;

/// One version of the base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Counts up with each version.
    pub(crate) number: u64,
    /// `now` of the fold that made it: retention was applied by it.
    pub(crate) folded_at: ReceiveTime,
    /// Per partition the number of the last layer that is inside.
    pub(crate) cuts: BTreeMap<u16, u64>,
    /// Every chunk, by key and then in the order in which they were made.
    pub(crate) chunks: Vec<ChunkMeta>,
    /// Windows whose cells were lost to damage before they could be folded: they read as damaged.
    pub(crate) damage: Vec<Damage>,
    /// What retention has taken so far.
    pub(crate) dropped: Dropped,
    /// True where `dropped` is not told: version 1 did not.
    #[serde(skip)]
    pub(crate) is_v1: bool,
}

/// Version 1.
#[derive(Debug, Serialize, Deserialize)]
struct ManifestV1 {
    number: u64,
    folded_at: ReceiveTime,
    cuts: BTreeMap<u16, u64>,
    chunks: Vec<ChunkMeta>,
    damage: Vec<Damage>,
}

impl From<ManifestV1> for Manifest {
    fn from(before: ManifestV1) -> Self {
        let ManifestV1 { number, folded_at, cuts, chunks, damage } = before;
        let dropped = Dropped::default();
        Self { number, folded_at, cuts, chunks, damage, dropped, is_v1: true }
    }
}

/// What the cells of a chunk share: a chunk never mixes sets of slots, granularities or spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct ChunkKey {
    /// Of the windows.
    pub(crate) granularity: Granularity,
    /// Where the span begins ([`crate::retention::span_of`]).
    pub(crate) start: EventTime,
    /// Hash of its sets and slots: chunks of one key can be merged.
    pub(crate) schema: u64,
}

/// One chunk file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChunkMeta {
    /// What it holds.
    pub(crate) key: ChunkKey,
    /// Name below [`CHUNKS`]; never used again for other bytes while listed.
    pub(crate) file: String,
    /// Length of the file.
    pub(crate) bytes: u64,
    /// Cells inside, over all dimension sets.
    pub(crate) cells: u64,
    /// Start of the first window with a cell.
    pub(crate) first: EventTime,
    /// Start of the last window with a cell.
    pub(crate) last: EventTime,
    /// How many folds are merged in it: for people who look.
    pub(crate) weight: u64,
    /// `now` of the fold that made it.
    pub(crate) made_at: ReceiveTime,
}

impl ChunkMeta {
    /// The windows from the first to the last.
    pub(crate) const fn windows(&self) -> TimeRange {
        TimeRange { start: self.first, end: self.last.plus_ms(self.key.granularity.ms()) }
    }

    /// Where the file lies on the disk.
    pub(crate) fn path(&self) -> String {
        format!("{CHUNKS}/{}", self.file)
    }
}

/// Windows that have lost cells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Damage {
    /// The file that was damaged.
    pub(crate) file: String,
    /// Of the windows: a coarser one may have been read from cells of its own.
    pub(crate) granularity: Granularity,
    /// First moment inside.
    pub(crate) start: EventTime,
    /// First moment after.
    pub(crate) end: EventTime,
}

impl Manifest {
    /// The version of a store that has folded nothing.
    pub(crate) fn empty() -> Self {
        Self {
            number: 0,
            folded_at: ReceiveTime::from_ms(i64::MIN),
            cuts: BTreeMap::new(),
            chunks: Vec::new(),
            damage: Vec::new(),
            dropped: Dropped::default(),
            is_v1: false,
        }
    }

    /// `now` of the fold that made it; `None` where nothing was folded yet.
    pub(crate) fn folded_at(&self) -> Option<ReceiveTime> {
        (self.folded_at != Self::empty().folded_at).then_some(self.folded_at)
    }

    fn file_name(number: u64) -> String {
        format!("manifest-{number:020}")
    }

    fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        let body = postcard::to_allocvec(self)?;
        let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&checksum(VERSION, &body).to_le_bytes());
        bytes.extend_from_slice(&body);
        Ok(bytes)
    }

    /// Its path and what its file holds, for who makes it the newest.
    pub(crate) fn to_file(&self) -> io::Result<(String, Vec<u8>)> {
        let bytes = self.encode().map_err(io::Error::other)?;
        Ok((format!("{MANIFESTS}/{}", Self::file_name(self.number)), bytes))
    }

    /// As version 1 wrote it.
    #[cfg(feature = "conformance")]
    fn encode_v1(self) -> Result<Vec<u8>, postcard::Error> {
        let Self { number, folded_at, cuts, chunks, damage, .. } = self;
        let body = postcard::to_allocvec(&ManifestV1 { number, folded_at, cuts, chunks, damage })?;
        let head = [MAGIC, &1_u32.to_le_bytes()[..], &checksum(1, &body).to_le_bytes()[..]];
        Ok([&head.concat(), &body[..]].concat())
    }

    fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let (head, body) = bytes.split_at_checked(HEAD_BYTES).ok_or(Unreadable::Damaged)?;
        let word = |at: usize| head.get(at..at + 4).and_then(|word| word.try_into().ok());
        let (Some(version), Some(crc)) = (word(8), word(12)) else {
            return Err(Unreadable::Damaged);
        };
        if !head.starts_with(MAGIC) {
            return Err(Unreadable::Damaged);
        }
        let version = u32::from_le_bytes(version);
        // The checksum first: it covers the version, so a flipped bit makes no newer release.
        if checksum(version, body) != u32::from_le_bytes(crc) {
            return Err(Unreadable::Damaged);
        }
        let damaged = |_| Unreadable::Damaged;
        match version {
            VERSION => postcard::from_bytes(body).map_err(damaged),
            1 => postcard::from_bytes::<ManifestV1>(body).map(Self::from).map_err(damaged),
            _ => Err(Unreadable::Version(version)),
        }
    }
}

/// Why a manifest's bytes are none.
enum Unreadable {
    Damaged,
    Version(u32),
}

/// The checksum of everything that the base writes: CRC-32C.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(crc).expect("a CRC-32C has 32 bits")
}

/// The manifests that a data directory holds.
#[derive(Debug)]
pub(crate) struct Manifests {
    /// Good ones, newest first, at most [`MANIFESTS_KEPT`].
    pub(crate) kept: Vec<Manifest>,
    /// The next number that no file on the disk bears.
    pub(crate) next: u64,
}

impl Manifests {
    /// Reads what is there; a damaged manifest is passed over for the one before.
    ///
    /// # Errors
    ///
    /// [`OpenError`] when the disk fails, when a newer version wrote here, or when manifests
    /// are there and none is good.
    pub(crate) fn load(disk: &dyn Disk) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { path: MANIFESTS.to_owned(), source };
        let mut numbers: Vec<u64> =
            disk.list(MANIFESTS).map_err(io)?.iter().filter_map(|name| number_of(name)).collect();
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        let next = numbers.first().map_or(1, |newest| newest + 1);
        let mut kept = Vec::new();
        let mut damaged = Vec::new();
        for number in numbers {
            let path = format!("{MANIFESTS}/{}", Manifest::file_name(number));
            let bytes = match disk.read(&path) {
                Ok(bytes) => bytes,
                Err(source) => return Err(OpenError::Io { path, source }),
            };
            match Manifest::decode(&bytes) {
                Ok(manifest) if manifest.number == number => kept.push(manifest),
                Err(Unreadable::Version(version)) if version > VERSION => {
                    return Err(OpenError::NewerVersion { path, version, known: VERSION });
                }
                Ok(_) | Err(_) => {
                    tracing::error!(file = path, "corrupt base manifest; using the one before");
                    damaged.push(path);
                }
            }
            if kept.len() == MANIFESTS_KEPT {
                break;
            }
        }
        if kept.is_empty() && !damaged.is_empty() {
            return Err(OpenError::NoGoodManifest { paths: damaged });
        }
        Ok(Self { kept, next })
    }

    /// Makes `manifest` the newest, durably, and forgets those past [`MANIFESTS_KEPT`].
    ///
    /// The forgotten files may stay until [`Manifests::sweep`].
    ///
    /// # Errors
    ///
    /// The disk's; it is then unknown whether `manifest` is the newest after a crash. Its number
    /// is spent.
    pub(crate) fn publish(&mut self, disk: &dyn Disk, manifest: &Manifest) -> io::Result<()> {
        self.next = self.next.max(manifest.number + 1);
        let bytes = manifest.encode().map_err(io::Error::other)?;
        let path = format!("{MANIFESTS}/{}", Manifest::file_name(manifest.number));
        write_atomically(disk, &path, &bytes)?;
        self.kept.insert(0, manifest.clone());
        self.kept.truncate(MANIFESTS_KEPT);
        Ok(())
    }

    /// Removes manifests that are not kept, then every chunk that `listed` does not name.
    ///
    /// # Errors
    ///
    /// The disk's; what is left is removed by the next sweep.
    pub(crate) fn sweep(
        &self,
        disk: &dyn Disk,
        listed: &dyn Fn(&str) -> bool,
    ) -> io::Result<usize> {
        let kept: Vec<String> =
            self.kept.iter().map(|manifest| Manifest::file_name(manifest.number)).collect();
        let removed = remove_unlisted(disk, MANIFESTS, &|name| kept.iter().any(|k| k == name))?;
        let in_kept = |name: &str| {
            self.kept.iter().any(|manifest| manifest.chunks.iter().any(|c| c.file == name))
        };
        Ok(removed + remove_unlisted(disk, CHUNKS, &|name| in_kept(name) || listed(name))?)
    }

    /// Per partition the last layer that every kept manifest covers.
    pub(crate) fn covered(&self, partition: u16) -> Option<u64> {
        self.kept.iter().map(|manifest| manifest.cuts.get(&partition).copied()).min().flatten()
    }
}

/// Every manifest that lies there.
pub(crate) struct Reading {
    /// Good ones, newest first.
    pub(crate) good: Vec<Manifest>,
    /// The others, by name.
    pub(crate) findings: Vec<Finding>,
}

/// Reads what is there and changes nothing; a manifest that goes away meanwhile is passed over.
///
/// # Errors
///
/// Where the folder cannot be listed.
pub(crate) fn read_manifests(disk: &dyn Disk) -> io::Result<Reading> {
    let mut reading = Reading { good: Vec::new(), findings: Vec::new() };
    // Names are sorted, and numbers have as many digits.
    for number in disk.list(MANIFESTS)?.iter().rev().filter_map(|name| number_of(name)) {
        let path = format!("{MANIFESTS}/{}", Manifest::file_name(number));
        let bytes = match disk.read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                reading.findings.push(Finding::new(path, error.to_string()));
                continue;
            }
        };
        match Manifest::decode(&bytes) {
            Ok(manifest) if manifest.number == number => reading.good.push(manifest),
            Err(Unreadable::Version(version)) if version > VERSION => {
                let reason = format!(
                    "it is of format {version}, this release knows {VERSION}: use the release \
                     that wrote it"
                );
                reading.findings.push(Finding::new(path, reason));
            }
            Ok(_) | Err(_) => reading.findings.push(Finding::new(path, "it is damaged")),
        }
    }
    Ok(reading)
}

/// Writes every manifest as version 1 did, which did not tell what was dropped: for tests of how
/// this release takes such a store over.
///
/// # Errors
///
/// The disk's.
#[cfg(feature = "conformance")]
pub(crate) fn write_as_v1(disk: &dyn Disk) -> io::Result<()> {
    for manifest in read_manifests(disk)?.good {
        let path = format!("{MANIFESTS}/{}", Manifest::file_name(manifest.number));
        write_atomically(disk, &path, &manifest.encode_v1().map_err(io::Error::other)?)?;
    }
    Ok(())
}

fn remove_unlisted(disk: &dyn Disk, dir: &str, listed: &dyn Fn(&str) -> bool) -> io::Result<usize> {
    let names: Vec<String> = disk.list(dir)?.into_iter().filter(|name| !listed(name)).collect();
    for name in &names {
        disk.remove(&format!("{dir}/{name}"))?;
    }
    if !names.is_empty() {
        disk.sync_dir(dir)?;
    }
    Ok(names.len())
}

fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix("manifest-").filter(|digits| digits.len() == 20)?.parse().ok()
}

/// Over the version and the body; manifests of every version keep this head.
fn checksum(version: u32, body: &[u8]) -> u32 {
    crc32c(&[&version.to_le_bytes()[..], body].concat())
}

#[cfg(test)]
mod tests {
    use nilometer_log::disk::sim::SimDisk;

    use super::*;

    fn manifest(number: u64) -> Manifest {
        let key = ChunkKey {
            granularity: Granularity::Hour,
            start: EventTime::from_ms(-604_800_000),
            schema: 9,
        };
        let meta = ChunkMeta {
            key,
            file: format!("{number}"),
            bytes: 10,
            cells: 2,
            first: EventTime::from_ms(-3_600_000),
            last: EventTime::from_ms(0),
            weight: 3,
            made_at: ReceiveTime::from_ms(4),
        };
        let mut dropped = Dropped::default();
        let end = EventTime::from_ms(60_000);
        dropped.add(Granularity::Minute, TimeRange { start: EventTime::from_ms(0), end }, end);
        Manifest {
            number,
            folded_at: ReceiveTime::from_ms(5),
            cuts: BTreeMap::from([(0, number), (1, 7)]),
            chunks: vec![meta],
            damage: Vec::new(),
            dropped,
            is_v1: false,
        }
    }

    fn disk_with(numbers: &[u64]) -> (SimDisk, Manifests) {
        let disk = SimDisk::new(1);
        disk.create_dir_all(MANIFESTS).unwrap();
        disk.create_dir_all(CHUNKS).unwrap();
        let mut manifests = Manifests::load(&disk).unwrap();
        for &number in numbers {
            manifests.publish(&disk, &manifest(number)).unwrap();
        }
        (disk, manifests)
    }

    fn path(number: u64) -> String {
        format!("{MANIFESTS}/{}", Manifest::file_name(number))
    }

    #[test]
    fn the_newest_two_are_kept_and_cover_what_both_cover() {
        let (disk, manifests) = disk_with(&[1, 2, 5]);
        assert_eq!(manifests.kept, [manifest(5), manifest(2)]);
        assert_eq!(manifests.covered(0), Some(2));
        assert_eq!(manifests.covered(3), None);
        assert_eq!(manifests.next, 6);
        manifests.sweep(&disk, &|_| false).unwrap();
        assert_eq!(disk.paths(), [path(2), path(5)]);
        let again = Manifests::load(&disk).unwrap();
        assert_eq!((again.kept, again.next), (manifests.kept, 6));
    }

    #[test]
    fn no_flipped_bit_and_no_cut_goes_unnoticed() {
        let bytes = manifest(3).encode().unwrap();
        for place in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[place / 8] ^= 1 << (place % 8);
            assert!(Manifest::decode(&damaged).is_err(), "bit {place}");
        }
        for len in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..len]).is_err(), "cut to {len}");
        }
        assert!(matches!(Manifest::decode(&bytes), Ok(own) if own == manifest(3)));
    }

    #[test]
    fn a_flipped_bit_in_the_version_is_damage_and_a_newer_version_is_refused() {
        let (disk, _) = disk_with(&[1, 2]);
        let bytes = disk.read(&path(2)).unwrap();
        let write = |bytes: &[u8]| write_atomically(&disk, &path(2), bytes).unwrap();
        // A newer release: another version over a body with a checksum that holds.
        let mut newer = bytes[..16].to_vec();
        newer[8] = 3;
        let body = b"of another form";
        newer[12..16].copy_from_slice(&checksum(3, body).to_le_bytes());
        newer.extend_from_slice(body);
        write(&newer);
        let refused = Manifests::load(&disk).unwrap_err();
        assert!(matches!(refused, OpenError::NewerVersion { version: 3, known: 2, .. }));
        // A manifest of ours is not taken for a newer one by its version alone.
        let mut flipped = bytes;
        flipped[8] ^= 1;
        write(&flipped);
        assert_eq!(Manifests::load(&disk).unwrap().kept, [manifest(1)]);
    }

    #[test]
    fn manifests_of_every_version_are_read() {
        // What v0.1.0 wrote, which told nothing of what it had dropped.
        let before = Manifest::decode(include_bytes!("../testdata/v1/manifest"));
        let Ok(before) = before else { panic!("version 1 is not read") };
        assert_eq!((before.number, before.chunks.len(), before.is_v1), (3, 32, true));
        let own = Manifest::decode(include_bytes!("../testdata/v2/manifest"));
        assert!(matches!(own, Ok(own) if own == manifest(7)));
        assert_eq!(manifest(7).encode().unwrap(), include_bytes!("../testdata/v2/manifest"));
    }
}
