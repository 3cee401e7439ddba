//! The folded part of a version: chunks by granularity and span, read through the cache.

mod block;
mod source;
pub(crate) use block::OpenBlock;
pub(crate) use source::ChunkSource;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hashbrown::{HashMap, HashSet};
use nilometer_event::{EventTime, Granularity, TimeRange};
use nilometer_log::disk::Disk;
use nilometer_stream::cells::{CellsDamaged, Coverage, ScanRequest};

use crate::cache::{Cache, CacheKey, Cached};
use crate::chunk::{BlockMeta, ChunkDamaged, Footer, Part, Section, load_footer, load_part};
use crate::embedded::Checked;
use crate::gather::Gather;
use crate::manifest::{ChunkKey, ChunkMeta, Damage, Manifest};
use crate::port::DamagedWindows;
use crate::project::Projection;
use crate::retention::span_of;

/// Where chunks are read from.
#[derive(Debug)]
pub(crate) struct Shelf {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) cache: Arc<Cache>,
    /// Cells of chunks that were found damaged.
    pub(crate) quarantined_cells: AtomicU64,
}

/// The chunks of one manifest.
#[derive(Debug, Default)]
pub(crate) struct Base {
    chunks: BTreeMap<(Granularity, EventTime), Vec<Arc<Chunk>>>,
    damage: Vec<Damage>,
}

impl Base {
    /// The chunks that a manifest lists; those that `before` holds are shared with it.
    pub(crate) fn new(manifest: &Manifest, before: &Self, shelf: &Arc<Shelf>) -> Self {
        let known: BTreeMap<&str, &Arc<Chunk>> =
            before.all().map(|chunk| (chunk.meta.file.as_str(), chunk)).collect();
        let mut chunks: BTreeMap<_, Vec<Arc<Chunk>>> = BTreeMap::new();
        for meta in &manifest.chunks {
            let chunk = known
                .get(meta.file.as_str())
                .filter(|chunk| chunk.meta == *meta)
                .map_or_else(|| Arc::new(Chunk::new(meta, shelf)), |chunk| Arc::clone(chunk));
            chunks.entry((meta.key.granularity, meta.key.start)).or_default().push(chunk);
        }
        Self { chunks, damage: manifest.damage.clone() }
    }

    /// Windows that have lost cells for good.
    pub(crate) fn damaged(&self) -> Vec<DamagedWindows> {
        let named = |damage: &Damage| DamagedWindows {
            file: damage.file.clone(),
            windows: TimeRange { start: damage.start, end: damage.end },
        };
        self.damage.iter().map(named).collect()
    }

    /// Every chunk, by granularity and span, then in the order in which they were made.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Chunk>> {
        self.chunks.values().flatten()
    }

    /// Chunks of a granularity whose span meets `range`.
    pub(crate) fn meeting(
        &self,
        granularity: Granularity,
        range: TimeRange,
    ) -> impl Iterator<Item = &Arc<Chunk>> {
        let first = span_of(granularity, range.start).start;
        let spans = (first < range.end)
            .then(|| self.chunks.range((granularity, first)..(granularity, range.end)));
        spans.into_iter().flatten().flat_map(|(_, chunks)| chunks)
    }

    /// Reads what this base has new in place of `before`, as far as readers of `before` have its
    /// like in the cache: once it is switched in nobody waits for the disk who did not before.
    pub(crate) fn warm(&self, before: &Self, cache: &Cache) {
        let old: HashMap<&str, &Arc<Chunk>> =
            before.all().map(|chunk| (chunk.meta.file.as_str(), chunk)).collect();
        let new: Vec<&Arc<Chunk>> =
            self.all().filter(|chunk| !old.contains_key(chunk.meta.file.as_str())).collect();
        let keys: HashSet<ChunkKey> = new.iter().map(|chunk| chunk.meta.key).collect();
        let names = old.iter().filter(|(_, chunk)| keys.contains(&chunk.meta.key));
        let mut wanted: HashSet<(ChunkKey, u32, Section)> = HashSet::new();
        for (name, block, section) in cache.parts_of(&names.map(|(name, _)| *name).collect()) {
            // Chunks of one key have the same sets in the same order.
            let Some(chunk) = old.get(&*name) else { continue };
            let Ok(footer) = chunk.footer() else { continue };
            if let Some(block) = footer.blocks.get(block as usize) {
                wanted.insert((chunk.meta.key, block.set, section));
            }
        }
        for chunk in new {
            let Ok(footer) = chunk.footer() else { continue };
            let places = (0..).zip(&footer.blocks);
            let parts = places.flat_map(|(place, block)| {
                Section::ALL.map(|section| (place, (chunk.meta.key, block.set, section)))
            });
            for (place, (.., section)) in parts.filter(|(_, part)| wanted.contains(part)) {
                // Whoever reads it next meets the damage and says so.
                let _read = chunk.part(&footer, place, section, Reader::Query);
            }
        }
    }

    /// Shows what the base holds of one tile; the tile's granularity is a stored one.
    pub(crate) fn gather(&self, tile: &ScanRequest, gather: &mut Gather) {
        self.note_damage(tile, gather);
        for chunk in self.meeting(tile.granularity, tile.outward()) {
            if let Err(damaged) = chunk.gather(tile, gather) {
                gather.note_damage(damaged);
            }
        }
    }

    /// Notes what has been lost of one tile for good.
    pub(crate) fn note_damage(&self, tile: &ScanRequest, gather: &mut Gather) {
        let range = tile.outward();
        for damage in &self.damage {
            let same = damage.granularity == tile.granularity;
            if same && damage.start < range.end && range.start < damage.end {
                gather.note_damage(CellsDamaged {
                    file: damage.file.clone(),
                    windows: TimeRange { start: damage.start, end: damage.end },
                    reason: "lost before it was folded".to_owned(),
                });
            }
        }
    }
}

/// Who reads: a fold reads each block once, and leaves the cache to those who come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    Query,
    Fold,
}

/// One chunk file of a version; its footer and blocks are read when needed.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) meta: ChunkMeta,
    name: Arc<str>,
    shelf: Arc<Shelf>,
    /// Bytes of it were read that are wrong.
    damaged: AtomicBool,
    /// The disk refused a read, and the file was not checked since.
    refused: AtomicBool,
}

impl Chunk {
    pub(crate) fn new(meta: &ChunkMeta, shelf: &Arc<Shelf>) -> Self {
        Self {
            meta: meta.clone(),
            name: meta.file.as_str().into(),
            shelf: Arc::clone(shelf),
            damaged: AtomicBool::new(false),
            refused: AtomicBool::new(false),
        }
    }

    /// Whether bytes of it were read that are wrong.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Whether the disk refused a read, so that [`Chunk::verify`] is to try again.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether a read has failed: a fold leaves the file as it is then.
    pub(crate) fn is_unreadable(&self) -> bool {
        self.is_damaged() || self.is_refused()
    }

    /// Where the parts lie.
    pub(crate) fn footer(&self) -> Result<Arc<Footer>, CellsDamaged> {
        let key = CacheKey::Footer(Arc::clone(&self.name));
        if let Some(Cached::Footer(footer)) = self.shelf.cache.get(&key) {
            return Ok(footer);
        }
        let footer = load_footer(&*self.shelf.disk, &self.meta)
            .map_err(|damaged| self.damaged(self.meta.windows(), &damaged))?;
        let footer = Arc::new(footer);
        self.shelf.cache.put(key, Cached::Footer(Arc::clone(&footer)));
        Ok(footer)
    }

    fn part(
        &self,
        footer: &Footer,
        place: u32,
        section: Section,
        reader: Reader,
    ) -> Result<Arc<Part>, CellsDamaged> {
        let key = CacheKey::Part(Arc::clone(&self.name), place, section);
        if let Some(Cached::Part(part)) = self.shelf.cache.get(&key) {
            return Ok(part);
        }
        let missing = ChunkDamaged::Form("a block is missing");
        let found = footer.blocks.get(place as usize);
        let Some(block) = found else { return Err(self.damaged(self.meta.windows(), &missing)) };
        let Some(set) = footer.sets.get(block.set as usize) else {
            return Err(self.damaged(self.meta.windows(), &missing));
        };
        let part = load_part(&*self.shelf.disk, &self.meta, set, block, section)
            .map_err(|damaged| self.damaged(self.windows_of(block), &damaged))?;
        let part = Arc::new(part);
        if reader == Reader::Query {
            self.shelf.cache.put(key, Cached::Part(Arc::clone(&part)));
        }
        Ok(part)
    }

    const fn windows_of(&self, block: &BlockMeta) -> TimeRange {
        TimeRange { start: block.first, end: block.last.plus_ms(self.meta.key.granularity.ms()) }
    }

    fn damaged(&self, windows: TimeRange, reason: &ChunkDamaged) -> CellsDamaged {
        let file = self.meta.path();
        if reason.is_refused() {
            if !self.refused.swap(true, Ordering::Relaxed) {
                tracing::warn!(file, %reason, "not checked: the disk refuses it, it is tried again");
            }
        } else if !self.damaged.swap(true, Ordering::Relaxed) {
            let cells = self.meta.cells;
            self.shelf.quarantined_cells.fetch_add(cells, Ordering::Relaxed);
            tracing::error!(file, %reason, cells, "corrupt chunk: some of its cells cannot be read");
        }
        CellsDamaged { file: self.meta.path(), windows, reason: reason.to_string() }
    }

    /// Reads all of it past the cache.
    pub(crate) fn verify(&self) -> Checked {
        let disk = &*self.shelf.disk;
        let all = load_footer(disk, &self.meta).and_then(|footer| {
            for block in &footer.blocks {
                let set = &footer.sets[block.set as usize];
                for section in Section::ALL {
                    load_part(disk, &self.meta, set, block, section)?;
                }
            }
            Ok(())
        });
        let checked = match &all {
            Ok(()) => Checked::Good,
            Err(reason) if reason.is_refused() => Checked::Refused,
            Err(_) => Checked::Damaged,
        };
        match all {
            Ok(()) => self.damaged.store(false, Ordering::Relaxed),
            Err(reason) => drop(self.damaged(self.meta.windows(), &reason)),
        }
        self.refused.store(checked == Checked::Refused, Ordering::Relaxed);
        checked
    }

    /// The blocks of a set that meet `range`, with their place.
    pub(crate) fn blocks(
        footer: &Footer,
        set: usize,
        range: TimeRange,
    ) -> impl Iterator<Item = (u32, &BlockMeta)> {
        // By set, then by window: a chunk of an hour's cells has thousands of blocks.
        let blocks = &footer.blocks;
        let first =
            blocks.partition_point(|block| (block.set as usize, block.last) < (set, range.start));
        let own = move |block: &&BlockMeta| block.set as usize == set && block.first < range.end;
        let places = u32::try_from(first).unwrap_or(u32::MAX)..;
        let rest = blocks.get(first..).unwrap_or_default();
        places.zip(rest.iter().take_while(own))
    }

    /// Shows what the chunk holds of one tile; a damaged block is noted and passed over.
    fn gather(
        self: &Arc<Self>,
        tile: &ScanRequest,
        gather: &mut Gather,
    ) -> Result<(), CellsDamaged> {
        let (footer, projection) = self.projected(tile, gather)?;
        let projection = Arc::new(projection);
        let Some(set) = projection.set else { return Ok(()) };
        let range = tile.outward();
        for (place, _) in Self::blocks(&footer, set, range) {
            if gather.is_over() {
                break;
            }
            let block = OpenBlock::new(self, &footer, place, &projection, Reader::Query);
            if let Err(damaged) = block.gather(tile, range, gather) {
                gather.note_damage(damaged);
            }
        }
        Ok(())
    }

    /// How its cells are read for one tile; notes what they cannot say.
    pub(crate) fn projected(
        &self,
        tile: &ScanRequest,
        gather: &mut Gather,
    ) -> Result<(Arc<Footer>, Projection), CellsDamaged> {
        let footer = self.footer()?;
        let projection = Projection::new(&footer, tile);
        let coverage = self.coverage_of(&footer, &projection, tile)?;
        gather.note_filling(coverage.missing, coverage.filling);
        Ok((footer, projection))
    }

    fn coverage_of(
        &self,
        footer: &Arc<Footer>,
        projection: &Projection,
        tile: &ScanRequest,
    ) -> Result<Coverage, CellsDamaged> {
        if projection.missing.is_empty() {
            return Ok(Coverage::default());
        }
        let range = tile.outward();
        let sessions = tile.plan.set(tile.set).kind == nilometer_stream::declare::SetKind::Sessions;
        // The coarsest set of the kind has a cell in every window that any of them has.
        let coarsest = footer
            .sets
            .iter()
            .enumerate()
            .filter(|(_, set)| set.sessions == sessions)
            .min_by_key(|(_, set)| set.dims.len());
        let mut filling = Vec::new();
        let Some((set, _)) = coarsest else { return Ok(Coverage::default()) };
        for (place, _) in Self::blocks(footer, set, range) {
            let part = self.part(footer, place, Section::Keys, Reader::Query)?;
            let Part::Keys(keys) = &*part else {
                let another = ChunkDamaged::Form("a section is another's");
                return Err(self.damaged(self.meta.windows(), &another));
            };
            let windows = keys.windows.iter().map(|(window, _)| *window);
            filling.extend(windows.filter(|window| range.contains(*window)));
        }
        filling.iter_mut().for_each(|window| *window = window.window_start(tile.granularity));
        filling.sort_unstable();
        filling.dedup();
        Ok(Coverage { missing: projection.missing, filling })
    }
}
