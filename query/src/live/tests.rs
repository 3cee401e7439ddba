//! Live subscriptions over a pipe with paused time.

use std::time::Duration;

use axum::Router;
use futures_util::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use nilometer_access::QuotaSettings;
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::settings::QuerySettings;
use crate::testing::{NOW_MS, Room, Told};

const MINUTE: i64 = 60_000;

type Client = WebSocketStream<DuplexStream>;

/// Opens `/v1/live` over a pipe that holds so many bytes.
async fn open(
    router: Router,
    headers: &[(&'static str, &str)],
    pipe_bytes: usize,
) -> Result<Client, u16> {
    let (near, far) = tokio::io::duplex(pipe_bytes);
    tokio::spawn(async move {
        let service = TowerToHyperService::new(router);
        let mut http = hyper::server::conn::http1::Builder::new();
        http.header_read_timeout(None);
        // The test looks at what the client sees.
        drop(http.serve_connection(TokioIo::new(far), service).with_upgrades().await);
    });
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
