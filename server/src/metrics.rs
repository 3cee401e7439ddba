//! Numbers of the house itself: the log, the process, the clock.

use std::collections::BTreeMap;
use std::sync::Arc;

use nilometer_access::Buffers;
use nilometer_event::clock::{Clock, Standing};
use nilometer_log::{Log, LogStats};
use nilometer_query::Memory;
use nilometer_rollups::Store;
use nilometer_rollups::view::{ShardMemory, Views};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use crate::allocator::{self, Held};
use crate::{logging, scrub};

/// Registers the metrics that no room registers by itself.
pub(crate) fn register(
    registry: &mut Registry,
    log: Arc<dyn Log>,
    clock: Arc<dyn Clock>,
    holders: Arc<Holders>,
) {
    let read = move || House {
        memory: holders.memory(),
        log: log.stats(),
        standing: clock.standing(),
        allocator: allocator::held(),
        log_lines_lost: logging::lines_lost(),
        exchanges_ended: holders.exchanges.lost(),
        log_unchecked: scrub::log_unchecked(),
    };
    registry.register_collector(Box::new(HouseCollector(Box::new(read))));
}

/// Who can say how much memory they hold.
#[derive(Debug)]
pub(crate) struct Holders {
    pub(crate) limit_bytes: u64,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) views: Arc<Views>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) buffers: Buffers,
    pub(crate) exchanges: Buffers,
    pub(crate) answers: Gauge,
}

impl Holders {
    pub(crate) fn memory(&self) -> Memory {
        let (limit_bytes, resident_bytes) = (self.limit_bytes, resident_bytes());
        Memory { limit_bytes, resident_bytes, parts: self.parts() }
    }

    /// Bytes by part, about.
    fn parts(&self) -> BTreeMap<&'static str, u64> {
        let shards = self.views.memory();
        let sum = |of: fn(&ShardMemory) -> u64| shards.iter().map(of).sum::<u64>();
        let wide = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        let store = self.store.stats();
        let mut parts = BTreeMap::from([
            ("layers", sum(|it| it.open + it.sealing)),
            ("ids", sum(|it| it.ids)),
            ("sessions", sum(|it| it.sessions)),
            ("guard", sum(|it| it.guard)),
            ("entries", sum(|it| it.entry)),
            ("layers_waiting", store.layers_bytes),
            ("cache", store.cache_bytes),
            ("bodies", wide(self.buffers.held_bytes() + self.exchanges.held_bytes())),
            ("log_queue", self.log.stats().queue_bytes),
            ("answers", u64::try_from(self.answers.get()).unwrap_or(0)),
        ]);
        if let Some(held) = allocator::held() {
            let books = held.active.saturating_sub(held.allocated) + held.metadata;
            parts.extend([("freed", held.freed()), ("allocator", books)]);
        }
        parts.extend(status_bytes("RssFile:").map(|bytes| ("program", bytes)));
        parts
    }
}

/// What is read at each scrape; what is not known is absent there, for 0 would be an alarm.
#[derive(Clone, Debug, Default)]
struct House {
    memory: Memory,
    log: LogStats,
    standing: Standing,
    allocator: Option<Held>,
    log_lines_lost: u64,
    exchanges_ended: u64,
    log_unchecked: u64,
}

struct HouseCollector(Box<dyn Fn() -> House + Send + Sync>);

impl std::fmt::Debug for HouseCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("HouseCollector").finish_non_exhaustive()
    }
}

type Reading = (&'static str, &'static str, fn(&LogStats) -> u64);

const GAUGES: [Reading; 7] = [
    ("nilometer_log_bytes", "Bytes in all segments", |it| it.bytes),
    ("nilometer_log_dead_letter_bytes", "Bytes of these that are dead letters", |it| {
        it.dead_letter_bytes
    }),
    ("nilometer_log_retention_bytes", "What the log keeps at most", |it| it.retention_bytes),
    ("nilometer_log_segments", "Segments of all topics and partitions", |it| it.segments),
    ("nilometer_log_disk_reserve_bytes", "What must stay free for data", |it| it.reserve_bytes),
    ("nilometer_log_queue_bytes", "Waiting for their commit", |it| it.queue_bytes),
    ("nilometer_log_queue_batches", "Waiting for their commit", |it| it.queue_batches),
];

const COUNTERS: [Reading; 10] = [
    ("nilometer_log_commits", "Group commits that succeeded", |it| it.commits),
    ("nilometer_log_records", "Records made durable", |it| it.records),
    ("nilometer_log_syncs", "Files synced", |it| it.syncs),
    ("nilometer_log_failures", "Calls that the disk refused", |it| it.failures),
    ("nilometer_log_refused_full", "Batches refused: queue full", |it| it.refused_full),
    ("nilometer_log_refused_disk_full", "Batches refused: disk full", |it| it.refused_disk_full),
    ("nilometer_log_quarantined_records", "Records lost to damage", |it| it.quarantined_records),
    ("nilometer_log_removed_segments", "Segments past retention", |it| it.removed_segments),
    (
        "nilometer_log_removed_early_records",
        "Records that went before log.retention_h, for room",
        |it| it.removed_early,
    ),
    ("nilometer_log_removed_early_dead_letters", "Dead letters that went so", |it| {
        it.removed_early_letters
    }),
];

type HeldOf = (&'static str, fn(&Held) -> u64);

const ALLOCATOR: [HeldOf; 5] = [
    ("allocated", |it| it.allocated),
    ("active", |it| it.active),
    ("metadata", |it| it.metadata),
    ("resident", |it| it.resident),
    ("retained", |it| it.retained),
];

fn tell_memory(
    encoder: &mut DescriptorEncoder<'_>,
    parts: &BTreeMap<&'static str, u64>,
) -> Result<(), std::fmt::Error> {
    let (name, help) = ("nilometer_process_memory_bytes", "Who holds resident memory, by part");
    let kind = ConstGauge::new(0i64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (part, bytes) in parts {
        let value = i64::try_from(*bytes).unwrap_or(i64::MAX);
        ConstGauge::new(value).encode(family.encode_family(&[("part", *part)])?)?;
    }
    Ok(())
}

fn tell_allocator(encoder: &mut DescriptorEncoder<'_>, held: &Held) -> Result<(), std::fmt::Error> {
    let (name, help) =
        ("nilometer_process_allocator_bytes", "As the allocator counts them, by kind");
    let kind = ConstGauge::new(0i64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (kind, read) in ALLOCATOR {
        let value = i64::try_from(read(held)).unwrap_or(i64::MAX);
        ConstGauge::new(value).encode(family.encode_family(&[("kind", kind)])?)?;
    }
    Ok(())
}

impl Collector for HouseCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let house = (self.0)();
        let House { log: stats, standing, memory, .. } = house;
        for (name, help, read) in COUNTERS {
            counter(&mut encoder, name, help, read(&stats))?;
        }
        counter(
            &mut encoder,
            "nilometer_process_log_lines_lost",
            "Lines for stderr that nobody took",
            house.log_lines_lost,
        )?;
        counter(
            &mut encoder,
            "nilometer_process_exchanges_ended",
            "Exchanges whose client was waited for longest and whose memory others needed",
            house.exchanges_ended,
        )?;
        gauge(
            &mut encoder,
            "nilometer_log_unchecked_partitions",
            "Partitions of topics that are not checked, as the disk refuses them; they are tried again",
            house.log_unchecked,
        )?;
        for (name, help, read) in GAUGES {
            gauge(&mut encoder, name, help, read(&stats))?;
        }
        if let Some(free) = stats.free_bytes {
            gauge(&mut encoder, "nilometer_log_disk_free_bytes", "Free on the disk", free)?;
        }
        if let Some(resident) = memory.resident_bytes {
            gauge(&mut encoder, "nilometer_process_resident_bytes", "Resident memory", resident)?;
        }
        tell_memory(&mut encoder, &memory.parts)?;
        if let Some(held) = &house.allocator {
            tell_allocator(&mut encoder, held)?;
        }
        gauge(
            &mut encoder,
            "nilometer_clock_stands_still_ms",
            "How far wall time stands behind the house clock; above a second look at NTP",
            standing.behind_ms.unsigned_abs(),
        )?;
        gauge(
            &mut encoder,
            "nilometer_clock_wall_ahead_ms",
            "How far wall time has jumped ahead of the house clock, which does not follow it",
            standing.ahead_ms.unsigned_abs(),
        )?;
        gauge(
            &mut encoder,
            "nilometer_process_memory_limit_bytes",
            "The budget of server.memory_limit_mib",
            memory.limit_bytes,
        )
    }
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> Result<(), std::fmt::Error> {
    tell(encoder, name, help, &ConstCounter::new(value))
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> Result<(), std::fmt::Error> {
    tell(encoder, name, help, &ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn tell(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> Result<(), std::fmt::Error> {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

/// Resident memory as the kernel counts it.
pub(crate) fn resident_bytes() -> Option<u64> {
    status_bytes("VmRSS:")
}

fn status_bytes(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests;
