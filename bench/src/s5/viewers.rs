//! Viewers of the dashboard's Live page over WebSocket, each with one of its questions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::summary::summary;
use crate::server::ADMIN_TOKEN;

/// How often a viewer is to be sent what changed.
const INTERVAL_MS: u64 = 1_000;

/// Open connections that note when something comes.
pub(super) struct Viewers {
    tasks: JoinSet<Result<Vec<Instant>>>,
    stop: Arc<AtomicBool>,
    forget: Arc<std::sync::Mutex<Instant>>,
}

/// What the Live page follows over its last hour (dashboard/web/src/pages/live.tsx).
fn page() -> Vec<Value> {
    let events = "events,unique_users,completion_rate,click_through_rate";
    let sessions = "sessions,p50_session_duration,p95_session_duration,engagement_rate";
    let compare = "previous_period";
    let mut questions = vec![
        json!({"metrics": events, "granularity": "total", "last": "1h", "compare": compare}),
        json!({"metrics": events, "granularity": "1m", "last": "1h", "compare": compare}),
        json!({"metrics": sessions, "granularity": "total", "last": "1h", "compare": compare}),
        json!({"metrics": sessions, "granularity": "1m", "last": "1h"}),
        json!({"metrics": "dau", "granularity": "1d", "last": "14d"}),
        json!({"metrics": "events,active_now", "granularity": "1m", "last": "1h", "compare": compare}),
    ];
    let boards =
        ["content_id", "country", "device_type", "content_category", "channel", "event_type"];
    questions.extend(boards.map(|dimension| {
        json!({
            "metrics": "events,unique_users", "group_by": dimension, "granularity": "total",
            "last": "1h", "order_by": "-events", "limit": 8,
        })
    }));
    questions
}

impl Viewers {
    pub(super) async fn open(address: &str, count: usize) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let forget = Arc::new(std::sync::Mutex::new(Instant::now()));
        let mut tasks = JoinSet::new();
        let questions = page();
        for question in questions.iter().cycle().take(count) {
            let socket = connect(address, question).await?;
            tasks.spawn(watch(socket, Arc::clone(&stop)));
        }
        Ok(Self { tasks, stop, forget })
    }

    /// What came before now does not count.
    pub(super) fn forget(&self) {
        if let Ok(mut since) = self.forget.lock() {
            *since = Instant::now();
        }
    }

    /// Ends all connections; gives the time between two messages of a viewer.
    pub(super) async fn close(mut self) -> Result<Value> {
        self.stop.store(true, Ordering::Relaxed);
        let since = self.forget.lock().map_or_else(|held| *held.into_inner(), |since| *since);
        let mut gaps_ms = Vec::new();
        let viewers = self.tasks.len();
        while let Some(heard) = self.tasks.join_next().await {
            let heard: Vec<Instant> =
                heard.context("a viewer")??.into_iter().filter(|at| *at >= since).collect();
            let gaps = heard.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1e3);
            gaps_ms.extend(gaps);
        }
        Ok(json!({ "viewers": viewers, "interval_ms": INTERVAL_MS, "gap_ms": summary(gaps_ms) }))
    }
}

async fn connect(address: &str, question: &Value) -> Result<WebSocketStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let mut request = format!("ws://{address}/v1/live").into_client_request()?;
    request.headers_mut().insert("authorization", format!("Bearer {ADMIN_TOKEN}").parse()?);
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await?;
    let subscribe = json!({
        "type": "subscribe", "id": "q", "query": question, "interval_ms": INTERVAL_MS,
    });
    socket.send(Message::text(subscribe.to_string())).await?;
    Ok(socket)
}

/// Notes when each message came; the first must be a snapshot.
async fn watch(
    mut socket: WebSocketStream<TcpStream>,
    stop: Arc<AtomicBool>,
) -> Result<Vec<Instant>> {
    let mut heard = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let Ok(next) = tokio::time::timeout(Duration::from_secs(1), socket.next()).await else {
            continue;
        };
        match next.context("the server closed a live connection")?? {
            Message::Text(text) => {
                let known = ["{\"type\":\"snapshot\"", "{\"type\":\"delta\""];
                ensure!(known.iter().any(|kind| text.starts_with(kind)), "a viewer got {text}");
                heard.push(Instant::now());
            }
            Message::Close(frame) => anyhow::bail!("a viewer was sent away: {frame:?}"),
            _ => {}
        }
    }
    Ok(heard)
}
