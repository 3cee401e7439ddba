//! Answers for the pages' addresses: caching, compression and what the browser may load.

use axum::Router;
use axum::body::Body;
use axum::extract::RawQuery;
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::asset::{Asset, FILES, INDEX};
use crate::negotiate::{Encoding, holds};

/// Addresses that open the dashboard; the page itself reads the rest of the URL.
pub const PAGES: [&str; 5] = ["/", "/live", "/explore", "/events", "/system"];

/// Nothing but our own files, no inline script or style, no framing, and no string that is
/// turned into script or markup.
const POLICY: &str = "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; \
require-trusted-types-for 'script'; trusted-types 'none'";

/// For what `?v=` names by its content: it can never change.
const FOREVER: &str = "public, max-age=31536000, immutable";

/// For stable names: kept, but asked about each time, which costs a 304.
const ASK_FIRST: &str = "no-cache";

/// Makes the router of the dashboard's static files. None of them needs a token.
///
/// Merge it beside the API's router: it claims [`PAGES`] and the files at the root that the page
/// loads, and sets no fallback.
pub fn router() -> Router {
    let pages = PAGES.iter().fold(Router::new(), |router, path| router.route(path, page(path)));
    FILES.iter().fold(pages, |router, asset| router.route(asset.path, serve(asset)))
}

/// The page, for whoever can show one. A program that asks for `/events` means another path, and
/// is told that it is not there; `/` is for everybody.
fn page(path: &str) -> MethodRouter {
    let version = INDEX.version();
    let is_root = path == "/";
    get(move |headers: HeaderMap| {
        let mut response = if is_root || shows_pages(&headers) {
            answer(&INDEX, &version, None, &headers)
        } else {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        };
        if !is_root {
            response.headers_mut().append(VARY, HeaderValue::from_static("accept"));
        }
        async move { response }
    })
}

fn shows_pages(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.any(|kinds| kinds.contains("text/html"))
}

fn serve(asset: &'static Asset) -> MethodRouter {
    let version = asset.version();
    get(move |RawQuery(query): RawQuery, headers: HeaderMap| {
        let response = answer(asset, &version, query.as_deref(), &headers);
        async move { response }
    })
}

fn answer(asset: &Asset, version: &str, query: Option<&str>, request: &HeaderMap) -> Response {
    let text = |name: HeaderName| {
        request.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    };
    let encoding = Encoding::choose(text(ACCEPT_ENCODING));
    // A strong tag names bytes, so each encoding has its own.
    let tag = format!("\"{version}-{}\"", encoding.token().unwrap_or("id"));
    let named = query.and_then(|query| query.strip_prefix("v=")) == Some(version);

    let unchanged = holds(text(IF_NONE_MATCH), &tag);
    let body = if unchanged { Body::empty() } else { Body::from(asset.bytes(encoding)) };
    let mut response = Response::new(body);
    if unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
    set(CACHE_CONTROL, if named { FOREVER } else { ASK_FIRST });
    set(CONTENT_TYPE, asset.content_type);
    set(CONTENT_SECURITY_POLICY, POLICY);
    set(REFERRER_POLICY, "no-referrer");
    set(VARY, "accept-encoding");
    set(X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(X_FRAME_OPTIONS, "DENY");
    set(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    set(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    if let Some(token) = encoding.token() {
        set(CONTENT_ENCODING, token);
    }
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    response
}
