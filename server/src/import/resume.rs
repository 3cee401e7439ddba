//! Remembers how far an import has come, so that a stopped one goes on where it was.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::is_stdin;
use crate::config;

/// Rows `[first_row, next_row)` are acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    pub(super) first_row: u64,
    pub(super) next_row: u64,
}

/// The state file of one import. It is a convenience: without it everything is sent again and
/// counts once all the same.
#[derive(Debug)]
pub(super) struct Resume {
    path: Option<PathBuf>,
    rows_done: u64,
    /// Acknowledged ahead of rows that are not: first row to next row.
    ahead: BTreeMap<u64, u64>,
}

impl Resume {
    /// # Errors
    ///
    /// When the file cannot be measured.
    pub(super) fn open(url: &str, name: &str, file: &Path, restart: bool) -> Result<Self> {
        let path = if is_stdin(file) { None } else { state_path(url, name, file)? };
        let written = path.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        let rows_done = match written.and_then(|text| text.trim().parse().ok()) {
            Some(rows) if !restart => rows,
            _ => 0,
        };
        Ok(Self { path, rows_done, ahead: BTreeMap::new() })
    }

    /// Rows from the beginning that are acknowledged.
    pub(super) const fn rows_done(&self) -> u64 {
        self.rows_done
    }

    /// # Errors
    ///
    /// When the state cannot be written.
    pub(super) fn done(&mut self, progress: Progress) -> Result<()> {
        self.ahead.insert(progress.first_row, progress.next_row);
        let before = self.rows_done;
        while let Some(next) = self.ahead.remove(&self.rows_done) {
            self.rows_done = next;
        }
        match &self.path {
            Some(path) if self.rows_done != before => {
                std::fs::write(path, self.rows_done.to_string())
                    .with_context(|| format!("write {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// The import is complete: the next one of the same file begins at its beginning.
    ///
    /// # Errors
    ///
    /// When the state cannot be removed.
    pub(super) fn finish(self) -> Result<()> {
        match self.path {
            Some(path) if path.exists() => {
                std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// One state per server, import and version of the file.
fn state_path(url: &str, name: &str, file: &Path) -> Result<Option<PathBuf>> {
    let Some(folder) = config::state_dir().map(|dir| dir.join("imports")) else {
        return Ok(None);
    };
    if let Err(error) = std::fs::create_dir_all(&folder) {
        tracing::warn!(%error, "import cannot be resumed: no place for its state");
        return Ok(None);
    }
    let absolute = file.canonicalize().context("find the file")?;
    let metadata = absolute.metadata().context("measure the file")?;
    let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let identity =
        format!("{url}\0{name}\0{}\0{}\0{changed:?}", absolute.display(), metadata.len());
    let mut file_name = String::new();
    for byte in &Sha256::digest(identity.as_bytes())[..12] {
        write!(file_name, "{byte:02x}").context("name the state")?;
    }
    Ok(Some(folder.join(file_name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_without_a_gap_before_them_are_done() {
        let mut resume = Resume { path: None, rows_done: 0, ahead: BTreeMap::new() };
        resume.done(Progress { first_row: 10, next_row: 20 }).unwrap();
        assert_eq!(resume.rows_done(), 0);
        resume.done(Progress { first_row: 0, next_row: 10 }).unwrap();
        assert_eq!(resume.rows_done(), 20);
    }
}
