//! The listener: connections with armed time-outs, a bound per address, and a gentle end.

mod body;
mod gentle;
mod lent;
mod paced;
mod seats;
mod wire;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::IntoResponse;
use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, Request, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use nilometer_access::{Buffers, ClientAddress, Problem, Quotas, Share, Status, TooMany};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::port;
use body::Rest;
use gentle::{Gentle, Unread};
use paced::Paced;
use seats::{Seat, Seated, Seats};
use wire::Wire;

/// Connections of all addresses together, where descriptors and memory suffice.
pub(crate) const CONNECTIONS_MAX: usize = 10_000;
/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// What one HTTP/2 connection may send that no room has read yet, over all of its streams: the
/// least that the protocol begins with.
pub(crate) const WINDOW_BYTES: u32 = 65_535;
/// Resets that an HTTP/2 client may have pending (rapid reset, CVE-2023-44487).
const RESETS_MAX: usize = 32;
/// Address and headers of a request at most, and what is read of a body at once.
const HEAD_BYTES_MAX: usize = 80 << 10;
/// How long a connection that was refused is read.
const REFUSED_TIME_MAX: Duration = Duration::from_millis(500);

/// What HTTP/2 begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the listener needs to know.
#[derive(Clone, Debug)]
pub(crate) struct ListenerPlan {
    pub(crate) connections_max: usize,
    /// Of these, HTTP/2 connections: each may have a window full of bytes that wait.
    pub(crate) http2_max: usize,
    pub(crate) header_timeout: Duration,
    /// How long any body may take, to be read or to be thrown away, and a client to take nothing
    /// of its answer.
    pub(crate) body_timeout: Duration,
    /// True where a proxy of ours stands in front and says who the client is.
    pub(crate) behind_proxy: bool,
    /// Memory of requests and answers while their clients are waited for.
    pub(crate) exchanges: Buffers,
}

/// Opens the address.
///
/// # Errors
///
/// When it is taken or not ours.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| port::refused(address, &error))
}

/// Serves until `stop`, then lets requests under way end within `patience`.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Router,
    quotas: Arc<Quotas>,
    plan: ListenerPlan,
    stop: CancellationToken,
    patience: Duration,
) {
    let graceful = GracefulShutdown::new();
    let connections = TaskTracker::new();
    let seats = Seats::new(plan.connections_max, plan.http2_max);
    let door = Arc::new(Door { app, quotas, plan, server: protocol() });
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let watcher = graceful.watcher();
                let (door, stop, seated) = (Arc::clone(&door), stop.clone(), seats.take());
                connections.spawn(async move {
                    door.serve(stream, peer, seated, watcher, &stop).await;
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: others must end first.
                tracing::warn!(%error, "connection was not accepted");
                seats.empty_some();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    let ended = async {
        graceful.shutdown().await;
        connections.wait().await;
    };
    if tokio::time::timeout(patience, ended).await.is_err() {
        tracing::warn!("connections were cut off at the shutdown timeout");
    }
}

fn protocol() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    server
}

struct Door {
    app: Router,
    quotas: Arc<Quotas>,
    plan: ListenerPlan,
    server: auto::Builder<TokioExecutor>,
}

impl Door {
    async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        seated: Seated,
        watcher: hyper_util::server::graceful::Watcher,
        stop: &CancellationToken,
    ) {
        let seat = Arc::clone(&seated.seat);
        // Behind a proxy every connection comes from one address: requests are counted there.
        if !self.plan.behind_proxy {
            match self.quotas.connection(peer.ip()) {
                Ok(slot) => seat.keep(slot),
                Err(too_many) => {
                    tracing::debug!("connection refused: its address has too many");
                    return refuse(stream, &too_many_connections(&too_many)).await;
                }
            }
        }
        let begun = tokio::select! {
            () = stop.cancelled() => return,
            () = seat.gone().cancelled() => return,
            begun = begins(&stream, self.plan.header_timeout) => begun,
        };
        let is_http2 = match begun {
            Begun::Http1 => false,
            Begun::Http2 => true,
            Begun::Partly => return refuse(stream, &wire::overdue()).await,
            Begun::Not => return,
        };
        if is_http2 {
            seated.speaks_http2();
        }
        drop(stream.set_nodelay(true));
        let (door, own) = (Arc::clone(&self), Arc::clone(&seat));
        let unread = Unread::default();
        let stream = Gentle::new(stream, unread.clone());
        let exchanges = self.plan.exchanges.clone();
        let stream = Wire::new(stream, seated, self.plan.body_timeout, exchanges);
        let service = service_fn(move |mut request: Request<Incoming>| {
            // At once: a connection's requests are read faster than they begin to be answered.
            let share = lent::request(&mut request, &door.plan.exchanges, &own);
            Arc::clone(&door).answer(request, share, peer, Arc::clone(&own), unread.clone())
        });
        let mut server = self.server.clone();
        server
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.plan.header_timeout)
            .max_buf_size(HEAD_BYTES_MAX);
        let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let mut connection = pin!(watcher.watch(connection));
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = seat.stalled(self.plan.body_timeout), if is_http2 => return,
            () = seat.gone().cancelled() => return,
        };
        if let Err(error) = ended {
            if error.downcast_ref().is_some_and(hyper::Error::is_timeout) {
                seat.set_overdue();
            }
            tracing::debug!(%error, "connection ended early");
        }
    }

    async fn answer(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        share: Result<Option<Share>, lent::Needed>,
        peer: SocketAddr,
        seat: Arc<Seat>,
        unread: Unread,
    ) -> Result<http::Response<Body>, Infallible> {
        let is_http2 = request.version() >= Version::HTTP_2;
        let mut exchange = seat.exchange();
        let mut client = peer.ip();
        let mut refused = check_head(&request).and_then(|()| check_host(&request)).err();
        if self.plan.behind_proxy {
            client = forwarded(request.headers()).unwrap_or(client);
            match self.quotas.connection(client) {
                Ok(slot) => exchange.hold(slot),
                Err(too_many) => refused = refused.or(Some(too_many_connections(&too_many))),
            }
        }
        match lent::soon(share, &self.plan.exchanges, &seat).await {
            Ok(share) => share.into_iter().for_each(|share| exchange.lend(share)),
            Err(busy) => refused = Some(busy),
        }
        request.extensions_mut().insert(ClientAddress(client));
        request.extensions_mut().insert(ConnectInfo(peer));
        let app = self.app.clone();
        let rooms = |request| async {
            match refused {
                Some(problem) => problem.into_response(),
                None => {
                    let Ok(response) = app.oneshot(request).await;
                    response
                }
            }
        };
        let (response, rest) = body::answered(request, self.plan.body_timeout, rooms).await;
        if rest == Rest::Left {
            unread.set();
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            exchange.upgraded();
            return Ok(response);
        }
        let piece_bytes_max = if is_http2 { paced::PIECE_BYTES_MAX } else { usize::MAX };
        let bytes = lent::answer_bytes(&response);
        let (response, share) = match lent::answer(bytes, &self.plan.exchanges, &seat).await {
            Ok(share) => (response, share),
            Err(busy) => (busy.into_response(), None),
        };
        Ok(response.map(|body| Body::new(Paced::new(body, piece_bytes_max, exchange, share))))
    }
}

/// The library looks at what it has read of a head that is not whole: one that comes in a piece may
/// be larger.
fn check_head(request: &Request<Incoming>) -> Result<(), Problem> {
    let bytes = request.method().as_str().len() + lent::head_bytes(request);
    if bytes > HEAD_BYTES_MAX { Err(wire::head_too_large()) } else { Ok(()) }
}

/// A request names its host, once (RFC 9112, 3.2).
fn check_host(request: &Request<Incoming>) -> Result<(), Problem> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let detail = match (hosts.next(), hosts.next()) {
        (None, _) if request.version() == Version::HTTP_11 => "the Host header is missing",
        (Some(host), None) if !is_host(host.as_bytes()) => {
            "the Host header is no host: a name or an address, and perhaps a port"
        }
        (_, None) => return Ok(()),
        _ => "there is more than one Host header",
    };
    Err(Problem::new(Status::BadRequest, "bad_request", "the request cannot be read", detail))
}

/// Empty, where the target has no authority, or one without user information (RFC 9110, 7.2).
fn is_host(host: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(host) else { return host.is_empty() };
    let port = authority.as_str().strip_prefix(authority.host());
    !authority.as_str().contains('@')
        && (port == Some("") || authority.port_u16().is_some() || port == Some(":"))
}

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    Http1,
    Http2,
    /// With too little, for too long.
    Partly,
    Not,
}

/// Waits for as much of a connection as tells HTTP/1 from HTTP/2, as long as headers may take:
/// hyper has timers for either, and none before it knows which.
async fn begins(stream: &TcpStream, patience: Duration) -> Begun {
    let mut last = Begun::Not;
    let begun = async {
        let mut seen = [0; PREFACE.len()];
        loop {
            match stream.peek(&mut seen).await {
                Ok(0) | Err(_) => return Begun::Not,
                Ok(count) if count < PREFACE.len() && PREFACE.starts_with(&seen[..count]) => {
                    last = Begun::Partly;
                    // What was peeked at stays: without a wait we would see it again at once.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Ok(_) if seen == *PREFACE => return Begun::Http2,
                Ok(_) => return Begun::Http1,
            }
        }
    };
    let begun = tokio::time::timeout(patience, begun).await;
    begun.unwrap_or(last)
}

/// The address that the proxy in front saw: the last of `X-Forwarded-For`, for the others are
/// the client's word.
fn forwarded(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all("x-forwarded-for").iter().next_back()?;
    written(last.to_str().ok()?.rsplit(',').next()?)
}

/// An address as proxies write it: `192.0.2.1`, `192.0.2.1:443`, `2001:db8::1`, `[2001:db8::1]`,
/// `[2001:db8::1]:443`, with or without quotes.
fn written(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse().ok().map(|address: SocketAddr| address.ip());
    bare.parse().ok().or_else(with_port)
}

fn too_many_connections(too_many: &TooMany) -> Problem {
    let problem = Problem::new(
        Status::TooManyRequests,
        "too_many_connections",
        "too many connections",
        too_many.to_string(),
    );
    problem.with("limit", too_many.limit)
}

/// Refuses a connection in plain bytes, for there is no request yet. What the client has sent
/// meanwhile is read, within bounds, or the answer would be reset on its way.
async fn refuse(stream: TcpStream, problem: &Problem) {
    let unread = Unread::default();
    unread.set();
    let mut stream = Gentle::new(stream, unread);
    let said = async {
        drop(stream.write_all(&wire::plain(problem)).await);
        drop(stream.shutdown().await);
    };
    drop(tokio::time::timeout(REFUSED_TIME_MAX, said).await);
}

#[cfg(test)]
mod tests {
    use nilometer_access::QuotaSettings;
    use tokio::io::AsyncReadExt;

    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for host in ["", "nile", "nile.example:8080", "127.0.0.1", "[::1]:80", "nile:"] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in ["a b", "a/b", "c@d", "a:99999", "a:b", "\u{ff}", "[::1"] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }

    /// Catches: a queue in front of the door, where whoever holds on keeps all others out, and a
    /// stop that is not heard then.
    #[tokio::test]
    async fn who_was_silent_longest_makes_room_and_a_stop_is_heard() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let plan = ListenerPlan {
            connections_max: 2,
            http2_max: 1,
            header_timeout: Duration::from_secs(3600),
            body_timeout: Duration::from_secs(3600),
            behind_proxy: false,
            exchanges: Buffers::new(1 << 20),
        };
        let app = Router::new().fallback(async || std::future::pending::<()>().await);
        let quotas = Arc::new(Quotas::new(&QuotaSettings::default()));
        let stop = CancellationToken::new();
        let patience = Duration::from_millis(50);
        let serving = tokio::spawn(serve(listener, app, quotas, plan, stop.clone(), patience));
        let mut silent = TcpStream::connect(address).await.unwrap();
        let pause = || tokio::time::sleep(Duration::from_millis(100));
        pause().await;
        let mut taken = TcpStream::connect(address).await.unwrap();
        taken.write_all(b"GET / HTTP/1.1\r\nHost: nile\r\n\r\n").await.unwrap();
        pause().await;
        let came = TcpStream::connect(address).await.unwrap();
        let mut byte = [0];
        let ended = tokio::time::timeout(Duration::from_secs(10), silent.read(&mut byte)).await;
        assert!(matches!(ended, Ok(Ok(0) | Err(_))), "the silent one stays: {ended:?}");
        let open = tokio::time::timeout(Duration::from_millis(100), taken.read(&mut byte)).await;
        assert!(open.is_err(), "whoever spoke since is closed: {open:?}");
        stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(10), serving).await;
        assert!(ended.is_ok(), "the stop was not heard for 10 s");
        drop((taken, came));
    }

    #[test]
    fn an_address_is_read_as_proxies_write_it() {
        for (text, address) in [
            ("192.0.2.1:443", "192.0.2.1"),
            (" 2001:db8::1 ", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("\"[2001:db8::1]:443\"", "2001:db8::1"),
        ] {
            assert_eq!(written(text), Some(address.parse().unwrap()), "{text}");
        }
        assert_eq!(written("unknown"), None);
    }

    #[test]
    fn only_the_proxys_own_word_about_the_client_counts() {
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", "203.0.113.9, 198.51.100.7".parse().unwrap());
        assert_eq!(forwarded(&headers), Some("198.51.100.7".parse().unwrap()));
        headers.append("x-forwarded-for", "192.0.2.1".parse().unwrap());
        assert_eq!(forwarded(&headers), Some("192.0.2.1".parse().unwrap()));
    }
}
