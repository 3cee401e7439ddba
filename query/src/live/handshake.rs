//! How a request becomes a WebSocket (RFC 6455, section 4), and how the connection ends.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures_util::SinkExt;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use nilometer_access::{Buffers, Problem, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::MESSAGE_BYTES_MAX;
use super::allowance::{Allowance, Metered};
use crate::door::Refused;

/// The one version of the protocol that there is.
const VERSION: HeaderValue = HeaderValue::from_static("13");
/// Bytes that are read at once: of pings so many are answered before the network is asked.
const READ_BYTES_MAX: usize = 8 << 10;
/// How long either side may take over its farewell.
const FAREWELL_WITHIN: Duration = Duration::from_secs(1);
/// What the other side still sends is read, so that it gets our farewell, up to so many bytes.
const FAREWELL_BYTES_MAX: u64 = 16 << 20;

/// A connection that speaks WebSocket.
pub(super) type Socket = WebSocketStream<Metered>;

/// A request that asked for WebSocket in due form.
pub(super) struct Handshake {
    accept_key: HeaderValue,
    upgrade: OnUpgrade,
}

impl Handshake {
    /// Checks the request.
    ///
    /// # Errors
    ///
    /// 400 `websocket_expected`, which says what is missing.
    pub(super) fn of(parts: &mut Parts) -> Result<Self, Problem> {
        let headers = &parts.headers;
        // A route for GET takes HEAD, too.
        if parts.method != Method::GET {
            return Err(expected("a WebSocket is opened with GET"));
        }
        if parts.version != Version::HTTP_11 {
            return Err(expected("WebSocket is spoken over HTTP/1.1 here"));
        }
        if !lists(headers, &header::CONNECTION, "upgrade") {
            return Err(expected("the Connection header does not list upgrade"));
        }
        if !lists(headers, &header::UPGRADE, "websocket") {
            return Err(expected("the Upgrade header does not list websocket"));
        }
        if headers.get(header::SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
            return Err(expected("the Sec-WebSocket-Version header is not 13"));
        }
        let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
        let (Some(key), None) = (keys.next().filter(|key| is_nonce(key.as_bytes())), keys.next())
        else {
            return Err(expected("the Sec-WebSocket-Key header is not 16 bytes in base64, once"));
        };
        let accept_key = HeaderValue::try_from(derive_accept_key(key.as_bytes()))
            .map_err(|error| Problem::internal(format!("an accept key: {error}")))?;
        let upgrade = parts.extensions.remove::<OnUpgrade>();
        let upgrade = upgrade.ok_or_else(|| expected("this connection cannot be upgraded"))?;
        Ok(Self { accept_key, upgrade })
    }

    /// The answer after which the connection speaks WebSocket.
    pub(super) fn answer(&self) -> Response {
        let headers = [
            (header::CONNECTION, HeaderValue::from_static("upgrade")),
            (header::UPGRADE, HeaderValue::from_static("websocket")),
            (header::SEC_WEBSOCKET_ACCEPT, self.accept_key.clone()),
        ];
        (StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response()
    }

    /// The connection, once the answer is sent.
    ///
    /// # Errors
    ///
    /// What hyper says where the client is gone by then.
    pub(super) async fn socket(
        self,
        buffers: &Buffers,
    ) -> Result<(Socket, Arc<Allowance>), hyper::Error> {
        let upgraded = self.upgrade.await?;
        let allowance = Arc::new(Allowance::new(buffers));
        let io = Metered::new(TokioIo::new(upgraded), Arc::clone(&allowance));
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES_MAX)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        Ok((WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await, allowance))
    }
}

/// Says farewell (an answer to the other side's own has been queued already), and lets go of the
/// connection gently: closed with bytes unread, it would take our farewell back.
pub(super) async fn end(mut socket: Socket, farewell: Option<CloseFrame>) {
    let said = async {
        match farewell {
            Some(farewell) => socket.close(Some(farewell)).await,
            None => socket.flush().await,
        }
    };
    // The other side may be gone: then nothing is lost with the farewell.
    drop(tokio::time::timeout(FAREWELL_WITHIN, said).await);
    // What has come of a message goes at once.
    let mut io = socket.into_inner();
    io.end();
    let gently = async {
        io.shutdown().await?;
        tokio::io::copy(&mut io.take(FAREWELL_BYTES_MAX), &mut tokio::io::sink()).await
    };
    drop(tokio::time::timeout(FAREWELL_WITHIN, gently).await);
}

/// Whether this is base64 of 16 bytes.
fn is_nonce(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key.strip_suffix(b"==").is_some_and(|digits| digits.iter().all(is_digit))
}

/// A refusal as an answer. It names the version that there is: whoever speaks another one learns
/// it so (RFC 6455, 4.4).
pub(super) fn refusal(problem: Problem) -> Response {
    ([(header::SEC_WEBSOCKET_VERSION, VERSION)], Refused(problem)).into_response()
}

fn expected(what: &str) -> Problem {
    Problem::new(
        Status::BadRequest,
        "websocket_expected",
        "this path speaks WebSocket",
        format!("{what}; poll GET /v1/snapshot where WebSocket cannot pass"),
    )
}

/// Whether a header, which is a list over any number of lines, has this token.
fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .any(|listed| listed.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}
