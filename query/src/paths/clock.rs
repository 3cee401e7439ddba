//! `/v1/clock/follow`: an operator says that the wall clock is right.

use axum::extract::State;
use axum::response::Response;
use nilometer_event::clock::{Clock, Standing};
use serde::Serialize;
use utoipa::ToSchema;

use super::json;
use super::openapi::ProblemDoc;
use crate::door::{Admin, Refused};
use crate::state::QueryState;

/// How the house clock stands to the wall clock.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct ClockStanding {
    /// The house's now.
    now: String,
    /// The wall clock was set back by so much: the house clock stands still, or goes slowly, until
    /// it has caught up.
    behind_ms: i64,
    /// True where the house clock goes at half speed, because that would take over an hour; the
    /// times of live events are moved along.
    is_slow: bool,
    /// The wall clock has jumped ahead by so much, and is not followed.
    ahead_ms: i64,
    /// In so long it is, if it stays there.
    follows_in_ms: i64,
}

impl ClockStanding {
    pub(super) fn of(clock: &dyn Clock) -> Self {
        let now = clock.now();
        let Standing { behind_ms, is_slow, ahead_ms, follows_in_ms } = clock.standing();
        Self { now: now.to_string(), behind_ms, is_slow, ahead_ms, follows_in_ms }
    }
}

/// Lets the house clock follow a wall clock that has jumped ahead, at once.
#[utoipa::path(
    post, path = "/v1/clock/follow", tag = "status",
    responses(
        (status = 200, body = ClockStanding), (status = 401, body = ProblemDoc),
        (status = 403, body = ProblemDoc),
    ),
    security(("token" = []), ("session" = [])),
)]
pub(super) async fn post_follow(
    State(state): State<QueryState>,
    Admin(admin, _): Admin,
) -> Result<Response, Refused> {
    let clock = state.clock();
    let from = clock.now();
    clock.follow_wall();
    let standing = ClockStanding::of(clock);
    let (key_id, to) = (&admin.key_id, &standing.now);
    tracing::info!(%key_id, %from, %to, "the wall clock is followed, as an operator said");
    Ok(json(&standing)?)
}
