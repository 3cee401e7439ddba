//! Each alarm that docs/operations.md names fires where it is said to, and nowhere else.

use std::collections::BTreeMap;

use nilometer_event::{EventTime, Partition, PartitionCount, ReceiveTime};
use nilometer_rollups::view::{
    CheckpointStatus, Counters, Facts, Freshness, LayerNumber, LayerSink, OpenLayer,
    SealedLayerFile, ShardView, Views,
};
use nilometer_rollups::{Pinned, Store, StoreStats};
use nilometer_stream::cells::Layer;
use nilometer_stream::declare::Plan;

use super::*;

#[path = "../../tests/watch/alarms.rs"]
mod alarms;
use alarms::{Scrape, documented, documented_metrics};

const NOW: ReceiveTime = ReceiveTime::from_ms(1_800_000_000_000);

/// Everything that an alarm may depend on; by default a house where all is well.
#[derive(Clone, Debug)]
struct World {
    house: House,
    store: StoreStats,
    facts: Facts,
    checkpoint: CheckpointStatus,
    requests_503: u64,
}

fn calm() -> World {
    let log = LogStats {
        free_bytes: Some(1 << 40),
        reserve_bytes: 64 << 20,
        records: 10,
        ..LogStats::default()
    };
    let (limit, resident) = (512 << 20, Some(300 << 20));
    let counters = Counters { received: 10, unique: 10, ..Counters::default() };
    let freshness = Some(Freshness { p50_ms: 500, p99_ms: 900, events: 10 });
    World {
        house: House {
            log,
            memory: Memory { limit_bytes: limit, resident_bytes: resident, ..Memory::default() },
            ..House::default()
        },
        store: StoreStats { chunks: 5, cells: 50, layers_waiting: 8, ..StoreStats::default() },
        facts: Facts {
            seq: 7,
            now: NOW,
            watermark: EventTime::from_ms(NOW.ms() - 7_200_000),
            counters,
            freshness,
            ..Facts::default()
        },
        checkpoint: CheckpointStatus {
            seq: 6,
            at: NOW.plus_ms(-30_000),
            took_ms: Some(20),
            failures: 0,
        },
        requests_503: 0,
    }
}

#[derive(Debug)]
struct Told(StoreStats);

impl LayerSink for Told {
    fn adopt(&self, _sealed: SealedLayerFile) {}

    fn folded_through(&self, _partition: Partition) -> LayerNumber {
        LayerNumber::NONE
    }
}

impl Store for Told {
    fn pin(&self) -> Pinned {
        unreachable!("metrics pin nothing")
    }

    fn changed(&self) -> tokio::sync::watch::Receiver<u64> {
        unreachable!("metrics wait for nothing")
    }

    fn stats(&self) -> StoreStats {
        self.0
    }
}

/// A metric that reads numbers.
const DECLARED: &str =
    r#"{"metric":[{"name":"revenue","aggregate":"sum","field":"properties.price"}]}"#;

impl World {
    /// What `GET /metrics` says of it, by the collectors that the server registers.
    fn scrape(&self) -> Scrape {
        let mut registry = Registry::default();
        let house = self.house.clone();
        registry.register_collector(Box::new(HouseCollector(Box::new(move || house.clone()))));
        let views = Arc::new(Views::new(PartitionCount::new(1).unwrap()));
        let plan = Arc::new(Plan::compile(&serde_json::from_str(DECLARED).unwrap()).unwrap());
        let layer = Layer::new(Arc::clone(&plan), 1);
        let open = OpenLayer::new(LayerNumber::FIRST, layer, self.facts.clone());
        views.publish(ShardView {
            partition: Partition::new(0),
            plan,
            layer: LayerNumber::FIRST,
            open: Arc::new(open),
            sealing: Vec::new(),
            checkpoint: self.checkpoint,
        });
        nilometer_stream::metrics::register(&mut registry, views);
        let ours = registry.sub_registry_with_prefix("nilometer");
        nilometer_rollups::metrics::register(ours, Arc::new(Told(self.store)));
        let text = nilometer_query::Exposition::Text.encode(&registry).unwrap();
        // As the gateway counts its answers (tests/faults/watch.rs).
        let requests =
            format!("nilometer_gateway_requests_total{{status=\"503\"}} {}\n", self.requests_503);
        Scrape::of(&(text + &requests))
    }
}

type Trouble = (&'static str, fn(&mut World));

/// What makes each of them fire, and that alone.
const TROUBLES: [Trouble; 23] = [
    ("nilometer_log_quarantined_records_total > 0", |it| it.house.log.quarantined_records = 1),
    ("increase(nilometer_log_failures_total[10m]) > 0", |it| it.house.log.failures = 1),
    ("increase(nilometer_log_refused_disk_full_total[10m]) > 0", |it| {
        it.house.log.refused_disk_full = 1;
    }),
    ("increase(nilometer_log_refused_full_total[10m]) > 0", |it| it.house.log.refused_full = 1),
    ("nilometer_log_disk_free_bytes < 2 * nilometer_log_disk_reserve_bytes", |it| {
        it.house.log.free_bytes = Some(100 << 20);
    }),
    (
        "nilometer_stream_checkpoint_age_seconds > 600 and on() \
         increase(nilometer_stream_received_total[10m]) > 0",
        |it| {
            it.checkpoint.at = NOW.plus_ms(-601_000);
            it.facts.counters.received += 1;
        },
    ),
    ("nilometer_stream_checkpoint_failures > 0", |it| it.checkpoint.failures = 1),
    ("nilometer_stream_freshness_p99_seconds > 2", |it| {
        it.facts.freshness = Some(Freshness { p50_ms: 900, p99_ms: 2_001, events: 10 });
    }),
    ("increase(nilometer_stream_conflicts_total[10m]) > 0", |it| it.facts.counters.conflicts = 1),
    ("increase(nilometer_stream_numbers_unread_total[10m]) > 0", |it| {
        it.facts.unread = Arc::new(BTreeMap::from([("revenue".to_owned(), 1)]));
    }),
    ("increase(nilometer_stream_values_over_quota_total[10m]) > 0", |it| {
        it.facts.over_quota = Arc::new(BTreeMap::from([("(others)".to_owned(), 1)]));
    }),
    ("nilometer_rollups_chunks_unreadable > 0", |it| it.store.chunks_unreadable = 1),
    ("nilometer_rollups_layers_unreadable > 0", |it| it.store.layers_unreadable = 1),
    ("nilometer_rollups_damaged_ranges > 0", |it| it.store.damaged = 1),
    ("nilometer_rollups_layers_refused > 0", |it| it.store.layers_refused = 1),
    ("nilometer_rollups_chunks_refused > 0", |it| it.store.chunks_refused = 1),
    ("nilometer_log_unchecked_partitions > 0", |it| it.house.log_unchecked = 1),
    ("nilometer_process_resident_bytes > 1.25 * nilometer_process_memory_limit_bytes", |it| {
        it.house.memory.resident_bytes = Some(641 << 20);
    }),
    ("increase(nilometer_process_log_lines_lost_total[10m]) > 0", |it| it.house.log_lines_lost = 1),
    ("increase(nilometer_rollups_fold_failures_total[10m]) > 0", |it| it.store.fold_failures = 1),
    ("nilometer_rollups_layers_waiting > 256", |it| it.store.layers_waiting = 257),
    ("nilometer_clock_stands_still_seconds > 1", |it| it.house.standing.behind_ms = 1_001),
    ("nilometer_clock_wall_ahead_seconds > 0", |it| it.house.standing.ahead_ms = 1),
];

/// Told apart, for its metric is the gateway's.
const OURS: &str = "increase(nilometer_gateway_requests_total{status=~\"5..\"}[10m]) > 0";

fn firing(before: &World, now: &World) -> Vec<String> {
    let (before, now) = (before.scrape(), now.scrape());
    let alarms = documented().into_iter().filter(|alarm| alarm.fires(&before, &now));
    alarms.map(|alarm| alarm.expression).collect()
}

#[test]
fn each_documented_alarm_fires_by_its_own_trouble_and_by_no_other() {
    let documented: Vec<String> = documented().into_iter().map(|it| it.expression).collect();
    let calm = calm();
    assert_eq!(firing(&calm, &calm), [""; 0]);
    let mut fired = Vec::new();
    for (alarm, trouble) in
        TROUBLES.into_iter().chain([(OURS, (|it| it.requests_503 = 1) as fn(&mut World))])
    {
        let mut world = calm.clone();
        trouble(&mut world);
        assert_eq!(firing(&calm, &world), [alarm]);
        fired.push(alarm.to_owned());
    }
    let untested = documented.iter().filter(|alarm| !fired.contains(alarm));
    assert_eq!(untested.collect::<Vec<_>>(), [""; 0], "they need a trouble here");
}

#[test]
fn what_is_not_known_is_absent_and_no_alarm() {
    let mut fresh = calm();
    fresh.house.memory.resident_bytes = None;
    fresh.house.log.free_bytes = None;
    fresh.facts.freshness = None;
    fresh.checkpoint = CheckpointStatus::default();
    let mut later = fresh.clone();
    // It takes its first events.
    later.facts.counters.received += 1;
    assert_eq!(firing(&fresh, &later), [""; 0]);
}

#[test]
fn alarms_name_metrics_that_are_there() {
    let known = documented_metrics();
    for alarm in documented() {
        for name in alarm.metrics() {
            assert!(known.contains(&name), "{}: {name}", alarm.expression);
        }
    }
}
