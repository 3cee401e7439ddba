//! The OpenAPI document of this room, generated from the handlers and their types. What several
//! paths take, and the forms of bodies, is written once, in the house's `reading.json`.

use serde::{Deserialize, Serialize};
use utoipa::openapi::Ref;
use utoipa::openapi::schema::{Array, ArrayBuilder, Object, ObjectBuilder, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{IntoParams, Modify, OpenApi, ToSchema};

use super::events::{FILTERS_MAX, LETTERS_LIMIT_DEFAULT, TAIL_LIMIT_DEFAULT};
use super::{catalog, clock, events, pipeline, query, session, status, tables};
use crate::answer::Meta;
use crate::ask::{DIMENSIONS_MAX, LIMIT_DEFAULT, LIMIT_MAX, METRICS_MAX, ORDER_MAX};
use crate::records::{LETTERS_LIMIT_MAX, TAIL_LIMIT_MAX};

/// A typed query in a URL.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "describes the parameters for the document; handlers read them themselves"
)]
pub(crate) struct QueryDoc {
    /// Names of metrics, comma-separated: `events,unique_users`.
    #[param(schema_with = metrics)]
    metrics: Vec<String>,
    /// Names of dimensions, comma-separated.
    #[param(schema_with = group_by)]
    group_by: Option<Vec<String>>,
    /// What dimensions must be; may repeat, all must hold.
    #[param(schema_with = query_filters)]
    filter: Option<Vec<String>>,
    /// Where the range begins.
    #[param(schema_with = moment)]
    from: Option<String>,
    /// Where it ends; now where absent.
    #[param(schema_with = moment)]
    to: Option<String>,
    /// In place of from and to; `1h` by default.
    #[param(schema_with = duration)]
    last: Option<String>,
    /// By the range where absent.
    #[param(schema_with = granularity)]
    granularity: Option<String>,
    /// Width of sliding windows, a multiple of granularity: a row for each step in (from, to] that
    /// is not after `as_of`, over the window that ends there.
    #[param(schema_with = duration)]
    window: Option<String>,
    /// `previous_period` adds columns `<metric>_previous`.
    #[param(schema_with = compare)]
    compare: Option<String>,
    /// Columns, comma-separated, a minus for largest first: `-events`.
    #[param(schema_with = order_by)]
    order_by: Option<Vec<String>>,
    /// Rows at most.
    #[param(schema_with = query_limit)]
    limit: Option<u32>,
}

fn named(schema: &str) -> Ref {
    Ref::from_schema_name(schema)
}

fn list_of(schema: &str, max: usize) -> ArrayBuilder {
    ArrayBuilder::new().items(named(schema)).max_items(Some(max))
}

fn whole(default: usize, max: usize) -> Object {
    let number = ObjectBuilder::new().schema_type(Type::Integer);
    number.minimum(Some(1)).maximum(Some(max)).default(Some(default.into())).build()
}

fn metrics() -> Array {
    list_of("MetricName", METRICS_MAX).min_items(Some(1)).build()
}

fn group_by() -> Array {
    list_of("DimensionName", DIMENSIONS_MAX).build()
}

fn order_by() -> Array {
    list_of("Order", ORDER_MAX).build()
}

fn query_filters() -> Array {
    ArrayBuilder::new().items(named("Filter")).build()
}

fn filters() -> Array {
    list_of("Filter", FILTERS_MAX).build()
}

fn moment() -> Ref {
    named("Moment")
}

fn duration() -> Ref {
    named("Duration")
}

fn granularity() -> Ref {
    named("Granularity")
}

fn compare() -> Ref {
    named("Compare")
}

fn query_limit() -> Object {
    whole(LIMIT_DEFAULT, LIMIT_MAX)
}

fn tail_limit() -> Object {
    whole(TAIL_LIMIT_DEFAULT, TAIL_LIMIT_MAX)
}

fn letters_limit() -> Object {
    whole(LETTERS_LIMIT_DEFAULT, LETTERS_LIMIT_MAX)
}

/// An answer to a query.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AnswerDoc {
    /// `window_start`, for sliding windows `window_end`, the dimensions, the metrics.
    columns: Vec<String>,
    /// One object a row, with the columns as members; a dimension may be null.
    rows: Vec<serde_json::Map<String, serde_json::Value>>,
    meta: Meta,
}

/// A refusal (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProblemDoc {
    #[serde(rename = "type")]
    kind: String,
    title: String,
    status: u16,
    /// Stable, for programs.
    code: String,
    /// What went wrong and what to do.
    detail: String,
    retry_after_ms: Option<u64>,
}

/// Parameters of the tail.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "describes the parameters for the document; handlers read them themselves"
)]
pub(crate) struct TailDoc {
    /// Events at most.
    #[param(schema_with = tail_limit)]
    limit: Option<u32>,
    /// The cursor of the last answer.
    after: Option<String>,
    /// As of a query, by fields of events, `user_key`, `key` (the id of the key that sent it) and
    /// `source`; may repeat, all must hold.
    #[param(schema_with = filters)]
    filter: Option<Vec<String>>,
}

/// Parameters of a trace.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "describes the parameters for the document; handlers read them themselves"
)]
pub(crate) struct TraceDoc {
    /// Receive time from which on to look.
    #[param(schema_with = moment)]
    from: Option<String>,
    /// Receive time before which to look.
    #[param(schema_with = moment)]
    to: Option<String>,
}

/// Parameters of the dead letters.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "describes the parameters for the document; handlers read them themselves"
)]
pub(crate) struct LettersDoc {
    /// Letters at most.
    #[param(schema_with = letters_limit)]
    limit: Option<u32>,
    /// The cursor `next` of the page before.
    before: Option<String>,
    /// Of this reason.
    code: Option<String>,
    /// Of this event type.
    event_type: Option<String>,
    /// From this source: `events` or `imports/NAME`.
    source: Option<String>,
    /// Of this user.
    user_key: Option<String>,
    /// Sent by the key of this id.
    key: Option<String>,
    /// As of a query, by `code`, `event_type`, `source`, `user_key`, `event_id`, `key` and
    /// `key_source`; may repeat, all must hold: `code:!schema_violation`, `source:imports/*`.
    #[param(schema_with = filters)]
    filter: Option<Vec<String>>,
}

/// Live subscriptions over WebSocket: `{"type":"subscribe","id":"q1","query":{…},"interval_ms":10000}`,
/// `unsubscribe`, `ping`, `auth`; the server sends `snapshot`, then `delta`.
#[utoipa::path(
    get, path = "/v1/live", tag = "reading",
    responses((status = 101, description = "WebSocket"), (status = 400, body = ProblemDoc), (status = 401, body = ProblemDoc), (status = 403, body = ProblemDoc)),
    security((), ("token" = []), ("session" = [])),
)]
#[expect(dead_code, reason = "describes the WebSocket, which has no handler of the usual form")]
fn live() {}

#[derive(OpenApi)]
#[openapi(
    info(title = "Nilometer", description = "Live analytics: every accepted event counts exactly once."),
    paths(
        query::get_query, query::post_query, query::get_snapshot, live, catalog::get_catalog,
        pipeline::get_pipeline, events::get_tail, events::get_trace, events::get_letters,
        events::post_replay, tables::get_table, tables::put_table, session::get_session,
        session::post_session, session::delete_session, status::get_healthz, status::get_readyz,
        status::get_metrics, status::get_openapi, clock::post_follow,
    ),
    components(schemas(ProblemDoc, tables::TableName)),
    modifiers(&Doors),
)]
struct Document;

struct Doors;

impl Modify for Doors {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("A read or admin token."))
            .build();
        components.add_security_scheme("token", SecurityScheme::Http(bearer));
        let cookie = ApiKeyValue::with_description(
            nilometer_access::COOKIE_NAME,
            "A browser's session: POST /v1/session opens it, DELETE /v1/session ends it.",
        );
        let cookie = ApiKey::Cookie(cookie);
        components.add_security_scheme("session", SecurityScheme::ApiKey(cookie));
    }
}

/// The document of every path of this room; the server may merge others into it.
#[must_use]
pub fn openapi(version: &str) -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    version.clone_into(&mut document.info.version);
    document
}
