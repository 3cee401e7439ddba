//! Retention that is raised after it has taken something: no smaller number, at any granularity.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::calendar::rfc3339;
use crate::harness::Server;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
const PATH: &str = "/v1/imports/history/events";

fn body(day_ms: i64, name: &str) -> String {
    let line = |hour: i64| {
        let event = json!({
            "event_id": format!("{name}-{hour}"), "event_type": "view", "user_id": "u",
            "timestamp": day_ms + hour * HOUR_MS,
        });
        format!("{event}\n")
    };
    (0..12).map(line).collect()
}

async fn until_folded(server: &Server) -> Result<()> {
    server.at_rest().await?;
    for _ in 0..200 {
        let store = server.get("/v1/pipeline").await?["store"].clone();
        if store["folds"].as_u64() > Some(0) && store["layers_waiting"] == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("nothing is folded")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_that_was_imported_before_retention_was_raised_is_never_zero() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let often = [
        ("NILOMETER_STREAM__CHECKPOINT_INTERVAL_S", "1"),
        ("NILOMETER_ROLLUPS__FOLD_INTERVAL_S", "1"),
    ];
    let today = jiff::Timestamp::now().as_millisecond().div_euclid(DAY_MS) * DAY_MS;
    let (first, second) = (today - 900 * DAY_MS, today - 800 * DAY_MS);
    let server = Server::start(&data, &often).await?;
    server.post(PATH, &body(first, "first")).await?;
    until_folded(&server).await?;
    drop(server);

    let longer = [&often[..], &[("NILOMETER_ROLLUPS__RETENTION_1H_DAYS", "30000")]].concat();
    for start in 0..2 {
        let server = Server::start(&data, &longer).await?;
        if start == 0 {
            server.post(PATH, &body(second, "second")).await?;
            until_folded(&server).await?;
        }
        let asked = |from: i64, more: &str| {
            let (from, to) = (rfc3339(from), rfc3339(from + DAY_MS));
            format!("/v1/query?metrics=events,sessions&from={from}&to={to}{more}")
        };
        for granularity in ["1m", "5m", "30m", "1h"] {
            let refused = server.get(&asked(first, &format!("&granularity={granularity}"))).await;
            let refused = refused.err().map(|error| error.to_string()).unwrap_or_default();
            ensure!(
                refused.contains("granularity_expired") && refused.contains("\"finest\":\"1d\""),
                "{granularity}: {refused:?}"
            );
        }
        // Without a granularity it is one that is kept.
        for more in ["", "&granularity=1d", "&granularity=total"] {
            let answer = server.get(&asked(first, more)).await?;
            ensure!(answer["rows"][0]["events"] == 12 && answer["rows"][0]["sessions"] == 12);
        }
        // What was counted since is as fine as retention is now.
        let hours = server.get(&asked(second, "&granularity=1h")).await?;
        ensure!(hours["rows"].as_array().is_some_and(|rows| rows.len() == 12), "{hours}");
        // Both at once go by what both have: the older period's days.
        let compared = format!(
            "/v1/query?metrics=events&compare=previous_period&granularity=total&from={}&to={}",
            rfc3339(second),
            rfc3339(second + 100 * DAY_MS)
        );
        let compared = server.get(&compared).await?;
        let row = &compared["rows"][0];
        ensure!(row["events"] == 12 && row["events_previous"] == 12, "{compared}");
        ensure!(compared["meta"]["range"]["from"] == rfc3339(second), "{compared}");
    }
    Ok(())
}
