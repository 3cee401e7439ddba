//! Folding: adopted layers go into chunks of the base, switched in by one manifest.
//!
//! Chunks of one key form a short run of ever smaller files: a fold writes its own cells and
//! merges the files at the end of the run that have not many more, so that a cell is written
//! again only about log₄ (cells) times. Cells are counted, not folds: a week of an import that
//! came in one piece is not written again for a few late events.

mod purge;
pub use purge::Replaced;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nilometer_event::{EventTime, Granularity, ReceiveTime, TimeRange};
use nilometer_log::Disk;
use nilometer_stream::aggregate::SlotMask;
use nilometer_stream::cells::{CellSource, LayerFile, LayerFileError, ScanRequest};
use nilometer_stream::declare::SetKind;

use crate::base::{Base, Chunk, ChunkSource};
use crate::embedded::EmbeddedStore;
use crate::error::FoldError;
use crate::fail::reach;
use crate::in_memory::InMemory;
use crate::manifest::{CHUNKS, ChunkKey, ChunkMeta, Damage, Manifest};
use crate::merge::{Merged, merge};
use crate::retention::{span_ms, span_of};
use crate::sets::Sets;
use crate::trials::Trials;
use crate::version::{AdoptedLayer, Version};
use crate::weave::{Strand, Weave, Woven};

/// Files become one while the older has less than so many times what the newer have together.
const SIZE_RATIO: u64 = 4;
/// Folds that must find a layer's file damaged before its windows are given up.
const STRIKES_MAX: u32 = 3;
/// How long after the end of its span a run of chunks is made one.
const SETTLED_MS: i64 = 3 * 3_600_000;
/// How long a run of chunks must have been left alone before it is made one.
const QUIET_MS: i64 = 600_000;
/// Spans whose chunks are written side by side: a day of minutes.
const SIDE_BY_SIDE_MAX: i64 = 24;
/// Runs that one fold makes one.
const COMPACTIONS_MAX: usize = 4;
/// A run of so many bytes is made one whatever its files are, and a fold begins no further one
/// once it has written more.
const COMPACTED_BYTES: u64 = 16 << 20;

/// When and how much to fold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoldLimits {
    /// Layers waiting, over all shards, below which nothing is folded.
    pub layers_min: usize,
    /// Layers taken at most, over all shards.
    pub layers_max: usize,
}

impl Default for FoldLimits {
    fn default() -> Self {
        Self { layers_min: 1, layers_max: 256 }
    }
}

/// What a fold did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FoldReport {
    /// Layers that are inside the base now.
    pub layers: usize,
    /// Files written.
    pub chunks_written: usize,
    /// Files that were merged into them.
    pub chunks_merged: usize,
    /// Files past their retention.
    pub chunks_dropped: usize,
    /// Cells written.
    pub cells: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Windows given up because a layer's file was damaged.
    pub windows_lost: usize,
    /// Layers that could be folded and were too many for one fold: the next begins at once.
    pub waiting: usize,
}

impl FoldReport {
    /// Whether the base was switched.
    #[must_use]
    pub const fn switched(&self) -> bool {
        self.layers + self.chunks_written + self.chunks_dropped > 0
    }
}

impl EmbeddedStore {
    /// Folds adopted layers into the base, drops what is past its retention, and switches all
    /// of it in at once. Nothing happens where too few layers wait and nothing has expired.
    ///
    /// Blocks; there is one fold at a time. Readers do not notice.
    ///
    /// # Errors
    ///
    /// [`FoldError`]; then nothing was switched, and the next fold repeats it.
    pub fn fold_once(&self, now: ReceiveTime, limits: FoldLimits) -> Result<FoldReport, FoldError> {
        let mut trials = self.folding.lock();
        self.reopen_layers();
        let mut fold = Fold::begin(self, now, &mut trials);
        let outcome = fold.run(limits);
        match &outcome {
            Ok(report) if report.switched() => {
                self.tallies.folds.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(_) => {
                fold.discard();
                self.tallies.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        let refused = trials.refused.len() as u64;
        self.tallies.layers_refused.store(refused, Ordering::Relaxed);
        outcome
    }

    /// Notes a fold that broke off where an invariant does not hold.
    pub(crate) fn note_fold_broken(&self) {
        self.tallies.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes how long the last fold took, as its driver measured it.
    pub fn note_fold_took(&self, took_ms: u64) {
        *self.tallies.took_ms.lock() = Some(took_ms);
    }

    /// Tries again to open layer files that did not open.
    fn reopen_layers(&self) {
        use nilometer_stream::view::LayerSink;
        for layer in &self.version().layers {
            if layer.file.is_err() {
                self.adopt(layer.sealed.clone());
            }
        }
    }
}

/// One fold under way.
struct Fold<'a> {
    store: &'a EmbeddedStore,
    now: ReceiveTime,
    version: Arc<Version>,
    /// What will be switched in.
    next: Manifest,
    trials: &'a mut Trials,
    written: Vec<String>,
    report: FoldReport,
}

/// A layer or an older chunk whose cells go into a new chunk.
pub(crate) enum FoldSource<'a> {
    Layer(&'a dyn CellSource),
    Chunk(ChunkSource),
}

impl FoldSource<'_> {
    pub(crate) fn cells(&self) -> &dyn CellSource {
        match self {
            Self::Layer(source) => *source,
            Self::Chunk(chunk) => chunk,
        }
    }
}

impl<'a> Fold<'a> {
    fn begin(store: &'a EmbeddedStore, now: ReceiveTime, trials: &'a mut Trials) -> Self {
        let state = store.state.lock();
        let mut next = state.manifest.clone();
        next.number = state.manifests.next;
        // Retention never goes back, whatever clock a caller has.
        let now = state.manifest.folded_at().map_or(now, |before| before.max(now));
        let version = store.version();
        drop(state);
        let report = FoldReport::default();
        Self { store, now, version, next, trials, written: Vec::new(), report }
    }

    fn run(&mut self, limits: FoldLimits) -> Result<FoldReport, FoldError> {
        self.drop_expired();
        let version = Arc::clone(&self.version);
        let layers = self.pick(&version, limits.layers_max);
        if !layers.is_empty() && layers.len() >= limits.layers_min {
            self.fold_layers(&layers)?;
        }
        self.compact()?;
        if !self.report.switched() {
            return Ok(self.report);
        }
        self.next.folded_at = self.now;
        self.publish()?;
        let listed: HashSet<ChunkKey> = self.next.chunks.iter().map(|chunk| chunk.key).collect();
        self.trials.added.retain(|key, _| listed.contains(key));
        for layer in layers {
            self.trials.damaged.remove(&layer.sealed.path);
            self.trials.refused.remove(&layer.sealed.path);
        }
        Ok(self.report)
    }

    /// Per shard the first layers, up to one that cannot be folded now, the lowest numbers
    /// first; so many that one fold stays short.
    fn pick(&mut self, version: &Version, layers_max: usize) -> Vec<Arc<AdoptedLayer>> {
        let mut blocked = HashSet::new();
        let mut ready: Vec<&Arc<AdoptedLayer>> = Vec::new();
        // Ascending by partition, then by number.
        for layer in &version.layers {
            let waits = self.trials.is_to_wait(&layer.sealed.path, self.now);
            if waits || !layer.can_be_folded() {
                blocked.insert(layer.sealed.partition);
            }
            if !blocked.contains(&layer.sealed.partition) {
                ready.push(layer);
            }
        }
        ready.sort_by_key(|layer| (layer.sealed.layer, layer.sealed.partition));
        let mut left = self.store.settings.fold_file_bytes_max;
        let mut taken = Vec::new();
        for layer in &ready {
            let bytes = layer.file.as_ref().map_or(0, LayerFile::bytes);
            let full = taken.len() >= layers_max.min(self.store.settings.fold_layers_max);
            if full || (bytes > left && !taken.is_empty()) {
                break;
            }
            left = left.saturating_sub(bytes);
            taken.push(Arc::clone(layer));
        }
        self.report.waiting = ready.len() - taken.len();
        taken
    }

    fn publish(&mut self) -> Result<(), FoldError> {
        let disk = &*self.store.shelf.disk;
        let io = |source| FoldError::Io { path: CHUNKS.to_owned(), source };
        disk.sync_dir(CHUNKS).map_err(io)?;
        // Before the switch, so that no reader waits for it. Files whose manifest fails are in
        // the cache then; publishing spends their number first, so no other file is named so.
        let shelf = &self.store.shelf;
        let next = Base::new(&self.next, &self.version.base, shelf);
        next.warm(&self.version.base, &shelf.cache);
        reach("fold-before-manifest");
        let mut state = self.store.state.lock();
        state.manifests.publish(disk, &self.next).map_err(io)?;
        reach("fold-after-manifest");
        self.store.switch(&mut state, self.next.clone());
        self.store.sweep(&mut state);
        drop(state);
        Ok(())
    }

    /// Removes what a failed fold has written, so that a full disk has room again.
    fn discard(&self) {
        // The manifest may be on the disk although publishing failed: leave the files to the
        // next sweep then, which removes such a manifest first.
        let state = self.store.state.lock();
        let unpublished = state.manifests.next <= self.next.number;
        drop(state);
        for name in self.written.iter().filter(|_| unpublished) {
            let removed = self.store.shelf.disk.remove(&format!("{CHUNKS}/{name}"));
            if let Err(error) = removed {
                tracing::debug!(file = name, %error, "left to the next sweep");
            }
        }
    }

    fn written_from(&self, granularity: Granularity) -> EventTime {
        self.store.settings.retention.written_from(granularity, self.now)
    }

    /// Takes chunks and damage off the list that are past their retention, for good: were it
    /// longer one day, their windows would not be whole.
    fn drop_expired(&mut self) {
        let from = Granularity::ALL.map(|granularity| self.written_from(granularity));
        let old_chunk = |chunk: &mut ChunkMeta| chunk.last < from[chunk.key.granularity as usize];
        let old_damage = |damage: &mut Damage| damage.end <= from[damage.granularity as usize];
        let chunks: Vec<_> = self.next.chunks.extract_if(.., old_chunk).collect();
        let damage: Vec<_> = self.next.damage.extract_if(.., old_damage).collect();
        self.report.chunks_dropped = chunks.len();
        for chunk in &chunks {
            let granularity = chunk.key.granularity;
            self.next.dropped.add(granularity, chunk.windows(), from[granularity as usize]);
        }
        for Damage { granularity, start, end, .. } in damage {
            let windows = TimeRange { start, end };
            self.next.dropped.add(granularity, windows, from[granularity as usize]);
        }
    }

    fn fold_layers(&mut self, layers: &[Arc<AdoptedLayer>]) -> Result<(), FoldError> {
        let mut by_plan: BTreeMap<u64, Vec<&AdoptedLayer>> = BTreeMap::new();
        for layer in layers {
            by_plan.entry(layer.sealed.plan.get()).or_default().push(layer);
            self.next.cuts.insert(layer.sealed.partition.get(), layer.sealed.layer.get());
        }
        for layer in layers {
            self.give_up_unopened(layer)?;
        }
        for layers in by_plan.values() {
            let Some(sets) = self.sets_of(layers)? else { continue };
            for granularity in Granularity::ALL {
                let touched = self.touched(layers, granularity);
                for spans in groups(&touched, granularity) {
                    self.write_chunks(&sets, granularity, spans, layers)?;
                }
            }
        }
        self.report.layers = layers.len();
        Ok(())
    }

    /// The sets and slots that layers of one plan hold, as far as a known plan reads them.
    fn sets_of<'l>(&self, layers: &[&'l AdoptedLayer]) -> Result<Option<Sets>, FoldError> {
        let opened = |layer: &&'l AdoptedLayer| layer.file.as_ref().ok().map(|file| (*layer, file));
        let Some((first, file)) = layers.iter().find_map(opened) else { return Ok(None) };
        let plan = (self.store.plans)(first.sealed.plan);
        let plan = plan.unwrap_or_else(|| Arc::clone(&self.store.plan));
        Sets::new(plan, |request| file.coverage(request).missing).map(Some)
    }

    /// By span the windows that layers touch and that are still written; the others are dropped.
    fn touched(&mut self, layers: &[&AdoptedLayer], granularity: Granularity) -> Vec<TimeRange> {
        let from = self.written_from(granularity);
        let mut spans: BTreeMap<EventTime, TimeRange> = BTreeMap::new();
        let mut too_old: BTreeMap<EventTime, TimeRange> = BTreeMap::new();
        for file in layers.iter().filter_map(|layer| layer.file.as_ref().ok()) {
            let minutes = [SetKind::Events, SetKind::Sessions].map(|kind| file.minutes(kind));
            for minute in minutes.into_iter().flatten() {
                let start = minute.window_start(granularity);
                let window = TimeRange { start, end: start.plus_ms(granularity.ms()) };
                let spans = if start < from { &mut too_old } else { &mut spans };
                let span = spans.entry(span_of(granularity, start).start).or_insert(window);
                *span = union(*span, window);
            }
        }
        for windows in too_old.into_values() {
            self.next.dropped.add(granularity, windows, from);
        }
        spans.into_values().collect()
    }

    /// Writes the cells of neighbouring spans and puts the files in place of those merged into
    /// them.
    fn write_chunks(
        &mut self,
        sets: &Sets,
        granularity: Granularity,
        spans: &[TimeRange],
        layers: &[&AdoptedLayer],
    ) -> Result<(), FoldError> {
        let files = || layers.iter().filter_map(|layer| layer.file.as_ref().ok());
        let most = files().map(|file| file.cells_at(granularity) as u64).sum();
        loop {
            let strand = |&touched: &TimeRange| {
                let start = span_of(granularity, touched.start).start;
                let key = ChunkKey { granularity, start, schema: sets.hash };
                self.strand(key, touched, self.tail_to_merge(key, most))
            };
            let strands = spans.iter().map(strand).collect();
            // Where a chunk did not read it stays as it is, and its windows read as damaged.
            if self.try_chunks(sets, granularity, strands, layers)? {
                return Ok(());
            }
        }
    }

    fn strand(&self, key: ChunkKey, touched: TimeRange, merged: Vec<Arc<Chunk>>) -> Strand {
        let written_from = self.written_from(key.granularity);
        let mut range = merged.iter().fold(touched, |all, one| union(all, one.meta.windows()));
        range.start = range.start.max(written_from);
        Strand { key, merged, range }
    }

    /// The files at the end of a key's run that have not many more cells than is added, which
    /// is `most` at most.
    fn tail_to_merge(&self, key: ChunkKey, most: u64) -> Vec<Arc<Chunk>> {
        let run: Vec<_> = self.run_of(key);
        let added = match (self.trials.added.get(&key), run.as_slice()) {
            (Some(&added), _) => added,
            // Nothing is known since the start: the last file of several is one of the small.
            (None, [_, .., last]) => last.meta.cells,
            (None, _) => 0,
        };
        let mut cells = added.min(most);
        let mut tail = Vec::new();
        for chunk in run.into_iter().rev() {
            if chunk.meta.cells >= SIZE_RATIO.saturating_mul(cells) || chunk.is_unreadable() {
                break;
            }
            cells += chunk.meta.cells;
            tail.push(chunk);
        }
        tail
    }

    /// The readable handles of a key's files that the next manifest lists, oldest first.
    fn run_of(&self, key: ChunkKey) -> Vec<Arc<Chunk>> {
        let listed = |chunk: &&Arc<Chunk>| {
            chunk.meta.key == key
                && self.next.chunks.iter().any(|meta| meta.file == chunk.meta.file)
        };
        self.version.base.all().filter(listed).cloned().collect()
    }

    fn replace(&mut self, merged: &[Arc<Chunk>], meta: Option<ChunkMeta>) {
        let gone = |own: &ChunkMeta| merged.iter().any(|chunk| chunk.meta.file == own.file);
        self.next.chunks.retain(|own| !gone(own));
        for chunk in merged {
            // What of it was too old to be written again.
            let (granularity, windows) = (chunk.meta.key.granularity, chunk.meta.windows());
            let from = self.written_from(granularity);
            let gone = TimeRange { end: windows.end.min(from), ..windows };
            self.next.dropped.add(granularity, gone, from);
        }
        self.report.chunks_merged += merged.len();
        if let Some(meta) = meta {
            self.report.chunks_written += 1;
            self.report.cells += meta.cells;
            self.report.bytes += meta.bytes;
            self.next.chunks.push(meta);
        }
    }

    /// One try; false where one of the older chunks turned out to be unreadable.
    fn try_chunks(
        &mut self,
        sets: &Sets,
        granularity: Granularity,
        strands: Vec<Strand>,
        layers: &[&AdoptedLayer],
    ) -> Result<bool, FoldError> {
        let number = self.next.number;
        let written = &mut self.written;
        let mut weave = Weave::begin(&*self.store.shelf.disk, strands, &mut || {
            let name = format!("{number:020}-{:05}", written.len());
            written.push(name.clone());
            name
        })?;
        let files = layers.iter().filter_map(|layer| layer.file.as_ref().ok());
        let mut sources: Vec<FoldSource<'_>> = files.map(|file| FoldSource::Layer(file)).collect();
        let chunks = weave.merged().map(|chunk| ChunkSource(Arc::clone(chunk)));
        sources.extend(chunks.map(FoldSource::Chunk));
        let range = weave.range();
        for (set, schema) in &sets.sets {
            weave.begin_set(schema)?;
            let request = ScanRequest::new(Arc::clone(&sets.plan), *set, granularity, range);
            match merge(&request, &sources, self.store.settings.fold_bytes_max, &mut weave)? {
                Merged::All => {}
                Merged::ChunkDamaged => return Ok(false),
                Merged::Lost(lost) => self.note_lost(lost, granularity)?,
                Merged::Torn(file, reason) => {
                    let tries = self.trials.refuse(&file, self.now);
                    return Err(FoldError::Refused { file, reason, tries });
                }
            }
        }
        for Woven { merged, key, added, meta } in weave.finish(self.now)? {
            if !layers.is_empty() {
                self.trials.added.insert(key, added);
            }
            self.replace(&merged, meta);
        }
        Ok(true)
    }

    /// Gives up every window that a layer may hold whose file does not open.
    fn give_up_unopened(&mut self, layer: &AdoptedLayer) -> Result<(), FoldError> {
        let Err(unopened) = &layer.file else { return Ok(()) };
        self.strike(&layer.sealed.path, &unopened.reason)?;
        for granularity in Granularity::ALL {
            for windows in layer.windows() {
                self.give_up(&layer.sealed.path, granularity, windows.outward(granularity));
            }
        }
        Ok(())
    }

    /// Gives windows up, but only where the bytes are surely damaged, and only once several
    /// folds have found them so.
    fn note_lost(
        &mut self,
        lost: Vec<(String, String, TimeRange)>,
        granularity: Granularity,
    ) -> Result<(), FoldError> {
        for (file, reason, windows) in lost {
            if !is_damaged(&self.store.shelf.disk, &file) {
                let tries = self.trials.refuse(&file, self.now);
                return Err(FoldError::Refused { file, reason, tries });
            }
            self.strike(&file, &reason)?;
            self.give_up(&file, granularity, windows);
        }
        Ok(())
    }

    fn strike(&mut self, file: &str, reason: &str) -> Result<(), FoldError> {
        let tries = self.trials.damaged.entry(file.to_owned()).or_default();
        if *tries < STRIKES_MAX {
            *tries += 1;
            let (file, reason) = (file.to_owned(), reason.to_owned());
            return Err(FoldError::Layer { file, reason, tries: *tries });
        }
        Ok(())
    }

    fn give_up(&mut self, file: &str, granularity: Granularity, windows: TimeRange) {
        tracing::error!(file, %granularity, from = %windows.start, "corrupt cells are lost");
        let TimeRange { start, end } = windows;
        let damage = Damage { file: file.to_owned(), granularity, start, end };
        if !self.next.damage.contains(&damage) {
            self.next.damage.push(damage);
            self.report.windows_lost += 1;
        }
    }

    /// Makes runs of files one where their span is over, nothing has come for a while, and the
    /// largest is not much larger than the others.
    fn compact(&mut self) -> Result<(), FoldError> {
        let all = Sets::new(Arc::clone(&self.store.plan), |_| SlotMask::NONE)?;
        let mut runs: BTreeMap<ChunkKey, Vec<&ChunkMeta>> = BTreeMap::new();
        for meta in &self.next.chunks {
            runs.entry(meta.key).or_default().push(meta);
        }
        let now = self.now.as_event_time();
        let settled = |(key, run): &(&ChunkKey, &Vec<&ChunkMeta>)| {
            let over = now.since(span_of(key.granularity, key.start).end) > SETTLED_MS;
            let quiet = |meta: &&ChunkMeta| self.now.since(meta.made_at) > QUIET_MS;
            let due = run.len() > 1 && over && run.iter().all(quiet) && key.schema == all.hash;
            due && is_worth_it(run)
        };
        let keys: Vec<ChunkKey> =
            runs.iter().filter(settled).map(|(key, _)| *key).take(COMPACTIONS_MAX).collect();
        let before = self.report.bytes;
        for key in keys {
            if self.report.bytes - before > COMPACTED_BYTES {
                break;
            }
            let run = self.run_of(key);
            let Some(first) = run.first().map(|chunk| chunk.meta.windows()) else { continue };
            if run.iter().any(|chunk| chunk.is_unreadable()) {
                continue;
            }
            let strand = self.strand(key, first, run);
            self.try_chunks(&all, key.granularity, vec![strand], &[])?;
        }
        Ok(())
    }
}

/// A large file is not written again to take in a small one: it costs seconds of a core and
/// saves readers one block.
fn is_worth_it(run: &[&ChunkMeta]) -> bool {
    let bytes: u64 = run.iter().map(|chunk| chunk.bytes).sum();
    let largest = run.iter().map(|chunk| chunk.bytes).max().unwrap_or_default();
    bytes <= COMPACTED_BYTES || largest < SIZE_RATIO * (bytes - largest)
}

/// Whether the bytes of a layer's file are wrong: read whole into memory, where no disk can
/// refuse any more. A disk that refuses says nothing of them.
fn is_damaged(disk: &Arc<dyn Disk>, path: &str) -> bool {
    let bytes = match disk.read(path) {
        Ok(bytes) => bytes,
        Err(error) => return error.kind() == io::ErrorKind::NotFound,
    };
    let copy = InMemory(bytes.into());
    match LayerFile::open(&copy, path) {
        Ok(file) => file.verify().is_err(),
        // Of a later release: its bytes may be good.
        Err(LayerFileError::TooNew { .. }) => false,
        Err(LayerFileError::Damaged { .. } | LayerFileError::Io { .. }) => true,
    }
}

/// Spans that are near enough to be written side by side.
fn groups(spans: &[TimeRange], granularity: Granularity) -> impl Iterator<Item = &[TimeRange]> {
    let width_ms = SIDE_BY_SIDE_MAX * span_ms(granularity);
    let mut rest = spans;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let near = rest.partition_point(|span| span.start.since(first.start) < width_ms);
        let (group, after) = rest.split_at(near.max(1));
        rest = after;
        Some(group)
    })
}

fn union(one: TimeRange, two: TimeRange) -> TimeRange {
    TimeRange { start: one.start.min(two.start), end: one.end.max(two.end) }
}
