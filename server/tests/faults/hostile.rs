//! Bad input of every kind over HTTP: right status, stable code, named field and limit.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use crate::house::{ADMIN_TOKEN, Answer, READ_TOKEN, Server, WRITE_KEY, event, events, now_ms};

/// A request that must be refused: method, path, token, content type, body; status, code, and
/// what the answer must say.
struct Case {
    method: Method,
    path: String,
    token: &'static str,
    content_type: &'static str,
    body: Vec<u8>,
    status: u16,
    code: &'static str,
    says: &'static [&'static str],
}

fn refused(
    method: Method,
    path: &str,
    token: &'static str,
    status: u16,
    code: &'static str,
) -> Case {
    let (path, content_type, body) = (path.to_owned(), "application/json", Vec::new());
    Case { method, path, token, content_type, body, status, code, says: &[] }
}

fn get(path: &str, status: u16, code: &'static str) -> Case {
    refused(Method::GET, path, READ_TOKEN, status, code)
}

fn post(
    path: &str,
    token: &'static str,
    body: impl Into<Vec<u8>>,
    status: u16,
    code: &'static str,
) -> Case {
    Case { body: body.into(), ..refused(Method::POST, path, token, status, code) }
}

impl Case {
    fn saying(self, says: &'static [&'static str]) -> Self {
        Self { says, ..self }
    }

    fn of_type(self, content_type: &'static str) -> Self {
        Self { content_type, ..self }
    }

    async fn check(self, server: &Server) -> Result<()> {
        let Self { method, path, token, content_type, body, .. } = self;
        // A connection of its own: after a refusal the server may close.
        let client = reqwest::Client::builder().pool_max_idle_per_host(0).build()?;
        let mut request = client.request(method.clone(), server.url(&path));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if method != Method::GET {
            request = request.header("content-type", content_type).body(body.clone());
        }
        let what = format!(
            "{method} {} {}",
            &path[..path.len().min(120)],
            String::from_utf8_lossy(&body[..body.len().min(80)])
        );
        let answer = Answer::of(request.send().await?).await?;
        is_problem(&answer, self.status, self.code).with_context(|| what.clone())?;
        for says in self.says {
            ensure!(answer.text.contains(says), "{what}: does not say {says}: {answer:?}");
        }
        Ok(())
    }
}

/// RFC 9457, whole, with the code.
fn is_problem(answer: &Answer, status: u16, code: &str) -> Result<()> {
    let problem = answer.json();
    ensure!(
        answer.status == status && problem["code"] == code,
        "expected {status} {code}: {answer:?}"
    );
    let content_type = answer.headers.get("content-type").context("no content type")?;
    ensure!(content_type == "application/problem+json", "{answer:?}");
    ensure!(problem["status"] == status, "{answer:?}");
    for member in ["type", "title", "detail"] {
        ensure!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{answer:?}");
    }
    if status == 429 || status == 503 {
        ensure!(answer.headers.contains_key("retry-after"), "{answer:?}");
    }
    Ok(())
}

fn ingest_cases() -> Vec<Case> {
    let good = event(1).to_string();
    let path = "/v1/events";
    let many = serde_json::to_vec(&events(0..51)).unwrap_or_default();
    vec![
        post(path, "", good.clone(), 401, "unauthorized"),
        post(path, "no-such-key", good.clone(), 401, "unauthorized"),
        post(path, READ_TOKEN, good.clone(), 403, "forbidden"),
        post(path, WRITE_KEY, good.clone(), 415, "unsupported_content_type").of_type("text/csv"),
        post(path, WRITE_KEY, "", 400, "body_empty"),
        post(path, WRITE_KEY, "hello", 400, "body_not_json"),
        post(path, WRITE_KEY, "{\"events\":", 400, "body_not_json"),
        post(path, WRITE_KEY, "[".repeat(90_000), 400, "body_not_json"),
        post(path, WRITE_KEY, many, 413, "batch_too_large").saying(&["batch_events_max", "50"]),
        post(path, WRITE_KEY, "x".repeat(100_001), 413, "batch_too_large")
            .saying(&["body_bytes_max", "100000"]),
        post("/v1/imports/a%00b/events", WRITE_KEY, good.clone(), 400, "import_name_invalid"),
        post("/v1/imports/%ff/events", WRITE_KEY, good.clone(), 400, "import_name_invalid"),
        post(
            &format!("/v1/imports/{}/events", "n".repeat(200)),
            WRITE_KEY,
            good,
            400,
            "import_name_invalid",
        )
        .saying(&["128"]),
        refused(Method::PUT, path, WRITE_KEY, 405, "method_not_allowed"),
        refused(Method::GET, path, WRITE_KEY, 405, "method_not_allowed"),
    ]
}

fn reading_cases() -> Vec<Case> {
    let query = |parameters: &str| format!("/v1/query?{parameters}");
    let long_filter = format!("metrics=events&filter=country:{}", "x,".repeat(20_000));
    let nested = format!("{{\"metrics\":{}", "[".repeat(50_000));
    vec![
        refused(Method::GET, "/v1/query?metrics=events", "", 401, "unauthorized"),
        refused(Method::GET, "/v1/query?metrics=events", WRITE_KEY, 403, "forbidden"),
        get("/v1/nope", 404, "not_found"),
        get("/nope/../../etc/passwd", 404, "not_found"),
        get("/subjects", 404, "not_found"),
        refused(Method::DELETE, "/", READ_TOKEN, 405, "method_not_allowed"),
        refused(Method::PATCH, "/v1/query", READ_TOKEN, 405, "method_not_allowed"),
        post("/v1/sql", READ_TOKEN, "{\"sql\":\"DROP TABLE events\"}", 404, "not_found"),
        get(&query(""), 400, "bad_parameter").saying(&["metrics"]),
        get(&query("metrics=events;DROP%20TABLE%20x"), 400, "unknown_metric").saying(&["metrics"]),
        get(&query("metrics=event"), 400, "unknown_metric").saying(&["did you mean", "events"]),
        get(&query("metrics=events&group_by=nope"), 400, "unknown_dimension").saying(&["group_by"]),
        get(&query("metrics=events&filter=country"), 400, "bad_parameter").saying(&["filter"]),
        get(&query("metrics=events&filter=nope:x"), 400, "unknown_dimension").saying(&["filter"]),
        get(&query(&long_filter), 400, "bad_parameter").saying(&["filter", "1000"]),
        get(&query("metrics=events&colour=red"), 400, "unknown_parameter").saying(&["colour"]),
        get(&query("metrics=events&from=yesterday"), 400, "bad_parameter").saying(&["from"]),
        get(&query("metrics=events&from=99999999999999999999"), 400, "bad_parameter"),
        get(&query("metrics=events&last=-5h"), 400, "bad_parameter").saying(&["last"]),
        get(&query("metrics=events&last=99999999999999999999h"), 400, "bad_parameter"),
        get(&query("metrics=events&limit=0"), 400, "bad_parameter").saying(&["limit", "100000"]),
        get(&query("metrics=events&limit=1e30"), 400, "bad_parameter").saying(&["limit"]),
        get(&query("metrics=events&granularity=3m"), 400, "bad_parameter").saying(&["granularity"]),
        get(&query("metrics=%ff"), 400, "unknown_metric"),
        get(&query("metrics=events&metrics=events&limit=1&limit=2"), 400, "bad_parameter"),
        post("/v1/query", READ_TOKEN, "", 400, "bad_json"),
        post("/v1/query", READ_TOKEN, nested, 400, "bad_json"),
        post("/v1/query", READ_TOKEN, "[]", 400, "bad_parameter"),
        post("/v1/query", READ_TOKEN, "{\"metrics\":7}", 400, "bad_parameter").saying(&["metrics"]),
        post("/v1/query", READ_TOKEN, "x".repeat(2 << 20), 413, "body_too_large"),
        get("/v1/events/none/trace", 404, "not_found"),
        get("/v1/events/%00%0a/trace", 404, "not_found"),
        get("/v1/events/tail?after=%27%20OR%201=1", 400, "bad_cursor").saying(&["after"]),
        get("/v1/dead-letters?before=x", 400, "bad_cursor").saying(&["before"]),
        get("/v1/dead-letters?limit=100000000", 400, "bad_parameter").saying(&["limit"]),
        post("/v1/dead-letters/replay", READ_TOKEN, "{\"id\":\"0-0\"}", 403, "forbidden"),
        post("/v1/dead-letters/replay", ADMIN_TOKEN, "{}", 400, "bad_replay"),
        post("/v1/dead-letters/replay", ADMIN_TOKEN, "{\"id\":\"9-99999999\"}", 404, "not_found"),
        post("/v1/session", "", "{\"code\":\"nope\"}", 401, "code_unknown"),
    ]
}

fn table_cases() -> Vec<Case> {
    let put = |path: &str, token, body: &str, status, code| Case {
        method: Method::PUT,
        ..post(path, token, body, status, code).of_type("text/csv")
    };
    let csv = "user_id,cohort\nu-1,a\n";
    vec![
        put("/v1/dimensions/users", READ_TOKEN, csv, 403, "forbidden"),
        put("/v1/dimensions/nope", ADMIN_TOKEN, csv, 404, "not_found"),
        put("/v1/dimensions/..%2f..%2fetc", ADMIN_TOKEN, csv, 404, "not_found"),
        put("/v1/dimensions/users", ADMIN_TOKEN, csv, 415, "unsupported_media_type")
            .of_type("application/xml"),
        put("/v1/dimensions/users", ADMIN_TOKEN, "user_id,a\nu,1\nu,2\n", 400, "table_invalid")
            .saying(&["row 2"]),
        put("/v1/dimensions/users", ADMIN_TOKEN, "{\"user_id\":7.5}", 400, "table_invalid")
            .of_type("application/x-ndjson"),
    ]
}

/// Events that are rejected one by one: the body, the code and what the message must name.
fn rejected_events() -> Vec<(Vec<u8>, &'static str, &'static [&'static str])> {
    let with = |name: &str, value: Value| {
        let mut event = event(7);
        event[name] = value;
        event.to_string().into_bytes()
    };
    let raw = |more: &str| {
        format!("{{\"event_type\":\"click\",\"user_id\":\"u\",\"timestamp\":{}{more}}}", now_ms())
            .into_bytes()
    };
    let deep = format!(",\"properties\":{{\"a\":{}1{}}}", "[".repeat(40), "]".repeat(40));
    let deeper = format!(",\"properties\":{{\"a\":{}1{}}}", "[".repeat(20_000), "]".repeat(20_000));
    let many: serde_json::Map<String, Value> =
        (0..300).map(|n| (format!("p{n}"), n.into())).collect();
    let texts = vec![Value::from("y".repeat(8_000)); 9];
    let mut not_utf8 = raw(",\"country\":\"XX\"");
    let at = not_utf8.len() - 4;
    not_utf8[at] = 0xff;
    vec![
        (raw(&deep), "event_too_deep", &["depth_max", "32"]),
        (raw(&deeper), "event_too_deep", &["depth_max", "32"]),
        (
            with("country", "x".repeat(9_000).into()),
            "string_too_long",
            &["field country", "string_bytes_max", "8192"],
        ),
        (with("properties", Value::Object(many)), "too_many_properties", &["256"]),
        (
            with("properties", json!({ "a": texts })),
            "event_too_large",
            &["event_bytes_max", "65536"],
        ),
        (raw(",\"country\":\"\\ud800\""), "schema_violation", &["surrogate"]),
        (
            with("timestamp", json!(9_223_372_036_854_775_808_u64)),
            "schema_violation",
            &["timestamp"],
        ),
        (with("timestamp", "soon".into()), "schema_violation", &["timestamp"]),
        (with("timestamp", Value::Null), "schema_violation", &["timestamp"]),
        (with("country", 7.into()), "schema_violation", &["country", "7"]),
        (
            with("session_duration_sec", "long".into()),
            "schema_violation",
            &["session_duration_sec"],
        ),
        (raw(",\"session_duration_sec\":1e999"), "schema_violation", &["session_duration_sec"]),
        (with("completed", "yes".into()), "schema_violation", &["completed"]),
        (with("user_id", Value::Null), "schema_violation", &["user_id"]),
        (with("event_type", "".into()), "schema_violation", &["event_type"]),
        (raw(",\"country\":\"DE\",\"country\":\"US\""), "schema_violation", &["country", "twice"]),
        (not_utf8, "invalid_utf8", &["UTF-8"]),
        (b"[7]".to_vec(), "schema_violation", &["object"]),
    ]
}

/// Catches: a bad event that is lost, that takes others with it, or that is not named.
async fn bad_events_are_named_and_nothing_behind_them_waits(server: &Server) -> Result<u64> {
    let mut rejected = 0;
    for (body, code, names) in rejected_events() {
        let shown = String::from_utf8_lossy(&body[..body.len().min(150)]).into_owned();
        let answer = server.send("application/json", body).await?;
        let json = answer.json();
        ensure!(answer.status == 200 && json["rejected"] == 1, "{shown}: {answer:?}");
        let error = &json["errors"][0];
        ensure!(error["index"] == 0 && error["code"] == code, "{shown}: {code}, not {error}");
        for name in names {
            let message = error["message"].as_str().unwrap_or("");
            ensure!(message.contains(name), "{shown}: {name} is not named: {error}");
        }
        rejected += 1;
    }
    // NUL is a character like any other.
    let mut with_nul = event(8);
    with_nul["channel"] = "a\u{0}b".into();
    server.deliver(&[with_nul], Duration::from_secs(5)).await?;
    let lines = format!("{}\n{{broken\n\n{}\nnull\n", event(9), event(10));
    let answer = server.send("application/x-ndjson", lines).await?;
    let json = answer.json();
    ensure!(json["accepted"] == 2 && json["rejected"] == 2, "{answer:?}");
    rejected += 2;
    Ok(rejected)
}

/// 64 MB of nothing inside a JSON text.
fn bomb() -> Vec<u8> {
    let mut body = b"[{\"event_type\":\"".to_vec();
    body.resize(64 << 20, b'a');
    body
}

/// Catches: a bomb that is inflated before it is counted, or by whoever has no key.
async fn bombs_are_stopped_at_the_limit(server: &Server) -> Result<()> {
    let plain = bomb();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&plain)?;
    let mut brotli = Vec::new();
    let parameters = brotli::enc::BrotliEncoderParams { quality: 3, ..Default::default() };
    brotli::BrotliCompress(&mut plain.as_slice(), &mut brotli, &parameters)?;
    let bombs = [
        ("gzip", gzip.finish()?),
        ("zstd", zstd::encode_all(plain.as_slice(), 3)?),
        ("br", brotli),
    ];
    drop(plain);
    for (encoding, bomb) in &bombs {
        ensure!(bomb.len() < 100_000, "{encoding}: {} bytes", bomb.len());
        let mut thrown = tokio::task::JoinSet::new();
        for _ in 0..12 {
            thrown.spawn(throw(encoded(server, encoding, bomb.clone())));
        }
        while let Some(answer) = thrown.join_next().await {
            let answer = answer??;
            is_problem(&answer, 413, "batch_too_large").context(*encoding)?;
            let limit = answer.json()["limit"].as_str().unwrap_or("").to_owned();
            ensure!(
                ["inflate_ratio_max", "inflated_bytes_max"].contains(&limit.as_str()),
                "{answer:?}"
            );
        }
        // Cut short, and nothing but the beginning.
        for wire in [&bomb[..bomb.len() / 2], &bomb[..3], b"hello"] {
            let answer = throw(encoded(server, encoding, wire.to_vec())).await?;
            let cut = answer.status == 400 && answer.json()["code"] == "body_corrupt";
            ensure!(cut || answer.status == 413, "{encoding}: {answer:?}");
        }
    }
    let answer = throw(encoded(server, "lzma", b"x".to_vec())).await?;
    is_problem(&answer, 415, "unsupported_content_encoding")
}

fn encoded(server: &Server, encoding: &str, body: Vec<u8>) -> reqwest::RequestBuilder {
    server
        .client
        .post(server.url("/v1/events"))
        .bearer_auth(WRITE_KEY)
        .header("content-type", "application/json")
        .header("content-encoding", encoding)
        .body(body)
}

/// Sends a body as a patient client does: while the buffers for bodies are full, which bombs at
/// work on a slow machine may bring about, it waits and tries again.
async fn throw(request: reqwest::RequestBuilder) -> Result<Answer> {
    for _ in 0..30 {
        let request = request.try_clone().context("a body that can be sent again")?;
        let answer = Answer::of(request.send().await?).await?;
        if answer.status != 503 {
            return Ok(answer);
        }
        is_problem(&answer, 503, "overloaded")?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    anyhow::bail!("the buffers for bodies stay full")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_gets_the_right_status_code_field_and_limit_in_bounded_memory() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = [
        ("NILOMETER_GATEWAY__BODY_BYTES_MAX", "100000"),
        ("NILOMETER_GATEWAY__BATCH_EVENTS_MAX", "50"),
    ];
    let mut server = Server::start(&folder.path().join("data"), &settings).await?;
    let cases = ingest_cases().into_iter().chain(reading_cases()).chain(table_cases());
    let mut failed = Vec::new();
    for case in cases {
        if let Err(error) = case.check(&server).await {
            failed.push(format!("{error:#}"));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    // A filter is a value, whatever it says.
    let literal = "/v1/query?metrics=events&last=1h&granularity=total\
                   &filter=country:%27%20OR%201=1%20--";
    ensure!(server.read(literal).await?["rows"].as_array().is_some_and(Vec::is_empty));
    let rejected = bad_events_are_named_and_nothing_behind_them_waits(&server).await?;
    bombs_are_stopped_at_the_limit(&server).await?;
    ensure!(server.is_alive()?, "the server ended: {}", server.log());
    ensure!(!server.log().contains("panicked"), "{}", server.log());
    let pipeline = server.at_rest().await?;
    ensure!(pipeline["totals"]["dead_lettered"] == rejected, "{rejected} rejected: {pipeline}");
    ensure!(pipeline["totals"]["unique"] == 3, "{pipeline}");
    let high_kib = server.memory_kib("VmHWM")?;
    ensure!(high_kib < 512 << 10, "{high_kib} KiB at the highest");
    Ok(())
}

/// Catches: a rate that is written down and not kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_rate_of_a_client_is_429_with_retry_after() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = [
        ("NILOMETER_LIMITS__EVENTS_PER_SECOND", "100"),
        ("NILOMETER_LIMITS__QUERIES_PER_SECOND", "5"),
        ("NILOMETER_LIMITS__CONNECTIONS_MAX", "20"),
    ];
    let server = Server::start(&folder.path().join("data"), &settings).await?;
    let mut accepted = 0;
    let refused = loop {
        let answer = server.send_events(&events(accepted..accepted + 50)).await?;
        if answer.status != 200 {
            break answer;
        }
        accepted += 50;
        ensure!(accepted < 2_000, "the rate is not kept");
    };
    is_problem(&refused, 429, "rate_limited")?;
    let mut refused = None;
    for _ in 0..50 {
        let answer = server.get("/v1/query?metrics=events").await?;
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }
    is_problem(&refused.context("the rate of queries is not kept")?, 429, "rate_limited")?;
    let mut connections = Vec::new();
    for _ in 0..40 {
        connections.push(tokio::net::TcpStream::connect(&server.address).await?);
    }
    // Which of them are refused is up to who is served first; the others are closed in silence
    // once their headers are overdue.
    let mut refusals = Vec::new();
    for mut connection in connections {
        let mut text = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut connection, &mut text).await?;
        if !text.is_empty() {
            refusals.push(text);
        }
    }
    ensure!(refusals.len() >= 20, "of 40 connections {} are refused", refusals.len());
    for text in refusals {
        ensure!(
            text.starts_with("HTTP/1.1 429") && text.contains("too_many_connections"),
            "{text}"
        );
        // No time helps: the others have to end.
        ensure!(text.contains("end one first") && !text.contains("etry"), "{text}");
        let (_, body) = text.split_once("\r\n\r\n").context("no body")?;
        let length = text.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        ensure!(length.is_some_and(|length| length.parse() == Ok(body.len())), "{text}");
    }
    // And after a while it goes on.
    server.deliver(&events(5_000..5_010), Duration::from_secs(10)).await
}
