//! What does the fold cost (S-2)? One shard over a log in memory: read, journal, fold, show;
//! every built-in cube, sessions and distinct users, entries of 50,000 events, a seal each 30.
//!
//! CPU time of the fold's thread, in the shape of the prototype's (bench/RESULTS.md): 1 M users,
//! 2 % repeats, 95 % of the events within 10 s, 5 % up to 90 min late. `NILOMETER_BENCH_IDS` says
//! how many ids are live at the start; S-2 asks for 10 M, which take half a minute to fold.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads its own settings")]

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nilometer_event::clock::{Clock, ManualClock};
use nilometer_event::{Event, IdentityKey, Partition, PartitionCount, ReceiveTime, Topic, avro};
use nilometer_log::disk::sim::SimDisk;
use nilometer_log::{AppendBatch, Disk, Log, MemoryLog, Records, RecordsBuilder};
use nilometer_stream::declare::{Declarations, Plan};
use nilometer_stream::shell::PlanBook;
use nilometer_stream::tables::TableBook;
use nilometer_stream::view::{LayerNumber, LayerSink, SealedLayerFile, Views};
use nilometer_stream::{FoldSettings, Shell, ShellConfig, StreamSettings, Turns, Writing};

/// The server's allocator: the fold asks for much memory and gives much back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const EVENTS: u64 = 50_000;
const USERS: u64 = 1_000_000;
/// A batch of the log, as a gateway's body makes one.
const BATCH: u64 = 500;
const START_MS: i64 = 1_795_503_600_000;
const LIVE_IDS: u64 = 10_000_000;

#[derive(Debug)]
struct NoSink;

impl LayerSink for NoSink {
    fn adopt(&self, _sealed: SealedLayerFile) {}

    fn folded_through(&self, _partition: Partition) -> LayerNumber {
        LayerNumber::NONE
    }
}

/// Makes the events: number by number, the same ones in every run.
struct Audience {
    rng: fastrand::Rng,
    countries: Vec<String>,
    contents: Vec<String>,
    categories: Vec<String>,
    versions: Vec<String>,
}

impl Audience {
    fn new() -> Self {
        let list = |name: &str, n: usize| (0..n).map(|i| format!("{name}{i}")).collect();
        Self {
            rng: fastrand::Rng::with_seed(1),
            countries: list("C", 60),
            contents: list("content-", 10_000),
            categories: list("category-", 12),
            versions: list("5.2.", 6),
        }
    }

    /// Favours the first, as countries and titles do.
    fn pick<T>(&mut self, n: usize, of: impl Fn(&Self, usize) -> T) -> T {
        let place = self.rng.usize(0..n) * self.rng.usize(0..n) / n;
        of(self, place)
    }

    /// One entry's records, the first of them event `first`.
    fn records(&mut self, first: u64, now_ms: i64) -> Vec<Records> {
        let mut batches = Vec::new();
        let mut value = Vec::new();
        for start in (first..first + EVENTS).step_by(usize::try_from(BATCH).unwrap_or(1)) {
            let mut builder = RecordsBuilder::new();
            for number in start..start + BATCH {
                value.clear();
                self.encode(number, now_ms, &mut value);
                builder.push(ReceiveTime::from_ms(now_ms), None, &value);
            }
            batches.push(builder.build());
        }
        batches
    }

    fn encode(&mut self, number: u64, now_ms: i64, value: &mut Vec<u8>) {
        const TYPES: [&str; 8] = [
            "page_view",
            "heartbeat",
            "play_start",
            "click",
            "impression",
            "search",
            "play_complete",
            "purchase",
        ];
        let number = if self.rng.u8(0..50) == 0 { number / 2 } else { number };
        let late = self.rng.u8(0..20) == 0;
        let age_ms = self.rng.i64(0..if late { 5_400_000 } else { 10_000 });
        let time = ReceiveTime::from_ms(now_ms - age_ms).as_event_time();
        let user = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % USERS;
        let (id, user) = (format!("018f3c1e-7d1a-7bd0-{number:016x}"), format!("user-{user}"));
        let properties = format!(
            r#"{{"player":"web","bitrate_kbps":4200,"title":"Some title of a film","autoplay":false,"position":{number},"referrer":"https://shop.example/films/{number}"}}"#
        );
        let country = self.pick(60, |own, at| own.countries[at].clone());
        let content = self.pick(10_000, |own, at| own.contents[at].clone());
        let category = self.pick(12, |own, at| own.categories[at].clone());
        let version = self.pick(6, |own, at| own.versions[at].clone());
        let event = Event {
            received_at: ReceiveTime::from_ms(now_ms),
            timestamp: time,
            sent_timestamp: time,
            key: Some("write-8rwM7Wsc"),
            event_id: &id,
            event_type: self.pick(8, |_, at| TYPES[at]),
            user_id: Some(&user),
            country: Some(&country),
            device_type: Some(
                self.pick(6, |_, at| ["mobile", "tv", "desktop", "tablet", "console", "other"][at]),
            ),
            app_version: Some(&version),
            content_id: Some(&content),
            content_category: Some(&category),
            subscription_tier: Some(["free", "basic", "premium"][self.rng.usize(0..3)]),
            cohort: Some(["a", "b", "c", "d"][self.rng.usize(0..4)]),
            channel: Some(["organic", "paid", "email", "social", "direct"][self.rng.usize(0..5)]),
            session_duration_sec: self
                .rng
                .bool()
                .then(|| f64::from(self.rng.u32(0..3_600_000)) / 1e3),
            completed: (number % 3 == 0).then(|| self.rng.bool()),
            properties: Some(&properties),
            ..Event::default()
        };
        avro::encode(&event, value);
    }
}

/// A shard under load; each step folds one entry of new events, a second after the last.
struct Load {
    shell: Shell,
    log: Arc<dyn Log>,
    audience: Audience,
    next: u64,
    now_ms: i64,
}

impl Load {
    fn new() -> Option<Self> {
        let one = PartitionCount::new(1)?;
        let log: Arc<dyn Log> = Arc::new(MemoryLog::new(one));
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(ReceiveTime::from_ms(START_MS)));
        let fold = FoldSettings {
            hot_ids_max: 2 * LIVE_IDS,
            hot_sessions_max: 2 * USERS,
            ..FoldSettings::default()
        };
        let shell = Shell::recover(ShellConfig {
            partition: Partition::new(0),
            identity: IdentityKey::new([7; 32]),
            settings: StreamSettings {
                entry_bytes_max: 1 << 30,
                layer_bytes_max: 1 << 30,
                fold,
                ..StreamSettings::default()
            },
            log: Arc::clone(&log),
            tables: Arc::new(TableBook::open(Arc::clone(&disk), 1, 1_000, 1 << 20).ok()?),
            plans: Arc::new(PlanBook::new(
                Arc::clone(&disk),
                Arc::new(Plan::builtin()),
                Declarations::default(),
            )),
            disk,
            sink: Arc::new(NoSink),
            views: Arc::new(Views::new(one)),
            clock,
            writing: Writing::Threads(Turns::for_this_machine()),
            mutant: None,
        })
        .ok()?;
        Some(Self { shell, log, audience: Audience::new(), next: 0, now_ms: START_MS })
    }

    /// CPU time of one entry.
    fn step(&mut self) -> Option<Duration> {
        for records in self.audience.records(self.next, self.now_ms) {
            let partition = Partition::new(0);
            let batch = AppendBatch { topic: Topic::UserEvents, partition, records };
            self.log.append(vec![batch]).ok()?;
        }
        self.next += EVENTS;
        self.now_ms += 1_000;
        let began = cpu_time();
        let report = self.shell.step(ReceiveTime::from_ms(self.now_ms)).ok()?;
        let took = cpu_time().saturating_sub(began);
        assert_eq!(report.folded, EVENTS, "an entry takes what there is");
        Some(took)
    }
}

/// CPU time of this thread: the machine may be busy with something else.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("Linux tells a thread's CPU time"))
}

fn fold(criterion: &mut Criterion) {
    let live = std::env::var("NILOMETER_BENCH_IDS").ok().and_then(|ids| ids.parse().ok());
    let mut load = Load::new().expect("a shard over a log in memory recovers");
    while load.next < live.unwrap_or(LIVE_IDS) {
        load.step().expect("a step over a log in memory works");
    }
    let mut group = criterion.benchmark_group("fold");
    group.throughput(Throughput::Elements(EVENTS)).sample_size(10);
    group.bench_function("an entry of 50,000 events", |bencher| {
        bencher.iter_custom(|entries| {
            (0..entries).map(|_| load.step().expect("a step over a log in memory works")).sum()
        });
    });
    group.finish();
}

criterion_group!(benches, fold);
criterion_main!(benches);
