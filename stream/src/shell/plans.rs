//! The plans that journal entries name, each in a file of its own.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use nilometer_log::{Disk, create_dir_durably, write_atomically};
use parking_lot::Mutex;

use crate::checkpoint::crc32c;
use crate::declare::{Declarations, Plan, PlanId};

const FOLDER: &str = "plans";

/// Between the declarations and their checksum, which ends the file. Releases before it was
/// written left it out.
const CHECKSUM: &str = "\n# crc32c ";

/// Plans by their ids. The files stay: they are small, and a layer may name any of them.
#[derive(Debug)]
pub struct PlanBook {
    disk: Arc<dyn Disk>,
    current: Arc<Plan>,
    declarations: Declarations,
    known: Mutex<HashMap<PlanId, Arc<Plan>>>,
    /// Whether the current plan is durable; locked by the shard that makes it so.
    kept: Mutex<bool>,
}

/// Why a plan could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PlanLoadError {
    /// The disk refused: to be tried again.
    #[error("cannot read the plan: {0}")]
    Disk(#[source] io::Error),
    /// Its file is damaged.
    #[error("{path} is corrupt: {reason}")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// It is not there, or this release makes another one of it.
    #[error("the plan {0}")]
    Unknown(String),
}

impl PlanBook {
    /// A book whose newest plan is `current`, compiled from `declarations`. Writes nothing.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, current: Arc<Plan>, declarations: Declarations) -> Self {
        let known = Mutex::new(HashMap::from([(current.id, Arc::clone(&current))]));
        Self { disk, current, declarations, known, kept: Mutex::new(false) }
    }

    /// The plan that the next entries are to be counted by.
    #[must_use]
    pub const fn current(&self) -> &Arc<Plan> {
        &self.current
    }

    /// The path of a plan's declarations.
    #[must_use]
    pub fn path(id: PlanId) -> String {
        format!("{FOLDER}/{id}.json")
    }

    /// Makes the current plan durable, before any entry names it.
    pub(super) fn keep_current(&self) -> io::Result<()> {
        let mut kept = self.kept.lock();
        if *kept {
            return Ok(());
        }
        let path = Self::path(self.current.id);
        let bytes = encode(&self.declarations)?;
        // A damaged file is written again: the plan is at hand.
        if !self.disk.read(&path).is_ok_and(|found| found == bytes) {
            create_dir_durably(self.disk.as_ref(), FOLDER)?;
            write_atomically(self.disk.as_ref(), &path, &bytes)?;
        }
        *kept = true;
        Ok(())
    }

    pub(super) fn load(&self, id: PlanId) -> Result<Arc<Plan>, PlanLoadError> {
        if let Some(plan) = self.known.lock().get(&id) {
            return Ok(Arc::clone(plan));
        }
        let plan = Arc::new(Self::read(self.disk.as_ref(), id)?);
        self.known.lock().insert(id, Arc::clone(&plan));
        Ok(plan)
    }

    /// The current plan or an older one, which lies beside the checkpoints that were counted by
    /// it; `None`, and a line in the log, where it cannot be had.
    #[must_use]
    pub fn find(disk: &dyn Disk, current: &Arc<Plan>, id: PlanId) -> Option<Arc<Plan>> {
        if id == current.id {
            return Some(Arc::clone(current));
        }
        let read = Self::read(disk, id);
        read.inspect_err(|error| tracing::error!(%error, "an older plan cannot be had"))
            .ok()
            .map(Arc::new)
    }

    /// Every plan that was kept; those that cannot be had are left out, with a line in the log.
    #[must_use]
    pub fn all(disk: &dyn Disk) -> Vec<Arc<Plan>> {
        let names = disk.list(FOLDER).unwrap_or_default();
        let ids = names.iter().filter_map(|name| {
            u64::from_str_radix(name.strip_suffix(".json")?, 16).ok().map(PlanId::new)
        });
        let read = |id| {
            let read = Self::read(disk, id);
            read.inspect_err(|error| tracing::error!(%error, "an older plan cannot be had")).ok()
        };
        ids.filter_map(read).map(Arc::new).collect()
    }

    /// Reads a plan from its file.
    ///
    /// # Errors
    ///
    /// [`PlanLoadError`].
    pub fn read(disk: &dyn Disk, id: PlanId) -> Result<Plan, PlanLoadError> {
        let path = Self::path(id);
        let bytes = disk.read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => PlanLoadError::Unknown(format!("is not at {path}")),
            _ => PlanLoadError::Disk(error),
        })?;
        let (declarations, checked) = match decode(&bytes) {
            Ok(decoded) => decoded,
            Err(reason) => return Err(PlanLoadError::Damaged { path, reason }),
        };
        // A filter's `*` or `!` was a letter like others once: the id tells which is meant.
        let before = Plan::compile_literally(&declarations);
        if let Some(plan) = before.ok().filter(|plan| plan.id == id) {
            return Ok(plan);
        }
        let plan = Plan::compile(&declarations)
            .map_err(|error| PlanLoadError::Unknown(format!("no longer compiles: {error}")))?;
        match (plan.id == id, checked) {
            (true, _) => Ok(plan),
            (false, Checked::Whole) => {
                let reason = "this release makes another plan of";
                Err(PlanLoadError::Unknown(format!("is at {path}, and {reason} it")))
            }
            (false, Checked::NoChecksum) => {
                let reason = "it is another plan, and an older release wrote it without a checksum";
                Err(PlanLoadError::Damaged { path, reason: reason.to_owned() })
            }
        }
    }
}

/// What a plan's file proves about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    /// Its checksum holds.
    Whole,
    /// It is of a release that wrote none.
    NoChecksum,
}

fn encode(declarations: &Declarations) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(declarations).map_err(io::Error::other)?;
    let checksum = format!("{CHECKSUM}{:08x}\n", crc32c(&bytes));
    bytes.extend_from_slice(checksum.as_bytes());
    Ok(bytes)
}

/// The declarations of a plan's file, or what is wrong with it.
pub(crate) fn decode(bytes: &[u8]) -> Result<(Declarations, Checked), String> {
    let trailer = CHECKSUM.len() + "01234567\n".len();
    let (json, checked) = match bytes.split_at_checked(bytes.len().saturating_sub(trailer)) {
        Some((json, end)) if end.starts_with(CHECKSUM.as_bytes()) => {
            if end != format!("{CHECKSUM}{:08x}\n", crc32c(json)).as_bytes() {
                return Err("its checksum is wrong".to_owned());
            }
            (json, Checked::Whole)
        }
        // A damaged mark is taken for JSON, which it is not.
        _ => (bytes, Checked::NoChecksum),
    };
    let declarations = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    Ok((declarations, checked))
}

#[cfg(test)]
mod tests {
    use nilometer_log::disk::sim::SimDisk;

    use super::*;

    #[test]
    fn a_plan_of_before_is_found_though_its_filter_reads_otherwise_by_now() {
        let json = r#"{"metric":[{"name":"a","aggregate":"count","filter":"country:D*"}]}"#;
        let declarations: Declarations = serde_json::from_str(json).unwrap();
        let [before, now] = [
            Plan::compile_literally(&declarations).unwrap(),
            Plan::compile(&declarations).unwrap(),
        ];
        assert_ne!(before.id, now.id);
        let disk = SimDisk::new(1);
        create_dir_durably(&disk, FOLDER).unwrap();
        for plan in [before, now] {
            let bytes = encode(&declarations).unwrap();
            write_atomically(&disk, &PlanBook::path(plan.id), &bytes).unwrap();
            let found = PlanBook::read(&disk, plan.id).unwrap();
            assert_eq!(found.id, plan.id);
            assert_eq!(found.event_slots, plan.event_slots);
        }
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed_and_files_without_a_checksum_stay_readable() {
        let declarations = Declarations::default();
        let bytes = encode(&declarations).unwrap();
        assert!(matches!(decode(&bytes), Ok((own, Checked::Whole)) if own == declarations));
        for place in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[place / 8] ^= 1 << (place % 8);
            assert!(decode(&damaged).is_err(), "bit {place}");
        }
        let old = serde_json::to_vec_pretty(&declarations).unwrap();
        assert!(matches!(decode(&old), Ok((own, Checked::NoChecksum)) if own == declarations));
    }
}
