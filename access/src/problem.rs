//! How a refusal reads: RFC 9457 `application/problem+json`.

use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Map, Value};

/// The media type of a problem.
pub const PROBLEM_TYPE: &str = "application/problem+json";

/// Bytes of a refusal's detail, and of each text beside it, at most.
const TEXT_BYTES_MAX: usize = 2 << 10;

/// The statuses that a refusal can have: 4xx and 5xx only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// 400
    BadRequest,
    /// 401
    Unauthorized,
    /// 403
    Forbidden,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 406
    NotAcceptable,
    /// 408
    RequestTimeout,
    /// 409
    Conflict,
    /// 410
    Gone,
    /// 412
    PreconditionFailed,
    /// 413
    ContentTooLarge,
    /// 414
    UriTooLong,
    /// 415
    UnsupportedMediaType,
    /// 422
    UnprocessableContent,
    /// 429
    TooManyRequests,
    /// 431
    HeadersTooLarge,
    /// 500
    Internal,
    /// 501
    NotImplemented,
    /// 503
    Unavailable,
    /// 507
    InsufficientStorage,
}

impl Status {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict => StatusCode::CONFLICT,
            Self::Gone => StatusCode::GONE,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::ContentTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::UnprocessableContent => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::InsufficientStorage => StatusCode::INSUFFICIENT_STORAGE,
        }
    }
}

/// One refusal: a stable code and words for the caller, a separate detail for our log.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Status of the answer.
    pub status: Status,
    /// Stable, for programs: `batch_too_large`, `rate_limited`, …
    pub code: &'static str,
    /// What kind of thing went wrong; the same for every problem of this code.
    pub title: &'static str,
    /// What went wrong this time and what to do, for the caller.
    pub detail: String,
    /// When trying again makes sense.
    pub retry_after: Option<Duration>,
    /// Further members of the answer.
    pub extra: Map<String, Value>,
    /// For our log alone; never sent. Boxed, so that an error costs a result little.
    pub internal: Option<Box<str>>,
}

impl Problem {
    /// A refusal.
    #[must_use]
    pub fn new(
        status: Status,
        code: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        debug_assert!(
            crate::codes::is_known(status.code().as_u16(), code),
            "access/src/codes.rs and docs/api.md have no code {code} for {status:?}"
        );
        let (detail, extra) = (bounded(detail.into()), Map::new());
        Self { status, code, title, detail, retry_after: None, extra, internal: None }
    }

    /// 401: no key, or one that opens nothing.
    #[must_use]
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(Status::Unauthorized, "unauthorized", "a valid key or token is needed", detail)
    }

    /// 403: a good key without the right.
    #[must_use]
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(Status::Forbidden, "forbidden", "the key does not open this", detail)
    }

    /// 404: no such path or thing.
    #[must_use]
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(Status::NotFound, "not_found", "there is nothing here", detail)
    }

    /// 405: the path has other methods.
    #[must_use]
    pub fn method_not_allowed(detail: impl Into<String>) -> Self {
        let title = "the path does not know this method";
        Self::new(Status::MethodNotAllowed, "method_not_allowed", title, detail)
    }

    /// 429: over a rate or a number of things at once.
    #[must_use]
    pub fn rate_limited(detail: impl Into<String>) -> Self {
        Self::new(Status::TooManyRequests, "rate_limited", "over the limit of this client", detail)
    }

    /// 500: our fault; `internal` goes to the log alone.
    #[must_use]
    pub fn internal(internal: impl Into<String>) -> Self {
        let detail = "the server failed; its log says why";
        let mut problem = Self::new(Status::Internal, "internal", "the server failed", detail);
        problem.internal = Some(internal.into().into());
        problem
    }

    /// Adds when trying again makes sense.
    #[must_use]
    pub const fn after(mut self, retry_after: Duration) -> Self {
        self.retry_after = Some(retry_after);
        self
    }

    /// Adds a member to the answer; the standard members cannot be replaced.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        let value = match value.into() {
            Value::String(text) => bounded(text).into(),
            other => other,
        };
        self.extra.insert(name.to_owned(), value);
        self
    }

    /// Adds a detail for our log alone.
    #[must_use]
    pub fn logged(mut self, internal: impl Into<String>) -> Self {
        self.internal = Some(internal.into().into());
        self
    }

    /// The answer's JSON.
    ///
    /// # Panics
    ///
    /// Never: a JSON tree serialises.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut members = self.extra.clone();
        members.insert("type".to_owned(), format!("urn:nilometer:problem:{}", self.code).into());
        members.insert("title".to_owned(), self.title.into());
        members.insert("status".to_owned(), self.status.code().as_u16().into());
        members.insert("code".to_owned(), self.code.into());
        members.insert("detail".to_owned(), self.detail.clone().into());
        if let Some(after) = self.retry_after {
            // Rounded up, as the header: earlier would be refused again.
            let ms = u64::try_from(after.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
            members.insert("retry_after_ms".to_owned(), ms.into());
        }
        serde_json::to_vec(&Value::Object(members)).expect("a JSON tree serialises")
    }

    /// The answer with its headers.
    #[must_use]
    pub fn to_response<B: From<Vec<u8>>>(&self) -> Response<B> {
        let mut response = Response::new(B::from(self.to_bytes()));
        *response.status_mut() = self.status.code();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_TYPE));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status == Status::Unauthorized {
            headers
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"nilometer\""));
        }
        if let Some(after) = self.retry_after {
            // Whole seconds, rounded up: earlier would be refused again.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }
}

/// A text that may repeat what was sent, cut to what a refusal carries.
fn bounded(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text.push('…');
    }
    text
}

#[cfg(feature = "axum")]
impl axum::response::IntoResponse for Problem {
    fn into_response(self) -> axum::response::Response {
        self.to_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_repeats_what_was_sent_is_cut() {
        let long = "é".repeat(5_000);
        let problem = Problem::not_found(long.clone()).with("name", long);
        for text in [problem.detail.as_str(), problem.extra["name"].as_str().unwrap()] {
            assert!(text.len() <= TEXT_BYTES_MAX + '…'.len_utf8() && text.ends_with('…'));
        }
    }

    #[test]
    fn a_problem_tells_the_caller_all_but_the_internal_detail() {
        let problem = Problem::rate_limited("over 200 queries a second")
            .after(Duration::from_millis(1_200))
            .with("limit", 200)
            .with("status", 200)
            .logged("bucket 7 of 10.0.0.1");
        let response: Response<Vec<u8>> = problem.to_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        assert_eq!(response.headers()[CONTENT_TYPE], PROBLEM_TYPE);
        let json: Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(json["code"], "rate_limited");
        assert_eq!(json["status"], 429);
        assert_eq!(json["limit"], 200);
        assert_eq!(json["retry_after_ms"], 1_200);
        assert!(!String::from_utf8_lossy(response.body()).contains("10.0.0.1"));
    }
}
