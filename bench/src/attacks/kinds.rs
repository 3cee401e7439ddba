//! What attackers do, each from an address of its own, until they are ended. Whatever the
//! server does to them is right: they begin again.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::ValueEnum;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::s5::now_ms;

/// How long an attacker waits for anything.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections that hold on, over ten addresses.
const CONNECTIONS: usize = 5_000;
/// Live subscriptions of many rows.
const SUBSCRIPTIONS: usize = 124;
/// What a bomb inflates to.
const BOMB_BYTES: usize = 100 << 20;

/// One kind of attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Attack {
    /// Bodies over HTTP/2 that never end, without a key.
    Bodies,
    /// Connections that hold on, with one byte of a body.
    Connections,
    /// WebSockets that send pings and never read.
    Pings,
    /// Answers that are asked for and never read.
    Unread,
    /// Events with every dimension distinct, by a public key.
    Values,
    /// As many bytes of events as are taken, by a public key.
    Disk,
    /// Tokens and codes that are guessed.
    Guesses,
    /// Live subscriptions of many rows.
    Frames,
    /// Heads that are no heads.
    Malformed,
    /// Small bodies that inflate to large ones.
    Bombs,
}

/// What attackers know.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) browser_key: String,
    pub(super) read_token: String,
}

/// Attacks that are under way.
pub(super) struct Running {
    running: JoinSet<()>,
    attempts: Vec<(Attack, Arc<AtomicU64>)>,
}

/// Begins each of `attacks`.
pub(super) fn begin(attacks: &[Attack], target: &Target) -> Running {
    let (mut running, mut attempts) = (JoinSet::new(), Vec::new());
    for (number, &attack) in (0..).zip(attacks) {
        let attacker = Attacker {
            target: target.clone(),
            number,
            attempts: Arc::default(),
            client: reqwest::Client::builder()
                .local_address(Some([127, 0, 1, number].into()))
                .timeout(PATIENCE)
                .build(),
        };
        attempts.push((attack, Arc::clone(&attacker.attempts)));
        running.spawn(async move {
            loop {
                // Closed, refused, reset: the next try.
                drop(attacker.attempt(attack).await);
                sleep(Duration::from_millis(10)).await;
            }
        });
    }
    Running { running, attempts }
}

impl Running {
    /// Ends all; says how often each was tried.
    pub(super) async fn end(mut self) -> Value {
        self.running.shutdown().await;
        let counted = self.attempts.iter().map(|(attack, count)| {
            (format!("{attack:?}").to_lowercase(), json!(count.load(Ordering::Relaxed)))
        });
        Value::Object(counted.collect::<Map<_, _>>())
    }
}

struct Attacker {
    target: Target,
    number: u8,
    attempts: Arc<AtomicU64>,
    client: reqwest::Result<reqwest::Client>,
}

impl Attacker {
    async fn attempt(&self, attack: Attack) -> Result<()> {
        match attack {
            Attack::Bodies => self.bodies().await,
            Attack::Connections => self.connections().await,
            Attack::Pings => self.pings().await,
            Attack::Unread => self.unread().await,
            Attack::Values => self.values().await,
            Attack::Disk => self.disk().await,
            Attack::Guesses => self.guesses().await,
            Attack::Frames => self.frames().await,
            Attack::Malformed => self.malformed().await,
            Attack::Bombs => self.bombs().await,
        }
    }

    fn tried(&self) -> u64 {
        self.attempts.fetch_add(1, Ordering::Relaxed)
    }

    /// A connection from this attacker's address, or one of ten beside it.
    async fn connect(&self, beside: u8) -> Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new([127, 1, self.number, 1 + beside].into(), 0))?;
        Ok(timeout(PATIENCE, socket.connect(self.target.address)).await??)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.target.address)
    }

    fn client(&self) -> Result<&reqwest::Client> {
        self.client.as_ref().ok().context("no client")
    }

    /// Sends events; waits as long as it is told to.
    async fn post(&self, body: impl Into<reqwest::Body>, encoding: &str) -> Result<()> {
        self.tried();
        let request = self.client()?.post(self.url("/v1/events"));
        let request = request.bearer_auth(&self.target.browser_key);
        let request = request.header("content-type", "application/x-ndjson");
        let answer = request.header("content-encoding", encoding).body(body).send().await?;
        if answer.status() == 429 {
            sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }

    async fn bodies(&self) -> Result<()> {
        static PIECE: [u8; 200 << 10] = [b' '; 200 << 10];
        let mut held = Vec::new();
        let mut tasks = JoinSet::new();
        for beside in 0..7 {
            let (sender, running) = h2::client::handshake(self.connect(beside).await?).await?;
            tasks.spawn(running);
            for stream in 0..100 {
                let path = if stream % 2 == 0 { "/v1/session" } else { "/v1/query" };
                let request = http::Request::post(format!("http://nile{path}")).body(())?;
                let mut ready = timeout(PATIENCE, sender.clone().ready()).await??;
                let (response, mut body) = ready.send_request(request, false)?;
                body.send_data(Bytes::from_static(&PIECE), false)?;
                self.tried();
                held.push((response, body));
            }
        }
        sleep(PATIENCE).await;
        Ok(())
    }

    async fn connections(&self) -> Result<()> {
        let mut held = std::collections::VecDeque::new();
        loop {
            let beside = u8::try_from(self.tried() % 10)?;
            if let Ok(mut stream) = self.connect(beside).await {
                let head =
                    "POST /v1/session HTTP/1.1\r\nHost: nile\r\nContent-Length: 900\r\n\r\n{";
                drop(stream.write_all(head.as_bytes()).await);
                held.push_back(stream);
            }
            if held.len() > CONNECTIONS {
                held.pop_front();
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn pings(&self) -> Result<()> {
        let mut stream = self.connect(0).await?;
        let upgrade = "GET /v1/live HTTP/1.1\r\nHost: nile\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(upgrade.as_bytes()).await?;
        let flood = [&[0x89, 0x80 | 125, 0, 0, 0, 0], &[b'p'; 125][..]].concat().repeat(100);
        loop {
            self.tried();
            timeout(PATIENCE, stream.write_all(&flood)).await??;
        }
    }

    async fn unread(&self) -> Result<()> {
        let mut held = Vec::new();
        for beside in 0..100 {
            let mut stream = self.connect(beside % 10).await?;
            let ask = "GET /openapi.json HTTP/1.1\r\nHost: nile\r\n\r\n".repeat(50);
            drop(timeout(Duration::from_millis(100), stream.write_all(ask.as_bytes())).await);
            self.tried();
            held.push(stream);
        }
        sleep(PATIENCE).await;
        Ok(())
    }

    async fn values(&self) -> Result<()> {
        let (now_ms, first) = (now_ms()?, self.attempts.load(Ordering::Relaxed) * 500);
        let mut body = String::new();
        for number in first..first + 500 {
            let mut event = json!({
                "event_id": format!("attack-{number}"), "user_id": format!("attack-{number}"),
                "timestamp": now_ms, "event_type": format!("attack-{number}"),
            });
            for field in [
                "country",
                "device_type",
                "content_category",
                "content_id",
                "app_version",
                "subscription_tier",
                "cohort",
                "channel",
                "service_name",
                "session_id",
            ] {
                event[field] = json!(format!("attack-{number}"));
            }
            body.push_str(&format!("{event}\n"));
        }
        self.post(body, "identity").await?;
        sleep(Duration::from_millis(90)).await;
        Ok(())
    }

    async fn disk(&self) -> Result<()> {
        let (now_ms, number) = (now_ms()?, self.attempts.load(Ordering::Relaxed));
        let mut rng = fastrand::Rng::with_seed(number);
        let mut body = String::new();
        for event in 0..20 {
            let noise: String = std::iter::repeat_with(|| rng.alphanumeric()).take(7_000).collect();
            let event = json!({
                "event_id": format!("attack-big-{number}-{event}"), "user_id": "attack",
                "timestamp": now_ms, "event_type": "attack-big",
                "properties": { "a": noise, "b": noise, "c": noise, "d": noise },
            });
            body.push_str(&format!("{event}\n"));
        }
        self.post(body, "identity").await
    }

    async fn guesses(&self) -> Result<()> {
        let guess = self.tried();
        let client = self.client()?;
        let body = json!({ "code": format!("guess-{guess}") });
        client.post(self.url("/v1/session")).json(&body).send().await?;
        let asked = client.get(self.url("/v1/query?metrics=events"));
        asked.bearer_auth(format!("nr_guess{guess:030}")).send().await?;
        Ok(())
    }

    async fn frames(&self) -> Result<()> {
        let mut request = format!("ws://{}/v1/live", self.target.address).into_client_request()?;
        let token = format!("Bearer {}", self.target.read_token);
        request.headers_mut().insert("authorization", token.parse()?);
        let stream = self.connect(0).await?;
        let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await?;
        for number in 0..SUBSCRIPTIONS {
            let query = json!({
                "metrics": "events,unique_users", "granularity": "1m", "last": "1h",
                "group_by": "content_id", "limit": 100_000 - number,
            });
            let subscribe = json!({
                "type": "subscribe", "id": number.to_string(), "query": query,
                "interval_ms": 1_000,
            });
            socket.send(Message::text(subscribe.to_string())).await?;
        }
        while let Some(message) = socket.next().await {
            message?;
            self.tried();
        }
        Ok(())
    }

    async fn malformed(&self) -> Result<()> {
        let long = format!("GET / HTTP/1.1\r\nHost: nile\r\nX: {}\r\n\r\n", "a".repeat(200_000));
        for head in [
            "GET\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\u{7f}\0",
            "POST /v1/events HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            &long,
        ] {
            self.tried();
            let mut stream = self.connect(0).await?;
            drop(stream.write_all(head.as_bytes()).await);
            let mut answer = Vec::new();
            drop(timeout(Duration::from_millis(50), stream.read_to_end(&mut answer)).await);
        }
        Ok(())
    }

    async fn bombs(&self) -> Result<()> {
        let mut bomb = GzEncoder::new(Vec::new(), Compression::fast());
        for _ in 0..BOMB_BYTES >> 20 {
            bomb.write_all(&[b' '; 1 << 20])?;
        }
        let bomb = Bytes::from(bomb.finish()?);
        loop {
            drop(self.post(bomb.clone(), "gzip").await);
            sleep(Duration::from_millis(50)).await;
        }
    }
}
