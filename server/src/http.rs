//! The listener: connections with armed time-outs, a bound per address, and a gentle end.

mod body;
mod gentle;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Request};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use nilometer_access::{ClientAddress, PROBLEM_TYPE, Problem, Quotas, Status, TooMany};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::port;
use body::Rest;
use gentle::{Gentle, Unread};

/// Connections of all addresses together; more wait in the kernel's queue.
pub(crate) const CONNECTIONS_MAX: usize = 10_000;
/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// Resets that an HTTP/2 client may have pending (rapid reset, CVE-2023-44487).
const RESETS_MAX: usize = 32;
/// How long a connection that was refused is read.
const REFUSED_TIME_MAX: Duration = Duration::from_millis(500);

/// What HTTP/2 begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the listener needs to know.
#[derive(Clone, Debug)]
pub(crate) struct ListenerPlan {
    pub(crate) connections_max: usize,
    pub(crate) header_timeout: Duration,
    /// How long any body may take, to be read or to be thrown away.
    pub(crate) body_timeout: Duration,
    /// True where a proxy of ours stands in front and says who the client is.
    pub(crate) behind_proxy: bool,
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
    let places = Arc::new(Semaphore::new(plan.connections_max));
    let door = Arc::new(Door { app, quotas, plan, server: protocol() });
    loop {
        // A stop is heard while every place is taken, too.
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let watcher = graceful.watcher();
                let (door, stop) = (Arc::clone(&door), stop.clone());
                connections.spawn(async move {
                    door.serve(stream, peer, watcher, &stop).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: others must end first.
                tracing::warn!(%error, "connection was not accepted");
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
        watcher: hyper_util::server::graceful::Watcher,
        stop: &CancellationToken,
    ) {
        // Behind a proxy every connection comes from one address.
        let slot = if self.plan.behind_proxy {
            None
        } else {
            match self.quotas.connection(peer.ip()) {
                Ok(slot) => Some(slot),
                Err(too_many) => {
                    tracing::debug!("connection refused: its address has too many");
                    return refuse(stream, &too_many).await;
                }
            }
        };
        let begun = tokio::select! {
            () = stop.cancelled() => false,
            begun = begins(&stream, self.plan.header_timeout) => begun,
        };
        if !begun {
            return;
        }
        drop(stream.set_nodelay(true));
        let door = Arc::clone(&self);
        let unread = Unread::default();
        let stream = Gentle::new(stream, unread.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            Arc::clone(&door).answer(request, peer.ip(), unread.clone())
        });
        let mut server = self.server.clone();
        server.http1().timer(TokioTimer::new()).header_read_timeout(self.plan.header_timeout);
        let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let connection = pin!(watcher.watch(connection));
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection ended early");
        }
        drop(slot);
    }

    async fn answer(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        peer: IpAddr,
        unread: Unread,
    ) -> Result<http::Response<Body>, Infallible> {
        let client = if self.plan.behind_proxy {
            forwarded(request.headers()).unwrap_or(peer)
        } else {
            peer
        };
        request.extensions_mut().insert(ClientAddress(client));
        let app = self.app.clone();
        let rooms = |request| async {
            let Ok(response) = app.oneshot(request).await;
            response
        };
        let (response, rest) = body::answered(request, self.plan.body_timeout, rooms).await;
        if rest == Rest::Left {
            unread.set();
        }
        Ok(response)
    }
}

/// Waits for as much of a connection as tells HTTP/1 from HTTP/2, as long as headers may take:
/// hyper has timers for either, and none before it knows which.
async fn begins(stream: &TcpStream, patience: Duration) -> bool {
    let begun = async {
        let mut seen = [0; PREFACE.len()];
        loop {
            match stream.peek(&mut seen).await {
                Ok(0) | Err(_) => return false,
                Ok(count) if count < PREFACE.len() && PREFACE.starts_with(&seen[..count]) => {
                    // What was peeked at stays: without a wait we would see it again at once.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Ok(_) => return true,
            }
        }
    };
    tokio::time::timeout(patience, begun).await.unwrap_or(false)
}

/// The address that the proxy in front saw: the last of `X-Forwarded-For`, for the others are
/// the client's word.
fn forwarded(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all("x-forwarded-for").iter().next_back()?;
    last.to_str().ok()?.rsplit(',').next()?.trim().parse().ok()
}

/// One address has too many connections: said in plain bytes, for there is no request yet. What
/// the client has sent meanwhile is read, within bounds, or the answer would be reset on its way.
async fn refuse(stream: TcpStream, too_many: &TooMany) {
    let problem = Problem::new(
        Status::TooManyRequests,
        "too_many_connections",
        "too many connections",
        too_many.to_string(),
    );
    let body = problem.with("limit", too_many.limit).to_bytes();
    let head = format!(
        "HTTP/1.1 429 Too Many Requests\r\nX-Content-Type-Options: nosniff\r\n\
         Content-Type: {PROBLEM_TYPE}\r\nCache-Control: no-store\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    let unread = Unread::default();
    unread.set();
    let mut stream = Gentle::new(stream, unread);
    let said = async {
        drop(stream.write_all(&[head.as_bytes(), &body].concat()).await);
        drop(stream.shutdown().await);
    };
    drop(tokio::time::timeout(REFUSED_TIME_MAX, said).await);
}

#[cfg(test)]
mod tests {
    use nilometer_access::QuotaSettings;
    use tokio::io::AsyncReadExt;

    use super::*;

    /// Catches: a wait in the loop that does not listen for the stop.
    #[tokio::test]
    async fn a_stop_is_heard_while_every_place_is_taken() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let plan = ListenerPlan {
            connections_max: 1,
            header_timeout: Duration::from_secs(3600),
            body_timeout: Duration::from_secs(3600),
            behind_proxy: false,
        };
        let app = Router::new().fallback(async || std::future::pending::<()>().await);
        let quotas = Arc::new(Quotas::new(&QuotaSettings::default()));
        let stop = CancellationToken::new();
        let patience = Duration::from_millis(50);
        let serving = tokio::spawn(serve(listener, app, quotas, plan, stop.clone(), patience));
        // A request that is never answered has the only place; one more waits for it.
        let mut taken = TcpStream::connect(address).await.unwrap();
        taken.write_all(b"GET / HTTP/1.1\r\nHost: nile\r\n\r\n").await.unwrap();
        let mut waits = TcpStream::connect(address).await.unwrap();
        let mut byte = [0];
        let unanswered = tokio::time::timeout(Duration::from_millis(200), waits.read(&mut byte));
        assert!(unanswered.await.is_err(), "there were two places");
        stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(10), serving).await;
        assert!(ended.is_ok(), "the stop was not heard for 10 s");
        drop((taken, waits));
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
