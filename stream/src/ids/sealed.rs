//! A layer's ids on their way to their run file.

use std::io;

use nilometer_event::ReceiveTime;
use nilometer_log::Disk;

use super::key::IdKey;
use super::manifest::IdsManifest;
use super::store::{IdRun, write_layer};

/// A layer's ids on their way to a run file, with the state as it was at the seal.
#[derive(Clone, Debug)]
pub struct IdsSealed {
    pub(super) layer: u64,
    pub(super) sealed_at: ReceiveTime,
    pub(super) file: String,
    pub(super) keys: Vec<IdKey>,
    pub(super) manifest: IdsManifest,
}

/// A layer's ids in their run file.
#[derive(Clone, Debug)]
pub struct IdsWritten {
    pub(super) layer: u64,
    pub(super) run: Option<IdRun>,
    pub(super) manifest: IdsManifest,
    pub(super) spare: Vec<IdKey>,
}

impl IdsSealed {
    /// The layer whose ids these are.
    #[must_use]
    pub const fn layer(&self) -> u64 {
        self.layer
    }

    /// Writes the run file durably; may be called again after an error.
    ///
    /// # Errors
    ///
    /// What the disk says.
    pub fn write(&self, disk: &dyn Disk) -> io::Result<IdsWritten> {
        let run = write_layer(disk, self.file.clone(), self.layer, self.sealed_at, &self.keys)?;
        let mut manifest = self.manifest.clone();
        manifest.runs.extend(run.iter().map(|run| run.meta.clone()));
        Ok(IdsWritten { layer: self.layer, run, manifest, spare: Vec::new() })
    }
}

impl IdsWritten {
    /// The state as it was right after the seal, this run included.
    #[must_use]
    pub const fn manifest(&self) -> &IdsManifest {
        &self.manifest
    }

    /// Gives the memory of what was written back with it.
    pub(crate) fn keep_memory(&mut self, sealed: IdsSealed) {
        self.spare = emptied(sealed.keys);
    }
}

/// A list's memory for the next one, where that may need about as much.
pub(crate) fn emptied<T>(mut list: Vec<T>) -> Vec<T> {
    if list.capacity() > 4 * list.len() {
        return Vec::new();
    }
    list.clear();
    list
}
