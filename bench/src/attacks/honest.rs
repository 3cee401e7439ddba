//! Those whom attacks must not touch: readers of the dashboard, and the count of what was sent.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fastrand::Rng;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use crate::drain;
use crate::s5::{Kind, now_ms, summary};
use crate::server::{ADMIN_TOKEN, Server};

/// All events but those of [`super::kinds`], whose types begin so or are too many.
const HONEST: &str = "event_type:!attack-*,!__other__";

/// Asks the dashboard's quick questions at a pace, each from when it was due. Of those about the
/// same windows readers share an answer.
pub(super) async fn ask(address: String, per_second: f64, seconds: u32) -> Result<Value> {
    let client = reqwest::Client::builder()
        .pool_max_idle_per_host(64)
        .pool_idle_timeout(Duration::from_secs(3))
        .timeout(Duration::from_secs(30))
        .build()?;
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| !kind.is_slow()).collect();
    let mut rng = Rng::with_seed(1);
    let mut asking = JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / per_second));
    let began = Instant::now();
    let mut number = 0;
    while began.elapsed() < Duration::from_secs(u64::from(seconds)) {
        tick.tick().await;
        let kind = kinds[usize::try_from(number)? % kinds.len()];
        let parameters = kind.parameters(now_ms()?, number, kind.limit(), &mut rng);
        let url = format!("http://{address}/v1/query?{parameters}");
        let (client, due) = (client.clone(), Instant::now());
        asking.spawn(async move {
            let answered = answer(client.get(url).bearer_auth(ADMIN_TOKEN)).await;
            (kind, answered, due.elapsed().as_secs_f64() * 1e3)
        });
        number += 1;
    }
    let (mut took_ms, mut by_kind) = (Vec::new(), BTreeMap::<_, Vec<_>>::new());
    let mut failed = BTreeMap::<_, u64>::new();
    while let Some(asked) = asking.join_next().await {
        match asked.context("a question")? {
            (kind, Ok(()), ms) => {
                took_ms.push(ms);
                by_kind.entry(kind.letter()).or_default().push(ms);
            }
            (_, Err(why), _) => *failed.entry(why).or_default() += 1,
        }
    }
    let by_kind = by_kind.into_iter().map(|(kind, ms)| (kind.to_string(), summary(ms)));
    let by_kind = by_kind.collect::<Map<_, _>>();
    Ok(json!({ "latency_ms": summary(took_ms), "by_kind_ms": by_kind, "failed": failed }))
}

/// Whether it is answered, and else why not: a status and the problem's code, or what became of the
/// connection.
async fn answer(asked: reqwest::RequestBuilder) -> Result<(), String> {
    let why = |error: reqwest::Error| format!("{:#}", anyhow::Error::from(error.without_url()));
    let answer = asked.send().await.map_err(why)?;
    let status = answer.status();
    let body = answer.bytes().await.map_err(why)?;
    if status.is_success() {
        return Ok(());
    }
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    Err(format!("{} {}", status.as_u16(), problem["code"]))
}

/// Counts what honest people sent, once all is folded.
pub(super) fn exact(server: &Server, sent: &Value) -> Result<Value> {
    let (drained, pipeline) = drain(server)?;
    let answer = server
        .get(&format!("/v1/query?metrics=events&granularity=total&last=1d&filter={HONEST}"))?;
    Ok(json!({
        "sent": sent["unique"],
        "counted": answer["rows"][0]["events"],
        "residual": pipeline["residual"],
        "drain_ms": drained.as_millis(),
    }))
}
