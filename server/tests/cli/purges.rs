//! `nilometer keys purge` on the real binary: what is left is what a house shows that never got
//! these events, wherever the purge is killed.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::server::{Server, WRITE_KEY, nilometer, run};

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;
/// Values that a dimension has on a day and shard.
const VALUES_MAX: &str = "30";

/// Places at which the binary kills itself within a purge, and whether it is done then.
const KILLS: [(&str, bool); 6] = [
    ("checkpoint-before-manifest", false),
    ("fold-before-manifest", false),
    ("purge-before-commit", false),
    ("purge-after-commit", true),
    ("purge-after-write", true),
    ("purge-after-removes", true),
];

fn args<'a>(data: &'a Path, rest: &[&'a str]) -> Vec<&'a str> {
    [&["keys", "--data-dir", data.to_str().unwrap()], rest].concat()
}

/// The last UTC midnight but one, so that both days around it are over.
fn midnight_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond().div_euclid(DAY_MS) * DAY_MS - DAY_MS
}

fn day_of(ms: i64) -> String {
    let at = jiff::Timestamp::from_millisecond(ms).unwrap().to_string();
    at.split('T').next().unwrap().to_owned()
}

/// Events of two days around midnight: of `shop` and, with `spam`, of the other key. Sessions go
/// over midnight, some are held together by spam alone; spam has values and users of its own,
/// some of the shop's, and ids that the shop uses, too.
fn events(midnight_ms: i64, key: &str) -> Vec<Value> {
    let (mut events, is_spam) = (Vec::new(), key == "spam");
    for number in 0..600_i64 {
        let own = number * if is_spam { 13 } else { 7 };
        let at = midnight_ms - DAY_MS / 4 + (own * 97 % 720) * MINUTE_MS + own % 1000;
        let user =
            if number % 3 == 0 { own % 40 } else { own % 11 + if is_spam { 400 } else { 0 } };
        // Ids that both have: the spam comes first.
        let is_stolen = number % 10 == 0;
        let (id, at) = match is_stolen {
            true => (format!("order-{number}"), midnight_ms + number * MINUTE_MS),
            false => (format!("{key}-{number}"), at),
        };
        let user = if is_stolen { number % 17 } else { user };
        let pick = |texts: &[&str]| texts[usize::try_from(own).unwrap() % texts.len()].to_owned();
        // Of the day that is purged more than it has places for, and the spam comes first.
        let country = match is_spam {
            true if at >= midnight_ms => format!("C{}", own % 90),
            true => format!("C{}", own % 5),
            false => format!("S{}", own % 5),
        };
        events.push(json!({
            "event_id": id, "user_id": format!("u{user}"), "timestamp": at,
            "event_type": pick(&["view", "click", "purchase", "page_view"]),
            "country": country,
            "device_type": pick(&["tv", "mobile"]),
            "content_id": format!("c{}", own % 23),
            "content_category": format!("cat{}", own % 3),
            "session_duration_sec": own % 50 * 2,
            "completed": own % 2 == 0,
        }));
    }
    events
}

async fn send(server: &Server, key: &str, events: &[Value]) {
    for batch in events.chunks(100) {
        let request = server.client.post(format!("{}/v1/events", server.url)).bearer_auth(key);
        let answer = request.json(&json!(batch)).send().await.unwrap();
        let status = answer.status();
        let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert_eq!((status.as_u16(), &body["accepted"]), (200, &json!(batch.len())), "{body}");
    }
}

async fn at_rest(server: &Server) -> Value {
    for _ in 0..400 {
        let pipeline = server.json("/v1/pipeline").await;
        if pipeline["totals"]["in_flight"] == 0 {
            assert_eq!(pipeline["residual"], 0, "{pipeline}");
            return pipeline["totals"].clone();
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("not at rest");
}

/// What every dimension shows of both days.
async fn shown(server: &Server, midnight_ms: i64) -> BTreeMap<String, Value> {
    const EVENTS: &str = "events,unique_users,total_duration,avg_duration,completions,\
                          completion_rate,content_views,p50_duration,p95_duration";
    const SESSIONS: &str = "sessions,bounce_rate,avg_session_duration,engagement_rate,\
                            p50_session_duration,p95_session_duration";
    let at = |ms: i64| jiff::Timestamp::from_millisecond(ms).unwrap().to_string();
    let (from, to) = (at(midnight_ms - DAY_MS), at(midnight_ms + 2 * DAY_MS));
    let mut shown = BTreeMap::new();
    for by in ["", "country", "device_type", "content_id", "content_category", "event_type"] {
        for granularity in ["1h", "1d", "total"] {
            for metrics in [EVENTS, SESSIONS] {
                if metrics == SESSIONS
                    && matches!(by, "content_id" | "content_category" | "event_type")
                {
                    continue;
                }
                let mut path = format!(
                    "/v1/query?metrics={metrics}&from={from}&to={to}&granularity={granularity}&limit=10000"
                );
                if !by.is_empty() {
                    path += &format!("&group_by={by}");
                }
                let answer = server.json(&path).await;
                assert!(answer["rows"].is_array(), "{answer}");
                shown.insert(path, answer["rows"].clone());
            }
        }
    }
    shown
}

/// A house in this folder that got what the keys sent; nothing runs. Returns the id of spam's key.
async fn house(midnight_ms: i64, keys: &[&str]) -> (TempDir, String) {
    let server = started(tempfile::tempdir().unwrap()).await;
    let (code, spam, error) =
        run(&mut server.beside(&["keys", "create", "write", "--label", "spam"]));
    assert_eq!(code, 0, "{error}");
    let spam = spam.trim().to_owned();
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    for key in keys {
        let token = if *key == "spam" { spam.as_str() } else { WRITE_KEY };
        send(&server, token, &events(midnight_ms, key)).await;
        at_rest(&server).await;
        // A layer is sealed: what counted most has places on days that begin later.
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    }
    let (_, list, _) = run(&mut server.beside(&["keys", "list"]));
    let line = list.lines().find(|line| line.ends_with("spam")).unwrap();
    let id = line.split_whitespace().next().unwrap().to_owned();
    (server.stopped().await, id)
}

async fn started(folder: TempDir) -> Server {
    Server::start_with(folder, |command| {
        command
            .env("NILOMETER_STREAM__DIMENSION_VALUES_MAX", VALUES_MAX)
            // What a day folds is each shard's own, and who is where differs by the house.
            .env("NILOMETER_LOG__PARTITIONS", "1")
            .env("NILOMETER_WRITE_KEY", WRITE_KEY)
            .env("NILOMETER_READ_TOKEN", crate::server::READ_TOKEN)
            .env("NILOMETER_ADMIN_TOKEN", crate::server::ADMIN_TOKEN)
            .env("NILOMETER_STREAM__CHECKPOINT_INTERVAL_S", "1")
            .env("NILOMETER_ROLLUPS__FOLD_INTERVAL_S", "1")
            .stdout(std::process::Stdio::null());
    })
    .await
}

fn compare(found: &BTreeMap<String, Value>, expected: &BTreeMap<String, Value>) -> usize {
    let mut rows = 0;
    for (path, expected) in expected {
        assert_eq!(&found[path], expected, "{path}");
        rows += expected.as_array().unwrap().len();
    }
    rows
}

/// Catches: numbers, sessions or users of a purged key that stay, and others' that go with them.
#[cfg_attr(not(feature = "failpoints"), ignore = "its kills need --features failpoints")]
#[tokio::test]
async fn after_a_purge_a_house_is_one_that_never_got_these_events_wherever_it_was_killed() {
    let midnight = midnight_ms();
    // The purged day begins at midnight: what spam sent for the day before stays.
    let is_purged = |event: &Value| event["timestamp"].as_i64().unwrap() >= midnight;
    let mut never = started(tempfile::tempdir().unwrap()).await;
    let (_, spam, _) = run(&mut never.beside(&["keys", "create", "write", "--label", "spam"]));
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    let kept: Vec<Value> =
        events(midnight, "spam").into_iter().filter(|event| !is_purged(event)).collect();
    send(&never, spam.trim(), &kept).await;
    at_rest(&never).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    send(&never, WRITE_KEY, &events(midnight, "shop")).await;
    let counted = at_rest(&never).await;
    let expected = shown(&never, midnight).await;
    assert_eq!(never.stop().await, 0);

    let (folder, spam) = house(midnight, &["spam", "shop"]).await;
    let day = day_of(midnight);
    for (place, is_done) in KILLS {
        let copy = copy_of(&folder);
        let data = copy.path().join("data");
        let asked = args(&data, &["purge", &spam, "--day", &day, "--yes"]);
        let (code, _, error) = run(configured(&asked).env("FAILPOINTS", format!("{place}=return")));
        assert_eq!(code, -1, "{place}: {error}");
        let server = started(copy).await;
        let left = shown(&server, midnight).await;
        assert_eq!(left == expected, is_done, "{place}");
        let copy = server.stopped().await;
        // What was not done is done by the same command.
        let (code, _, error) = run(&mut configured(&asked));
        assert_eq!(code, 0, "{place}: {error}");
        let server = started(copy).await;
        compare(&shown(&server, midnight).await, &expected);
    }
    let data = folder.path().join("data");
    let (code, out, error) =
        run(&mut configured(&args(&data, &["purge", &spam, "--day", &day, "--yes"])));
    assert_eq!(code, 0, "{out}{error}");

    let server = started(folder).await;
    let totals = at_rest(&server).await;
    let rows = compare(&shown(&server, midnight).await, &expected);
    assert!(rows > 500, "{rows} rows");
    let purged = events(midnight, "spam").iter().filter(|event| is_purged(event)).count();
    assert_eq!(totals["erased"], purged, "{totals}");
    assert_eq!(totals["unique"], counted["unique"], "{totals}");
    let metrics = server.get("/metrics", crate::server::READ_TOKEN).await.text().await.unwrap();
    assert!(metrics.contains(&format!("\nnilometer_stream_erased_total {purged}\n")), "{metrics}");

    // Sent again they are repeats; others of that key and day count.
    send(&server, WRITE_KEY, &events(midnight, "shop")).await;
    assert_eq!(at_rest(&server).await["unique"], counted["unique"]);
    compare(&shown(&server, midnight).await, &expected);
}

/// With the settings of the server that is stopped.
fn configured(args: &[&str]) -> std::process::Command {
    let mut command = nilometer(args);
    command
        .env("NILOMETER_STREAM__DIMENSION_VALUES_MAX", VALUES_MAX)
        .env("NILOMETER_LOG__PARTITIONS", "1");
    command
}

fn copy_of(folder: &TempDir) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("data"), copy.path().join("data"));
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
    copy
}

#[tokio::test]
async fn a_purge_says_what_would_go_and_refuses_with_the_reason() {
    let midnight = midnight_ms();
    let (folder, spam) = house(midnight, &["spam"]).await;
    let data = folder.path().join("data");
    let day = day_of(midnight);
    let purge = |rest: &[&str]| run(&mut configured(&args(&data, &[&["purge"], rest].concat())));
    let purged = events(midnight, "spam")
        .iter()
        .filter(|event| event["timestamp"].as_i64().unwrap() >= midnight)
        .count();

    let (code, out, error) = purge(&[&spam, "--day", &day, "--dry-run"]);
    assert_eq!(code, 0, "{error}");
    for told in
        [format!("events   {purged} of "), format!("day      {day}, UTC"), "spam".to_owned()]
    {
        assert!(out.contains(&told), "{out}");
    }
    for (rest, code, told) in [
        (vec![spam.as_str(), "--day", &day], 1, "--yes"),
        (vec!["nobody", "--day", &day, "--yes"], 1, "there is no key"),
        (vec![spam.as_str(), "--day", "yesterday"], 2, "expected a day"),
        (vec![spam.as_str(), "--day", "1999-01-01", "--yes"], 1, "hours of that day are closed"),
    ] {
        let (found, out, error) = purge(&rest);
        assert_eq!(found, code, "{rest:?}: {out}{error}");
        assert!(error.contains(told), "{rest:?}: {error}");
    }
    let (code, out, _) = purge(&[&spam, "--day", &day_of(midnight - 3 * DAY_MS), "--yes"]);
    assert_eq!(code, 0);
    assert!(out.contains("events   0 of 0 users"), "{out}");

    let server = started(folder).await;
    let data = server.data();
    let (code, _, error) =
        run(&mut configured(&args(&data, &["purge", &spam, "--day", &day, "--yes"])));
    assert_eq!(code, 1);
    assert!(error.contains("stop the server first") && error.contains("is in use by"), "{error}");
}
