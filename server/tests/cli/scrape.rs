//! Metrics as scrapers read them, and answers that say that nothing has changed.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::server::{READ_TOKEN, Server, WRITE_KEY};

const PROMETHEUS: &str = "application/openmetrics-text;version=1.0.0;q=0.5,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";

async fn scrape(server: &Server, accept: &str) -> (String, String) {
    let request = server.client.get(format!("{}/metrics", server.url)).bearer_auth(READ_TOKEN);
    let answer = request.header("accept", accept).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{accept}");
    assert_eq!(answer.headers()["vary"].to_str().unwrap(), "accept");
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    (kind, answer.text().await.unwrap())
}

/// What Prometheus' own tool says of `text`; `None` where it is not installed.
#[expect(clippy::print_stderr, reason = "what was skipped")]
fn promtool(text: &str) -> Option<String> {
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            eprintln!("skipped: promtool cannot be started ({error}); ./test installs it");
            return None;
        }
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    Some(format!("{}{}", output.status, String::from_utf8(said).unwrap()))
}

#[tokio::test]
async fn metrics_come_as_the_scraper_accepts_them_and_promtool_finds_nothing() {
    let server = Server::start().await;
    for user in ["u-1", "jane@mail.example"] {
        assert_eq!(server.send(WRITE_KEY, user).await, 200);
    }
    let (kind, text) = scrape(&server, "*/*").await;
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    assert!(text.contains("# TYPE nilometer_gateway_events_accepted_total counter\n"), "{text}");
    assert!(text.contains("nilometer_gateway_values_masked_total{field=\"user_id\"} 1\n"));
    assert!(text.contains("nilometer_clock_stands_still_seconds "), "{text}");
    assert!(!text.contains("_ms ") && !text.contains("_ms{") && !text.contains("# EOF"), "{text}");
    if let Some(said) = promtool(&text) {
        assert_eq!(said, "exit status: 0", "of {text}");
    }
    // *System* is told the same of memory: by the same parts.
    let pipeline = server.json("/v1/pipeline").await;
    let memory = &pipeline["memory"];
    assert_eq!(memory["limit_bytes"], 512 << 20);
    let parts = memory["parts"].as_object().unwrap();
    for part in parts.keys() {
        let line = format!("nilometer_process_memory_bytes{{part=\"{part}\"}} ");
        assert!(text.contains(&line), "{line} is not in {text}");
    }
    assert_eq!(text.matches("nilometer_process_memory_bytes{").count(), parts.len());
    let sum: u64 = parts.values().map(|bytes| bytes.as_u64().unwrap()).sum();
    let resident = memory["resident_bytes"].as_u64().unwrap();
    assert!(sum > resident / 2 && resident > 10 << 20, "{memory}");
    let (kind, text) = scrape(&server, PROMETHEUS).await;
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(text.contains("nilometer_clock_stands_still_seconds "), "{text}");
    assert!(text.contains("nilometer_clock_stands_still_ms ") && text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn unchanged_has_the_tag_of_what_is_unchanged_and_varies_by_the_same() {
    let server = Server::start().await;
    let range = "from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z";
    let url = format!("{}/v1/snapshot?metrics=events&{range}", server.url);
    for encoding in ["identity", "gzip", "zstd"] {
        let ask = || {
            let request = server.client.get(&url).bearer_auth(READ_TOKEN);
            request.header("accept-encoding", encoding)
        };
        let whole = ask().send().await.unwrap();
        let tag = whole.headers()["etag"].clone();
        let unchanged = ask().header("if-none-match", &tag).send().await.unwrap();
        assert_eq!((whole.status().as_u16(), unchanged.status().as_u16()), (200, 304));
        for name in ["etag", "vary", "cache-control"] {
            let of = |answer: &reqwest::Response| {
                let mut values: Vec<_> = answer.headers().get_all(name).iter().cloned().collect();
                values.sort_by(|one, other| one.as_bytes().cmp(other.as_bytes()));
                values
            };
            assert_eq!(of(&unchanged), of(&whole), "{name} of {encoding}");
            assert!(!of(&whole).is_empty(), "{name} of {encoding}");
        }
    }
}
