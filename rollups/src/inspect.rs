//! Looking the base over without opening it: nothing is changed, no lock is taken, and a running
//! server may write beside it.

use std::collections::BTreeSet;
use std::io;

use nilometer_log::{Disk, Finding};

use crate::chunk::{ChunkDamaged, Section, load_footer, load_part};
use crate::manifest::{ChunkMeta, Damage, MANIFESTS, Manifest, Reading, read_manifests};

/// What [`inspect`] saw.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Windows that were given up earlier, whose file was damaged before it could be folded.
    pub given_up: Vec<Finding>,
    /// Good manifests.
    pub manifests: u64,
    /// Chunks that they list.
    pub chunks: u64,
    /// Bytes of those chunks.
    pub bytes: u64,
    /// Cells in them.
    pub cells: u64,
}

/// Checks every manifest and every section of every chunk that one lists.
///
/// `checked` is told of every so many bytes that were read.
pub fn inspect(disk: &dyn Disk, checked: &mut dyn FnMut(u64)) -> Inspection {
    let mut inspection = Inspection::default();
    let Reading { good, findings } = match read_manifests(disk) {
        Ok(reading) => reading,
        Err(error) => {
            inspection.findings.push(Finding::new(MANIFESTS, error.to_string()));
            return inspection;
        }
    };
    inspection.findings = findings;
    inspection.manifests = good.len() as u64;
    let mut seen = BTreeSet::new();
    let mut suspects = Vec::new();
    for meta in good.iter().flat_map(|manifest| &manifest.chunks) {
        if !seen.insert(meta.file.as_str()) {
            continue;
        }
        inspection.chunks += 1;
        inspection.bytes += meta.bytes;
        inspection.cells += meta.cells;
        if let Some(reason) = chunk(disk, meta) {
            suspects.push(Finding::new(meta.path(), reason));
        }
        checked(meta.bytes);
    }
    if !suspects.is_empty() {
        // A running server may have gone on: what no manifest lists any more is not missed.
        let now = read_manifests(disk).map(|reading| reading.good).unwrap_or_default();
        let listed: BTreeSet<String> = now.iter().flat_map(chunk_paths).collect();
        inspection.findings.extend(suspects.into_iter().filter(|it| listed.contains(&it.file)));
    }
    if let Some(newest) = good.first() {
        inspection.given_up = newest.damage.iter().map(given_up).collect();
    }
    inspection
}

fn chunk_paths(manifest: &Manifest) -> impl Iterator<Item = String> {
    manifest.chunks.iter().map(ChunkMeta::path)
}

/// What is wrong with a chunk, and how many cells that costs.
fn chunk(disk: &dyn Disk, meta: &ChunkMeta) -> Option<String> {
    let footer = match load_footer(disk, meta) {
        Ok(footer) => footer,
        Err(error) => {
            return Some(format!("{}; {} cells cannot be read", describe(&error), meta.cells));
        }
    };
    let mut first_reason = None;
    let mut cells = 0;
    for block in &footer.blocks {
        let set = &footer.sets[block.set as usize];
        let part = |section| load_part(disk, meta, set, block, section).err();
        if let Some(error) = Section::ALL.into_iter().find_map(part) {
            cells += u64::from(block.cells);
            first_reason.get_or_insert_with(|| describe(&error));
        }
    }
    first_reason.map(|reason| format!("{reason}; {cells} cells cannot be read"))
}

fn describe(error: &ChunkDamaged) -> String {
    match error {
        ChunkDamaged::Io(io) if io.kind() == io::ErrorKind::NotFound => {
            "the file is missing".to_owned()
        }
        other => other.to_string(),
    }
}

fn given_up(damage: &Damage) -> Finding {
    let Damage { file, granularity, start, end } = damage;
    let reason =
        format!("it was damaged: the {granularity} windows from {start} to {end} are lost");
    Finding::new(file.clone(), reason)
}
