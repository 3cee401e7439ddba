//! What each key has sent today, kept over restarts: a quota of a day is one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use nilometer_access::{DayCounts, Quotas};
use nilometer_event::clock::{Clock, HouseClock};
use nilometer_log::{Disk, RealDisk, write_atomically};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// The file, in the data directory.
pub(crate) const FILE: &str = "sent-today.json";

/// How often it is written: a crash forgets what was sent since.
const KEEP_INTERVAL: Duration = Duration::from_secs(10);

const VERSION: u32 = 1;

/// The file's text.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    version: u32,
    counts: DayCounts,
}

/// The file, and what it counts.
#[derive(Debug)]
pub(crate) struct SentToday {
    disk: RealDisk,
    quotas: Arc<Quotas>,
    written: Mutex<DayCounts>,
}

impl SentToday {
    /// Goes on from what an earlier process left. What cannot be read is nothing: a quota is a
    /// guard, and a start must not fail for it.
    ///
    /// # Errors
    ///
    /// When the data directory cannot be opened.
    pub(crate) fn resume(data_dir: &Path, quotas: &Arc<Quotas>, now_ms: i64) -> Result<Arc<Self>> {
        let disk = RealDisk::open(data_dir).context("open the data directory")?;
        match read(&disk) {
            Ok(counts) => quotas.resume_day(counts, now_ms),
            Err(error) => tracing::error!(file = FILE, "quotas of this day begin anew: {error:#}"),
        }
        Ok(Arc::new(Self { disk, quotas: Arc::clone(quotas), written: Mutex::default() }))
    }

    /// Writes every few seconds what has changed, until `stop`.
    pub(crate) fn keep_until(self: &Arc<Self>, clock: &Arc<HouseClock>, stop: &CancellationToken) {
        tokio::spawn(watch(Arc::clone(self), Arc::clone(clock), stop.clone()));
    }

    /// Writes what was sent since it was last written. Blocks.
    pub(crate) fn keep(&self, now_ms: i64) {
        let counts = self.quotas.day_counts(now_ms);
        let mut written = self.written.lock();
        if *written == counts {
            return;
        }
        let text = Text { version: VERSION, counts };
        let kept = serde_json::to_vec(&text)
            .map_err(std::io::Error::from)
            .and_then(|bytes| write_atomically(&self.disk, FILE, &bytes));
        match kept {
            Ok(()) => *written = text.counts,
            Err(error) => tracing::warn!(file = FILE, %error, "what keys sent today is not kept"),
        }
    }
}

fn read(disk: &RealDisk) -> Result<DayCounts> {
    let bytes = match disk.read(FILE) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(DayCounts::default());
        }
        Err(error) => return Err(error).context("read"),
    };
    let text: Text = serde_json::from_slice(&bytes).context("damaged")?;
    anyhow::ensure!(text.version == VERSION, "version {}, not {VERSION}", text.version);
    Ok(text.counts)
}

async fn watch(sent_today: Arc<SentToday>, clock: Arc<HouseClock>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(KEEP_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let (sent_today, now_ms) = (Arc::clone(&sent_today), clock.now().ms());
        let kept = tokio::task::spawn_blocking(move || sent_today.keep(now_ms));
        if kept.await.is_err() {
            tracing::error!(file = FILE, "who writes it panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use nilometer_access::QuotaSettings;

    use super::*;

    const DAY_MS: i64 = 86_400_000;

    #[test]
    fn what_is_damaged_or_of_another_day_counts_nothing_and_stops_no_start() {
        let folder = tempfile::tempdir().unwrap();
        let counted = |text: &str, now_ms: i64| {
            std::fs::write(folder.path().join(FILE), text).unwrap();
            let quotas = Arc::new(Quotas::new(&QuotaSettings::default()));
            SentToday::resume(folder.path(), &quotas, now_ms).unwrap();
            quotas.day_counts(now_ms).keys.len()
        };
        let good = r#"{"version":1,"counts":{"day":7,"keys":{"write-a":{"events":1,"bytes":2}}}}"#;
        assert_eq!(counted(good, 7 * DAY_MS), 1);
        assert_eq!(counted(good, 8 * DAY_MS), 0);
        assert_eq!(counted(&good.replace("\"version\":1", "\"version\":2"), 7 * DAY_MS), 0);
        assert_eq!(counted(&good[..20], 7 * DAY_MS), 0);
        assert_eq!(counted("", 7 * DAY_MS), 0);
    }
}
