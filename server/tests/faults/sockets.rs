//! Hostile connections: slow, broken, oversized, HTTP/1, HTTP/2 and WebSocket.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::house::{READ_TOKEN, Server, WRITE_KEY, event, events};
use crate::viewer::Viewer;

const HEADER_TIMEOUT: Duration = Duration::from_millis(800);
const BODY_TIMEOUT: Duration = Duration::from_millis(1_500);
/// What a closing may take beyond its time-out on a busy machine.
const SLACK: Duration = Duration::from_secs(3);

const SETTINGS: [(&str, &str); 3] = [
    ("NILOMETER_GATEWAY__HEADER_TIMEOUT_MS", "800"),
    ("NILOMETER_GATEWAY__BODY_TIMEOUT_MS", "1500"),
    ("NILOMETER_GATEWAY__BODY_BYTES_MAX", "100000"),
];

pub(crate) async fn connect(server: &Server) -> Result<TcpStream> {
    TcpStream::connect(&server.address).await.context("connect")
}

fn head(content_length: usize, more: &str) -> String {
    request("POST", "/v1/events", WRITE_KEY, content_length, more)
}

pub(crate) fn request(
    method: &str,
    path: &str,
    key: &str,
    content_length: usize,
    more: &str,
) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: nile\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {content_length}\r\n{more}\r\n"
    )
}

/// Reads until the server closes; an error after a close is a close, too.
pub(crate) async fn until_closed(stream: &mut TcpStream, patience: Duration) -> Result<String> {
    let mut bytes = Vec::new();
    let read = timeout(patience, stream.read_to_end(&mut bytes)).await;
    ensure!(read.is_ok(), "still open after {patience:?}: {}", String::from_utf8_lossy(&bytes));
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads one answer with a `Content-Length`.
pub(crate) async fn answer(stream: &mut TcpStream) -> Result<(u16, String, Value)> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4_096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                let status = head.split(' ').nth(1).context("no status")?.parse()?;
                let json = serde_json::from_str(body).unwrap_or_default();
                return Ok((status, head.to_ascii_lowercase(), json));
            }
        }
        let read = timeout(Duration::from_secs(10), stream.read(&mut piece)).await??;
        ensure!(read > 0, "closed before the answer: {text}");
        bytes.extend_from_slice(&piece[..read]);
    }
}

/// Catches: time-outs that are written down and not armed.
async fn slow_clients_are_closed(server: &Server) -> Result<()> {
    // Nothing at all; a beginning of HTTP/1; one of HTTP/2; the preface and then silence.
    let beginnings =
        ["", "P", "POST /v1/events HTTP/1.1\r\nHost: nile\r\nX-Slow: ", "PRI * HTTP/2.0\r\n"];
    let mut streams = Vec::new();
    for beginning in beginnings {
        let mut stream = connect(server).await?;
        stream.write_all(beginning.as_bytes()).await?;
        streams.push((beginning, stream));
    }
    let begun = Instant::now();
    for (beginning, mut stream) in streams {
        let patience = (HEADER_TIMEOUT + SLACK).saturating_sub(begun.elapsed());
        until_closed(&mut stream, patience).await.with_context(|| format!("{beginning:?}"))?;
    }
    // One byte now and then does not buy time.
    let mut stream = connect(server).await?;
    stream.write_all(b"POST /v1/events HTTP/1.1\r\nX-Slow: ").await?;
    let begun = Instant::now();
    while stream.write_all(b"a").await.is_ok() {
        let open_for = begun.elapsed();
        ensure!(open_for < HEADER_TIMEOUT + SLACK, "headers may take {open_for:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // A body that stops coming, whoever reads it.
    for path in ["/v1/events", "/v1/query"] {
        let key = if path == "/v1/events" { WRITE_KEY } else { READ_TOKEN };
        let mut stream = connect(server).await?;
        stream.write_all(request("POST", path, key, 1_000, "").as_bytes()).await?;
        stream.write_all(b"{\"event").await?;
        let begun = Instant::now();
        let (status, _, problem) = answer(&mut stream).await.context(path)?;
        let took = begun.elapsed();
        ensure!(status == 408 && problem["code"] == "body_timeout", "{path}: {status} {problem}");
        ensure!(took < BODY_TIMEOUT + SLACK, "{path}: the body may take {took:?}");
        let detail = problem["detail"].as_str().context("no detail")?;
        ensure!(detail.contains("body_timeout_ms = 1500"), "{path}: {detail}");
    }
    Ok(())
}

/// Catches: a refusal that leaves the body, so that the client sees a reset in its place. Says
/// all the cases that fail.
async fn every_refusal_on_every_route_reads_the_body(server: &Server) -> Result<()> {
    let cases = [
        ("POST", "/nowhere", "", 404),
        ("POST", "/v1/nothing", READ_TOKEN, 404),
        ("POST", "/v1/query", "wrong", 401),
        ("POST", "/v1/query", WRITE_KEY, 403),
        ("POST", "/v1/query?limit=1", READ_TOKEN, 400),
        ("GET", "/v1/query?metrics=nothing", READ_TOKEN, 400),
        ("GET", "/v1/live", READ_TOKEN, 400),
        ("PUT", "/v1/events", WRITE_KEY, 405),
        ("POST", "/v1/events", "wrong", 401),
        ("POST", "/v1/imports/%01/events", WRITE_KEY, 400),
        ("DELETE", "/v1/catalog", READ_TOKEN, 405),
        ("POST", "/v1/dead-letters/replay", READ_TOKEN, 403),
        ("PUT", "/v1/dimensions/users", READ_TOKEN, 403),
        ("POST", "/v1/session", "", 400),
        ("POST", "/", "", 405),
        // No refusals, but answers that need no body.
        ("GET", "/healthz", "", 200),
        ("GET", "/v1/catalog", READ_TOKEN, 200),
    ];
    let mut wrong = Vec::new();
    for (method, path, key, expected) in cases {
        let exchange = async {
            let mut stream = connect(server).await?;
            stream.write_all(request(method, path, key, 1_200_000, "").as_bytes()).await?;
            stream.write_all(&vec![b'x'; 1_200_000]).await?;
            let (status, _, _) = answer(&mut stream).await?;
            // And the connection serves the next one.
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: nile\r\n\r\n").await?;
            let (again, _, _) = answer(&mut stream).await?;
            ensure!(again == 200, "then {again}");
            anyhow::Ok(status)
        };
        match exchange.await {
            // Where a body is read, it is too large before it is anything else.
            Ok(status) if status == expected || (status == 413 && method == "POST") => {}
            Ok(status) => wrong.push(format!("{method} {path} with {key:?}: {status}")),
            Err(error) => wrong.push(format!("{method} {path} with {key:?}: {error:#}")),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    // More than is read: whoever writes all of it first gets the answer all the same.
    let mut stream = connect(server).await?;
    stream.write_all(request("POST", "/nowhere", "", 20_000_000, "").as_bytes()).await?;
    stream.write_all(&vec![b'x'; 20_000_000]).await.context("write 20 MB")?;
    let (status, head_text, _) = answer(&mut stream).await?;
    ensure!(status == 404 && head_text.contains("connection: close"), "{status} {head_text}");
    // Whoever never ends is let go: 16 MiB are read before the answer, and 64 MiB after it.
    let mut stream = connect(server).await?;
    let endless = request("POST", "/nowhere", "", 0, "Transfer-Encoding: chunked\r\n");
    stream.write_all(endless.replace("Content-Length: 0\r\n", "").as_bytes()).await?;
    let chunk = [b"100000\r\n".as_slice(), &vec![b'x'; 1 << 20], b"\r\n"].concat();
    let mut sent_mib = 0;
    while timeout(Duration::from_secs(30), stream.write_all(&chunk)).await?.is_ok() {
        sent_mib += 1;
        ensure!(sent_mib < 200, "{sent_mib} MiB were taken");
    }
    Ok(())
}

/// Catches: clients that write first and never see why they were refused.
async fn refused_bodies_are_drained(server: &Server) -> Result<()> {
    // 10 MB is read to its end; the connection serves the next request.
    let mut stream = connect(server).await?;
    stream.write_all(head(10_000_000, "").as_bytes()).await?;
    stream.write_all(&vec![b'x'; 10_000_000]).await?;
    let (status, _, problem) = answer(&mut stream).await?;
    ensure!(status == 413 && problem["limit"] == "body_bytes_max", "{status} {problem}");
    ensure!(problem["max"] == 100_000, "{problem}");
    let body = event(1).to_string();
    stream.write_all(head(body.len(), "").as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let (status, _, accepted) = answer(&mut stream).await?;
    ensure!(status == 200 && accepted["accepted"] == 1, "{status} {accepted}");
    // 20 MB is not; the answer says that the connection ends.
    let mut stream = connect(server).await?;
    stream.write_all(head(20_000_000, "").as_bytes()).await?;
    let (status, head_text, _) = answer(&mut stream).await?;
    ensure!(status == 413 && head_text.contains("connection: close"), "{status} {head_text}");
    // Whoever asks first is told without sending.
    let mut stream = connect(server).await?;
    stream.write_all(head(5_000_000, "Expect: 100-continue\r\n").as_bytes()).await?;
    let (status, _, _) = answer(&mut stream).await?;
    ensure!(status == 413, "{status}");
    // Chunks without a length are counted as they come.
    let mut stream = connect(server).await?;
    let chunked = head(0, "Transfer-Encoding: chunked\r\n").replace("Content-Length: 0\r\n", "");
    stream.write_all(chunked.as_bytes()).await?;
    for _ in 0..3 {
        stream.write_all(b"c350\r\n").await?;
        stream.write_all(&vec![b'x'; 50_000]).await?;
        stream.write_all(b"\r\n").await?;
    }
    stream.write_all(b"0\r\n\r\n").await?;
    let (status, _, problem) = answer(&mut stream).await?;
    ensure!(status == 413 && problem["limit"] == "body_bytes_max", "{status} {problem}");
    Ok(())
}

/// Catches: a parser of requests that falls over.
async fn broken_requests_are_refused(server: &Server) -> Result<()> {
    let long_header =
        format!("GET /v1/query HTTP/1.1\r\nHost: nile\r\nX: {}\r\n\r\n", "a".repeat(900_000));
    let many_headers =
        format!("GET /v1/query HTTP/1.1\r\nHost: nile\r\n{}\r\n", "A: b\r\n".repeat(5_000));
    let broken: [&[u8]; 8] = [
        b"\x00\x01\x02\x03\xff\xfe\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: nile\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: nile\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: nile\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        long_header.as_bytes(),
        many_headers.as_bytes(),
    ];
    for request in broken {
        let mut stream = connect(server).await?;
        // The server may close while we still write.
        drop(stream.write_all(request).await);
        drop(stream.shutdown().await);
        let text = until_closed(&mut stream, HEADER_TIMEOUT + SLACK).await?;
        let shown = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
        let is_problem = text.starts_with("HTTP/1.1 4") && text.contains("\"code\":");
        ensure!(text.is_empty() || is_problem, "{shown:?}: {text}");
    }
    // A broken chunk inside an accepted request.
    let mut stream = connect(server).await?;
    let chunked = head(0, "Transfer-Encoding: chunked\r\n").replace("Content-Length: 0\r\n", "");
    stream.write_all(chunked.as_bytes()).await?;
    stream.write_all(b"zz\r\nhello\r\n").await?;
    let text = until_closed(&mut stream, BODY_TIMEOUT + SLACK).await?;
    ensure!(text.is_empty() || text.starts_with("HTTP/1.1 400"), "{text}");
    Ok(())
}

/// A request over HTTP/2; its status.
async fn h2_post(
    sender: &h2::client::SendRequest<bytes::Bytes>,
    headers: &[(&str, &str)],
    body: &'static [u8],
) -> Result<u16> {
    let mut request =
        http::Request::post("http://nile/v1/events").header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut sender = sender.clone().ready().await?;
    let (response, mut stream) = sender.send_request(request.body(())?, body.is_empty())?;
    if !body.is_empty() {
        stream.send_data(bytes::Bytes::from_static(body), true)?;
    }
    Ok(response.await?.status().as_u16())
}

async fn http2_is_bounded(server: &Server) -> Result<()> {
    let bearer = format!("Bearer {WRITE_KEY}");
    let (sender, connection) = h2::client::handshake(connect(server).await?).await?;
    let running = tokio::spawn(connection);
    const BODY: &[u8] =
        br#"{"event_id":"h2","event_type":"click","user_id":"u-h2","timestamp":1760000000000}"#;
    let status = h2_post(&sender, &[("authorization", &bearer)], BODY).await?;
    ensure!(status == 200, "a plain request over HTTP/2: {status}");
    ensure!(h2_post(&sender, &[], BODY).await? == 401, "no key");
    ensure!(h2_post(&sender, &[("authorization", &bearer)], b"nonsense").await? == 400, "nonsense");
    // Streams that are reset as fast as they are opened (CVE-2023-44487).
    for _ in 0..2_000 {
        let Ok(mut ready) = sender.clone().ready().await else { break };
        let request = http::Request::post("http://nile/v1/events").body(())?;
        let Ok((_response, mut stream)) = ready.send_request(request, false) else { break };
        stream.send_reset(h2::Reason::CANCEL);
    }
    drop(sender);
    running.abort();
    // Frames that are none, after a right preface.
    let mut stream = connect(server).await?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    stream.write_all(&[0xff; 4_096]).await?;
    until_closed(&mut stream, HEADER_TIMEOUT + SLACK).await?;
    // Headers that never end.
    let mut stream = connect(server).await?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
    stream.write_all(&[0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82]).await?;
    for _ in 0..10_000 {
        let continuation = [0, 0, 16, 9, 0, 0, 0, 0, 1];
        if stream.write_all(&continuation).await.is_err()
            || stream.write_all(&[0x82; 16]).await.is_err()
        {
            break;
        }
    }
    until_closed(&mut stream, SLACK).await?;
    Ok(())
}

/// Catches: a message that ends the process, or a connection that shouts without end.
async fn websocket_garbage_is_answered_or_ends_the_connection(server: &Server) -> Result<()> {
    let mut viewer = Viewer::open(server, None).await?;
    let bad = [
        "",
        "hello",
        "[]",
        "null",
        "{}",
        "{\"type\":7}",
        "{\"type\":\"subscribe\"}",
        "{\"type\":\"subscribe\",\"id\":\"a\",\"query\":{\"metrics\":[\"nope\"]}}",
        "{\"type\":\"subscribe\",\"id\":\"a\",\"query\":{\"metrics\":\"events\",\"filter\":\"x\"}}",
        "{\"type\":\"subscribe\",\"id\":\"a\",\"query\":{\"metrics\":\"events\"},\"interval_ms\":1}",
        "{\"type\":\"unsubscribe\",\"id\":{}}",
    ];
    let nested = "[".repeat(30_000);
    for text in bad.into_iter().chain([nested.as_str()]) {
        viewer.say(Message::text(text)).await?;
        let said = viewer.hear().await?;
        ensure!(said["type"] == "error" && said["code"].is_string(), "{text:.60}: {said}");
    }
    viewer.say(Message::binary(vec![0, 255, 1])).await?;
    ensure!(viewer.hear().await?["type"] == "error");
    viewer.say(Message::text(json!({"type": "ping"}).to_string())).await?;
    ensure!(viewer.hear().await?["type"] == "pong", "the connection did not survive");
    // Over the size of a message the connection ends; so it does after a hundred bad ones.
    viewer.say(Message::text("x".repeat(3 << 20))).await?;
    ensure!(viewer.hear().await?.is_null(), "3 MB were taken");
    let mut viewer = Viewer::open(server, None).await?;
    for _ in 0..150 {
        drop(viewer.say(Message::text("bad")).await);
    }
    let mut complaints = 0;
    while !viewer.hear().await?.is_null() {
        complaints += 1;
    }
    ensure!(complaints <= 100, "{complaints} complaints");
    websocket_bytes(server).await
}

/// After a right upgrade: frames that are none.
async fn websocket_bytes(server: &Server) -> Result<()> {
    let upgrade = |more: &str| {
        format!(
            "GET /v1/live HTTP/1.1\r\nHost: nile\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
        )
    };
    let bearer = format!("Authorization: Bearer {READ_TOKEN}\r\n");
    let frames: [&[u8]; 3] = [
        &[0xff; 64],
        // Unmasked, and of 2^63 bytes.
        &[0x81, 0x7f, 0x80, 0, 0, 0, 0, 0, 0, 0],
        // Text that is no UTF-8.
        &[0x81, 0x82, 0, 0, 0, 0, 0xff, 0xfe],
    ];
    for frame in frames {
        let mut stream = connect(server).await?;
        stream.write_all(upgrade(&bearer).as_bytes()).await?;
        let (status, _, _) = answer(&mut stream).await?;
        ensure!(status == 101, "{status}");
        stream.write_all(frame).await?;
        until_closed(&mut stream, SLACK).await.with_context(|| format!("{frame:?}"))?;
    }
    let refused = [
        (format!("{bearer}Origin: https://evil.example\r\n"), 403, "origin_not_allowed"),
        ("Authorization: Bearer nothing\r\n".to_owned(), 401, "unauthorized"),
        (format!("Authorization: Bearer {WRITE_KEY}\r\n"), 403, "forbidden"),
    ];
    for (more, expected, code) in refused {
        let mut stream = connect(server).await?;
        stream.write_all(upgrade(&more).as_bytes()).await?;
        let (status, _, problem) = answer(&mut stream).await?;
        ensure!(status == expected && problem["code"] == code, "{more}: {status} {problem}");
    }
    let answer = server.get("/v1/live").await?;
    ensure!(answer.status == 400 && answer.json()["code"] == "websocket_expected", "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_connections_are_refused_closed_or_answered_and_the_house_stands() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut server = Server::start(&folder.path().join("data"), &SETTINGS).await?;
    slow_clients_are_closed(&server).await?;
    every_refusal_on_every_route_reads_the_body(&server).await?;
    refused_bodies_are_drained(&server).await?;
    broken_requests_are_refused(&server).await?;
    http2_is_bounded(&server).await?;
    websocket_garbage_is_answered_or_ends_the_connection(&server).await?;
    ensure!(server.is_alive()?, "the server ended: {}", server.log());
    ensure!(!server.log().contains("panicked"), "{}", server.log());
    server.deliver(&events(10..20), Duration::from_secs(10)).await?;
    server.at_rest().await?;
    let high_kib = server.memory_kib("VmHWM")?;
    ensure!(high_kib < 512 << 10, "{high_kib} KiB at the highest");
    Ok(())
}
