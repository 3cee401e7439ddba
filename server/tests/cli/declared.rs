//! What is answered is declared by `/openapi.json`, whoever asks, and whichever part of the house
//! answers: status, content type, and the body by its schema.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::server::{ADMIN_TOKEN, READ_TOKEN, Server, WRITE_KEY};

/// The document of a server.
struct Document(Value);

/// One answer: its status, content type and body.
struct Answer(u16, Option<String>, Vec<u8>);

impl Document {
    fn operations(&self) -> Vec<(Method, &str)> {
        let mut operations = Vec::new();
        for (path, item) in self.0["paths"].as_object().unwrap() {
            let methods = item.as_object().unwrap().keys();
            operations
                .extend(methods.map(|name| (name.to_uppercase().parse().unwrap(), path.as_str())));
        }
        operations
    }

    fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        let reference = value["$ref"].as_str().and_then(|text| text.strip_prefix('#'));
        reference.map_or(value, |pointer| self.0.pointer(pointer).unwrap())
    }

    /// Checks an answer to the operation.
    fn check(&self, method: &str, template: &str, answer: &Answer) {
        let Answer(status, kind, body) = answer;
        let said = String::from_utf8_lossy(body);
        let place = format!("{method} {template} {status} {kind:?} {said}");
        let operation = &self.0["paths"][template][method.to_lowercase()];
        let response = self.resolved(&operation["responses"][status.to_string()]);
        assert!(response.is_object(), "not declared: {place}");
        let Some(kind) = kind.as_ref().map(|kind| kind.split(';').next().unwrap()) else {
            return assert!(response["content"].is_null(), "no content type: {place}");
        };
        let schema = &response["content"][kind]["schema"];
        assert!(schema.is_object(), "another content type: {place}");
        if kind.ends_with("json") {
            let mut whole = schema.clone();
            whole["components"] = self.0["components"].clone();
            let validator = jsonschema::validator_for(&whole).unwrap();
            let body = serde_json::from_slice(body).unwrap();
            let faults: Vec<String> =
                validator.iter_errors(&body).map(|fault| fault.to_string()).collect();
            assert!(faults.is_empty(), "{faults:?}: {place}");
        }
    }
}

/// A request as it is written, over a connection of its own.
async fn raw(server: &Server, head: &str) -> Answer {
    let address = server.url.strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.unwrap();
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    let kind = head.lines().find_map(|line| line.strip_prefix("content-type: "));
    Answer(head[9..12].parse().unwrap(), kind.map(str::to_owned), body.into())
}

async fn fetched(request: reqwest::RequestBuilder) -> Answer {
    let answer = request.send().await.unwrap();
    let kind = answer.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
    Answer(answer.status().as_u16(), kind, answer.bytes().await.unwrap().to_vec())
}

fn filled(template: &str) -> String {
    let path = template.replace("{name}", "h").replace("{event_id}", "e-1");
    path.replace("{table}", "users")
}

#[tokio::test]
async fn every_kind_of_key_is_answered_as_the_document_says() {
    let server = Server::start().await;
    let document = Document(server.json("/openapi.json").await);
    let url = |path: &str| format!("{}{path}", server.url);
    let sign_in =
        server.client.post(url("/v1/session")).body(json!({"token": ADMIN_TOKEN}).to_string());
    let signed_in = sign_in.send().await.unwrap();
    let cookie = signed_in.headers()["set-cookie"].to_str().unwrap();
    let cookie = cookie.split(';').next().unwrap().to_owned();
    assert_eq!(server.send(WRITE_KEY, "u-1").await, 200);
    let bearer = |token: &str| ("authorization", format!("Bearer {token}"));
    let keys = [
        ("accept", "*/*".to_owned()),
        bearer("nobody's"),
        bearer(WRITE_KEY),
        bearer(READ_TOKEN),
        bearer(ADMIN_TOKEN),
        ("cookie", cookie),
    ];
    let queries = ["", "?metrics=events&last=1h&granularity=1m", "?limit=", "?metrics=no"];
    let bodies = [
        "",
        "{",
        "[7]",
        r#"{"metrics":["events"],"limit":null}"#,
        r#"{"id":"0-0"}"#,
        r#"{"id":"0-0","ids":["0-0"]}"#,
        r#"{"token":"x"}"#,
        r#"{"event_type":"a","user_id":1,"timestamp":0}"#,
    ];
    let asked = |method: &Method, url: &str, sent: &str| {
        if *method == Method::GET {
            return server.client.get(format!("{url}{sent}"));
        }
        let request = server.client.request(method.clone(), url);
        request.header("content-type", "application/json").body(sent.to_owned())
    };
    let (mut tried, mut statuses) = (0, std::collections::BTreeSet::new());
    for (method, template) in document.operations() {
        // A session that ended would be nobody's from here on.
        let kinds = if method == Method::DELETE { &keys[..5] } else { &keys[..] };
        for (name, value) in kinds {
            let sent = if method == Method::GET { &queries[..] } else { &bodies[..] };
            for sent in sent {
                let request = asked(&method, &url(&filled(template)), sent).header(*name, value);
                let answer = fetched(request).await;
                assert!(answer.0 < 500, "{method} {template}: {}", answer.0);
                document.check(method.as_str(), template, &answer);
                statuses.insert(answer.0);
                tried += 1;
            }
        }
    }
    println!("{tried} answers: {statuses:?}");
    assert!([200, 204, 400, 401, 403, 404, 415].iter().all(|status| statuses.contains(status)));
}

#[tokio::test]
async fn what_the_listener_refuses_is_declared_of_every_operation() {
    let server = Server::start().await;
    let document = Document(server.json("/openapi.json").await);
    for (method, template) in document.operations() {
        let path = filled(template);
        let long = "x".repeat(70_000);
        for (status, head) in [
            (400, format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n\r\n")),
            (414, format!("{method} {path}?{long} HTTP/1.1\r\nHost: nile\r\n\r\n")),
            (
                431,
                format!("{method} {path} HTTP/1.1\r\nHost: nile\r\n{}\r\n", "A: b\r\n".repeat(101)),
            ),
        ] {
            let answer = raw(&server, &head).await;
            assert_eq!(answer.0, status, "{method} {path}");
            document.check(method.as_str(), template, &answer);
        }
    }
    // It takes as long as a head may: once is enough, for the connection knows no operation.
    let answer = raw(&server, "GET /healthz HTTP/1.1\r\nHost: ").await;
    assert_eq!(answer.0, 408);
    document.check("get", "/healthz", &answer);
}
