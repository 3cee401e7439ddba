//! The plans that journal entries name, each in a file of its own.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use nilometer_log::{Disk, create_dir_durably, write_atomically};
use parking_lot::Mutex;

use crate::declare::{Declarations, Plan, PlanId};

const FOLDER: &str = "plans";

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
#[derive(Debug)]
pub(super) enum PlanLoadError {
    /// The disk refused: to be tried again.
    Disk(io::Error),
    /// It is not there, or is another one by now.
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
        let bytes = serde_json::to_vec_pretty(&self.declarations).map_err(io::Error::other)?;
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
        let path = Self::path(id);
        let bytes = self.disk.read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => PlanLoadError::Unknown(format!("is not at {path}")),
            _ => PlanLoadError::Disk(error),
        })?;
        let declarations: Declarations = serde_json::from_slice(&bytes)
            .map_err(|error| PlanLoadError::Unknown(format!("is corrupt at {path}: {error}")))?;
        let plan = Plan::compile(&declarations)
            .map_err(|error| PlanLoadError::Unknown(format!("no longer compiles: {error}")))?;
        if plan.id != id {
            return Err(PlanLoadError::Unknown("this release compiles to another plan".to_owned()));
        }
        let plan = Arc::new(plan);
        self.known.lock().insert(id, Arc::clone(&plan));
        Ok(plan)
    }
}
