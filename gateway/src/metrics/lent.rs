//! Memory for bodies: read when it is scraped.

use nilometer_access::Buffers;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// What is free of it, and how many bodies lost theirs.
#[derive(Debug)]
pub(crate) struct Lent(pub(crate) Buffers);

impl Collector for Lent {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let free = ConstGauge::new(i64::try_from(self.0.free_bytes()).unwrap_or(i64::MAX));
        let (name, help) = ("gateway_buffer_free_bytes", "Memory for bodies that nobody holds");
        free.encode(encoder.encode_descriptor(name, help, None, free.metric_type())?)?;
        let lost = ConstCounter::new(self.0.lost());
        let (name, help) =
            ("gateway_bodies_displaced", "Bodies that came slowly and made room for others");
        lost.encode(encoder.encode_descriptor(name, help, None, lost.metric_type())?)
    }
}
