//! Which checkpoints are kept, which one recovery begins with, and which files may go.

use std::collections::BTreeSet;
use std::io;

use nilometer_event::{Offset, Partition, Topic};
use nilometer_log::{Disk, Log};

use super::manifest::{Unusable, measure};
use super::{ENGINE, MANIFESTS_KEPT, Manifest, folder, ids_folder, sessions_folder};
use crate::error::RecoverError;
use crate::purges;
use crate::tables::TableBook;

/// The manifests whose files must stay, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    manifests: Vec<Manifest>,
}

/// What there is to begin with.
#[derive(Debug)]
pub(crate) struct Found {
    /// The newest good checkpoint and the one before it.
    pub(crate) kept: Kept,
    /// Whether the journal is there from its begin, so that no checkpoint is needed.
    pub(crate) scratch: bool,
}

/// Finds the newest good checkpoint. Changes nothing.
pub(crate) fn find(
    disk: &dyn Disk,
    log: &dyn Log,
    partition: Partition,
) -> Result<Found, RecoverError> {
    let at = |path: String| move |source| RecoverError::Disk { partition, path, source };
    let directory = folder(partition);
    let names = disk.list(&directory).map_err(at(directory.clone()))?;
    let mut seqs: Vec<u64> = names.iter().filter_map(|name| Manifest::seq_of(name)).collect();
    seqs.sort_unstable();
    let mut good = Vec::new();
    for &seq in seqs.iter().rev() {
        let path = Manifest::path(partition, seq);
        match Manifest::read(disk, &path) {
            Ok(manifest) => good.push(manifest),
            Err(Unusable::Corrupt(reason)) => {
                tracing::error!(%path, %reason, "checkpoint manifest is corrupt; the one before is used");
            }
            Err(Unusable::Newer(found)) => {
                return Err(RecoverError::NewerEngine { partition, found, known: ENGINE });
            }
            Err(Unusable::Disk(source)) => {
                return Err(RecoverError::Disk { partition, path, source });
            }
        }
    }
    check_partitions(&good, partition, log)?;
    // What lies before a purge would bring back what it took.
    let floor = purges::floor(disk, partition)?;
    good.retain(|manifest| manifest.seq() >= floor);
    good.truncate(MANIFESTS_KEPT);
    good.reverse();
    while good.len() > 1 && damaged(disk, &good).map_err(at(directory.clone()))? {
        good.pop();
    }
    let scratch = floor == 0 && log.bounds(Topic::Journal, partition).start == Offset::ZERO;
    if let [only] = good.as_slice()
        && scratch
        && first_damage(disk, only).map_err(at(directory))?.is_some()
    {
        good.pop();
    }
    if good.is_empty() && floor > 0 {
        return Err(RecoverError::BeforePurge { partition, seq: floor });
    }
    if good.is_empty() && !scratch {
        let start = log.bounds(Topic::Journal, partition).start;
        return Err(RecoverError::NoCheckpoint { partition, tried: seqs.len(), start });
    }
    Ok(Found { kept: Kept { manifests: good }, scratch })
}

fn check_partitions(
    manifests: &[Manifest],
    partition: Partition,
    log: &dyn Log,
) -> Result<(), RecoverError> {
    let asked = log.partitions().get();
    match manifests.iter().find(|manifest| manifest.partitions != asked) {
        Some(other) => {
            Err(RecoverError::PartitionCount { partition, found: other.partitions, asked })
        }
        None => Ok(()),
    }
}

/// Whether the newest of `manifests` has a damaged file that the one before does not need.
fn damaged(disk: &dyn Disk, manifests: &[Manifest]) -> io::Result<bool> {
    let Some(newest) = manifests.last() else { return Ok(false) };
    first_damage(disk, newest).map(|damage| damage.is_some())
}

/// The first file that this checkpoint wrote and that is no longer what it was.
fn first_damage(disk: &dyn Disk, manifest: &Manifest) -> io::Result<Option<String>> {
    for file in &manifest.fresh {
        let now = match measure(disk, &file.path) {
            Ok(now) => Some(now),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if now.as_ref() != Some(file) {
            tracing::error!(path = %file.path, "checkpoint file is corrupt; the checkpoint before is used");
            return Ok(Some(file.path.clone()));
        }
    }
    Ok(None)
}

impl Kept {
    /// How many there are.
    pub(crate) const fn len(&self) -> usize {
        self.manifests.len()
    }

    /// Gives up the newest: it turned out damaged.
    pub(crate) fn drop_newest(&mut self) {
        self.manifests.pop();
    }

    /// The newest.
    pub(crate) fn newest(&self) -> Option<&Manifest> {
        self.manifests.last()
    }

    /// Takes a durable manifest and removes what is no longer listed by a kept one.
    pub(crate) fn push(&mut self, manifest: Manifest, disk: &dyn Disk) {
        self.manifests.retain(|kept| kept.seq() < manifest.seq());
        self.manifests.push(manifest);
        let surplus = self.manifests.len().saturating_sub(MANIFESTS_KEPT);
        let gone: Vec<Manifest> = self.manifests.drain(..surplus).collect();
        let listed = self.files();
        for manifest in gone {
            let partition = Partition::new(manifest.partition);
            // First the manifest, so that no manifest ever lists a missing file.
            remove(disk, &Manifest::path(partition, manifest.seq()));
            drop(disk.sync_dir(&folder(partition)));
            for file in manifest.files().difference(&listed) {
                remove(disk, file);
            }
        }
    }

    /// Removes what no kept manifest lists: what a crash left behind. Only while nothing is
    /// being merged, whose file is not listed yet.
    pub(crate) fn sweep(&self, disk: &dyn Disk, partition: Partition) {
        let listed = self.files();
        let manifests: BTreeSet<String> = self
            .manifests
            .iter()
            .map(|manifest| Manifest::path(partition, manifest.seq()))
            .collect();
        for directory in [folder(partition), ids_folder(partition), sessions_folder(partition)] {
            // A folder inside is no file: removing it fails, and is not tried.
            let Ok(names) = disk.list(&directory) else { continue };
            for name in names.iter().filter(|name| !matches!(name.as_str(), "ids" | "sessions")) {
                let path = format!("{directory}/{name}");
                if !listed.contains(&path) && !manifests.contains(&path) {
                    remove(disk, &path);
                }
            }
        }
    }

    /// Tells log and tables what a replay may still need. With one manifest a fallback needs
    /// the journal from its begin, so nothing is released yet.
    pub(crate) fn hold(&self, log: &dyn Log, tables: &TableBook, partition: Partition) {
        if self.manifests.len() < MANIFESTS_KEPT {
            return;
        }
        let Some(oldest) = self.manifests.first() else { return };
        for (topic, position) in oldest.positions() {
            log.hold(topic, partition, position);
        }
        log.hold(Topic::Journal, partition, Offset::new(oldest.journal_next));
        // Nobody reads them back: they stay as long as there is room.
        log.hold(Topic::LateEvents, partition, log.bounds(Topic::LateEvents, partition).end);
        tables.need(partition, oldest.entry.dims);
    }

    /// Whether a replay may still need records before `next`.
    pub(crate) fn holds_before(&self, next: [Offset; Topic::RECEIVED.len()]) -> bool {
        let oldest = self.manifests.first().filter(|_| self.manifests.len() >= MANIFESTS_KEPT);
        oldest.is_none_or(|oldest| oldest.positions().map(|(_, position)| position).lt(next))
    }

    fn files(&self) -> BTreeSet<String> {
        self.manifests.iter().flat_map(Manifest::files).collect()
    }
}

/// Removes a file that nothing lists; one that stays is removed by the sweep of the next start.
fn remove(disk: &dyn Disk, path: &str) {
    if let Err(error) = disk.remove(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path, %error, "an unneeded file could not be removed");
    }
}
