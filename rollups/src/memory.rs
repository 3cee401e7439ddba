//! The reference store: keeps every adopted layer as it is and never folds.
//!
//! Obvious and forgetful: it holds files open for good, reads all of them for every answer, and
//! after a restart knows only what is offered to it again.

use std::sync::Arc;

use arc_swap::ArcSwap;
use nilometer_event::Partition;
use nilometer_log::disk::Disk;
use nilometer_stream::declare::Plan;
use nilometer_stream::view::{LayerNumber, LayerSink, SealedLayerFile, Views};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::pinned::Pinned;
use crate::port::{Store, StoreStats};
use crate::settings::StoreSettings;
use crate::version::Version;

/// A store that is right because it does nothing clever.
#[derive(Debug)]
pub struct MemoryStore {
    disk: Arc<dyn Disk>,
    settings: StoreSettings,
    plan: Arc<Plan>,
    views: Arc<Views>,
    version: ArcSwap<Version>,
    /// Held while a layer is adopted.
    adopting: Mutex<()>,
}

impl MemoryStore {
    /// A store that holds nothing; layers' files are read from `disk`.
    #[must_use]
    pub fn new(
        disk: Arc<dyn Disk>,
        settings: StoreSettings,
        views: Arc<Views>,
        plan: Arc<Plan>,
    ) -> Self {
        Self {
            disk,
            settings,
            plan,
            views,
            version: ArcSwap::from_pointee(Version::default()),
            adopting: Mutex::default(),
        }
    }
}

impl LayerSink for MemoryStore {
    fn adopt(&self, sealed: SealedLayerFile) {
        let guard = self.adopting.lock();
        let version = self.version.load_full();
        if let Some(next) = version.with(&self.disk, sealed) {
            self.version.store(Arc::new(next));
        }
        drop(guard);
    }

    fn folded_through(&self, _partition: Partition) -> LayerNumber {
        LayerNumber::NONE
    }
}

impl Store for MemoryStore {
    fn pin(&self) -> Pinned {
        Pinned::new(
            &self.views,
            || self.version.load_full(),
            Arc::clone(&self.plan),
            &self.settings.retention,
            self.settings.limits(),
            None,
        )
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.views.changed()
    }

    fn stats(&self) -> StoreStats {
        let version = self.version.load_full();
        let (unreadable, refused) = version.unopened();
        StoreStats {
            layers_waiting: version.layers.len() as u64,
            layers_bytes: version.layers_bytes() as u64,
            layers_unreadable: unreadable as u64,
            layers_refused: refused as u64,
            ..StoreStats::default()
        }
    }
}
