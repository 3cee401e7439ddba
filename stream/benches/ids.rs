//! What does an id cost among 10 million hot ones, and what past the cap? Entries of 50,000 ids with
//! 2 % repeats, a seal each 30 s; runs lie on a simulated disk and are written outside the time
//! that is measured.

use std::cell::RefCell;
use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use nilometer_event::{EventTime, Fingerprint, ReceiveTime, TimeCorrection};
use nilometer_log::Disk;
use nilometer_log::disk::sim::SimDisk;
use nilometer_stream::ids::{ColdIds, IdKey, Ids, IdsSettings, Verdict};

const ENTRY: u64 = 50_000;
const HOT: u64 = 10_000_000;
/// Monday, 12:00 UTC.
const START_MS: i64 = 1_763_985_600_000;
/// 1,389 events a second: two hours are 10 million.
const CALM_ENTRY_MS: i64 = 36_000;
/// How often a checkpoint seals.
const SEAL_MS: i64 = 30_000;
/// 33,333 events a second: the cap is reached after five minutes.
const BUSY_ENTRY_MS: i64 = 1_500;

struct House {
    ids: Ids,
    disk: SimDisk,
    entries: u64,
    entry_ms: i64,
    sealed_ms: i64,
}

impl House {
    fn new(entry_ms: i64) -> Self {
        let settings = IdsSettings { hot_ids_max: HOT + HOT / 10, ..IdsSettings::new("0/ids") };
        Self {
            ids: Ids::new(settings, EventTime::from_ms(START_MS)),
            disk: SimDisk::new(1),
            entries: 0,
            entry_ms,
            sealed_ms: START_MS,
        }
    }

    fn now_ms(&self) -> i64 {
        START_MS + i64::try_from(self.entries).expect("small") * self.entry_ms
    }

    /// The next entry's ids: each 50th was sent an entry before.
    fn keys(&self) -> Vec<IdKey> {
        let first = self.entries * ENTRY;
        let sent = EventTime::from_ms(self.now_ms());
        let bucket = self.ids.bucket_of(sent, TimeCorrection::None);
        let id = |n: u64| if n.is_multiple_of(50) { n.saturating_sub(ENTRY) } else { n };
        let key = |n: u64| IdKey {
            fingerprint: Fingerprint::new(mix(id(n))),
            check: 7,
            bucket,
            by_arrival: false,
        };
        (first..first + ENTRY).map(key).collect()
    }

    fn admit(&mut self, keys: &[IdKey]) -> u64 {
        let lookups = self.ids.plan_lookups(keys.iter().copied());
        let cold = if lookups.is_empty() {
            ColdIds::empty()
        } else {
            lookups.fetch(&self.disk).expect("a simulated disk without faults")
        };
        self.entries += 1;
        let verdicts = keys.iter().map(|&key| self.ids.admit(key, &cold));
        verdicts.filter(|&verdict| verdict == Verdict::New).count() as u64
    }

    fn seal_when_due(&mut self) {
        if self.now_ms() - self.sealed_ms < SEAL_MS {
            return;
        }
        self.sealed_ms = self.now_ms();
        let now = ReceiveTime::from_ms(self.now_ms());
        let watermark = EventTime::from_ms(self.now_ms() - 7_200_000);
        let sealed = self.ids.seal(self.entries, now, watermark);
        let written = sealed.write(&self.disk).expect("a simulated disk without faults");
        self.ids.installed(written);
        if let Some(merge) = self.ids.plan_merge() {
            let merged = merge.run(&self.disk).expect("a simulated disk without faults");
            self.ids.merged(merged);
        }
        for path in self.disk.paths() {
            if !self.ids.files().iter().any(|file| *file == path) {
                self.disk.remove(&path).expect("a simulated disk without faults");
            }
        }
    }
}

fn mix(n: u64) -> u64 {
    let z = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9).wrapping_add(n);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn measure(criterion: &mut Criterion, name: &str, entry_ms: i64) {
    let mut house = House::new(entry_ms);
    for _ in 0..HOT / ENTRY + 40 {
        let keys = house.keys();
        black_box(house.admit(&keys));
        house.seal_when_due();
    }
    let tenths = house.ids.memory_bytes() as u64 * 10 / house.ids.hot_len();
    #[expect(clippy::print_stdout, reason = "a figure of the bench")]
    {
        println!("{} hot ids, {tenths} tenths of a byte each, all in", house.ids.hot_len());
    }
    let house = RefCell::new(house);
    let mut group = criterion.benchmark_group("ids");
    group.throughput(Throughput::Elements(ENTRY)).sample_size(20);
    group.bench_function(name, |bencher| {
        let next = || {
            let mut house = house.borrow_mut();
            house.seal_when_due();
            house.keys()
        };
        let admit = |keys: Vec<IdKey>| house.borrow_mut().admit(&keys);
        bencher.iter_batched(next, admit, BatchSize::PerIteration);
    });
    group.finish();
}

fn ids(criterion: &mut Criterion) {
    measure(criterion, "admit among 10 M hot", CALM_ENTRY_MS);
    measure(criterion, "admit past the cap", BUSY_ENTRY_MS);
}

criterion_group!(benches, ids);
criterion_main!(benches);
