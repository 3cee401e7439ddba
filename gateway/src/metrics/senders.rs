//! Who sends most: read from the quotas when they are scraped.

use std::sync::Arc;

use nilometer_access::{Quotas, Told};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;

/// The keys that have sent most by their ids, all others as `other`.
#[derive(Debug)]
pub(crate) struct Senders(pub(crate) Arc<Quotas>);

/// Name, help, how it is read.
type Counter = (&'static str, &'static str, fn(&Told) -> u64);

const COUNTERS: [Counter; 3] = [
    (
        "gateway_key_events",
        "Events that came by the keys that send most, and by all others",
        |told| told.sent.events,
    ),
    ("gateway_key_bytes", "Bytes of their bodies after decompression", |told| told.sent.bytes),
    ("gateway_key_refused", "Requests of theirs over the quota of the key", |told| told.refused),
];

impl Collector for Senders {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (senders, rest) = self.0.senders();
        for (name, help, read) in COUNTERS {
            let counter = ConstCounter::new(0u64);
            let mut family = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            let named = senders.iter().map(|one| (one.key.as_str(), &one.told));
            for (key, told) in named.chain([("other", &rest)]) {
                let labels = [("key", key)];
                ConstCounter::new(read(told)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
