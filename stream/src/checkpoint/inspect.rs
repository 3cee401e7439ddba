//! Looking checkpoints, plans and tables over without opening them: nothing is changed, no lock
//! is taken, and a running server may write beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use nilometer_event::{Offset, Partition, Topic};
use nilometer_log::{Disk, Finding};

use super::manifest::{Unusable, measure};
use super::{ENGINE, FileRef, MANIFESTS_KEPT, Manifest, folder};
use crate::declare::{Plan, PlanId};
use crate::ids::run::{Kind, Run};
use crate::shell::PlanBook;
use crate::shell::plans::decode;
use crate::tables;

/// What [`inspect`] saw.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Good manifests, over all shards.
    pub manifests: u64,
    /// Files that they list.
    pub files: u64,
    /// Bytes of those files.
    pub bytes: u64,
    /// Plans that are there and compile.
    pub plans: u64,
    /// Versions of dimension tables that are there and can be read.
    pub tables: u64,
}

/// What recovery needs of one place of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needed {
    /// Which stream.
    pub topic: Topic,
    /// Which shard.
    pub partition: Partition,
    /// The oldest kept checkpoint reads on from here.
    pub from: Offset,
    /// The newest holds what lies before.
    pub to: Offset,
}

/// What the kept checkpoints need of the log.
#[must_use]
pub fn needed(disk: &dyn Disk) -> Vec<Needed> {
    let mut needed = Vec::new();
    for partition in shards(disk) {
        let good: Vec<Manifest> = good_manifests(disk, partition, &mut Vec::new());
        let (Some(oldest), Some(newest)) = (good.first(), good.last()) else { continue };
        // With one manifest the journal is kept from its begin.
        let oldest = (good.len() >= MANIFESTS_KEPT).then_some(oldest);
        let ends = |manifest: &Manifest| -> Vec<(Topic, Offset)> {
            let journal = (Topic::Journal, Offset::new(manifest.journal_next));
            manifest.positions().chain([journal]).collect()
        };
        for (index, (topic, to)) in ends(newest).into_iter().enumerate() {
            let from = oldest.map_or(Offset::ZERO, |oldest| ends(oldest)[index].1);
            needed.push(Needed { topic, partition, from, to });
        }
    }
    needed
}

/// Checks every manifest, every file that one lists, every plan and every table.
///
/// `checked` is told of every so many bytes that were read.
pub fn inspect(disk: &dyn Disk, checked: &mut dyn FnMut(u64)) -> Inspection {
    let mut inspection = Inspection::default();
    let mut plans = BTreeSet::new();
    for partition in shards(disk) {
        inspect_shard(disk, partition, &mut plans, &mut inspection, checked);
    }
    inspect_plans(disk, plans, &mut inspection);
    match tables::inspect(disk) {
        Ok((good, damaged)) => {
            inspection.tables = good;
            inspection.findings.extend(damaged);
        }
        Err(finding) => inspection.findings.push(finding),
    }
    inspection
}

fn shards(disk: &dyn Disk) -> Vec<Partition> {
    let names = disk.list("checkpoints").unwrap_or_default();
    let mut shards: Vec<u16> = names.iter().filter_map(|name| name.parse().ok()).collect();
    shards.sort_unstable();
    shards.into_iter().map(Partition::new).collect()
}

/// The manifests of a shard that can be read, oldest first; the others are findings.
fn good_manifests(
    disk: &dyn Disk,
    partition: Partition,
    findings: &mut Vec<Finding>,
) -> Vec<Manifest> {
    let directory = folder(partition);
    let names = match disk.list(&directory) {
        Ok(names) => names,
        Err(error) => {
            findings.push(Finding::new(directory, error.to_string()));
            return Vec::new();
        }
    };
    let mut good = Vec::new();
    // Names are sorted, and seqs have as many digits.
    for seq in names.iter().filter_map(|name| Manifest::seq_of(name)) {
        let path = Manifest::path(partition, seq);
        match Manifest::read(disk, &path) {
            Ok(manifest) => good.push(manifest),
            Err(_) if !is_there(disk, &path) => {}
            Err(Unusable::Corrupt(reason)) => findings.push(Finding::new(path, reason)),
            Err(Unusable::Disk(error)) => findings.push(Finding::new(path, error.to_string())),
            Err(Unusable::Newer(engine)) => {
                let reason = format!(
                    "it is of engine {engine}, this release knows {ENGINE}: use the release that \
                     wrote it"
                );
                findings.push(Finding::new(path, reason));
            }
        }
    }
    good
}

fn is_there(disk: &dyn Disk, path: &str) -> bool {
    !disk.open_read(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn inspect_shard(
    disk: &dyn Disk,
    partition: Partition,
    plans: &mut BTreeSet<PlanId>,
    inspection: &mut Inspection,
    checked: &mut dyn FnMut(u64),
) {
    let mut damaged = Vec::new();
    let mut seen: BTreeMap<String, Option<Finding>> = BTreeMap::new();
    let manifests = good_manifests(disk, partition, &mut damaged);
    inspection.manifests += manifests.len() as u64;
    for manifest in &manifests {
        plans.insert(manifest.entry.plan);
        plans.extend(manifest.layers.iter().map(|layer| layer.plan));
        let layers = manifest.layers.iter().map(|layer| &layer.file);
        let known: BTreeMap<&str, &FileRef> = manifest
            .fresh
            .iter()
            .chain(&manifest.guard)
            .chain(layers)
            .map(|file| (file.path.as_str(), file))
            .collect();
        let sessions: BTreeSet<&str> = manifest.sessions.files().collect();
        for path in manifest.files() {
            if seen.contains_key(&path) {
                continue;
            }
            let checked_as = match known.get(path.as_str()) {
                Some(file) => whole(disk, file),
                None if sessions.contains(path.as_str()) => run(disk, &path, Kind::Sessions),
                None => run(disk, &path, Kind::Ids),
            };
            let finding = match checked_as {
                Ok(bytes) => {
                    inspection.bytes += bytes;
                    checked(bytes);
                    None
                }
                Err(reason) => Some(Finding::new(path.clone(), reason)),
            };
            inspection.files += 1;
            seen.insert(path, finding);
        }
    }
    let suspects: Vec<Finding> = seen.into_values().flatten().collect();
    if !suspects.is_empty() {
        // A running server may have gone on: what no manifest lists any more is not missed.
        let listed: BTreeSet<String> = good_manifests(disk, partition, &mut Vec::new())
            .iter()
            .flat_map(Manifest::files)
            .collect();
        damaged.extend(suspects.into_iter().filter(|suspect| listed.contains(&suspect.file)));
    }
    if manifests.is_empty() && !damaged.is_empty() {
        let reason = "no manifest of this shard is good: it is folded again from its journal, \
                      which is possible only while the journal is kept from its begin";
        damaged.push(Finding::new(folder(partition), reason));
    }
    inspection.findings.extend(damaged);
}

/// Compares a file with what its manifest says.
fn whole(disk: &dyn Disk, file: &FileRef) -> Result<u64, String> {
    let now = measure(disk, &file.path).map_err(|error| describe(&error))?;
    if now.bytes != file.bytes {
        return Err(format!("it has {} bytes and had {}", now.bytes, file.bytes));
    }
    if now.crc != file.crc {
        return Err("its checksum is wrong".to_owned());
    }
    Ok(now.bytes)
}

/// Checks every block of a run of ids or sessions.
fn run(disk: &dyn Disk, path: &str, kind: Kind) -> Result<u64, String> {
    let run = Run::open(disk, path, kind).map_err(|error| error.reason())?;
    let handle = disk.open_read(path).map_err(|error| describe(&error))?;
    let mut damaged_rows = 0;
    let mut first_reason = None;
    for (index, block) in run.blocks.iter().enumerate() {
        if let Err(error) = run.read_block(&*handle, index) {
            damaged_rows += u64::from(block.rows);
            first_reason.get_or_insert_with(|| error.reason());
        }
    }
    match first_reason {
        Some(reason) => Err(format!("{reason}; {damaged_rows} rows cannot be read")),
        None => handle.len().map_err(|error| describe(&error)),
    }
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "the file is missing".to_owned(),
        _ => error.to_string(),
    }
}

/// Every plan that is there, and those that checkpoints name.
fn inspect_plans(disk: &dyn Disk, named: BTreeSet<PlanId>, inspection: &mut Inspection) {
    let files = disk.list("plans").unwrap_or_default();
    let lying = files.iter().filter(|name| name.ends_with(".json"));
    let named: BTreeSet<String> = named.into_iter().map(PlanBook::path).collect();
    let paths: BTreeSet<String> =
        lying.map(|name| format!("plans/{name}")).chain(named.iter().cloned()).collect();
    for path in paths {
        match plan(disk, &path) {
            Ok(id) if PlanBook::path(id) == path => inspection.plans += 1,
            Ok(_) if !named.contains(&path) => {}
            Ok(_) => inspection.findings.push(Finding::new(
                path,
                "this release compiles it to another plan: use the release that wrote it",
            )),
            Err(reason) => inspection.findings.push(Finding::new(path, reason)),
        }
    }
}

fn plan(disk: &dyn Disk, path: &str) -> Result<PlanId, String> {
    let bytes = disk.read(path).map_err(|error| describe(&error))?;
    let (declarations, _checked) = decode(&bytes)?;
    Plan::compile(&declarations).map(|plan| plan.id).map_err(|error| error.to_string())
}
