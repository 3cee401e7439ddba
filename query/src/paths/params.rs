//! URL parameters of the paths that are no query, and bodies.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Query};
use bytes::Bytes;
use http::Uri;
use http::request::Parts;
use nilometer_access::body::{self, BodyError};
use nilometer_access::{Problem, Share, Status};
use nilometer_event::{ReceiveTime, json};

use super::BODY_BYTES_MAX;
use crate::ask::{AskError, has_too_many_members, parse_moment, too_many_members};
use crate::door::Refused;
use crate::state::QueryState;

/// The one parameter of a path, decoded.
#[derive(Debug)]
pub(super) struct PathText(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for PathText {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) => Ok(Self(text)),
            Err(_) => Err(AskError::bad("path", "is not percent-encoded UTF-8").into()),
        }
    }
}

/// Decoded parameters, taken out one by one; what is left over is unknown.
#[derive(Debug)]
pub(super) struct Params {
    left: Vec<(String, String)>,
    known: Vec<&'static str>,
}

/// Every parameter in order.
pub(super) fn pairs(uri: &Uri) -> Result<Vec<(String, String)>, Refused> {
    match Query::<Vec<(String, String)>>::try_from_uri(uri) {
        Ok(Query(pairs)) => Ok(pairs),
        Err(_) => Err(AskError::bad("url", "the parameters are not percent-encoded UTF-8").into()),
    }
}

impl Params {
    pub(super) fn of(uri: &Uri) -> Result<Self, Refused> {
        Ok(Self { left: pairs(uri)?, known: Vec::new() })
    }

    pub(super) fn many(&mut self, name: &'static str) -> Vec<String> {
        self.known.push(name);
        let taken = self.left.extract_if(.., |(given, _)| given == name);
        taken.map(|(_, value)| value).collect()
    }

    fn given(&mut self, name: &'static str) -> Result<Option<String>, AskError> {
        let mut given = self.many(name).into_iter();
        let first = given.next();
        match given.next() {
            None => Ok(first),
            Some(_) => Err(AskError::bad(name, "is given twice")),
        }
    }

    /// A text; an empty one is as good as none.
    pub(super) fn one(&mut self, name: &'static str) -> Result<Option<String>, AskError> {
        Ok(self.given(name)?.filter(|value| !value.is_empty()))
    }

    pub(super) fn limit(&mut self, default: usize, max: usize) -> Result<usize, AskError> {
        let Some(text) = self.given("limit")? else { return Ok(default) };
        let limit = text.parse().ok().filter(|limit| (1..=max).contains(limit));
        limit.ok_or_else(|| AskError::bad("limit", format!("is not within 1 and {max}")))
    }

    pub(super) fn moment(&mut self, name: &'static str) -> Result<Option<ReceiveTime>, AskError> {
        let Some(text) = self.given(name)? else { return Ok(None) };
        parse_moment(name, &text).map(|moment| Some(ReceiveTime::from_ms(moment.ms())))
    }

    /// Refuses what nobody took.
    pub(super) fn done(self) -> Result<(), AskError> {
        match self.left.first() {
            None => Ok(()),
            Some((name, _)) => Err(AskError::unknown_parameter(name, &self.known)),
        }
    }
}

/// A body that was read, and the memory that it holds.
pub(super) struct Held {
    pub(super) bytes: Bytes,
    _share: Share,
}

/// Reads a body of at most `bytes_max`. Call it once it is known that the sender may send one.
pub(super) async fn body(
    state: &QueryState,
    mut sent: Body,
    bytes_max: usize,
) -> Result<Held, Problem> {
    let mut share = state.buffers().share();
    let read = body::read(&mut sent, bytes_max, &mut share).await;
    let bytes = read.map_err(body_problem)?;
    Ok(Held { bytes, _share: share })
}

fn body_problem(error: BodyError) -> Problem {
    match error {
        BodyError::TooLarge { max } => {
            let (code, title) = ("body_too_large", "the body is too large");
            let detail = format!("the body is over {max} bytes; send less");
            Problem::new(Status::ContentTooLarge, code, title, detail).with("max", max)
        }
        BodyError::Timeout(slow) => slow.into(),
        BodyError::CutShort => {
            let detail = "the body ended before its end; send it again";
            Problem::new(Status::BadRequest, "bad_body", "the body cannot be read", detail)
        }
        BodyError::Busy => {
            let detail = "the buffers for bodies are full; nothing was done";
            Problem::new(Status::Unavailable, "overloaded", "the server is busy", detail)
                .after(Duration::from_secs(1))
        }
    }
}

/// 400: where the JSON ends to be some.
pub(super) fn bad_json(body: &[u8], error: &serde_json::Error) -> Problem {
    let detail = json::fault_of(body, error);
    Problem::new(Status::BadRequest, "bad_json", "the body is not JSON", detail)
}

/// A body that is JSON.
pub(super) async fn json_body(
    state: &QueryState,
    sent: Body,
) -> Result<serde_json::Value, Problem> {
    let body = body(state, sent, BODY_BYTES_MAX).await?.bytes;
    if has_too_many_members(&body) {
        let (code, title) = ("body_too_large", "the body is too large");
        return Err(Problem::new(Status::ContentTooLarge, code, title, too_many_members()));
    }
    serde_json::from_slice(&body).map_err(|error| bad_json(&body, &error))
}
