//! Which (layer, bucket)s are hot: a pure function of the seals and of how many ids each added.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use nilometer_event::ReceiveTime;
use serde::{Deserialize, Serialize};

use super::hot::HotIds;
use super::key::Bucket;
use super::tags::{Tag, Tags};

/// Buckets that one layer tells apart in memory; ids of further ones form its *crowd*.
///
/// A crowd is hot until the seal after its own. A quarter of all tags: the open layer, the newest
/// sealed one and [`SEALED_GROUPS_MAX`] older ones then never need more than there are.
pub(crate) const LAYER_BUCKETS_MAX: usize = 1 << 14;
/// (layer, bucket)s of sealed layers; past it the oldest go cold as at the cap.
const SEALED_GROUPS_MAX: usize = 1 << 14;
/// Of 64 shards, swept at each seal: a round takes four.
const SHARDS_SWEPT_A_SEAL: usize = 16;

/// What of the eviction rule must survive a crash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Eviction {
    /// Layers before it are cold entirely.
    first_hot: u64,
    /// Per bucket: layers before this one are cold.
    evicted: BTreeMap<Bucket, u64>,
    /// When each hot layer was sealed, oldest first.
    seals: VecDeque<(u64, ReceiveTime)>,
    /// Buckets of the newest sealed layer's crowd.
    crowd: Vec<Bucket>,
}

impl Eviction {
    /// True where ids of that bucket that came in that layer are found by whatever bucket.
    pub(crate) fn is_hot(&self, layer: u64, bucket: Bucket) -> bool {
        layer >= self.first_hot && self.evicted.get(&bucket).is_none_or(|&first| layer >= first)
    }

    fn prune(&mut self) {
        let first_hot = self.first_hot;
        self.evicted.retain(|_, first| *first > first_hot);
        self.seals.retain(|&(layer, _)| layer >= first_hot);
    }
}

/// When ids go cold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeatLimits {
    pub(crate) hot_ms: i64,
    pub(crate) ids_max: u64,
}

/// The hot ids by (layer, bucket), and the rule by which they go cold.
#[derive(Debug)]
pub(crate) struct Heat {
    pub(crate) table: HotIds,
    tags: Tags,
    pub(crate) eviction: Eviction,
    /// By tag.
    groups: Vec<Option<Group>>,
    open: HashMap<Bucket, Tag, foldhash::fast::RandomState>,
    /// The open layer's bucket that was asked last.
    last_open: Option<(Bucket, Tag)>,
    open_crowd: (Option<Tag>, HashSet<Bucket>),
    free: Vec<Tag>,
    /// Dead, and swept from some shards of this round; then dead since the round began.
    sweeping: Vec<Tag>,
    dead: Vec<Tag>,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    /// `None` while the layer is open.
    layer: Option<u64>,
    /// `None` for a crowd.
    bucket: Option<Bucket>,
    ids: u64,
}

impl Heat {
    pub(crate) fn new(eviction: Eviction) -> Self {
        Self {
            table: HotIds::new(),
            tags: Tags::new(),
            eviction,
            groups: vec![None],
            open: HashMap::default(),
            last_open: None,
            open_crowd: (None, HashSet::new()),
            free: Vec::new(),
            sweeping: Vec::new(),
            dead: Vec::new(),
        }
    }

    /// The check byte of a hot id.
    pub(crate) fn find(&self, fingerprint: u64) -> Option<u8> {
        self.table.find(fingerprint, &self.tags)
    }

    /// The layer of a hot id, `None` for the open one, and its bucket, `None` in a crowd.
    pub(crate) fn place_of(&self, fingerprint: u64) -> Option<(Option<u64>, Option<Bucket>)> {
        let tag = self.table.tag_of(fingerprint, &self.tags)?;
        let group = self.groups[usize::from(tag)]?;
        Some((group.layer, group.bucket))
    }

    /// Adds an id to the open layer.
    pub(crate) fn insert(&mut self, fingerprint: u64, check: u8, bucket: Bucket) {
        let tag = self.open_tag(bucket);
        self.insert_tagged(fingerprint, check, tag);
    }

    /// Adds ids of a sealed layer, on recovery; `known` is the caller's for all calls.
    pub(crate) fn restore(
        &mut self,
        known: &mut HashMap<(u64, Option<Bucket>), Tag>,
        (layer, bucket): (u64, Bucket),
        ids: &[(u64, u8)],
    ) {
        let newest = self.eviction.seals.back().is_some_and(|&(newest, _)| newest == layer);
        let crowded = newest && self.eviction.crowd.binary_search(&bucket).is_ok();
        let bucket = (!crowded).then_some(bucket);
        let tag = match known.get(&(layer, bucket)) {
            Some(&tag) => tag,
            None => self.new_group(Some(layer), bucket),
        };
        known.insert((layer, bucket), tag);
        for &(fingerprint, check) in ids {
            self.insert_tagged(fingerprint, check, tag);
        }
    }

    /// Closes the open layer as `layer`, then lets what the rule names go cold.
    ///
    /// Only layers before `layer` go cold, because their run files are installed by now.
    pub(crate) fn seal(&mut self, layer: u64, now: ReceiveTime, limits: HeatLimits) {
        let crowd_before = std::mem::take(&mut self.eviction.crowd);
        self.close_open(layer, now);
        let old_enough =
            |&&(sealed, at): &&(u64, ReceiveTime)| sealed < layer && now.since(at) > limits.hot_ms;
        if let Some(&(sealed, _)) = self.eviction.seals.iter().rev().find(old_enough) {
            self.eviction.first_hot = self.eviction.first_hot.max(sealed + 1);
        }
        for bucket in crowd_before {
            self.eviction.evicted.insert(bucket, layer);
        }
        self.kill_cold(layer);
        self.evict_oldest(layer, limits.ids_max);
        self.eviction.prune();
        self.sweep();
    }

    /// Ids that are hot.
    pub(crate) fn len(&self) -> u64 {
        self.groups.iter().flatten().map(|group| group.ids).sum()
    }

    fn insert_tagged(&mut self, fingerprint: u64, check: u8, tag: Tag) {
        self.table.insert(fingerprint, check, tag, &self.tags);
        let group = self.groups[usize::from(tag)].as_mut();
        group.expect("I4: a tag in use has its group").ids += 1;
    }

    fn open_tag(&mut self, bucket: Bucket) -> Tag {
        if let Some((_, tag)) = self.last_open.filter(|&(last, _)| last == bucket) {
            return tag;
        }
        if let Some(&tag) = self.open.get(&bucket) {
            self.last_open = Some((bucket, tag));
            return tag;
        }
        if self.open.len() >= LAYER_BUCKETS_MAX {
            self.open_crowd.1.insert(bucket);
            let tag = self.open_crowd.0.unwrap_or_else(|| self.new_group(None, None));
            self.open_crowd.0 = Some(tag);
            return tag;
        }
        let tag = self.new_group(None, Some(bucket));
        self.open.insert(bucket, tag);
        tag
    }

    fn new_group(&mut self, layer: Option<u64>, bucket: Option<Bucket>) -> Tag {
        let tag = self.take_tag();
        self.tags.revive(tag);
        self.groups[usize::from(tag)] = Some(Group { layer, bucket, ids: 0 });
        tag
    }

    fn take_tag(&mut self) -> Tag {
        if let Some(tag) = self.free.pop() {
            return tag;
        }
        if let Ok(tag) = Tag::try_from(self.groups.len()) {
            self.groups.push(None);
            return tag;
        }
        self.table.sweep_all(&self.tags);
        self.free.append(&mut self.sweeping);
        self.free.append(&mut self.dead);
        self.free.pop().expect("I5: groups are bounded well below the number of tags")
    }

    fn close_open(&mut self, layer: u64, now: ReceiveTime) {
        let groups = self.groups.iter_mut().flatten();
        for group in groups.filter(|group| group.layer.is_none()) {
            group.layer = Some(layer);
        }
        self.open.clear();
        self.last_open = None;
        self.open_crowd.0 = None;
        self.eviction.crowd = self.open_crowd.1.drain().collect();
        self.eviction.crowd.sort_unstable();
        self.eviction.seals.push_back((layer, now));
    }

    fn kill_cold(&mut self, layer: u64) {
        let Self { groups, tags, dead, eviction, .. } = self;
        for (tag, of_tag) in (0..=Tag::MAX).zip(groups) {
            let Some(Group { layer: Some(of), bucket, .. }) = *of_tag else { continue };
            let hot = match bucket {
                Some(bucket) => eviction.is_hot(of, bucket),
                None => of >= layer && of >= eviction.first_hot,
            };
            if !hot {
                *of_tag = None;
                tags.kill(tag);
                dead.push(tag);
            }
        }
    }

    fn evict_oldest(&mut self, layer: u64, ids_max: u64) {
        let sealed = |group: &Group| Some((group.bucket?, group.layer.filter(|&of| of < layer)?));
        let groups = self.groups.iter().flatten();
        let mut older: Vec<((Bucket, u64), u64)> =
            groups.filter_map(|group| Some((sealed(group)?, group.ids))).collect();
        older.sort_unstable();
        let (mut ids, mut left) = (self.len(), older.len());
        for ((bucket, of), of_group) in older {
            if ids <= ids_max && left <= SEALED_GROUPS_MAX {
                break;
            }
            self.eviction.evicted.insert(bucket, of + 1);
            ids -= of_group;
            left -= 1;
        }
        self.kill_cold(layer);
    }

    fn sweep(&mut self) {
        if self.sweeping.is_empty() {
            std::mem::swap(&mut self.sweeping, &mut self.dead);
        }
        if !self.sweeping.is_empty() && self.table.sweep(SHARDS_SWEPT_A_SEAL, &self.tags) {
            self.free.append(&mut self.sweeping);
        }
    }
}
