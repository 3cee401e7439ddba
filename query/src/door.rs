//! Who may come in, and how the room refuses.

use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts};
use http::request::Parts;
use http::{Extensions, HeaderMap, Method, header};
use nilometer_access::{ClientAddress, Principal, Problem, Right, Status, credentials};

use crate::ask::{AskError, near_names};
use crate::state::QueryState;
use crate::turns::Caller;

/// How a caller showed who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// A token in the `Authorization` header.
    Token,
    /// A browser's session cookie.
    Cookie,
}

/// Whoever may read, within its rate.
#[derive(Clone, Debug)]
pub(crate) struct Reader(pub(crate) Caller);

/// Whoever may change the house, within its rate.
#[derive(Clone, Debug)]
pub(crate) struct Admin(pub(crate) Arc<Principal>, pub(crate) Caller);

impl FromRequestParts<QueryState> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &QueryState) -> Result<Self, Problem> {
        let principal = admit(parts, state, Right::Read)?;
        Ok(Self(caller(&principal, &parts.extensions)))
    }
}

impl FromRequestParts<QueryState> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &QueryState) -> Result<Self, Problem> {
        let principal = admit(parts, state, Right::Admin)?;
        let caller = caller(&principal, &parts.extensions);
        Ok(Self(principal, caller))
    }
}

fn admit(parts: &Parts, state: &QueryState, right: Right) -> Result<Arc<Principal>, Problem> {
    let address = address_of(&parts.extensions);
    let Some((principal, shown)) = known(&parts.headers, address, state)? else {
        return Err(Problem::unauthorized(
            "send Authorization: Bearer with a read or admin token, or sign in",
        ));
    };
    state.quotas().check_queries(&principal.key_id, address, 1)?;
    if !principal.allows(right) {
        let needed = match right {
            Right::Admin => "an admin token",
            Right::Read | Right::Ingest => "a read or admin token",
        };
        return Err(Problem::forbidden(format!("this needs {needed}")));
    }
    let safe = parts.method == Method::GET || parts.method == Method::HEAD;
    if shown == Shown::Cookie && !safe {
        check_origin(&parts.headers, &parts.uri, state)?;
    }
    Ok(principal)
}

/// Whoever the request shows to be; `None` costs a stranger's request, and guessing is slowed.
///
/// # Errors
///
/// 429.
pub(crate) fn known(
    headers: &HeaderMap,
    address: IpAddr,
    state: &QueryState,
) -> Result<Option<(Arc<Principal>, Shown)>, Problem> {
    let quotas = state.quotas();
    let found = signed_in(headers, state);
    if found.is_none() {
        match credentials::bearer(headers).or_else(|| credentials::session(headers)) {
            Some(secret) => quotas.sign_in_failed(address, secret)?,
            None => quotas.check_address(address, 1)?,
        }
    }
    Ok(found)
}

/// Whoever the request shows to be, by token or by cookie.
fn signed_in(headers: &HeaderMap, state: &QueryState) -> Option<(Arc<Principal>, Shown)> {
    if let Some(token) = credentials::bearer(headers) {
        return state.keys().authenticate(token).map(|principal| (principal, Shown::Token));
    }
    let cookie = credentials::session(headers)?;
    let now = state.clock().now().ms();
    let principal = state.sessions().authenticate(cookie, &state.keys().load(), now)?;
    Some((principal, Shown::Cookie))
}

/// The client's address: as the server understood it, else the peer's.
pub(crate) fn address_of(extensions: &Extensions) -> IpAddr {
    let forwarded = extensions.get::<ClientAddress>().map(|address| address.0);
    let peer = || extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
    forwarded.or_else(peer).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// In whose turn the request is: of its key, and there of its connection (behind a proxy of its
/// client and the proxy's connection).
pub(crate) fn caller(principal: &Principal, extensions: &Extensions) -> Caller {
    Caller { key: principal.key_id.as_str().into(), connection: connection_of(extensions) }
}

/// A number for the client's connection.
pub(crate) fn connection_of(extensions: &Extensions) -> u64 {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0);
    xxhash_rust::xxh3::Xxh3DefaultBuilder::new().hash_one((address_of(extensions), peer))
}

/// Refuses browsers that stand on somebody else's page.
///
/// A browser says itself whether the page is the server's own (`Sec-Fetch-Site`, which no page
/// can set): that holds whatever a proxy makes of `Host`. Older browsers, and all of them over
/// plain HTTP to another machine, are told by comparing `Origin` with `Host`.
///
/// # Errors
///
/// 403 `origin_not_allowed`.
pub(crate) fn check_origin(
    headers: &HeaderMap,
    uri: &http::Uri,
    state: &QueryState,
) -> Result<(), Problem> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| uri.authority().map(http::uri::Authority::as_str));
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    let said = headers.get("sec-fetch-site").is_some_and(|site| site == "same-origin");
    let own =
        said || authority.zip(host).is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host));
    let allowed = || {
        let mut allowed = state.settings().origins_allowed.iter();
        allowed.any(|allowed| allowed.trim_end_matches('/').eq_ignore_ascii_case(origin))
    };
    if own || allowed() {
        return Ok(());
    }
    let shown = |text: &str| text.chars().take(100).collect::<String>();
    let detail = format!(
        "the page's origin is {}, and the request names the server {}: let the proxy in front \
         pass Host on (nginx: proxy_set_header Host $http_host), or add the origin to \
         server.allowed_origins",
        shown(origin),
        host.map_or_else(|| "by no Host".to_owned(), shown),
    );
    Err(Problem::new(
        Status::Forbidden,
        "origin_not_allowed",
        "the page's origin is not allowed",
        detail,
    ))
}

/// 400 for a name that the catalogue does not have, with near names.
pub(crate) fn unknown<'a>(
    code: &'static str,
    parameter: &str,
    name: &str,
    known: impl Iterator<Item = &'a str>,
) -> Problem {
    let near = near_names(name, known);
    let name: String = name.chars().take(64).collect();
    let hint = if near.is_empty() {
        "GET /v1/catalog lists what there is".to_owned()
    } else {
        format!("did you mean {}?", near.join(", "))
    };
    let detail = format!("{parameter}: there is no {name:?}; {hint}");
    Problem::new(Status::BadRequest, code, "the catalogue does not have this name", detail)
        .with("parameter", parameter)
        .with("name", name)
        .with("near", near)
}

impl From<AskError> for Refused {
    fn from(error: AskError) -> Self {
        let problem = Problem::new(
            Status::BadRequest,
            error.code,
            "the query cannot be read",
            error.to_string(),
        )
        .with("parameter", error.parameter);
        Self(if error.near.is_empty() { problem } else { problem.with("near", error.near) })
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

/// A refusal as an answer; its internal detail goes to the log.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) Problem);

impl axum::response::IntoResponse for Refused {
    fn into_response(self) -> axum::response::Response {
        if let Some(internal) = &self.0.internal {
            tracing::warn!(code = self.0.code, internal, "request refused");
        }
        self.0.into_response()
    }
}
