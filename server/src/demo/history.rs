//! How far a demo's folder has its history: it is filled in once, whatever interrupts it.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nilometer_log::{Disk, RealDisk, write_atomically};
use serde::{Deserialize, Serialize};

use super::{Crowd, DAY_MS, HEAD_MS};

const FILE: &str = "demo.json";
const VERSION: u32 = 1;

/// The history that the first start in a folder was asked for, in chunks that are the same at
/// every start: one that was sent in part is sent again, and its events are repeats.
#[derive(Debug)]
pub(super) struct History {
    data_dir: PathBuf,
    text: Text,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    version: u32,
    crowd: Crowd,
    days: u32,
    /// When the folder was first started: history ends here.
    began_ms: i64,
    /// Everything from here to the end is in.
    filled_ms: i64,
}

/// Whether nothing was ever counted in this folder.
pub(super) fn is_new(data_dir: &Path) -> bool {
    !data_dir.join("log").exists()
}

impl History {
    /// Of a folder that is started for the first time.
    ///
    /// # Errors
    ///
    /// When the disk does not keep it.
    pub(super) fn begin(data_dir: &Path, crowd: Crowd, days: u32, now_ms: i64) -> Result<Self> {
        let text = Text { version: VERSION, crowd, days, began_ms: now_ms, filled_ms: now_ms };
        let history = Self { data_dir: data_dir.to_owned(), text };
        history.keep()?;
        Ok(history)
    }

    /// Of a folder that was started before; `None` where that was no demo.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub(super) fn read(data_dir: &Path) -> Result<Option<Self>> {
        let path = data_dir.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let disk = RealDisk::open(data_dir).context("open the demo's folder")?;
        let bytes = disk.read(FILE).with_context(|| format!("read {}", path.display()))?;
        let text: Text = serde_json::from_slice(&bytes).with_context(|| {
            format!("{} is corrupt; without it the demo goes on from now", path.display())
        })?;
        ensure!(text.version == VERSION, "{FILE} has version {}, not {VERSION}", text.version);
        Ok(Some(Self { data_dir: data_dir.to_owned(), text }))
    }

    pub(super) const fn crowd(&self) -> Crowd {
        self.text.crowd
    }

    pub(super) const fn began_ms(&self) -> i64 {
        self.text.began_ms
    }

    /// Where the last hours begin, which come first.
    pub(super) fn head_ms(&self) -> i64 {
        self.text.began_ms - HEAD_MS.min(self.length_ms())
    }

    /// What is to be sent next: the last hours, then day by day backwards.
    pub(super) fn next_chunk(&self) -> Option<Range<i64>> {
        let (begins_ms, head_ms) = (self.text.began_ms - self.length_ms(), self.head_ms());
        let end = self.text.filled_ms;
        let start = if end > head_ms { head_ms } else { (end - DAY_MS).max(begins_ms) };
        (start < end).then_some(start..end)
    }

    /// The chunk is in.
    ///
    /// # Errors
    ///
    /// When the disk does not keep it.
    pub(super) fn filled(&mut self, chunk: &Range<i64>) -> Result<()> {
        self.text.filled_ms = chunk.start;
        self.keep()
    }

    fn length_ms(&self) -> i64 {
        i64::from(self.text.days) * DAY_MS
    }

    fn keep(&self) -> Result<()> {
        let disk = RealDisk::open(&self.data_dir).context("open the demo's folder")?;
        let text = serde_json::to_vec_pretty(&self.text).context("write the demo's history")?;
        write_atomically(&disk, FILE, &text).with_context(|| format!("write {FILE}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CROWD: Crowd = Crowd { users: 10, rate: 1.0, seed: 3 };

    #[test]
    fn chunks_cover_the_history_once_however_often_it_is_started() {
        for days in [0, 1, 2, 7] {
            let folder = tempfile::tempdir().unwrap();
            let began_ms = 1_795_000_000_123;
            let mut history = History::begin(folder.path(), CROWD, days, began_ms).unwrap();
            let mut end_ms = began_ms;
            while let Some(chunk) = history.next_chunk() {
                // Interrupted: the next start sends the same chunk.
                history = History::read(folder.path()).unwrap().unwrap();
                assert_eq!(history.next_chunk(), Some(chunk.clone()));
                assert_eq!(chunk.end, end_ms);
                end_ms = chunk.start;
                history.filled(&chunk).unwrap();
                history = History::read(folder.path()).unwrap().unwrap();
            }
            assert_eq!(end_ms, began_ms - i64::from(days) * DAY_MS, "{days} days");
            assert_eq!((history.crowd(), history.began_ms()), (CROWD, began_ms));
        }
    }

    #[test]
    fn a_folder_without_a_demo_has_no_history_and_a_damaged_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(History::read(folder.path()).unwrap().is_none());
        assert!(is_new(folder.path()));
        std::fs::create_dir(folder.path().join("log")).unwrap();
        assert!(!is_new(folder.path()));
        std::fs::write(folder.path().join(FILE), "{}").unwrap();
        assert!(History::read(folder.path()).unwrap_err().to_string().contains("corrupt"));
    }
}
