//! What the room's tests stand on: a small audience, counted into layers of two shards.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use nilometer_access::{
    Buffers, KeyBook, KeyKind, Keys, Problem, QuotaSettings, Quotas, SessionParts, Sessions,
    SignInCodes, SignedOut,
};
use nilometer_event::clock::ManualClock;
use nilometer_event::{
    Event, EventTime, Identity, Partition, PartitionCount, ReceiveTime, UserHash,
};
use nilometer_log::disk::sim::SimDisk;
use nilometer_log::{Log, MemoryLog};
use nilometer_rollups::cells::{Layer, SessionMeasure, Tallies};
use nilometer_rollups::declare::Plan;
use nilometer_rollups::trace::{Decided, SentCopy};
use nilometer_rollups::view::{CheckpointStatus, Facts, LayerNumber, OpenLayer, ShardView, Views};
use nilometer_rollups::{MemoryStore, Store, StoreSettings};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::house::{House, Readiness, Replay, Replayed, TableFormat, TableStatus};
use crate::metrics::QueryMetrics;
use crate::settings::QuerySettings;
use crate::state::{QueryParts, QueryState};

/// 2026-11-24T07:00:30Z: the tests' now.
pub(crate) const NOW_MS: i64 = 1_795_503_630_000;
/// Shards of the tests.
pub(crate) const SHARDS: u16 = 2;

/// One event, as far as metrics see it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub(crate) at_ms: i64,
    /// 0 is a service.
    pub(crate) user: u64,
    pub(crate) event_type: &'static str,
    pub(crate) country: Option<&'static str>,
    pub(crate) device_type: Option<&'static str>,
    pub(crate) content_id: Option<&'static str>,
    pub(crate) completed: Option<bool>,
    pub(crate) duration_sec: Option<f64>,
    /// The key that sent it, and how many new values it may bring.
    pub(crate) by: Option<(&'static str, u32)>,
}

/// One session, as far as metrics see it.
#[derive(Clone, Debug)]
pub(crate) struct Stayed {
    pub(crate) start_ms: i64,
    pub(crate) user: u64,
    pub(crate) country: Option<&'static str>,
    pub(crate) events: u64,
}

/// Shelves that show what they are told.
#[derive(Debug)]
pub(crate) struct Shelf {
    pub(crate) plan: Arc<Plan>,
    pub(crate) views: Arc<Views>,
    pub(crate) store: Arc<MemoryStore>,
}

impl Shelf {
    pub(crate) fn new() -> Self {
        Self::with(Plan::builtin())
    }

    /// Shelves of cells by this plan.
    pub(crate) fn with(plan: Plan) -> Self {
        Self::of(plan, StoreSettings::default())
    }

    /// One whose answers hold no row at once, so that each is made of the first rows of many.
    pub(crate) fn narrow(plan: Plan) -> Self {
        Self::of(plan, StoreSettings { read_rows_max: 0, ..StoreSettings::default() })
    }

    pub(crate) fn of(plan: Plan, settings: StoreSettings) -> Self {
        let plan = Arc::new(plan);
        let views = Arc::new(Views::new(PartitionCount::new(SHARDS).unwrap()));
        let store = MemoryStore::new(
            Arc::new(SimDisk::new(1)),
            settings,
            Arc::clone(&views),
            Arc::clone(&plan),
        );
        let shelf = Self { plan, views, store: Arc::new(store) };
        shelf.show(&[], &[], NOW_MS);
        shelf
    }

    /// Shows exactly these events and sessions, as of `now_ms`.
    pub(crate) fn show(&self, events: &[Told], sessions: &[Stayed], now_ms: i64) {
        self.show_with(events, sessions, &Facts::default(), now_ms);
    }

    /// As [`Self::show`], with what `told` says besides, of the first shard.
    pub(crate) fn show_with(
        &self,
        events: &[Told],
        sessions: &[Stayed],
        told: &Facts,
        now_ms: i64,
    ) {
        for shard in 0..SHARDS {
            let mut tallies = Tallies::new();
            let mut layer = counted(&self.plan, 1, events, shard, &mut tallies);
            let mine = |user: u64| user % u64::from(SHARDS) == u64::from(shard);
            for stayed in sessions.iter().filter(|stayed| mine(stayed.user)) {
                let measure = SessionMeasure {
                    duration_ms: 5_000,
                    events: stayed.events,
                    views: 0,
                    conversions: 0,
                };
                let dims: Vec<Option<&str>> = self
                    .plan
                    .session_dims
                    .iter()
                    .map(|dim| match self.plan.dimensions[dim.index()].name.as_str() {
                        "country" => stayed.country,
                        _ => None,
                    })
                    .collect();
                let start = EventTime::from_ms(stayed.start_ms);
                layer.count_session(&mut tallies, start, &dims, &measure, 1);
            }
            layer.end_entry(&mut tallies);
            let told = if shard == 0 { told.clone() } else { Facts::default() };
            let open = OpenLayer::new(LayerNumber::FIRST, layer, facts(told, &tallies, now_ms));
            self.publish(shard, Vec::new(), open);
        }
    }

    /// Shows events of which the first came under an older plan.
    pub(crate) fn show_since(&self, old: &Arc<Plan>, before: &[Told], events: &[Told]) {
        for shard in 0..SHARDS {
            let mut tallies = Tallies::new();
            let sealed = counted(old, 1, before, shard, &mut tallies);
            let sealed = OpenLayer::new(
                LayerNumber::FIRST,
                sealed,
                facts(Facts::default(), &tallies, NOW_MS),
            );
            let open = counted(&self.plan, 2, events, shard, &mut tallies);
            let number = LayerNumber::FIRST.next();
            let open = OpenLayer::new(number, open, facts(Facts::default(), &tallies, NOW_MS));
            self.publish(shard, vec![Arc::new(sealed)], open);
        }
    }

    fn publish(&self, shard: u16, sealing: Vec<Arc<OpenLayer>>, open: OpenLayer) {
        self.views.publish(ShardView {
            partition: Partition::new(shard),
            plan: Arc::clone(&self.plan),
            layer: open.number(),
            open: Arc::new(open),
            sealing,
            checkpoint: CheckpointStatus::default(),
        });
    }
}

/// A layer of a shard's events, after an entry.
fn counted(
    plan: &Arc<Plan>,
    number: u64,
    events: &[Told],
    shard: u16,
    tallies: &mut Tallies,
) -> Layer {
    let mut layer = Layer::new(Arc::clone(plan), number);
    for told in events.iter().filter(|told| told.user % u64::from(SHARDS) == u64::from(shard)) {
        let hash = UserHash::new(told.user.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        layer.count(tallies, &event(told, ""), (told.user > 0).then_some(hash));
    }
    layer.end_entry(tallies);
    layer
}

fn facts(told: Facts, tallies: &Tallies, now_ms: i64) -> Facts {
    Facts {
        seq: 1,
        now: ReceiveTime::from_ms(now_ms),
        watermark: EventTime::from_ms(now_ms - 7_260_000),
        folded: Arc::clone(tallies.guard.folded()),
        ..told
    }
}

/// The event that was told, with this id.
pub(crate) fn event<'a>(told: &'a Told, event_id: &'a str) -> Event<'a> {
    Event {
        received_at: ReceiveTime::from_ms(told.at_ms),
        timestamp: EventTime::from_ms(told.at_ms),
        sent_timestamp: EventTime::from_ms(told.at_ms),
        event_id,
        event_type: told.event_type,
        user_id: (told.user > 0).then_some("u"),
        service_name: (told.user == 0).then_some("billing"),
        country: told.country,
        device_type: told.device_type,
        content_id: told.content_id,
        completed: told.completed,
        session_duration_sec: told.duration_sec,
        key: told.by.map(|(key, _)| key),
        values_max: told.by.map(|(_, values_max)| values_max),
        ..Event::default()
    }
}

/// A house that accepts replays of everything but `{}`, keeps one table, and masks one address, but
/// in one property and where it is a user's id.
#[derive(Debug, Default)]
pub(crate) struct PaperHouse;

impl House for PaperHouse {
    fn readiness(&self) -> Readiness {
        Readiness::NotReady("recovering".to_owned())
    }

    fn replay(&self, replay: Replay) -> BoxFuture<'_, Result<Replayed, Problem>> {
        let accepted = replay.event != "{}";
        let code = (!accepted).then(|| "schema_violation".to_owned());
        let message = Some(format!("{} {}", replay.source, replay.event_id));
        async move { Ok(Replayed { id: replay.letter, accepted, code, message }) }.boxed()
    }

    fn put_table(
        &self,
        table: String,
        _format: TableFormat,
        body: Bytes,
    ) -> BoxFuture<'_, Result<TableStatus, Problem>> {
        let rows = body.iter().filter(|byte| **byte == b'\n').count() as u64;
        async move { Ok(TableStatus { table, version: 1, rows, columns: Vec::new() }) }.boxed()
    }

    fn masked(&self, path: &str, text: &str) -> String {
        match path {
            "properties.exempt" | "user_id" => text.to_owned(),
            _ => text.replace("ada@example.com", "em1_ada"),
        }
    }

    fn decided(&self, _event: Identity<'_>, copies: &[SentCopy]) -> Result<Vec<Decided>, Problem> {
        Ok(vec![Decided::Waiting; copies.len()])
    }

    fn table(&self, table: &str) -> Option<TableStatus> {
        (table == "users").then(|| TableStatus {
            table: table.to_owned(),
            version: 0,
            rows: 0,
            columns: Vec::new(),
        })
    }
}

/// A whole reading room over a [`Shelf`].
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) shelf: Shelf,
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) codes: Arc<SignInCodes>,
    pub(crate) state: QueryState,
    pub(crate) stop: CancellationToken,
    pub(crate) read_token: String,
    pub(crate) admin_token: String,
    pub(crate) write_key: String,
    pub(crate) read_key_id: String,
}

impl Room {
    pub(crate) fn new() -> Self {
        Self::with(QuerySettings::default(), &QuotaSettings::default())
    }

    pub(crate) fn with(settings: QuerySettings, quotas: &QuotaSettings) -> Self {
        let shelf = Shelf::new();
        let log = Arc::new(MemoryLog::new(PartitionCount::new(SHARDS).unwrap()));
        let clock = Arc::new(ManualClock::new(ReceiveTime::from_ms(NOW_MS)));
        let mut book = KeyBook::new();
        let (read, read_token) = book.create(KeyKind::Read, "read", 0).unwrap();
        let (_, admin_token) = book.create(KeyKind::Admin, "admin", 0).unwrap();
        let (_, write_key) = book.create(KeyKind::Write, "write", 0).unwrap();
        let keys = Arc::new(Keys::new(book));
        let codes = Arc::new(SignInCodes::new());
        let stop = CancellationToken::new();
        let mut registry = Registry::default();
        let metrics = QueryMetrics::registered(&mut registry);
        let state = QueryState::new(QueryParts {
            store: Arc::clone(&shelf.store) as Arc<dyn Store>,
            log: Arc::clone(&log) as Arc<dyn Log>,
            keys: Arc::clone(&keys),
            quotas: Arc::new(Quotas::new(quotas)),
            buffers: Buffers::new(8 << 20),
            sessions: Arc::new(Sessions::new(SessionParts {
                secret: [1; 32],
                ttl_ms: 60_000,
                signed_out: SignedOut::default(),
                keeper: Arc::new(()),
            })),
            codes: Arc::clone(&codes),
            clock: Arc::clone(&clock) as Arc<dyn nilometer_event::clock::Clock>,
            house: Arc::new(PaperHouse),
            registry: Arc::new(registry),
            metrics,
            settings,
            stop: stop.clone(),
        });
        Self {
            shelf,
            log,
            clock,
            keys,
            codes,
            state,
            stop,
            read_token: read_token.expose().to_owned(),
            admin_token: admin_token.expose().to_owned(),
            write_key: write_key.expose().to_owned(),
            read_key_id: read.id,
        }
    }
}
