//! A viewer's end of `/v1/live`.

use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::house::{READ_TOKEN, Server, now_ms};

/// How long a message may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
/// The shortest interval that a viewer may ask for.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// A viewer's end of a connection.
pub(crate) struct Viewer {
    socket: WebSocketStream<TcpStream>,
}

impl Viewer {
    /// Connects with a token in the upgrade; `receive_bytes` narrows the kernel's buffer.
    pub(crate) async fn open(server: &Server, receive_bytes: Option<u32>) -> Result<Self> {
        let tcp = TcpSocket::new_v4()?;
        if let Some(bytes) = receive_bytes {
            tcp.set_recv_buffer_size(bytes)?;
        }
        let stream = tcp.connect(server.address.parse()?).await?;
        let mut request = format!("ws://{}/v1/live", server.address).into_client_request()?;
        let token = format!("Bearer {READ_TOKEN}").parse()?;
        request.headers_mut().insert("authorization", token);
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await?;
        Ok(Self { socket })
    }

    pub(crate) async fn say(&mut self, message: Message) -> Result<()> {
        self.socket.send(message).await.context("send")
    }

    /// Subscribes to `query` each [`INTERVAL`], as `q`.
    pub(crate) async fn follow(&mut self, query: &Value) -> Result<()> {
        let subscribe =
            json!({"type": "subscribe", "id": "q", "query": query, "interval_ms": 1000});
        self.say(Message::text(subscribe.to_string())).await
    }

    /// The next message; null once the server has closed the connection.
    pub(crate) async fn hear(&mut self) -> Result<Value> {
        loop {
            let message = timeout(PATIENCE, self.socket.next()).await.context("no message")?;
            match message {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text)?),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_))) => {}
                Some(Ok(Message::Close(_) | Message::Frame(_)) | Err(_)) | None => {
                    return Ok(Value::Null);
                }
            }
        }
    }
}

/// Totals over hours that do not move with the clock.
pub(crate) fn totals_by(dimension: &str, metrics: &str) -> Value {
    let from = now_ms() - 3_600_000;
    json!({
        "metrics": metrics, "group_by": dimension, "granularity": "total",
        "from": from, "to": from + 3 * 3_600_000, "limit": 100_000,
    })
}
