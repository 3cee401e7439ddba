//! What the log tells when it is asked for more, and what it never tells.

use std::time::Duration;

use crate::server::{ADMIN_TOKEN, READ_TOKEN, Server, WRITE_KEY, nilometer, run};

#[tokio::test]
async fn a_louder_log_tells_of_steps_commits_and_refusals_and_of_nobodys_data() {
    let server = Server::start_with(tempfile::tempdir().unwrap(), |command| {
        command
            .env("RUST_LOG", "trace")
            .env("NILOMETER_WRITE_KEY", WRITE_KEY)
            .env("NILOMETER_READ_TOKEN", READ_TOKEN)
            .env("NILOMETER_ADMIN_TOKEN", ADMIN_TOKEN)
            .env("NILOMETER_STREAM__CHECKPOINT_INTERVAL_S", "1")
            .stdout(std::process::Stdio::null());
    })
    .await;
    let url = |path: &str| format!("{}{path}", server.url);
    assert_eq!(server.send(WRITE_KEY, "secret-user").await, 200);
    assert_eq!(server.send("secret-wrong-key", "secret-user").await, 401);
    let bodies = [
        (
            "{\"event_type\":\"secret-type\",\"user_id\":\"secret@mail.example\",\"timestamp\":0,\
          \"country\":7}",
            200,
        ),
        ("{\"secret-body", 400),
    ];
    for (body, status) in bodies {
        let request = server.client.post(url("/v1/events")).bearer_auth(WRITE_KEY);
        let request = request.header("content-type", "application/json").body(body);
        assert_eq!(request.send().await.unwrap().status().as_u16(), status, "{body}");
    }
    let paths = [
        ("/v1/query?metrics=events&last=1h&granularity=1m&filter=country:secret-country", 200),
        ("/v1/query?metrics=secret-metric&last=1h", 400),
        ("/v1/events/secret-event/trace", 404),
        ("/secret-path?secret-parameter=1", 404),
    ];
    for (path, status) in paths {
        assert_eq!(server.get(path, READ_TOKEN).await.status().as_u16(), status, "{path}");
    }
    let body = "{\"token\":\"secret-token\"}";
    let answer = server.client.post(url("/v1/session")).body(body).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 401);
    let wanted = [
        "\"message\":\"entry folded\"",
        "\"message\":\"batches committed\"",
        "\"message\":\"checkpoint written\"",
        "\"message\":\"events rejected\"",
        "\"first\":\"schema_violation\"",
        "\"message\":\"query computed\"",
        "\"path\":\"/v1/events/{event_id}/trace\"",
        "\"code\":\"unauthorized\"",
        "\"status\":404",
    ];
    let mut missing = Vec::new();
    for _ in 0..200 {
        let log = server.stderr();
        missing = wanted.iter().filter(|wanted| !log.contains(**wanted)).collect();
        if missing.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let log = server.stderr();
    assert!(missing.is_empty(), "{missing:?} are not in {log}");
    for told in ["secret", WRITE_KEY, READ_TOKEN, ADMIN_TOKEN] {
        let line = log.lines().find(|line| line.contains(told));
        assert_eq!(line, None, "{told} is told");
    }
}

#[test]
fn a_log_filter_that_is_none_is_refused_by_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    for args in [&["serve", "--listen", "127.0.0.1:0", "--data-dir", data][..], &["config"]] {
        let (code, stdout, stderr) = run(nilometer(args).env("RUST_LOG", "foo=bar=baz"));
        assert_eq!((code, stdout.as_str()), (1, ""), "{args:?}: {stderr}");
        assert!(stderr.contains("RUST_LOG: \\\"foo=bar=baz\\\" is no log filter"), "{stderr}");
    }
    assert!(!std::path::Path::new(data).exists());
    for filter in ["", "debug", "warn,nilometer_stream=trace"] {
        let (code, _, stderr) = run(nilometer(&["config"]).env("RUST_LOG", filter));
        assert_eq!((code, stderr.as_str()), (0, ""), "{filter}");
    }
}

#[test]
fn config_refuses_what_a_server_would() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nilometer.toml");
    let data = folder.path().join("data");
    let metric = "[[metric]]\nname = \"revenue\"\naggregate = \"sum\"\n";
    let cases: [(&str, &[&str], &str); 7] = [
        ("[server]\nlisten = \"0.0.0.0:0\"\n", &[], "behind_proxy"),
        ("[masking]\ndetectors = [\"(\"]\n", &[], "detector"),
        ("[rollups]\nretention_5m_days = 1\n", &[], "retention"),
        (metric, &[], "revenue"),
        ("[log]\npartitions = 0\n", &[], "log.partitions"),
        ("", &["NILOMETER_WRITE_KEY=two words"], "NILOMETER_WRITE_KEY"),
        (
            "",
            &["NILOMETER_READ_TOKEN=a", "NILOMETER_ADMIN_TOKEN=a"],
            "READ_TOKEN and NILOMETER_ADMIN_TOKEN are one",
        ),
    ];
    for (text, variables, told) in cases {
        std::fs::write(&file, text).unwrap();
        let sources = ["--config", file.to_str().unwrap(), "--data-dir", data.to_str().unwrap()];
        let serve = [&["serve"][..], &sources].concat();
        let config = [&["config"][..], &sources].concat();
        let mut said = Vec::new();
        for args in [serve, config] {
            let mut command = nilometer(&args);
            if !text.contains("listen") {
                command.env("NILOMETER_SERVER__LISTEN", "127.0.0.1:0");
            }
            let (code, stdout, stderr) =
                run(command.envs(variables.iter().filter_map(|pair| pair.split_once('='))));
            assert_eq!((code, stdout.as_str()), (1, ""), "{args:?} {text}: {stderr}");
            assert!(stderr.contains(told), "{told} is not in {stderr}");
            said.push(stderr.split("\"message\"").nth(1).unwrap().to_owned());
        }
        assert_eq!(said[0], said[1], "the same words");
        assert!(!data.exists(), "{told}");
    }
}
