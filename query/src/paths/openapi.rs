//! The OpenAPI document, generated from the handlers and their types.

use serde::{Deserialize, Serialize};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{IntoParams, Modify, OpenApi, ToSchema};

use super::{catalog, clock, events, pipeline, query, session, status, tables};
use crate::answer::Meta;

/// A typed query. In a URL lists are comma-separated and `filter` may repeat; in JSON lists may be
/// arrays, and `filter` may be an object.
#[derive(Debug, Serialize, Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
pub(crate) struct QueryDoc {
    /// Names of metrics, comma-separated: `events,unique_users`.
    metrics: String,
    /// Names of dimensions, comma-separated.
    group_by: Option<String>,
    /// `dimension:value,value` (any of them), `dimension:!value,!value` (none of them),
    /// `dimension:prefix*`; may repeat, all must hold. `null` is an event without the dimension,
    /// `__other__` the folded rest, `""` the empty text; quotes and backslashes make what they
    /// protect literal. In JSON
    /// `{"country": ["DE"], "plan": {"not": ["free"]}, "path": {"prefix": "/shop"}}`.
    filter: Option<Vec<String>>,
    /// RFC 3339 or epoch milliseconds.
    from: Option<String>,
    /// RFC 3339 or epoch milliseconds; now where absent.
    to: Option<String>,
    /// In place of from and to: `15m`, `1h`, `24h`, `7d`, `30d`, `90d`; `1h` by default.
    last: Option<String>,
    /// `1m`, `5m`, `30m`, `1h`, `1d` or `total`; by the range where absent.
    granularity: Option<String>,
    /// Width of sliding windows, a multiple of granularity: a row for each step in (from, to] that
    /// is not after `as_of`, over the window that ends there.
    window: Option<String>,
    /// `previous_period` adds columns `<metric>_previous`.
    compare: Option<String>,
    /// Columns, comma-separated, a minus for largest first: `-events`.
    order_by: Option<String>,
    /// 1,000 by default, at most 100,000.
    limit: Option<u32>,
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
    /// Events at most; 50 by default, at most 500.
    limit: Option<u32>,
    /// The cursor of the last answer.
    after: Option<String>,
    /// As of a query: `field:value,value`, `field:!value`, `field:prefix*`; may repeat, all must
    /// hold. Fields of events, `user_key`, `key` (the id of the key that sent it) and `source`.
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
    from: Option<String>,
    /// Receive time before which to look.
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
    /// Letters at most; 100 by default, at most 500.
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
    /// As of a query: `code:!schema_violation`, `source:imports/*`; may repeat, all must hold.
    /// By `code`, `event_type`, `source`, `user_key`, `event_id`, `key` and `key_source`.
    filter: Option<Vec<String>>,
}

/// Live subscriptions over WebSocket: `{"type":"subscribe","id":"q1","query":{…},"interval_ms":10000}`,
/// `unsubscribe`, `ping`, `auth`; the server sends `snapshot`, then `delta`.
#[utoipa::path(
    get, path = "/v1/live", tag = "reading",
    responses((status = 101, description = "WebSocket"), (status = 400, body = ProblemDoc), (status = 401, body = ProblemDoc), (status = 403, body = ProblemDoc)),
    security((), ("token" = [])),
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
    components(schemas(ProblemDoc)),
    modifiers(&Doors),
)]
struct Document;

struct Doors;

impl Modify for Doors {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("token", SecurityScheme::Http(bearer));
        let cookie = ApiKey::Cookie(ApiKeyValue::new(nilometer_access::COOKIE_NAME));
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
