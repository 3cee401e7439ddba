//! The one file that chooses: settings become plans, backends are opened and rooms are wired.

pub(crate) mod at_rest;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nilometer_access::{
    Buffers, KeyBook, Keys, Quota, QuotaSettings, Quotas, SessionParts, Sessions, SignInCodes,
};
use nilometer_event::clock::HouseClock;
use nilometer_event::{IdentityKey, PartitionCount, Topic};
use nilometer_gateway::{
    AddressMasking, Detector, Gateway, GatewayPlan, GatewaySettings, Limits, MaskingSettings,
};
use nilometer_log::{Codec, Disk, Log, LogSettings, RealDisk, SegmentLog};
use nilometer_query::{QueryMetrics, QueryParts, QuerySettings, QueryState};
use nilometer_rollups::{EmbeddedStore, PlanFinder, Retention, Store, StoreSettings};
use nilometer_stream::declare::{Declarations, Plan};
use nilometer_stream::shell::PlanBook;
use nilometer_stream::view::{LayerSink, Views};
use nilometer_stream::{Stream, StreamConfig, StreamSettings};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Compression, EmailMasking, IpMasking, Masking, Secrets, Settings};
use crate::hooks::Hooks;
use crate::keyring::{self, Keyring};
use crate::memory::Shares;
use crate::metrics::Holders;
use crate::{clock, keeper, metrics, openapi};

/// A browser's session ends after this.
const SESSION_TTL_MS: i64 = 7 * 86_400_000;

/// Everything that runs, by room.
#[derive(Debug)]
pub(crate) struct Rooms {
    pub(crate) clock: Arc<HouseClock>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) codes: Arc<SignInCodes>,
    pub(crate) log: Arc<SegmentLog>,
    pub(crate) store: Arc<EmbeddedStore>,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) query: QueryState,
    pub(crate) hooks: Arc<Hooks>,
}

/// Makes everything that a start makes of the settings and the environment's tokens alone.
///
/// # Errors
///
/// What a server would refuse to start with, by its key or variable.
pub(crate) fn check(settings: &Settings, secrets: &Secrets) -> Result<Plan> {
    config::listen_address(settings)?;
    keyring::take_given(&mut KeyBook::new(), secrets, 0)?;
    gateway_plan(settings)?;
    quota_settings(settings)?;
    log_settings(settings, u64::MAX)?;
    store_settings(settings)?;
    let plan = Plan::compile(&declarations(settings)).context("compile the declarations")?;
    query_settings(settings, &plan)?;
    Ok(plan)
}

fn open_store(
    settings: &Settings,
    disk: &Arc<dyn Disk>,
    views: &Arc<Views>,
    plan: &Arc<Plan>,
) -> Result<EmbeddedStore> {
    let (disk, views, plan) = (Arc::clone(disk), Arc::clone(views), Arc::clone(plan));
    let plans = plan_finder(&disk, &plan);
    EmbeddedStore::with_plans(disk, store_settings(settings)?, views, plan, plans)
        .context("open the rollups")
}

/// Opens the rooms, spine first; blocks while the shards recover.
///
/// # Errors
///
/// What cannot be opened or recovered, by name.
pub(crate) fn open(
    settings: &Settings,
    keyring: &Arc<Keyring>,
    keys: Arc<Keys>,
    quotas: Arc<Quotas>,
    exchanges: Buffers,
    stop: CancellationToken,
) -> Result<Rooms> {
    let clock = Arc::new(HouseClock::default());
    let disk: Arc<dyn Disk> =
        Arc::new(RealDisk::open(&settings.server.data_dir).context("open the data directory")?);
    at_rest::begin(settings, disk.as_ref())?;
    // Both before anything is written that was made under them.
    let (identity, masking) = (IdentityKey::new(keyring.identity()?), keyring.masking()?);
    let declarations = declarations(settings);
    let plan = Arc::new(Plan::compile(&declarations).context("compile the declarations")?);

    let log = open_log(log_settings(settings, bytes_of(&disk))?, &disk, &clock)?;
    let views = Arc::new(Views::new(log.partitions()));
    // From before the shards recover: a replay takes as much as what it replays.
    let memory_limit_bytes = u64::from(settings.server.memory_limit_mib) << 20;
    let read_bytes_max = wide(Shares::of(settings).answer);
    let keep = keeper::keep(memory_limit_bytes, read_bytes_max, Arc::clone(&views), stop.clone());
    tokio::spawn(keep);
    let store = Arc::new(open_store(settings, &disk, &views, &plan)?);
    let stream = Stream::start(StreamConfig {
        identity: identity.clone(),
        settings: stream_settings(settings),
        plan: Arc::clone(&plan),
        declarations,
        log: Arc::<SegmentLog>::clone(&log),
        disk,
        sink: Arc::clone(&store) as Arc<dyn LayerSink>,
        views: Arc::clone(&views),
        clock: Arc::<HouseClock>::clone(&clock),
    })
    .context("start the stream")?;

    let gateway = Arc::new(Gateway::new(
        gateway_plan(settings)?,
        identity,
        masking,
        Arc::<SegmentLog>::clone(&log),
        Arc::clone(&keys),
        Arc::clone(&quotas),
        Arc::<HouseClock>::clone(&clock),
    ));
    let codes = Arc::new(SignInCodes::new());
    let mut registry = Registry::default();
    // These rooms name their metrics after themselves; outside they are ours.
    let ours = registry.sub_registry_with_prefix("nilometer");
    let query_metrics = QueryMetrics::registered(ours);
    let holders = Arc::new(Holders {
        limit_bytes: memory_limit_bytes,
        log: Arc::<SegmentLog>::clone(&log),
        views,
        store: Arc::clone(&store) as Arc<dyn Store>,
        buffers: gateway.buffers().clone(),
        exchanges,
        answers: query_metrics.answer_bytes.clone(),
    });
    let hooks = Arc::new(Hooks::new(stream, Arc::clone(&gateway), Arc::clone(&holders)));
    register(&mut registry, holders, &log, &clock, &gateway);
    let query = QueryState::new(QueryParts {
        store: Arc::clone(&store) as Arc<dyn Store>,
        log: Arc::<SegmentLog>::clone(&log),
        keys: Arc::clone(&keys),
        quotas: Arc::clone(&quotas),
        buffers: gateway.buffers().clone(),
        sessions: Arc::new(sessions(keyring)?),
        codes: Arc::clone(&codes),
        clock: Arc::<HouseClock>::clone(&clock),
        house: Arc::<Hooks>::clone(&hooks),
        registry: Arc::new(registry),
        metrics: query_metrics,
        settings: query_settings(settings, &plan)?,
        stop,
    });
    Ok(Rooms { clock, keys, codes, log, store, gateway, query, hooks })
}

/// What the rooms but the reading room tell `/metrics`.
fn register(
    registry: &mut Registry,
    holders: Arc<Holders>,
    log: &Arc<SegmentLog>,
    clock: &Arc<HouseClock>,
    gateway: &Gateway,
) {
    let store = Arc::clone(&holders.store);
    nilometer_stream::metrics::register(registry, Arc::clone(&holders.views));
    metrics::register(
        registry,
        Arc::<SegmentLog>::clone(log),
        Arc::<HouseClock>::clone(clock),
        holders,
    );
    let ours = registry.sub_registry_with_prefix("nilometer");
    gateway.register(ours);
    nilometer_rollups::metrics::register(ours, store);
}

fn sessions(keyring: &Arc<Keyring>) -> Result<Sessions> {
    let (secret, signed_out) = keyring.sessions()?;
    let keeper = Arc::<Keyring>::clone(keyring);
    Ok(Sessions::new(SessionParts { secret, ttl_ms: SESSION_TTL_MS, signed_out, keeper }))
}

/// The spine; the house clock is never before what it holds.
fn open_log(
    settings: LogSettings,
    disk: &Arc<dyn Disk>,
    clock: &Arc<HouseClock>,
) -> Result<Arc<SegmentLog>> {
    let log = SegmentLog::open(Arc::clone(disk), settings, Arc::<HouseClock>::clone(clock))
        .context("open the log")?;
    if let Some(latest) = log.latest_timestamp() {
        clock.not_before(latest);
        clock::tell_of_log(clock.as_ref(), latest);
    }
    Ok(Arc::new(log))
}

/// A disk that does not say how large it is bounds nothing but by being full.
fn bytes_of(disk: &Arc<dyn Disk>) -> u64 {
    disk.total_bytes().unwrap_or(u64::MAX)
}

/// What the operator declared, as the stream compiles it.
pub(crate) fn declarations(settings: &Settings) -> Declarations {
    let mut declarations = Declarations {
        dimensions: settings.dimension.clone(),
        metrics: settings.metric.clone(),
        cubes: settings.cube.clone(),
        view_types: settings.types.view.clone(),
        click_types: settings.types.click.clone(),
        impression_types: settings.types.impression.clone(),
        conversion_types: settings.types.conversion.clone(),
        ..Declarations::default()
    };
    declarations.guard.values_max = settings.stream.dimension_values_max;
    declarations.guard.combinations_max = settings.stream.window_cells_max;
    let guarded = u32::try_from(Shares::of(settings).guarded).unwrap_or(u32::MAX);
    declarations.guard.entries_max = declarations.guard.entries_max.min(guarded);
    declarations
}

/// Older plans lie beside the checkpoints that were counted by them.
fn plan_finder(disk: &Arc<dyn Disk>, current: &Arc<Plan>) -> PlanFinder {
    let (disk, current) = (Arc::clone(disk), Arc::clone(current));
    Arc::new(move |id| PlanBook::find(disk.as_ref(), &current, id))
}

/// The log may have this share of its disk, one in so many, where nobody says how much.
const LOG_DISK_SHARE: u64 = 2;
/// What a log may have at least.
const LOG_BYTES_LEAST: u64 = 1 << 16;

fn log_settings(settings: &Settings, disk_bytes: u64) -> Result<LogSettings> {
    let log = &settings.log;
    let retention_bytes = match log.retention_bytes {
        0 => (disk_bytes / LOG_DISK_SHARE).max(LOG_BYTES_LEAST),
        bytes => bytes,
    };
    ensure!(
        LOG_BYTES_LEAST <= retention_bytes,
        "configuration: log.retention_bytes = {retention_bytes} is too little for a log; expected \
         0 for half of the disk, or at least {LOG_BYTES_LEAST}"
    );
    let partitions = PartitionCount::new(log.partitions).context("log.partitions is 0")?;
    let codec = match log.compression {
        Compression::Lz4 => Codec::Lz4,
        Compression::Zstd => Codec::Zstd,
        Compression::None => Codec::None,
    };
    Ok(LogSettings {
        segment_bytes: log.segment_bytes,
        retention_age: Duration::from_secs(log.retention_h * 3600),
        retention_bytes,
        dead_letter_bytes_max: log.dead_letter_bytes_max,
        queue_bytes_max: Shares::of(settings).queue,
        codecs: [codec; Topic::ALL.len()],
        ..LogSettings::new(partitions)
    })
}

pub(crate) fn store_settings(settings: &Settings) -> Result<StoreSettings> {
    let rollups = &settings.rollups;
    let days = [
        rollups.retention_1m_days,
        rollups.retention_5m_days,
        rollups.retention_30m_days,
        rollups.retention_1h_days,
    ];
    let shares = Shares::of(settings);
    let default = StoreSettings::default();
    Ok(StoreSettings {
        retention: Retention::from_days(days).context("rollups.retention")?,
        cache_bytes_max: shares.cache,
        fold_bytes_max: shares.fold.min(default.fold_bytes_max),
        read_bytes_max: shares.answer.min(default.read_bytes_max),
        ..default
    })
}

fn stream_settings(settings: &Settings) -> StreamSettings {
    let stream = &settings.stream;
    let shares = Shares::of(settings);
    let shards = usize::from(settings.log.partitions);
    let default = StreamSettings::default();
    let mut room = StreamSettings {
        entry_events_max: u32::try_from(stream.entry_events_max).unwrap_or(u32::MAX),
        entry_bytes_max: wide(shares.entry).min(default.entry_bytes_max),
        entry_interval_ms: u32::try_from(stream.entry_interval_ms).unwrap_or(u32::MAX),
        checkpoint_interval_ms: stream.checkpoint_interval_s.saturating_mul(1000),
        layer_bytes_max: wide(shares.layer),
        hot_bytes_max: wide(shares.hot),
        filter_bytes_max: wide(shares.filters),
        // The first third is the door's.
        shutdown_ms_max: settings.server.shutdown_timeout_s.saturating_mul(1000) / 3 * 2,
        ..default
    };
    room.fold.lateness_ms = stream.lateness_min.saturating_mul(60_000);
    room.fold.horizon_hours = stream.horizon_days.saturating_mul(24);
    room.fold.hot_ids_max = wide(shares.hot_ids.div_ceil(shards));
    room.fold.hot_sessions_max = wide(shares.hot_sessions.div_ceil(shards));
    room
}

fn wide(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

pub(crate) fn gateway_plan(settings: &Settings) -> Result<GatewayPlan> {
    let gateway = &settings.gateway;
    let room = GatewaySettings {
        limits: Limits {
            body_bytes_max: gateway.body_bytes_max,
            server_body_bytes_max: gateway.server_body_bytes_max,
            inflated_bytes_max: gateway.inflated_bytes_max,
            inflation_ratio_max: gateway.inflate_ratio_max,
            batch_events_max: gateway.batch_events_max,
            event_bytes_max: gateway.event_bytes_max,
            depth_max: u32::try_from(gateway.depth_max).unwrap_or(u32::MAX),
            properties_max: gateway.properties_max,
            string_bytes_max: gateway.string_bytes_max,
        },
        masking: masking_settings(&settings.masking),
        view_types: settings.types.view.clone(),
        no_user_ids: gateway.no_user_ids.clone(),
        buffer_bytes_max: Shares::of(settings).bodies,
        ..GatewaySettings::default()
    };
    GatewayPlan::try_from(room).context("configuration")
}

fn masking_settings(masking: &Masking) -> MaskingSettings {
    if !masking.enabled {
        return MaskingSettings::off();
    }
    let detectors = masking
        .detectors
        .iter()
        .map(|pattern| Detector { name: "custom".to_owned(), pattern: pattern.clone() });
    MaskingSettings {
        emails: masking.email == EmailMasking::Token,
        addresses: match masking.ip {
            IpMasking::Token => AddressMasking::Tokenise,
            IpMasking::Truncate => AddressMasking::Truncate,
            IpMasking::Off => AddressMasking::Off,
        },
        tokenise_fields: masking.token_fields.clone(),
        drop_fields: masking.drop_fields.clone(),
        exempt_fields: masking.exempt_fields.clone(),
        detectors: detectors.collect(),
    }
}

pub(crate) fn quota_settings(settings: &Settings) -> Result<QuotaSettings> {
    let limits = &settings.limits;
    let quota = |name: &str, text: &str| {
        let all = if text.trim().is_empty() { Ok(Quota::default()) } else { text.parse() };
        all.with_context(|| format!("configuration: limits.{name}"))
    };
    let at_least_one = |value| NonZeroU32::new(value).unwrap_or(NonZeroU32::MIN);
    Ok(QuotaSettings {
        browser_quota: quota("browser_key_quota", &limits.browser_key_quota)?,
        server_quota: quota("server_key_quota", &limits.server_key_quota)?,
        events_per_second: at_least_one(limits.events_per_second),
        events_burst: at_least_one(limits.events_per_second),
        queries_per_second: at_least_one(limits.queries_per_second),
        connections_max: limits.connections_max,
        subscriptions_max: limits.subscriptions_max,
    })
}

/// Long queries at once: as many as have memory for all that one may read, and with two threads
/// or more one fewer than there are, which is for short ones.
fn long_queries(settings: &Settings) -> usize {
    let have_memory = Shares::of(settings).answer / StoreSettings::default().read_bytes_max;
    have_memory.min(settings.query.concurrency.saturating_sub(1)).max(1)
}

fn query_settings(settings: &Settings, plan: &Plan) -> Result<QuerySettings> {
    Ok(QuerySettings {
        queries_at_once_max: settings.query.concurrency,
        long_queries_at_once_max: long_queries(settings),
        answer_bytes_max: Shares::of(settings).kept,
        cached_answers_max: settings.query.cache_entries_max,
        origins_allowed: settings.server.allowed_origins.clone(),
        cookie: if settings.server.behind_proxy {
            nilometer_access::Cookie::Secure
        } else {
            nilometer_access::Cookie::Plain
        },
        lateness: Duration::from_secs(60 * u64::from(settings.stream.lateness_min)),
        document: Some(openapi::document(Some(plan))?.into()),
        ..QuerySettings::default()
    })
}
