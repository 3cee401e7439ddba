//! What does counting alone cost? Every built-in cube, entries of 50,000 events, a seal each
//! 1.5 million; ids, sessions, decoding and the log are left out.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nilometer_event::{Event, EventTime, Granularity, TimeRange, UserHash};
use nilometer_stream::cells::{CellSource as _, Layer, ScanRequest, Tallies, layer_bytes};
use nilometer_stream::declare::{Plan, SetKind};

const ENTRY: u64 = 50_000;
const ENTRIES: u64 = 10;
/// Monday, 12:00 UTC.
const START: i64 = 1_763_985_600_000;

/// One event in the shape of the prototype's (bench/RESULTS.md): 1 M users, 5 % up to 90 min late.
struct Row {
    time: i64,
    user: u64,
    texts: [usize; 9],
    duration: Option<f64>,
    completed: Option<bool>,
}

struct Words {
    countries: Vec<String>,
    contents: Vec<String>,
    types: Vec<String>,
    devices: Vec<String>,
    categories: Vec<String>,
    versions: Vec<String>,
}

fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 29)
}

/// Favours small numbers, as countries and titles do.
fn skewed(state: &mut u64, n: u64) -> usize {
    let (a, b) = (next(state) % n, next(state) % n);
    usize::try_from(a * b / n).expect("small")
}

fn rows() -> Vec<Row> {
    let mut state = 42;
    let s = &mut state;
    (0..ENTRY * ENTRIES)
        .map(|at| {
            let now = START + i64::try_from(at / 50).expect("small");
            let back = if next(s).is_multiple_of(20) { 5_400_000 } else { 10_000 };
            Row {
                time: now - i64::try_from(next(s) % back).expect("small"),
                user: (next(s) % 1_000_000).wrapping_mul(0x1234_5678_9abc_def1),
                texts: [
                    skewed(s, 8),
                    skewed(s, 30),
                    skewed(s, 4),
                    skewed(s, 12),
                    skewed(s, 10_000),
                    skewed(s, 6),
                    skewed(s, 3),
                    skewed(s, 4),
                    skewed(s, 5),
                ],
                duration: (next(s).is_multiple_of(2))
                    .then(|| f64::from(u32::try_from(next(s) % 3_600_000).expect("small")) / 1e3),
                completed: next(s).is_multiple_of(3).then_some(next(s).is_multiple_of(2)),
            }
        })
        .collect()
}

fn words() -> Words {
    let list = |name: &str, n: usize| (0..n).map(|i| format!("{name}-{i}")).collect();
    Words {
        countries: list("C", 30),
        contents: list("content", 10_000),
        types: [
            "page_view",
            "play_start",
            "heartbeat",
            "click",
            "impression",
            "search",
            "purchase",
            "play_complete",
        ]
        .map(str::to_owned)
        .to_vec(),
        devices: list("device", 4),
        categories: list("category", 12),
        versions: list("5", 6),
    }
}

fn event<'a>(row: &Row, words: &'a Words) -> Event<'a> {
    Event {
        timestamp: EventTime::from_ms(row.time),
        event_id: "e",
        event_type: &words.types[row.texts[0]],
        country: Some(&words.countries[row.texts[1]]),
        device_type: Some(&words.devices[row.texts[2]]),
        content_category: Some(&words.categories[row.texts[3]]),
        content_id: Some(&words.contents[row.texts[4]]),
        app_version: Some(&words.versions[row.texts[5]]),
        subscription_tier: Some(&words.devices[row.texts[6]]),
        cohort: Some(&words.devices[row.texts[7]]),
        channel: Some(&words.categories[row.texts[8]]),
        session_duration_sec: row.duration,
        completed: row.completed,
        ..Event::default()
    }
}

fn fill(plan: &Arc<Plan>, rows: &[Row], words: &Words) -> Layer {
    let (mut layer, mut tallies) = (Layer::new(Arc::clone(plan), 0), Tallies::new());
    for (at, row) in rows.iter().enumerate() {
        layer.count(&mut tallies, &event(row, words), Some(UserHash::new(row.user)));
        if (at + 1).is_multiple_of(usize::try_from(ENTRY).expect("small")) {
            layer.end_entry(&mut tallies);
        }
    }
    layer.end_entry(&mut tallies);
    layer
}

fn cells(c: &mut Criterion) {
    let plan = Arc::new(Plan::builtin());
    let (rows, words) = (rows(), words());
    let mut group = c.benchmark_group("cells");
    group.sample_size(10);
    group.throughput(Throughput::Elements(ENTRY * ENTRIES));
    group.bench_function("count", |b| b.iter(|| black_box(fill(&plan, &rows, &words))));
    let layer = fill(&plan, &rows, &words);
    eprintln(&layer);
    group.bench_function("seal", |b| b.iter(|| black_box(layer_bytes(&layer))));
    let country = plan.dimension("country").expect("built in");
    let set = plan.set_for(SetKind::Events, &[country]).expect("built in");
    let range = TimeRange {
        start: EventTime::from_ms(START - 86_400_000),
        end: EventTime::from_ms(START + 86_400_000),
    };
    let request = ScanRequest::new(Arc::clone(&plan), set, Granularity::Minute, range);
    group.throughput(Throughput::Elements(1));
    group.bench_function("scan_country_by_minute", |b| {
        b.iter(|| {
            let mut total = request.empty();
            layer
                .scan(&request, &mut |cell| cell.aggregates.merge_into(&mut total))
                .expect("memory");
            black_box(total)
        });
    });
    group.finish();
}

/// Figures that a timing does not show.
fn eprintln(layer: &Layer) {
    let bytes = layer_bytes(layer).map_or(0, |bytes| bytes.len());
    #[expect(clippy::print_stderr, reason = "a benchmark reports on the terminal")]
    {
        eprintln!(
            "{} cells, {} bytes in memory, {bytes} in a file",
            layer.cells(),
            layer.memory_bytes()
        );
    }
}

criterion_group!(benches, cells);
criterion_main!(benches);
