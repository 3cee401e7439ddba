//! `/v1/pipeline`: where every received record went, and how far behind each shard is.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use nilometer_access::SenderCounts;
use nilometer_event::{EventTime, Offset, Partition, ReceiveTime, TimeRange, Topic};
use nilometer_log::Log;
use nilometer_rollups::Pinned;
use nilometer_rollups::view::{Facts, ShardView};
use serde::Serialize;
use utoipa::ToSchema;

use super::clock::ClockStanding;
use super::json;
use super::openapi::ProblemDoc;
use crate::door::{Reader, Refused};
use crate::house::Memory;
use crate::state::QueryState;
use crate::turns::Length;

/// The pipeline at one moment.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Pipeline {
    /// Where the producers' records went.
    totals: Totals,
    /// What the terms miss of `received`; 0 unless something is wrong.
    residual: i64,
    /// Each topic of each shard.
    partitions: Vec<PipelinePartition>,
    /// From receipt until shown, in the last minutes; of the slowest shard.
    freshness_ms: FreshnessMs,
    /// Everything received up to here is counted.
    as_of: String,
    /// How the house clock stands to the wall clock.
    clock: ClockStanding,
    /// True while imports are being read.
    import_running: bool,
    /// Events of the last 24 hours that claimed to be yet to come, and count at their receipt.
    corrected_24h: u64,
    /// Sessions open for over 24 hours, which do not hold `final_until`.
    overlong_sessions: u64,
    /// The log in numbers.
    log: LogNumbers,
    /// The shelves in numbers.
    store: StoreNumbers,
    /// What the process holds of memory, and who.
    memory: Memory,
    /// Records lost to damage, by name.
    quarantined: Vec<QuarantinedRange>,
    /// `conflicts` of `totals`, by the source of the keys that sent them. A shard tells 100 by
    /// name; conflicts of others are `__other__`.
    conflicts_by_source: BTreeMap<String, u64>,
    /// By metric, all events that it counted without their number.
    unread: BTreeMap<String, u64>,
    /// Values that masking changed since the start, by field: `user_id`, `properties.NAME`.
    masked: BTreeMap<String, u64>,
    /// Keys that have sent most bytes since the start, the first of them first; at most 20.
    senders: Vec<Sender>,
}

/// What came by one key.
#[derive(Debug, Serialize, ToSchema)]
struct Sender {
    /// The key's id.
    key: String,
    label: String,
    /// Since the start; the refused ones among them.
    events: u64,
    /// Since the start, of bodies after decompression.
    bytes: u64,
    /// Requests over the key's quota, since the start.
    refused: u64,
    /// Since the UTC day began, over restarts.
    today_events: u64,
    /// Since the UTC day began, over restarts.
    today_bytes: u64,
}

/// Where the producers' records went: `received` is the sum of the terms up to `in_flight`.
#[derive(Debug, Default, Serialize, ToSchema)]
struct Totals {
    /// Records on the received topics, counted by the log.
    received: u64,
    unique: u64,
    duplicate: u64,
    late_pending: u64,
    dead_lettered: u64,
    erased: u64,
    quarantined: u64,
    /// Durable and not counted yet.
    in_flight: u64,
    /// Events behind the watermark, wherever they went.
    late: u64,
    /// Duplicates whose content differs from the first occurrence.
    conflicts: u64,
}

/// One topic of one shard.
#[derive(Debug, Serialize, ToSchema)]
struct PipelinePartition {
    topic: &'static str,
    partition: u16,
    /// The first offset that is not durable yet.
    end_offset: u64,
    /// The first offset that is not counted yet.
    position: u64,
    /// Records between them.
    lag: u64,
    /// How long the oldest of them has waited.
    lag_ms: i64,
    /// The shard's watermark; null while it recovers.
    watermark: Option<String>,
    /// The shard's last checkpoint; null while it recovers.
    checkpoint: Option<Checkpoint>,
}

/// A shard's last durable checkpoint.
#[derive(Debug, Serialize, ToSchema)]
struct Checkpoint {
    /// The entry that it holds everything up to; 0 before the first.
    seq: u64,
    /// Null before the first.
    age_ms: Option<i64>,
    /// Null where this process has written none.
    took_ms: Option<u64>,
    /// Tries that failed since.
    failures: u64,
}

/// Receive-to-shown latency; null before the first event.
#[derive(Debug, Default, Serialize, ToSchema)]
struct FreshnessMs {
    p50: Option<u64>,
    p99: Option<u64>,
}

/// The log in numbers.
#[derive(Debug, Serialize, ToSchema)]
struct LogNumbers {
    bytes: u64,
    /// What retention keeps at most.
    retention_bytes: u64,
    segments: u64,
    /// Null where the disk does not say.
    free_bytes: Option<u64>,
    reserve_bytes: u64,
    queue_bytes: u64,
}

/// The shelves in numbers.
#[derive(Debug, Serialize, ToSchema)]
struct StoreNumbers {
    bytes: u64,
    chunks: u64,
    /// They were found damaged: their windows answer 503.
    chunks_unreadable: u64,
    cells: u64,
    layers_waiting: u64,
    /// Their files do not open: their windows are damaged.
    layers_unreadable: u64,
    /// The disk refuses their files; they are tried again, for good.
    layers_refused: u64,
    folds: u64,
    fold_failures: u64,
    /// Null before the first.
    fold_took_ms: Option<u64>,
    damaged: u64,
}

/// Records lost to damage.
#[derive(Debug, Serialize, ToSchema)]
struct QuarantinedRange {
    topic: &'static str,
    partition: u16,
    first: u64,
    next: u64,
    file: String,
    reason: String,
}

/// Shows the conservation sum, lag, watermarks and checkpoints.
#[utoipa::path(
    get, path = "/v1/pipeline", tag = "reading",
    responses((status = 200, body = Pipeline), (status = 401, body = ProblemDoc)),
    security(("token" = []), ("session" = [])),
)]
pub(super) async fn get_pipeline(
    State(state): State<QueryState>,
    Reader(caller): Reader,
) -> Result<Response, Refused> {
    let (store, log) = (Arc::clone(state.store()), Arc::clone(state.log()));
    let (now, masked) = (state.clock().now(), state.house().masked_fields());
    let clock = ClockStanding::of(state.clock());
    let (senders, room) = (senders(&state), state.clone());
    let pipeline = state.status_reads().run(&caller, Length::Short, move || {
        let pinned = store.pin();
        let stats = store.stats();
        let numbers = StoreNumbers {
            bytes: stats.bytes,
            chunks: stats.chunks,
            chunks_unreadable: stats.chunks_unreadable,
            cells: stats.cells,
            layers_waiting: stats.layers_waiting,
            layers_unreadable: stats.layers_unreadable,
            layers_refused: stats.layers_refused,
            folds: stats.folds,
            fold_failures: stats.fold_failures,
            fold_took_ms: stats.fold_took_ms,
            damaged: stats.damaged,
        };
        let memory = room.house().memory();
        Pipeline { masked, senders, clock, memory, ..pipeline(&pinned, log.as_ref(), numbers, now) }
    });
    Ok(json(&pipeline.await?)?)
}

fn senders(state: &QueryState) -> Vec<Sender> {
    let (senders, _rest) = state.quotas().senders();
    let book = state.keys().load();
    let label = |key: &str| {
        let record = book.records().iter().find(|record| record.id == key);
        record.map(|record| record.label.clone()).unwrap_or_default()
    };
    let sender = |one: SenderCounts| Sender {
        label: label(&one.key),
        key: one.key,
        events: one.all.sent.events,
        bytes: one.all.sent.bytes,
        refused: one.all.refused,
        today_events: one.today.events,
        today_bytes: one.today.bytes,
    };
    senders.into_iter().map(sender).collect()
}

fn pipeline(pinned: &Pinned, log: &dyn Log, store: StoreNumbers, now: ReceiveTime) -> Pipeline {
    let mut totals = Totals::default();
    let mut partitions = Vec::new();
    let mut folded: u64 = 0;
    let shards = pinned.moment().shards();
    for partition in log.partitions().partitions() {
        let facts = shards.iter().find(|(shard, _)| *shard == partition).map(|(_, facts)| facts);
        let view = pinned.shards().iter().find(|view| view.partition == partition);
        for topic in Topic::RECEIVED {
            let row = partition_row(log, topic, partition, facts, view.map(Arc::as_ref), now);
            totals.received += row.end_offset.max(row.position);
            totals.in_flight += row.lag;
            folded += row.position;
            partitions.push(row);
        }
    }
    let counters = pinned.counters();
    totals.unique = counters.unique;
    totals.duplicate = counters.duplicate;
    totals.late_pending = counters.late_pending;
    totals.dead_lettered = counters.dead_lettered;
    totals.erased = counters.erased;
    totals.quarantined = counters.quarantined;
    totals.late = counters.late;
    totals.conflicts = counters.conflicts;
    // Received less in flight is what was folded, by the log's own count of records.
    let verdicts = counters.unique
        + counters.duplicate
        + counters.late_pending
        + counters.dead_lettered
        + counters.erased
        + counters.quarantined;
    let residual = i128::from(folded) - i128::from(verdicts);
    Pipeline {
        totals,
        residual: i64::try_from(residual).unwrap_or(i64::MAX),
        partitions,
        freshness_ms: freshness(shards),
        as_of: pinned.as_of().to_string(),
        clock: ClockStanding::default(),
        import_running: pinned.moment().import_running(),
        corrected_24h: corrected_within(pinned, now.as_event_time()),
        overlong_sessions: shards.iter().map(|(_, facts)| facts.overlong_sessions).sum(),
        log: log_numbers(log),
        store,
        memory: Memory::default(),
        quarantined: quarantined(log),
        conflicts_by_source: pinned.moment().conflicts_by_source(),
        unread: pinned.moment().unread(),
        masked: BTreeMap::new(),
        senders: Vec::new(),
    }
}

fn corrected_within(pinned: &Pinned, now: EventTime) -> u64 {
    let day = TimeRange { start: now.minus_ms(24 * 3_600_000), end: now.plus_ms(1) };
    pinned.moment().corrected().iter().map(|hours| hours.within(day)).sum()
}

fn partition_row(
    log: &dyn Log,
    topic: Topic,
    partition: Partition,
    facts: Option<&Facts>,
    view: Option<&ShardView>,
    now: ReceiveTime,
) -> PipelinePartition {
    let end = log.bounds(topic, partition).end;
    let position = facts.and_then(|facts| facts.positions.of(topic));
    let position = position.map_or(Offset::ZERO, |position| position.next);
    let lag = end.since(position);
    let checkpoint = view.map(|view| Checkpoint {
        seq: view.checkpoint.seq,
        age_ms: view.checkpoint.is_there().then(|| now.since(view.checkpoint.at).max(0)),
        took_ms: view.checkpoint.took_ms,
        failures: view.checkpoint.failures,
    });
    PipelinePartition {
        topic: topic.name(),
        partition: partition.get(),
        end_offset: end.get(),
        position: position.get(),
        lag,
        lag_ms: if lag == 0 { 0 } else { waited_ms(log, topic, partition, position, now) },
        watermark: facts.map(|facts| facts.watermark.to_string()),
        checkpoint,
    }
}

/// How long the record at `position` has waited; 0 where the log cannot say.
fn waited_ms(
    log: &dyn Log,
    topic: Topic,
    partition: Partition,
    position: Offset,
    now: ReceiveTime,
) -> i64 {
    let from = position.max(log.bounds(topic, partition).start);
    let oldest = log.read(topic, partition, from, 1).ok();
    let received = oldest.and_then(|fetched| fetched.iter().next().map(|record| record.timestamp));
    received.map_or(0, |received| now.since(received).max(0))
}

fn freshness(shards: &[(Partition, Facts)]) -> FreshnessMs {
    let readings = || shards.iter().filter_map(|(_, facts)| facts.freshness);
    FreshnessMs {
        p50: readings().map(|reading| reading.p50_ms).max(),
        p99: readings().map(|reading| reading.p99_ms).max(),
    }
}

fn log_numbers(log: &dyn Log) -> LogNumbers {
    let stats = log.stats();
    LogNumbers {
        bytes: stats.bytes,
        retention_bytes: stats.retention_bytes,
        segments: stats.segments,
        free_bytes: stats.free_bytes,
        reserve_bytes: stats.reserve_bytes,
        queue_bytes: stats.queue_bytes,
    }
}

fn quarantined(log: &dyn Log) -> Vec<QuarantinedRange> {
    let lost = log.quarantined().into_iter().take(1_000);
    lost.map(|lost| QuarantinedRange {
        topic: lost.topic.name(),
        partition: lost.partition.get(),
        first: lost.first.get(),
        next: lost.next.get(),
        file: lost.file,
        reason: lost.reason,
    })
    .collect()
}
