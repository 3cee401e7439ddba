//! The front door from outside: HTTP in, answer and records out.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use nilometer_access::{
    BodyTimeout, KeyBook, KeyKind, KeyOptions, Keys, QuotaSettings, Quotas, SourceName,
};
use nilometer_event::clock::{ManualClock, Standing};
use nilometer_event::{
    DeadLetter, Event, EventTime, IdentityKey, Offset, PartitionCount, ReceiveTime, TimeCorrection,
    Topic, avro,
};
use nilometer_gateway::{
    BodyFormat, Gateway, GatewayPlan, GatewaySettings, Replay, Source, router,
};
use nilometer_log::disk::sim::SimDisk;
use nilometer_log::{Disk, Log, LogSettings, MemoryLog, SegmentLog};
use serde_json::{Value, json};
use tower::ServiceExt as _;

/// 2026-11-21T20:00:00Z
const NOW: ReceiveTime = ReceiveTime::from_ms(1_795_291_200_000);
const NDJSON: &str = "application/x-ndjson";
const JSON: &str = "application/json";

struct House {
    gateway: Arc<Gateway>,
    log: Arc<dyn Log>,
    clock: Arc<ManualClock>,
    keys: Arc<Keys>,
    write: String,
    read: String,
    server: String,
    narrow: String,
}

impl House {
    fn new() -> Self {
        Self::with(GatewaySettings::default(), &QuotaSettings::default())
    }

    fn with(settings: GatewaySettings, quotas: &QuotaSettings) -> Self {
        let log = MemoryLog::new(PartitionCount::new(4).unwrap());
        Self::before(Arc::new(log), settings, Quotas::new(quotas))
    }

    fn before(log: Arc<dyn Log>, settings: GatewaySettings, quotas: Quotas) -> Self {
        let mut book = KeyBook::new();
        let mut make = |kind, options: KeyOptions| {
            book.create(kind, options, 0).unwrap().1.expose().to_owned()
        };
        let write = make(KeyKind::Write, KeyOptions::default());
        let read = make(KeyKind::Read, KeyOptions::default());
        let server = make(KeyKind::Write, KeyOptions { server: true, ..Default::default() });
        let narrow = make(
            KeyKind::Write,
            KeyOptions {
                origins: vec!["https://shop.example".to_owned()],
                event_types: vec!["click".to_owned()],
                source: SourceName::named("shop").unwrap(),
                quota: "values=7/day".parse().unwrap(),
                ..Default::default()
            },
        );
        let keys = Arc::new(Keys::new(book));
        let clock = Arc::new(ManualClock::new(NOW));
        let gateway = Gateway::new(
            GatewayPlan::try_from(settings).unwrap(),
            IdentityKey::new([1; 32]),
            [2; 32],
            Arc::clone(&log),
            Arc::clone(&keys),
            Arc::new(quotas),
            Arc::<ManualClock>::clone(&clock),
        );
        Self { gateway: Arc::new(gateway), log, clock, keys, write, read, server, narrow }
    }

    async fn send(&self, request: Request<Body>) -> (StatusCode, http::HeaderMap, Value) {
        let response: Response = router(Arc::clone(&self.gateway)).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let json =
            if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        (parts.status, parts.headers, json)
    }

    async fn post(&self, content_type: &str, body: impl Into<Body>) -> (StatusCode, Value) {
        let (status, _, json) = self.send(self.request(content_type, body)).await;
        (status, json)
    }

    fn request(&self, content_type: &str, body: impl Into<Body>) -> Request<Body> {
        Request::post("/v1/events")
            .header("authorization", format!("Bearer {}", self.write))
            .header("content-type", content_type)
            .body(body.into())
            .unwrap()
    }

    fn request_by(&self, key: &str, body: Body) -> Request<Body> {
        let mut request = self.request(NDJSON, body);
        let bearer = format!("Bearer {key}").parse().unwrap();
        request.headers_mut().insert("authorization", bearer);
        request
    }

    /// Another write key, with this quota: its id, and the key.
    fn key_with(&self, quota: &str) -> (String, String) {
        let mut book = (*self.keys.load()).clone();
        let options = KeyOptions { quota: quota.parse().unwrap(), ..KeyOptions::default() };
        let (record, token) = book.create(KeyKind::Write, options, 0).unwrap();
        self.keys.replace(book);
        (record.id, token.expose().to_owned())
    }

    /// Every record of a topic, in partition and offset order.
    fn records(&self, topic: Topic) -> Vec<(u16, Vec<u8>)> {
        let mut records = Vec::new();
        for partition in self.log.partitions().partitions() {
            let fetched = self.log.read(topic, partition, Offset::ZERO, usize::MAX).unwrap();
            let values = fetched.iter().map(|record| (partition.get(), record.value.to_vec()));
            records.extend(values.collect::<Vec<_>>());
        }
        records
    }

    fn all_bytes(&self) -> Vec<u8> {
        let topics = Topic::ALL.into_iter();
        topics.flat_map(|topic| self.records(topic)).flat_map(|(_, value)| value).collect()
    }

    fn count(&self) -> usize {
        Topic::ALL.into_iter().map(|topic| self.records(topic).len()).sum()
    }
}

fn event(id: &str) -> Value {
    json!({
        "event_id": id, "event_type": "click", "user_id": "u-1",
        "timestamp": "2026-11-21T19:59:00Z", "country": "DE",
    })
}

#[tokio::test]
async fn every_form_of_body_brings_the_same_events() {
    let (one, two, sent) = (event("1").to_string(), event("2").to_string(), NOW.ms());
    let bodies = [
        (JSON, format!("[{one},{two}]")),
        (JSON, format!(" \n[ {one} , {two} ]\n")),
        (JSON, format!("\u{feff}{{\"events\":[{one},{two}],\"sent_at\":{sent}}}")),
        (
            "application/json; charset=utf-8",
            format!("{{\"sent_at\":{sent},\"x\":[],\"events\":[{one},{two}]}}"),
        ),
        (NDJSON, format!("{one}\n{two}")),
        (NDJSON, format!("\u{feff}\n{one}\r\n\n  {two}  \n\n")),
        ("text/plain;charset=UTF-8", format!("[{one},{two}]")),
        ("application/vnd.example+json", format!("[{one},{two}]")),
    ];
    for (content_type, body) in bodies {
        let house = House::new();
        let (status, answer) = house.post(content_type, body.clone()).await;
        assert_eq!(status, 200, "{body}: {answer}");
        assert_eq!(answer, json!({"accepted": 2, "rejected": 0, "errors": []}), "{body}");
        let mut ids: Vec<_> = house
            .records(Topic::UserEvents)
            .iter()
            .map(|(_, value)| avro::decode(value).unwrap().event_id.to_owned())
            .collect();
        ids.sort();
        assert_eq!(ids, ["1", "2"], "{body}");
    }
}

#[tokio::test]
async fn an_event_is_kept_as_it_was_sent() {
    let house = House::new();
    let sent = json!({
        "event_id": "e", "event_type": "play_complete", "user_id": "u-42", "anonymous_id": "a",
        "service_name": "s", "session_id": "s-7", "timestamp": 1_795_291_100_120i64,
        "country": "DE", "device_type": "tv", "app_version": "5.2.0", "content_id": "c-9",
        "content_category": "drama", "subscription_tier": "free", "cohort": "b",
        "channel": "ads", "session_duration_sec": 312.5, "completed": true,
        "properties": {"anything": "the user wants"}, "extra": [1],
    });
    let (status, _) = house.post(JSON, sent.to_string()).await;
    assert_eq!(status, 200);
    let records = house.records(Topic::UserEvents);
    let at = EventTime::from_ms(1_795_291_100_120);
    let key = house.keys.authenticate(&house.write).unwrap();
    let expected = Event {
        received_at: NOW,
        timestamp: at,
        time_correction: TimeCorrection::None,
        id_derived: false,
        key: Some(&key.key_id),
        source: None,
        values_max: None,
        sent_timestamp: at,
        event_id: "e",
        event_type: "play_complete",
        user_id: Some("u-42"),
        anonymous_id: Some("a"),
        service_name: Some("s"),
        session_id: Some("s-7"),
        country: Some("DE"),
        device_type: Some("tv"),
        app_version: Some("5.2.0"),
        content_id: Some("c-9"),
        content_category: Some("drama"),
        subscription_tier: Some("free"),
        cohort: Some("b"),
        channel: Some("ads"),
        session_duration_sec: Some(312.5),
        completed: Some(true),
        properties: Some("{\"anything\":\"the user wants\",\"extra\":[1]}"),
    };
    assert_eq!(avro::decode(&records[0].1), Ok(expected));
}

#[tokio::test]
async fn a_record_says_how_many_new_values_its_key_may_bring() {
    let quotas = QuotaSettings {
        browser_quota: "events=1M/s,values=25k/day".parse().unwrap(),
        server_quota: "values=80k/day".parse().unwrap(),
        ..QuotaSettings::default()
    };
    let house = House::with(GatewaySettings::default(), &quotas);
    for (key, expected) in [(&house.write, 25_000), (&house.server, 80_000), (&house.narrow, 7)] {
        let mut request = house.request(JSON, event(key).to_string());
        let key = format!("Bearer {key}").parse().unwrap();
        request.headers_mut().insert("authorization", key);
        assert_eq!(house.send(request).await.0, 200);
        let brought = house
            .records(Topic::UserEvents)
            .into_iter()
            .filter(|(_, record)| avro::decode(record).unwrap().values_max == Some(expected));
        assert_eq!(brought.count(), 1, "{expected}");
    }
    let own = event("own").to_string().into();
    house.gateway.ingest_bytes(Source::Events, BodyFormat::Json, own).await.unwrap();
    let nobody = house
        .records(Topic::UserEvents)
        .into_iter()
        .filter(|(_, record)| avro::decode(record).unwrap().values_max.is_none());
    assert_eq!(nobody.count(), 1, "the house itself has none");
}

#[tokio::test]
async fn bad_events_are_named_and_dead_and_the_good_ones_of_the_batch_are_accepted() {
    let house = House::new();
    let mut bad = event("bad");
    bad["session_duration_sec"] = json!("long");
    let body = format!("[{},{bad},7,{}]", event("1"), event("2"));
    let (status, answer) = house.post(JSON, body).await;
    assert_eq!(status, 200);
    assert_eq!(answer["accepted"], 2);
    assert_eq!(answer["rejected"], 2);
    assert_eq!(
        answer["errors"][0],
        json!({
            "index": 1, "event_id": "bad", "code": "schema_violation",
            "message": "field session_duration_sec: expected a number, found \"long\"",
        })
    );
    assert_eq!(answer["errors"][1]["index"], 2);
    let letters = house.records(Topic::DeadLetters);
    assert_eq!(letters.len(), 2);
    let letters: Vec<_> =
        letters.iter().map(|(place, value)| (place, DeadLetter::decode(value).unwrap())).collect();
    let (place, letter) =
        letters.iter().find(|(_, letter)| letter.event_id == Some("bad")).unwrap();
    assert_eq!(letter.body, bad.to_string());
    assert_eq!(letter.user_key, Some("u-1"));
    assert_eq!(letter.event_type, Some("click"));
    assert_eq!(letter.source, "events");
    // A letter lies in the shard of its user.
    assert!(house.records(Topic::UserEvents).iter().all(|(partition, _)| partition == *place));
}

#[tokio::test]
async fn broken_lines_are_rejected_events_and_index_counts_lines_that_are_not_blank() {
    let house = House::new();
    let body = format!(
        "{}\n\n{{\"event_id\":\"x\",\n{} trailing\n\nnot json\n{}",
        event("1"),
        event("2"),
        event("3")
    );
    let (status, answer) = house.post(NDJSON, body).await;
    assert_eq!(status, 200);
    assert_eq!((answer["accepted"].as_u64(), answer["rejected"].as_u64()), (Some(2), Some(3)));
    let named: Vec<_> = answer["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| {
            (
                error["index"].as_u64().unwrap(),
                error["code"].as_str().unwrap(),
                error["event_id"].as_str(),
            )
        })
        .collect();
    assert_eq!(
        named,
        [(1, "invalid_json", Some("x")), (2, "invalid_json", Some("2")), (3, "invalid_json", None),]
    );
    assert_eq!(house.count(), 5);
}

#[tokio::test]
async fn poison_is_one_dead_letter_each_and_nothing_behind_it_waits() {
    let deep = format!("{{\"properties\":{}1{}}}", "{\"a\":".repeat(40), "}".repeat(40));
    let good = event("ok").to_string();
    let with = |text: &str| good.replacen('{', &format!("{{{text},"), 1).into_bytes();
    let poison: Vec<(Vec<u8>, &str)> = vec![
        (with(r#""cohort":"\ud800""#), "schema_violation"),
        (with(r#""timestamp":9223372036854775808"#), "schema_violation"),
        (with(r#""session_duration_sec":1e999"#), "schema_violation"),
        (with(r#""country":"DE""#), "schema_violation"),
        (with(r#""properties":{"a":1,"a":1}"#), "schema_violation"),
        (
            with("\"cohort\":\"\u{0}\"")
                .iter()
                .map(|byte| if *byte == 0 { 0xff } else { *byte })
                .collect(),
            "invalid_utf8",
        ),
        (deep.into_bytes(), "event_too_deep"),
        (with(&format!("\"cohort\":\"{}\"", "x".repeat(8_193))), "string_too_long"),
        (with(&format!("\"properties\":{{\"a\":\"{}\"}}", "x".repeat(65_536))), "event_too_large"),
        (
            with(&format!(
                "\"properties\":{{{}}}",
                (0..257).map(|n| format!("\"p{n}\":{n}")).collect::<Vec<_>>().join(",")
            )),
            "too_many_properties",
        ),
        (b"{}".to_vec(), "schema_violation"),
        (b"[]".to_vec(), "schema_violation"),
        (event("").to_string().into_bytes(), "schema_violation"),
    ];
    let house = House::new();
    let mut body = b"[".to_vec();
    for (bytes, _) in &poison {
        body.extend_from_slice(bytes);
        body.push(b',');
    }
    body.extend_from_slice(good.as_bytes());
    body.push(b']');
    let (status, answer) = house.post(JSON, body).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["accepted"], 1);
    let codes: Vec<_> = answer["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["code"].as_str().unwrap())
        .collect();
    assert_eq!(codes, poison.iter().map(|(_, code)| *code).collect::<Vec<_>>());
    assert_eq!(house.records(Topic::DeadLetters).len(), poison.len());
    // What NUL there is in good JSON is text like any other.
    let (_, answer) = house.post(JSON, with(r#""cohort":"a\u0000b""#)).await;
    assert_eq!(answer["accepted"], 1);
}

#[tokio::test]
async fn what_is_required_is_required() {
    let house = House::new();
    for (field, word) in
        [("event_type", "event_type"), ("timestamp", "timestamp"), ("user_id", "user_id")]
    {
        for change in [None, Some(Value::Null), Some(json!(""))] {
            let mut event = event("1");
            let members = event.as_object_mut().unwrap();
            match change {
                None => drop(members.remove(field)),
                Some(value) => drop(members.insert(field.to_owned(), value)),
            }
            let (status, answer) = house.post(JSON, event.to_string()).await;
            assert_eq!(status, 200);
            let message = answer["errors"][0]["message"].as_str().unwrap();
            assert!(message.contains(word), "{event}: {message}");
        }
    }
    let mut anonymous = event("2");
    anonymous["user_id"] = json!("");
    anonymous["anonymous_id"] = json!("a-1");
    assert_eq!(house.post(JSON, anonymous.to_string()).await.1["accepted"], 1);
}

#[tokio::test]
async fn an_id_is_the_same_as_text_and_as_integer() {
    let house = House::new();
    let text = r#"{"event_id":"9007199254740993","event_type":"a","user_id":"42","timestamp":1795291200000}"#;
    let integer = text.replace("\"9007199254740993\"", "9007199254740993").replace("\"42\"", "42");
    let (_, answer) = house.post(JSON, format!("[{text},{integer}]")).await;
    assert_eq!((answer["accepted"].as_u64(), answer["rejected"].as_u64()), (Some(2), Some(0)));
    let records = house.records(Topic::UserEvents);
    let events: Vec<Event<'_>> =
        records.iter().map(|(_, bytes)| avro::decode(bytes).unwrap()).collect();
    assert_eq!(events[0], events[1]);
    assert_eq!((events[1].event_id, events[1].user_id), ("9007199254740993", Some("42")));
    // A refused event is named by it, and lies with its user.
    let bad = integer.replace("1795291200000", "\"never\"");
    let (_, answer) = house.post(JSON, bad).await;
    assert_eq!(answer["errors"][0]["event_id"], "9007199254740993");
    let (place, letter) = &house.records(Topic::DeadLetters)[0];
    assert_eq!(DeadLetter::decode(letter).unwrap().user_key, Some("42"));
    assert_eq!(*place, records[0].0);
}

#[tokio::test]
async fn an_id_that_names_nobody_is_rejected_and_the_list_is_the_operators() {
    let house = House::new();
    let event = |field: &str, id: &str| json!({ "event_type": "a", field: id, "timestamp": 1_795_291_200_000_u64, "service_name": "s" });
    let nobody = [
        "undefined",
        "null",
        "NULL",
        "NaN",
        "None",
        "nil",
        "[object Object]",
        " undefined\n",
        " ",
        "\t\n",
        "\u{a0}\u{2003}",
        "\u{a0}\u{200b}",
        "\u{0}",
        "\u{7f}\u{85}\u{feff}",
        "\u{200d}null\u{200b}",
        "\u{2060}\u{3164}\u{ad}",
    ];
    let body: Vec<Value> =
        nobody.iter().flat_map(|id| [event("user_id", id), event("anonymous_id", id)]).collect();
    let (_, answer) = house.post(JSON, Value::from(body).to_string()).await;
    assert_eq!((answer["accepted"].as_u64(), answer["rejected"].as_u64()), (Some(0), Some(32)));
    for error in answer["errors"].as_array().unwrap() {
        assert_eq!(error["code"], "user_id_invalid", "{error}");
    }
    let message = answer["errors"][1]["message"].as_str().unwrap();
    assert!(message.starts_with("field anonymous_id: \"undefined\" names nobody"), "{message}");
    // A known user beside it makes it no better; an empty id is none, as ever.
    let mixed = json!({ "event_type": "a", "user_id": "u", "anonymous_id": "null", "timestamp": 1_795_291_200_000_u64 });
    assert_eq!(house.post(JSON, mixed.to_string()).await.1["rejected"], 1);
    // Between what is seen all characters are the id's own.
    let somebody = [
        "nullo",
        "none-1",
        "undefined.user",
        "[object]",
        "",
        "a\u{0}",
        "\u{200b}1",
        "👩\u{200d}🚀",
    ];
    let body: Vec<Value> = somebody.iter().map(|id| event("user_id", id)).collect();
    assert_eq!(house.post(JSON, Value::from(body).to_string()).await.1["accepted"], 8);

    let settings =
        GatewaySettings { no_user_ids: vec![" Guest ".to_owned()], ..Default::default() };
    let house = House::with(settings, &QuotaSettings::default());
    let body: Vec<Value> = ["null", "GUEST", " "].iter().map(|id| event("user_id", id)).collect();
    let (_, answer) = house.post(JSON, Value::from(body).to_string()).await;
    let indices: Vec<_> =
        answer["errors"].as_array().unwrap().iter().map(|error| error["index"].as_u64()).collect();
    assert_eq!(indices, [Some(1), Some(2)]);
}

#[tokio::test]
async fn a_body_that_is_no_json_or_does_not_inflate_is_refused_whole() {
    let house = House::new();
    let good = event("1").to_string();
    let broken = [
        "",
        "  \n",
        "hello",
        "<html>",
        "{",
        "[",
        "[1",
        &format!("[{good},]"),
        &format!("[{good}"),
        &format!("{good} x"),
        &format!("{good}{good}"),
        "{\"events\":[}",
        "{\"events\":[],}",
        "nul",
        "01",
        &format!("[{good},{{\"country\":'DE'}}]"),
        &format!("{{\"events\":[{good}]"),
    ];
    for body in broken {
        let (status, answer) = house.post(JSON, body.to_owned()).await;
        assert_eq!(status, 400, "{body}: {answer}");
        assert!(answer["code"].as_str().unwrap().starts_with("body_"), "{answer}");
    }
    for encoding in ["gzip", "zstd", "br"] {
        let mut request = house.request(JSON, good.clone());
        request.headers_mut().insert("content-encoding", encoding.parse().unwrap());
        let (status, _, answer) = house.send(request).await;
        assert_eq!(
            (status.as_u16(), answer["code"].as_str()),
            (400, Some("body_corrupt")),
            "{encoding}"
        );
        let name = if encoding == "br" { "brotli" } else { encoding };
        let (told, detail) = (format!("it is no {name} stream, or "), &answer["detail"]);
        assert!(detail.as_str().unwrap().contains(&told), "{detail}");
    }
    assert_eq!(house.count(), 0);
}

fn compressed(encoding: &str, bytes: &[u8]) -> Vec<u8> {
    match encoding {
        "gzip" => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "zstd" => zstd::encode_all(bytes, 3).unwrap(),
        _ => {
            let (mut out, mut input) = (Vec::new(), bytes);
            brotli::BrotliCompress(
                &mut input,
                &mut out,
                &brotli::enc::BrotliEncoderParams::default(),
            )
            .unwrap();
            out
        }
    }
}

#[tokio::test]
async fn compressed_bodies_are_read_and_bombs_are_not() {
    let house = House::new();
    let bomb = vec![b' '; 20 << 20];
    for encoding in ["gzip", "zstd", "br"] {
        let body = format!("[{},{}]", event("1"), event("2"));
        let mut request = house.request(JSON, compressed(encoding, body.as_bytes()));
        request.headers_mut().insert("content-encoding", encoding.parse().unwrap());
        let (status, _, answer) = house.send(request).await;
        assert_eq!((status.as_u16(), answer["accepted"].as_u64()), (200, Some(2)), "{encoding}");

        let mut request = house.request(JSON, compressed(encoding, &bomb));
        request.headers_mut().insert("content-encoding", encoding.parse().unwrap());
        let (status, _, answer) = house.send(request).await;
        assert_eq!(
            (status.as_u16(), answer["limit"].as_str()),
            (413, Some("inflate_ratio_max")),
            "{encoding}"
        );
    }
}

#[tokio::test]
async fn limits_on_the_batch_answer_413_with_their_name() {
    let house = House::new();
    let many = vec!["1"; 10_001].join("\n");
    for (content_type, body) in
        [(NDJSON, many.clone()), (JSON, format!("[{}]", many.replace('\n', ",")))]
    {
        let (status, answer) = house.post(content_type, body).await;
        assert_eq!((status.as_u16(), answer["limit"].as_str()), (413, Some("batch_events_max")));
    }
    let large = vec![b' '; (1 << 20) + 1];
    // With a length, and without one.
    let mut known = house.request(JSON, large.clone());
    known.headers_mut().insert("content-length", large.len().into());
    let chunks: Vec<Result<_, std::io::Error>> =
        large.chunks(1_000).map(|chunk| Ok(bytes::Bytes::copy_from_slice(chunk))).collect();
    let unknown = house.request(JSON, Body::from_stream(futures_util::stream::iter(chunks)));
    for request in [known, unknown] {
        let (status, _, answer) = house.send(request).await;
        assert_eq!((status.as_u16(), answer["limit"].as_str()), (413, Some("body_bytes_max")));
    }
    // A server key may send more.
    let padded = format!("{}{}", " ".repeat(2 << 20), event("1"));
    let mut request = house.request(JSON, padded);
    request
        .headers_mut()
        .insert("authorization", format!("Bearer {}", house.server).parse().unwrap());
    assert_eq!(house.send(request).await.0, 200);
    assert_eq!(house.count(), 1);
}

#[tokio::test]
async fn doors_open_to_write_keys_alone() {
    let house = House::new();
    let body = event("1").to_string();
    let with = |token: Option<&str>, uri: &str| {
        let mut request = Request::post(uri).header("content-type", JSON);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request.body(Body::from(body.clone())).unwrap()
    };
    let query = format!("/v1/events?write_key={}", house.write);
    let table = [
        (with(None, "/v1/events"), 401, "unauthorized"),
        (with(Some("nw_unknown"), "/v1/events"), 401, "unauthorized"),
        (with(Some(&house.read), "/v1/events"), 403, "forbidden"),
        (with(None, "/v1/events?write_key=nope"), 401, "unauthorized"),
    ];
    for (request, status, code) in table {
        let (got, headers, answer) = house.send(request).await;
        assert_eq!((got.as_u16(), answer["code"].as_str()), (status, Some(code)));
        assert_eq!(headers["content-type"], "application/problem+json");
    }
    assert_eq!(house.send(with(None, &query)).await.0, 200);
    let mut book = (*house.keys.load()).clone();
    let id = book.authenticate(&house.write).unwrap().key_id.clone();
    book.revoke(&id, 1).unwrap();
    house.keys.replace(book);
    assert_eq!(house.send(with(None, &query)).await.0, 401);
}

#[tokio::test]
async fn unknown_forms_and_methods_are_refused() {
    let house = House::new();
    for (content_type, encoding, code) in [
        ("multipart/form-data; boundary=x", "", "unsupported_content_type"),
        ("text/html", "", "unsupported_content_type"),
        (JSON, "deflate", "unsupported_content_encoding"),
        (JSON, "gzip, br", "unsupported_content_encoding"),
    ] {
        let mut request = house.request(content_type, event("1").to_string());
        if !encoding.is_empty() {
            request.headers_mut().insert("content-encoding", encoding.parse().unwrap());
        }
        let (status, _, answer) = house.send(request).await;
        assert_eq!((status.as_u16(), answer["code"].as_str()), (415, Some(code)));
    }
    let request = Request::get("/v1/events").body(Body::empty()).unwrap();
    let (status, headers, answer) = house.send(request).await;
    assert_eq!((status.as_u16(), answer["code"].as_str()), (405, Some("method_not_allowed")));
    assert_eq!(headers["allow"], "POST, OPTIONS");
}

#[tokio::test]
async fn browsers_may_ask_from_anywhere_and_send_from_where_the_key_allows() {
    let house = House::new();
    let preflight = Request::options("/v1/events")
        .header("origin", "https://any.example")
        .header("access-control-request-method", "POST")
        .body(Body::empty())
        .unwrap();
    let (status, headers, _) = house.send(preflight).await;
    assert_eq!(status, 204);
    assert_eq!(headers["access-control-allow-origin"], "https://any.example");
    assert!(headers["access-control-allow-headers"].to_str().unwrap().contains("authorization"));
    for (origin, event_type, status) in
        [("https://shop.example", "click", 200), ("https://evil.example", "click", 403)]
    {
        let mut body = event("1");
        body["event_type"] = json!(event_type);
        let request = Request::post("/v1/events")
            .header("authorization", format!("Bearer {}", house.narrow))
            .header("origin", origin)
            .body(Body::from(body.to_string()))
            .unwrap();
        let (got, headers, answer) = house.send(request).await;
        assert_eq!(got, status, "{answer}");
        assert_eq!(headers["access-control-allow-origin"], origin);
    }
    let mut request = house.request(JSON, event("1").to_string().replace("click", "purchase"));
    request
        .headers_mut()
        .insert("authorization", format!("Bearer {}", house.narrow).parse().unwrap());
    let (_, _, answer) = house.send(request).await;
    assert_eq!(answer["errors"][0]["code"], "event_type_not_allowed");
}

#[tokio::test]
async fn a_preflight_admits_whatever_a_page_asks_to_send() {
    // What tracing libraries of browsers add, and what we may not have heard of.
    let asked = "authorization,b3,baggage,content-encoding,content-type,sentry-trace,traceparent,\
                 tracestate,x-b3-sampled,x-b3-spanid,x-b3-traceid,x-cloud-trace-context,\
                 x-datadog-origin,x-datadog-parent-id,x-datadog-sampling-priority,\
                 x-datadog-trace-id,x-requested-with,x-of-a-later-year";
    for path in ["/v1/events", "/v1/imports/a/events"] {
        let preflight = Request::options(path)
            .header("origin", "https://any.example")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", asked)
            .body(Body::empty())
            .unwrap();
        let (status, headers, _) = House::new().send(preflight).await;
        assert_eq!(status, 204);
        let allowed = headers["access-control-allow-headers"].to_str().unwrap();
        let allowed: Vec<_> = allowed.split(',').map(str::trim).collect();
        for name in asked.split(',') {
            assert!(allowed.contains(&name), "{name} is not in {allowed:?}");
        }
        // Beacons are sent with credentials, and then nothing may be starred.
        assert_eq!(headers["access-control-allow-credentials"], "true");
        assert_eq!(headers["access-control-allow-origin"], "https://any.example");
        let vary: Vec<_> = headers.get_all("vary").iter().map(|it| it.to_str().unwrap()).collect();
        for name in ["origin", "access-control-request-headers"] {
            assert!(vary.iter().any(|it| it.contains(name)), "{name} is not in {vary:?}");
        }
    }
    // What is no list of names is not repeated.
    for asked in ["a b", "x-ok, <script>", "x-ok,,", "\u{e9}", &"x".repeat(10_000)] {
        let preflight = Request::options("/v1/events")
            .header("access-control-request-headers", asked)
            .body(Body::empty())
            .unwrap();
        let (status, headers, _) = House::new().send(preflight).await;
        assert_eq!(status, 204);
        let allowed = headers["access-control-allow-headers"].to_str().unwrap();
        assert_eq!(allowed, "authorization, content-type, content-encoding", "{asked}");
    }
}

#[tokio::test]
async fn what_browsers_send_for_beacons_is_taken_with_credentials_and_cookies_open_nothing() {
    let house = House::new();
    let types = [
        None,
        Some("text/plain;charset=UTF-8"),
        Some("application/x-www-form-urlencoded"),
        Some("application/x-www-form-urlencoded;charset=UTF-8"),
        Some("application/json"),
    ];
    for (number, content_type) in types.into_iter().enumerate() {
        let beacon = |uri: &str| {
            let mut request = Request::post(uri)
                .header("origin", "null")
                .header("cookie", format!("nilometer_session={}; other=1", house.read));
            if let Some(content_type) = content_type {
                request = request.header("content-type", content_type);
            }
            request.body(Body::from(event(&format!("b-{number}")).to_string())).unwrap()
        };
        let uri = format!("/v1/events?write_key={}", house.write);
        let (status, headers, answer) = house.send(beacon(&uri)).await;
        assert_eq!((status.as_u16(), &answer["accepted"]), (200, &json!(1)), "{content_type:?}");
        assert_eq!(headers["access-control-allow-credentials"], "true");
        assert_eq!(headers["access-control-allow-origin"], "null");
        assert!(!headers.contains_key("set-cookie"));
        let (status, headers, _) = house.send(beacon("/v1/events")).await;
        assert_eq!(status, 401, "a cookie is no key");
        assert_eq!(headers["access-control-allow-origin"], "null");
    }
    assert_eq!(house.count(), types.len());
}

#[tokio::test]
async fn over_the_rate_is_429_and_nothing_of_the_batch_is_accepted() {
    let ten = std::num::NonZeroU32::new(10).unwrap();
    let quotas = QuotaSettings { events_per_second: ten, events_burst: ten, ..Default::default() };
    let house = House::with(GatewaySettings::default(), &quotas);
    let body = |count: usize| vec![event("1").to_string(); count].join("\n");
    assert_eq!(house.post(NDJSON, body(8)).await.0, 200);
    let (status, headers, answer) = house.send(house.request(NDJSON, body(9))).await;
    assert_eq!((status.as_u16(), answer["code"].as_str()), (429, Some("rate_limited")));
    assert!(headers.contains_key("retry-after"));
    assert_eq!(house.count(), 8);
    // Over one second's allowance: a rested client may, and pays it off.
    let house = House::with(GatewaySettings::default(), &quotas);
    assert_eq!(house.post(NDJSON, body(1_001)).await.0, 200);
    let (_, _, answer) = house.send(house.request(NDJSON, body(1))).await;
    let after_ms = answer["retry_after_ms"].as_u64().unwrap();
    assert!((90_000..=100_100).contains(&after_ms), "{answer}");
}

#[tokio::test]
async fn a_key_over_its_quota_is_refused_by_name_until_the_day_ends_and_nobody_else_is() {
    let house = House::new();
    let (id, key) = house.key_with("events=10/day");
    let events = |count: usize| Body::from(vec![event("1").to_string(); count].join("\n"));
    let post = async |body: Body| house.send(house.request_by(&key, body)).await;
    assert_eq!(post(events(8)).await.0, 200);
    // A refused event is one all the same.
    assert_eq!(post(Body::from("{}")).await.0, 200);
    let (status, headers, answer) = post(events(2)).await;
    assert_eq!((status.as_u16(), answer["code"].as_str()), (429, Some("quota_exceeded")));
    assert_eq!(answer["quota"], "events=10/day", "{answer}");
    assert_eq!((&answer["limit"], &answer["key"]), (&json!(10), &json!(id)));
    let left_ms = 86_400_000 - NOW.ms().rem_euclid(86_400_000);
    assert_eq!(headers["retry-after"], ((left_ms + 999) / 1_000).to_string());
    assert_eq!(house.count(), 9, "nothing of the batch is taken");
    assert_eq!(post(events(1)).await.0, 200);
    // At the end of it nothing is read any more: this body never comes.
    let never = futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
    assert_eq!(post(Body::from_stream(never)).await.0, 429);
    assert_eq!(house.post(NDJSON, events(100)).await.0, 200);
    house.clock.set(NOW.plus_ms(left_ms));
    assert_eq!(post(events(3)).await.0, 200);
}

#[tokio::test]
async fn a_quota_of_bytes_is_of_what_bodies_are_once_inflated() {
    let house = House::new();
    let (_, key) = house.key_with("bytes=100k/day");
    let mut large = event("1");
    large["properties"] = json!({"text": "a".repeat(8_000)});
    let body = compressed("gzip", vec![large.to_string(); 5].join("\n").as_bytes());
    assert!(body.len() < 1_000);
    for expected in [200, 200, 429] {
        let mut request = house.request_by(&key, Body::from(body.clone()));
        request.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
        let (status, _, answer) = house.send(request).await;
        assert_eq!(status, expected, "{answer}");
    }
}

#[tokio::test]
async fn a_browser_key_has_another_default_than_a_server_key_and_its_own_quota_goes_first() {
    let quotas = QuotaSettings {
        browser_quota: "events=5/day".parse().unwrap(),
        server_quota: "events=50/day".parse().unwrap(),
        ..QuotaSettings::default()
    };
    let house = House::with(GatewaySettings::default(), &quotas);
    let (_, own) = house.key_with("events=20/day");
    for (key, limit) in [(&house.write, 5), (&house.server, 50), (&own, 20)] {
        for (count, expected) in [(limit, 200), (1, 429)] {
            let body = vec![event("1").to_string(); count].join("\n");
            let (status, _, answer) = house.send(house.request_by(key, Body::from(body))).await;
            assert_eq!(status, expected, "{limit}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_batch_that_the_log_refuses_costs_nothing_and_passes_when_its_refusal_says() {
    let hundred = std::num::NonZeroU32::new(100).unwrap();
    let quotas =
        QuotaSettings { events_per_second: hundred, events_burst: hundred, ..Default::default() };
    let now_ms = Arc::new(AtomicU64::new(0));
    let read = Arc::clone(&now_ms);
    let quotas = Quotas::with_clock(
        &quotas,
        Arc::new(move || Duration::from_millis(read.load(Ordering::Relaxed))),
    );
    let disk = Arc::new(SimDisk::new(1));
    let log = SegmentLog::open(
        Arc::clone(&disk) as Arc<dyn Disk>,
        LogSettings::new(PartitionCount::new(4).unwrap()),
        Arc::new(ManualClock::new(NOW)),
    );
    let house = House::before(Arc::new(log.unwrap()), GatewaySettings::default(), quotas);
    let body = vec![event("1").to_string(); 5_000].join("\n");
    disk.fill_up(0);
    for _ in 0..3 {
        let (status, headers, answer) = house.send(house.request(NDJSON, body.clone())).await;
        assert_eq!((status.as_u16(), answer["code"].as_str()), (503, Some("disk_full")));
        let after: u64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
        now_ms.fetch_add(after * 1_000, Ordering::Relaxed);
    }
    disk.set_capacity(u64::MAX);
    let (status, answer) = house.post(NDJSON, body).await;
    assert_eq!((status.as_u16(), answer["accepted"].as_u64()), (200, Some(5_000)), "{answer}");
    // What is taken is paid for.
    let (_, _, answer) = house.send(house.request(JSON, event("2").to_string())).await;
    assert_eq!(answer["retry_after_ms"], 50_000, "{answer}");
}

#[tokio::test]
async fn a_refused_body_costs_what_an_event_costs() {
    let two = std::num::NonZeroU32::new(2).unwrap();
    let quotas = QuotaSettings { events_per_second: two, events_burst: two, ..Default::default() };
    let house = House::with(GatewaySettings::default(), &quotas);
    assert_eq!(house.post(JSON, "no").await.0, 400);
    assert_eq!(house.post(JSON, "[]").await.0, 200);
    assert_eq!(house.post(JSON, "no").await.0, 429);
}

#[tokio::test]
async fn routes_are_by_service_view_type_and_door() {
    let house = House::new();
    let mut view = event("v");
    view["event_type"] = json!("Page_View");
    let mut service = event("s");
    service["user_id"] = Value::Null;
    service["service_name"] = json!("billing");
    let body = format!("[{view},{service},{}]", event("u"));
    house.post(JSON, body.clone()).await;
    let count = |topic| house.records(topic).len();
    assert_eq!(
        [count(Topic::ContentViews), count(Topic::ServerEvents), count(Topic::UserEvents)],
        [1, 1, 1]
    );
    let mut import = house.request(JSON, body);
    *import.uri_mut() = "/v1/imports/old%20data/events".parse().unwrap();
    let (status, _, answer) = house.send(import).await;
    assert_eq!((status.as_u16(), answer["accepted"].as_u64()), (200, Some(3)));
    assert_eq!(count(Topic::Imports), 3);
    let mut bad = house.request(JSON, "{}");
    *bad.uri_mut() = "/v1/imports/bob@mail.com/events".parse().unwrap();
    house.send(bad).await;
    let letters = house.records(Topic::DeadLetters);
    let letter = DeadLetter::decode(&letters[0].1).unwrap();
    assert!(letter.source.starts_with("imports/em1_"), "{}", letter.source);
}

#[tokio::test]
async fn an_event_without_id_gets_one_from_its_bytes_and_a_retry_the_same() {
    let house = House::new();
    let mut bare = event("x");
    bare.as_object_mut().unwrap().remove("event_id");
    let (bare, sent) = (bare.to_string(), NOW.ms());
    house.post(JSON, bare.clone()).await;
    house.post(NDJSON, format!("{bare}\n")).await;
    house.post(JSON, format!("{{\"events\":[ {bare} ],\"sent_at\":{sent}}}")).await;
    house.post(JSON, bare.replace("DE", "FR")).await;
    let records = house.records(Topic::UserEvents);
    let events: Vec<_> = records.iter().map(|(_, value)| avro::decode(value).unwrap()).collect();
    assert!(events.iter().all(|event| event.id_derived && event.event_id.starts_with("d-")));
    assert_eq!(events[0].event_id, events[1].event_id);
    assert_eq!(events[0].event_id, events[2].event_id);
    assert_ne!(events[0].event_id, events[3].event_id);
    // An import's ids are its own.
    for name in ["a", "b"] {
        let source = Source::Import { name: name.to_owned() };
        house.gateway.ingest_bytes(source, BodyFormat::Json, bare.clone().into()).await.unwrap();
    }
    let imports = house.records(Topic::Imports);
    let derived: Vec<_> =
        imports.iter().map(|(_, value)| avro::decode(value).unwrap().event_id).collect();
    assert_ne!(derived[0], derived[1]);
    assert!(!derived.contains(&events[0].event_id));
}

#[tokio::test]
async fn a_time_in_the_future_is_corrected_and_marked() {
    let now = NOW.ms();
    let hour = 3_600_000;
    // (event time, own sent_at, envelope's sent_at) → (time, correction)
    let table = [
        (now + 299_000, None, None, now + 299_000, TimeCorrection::None),
        (now + 301_000, None, None, now, TimeCorrection::ToReceiveTime),
        (now + hour, None, Some(now + hour + 5_000), now - 5_000, TimeCorrection::ByOffset),
        (now + hour, Some(now + hour + 1_000), None, now - 1_000, TimeCorrection::ByOffset),
        (now + hour, Some(now + hour + 1_000), Some(now), now, TimeCorrection::ToReceiveTime),
        (now + hour, None, Some(now), now, TimeCorrection::ToReceiveTime),
        (now + 2 * hour, None, Some(now + 48 * hour), now - 46 * hour, TimeCorrection::ByOffset),
        (now + 30 * hour, None, Some(now + 48 * hour), now - 18 * hour, TimeCorrection::BySentAt),
        (0, None, Some(now + hour), -hour, TimeCorrection::ByOffset),
        (now - 2 * hour, None, Some(now - hour), now - hour, TimeCorrection::ByOffset),
    ];
    for (time, own, envelope, expected, correction) in table {
        let house = House::new();
        let mut event = event("1");
        event["timestamp"] = json!(time);
        if let Some(own) = own {
            event["sent_at"] = json!(own);
        }
        let body = json!({"events": [event], "sent_at": envelope});
        let (_, answer) = house.post(JSON, body.to_string()).await;
        assert_eq!(answer["accepted"], 1, "{answer}");
        let records = house.records(Topic::UserEvents);
        let event = avro::decode(&records[0].1).unwrap();
        assert_eq!(
            (event.timestamp.ms(), event.time_correction, event.sent_timestamp.ms()),
            (expected, correction, time)
        );
    }
}

#[tokio::test]
async fn one_offset_holds_for_a_whole_batch_wherever_sent_at_stands() {
    let minute = 60_000;
    for off in [60 * minute, -60 * minute] {
        let sent = NOW.ms() + off;
        let ages = [20 * minute, 70 * minute, 0, 71 * minute];
        let events: Vec<Value> = (0..)
            .zip(ages)
            .map(|(id, age): (usize, i64)| {
                let mut event = event(&id.to_string());
                event["timestamp"] = json!(sent - age);
                event
            })
            .collect();
        let events = json!(events);
        for body in [
            format!("{{\"sent_at\":{sent},\"events\":{events}}}"),
            format!("{{\"events\":{events},\"x\":{{\"sent_at\":0}},\"sent_at\":{sent}}}"),
            format!("{{\"events\":{events},\"sent\\u005fat\":{sent}}}"),
        ] {
            let house = House::new();
            let (_, answer) = house.post(JSON, body).await;
            assert_eq!(answer["accepted"], 4, "{answer}");
            let records = house.records(Topic::UserEvents);
            let times: Vec<i64> = records
                .iter()
                .map(|(_, value)| avro::decode(value).unwrap().timestamp.ms())
                .collect();
            assert_eq!(times, ages.map(|age| NOW.ms() - age), "{off}");
        }
    }
}

#[tokio::test]
async fn a_sent_at_that_is_no_time_is_named_at_each_of_its_events() {
    for (sent, words) in [
        (json!(1_795_291_200), "field sent_at of the envelope: 1795291200 looks like seconds"),
        (json!("yesterday"), "field sent_at of the envelope: expected an RFC 3339 time"),
        (json!("2026-11-21T20:00:00+24:00"), "field sent_at of the envelope: expected"),
        (json!({}), "field sent_at of the envelope: expected"),
    ] {
        let house = House::new();
        let body = json!({"events": [event("1"), event("2")], "sent_at": sent});
        let (status, answer) = house.post(JSON, body.to_string()).await;
        assert_eq!((status.as_u16(), &answer["rejected"]), (200, &json!(2)), "{answer}");
        let message = answer["errors"][1]["message"].as_str().unwrap();
        assert!(message.starts_with(words), "{message}");
        assert_eq!(house.records(Topic::DeadLetters).len(), 2);
    }
    let body = json!({"events": [event("1")], "sent_at": null}).to_string();
    assert_eq!(House::new().post(JSON, body).await.1["accepted"], 1);
}

#[tokio::test]
async fn history_that_is_yet_to_come_is_refused_and_never_corrected() {
    let house = House::new();
    let at = |id: &str, time: i64| {
        let mut event = event(id);
        event["timestamp"] = json!(time);
        event
    };
    let (hour, now) = (3_600_000, NOW.ms());
    let events = [at("1", now - hour), at("2", now + 299_000), at("3", now + 301_000)];
    let body = json!({"events": events, "sent_at": now + hour}).to_string();
    let source = Source::Import { name: "old".to_owned() };
    let answer = house.gateway.ingest_bytes(source, BodyFormat::Json, body.into()).await.unwrap();
    assert_eq!((answer.accepted, answer.rejected), (2, 1));
    assert_eq!((answer.errors[0].index, answer.errors[0].code), (2, "timestamp_in_future"));
    let records = house.records(Topic::Imports);
    let times: Vec<_> = records
        .iter()
        .map(|(_, value)| avro::decode(value).unwrap())
        .map(|event| (event.timestamp.ms(), event.time_correction))
        .collect();
    assert_eq!(times, [(now - hour, TimeCorrection::None), (now + 299_000, TimeCorrection::None)]);
    // Its letter says so, and is taken once that time has come.
    let letters = house.records(Topic::DeadLetters);
    let letter = DeadLetter::decode(&letters[0].1).unwrap();
    assert_eq!((letter.code, letter.source), ("timestamp_in_future", "imports/old"));
}

#[tokio::test]
async fn a_replayed_letter_is_moved_by_the_clock_of_its_own_day() {
    let house = House::new();
    let (day, hour) = (86_400_000, 3_600_000);
    let came = NOW.plus_ms(-day);
    let sent = |off: i64| {
        let mut event = event("1");
        event["timestamp"] = json!(came.ms() + off - hour);
        event["sent_at"] = json!(came.ms() + off);
        event.to_string()
    };
    for off in [0, 2 * hour] {
        let event = sent(off);
        let (source, event_id) = ("events", "dlq-1-0");
        let (key, key_source) = (None, None);
        let (received_at, sent_at) = (came, None);
        let letter =
            Replay { event: &event, source, event_id, received_at, sent_at, key, key_source };
        assert_eq!(house.gateway.replay(letter).await.unwrap().accepted, 1);
    }
    for (_, value) in house.records(Topic::UserEvents) {
        assert_eq!(avro::decode(&value).unwrap().timestamp.ms(), came.ms() - hour);
    }
}

#[tokio::test]
async fn live_events_are_shown_where_the_house_is_far_ahead_of_the_wall_clock() {
    let house = House::new();
    let (ahead, minute) = (100 * 86_400_000, 60_000);
    house.clock.stand(Standing { behind_ms: ahead, is_slow: true, ..Standing::default() });
    let wall = NOW.ms() - ahead;
    let at = |id: &str, time: i64| {
        let mut event = event(id);
        event["timestamp"] = json!(time);
        event
    };
    // By the wall clock; by clients who say how they stand to it; in the past as it was.
    house.post(JSON, json!([at("1", wall), at("2", wall - minute)]).to_string()).await;
    let said = json!({"sent_at": wall + 60 * minute, "events": [at("3", wall + 59 * minute)]});
    house.post(JSON, said.to_string()).await;
    let source = Source::Import { name: "old".to_owned() };
    let old = json!([at("4", wall - minute)]).to_string();
    house.gateway.ingest_bytes(source, BodyFormat::Json, old.into()).await.unwrap();
    let times = |topic| -> Vec<i64> {
        let records = house.records(topic);
        records.iter().map(|(_, value)| avro::decode(value).unwrap().timestamp.ms()).collect()
    };
    let now = NOW.ms();
    assert_eq!(times(Topic::UserEvents), [now, now - minute, now - minute]);
    assert_eq!(times(Topic::Imports), [wall - minute]);
}

#[tokio::test]
async fn no_address_reaches_the_log_or_the_answer() {
    let house = House::new();
    let planted = "bob@mail.com";
    let good = json!({
        "event_id": planted, "event_type": planted, "user_id": planted, "anonymous_id": planted,
        "session_id": "x 203.0.113.7", "timestamp": 1, "country": planted,
        "properties": {"url": "https://x.example/?e=bob%40mail.com", planted: ["2001:db8::7"], "raw": "bob\\u0040mail.com"},
        "x bob@mail.com": {"a": planted},
    });
    let bad = json!({"event_id": planted, "event_type": planted, "user_id": planted, "timestamp": planted, "country": planted, "properties": {planted: "203.0.113.7"}});
    let escaped = bad.to_string().replace('@', "\\u0040");
    let lines = format!(
        "{good}\n{bad}\n{escaped}\n{{\"x\":\"bob\\u0040mail.com\nbob%40mail.com 2001:db8::7\n"
    );
    let (status, answer) = house.post(NDJSON, lines).await;
    assert_eq!(status, 200);
    assert_eq!((answer["accepted"].as_u64(), answer["rejected"].as_u64()), (Some(1), Some(4)));
    let dump = format!("{answer}{}", String::from_utf8_lossy(&house.all_bytes()));
    for planted in ["bob", "mail.com", "203.0.113", "db8"] {
        assert!(!dump.contains(planted), "{planted} in {dump}");
    }
    // The same address is the same user, dead or alive.
    let events = house.records(Topic::ContentViews).len() + house.records(Topic::UserEvents).len();
    assert_eq!(events, 1);
    let records = house.records(Topic::UserEvents);
    let letters = house.records(Topic::DeadLetters);
    let user = avro::decode(&records[0].1).unwrap().user_id.unwrap().to_owned();
    assert_eq!(user, house.gateway.masker().text(planted));
    let named = letters.iter().filter(|(partition, value)| {
        DeadLetter::decode(value).unwrap().user_key == Some(&user) && *partition == records[0].0
    });
    assert_eq!(named.count(), 2);
}

#[tokio::test]
async fn versions_reach_the_log_as_sent_and_what_was_masked_is_counted_by_field() {
    let house = House::new();
    let mut sent = event("1");
    sent["app_version"] = json!("5.2.0.1");
    sent["properties"] = json!({
        "sdk": {"version": "1.2.3.4"}, "class": "Feed::Add", "remote": "git@github.com:x/y",
        "page": "https://x.example/?e=bob%40mail.com", "sources": ["::1", "10.0.0.1"],
        "bob@mail.com": "local@tbird-admin1",
    });
    let bad = json!({"user_id": "bob@mail.com"});
    let (status, _) = house.post(NDJSON, format!("{sent}\n{bad}")).await;
    assert_eq!(status, 200);
    let records = house.records(Topic::UserEvents);
    let kept = avro::decode(&records[0].1).unwrap();
    assert_eq!(kept.app_version, Some("5.2.0.1"));
    let properties: Value = serde_json::from_str(kept.properties.unwrap()).unwrap();
    assert_eq!(properties["sdk"], sent["properties"]["sdk"]);
    assert_eq!(properties["class"], "Feed::Add");
    assert_eq!(properties["remote"], "git@github.com:x/y");
    let counts = house.gateway.masked_fields();
    let expected = [
        ("dead letter", 1),
        ("properties.(masked name)", 1),
        ("properties.page", 1),
        ("properties.sources", 2),
    ];
    let expected = expected.map(|(field, count)| (field.to_owned(), count));
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_replayed_letter_is_the_event_once_mended() {
    let house = House::new();
    let mut bad = event("x");
    bad.as_object_mut().unwrap().remove("event_id");
    bad["country"] = json!(7);
    house.post(JSON, bad.to_string()).await;
    let letters = house.records(Topic::DeadLetters);
    let letter = DeadLetter::decode(&letters[0].1).unwrap();
    let again = Replay {
        event: letter.body,
        source: letter.source,
        event_id: "dlq-1-0",
        received_at: letter.received_at,
        sent_at: letter.sent_at,
        key: letter.key,
        key_source: letter.key_source,
    };
    let answer = house.gateway.replay(again).await.unwrap();
    assert_eq!(
        (answer.accepted, answer.rejected, answer.errors[0].code),
        (0, 1, "schema_violation")
    );
    assert_eq!(house.records(Topic::DeadLetters).len(), 1);
    let mended = letter.body.replace('7', "\"DE\"");
    for _ in 0..2 {
        let answer = house.gateway.replay(Replay { event: &mended, ..again }).await.unwrap();
        assert_eq!((answer.accepted, answer.rejected), (1, 0));
    }
    let records = house.records(Topic::UserEvents);
    let ids: Vec<_> =
        records.iter().map(|(_, value)| avro::decode(value).unwrap().event_id).collect();
    assert_eq!(ids, ["dlq-1-0", "dlq-1-0"]);
}

#[tokio::test]
async fn a_record_a_letter_and_its_replay_name_the_key_that_sent_them_and_its_source() {
    let house = House::new();
    let key = house.keys.authenticate(&house.narrow).unwrap();
    let sender = (Some(key.key_id.as_str()), Some("shop"));
    let mut bad = event("2");
    bad["event_type"] = json!("purchase");
    let body = format!("[{},{bad}]", event("1"));
    let request = Request::post(format!("/v1/events?write_key={}", house.narrow));
    house.send(request.body(body.into()).unwrap()).await;
    let records = house.records(Topic::UserEvents);
    let sent = avro::decode(&records[0].1).unwrap();
    assert_eq!((sent.key, sent.source), sender);
    let letters = house.records(Topic::DeadLetters);
    let letter = DeadLetter::decode(&letters[0].1).unwrap();
    assert_eq!((letter.key, letter.key_source), sender);
    let &DeadLetter { received_at, sent_at, key, key_source, source, body, .. } = &letter;
    let (event, event_id) = (body, "2");
    let replay = Replay { event, source, event_id, received_at, sent_at, key, key_source };
    assert_eq!(house.gateway.replay(replay).await.unwrap().accepted, 1);
    let records = house.records(Topic::UserEvents);
    let sent = records.iter().map(|(_, value)| avro::decode(value).unwrap());
    let sent: Vec<_> = sent.filter(|event| (event.key, event.source) == sender).collect();
    assert_eq!(sent.len(), 2);
}

#[tokio::test]
async fn a_replayed_letter_is_judged_by_what_its_envelope_said() {
    let house = House::new();
    let ahead = 3_600_000;
    let said_ms = NOW.ms() + ahead - 60_000;
    let (mut good, mut bad) = (event("good"), event("bad"));
    good["timestamp"] = json!(said_ms);
    bad["timestamp"] = json!(said_ms + 1_000);
    bad["country"] = json!(7);
    let envelope = json!({ "sent_at": NOW.ms() + ahead, "events": [good, bad] });
    house.post(JSON, envelope.to_string()).await;
    let letters = house.records(Topic::DeadLetters);
    let letter = DeadLetter::decode(&letters[0].1).unwrap();
    let mended = letter.body.replace(":7", ":\"DE\"");
    let (source, event_id) = (letter.source, "dlq-1-0");
    let &DeadLetter { received_at, sent_at, key, key_source, .. } = &letter;
    let replay = Replay { event: &mended, source, event_id, received_at, sent_at, key, key_source };
    assert_eq!(house.gateway.replay(replay).await.unwrap().accepted, 1);
    let records = house.records(Topic::UserEvents);
    let times: Vec<i64> =
        records.iter().map(|(_, value)| avro::decode(value).unwrap().timestamp.ms()).collect();
    assert_eq!(times, [NOW.ms() - 60_000, NOW.ms() - 59_000], "in the order that the client saw");
}

#[tokio::test]
async fn a_slow_body_is_given_up_and_memory_comes_back() {
    let settings = GatewaySettings { buffer_bytes_max: 4_096, ..Default::default() };
    let house = House::with(settings, &QuotaSettings::default());
    for _ in 0..3 {
        let slow = BodyTimeout { after: Duration::from_millis(1_500) };
        let pieces = [Ok("[".repeat(3_000)), Err(slow)];
        let slow = Body::from_stream(futures_util::stream::iter(pieces));
        let (status, _, answer) = house.send(house.request(JSON, slow)).await;
        assert_eq!((status.as_u16(), answer["code"].as_str()), (408, Some("body_timeout")));
        assert!(answer["detail"].as_str().unwrap().contains("body_timeout_ms = 1500"), "{answer}");
    }
    let cut: Vec<Result<bytes::Bytes, std::io::Error>> =
        vec![Ok("[".into()), Err(std::io::Error::other("reset"))];
    let cut = Body::from_stream(futures_util::stream::iter(cut));
    let (status, _, answer) = house.send(house.request(JSON, cut)).await;
    assert_eq!((status.as_u16(), answer["code"].as_str()), (400, Some("body_truncated")));
}

#[tokio::test]
async fn without_memory_for_bodies_the_answer_is_503() {
    let settings = GatewaySettings { buffer_bytes_max: 4_096, ..Default::default() };
    let house = House::with(settings, &QuotaSettings::default());
    let (status, headers, answer) = house.send(house.request(JSON, " ".repeat(5_000))).await;
    assert_eq!((status.as_u16(), answer["code"].as_str()), (503, Some("overloaded")));
    assert!(headers.contains_key("retry-after"));
    assert_eq!(house.post(JSON, event("1").to_string()).await.0, 200);
}
