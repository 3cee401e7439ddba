//! Liveness, readiness, Prometheus and the OpenAPI document.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};
use nilometer_access::{Problem, Status};
use serde::Serialize;
use utoipa::ToSchema;

use super::openapi::{ProblemDoc, openapi};
use super::{json, json_bytes};
use crate::door::{Reader, Refused};
use crate::exposition::Exposition;
use crate::house::Readiness;
use crate::state::QueryState;

/// That all is well.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Well {
    status: &'static str,
}

/// Says that the process lives.
#[utoipa::path(get, path = "/healthz", tag = "status", responses((status = 200, body = Well)))]
pub(super) async fn get_healthz() -> Result<Response, Refused> {
    Ok(json(&Well { status: "ok" })?)
}

/// Says whether answers are whole: recovery is over, and nothing is being drained.
#[utoipa::path(
    get, path = "/readyz", tag = "status",
    responses((status = 200, body = Well), (status = 503, body = ProblemDoc)),
)]
pub(super) async fn get_readyz(State(state): State<QueryState>) -> Result<Response, Refused> {
    match state.house().readiness() {
        Readiness::Ready => Ok(json(&Well { status: "ready" })?),
        Readiness::NotReady(why) => {
            let title = "the server is not ready";
            let problem = Problem::new(Status::Unavailable, "not_ready", title, why);
            Err(problem.after(std::time::Duration::from_secs(1)).into())
        }
    }
}

/// Shows every metric, in OpenMetrics where the scraper names it, else in Prometheus' text format.
#[utoipa::path(
    get, path = "/metrics", tag = "status",
    responses((status = 200, content((String = "text/plain"), (String = "application/openmetrics-text"))), (status = 401, body = ProblemDoc)),
    security(("token" = []), ("session" = [])),
)]
pub(super) async fn get_metrics(
    State(state): State<QueryState>,
    _reader: Reader,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let format = Exposition::accepted(&headers);
    let text = format.encode(state.registry());
    let text =
        text.map_err(|error| Problem::internal(format!("metrics do not encode: {error}")))?;
    let about = [
        (header::CONTENT_TYPE, format.content_type()),
        (header::VARY, HeaderValue::from_static("accept")),
    ];
    Ok((about, text).into_response())
}

/// Shows this document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "status",
    responses((status = 200, description = "OpenAPI 3.1"), (status = 401, body = ProblemDoc)),
    security(("token" = []), ("session" = [])),
)]
pub(super) async fn get_openapi(
    State(state): State<QueryState>,
    _reader: Reader,
) -> Result<Response, Refused> {
    if let Some(document) = &state.settings().document {
        return Ok(json_bytes(document.as_bytes().to_vec()));
    }
    let document = openapi(state.settings().version).to_json();
    let document = document
        .map_err(|error| Problem::internal(format!("document does not serialise: {error}")))?;
    Ok(json_bytes(document.into_bytes()))
}
