//! A day's cells taken from another store: those of a replay without a key's events.
//!
//! Chunks that meet the day are written once more, with the other store's cells in the day's
//! windows and their own in all others. Nothing is switched in: the manifest is handed out, to
//! become the newest together with those of the shards.

use std::collections::BTreeMap;
use std::sync::Arc;

use nilometer_event::{Granularity, ReceiveTime, TimeRange};
use nilometer_stream::aggregate::SlotMask;
use nilometer_stream::cells::{CellRef, CellSource, CellsDamaged, Coverage, ScanRequest};
use nilometer_stream::declare::{Plan, SetKind};

use super::{Fold, FoldSource, union};
use crate::base::{Chunk, ChunkSource};
use crate::dropped::count;
use crate::embedded::EmbeddedStore;
use crate::error::{FoldError, ReplaceError};
use crate::manifest::{CHUNKS, ChunkKey, MANIFESTS};
use crate::merge::{Merged, merge};
use crate::retention::span_of;
use crate::sets::Sets;
use crate::weave::{Strand, Weave, Woven};

/// A base with a day's cells replaced, ready to become the newest.
#[derive(Clone, Debug)]
pub struct Replaced {
    /// The manifest's path and content.
    pub manifest: (String, Vec<u8>),
    /// Manifests that go with it: who went back to one would have the day as it was.
    pub removes: Vec<String>,
    /// Chunks written.
    pub chunks: usize,
}

impl EmbeddedStore {
    /// Events of a UTC day that the base has counted.
    ///
    /// # Errors
    ///
    /// [`ReplaceError::Unreadable`].
    pub fn events_on(&self, day: TimeRange) -> Result<i64, ReplaceError> {
        let slot = (SetKind::Events, "events");
        let counted = count(&self.version().base, &self.plan, slot, Granularity::Day, day);
        counted.ok_or(ReplaceError::Unreadable)
    }

    /// Writes what the base is with the cells of `day` (one UTC day) that `with` has, beside the
    /// files in use. Both have folded every layer; `plans` are those by which any of it counted.
    ///
    /// # Errors
    ///
    /// [`ReplaceError`]; what was written is removed with the next opening.
    pub fn replaced(
        &self,
        day: TimeRange,
        with: &Self,
        plans: &[Arc<Plan>],
        now: ReceiveTime,
    ) -> Result<Replaced, ReplaceError> {
        let mut trials = self.folding.lock();
        let waiting = self.version().layers.len() + with.version().layers.len();
        if waiting > 0 {
            return Err(ReplaceError::Waiting { layers: waiting });
        }
        let mut fold = Fold::begin(self, now, &mut trials);
        match fold.replace_day(day, with, plans) {
            Ok((manifest, removes)) => {
                Ok(Replaced { manifest, removes, chunks: fold.report.chunks_written })
            }
            Err(error) => {
                fold.discard();
                Err(error)
            }
        }
    }
}

/// A manifest's path and content, and the manifests that go with it.
type Written = ((String, Vec<u8>), Vec<String>);

impl Fold<'_> {
    fn replace_day(
        &mut self,
        day: TimeRange,
        with: &EmbeddedStore,
        plans: &[Arc<Plan>],
    ) -> Result<Written, ReplaceError> {
        self.drop_expired();
        let mut keys: BTreeMap<ChunkKey, [Vec<Arc<Chunk>>; 2]> = BTreeMap::new();
        let versions = [Arc::clone(&self.version), with.version()];
        for (place, version) in versions.iter().enumerate() {
            let listed = |chunk: &&Arc<Chunk>| {
                place == 1 || self.next.chunks.iter().any(|meta| meta.file == chunk.meta.file)
            };
            for chunk in version.base.all().filter(listed).filter(|chunk| meets(chunk, day)) {
                keys.entry(chunk.meta.key).or_default()[place].push(Arc::clone(chunk));
            }
        }
        for (key, [own, others]) in keys {
            let sets = sets_of(key, plans)?;
            self.replace_in(&sets, (key, day), &own, &others)?;
        }
        self.next.damage.retain(|lost| !(day.start <= lost.start && lost.end <= day.end));
        self.next.folded_at = self.now;
        let disk = &*self.store.shelf.disk;
        let io = |source| FoldError::Io { path: CHUNKS.to_owned(), source };
        disk.sync_dir(CHUNKS).map_err(io)?;
        let manifest = self.next.to_file().map_err(io)?;
        let names = disk.list(MANIFESTS).map_err(io)?;
        let removes = names.iter().map(|name| format!("{MANIFESTS}/{name}"));
        let removes = removes.filter(|path| *path != manifest.0).collect();
        Ok((manifest, removes))
    }

    /// Writes the chunks of one key that meet the day as one.
    fn replace_in(
        &mut self,
        sets: &Sets,
        (key, day): (ChunkKey, TimeRange),
        own: &[Arc<Chunk>],
        others: &[Arc<Chunk>],
    ) -> Result<(), ReplaceError> {
        let windows = own.iter().map(|chunk| chunk.meta.windows());
        let all = windows.chain((!others.is_empty()).then_some(day)).reduce(union);
        let (Some(all), span) = (all, span_of(key.granularity, key.start)) else { return Ok(()) };
        let from = self.written_from(key.granularity).max(span.start);
        let range = TimeRange { start: all.start.max(from), end: all.end.min(span.end) };
        if range.end <= range.start {
            return Ok(());
        }
        let part = |of_day: bool| {
            move |chunk: &Arc<Chunk>| Part { chunk: ChunkSource(Arc::clone(chunk)), day, of_day }
        };
        let parts: Vec<Part> =
            own.iter().map(part(false)).chain(others.iter().map(part(true))).collect();
        // As layers: of a chunk that does not read nobody writes what is left.
        let sources: Vec<FoldSource<'_>> =
            parts.iter().map(|part| FoldSource::Layer(part)).collect();
        let number = self.next.number;
        let written = &mut self.written;
        let strand = Strand { key, merged: own.to_vec(), range };
        let mut weave = Weave::begin(&*self.store.shelf.disk, vec![strand], &mut || {
            let name = format!("{number:020}-{:05}", written.len());
            written.push(name.clone());
            name
        })?;
        for (set, schema) in &sets.sets {
            weave.begin_set(schema)?;
            let request = ScanRequest::new(Arc::clone(&sets.plan), *set, key.granularity, range);
            match merge(&request, &sources, self.store.settings.fold_bytes_max, &mut weave)? {
                Merged::All => {}
                _ => return Err(ReplaceError::Unreadable),
            }
        }
        for Woven { merged, meta, .. } in weave.finish(self.now)? {
            self.replace(&merged, meta);
        }
        Ok(())
    }
}

fn meets(chunk: &Chunk, day: TimeRange) -> bool {
    let windows = chunk.meta.windows();
    windows.start < day.end && day.start < windows.end
}

/// The sets that the chunks of a key hold.
fn sets_of(key: ChunkKey, plans: &[Arc<Plan>]) -> Result<Sets, ReplaceError> {
    for plan in plans {
        let sets = Sets::new(Arc::clone(plan), |_| SlotMask::NONE)?;
        if sets.hash == key.schema {
            return Ok(sets);
        }
    }
    Err(ReplaceError::Plan)
}

/// Of a chunk the windows of a day, or all others.
#[derive(Debug)]
struct Part {
    chunk: ChunkSource,
    day: TimeRange,
    of_day: bool,
}

impl Part {
    fn ranges(&self, range: TimeRange) -> impl Iterator<Item = TimeRange> {
        let cut = |start: nilometer_event::EventTime, end| TimeRange {
            start: range.start.max(start),
            end: range.end.min(end),
        };
        let TimeRange { start, end } = self.day;
        let ranges = match self.of_day {
            true => [cut(start, end), cut(end, start)],
            false => [cut(range.start, start), cut(end, range.end)],
        };
        ranges.into_iter().filter(|range| range.start < range.end)
    }
}

impl CellSource for Part {
    fn scan(
        &self,
        request: &ScanRequest,
        visit: &mut dyn FnMut(CellRef<'_>),
    ) -> Result<(), CellsDamaged> {
        for range in self.ranges(request.outward()) {
            self.chunk.scan(&ScanRequest { range, ..request.clone() }, visit)?;
        }
        Ok(())
    }

    fn coverage(&self, request: &ScanRequest) -> Coverage {
        self.chunk.coverage(request)
    }
}
