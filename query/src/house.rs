//! What the reading room asks of the house: readiness, replay, enrichment tables, verdicts.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use nilometer_access::Problem;
use nilometer_event::{EventTime, Identity, ReceiveTime};
use nilometer_rollups::trace::{Decided, SentCopy};
use serde::Serialize;
use utoipa::ToSchema;

/// Implemented by the server's wiring, which knows the gateway and the stream.
pub trait House: Send + Sync + std::fmt::Debug {
    /// Whether answers are whole: every shard has recovered and nothing is being drained.
    fn readiness(&self) -> Readiness;

    /// Sends a dead letter through the front door once more.
    fn replay(&self, replay: Replay) -> BoxFuture<'_, Result<Replayed, Problem>>;

    /// Replaces an enrichment table; answers once the new version is durable.
    fn put_table(
        &self,
        table: String,
        format: TableFormat,
        body: Bytes,
    ) -> BoxFuture<'_, Result<TableStatus, Problem>>;

    /// The enrichment table of that name; `None` where there is none of that name.
    fn table(&self, table: &str) -> Option<TableStatus>;

    /// What the log holds where an event had `text` at `path` (N7: personal data is masked
    /// there): a field, a property and where it lies (`properties.client.version`), or nothing for
    /// a text of no field. What masking knows nothing of comes back as it is; what is masked
    /// already stays.
    fn masked(&self, path: &str, text: &str) -> String;

    /// What the stream made of copies of one event, in their order. Blocks.
    ///
    /// # Errors
    ///
    /// 503 where the stream cannot say now.
    fn decided(&self, event: Identity<'_>, copies: &[SentCopy]) -> Result<Vec<Decided>, Problem>;

    /// How many values masking has changed since the start, by field.
    fn masked_fields(&self) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }

    /// What the process holds of memory, and who.
    fn memory(&self) -> Memory {
        Memory::default()
    }

    /// The largest enrichment table in bytes.
    fn table_bytes_max(&self) -> usize {
        64 << 20
    }
}

/// What the process holds of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Memory {
    /// The budget of `server.memory_limit_mib`.
    pub limit_bytes: u64,
    /// As the kernel counts it; null where it does not say.
    pub resident_bytes: Option<u64>,
    /// Who holds it, as `nilometer_process_memory_bytes` has it: bytes by part, about.
    pub parts: BTreeMap<&'static str, u64>,
}

/// Whether the house can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It can.
    Ready,
    /// Not yet, or no longer; why.
    NotReady(String),
}

/// One dead letter on its way back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// `partition-offset`: its place on the dead-letter topic.
    pub letter: String,
    /// `events`, or `imports/NAME`.
    pub source: String,
    /// JSON text of the event: the letter's masked body, or the fixed event.
    pub event: String,
    /// The id that the event gets where it has none: the letter's own.
    pub event_id: String,
    /// When the letter came.
    pub received_at: ReceiveTime,
    /// When its envelope said that it was sent, by the client's clock.
    pub sent_at: Option<EventTime>,
    /// The id of the key that sent it.
    pub key: Option<String>,
    /// That key's source; `None` for the default one.
    pub key_source: Option<String>,
}

/// What became of a replayed letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Replayed {
    /// The letter.
    pub id: String,
    /// Whether its event is accepted and durable now.
    pub accepted: bool,
    /// Why not: the code of its new rejection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Why not, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How the rows of an enrichment table are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFormat {
    /// A header line, then rows; the key is the first column.
    Csv,
    /// One object a line; the key is the first member.
    Ndjson,
}

/// An enrichment table as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct TableStatus {
    /// `users`, `content` or `services`.
    pub table: String,
    /// Grows with every replacement; 0 before the first.
    pub version: u64,
    /// Rows.
    pub rows: u64,
    /// Names of the columns, the key first.
    pub columns: Vec<String>,
}
