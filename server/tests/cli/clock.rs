//! Times that are not now: events from the future, and a log that the wall clock has not reached.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nilometer_event::clock::{Clock as _, HouseClock, ManualClock};
use nilometer_event::{Event, EventTime, Partition, PartitionCount, ReceiveTime, Topic, avro};
use nilometer_log::{AppendBatch, Log, LogSettings, RealDisk, RecordsBuilder, SegmentLog};
use serde_json::{Value, json};

use crate::server::{ADMIN_TOKEN, READ_TOKEN, Server, WRITE_KEY, nilometer, run};

const HOUR_MS: i64 = 3_600_000;

fn now_ms() -> i64 {
    HouseClock::default().now().ms()
}

async fn send(server: &Server, id: &str, time_ms: i64) {
    let event = json!({"event_id": id, "event_type": "view", "user_id": "u", "timestamp": time_ms});
    let answer = server
        .client
        .post(format!("{}/v1/events", server.url))
        .bearer_auth(WRITE_KEY)
        .json(&event)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.json::<Value>().await.unwrap()["accepted"], 1);
}

/// The answer of the last hour, once it holds so many events.
async fn last_hour(server: &Server, events: u64) -> Value {
    let path = "/v1/query?metrics=events&last=1h&granularity=total";
    let mut answer = Value::Null;
    for _ in 0..200 {
        answer = server.json(path).await;
        if answer["rows"][0]["events"] == events {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{answer}");
}

fn again(folder: tempfile::TempDir) -> impl Future<Output = Server> {
    Server::start_with(folder, |command| {
        command.env("NILOMETER_STREAM__CHECKPOINT_INTERVAL_S", "1");
        command.env("NILOMETER_WRITE_KEY", WRITE_KEY).env("NILOMETER_READ_TOKEN", READ_TOKEN);
        command.env("NILOMETER_ADMIN_TOKEN", ADMIN_TOKEN).stdout(Stdio::null());
    })
}

#[tokio::test]
async fn an_event_from_the_future_counts_now_and_says_so_over_a_restart() {
    let server = Server::start().await;
    let ahead = now_ms() + HOUR_MS;
    send(&server, "late", now_ms()).await;
    send(&server, "early", ahead).await;
    assert_eq!(last_hour(&server, 2).await["meta"]["corrected"], 1);
    let trace = server.json("/v1/events/early/trace").await["events"][0].clone();
    let sent = EventTime::from_ms(ahead).to_string();
    assert_eq!(
        (&trace["time_correction"], &trace["sent_timestamp"]),
        (&json!("to_receive_time"), &json!(sent))
    );
    assert_eq!(trace["timestamp"], trace["received_at"]);
    let trace = server.json("/v1/events/late/trace").await["events"][0].clone();
    assert_eq!(
        (&trace["time_correction"], &trace["sent_timestamp"]),
        (&Value::Null, &trace["timestamp"])
    );
    let metrics = server.get("/metrics", READ_TOKEN).await.text().await.unwrap();
    let counted = "nilometer_gateway_events_corrected_total{how=\"to_receive_time\"} 1";
    assert!(metrics.contains(counted), "{metrics}");

    let server = again(server.stopped().await).await;
    assert_eq!(last_hour(&server, 2).await["meta"]["corrected"], 1);
    let pipeline = server.json("/v1/pipeline").await;
    assert_eq!((&pipeline["corrected_24h"], &pipeline["residual"]), (&json!(1), &json!(0)));
}

#[tokio::test]
async fn a_log_ahead_of_the_wall_clock_is_said_and_live_events_are_shown() {
    let server = Server::start().await;
    send(&server, "before", now_ms()).await;
    last_hour(&server, 1).await;
    let folder = server.stopped().await;
    let data = folder.path().join("data");
    let of_data = data.clone();
    tokio::task::spawn_blocking(move || jump(&of_data, 100 * 24 * HOUR_MS)).await.unwrap();

    let server = again(folder).await;
    send(&server, "after", now_ms()).await;
    send(&server, "after-2", now_ms() - 60_000).await;
    // What the clock that ran ahead had received, and both of now.
    let answer = last_hour(&server, 3).await;
    assert!(answer["meta"]["as_of"].as_str() > Some(&EventTime::from_ms(now_ms()).to_string()));
    let pipeline = server.json("/v1/pipeline").await;
    let clock = &pipeline["clock"];
    assert!(
        clock["is_slow"] == true && clock["behind_ms"].as_i64() > Some(99 * 24 * HOUR_MS),
        "{clock}"
    );
    assert_eq!(pipeline["totals"]["late_pending"], 0, "{pipeline}");
    assert_eq!(pipeline["residual"], 0, "{pipeline}");
    let said = server.stderr();
    assert!(
        said.contains("the log is ahead of the wall clock") && said.contains("99 d 23 h"),
        "{said}"
    );
    let arguments = ["doctor", "--json", "--data-dir", data.to_str().unwrap()];
    let (code, stdout, _) = run(&mut nilometer(&arguments));
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let clock = checks.iter().find(|check| check["check"] == "clock").unwrap();
    assert_eq!((code, &clock["state"]), (1, &json!("wrong")), "{report}");
}

/// Adds an event that was received so far ahead of now.
fn jump(data: &std::path::Path, ahead_ms: i64) {
    let now = ReceiveTime::from_ms(now_ms() + ahead_ms);
    let disk = Arc::new(RealDisk::open(data).unwrap());
    let settings = LogSettings::new(PartitionCount::new(4).unwrap());
    let log = SegmentLog::open(disk, settings, Arc::new(ManualClock::new(now))).unwrap();
    let event = Event {
        received_at: now,
        timestamp: now.as_event_time(),
        sent_timestamp: now.as_event_time(),
        event_id: "ahead",
        event_type: "view",
        user_id: Some("u"),
        ..Event::default()
    };
    let mut value = Vec::new();
    avro::encode(&event, &mut value);
    let mut records = RecordsBuilder::new();
    records.push(now, None, &value);
    let (topic, partition) = (Topic::ContentViews, Partition::new(0));
    log.append(vec![AppendBatch { topic, partition, records: records.build() }]).unwrap();
    log.close();
}
