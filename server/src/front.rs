//! What every answer of the house has in common, whoever gives it: compression, security headers,
//! origins that may read, and a sane word to whoever asks for nothing that is here.

use std::io::Write;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::State;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCEPT_ENCODING, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ALLOW,
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    ORIGIN, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use nilometer_access::{Accounted, Buffers, Problem, preflight};

/// Answers below this are sent as they are: a frame of a compressor would save nothing.
const COMPRESSED_BYTES_MIN: u64 = 1024;
/// Answers above this are sent as they are, so that one answer is never held twice in full size.
const COMPRESSED_BYTES_MAX: u64 = 64 << 20;
/// Above this a compressor works on a thread of its own: 128 KiB take about a millisecond.
const INLINE_BYTES_MAX: usize = 128 << 10;
/// Level 1 of both: answers are made anew each time.
const ZSTD_LEVEL: i32 = 1;

/// An answer of ours is data: nothing in it may be run, framed or guessed at.
const POLICY: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, OPTIONS");
const REQUEST_HEADERS: &str = "authorization, content-type, if-none-match";
const ANSWER_HEADERS: HeaderValue = HeaderValue::from_static("etag, retry-after");

/// Web origins, besides the server's own, whose pages may read.
pub(crate) type Origins = Arc<Vec<String>>;

/// Puts the front before the house's rooms; what is compressed is held by `exchanges` meanwhile.
pub(crate) fn before(rooms: Router, origins: Vec<String>, exchanges: Buffers) -> Router {
    rooms
        .layer(middleware::from_fn_with_state(Arc::new(origins), dress))
        .layer(middleware::from_fn_with_state(exchanges, compress))
}

/// What no room has: the last word of the merged rooms.
pub(crate) fn last_word(rooms: Router) -> Router {
    rooms.fallback(not_found).method_not_allowed_fallback(method_not_allowed)
}

async fn not_found(uri: Uri) -> Problem {
    Problem::not_found(format!("there is no path {}", shortened(&uri)))
}

async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    Problem::method_not_allowed(format!("{} does not know {method}", shortened(&uri)))
}

fn shortened(uri: &Uri) -> String {
    // Whoever lost the way may have put anything there: what is no name of ours is not repeated.
    let path = uri.path().chars().take(100);
    path.map(
        |char| if char.is_ascii_alphanumeric() || "/-_.{}".contains(char) { char } else { '?' },
    )
    .filter(|char| !char.is_ascii_digit())
    .collect()
}

/// Puts on what every answer has, and answers the questions that browsers ask beforehand.
async fn dress(State(origins): State<Origins>, request: Request<Body>, next: Next) -> Response {
    let asks_options = request.method() == Method::OPTIONS;
    let origin = request.headers().get(ORIGIN).cloned();
    let asked_headers = preflight::allowed_headers(request.headers(), REQUEST_HEADERS);
    let mut response = next.run(request).await;
    // The ingest paths answer this by themselves; the others know only what they do not have.
    if asks_options && response.status() == StatusCode::METHOD_NOT_ALLOWED {
        let allow = response.headers().get(ALLOW).cloned();
        response = StatusCode::NO_CONTENT.into_response();
        if let Some(allow) = allow {
            response.headers_mut().insert(ALLOW, allow);
        }
    }
    let is_data = !response.headers().contains_key(CONTENT_SECURITY_POLICY);
    let is_ingest = response.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN);
    let headers = response.headers_mut();
    if !is_ingest {
        // A page of another origin gets an answer as one that may read it, or not at all.
        headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    }
    if !is_ingest && !origins.is_empty() {
        let allowed = origin.filter(|origin| is_allowed(origin, &origins));
        admit(headers, allowed, asks_options.then_some(asked_headers));
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if is_data {
        headers.insert(CONTENT_SECURITY_POLICY, POLICY);
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    }
    response
}

fn is_allowed(origin: &HeaderValue, origins: &[String]) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    origins.iter().any(|allowed| allowed.trim_end_matches('/').eq_ignore_ascii_case(origin))
}

/// Lets the page of an allowed origin read the answer.
fn admit(
    headers: &mut HeaderMap,
    origin: Option<HeaderValue>,
    preflight_headers: Option<HeaderValue>,
) {
    headers.append(VARY, HeaderValue::from_static("origin"));
    let Some(origin) = origin else { return };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, ANSWER_HEADERS);
    if let Some(preflight_headers) = preflight_headers {
        headers.append(VARY, HeaderValue::from_static("access-control-request-headers"));
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, preflight_headers);
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
}

/// How an answer may be compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Zstd,
    Gzip,
}

impl Coding {
    const fn token(self) -> HeaderValue {
        match self {
            Self::Zstd => HeaderValue::from_static("zstd"),
            Self::Gzip => HeaderValue::from_static("gzip"),
        }
    }

    /// The better one of those that the client takes.
    fn choose(headers: &HeaderMap) -> Option<Self> {
        let texts = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        let (mut zstd, mut gzip) = (false, false);
        for item in texts.flat_map(|text| text.split(',')) {
            let (name, weight) = item.split_once(';').unwrap_or((item, "q=1"));
            let weight = weight.trim().strip_prefix("q=").and_then(|q| q.trim().parse().ok());
            let takes = weight.is_none_or(|weight: f32| weight > 0.0);
            match name.trim().to_ascii_lowercase().as_str() {
                "zstd" => zstd = takes,
                "gzip" | "x-gzip" => gzip = takes,
                _ => {}
            }
        }
        match (zstd, gzip) {
            (true, _) => Some(Self::Zstd),
            (false, true) => Some(Self::Gzip),
            (false, false) => None,
        }
    }

    fn pack(self, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut packed = self.packed(bytes)?;
        packed.shrink_to_fit();
        Ok(packed)
    }

    fn packed(self, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Zstd => zstd::bulk::compress(bytes, ZSTD_LEVEL),
            Self::Gzip => {
                let packed = Vec::with_capacity(bytes.len() / 4);
                let mut encoder =
                    flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
                encoder.write_all(bytes)?;
                encoder.finish()
            }
        }
    }
}

/// Compresses answers of text that are whole in memory and worth it. Assets come compressed
/// already, and a WebSocket has no body.
async fn compress(
    State(exchanges): State<Buffers>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let coding = Coding::choose(request.headers());
    let mut response = next.run(request).await;
    let is_ours = is_text(response.headers()) || is_unchanged(&response);
    if !is_ours || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    response.headers_mut().append(VARY, HeaderValue::from_static("accept-encoding"));
    weaken_tag(response.headers_mut());
    let bytes = response.body().size_hint().exact().unwrap_or(0);
    let fits = (COMPRESSED_BYTES_MIN..=COMPRESSED_BYTES_MAX).contains(&bytes);
    let Some(coding) = coding.filter(|_| fits) else { return response };
    // A copy of it, and at first as much for what it becomes. Where there is no room, it is sent
    // as it is.
    let mut share = exchanges.share();
    if !share.grow(usize::try_from(2 * bytes).unwrap_or(usize::MAX)) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // Whatever held it has let go.
    parts.extensions.remove::<Accounted>();
    let limit = usize::try_from(COMPRESSED_BYTES_MAX).unwrap_or(usize::MAX);
    let plain = match axum::body::to_bytes(body, limit).await {
        Ok(plain) => plain,
        Err(error) => return Problem::internal(format!("read an answer: {error}")).into_response(),
    };
    match pack(coding, plain.clone()).await {
        Some(packed) => {
            parts.headers.remove(CONTENT_LENGTH);
            parts.headers.insert(CONTENT_ENCODING, coding.token());
            Response::from_parts(parts, Body::from(packed))
        }
        None => Response::from_parts(parts, Body::from(plain)),
    }
}

/// `None` where it cannot be, which only memory can cause.
async fn pack(coding: Coding, plain: Bytes) -> Option<Vec<u8>> {
    if plain.len() <= INLINE_BYTES_MAX {
        return coding.pack(&plain).ok();
    }
    tokio::task::spawn_blocking(move || coding.pack(&plain)).await.ok()?.ok()
}

fn is_text(headers: &HeaderMap) -> bool {
    const KINDS: [&str; 3] =
        ["application/json", "application/problem+json", "application/openmetrics-text"];
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let is_metrics = kind.starts_with("text/plain; version=");
    is_metrics || KINDS.contains(&kind.split(';').next().unwrap_or_default().trim())
}

/// Whether an answer stands for one of ours that the client has: it has the headers of that one
/// (RFC 9110, 15.4.5). Assets have strong tags.
fn is_unchanged(response: &Response) -> bool {
    let tag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or_default();
    response.status() == StatusCode::NOT_MODIFIED && tag.starts_with("W/")
}

/// A strong tag names bytes, and the same rows may go out in three encodings.
fn weaken_tag(headers: &mut HeaderMap) {
    let weak = headers
        .get(ETAG)
        .and_then(|tag| tag.to_str().ok())
        .filter(|tag| tag.starts_with('"'))
        .and_then(|tag| HeaderValue::from_str(&format!("W/{tag}")).ok());
    if let Some(weak) = weak {
        headers.insert(ETAG, weak);
    }
}

#[cfg(test)]
mod tests;
