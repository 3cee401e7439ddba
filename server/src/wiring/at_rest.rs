//! A house that serves nobody, for a command that changes what it has counted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use nilometer_event::IdentityKey;
use nilometer_event::clock::HouseClock;
use nilometer_log::{Disk, Log, LogSettings, RealDisk, SegmentLog};
use nilometer_rollups::EmbeddedStore;
use nilometer_stream::declare::Plan;
use nilometer_stream::view::{LayerSink, Views};
use nilometer_stream::{Shell, StreamConfig};

use super::{
    bytes_of, declarations, log_settings, open_log, plan_finder, store_settings, stream_settings,
};
use crate::config::Settings;
use crate::keyring::Keyring;

/// Where a purge's replay writes.
const SCRATCH: &str = "purge-scratch";

/// Log, shards and store; the data directory is locked by who opens it.
#[derive(Debug)]
pub(crate) struct AtRest {
    pub(crate) clock: Arc<HouseClock>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) log: Arc<SegmentLog>,
    pub(crate) store: Arc<EmbeddedStore>,
    pub(crate) shells: Vec<Shell>,
}

impl AtRest {
    /// Opens the rooms, and folds and checkpoints all that the log holds.
    ///
    /// # Errors
    ///
    /// What cannot be opened or recovered, by name.
    pub(crate) fn open(settings: &Settings, keyring: &Keyring) -> Result<Self> {
        let clock = Arc::new(HouseClock::default());
        let disk: Arc<dyn Disk> =
            Arc::new(RealDisk::open(&settings.server.data_dir).context("open the data directory")?);
        begin(settings, disk.as_ref())?;
        let identity = IdentityKey::new(keyring.identity()?);
        let declarations = declarations(settings);
        let plan = Arc::new(Plan::compile(&declarations).context("compile the declarations")?);
        // What is to be replayed does not go meanwhile.
        let keeps = LogSettings {
            retention_age: Duration::MAX,
            retention_bytes: u64::MAX,
            ..log_settings(settings, bytes_of(&disk))?
        };
        let log = open_log(keeps, &disk, &clock)?;
        let views = Arc::new(Views::new(log.partitions()));
        let store = EmbeddedStore::with_plans(
            Arc::clone(&disk),
            store_settings(settings)?,
            Arc::clone(&views),
            Arc::clone(&plan),
            plan_finder(&disk, &plan),
        )
        .context("open the rollups")?;
        let store = Arc::new(store);
        let shells = Shell::all_settled(&StreamConfig {
            identity,
            settings: stream_settings(settings),
            plan,
            declarations,
            log: Arc::<SegmentLog>::clone(&log),
            disk: Arc::clone(&disk),
            sink: Arc::clone(&store) as Arc<dyn LayerSink>,
            views,
            clock: Arc::<HouseClock>::clone(&clock),
        })
        .context("count what the log holds")?;
        Ok(Self { clock, disk, log, store, shells })
    }
}

/// Before anything is read of a data directory: what a purge has left to be done is done, and
/// what one has left lying is removed.
///
/// # Errors
///
/// Where the disk refuses it.
pub(super) fn begin(settings: &Settings, disk: &dyn Disk) -> Result<()> {
    if nilometer_stream::purges::finish(disk).context("finish a purge of a key's events")? {
        tracing::info!("a purge of a key's events is finished that was broken off");
    }
    remove_scratch(&settings.server.data_dir)
}

/// An empty folder for a replay.
///
/// # Errors
///
/// What the disk says.
pub(crate) fn scratch(data_dir: &Path) -> Result<Arc<dyn Disk>> {
    remove_scratch(data_dir)?;
    let disk = RealDisk::open(&path(data_dir)).context("make a folder for the replay")?;
    Ok(Arc::new(disk))
}

/// Removes what a replay wrote.
///
/// # Errors
///
/// What the disk says.
pub(crate) fn remove_scratch(data_dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path(data_dir)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path(data_dir).display()))
        }
        _ => Ok(()),
    }
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(SCRATCH)
}
