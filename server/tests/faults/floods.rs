//! Whoever holds on to what all share: bodies, connections, answers that nobody reads, guesses.
//! Each small, with the memory that it cost.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use crate::house::{READ_TOKEN, Server, event, events};
use crate::sockets::{answer, connect, request, until_closed};

const PATIENCE: Duration = Duration::from_secs(10);

async fn start(settings: &[(&str, &str)]) -> Result<(tempfile::TempDir, Server)> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"), settings).await?;
    Ok((folder, server))
}

/// Catches: bodies of strangers that are held, as many and as long as they like.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_never_end_take_no_memory_and_hold_up_nobody() -> Result<()> {
    static PIECE: [u8; 200 << 10] = [b' '; 200 << 10];
    let (_folder, mut server) = start(&[]).await?;
    server.deliver(&events(0..10), PATIENCE).await?;
    let before_kib = server.memory_kib("VmRSS")?;
    let (mut held, mut tasks) = (Vec::new(), Vec::new());
    for _ in 0..7 {
        let (sender, running) = h2::client::handshake(connect(&server).await?).await?;
        let running = tokio::spawn(running);
        for stream in 0..100 {
            let path = if stream % 2 == 0 { "/v1/session" } else { "/v1/query" };
            let request = http::Request::post(format!("http://nile{path}"))
                .header("authorization", format!("Bearer {READ_TOKEN}"))
                .body(())?;
            let mut ready = sender.clone().ready().await?;
            let (response, mut body) = ready.send_request(request, false)?;
            body.send_data(bytes::Bytes::from_static(&PIECE), false)?;
            held.push((response, body));
        }
        tasks.push(running);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.deliver(&events(10..20), PATIENCE).await?;
    let grown_kib = server.memory_kib("VmRSS")?.saturating_sub(before_kib);
    println!("700 bodies of 200 KiB without end: {grown_kib} KiB more");
    ensure!(grown_kib < 64 << 10, "{grown_kib} KiB more");
    ensure!(server.is_alive()?, "the server ended: {}", server.log());
    Ok(())
}

async fn connect_from(address: &str, server: &Server) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(address.parse()?, 0))?;
    socket.connect(server.address.parse()?).await.context("connect")
}

/// Catches: connections that hold on to a place, or to descriptors that a checkpoint needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_hold_on_shut_out_nobody_and_leave_files_their_descriptors() -> Result<()>
{
    let folder = tempfile::tempdir()?;
    let settings = [("NILOMETER_STREAM__CHECKPOINT_INTERVAL_S", "1")];
    // The soft limit is raised: 600 descriptors, of which 300 are for connections.
    let line = "ulimit -Sn 200; ulimit -Hn 600";
    let data = folder.path().join("data");
    let mut server = Server::start_after(line, &data, &settings).await?;
    let mut held = Vec::new();
    for number in 0..700 {
        let mut stream = connect_from(&format!("127.0.0.{}", 2 + number % 10), &server).await?;
        let begun = request("POST", "/v1/session", "", 1_000, "");
        // The oldest are closed meanwhile, so that some may be refused.
        drop(stream.write_all(format!("{begun}{{").as_bytes()).await);
        held.push(stream);
    }
    let begun = Instant::now();
    server.deliver(&events(0..10), PATIENCE).await?;
    server.until_shown(10, PATIENCE).await?;
    println!("beside 700 that hold on: answered within {:?}", begun.elapsed());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid()))?.count();
    ensure!(open < 480, "{open} of 600 descriptors are open");
    let log = server.log();
    ensure!(!log.contains("os error 24"), "out of descriptors: {log}");
    ensure!(server.is_alive()?, "the server ended: {log}");
    drop(held);
    Ok(())
}

/// Catches: a proxy in front, behind which no address has a bound of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_proxy_an_address_has_so_many_requests_at_once() -> Result<()> {
    let settings =
        [("NILOMETER_SERVER__BEHIND_PROXY", "true"), ("NILOMETER_LIMITS__CONNECTIONS_MAX", "5")];
    let (_folder, server) = start(&settings).await?;
    let asked = async |address: &str| {
        let mut stream = connect(&server).await?;
        let from = format!("X-Forwarded-For: 198.51.100.1, {address}\r\n");
        let head = request("POST", "/v1/session", "", 100, &from);
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(b"{").await?;
        anyhow::Ok(stream)
    };
    let mut held = Vec::new();
    for port in 0..5 {
        held.push(asked(&format!("203.0.113.9:{}", 40_000 + port)).await?);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut refused = asked("203.0.113.9").await?;
    refused.write_all(&[b' '; 99]).await?;
    let (status, _, problem) = answer(&mut refused).await?;
    ensure!(status == 429 && problem["code"] == "too_many_connections", "{status} {problem}");
    let mut other = asked("[2001:db8::1]:443").await?;
    other.write_all(&[b' '; 99]).await?;
    let (status, _, problem) = answer(&mut other).await?;
    ensure!(status == 400, "{status} {problem}");
    // What is held ends with its request.
    held.clear();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut again = asked("203.0.113.9").await?;
    again.write_all(&[b' '; 99]).await?;
    let (status, _, problem) = answer(&mut again).await?;
    ensure!(status == 400, "{status} {problem}");
    Ok(())
}

/// A masked frame of a client, its mask zero.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap_or(125).min(125);
    [&[0x80 | opcode, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

/// Catches: answers that pile up for whoever sends and never reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_that_sends_and_never_reads_takes_no_memory_and_is_closed() -> Result<()> {
    let (_folder, server) = start(&[]).await?;
    let pings = frame(0x9, &[b'p'; 125]).repeat(1_000);
    let message = frame(0x1, br#"{"type":"ping"}"#).repeat(1_000);
    for (what, flood) in [("pings", pings), ("messages", message)] {
        let before_kib = server.memory_kib("VmRSS")?;
        let mut stream = connect(&server).await?;
        let upgrade = format!(
            "GET /v1/live HTTP/1.1\r\nHost: nile\r\nAuthorization: Bearer {READ_TOKEN}\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(upgrade.as_bytes()).await?;
        let begun = Instant::now();
        let mut sent = 0;
        while begun.elapsed() < Duration::from_secs(3) {
            match timeout(Duration::from_secs(1), stream.write_all(&flood)).await {
                Ok(Ok(())) => sent += flood.len(),
                Ok(Err(_closed)) => break,
                Err(_stuck) => {}
            }
        }
        let grown_kib = server.memory_kib("VmRSS")?.saturating_sub(before_kib);
        println!("{what}, {sent} bytes of them: {grown_kib} KiB more");
        ensure!(grown_kib < 16 << 10, "{what}: {grown_kib} KiB more");
        let ended = until_closed(&mut stream, PATIENCE).await;
        ensure!(ended.is_ok(), "{what}: {ended:?}");
    }
    Ok(())
}

/// Catches: a refusal of the HTTP library, in its form.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_request_is_refused_as_a_problem_too() -> Result<()> {
    let (_folder, server) = start(&[("NILOMETER_GATEWAY__HEADER_TIMEOUT_MS", "800")]).await?;
    let long_header = format!("GET / HTTP/1.1\r\nHost: nile\r\nX: {}\r\n\r\n", "a".repeat(200_000));
    let in_one_piece = format!("GET / HTTP/1.1\r\nHost: nile\r\nX: {}\r\n\r\n", "a".repeat(82_000));
    let many = format!("GET / HTTP/1.1\r\nHost: nile\r\n{}\r\n", "A: b\r\n".repeat(200));
    let long_path = format!("GET /{} HTTP/1.1\r\nHost: nile\r\n\r\n", "a".repeat(70_000));
    let cases = [
        ("GET\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/9.9\r\n\r\n", 400, "bad_request"),
        ("GET /healthz HTTP/1.1\r\n\r\n", 400, "bad_request"),
        ("GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "bad_request"),
        ("GET /healthz HTTP/1.1\r\nHost: a b/c@d\r\n\r\n", 400, "bad_request"),
        ("GET /healthz HTTP/1.1\r\nHost: a:99999\r\n\r\n", 400, "bad_request"),
        ("GET /healthz HTTP/1.1\r\nHost: nile\r\nX-Slow: ", 408, "head_timeout"),
        ("PRI * HT", 408, "head_timeout"),
        (long_path.as_str(), 414, "uri_too_long"),
        (long_header.as_str(), 431, "headers_too_large"),
        (in_one_piece.as_str(), 431, "headers_too_large"),
        (many.as_str(), 431, "headers_too_large"),
    ];
    for (sent, status, code) in cases {
        let shown = &sent[..sent.len().min(60)];
        let mut stream = connect(&server).await?;
        drop(stream.write_all(sent.as_bytes()).await);
        let (found, head, problem) = answer(&mut stream).await.with_context(|| shown.to_owned())?;
        ensure!((found, &problem["code"]) == (status, &json!(code)), "{shown:?}: {head} {problem}");
        ensure!(head.contains("content-type: application/problem+json"), "{shown:?}: {head}");
        ensure!(problem["status"] == status && problem["detail"].is_string(), "{problem}");
    }
    Ok(())
}

/// Catches: an HTTP/2 client that asks and never takes the answer, or keeps its connection for
/// nothing, for as long as it answers pings.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http2_client_that_takes_nothing_is_closed_in_time() -> Result<()> {
    let (_folder, server) = start(&[("NILOMETER_GATEWAY__BODY_TIMEOUT_MS", "1500")]).await?;
    for asks in [true, false] {
        let stream = connect(&server).await?;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1_000);
        let (sender, running) = builder.handshake::<_, bytes::Bytes>(stream).await?;
        let running = tokio::spawn(running);
        let mut ready = sender.clone().ready().await?;
        let request = http::Request::get("http://nile/openapi.json")
            .header("authorization", format!("Bearer {READ_TOKEN}"))
            .body(())?;
        let answered = if asks { Some(ready.send_request(request, true)?.0.await?) } else { None };
        ensure!(answered.as_ref().is_none_or(|answer| answer.status() == 200), "{answered:?}");
        let ended = timeout(PATIENCE, running).await;
        ensure!(ended.is_ok(), "still open, asks: {asks}");
        drop((sender, answered));
    }
    Ok(())
}

/// Catches: guesses that are charged to all who come from the same address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_guesses_locks_out_nobody_at_the_same_address() -> Result<()> {
    let (_folder, server) = start(&[("NILOMETER_LIMITS__QUERIES_PER_SECOND", "20")]).await?;
    let client = &server.client;
    let ask = async |token: &str| {
        let asked = client.get(server.url("/v1/query?metrics=events")).bearer_auth(token);
        anyhow::Ok(asked.send().await?.status().as_u16())
    };
    let sign_in = async |body: serde_json::Value| {
        let asked = client.post(server.url("/v1/session")).json(&body);
        anyhow::Ok(asked.send().await?.status().as_u16())
    };
    let mut refused = Vec::new();
    for guess in 0..60 {
        refused.push(ask(&format!("nr_guess{guess:06}")).await?);
        refused.push(sign_in(json!({"code": format!("guess-{guess}")})).await?);
    }
    ensure!(refused.iter().all(|status| matches!(status, 401 | 429)), "{refused:?}");
    ensure!(refused.ends_with(&[429, 429]), "guesses are not slowed: {refused:?}");
    ensure!(ask(READ_TOKEN).await? == 200, "a token at the same address is locked out");
    let signed_in = sign_in(json!({"token": READ_TOKEN})).await?;
    ensure!(signed_in == 200, "a sign-in at the same address is locked out: {signed_in}");
    Ok(())
}

/// Catches: an answer that grows with what was wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_names_a_hundred_rejected_events_and_counts_the_rest() -> Result<()> {
    let (_folder, server) = start(&[]).await?;
    let lines =
        "{broken\n".repeat(300) + &"{\"event_type\":7}\n".repeat(200) + &event(1).to_string();
    let found = server.send("application/x-ndjson", lines).await?;
    let answer = found.json();
    let named = answer["errors"].as_array().context("no errors")?;
    ensure!(named.len() == 100 && named[99]["index"] == 99, "{} are named", named.len());
    ensure!((&answer["accepted"], &answer["rejected"]) == (&json!(1), &json!(500)), "{answer}");
    let counted = json!({"invalid_json": 300, "schema_violation": 200});
    ensure!(answer["rejected_by_code"] == counted, "{}", answer["rejected_by_code"]);
    let long = format!("/v1/query?metrics={}", "m".repeat(30_000));
    let refused = server.get(&long).await?;
    ensure!(refused.status == 400 && refused.text.len() < 6_000, "{} bytes", refused.text.len());
    Ok(())
}
