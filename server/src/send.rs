//! Sends bodies of events to a running server, again and again until it says yes.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use serde::Deserialize;

/// Longest wait between two tries.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(5);
/// Tries before giving up: about five minutes.
const TRIES_MAX: usize = 70;
/// Nobody is asked to wait for longer: a quota of a day may take hours to have room.
const PATIENCE: Duration = Duration::from_mins(5);

/// What the server answered to one batch.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Answer {
    pub(crate) accepted: u64,
    pub(crate) rejected: u64,
    #[serde(default)]
    pub(crate) errors: Vec<Rejection>,
}

/// One event that the server refused.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Rejection {
    pub(crate) index: u64,
    pub(crate) code: String,
    pub(crate) message: String,
}

/// A client of one server with one write key. Cloning is cheap; clones share connections.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    client: reqwest::Client,
    url: String,
    write_key: String,
}

/// What may become of one try.
#[derive(Debug, thiserror::Error)]
enum TryError {
    /// The server is away, full or busy.
    #[error("{0}")]
    Again(String, Option<Duration>),
    /// Trying again would change nothing.
    #[error("{0}")]
    Never(String),
}

impl Sender {
    /// # Errors
    ///
    /// When no HTTP client can be made.
    pub(crate) fn new(url: &str, write_key: &str) -> Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(256)
            .build()
            .context("make an HTTP client")?;
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self { client, url, write_key: write_key.to_owned() })
    }

    /// Sends one NDJSON body, waiting and trying again while the server is away or busy. The
    /// same bytes are sent each time, so what was already taken counts once.
    ///
    /// # Errors
    ///
    /// What the server refuses for good (a wrong key, a body over a limit), or that it stayed
    /// away for about five minutes.
    pub(crate) async fn post(&self, path: &str, body: Bytes) -> Result<Answer> {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(RETRY_DELAY_MAX)
            .with_max_times(TRIES_MAX)
            .with_jitter();
        (|| self.try_once(path, body.clone()))
            .retry(backoff)
            .when(|error| matches!(error, TryError::Again(..)))
            .adjust(|error, delay| match error {
                TryError::Again(_, Some(asked)) => delay.map(|delay| delay.max(*asked)),
                _ => delay,
            })
            .await
            .with_context(|| format!("send to {}{path}", self.url))
    }

    async fn try_once(&self, path: &str, body: Bytes) -> Result<Answer, TryError> {
        let answer = self
            .client
            .post(format!("{}{path}", self.url))
            .bearer_auth(&self.write_key)
            .header("content-type", "application/x-ndjson")
            .body(body)
            .send()
            .await
            .map_err(|error| TryError::Again(unreached(&error), None))?;
        let status = answer.status();
        let retry_after = answer
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        if status.is_success() {
            return answer.json().await.map_err(|error| TryError::Again(unreached(&error), None));
        }
        let message = refused(status.as_u16(), &answer.text().await.unwrap_or_default());
        if status.as_u16() == 429 {
            // Over the rate: the server knows when there is room, and before then there is none.
            if retry_after.is_some_and(|after| after > PATIENCE) {
                return Err(TryError::Never(message));
            }
            Err(TryError::Again(message, retry_after))
        } else if status.is_server_error() {
            Err(TryError::Again(message, retry_after.map(|after| after.min(RETRY_DELAY_MAX))))
        } else {
            Err(TryError::Never(message))
        }
    }

    /// Waits until the server is ready.
    ///
    /// # Errors
    ///
    /// When it is not ready within `patience`.
    pub(crate) async fn ready(&self, patience: Duration) -> Result<()> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            if let Ok(answer) = self.client.get(format!("{}/readyz", self.url)).send().await
                && answer.status().is_success()
            {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                bail!("no server is ready at {}; is it running?", self.url);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Why there is no answer, in our words.
fn unreached(error: &reqwest::Error) -> String {
    if error.is_connect() {
        "no server answers there; is it running?".to_owned()
    } else if error.is_timeout() {
        "the server did not answer in time".to_owned()
    } else if error.is_builder() {
        "the address is none: expected http://HOST:PORT".to_owned()
    } else if error.is_decode() {
        "what answers there is no Nilometer".to_owned()
    } else {
        "the connection broke before the answer came".to_owned()
    }
}

/// What the server refused, in its own words where they are a problem's.
fn refused(status: u16, text: &str) -> String {
    let problem: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    match (problem["code"].as_str(), problem["detail"].as_str()) {
        (Some(code), Some(detail)) => format!("the server answered {status} {code}: {detail}"),
        _ => format!("the server answered {status}, which is none of its answers"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn why_there_is_no_answer_is_told_in_our_words() {
        let client = reqwest::Client::new();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let refused_by = client.get(format!("http://127.0.0.1:{port}/")).send().await.unwrap_err();
        assert_eq!(unreached(&refused_by), "no server answers there; is it running?");
        let no_address = client.get("nowhere").send().await.unwrap_err();
        assert!(unreached(&no_address).starts_with("the address is none"), "{no_address:?}");
        let problem = r#"{"code":"forbidden","detail":"events are sent with a write key"}"#;
        let told = "the server answered 403 forbidden: events are sent with a write key";
        assert_eq!(refused(403, problem), told);
        assert_eq!(refused(502, "<html>"), "the server answered 502, which is none of its answers");
    }
}
