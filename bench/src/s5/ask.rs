//! The dashboard's questions at a steady pace, no two alike.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::store::COUNTRIES;
use super::summary::summary;
use crate::server::ADMIN_TOKEN;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// How many slow questions are asked, and how far apart.
const SLOW: u32 = 20;
const SLOW_EVERY: Duration = Duration::from_millis(500);

/// A kind of question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `events`, `completion_rate` per hour over 90 days of one country.
    HoursOfOneCountry,
    /// `events`, `unique_users` per day over 90 days of ten countries.
    DaysOfTenCountries,
    /// `events`, `completion_rate`, `unique_users` by country over 7 days.
    WeekByCountry,
    /// The last hour per minute by device.
    LastHourByDevice,
    /// `unique_users` by country over 90 days.
    UsersOfAll,
}

/// How fast and how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) per_second: f64,
    pub(super) seconds: u32,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [
        Self::HoursOfOneCountry,
        Self::DaysOfTenCountries,
        Self::WeekByCountry,
        Self::LastHourByDevice,
        Self::UsersOfAll,
    ];

    pub(crate) const fn letter(self) -> char {
        match self {
            Self::HoursOfOneCountry => 'a',
            Self::DaysOfTenCountries => 'b',
            Self::WeekByCountry => 'c',
            Self::LastHourByDevice => 'd',
            Self::UsersOfAll => 'e',
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::HoursOfOneCountry => "a: hours of 90 days, one country",
            Self::DaysOfTenCountries => "b: days of 90 days, ten countries",
            Self::WeekByCountry => "c: 7 days by country",
            Self::LastHourByDevice => "d: last hour by minute and device",
            Self::UsersOfAll => "e: users of 90 days by country",
        }
    }

    /// Whether it is asked one at a time.
    pub(crate) const fn is_slow(self) -> bool {
        matches!(self, Self::UsersOfAll)
    }

    /// More rows than its answers have.
    pub(crate) const fn limit(self) -> u64 {
        match self {
            Self::HoursOfOneCountry => 10_000,
            _ => 1_000,
        }
    }

    /// A question of this kind of at most `limit` rows. Where that is another each time, none was
    /// asked before, whichever windows it is of.
    pub(crate) fn parameters(self, now_ms: u64, number: u64, limit: u64, rng: &mut Rng) -> String {
        let country = || COUNTRIES[usize::try_from(number).unwrap_or(0) % COUNTRIES.len()];
        let (metrics, rest, length_ms) = match self {
            Self::HoursOfOneCountry => (
                "events,completion_rate",
                format!("granularity=1h&filter=country:{}", country()),
                90 * DAY_MS,
            ),
            Self::DaysOfTenCountries => {
                let mut countries = COUNTRIES;
                rng.shuffle(&mut countries);
                let ten = countries[..10].join(",");
                let rest = format!("granularity=1d&group_by=country&filter=country:{ten}");
                ("events,unique_users", rest, 90 * DAY_MS)
            }
            Self::WeekByCountry => (
                "events,completion_rate,unique_users",
                "granularity=total&group_by=country".to_owned(),
                7 * DAY_MS,
            ),
            Self::LastHourByDevice => (
                "events,completion_rate,unique_users",
                "granularity=1m&group_by=device_type".to_owned(),
                HOUR_MS,
            ),
            Self::UsersOfAll => {
                ("unique_users", "granularity=total&group_by=country".to_owned(), 90 * DAY_MS)
            }
        };
        // Of the last hours, so that the newest cells are among them as a dashboard's are.
        let back_ms = match self {
            Self::LastHourByDevice => 0,
            _ => rng.u64(0..6 * HOUR_MS),
        };
        let to = now_ms - back_ms;
        format!("metrics={metrics}&{rest}&from={}&to={to}&limit={limit}", to - length_ms)
    }
}

/// What one question cost.
#[derive(Clone, Copy, Debug)]
struct Cost {
    /// From when it was due, so that a server that falls behind is not asked less.
    due_ms: f64,
    /// From when it was sent.
    sent_ms: f64,
    /// As the server says.
    took_ms: f64,
    rows: usize,
    bytes: usize,
}

/// Asks at the pace and gives what that cost. Blocks its thread between questions: the runtime's
/// timer rounds up to a millisecond, which would be taken for the server's.
pub(super) async fn ask(address: &str, kind: Kind, pace: Pace) -> Result<Value> {
    // Idle connections go before the server closes them, which it may as a question is sent.
    let client = reqwest::Client::builder()
        .pool_max_idle_per_host(64)
        .pool_idle_timeout(Duration::from_secs(3))
        .build()?;
    let mut rng = Rng::with_seed(u64::from(kind.letter()));
    let (count, every) = if kind.is_slow() {
        (SLOW, SLOW_EVERY)
    } else {
        let every = Duration::from_secs_f64(1.0 / pace.per_second);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a few thousand"
        )]
        let count = (pace.per_second * f64::from(pace.seconds)) as u32;
        (count, every)
    };
    let began = Instant::now();
    let mut asking = JoinSet::new();
    for number in 0..count {
        let due = began + every * number;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let number = u64::from(number);
        let parameters = kind.parameters(now_ms()?, number, kind.limit() + number, &mut rng);
        let url = format!("http://{address}/v1/query?{parameters}");
        asking.spawn(one(client.clone(), url, due));
    }
    let mut costs = Vec::new();
    while let Some(asked) = asking.join_next().await {
        costs.push(asked.context("a question")??);
    }
    let of = |pick: fn(&Cost) -> f64| summary(costs.iter().map(pick).collect());
    Ok(json!({
        "latency_ms": of(|cost| cost.due_ms),
        "from_sending_ms": of(|cost| cost.sent_ms),
        "server_took_ms": of(|cost| cost.took_ms),
        "rows": costs.iter().map(|cost| cost.rows).max(),
        "bytes": costs.iter().map(|cost| cost.bytes).max(),
    }))
}

async fn one(client: reqwest::Client, url: String, due: Instant) -> Result<Cost> {
    let sent = Instant::now();
    let answer = client.get(&url).bearer_auth(ADMIN_TOKEN).send().await?;
    let (status, body) = (answer.status(), answer.bytes().await?);
    let done = Instant::now();
    ensure!(status.is_success(), "{url}: {status}: {}", String::from_utf8_lossy(&body));
    let text = std::str::from_utf8(&body)?;
    let rows = text.matches("\"window_start\":").count();
    ensure!(rows > 0, "{url}: no rows: {text}");
    ensure!(text.contains("\"truncated\":false"), "{url}: truncated");
    let took = text.rsplit_once("\"took_ms\":").context("took_ms")?.1;
    let took = took.split([',', '}']).next().context("took_ms")?;
    let ms = |from: Instant| done.saturating_duration_since(from).as_secs_f64() * 1e3;
    Ok(Cost { due_ms: ms(due), sent_ms: ms(sent), took_ms: took.parse()?, rows, bytes: body.len() })
}

pub(crate) fn now_ms() -> Result<u64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(u64::try_from(now.as_millis())?)
}
