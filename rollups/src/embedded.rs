//! The embedded store: a base under `rollups/`, switched atomically, and later layers beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use nilometer_event::Partition;
use nilometer_log::disk::{Disk, create_dir_durably};
use nilometer_stream::declare::{Plan, PlanId};
use nilometer_stream::shell::PlanBook;
use nilometer_stream::view::{LayerNumber, LayerSink, SealedLayerFile, Views};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::base::{Base, Chunk, Shelf};
use crate::cache::Cache;
use crate::dropped::dropped_before;
use crate::error::OpenError;
use crate::manifest::{CHUNKS, MANIFESTS, MANIFESTS_KEPT, Manifest, Manifests};
use crate::pinned::Pinned;
use crate::port::{Store, StoreStats};
use crate::settings::StoreSettings;
use crate::version::{AdoptedLayer, Version};

/// Finds the plan that a layer was counted by, where it is still known.
pub type PlanFinder = Arc<dyn Fn(PlanId) -> Option<Arc<Plan>> + Send + Sync>;

/// The store that the house has when nothing else is installed.
///
/// Durable: what a manifest lists is synced before the manifest, and a manifest is there whole
/// or not at all. What was not folded yet is offered again by the stream's recovery.
pub struct EmbeddedStore {
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) settings: StoreSettings,
    pub(crate) plan: Arc<Plan>,
    pub(crate) plans: PlanFinder,
    views: Arc<Views>,
    version: ArcSwap<Version>,
    pub(crate) state: Mutex<State>,
    /// Held during a fold: there is one at a time.
    pub(crate) folding: Mutex<crate::trials::Trials>,
    pub(crate) tallies: FoldTallies,
}

/// What changes when a layer is adopted or a fold is switched in.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) manifests: Manifests,
    pub(crate) manifest: Manifest,
    /// Layers inside the base that a pinned version may still read from their files.
    retired_layers: Vec<Arc<AdoptedLayer>>,
    /// Chunks that no kept manifest lists and a pinned version may still read.
    retired_chunks: Vec<Arc<Chunk>>,
}

/// Counts since the store was opened.
#[derive(Debug, Default)]
pub(crate) struct FoldTallies {
    pub(crate) folds: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) took_ms: Mutex<Option<u64>>,
    pub(crate) layers_refused: AtomicU64,
}

/// A file of the base that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedChunk {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// What is known of it now.
    pub found: Checked,
}

/// What a look at a file of the base found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// All of it was read.
    Good,
    /// It was read, and it is wrong or not whole.
    Damaged,
    /// The disk refused: nothing is known of it, and it is to be tried again.
    Refused,
}

impl std::fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let version = self.version.load_full();
        f.debug_struct("EmbeddedStore")
            .field("plan", &self.plan.id)
            .field("cuts", &version.cuts)
            .field("layers", &version.layers.len())
            .finish_non_exhaustive()
    }
}

impl EmbeddedStore {
    /// Opens what lies under `rollups/` on the disk, or begins it.
    ///
    /// `plan` is what readers ask by. Layers of an older plan are folded by that one, whose
    /// declarations the stream keeps on the same disk; where they are gone, as far as `plan`
    /// reads them.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; nothing was changed then, save for folders.
    pub fn open(
        disk: Arc<dyn Disk>,
        settings: StoreSettings,
        views: Arc<Views>,
        plan: Arc<Plan>,
    ) -> Result<Self, OpenError> {
        let finder = PlansOnDisk { disk: Arc::clone(&disk), current: Arc::clone(&plan) };
        let plans: PlanFinder = Arc::new(move |id| finder.find(id));
        Self::with_plans(disk, settings, views, plan, plans)
    }

    /// As [`EmbeddedStore::open`], with the older plans that layers may still be of.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; nothing was changed then, save for folders.
    pub fn with_plans(
        disk: Arc<dyn Disk>,
        settings: StoreSettings,
        views: Arc<Views>,
        plan: Arc<Plan>,
        plans: PlanFinder,
    ) -> Result<Self, OpenError> {
        let mut manifests = Manifests::load(&*disk)?;
        let io = |path: &str, source| OpenError::Io { path: path.to_owned(), source };
        for dir in [MANIFESTS, CHUNKS] {
            create_dir_durably(&*disk, dir).map_err(|source| io(dir, source))?;
        }
        let mut manifest = manifests.kept.first().cloned().unwrap_or_else(Manifest::empty);
        let cache = Arc::new(Cache::new(settings.cache_bytes_max));
        let shelf = Arc::new(Shelf { disk, cache, quarantined_cells: AtomicU64::new(0) });
        let base = Base::new(&manifest, &Base::default(), &shelf);
        if manifest.is_v1 {
            manifest.dropped = dropped_before(&base, &plan);
            manifest.is_v1 = false;
        }
        let disk = &*shelf.disk;
        // Two good copies from the start: whichever is damaged, the other stands.
        while manifests.kept.len() < MANIFESTS_KEPT {
            manifest.number = manifests.next;
            manifests.publish(disk, &manifest).map_err(|source| io(MANIFESTS, source))?;
        }
        manifests.sweep(disk, &|_| false).map_err(|source| io(CHUNKS, source))?;
        let version = Version {
            base: Arc::new(base),
            layers: Vec::new(),
            cuts: manifest.cuts.clone(),
            folded_at: manifest.folded_at(),
            dropped: Arc::new(manifest.dropped.clone()),
        };
        Ok(Self {
            shelf,
            settings,
            plan,
            plans,
            views,
            version: ArcSwap::from_pointee(version),
            state: Mutex::new(State {
                manifests,
                manifest,
                retired_layers: Vec::new(),
                retired_chunks: Vec::new(),
            }),
            folding: Mutex::default(),
            tallies: FoldTallies::default(),
        })
    }

    /// The version that a pin now would hold.
    pub(crate) fn version(&self) -> Arc<Version> {
        self.version.load_full()
    }

    /// Reads the chunk whose name follows `after` from its begin to its end, so that damage shows
    /// before somebody asks for its windows; tells which it was. `None` behind the last. Blocks.
    #[must_use]
    pub fn check_next(&self, after: Option<&str>) -> Option<CheckedChunk> {
        self.check_one(after, |_| true)
    }

    /// As [`EmbeddedStore::check_next`], of those alone that the disk refused to whoever read them
    /// last.
    #[must_use]
    pub fn check_next_refused(&self, after: Option<&str>) -> Option<CheckedChunk> {
        self.check_one(after, Chunk::is_refused)
    }

    fn check_one(
        &self,
        after: Option<&str>,
        is_due: impl Fn(&Chunk) -> bool,
    ) -> Option<CheckedChunk> {
        let version = self.version();
        let behind = version.base.all().filter(|chunk| after < Some(chunk.meta.file.as_str()));
        let due = behind.filter(|chunk| is_due(chunk));
        let chunk = due.min_by(|one, other| one.meta.file.cmp(&other.meta.file))?;
        let found = chunk.verify();
        Some(CheckedChunk { name: chunk.meta.file.clone(), bytes: chunk.meta.bytes, found })
    }

    /// Shows `manifest`, which is durable, in place of all that it covers.
    pub(crate) fn switch(&self, state: &mut State, manifest: Manifest) {
        let before = self.version.load_full();
        let cuts = manifest.cuts.clone();
        let covered = |layer: &AdoptedLayer| {
            let cut = cuts.get(&layer.sealed.partition.get());
            cut.is_some_and(|&cut| layer.sealed.layer.get() <= cut)
        };
        let (retired, layers): (Vec<_>, Vec<_>) =
            before.layers.iter().cloned().partition(|layer| covered(layer));
        let base = Base::new(&manifest, &before.base, &self.shelf);
        let gone =
            |chunk: &&Arc<Chunk>| !manifest.chunks.iter().any(|meta| meta.file == chunk.meta.file);
        state.retired_chunks.extend(before.base.all().filter(gone).cloned());
        state.retired_layers.extend(retired);
        let folded_at = manifest.folded_at();
        let dropped = Arc::new(manifest.dropped.clone());
        state.manifest = manifest;
        let version = Version { base: Arc::new(base), layers, cuts, folded_at, dropped };
        self.version.store(Arc::new(version));
        drop(before);
        state.forget_unpinned();
    }

    /// Removes files that nothing lists and nobody reads.
    pub(crate) fn sweep(&self, state: &mut State) {
        state.forget_unpinned();
        let pinned = |name: &str| state.retired_chunks.iter().any(|chunk| chunk.meta.file == name);
        if let Err(error) = state.manifests.sweep(&*self.shelf.disk, &pinned) {
            tracing::warn!(%error, "cannot remove old rollup files; the next fold tries again");
        }
    }
}

/// The plans whose declarations the stream keeps beside its checkpoints.
struct PlansOnDisk {
    disk: Arc<dyn Disk>,
    current: Arc<Plan>,
}

impl PlansOnDisk {
    fn find(&self, id: PlanId) -> Option<Arc<Plan>> {
        PlanBook::find(self.disk.as_ref(), &self.current, id)
    }
}

impl State {
    /// Lets go of what no pinned version holds any more.
    fn forget_unpinned(&mut self) {
        self.retired_layers.retain(|layer| Arc::strong_count(layer) > 1);
        self.retired_chunks.retain(|chunk| Arc::strong_count(chunk) > 1);
    }
}

impl LayerSink for EmbeddedStore {
    fn adopt(&self, sealed: SealedLayerFile) {
        let guard = self.state.lock();
        let version = self.version.load_full();
        if let Some(next) = version.with(&self.shelf.disk, sealed) {
            self.version.store(Arc::new(next));
        }
        drop(guard);
    }

    fn folded_through(&self, partition: Partition) -> LayerNumber {
        let mut state = self.state.lock();
        state.forget_unpinned();
        let covered = state.manifests.covered(partition.get()).unwrap_or_default();
        let pinned =
            state.retired_layers.iter().filter(|layer| layer.sealed.partition == partition);
        let oldest_pinned = pinned.map(|layer| layer.sealed.layer.get()).min();
        let through = oldest_pinned.map_or(covered, |oldest| covered.min(oldest.saturating_sub(1)));
        LayerNumber::new(through)
    }
}

/// Decoded blocks keep so many percent of their memory whatever else is short: what is not kept is
/// decoded again for each question, which then wait for one another.
const CACHE_PERCENT_MIN: u32 = 75;

impl Store for EmbeddedStore {
    fn pin(&self) -> Pinned {
        self.shelf.cache.allow(self.views.memory_percent().max(CACHE_PERCENT_MIN));
        Pinned::new(
            &self.views,
            || self.version(),
            Arc::clone(&self.plan),
            &self.settings.retention,
            self.settings.limits(),
            Some(Arc::clone(&self.shelf.cache)),
        )
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.views.changed()
    }

    fn stats(&self) -> StoreStats {
        let version = self.version();
        let manifest = &self.state.lock().manifest;
        let cache = self.shelf.cache.stats();
        let chunks = |is: fn(&Chunk) -> bool| version.base.all().filter(|one| is(one)).count();
        let (unreadable, refused) = version.unopened();
        StoreStats {
            bytes: manifest.chunks.iter().map(|chunk| chunk.bytes).sum(),
            chunks: manifest.chunks.len() as u64,
            chunks_unreadable: chunks(Chunk::is_damaged) as u64,
            chunks_refused: chunks(Chunk::is_refused) as u64,
            quarantined_cells: self.shelf.quarantined_cells.load(Ordering::Relaxed),
            cells: manifest.chunks.iter().map(|chunk| chunk.cells).sum(),
            layers_waiting: version.layers.len() as u64,
            layers_bytes: version.layers_bytes() as u64,
            layers_unreadable: unreadable as u64,
            layers_refused: self.tallies.layers_refused.load(Ordering::Relaxed) + refused as u64,
            folds: self.tallies.folds.load(Ordering::Relaxed),
            fold_failures: self.tallies.failures.load(Ordering::Relaxed),
            fold_took_ms: *self.tallies.took_ms.lock(),
            damaged: manifest.damage.len() as u64,
            cache_bytes: cache.bytes as u64,
            cache_hits: cache.hits,
            cache_misses: cache.misses,
        }
    }
}
