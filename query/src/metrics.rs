//! Every metric name of the reading room.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Labels of [`QueryMetrics::requests`].
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RequestLabels {
    /// The path's template, of a small fixed set.
    pub path: &'static str,
    /// The answer's status.
    pub status: u16,
}

/// The room's numbers; cloning shares them.
#[derive(Clone, Debug)]
pub struct QueryMetrics {
    /// `query_requests_total`
    pub requests: Family<RequestLabels, Counter<u64, AtomicU64>>,
    /// `query_took_seconds`: queries that were computed, not those that were shared.
    pub took: Histogram,
    /// `query_cache_hits_total`
    pub cache_hits: Counter,
    /// `query_cache_misses_total`
    pub cache_misses: Counter,
    /// `query_cached_answers`
    pub cached: Gauge,
    /// `query_answer_bytes`: memory of answers and live frames.
    pub answer_bytes: Gauge,
    /// `query_turn_waited_seconds`: how long what is computed waited for its turn.
    pub turn_waited: Histogram,
    /// `query_live_connections`
    pub live_connections: Gauge,
    /// `query_live_subscriptions`
    pub live_subscriptions: Gauge,
    /// `query_live_queries`: distinct (query, interval) pairs.
    pub live_queries: Gauge,
    /// `query_live_messages_total`
    pub live_messages: Counter,
    /// `query_live_skipped_total`: revisions that slow readers did not get.
    pub live_skipped: Counter,
    /// `query_live_postponed_total`: frames for which there was no room.
    pub live_postponed: Counter,
    /// `query_live_queries_slowed`: live queries that come less often than asked.
    pub live_slowed: Gauge,
}

impl QueryMetrics {
    /// Makes the numbers and puts them into `registry`.
    #[must_use]
    pub fn registered(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            // 0.1 ms to 13 s.
            took: Histogram::new(exponential_buckets(0.000_1, 2.0, 18)),
            cache_hits: Counter::default(),
            cache_misses: Counter::default(),
            cached: Gauge::default(),
            answer_bytes: Gauge::default(),
            turn_waited: Histogram::new(exponential_buckets(0.000_1, 2.0, 18)),
            live_connections: Gauge::default(),
            live_subscriptions: Gauge::default(),
            live_queries: Gauge::default(),
            live_messages: Counter::default(),
            live_skipped: Counter::default(),
            live_postponed: Counter::default(),
            live_slowed: Gauge::default(),
        };
        let all = &metrics;
        registry.register("query_requests", "Requests by path and status", all.requests.clone());
        registry.register("query_took_seconds", "Time to compute a query", all.took.clone());
        registry.register(
            "query_cache_hits",
            "Queries answered by a shared answer",
            all.cache_hits.clone(),
        );
        registry.register("query_cache_misses", "Queries computed", all.cache_misses.clone());
        registry.register("query_cached_answers", "Distinct queries kept", all.cached.clone());
        registry.register(
            "query_answer_bytes",
            "Memory of answers and live frames",
            all.answer_bytes.clone(),
        );
        registry.register(
            "query_turn_waited_seconds",
            "How long computations waited for their turn",
            all.turn_waited.clone(),
        );
        registry.register(
            "query_live_connections",
            "Live connections",
            all.live_connections.clone(),
        );
        registry.register(
            "query_live_subscriptions",
            "Live subscriptions",
            all.live_subscriptions.clone(),
        );
        registry.register("query_live_queries", "Distinct live queries", all.live_queries.clone());
        registry.register("query_live_messages", "Live messages sent", all.live_messages.clone());
        registry.register(
            "query_live_skipped",
            "Revisions skipped by slow readers",
            all.live_skipped.clone(),
        );
        registry.register(
            "query_live_postponed",
            "Live frames for which there was no room",
            all.live_postponed.clone(),
        );
        registry.register(
            "query_live_queries_slowed",
            "Live queries that come less often than asked",
            all.live_slowed.clone(),
        );
        metrics
    }
}
