//! Reads the log's files with other people's code: Kafka's record batches, Apache Avro.

use std::path::Path;

use anyhow::{Context, Result};
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::{Schema, from_value};
use bytes::Bytes;
use kafka_protocol::records::{Compression, RecordBatchDecoder};
use serde::Deserialize;

/// One event as it lies in the log.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Stored {
    pub(crate) received_at: i64,
    pub(crate) timestamp: i64,
    pub(crate) sent_timestamp: i64,
    #[serde(default)]
    pub(crate) source: Option<String>,
    pub(crate) event_id: String,
    pub(crate) event_type: String,
    pub(crate) user_id: Option<String>,
    pub(crate) anonymous_id: Option<String>,
    pub(crate) service_name: Option<String>,
    pub(crate) country: Option<String>,
    pub(crate) device_type: Option<String>,
    pub(crate) app_version: Option<String>,
    pub(crate) content_id: Option<String>,
    pub(crate) content_category: Option<String>,
    pub(crate) subscription_tier: Option<String>,
    pub(crate) cohort: Option<String>,
    pub(crate) channel: Option<String>,
    pub(crate) session_duration_sec: Option<f64>,
    pub(crate) completed: Option<bool>,
    /// It came as history, which counts at any age.
    #[serde(default)]
    pub(crate) imported: bool,
}

/// Source, user key and event id.
pub(crate) type Identity = (Option<String>, String, String);

impl Stored {
    /// What makes two records one event.
    pub(crate) fn identity(&self) -> Identity {
        (self.source.clone(), self.user_key(), self.event_id.clone())
    }

    pub(crate) fn user_key(&self) -> String {
        match (&self.user_id, &self.anonymous_id, &self.service_name) {
            (Some(user), _, _) => format!("user {user}"),
            (None, Some(anonymous), _) => format!("anonymous {anonymous}"),
            (None, None, service) => format!("service {}", service.as_deref().unwrap_or("")),
        }
    }

    /// A person, known or not; a service is none.
    pub(crate) fn is_user(&self) -> bool {
        self.user_id.is_some() || self.anonymous_id.is_some()
    }
}

/// Every event record of the topic's partitions, each partition in offset order.
pub(crate) fn events(data_dir: &Path, topic: &str) -> Result<Vec<Stored>> {
    let keyless = Schema::parse_str(include_str!("../../../event/schemas/user-event.avsc"))?;
    let keyed = Schema::parse_str(include_str!("../../../event/schemas/user-event-keyed.avsc"))?;
    let keyless = GenericDatumReader::builder(&keyless).build()?;
    let keyed = GenericDatumReader::builder(&keyed).build()?;
    let mut events = Vec::new();
    for partition in sorted(&data_dir.join("log").join(topic))? {
        for segment in sorted(&partition)? {
            if segment.extension().is_some_and(|ending| ending == "log") {
                let bytes = Bytes::from(std::fs::read(&segment)?);
                for value in values(bytes).with_context(|| segment.display().to_string())? {
                    let reader = match value[..5] {
                        [0, 0, 0, 0, 1] => &keyless,
                        [0, 0, 0, 0, 4] => &keyed,
                        ref other => anyhow::bail!("a record begins with {other:?}"),
                    };
                    let decoded = reader.read_value(&mut &value[5..])?;
                    events.push(from_value(&decoded)?);
                }
            }
        }
    }
    Ok(events)
}

fn sorted(dir: &Path) -> Result<Vec<std::path::PathBuf>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        paths.push(entry?.path());
    }
    paths.sort();
    Ok(paths)
}

fn values(mut bytes: Bytes) -> Result<Vec<Bytes>> {
    let decompress = |bytes: &mut Bytes, compression: Compression| {
        let mut out = Vec::new();
        match compression {
            Compression::None => out.extend_from_slice(bytes),
            Compression::Lz4 => {
                std::io::copy(&mut lz4_flex::frame::FrameDecoder::new(&bytes[..]), &mut out)?;
            }
            Compression::Zstd => out = zstd::decode_all(&bytes[..])?,
            other => anyhow::bail!("unexpected compression {other:?}"),
        }
        Ok(Bytes::from(out))
    };
    let mut values = Vec::new();
    // A torn tail of a killed process is no batch: the length says so.
    while bytes.len() >= 12 {
        let length = u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize + 12;
        if bytes.len() < length {
            break;
        }
        let mut batch = bytes.split_to(length);
        let set = RecordBatchDecoder::decode_with_custom_compression(&mut batch, Some(decompress))?;
        values.extend(set.records.into_iter().filter_map(|record| record.value));
    }
    Ok(values)
}
