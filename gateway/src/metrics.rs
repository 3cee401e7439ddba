//! Every metric of the room, in one list. Labels come from small fixed sets.

mod lent;
mod senders;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

pub(crate) use lent::Lent;
pub(crate) use senders::Senders;

use crate::batch::Corrected;
use crate::refusal::CODES;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HowLabel {
    how: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FieldLabel {
    field: String,
}

/// Fields whose masked values are counted one by one; past it they count as `other`.
const MASKED_FIELDS_MAX: usize = 100;

/// Longest name of a field that is shown, in bytes.
const MASKED_NAME_BYTES_MAX: usize = 100;

/// How many values masking changed, by field. Names of properties are the clients': cut, and
/// only so many.
#[derive(Clone, Debug, Default)]
pub(crate) struct MaskedByField {
    family: Family<FieldLabel, Counter>,
    by_field: Arc<Mutex<BTreeMap<String, Counter>>>,
}

impl MaskedByField {
    pub(crate) fn add(&self, fields: BTreeMap<String, u64>) {
        if fields.is_empty() {
            return;
        }
        // Nothing panics while the lock is held.
        let mut known = self.by_field.lock().unwrap_or_else(PoisonError::into_inner);
        for (mut field, count) in fields {
            field.truncate(field.floor_char_boundary(MASKED_NAME_BYTES_MAX));
            if !known.contains_key(&field) && known.len() >= MASKED_FIELDS_MAX {
                "other".clone_into(&mut field);
            }
            let counter = known.entry(field).or_insert_with_key(|field| {
                self.family.get_or_create(&FieldLabel { field: field.clone() }).clone()
            });
            counter.inc_by(count);
        }
    }

    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        let known = self.by_field.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(field, counter)| (field.clone(), counter.get())).collect()
    }
}

#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) masked: MaskedByField,
    accepted: Counter,
    rejected: Family<CodeLabel, Counter>,
    /// Handles by the order of [`CODES`], so that the hot path looks nothing up.
    rejected_by_code: [Counter; CODES.len()],
    corrected: Family<HowLabel, Counter>,
    requests: Family<StatusLabel, Counter>,
    body_bytes: Histogram,
    inflated_bytes: Counter,
    append_wait_seconds: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let rejected = Family::<CodeLabel, Counter>::default();
        let rejected_by_code =
            CODES.map(|code| rejected.get_or_create(&CodeLabel { code }).clone());
        let requests = Family::<StatusLabel, Counter>::default();
        // Told from the start: what begins at 1 has not grown, to an alarm.
        for status in [500, 503] {
            drop(requests.get_or_create(&StatusLabel { status }));
        }
        Self {
            masked: MaskedByField::default(),
            accepted: Counter::default(),
            rejected,
            rejected_by_code,
            corrected: Family::default(),
            requests,
            body_bytes: Histogram::new(exponential_buckets(256.0, 4.0, 9)),
            inflated_bytes: Counter::default(),
            append_wait_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
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
            "gateway_values_masked",
            "Values that masking changed, by field",
            self.masked.family.clone(),
        );
        registry.register(
            "gateway_events_corrected",
            "Accepted events whose time was changed: by_offset, moved by what the client's \
             clock is off; to_receive_time, yet to come",
            self.corrected.clone(),
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
    }

    pub(crate) fn answered(&self, status: http::StatusCode) {
        self.requests.get_or_create(&StatusLabel { status: status.as_u16() }).inc();
    }

    pub(crate) fn body(&self, wire_bytes: usize, inflated_bytes: usize) {
        self.body_bytes.observe(float(wire_bytes));
        self.inflated_bytes.inc_by(u64::try_from(inflated_bytes).unwrap_or(u64::MAX));
    }

    pub(crate) fn durable(
        &self,
        accepted: usize,
        codes: &[u64; CODES.len()],
        corrected: Corrected,
        wait: Duration,
    ) {
        self.accepted.inc_by(u64::try_from(accepted).unwrap_or(u64::MAX));
        for (counter, count) in self.rejected_by_code.iter().zip(codes) {
            counter.inc_by(*count);
        }
        for (how, count) in
            [("by_offset", corrected.by_offset), ("to_receive_time", corrected.to_receive_time)]
        {
            if count > 0 {
                self.corrected.get_or_create(&HowLabel { how }).inc_by(count);
            }
        }
        self.append_wait_seconds.observe(wait.as_secs_f64());
    }
}

fn float(bytes: usize) -> f64 {
    u32::try_from(bytes).map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_masked_fields_are_bounded_and_nothing_goes_uncounted() {
        let masked = MaskedByField::default();
        for number in 0..500_u64 {
            masked.add([(format!("properties.{number}"), 2)].into());
        }
        masked.add([("ä".repeat(1_000), 1), ("properties.7".to_owned(), 1)].into());
        let counts = masked.counts();
        assert_eq!(counts.len(), MASKED_FIELDS_MAX + 1);
        assert_eq!((counts["properties.7"], counts["other"]), (3, 801));
        assert_eq!(counts.values().sum::<u64>(), 1_002);
    }
}
