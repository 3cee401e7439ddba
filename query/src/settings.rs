//! What an operator may set of the reading room.

use std::sync::Arc;
use std::time::Duration;

/// Settings of the reading room, as rooms see them.
#[derive(Clone, Debug)]
pub struct QuerySettings {
    /// Queries that are computed at once.
    pub queries_at_once_max: usize,
    /// Long ones among them: with fewer than all a short one never waits for a long one.
    pub long_queries_at_once_max: usize,
    /// Queries that wait for their turn at most, half of them of one key; more are answered 503.
    pub queries_waiting_max: usize,
    /// Log scans (tail, trace, dead letters) at once; they never slow queries.
    pub scans_at_once_max: usize,
    /// Log scans that wait for their turn at most, half of them of one key; more are answered 503.
    pub scans_waiting_max: usize,
    /// Distinct queries whose answers are kept.
    pub cached_answers_max: usize,
    /// Memory of all answers, from when they are made until nobody shows them any more; of one key
    /// three quarters of it.
    pub answer_bytes_max: usize,
    /// Distinct (query, interval) pairs that live subscriptions may follow.
    pub live_queries_max: usize,
    /// How long a trace may read the log.
    pub trace_time_max: Duration,
    /// How far behind its receipt a live event is late: the stream's.
    pub lateness: Duration,
    /// Origins beside the server's own from which browsers may open `/v1/live`.
    pub origins_allowed: Vec<String>,
    /// Whether browsers reach the server over TLS, so that the session cookie is `Secure`.
    pub cookie: nilometer_access::Cookie,
    /// Version shown in `/openapi.json`.
    pub version: &'static str,
    /// The whole house's `/openapi.json`; `None` shows the paths of this room alone.
    pub document: Option<Arc<str>>,
}

impl Default for QuerySettings {
    fn default() -> Self {
        Self {
            queries_at_once_max: 4,
            long_queries_at_once_max: 3,
            queries_waiting_max: 1_024,
            scans_at_once_max: 2,
            scans_waiting_max: 64,
            cached_answers_max: 2_000,
            answer_bytes_max: 64 << 20,
            live_queries_max: 1_000,
            trace_time_max: Duration::from_secs(5),
            lateness: Duration::from_secs(2 * 3_600),
            origins_allowed: Vec::new(),
            cookie: nilometer_access::Cookie::Plain,
            version: env!("CARGO_PKG_VERSION"),
            document: None,
        }
    }
}
