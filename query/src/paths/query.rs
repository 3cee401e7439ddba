//! `/v1/query` and its polling fallback `/v1/snapshot`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use http_body::{Frame, SizeHint};
use nilometer_access::Accounted;
use tokio::time::Instant;

use super::JSON;
use super::openapi::{AnswerDoc, ProblemDoc, QueryDoc};
use super::params::{json_body, pairs};
use crate::ask::Ask;
use crate::desk::Kept;
use crate::door::{Reader, Refused};
use crate::state::QueryState;

/// Answers a typed query.
#[utoipa::path(
    get, path = "/v1/query", tag = "reading", params(QueryDoc),
    responses(
        (status = 200, description = "Rows, sparse", body = AnswerDoc),
        (status = 400, description = "A name, a range or a combination that there is not", body = ProblemDoc),
    ),
    security(("token" = []), ("session" = [])),
)]
pub(super) async fn get_query(
    State(state): State<QueryState>,
    Reader(caller): Reader,
    uri: Uri,
) -> Result<Response, Refused> {
    let begun = Instant::now();
    let answer = state.desk().answer(&caller, &asked(&state, &uri)?).await?;
    Ok(shown(&state, answer, begun))
}

/// Answers a typed query that is written as JSON.
#[utoipa::path(
    post, path = "/v1/query", tag = "reading",
    responses(
        (status = 200, description = "Rows, sparse", body = AnswerDoc),
        (status = 400, body = ProblemDoc), (status = 413, body = ProblemDoc),
    ),
    security(("token" = []), ("session" = [])),
)]
pub(super) async fn post_query(
    State(state): State<QueryState>,
    Reader(caller): Reader,
    sent: Body,
) -> Result<Response, Refused> {
    let begun = Instant::now();
    let ask = Ask::from_json(&json_body(&state, sent).await?)?;
    let ask = Arc::new(state.masked(ask));
    let answer = state.desk().answer(&caller, &ask).await?;
    Ok(shown(&state, answer, begun))
}

/// Answers as `/v1/query`, with an entity tag that changes when rows change.
#[utoipa::path(
    get, path = "/v1/snapshot", tag = "reading",
    params(
        QueryDoc,
        ("If-None-Match" = Option<String>, Header, description = "The ETag of the rows that the client has"),
    ),
    responses(
        (status = 200, description = "Rows, with ETag", body = AnswerDoc),
        (status = 304, description = "The rows are those of If-None-Match"),
        (status = 400, body = ProblemDoc),
    ),
    security(("token" = []), ("session" = [])),
)]
pub(super) async fn get_snapshot(
    State(state): State<QueryState>,
    Reader(caller): Reader,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let begun = Instant::now();
    let answer = state.desk().answer(&caller, &asked(&state, &uri)?).await?;
    let tag = answer.etag();
    let mut response = if is_known(&headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        shown(&state, answer, begun)
    };
    if let Ok(tag) = HeaderValue::try_from(tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    let revalidate = HeaderValue::from_static("private, no-cache");
    response.headers_mut().insert(header::CACHE_CONTROL, revalidate);
    Ok(response)
}

fn asked(state: &QueryState, uri: &Uri) -> Result<Arc<Ask>, Refused> {
    let pairs = pairs(uri)?;
    let pairs = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    Ok(Arc::new(state.masked(Ask::from_params(pairs)?)))
}

fn shown(state: &QueryState, answer: Arc<Kept>, begun: Instant) -> Response {
    let took_ms = begun.elapsed().as_secs_f64() * 1e3;
    let body = answer.body(&answer.meta_at(state.clock().now(), took_ms));
    let body = Pieces { left: VecDeque::from(body), kept: answer };
    let mut response = ([JSON], Body::new(body)).into_response();
    response.extensions_mut().insert(Accounted);
    response
}

/// Bytes of an answer that are handed over at once: what a client has not taken yet is not copied.
const PIECE_BYTES: usize = 64 << 10;

/// An answer's text, which all who ask share; its memory is held until the network has the last of
/// it.
struct Pieces {
    left: VecDeque<Bytes>,
    kept: Arc<Kept>,
}

/// Bytes of an answer, with what holds their memory.
struct Piece {
    bytes: Bytes,
    _kept: Arc<Kept>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(front) = self.left.front_mut() else { return Poll::Ready(None) };
        let bytes = front.split_to(front.len().min(PIECE_BYTES));
        if front.is_empty() {
            self.left.pop_front();
        }
        let piece = Bytes::from_owner(Piece { bytes, _kept: Arc::clone(&self.kept) });
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let bytes: usize = self.left.iter().map(Bytes::len).sum();
        SizeHint::with_exact(u64::try_from(bytes).unwrap_or(u64::MAX))
    }
}

/// Whether the caller has the rows of this tag. Tags are weak: they name rows, not bytes.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let opaque = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|known| known == "*" || opaque(known) == opaque(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_known_in_a_list_weak_or_strong() {
        let mut headers = HeaderMap::new();
        assert!(!is_known(&headers, "\"a\""));
        headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("\"b\", W/\"a\""));
        assert!(is_known(&headers, "\"a\"") && is_known(&headers, "W/\"a\""));
        assert!(is_known(&headers, "W/\"b\""));
        assert!(!is_known(&headers, "\"c\""));
        headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("*"));
        assert!(is_known(&headers, "\"c\""));
    }
}
