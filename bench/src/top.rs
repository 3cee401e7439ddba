//! Top lists: the first few of very many values of one day, just counted and in the base.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::s5::{now_ms, summary, until_folded};
use crate::server::Server;

const DAY_MS: u64 = 86_400_000;
/// Events of a request.
const BATCH_EVENTS: u64 = 5_000;
/// Values that have more than one event, each one more than the next.
const LEADERS: u64 = 64;
/// Rows of the first question; each has one more than the one before, so that no answer is shared.
const ROWS: u64 = 8;

#[derive(Args, Clone, Debug)]
pub(crate) struct Top {
    /// Values of the day.
    #[arg(long, default_value_t = 200_000)]
    values: u64,
    /// Questions right after the events are counted, and as many once the base holds them.
    #[arg(long, default_value_t = 20)]
    questions: u64,
}

pub(crate) fn run(args: &Top) -> Result<Value> {
    ensure!(LEADERS < args.values && ROWS + args.questions < LEADERS, "too few values for these");
    let server = Server::start(&[
        crate::MEMORY_LIMIT,
        ("NILOMETER_STREAM__DIMENSION_VALUES_MAX", "1048576"),
        ("NILOMETER_STREAM__SERVER_KEY_VALUES_MAX", "1048576"),
        ("NILOMETER_ROLLUPS__FOLD_INTERVAL_S", "5"),
    ])?;
    let day_ms = now_ms()? / DAY_MS * DAY_MS - 2 * DAY_MS;
    send(&server, args.values, day_ms)?;
    crate::drain(&server)?;
    let counted = ask(&server, args.questions, day_ms)?;
    until_folded(&server)?;
    let folded = ask(&server, args.questions, day_ms)?;
    Ok(json!({ "values": args.values, "just_counted": counted, "in_the_base": folded }))
}

/// One event of each value, all over the day, and more of those that lead.
fn send(server: &Server, values: u64, day_ms: u64) -> Result<()> {
    let more = (0..LEADERS).flat_map(|value| (value..LEADERS).map(move |_| value));
    let all: Vec<u64> = (0..values).chain(more).collect();
    let mut sent = 0_u64;
    for batch in all.chunks(usize::try_from(BATCH_EVENTS)?) {
        let mut body = String::new();
        for value in batch {
            let (time_ms, user) = (day_ms + sent % DAY_MS * 97 % DAY_MS, sent % 10_000);
            writeln!(
                body,
                "{{\"event_id\":\"t{sent}\",\"event_type\":\"page_view\",\"user_id\":\"u{user}\",\
                 \"timestamp\":{time_ms},\"content_id\":\"content-{value}\"}}"
            )?;
            sent += 1;
        }
        server.post_events("/v1/imports/top/events", &body)?;
    }
    Ok(())
}

/// Asks for the leaders, which are known, and says how long that took and what memory.
fn ask(server: &Server, questions: u64, day_ms: u64) -> Result<Value> {
    let before = server.rss_mib()?;
    server.forget_peak()?;
    let (mut took_ms, mut answered_ms) = (Vec::new(), Vec::new());
    for limit in ROWS..ROWS + questions {
        let end_ms = day_ms + DAY_MS;
        let began = Instant::now();
        let answer = server.get(&format!(
            "/v1/query?metrics=events&group_by=content_id&order_by=-events&granularity=total\
             &from={day_ms}&to={end_ms}&limit={limit}"
        ))?;
        answered_ms.push(millis(began.elapsed()));
        took_ms.push(answer["meta"]["took_ms"].as_f64().context("took_ms")?);
        let rows = answer["rows"].as_array().context("rows")?;
        let row =
            |row: &Value| Some((row["content_id"].as_str()?.to_owned(), row["events"].as_u64()?));
        let rows: Option<Vec<_>> = rows.iter().map(row).collect();
        let leader = |value| (format!("content-{value}"), 1 + LEADERS - value);
        ensure!(rows == Some((0..limit).map(leader).collect()), "not the leaders: {answer}");
    }
    Ok(json!({
        "took_ms": summary(took_ms),
        "answered_ms": summary(answered_ms),
        "rss_mib": before,
        "peak_rss_mib": server.peak_rss_mib()?,
    }))
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
