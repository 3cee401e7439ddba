//! What a browser asks before a page may send headers of its own choice (Fetch, "CORS protocol").

use http::header::ACCESS_CONTROL_REQUEST_HEADERS;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Longest list of names that is repeated, in bytes.
const ASKED_BYTES_MAX: usize = 4 << 10;

/// The value of `Access-Control-Allow-Headers`: `ours`, and whatever is asked for beyond.
#[must_use]
pub fn allowed_headers(headers: &HeaderMap, ours: &'static str) -> HeaderValue {
    asked(headers)
        .and_then(|asked| HeaderValue::from_str(&format!("{ours}, {asked}")).ok())
        .unwrap_or(HeaderValue::from_static(ours))
}

/// The names that are asked for; `None` where it is no list of names, which no browser sends.
fn asked(headers: &HeaderMap) -> Option<&str> {
    let asked = headers.get(ACCESS_CONTROL_REQUEST_HEADERS)?.to_str().ok()?;
    let are_names =
        asked.split(',').all(|name| HeaderName::from_bytes(name.trim().as_bytes()).is_ok());
    (are_names && asked.len() <= ASKED_BYTES_MAX).then_some(asked)
}
