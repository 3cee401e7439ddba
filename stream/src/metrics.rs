//! Every metric of the workshop, read from the views when Prometheus asks.

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::declare::Unread;
use crate::fold::OTHER_KEYS;
use crate::view::{ConflictsBySource, Facts, ShardMemory, ShardView, Views};

/// Registers the metrics of every shard.
pub fn register(registry: &mut Registry, views: Arc<Views>) {
    registry.register_collector(Box::new(StreamCollector { views }));
}

#[derive(Debug)]
struct StreamCollector {
    views: Arc<Views>,
}

/// Name, help and value of a counter.
type CounterOf = (&'static str, &'static str, fn(&Facts) -> u64);

const COUNTERS: [CounterOf; 9] = [
    ("nilometer_stream_received", "Records folded, lost ones included", |it| it.counters.received),
    ("nilometer_stream_unique", "Events counted", |it| it.counters.unique),
    ("nilometer_stream_duplicate", "Repeats dropped", |it| it.counters.duplicate),
    ("nilometer_stream_late_pending", "Events in closed hours", |it| it.counters.late_pending),
    ("nilometer_stream_dead_lettered", "Dead letters", |it| it.counters.dead_lettered),
    ("nilometer_stream_erased", "Events that purges took out again", |it| it.counters.erased),
    ("nilometer_stream_quarantined", "Records lost to damage", |it| it.counters.quarantined),
    ("nilometer_stream_late", "Events behind the watermark", |it| it.counters.late),
    ("nilometer_stream_conflicts", "Repeats with other content", |it| it.counters.conflicts),
];

/// Name, help and value of a gauge; a shard of which it is not known has none.
type GaugeOf = (&'static str, &'static str, fn(&ShardView, &Facts) -> Option<i64>);

const GAUGES: [GaugeOf; 8] = [
    ("nilometer_stream_seq", "The last journal entry folded", |_, it| Some(signed(it.seq))),
    ("nilometer_stream_watermark_ms", "Watermark, since 1970", |_, it| {
        (it.seq > 0).then(|| it.watermark.ms())
    }),
    ("nilometer_stream_as_of_ms", "now of the last entry, since 1970", |_, it| {
        (it.seq > 0).then(|| it.now.ms())
    }),
    ("nilometer_stream_checkpoint_seq", "Entry of the last checkpoint", |it, _| {
        it.checkpoint.is_there().then(|| signed(it.checkpoint.seq))
    }),
    ("nilometer_stream_checkpoint_age_ms", "Age of the last checkpoint", |it, facts| {
        it.checkpoint.is_there().then(|| facts.now.since(it.checkpoint.at).max(0))
    }),
    ("nilometer_stream_checkpoint_took_ms", "How long it took to write", |it, _| {
        it.checkpoint.took_ms.map(signed)
    }),
    ("nilometer_stream_checkpoint_failures", "Tries that failed since", |it, _| {
        Some(signed(it.checkpoint.failures))
    }),
    ("nilometer_stream_freshness_p99_ms", "Receive-to-shown latency of 99 %", |_, it| {
        it.freshness.map(|freshness| signed(freshness.p99_ms))
    }),
];

/// Name of a part and its bytes.
type PartOf = (&'static str, fn(&ShardMemory) -> u64);

const MEMORY: [PartOf; 6] = [
    ("open_layer", |it| it.open),
    ("sealing_layers", |it| it.sealing),
    ("ids", |it| it.ids),
    ("sessions", |it| it.sessions),
    ("guard", |it| it.guard),
    ("entry", |it| it.entry),
];

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Collector for StreamCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let shards: Vec<(Arc<ShardView>, Facts)> = self
            .views
            .pin()
            .into_iter()
            .map(|view| {
                let facts = view.facts();
                (view, facts)
            })
            .collect();
        for (name, help, value) in COUNTERS {
            let total: u64 = shards.iter().map(|(_, facts)| value(facts)).sum();
            let counter = ConstCounter::new(total);
            let encoder = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(encoder)?;
        }
        for (name, help, value) in GAUGES {
            let gauge = ConstGauge::new(0i64);
            let mut family = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            for (view, facts) in &shards {
                let Some(value) = value(view, facts) else { continue };
                let labels = [("partition", view.partition.to_string())];
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        let steps = self.views.steps();
        for (name, help, steps) in [
            ("nilometer_stream_step_seconds", "How long entries took to be folded", &steps.took),
            ("nilometer_stream_step_cpu_seconds", "Processor time of that", &steps.worked),
        ] {
            steps.encode(encoder.encode_descriptor(name, help, None, steps.metric_type())?)?;
        }
        let (name, help) = (
            "nilometer_stream_numbers_unread",
            "Events that a metric counted without their number, which is none or too large",
        );
        let counter = ConstCounter::new(0u64);
        let mut family = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
        for (metric, events) in unread(&shards) {
            let labels = [("metric", metric)];
            ConstCounter::new(events).encode(family.encode_family(&labels)?)?;
        }
        let (name, help) = (
            "nilometer_stream_conflicts_by_source",
            "Repeats with other content, by the source of the key that sent them",
        );
        let mut family = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
        let conflicts =
            shards.iter().map(|(_, facts)| (&*facts.conflicts, facts.counters.conflicts));
        for (source, count) in ConflictsBySource::of_all(conflicts) {
            let labels = [("source", source)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        encode_over_quota(&shards, &mut encoder)?;
        let (name, help) = ("nilometer_stream_memory_bytes", "Memory by part, over all shards");
        let gauge = ConstGauge::new(0i64);
        let mut family = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
        let memory = self.views.memory();
        for (part, bytes) in MEMORY {
            let total: u64 = memory.iter().map(bytes).sum();
            let labels = [("part", part)];
            ConstGauge::new(signed(total)).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn encode_over_quota(
    shards: &[(Arc<ShardView>, Facts)],
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), std::fmt::Error> {
    let (name, help) = (
        "nilometer_stream_values_over_quota",
        "Values and combinations of events that are __other__ because a key brought too many new \
         ones, by the key that sent the event",
    );
    let counter = ConstCounter::new(0u64);
    let mut family = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
    for (key, values) in over_quota(shards) {
        ConstCounter::new(values).encode(family.encode_family(&[("key", key)])?)?;
    }
    Ok(())
}

/// [`Facts::over_quota`] over all shards.
fn over_quota(shards: &[(Arc<ShardView>, Facts)]) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::from([(OTHER_KEYS.to_owned(), 0)]);
    for (key, values) in shards.iter().flat_map(|(_, facts)| &*facts.over_quota) {
        *all.entry(key.clone()).or_default() += values;
    }
    all
}

/// [`Facts::unread`] over all shards. A metric is told from its first moment on: what begins at 1
/// has not grown, to Prometheus, and no alarm would hear of the first events.
fn unread(shards: &[(Arc<ShardView>, Facts)]) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (ShardView { plan, .. }, facts) in shards.iter().map(|(view, facts)| (&**view, facts)) {
        for metric in Unread::of(plan).metrics() {
            all.entry(plan.metrics[metric].name.clone()).or_default();
        }
        for (metric, events) in &*facts.unread {
            *all.entry(metric.clone()).or_default() += events;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use nilometer_event::{Partition, PartitionCount};

    use super::*;
    use crate::cells::Layer;
    use crate::declare::Plan;
    use crate::view::{CheckpointStatus, Counters, LayerNumber, OpenLayer};

    #[test]
    fn every_metric_is_read_from_the_views_when_asked() {
        let views = Arc::new(Views::new(PartitionCount::new(2).unwrap()));
        let declared = r#"{"metric":[
            {"name":"revenue","aggregate":"sum","field":"properties.price"},
            {"name":"dearest","aggregate":"max","field":"properties.price"},
            {"name":"buyers","aggregate":"distinct","filter":"event_type:purchase"}]}"#;
        let plan = Arc::new(Plan::compile(&serde_json::from_str(declared).unwrap()).unwrap());
        for shard in 0..2 {
            let layer = Layer::new(Arc::clone(&plan), 1);
            let counters = Counters {
                received: 9,
                unique: 5,
                duplicate: 4,
                conflicts: 4,
                ..Counters::default()
            };
            let mut conflicts = ConflictsBySource::default();
            conflicts.note("shop");
            let conflicts = Arc::new(conflicts);
            let unread = Arc::new(BTreeMap::from([("revenue".to_owned(), 3)]));
            let over_quota = Arc::new(BTreeMap::from([("write-junk".to_owned(), 4)]));
            let facts =
                Facts { seq: 7, counters, unread, over_quota, conflicts, ..Facts::default() };
            views.publish(ShardView {
                partition: Partition::new(shard),
                plan: Arc::clone(&plan),
                layer: LayerNumber::FIRST,
                open: Arc::new(OpenLayer::new(LayerNumber::FIRST, layer, facts)),
                sealing: Vec::new(),
                checkpoint: CheckpointStatus::default(),
            });
        }
        let mut registry = Registry::default();
        register(&mut registry, views);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("nilometer_stream_unique_total 10\n"), "{text}");
        let unread =
            text.lines().filter(|line| line.starts_with("nilometer_stream_numbers_unread"));
        assert_eq!(
            unread.collect::<Vec<_>>(),
            [
                "nilometer_stream_numbers_unread_total{metric=\"dearest\"} 0",
                "nilometer_stream_numbers_unread_total{metric=\"revenue\"} 6",
            ]
        );
        for (source, count) in [("default", 6), ("shop", 2)] {
            let line = format!(
                "nilometer_stream_conflicts_by_source_total{{source=\"{source}\"}} {count}\n"
            );
            assert!(text.contains(&line), "{text}");
        }
        let over = text.lines().filter(|line| line.starts_with("nilometer_stream_values_over"));
        assert_eq!(
            over.collect::<Vec<_>>(),
            [
                "nilometer_stream_values_over_quota_total{key=\"(others)\"} 0",
                "nilometer_stream_values_over_quota_total{key=\"write-junk\"} 8",
            ]
        );
        assert!(text.contains("nilometer_stream_seq{partition=\"1\"} 7\n"), "{text}");
        assert!(text.contains("nilometer_stream_memory_bytes{part=\"ids\"} 0\n"), "{text}");
        let told = |name: &str| text.lines().any(|line| line.starts_with(&format!("{name}{{")));
        assert!(told("nilometer_stream_as_of_ms") && told("nilometer_stream_checkpoint_failures"));
        for unknown in ["checkpoint_age_ms", "checkpoint_seq", "checkpoint_took_ms"] {
            assert!(!told(&format!("nilometer_stream_{unknown}")), "no checkpoint: {text}");
        }
        assert!(!told("nilometer_stream_freshness_p99_ms"), "no event: {text}");
    }
}
