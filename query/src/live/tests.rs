//! Live subscriptions over a pipe with paused time.

use std::time::Duration;

use axum::Router;
use futures_util::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use nilometer_access::QuotaSettings;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::settings::QuerySettings;
use crate::testing::{NOW_MS, Room, Told};

const MINUTE: i64 = 60_000;

type Client = WebSocketStream<DuplexStream>;

/// One end of a pipe that holds so many bytes; `router` serves the other.
fn served(router: Router, pipe_bytes: usize) -> DuplexStream {
    let (near, far) = tokio::io::duplex(pipe_bytes);
    tokio::spawn(async move {
        let service = TowerToHyperService::new(router);
        let mut http = hyper::server::conn::http1::Builder::new();
        http.header_read_timeout(None);
        // The test looks at what the client sees.
        drop(http.serve_connection(TokioIo::new(far), service).with_upgrades().await);
    });
    near
}

/// Opens `/v1/live` over a pipe that holds so many bytes.
async fn open(
    router: Router,
    headers: &[(&'static str, &str)],
    pipe_bytes: usize,
) -> Result<Client, u16> {
    let near = served(router, pipe_bytes);
    let mut request = "ws://nile.example/v1/live".into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    match tokio_tungstenite::client_async(request, near).await {
        Ok((client, _)) => Ok(client),
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => {
            Err(response.status().as_u16())
        }
        Err(error) => panic!("{error}"),
    }
}

async fn signed_in(room: &Room) -> Client {
    let token = format!("Bearer {}", room.read_token);
    open(crate::router(room.state.clone()), &[("authorization", &token)], 1 << 20).await.unwrap()
}

async fn say(client: &mut Client, message: &Value) {
    client.send(Message::text(message.to_string())).await.unwrap();
}

/// The next message that is no ping; null once the connection is closed.
async fn hear(client: &mut Client) -> Value {
    loop {
        match client.next().await {
            Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).unwrap(),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Value::Null,
            Some(Ok(other)) => panic!("{other:?}"),
        }
    }
}

fn by_country() -> Value {
    json!({"metrics": ["events"], "group_by": ["country"], "granularity": "total", "last": "1h"})
}

fn subscribe(id: &str) -> Value {
    json!({"type": "subscribe", "id": id, "query": by_country(), "interval_ms": 1_000})
}

fn seen(country: &'static str, user: u64) -> Told {
    let at_ms = NOW_MS - MINUTE;
    Told { at_ms, user, event_type: "view", country: Some(country), ..Told::default() }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_comes_first_and_then_only_rows_that_changed() {
    let room = Room::new();
    room.shelf.show(&[seen("DE", 1), seen("FR", 2), seen("GB", 3)], &[], NOW_MS);
    let mut client = signed_in(&room).await;
    say(&mut client, &subscribe("q1")).await;
    let snapshot = hear(&mut client).await;
    assert_eq!((&snapshot["type"], &snapshot["id"]), (&json!("snapshot"), &json!("q1")));
    assert_eq!(snapshot["rows"].as_array().unwrap().len(), 3);
    let first = snapshot["revision"].as_u64().unwrap();

    room.shelf.show(&[seen("DE", 1), seen("FR", 2), seen("FR", 4)], &[], NOW_MS);
    let mut changes = Vec::new();
    for revision in first..first + 3 {
        let delta = hear(&mut client).await;
        assert_eq!((&delta["type"], &delta["from"]), (&json!("delta"), &json!(revision)));
        assert_eq!(delta["revision"], revision + 1);
        assert!(delta["meta"]["as_of"].is_string());
        changes.push((delta["changed"].clone(), delta["removed"].clone()));
    }
    let window = "2026-11-24T06:00:00Z";
    let changed = json!([{"window_start": window, "country": "FR", "events": 2}]);
    let removed = json!([{"window_start": window, "country": "GB"}]);
    assert_eq!(
        changes.iter().filter(|change| **change == (changed.clone(), removed.clone())).count(),
        1
    );
    assert_eq!(changes.iter().filter(|change| **change == (json!([]), json!([]))).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_skips_to_the_latest_and_gets_it_whole() {
    let room = Room::new();
    let token = format!("Bearer {}", room.read_token);
    // A pipe that one message fills: the server waits in its second.
    let mut client =
        open(crate::router(room.state.clone()), &[("authorization", &token)], 512).await.unwrap();
    say(&mut client, &subscribe("q1")).await;
    let first = hear(&mut client).await["revision"].as_u64().unwrap();
    for users in 1..=8 {
        let events: Vec<Told> = (0..users).map(|user| seen("DE", user)).collect();
        room.shelf.show(&events, &[], NOW_MS);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // What lay in the pipe comes first, in order; then the latest, whole.
    let mut last = first;
    let latest = loop {
        let message = hear(&mut client).await;
        if message["type"] == "snapshot" {
            break message;
        }
        assert_eq!(message["from"], last);
        last += 1;
    };
    assert!(latest["revision"].as_u64().unwrap() > last + 1, "{latest} after {last}");
    assert_eq!(latest["rows"][0]["events"], 8);
    assert!(room.state.metrics().live_skipped.get() > 0);
}

#[tokio::test(start_paused = true)]
async fn a_reconnect_begins_with_a_snapshot() {
    let room = Room::new();
    room.shelf.show(&[seen("DE", 1)], &[], NOW_MS);
    let mut stays = signed_in(&room).await;
    say(&mut stays, &subscribe("q1")).await;
    for _ in 0..3 {
        hear(&mut stays).await;
    }
    for _ in 0..2 {
        let mut client = signed_in(&room).await;
        say(&mut client, &subscribe("again")).await;
        let message = hear(&mut client).await;
        assert_eq!(
            (&message["type"], message["rows"].as_array().map(Vec::len)),
            (&json!("snapshot"), Some(1))
        );
        drop(client);
    }
}

#[tokio::test(start_paused = true)]
async fn many_viewers_get_every_tick_of_one_computation() {
    const VIEWERS: usize = 100;
    const TICKS: u64 = 5;
    let quotas = QuotaSettings::default();
    let room = Room::with(QuerySettings::default(), &quotas);
    let mut viewers = Vec::new();
    for viewer in 0..VIEWERS {
        let mut client = signed_in(&room).await;
        say(&mut client, &subscribe(if viewer % 2 == 0 { "even" } else { "odd" })).await;
        viewers.push(client);
    }
    let mut revisions = Vec::new();
    for client in &mut viewers {
        revisions.push(hear(client).await["revision"].as_u64().unwrap());
    }
    let before = room.state.metrics().cache_misses.get();
    for tick in 1..=TICKS {
        room.shelf.show(&(0..tick).map(|user| seen("DE", user)).collect::<Vec<_>>(), &[], NOW_MS);
        for (client, revision) in viewers.iter_mut().zip(&mut revisions) {
            let delta = hear(client).await;
            assert_eq!(
                (&delta["type"], delta["from"].as_u64()),
                (&json!("delta"), Some(*revision))
            );
            *revision += 1;
        }
    }
    let computed = room.state.metrics().cache_misses.get() - before;
    assert!(computed <= TICKS + 1, "{computed} computations for {TICKS} ticks");
    assert_eq!(room.state.metrics().live_queries.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn bad_messages_are_answered_and_the_connection_goes_on() {
    let room = Room::new();
    let mut client = signed_in(&room).await;
    let no_such_cube = json!({"type": "subscribe", "id": "c", "interval_ms": 1_000, "query":
        {"metrics": ["events"], "group_by": ["content_id", "country"]}});
    let unknown = json!({"type": "subscribe", "id": "m", "query": {"metrics": ["evnts"]}});
    for (message, code, id) in [
        (json!("no message"), "bad_message", Value::Null),
        (json!({"type": "subscribe", "id": "x"}), "bad_message", json!("x")),
        (no_such_cube, "no_such_cube", json!("c")),
        (unknown, "unknown_metric", json!("m")),
        (json!({"type": "auth", "token": "again"}), "bad_message", Value::Null),
    ] {
        say(&mut client, &message).await;
        let error = hear(&mut client).await;
        let got = (&error["type"], &error["code"], &error["id"]);
        assert_eq!(got, (&json!("error"), &json!(code), &id), "{message}");
    }
    client.send(Message::binary(vec![1, 2])).await.unwrap();
    assert_eq!(hear(&mut client).await["code"], "bad_message");
    say(&mut client, &json!({"type": "ping"})).await;
    assert_eq!(hear(&mut client).await["type"], "pong");
    say(&mut client, &subscribe("q1")).await;
    assert_eq!(hear(&mut client).await["type"], "snapshot");
    say(&mut client, &json!({"type": "unsubscribe", "id": "q1"})).await;
    assert_eq!(hear(&mut client).await, json!({"type": "unsubscribed", "id": "q1"}));
}

#[tokio::test(start_paused = true)]
async fn only_abuse_of_the_protocol_closes() {
    let room = Room::new();
    let mut client = signed_in(&room).await;
    client.send(Message::text("x".repeat(super::MESSAGE_BYTES_MAX + 1))).await.unwrap();
    assert_eq!(hear(&mut client).await, Value::Null);

    let mut client = signed_in(&room).await;
    let mut answered = 0;
    while answered < 1_000 {
        if client.send(Message::text("{")).await.is_err() || hear(&mut client).await.is_null() {
            break;
        }
        answered += 1;
    }
    assert_eq!(answered, 100);
}

#[tokio::test(start_paused = true)]
async fn subscriptions_are_bounded_by_connection_and_by_key() {
    let quotas = QuotaSettings { subscriptions_max: 40, ..QuotaSettings::default() };
    let room = Room::with(QuerySettings::default(), &quotas);
    let mut first = signed_in(&room).await;
    for n in 0..32 {
        say(&mut first, &subscribe(&format!("q{n}"))).await;
        assert_eq!(hear(&mut first).await["type"], "snapshot", "{n}");
    }
    say(&mut first, &subscribe("one too many")).await;
    let error = loop {
        let message = hear(&mut first).await;
        if message["type"] != "delta" {
            break message;
        }
    };
    assert_eq!(error["code"], "too_many_subscriptions");

    let mut second = signed_in(&room).await;
    let mut taken = 0;
    loop {
        say(&mut second, &subscribe(&format!("q{taken}"))).await;
        let message = hear(&mut second).await;
        if message["type"] == "error" {
            assert_eq!(message["code"], "too_many_subscriptions");
            break;
        }
        if message["type"] == "snapshot" {
            taken += 1;
        }
    }
    assert_eq!(taken, 8);
}

#[tokio::test(start_paused = true)]
async fn whoever_may_not_read_does_not_get_in() {
    let room = Room::new();
    let router = || crate::router(room.state.clone());
    let with = |token: &str| format!("Bearer {token}");
    let unknown = with("nr_unknown");
    assert_eq!(open(router(), &[("authorization", &unknown)], 4_096).await.err(), Some(401));
    let write = with(&room.write_key);
    assert_eq!(open(router(), &[("authorization", &write)], 4_096).await.err(), Some(403));
    let read = with(&room.read_token);
    let headers = [("authorization", read.as_str()), ("origin", "https://evil.example")];
    assert_eq!(open(router(), &headers, 4_096).await.err(), Some(403));
    let headers = [("authorization", read.as_str()), ("origin", "https://nile.example")];
    assert!(open(router(), &headers, 4_096).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_first_message_signs_in_and_nothing_is_shown_before() {
    let room = Room::new();
    let router = || crate::router(room.state.clone());
    let mut client = open(router(), &[], 1 << 16).await.unwrap();
    say(&mut client, &subscribe("q1")).await;
    assert_eq!(hear(&mut client).await["code"], "unauthorized");
    say(&mut client, &json!({"type": "auth", "token": room.read_token})).await;
    assert_eq!(hear(&mut client).await, json!({"type": "authenticated", "role": "read"}));
    say(&mut client, &subscribe("q1")).await;
    assert_eq!(hear(&mut client).await["type"], "snapshot");

    let mut guesser = open(router(), &[], 1 << 16).await.unwrap();
    say(&mut guesser, &json!({"type": "auth", "token": "nr_guess"})).await;
    assert_eq!(hear(&mut guesser).await["code"], "unauthorized");
    assert_eq!(hear(&mut guesser).await, Value::Null);

    let mut silent = open(router(), &[], 1 << 16).await.unwrap();
    assert_eq!(hear(&mut silent).await, Value::Null, "closed when its time is up");
}

#[tokio::test(start_paused = true)]
async fn a_cookie_opens_from_the_servers_own_pages() {
    let room = Room::new();
    let secret = room.state.sessions().open(&room.read_key_id, NOW_MS).unwrap();
    let cookie = format!("nilometer_session={}", secret.expose());
    let headers = [("cookie", cookie.as_str()), ("origin", "http://nile.example")];
    let mut client = open(crate::router(room.state.clone()), &headers, 1 << 16).await.unwrap();
    say(&mut client, &subscribe("q1")).await;
    assert_eq!(hear(&mut client).await["type"], "snapshot");
}

#[tokio::test(start_paused = true)]
async fn whoever_signs_out_is_shown_nothing_any_more() {
    let room = Room::new();
    let secret = room.state.sessions().open(&room.read_key_id, NOW_MS).unwrap();
    let cookie = format!("nilometer_session={}", secret.expose());
    let headers = [("cookie", cookie.as_str()), ("origin", "http://nile.example")];
    let mut client = open(crate::router(room.state.clone()), &headers, 1 << 16).await.unwrap();
    say(&mut client, &json!({"type": "ping"})).await;
    hear(&mut client).await;
    let begun = tokio::time::Instant::now();
    room.state.sessions().close(secret.expose(), NOW_MS).unwrap();
    assert_eq!(hear(&mut client).await, Value::Null);
    assert!(begun.elapsed() <= Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_revoked_key_ends_its_connections_within_five_seconds() {
    let room = Room::new();
    let mut client = signed_in(&room).await;
    say(&mut client, &json!({"type": "ping"})).await;
    hear(&mut client).await;
    let begun = tokio::time::Instant::now();
    let mut book = nilometer_access::KeyBook::parse(&room.keys.load().to_bytes()).unwrap();
    book.revoke(&room.read_key_id, NOW_MS).unwrap();
    room.keys.replace(book);
    assert_eq!(hear(&mut client).await, Value::Null);
    assert!(begun.elapsed() <= Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn when_the_house_stops_every_subscription_ends() {
    let room = Room::new();
    let mut client = signed_in(&room).await;
    say(&mut client, &subscribe("q1")).await;
    hear(&mut client).await;
    room.stop.cancel();
    while !hear(&mut client).await.is_null() {}
    tokio::time::timeout(Duration::from_secs(5), room.state.drained()).await.unwrap();
    assert_eq!(room.state.metrics().live_connections.get(), 0);
    assert_eq!(room.state.metrics().live_subscriptions.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_query_that_nobody_follows_any_more_is_not_computed_any_more() {
    let room = Room::new();
    let mut client = signed_in(&room).await;
    say(&mut client, &subscribe("q1")).await;
    hear(&mut client).await;
    drop(client);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(room.state.metrics().live_queries.get(), 0);
    let computed = room.state.metrics().cache_misses.get();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(room.state.metrics().cache_misses.get(), computed);
}

#[tokio::test(start_paused = true)]
async fn a_delta_names_rows_of_sliding_windows_by_both_ends() {
    let room = Room::new();
    let events: Vec<Told> = (0..40)
        .map(|ago| Told { at_ms: NOW_MS - 15_000 - ago * MINUTE, ..seen("DE", 1) })
        .collect();
    room.shelf.show(&events, &[], NOW_MS);
    let mut client = signed_in(&room).await;
    let query = json!({"metrics": ["events"], "last": "10m", "granularity": "5m", "window": "10m"});
    let message = json!({"type": "subscribe", "id": "q1", "query": query, "interval_ms": 1_000});
    say(&mut client, &message).await;
    let snapshot = hear(&mut client).await;
    let row = |start: &str, end: &str, events: i64| {
        let end = format!("2026-11-24T{end}:00Z");
        json!({"window_start": format!("2026-11-24T{start}:00Z"), "window_end": end, "events": events})
    };
    let rows = json!([row("06:45", "06:55", 10), row("06:50", "07:00", 10)]);
    assert_eq!(snapshot["rows"], rows);
    // Five minutes later the oldest window is gone, and a new one has ended.
    let now_ms = NOW_MS + 5 * MINUTE;
    room.clock.set(nilometer_event::ReceiveTime::from_ms(now_ms));
    room.shelf.show(&events, &[], now_ms);
    let delta = loop {
        let delta = hear(&mut client).await;
        if delta["removed"] != json!([]) {
            break delta;
        }
    };
    let mut gone = row("06:45", "06:55", 10);
    gone.as_object_mut().unwrap().remove("events");
    assert_eq!(delta["removed"], json!([gone]));
    assert_eq!(delta["changed"], json!([row("06:55", "07:05", 6)]));
}

// ---- Frames by hand. ----

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n";

const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Asks for WebSocket with these lines: the pipe and the answer's head.
async fn asked(room: &Room, lines: &str) -> (DuplexStream, String) {
    asked_in(room, "GET /v1/live HTTP/1.1", &format!("{lines}{VERSION}{KEY}")).await
}

/// As [`asked`], of all lines but `Host` and `Authorization`.
async fn asked_in(room: &Room, first: &str, lines: &str) -> (DuplexStream, String) {
    let mut client = served(crate::router(room.state.clone()), 1 << 20);
    let token = &room.read_token;
    let request =
        format!("{first}\r\nHost: nile.example\r\nAuthorization: Bearer {token}\r\n{lines}\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    (client, String::from_utf8(head).unwrap())
}

/// A client's frame, masked with zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | u8::try_from(length).unwrap()),
        length => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// What the server's close frame holds, after which it must end the connection.
async fn farewell(client: &mut DuplexStream) -> Vec<u8> {
    loop {
        let (first, length) = (client.read_u8().await.unwrap(), client.read_u8().await.unwrap());
        assert!(length < 126, "only short frames are expected");
        let mut payload = vec![0; usize::from(length)];
        client.read_exact(&mut payload).await.unwrap();
        if first == 0x88 {
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "nothing comes after a farewell");
            return payload;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_farewell_is_answered_with_its_code() {
    let room = Room::new();
    for said in [&[0x03, 0xE8][..], &[0x0F, 0xA0, b'b', b'y', b'e'], &[]] {
        let (mut client, head) = asked(&room, UPGRADE).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        client.write_all(&frame(0x88, said)).await.unwrap();
        assert_eq!(farewell(&mut client).await, said);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_websocket_is_closed_with_the_code_for_it() {
    let room = Room::new();
    let too_long = |first, bytes: usize| {
        let mut frame = vec![first, 0x80 | 127];
        frame.extend_from_slice(&(bytes as u64).to_be_bytes());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(&[b' '; 100_000]);
        frame
    };
    let parts = super::MESSAGE_BYTES_MAX / 2 + 1;
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("an unmasked frame", vec![0x81, 0x02, b'{', b'}'], 1002),
        ("a reserved bit", frame(0xC1, b"{}"), 1002),
        ("an unknown kind of data", frame(0x83, b"{}"), 1002),
        ("an unknown kind of control", frame(0x8B, b""), 1002),
        ("a ping in parts", frame(0x09, b""), 1002),
        ("a long ping", frame(0x89, &[b'x'; 126]), 1002),
        ("a continuation of nothing", frame(0x80, b"{}"), 1002),
        ("a message within another", [frame(0x01, b"{"), frame(0x81, b"{}")].concat(), 1002),
        ("half a code", frame(0x88, &[3]), 1002),
        ("a code that is none", frame(0x88, &[0x03, 0xE7]), 1002),
        ("a code that is never sent", frame(0x88, &[0x03, 0xED]), 1002),
        ("text that is not UTF-8", frame(0x81, &[b'"', 0xFF, b'"']), 1007),
        ("part of such text", [frame(0x01, b"\""), frame(0x80, &[0xC3, 0x28])].concat(), 1007),
        ("a reason that is not UTF-8", frame(0x88, &[0x03, 0xE8, 0xFF]), 1007),
        ("a message that is too long", too_long(0x81, super::MESSAGE_BYTES_MAX + 1), 1009),
        (
            "one in parts",
            [frame(0x01, &vec![b' '; parts]), frame(0x80, &vec![b' '; parts])].concat(),
            1009,
        ),
    ];
    for (what, bytes, code) in cases {
        let (mut client, _) = asked(&room, UPGRADE).await;
        client.write_all(&bytes).await.unwrap();
        let said = farewell(&mut client).await;
        assert_eq!(
            said[..2],
            code.to_be_bytes(),
            "{what}: {}",
            String::from_utf8_lossy(&said[2..])
        );
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(room.state.metrics().live_connections.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn upgrade_headers_are_lists_over_any_number_of_lines() {
    let room = Room::new();
    for (lines, status) in [
        ("connection: keep-alive, UPGRADE\r\nupgrade: WebSocket\r\n", 101),
        ("Connection: keep-alive\r\nConnection: x ,Upgrade\r\nUpgrade: websocket\r\n", 101),
        ("Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n", 101),
        ("Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n", 101),
        ("Connection: keep-alive\r\nUpgrade: websocket\r\n", 400),
        ("Connection: upgrades\r\nUpgrade: websocket\r\n", 400),
        ("Connection: Upgrade\r\nUpgrade: websockets\r\n", 400),
        ("Connection: Upgrade\r\n", 400),
    ] {
        let (mut client, head) = asked(&room, lines).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{lines}: {head}");
        if status == 101 {
            client.write_all(&frame(0x88, &[])).await.unwrap();
            assert_eq!(farewell(&mut client).await, Vec::<u8>::new());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn only_an_upgrade_in_due_form_is_one_and_a_refusal_names_the_version() {
    const GET: &str = "GET /v1/live HTTP/1.1";
    let room = Room::new();
    let key = |key: &str| format!("{UPGRADE}{VERSION}Sec-WebSocket-Key: {key}\r\n");
    let version = |version: &str| format!("{UPGRADE}{KEY}{version}");
    for (first, lines, status) in [
        (GET, key("dGhlIHNhbXBsZSBub25jZQ=="), 101),
        (GET, key("++++++++++++++++//////=="), 101),
        ("HEAD /v1/live HTTP/1.1", format!("{UPGRADE}{VERSION}{KEY}"), 400),
        ("GET /v1/live HTTP/1.0", format!("{UPGRADE}{VERSION}{KEY}"), 400),
        // No bytes, one, 15, 17, another alphabet, no padding, and two of them.
        (GET, key(""), 400),
        (GET, key("x"), 400),
        (GET, key("dGhlIHNhbXBsZSBub25j"), 400),
        (GET, key("dGhlIHNhbXBsZSBub25jZWQ="), 400),
        (GET, key("dGhlIHNhbXBsZSBub25jZQA="), 400),
        (GET, key("dGhlIHNhbXBsZSBub25j_-=="), 400),
        (GET, key("dGhlIHNhbXBsZSBub25jZQ"), 400),
        (GET, format!("{}{KEY}", key("dGhlIHNhbXBsZSBub25jZQ==")), 400),
        (GET, format!("{UPGRADE}{VERSION}"), 400),
        (GET, version(""), 400),
        (GET, version("Sec-WebSocket-Version: 8\r\n"), 400),
        (GET, version("Sec-WebSocket-Version: 14\r\n"), 400),
    ] {
        let (_, head) = asked_in(&room, first, &lines).await;
        assert_eq!(head.split(' ').nth(1), Some(status.to_string().as_str()), "{first} {lines}");
        let told = head.contains("sec-websocket-version: 13\r\n");
        assert_eq!(told, status == 400, "{first} {lines}{head}");
    }
}

/// The next message under this id, which must come within a minute.
async fn hear_of(client: &mut Client, id: &str) -> Value {
    let heard = async {
        loop {
            let message = hear(client).await;
            assert!(!message.is_null(), "the connection ended");
            if message["id"] == id {
                return message;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), heard).await.unwrap()
}

/// A subscription whose filter has so many bytes of values.
fn long(id: &str, bytes: usize) -> Value {
    let value = "x".repeat(bytes / 1_000);
    let values: Vec<String> = (0..1_000).map(|n| format!("{value}{n:03}")).collect();
    let query = json!({"metrics": ["events"], "granularity": "total", "last": "1h",
        "filter": {"country": values}});
    json!({"type": "subscribe", "id": id, "query": query, "interval_ms": 1_000})
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_too_long_ends_alone() {
    let room = Room::new();
    room.shelf.show(&[seen("DE", 1)], &[], NOW_MS);
    let mut client = signed_in(&room).await;
    say(&mut client, &subscribe("short")).await;
    assert_eq!(hear(&mut client).await["type"], "snapshot");
    // What POST /v1/query takes is followed.
    say(&mut client, &long("long", 96_000)).await;
    assert_eq!(hear_of(&mut client, "long").await["type"], "snapshot");
    say(&mut client, &long("too long", crate::ask::QUERY_BYTES_MAX)).await;
    let error = hear_of(&mut client, "too long").await;
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("message_too_large")));
    assert!(error["message"].as_str().unwrap().contains("1048576"), "{error}");
    for id in ["short", "long", "short"] {
        assert_eq!(hear_of(&mut client, id).await["type"], "delta");
    }
}

#[tokio::test(start_paused = true)]
async fn the_longest_query_of_a_body_is_followed_too() {
    let room = Room::new();
    let query = by_country().to_string();
    let padding = " ".repeat(crate::ask::QUERY_BYTES_MAX - query.len());
    let query = query.replacen('{', &format!("{{{padding}"), 1);
    let (token, length) = (&room.read_token, query.len());
    let mut http = served(crate::router(room.state.clone()), 1 << 21);
    let head = format!(
        "POST /v1/query HTTP/1.1\r\nHost: nile.example\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    http.write_all(format!("{head}{query}").as_bytes()).await.unwrap();
    let mut status = [0; 12];
    http.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    let mut client = signed_in(&room).await;
    let message = format!(
        r#"{{"type":"subscribe","id":"{}","interval_ms":1000,"query":{query}}}"#,
        "i".repeat(64)
    );
    client.send(Message::text(message)).await.unwrap();
    assert_eq!(hear(&mut client).await["type"], "snapshot");
}

/// Catches: a refusal that nobody can place, and one that costs the neighbours their connection.
#[tokio::test(start_paused = true)]
async fn over_the_rate_a_message_is_refused_under_its_id_and_its_neighbours_stay() {
    let one = std::num::NonZeroU32::MIN;
    let quotas = QuotaSettings { queries_per_second: one, ..QuotaSettings::default() };
    let room = Room::with(QuerySettings::default(), &quotas);
    room.shelf.show(&[seen("DE", 1)], &[], NOW_MS);
    let mut client = signed_in(&room).await;
    say(&mut client, &subscribe("neighbour")).await;
    assert_eq!(hear(&mut client).await["type"], "snapshot");
    // What a page says is free as long as it is little.
    for _ in 1..super::SUBSCRIPTIONS_MAX {
        say(&mut client, &json!({"type": "unsubscribe", "id": "nothing"})).await;
        assert_eq!(hear_of(&mut client, "nothing").await["type"], "unsubscribed");
    }
    let mut refused = 0;
    for n in 0..300 {
        let id = format!("q{n}");
        let message = match n % 3 {
            0 => subscribe(&id),
            1 => json!({"type": "subscribe", "id": id}),
            _ => json!({"type": "unsubscribe", "id": id}),
        };
        say(&mut client, &message).await;
        let answer = hear_of(&mut client, &id).await;
        refused += usize::from(answer["code"] == "rate_limited");
    }
    assert!(refused > 200, "{refused}");
    assert_eq!(hear_of(&mut client, "neighbour").await["type"], "delta");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_full_refuses_one_more_for_as_long_as_it_likes() {
    let room = Room::new();
    let mut client = signed_in(&room).await;
    for n in 0..super::SUBSCRIPTIONS_MAX {
        say(&mut client, &subscribe(&format!("q{n}"))).await;
    }
    for _ in 0..150 {
        say(&mut client, &subscribe("one more")).await;
        assert_eq!(hear_of(&mut client, "one more").await["code"], "too_many_subscriptions");
    }
    assert_eq!(hear_of(&mut client, "q0").await["id"], "q0");
}

#[tokio::test(start_paused = true)]
async fn whoever_is_not_signed_in_cannot_send_much() {
    let room = Room::new();
    let mut client = open(crate::router(room.state.clone()), &[], 1 << 20).await.unwrap();
    client.send(Message::text(" ".repeat(100_000))).await.unwrap();
    let said = client.next().await;
    let Some(Ok(Message::Close(Some(said)))) = said else { panic!("{said:?}") };
    assert_eq!(u16::from(said.code), 1009);
    // Once it is, it can.
    let mut client = open(crate::router(room.state.clone()), &[], 1 << 20).await.unwrap();
    say(&mut client, &json!({"type": "auth", "token": room.read_token})).await;
    assert_eq!(hear(&mut client).await["type"], "authenticated");
    say(&mut client, &long("long", 96_000)).await;
    assert_eq!(hear(&mut client).await["type"], "snapshot");
}

/// Countries enough for a long message.
fn many_countries() -> Vec<Told> {
    let name = |n: u64| &*Box::leak(format!("a-country-of-a-long-name-{n:04}").into_boxed_str());
    (0..1_000).map(|n| seen(name(n), n + 1)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_long_answer_comes_in_fragments_that_are_one_message() {
    let room = Room::new();
    room.shelf.show(&many_countries(), &[], NOW_MS);
    let mut client = signed_in(&room).await;
    say(&mut client, &subscribe("q1")).await;
    let snapshot = hear(&mut client).await;
    assert_eq!((&snapshot["type"], &snapshot["id"]), (&json!("snapshot"), &json!("q1")));
    assert_eq!(snapshot["rows"].as_array().unwrap().len(), 1_000);
    assert!(snapshot.to_string().len() > 60_000);
    let delta = hear(&mut client).await;
    assert_eq!((&delta["type"], &delta["changed"]), (&json!("delta"), &json!([])));
    // All rows change: the difference is no shorter than the whole, which comes in its place.
    let users = |n: u64| many_countries().into_iter().map(move |told| Told { user: n, ..told });
    room.shelf.show(&users(1).chain(users(2)).collect::<Vec<_>>(), &[], NOW_MS);
    let whole = loop {
        let message = hear(&mut client).await;
        if message["type"] == "snapshot" {
            break message;
        }
        assert_eq!(message["changed"], json!([]));
    };
    assert_eq!(whole["rows"][0]["events"], 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_never_has_room_is_refused_and_its_neighbours_stay() {
    let settings = QuerySettings { answer_bytes_max: 64 << 10, ..QuerySettings::default() };
    let room = Room::with(settings, &QuotaSettings::default());
    room.shelf.show(&many_countries(), &[], NOW_MS);
    let mut client = signed_in(&room).await;
    say(&mut client, &subscribe("large")).await;
    let error = hear_of(&mut client, "large").await;
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("too_many_rows")));
    assert!(error["message"].as_str().unwrap().contains("limit"), "{error}");
    let mut few = subscribe("few");
    few["query"]["limit"] = 10.into();
    say(&mut client, &few).await;
    assert_eq!(hear_of(&mut client, "few").await["rows"].as_array().unwrap().len(), 10);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(room.state.metrics().live_queries.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_room_a_live_query_is_slowed_and_told_and_goes_on_once_there_is() {
    let settings = QuerySettings { answer_bytes_max: 64 << 10, ..QuerySettings::default() };
    let room = Room::with(settings, &QuotaSettings::default());
    room.shelf.show(&[seen("DE", 1)], &[], NOW_MS);
    let mut client = signed_in(&room).await;
    say(&mut client, &subscribe("q1")).await;
    assert_eq!(hear(&mut client).await["type"], "snapshot");
    let budget = room.state.desk().budget();
    // Others hold what there is, and the next answer is larger than the one before it.
    let of =
        |key: &str| std::iter::from_fn(|| budget.hold(&key.into(), 512).ok()).take(90).collect();
    let others: [Vec<_>; 2] = [of("a"), of("b")];
    room.shelf.show(&many_countries()[..100], &[], NOW_MS);
    let told = loop {
        let message = hear(&mut client).await;
        if message["type"] == "pace" {
            break message;
        }
        assert_eq!(message["type"], "delta");
    };
    assert_eq!((&told["id"], &told["interval_ms"]), (&json!("q1"), &json!(2_000)));
    assert!(told["message"].as_str().unwrap().contains("limit"), "{told}");
    assert_eq!(room.state.metrics().live_slowed.get(), 1);
    drop(others);
    let mut heard = Vec::new();
    while heard.last() != Some(&json!("pace 1000")) {
        let message = hear(&mut client).await;
        let kind = message["type"].as_str().unwrap();
        heard.push(json!(match message["interval_ms"].as_u64() {
            Some(interval_ms) => format!("{kind} {interval_ms}"),
            None => kind.to_owned(),
        }));
        assert!(heard.len() < 60, "{heard:?}");
    }
    assert!(heard.iter().any(|kind| kind == "snapshot" || kind == "delta"), "{heard:?}");
    assert_eq!(room.state.metrics().live_slowed.get(), 0);
    assert!(room.state.metrics().live_postponed.get() > 0);
}
