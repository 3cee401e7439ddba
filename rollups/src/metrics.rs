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

/// Name, help, how it is read; what is not known is absent.
type Gauge = (&'static str, &'static str, fn(&StoreStats) -> Option<u64>);

const GAUGES: [Gauge; 12] = [
    ("rollups_bytes", "Bytes of the base's files", |stats| Some(stats.bytes)),
    ("rollups_chunks", "Files of the base", |stats| Some(stats.chunks)),
    ("rollups_chunks_unreadable", "Files of the base that were found damaged", |stats| {
        Some(stats.chunks_unreadable)
    }),
    (
        "rollups_chunks_refused",
        "Files of the base that are not checked, as the disk refuses them; they are tried again",
        |stats| Some(stats.chunks_refused),
    ),
    ("rollups_cells", "Cells of the base", |stats| Some(stats.cells)),
    ("rollups_layers_waiting", "Adopted layers that wait to be folded", |stats| {
        Some(stats.layers_waiting)
    }),
    ("rollups_layers_bytes", "Bytes that adopted layers hold in memory", |stats| {
        Some(stats.layers_bytes)
    }),
    ("rollups_layers_unreadable", "Adopted layers whose file does not open", |stats| {
        Some(stats.layers_unreadable)
    }),
    (
        "rollups_layers_refused",
        "Adopted layers that the disk refuses; they are tried again",
        |stats| Some(stats.layers_refused),
    ),
    ("rollups_fold_took_ms", "How long the last fold took", |stats| stats.fold_took_ms),
    ("rollups_damaged_ranges", "Ranges of windows that have lost cells for good", |stats| {
        Some(stats.damaged)
    }),
    ("rollups_cache_bytes", "Bytes of decoded blocks in memory", |stats| Some(stats.cache_bytes)),
];

/// Name, help, how it is read.
type Counter = (&'static str, &'static str, fn(&StoreStats) -> u64);

const COUNTERS: [Counter; 5] = [
    ("rollups_quarantined_cells", "Cells of files of the base that were found damaged", |stats| {
        stats.quarantined_cells
    }),
    ("rollups_folds", "Folds that switched the base", |stats| stats.folds),
    ("rollups_fold_failures", "Folds that failed and are repeated", |stats| stats.fold_failures),
    ("rollups_cache_hits", "Reads of blocks that memory answered", |stats| stats.cache_hits),
    ("rollups_cache_misses", "Reads of blocks that went to the disk", |stats| stats.cache_misses),
];

impl Collector for StoreMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let stats = self.0.stats();
        for (name, help, read) in GAUGES {
            // Its name is there, for it will be known.
            let kind = ConstGauge::new(0i64).metric_type();
            let metric = encoder.encode_descriptor(name, help, None, kind)?;
            if let Some(value) = read(&stats) {
                ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric)?;
            }
        }
        for (name, help, read) in COUNTERS {
            let value = ConstCounter::new(read(&stats));
            let metric = encoder.encode_descriptor(name, help, None, value.metric_type())?;
            value.encode(metric)?;
        }
        Ok(())
    }
}
