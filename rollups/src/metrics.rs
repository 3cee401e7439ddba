//! Every metric of the room, read from the store when they are scraped.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::port::{Store, StoreStats};

/// Registers the store's metrics.
pub fn register(registry: &mut Registry, store: Arc<dyn Store>) {
    registry.register_collector(Box::new(StoreMetrics(store)));
}

#[derive(Debug)]
struct StoreMetrics(Arc<dyn Store>);

/// Name, help, how it is read.
type Reading = (&'static str, &'static str, fn(&StoreStats) -> u64);

const GAUGES: [Reading; 9] = [
    ("rollups_bytes", "Bytes of the base's files", |stats| stats.bytes),
    ("rollups_chunks", "Files of the base", |stats| stats.chunks),
    ("rollups_cells", "Cells of the base", |stats| stats.cells),
    ("rollups_layers_waiting", "Adopted layers that wait to be folded", |stats| {
        stats.layers_waiting
    }),
    ("rollups_layers_unreadable", "Adopted layers whose file does not open", |stats| {
        stats.layers_unreadable
    }),
    ("rollups_layers_refused", "Adopted layers that the disk refused to the last folds", |stats| {
        stats.layers_refused
    }),
    ("rollups_fold_took_ms", "How long the last fold took", |stats| stats.fold_took_ms),
    ("rollups_damaged_ranges", "Ranges of windows that have lost cells for good", |stats| {
        stats.damaged
    }),
    ("rollups_cache_bytes", "Bytes of decoded blocks in memory", |stats| stats.cache_bytes),
];

const COUNTERS: [Reading; 4] = [
    ("rollups_folds", "Folds that switched the base", |stats| stats.folds),
    ("rollups_fold_failures", "Folds that failed and are repeated", |stats| stats.fold_failures),
    ("rollups_cache_hits", "Reads of blocks that memory answered", |stats| stats.cache_hits),
    ("rollups_cache_misses", "Reads of blocks that went to the disk", |stats| stats.cache_misses),
];

impl Collector for StoreMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let stats = self.0.stats();
        for (name, help, read) in GAUGES {
            let value = ConstGauge::new(i64::try_from(read(&stats)).unwrap_or(i64::MAX));
            let metric = encoder.encode_descriptor(name, help, None, value.metric_type())?;
            value.encode(metric)?;
        }
        for (name, help, read) in COUNTERS {
            let value = ConstCounter::new(read(&stats));
            let metric = encoder.encode_descriptor(name, help, None, value.metric_type())?;
            value.encode(metric)?;
        }
        Ok(())
    }
}
