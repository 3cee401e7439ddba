//! What a whole shard costs an event: read, journal, fold, show; over a log in memory.

use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use nilometer_event::clock::{Clock, ManualClock};
use nilometer_event::{Event, IdentityKey, Partition, PartitionCount, ReceiveTime, Topic, avro};
use nilometer_log::disk::sim::SimDisk;
use nilometer_log::{AppendBatch, Disk, Log, MemoryLog, Records, RecordsBuilder};
use nilometer_stream::declare::{Declarations, Plan};
use nilometer_stream::shell::PlanBook;
use nilometer_stream::tables::TableBook;
use nilometer_stream::view::{LayerNumber, LayerSink, SealedLayerFile, Views};
use nilometer_stream::{Shell, ShellConfig, StreamSettings, Writing};

const EVENTS: u32 = 50_000;
const NOW_MS: i64 = 1_795_503_600_000;

#[derive(Debug)]
struct NoSink;

impl LayerSink for NoSink {
    fn adopt(&self, _sealed: SealedLayerFile) {}

    fn folded_through(&self, _partition: Partition) -> LayerNumber {
        LayerNumber::NONE
    }
}

/// One entry's records: 2 % repeats, 5 % up to 90 min late, as in FOLD.md.
fn records(rng: &mut fastrand::Rng) -> Records {
    let mut builder = RecordsBuilder::new();
    let mut value = Vec::new();
    for number in 0..EVENTS {
        let number = if rng.u8(0..50) == 0 { number / 2 } else { number };
        let late = rng.u8(0..20) == 0;
        let age_ms = if late { rng.i64(0..5_400_000) } else { rng.i64(0..10_000) };
        let (id, user) = (format!("018f-{number:08}"), format!("user-{}", number % 20_011));
        let (content, country) = (format!("c-{}", number % 997), format!("C{}", number % 40));
        let event = Event {
            received_at: ReceiveTime::from_ms(NOW_MS),
            timestamp: ReceiveTime::from_ms(NOW_MS - age_ms).as_event_time(),
            sent_timestamp: ReceiveTime::from_ms(NOW_MS - age_ms).as_event_time(),
            event_id: &id,
            event_type: ["page_view", "click", "play_start", "heartbeat"]
                [usize::try_from(number % 4).unwrap_or(0)],
            user_id: Some(&user),
            country: Some(&country),
            device_type: Some(
                ["tv", "mobile", "desktop"][usize::try_from(number % 3).unwrap_or(0)],
            ),
            content_id: Some(&content),
            content_category: Some("drama"),
            channel: Some("organic"),
            session_duration_sec: Some(f64::from(number % 600)),
            completed: Some(number % 3 == 0),
            ..Event::default()
        };
        value.clear();
        avro::encode(&event, &mut value);
        builder.push(ReceiveTime::from_ms(NOW_MS), None, &value);
    }
    builder.build()
}

fn shell(records: &Records) -> Option<Shell> {
    let one = PartitionCount::new(1)?;
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new(one));
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(ReceiveTime::from_ms(NOW_MS)));
    let plan = Arc::new(Plan::builtin());
    let partition = Partition::new(0);
    let batch = AppendBatch { topic: Topic::UserEvents, partition, records: records.clone() };
    log.append(vec![batch]).ok()?;
    Shell::recover(ShellConfig {
        partition,
        identity: IdentityKey::new([7; 32]),
        settings: StreamSettings { entry_bytes_max: 1 << 30, ..StreamSettings::default() },
        log,
        tables: Arc::new(TableBook::open(Arc::clone(&disk), 1, 1_000, 1 << 20).ok()?),
        plans: Arc::new(PlanBook::new(Arc::clone(&disk), plan, Declarations::default())),
        disk,
        sink: Arc::new(NoSink),
        views: Arc::new(Views::new(one)),
        clock,
        writing: Writing::Inline,
        mutant: None,
    })
    .ok()
}

fn fold(criterion: &mut Criterion) {
    let records = records(&mut fastrand::Rng::with_seed(1));
    let mut group = criterion.benchmark_group("fold");
    group.throughput(Throughput::Elements(u64::from(EVENTS))).sample_size(10);
    group.bench_function("an entry of 50,000 events", |bencher| {
        bencher.iter_batched(
            || shell(&records),
            |shell| shell.map(|mut shell| shell.step(ReceiveTime::from_ms(NOW_MS)).ok()),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, fold);
criterion_main!(benches);
