//! Decoded sections of chunks, the least recently read dropped first, bounded in bytes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hashbrown::HashSet;
use nilometer_stream::cells::{BlockPlace, LayerBlock};
use parking_lot::Mutex;

use crate::chunk::{Footer, Part, Section};

/// What one entry is: a chunk's footer, a section of one of its blocks, or a block of a layer.
/// Chunks and layers are named by their file, which never changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CacheKey {
    Footer(Arc<str>),
    Part(Arc<str>, u32, Section),
    Layer(Arc<str>, BlockPlace),
}

/// A decoded thing, shared with those who read it now.
#[derive(Clone, Debug)]
pub(crate) enum Cached {
    Footer(Arc<Footer>),
    Part(Arc<Part>),
    Layer(Arc<LayerBlock>),
}

impl Cached {
    fn memory_bytes(&self) -> usize {
        // What the maps of the cache cost per entry, about.
        const OVERHEAD: usize = 256;
        OVERHEAD
            + match self {
                Self::Footer(footer) => {
                    footer.blocks.len() * 160
                        + footer.sets.iter().map(|set| 256 + set.dims.len() * 32).sum::<usize>()
                }
                Self::Part(part) => part.memory_bytes(),
                Self::Layer(block) => block.memory_bytes(),
            }
    }
}

/// The cache; shared by every reader of a store.
#[derive(Debug)]
pub(crate) struct Cache {
    bytes_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<CacheKey, Entry>,
    /// Last read first to last: tick to key.
    ages: BTreeMap<u64, CacheKey>,
    tick: u64,
    bytes: usize,
    hits: u64,
    misses: u64,
}

#[derive(Debug)]
struct Entry {
    value: Cached,
    bytes: usize,
    tick: u64,
}

/// What the cache did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CacheStats {
    pub(crate) bytes: usize,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
}

impl Cache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, inner: Mutex::default() }
    }

    pub(crate) fn get(&self, key: &CacheKey) -> Option<Cached> {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let Some(entry) = inner.entries.get_mut(key) else {
            inner.misses += 1;
            return None;
        };
        inner.hits += 1;
        inner.tick += 1;
        if let Some(key) = inner.ages.remove(&entry.tick) {
            inner.ages.insert(inner.tick, key);
        }
        entry.tick = inner.tick;
        Some(entry.value.clone())
    }

    /// Keeps `value`, unless it alone is over the bound.
    pub(crate) fn put(&self, key: CacheKey, value: Cached) {
        let bytes = value.memory_bytes();
        if bytes > self.bytes_max {
            return;
        }
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        inner.tick += 1;
        let tick = inner.tick;
        inner.ages.insert(tick, key.clone());
        inner.bytes += bytes;
        if let Some(before) = inner.entries.insert(key, Entry { value, bytes, tick }) {
            inner.ages.remove(&before.tick);
            inner.bytes -= before.bytes;
        }
        while inner.bytes > self.bytes_max {
            let Some((_, oldest)) = inner.ages.pop_first() else { break };
            if let Some(entry) = inner.entries.remove(&oldest) {
                inner.bytes -= entry.bytes;
            }
        }
    }

    /// The sections of these files that are kept: file, block, section.
    pub(crate) fn parts_of(&self, names: &HashSet<&str>) -> Vec<(Arc<str>, u32, Section)> {
        let inner = self.inner.lock();
        let part = |key: &CacheKey| match key {
            CacheKey::Part(name, block, section) if names.contains(&**name) => {
                Some((Arc::clone(name), *block, *section))
            }
            _ => None,
        };
        inner.entries.keys().filter_map(part).collect()
    }

    pub(crate) fn stats(&self) -> CacheStats {
        let inner = self.inner.lock();
        CacheStats { bytes: inner.bytes, hits: inner.hits, misses: inner.misses }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::Estimates;

    fn key(block: u32) -> CacheKey {
        CacheKey::Part("a".into(), block, Section::Estimates)
    }

    fn part() -> Cached {
        Cached::Part(Arc::new(Part::Estimates(Estimates(Vec::new()))))
    }

    #[test]
    fn the_least_recently_read_goes_first_and_the_bound_holds() {
        let one = part().memory_bytes();
        let cache = Cache::new(2 * one);
        cache.put(key(1), part());
        cache.put(key(2), part());
        assert!(cache.get(&key(1)).is_some());
        cache.put(key(3), part());
        assert!(cache.get(&key(2)).is_none(), "2 was read longest ago");
        assert!(cache.get(&key(1)).is_some() && cache.get(&key(3)).is_some());
        assert!(cache.stats().bytes <= 2 * one);
        // The same key again replaces, and is counted once.
        cache.put(key(3), part());
        assert_eq!(cache.stats().bytes, 2 * one);
    }

    #[test]
    fn what_is_larger_than_the_bound_is_not_kept() {
        let cache = Cache::new(8);
        cache.put(key(1), part());
        assert!(cache.get(&key(1)).is_none());
        assert_eq!(cache.stats().bytes, 0);
    }
}
