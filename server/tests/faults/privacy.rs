//! N7: nothing that was planted is found again in any byte that stays or comes back.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use kafka_protocol::records::{Compression, RecordBatchDecoder};
use reqwest::{Method, RequestBuilder};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::house::{ADMIN_TOKEN, Answer, DIMENSIONS, Server, WRITE_KEY, files, now_ms};
use crate::viewer::Viewer;

/// Personal data of our own making: each place gets its own, so that a leak says where.
#[derive(Default)]
struct Planted {
    needles: Vec<(String, String)>,
    number: usize,
}

impl Planted {
    /// An email; what is looked for is its local part, so that an encoded rest hides nothing.
    fn email(&mut self, place: &str) -> String {
        self.number += 1;
        let local = format!("planted{}person", self.number);
        self.needles.push((local.clone(), format!("email in {place}")));
        format!("{local}@mail.example.com")
    }

    fn v4(&mut self, place: &str) -> String {
        self.number += 1;
        let (third, fourth) = (self.number / 100, 100 + self.number % 100);
        let address = format!("198.18.{third}.{fourth}");
        self.needles.push((address.clone(), format!("IPv4 in {place}")));
        self.needles.push((address.replace('.', "%2e"), format!("encoded IPv4 in {place}")));
        address
    }

    fn v6(&mut self, place: &str) -> String {
        self.number += 1;
        let address = format!("2001:db8:{:x}::{:x}", 0x1000 + self.number, 0xa000 + self.number);
        self.needles.push((address.clone(), format!("IPv6 in {place}")));
        self.needles.push((address.replace(':', "%3a"), format!("encoded IPv6 in {place}")));
        address
    }

    /// All three in one text.
    fn text(&mut self, place: &str) -> String {
        format!("<{}> from {} and [{}]", self.email(place), self.v4(place), self.v6(place))
    }

    /// Where anything planted is found in `bytes`.
    fn found_in(&self, bytes: &[u8]) -> Vec<&str> {
        let text: Vec<u8> = bytes.iter().map(u8::to_ascii_lowercase).collect();
        let found = self.needles.iter().filter(|(needle, _)| {
            memchr::memmem::find(&text, needle.to_ascii_lowercase().as_bytes()).is_some()
        });
        found.map(|(_, place)| place.as_str()).collect()
    }
}

/// Percent-encodes every byte that is no letter or digit.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Requests with plants in them, and everything that came back.
struct Visit<'a> {
    server: &'a Server,
    planted: Planted,
    answers: Vec<(String, Vec<u8>)>,
}

impl Visit<'_> {
    fn note(&mut self, what: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.answers.push((what.into(), bytes.into()));
    }

    async fn send(&mut self, what: &str, request: RequestBuilder) -> Result<Answer> {
        let answer = Answer::of(request.send().await?).await?;
        // The CORS header repeats the page's origin, which is no plant of ours.
        let headers = format!("{:?}", answer.headers);
        self.note(what, format!("{headers}\n{}", answer.text));
        Ok(answer)
    }

    fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        let request = self.server.client.post(self.server.url(path)).bearer_auth(WRITE_KEY);
        request.header("content-type", "application/x-ndjson").body(body)
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.server.client.request(method, self.server.url(path)).bearer_auth(ADMIN_TOKEN)
    }

    fn event(&mut self, place: &str) -> Value {
        json!({
            "event_id": self.planted.text(&format!("event_id, {place}")),
            "event_type": format!("click {}", self.planted.text("event_type")),
            "user_id": self.planted.email(&format!("user_id, {place}")),
            "anonymous_id": self.planted.v6("anonymous_id"),
            "service_name": self.planted.v4("service_name"),
            "session_id": self.planted.v4("session_id"),
            "timestamp": now_ms(),
            "country": self.planted.v4("country"),
            "device_type": self.planted.v6("device_type"),
            // Four numbers would be a version here.
            "app_version": self.planted.v6("app_version"),
            "content_id": self.planted.text("content_id"),
            "content_category": self.planted.email("content_category"),
            "subscription_tier": self.planted.email("subscription_tier"),
            "cohort": self.planted.email("cohort"),
            "channel": self.planted.v6("channel"),
            "properties": {
                "plain": self.planted.text("properties"),
                "in": { "deep": [ self.planted.text("nested properties"), { "x": [self.planted.v6("deep list")] } ] },
                "url": format!("https://x.example/?mail={}&ip={}", encoded(&self.planted.email("URL")),
                    encoded(&self.planted.v4("URL"))),
                "html": self.planted.email("HTML entity").replace('@', "&#64;"),
                "json": format!("{{\"mail\":\"{}\"}}", self.planted.email("JSON in a text").replace('@', "\\u0040")),
                "nested": format!("{{\\\"mail\\\":\\\"{}\\\"}}", self.planted.email("JSON in JSON").replace('@', "\\\\u0040")),
                "log": format!("Mozilla/5.0 (X11) GET https://shop.example/{} HTTP/1.1", self.planted.v4("log line")),
                "dump": format!("IP {}.51234 > 3.{}.443", self.planted.v4("dump"), self.planted.v4("dump")),
                "build": format!("built on {}", self.planted.v4("build")),
                "versions": [self.planted.v4("versions")],
                "peer": format!("{{\"m\":\"peer\\n{}\"}}", self.planted.v6("line in a text")),
                "wide": self.planted.email("wide at").replace('@', "\u{ff20}"),
                (self.planted.email("property name")): 1,
                (self.planted.v4("property name")): { (self.planted.v6("nested name")): true },
            },
        })
    }

    async fn events(&mut self) -> Result<()> {
        let whole = self.event("whole");
        let escaped = self.event("escaped").to_string().replace('@', "\\u0040");
        let anonymous = {
            let mut event = self.event("anonymous");
            event["user_id"] = Value::Null;
            event
        };
        let mut body = format!("{whole}\n{escaped}\n{anonymous}\n");
        // Rejected ones: of a wrong type, broken, cut, no object.
        let mut wrong = self.event("wrong type");
        wrong["country"] = json!([self.planted.text("wrong type")]);
        wrong[self.planted.email("unknown field")] = "x".into();
        body += &format!("{wrong}\n");
        let broken = self.event("broken line").to_string();
        body += &format!("{}\n", &broken[..broken.len() - 20]);
        body += &format!("\"{}\"\n", self.planted.text("a text for an event"));
        body += &format!("{{{}\n", self.planted.text("garbage line"));
        let mut late = self.event("bad time");
        late["timestamp"] = self.planted.email("timestamp").into();
        body += &format!("{late}\n");
        let mut body = body.into_bytes();
        body.extend(b"{\"user_id\":\"\xff");
        body.extend(self.planted.text("invalid UTF-8").into_bytes());
        body.extend(b"\"}\n");
        let answer = self.send("events", self.post("/v1/events", body)).await?;
        ensure!(answer.json()["accepted"] == 3 && answer.json()["rejected"] == 6, "{answer:?}");

        let body = self.planted.text("a body that is no JSON");
        let request = self.post("/v1/events", body).header("content-type", "application/json");
        drop(self.send("no JSON", request).await?);
        let name = encoded(&self.planted.email("import name"));
        let body = self.event("import").to_string();
        let answer =
            self.send("import", self.post(&format!("/v1/imports/{name}/events"), body)).await?;
        ensure!(answer.status == 200, "{answer:?}");
        let body =
            format!("{{\"timestamp\":1,\"mail\":\"{}\"}}", self.planted.email("import, rejected"));
        drop(self.send("import", self.post(&format!("/v1/imports/{name}/events"), body)).await?);
        let bad_name =
            format!("/v1/imports/a%00{}/events", encoded(&self.planted.email("bad import name")));
        drop(self.send("bad import", self.post(&bad_name, "{}")).await?);
        let event = json!({"event_type": "beacon", "user_id": "b", "timestamp": now_ms()});
        let path = format!(
            "/v1/events?write_key={WRITE_KEY}&{}={}",
            encoded(&self.planted.email("query name")),
            encoded(&self.planted.text("query value"))
        );
        let request = self.server.client.post(self.server.url(&path)).body(event.to_string());
        let answer = self.send("beacon", request.header("content-type", "text/plain")).await?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    }

    async fn headers(&mut self) -> Result<()> {
        for name in [
            "user-agent",
            "referer",
            "x-forwarded-for",
            "x-real-ip",
            "forwarded",
            "from",
            "cookie",
            "x-anything",
            "accept-language",
            "if-none-match",
        ] {
            let value = format!("{}, {}", self.planted.text(name), self.planted.v4(name));
            let body =
                json!({"event_type": "h", "user_id": "h", "timestamp": now_ms()}).to_string();
            let request = self.post("/v1/events", body).header(name, &value);
            drop(self.send(name, request).await?);
            let request = self.ask(Method::GET, "/v1/snapshot?metrics=events").header(name, &value);
            drop(self.send(name, request).await?);
        }
        let token = self.planted.email("bearer");
        let request = self.server.client.get(self.server.url("/v1/query")).bearer_auth(token);
        drop(self.send("bearer", request).await?);
        for (header, value) in [
            ("content-type", self.planted.email("content type")),
            ("content-encoding", self.planted.v4("content encoding")),
        ] {
            let request = self.server.client.post(self.server.url("/v1/events"));
            let request = request.bearer_auth(WRITE_KEY).header(header, value).body("{}");
            drop(self.send(header, request).await?);
        }
        Ok(())
    }

    async fn reading(&mut self) -> Result<()> {
        let mut paths = Vec::new();
        for parameter in [
            "metrics",
            "group_by",
            "filter",
            "from",
            "to",
            "last",
            "granularity",
            "window",
            "compare",
            "order_by",
            "limit",
            "unknown",
        ] {
            let value = encoded(&self.planted.text(parameter));
            paths.push(format!("/v1/query?metrics=events&{parameter}={value}"));
            let value = encoded(&self.planted.email(parameter));
            paths.push(format!("/v1/snapshot?{parameter}={value}"));
        }
        let name = encoded(&self.planted.email("parameter name"));
        paths.push(format!("/v1/query?metrics=events&{name}=1"));
        for path in [
            "/v1/query?metrics=events&filter=country:{}",
            "/v1/query?metrics=events&filter={}:x",
            "/v1/events/tail?filter=user_key:{}",
            "/v1/events/tail?filter={}:x",
            "/v1/events/tail?after={}",
            "/v1/dead-letters?user_key={}",
            "/v1/dead-letters?before={}",
            "/v1/dead-letters?code={}",
            "/v1/dead-letters?source=imports/{}",
            "/v1/events/{}/trace",
            "/v1/{}",
            "/{}",
            "/v1/dimensions/{}",
            "/v1/query/{}",
            "/metrics?{}",
        ] {
            let planted = encoded(&self.planted.text(path));
            paths.push(path.replace("{}", &planted));
            let planted = encoded(&self.planted.v4(path));
            paths.push(path.replace("{}", &planted));
        }
        for path in paths {
            drop(self.send("GET", self.ask(Method::GET, &path)).await?);
            drop(self.send("DELETE", self.ask(Method::DELETE, &path)).await?);
        }
        let bodies = [
            ("/v1/query", json!({"metrics": [self.planted.email("POST metrics")]})),
            (
                "/v1/query",
                json!({"metrics": "events", "filter": {"country": self.planted.v4("POST filter")}}),
            ),
            ("/v1/query", json!({"metrics": "events", (self.planted.email("POST name")): 1})),
            ("/v1/query", json!(self.planted.text("POST text"))),
            ("/v1/dead-letters/replay", json!({"id": self.planted.email("replay id")})),
            ("/v1/dead-letters/replay", json!({(self.planted.email("replay name")): 1})),
            ("/v1/session", json!({"code": self.planted.email("code")})),
            ("/v1/session", json!({(self.planted.v4("session name")): 1})),
        ];
        for (path, body) in bodies {
            drop(self.send(path, self.ask(Method::POST, path).json(&body)).await?);
        }
        let garbage = self.planted.text("POST garbage");
        drop(self.send("garbage", self.ask(Method::POST, "/v1/query").body(garbage)).await?);
        Ok(())
    }

    async fn websocket(&mut self) -> Result<()> {
        let mut viewer = Viewer::open(self.server, None).await?;
        let messages = [
            self.planted.text("message"),
            json!({"type": self.planted.email("message type")}).to_string(),
            json!({"type": "auth", "token": self.planted.email("auth")}).to_string(),
            json!({"type": "unsubscribe", "id": self.planted.email("unsubscribe id")}).to_string(),
            json!({"type": "subscribe", "id": self.planted.v4("subscribe id"), "query": {"metrics": "events"}}).to_string(),
            json!({"type": "subscribe", "id": "a", "query": {"metrics": self.planted.email("subscribed metric")}}).to_string(),
            json!({"type": "subscribe", "id": "a", "query": {"metrics": "events", (self.planted.email("subscribed name")): 1}}).to_string(),
            json!({"type": "subscribe", "id": "a", "query": {"metrics": "events", "filter": {(self.planted.email("filter name")): "x"}}}).to_string(),
            json!({"type": "subscribe", "id": "a", "query": {"metrics": "events", "filter": {"cohort": self.planted.email("subscribed filter")}}}).to_string(),
        ];
        for message in messages {
            viewer.say(Message::text(message)).await?;
            let said = viewer.hear().await?;
            self.note("websocket", said.to_string());
        }
        Ok(())
    }

    async fn put(&mut self, table: &str, csv: String) -> Result<Answer> {
        let request = self.ask(Method::PUT, &format!("/v1/dimensions/{table}"));
        self.send(table, request.header("content-type", "text/csv").body(csv)).await
    }

    /// Tables by keys that are masked in events; gives the user that the table knows.
    async fn tables(&mut self) -> Result<String> {
        let user = self.planted.email("table key");
        let csv = format!(
            "user_id,cohort,note\n{user},known,{}\n{},other,x\n",
            self.planted.text("table value").replace(',', " "),
            self.planted.v4("table key")
        );
        let answer = self.put("users", csv).await?;
        ensure!(answer.status == 200, "{answer:?}");
        let csv = format!(
            "content_id,category\n{},{}\n",
            self.planted.v6("content key"),
            self.planted.email("category")
        );
        let answer = self.put("content", csv).await?;
        ensure!(answer.status == 200, "{answer:?}");
        let twice = self.planted.email("repeated key");
        let csv = format!("user_id,{}\n{twice},a\n{twice},b\n", self.planted.email("column"));
        let answer = self.put("services", csv).await?;
        ensure!(answer.status == 400, "{answer:?}");
        let csv = format!("service_name,{}\ns,a\n", self.planted.email("column"));
        drop(self.put("services", csv).await?);
        drop(self.send("table", self.ask(Method::GET, "/v1/dimensions/services")).await?);
        Ok(user)
    }
}

/// What is masked in the log is found by whoever asks for it in clear.
async fn masked_data_is_still_found(visit: &mut Visit<'_>, user: &str) -> Result<()> {
    let id = visit.planted.email("traced id");
    let event =
        json!({"event_id": id, "event_type": "seen", "user_id": user, "timestamp": now_ms()});
    let answer = visit.send("event", visit.post("/v1/events", event.to_string())).await?;
    ensure!(answer.json()["accepted"] == 1, "{answer:?}");
    visit.server.at_rest().await?;
    let path = format!("/v1/events/{}/trace", encoded(&id));
    let answer = visit.send("trace", visit.ask(Method::GET, &path)).await?;
    ensure!(
        answer.status == 200 && answer.json()["events"][0]["event_type"] == "seen",
        "{answer:?}"
    );
    let path = format!("/v1/events/tail?filter=user_key:{}", encoded(user));
    let answer = visit.send("tail", visit.ask(Method::GET, &path)).await?;
    ensure!(answer.json()["events"][0]["event_type"] == "seen", "{answer:?}");
    // The table's key was masked as the event's user was.
    let path = "/v1/query?metrics=events&filter=cohort:known&last=1h&granularity=total";
    let answer = visit.send("enriched", visit.ask(Method::GET, path)).await?;
    ensure!(answer.json()["rows"][0]["events"] == 1, "{answer:?}");
    // An event of an email as cohort is found by the email.
    let cohort = visit.planted.email("filtered cohort");
    let event = json!({"event_type": "c", "user_id": "c", "timestamp": now_ms(), "cohort": cohort});
    drop(visit.send("event", visit.post("/v1/events", event.to_string())).await?);
    visit.server.at_rest().await?;
    let path = format!(
        "/v1/query?metrics=events&filter=cohort:{}&last=1h&granularity=total",
        encoded(&cohort)
    );
    let answer = visit.send("filter", visit.ask(Method::GET, &path)).await?;
    ensure!(answer.json()["rows"][0]["events"] == 1, "{answer:?}");
    Ok(())
}

/// Everything that can be read out again.
async fn answers_that_show_events(visit: &mut Visit<'_>) -> Result<()> {
    for dimension in DIMENSIONS {
        let path = format!("/v1/query?metrics=events,unique_users&group_by={dimension}&last=7d");
        let answer = visit.send(dimension, visit.ask(Method::GET, &path)).await?;
        ensure!(answer.status == 200, "{answer:?}");
    }
    for path in [
        "/v1/events/tail?limit=200",
        "/v1/dead-letters",
        "/v1/catalog",
        "/v1/pipeline",
        "/metrics",
        "/openapi.json",
        "/v1/dimensions/users",
        "/v1/dimensions/content",
    ] {
        let answer = visit.send(path, visit.ask(Method::GET, path)).await?;
        ensure!(answer.status == 200, "{path}: {answer:?}");
    }
    let letters = visit.server.read("/v1/dead-letters").await?;
    let letters = letters["letters"].as_array().context("no letters")?;
    ensure!(letters.len() >= 7, "{letters:?}");
    for letter in letters.clone() {
        let request = visit.ask(Method::POST, "/v1/dead-letters/replay");
        let event = json!({"event_type": visit.planted.email("mended event"), "timestamp": 1});
        let request = request.json(&json!({"id": letter["id"], "event": event}));
        drop(visit.send("replay", request).await?);
        let request = visit.ask(Method::POST, "/v1/dead-letters/replay");
        drop(visit.send("replay", request.json(&json!({"id": letter["id"]}))).await?);
    }
    Ok(())
}

/// A file's bytes, and what its compressed parts hold.
fn inflated(path: &Path) -> Result<Vec<Vec<u8>>> {
    let bytes = std::fs::read(path)?;
    let mut parts = vec![bytes.clone()];
    if path.extension().is_some_and(|ending| ending == "log") {
        parts.extend(batches(Bytes::from(bytes))?);
        return Ok(parts);
    }
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    for at in memchr::memmem::find_iter(&bytes, &ZSTD) {
        let mut plain = Vec::new();
        // What follows the frame is no part of it.
        let decoder = zstd::stream::read::Decoder::with_buffer(&bytes[at..])?.single_frame();
        if decoder.take(64 << 20).read_to_end(&mut plain).is_ok() {
            parts.push(plain);
        }
    }
    Ok(parts)
}

fn batches(mut bytes: Bytes) -> Result<Vec<Vec<u8>>> {
    let decompress = |bytes: &mut Bytes, compression: Compression| {
        let mut out = Vec::new();
        match compression {
            Compression::None => out.extend_from_slice(bytes),
            Compression::Lz4 => {
                lz4_flex::frame::FrameDecoder::new(&bytes[..]).read_to_end(&mut out)?;
            }
            Compression::Zstd => out = zstd::decode_all(&bytes[..])?,
            other => bail!("unexpected compression {other:?}"),
        }
        Ok(Bytes::from(out))
    };
    let mut values = Vec::new();
    while !bytes.is_empty() {
        let set = RecordBatchDecoder::decode_with_custom_compression(&mut bytes, Some(decompress))?;
        for record in set.records {
            values.extend(record.key.map(|key| key.to_vec()));
            values.extend(record.value.map(|value| value.to_vec()));
        }
    }
    Ok(values)
}

/// Catches: any place that writes or repeats what a request says before it is masked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_planted_is_found_on_disk_in_logs_in_answers_or_in_metrics() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("data");
    let settings = [
        ("NILOMETER_STREAM__CHECKPOINT_INTERVAL_S", "1"),
        ("NILOMETER_ROLLUPS__FOLD_INTERVAL_S", "1"),
        ("NILOMETER_SERVER__BEHIND_PROXY", "true"),
        ("RUST_LOG", "debug"),
    ];
    let mut server = Server::start(&dir, &settings).await?;
    let mut visit = Visit { server: &server, planted: Planted::default(), answers: Vec::new() };
    let user = visit.tables().await?;
    // A new version of a table holds from the next entry on.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    visit.events().await?;
    visit.headers().await?;
    visit.reading().await?;
    visit.websocket().await?;
    masked_data_is_still_found(&mut visit, &user).await?;
    answers_that_show_events(&mut visit).await?;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    visit.server.at_rest().await?;
    let Visit { planted, answers, .. } = visit;
    server.signal(Signal::TERM)?;
    server.ended_within(Duration::from_secs(30)).await?;

    let mut leaks = Vec::new();
    for (what, bytes) in &answers {
        leaks.extend(
            planted.found_in(bytes).iter().map(|place| format!("{place}: answer to {what}")),
        );
    }
    let log = server.log();
    leaks.extend(
        planted.found_in(log.as_bytes()).iter().map(|place| format!("{place}: server's log")),
    );
    let mut parts = 0;
    for path in files(&dir)? {
        for part in inflated(&path).with_context(|| path.display().to_string())? {
            parts += 1;
            let found = planted.found_in(&part);
            leaks.extend(found.iter().map(|place| format!("{place}: {}", path.display())));
        }
    }
    leaks.sort();
    leaks.dedup();
    ensure!(leaks.is_empty(), "{} leaks:\n{}", leaks.len(), leaks.join("\n"));
    ensure!(
        planted.needles.len() > 200 && answers.len() > 100 && parts > 100,
        "too little was tried"
    );
    // The scan finds what is there: the token of a masked user is on the disk.
    let mut tokens = 0;
    for path in files(&dir.join("log"))? {
        for part in inflated(&path)? {
            tokens += memchr::memmem::find_iter(&part, b"em1_").count();
        }
    }
    ensure!(tokens > 50, "only {tokens} tokens: the scan does not see the log's text");
    Ok(())
}
