//! A key that floods a day with new values: what others bring stays whole.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::house::{Answer, Server, now_ms};

/// Makes a write key and waits until the server knows it.
async fn new_key(server: &Server, data: &Path, more: &[&str]) -> Result<String> {
    let made = Command::new(env!("CARGO_BIN_EXE_nilometer"))
        .args(["keys", "create", "write", "--data-dir"])
        .arg(data)
        .args(more)
        .output()?;
    ensure!(made.status.success(), "no key: {made:?}");
    let key = String::from_utf8(made.stdout)?.trim().to_owned();
    let deadline = Instant::now() + Duration::from_secs(10);
    while send(server, &key, &[]).await?.status == 401 {
        ensure!(Instant::now() < deadline, "the key is not known");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(key)
}

static SENT: AtomicU64 = AtomicU64::new(0);

async fn send(server: &Server, key: &str, events: &[Value]) -> Result<Answer> {
    let request = server.client.post(server.url("/v1/events")).bearer_auth(key).json(&events);
    Answer::of(request.send().await?).await
}

/// Sends an event of each of these countries, at that time.
async fn deliver(server: &Server, key: &str, at_ms: i64, countries: &[String]) -> Result<()> {
    let crossed: Vec<_> = countries.iter().map(|country| (country.clone(), None)).collect();
    deliver_crossed(server, key, at_ms, &crossed).await
}

/// The same, with devices.
async fn deliver_crossed(
    server: &Server,
    key: &str,
    at_ms: i64,
    crossed: &[(String, Option<String>)],
) -> Result<()> {
    for crossed in crossed.chunks(7_000) {
        let event = |(country, device): &(String, Option<String>)| {
            let number = SENT.fetch_add(1, Ordering::Relaxed);
            json!({
                "event_id": format!("v-{number}"), "event_type": "view", "timestamp": at_ms,
                "user_id": format!("u-{}", number % 50), "country": country, "device_type": device,
            })
        };
        let events: Vec<Value> = crossed.iter().map(event).collect();
        let answer = send(server, key, &events).await?;
        let accepted = answer.json()["accepted"].as_u64();
        ensure!(accepted == Some(events.len() as u64), "not all accepted: {answer:?}");
    }
    Ok(())
}

/// The countries with most events of the day.
async fn top(server: &Server, day_ms: i64) -> Result<Value> {
    let to_ms = day_ms + 86_400_000;
    let path = format!(
        "/v1/query?metrics=events&group_by=country&from={day_ms}&to={to_ms}&granularity=1d\
         &order_by=-events&limit=30"
    );
    let answer = server.read(&path).await?;
    ensure!(answer["meta"]["folded"] == json!(["country"]), "{answer}");
    let rows = answer["rows"].as_array().context("no rows")?.clone();
    let row = |row: Value| Some((row["country"].as_str()?.to_owned(), row["events"].clone()));
    Ok(rows.into_iter().filter_map(row).collect::<serde_json::Map<_, _>>().into())
}

fn countries(name: &str, numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|number| format!("{name}-{number}")).collect()
}

/// With 8,000 places a day (a stand-in for the default's 100,000) one key sends 15,000 countries.
/// Catches: places of a day that one key can take from all others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_floods_a_day_with_values_leaves_those_of_other_keys_whole() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let settings =
        [("NILOMETER_STREAM__DIMENSION_VALUES_MAX", "8000"), ("NILOMETER_LOG__PARTITIONS", "1")];
    let mut server = Server::start(&data, &settings).await?;
    let hostile = new_key(&server, &data, &["--label", "junk"]).await?;
    let honest = new_key(&server, &data, &["--label", "shop"]).await?;
    let now = now_ms();
    let day_ms = now.div_euclid(86_400_000) * 86_400_000;
    deliver(&server, &hostile, now, &countries("junk", 0..15_000)).await?;
    server.at_rest().await?;
    for _ in 0..3 {
        deliver(&server, &honest, now, &countries("honest", 0..20)).await?;
    }
    // Folded once, for whoever brings it.
    deliver(&server, &honest, now, &countries("junk", 14_999..15_000)).await?;
    server.at_rest().await?;
    let mut expected = json!({ "__other__": 13_001 });
    let whole = countries("honest", 0..20);
    whole.into_iter().for_each(|country| expected[country] = json!(3));
    let shown = top(&server, day_ms).await?;
    ensure!(holds(&shown, &expected), "{shown}");
    server.kill()?;
    let server = Server::start(&data, &settings).await?;
    // A key with a quota of its own.
    let narrow = new_key(&server, &data, &["--quota", "values=3/day"]).await?;
    for _ in 0..2 {
        deliver(&server, &narrow, now, &countries("narrow", 0..5)).await?;
        deliver(&server, &honest, now, &countries("late", 0..1)).await?;
    }
    server.at_rest().await?;
    expected["__other__"] = json!(13_005);
    for country in ["narrow-0", "narrow-1", "narrow-2", "late-0"] {
        expected[country] = json!(2);
    }
    let shown = top(&server, day_ms).await?;
    ensure!(holds(&shown, &expected), "{shown}");
    let text = server.get("/metrics").await?.text;
    let over = text.lines().filter(|line| line.starts_with("nilometer_stream_values_over_quota"));
    let mut over: Vec<&str> = over.filter_map(|line| line.rsplit(' ').next()).collect();
    over.sort_unstable();
    ensure!(over == ["0", "1", "13000", "4"], "by key: {over:?}");
    Ok(())
}

/// Catches: values of one key that shards know nothing of, told as null because another key's were
/// folded there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rare_values_of_a_key_are_told_whole_while_another_key_is_over_its_quota() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let mut server = Server::start(&data, &[]).await?;
    let narrow = new_key(&server, &data, &["--quota", "values=3/day"]).await?;
    let honest = new_key(&server, &data, &["--label", "shop"]).await?;
    let now = now_ms();
    let day_ms = now.div_euclid(86_400_000) * 86_400_000;
    deliver(&server, &honest, now, &countries("rare", 0..2)).await?;
    deliver(&server, &narrow, now, &countries("junk", 0..60)).await?;
    server.at_rest().await?;
    let expected = json!({ "rare-0": 1, "rare-1": 1 });
    for _restarted in [false, true] {
        let shown = top(&server, day_ms).await?;
        ensure!(holds(&shown, &expected), "{shown}");
        let folded = shown["__other__"].as_u64().context("the rest")?;
        ensure!((48..60).contains(&folded), "{shown}");
        server.kill()?;
        server = Server::start(&data, &[]).await?;
        server.at_rest().await?;
    }
    Ok(())
}

/// Whether all that is expected is shown as expected.
fn holds(shown: &Value, expected: &Value) -> bool {
    expected.as_object().is_some_and(|all| all.iter().all(|(name, value)| shown[name] == *value))
}

/// With 60 combinations a day (a stand-in for the default's 100,000) one key crosses ten countries
/// with six devices, and may bring 40 of them.
/// Catches: combinations of a day that one key can take from all others, and numbers by country or
/// by device alone that lack what was folded by both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_crosses_all_values_leaves_the_combinations_of_other_keys_whole() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let settings =
        [("NILOMETER_STREAM__WINDOW_CELLS_MAX", "60"), ("NILOMETER_LOG__PARTITIONS", "1")];
    let mut server = Server::start(&data, &settings).await?;
    let hostile = new_key(&server, &data, &["--quota", "values=20/day"]).await?;
    let honest = new_key(&server, &data, &[]).await?;
    let now = now_ms();
    let day_ms = now.div_euclid(86_400_000) * 86_400_000;
    let cross = |name: &str, own: u32, devices: u32| -> Vec<(String, Option<String>)> {
        let device = |number: u32| Some(format!("{name}-device-{number}"));
        let of = |country: String| (0..devices).map(move |it| (country.clone(), device(it)));
        countries(name, 0..own).into_iter().flat_map(of).collect()
    };
    deliver_crossed(&server, &hostile, now, &cross("junk", 10, 6)).await?;
    server.at_rest().await?;
    server.kill()?;
    let server = Server::start(&data, &settings).await?;
    for _ in 0..3 {
        deliver_crossed(&server, &honest, now, &cross("shop", 5, 1)).await?;
    }
    server.at_rest().await?;
    let asked = async |group_by: &str| -> Result<Value> {
        let to_ms = day_ms + 86_400_000;
        let path = format!(
            "/v1/query?metrics=events&group_by={group_by}&from={day_ms}&to={to_ms}\
             &granularity=1d&limit=100"
        );
        server.read(&path).await
    };
    // Each by itself lacks nothing.
    for (name, junk, shop) in [("country", (10, 6), (5, 3)), ("device_type", (6, 10), (1, 15))] {
        let answer = asked(name).await?;
        let rows = answer["rows"].as_array().context("no rows")?;
        let with = |begin: &str, events: u64| {
            let is_own = |row: &&Value| row[name].as_str().is_some_and(|it| it.starts_with(begin));
            rows.iter().filter(is_own).filter(|row| row["events"] == events).count()
        };
        let found = (with("junk", junk.1), with("shop", shop.1), rows.len());
        ensure!(found == (junk.0, shop.0, junk.0 + shop.0), "{answer}");
        ensure!(answer["meta"]["folded"] == json!([]), "{answer}");
    }
    let answer = asked("country,device_type").await?;
    let rows = answer["rows"].as_array().context("no rows")?;
    let count = |begin: &str, events: u64| {
        let is_own = |row: &&Value| row["country"].as_str().is_some_and(|it| it.starts_with(begin));
        rows.iter().filter(is_own).filter(|row| row["events"] == events).count()
    };
    let found = (count("junk", 1), count("shop", 3), count("__other__", 20), rows.len());
    ensure!(found == (40, 5, 1, 46), "{found:?}: {answer}");
    Ok(())
}
