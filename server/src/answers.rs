//! What every answer of the house has in common: errors are problems, and nobody's address is in
//! them.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{MatchedPath, State};
use axum::middleware::Next;
use axum::response::IntoResponse;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use nilometer_access::{Problem, Status};
use nilometer_gateway::Gateway;
use serde::Deserialize;

/// Bytes of a problem that are looked at; ours are a tenth of that.
const PROBLEM_BYTES_MAX: usize = 256 << 10;
const PROBLEM_TYPE: &str = "application/problem+json";

/// For a path that no room has.
pub(crate) async fn not_found() -> Problem {
    no_such_path()
}

fn no_such_path() -> Problem {
    Problem::not_found("this version has no such path; GET /openapi.json lists what there is")
}

/// For a page that is asked with another method than GET.
pub(crate) async fn method_not_allowed() -> Problem {
    Problem::method_not_allowed("this path is read with GET")
}

/// Masks what a refusal repeats of its request (N7), makes a problem of every error, and notes it.
pub(crate) async fn tidy(
    State(gateway): State<Arc<Gateway>>,
    request: Request<Body>,
    next: Next,
) -> Response<Body> {
    let (method, path) = (request.method().clone(), request.extensions().get().cloned());
    let response = next.run(request).await;
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let response = tidied(&gateway, response).await;
    if let Some(Code(code)) = response.extensions().get() {
        // The path as we have it, never as it was asked: ids stand in it.
        let path = path.as_ref().map_or("none", MatchedPath::as_str);
        tracing::debug!(%method, path, status = status.as_u16(), code, "request refused");
    }
    response
}

/// A problem's code, for whoever notes the answer.
#[derive(Clone, Debug, Deserialize)]
struct Code(String);

async fn tidied(gateway: &Gateway, response: Response<Body>) -> Response<Body> {
    let status = response.status();
    let (mut parts, body) = response.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, PROBLEM_BYTES_MAX).await else {
        return Problem::internal("the problem is too large").into_response();
    };
    let text = String::from_utf8_lossy(&bytes);
    let is_problem = parts
        .headers
        .get(CONTENT_TYPE)
        .is_some_and(|given| given.as_bytes() == PROBLEM_TYPE.as_bytes());
    let masked = if is_problem {
        gateway.masker().text(&text).into_owned()
    } else {
        // A library's words repeat what was sent: they go nowhere, not into our log either.
        let problem = foreign(status);
        parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_TYPE));
        String::from_utf8_lossy(&problem.to_bytes()).into_owned()
    };
    parts.headers.remove(CONTENT_LENGTH);
    if tracing::enabled!(tracing::Level::DEBUG)
        && let Ok(Coded { code }) = serde_json::from_str(&masked)
    {
        parts.extensions.insert(code);
    }
    Response::from_parts(parts, Body::from(masked))
}

/// What is read of a problem.
#[derive(Deserialize)]
struct Coded {
    code: Code,
}

/// An error that a library of ours answered, in our words.
fn foreign(status: StatusCode) -> Problem {
    match status {
        StatusCode::NOT_FOUND => no_such_path(),
        StatusCode::METHOD_NOT_ALLOWED => {
            Problem::method_not_allowed("the path does not know this method")
        }
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
            Status::ContentTooLarge,
            "body_too_large",
            "the body is too large",
            "the body is larger than this path takes",
        ),
        status if status.is_client_error() => Problem::new(
            Status::BadRequest,
            "bad_request",
            "the request cannot be read",
            "the path, a parameter or a header is not well formed",
        ),
        _ => Problem::internal(status.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_library_refuses_is_told_in_our_words() {
        for (status, code) in [
            (404, "not_found"),
            (405, "method_not_allowed"),
            (413, "body_too_large"),
            (400, "bad_request"),
            (422, "bad_request"),
            (500, "internal"),
        ] {
            let problem = foreign(StatusCode::from_u16(status).unwrap());
            assert_eq!(problem.code, code);
            assert!(problem.detail.len() > 20, "{}", problem.detail);
        }
    }
}
