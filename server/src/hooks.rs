//! What the reading room asks of the house: readiness, replay, enrichment tables.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use nilometer_access::{Problem, Status};
use nilometer_event::Identity;
use nilometer_gateway::{Gateway, Masker};
use nilometer_query::{House, Memory, Readiness, Replay, Replayed, TableFormat, TableStatus};
use nilometer_stream::shell::{ShardStatus, TraceError};
use nilometer_stream::tables::{Rows, TableName, parse_csv, parse_ndjson};
use nilometer_stream::trace::{Decided, SentCopy};
use nilometer_stream::{DimensionTableError, Stream, StreamSettings};
use parking_lot::Mutex;

use crate::metrics::Holders;

/// The stream until it is shut down, and the front door for replays.
#[derive(Debug)]
pub(crate) struct Hooks {
    stream: Arc<Mutex<Option<Stream>>>,
    gateway: Arc<Gateway>,
    holders: Arc<Holders>,
    is_draining: AtomicBool,
}

impl Hooks {
    pub(crate) fn new(stream: Stream, gateway: Arc<Gateway>, holders: Arc<Holders>) -> Self {
        let stream = Arc::new(Mutex::new(Some(stream)));
        Self { stream, gateway, holders, is_draining: AtomicBool::new(false) }
    }

    /// From now on the house is not ready: a load balancer sends nobody any more.
    pub(crate) fn drain(&self) {
        self.is_draining.store(true, Ordering::Release);
    }

    /// The stream, to be shut down; nobody else has it afterwards.
    pub(crate) fn take_stream(&self) -> Option<Stream> {
        self.stream.lock().take()
    }

    /// How the shards are doing; empty once the stream was taken.
    pub(crate) fn shards(&self) -> Vec<ShardStatus> {
        self.stream.lock().as_ref().map(Stream::status).unwrap_or_default()
    }
}

impl House for Hooks {
    fn readiness(&self) -> Readiness {
        if self.is_draining.load(Ordering::Acquire) {
            return Readiness::NotReady("the server is shutting down".to_owned());
        }
        let shards = self.shards();
        match shards.iter().enumerate().find(|(_, shard)| !shard.alive) {
            Some((number, shard)) => {
                let why = shard.error.clone();
                Readiness::NotReady(why.unwrap_or_else(|| format!("shard {number} has stopped")))
            }
            None => Readiness::Ready,
        }
    }

    fn replay(&self, replay: Replay) -> BoxFuture<'_, Result<Replayed, Problem>> {
        async move {
            let letter = nilometer_gateway::Replay {
                event: &replay.event,
                source: &replay.source,
                event_id: &replay.event_id,
                received_at: replay.received_at,
                sent_at: replay.sent_at,
                key: replay.key.as_deref(),
                key_source: replay.key_source.as_deref(),
            };
            let answer = self.gateway.replay(letter).await?;
            let error = answer.errors.into_iter().next();
            Ok(Replayed {
                id: replay.letter,
                accepted: answer.accepted > 0,
                code: error.as_ref().map(|error| error.code.to_owned()),
                message: error.map(|error| error.message),
            })
        }
        .boxed()
    }

    fn put_table(
        &self,
        table: String,
        format: TableFormat,
        body: Bytes,
    ) -> BoxFuture<'_, Result<TableStatus, Problem>> {
        let (stream, gateway) = (Arc::clone(&self.stream), Arc::clone(&self.gateway));
        async move {
            let put = move || {
                let name = TableName::from_name(&table)?;
                let rows_max = StreamSettings::default().table_rows_max;
                let mut rows = match format {
                    TableFormat::Csv => parse_csv(&body, rows_max)?,
                    TableFormat::Ndjson => parse_ndjson(&body, rows_max)?,
                };
                mask(&mut rows, name, gateway.masker());
                match stream.lock().as_ref() {
                    Some(stream) => {
                        stream.put_dimension_table(name, rows)?;
                        Ok(status(stream, name))
                    }
                    None => Ok(None),
                }
            };
            match tokio::task::spawn_blocking(put).await {
                Ok(Ok(Some(status))) => Ok(status),
                Ok(Ok(None)) => Err(shutting_down()),
                Ok(Err(error)) => Err(table_problem(&error)),
                Err(_panicked) => Err(Problem::internal("a table's writer panicked")),
            }
        }
        .boxed()
    }

    fn masked(&self, path: &str, text: &str) -> String {
        self.gateway.masker().at(path, text).into_owned()
    }

    fn decided(&self, event: Identity<'_>, copies: &[SentCopy]) -> Result<Vec<Decided>, Problem> {
        let tracer = self.stream.lock().as_ref().map(|stream| stream.tracer().clone());
        let decided = tracer.ok_or_else(shutting_down)?.decided(event, copies);
        decided.map_err(|error| match error {
            TraceError::Stopped => shutting_down(),
            error => Problem::new(
                Status::Unavailable,
                "busy",
                "the stream cannot say now what became of the event",
                "the shard of this event is at work or its disk refused a read; try again",
            )
            .after(Duration::from_secs(1))
            .logged(error.to_string()),
        })
    }

    fn masked_fields(&self) -> BTreeMap<String, u64> {
        self.gateway.masked_fields()
    }

    fn memory(&self) -> Memory {
        self.holders.memory()
    }

    fn table(&self, table: &str) -> Option<TableStatus> {
        let name = TableName::from_name(table).ok()?;
        let stream = self.stream.lock();
        let stream = stream.as_ref()?;
        status(stream, name).or_else(|| {
            Some(TableStatus { table: table.to_owned(), version: 0, rows: 0, columns: Vec::new() })
        })
    }
}

/// A table's keys must be what events hold, and its values are written to the disk (N7).
fn mask(rows: &mut Rows, table: TableName, masker: &Masker) {
    let key = match table {
        TableName::Users => "user_id",
        TableName::Content => "content_id",
        TableName::Services => "service_name",
    };
    // What fills a field is masked as the field is.
    let fields: Vec<&str> =
        rows.columns.iter().map(|column| table.field_of(column).unwrap_or(column)).collect();
    for row in &mut rows.rows {
        for (at, value) in row.iter_mut().enumerate() {
            let Some(text) = value else { continue };
            // No event can lack the key of its row.
            let masked = match fields.get(at) {
                Some(field) if at > 0 => masker.value(field, text),
                _ => Some(masker.field(key, text)),
            };
            match masked {
                Some(Cow::Borrowed(_)) => {}
                Some(Cow::Owned(masked)) => *value = Some(masked),
                None => *value = None,
            }
        }
    }
    for column in &mut rows.columns {
        if let Cow::Owned(masked) = masker.text(column) {
            *column = masked;
        }
    }
}

fn status(stream: &Stream, name: TableName) -> Option<TableStatus> {
    let table = stream.dimension_table(name)?;
    Some(TableStatus {
        table: name.name().to_owned(),
        version: table.version(),
        rows: u64::try_from(table.rows().rows.len()).unwrap_or(u64::MAX),
        columns: table.rows().columns.clone(),
    })
}

fn shutting_down() -> Problem {
    Problem::new(
        Status::Unavailable,
        "shutting_down",
        "Shutting down",
        "the server is shutting down",
    )
    .after(Duration::from_secs(1))
}

fn table_problem(error: &DimensionTableError) -> Problem {
    let DimensionTableError::Disk { source, .. } = error else {
        return Problem::new(
            Status::BadRequest,
            "table_invalid",
            "Table refused",
            error.to_string(),
        );
    };
    // The table is good: it is our disk that is not.
    let (code, detail) = if source.kind() == std::io::ErrorKind::StorageFull {
        ("disk_full", "the disk is full; nothing was changed, and the same table again is safe")
    } else {
        ("busy", "the disk refused a write; nothing was changed, and the same table again is safe")
    };
    Problem::new(Status::Unavailable, code, "the table cannot be kept now", detail)
        .after(Duration::from_secs(5))
        .logged(error.to_string())
}

#[cfg(test)]
mod tests {
    use nilometer_log::{AppendError, Retry};

    use super::*;

    #[test]
    fn a_house_that_shuts_down_says_the_same_at_every_door() {
        let after = shutting_down().retry_after.unwrap();
        assert_eq!(
            AppendError::ShuttingDown.retry(),
            Retry::AfterMs(u64::try_from(after.as_millis()).unwrap())
        );
    }

    #[test]
    fn a_disk_that_refuses_a_table_is_not_the_tables_fault_and_is_told_in_our_words() {
        for (kind, code) in [
            (std::io::ErrorKind::StorageFull, "disk_full"),
            (std::io::ErrorKind::PermissionDenied, "busy"),
        ] {
            let path = "dimensions/users-1.table".to_owned();
            let disk = DimensionTableError::Disk { path, source: kind.into() };
            let problem = table_problem(&disk);
            assert_eq!((problem.status.code().as_u16(), problem.code), (503, code));
            assert!(problem.retry_after.is_some());
            let (told, logged) = (problem.detail, problem.internal.unwrap());
            assert!(!told.contains("users-1.table") && logged.contains("users-1.table"), "{told}");
        }
        let bad = table_problem(&DimensionTableError::NoColumns);
        assert_eq!((bad.status.code().as_u16(), bad.code), (400, "table_invalid"));
    }
}
