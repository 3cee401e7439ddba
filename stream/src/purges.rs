//! Purges that were made, and the one moment at which a purge is made.
//!
//! A purge is prepared in files that nothing lists. Then one file, `purges/commit`, holds every
//! manifest that is to list them: once that is durable the purge is made, and whoever opens the
//! directory next writes the manifests before anything else ([`finish`]). Before it nothing has
//! changed.

use std::io;

use nilometer_event::{Offset, Partition, ReceiveTime, Topic};
use nilometer_log::{Disk, create_dir_durably, write_atomically};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::checkpoint::crc32c;
use crate::error::RecoverError;
use crate::shell::fail;

/// Where purges lie, one file each, for good.
const FOLDER: &str = "purges";
/// What is to be written to make a purge; gone once it is.
const COMMIT: &str = "purges/commit";

const MAGIC: &[u8; 8] = b"NILOPURG";
/// Version of the form of both.
const VERSION: u8 = 1;

/// A purge that was made: events of a key on a UTC day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purge {
    /// Counts up from 1.
    pub number: u64,
    /// The key's id.
    pub key: String,
    /// Days since 1970.
    pub day: i64,
    /// When.
    pub at: ReceiveTime,
    /// By partition.
    pub shards: Vec<PurgedShard>,
}

/// A purge in one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgedShard {
    /// The last entry before it: nothing older is gone back to.
    pub seq: u64,
    /// The first offset of each topic of [`Topic::RECEIVED`] that it does not touch.
    pub ends: [u64; Topic::RECEIVED.len()],
    /// Events that it took.
    pub erased: u64,
}

impl Purge {
    /// True where it took what this key sent for this day to that place.
    #[must_use]
    pub fn took(&self, (key, day): (&str, i64), partition: Partition, at: (Topic, Offset)) -> bool {
        let index = Topic::RECEIVED.iter().position(|&topic| topic == at.0);
        let end = index.and_then(|index| Some(self.shards.get(partition.index())?.ends[index]));
        self.key == key && self.day == day && end.is_some_and(|end| at.1.get() < end)
    }

    fn path(number: u64) -> String {
        format!("{FOLDER}/{number:020}")
    }
}

/// Files that take the place of others all at once, crashes or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Path and content.
    pub writes: Vec<(String, Vec<u8>)>,
    /// Files that go.
    pub removes: Vec<String>,
}

/// Why purges could not be read or made.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}; where it is corrupt, restore the data directory from a backup")]
pub struct PurgeFileError {
    /// The file.
    pub path: String,
    /// What is wrong.
    pub source: io::Error,
}

impl Commit {
    /// Makes the purge: durable when this returns, though its files may not be written yet.
    ///
    /// # Errors
    ///
    /// [`PurgeFileError`]; after one of the disk it may have been made.
    pub fn make(mut self, disk: &dyn Disk, purge: &Purge) -> Result<(), PurgeFileError> {
        let at = |source| PurgeFileError { path: COMMIT.to_owned(), source };
        let record = (Purge::path(purge.number), encode(purge).map_err(at)?);
        self.writes.insert(0, record);
        create_dir_durably(disk, FOLDER).map_err(at)?;
        fail::reach("purge-before-commit");
        write_atomically(disk, COMMIT, &encode(&self).map_err(at)?).map_err(at)?;
        fail::reach("purge-after-commit");
        Ok(())
    }

    fn apply(&self, disk: &dyn Disk) -> Result<(), PurgeFileError> {
        for (path, bytes) in &self.writes {
            write_atomically(disk, path, bytes)
                .map_err(|source| PurgeFileError { path: path.clone(), source })?;
            fail::reach("purge-after-write");
        }
        for path in &self.removes {
            remove(disk, path)?;
        }
        fail::reach("purge-after-removes");
        remove(disk, COMMIT)
    }
}

/// Writes what a purge has left to be written; true where there was one. Before anything else is
/// read of a directory.
///
/// # Errors
///
/// [`PurgeFileError`]; to be called again.
pub fn finish(disk: &dyn Disk) -> Result<bool, PurgeFileError> {
    let names =
        disk.list(FOLDER).map_err(|source| PurgeFileError { path: FOLDER.to_owned(), source })?;
    if !names.iter().any(|name| COMMIT.ends_with(&format!("/{name}"))) {
        return Ok(false);
    }
    read::<Commit>(disk, COMMIT)?.apply(disk)?;
    Ok(true)
}

/// All purges that were made, oldest first.
///
/// # Errors
///
/// [`PurgeFileError`].
pub fn load(disk: &dyn Disk) -> Result<Vec<Purge>, PurgeFileError> {
    let names =
        disk.list(FOLDER).map_err(|source| PurgeFileError { path: FOLDER.to_owned(), source })?;
    // Names are sorted, and numbers have as many digits.
    let numbers = names.iter().filter(|name| name.len() == 20).filter_map(|name| name.parse().ok());
    numbers.map(|number| read(disk, &Purge::path(number))).collect()
}

/// The last entry of a shard before its last purge: what is older would bring back what it took.
pub(crate) fn floor(disk: &dyn Disk, partition: Partition) -> Result<u64, RecoverError> {
    let purges = load(disk).map_err(|error| RecoverError::Disk {
        partition,
        path: error.path,
        source: error.source,
    })?;
    let seqs = purges.iter().filter_map(|purge| purge.shards.get(partition.index()));
    Ok(seqs.map(|shard| shard.seq).max().unwrap_or(0))
}

fn remove(disk: &dyn Disk, path: &str) -> Result<(), PurgeFileError> {
    let at = |source| PurgeFileError { path: path.to_owned(), source };
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(error)),
        _ => {}
    }
    disk.sync_dir(path.rsplit_once('/').map_or("", |(folder, _)| folder)).map_err(at)
}

fn encode(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut head = MAGIC.to_vec();
    head.push(VERSION);
    let mut bytes = postcard::to_extend(value, head).map_err(io::Error::other)?;
    let crc = crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

fn read<T: DeserializeOwned>(disk: &dyn Disk, path: &str) -> Result<T, PurgeFileError> {
    let bytes = disk.read(path).and_then(|bytes| decode(&bytes));
    bytes.map_err(|source| PurgeFileError { path: path.to_owned(), source })
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let (body, crc) =
        bytes.split_last_chunk::<4>().ok_or_else(|| wrong("corrupt: it is too short"))?;
    if crc32c(body) != u32::from_le_bytes(*crc) {
        return Err(wrong("corrupt: its checksum is wrong"));
    }
    let body = body.strip_prefix(MAGIC).ok_or_else(|| wrong("corrupt: it is none of ours"))?;
    match body.split_first() {
        Some((&VERSION, body)) => {
            postcard::from_bytes(body).map_err(|error| wrong(&error.to_string()))
        }
        _ => Err(wrong("of a later release: use that")),
    }
}

#[cfg(test)]
mod tests {
    use nilometer_log::disk::sim::SimDisk;

    use super::*;

    fn purge(number: u64) -> Purge {
        let shards = vec![PurgedShard { seq: 7 * number, ends: [number; 5], erased: 3 }];
        let at = ReceiveTime::from_ms(5);
        Purge { number, key: "k".to_owned(), day: 20_000, at, shards }
    }

    fn commit() -> Commit {
        Commit {
            writes: vec![("a/1".to_owned(), b"new".to_vec()), ("b/2".to_owned(), vec![2])],
            removes: vec!["a/0".to_owned(), "b/none".to_owned()],
        }
    }

    #[test]
    fn a_purge_is_made_whole_or_not_at_all_wherever_power_is_lost() {
        let mut made = 0;
        for seed in 0..60 {
            let disk = SimDisk::new(seed);
            for folder in ["a", "b"] {
                create_dir_durably(&disk, folder).unwrap();
            }
            write_atomically(&disk, "a/0", b"old").unwrap();
            disk.die_after(seed);
            let done = commit().make(&disk, &purge(1)).and_then(|()| finish(&disk));
            disk.crash();
            disk.heal();
            let finished = finish(&disk).unwrap();
            let is_made = disk.read("a/1").is_ok();
            assert!(is_made || done.is_err(), "{seed}");
            assert!(is_made || !finished, "{seed}");
            assert_eq!(disk.read("a/0").is_err(), is_made, "{seed}");
            assert_eq!(disk.read("b/2").is_ok(), is_made, "{seed}");
            assert_eq!(load(&disk).unwrap(), if is_made { vec![purge(1)] } else { vec![] });
            assert!(!finish(&disk).unwrap(), "{seed}");
            made += u64::from(is_made);
        }
        assert!((10..60).contains(&made), "{made}");
    }

    #[test]
    fn what_was_taken_is_told_by_key_day_and_place_and_every_flipped_bit_is_found() {
        let own = purge(2);
        let took = |key, day, offset| {
            let at = (Topic::UserEvents, Offset::new(offset));
            own.took((key, day), Partition::new(0), at)
        };
        assert!(took("k", 20_000, 1));
        assert!(!took("k", 20_000, 2) && !took("j", 20_000, 1) && !took("k", 20_001, 1));
        let bytes = encode(&own).unwrap();
        assert_eq!(decode::<Purge>(&bytes).unwrap(), own);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<Purge>(&damaged).is_err(), "bit {bit}");
        }
    }
}
