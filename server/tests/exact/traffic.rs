//! A seeded audience as a list of batches: duplicates, late, far-future, 1970, invalid, Unicode.

use fastrand::Rng;
use serde_json::{Map, Value, json};

const COUNTRIES: [&str; 12] =
    ["DE", "US", "EG", "日本", "FR", "BR", "IN", "GB", "ES", "IT", "PL", "Côte d’Ivoire"];
const DEVICES: [&str; 5] = ["tv", "mobile", "desktop", "tablet", "console"];
const CATEGORIES: [&str; 8] =
    ["drama", "comedy", "news", "sports", "kids", "música", "action", "__other__"];
const TYPES: [&str; 12] = [
    "page_view",
    "Page_View",
    "play_start",
    "content_view",
    "click",
    "impression",
    "IMPRESSION",
    "purchase",
    "signup",
    "heartbeat",
    "play_complete",
    "ünïcødé 🎉",
];
const TIERS: [&str; 3] = ["free", "standard", "premium"];

/// Events in a batch.
const BATCH_EVENTS: usize = 500;
const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;

/// What is sent.
pub(crate) struct Traffic {
    /// First sendings, copies among them; in any order.
    pub(crate) first: Vec<Batch>,
    /// Sent when all of `first` is acknowledged: old ids under new timestamps.
    pub(crate) again: Vec<Batch>,
    /// Different valid events.
    pub(crate) unique: usize,
    /// Lines that must be refused.
    pub(crate) invalid: usize,
}

/// One request.
#[derive(Clone)]
pub(crate) struct Batch {
    pub(crate) body: String,
    pub(crate) accepted: u64,
    pub(crate) rejected: u64,
}

/// Which repeats come under another timestamp.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moved {
    /// By hours: found while the id is hot.
    Anywhere,
    /// Within the ten minutes that share a bucket: found hot or cold.
    WithinBucket,
}

/// Bucket of client time that ids are filed by (DESIGN: 5 to 15 minutes).
const BUCKET_MS: i64 = 600_000;

impl Traffic {
    pub(crate) fn new(seed: u64, events: usize, now_ms: i64, moved: Moved) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut lines: Vec<(String, bool)> = Vec::new();
        let mut again = Vec::new();
        let (mut unique, mut invalid) = (0, 0);
        for number in 0..events {
            if rng.f64() < 0.01 {
                lines.push((invalid_line(number, &mut rng), false));
                invalid += 1;
                continue;
            }
            unique += 1;
            let time_ms = event_time(now_ms, &mut rng);
            let event = event(number, time_ms, &mut rng);
            let line = Value::Object(event.clone()).to_string();
            if rng.f64() < 0.02 {
                lines.push((line.clone(), true));
            }
            // Far-future events are left alone: they are corrected, and filed apart.
            if rng.f64() < 0.005 && time_ms < now_ms && time_ms > 1_000_000 {
                let mut moved_event = event;
                let moved_ms = match moved {
                    Moved::Anywhere => time_ms - rng.i64(1..180) * MINUTE_MS,
                    Moved::WithinBucket => {
                        // Not past now: what lies minutes ahead is corrected, and filed apart.
                        let moved_ms =
                            time_ms.div_euclid(BUCKET_MS) * BUCKET_MS + rng.i64(0..BUCKET_MS);
                        moved_ms.min(now_ms)
                    }
                };
                moved_event.insert("timestamp".to_owned(), moved_ms.into());
                again.push((Value::Object(moved_event).to_string(), true));
            }
            lines.push((line, true));
        }
        rng.shuffle(&mut lines);
        Self { first: batches(&lines), again: batches(&again), unique, invalid }
    }
}

fn batches(lines: &[(String, bool)]) -> Vec<Batch> {
    lines
        .chunks(BATCH_EVENTS)
        .map(|chunk| {
            let accepted = chunk.iter().filter(|(_, is_valid)| *is_valid).count() as u64;
            let body: String = chunk.iter().map(|(line, _)| format!("{line}\n")).collect();
            Batch { body, accepted, rejected: chunk.len() as u64 - accepted }
        })
        .collect()
}

fn event_time(now_ms: i64, rng: &mut Rng) -> i64 {
    match rng.f64() {
        draw if draw < 0.05 => now_ms - rng.i64(10_000..90 * MINUTE_MS),
        draw if draw < 0.06 => now_ms - rng.i64(DAY_MS..5 * DAY_MS),
        draw if draw < 0.063 => now_ms + rng.i64(DAY_MS..400 * DAY_MS),
        draw if draw < 0.065 => rng.i64(0..100_000),
        draw if draw < 0.20 => now_ms - rng.i64(0..60 * MINUTE_MS),
        _ => now_ms - rng.i64(0..10 * MINUTE_MS),
    }
}

fn event(number: usize, time_ms: i64, rng: &mut Rng) -> Map<String, Value> {
    let mut event = Map::new();
    let mut put = |key: &str, value: Value| {
        event.insert(key.to_owned(), value);
    };
    put("event_id", format!("e-{number}").into());
    put("event_type", TYPES[rng.usize(..TYPES.len())].into());
    put("timestamp", time_ms.into());
    let person = (rng.f64() * rng.f64() * 3000.0).floor();
    match rng.f64() {
        draw if draw < 0.03 => put("service_name", format!("svc-{}", person % 5.0).into()),
        draw if draw < 0.13 => put("anonymous_id", format!("u-{person}").into()),
        draw if draw < 0.15 => put("user_id", format!("ü-{person}-日").into()),
        _ => put("user_id", format!("u-{person}").into()),
    }
    if rng.f64() < 0.9 {
        put("country", COUNTRIES[rng.usize(..12)].into());
    }
    if rng.f64() < 0.9 {
        put("device_type", DEVICES[rng.usize(..5)].into());
    }
    if rng.f64() < 0.6 {
        put("content_category", CATEGORIES[rng.usize(..8)].into());
        put("content_id", format!("c-{}", rng.u32(..200)).into());
    }
    if rng.f64() < 0.5 {
        put("app_version", format!("5.{}", rng.u8(..4)).into());
        put("subscription_tier", TIERS[rng.usize(..3)].into());
        put("cohort", ["a", "b"][rng.usize(..2)].into());
        put("channel", ["organic", "search", "email"][rng.usize(..3)].into());
    }
    if rng.f64() < 0.3 {
        put("session_duration_sec", (f64::from(rng.u32(..5_000_000)) / 1000.0).into());
    }
    if rng.f64() < 0.3 {
        put("completed", rng.bool().into());
    }
    if rng.f64() < 0.5 {
        put("properties", json!({"n": number, "text": "día ☀"}));
    }
    event
}

fn invalid_line(number: usize, rng: &mut Rng) -> String {
    let time = 1_760_000_000_000_i64;
    match rng.u8(..6) {
        0 => json!({"event_id": format!("x-{number}"), "event_type": "click", "user_id": "u", "timestamp": "soon"}).to_string(),
        1 => json!({"event_type": "click", "timestamp": time, "n": number}).to_string(),
        2 => json!({"event_type": "click", "user_id": "u", "timestamp": time, "country": 7}).to_string(),
        3 => format!("{{\"event_type\":\"click\",\"user_id\":\"u\",\"timestamp\":{time}"),
        4 => json!({"event_type": "click", "user_id": "u", "timestamp": time, "completed": "yes"}).to_string(),
        _ => json!({"user_id": "u", "timestamp": time}).to_string(),
    }
}
