//! What every answer of the running house has in common.

use nilometer_event::clock::{Clock as _, HouseClock};
use reqwest::Method;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, ORIGIN};
use serde_json::Value;

use crate::server::{ADMIN_TOKEN, READ_TOKEN, Server, WRITE_KEY};

#[tokio::test]
async fn every_path_of_the_openapi_document_is_there() {
    let server = Server::start().await;
    let document = server.json("/openapi.json").await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut tried = 0;
    for (template, operations) in document["paths"].as_object().unwrap() {
        let path = template
            .replace("{name}", "history")
            .replace("{event_id}", "e-1")
            .replace("{table}", "users");
        assert!(!path.contains('{'), "{template} has a parameter that this test does not know");
        for (name, operation) in operations.as_object().unwrap() {
            let Ok(method) = name.to_uppercase().parse::<Method>() else { continue };
            if !["get", "post", "put", "delete"].contains(&name.as_str()) {
                continue;
            }
            let is_ingest = operation["tags"][0] == "ingest";
            let token = if is_ingest { WRITE_KEY } else { ADMIN_TOKEN };
            let request = server.client.request(method, format!("{}{path}", server.url));
            let answer = request.bearer_auth(token).send().await.unwrap();
            let status = answer.status().as_u16();
            let body = answer.text().await.unwrap();
            let is_described = operation["responses"].get(status.to_string()).is_some();
            assert!(is_described, "{name} {path} answers {status}, not described: {body}");
            assert!(status != 405 && status < 500, "{name} {path}: {status} {body}");
            assert!(!body.contains("no path"), "{name} {path}: {body}");
            tried += 1;
        }
    }
    assert!(tried >= 18, "{tried} operations");
    let metrics = server.get("/metrics", READ_TOKEN).await.text().await.unwrap();
    let names: Vec<&str> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    assert!(names.len() > 40, "{metrics}");
    let documented = include_str!("../../../docs/operations.md");
    for name in names {
        assert!(name.starts_with("nilometer_"), "{name}");
        let is_told = [format!("`{name}`"), format!("`{name}_total`")];
        assert!(is_told.iter().any(|told| documented.contains(told)), "docs/operations.md: {name}");
    }
    // Without a token: only what docs/api.md leaves open.
    for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/", 200), ("/metrics", 401)] {
        let answer = server.client.get(format!("{}{path}", server.url)).send().await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
    }
}

#[tokio::test]
async fn answers_are_compressed_dressed_and_problems_where_there_is_nothing() {
    let server = Server::start().await;
    let url = |path: &str| format!("{}{path}", server.url);
    let plain = server.get("/v1/catalog", READ_TOKEN).await;
    assert!(plain.headers().get(CONTENT_ENCODING).is_none());
    let plain: Value = serde_json::from_slice(&plain.bytes().await.unwrap()).unwrap();
    for coding in ["gzip", "zstd"] {
        let request = server.client.get(url("/v1/catalog")).bearer_auth(READ_TOKEN);
        let answer = request.header(ACCEPT_ENCODING, coding).send().await.unwrap();
        assert_eq!(answer.headers()[CONTENT_ENCODING], coding);
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        let bytes = answer.bytes().await.unwrap();
        let read = match coding {
            "zstd" => zstd::decode_all(&*bytes).unwrap(),
            _ => {
                let mut read = Vec::new();
                let mut decoder = flate2::read::GzDecoder::new(&*bytes);
                std::io::Read::read_to_end(&mut decoder, &mut read).unwrap();
                read
            }
        };
        let read: Value = serde_json::from_slice(&read).unwrap();
        assert_eq!(read["metrics"], plain["metrics"], "{coding}");
    }
    for (path, status) in [("/v1/sql", 404), ("/nothing/here", 404), ("/v1/query", 401)] {
        let answer = server.client.get(url(path)).send().await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        assert!(answer.headers()["content-security-policy"].to_str().unwrap().contains("'none'"));
        let problem: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert!(problem["code"].is_string() && problem["detail"].is_string(), "{problem}");
    }
    let asked = server.client.request(Method::OPTIONS, url("/v1/query"));
    let answer = asked.header(ORIGIN, "https://board.example").send().await.unwrap();
    assert_eq!(answer.status(), 204);
    assert_eq!(answer.headers()["access-control-allow-origin"], "https://board.example");
    let asked = server.client.request(Method::OPTIONS, url("/v1/events"));
    let answer = asked.header(ORIGIN, "https://shop.example").send().await.unwrap();
    assert_eq!(answer.headers()["access-control-allow-origin"], "https://shop.example");
    let head = server.client.head(url("/v1/catalog")).bearer_auth(READ_TOKEN).send().await.unwrap();
    assert_eq!((head.status().as_u16(), head.bytes().await.unwrap().len()), (200, 0));
}

#[tokio::test]
async fn filters_are_masked_as_the_values_are_that_they_look_for() {
    let mut declared = "[masking]\nexempt_fields = [\"host\", \"content_category\"]\n\
        token_fields = [\"code\", \"source\"]\ndrop_fields = [\"cohort\"]\n"
        .to_owned();
    for (name, source) in
        [("client", "client_version"), ("place", "net.host"), ("host", "page"), ("coupon", "code")]
    {
        declared +=
            &format!("[[dimension]]\nname = \"{name}\"\nsource = \"properties.{source}\"\n");
    }
    let server = declared_with(&declared).await;
    for (table, csv) in [
        ("content", "content_id,category\n1.3.6.1.4.1.311,203.0.113.7\n"),
        ("users", "user_id,cohort\nu,secret\n"),
    ] {
        let request = server.client.put(format!("{}/v1/dimensions/{table}", server.url));
        let request = request.bearer_auth(ADMIN_TOKEN).header("content-type", "text/csv").body(csv);
        assert_eq!(request.send().await.unwrap().status(), 200, "{table}");
    }
    // A table holds from the next entry on.
    tokio::time::sleep(std::time::Duration::from_millis(1_200)).await;
    let now = HouseClock::default().now().ms();
    let event = serde_json::json!({"event_type": "a", "user_id": "u", "timestamp": now,
        "content_id": "1.3.6.1.4.1.311", "properties": {"client_version": "5.2.0.1",
        "net": {"host": "203.0.113.9"}, "page": "203.0.113.9", "code": "SAVE10"}});
    let request = server.client.post(format!("{}/v1/events", server.url)).bearer_auth(WRITE_KEY);
    let request = request.header("content-type", "application/json");
    let refused = r#"{"event_type":"a","country":7}"#;
    let answer = request.body(format!("[{event},{refused}]")).send().await.unwrap();
    let answer: Value = answer.json().await.unwrap();
    assert_eq!((&answer["accepted"], &answer["rejected"]), (&1.into(), &1.into()), "{answer}");
    for filter in [
        "client:5.2.0.1",
        "place:203.0.113.9",
        "host:203.0.113.9",
        "coupon:SAVE10",
        "content_id:1.3.6.1*",
        "content_category:203.0.113.7",
        "cohort:null",
    ] {
        let path = format!("/v1/query?metrics=events&last=1h&granularity=total&filter={filter}");
        let mut shown = Value::Null;
        for _ in 0..200 {
            shown = server.json(&path).await;
            if shown["rows"][0]["events"] == 1 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!(shown["rows"][0]["events"], 1, "{filter}: {shown}");
    }
    let code = answer["errors"][0]["code"].as_str().unwrap();
    for by in [format!("code={code}"), "source=events".to_owned(), "filter=source:ev*".to_owned()] {
        let letters = server.json(&format!("/v1/dead-letters?{by}")).await;
        assert_eq!(letters["letters"].as_array().unwrap().len(), 1, "{by}: {letters}");
    }
}

#[tokio::test]
async fn a_number_counts_whatever_its_size_and_what_is_none_is_told() {
    let declared = "[[metric]]\nname = \"distance\"\naggregate = \"sum\"\nfield = \"properties.m\"\n\
                    [[metric]]\nname = \"revenue\"\naggregate = \"sum\"\nfield = \"properties.price\"\nscale = 2\n\
                    [[dimension]]\nname = \"plan\"\nsource = \"properties.plan\"\n";
    let server = declared_with(declared).await;
    let now = HouseClock::default().now().ms();
    let events = [
        r#"{"m":1e13}"#,
        r#"{"m":1}"#,
        r#"{"m":2,"price":59.95}"#,
        r#"{"price":"19.99"}"#,
        r#"{"price":1e999,"plan":"pro"}"#,
    ];
    let events = events.map(|properties| {
        format!(r#"{{"event_type":"a","user_id":7,"timestamp":{now},"properties":{properties}}}"#)
    });
    let request = server.client.post(format!("{}/v1/events", server.url)).bearer_auth(WRITE_KEY);
    let answer = request.header("content-type", "application/json");
    let answer = answer.body(format!("[{}]", events.join(","))).send().await.unwrap();
    assert_eq!(answer.json::<Value>().await.unwrap()["accepted"], 5);
    let path = "/v1/query?metrics=events,distance,revenue&last=1h&granularity=total";
    let mut shown = String::new();
    for _ in 0..200 {
        shown = server.get(path, READ_TOKEN).await.text().await.unwrap();
        if shown.contains("\"events\":5") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let wanted = r#""events":5,"distance":10000000000003.0,"revenue":59.95}"#;
    assert!(shown.contains(wanted), "{shown}");
    let catalog = server.json("/v1/catalog").await;
    let revenue =
        &catalog["metrics"].as_array().unwrap().iter().find(|one| one["name"] == "revenue");
    let revenue = revenue.unwrap();
    assert_eq!((revenue["scale"].as_u64(), revenue["unread"].as_u64()), (Some(2), Some(2)));
    assert_eq!(revenue["aggregate"], "sum");
    assert_eq!(server.json("/v1/pipeline").await["unread"], serde_json::json!({ "revenue": 2 }));
    // As it was sent: no JSON reader that holds numbers in doubles takes it.
    let tail = server.get("/v1/events/tail", READ_TOKEN).await.text().await.unwrap();
    for properties in [r#"{"price":"19.99"}"#, r#"{"price":1e999,"plan":"pro"}"#] {
        let shown = format!(r#""properties":{properties},"unread":["revenue"]}}"#);
        assert!(tail.contains(&shown), "{tail}");
    }
    let metrics = server.get("/metrics", READ_TOKEN).await.text().await.unwrap();
    for counted in ["{metric=\"revenue\"} 2\n", "{metric=\"distance\"} 0\n"] {
        let counted = format!("nilometer_stream_numbers_unread_total{counted}");
        assert!(metrics.contains(&counted), "{metrics}");
    }
    // The number hides nothing that stands beside it.
    let path = "/v1/query?metrics=events&group_by=plan&filter=plan:pro&last=1h&granularity=total";
    let shown = server.get(path, READ_TOKEN).await.text().await.unwrap();
    assert!(shown.contains(r#""plan":"pro","events":1}"#), "{shown}");
}

/// A server with these declarations.
async fn declared_with(declarations: &str) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nilometer.toml");
    std::fs::write(&file, declarations).unwrap();
    Server::start_with(folder, |command| {
        command.arg("--config").arg(&file);
        command
            .env("NILOMETER_WRITE_KEY", WRITE_KEY)
            .env("NILOMETER_READ_TOKEN", READ_TOKEN)
            .env("NILOMETER_ADMIN_TOKEN", ADMIN_TOKEN);
    })
    .await
}
