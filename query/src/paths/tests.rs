//! The doors over HTTP.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use nilometer_access::QuotaSettings;
use nilometer_event::clock::Standing;
use nilometer_event::{DeadLetter, Event, EventTime, Partition, ReceiveTime, Topic, avro};
use nilometer_log::{AppendBatch, Log, RecordsBuilder};
use nilometer_rollups::view::Facts;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::settings::QuerySettings;
use crate::testing::{NOW_MS, Room, Told, event};

const MINUTE: i64 = 60_000;
const DAY: i64 = 1_440 * MINUTE;

struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    fn code(&self) -> (u16, String) {
        let code = self.json()["code"].as_str().unwrap_or_default().to_owned();
        (self.status.as_u16(), code)
    }
}

async fn send(room: &Room, request: Request<Body>) -> Answered {
    let router: Router = crate::router(room.state.clone());
    let response = router.oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    Answered { status: parts.status, headers: parts.headers, text }
}

fn request(method: Method, path: &str, token: &str, body: impl Into<Body>) -> Request<Body> {
    let mut request = Request::new(body.into());
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap();
    if !token.is_empty() {
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    request
}

async fn get(room: &Room, path: &str) -> Answered {
    send(room, request(Method::GET, path, &room.read_token, Body::empty())).await
}

fn seen(ago_ms: i64, country: &'static str) -> Told {
    let at_ms = NOW_MS - ago_ms;
    Told { at_ms, user: 1, event_type: "view", country: Some(country), ..Told::default() }
}

fn append(room: &Room, topic: Topic, value: &[u8]) {
    let mut records = RecordsBuilder::new();
    records.push(ReceiveTime::from_ms(NOW_MS), None, value);
    let partition = Partition::new(0);
    room.log.append(vec![AppendBatch { topic, partition, records: records.build() }]).unwrap();
}

fn refuse(room: &Room, body: &str) {
    let letter = DeadLetter {
        received_at: ReceiveTime::from_ms(NOW_MS),
        code: "schema_violation",
        message: "field country: expected text",
        event_id: None,
        user_key: None,
        event_type: None,
        source: "imports/old",
        body,
        sent_at: None,
        key: Some("write-1"),
        key_source: Some("web"),
    };
    let mut bytes = Vec::new();
    letter.encode(&mut bytes);
    append(room, Topic::DeadLetters, &bytes);
}

#[tokio::test]
async fn a_query_reads_alike_by_url_and_by_json() {
    let room = Room::new();
    room.shelf.show(&[seen(MINUTE, "DE"), seen(MINUTE, "FR"), seen(MINUTE, "DE")], &[], NOW_MS);
    let path = "/v1/query?metrics=events,unique_users&group_by=country&filter=country:DE,FR\
                &last=1h&granularity=total&order_by=-events&limit=1";
    let by_url = get(&room, path).await;
    let body = json!({"metrics": ["events", "unique_users"], "group_by": ["country"],
        "filter": {"country": ["DE", "FR"]}, "last": "1h", "granularity": "total",
        "order_by": "-events", "limit": 1});
    let by_json =
        send(&room, request(Method::POST, "/v1/query", &room.read_token, body.to_string())).await;
    for answered in [&by_url, &by_json] {
        let answer = answered.json();
        assert_eq!(answered.status, 200, "{}", answered.text);
        assert_eq!(answer["columns"], json!(["window_start", "country", "events", "unique_users"]));
        let row = json!({"window_start": "2026-11-24T06:00:00Z", "country": "DE", "events": 2, "unique_users": 1});
        assert_eq!(answer["rows"], json!([row]));
        let meta = &answer["meta"];
        assert_eq!((&meta["source"], &meta["truncated"]), (&json!("rollups"), &json!(true)));
        for member in ["as_of", "final_until", "watermark"] {
            assert!(meta[member].is_string(), "{member} in {meta}");
        }
        assert!(meta["took_ms"].is_number() && meta["freshness_ms"].is_number());
        assert_eq!(answered.headers["x-content-type-options"], "nosniff");
        assert_eq!(answered.headers["cache-control"], "no-store");
    }
}

#[tokio::test]
async fn a_snapshot_is_not_sent_again_until_rows_change() {
    let room = Room::new();
    room.shelf.show(&[seen(MINUTE, "DE")], &[], NOW_MS);
    let path = "/v1/snapshot?metrics=events&granularity=total&from=2026-11-24T06:00:00Z&to=2026-11-24T08:00:00Z";
    let first = get(&room, path).await;
    let tag = first.headers["etag"].clone();
    let again = || async {
        let mut request = request(Method::GET, path, &room.read_token, Body::empty());
        request.headers_mut().insert("if-none-match", tag.clone());
        send(&room, request).await
    };
    let unchanged = again().await;
    assert_eq!((unchanged.status.as_u16(), unchanged.text.as_str()), (304, ""));
    assert_eq!(unchanged.headers["etag"], tag);
    // Only as_of moves on: the rows are the same.
    room.shelf.show(&[seen(MINUTE, "DE")], &[], NOW_MS + 1_000);
    assert_eq!(again().await.status, 304);
    room.shelf.show(&[seen(MINUTE, "DE"), seen(MINUTE, "DE")], &[], NOW_MS + 1_000);
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let changed = again().await;
    assert_eq!(changed.status, 200);
    assert_ne!(changed.headers["etag"], tag);
}

#[tokio::test]
async fn every_door_but_the_open_ones_asks_for_a_token() {
    let room = Room::new();
    for path in [
        "/v1/query?metrics=events",
        "/v1/snapshot?metrics=events",
        "/v1/catalog",
        "/v1/pipeline",
        "/v1/events/tail",
        "/v1/events/e1/trace",
        "/v1/dead-letters",
        "/v1/dimensions/users",
        "/metrics",
        "/openapi.json",
    ] {
        let nobody = send(&room, request(Method::GET, path, "", Body::empty())).await;
        assert_eq!(nobody.code(), (401, "unauthorized".to_owned()), "{path}");
        assert!(nobody.headers.contains_key("www-authenticate"));
        let writer = send(&room, request(Method::GET, path, &room.write_key, Body::empty())).await;
        assert_eq!(writer.code(), (403, "forbidden".to_owned()), "{path}");
    }
    for (method, path) in [
        (Method::POST, "/v1/dead-letters/replay"),
        (Method::POST, "/v1/clock/follow"),
        (Method::PUT, "/v1/dimensions/users"),
    ] {
        let reader = send(&room, request(method, path, &room.read_token, "{}")).await;
        assert_eq!(reader.code(), (403, "forbidden".to_owned()), "{path}");
    }
    let live = send(&room, request(Method::GET, "/healthz", "", Body::empty())).await;
    assert_eq!(live.status, 200);
    let ready = send(&room, request(Method::GET, "/readyz", "", Body::empty())).await;
    assert_eq!(ready.code(), (503, "not_ready".to_owned()));
}

#[tokio::test]
async fn what_there_is_not_is_a_problem_that_says_so() {
    let room = Room::new();
    for path in ["/v1", "/v1/", "/v1/sql", "/v1/alerts/rules", "/v1/privacy/erasures"] {
        assert_eq!(get(&room, path).await.code(), (404, "not_found".to_owned()), "{path}");
    }
    let deleted =
        send(&room, request(Method::DELETE, "/v1/query", &room.read_token, Body::empty())).await;
    assert_eq!(deleted.code(), (405, "method_not_allowed".to_owned()));
    let cases = [
        ("/v1/query?metrics=evnts", "unknown_metric"),
        ("/v1/query?metrics=events&group_by=planet", "unknown_dimension"),
        ("/v1/query?metrics=events&colour=red", "unknown_parameter"),
        ("/v1/query?metrics=events&group_by=content_id,country", "no_such_cube"),
        ("/v1/query?metrics=events&last=30d&granularity=1m", "granularity_expired"),
        ("/v1/query", "bad_parameter"),
        ("/v1/query?metrics=%ff", "unknown_metric"),
        ("/v1/events/tail?limit=0", "bad_parameter"),
        ("/v1/events/tail?after=zz", "bad_cursor"),
        ("/v1/dead-letters?colour=red", "unknown_parameter"),
        ("/v1/dead-letters?filter=colour:red", "unknown_dimension"),
        ("/v1/query?metrics=events&order_by=unique_users", "unknown_column"),
        ("/v1/events/e1/trace?from=yesterday", "bad_parameter"),
        ("/v1/live", "websocket_expected"),
    ];
    for (path, code) in cases {
        let answered = get(&room, path).await;
        assert_eq!(answered.code(), (400, code.to_owned()), "{path}");
        assert_eq!(answered.headers["content-type"], "application/problem+json");
        assert_eq!(answered.headers["x-content-type-options"], "nosniff");
    }
    let no_json = send(&room, request(Method::POST, "/v1/query", &room.read_token, "{")).await;
    assert_eq!(no_json.code(), (400, "bad_json".to_owned()));
    let large =
        send(&room, request(Method::POST, "/v1/query", &room.read_token, " ".repeat(2 << 20)))
            .await;
    assert_eq!(large.code(), (413, "body_too_large".to_owned()));
    assert_eq!(get(&room, "/v1/events/e1/trace").await.code(), (404, "not_found".to_owned()));
}

#[tokio::test]
async fn over_the_rate_is_429_with_a_time_to_wait() {
    let two = std::num::NonZeroU32::new(2).unwrap();
    let quotas = QuotaSettings { queries_per_second: two, ..QuotaSettings::default() };
    let room = Room::with(QuerySettings::default(), &quotas);
    let mut last = get(&room, "/v1/catalog").await;
    for _ in 0..3 {
        last = get(&room, "/v1/catalog").await;
    }
    assert_eq!(last.code(), (429, "rate_limited".to_owned()));
    assert!(last.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn the_catalogue_lists_metrics_dimensions_cubes_and_known_values() {
    let room = Room::new();
    room.shelf.show(&[seen(MINUTE, "DE"), seen(MINUTE, "DE"), seen(MINUTE, "FR")], &[], NOW_MS);
    let catalog = get(&room, "/v1/catalog").await.json();
    let named = |list: &str, name: &str| -> Value {
        let all = catalog[list].as_array().unwrap();
        all.iter().find(|one| one["name"] == name).cloned().unwrap_or(Value::Null)
    };
    for metric in
        ["events", "unique_users", "dau", "mau", "active_now", "bounce_rate", "p95_duration"]
    {
        assert!(named("metrics", metric)["description"].is_string(), "{metric}");
    }
    assert_eq!(named("metrics", "unique_users")["approximate"], true);
    for (metric, aggregate) in [
        ("events", "count"),
        ("unique_users", "distinct"),
        ("dau", "distinct"),
        ("events_per_second", "rate"),
        ("total_duration", "sum"),
        ("avg_duration", "avg"),
        ("p95_duration", "quantile"),
        ("bounce_rate", "ratio"),
    ] {
        assert_eq!(named("metrics", metric)["aggregate"], aggregate, "{metric}");
    }
    assert_eq!(named("dimensions", "country")["known_values"], json!(["DE", "FR"]));
    let cubes = catalog["cubes"]["events"].as_array().unwrap();
    assert!(cubes.contains(&json!(["country", "device_type", "content_category"])));
    assert!(cubes.contains(&json!([])));
}

#[tokio::test]
async fn the_pipeline_adds_up() {
    let room = Room::new();
    let told = seen(MINUTE, "DE");
    let mut bytes = Vec::new();
    avro::encode(&event(&told, "e1"), &mut bytes);
    append(&room, Topic::UserEvents, &bytes);
    append(&room, Topic::UserEvents, &bytes);
    refuse(&room, "{}");
    room.clock.advance_ms(5_000);
    let pipeline = get(&room, "/v1/pipeline").await.json();
    let totals = &pipeline["totals"];
    // Nothing is folded on these shelves, so everything is in flight.
    assert_eq!((&totals["received"], &totals["in_flight"]), (&json!(3), &json!(3)));
    assert_eq!(pipeline["residual"], 0);
    let row = pipeline["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["topic"] == "user-events" && row["partition"] == 0);
    let row = row.unwrap();
    let got = (&row["end_offset"], &row["position"], &row["lag"], &row["lag_ms"]);
    assert_eq!(got, (&json!(2), &json!(0), &json!(2), &json!(5_000)));
    for member in ["seq", "age_ms", "took_ms"] {
        assert!(row["checkpoint"].get(member).is_some(), "{member}");
    }
    assert!(pipeline["freshness_ms"].get("p99").is_some());
}

#[tokio::test]
async fn an_event_is_found_in_the_tail_and_by_its_id() {
    let room = Room::new();
    let told = seen(MINUTE, "DE");
    let mut bytes = Vec::new();
    avro::encode(&Event { properties: Some("{\"a\":1}"), ..event(&told, "e 1/é") }, &mut bytes);
    append(&room, Topic::UserEvents, &bytes);
    let tail = get(&room, "/v1/events/tail?filter=country:DE").await.json();
    assert_eq!(tail["events"][0]["event_id"], "e 1/é");
    assert_eq!(tail["events"][0]["properties"], json!({"a": 1}));
    let after = format!("/v1/events/tail?after={}", tail["cursor"].as_str().unwrap());
    assert_eq!(get(&room, &after).await.json()["events"], json!([]));
    let trace = get(&room, "/v1/events/e%201%2F%C3%A9/trace").await.json();
    assert_eq!(trace["events"][0]["status"], "in_flight", "{trace}");
}

#[tokio::test]
async fn filters_find_what_masking_left_and_what_it_hid_on_every_path() {
    let room = Room::new();
    // Of the first masking made no address, of the second it did.
    let contents = ["ada@example.com.min.js", "em1_ada/avatar", "else"];
    let told =
        contents.map(|content_id| Told { content_id: Some(content_id), ..seen(MINUTE, "DE") });
    room.shelf.show(&told, &[], NOW_MS);
    let ids = [(Some("ada@example.com"), None), (None, Some("em1_ada")), (Some("else"), None)];
    for (told, (user_id, anonymous_id)) in told.iter().zip(ids) {
        let mut bytes = Vec::new();
        avro::encode(&Event { user_id, anonymous_id, ..event(told, "e") }, &mut bytes);
        append(&room, Topic::UserEvents, &bytes);
    }
    for (filter, body, found) in [
        ("content_id:ada@example.com*", json!({"content_id": {"prefix": "ada@example.com"}}), 2),
        ("content_id:ada@ex*", json!({"content_id": {"prefix": "ada@ex"}}), 1),
        (
            "content_id:!ada@example.com*",
            json!({"content_id": {"not": {"prefix": "ada@example.com"}}}),
            1,
        ),
        ("content_id:ada@example.com/avatar", json!({"content_id": "ada@example.com/avatar"}), 1),
    ] {
        let query = format!("/v1/query?metrics=events&last=1h&granularity=total&filter={filter}");
        let body =
            json!({"metrics": "events", "last": "1h", "granularity": "total", "filter": body});
        let by_json = request(Method::POST, "/v1/query", &room.read_token, body.to_string());
        for answer in [get(&room, &query).await.json(), send(&room, by_json).await.json()] {
            assert_eq!(answer["rows"][0]["events"], found, "{filter}: {answer}");
        }
        let tail = get(&room, &format!("/v1/events/tail?filter={filter}")).await.json();
        assert_eq!(tail["events"].as_array().unwrap().len(), found, "{filter}: {tail}");
    }
    // Whose id it is decides how it was masked, and the key does not tell.
    let tail = get(&room, "/v1/events/tail?filter=user_key:ada@example.com").await.json();
    assert_eq!(tail["events"].as_array().unwrap().len(), 2, "{tail}");
}

#[tokio::test]
async fn a_letter_is_fixed_and_replayed_by_an_admin() {
    let room = Room::new();
    refuse(&room, "{}");
    let letters = get(&room, "/v1/dead-letters?code=schema_violation").await.json();
    let id = letters["letters"][0]["id"].as_str().unwrap().to_owned();
    let replay = |body: Value| {
        send(
            &room,
            request(Method::POST, "/v1/dead-letters/replay", &room.admin_token, body.to_string()),
        )
    };
    let as_it_is = replay(json!({"id": id})).await.json();
    assert_eq!((&as_it_is["accepted"], &as_it_is["rejected"]), (&json!(0), &json!(1)));
    let fixed = replay(json!({"id": id, "event": {"event_type": "view"}})).await.json();
    assert_eq!(fixed["accepted"], 1);
    assert_eq!(fixed["results"][0]["message"], format!("imports/old dlq-{id}"));
    assert_eq!(replay(json!({"id": "0-77"})).await.code(), (404, "not_found".to_owned()));
    for wrong in [json!({}), json!({"id": id, "event": {}, "ids": ["0-1"]}), json!({"colour": 1})] {
        assert_eq!(replay(wrong.clone()).await.code(), (400, "bad_replay".to_owned()), "{wrong}");
    }
}

#[tokio::test]
async fn a_browser_signs_in_with_a_code_once_and_signs_out() {
    let room = Room::new();
    let code = room.codes.issue(&room.read_key_id, NOW_MS, 60_000).unwrap();
    let sign_in =
        |body: Value| send(&room, request(Method::POST, "/v1/session", "", body.to_string()));
    let signed = sign_in(json!({"code": code.expose()})).await;
    assert_eq!(signed.json(), json!({"signed_in": true, "role": "read"}));
    let cookie = signed.headers["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    assert_eq!(sign_in(json!({"token": room.admin_token})).await.json()["role"], "admin");

    let with_cookie = |method: Method, path: &str| {
        let mut request = request(method, path, "", Body::empty());
        let pair = cookie.split(';').next().unwrap();
        request.headers_mut().insert("cookie", pair.parse().unwrap());
        send(&room, request)
    };
    assert_eq!(with_cookie(Method::GET, "/v1/catalog").await.status, 200);
    assert_eq!(with_cookie(Method::GET, "/v1/session").await.json()["role"], "read");
    assert_eq!(with_cookie(Method::DELETE, "/v1/session").await.status, 204);
    assert_eq!(with_cookie(Method::GET, "/v1/catalog").await.status, 401);
    assert_eq!(get(&room, "/v1/session").await.json()["signed_in"], true);
}

#[tokio::test]
async fn each_refusal_at_the_sign_in_has_a_code_of_its_own() {
    let room = Room::new();
    let sign_in =
        |body: Value| send(&room, request(Method::POST, "/v1/session", "", body.to_string()));
    let used = room.codes.issue(&room.read_key_id, NOW_MS, 60_000).unwrap();
    assert_eq!(sign_in(json!({"code": used.expose()})).await.status, 200);
    let expired = room.codes.issue(&room.read_key_id, NOW_MS - 60_000, 60_000).unwrap();
    let keyless = room.codes.issue("a-key-that-was-revoked", NOW_MS, 60_000).unwrap();
    for (body, status, code) in [
        (json!({"code": used.expose()}), 401, "code_used"),
        (json!({"code": expired.expose()}), 401, "code_expired"),
        (json!({"code": "nc_never-issued"}), 401, "code_unknown"),
        (json!({"code": keyless.expose()}), 401, "code_unknown"),
        (json!({"token": "no-such-token"}), 401, "unauthorized"),
        (json!({"token": room.write_key}), 403, "forbidden"),
        (json!({"token": room.read_token, "code": "a"}), 400, "bad_sign_in"),
        (json!({}), 400, "bad_sign_in"),
        (json!([]), 400, "bad_sign_in"),
    ] {
        let answer = sign_in(body.clone()).await;
        assert_eq!(answer.code(), (status, code.to_owned()), "{body}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_page_of_another_origin_changes_nothing_and_the_own_one_does_behind_any_proxy() {
    let room = Room::new();
    let sign_in = |headers: &[(&'static str, &'static str)]| {
        let body = json!({"token": room.admin_token}).to_string();
        let mut request = request(Method::POST, "/v1/session", "", body);
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        send(&room, request)
    };
    let own = ("origin", "https://nile.example");
    let evil = ("origin", "https://evil.example");
    // A proxy that is told nothing else names its upstream as Host; the browser knows better.
    let by_upstream = ("host", "127.0.0.1:8080");
    for headers in [
        &[own, ("host", "nile.example")][..],
        &[own, by_upstream, ("sec-fetch-site", "same-origin")],
        &[own, ("sec-fetch-site", "same-origin")],
        &[by_upstream],
    ] {
        assert_eq!(sign_in(headers).await.status, 200, "{headers:?}");
    }
    for headers in [
        &[evil, ("host", "nile.example")][..],
        &[evil, ("host", "nile.example"), ("sec-fetch-site", "cross-site")],
        &[evil, ("host", "nile.example"), ("sec-fetch-site", "same-site")],
        &[own, by_upstream],
        &[("origin", "null"), ("host", "null")],
    ] {
        let answer = sign_in(headers).await;
        assert_eq!(answer.code(), (403, "origin_not_allowed".to_owned()), "{headers:?}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(headers[0].1) && detail.contains("proxy_set_header Host"));
    }
}

#[tokio::test]
async fn an_enrichment_table_is_put_by_an_admin_as_csv_or_ndjson() {
    let room = Room::new();
    let put = |path: &str, kind: &str| {
        let mut request = request(Method::PUT, path, &room.admin_token, "user_id,country\nu,DE\n");
        request.headers_mut().insert("content-type", kind.parse().unwrap());
        send(&room, request)
    };
    assert_eq!(put("/v1/dimensions/users", "text/csv; charset=utf-8").await.json()["rows"], 2);
    assert_eq!(put("/v1/dimensions/planets", "text/csv").await.status, 404);
    // Reading is for whoever reads; only changing takes an admin.
    assert_eq!(get(&room, "/v1/dimensions/users").await.status, 200);
    let put_by_reader =
        request(Method::PUT, "/v1/dimensions/users", &room.read_token, "user_id\nu\n");
    assert_eq!(send(&room, put_by_reader).await.code(), (403, "forbidden".to_owned()));
    assert_eq!(
        put("/v1/dimensions/users", "application/json").await.code().1,
        "unsupported_media_type"
    );
}

#[tokio::test]
async fn the_document_describes_every_path_and_metrics_count_them() {
    let room = Room::new();
    let document = get(&room, "/openapi.json").await.json();
    for path in
        super::PATHS.into_iter().filter(|path| !matches!(*path, "/v1" | "/v1/" | "/v1/{*rest}"))
    {
        assert!(document["paths"].get(path).is_some(), "{path} is not described");
    }
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    get(&room, "/v1/query?metrics=events").await;
    let metrics = get(&room, "/metrics").await;
    assert!(
        metrics.text.contains("query_requests_total{path=\"/v1/query\",status=\"200\"} 1"),
        "{}",
        metrics.text
    );
    assert!(metrics.text.contains("query_took_seconds_count 1"));
    assert_eq!(metrics.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
}

#[tokio::test]
async fn an_admin_says_that_the_wall_clock_is_right() {
    let room = Room::new();
    let jumped = Standing { ahead_ms: 7_200_000, follows_in_ms: 1_000, ..Standing::default() };
    room.clock.stand(jumped);
    let clock = get(&room, "/v1/pipeline").await.json()["clock"].clone();
    let now = ReceiveTime::from_ms(NOW_MS).to_string();
    assert_eq!((&clock["now"], &clock["ahead_ms"]), (&json!(now), &json!(7_200_000)));
    let follow =
        |token: &str| send(&room, request(Method::POST, "/v1/clock/follow", token, Body::empty()));
    assert_eq!(follow(&room.read_token).await.status, 403);
    let followed = follow(&room.admin_token).await;
    let later = ReceiveTime::from_ms(NOW_MS + 7_200_000).to_string();
    let expected = json!({
        "now": later, "behind_ms": 0, "is_slow": false, "ahead_ms": 0, "follows_in_ms": 0,
    });
    assert_eq!((followed.status.as_u16(), followed.json()), (200, expected));
}

#[tokio::test]
async fn an_answer_says_how_many_events_were_set_to_now() {
    let room = Room::new();
    let mut facts = Facts::default();
    let hours = Arc::make_mut(&mut facts.corrected);
    (0..3).for_each(|_| hours.note(EventTime::from_ms(NOW_MS - MINUTE)));
    room.shelf.show_with(&[seen(MINUTE, "DE")], &[], &facts, NOW_MS);
    let corrected = async |range: &str| {
        let path = format!("/v1/query?metrics=events&granularity=1h&{range}");
        get(&room, &path).await.json()["meta"]["corrected"].clone()
    };
    assert_eq!(corrected("last=1h").await, 3);
    assert_eq!(corrected("from=2026-11-23T06:00:00Z&to=2026-11-23T08:00:00Z").await, 0);
    let compared = "from=2026-11-24T08:00:00Z&to=2026-11-24T10:00:00Z&compare=previous_period";
    assert_eq!(corrected(compared).await, 3);
    assert_eq!(get(&room, "/v1/pipeline").await.json()["corrected_24h"], 3);
}

#[tokio::test]
async fn an_answer_says_what_was_accepted_and_stands_in_none_of_its_numbers() {
    let room = Room::new();
    let mut facts = Facts::default();
    let late = Arc::make_mut(&mut facts.late);
    (0..3).for_each(|_| late.note(EventTime::from_ms(NOW_MS - 100 * DAY)));
    facts.unread = Arc::new(BTreeMap::from([("p50_duration".to_owned(), 2)]));
    room.shelf.show_with(&[seen(MINUTE, "DE")], &[], &facts, NOW_MS);
    let meta = async |asked: &str| {
        get(&room, &format!("/v1/query?granularity=1d&{asked}")).await.json()["meta"].clone()
    };
    assert_eq!(meta("metrics=events&last=7d").await["late_pending"], 0);
    assert_eq!(meta("metrics=events&last=101d").await["late_pending"], 3);
    let compared = "metrics=events&last=60d&compare=previous_period";
    assert_eq!(meta(compared).await["late_pending"], 3);
    assert_eq!(meta("metrics=events&last=7d").await.get("unread"), None);
    let asked = "metrics=events,p50_duration,p95_duration&last=7d";
    assert_eq!(meta(asked).await["unread"], json!({"p50_duration": 2}));
}
