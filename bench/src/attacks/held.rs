//! What the server holds at one time.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};

use crate::server::{Server, labelled, value};

#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    pub(super) rss_mib: f64,
    /// By part, as the server says.
    pub(super) parts_mib: BTreeMap<String, f64>,
    pub(super) descriptors: usize,
    pub(super) descriptors_max: usize,
    pub(super) sockets: usize,
    pub(super) bodies_free_bytes: f64,
    pub(super) queue_bytes: f64,
}

impl Held {
    pub(super) fn of(server: &Server) -> Result<Self> {
        let (descriptors, sockets, descriptors_max) = server.descriptors()?;
        let metrics = server.metrics()?;
        let parts = labelled(&metrics, "nilometer_process_memory_bytes", "part")?;
        Ok(Self {
            rss_mib: server.rss_mib()?,
            parts_mib: parts.into_iter().map(|(part, bytes)| (part, mib(bytes))).collect(),
            descriptors,
            descriptors_max,
            sockets,
            bodies_free_bytes: value(&metrics, "nilometer_gateway_buffer_free_bytes")?,
            queue_bytes: value(&metrics, "nilometer_log_queue_bytes")?,
        })
    }

    /// The worst of each; the parts are those of when most was resident.
    pub(super) fn worst(self, other: &Self) -> Self {
        let parts_mib =
            if other.rss_mib > self.rss_mib { other.parts_mib.clone() } else { self.parts_mib };
        Self {
            rss_mib: self.rss_mib.max(other.rss_mib),
            parts_mib,
            descriptors: self.descriptors.max(other.descriptors),
            descriptors_max: other.descriptors_max,
            sockets: self.sockets.max(other.sockets),
            bodies_free_bytes: self.bodies_free_bytes.min(other.bodies_free_bytes),
            queue_bytes: self.queue_bytes.max(other.queue_bytes),
        }
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "rss_mib": self.rss_mib,
            "parts_mib": self.parts_mib,
            "descriptors": self.descriptors,
            "descriptors_max": self.descriptors_max,
            "sockets": self.sockets,
            "bodies_free_bytes": self.bodies_free_bytes,
            "queue_bytes": self.queue_bytes,
        })
    }
}

fn mib(bytes: f64) -> f64 {
    (bytes / f64::from(1 << 20)).round()
}
