//! Decoded sections of chunks, the least recently read dropped first, bounded in bytes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    /// How much of that may be kept now.
    allowed: AtomicUsize,
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

/// So many percent of some bytes, and never more than all.
pub(crate) fn share(bytes: usize, percent: u32) -> usize {
    match usize::try_from(percent) {
        Ok(percent @ ..100) => bytes / 100 * percent,
        _ => bytes,
    }
}

impl Inner {
    /// Lets go of what was read longest ago, until no more than so much is kept.
    fn make_room(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max {
            let Some((_, oldest)) = self.ages.pop_first() else { break };
            if let Some(entry) = self.entries.remove(&oldest) {
                self.bytes -= entry.bytes;
            }
        }
    }
}

impl Cache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, allowed: AtomicUsize::new(bytes_max), inner: Mutex::default() }
    }

    /// Keeps at most so many percent of what it may from now on.
    pub(crate) fn allow(&self, percent: u32) {
        let allowed = share(self.bytes_max, percent);
        if self.allowed.swap(allowed, Ordering::Relaxed) > allowed {
            self.inner.lock().make_room(allowed);
        }
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
        let allowed = self.allowed.load(Ordering::Relaxed);
        if bytes > allowed {
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
        inner.make_room(allowed);
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
    fn what_may_be_kept_can_get_less_and_more_again() {
        let one = part().memory_bytes();
        let cache = Cache::new(4 * one);
        (1..=4).for_each(|block| cache.put(key(block), part()));
        assert_eq!(cache.stats().bytes, 4 * one);
        cache.allow(50);
        assert!(cache.stats().bytes <= 2 * one, "at once: {}", cache.stats().bytes);
        cache.put(key(5), part());
        assert!(cache.get(&key(5)).is_some() && cache.stats().bytes <= 2 * one);
        cache.allow(100);
        (1..=4).for_each(|block| cache.put(key(block), part()));
        assert_eq!(cache.stats().bytes, 4 * one);
    }

    #[test]
    fn what_is_larger_than_the_bound_is_not_kept() {
        let cache = Cache::new(8);
        cache.put(key(1), part());
        assert!(cache.get(&key(1)).is_none());
        assert_eq!(cache.stats().bytes, 0);
    }
}
