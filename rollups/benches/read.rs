//! How long do dashboard queries take on a day of base, and how long does a fold take?

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use nilometer_event::{
    Event, EventTime, Granularity, Partition, PartitionCount, ReceiveTime, TimeRange, UserHash,
};
use nilometer_log::disk::{Disk, RealDisk, create_dir_durably};
use nilometer_rollups::cells::{Layer, ScanRequest, Tallies, write_layer};
use nilometer_rollups::declare::{Plan, SetKind};
use nilometer_rollups::view::{
    CheckpointStatus, Facts, LayerNumber, LayerSink, OpenLayer, SealedLayerFile, ShardView, Views,
};
use nilometer_rollups::{EmbeddedStore, FoldLimits, Store, StoreSettings};

const COUNTRIES: [&str; 12] =
    ["DE", "FR", "EG", "US", "BR", "IN", "JP", "GB", "ES", "IT", "SE", "ZA"];
const DEVICES: [&str; 3] = ["tv", "mobile", "desktop"];
const CATEGORIES: [&str; 8] =
    ["drama", "news", "sport", "kids", "music", "docu", "comedy", "other"];
const MINUTE: i64 = 60_000;
const LAYERS: u64 = 48;
const EVENTS_PER_LAYER: u64 = 20_000;
const NOW: ReceiveTime = ReceiveTime::from_ms(1_700_000_000_000);

struct Shelves {
    _dir: tempfile::TempDir,
    disk: Arc<dyn Disk>,
    plan: Arc<Plan>,
    views: Arc<Views>,
    store: EmbeddedStore,
}

/// A layer of half an hour that ends `back_ms` before now.
fn layer(plan: &Arc<Plan>, number: u64, back_ms: i64) -> Layer {
    let mut rng = fastrand::Rng::with_seed(number);
    let mut layer = Layer::new(Arc::clone(plan), number);
    let mut tallies = Tallies::new();
    for _ in 0..EVENTS_PER_LAYER {
        let content = format!("c{}", rng.u32(0..500));
        let event = Event {
            timestamp: NOW.as_event_time().minus_ms(back_ms + rng.i64(0..30 * MINUTE)),
            event_id: "e",
            event_type: rng.choice(["view", "click", "play"]).unwrap_or("view"),
            country: rng.choice(COUNTRIES),
            device_type: rng.choice(DEVICES),
            content_category: rng.choice(CATEGORIES),
            content_id: Some(&content),
            session_duration_sec: Some(12.5),
            ..Event::default()
        };
        layer.count(&mut tallies, &event, Some(UserHash::new(rng.u64(0..200_000))));
    }
    layer.end_entry();
    layer
}

fn adopt(shelves: &Shelves, number: u64, back_ms: i64) {
    let path = format!("checkpoints/0/layer-{number}");
    write_layer(&*shelves.disk, &path, &layer(&shelves.plan, number, back_ms)).expect("written");
    shelves.store.adopt(SealedLayerFile {
        partition: Partition::new(0),
        layer: LayerNumber::new(number),
        seq_first: number,
        seq_last: number,
        plan: shelves.plan.id,
        path,
        windows: Vec::new(),
    });
}

/// A day of events, all of it folded.
fn shelves() -> Shelves {
    let dir = tempfile::tempdir().expect("a folder");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir.path()).expect("a disk"));
    create_dir_durably(&*disk, "checkpoints/0").expect("a folder");
    let plan = Arc::new(Plan::builtin());
    let views = Arc::new(Views::new(PartitionCount::new(1).expect("not 0")));
    let store = EmbeddedStore::open(
        Arc::clone(&disk),
        StoreSettings::default(),
        Arc::clone(&views),
        Arc::clone(&plan),
    );
    let store = store.expect("a new store");
    let open = LayerNumber::new(LAYERS + 1);
    let facts = Facts { now: NOW, ..Facts::default() };
    views.publish(ShardView {
        partition: Partition::new(0),
        plan: Arc::clone(&plan),
        layer: open,
        open: Arc::new(OpenLayer::new(open, Layer::new(Arc::clone(&plan), open.get()), facts)),
        sealing: Vec::new(),
        checkpoint: CheckpointStatus::default(),
    });
    let shelves = Shelves { _dir: dir, disk, plan, views, store };
    for (number, back) in (1..=LAYERS).zip((0..48_i64).rev()) {
        adopt(&shelves, number, back * 30 * MINUTE);
        shelves.store.fold_once(NOW, FoldLimits::default()).expect("folded");
    }
    shelves
}

fn reads(c: &mut Criterion) {
    let shelves = shelves();
    let end = NOW.as_event_time();
    let ask = |names: &[&str], granularity, back_ms| {
        let dims: Vec<_> = names.iter().filter_map(|name| shelves.plan.dimension(name)).collect();
        let set = shelves.plan.set_for(SetKind::Events, &dims).expect("a set");
        let range = TimeRange { start: end.minus_ms(back_ms), end };
        ScanRequest::new(Arc::clone(&shelves.plan), set, granularity, range)
    };
    let hour = 60 * MINUTE;
    let questions = [
        ("1h by minute", ask(&[], Granularity::Minute, hour)),
        ("24h by 5m", ask(&[], Granularity::FiveMinutes, 24 * hour)),
        ("24h by 1h and country", ask(&["country"], Granularity::Hour, 24 * hour)),
        (
            "24h by 1h and cube",
            ask(&["country", "device_type", "content_category"], Granularity::Hour, 24 * hour),
        ),
    ];
    let mut group = c.benchmark_group("read");
    group.measurement_time(Duration::from_secs(3)).sample_size(20);
    for (name, request) in questions {
        group.bench_function(name, |b| {
            b.iter(|| black_box(shelves.store.pin().read_estimated(&request)));
        });
    }
    group.bench_function("total of 24h by country", |b| {
        let mut request = ask(&["country"], Granularity::Minute, 24 * hour);
        b.iter(|| {
            let pinned = shelves.store.pin();
            request.range = pinned.outward(request.range);
            black_box(pinned.total(&request))
        });
    });
    group.finish();
    assert_eq!(shelves.views.shards(), 1, "the views live as long as the store");
}

fn folds(c: &mut Criterion) {
    let shelves = shelves();
    let mut number = LAYERS;
    let mut group = c.benchmark_group("fold");
    group.measurement_time(Duration::from_secs(10)).sample_size(10);
    group.bench_function("a layer of 20,000 events", |b| {
        b.iter_batched(
            || {
                number += 1;
                adopt(&shelves, number, 0);
            },
            |()| shelves.store.fold_once(NOW, FoldLimits::default()).expect("folded"),
            criterion::BatchSize::PerIteration,
        );
    });
    group.finish();
    let end: EventTime = NOW.as_event_time();
    assert!(shelves.store.pin().as_of().as_event_time() == end, "nothing moved the clock");
}

criterion_group!(benches, reads, folds);
criterion_main!(benches);
