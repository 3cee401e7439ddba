//! One version of a store: a base, and the adopted layers that it does not hold yet.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use nilometer_event::{EventTime, Partition, ReceiveTime, TimeRange};
use nilometer_log::disk::Disk;
use nilometer_stream::cells::{
    BlockPlace, BlockShelf, CellRef, CellSource, CellsDamaged, Coverage, LayerBlock, LayerFile,
    LayerFileError, ScanRequest,
};
use nilometer_stream::view::{LayerNumber, SealedLayerFile};

use crate::base::Base;
use crate::cache::{Cache, CacheKey, Cached};
use crate::dropped::Dropped;

/// What a pin holds on to; never changed, only replaced.
#[derive(Clone, Debug, Default)]
pub(crate) struct Version {
    pub(crate) base: Arc<Base>,
    /// Ascending by partition, then by number; none is inside the base.
    pub(crate) layers: Vec<Arc<AdoptedLayer>>,
    /// Per partition the last layer inside the base.
    pub(crate) cuts: BTreeMap<u16, u64>,
    /// `now` of the last fold.
    pub(crate) folded_at: Option<ReceiveTime>,
    /// What the base once dropped.
    pub(crate) dropped: Arc<Dropped>,
}

/// A layer that is read from its file.
#[derive(Debug)]
pub(crate) struct AdoptedLayer {
    pub(crate) sealed: SealedLayerFile,
    /// The open file, or why it did not open.
    pub(crate) file: Result<LayerFile, Unopened>,
}

/// A layer's file that did not open.
#[derive(Debug)]
pub(crate) struct Unopened {
    pub(crate) reason: String,
    /// True where no other try can change it: its frame is damaged, or it is gone.
    pub(crate) is_damaged: bool,
    /// True where the disk refused: nothing is known of the file.
    pub(crate) is_refused: bool,
}

/// A layer's file whose decoded blocks stay in the cache: until it is folded, every reader
/// reads it.
#[derive(Debug)]
pub(crate) struct CachedLayer<'a> {
    pub(crate) file: &'a LayerFile,
    pub(crate) path: Arc<str>,
    pub(crate) cache: &'a Cache,
}

impl BlockShelf for CachedLayer<'_> {
    fn get(&self, place: BlockPlace) -> Option<Arc<LayerBlock>> {
        match self.cache.get(&CacheKey::Layer(Arc::clone(&self.path), place))? {
            Cached::Layer(block) => Some(block),
            Cached::Footer(_) | Cached::Part(_) => None,
        }
    }

    fn put(&self, place: BlockPlace, block: &Arc<LayerBlock>) {
        let key = CacheKey::Layer(Arc::clone(&self.path), place);
        self.cache.put(key, Cached::Layer(Arc::clone(block)));
    }
}

impl CellSource for CachedLayer<'_> {
    fn scan(
        &self,
        request: &ScanRequest,
        visit: &mut dyn FnMut(CellRef<'_>),
    ) -> Result<(), CellsDamaged> {
        self.file.scan_through(Some(self), request, visit)
    }

    fn coverage(&self, request: &ScanRequest) -> Coverage {
        self.file.coverage(request)
    }
}

impl AdoptedLayer {
    pub(crate) fn open(disk: &Arc<dyn Disk>, sealed: SealedLayerFile) -> Self {
        let file = LayerFile::open(&**disk, &sealed.path).map_err(|error| {
            let (is_damaged, is_refused) = match &error {
                LayerFileError::Io { source, .. } => {
                    let is_gone = source.kind() == io::ErrorKind::NotFound;
                    (is_gone, !is_gone)
                }
                LayerFileError::Damaged { .. } => (true, false),
                LayerFileError::TooNew { .. } => (false, false),
            };
            if is_refused {
                let file = &sealed.path;
                tracing::warn!(file, %error, "not checked: the disk refuses it, it is tried again");
            } else {
                tracing::error!(file = sealed.path, %error, "corrupt layer file");
            }
            Unopened { reason: error.to_string(), is_damaged, is_refused }
        });
        Self { sealed, file }
    }

    /// The windows that it may hold cells of: any, where that is not known.
    pub(crate) fn windows(&self) -> Vec<TimeRange> {
        if self.sealed.windows.is_empty() {
            return vec![TimeRange { start: EventTime::MIN, end: EventTime::MAX }];
        }
        self.sealed.windows.clone()
    }

    /// What of `range` may lack its cells, where it did not open.
    pub(crate) fn damage(&self, reason: &str, range: TimeRange) -> Option<CellsDamaged> {
        let meets = |own: &TimeRange| own.start < range.end && range.start < own.end;
        let windows = self.windows().into_iter().find(meets)?;
        let (file, reason) = (self.sealed.path.clone(), reason.to_owned());
        Some(CellsDamaged { file, windows, reason })
    }

    /// Whether a fold gets past it: it opens, or it can be given up without giving up more.
    pub(crate) fn can_be_folded(&self) -> bool {
        let told = !self.sealed.windows.is_empty();
        self.file.as_ref().map_or_else(|unopened| unopened.is_damaged && told, |_| true)
    }
}

impl Version {
    /// The last layer of a shard that this version holds.
    pub(crate) fn through(&self, partition: Partition) -> LayerNumber {
        let adopted = self
            .layers
            .iter()
            .filter(|layer| layer.sealed.partition == partition)
            .map(|layer| layer.sealed.layer)
            .max();
        adopted.unwrap_or(LayerNumber::NONE).max(self.cut(partition))
    }

    /// How many layers' files did not open for what they are, and how many as the disk refused.
    pub(crate) fn unopened(&self) -> (usize, usize) {
        let unopened = self.layers.iter().filter_map(|layer| layer.file.as_ref().err());
        let (refused, unreadable): (Vec<_>, Vec<_>) = unopened.partition(|one| one.is_refused);
        (unreadable.len(), refused.len())
    }

    /// Bytes that the layers hold in memory.
    pub(crate) fn layers_bytes(&self) -> usize {
        self.layers.iter().filter_map(|it| it.file.as_ref().ok()).map(LayerFile::memory_bytes).sum()
    }

    /// The last layer of a shard that the base holds.
    pub(crate) fn cut(&self, partition: Partition) -> LayerNumber {
        self.cuts.get(&partition.get()).map_or(LayerNumber::NONE, |&cut| LayerNumber::new(cut))
    }

    /// The version with one more layer; `None` where it holds that layer already, readable or
    /// with the file as unreadable as before.
    pub(crate) fn with(&self, disk: &Arc<dyn Disk>, sealed: SealedLayerFile) -> Option<Self> {
        if sealed.layer <= self.cut(sealed.partition) {
            return None;
        }
        let key = |sealed: &SealedLayerFile| (sealed.partition, sealed.layer);
        let place = self.layers.binary_search_by_key(&key(&sealed), |layer| key(&layer.sealed));
        if place.is_ok_and(|place| self.layers.get(place).is_some_and(|own| own.file.is_ok())) {
            return None;
        }
        let layer = Arc::new(AdoptedLayer::open(disk, sealed));
        let mut layers = self.layers.clone();
        match place {
            Ok(_) if layer.file.is_err() => return None,
            Ok(place) => {
                if let Some(own) = layers.get_mut(place) {
                    *own = layer;
                }
            }
            Err(place) => layers.insert(place, layer),
        }
        Some(Self { layers, ..self.clone() })
    }
}
