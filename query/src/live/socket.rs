//! One viewer's connection: who it is, what it follows, what it has been sent.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use futures_util::future::select_all;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::request::Parts;
use nilometer_access::{Principal, Problem, Right, Slot, credentials};
use prometheus_client::metrics::gauge::Gauge;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::SUBSCRIPTIONS_MAX;
use super::allowance::Allowance;
use super::channel::Following;
use super::frame::Pieces;
use super::handshake::{Handshake, Socket, end, refusal};
use super::message::{ClientMessage, MessageError};
use crate::ask::Ask;
use crate::door::{Refused, Shown, address_of, check_origin, connection_of, known};
use crate::state::QueryState;
use crate::turns::Caller;

/// A connection must have signed in by then.
const SIGN_IN_WITHIN: Duration = Duration::from_secs(10);
/// A message must be taken by the network within this time.
const SEND_WITHIN: Duration = Duration::from_secs(30);
/// A connection from which nothing is heard, not even a pong, ends after this time.
const HEARD_WITHIN: Duration = Duration::from_secs(90);
/// How often it is asked whether a connection may still be: it ends within 3 s of its sign-out, of
/// its session's end, and of its key's revocation, which the server learns within a second.
const STANDING_ASKED_EVERY: Duration = Duration::from_secs(1);
/// How often pings are considered.
const HOUSEKEEPING: Duration = Duration::from_secs(3);
/// How often the server pings.
const PING_EVERY: Duration = Duration::from_secs(25);
/// Frames of any kind that a connection may send a second, and how many at once.
const FRAMES_PER_SECOND: u32 = 50;
const FRAMES_BURST: u32 = 1_000;
/// What a short frame of a client has beside its payload.
const FRAME_HEAD_BYTES: usize = 6;
/// Messages that are none, after which the connection is closed.
const BAD_MESSAGES_MAX: usize = 100;

/// Opens `/v1/live`.
pub(crate) async fn upgrade(
    State(state): State<QueryState>,
    mut parts: Parts,
) -> Result<Response, Refused> {
    let handshake = match Handshake::of(&mut parts) {
        Ok(handshake) => handshake,
        Err(problem) => return Ok(refusal(problem)),
    };
    check_origin(&parts.headers, &parts.uri, &state)?;
    let address = address_of(&parts.extensions);
    let peer = Peer { address, connection: connection_of(&parts.extensions) };
    let signed = known(&parts.headers, address, &state)?;
    let by_cookie = matches!(signed, Some((_, Shown::Cookie)));
    let session = credentials::session(&parts.headers).filter(|_| by_cookie).map(str::to_owned);
    let principal = signed.map(|(principal, _)| principal);
    if principal.is_none() && credentials::bearer(&parts.headers).is_some() {
        return Err(
            Problem::unauthorized("the token of the Authorization header opens nothing").into()
        );
    }
    if let Some(principal) = &principal {
        check_right(principal)?;
    }
    let answer = handshake.answer();
    state.tasks().clone().spawn(async move {
        // The client may be gone before the answer reached it.
        if let Ok((socket, allowance)) = handshake.socket(state.buffers()).await {
            Connection::run(state, socket, allowance, principal, session, peer).await;
        }
    });
    Ok(answer)
}

fn check_right(principal: &Principal) -> Result<(), Problem> {
    if principal.allows(Right::Read) {
        return Ok(());
    }
    Err(Problem::forbidden("this needs a read or admin token"))
}

/// What a connection stands on.
struct Standing {
    state: QueryState,
    /// Whoever has signed in.
    principal: OnceLock<Arc<Principal>>,
    /// The cookie that it was opened with.
    session: Option<String>,
    opened_at: Instant,
}

impl Standing {
    /// Waits until the connection may no longer be: beside everything that it does, for a viewer
    /// who takes nothing holds that up.
    async fn fallen(&self) -> End {
        let mut tick = tokio::time::interval(STANDING_ASKED_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Some(why) = self.fault() {
                return End(Some((CloseCode::Policy, why)));
            }
        }
    }

    fn fault(&self) -> Option<&'static str> {
        let keys = self.state.keys().load();
        match self.principal.get() {
            None if self.opened_at.elapsed() > SIGN_IN_WITHIN => {
                return Some("not signed in in time");
            }
            Some(principal) if keys.principal(&principal.key_id).is_none() => {
                return Some("the key was revoked");
            }
            _ => {}
        }
        let cookie = self.session.as_deref()?;
        let now_ms = self.state.clock().now().ms();
        let is_open = self.state.sessions().authenticate(cookie, &keys, now_ms).is_some();
        (!is_open).then_some("the session has ended")
    }
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
struct Peer {
    address: IpAddr,
    /// The connection's own number.
    connection: u64,
}

struct Connection {
    state: QueryState,
    sink: SplitSink<Socket, Message>,
    /// Lifted once it has signed in.
    allowance: Arc<Allowance>,
    standing: Arc<Standing>,
    peer: Peer,
    subscriptions: Vec<Subscription>,
    heard_at: Instant,
    pinged_at: Instant,
    bad_messages: usize,
    /// Messages heard since it signed in.
    messages: usize,
    /// Frames heard beyond what its rate has paid off since.
    frames: u32,
    frames_paid_at: Instant,
}

struct Subscription {
    id: String,
    following: Following,
    asked: Duration,
    /// How often a frame comes, as the viewer knows.
    interval: Duration,
    /// The revision whose rows the viewer has.
    shown: Option<u64>,
    /// The problem that the viewer knows of.
    failed: Option<&'static str>,
    _slot: Slot,
    _counted: Counted,
}

/// Holds a gauge one higher.
struct Counted(Gauge);

impl Counted {
    fn on(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Why a connection ends: the code and words of its close frame; none where the other side said
/// farewell first, or is gone.
struct End(Option<(CloseCode, &'static str)>);

const GONE: End = End(None);

impl Connection {
    async fn run(
        state: QueryState,
        socket: Socket,
        allowance: Arc<Allowance>,
        principal: Option<Arc<Principal>>,
        session: Option<String>,
        peer: Peer,
    ) {
        let _counted = Counted::on(&state.metrics().live_connections);
        let stop = state.stop().clone();
        let (sink, mut stream) = socket.split();
        let now = Instant::now();
        if principal.is_some() {
            allowance.lift();
        }
        let principal = principal.map_or_else(OnceLock::new, OnceLock::from);
        let standing =
            Arc::new(Standing { state: state.clone(), principal, session, opened_at: now });
        let mut connection = Self {
            state,
            sink,
            allowance,
            standing: Arc::clone(&standing),
            peer,
            subscriptions: Vec::new(),
            heard_at: now,
            pinged_at: now,
            bad_messages: 0,
            messages: 0,
            frames: 0,
            frames_paid_at: now,
        };
        let why = tokio::select! {
            why = connection.serve(&mut stream) => why,
            why = standing.fallen() => why,
            () = stop.cancelled() => End(Some((CloseCode::Away, "the server is stopping"))),
        };
        let Self { sink, subscriptions, .. } = connection;
        drop(subscriptions);
        let farewell =
            why.0.map(|(code, reason)| CloseFrame { code, reason: Utf8Bytes::from_static(reason) });
        let socket = sink.reunite(stream).expect("both halves are of one socket");
        end(socket, farewell).await;
    }

    async fn serve(&mut self, stream: &mut SplitStream<Socket>) -> End {
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let done = tokio::select! {
                message = stream.next() => match message {
                    Some(Ok(message)) => self.hear(message).await,
                    Some(Err(error)) => Err(self.broken(&error)),
                    None => Err(GONE),
                },
                changed = next_change(&mut self.subscriptions) => self.show(changed).await,
                _ = housekeeping.tick() => self.keep_house().await,
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    /// Why the connection ends where what comes in is no message.
    fn broken(&self, error: &Error) -> End {
        End(match error {
            Error::Capacity(_) => Some((CloseCode::Size, "the message is too large")),
            Error::Utf8(_) => Some((CloseCode::Invalid, "the text is not UTF-8")),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
            Error::Protocol(_) => Some((CloseCode::Protocol, "that is not WebSocket")),
            Error::Io(_) if self.allowance.is_used_up() => {
                Some((CloseCode::Size, "too much was sent before signing in"))
            }
            Error::Io(_) if !self.allowance.has_room() => {
                Some((CloseCode::Again, "there is no memory for the message"))
            }
            _ => None,
        })
    }

    async fn hear(&mut self, message: Message) -> Result<(), End> {
        self.heard_at = Instant::now();
        self.count_frame()?;
        let text = match message {
            Message::Text(text) => text,
            Message::Close(_) => return Err(GONE),
            // Pings are answered by the protocol.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {
                self.allowance.heard_between(message.len() + FRAME_HEAD_BYTES);
                return Ok(());
            }
            Message::Binary(_) => {
                self.allowance.heard();
                let error = "messages are text";
                return self.complain(None, "bad_message", error, &[]).await;
            }
        };
        self.allowance.heard();
        let heard = ClientMessage::parse(&text).and_then(|message| self.without_names(message));
        let Some(principal) = self.standing.principal.get().cloned() else {
            return self.sign_in(heard).await;
        };
        // A page's own subscriptions are free: 500 viewers may come within one second.
        self.messages += 1;
        if self.messages > SUBSCRIPTIONS_MAX
            && let Err(too_many) =
                self.state.quotas().check_queries(&principal.key_id, self.peer.address, 1)
        {
            let id = match &heard {
                Ok(message) => message.id(),
                Err(error) => error.id.as_deref(),
            };
            return self.refuse(id, "rate_limited", &too_many.to_string(), &[]).await;
        }
        match heard {
            Ok(ClientMessage::Ping) => self.send_json(&json!({"type": "pong"})).await,
            Ok(ClientMessage::Auth { .. }) => {
                self.complain(None, "bad_message", "this connection is signed in already", &[])
                    .await
            }
            Ok(ClientMessage::Unsubscribe { id }) => {
                self.subscriptions.retain(|subscription| subscription.id != id);
                self.send_json(&json!({"type": "unsubscribed", "id": id})).await
            }
            Ok(ClientMessage::Subscribe { id, query, interval_ms }) => {
                self.subscribe(&principal, id, *query, interval_ms).await
            }
            Err(MessageError { id, code, message, near }) => {
                self.complain(id.as_deref(), code, &message, &near).await
            }
        }
    }

    /// Charges a frame of whatever kind: pings cost answers, too.
    fn count_frame(&mut self) -> Result<(), End> {
        let since = self.heard_at.duration_since(self.frames_paid_at);
        let paid = u32::try_from(since.as_millis()).unwrap_or(u32::MAX);
        let paid = paid.saturating_mul(FRAMES_PER_SECOND) / 1_000;
        if paid > 0 {
            self.frames = self.frames.saturating_sub(paid);
            self.frames_paid_at = self.heard_at;
        }
        self.frames += 1;
        if self.frames > FRAMES_BURST {
            return Err(End(Some((CloseCode::Policy, "too many frames"))));
        }
        Ok(())
    }

    /// The message about what the log holds. An id is repeated in every answer, so one with
    /// personal data in it is refused.
    fn without_names(&self, message: ClientMessage) -> Result<ClientMessage, MessageError> {
        let house = self.state.house();
        match message {
            ClientMessage::Subscribe { id, .. } | ClientMessage::Unsubscribe { id }
                if house.masked("", &id) != id =>
            {
                Err(MessageError {
                    id: None,
                    code: "bad_message",
                    message: "the id reads like personal data; choose another".to_owned(),
                    near: Vec::new(),
                })
            }
            ClientMessage::Subscribe { id, query, interval_ms } => {
                let query = Box::new(self.state.masked(*query));
                Ok(ClientMessage::Subscribe { id, query, interval_ms })
            }
            other => Ok(other),
        }
    }

    async fn sign_in(&mut self, heard: Result<ClientMessage, MessageError>) -> Result<(), End> {
        let Ok(ClientMessage::Auth { token }) = heard else {
            let message = "sign in first: {\"type\":\"auth\",\"token\":…}";
            return self.complain(None, "unauthorized", message, &[]).await;
        };
        let principal = self.state.keys().authenticate(&token);
        let Some(principal) = principal.filter(|principal| principal.allows(Right::Read)) else {
            let failed = self.state.quotas().sign_in_failed(self.peer.address, &token);
            if failed.is_ok() {
                self.complain(None, "unauthorized", "the token opens nothing here", &[]).await?;
            }
            return Err(End(Some((CloseCode::Policy, "not signed in"))));
        };
        let role = principal.kind.name();
        drop(self.standing.principal.set(principal));
        self.allowance.lift();
        self.send_json(&json!({"type": "authenticated", "role": role})).await
    }

    async fn subscribe(
        &mut self,
        principal: &Principal,
        id: String,
        query: Ask,
        interval_ms: u64,
    ) -> Result<(), End> {
        self.subscriptions.retain(|subscription| subscription.id != id);
        if self.subscriptions.len() >= SUBSCRIPTIONS_MAX {
            let message = format!("a connection follows at most {SUBSCRIPTIONS_MAX} queries");
            return self.refuse(Some(&id), "too_many_subscriptions", &message, &[]).await;
        }
        let slot = match self.state.quotas().subscription(&principal.key_id, self.peer.address) {
            Ok(slot) => slot,
            Err(too_many) => {
                let message = too_many.to_string();
                return self.refuse(Some(&id), "too_many_subscriptions", &message, &[]).await;
            }
        };
        let caller =
            Caller { key: principal.key_id.as_str().into(), connection: self.peer.connection };
        match self.state.hub().follow(&caller, Arc::new(query), interval_ms) {
            Ok(following) => {
                let _counted = Counted::on(&self.state.metrics().live_subscriptions);
                let (shown, failed, asked) = (None, None, Duration::from_millis(interval_ms));
                self.subscriptions.push(Subscription {
                    id,
                    following,
                    asked,
                    interval: asked,
                    shown,
                    failed,
                    _slot: slot,
                    _counted,
                });
                Ok(())
            }
            Err(problem) => self.refuse(Some(&id), problem.code, &problem.detail, &[]).await,
        }
    }

    /// Sends what the viewer lacks of the latest frame: the delta where it has the frame before,
    /// else the whole.
    async fn show(&mut self, (index, open): (usize, bool)) -> Result<(), End> {
        let subscription = &mut self.subscriptions[index];
        let frame = subscription.following.frames.borrow_and_update().clone();
        let Some(frame) = frame.filter(|_| open) else {
            // The channel ended, which it only does with the house.
            self.subscriptions.swap_remove(index);
            return Ok(());
        };
        if subscription.interval != frame.interval {
            subscription.interval = frame.interval;
            let notice = pace(&subscription.id, frame.interval, subscription.asked);
            self.send_json(&notice).await?;
        }
        let rows = match &frame.rows {
            Ok(rows) => rows,
            Err(problem) => return self.show_problem(index, problem).await,
        };
        let subscription = &mut self.subscriptions[index];
        if subscription.shown == Some(frame.revision) {
            return Ok(());
        }
        let next = subscription.shown.map(|shown| shown + 1);
        let delta = if next == Some(frame.revision) { rows.delta(&subscription.id) } else { None };
        // Rows that had to make room come whole with the next frame.
        let pieces = delta.or_else(|| rows.snapshot(&subscription.id));
        let Some(pieces) = pieces else { return Ok(()) };
        if let Some(next) = next.filter(|next| *next < frame.revision) {
            self.state.metrics().live_skipped.inc_by(frame.revision - next);
        }
        subscription.shown = Some(frame.revision);
        subscription.failed = None;
        self.send_pieces(&pieces).await
    }

    /// Says once what is wrong; a question that cannot be answered is no longer followed.
    async fn show_problem(&mut self, index: usize, problem: &Problem) -> Result<(), End> {
        let subscription = &mut self.subscriptions[index];
        subscription.shown = None;
        let known = subscription.failed.replace(problem.code) == Some(problem.code);
        let id = subscription.id.clone();
        if problem.status.code().is_client_error() {
            self.subscriptions.swap_remove(index);
        }
        if known {
            return Ok(());
        }
        let mut message = problem.extra.clone();
        message.insert("type".to_owned(), "error".into());
        message.insert("id".to_owned(), id.into());
        message.insert("code".to_owned(), problem.code.into());
        message.insert("message".to_owned(), problem.detail.clone().into());
        let text = Value::Object(message).to_string();
        let text = self.state.house().masked("", &text);
        self.send(Message::Text(text.into())).await
    }

    async fn keep_house(&mut self) -> Result<(), End> {
        if self.heard_at.elapsed() > HEARD_WITHIN {
            return Err(End(Some((CloseCode::Away, "nothing was heard for too long"))));
        }
        if self.pinged_at.elapsed() > PING_EVERY {
            self.pinged_at = Instant::now();
            return self.send(Message::Ping(bytes::Bytes::new())).await;
        }
        Ok(())
    }

    /// Answers a message that is none; too many of them end the connection.
    async fn complain(
        &mut self,
        id: Option<&str>,
        code: &str,
        message: &str,
        near: &[String],
    ) -> Result<(), End> {
        self.bad_messages += 1;
        if self.bad_messages > BAD_MESSAGES_MAX {
            return Err(End(Some((CloseCode::Policy, "too many bad messages"))));
        }
        self.refuse(id, code, message, near).await
    }

    /// Answers what is not done. A good message that comes when there is no room for it is no bad
    /// one: it ends nobody's subscriptions.
    async fn refuse(
        &mut self,
        id: Option<&str>,
        code: &str,
        message: &str,
        near: &[String],
    ) -> Result<(), End> {
        tracing::debug!(code, "live message refused");
        let house = self.state.house();
        let message = house.masked("", message);
        let near: Vec<String> = near.iter().map(|name| house.masked("", name)).collect();
        let id = id.filter(|id| house.masked("", id) == **id);
        let mut error = json!({"type": "error", "code": code, "message": message});
        if let Some(id) = id {
            error["id"] = id.into();
        }
        if !near.is_empty() {
            error["near"] = near.into();
        }
        self.send_json(&error).await
    }

    async fn send_json(&mut self, message: &Value) -> Result<(), End> {
        self.send(Message::Text(message.to_string().into())).await
    }

    async fn send(&mut self, message: Message) -> Result<(), End> {
        self.send_all(vec![message]).await
    }

    async fn send_pieces(&mut self, pieces: &Pieces) -> Result<(), End> {
        self.send_all(pieces.messages()).await
    }

    /// Sends one message, which may be in fragments; none lies in memory before the one before it
    /// is taken.
    async fn send_all(&mut self, fragments: Vec<Message>) -> Result<(), End> {
        self.state.metrics().live_messages.inc();
        let sending = async {
            for fragment in fragments {
                self.sink.send(fragment).await?;
            }
            Ok::<(), Error>(())
        };
        match tokio::time::timeout(SEND_WITHIN, sending).await {
            Ok(Ok(())) => Ok(()),
            // Gone, or so slow that the network took nothing for half a minute.
            Ok(Err(_)) | Err(_) => Err(GONE),
        }
    }
}

/// Tells a viewer how often frames come from now on.
fn pace(id: &str, interval: Duration, asked: Duration) -> Value {
    let (interval_ms, asked_ms) = (interval.as_millis(), asked.as_millis());
    let mut notice = json!({"type": "pace", "id": id});
    notice["interval_ms"] = u64::try_from(interval_ms).unwrap_or(u64::MAX).into();
    if interval > asked {
        let words = format!(
            "the server cannot make this answer every {asked_ms} ms now; follow fewer rows (limit), \
             fewer queries, or less often"
        );
        notice["message"] = words.into();
    }
    notice
}

/// Waits until some subscription has a new frame: its index, and whether its channel lives.
async fn next_change(subscriptions: &mut [Subscription]) -> (usize, bool) {
    if subscriptions.is_empty() {
        return std::future::pending().await;
    }
    let changes = subscriptions.iter_mut().map(|own| Box::pin(own.following.frames.changed()));
    let (changed, index, _) = select_all(changes).await;
    (index, changed.is_ok())
}
