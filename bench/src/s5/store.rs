//! Ninety days that the server itself wrote: sent as an import, folded, stopped cleanly, kept.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use fastrand::Rng;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::ask::now_ms;
use crate::server::{Server, WRITE_KEY};

const DAY_MS: u64 = 86_400_000;
/// A store older than this would end too long before its last queries.
const AGE_MAX_MS: u64 = DAY_MS;
/// Events of a request.
const BATCH_EVENTS: u64 = 2_000;
/// Requests under way at once.
const REQUESTS_MAX: usize = 4;
/// How long the server may take to fold what it was sent.
const FOLD_MAX: Duration = Duration::from_secs(3_600);

/// The audience's eighteen (server/src/audience/people.rs) and as many more as make sixty.
pub(super) const COUNTRIES: [&str; 60] = [
    "US", "DE", "BR", "IN", "GB", "FR", "JP", "MX", "ES", "IT", "EG", "PL", "NL", "KR", "TR", "SE",
    "ZA", "NZ", "AR", "AT", "AU", "BE", "BG", "CA", "CH", "CL", "CN", "CO", "CZ", "DK", "EE", "FI",
    "GR", "HR", "HU", "ID", "IE", "IL", "IS", "KE", "LT", "LV", "MA", "MY", "NG", "NO", "PE", "PH",
    "PK", "PT", "RO", "RS", "SA", "SG", "SI", "SK", "TH", "TW", "UA", "VN",
];
const DEVICES: [&str; 6] = ["mobile", "tv", "desktop", "tablet", "console", "watch"];
const CATEGORIES: [&str; 12] = [
    "drama",
    "comedy",
    "documentary",
    "sports",
    "news",
    "kids",
    "music",
    "action",
    "thriller",
    "anime",
    "reality",
    "classics",
];
const TYPES: [&str; 5] = ["page_view", "play_start", "play_complete", "click", "impression"];
const VERSIONS: [&str; 4] = ["5.2.0", "5.1.3", "5.1.0", "4.9.8"];
const TIERS: [&str; 3] = ["free", "standard", "premium"];
const CHANNELS: [&str; 5] = ["organic", "search", "social", "email", "referral"];
const COHORTS: [&str; 2] = ["control", "new-player"];
/// Titles of a category.
const TITLES: u32 = 20;

/// What lies in the store.
#[derive(Args, Clone, Debug)]
pub(super) struct History {
    /// Days of history.
    #[arg(long, default_value_t = 90)]
    days: u64,
    /// Events of each of the 60 countries on each day.
    #[arg(long, default_value_t = 1_600)]
    events_per_country_day: u64,
    /// Users of each country, of whom each event has one at random.
    #[arg(long, default_value_t = 4_000)]
    users_per_country: u32,
}

impl History {
    const fn events(&self) -> u64 {
        self.days * self.per_day()
    }

    const fn per_day(&self) -> u64 {
        self.events_per_country_day * COUNTRIES.len() as u64
    }

    fn described(&self, made_at_ms: u64) -> Value {
        json!({
            "made_at_ms": made_at_ms,
            "days": self.days,
            "countries": COUNTRIES.len(),
            "devices": DEVICES.len(),
            "categories": CATEGORIES.len(),
            "events": self.events(),
            "events_per_country_day": self.events_per_country_day,
            "users_per_country": self.users_per_country,
            "retention_days": {"1m": 14, "5m": 30, "30m": 90, "1h": 365},
        })
    }
}

/// The store in `folder`, made if it is not there, not of these days, or too old.
pub(super) fn ensure_made(folder: &Path, history: &History) -> Result<Value> {
    let note = folder.join("store.json");
    let now_ms = now_ms()?;
    if let Ok(text) = std::fs::read_to_string(&note) {
        let made: Value = serde_json::from_str(&text)?;
        let made_at_ms = made["made_at_ms"].as_u64().context("made_at_ms")?;
        let same = history
            .described(made_at_ms)
            .as_object()
            .is_some_and(|described| described.iter().all(|(name, value)| made[name] == *value));
        if same && now_ms.saturating_sub(made_at_ms) < AGE_MAX_MS {
            return Ok(made);
        }
    }
    if folder.join("data").exists() {
        std::fs::remove_dir_all(folder.join("data"))?;
    }
    let mut made = history.described(now_ms);
    make(folder, history, now_ms, &mut made)?;
    std::fs::write(note, made.to_string())?;
    Ok(made)
}

fn make(folder: &Path, history: &History, end_ms: u64, made: &mut Value) -> Result<()> {
    // More memory and quicker folds than by default make the same store in less time.
    let settings = [
        ("NILOMETER_SERVER__MEMORY_LIMIT_MIB", "4096"),
        ("NILOMETER_STREAM__ENTRY_EVENTS_MAX", "16384"),
        ("NILOMETER_ROLLUPS__FOLD_INTERVAL_S", "5"),
    ];
    let mut server = Server::start_on(folder, &settings)?;
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(send(&server.address(), history, end_ms))?;
    made["sent_s"] = json!(began.elapsed().as_secs());
    until_folded(&server)?;
    made["folded_s"] = json!(began.elapsed().as_secs());
    for name in ["rollups_bytes", "rollups_chunks", "rollups_cells"] {
        made[name] = json!(server.metric(&format!("nilometer_{name}"))?);
    }
    let pipeline = server.get("/v1/pipeline")?;
    ensure!(pipeline["residual"] == 0, "residual: {pipeline}");
    ensure!(pipeline["totals"]["unique"] == history.events(), "not all counted: {pipeline}");
    server.terminate()
}

async fn send(address: &str, history: &History, end_ms: u64) -> Result<()> {
    let client = reqwest::Client::new();
    let url = format!("http://{address}/v1/imports/s5/events");
    let bar = bar(
        history.events(),
        "{bar:32} {human_pos} of {human_len} events sent, {per_sec}, {eta} left",
    )?;
    let mut rng = Rng::with_seed(5);
    let mut sending = JoinSet::new();
    let mut number = 0;
    while number < history.events() {
        let last = (number + BATCH_EVENTS).min(history.events());
        let mut body = String::with_capacity(700 << 10);
        for event in number..last {
            write_event(history, end_ms, event, &mut rng, &mut body);
        }
        while sending.len() >= REQUESTS_MAX {
            sending.join_next().await.context("no request")?.context("a request")??;
        }
        sending.spawn(post(client.clone(), url.clone(), Bytes::from(body), last - number));
        bar.inc(last - number);
        number = last;
    }
    while let Some(sent) = sending.join_next().await {
        sent.context("a request")??;
    }
    bar.finish_and_clear();
    Ok(())
}

/// Sends until the server takes it: it may say 503 while it is behind.
async fn post(client: reqwest::Client, url: String, body: Bytes, events: u64) -> Result<()> {
    for _ in 0..3_000 {
        let answer = client
            .post(&url)
            .bearer_auth(WRITE_KEY)
            .header("content-type", "application/x-ndjson")
            .body(body.clone())
            .send()
            .await?;
        let status = answer.status();
        let text = answer.text().await?;
        if status.is_success() {
            let answer: Value = serde_json::from_str(&text)?;
            ensure!(answer["accepted"] == events, "history was refused: {text}");
            return Ok(());
        }
        ensure!(status == 429 || status == 503, "history was refused: {status}: {text}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("the server does not take more history")
}

/// The `number`th event: days in order, countries in turn, the rest at random.
fn write_event(history: &History, end_ms: u64, number: u64, rng: &mut Rng, out: &mut String) {
    use std::fmt::Write as _;
    let per_day = history.per_day();
    let (day, within) = (number / per_day, number % per_day);
    let time_ms = end_ms - (history.days - day) * DAY_MS + within * DAY_MS / per_day;
    let country = COUNTRIES[usize::try_from(number % 60).unwrap_or(0)];
    let user = rng.u32(0..history.users_per_country);
    // What belongs to a user follows from the number.
    let of_user =
        |values: &[&'static str], stride: u32| values[(user / stride) as usize % values.len()];
    let event_type = TYPES[rng.usize(..TYPES.len())];
    let category = rng.usize(..CATEGORIES.len());
    let title = rng.u32(0..TITLES);
    let device = DEVICES[rng.usize(..DEVICES.len())];
    // A String takes whatever is written to it.
    write!(
        out,
        "{{\"event_id\":\"h{number:x}\",\"event_type\":\"{event_type}\",\
         \"user_id\":\"{country}-{user}\",\"timestamp\":{time_ms},\"country\":\"{country}\",\
         \"device_type\":\"{device}\",\"content_category\":\"{}\",\"content_id\":\"c{category}-{title}\",\
         \"app_version\":\"{}\",\"subscription_tier\":\"{}\",\"channel\":\"{}\",\"cohort\":\"{}\"",
        CATEGORIES[category],
        of_user(&VERSIONS, 1),
        of_user(&TIERS, 7),
        of_user(&CHANNELS, 31),
        of_user(&COHORTS, 3),
    )
    .unwrap_or_default();
    if event_type == "play_complete" {
        let seconds = rng.u32(5..3_600);
        write!(out, ",\"session_duration_sec\":{seconds}.5,\"completed\":{}", rng.bool())
            .unwrap_or_default();
    }
    out.push_str("}\n");
}

/// Waits until every shard has counted everything and the base holds every sealed layer.
pub(crate) fn until_folded(server: &Server) -> Result<()> {
    let bar = bar(0, "{spinner} {msg}, {elapsed} gone")?;
    let began = Instant::now();
    loop {
        let totals = server.get("/v1/pipeline")?["totals"].clone();
        let waiting = server.metric("nilometer_rollups_layers_waiting")?;
        let folds = server.metric("nilometer_rollups_folds_total")?;
        bar.set_message(format!(
            "{} events to count, {waiting} layers to fold",
            totals["in_flight"]
        ));
        // Idle shards go on sealing empty layers, which are none.
        if totals["in_flight"] == 0 && waiting == 0.0 && folds > 0.0 && is_sealed(server)? {
            bar.finish_and_clear();
            return Ok(());
        }
        ensure!(began.elapsed() < FOLD_MAX, "{waiting} layers wait after {FOLD_MAX:?}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Whether every shard's last checkpoint is younger than its last event.
fn is_sealed(server: &Server) -> Result<bool> {
    let history = server.get("/v1/query?metrics=events&granularity=total&last=2d")?;
    Ok(history["meta"]["import_running"] == false)
}

fn bar(total: u64, template: &str) -> Result<ProgressBar> {
    let bar = if total == 0 { ProgressBar::new_spinner() } else { ProgressBar::new(total) };
    Ok(bar.with_style(ProgressStyle::with_template(template)?))
}

/// Of the cells of a country and day, of an hour, of a whole combination and day: how many count
/// more users than an exact set holds.
pub(super) fn shares(server: &Server) -> Result<Value> {
    let share = |query: &str| -> Result<Value> {
        let answer = server.get(&format!("/v1/query?metrics=unique_users&limit=100000&{query}"))?;
        let rows = answer["rows"].as_array().context("rows")?;
        let users = || rows.iter().filter_map(|row| row["unique_users"].as_u64());
        let dense = users().filter(|users| *users > 512).count();
        #[expect(clippy::cast_precision_loss, reason = "counts of rows")]
        let share = dense as f64 / rows.len().max(1) as f64;
        Ok(json!({
            "cells": rows.len(), "dense": crate::round(share),
            "users_min": users().min(), "users_max": users().max(),
        }))
    };
    Ok(json!({
        "country, day": share("granularity=1d&group_by=country&last=80d")?,
        "country, hour": share("granularity=1h&group_by=country&last=30d")?,
        "country, device, category, day":
            share("granularity=1d&group_by=country,device_type,content_category&last=10d")?,
        "category, day": share("granularity=1d&group_by=content_category&last=80d")?,
    }))
}
