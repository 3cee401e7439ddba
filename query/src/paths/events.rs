//! Single events: the tail, traces, dead letters and their replay.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::Uri;
use nilometer_access::{Problem, Status};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::openapi::{LettersDoc, ProblemDoc, TailDoc, TraceDoc};
use super::params::{Params, PathText, bad_json, body};
use super::{BODY_BYTES_MAX, json};
use crate::ask::{AskError, Filter};
use crate::door::{Admin, Reader, Refused};
use crate::house::{House, Replay, Replayed};
use crate::records::{
    LETTERS_LIMIT_MAX, LetterFilter, LetterPage, TAIL_LIMIT_MAX, Tail, TailFilter, Trace,
    TraceLimits, find_letter, letters, tail, trace,
};
use crate::state::QueryState;
use crate::turns::Length;

/// Letters of one replay at most.
const REPLAY_MAX: usize = 1_000;
/// Filters of the tail, or of dead letters, at most.
pub(super) const FILTERS_MAX: usize = 16;
/// Events of the tail where no limit is given.
pub(super) const TAIL_LIMIT_DEFAULT: usize = 50;
/// Letters of a page where no limit is given.
pub(super) const LETTERS_LIMIT_DEFAULT: usize = 100;

/// Shows the newest events, or those after a cursor.
#[utoipa::path(
    get, path = "/v1/events/tail", tag = "events", params(TailDoc),
    responses((status = 200, body = Tail), (status = 400, body = ProblemDoc)),
    security(("token" = []), ("session" = [])),
)]
pub(super) async fn get_tail(
    State(state): State<QueryState>,
    Reader(caller): Reader,
    uri: Uri,
) -> Result<Response, Refused> {
    let mut params = Params::of(&uri)?;
    let limit = params.limit(TAIL_LIMIT_DEFAULT, TAIL_LIMIT_MAX)?;
    let after = params.one("after")?;
    let filters = filters(&mut params)?;
    params.done()?;
    let mask = |field: &str, text: &str| masked_in_event(state.house(), field, text);
    let filter = TailFilter(filters.into_iter().map(|filter| filter.masked(&mask)).collect());
    filter.check()?;
    let (log, store) = (Arc::clone(state.log()), Arc::clone(state.store()));
    let read = state.scans().run(&caller, Length::Long, move || {
        tail(log.as_ref(), &store.pin().plan, &filter, after.as_deref(), limit)
    });
    Ok(json(&read.await??)?)
}

/// Every `filter`, as it is written.
fn filters(params: &mut Params) -> Result<Vec<Filter>, AskError> {
    let texts = params.many("filter");
    if texts.len() > FILTERS_MAX {
        return Err(AskError::bad("filter", format!("is given more than {FILTERS_MAX} times")));
    }
    texts.iter().map(|text| Filter::parse(text)).collect()
}

/// What the log may hold where an event's field had `text`; a user key is one of three fields'.
/// Keys and their sources are the house's own words.
fn masked_in_event(house: &dyn House, field: &str, text: &str) -> Vec<String> {
    match field {
        "user_key" => ["user_id", "anonymous_id", "service_name"]
            .map(|field| house.masked(field, text))
            .into(),
        "key" | "source" | "key_source" => vec![text.to_owned()],
        field => vec![house.masked(field, text)],
    }
}

/// What a dead letter may have where `text` is asked for. Codes and sources are the house's own
/// words, too, but for an import's name.
fn masked_in_letter(house: &dyn House, field: &str, text: &str) -> Vec<String> {
    match (field, text.strip_prefix("imports/")) {
        ("source", Some(name)) => vec![format!("imports/{}", house.masked("", name))],
        ("code", _) => vec![text.to_owned()],
        (field, _) => masked_in_event(house, field, text),
    }
}

/// Follows one event id from its arrival to the windows that it counted in.
#[utoipa::path(
    get, path = "/v1/events/{event_id}/trace", tag = "events",
    params(("event_id" = String, Path, description = "As the client sent it", min_length = 1), TraceDoc),
    responses(
        (status = 200, body = Trace), (status = 400, body = ProblemDoc),
        (status = 404, body = ProblemDoc),
    ),
    security(("token" = []), ("session" = [])),
)]
pub(super) async fn get_trace(
    State(state): State<QueryState>,
    Reader(caller): Reader,
    PathText(event_id): PathText,
    uri: Uri,
) -> Result<Response, Refused> {
    let mut params = Params::of(&uri)?;
    let (from, to) = (params.moment("from")?, params.moment("to")?);
    params.done()?;
    let event_id = state.house().masked("event_id", &event_id);
    let settings = state.settings();
    let (time_max, lateness) = (settings.trace_time_max, settings.lateness);
    let limits = TraceLimits { from, to, time_max, lateness };
    let (log, room) = (Arc::clone(state.log()), state.clone());
    let read = state.scans().run(&caller, Length::Long, move || {
        trace(log.as_ref(), &event_id, limits, &|event, copies| room.house().decided(event, copies))
    });
    Ok(json(&read.await??)?)
}

/// Lists refused events with their reasons, newest first.
#[utoipa::path(
    get, path = "/v1/dead-letters", tag = "events", params(LettersDoc),
    responses((status = 200, body = LetterPage), (status = 400, body = ProblemDoc)),
    security(("token" = []), ("session" = [])),
)]
pub(super) async fn get_letters(
    State(state): State<QueryState>,
    Reader(caller): Reader,
    uri: Uri,
) -> Result<Response, Refused> {
    let mut params = Params::of(&uri)?;
    let limit = params.limit(LETTERS_LIMIT_DEFAULT, LETTERS_LIMIT_MAX)?;
    let before = params.one("before")?;
    let mut given = Vec::new();
    for field in ["code", "event_type", "source", "user_key", "key"] {
        given.extend(params.one(field)?.map(|text| Filter::is(field, &text)));
    }
    given.extend(filters(&mut params)?);
    params.done()?;
    let mask = |field: &str, text: &str| masked_in_letter(state.house(), field, text);
    let filter = LetterFilter(given.into_iter().map(|filter| filter.masked(&mask)).collect());
    filter.check()?;
    let log = Arc::clone(state.log());
    let read = state.scans().run(&caller, Length::Long, move || {
        letters(log.as_ref(), &filter, before.as_deref(), limit)
    });
    Ok(json(&read.await??)?)
}

/// Which letters to replay.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplayRequest {
    /// One letter.
    id: Option<String>,
    /// Several letters.
    #[serde(default)]
    ids: Vec<String>,
    /// The fixed event in place of the letter's body; with `id` alone.
    event: Option<Box<serde_json::value::RawValue>>,
}

/// What became of replayed letters.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReplayAnswer {
    /// Letters whose event is accepted now.
    accepted: usize,
    /// Letters whose event was refused again, as a new dead letter.
    rejected: usize,
    /// Each letter, in the order asked for.
    results: Vec<Replayed>,
}

/// Sends dead letters through the front door once more, fixed or as they are.
#[utoipa::path(
    post, path = "/v1/dead-letters/replay", tag = "events",
    responses(
        (status = 200, body = ReplayAnswer), (status = 400, body = ProblemDoc),
        (status = 404, body = ProblemDoc), (status = 413, body = ProblemDoc),
    ),
    security(("token" = []), ("session" = [])),
)]
pub(super) async fn post_replay(
    State(state): State<QueryState>,
    Admin(admin, caller): Admin,
    sent: Body,
) -> Result<Response, Refused> {
    let body = body(&state, sent, BODY_BYTES_MAX).await?.bytes;
    let request: ReplayRequest = serde_json::from_slice(&body).map_err(|error| {
        if error.is_data() {
            bad_replay("the body is {\"ids\":[…]}, or {\"id\":…} with or without \"event\"")
        } else {
            bad_json(&body, &error)
        }
    })?;
    if request.id.is_some() && !request.ids.is_empty() {
        return Err(bad_replay("give id or ids, one of the two").into());
    }
    let fixed = request.event.as_ref().map(|event| event.get().to_owned());
    let ids: Vec<String> = request.id.into_iter().chain(request.ids).collect();
    if ids.is_empty() || ids.len() > REPLAY_MAX {
        return Err(bad_replay(format!("give id, or 1 to {REPLAY_MAX} ids")).into());
    }
    if fixed.is_some() && ids.len() > 1 {
        return Err(bad_replay("event replaces the body of one letter; give one id").into());
    }
    let mut results = Vec::with_capacity(ids.len());
    for id in ids {
        let log = Arc::clone(state.log());
        let wanted = id.clone();
        let find = move || find_letter(log.as_ref(), &wanted);
        let letter = state.scans().run(&caller, Length::Long, find).await??;
        let replay = Replay {
            event_id: letter.event_id.unwrap_or_else(|| format!("dlq-{id}")),
            letter: id,
            source: letter.source,
            received_at: letter.at,
            sent_at: letter.sent_at,
            key: letter.key,
            key_source: letter.key_source,
            event: fixed.clone().unwrap_or(letter.body),
        };
        results.push(state.house().replay(replay).await?);
    }
    tracing::info!(key_id = admin.key_id, letters = results.len(), "dead letters were replayed");
    let accepted = results.iter().filter(|replayed| replayed.accepted).count();
    let rejected = results.len() - accepted;
    Ok(json(&ReplayAnswer { accepted, rejected, results })?)
}

fn bad_replay(detail: impl Into<String>) -> Problem {
    Problem::new(Status::BadRequest, "bad_replay", "the replay cannot be read", detail)
}
