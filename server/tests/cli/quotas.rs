//! Quotas of keys: how they are said, what is over one, and that a restart forgets none.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::server::{ADMIN_TOKEN, READ_TOKEN, Server, WRITE_KEY, nilometer, run};

/// Sends so many events by a key; the answer.
async fn send(server: &Server, key: &str, count: usize) -> (u16, Value) {
    let event = "{\"event_type\":\"view\",\"user_id\":\"u-1\",\"timestamp\":0}\n";
    let answer = server
        .client
        .post(format!("{}/v1/events", server.url))
        .bearer_auth(key)
        .header("content-type", "application/x-ndjson")
        .body(event.repeat(count))
        .send()
        .await
        .unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
}

/// A key that the server knows already, and its id.
async fn made(server: &Server, more: &[&str]) -> (String, String) {
    let args = [&["keys", "create", "write", "--label", "blog"][..], more].concat();
    let (code, key, stderr) = run(&mut server.beside(&args));
    assert_eq!(code, 0, "{stderr}");
    let key = key.trim().to_owned();
    for _ in 0..100 {
        // The first that is taken costs one.
        if send(server, &key, 1).await.0 != 401 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (_, list, _) = run(&mut server.beside(&["keys", "list"]));
    let row = list.lines().find(|line| line.ends_with(" blog")).unwrap();
    (key, row.split_whitespace().next().unwrap().to_owned())
}

async fn start(folder: tempfile::TempDir) -> Server {
    Server::start_with(folder, |command| {
        command
            .env("NILOMETER_WRITE_KEY", WRITE_KEY)
            .env("NILOMETER_READ_TOKEN", READ_TOKEN)
            .env("NILOMETER_ADMIN_TOKEN", ADMIN_TOKEN)
            .stdout(Stdio::null());
    })
    .await
}

/// These tests are of one day.
async fn far_from_midnight() {
    while jiff::Timestamp::now().as_second().rem_euclid(86_400) > 86_400 - 120 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn a_quota_of_a_day_is_kept_over_a_restart_and_binds_one_key_alone() {
    far_from_midnight().await;
    let server = start(tempfile::tempdir().unwrap()).await;
    let (key, id) = made(&server, &["--quota", "events=10/day,bytes=1MiB/s"]).await;
    let (_, list, _) = run(&mut server.beside(&["keys", "list"]));
    let quotas: Vec<&str> =
        list.lines().skip(1).filter_map(|line| line.split("in force").nth(1)).collect();
    let quotas: Vec<&str> = quotas.iter().filter_map(|row| row.split_whitespace().next()).collect();
    // The environment's three, and this one.
    assert_eq!(quotas, ["server", "-", "-", "bytes=1MiB/s,events=10/day"], "{list}");
    assert_eq!(send(&server, &key, 7).await.0, 200);
    let (status, told) = send(&server, &key, 3).await;
    assert_eq!((status, &told["code"]), (429, &"quota_exceeded".into()));
    assert_eq!((&told["key"], &told["quota"]), (&id.into(), &"events=10/day".into()));
    assert!(told["retry_after_ms"].as_u64().unwrap() > 0, "{told}");
    assert_eq!(send(&server, WRITE_KEY, 100).await.0, 200, "others go on");

    let server = start(server.stopped().await).await;
    assert_eq!(send(&server, &key, 3).await.0, 429, "a restart forgets nothing");
    assert_eq!(send(&server, &key, 2).await.0, 200);
    assert_eq!(send(&server, &key, 1).await.0, 429);
    let data = server.data();
    let (code, report, _) = run(&mut server.beside(&["doctor"]));
    assert_eq!(code, 0, "{report}");
    let folder = server.stopped().await;
    // A guard that is broken stops no start.
    std::fs::write(data.join("sent-today.json"), "{").unwrap();
    let server = start(folder).await;
    assert!(server.stderr().contains("begin anew"), "{}", server.stderr());
    assert_eq!(send(&server, &key, 5).await.0, 200);
}

/// Sends so many events until the answer is `status`.
async fn until(server: &Server, key: &str, count: usize, status: u16) {
    for _ in 0..100 {
        if send(server, key, count).await.0 == status {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never {status}");
}

#[tokio::test]
async fn the_quota_of_a_key_in_use_is_changed_beside_a_running_server_and_other_commands() {
    far_from_midnight().await;
    let server = start(tempfile::tempdir().unwrap()).await;
    let (key, id) = made(&server, &["--quota", "events=50/day", "--source", "pages"]).await;
    let set = |quota: &str| run(&mut server.beside(&["keys", "set", &id, "--quota", quota]));
    assert_eq!(send(&server, &key, 40).await.0, 200);
    assert_eq!(send(&server, &key, 40).await.0, 429);
    // More: what was sent counts, and the refused batch is taken now.
    let (code, out, told) = set("events=1k/day,values=9/day");
    assert_eq!((code, out.as_str()), (0, ""), "{told}");
    assert!(told.contains("events=50/day") && told.contains("events=1k/day"), "{told}");
    until(&server, &key, 40, 200).await;
    // Less, and by another while keys are made.
    let mut others: Vec<_> = (0..8)
        .map(|_| server.beside(&["keys", "create"]).stdout(Stdio::piped()).spawn().unwrap())
        .collect();
    assert_eq!(set("events=60/day").0, 0);
    others.iter_mut().for_each(|other| assert!(other.wait().unwrap().success()));
    until(&server, &key, 1, 429).await;
    let (_, list, _) = run(&mut server.beside(&["keys", "list"]));
    assert_eq!(list.lines().count(), 1 + 3 + 1 + 8, "{list}");
    let row = list.lines().find(|line| line.starts_with(&id)).unwrap();
    assert!(row.contains(" events=60/day ") && row.ends_with("pages      blog"), "{row}");
    // A restart knows it, and `default` takes it back.
    let server = start(server.stopped().await).await;
    assert_eq!(send(&server, &key, 1).await.0, 429);
    let set = |quota: &str| run(&mut server.beside(&["keys", "set", &id, "--quota", quota]));
    assert_eq!(set("default").0, 0);
    until(&server, &key, 1, 200).await;
    let (_, list, _) = run(&mut server.beside(&["keys", "list"]));
    let row = list.lines().find(|line| line.starts_with(&id)).unwrap();
    assert!(row.contains(" browser "), "{row}");
    let revoke = run(&mut server.beside(&["keys", "revoke", &id]));
    assert_eq!(revoke.0, 0);
    let (code, _, told) = set("events=5/s");
    assert_eq!((code, told.contains("a revoked key")), (1, true), "{told}");
    let (code, _, told) = set("events=0/s");
    assert_eq!((code, told.contains("1 to 4294967295")), (2, true), "{told}");
}

#[tokio::test]
async fn a_quota_that_is_none_is_refused_with_what_would_be_right() {
    for text in ["500", "events=0/day", "events=5/hour", "events=5/s,events=6/s"] {
        let args = ["keys", "create", "--quota", text];
        let (code, _, stderr) = run(&mut nilometer(&args));
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(text) || stderr.contains("events=6/s"), "{stderr}");
    }
    let (_, help, _) = run(&mut nilometer(&["keys", "create", "--help"]));
    for told in ["events=500/s,bytes=2GiB/day", "limits.browser_key_quota", "429"] {
        assert!(help.contains(told), "{told}: {help}");
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let serve = ["serve", "--data-dir", data.to_str().unwrap()];
    let (code, _, stderr) =
        run(nilometer(&serve).env("NILOMETER_LIMITS__BROWSER_KEY_QUOTA", "events=many/s"));
    assert_eq!(code, 1, "{stderr}");
    assert!(
        stderr.contains("limits.browser_key_quota") && stderr.contains("events=N/s"),
        "{stderr}"
    );
    assert!(!data.exists(), "a start that cannot be leaves nothing behind");
    let server = start(folder).await;
    let read = ["keys", "create", "read", "--quota", "events=5/s"];
    let (code, _, stderr) = run(&mut server.beside(&read));
    assert_eq!((code, stderr.contains("write keys only")), (1, true), "{stderr}");
}

#[tokio::test]
async fn who_sends_most_is_named_by_key_in_metrics_and_in_the_pipeline() {
    far_from_midnight().await;
    let server = start(tempfile::tempdir().unwrap()).await;
    let (key, id) = made(&server, &["--quota", "events=200/day"]).await;
    assert_eq!(send(&server, &key, 150).await.0, 200);
    for _ in 0..3 {
        assert_eq!(send(&server, &key, 60).await.0, 429);
    }
    assert_eq!(send(&server, WRITE_KEY, 20).await.0, 200);
    let metrics = server.get("/metrics", READ_TOKEN).await.text().await.unwrap();
    let of = |name: &str, key: &str| {
        let line = format!("nilometer_gateway_key_{name}_total{{key=\"{key}\"}} ");
        let value = metrics.lines().find_map(|it| it.strip_prefix(&line));
        value.unwrap_or_else(|| panic!("{line}: {metrics}")).parse::<u64>().unwrap()
    };
    // One came before, when the key was made.
    assert_eq!((of("events", &id), of("refused", &id)), (151, 3));
    assert_eq!((of("events", "other"), of("refused", "other")), (0, 0));
    let pipeline = server.json("/v1/pipeline").await;
    let first = &pipeline["senders"][0];
    assert_eq!((&first["key"], &first["label"]), (&id.clone().into(), &"blog".into()));
    assert_eq!((&first["events"], &first["refused"]), (&151.into(), &3.into()));
    assert_eq!(first["bytes"], of("bytes", &id));
    assert_eq!((&first["today_events"], &first["today_bytes"]), (&151.into(), &first["bytes"]));
    assert_eq!(pipeline["senders"][1]["label"], "environment");
    assert_eq!(pipeline["senders"][1]["events"], 20);
}
