//! The ingest paths over HTTP: who asks, what is sent, how it is answered.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::response::Response;
use axum::routing::post;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ALLOW,
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ORIGIN, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use nilometer_access::body::{self, BodyError};
use nilometer_access::{ClientAddress, Load, Problem, Right, Status, credentials, preflight};

use crate::gateway::{Sender, busy, too_large};
use crate::{BodyFormat, Encoding, Gateway, IngestAnswer, Source};

/// Longest name of an import, in bytes.
const IMPORT_NAME_BYTES_MAX: usize = 128;

/// The headers that mean something to us.
const OUR_HEADERS: &str = "authorization, content-type, content-encoding";

/// How long a browser may remember a preflight.
const PREFLIGHT_SECONDS: &str = "86400";

/// The ingest paths: `POST` and `OPTIONS` of `/v1/events` and `/v1/imports/{name}/events`.
pub fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/v1/events", post(events).options(preflight_answer).fallback(other_method))
        .route(
            "/v1/imports/{name}/events",
            post(imports).options(preflight_answer).fallback(other_method),
        )
        .with_state(gateway)
}

/// The ingest paths of a house that takes nothing yet: whatever is sent is answered by `refusal`,
/// and in such a way that a page can read it, and not as a network that fails.
pub fn closed_router(refusal: fn() -> Problem) -> Router {
    let refused = move |headers: HeaderMap| async move {
        let mut response = refusal().to_response();
        let_pages_read(&mut response, &headers);
        response
    };
    let path = || axum::routing::any(refused).options(preflight_answer);
    Router::new().route("/v1/events", path()).route("/v1/imports/{name}/events", path())
}

async fn events(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    answer(&gateway, request, Ok(Source::Events)).await
}

async fn imports(
    State(gateway): State<Arc<Gateway>>,
    name: Result<Path<String>, axum::extract::rejection::PathRejection>,
    request: Request,
) -> Response {
    let source = match name {
        Ok(Path(name)) => import_source(name),
        Err(_not_utf8) => Err(bad_import_name()),
    };
    answer(&gateway, request, source).await
}

fn import_source(name: String) -> Result<Source, Problem> {
    let fits = (1..=IMPORT_NAME_BYTES_MAX).contains(&name.len())
        && !name.chars().any(|char| char.is_control() || char == '/');
    if fits { Ok(Source::Import { name }) } else { Err(bad_import_name()) }
}

fn bad_import_name() -> Problem {
    let detail = format!(
        "an import's name is 1 to {IMPORT_NAME_BYTES_MAX} bytes of UTF-8 without slashes and \
         control characters"
    );
    Problem::new(Status::BadRequest, "import_name_invalid", "no name for an import", detail)
}

/// Any origin may ask: whether it may send is the key's business, and a preflight has no key.
/// A page's libraries add headers of their own (`traceparent`, `baggage`, `x-datadog-…`), which
/// mean nothing to us: whatever is asked for is allowed.
async fn preflight_answer(headers: HeaderMap) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let answer = response.headers_mut();
    answer.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, OPTIONS"));
    answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, preflight::allowed_headers(&headers, OUR_HEADERS));
    answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_SECONDS));
    answer.insert(ALLOW, HeaderValue::from_static("POST, OPTIONS"));
    allow_origin(answer, headers.get(ORIGIN));
    answer.append(VARY, HeaderValue::from_static("access-control-request-headers"));
    response
}

async fn other_method(method: Method) -> Response {
    let problem = Problem::method_not_allowed(format!("use POST, not {method}"));
    let mut response: Response = problem.to_response();
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST, OPTIONS"));
    response
}

async fn answer(
    gateway: &Arc<Gateway>,
    request: Request,
    source: Result<Source, Problem>,
) -> Response {
    let (parts, mut body) = request.into_parts();
    let outcome = match source {
        Ok(source) => Box::pin(ingest(gateway, &parts, &mut body, source)).await,
        Err(problem) => Err(problem),
    };
    let mut response = match outcome {
        Ok(answer) => {
            if let Some(first) = answer.errors.first() {
                let (accepted, rejected) = (answer.accepted, answer.rejected);
                tracing::debug!(accepted, rejected, first = first.code, "events rejected");
            }
            accepted(&answer)
        }
        Err(problem) => {
            if let Some(internal) = &problem.internal {
                let reason = gateway.masker().text(internal);
                tracing::error!(code = problem.code, %reason, "ingest refused");
            }
            problem.to_response()
        }
    };
    gateway.metrics.answered(response.status());
    let_pages_read(&mut response, &parts.headers);
    response
}

fn let_pages_read(response: &mut Response, request: &HeaderMap) {
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after"));
    allow_origin(headers, request.get(ORIGIN));
}

fn accepted(answer: &IngestAnswer) -> Response {
    let json = match serde_json::to_vec(answer) {
        Ok(json) => json,
        Err(error) => return Problem::internal(error.to_string()).to_response(),
    };
    let mut response = Response::new(Body::from(json));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn allow_origin(headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
    // The origin is repeated, not starred, and credentials may come along: browsers send beacons
    // with them. Nothing here looks at a cookie.
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    headers.append(VARY, HeaderValue::from_static("origin"));
}

async fn ingest(
    gateway: &Arc<Gateway>,
    parts: &Parts,
    body: &mut Body,
    source: Source,
) -> Result<IngestAnswer, Problem> {
    let sender = authenticate(gateway, parts)?;
    gateway.quotas.look_events(gateway.sending(&sender))?;
    let outcome = take(gateway, parts, body, source, sender.clone()).await;
    if let Err(problem) = &outcome
        && problem.status != Status::TooManyRequests
        && problem.status.code().is_client_error()
    {
        // A body that was refused was work all the same; whether there is room changes nothing.
        drop(gateway.quotas.check_events(gateway.sending(&sender), Load::new(1, 0)));
    }
    outcome
}

async fn take(
    gateway: &Arc<Gateway>,
    parts: &Parts,
    body: &mut Body,
    source: Source,
    sender: Sender,
) -> Result<IngestAnswer, Problem> {
    let (format, encoding) = formats(&parts.headers)?;
    let limits = &gateway.plan.limits;
    let (limit, max) = if sender.principal.server {
        ("server_body_bytes_max", limits.server_body_bytes_max)
    } else {
        ("body_bytes_max", limits.body_bytes_max)
    };
    let mut share = gateway.buffers.share();
    let wire = body::read(body, max, &mut share).await;
    let wire = wire.map_err(|error| body_problem(limit, &error))?;
    gateway.ingest(Some(sender), source, format, encoding, wire, share).await
}

/// Who asks, by header or by `?write_key=`; the header goes first.
fn authenticate(gateway: &Gateway, parts: &Parts) -> Result<Sender, Problem> {
    let token = credentials::bearer(&parts.headers)
        .or_else(|| credentials::write_key(parts.uri.query()))
        .ok_or_else(|| {
            Problem::unauthorized("send Authorization: Bearer <write key>, or ?write_key=")
        })?;
    let principal = gateway
        .keys
        .authenticate(token)
        .ok_or_else(|| Problem::unauthorized("the key is unknown or was revoked"))?;
    if !principal.allows(Right::Ingest) {
        return Err(Problem::forbidden("events are sent with a write key, not with a token"));
    }
    let origin = parts.headers.get(ORIGIN).and_then(|origin| origin.to_str().ok());
    if !principal.allows_origin(origin) {
        let detail = "the key may not be used from this origin; its list of origins says which";
        return Err(Problem::new(
            Status::Forbidden,
            "origin_not_allowed",
            "the origin is not allowed",
            detail,
        ));
    }
    Ok(Sender { principal, address: address(parts) })
}

/// The address that the server understood; without one, all share one address's limits.
fn address(parts: &Parts) -> IpAddr {
    let understood = parts.extensions.get::<ClientAddress>().map(|address| address.0);
    let connected = || parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    understood.or_else(connected).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

fn formats(headers: &HeaderMap) -> Result<(BodyFormat, Encoding), Problem> {
    let format = only(headers, CONTENT_TYPE).and_then(BodyFormat::from_media_type);
    let format = format.ok_or_else(|| {
        let detail =
            "send application/json, application/x-ndjson or text/plain, or no Content-Type";
        unsupported("unsupported_content_type", detail)
    })?;
    let encoding = only(headers, CONTENT_ENCODING).and_then(Encoding::from_name);
    let encoding = encoding.ok_or_else(|| {
        unsupported("unsupported_content_encoding", "send gzip, zstd, br or no Content-Encoding")
    })?;
    Ok((format, encoding))
}

/// The value of a header that comes at most once; empty where it does not come.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Some(""),
        (Some(value), None) => value.to_str().ok(),
        (Some(_), Some(_)) => None,
    }
}

fn unsupported(code: &'static str, detail: &str) -> Problem {
    Problem::new(Status::UnsupportedMediaType, code, "the body's form is not known", detail)
}

fn body_problem(limit: &'static str, error: &BodyError) -> Problem {
    match error {
        BodyError::TooLarge { max } => too_large(format!(
            "the body is over {limit} = {max} bytes on the wire; send smaller batches, or compress \
             them"
        ))
        .with("limit", limit)
        .with("max", *max),
        BodyError::Timeout(timeout) => (*timeout).into(),
        BodyError::CutShort => Problem::new(
            Status::BadRequest,
            "body_truncated",
            "the body is not whole",
            format!("{error}; nothing of it was accepted"),
        ),
        BodyError::Busy => busy(),
    }
}
