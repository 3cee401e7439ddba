//! One version of a store: a base, and the adopted layers that it does not hold yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use nilometer_event::{EventTime, Partition, ReceiveTime, TimeRange};
use nilometer_log::disk::Disk;
use nilometer_stream::cells::{
    BlockPlace, BlockShelf, CellRef, CellSource, CellsDamaged, Coverage, LayerBlock, LayerFile,
    ScanRequest,
};
use nilometer_stream::view::{LayerNumber, SealedLayerFile};

use crate::base::Base;
use crate::cache::{Cache, CacheKey, Cached};

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
}

/// A layer that is read from its file.
#[derive(Debug)]
pub(crate) struct AdoptedLayer {
    pub(crate) sealed: SealedLayerFile,
    /// The open file, or why it did not open.
    pub(crate) file: Result<LayerFile, String>,
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
            tracing::error!(file = sealed.path, %error, "corrupt layer file");
            error.to_string()
        });
        Self { sealed, file }
    }

    /// Any of its windows may lack cells: which ones it held is not known.
    pub(crate) fn damage(&self, reason: &str) -> CellsDamaged {
        CellsDamaged {
            file: self.sealed.path.clone(),
            windows: TimeRange { start: EventTime::MIN, end: EventTime::MAX },
            reason: reason.to_owned(),
        }
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
