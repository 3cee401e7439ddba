//! Every metric of the room, in one list. Labels come from small fixed sets.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::refusal::CODES;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: u16,
}

#[derive(Debug)]
pub(crate) struct Metrics {
    accepted: Counter,
    rejected: Family<CodeLabel, Counter>,
    /// Handles by the order of [`CODES`], so that the hot path looks nothing up.
    rejected_by_code: [Counter; CODES.len()],
    requests: Family<StatusLabel, Counter>,
    body_bytes: Histogram,
    inflated_bytes: Counter,
    append_wait_seconds: Histogram,
    buffer_free_bytes: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let rejected = Family::<CodeLabel, Counter>::default();
        let rejected_by_code =
            CODES.map(|code| rejected.get_or_create(&CodeLabel { code }).clone());
        Self {
            accepted: Counter::default(),
            rejected,
            rejected_by_code,
            requests: Family::default(),
            body_bytes: Histogram::new(exponential_buckets(256.0, 4.0, 9)),
            inflated_bytes: Counter::default(),
            append_wait_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
            buffer_free_bytes: Gauge::default(),
        }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "gateway_events_accepted",
            "Events that were acknowledged as durable",
            self.accepted.clone(),
        );
        registry.register(
            "gateway_events_rejected",
            "Events that became dead letters, by reason",
            self.rejected.clone(),
        );
        registry.register(
            "gateway_requests",
            "Answers of the ingest paths, by status",
            self.requests.clone(),
        );
        registry.register(
            "gateway_body_bytes",
            "Size of bodies on the wire",
            self.body_bytes.clone(),
        );
        registry.register(
            "gateway_inflated_bytes",
            "Bytes of bodies after decompression",
            self.inflated_bytes.clone(),
        );
        registry.register(
            "gateway_append_wait_seconds",
            "How long batches waited to be durable",
            self.append_wait_seconds.clone(),
        );
        registry.register(
            "gateway_buffer_free_bytes",
            "Memory for bodies that nobody holds",
            self.buffer_free_bytes.clone(),
        );
    }

    pub(crate) fn answered(&self, status: http::StatusCode) {
        self.requests.get_or_create(&StatusLabel { status: status.as_u16() }).inc();
    }

    pub(crate) fn body(&self, wire_bytes: usize, inflated_bytes: usize) {
        self.body_bytes.observe(float(wire_bytes));
        self.inflated_bytes.inc_by(u64::try_from(inflated_bytes).unwrap_or(u64::MAX));
    }

    pub(crate) fn durable(&self, accepted: usize, codes: &[u64; CODES.len()], wait: Duration) {
        self.accepted.inc_by(u64::try_from(accepted).unwrap_or(u64::MAX));
        for (counter, count) in self.rejected_by_code.iter().zip(codes) {
            counter.inc_by(*count);
        }
        self.append_wait_seconds.observe(wait.as_secs_f64());
    }

    pub(crate) fn buffers(&self, free_bytes: usize) {
        self.buffer_free_bytes.set(i64::try_from(free_bytes).unwrap_or(i64::MAX));
    }
}

fn float(bytes: usize) -> f64 {
    u32::try_from(bytes).map_or(f64::INFINITY, f64::from)
}
