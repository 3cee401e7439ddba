//! A WebSocket lives no longer than what it stands on: its sign-in, its session, its key.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{SinkExt, StreamExt};
use hmac::{Hmac, KeyInit as _, Mac as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::server::{ADMIN_TOKEN, Server, WRITE_KEY, run};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A connection with this header that follows something.
async fn following(server: &Server, header: &'static str, value: &str) -> Socket {
    let url = format!("{}/v1/live", server.url.replace("http", "ws"));
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert(header, value.parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let query = r#"{"type":"subscribe","id":"a","query":{"metrics":["events"],"last":"1h","granularity":"total"},"interval_ms":1000}"#;
    socket.send(Message::text(query)).await.unwrap();
    let first = socket.next().await.unwrap().unwrap();
    assert!(first.to_text().unwrap().contains("snapshot"), "{first}");
    socket
}

/// How long the server takes from `since` to say farewell, and its words.
async fn farewell(mut socket: Socket, since: Instant, patience: Duration) -> (Duration, String) {
    let told = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Close(Some(frame)))) => return frame.reason.to_string(),
                Some(Ok(_)) => {}
                other => return format!("{other:?}"),
            }
        }
    };
    let told = timeout(patience, told).await;
    (since.elapsed(), told.unwrap_or_else(|_| "nothing".to_owned()))
}

/// The cookie of a new session.
async fn signed_in(server: &Server) -> String {
    let request = server.client.post(format!("{}/v1/session", server.url));
    let request = request.body(format!("{{\"token\":\"{ADMIN_TOKEN}\"}}"));
    let answer = request.send().await.unwrap();
    answer.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned()
}

async fn sign_out(server: &Server, cookie: &str) {
    let request = server.client.delete(format!("{}/v1/session", server.url));
    assert_eq!(request.header("cookie", cookie).send().await.unwrap().status(), 204);
}

/// The cookie of a session of `key_id` that ends at `ends_ms`, as the house signs it.
fn cookie(server: &Server, key_id: &str, ends_ms: i64) -> String {
    let secret = std::fs::read(server.data().join("keys/sessions.key")).unwrap();
    let said = [&[7; 16][..], &ends_ms.to_be_bytes(), key_id.as_bytes()].concat();
    let mut signer = Hmac::<sha2::Sha256>::new_from_slice(&secret).unwrap();
    signer.update(b"nilometer session 1\0");
    signer.update(&said);
    let signature = signer.finalize().into_bytes();
    let value = URL_SAFE_NO_PAD.encode([said.as_slice(), signature.as_slice()].concat());
    format!("nilometer_session=ns1_{value}")
}

#[tokio::test]
async fn a_socket_ends_within_three_seconds_of_what_it_stands_on() {
    const WITHIN: Duration = Duration::from_secs(3);
    const PATIENCE: Duration = Duration::from_secs(20);
    let server = Server::start().await;
    let (_, list, _) = run(&mut server.beside(&["keys", "list"]));
    let admin = list.split_whitespace().find(|word| word.starts_with("admin-")).unwrap();
    let signed_in = signed_in(&server).await;
    let (_, token, _) = run(&mut server.beside(&["keys", "create", "read", "--label", "passing"]));
    let token = token.trim();
    let mut status = 0;
    while status != 200 {
        status = server.get("/v1/catalog", token).await.status().as_u16();
    }
    let by_sign_out = following(&server, "cookie", &signed_in).await;
    let soon = Instant::now() + Duration::from_secs(6);
    let ends_ms = jiff::Timestamp::now().as_millisecond() + 6_000;
    let by_time = following(&server, "cookie", &cookie(&server, admin, ends_ms)).await;
    let by_key = following(&server, "authorization", &format!("Bearer {token}")).await;
    let stays = following(&server, "authorization", &format!("Bearer {ADMIN_TOKEN}")).await;

    let (_, list, _) = run(&mut server.beside(&["keys", "list"]));
    let line = list.lines().find(|line| line.ends_with("passing")).unwrap();
    let id = line.split_whitespace().next().unwrap();
    sign_out(&server, &signed_in).await;
    let signed_out = Instant::now();
    assert_eq!(run(&mut server.beside(&["keys", "revoke", id])).0, 0);
    let revoked = Instant::now();
    let ended = tokio::join!(
        farewell(by_sign_out, signed_out, PATIENCE),
        farewell(by_key, revoked, PATIENCE),
        farewell(by_time, soon, PATIENCE),
    );
    let ended = [ended.0, ended.1, ended.2];
    let words = ["the session has ended", "the key was revoked", "the session has ended"];
    for ((took, told), words) in ended.into_iter().zip(words) {
        assert!(told == words && took < WITHIN, "{told:?} after {took:?}, not {words:?}");
    }
    let (_, told) = farewell(stays, Instant::now(), WITHIN).await;
    assert_eq!(told, "nothing", "who may stay stays");
}

async fn open_connections(server: &Server) -> Option<f64> {
    let metrics = server.get("/metrics", ADMIN_TOKEN).await.text().await.unwrap();
    let value =
        |line: &str| line.strip_prefix("nilometer_query_live_connections ").map(str::to_owned);
    metrics.lines().find_map(value)?.parse().ok()
}

const SUBSCRIPTIONS_MAX: usize = 32;
/// What the kernel keeps of a connection at most, on both sides, generously: `tcp_wmem` and
/// `tcp_rmem`.
const SOCKET_BYTES_MAX: usize = 16 << 20;
const ROWS: usize = 10_000;
const SUBSCRIBE: &str = r#"{"type":"subscribe","id":"ID","query":{"metrics":["events"],"group_by":["content_id"],"last":"1d","granularity":"total","limit":100000},"interval_ms":1000}"#;

/// Sends events of so many contents; how long an answer with all of them is.
async fn many_rows(server: &Server) -> usize {
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let filling = "x".repeat(60);
    let event = |at| {
        format!(
            r#"{{"event_type":"view","user_id":"u","timestamp":{now_ms},"content_id":"{filling}{at}"}}"#
        )
    };
    let events: Vec<String> = (0..ROWS).map(event).collect();
    for batch in events.chunks(ROWS / 4) {
        let request = server.client.post(format!("{}/v1/events", server.url));
        let request = request.header("content-type", "application/x-ndjson").bearer_auth(WRITE_KEY);
        assert_eq!(request.body(batch.join("\n")).send().await.unwrap().status(), 200);
    }
    let path =
        "/v1/query?metrics=events&group_by=content_id&last=1d&granularity=total&limit=100000";
    loop {
        let answer = server.get(path, ADMIN_TOKEN).await.text().await.unwrap();
        if answer.matches(&filling).count() == ROWS {
            return answer.len();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Catches: a viewer who takes nothing, and keeps a connection that has ended for half a minute.
#[tokio::test]
async fn a_viewer_who_takes_nothing_is_let_go_of_with_the_sign_out_too() {
    let server = Server::start().await;
    let cookie = signed_in(&server).await;
    let narrow = TcpSocket::new_v4().unwrap();
    narrow.set_recv_buffer_size(4_096).unwrap();
    let address = server.url.strip_prefix("http://").unwrap();
    let stream = narrow.connect(address.parse().unwrap()).await.unwrap();
    let mut request = format!("ws://{address}/v1/live").into_client_request().unwrap();
    request.headers_mut().insert("cookie", cookie.parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    // Asks for more than any buffer between the two takes, and takes none of it.
    let snapshot_bytes = many_rows(&server).await;
    for id in 0..SUBSCRIPTIONS_MAX {
        let ask = SUBSCRIBE.replace("ID", &id.to_string());
        socket.send(Message::text(ask)).await.unwrap();
    }
    assert!(snapshot_bytes * SUBSCRIPTIONS_MAX > SOCKET_BYTES_MAX, "{snapshot_bytes}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut open = None;
    while open.is_none() {
        open = open_connections(&server).await;
    }
    assert_eq!(open, Some(1.0));
    sign_out(&server, &cookie).await;
    let signed_out = Instant::now();
    while open_connections(&server).await != Some(0.0) {
        assert!(signed_out.elapsed() < Duration::from_secs(8), "it is still open");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
