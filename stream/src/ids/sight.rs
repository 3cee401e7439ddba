//! What the ids of a shard tell of one event afterwards: each of its counts left a row.

use nilometer_event::Fingerprint;
use nilometer_log::Disk;

use super::damage::RunReadFailed;
use super::key::Bucket;
use super::run::{Run, Unreadable};
use super::store::{Group, decode_block};

/// One count of an id: its bucket, and layers in one of which it was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// `None` where memory does not say: one of many buckets of a layer.
    pub bucket: Option<Bucket>,
    /// The first layer that it may be.
    pub first: u64,
    /// The last.
    pub last: u64,
}

impl Sighting {
    /// Whether a copy with an id of this bucket may be the one that counted.
    #[must_use]
    pub fn may_be(&self, bucket: Bucket) -> bool {
        self.bucket.is_none_or(|own| own == bucket)
    }
}

/// Where an id may lie, found without I/O.
#[derive(Clone, Debug)]
pub struct IdSight {
    pub(super) fingerprint: Fingerprint,
    /// Where it lies in memory.
    pub(super) hot: Option<Sighting>,
    /// Buckets of which nothing is known any more.
    pub(super) unknown: Vec<Bucket>,
    /// A run, a block of it, and what a row there says.
    pub(super) probes: Vec<(Run, usize, Sighting)>,
}

impl IdSight {
    /// Reads what lies in files: every count of the id in the buckets asked. A bucket that was
    /// forgotten, or whose file is damaged, has one count that may be in any layer.
    ///
    /// # Errors
    ///
    /// What the disk says; ask again.
    pub fn read(self, disk: &dyn Disk) -> Result<Vec<Sighting>, RunReadFailed> {
        let mut sightings: Vec<Sighting> = Vec::new();
        let mut unknown = self.unknown;
        for (run, block, sighting) in &self.probes {
            let handle = disk.open_read(&run.file).map_err(Unreadable::from);
            let payload = handle.and_then(|handle| run.read_block(&*handle, *block));
            match payload {
                Ok(payload) => {
                    let rows = decode_block(&payload, run.blocks[*block].rows);
                    let check = rows.map(|rows| rows.check_of(self.fingerprint.get()));
                    match check {
                        Some(Some(_)) => sightings.push(*sighting),
                        Some(None) => {}
                        None => unknown.extend(sighting.bucket),
                    }
                }
                Err(Unreadable::Io(source)) => {
                    return Err(RunReadFailed { file: run.file.clone(), source });
                }
                Err(Unreadable::Damaged(_)) => unknown.extend(sighting.bucket),
            }
        }
        // A sealed layer's ids lie in its file and, while they are hot, in memory as well.
        let same = |hot: &Sighting, row: &Sighting| {
            row.bucket.is_some_and(|bucket| hot.may_be(bucket))
                && (row.first..=row.last).contains(&hot.first)
        };
        let hot = self.hot.filter(|hot| !sightings.iter().any(|row| same(hot, row)));
        sightings.extend(hot);
        unknown.sort_unstable();
        unknown.dedup();
        unknown.retain(|&bucket| !sightings.iter().any(|row| row.bucket == Some(bucket)));
        let anywhere = |bucket| Sighting { bucket: Some(bucket), first: 0, last: u64::MAX };
        sightings.extend(unknown.into_iter().map(anywhere));
        Ok(sightings)
    }
}

/// The groups of a run that ids of a bucket lie in.
pub(super) fn groups_of(run: &Run, bucket: Bucket) -> Vec<i64> {
    if bucket != Bucket::ODD {
        return vec![i64::from(bucket.number())];
    }
    let odd = |&number: &i64| matches!(Group::from_number(number), Some(Group::OddDay(_)));
    run.groups().into_iter().map(|(number, _)| number).filter(odd).collect()
}
