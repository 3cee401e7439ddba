//! The reading paths: one handler each, and what is common to them.

mod catalog;
mod clock;
mod events;
mod openapi;
mod params;
mod pipeline;
mod query;
mod session;
mod status;
mod tables;

pub use openapi::openapi;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use http::{HeaderName, HeaderValue, Method, Uri, header};
use nilometer_access::Problem;
use serde::Serialize;

use crate::live;
use crate::metrics::RequestLabels;
use crate::state::QueryState;

/// Bytes of a JSON body at most.
const BODY_BYTES_MAX: usize = crate::ask::QUERY_BYTES_MAX;

/// Paths as metrics name them.
const PATHS: [&str; 19] = [
    "/v1/query",
    "/v1/snapshot",
    "/v1/live",
    "/v1/catalog",
    "/v1/pipeline",
    "/v1/events/tail",
    "/v1/events/{event_id}/trace",
    "/v1/dead-letters",
    "/v1/dead-letters/replay",
    "/v1/dimensions/{table}",
    "/v1/clock/follow",
    "/v1/session",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/v1",
    "/v1/",
    "/v1/{*rest}",
];

/// Every reading path. What this version does not have under `/v1` answers 404 `not_found`.
pub fn router(state: QueryState) -> Router {
    Router::new()
        .route("/v1/query", get(query::get_query).post(query::post_query))
        .route("/v1/snapshot", get(query::get_snapshot))
        .route("/v1/live", get(live::upgrade))
        .route("/v1/catalog", get(catalog::get_catalog))
        .route("/v1/pipeline", get(pipeline::get_pipeline))
        .route("/v1/events/tail", get(events::get_tail))
        .route("/v1/events/{event_id}/trace", get(events::get_trace))
        .route("/v1/dead-letters", get(events::get_letters))
        .route("/v1/dead-letters/replay", post(events::post_replay))
        .route("/v1/clock/follow", post(clock::post_follow))
        .route(
            "/v1/session",
            get(session::get_session).post(session::post_session).delete(session::delete_session),
        )
        .route("/v1/dimensions/{table}", get(tables::get_table).put(tables::put_table))
        .route("/healthz", get(status::get_healthz))
        .route("/readyz", get(status::get_readyz))
        .route("/metrics", get(status::get_metrics))
        .route("/openapi.json", get(status::get_openapi))
        .route("/v1", any(not_found))
        .route("/v1/", any(not_found))
        .route("/v1/{*rest}", any(not_found))
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(state.clone(), observe))
        .with_state(state)
}

async fn not_found(uri: Uri) -> Problem {
    Problem::not_found(format!("this version has no path {}", shortened(uri.path())))
}

async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    Problem::method_not_allowed(format!("{} does not know {method}", shortened(uri.path())))
}

fn shortened(path: &str) -> String {
    path.chars().take(200).collect()
}

/// Counts the request and puts on the headers that every answer has.
async fn observe(State(state): State<QueryState>, request: Request, next: Next) -> Response {
    let matched = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let path = PATHS.into_iter().find(|path| matched.as_deref() == Some(path)).unwrap_or("other");
    let mut response = next.run(request).await;
    let status = response.status().as_u16();
    state.metrics().requests.get_or_create(&RequestLabels { path, status }).inc();
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert_with(|| HeaderValue::from_static("no-store"));
    response
}

const JSON: (HeaderName, HeaderValue) =
    (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));

/// An answer that is JSON already.
fn json_bytes(body: Vec<u8>) -> Response {
    ([JSON], body).into_response()
}

/// An answer of something that serialises: text, numbers, and structs of them.
fn json<T: Serialize>(body: &T) -> Result<Response, Problem> {
    let bytes = serde_json::to_vec(body);
    let bytes =
        bytes.map_err(|error| Problem::internal(format!("answer does not serialise: {error}")))?;
    Ok(json_bytes(bytes))
}

#[cfg(test)]
mod tests;
