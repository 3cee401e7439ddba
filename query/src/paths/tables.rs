//! `/v1/dimensions/{table}`: enrichment tables.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, header};
use nilometer_access::{Problem, Status};
use utoipa::ToSchema;

use super::json;
use super::openapi::ProblemDoc;
use super::params::{PathText, body};
use crate::door::{Admin, Reader, Refused};
use crate::house::{TableFormat, TableStatus};
use crate::state::QueryState;

/// The tables that there are.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "describes the parameter for the document")]
pub(crate) enum TableName {
    Users,
    Content,
    Services,
}

/// Shows which version of an enrichment table is in force.
#[utoipa::path(
    get, path = "/v1/dimensions/{table}", tag = "administration",
    params(("table" = TableName, Path, description = "Which table")),
    responses(
        (status = 200, body = TableStatus), (status = 400, body = ProblemDoc),
        (status = 404, body = ProblemDoc),
    ),
    security(("token" = []), ("session" = [])),
)]
pub(super) async fn get_table(
    State(state): State<QueryState>,
    _reader: Reader,
    PathText(table): PathText,
) -> Result<Response, Refused> {
    let status = state.house().table(&table).ok_or_else(|| no_such_table(&table))?;
    Ok(json(&status)?)
}

/// Replaces an enrichment table; the new version holds from the next second on.
#[utoipa::path(
    put, path = "/v1/dimensions/{table}", tag = "administration",
    params(("table" = TableName, Path, description = "Which table")),
    responses(
        (status = 200, body = TableStatus), (status = 400, body = ProblemDoc),
        (status = 404, body = ProblemDoc), (status = 413, body = ProblemDoc), (status = 415, body = ProblemDoc),
    ),
    security(("token" = []), ("session" = [])),
)]
pub(super) async fn put_table(
    State(state): State<QueryState>,
    Admin(admin, _): Admin,
    PathText(table): PathText,
    headers: HeaderMap,
    sent: Body,
) -> Result<Response, Refused> {
    if state.house().table(&table).is_none() {
        return Err(no_such_table(&table).into());
    }
    let format = format_of(&headers)?;
    let bytes_max = state.house().table_bytes_max().min(state.buffers().bytes_max());
    // Its memory is held until it is put away.
    let sent = body(&state, sent, bytes_max).await?;
    let status = state.house().put_table(table, format, sent.bytes.clone()).await?;
    drop(sent);
    let (table, version) = (status.table.as_str(), status.version);
    tracing::info!(key_id = admin.key_id, table, version, "enrichment table was replaced");
    Ok(json(&status)?)
}

fn format_of(headers: &HeaderMap) -> Result<TableFormat, Problem> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = given.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    match kind.to_ascii_lowercase().as_str() {
        "text/csv" => Ok(TableFormat::Csv),
        "application/x-ndjson" | "application/ndjson" => Ok(TableFormat::Ndjson),
        _ => Err(Problem::new(
            Status::UnsupportedMediaType,
            "unsupported_media_type",
            "the content type is not one of a table",
            "send Content-Type: text/csv or application/x-ndjson",
        )),
    }
}

fn no_such_table(table: &str) -> Problem {
    let table: String = table.chars().take(64).collect();
    Problem::not_found(format!(
        "there is no table {table:?}; there are users, content and services"
    ))
}
