//! How long do dashboard queries take on 90 days of base (in the cache), and how long does a fold?

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use nilometer_event::{
    Event, EventTime, Granularity, Partition, PartitionCount, ReceiveTime, TimeRange, UserHash,
};
use nilometer_log::disk::{Disk, RealDisk, create_dir_durably};
use nilometer_rollups::cells::{
    DimFilter, Layer, OwnedDimValue, ScanRequest, Tallies, write_layer,
};
use nilometer_rollups::declare::{Plan, SetKind};
use nilometer_rollups::view::{
    CheckpointStatus, Facts, LayerNumber, LayerSink, OpenLayer, SealedLayerFile, ShardView, Views,
};
use nilometer_rollups::{EmbeddedStore, FoldLimits, Store, StoreSettings};

const DEVICES: [&str; 3] = ["tv", "mobile", "desktop"];
const CATEGORIES: [&str; 8] =
    ["drama", "news", "sport", "kids", "music", "docu", "comedy", "other"];
const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// A layer a day.
const LAYERS: u64 = 90;
const COUNTRIES: usize = 60;
/// So that a country and day have more users than an exact set holds.
const EVENTS_PER_LAYER: usize = 700 * COUNTRIES;
const NOW: ReceiveTime = ReceiveTime::from_ms(1_700_000_000_000);

struct Shelves {
    _dir: tempfile::TempDir,
    disk: Arc<dyn Disk>,
    plan: Arc<Plan>,
    views: Arc<Views>,
    store: EmbeddedStore,
}

fn country(number: usize) -> String {
    format!("c{:02}", number % COUNTRIES)
}

/// A layer of a day that ends `back_ms` before now.
fn layer(plan: &Arc<Plan>, number: u64, back_ms: i64) -> Layer {
    let mut rng = fastrand::Rng::with_seed(number);
    let mut layer = Layer::new(Arc::clone(plan), number);
    let mut tallies = Tallies::new();
    for event in 0..EVENTS_PER_LAYER {
        let content = format!("c{}", rng.u32(0..200));
        let country = country(event);
        let event = Event {
            timestamp: NOW.as_event_time().minus_ms(back_ms + rng.i64(0..DAY)),
            event_id: "e",
            event_type: rng.choice(["view", "click", "play"]).unwrap_or("view"),
            country: Some(&country),
            device_type: rng.choice(DEVICES),
            content_category: rng.choice(CATEGORIES),
            content_id: Some(&content),
            session_duration_sec: Some(12.5),
            ..Event::default()
        };
        layer.count(&mut tallies, &event, Some(UserHash::new(rng.u64(0..200_000))));
    }
    layer.end_entry(&mut tallies);
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

/// Ninety days of events, all of it folded.
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
    for (number, back) in (1..=LAYERS).zip((0..90_i64).rev()) {
        adopt(&shelves, number, back * DAY);
        if number % 10 == 0 {
            shelves.store.fold_once(NOW, FoldLimits::default()).expect("folded");
        }
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
    let of = |mut request: ScanRequest, countries: std::ops::Range<usize>| {
        let text = |number| OwnedDimValue::Text(country(number).into());
        request.filter = vec![Some(DimFilter::any_of(countries.map(text)))];
        request
    };
    let cube = ["country", "device_type", "content_category"];
    let questions = [
        ("90d by 1h of one country", of(ask(&["country"], Granularity::Hour, 90 * DAY), 7..8)),
        ("90d by 1d of ten countries", of(ask(&["country"], Granularity::Day, 90 * DAY), 7..17)),
        ("1h by minute and device", ask(&["device_type"], Granularity::Minute, HOUR)),
        ("24h by 1h and cube", ask(&cube, Granularity::Hour, DAY)),
    ];
    let mut group = c.benchmark_group("read");
    group.measurement_time(Duration::from_secs(3)).sample_size(20);
    for (name, request) in questions {
        group.bench_function(name, |b| {
            b.iter(|| black_box(shelves.store.pin().read_estimated(&request)));
        });
    }
    for (name, back) in [("7d by country", 7 * DAY), ("90d by country", 90 * DAY)] {
        group.bench_function(name, |b| {
            let mut request = ask(&["country"], Granularity::Minute, back);
            b.iter(|| {
                let pinned = shelves.store.pin();
                request.range = pinned.outward(request.range);
                black_box(pinned.total(&request))
            });
        });
    }
    group.finish();
    assert_eq!(shelves.views.shards(), 1, "the views live as long as the store");
}

fn folds(c: &mut Criterion) {
    let shelves = shelves();
    let mut number = LAYERS;
    let mut group = c.benchmark_group("fold");
    group.measurement_time(Duration::from_secs(10)).sample_size(10);
    group.bench_function("a layer of a day", |b| {
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
