//! `/v1/session`: a browser signs in with a one-time code or a token, and gets a cookie.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use nilometer_access::{
    CodeRefused, Principal, Problem, Right, Status, credentials, session_cookie,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::json;
use super::openapi::ProblemDoc;
use super::params::{bad_json, body};
use crate::door::{Refused, Shown, address_of, check_origin, known};
use crate::state::QueryState;

/// Bytes of a sign-in at most: anybody may send one.
const SIGN_IN_BYTES_MAX: usize = 4 << 10;

/// How a browser signs in: one of the two.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignIn {
    /// A one-time code, as the server prints it in the sign-in address.
    code: Option<String>,
    /// A read or admin token.
    token: Option<String>,
}

/// Whether a browser is signed in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Session {
    signed_in: bool,
    /// `read` or `admin`.
    role: Option<&'static str>,
}

/// Says whether the request is signed in.
#[utoipa::path(
    get, path = "/v1/session", tag = "session",
    responses((status = 200, body = Session)),
    security((), ("token" = []), ("session" = [])),
)]
pub(super) async fn get_session(
    State(state): State<QueryState>,
    parts: Parts,
) -> Result<Response, Refused> {
    let principal = caller(&state, &parts)?.map(|(principal, _)| principal);
    let principal = principal.filter(|principal| principal.allows(Right::Read));
    let role = principal.map(|principal| principal.kind.name());
    Ok(json(&Session { signed_in: role.is_some(), role })?)
}

/// Exchanges a one-time code or a token for a session cookie.
#[utoipa::path(
    post, path = "/v1/session", tag = "session",
    responses(
        (status = 200, body = Session), (status = 400, body = ProblemDoc),
        (status = 401, body = ProblemDoc), (status = 403, body = ProblemDoc),
        (status = 413, body = ProblemDoc),
    ),
)]
pub(super) async fn post_session(
    State(state): State<QueryState>,
    parts: Parts,
    sent: Body,
) -> Result<Response, Refused> {
    check_origin(&parts.headers, &parts.uri, &state)?;
    let body = body(&state, sent, SIGN_IN_BYTES_MAX).await?.bytes;
    let sign_in: SignIn = serde_json::from_slice(&body).map_err(|error| {
        if error.is_data() {
            bad_sign_in("the body is {\"code\":…} or {\"token\":…}")
        } else {
            bad_json(&body, &error)
        }
    })?;
    let now = state.clock().now().ms();
    let (by_code, secret) = match (sign_in.code, sign_in.token) {
        (Some(code), None) => (true, code),
        (None, Some(token)) => (false, token.trim().to_owned()),
        _ => return Err(bad_sign_in("give code or token, one of the two").into()),
    };
    let (quotas, address) = (state.quotas(), address_of(&parts.extensions));
    let opened = if by_code {
        principal_by_code(&state, &secret, now)
    } else {
        state.keys().authenticate(&secret).ok_or_else(|| {
            Problem::unauthorized("the token is unknown or was revoked; is it copied whole?")
        })
    };
    let principal = match opened {
        Ok(principal) => principal,
        Err(problem) => {
            quotas.sign_in_failed(address, &secret).map_err(Problem::from)?;
            return Err(problem.into());
        }
    };
    if !principal.allows(Right::Read) {
        return Err(Problem::forbidden(
            "this key sends events and reads nothing; sign in with a read or admin token",
        )
        .into());
    }
    let secret = state.sessions().open(&principal.key_id, now);
    let secret = secret.map_err(|error| Problem::internal(error.to_string()))?;
    let cookie =
        session_cookie(secret.expose(), state.sessions().ttl_ms(), state.settings().cookie);
    let answer = json(&Session { signed_in: true, role: Some(principal.kind.name()) })?;
    with_cookie(answer, &cookie)
}

/// Ends the session and takes the cookie back.
#[utoipa::path(
    delete, path = "/v1/session", tag = "session",
    responses((status = 204, description = "Signed out"), (status = 403, body = ProblemDoc)),
    security((), ("session" = [])),
)]
pub(super) async fn delete_session(
    State(state): State<QueryState>,
    parts: Parts,
) -> Result<Response, Refused> {
    caller(&state, &parts)?;
    check_origin(&parts.headers, &parts.uri, &state)?;
    if let Some(cookie) = credentials::session(&parts.headers) {
        let (cookie, now_ms) = (cookie.to_owned(), state.clock().now().ms());
        let closing = state.clone();
        let closed = move || closing.sessions().close(&cookie, now_ms);
        // It is ended in any case; a full disk only forgets that at the next start.
        match tokio::task::spawn_blocking(closed).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "a sign-out was not kept on disk"),
            Err(_panicked) => return Err(Problem::internal("a sign-out panicked").into()),
        }
    }
    let cookie = session_cookie("", 0, state.settings().cookie);
    with_cookie(StatusCode::NO_CONTENT.into_response(), &cookie)
}

/// Whoever asks, charged to the rate of his key; a stranger to that of strangers, which holds up
/// nobody who has signed in.
fn caller(state: &QueryState, parts: &Parts) -> Result<Option<(Arc<Principal>, Shown)>, Problem> {
    let address = address_of(&parts.extensions);
    let known = known(&parts.headers, address, state)?;
    if let Some((principal, _)) = &known {
        state.quotas().check_queries(&principal.key_id, address, 1)?;
    }
    Ok(known)
}

/// Whoever a one-time code stands for.
fn principal_by_code(
    state: &QueryState,
    code: &str,
    now_ms: i64,
) -> Result<Arc<Principal>, Problem> {
    const ANOTHER: &str =
        "a start of the server in a terminal prints a new one; or sign in with a token";
    let refused = |code: &'static str, why: &str| {
        let title = "the sign-in code does not open";
        Problem::new(Status::Unauthorized, code, title, format!("{why}; {ANOTHER}"))
    };
    let key_id = state.codes().redeem(code, now_ms).map_err(|why| match why {
        CodeRefused::Unknown => {
            refused("code_unknown", "the server that runs now did not print this code")
        }
        CodeRefused::Used => refused("code_used", "the code was used already, and opens once"),
        CodeRefused::Expired => refused("code_expired", "the code is too old"),
    })?;
    state
        .keys()
        .load()
        .principal(&key_id)
        .ok_or_else(|| refused("code_unknown", "the token that this code stood for was revoked"))
}

fn with_cookie(mut response: Response, cookie: &str) -> Result<Response, Refused> {
    let value = HeaderValue::try_from(cookie)
        .map_err(|_| Problem::internal("session cookie is no header value"))?;
    response.headers_mut().insert(header::SET_COOKIE, value);
    Ok(response)
}

fn bad_sign_in(detail: &str) -> Problem {
    Problem::new(Status::BadRequest, "bad_sign_in", "the sign-in cannot be read", detail)
}
