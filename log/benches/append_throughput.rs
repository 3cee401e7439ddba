//! How many bytes a second become durable, and how fast they are read back.
#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nilometer_event::clock::HouseClock;
use nilometer_event::{Offset, Partition, PartitionCount, ReceiveTime, Topic};
use nilometer_log::{
    AppendBatch, Codec, Log, LogSettings, RealDisk, Records, RecordsBuilder, SegmentLog,
};

/// A request of 1,000 events of about 200 bytes each, in Avro's order of compressibility.
fn request() -> Records {
    let mut builder = RecordsBuilder::new();
    let mut rng = fastrand::Rng::with_seed(1);
    for event in 0..1_000 {
        let value = format!(
            "{:032x}user-{:06}page_viewed/content/{:05}DEmobiledocumentaries{}",
            rng.u128(..),
            rng.u32(0..500_000),
            rng.u32(0..20_000),
            "properties and the like ".repeat(5),
        );
        builder.push(ReceiveTime::from_ms(1_700_000_000_000 + event), None, value.as_bytes());
    }
    builder.build()
}

fn open(folder: &std::path::Path, codec: Codec) -> SegmentLog {
    let settings =
        LogSettings { codecs: [codec; 7], ..LogSettings::new(PartitionCount::new(4).unwrap()) };
    let disk = Arc::new(RealDisk::open(folder).unwrap());
    SegmentLog::open(disk, settings, Arc::new(HouseClock::default())).unwrap()
}

/// One request to each of four partitions, 16 such requests at once, all made durable.
fn append(criterion: &mut Criterion) {
    let records = request();
    let mut group = criterion.benchmark_group("append");
    group.throughput(Throughput::Bytes(records.bytes() as u64 * 4 * 16));
    group.sample_size(20);
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path(), codec);
        group.bench_function(BenchmarkId::from_parameter(format!("{codec:?}")), |bencher| {
            bencher.iter(|| {
                let submit = || {
                    let batches = (0..4).map(|partition| AppendBatch {
                        topic: Topic::UserEvents,
                        partition: Partition::new(partition),
                        records: records.clone(),
                    });
                    log.submit(batches.collect()).unwrap()
                };
                let pending: Vec<_> = (0..16).map(|_| submit()).collect();
                pending.into_iter().for_each(|pending| {
                    black_box(pending.wait().unwrap());
                });
            });
        });
    }
}

/// A shard's reader, a MiB at a time.
fn read(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path(), Codec::Lz4);
    let (topic, partition) = (Topic::UserEvents, Partition::new(0));
    for _ in 0..100 {
        log.append(vec![AppendBatch { topic, partition, records: request() }]).unwrap();
    }
    let mut group = criterion.benchmark_group("read");
    group.throughput(Throughput::Bytes(request().bytes() as u64 * 100));
    group.bench_function("all", |bencher| {
        bencher.iter(|| {
            let mut at = Offset::ZERO;
            while at < log.bounds(topic, partition).end {
                let fetched = log.read(topic, partition, at, 1 << 20).unwrap();
                black_box(fetched.iter().map(|record| record.value.len()).sum::<usize>());
                at = fetched.next();
            }
        });
    });
}

criterion_group!(benches, append, read);
criterion_main!(benches);
