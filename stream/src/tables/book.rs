//! The versions of the dimension tables on disk, and the newest in memory.

use std::sync::Arc;

use arc_swap::ArcSwap;
use nilometer_event::Partition;
use nilometer_log::{Disk, Finding, create_dir_durably, write_atomically};
use parking_lot::Mutex;

use super::{Rows, Table, TableName, TableVersions, Tables};
use crate::error::DimensionTableError;

/// Folder of the tables' files.
const FOLDER: &str = "dimensions";

/// First bytes of a table's file: what it is, and the version of its form.
const MAGIC: &[u8; 8] = b"NILODIM\x01";

/// Compression level of a table's file: written once, read at each start.
const ZSTD_LEVEL: i32 = 3;

/// Versions of a table that no checkpoint needs stay while their files are at most so large
/// together: a purge replays entries that name them.
const OLDER_BYTES_MAX: u64 = if cfg!(test) { 100 } else { 64 << 20 };

/// Every version of every table; shared by the shards and by whoever puts tables.
#[derive(Debug)]
pub struct TableBook {
    disk: Arc<dyn Disk>,
    rows_max: u64,
    bytes_max: u64,
    latest: ArcSwap<Tables>,
    /// One put at a time; holds the highest version ever used of each table.
    putting: Mutex<TableVersions>,
    /// By partition: the oldest versions that the shard may still replay with.
    needed: Mutex<Vec<Option<TableVersions>>>,
}

impl TableBook {
    /// Reads the newest version of each table.
    ///
    /// A damaged newest version is named in the log and the one before is used: the shards
    /// name what they use in their entries.
    ///
    /// # Errors
    ///
    /// [`DimensionTableError::Disk`].
    pub fn open(
        disk: Arc<dyn Disk>,
        shards: usize,
        rows_max: u64,
        bytes_max: u64,
    ) -> Result<Self, DimensionTableError> {
        let mut highest = TableVersions::default();
        let mut latest = [None, None, None];
        for name in TableName::ALL {
            let mut versions = versions_on_disk(disk.as_ref(), name)?;
            versions.sort_unstable();
            highest.0[name.index()] = versions.last().copied().unwrap_or(0);
            for &version in versions.iter().rev() {
                match read_table(disk.as_ref(), name, version) {
                    Ok(table) => {
                        latest[name.index()] = Some(Arc::new(table));
                        break;
                    }
                    Err(error @ DimensionTableError::Disk { .. }) => return Err(error),
                    Err(damage) => tracing::error!(%damage, "dimension table is corrupt"),
                }
            }
        }
        Ok(Self {
            disk,
            rows_max,
            bytes_max,
            latest: ArcSwap::from_pointee(Tables::new(latest)),
            putting: Mutex::new(highest),
            needed: Mutex::new(vec![None; shards]),
        })
    }

    /// The newest version of every table.
    #[must_use]
    pub fn latest(&self) -> Arc<Tables> {
        self.latest.load_full()
    }

    /// Rows that a table may have.
    #[must_use]
    pub const fn rows_max(&self) -> u64 {
        self.rows_max
    }

    /// Replaces a table; the rows are durable when this returns, and every shard names the
    /// version in its next entry.
    ///
    /// # Errors
    ///
    /// [`DimensionTableError`]; nothing was changed.
    pub fn put(&self, name: TableName, rows: Rows) -> Result<u64, DimensionTableError> {
        if u64::try_from(rows.rows.len()).is_ok_and(|len| len > self.rows_max) {
            return Err(DimensionTableError::TooManyRows { rows_max: self.rows_max });
        }
        let bytes: usize = rows.rows.iter().flatten().flatten().map(|value| value.len() + 24).sum();
        if u64::try_from(bytes).is_ok_and(|bytes| bytes > self.bytes_max) {
            return Err(DimensionTableError::TooManyBytes { bytes_max: self.bytes_max });
        }
        let mut highest = self.putting.lock();
        let version = highest.of(name) + 1;
        let table = Table::new(name, version, rows)?;
        let path = path_of(name, version);
        let disk = |source| DimensionTableError::Disk { path: path.clone(), source };
        create_dir_durably(self.disk.as_ref(), FOLDER).map_err(disk)?;
        // Even a failed write uses up its version: what it left behind is unknown.
        highest.0[name.index()] = version;
        let encoded = encode(&table.rows).map_err(disk)?;
        write_atomically(self.disk.as_ref(), &path, &encoded).map_err(disk)?;
        let mut tables = Tables::clone(&self.latest.load());
        tables.0[name.index()] = Some(Arc::new(table));
        self.latest.store(Arc::new(tables));
        drop(highest);
        self.remove_unneeded(name);
        Ok(version)
    }

    /// The tables of these versions: the newest from memory, others from their files.
    ///
    /// # Errors
    ///
    /// [`DimensionTableError::Disk`] to be tried again, [`DimensionTableError::Damaged`].
    pub fn load(&self, versions: TableVersions) -> Result<Tables, DimensionTableError> {
        let latest = self.latest.load();
        let mut tables = Tables::default();
        for name in TableName::ALL {
            let version = versions.of(name);
            tables.0[name.index()] = match latest.table(name) {
                _ if version == 0 => None,
                Some(table) if table.version() == version => Some(Arc::clone(table)),
                _ => Some(Arc::new(read_table(self.disk.as_ref(), name, version)?)),
            };
        }
        Ok(tables)
    }

    /// Says which versions a shard's oldest kept checkpoint may replay with; older ones, which
    /// only a purge needs, are removed at the next put, but for the newest of them.
    pub fn need(&self, partition: Partition, versions: TableVersions) {
        if let Some(needed) = self.needed.lock().get_mut(partition.index()) {
            *needed = Some(versions);
        }
    }

    fn remove_unneeded(&self, name: TableName) {
        let floor = {
            let needed = self.needed.lock();
            needed.iter().map(|versions| versions.map_or(0, |it| it.of(name))).min().unwrap_or(0)
        };
        // An error leaves a file that the next put tries again.
        let Ok(versions) = versions_on_disk(self.disk.as_ref(), name) else { return };
        let mut older: Vec<u64> = versions.into_iter().filter(|&it| it < floor).collect();
        older.sort_unstable_by_key(|&version| std::cmp::Reverse(version));
        let mut bytes = 0_u64;
        for path in older.into_iter().map(|version| path_of(name, version)) {
            bytes += self.disk.open_read(&path).and_then(|file| file.len()).unwrap_or(0);
            if bytes > OLDER_BYTES_MAX {
                drop(self.disk.remove(&path));
            }
        }
    }
}

/// How many versions can be read, and which cannot.
///
/// # Errors
///
/// Where the folder cannot be listed.
pub(crate) fn inspect(disk: &dyn Disk) -> Result<(u64, Vec<Finding>), Finding> {
    let mut good = 0;
    let mut damaged = Vec::new();
    for name in TableName::ALL {
        let versions = versions_on_disk(disk, name)
            .map_err(|error| Finding::new(FOLDER, error.to_string()))?;
        for version in versions {
            let path = path_of(name, version);
            match read_table(disk, name, version) {
                Ok(_) => good += 1,
                // An old version that a running server has just removed.
                Err(DimensionTableError::Disk { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(DimensionTableError::Disk { source, .. }) => {
                    damaged.push(Finding::new(path, source.to_string()));
                }
                Err(DimensionTableError::Damaged { reason, .. }) => {
                    damaged.push(Finding::new(path, reason));
                }
                Err(other) => damaged.push(Finding::new(path, other.to_string())),
            }
        }
    }
    Ok((good, damaged))
}

fn path_of(name: TableName, version: u64) -> String {
    format!("{FOLDER}/{name}-{version}.table")
}

fn versions_on_disk(disk: &dyn Disk, name: TableName) -> Result<Vec<u64>, DimensionTableError> {
    let files = disk
        .list(FOLDER)
        .map_err(|source| DimensionTableError::Disk { path: FOLDER.to_owned(), source })?;
    let version = |file: &String| {
        file.strip_prefix(name.name())?.strip_prefix('-')?.strip_suffix(".table")?.parse().ok()
    };
    Ok(files.iter().filter_map(version).collect())
}

fn encode(rows: &Rows) -> std::io::Result<Vec<u8>> {
    let plain = postcard::to_stdvec(rows).map_err(std::io::Error::other)?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&zstd::encode_all(plain.as_slice(), ZSTD_LEVEL)?);
    let crc = crate::checkpoint::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

fn read_table(
    disk: &dyn Disk,
    name: TableName,
    version: u64,
) -> Result<Table, DimensionTableError> {
    let path = path_of(name, version);
    let bytes = disk
        .read(&path)
        .map_err(|source| DimensionTableError::Disk { path: path.clone(), source })?;
    let damaged = |reason: &str| DimensionTableError::Damaged {
        path: path.clone(),
        reason: reason.to_owned(),
    };
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or_else(|| damaged("it is too short"))?;
    if crate::checkpoint::crc32c(body) != u32::from_le_bytes(*crc) {
        return Err(damaged("its checksum is wrong"));
    }
    let packed = body.strip_prefix(MAGIC).ok_or_else(|| damaged("it is of another release"))?;
    let plain = zstd::decode_all(packed).map_err(|error| damaged(&error.to_string()))?;
    let rows = postcard::from_bytes(&plain).map_err(|error| damaged(&error.to_string()))?;
    Table::new(name, version, rows)
}
