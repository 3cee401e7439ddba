//! What we say: answers on stdout, logs on stderr. A reader who is gone ends no server and no task.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::legible::legible_lines;

/// How long a server waits for the reader of what it prints.
const PATIENCE: Duration = Duration::from_secs(5);

/// Nobody reads the answer any more. A command that only answers ends with it, quietly and well.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("nobody reads the output")]
pub(crate) struct ReaderGone;

/// Writes an answer to stdout, whole.
///
/// # Errors
///
/// [`ReaderGone`] where stdout is a pipe that nobody reads; else what the system says.
pub(crate) fn answer(text: &str) -> Result<()> {
    answer_to(&mut io::stdout().lock(), text)
}

/// Writes an answer for whoever is there: the work behind it is done, or goes on without.
pub(crate) fn tell(text: &str) {
    forgive(answer(text));
}

/// The same, by a server.
pub(crate) async fn tell_in_time(text: String) {
    forgive(in_time(move || answer(&text)).await);
}

fn forgive(written: Result<()>) {
    if let Err(error) = written
        && !error.is::<ReaderGone>()
    {
        tracing::warn!("an answer was not written: {error:#}");
    }
}

/// Shows what is shown once: somebody has to be able to see it.
///
/// # Errors
///
/// What the system says, and where stdout is closed, thrown away or read by nobody.
pub(crate) fn show(text: &str) -> Result<()> {
    ensure!(!is_thrown_away(&io::stdout()), "stdout is closed or /dev/null");
    answer(text).map_err(|error| anyhow!("stdout: {error:#}"))
}

/// The same, by a server.
///
/// # Errors
///
/// As [`show`], and where the reader is stuck.
pub(crate) async fn show_in_time(text: String) -> Result<()> {
    in_time(move || show(&text)).await
}

/// On a thread that is left behind where the reader is stuck.
async fn in_time(write: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    match tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(write)).await {
        Ok(written) => written.context("write to stdout")?,
        Err(_elapsed) => bail!("stdout: nobody read it for {} s", PATIENCE.as_secs()),
    }
}

/// Whether a person reads our answers.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

fn answer_to(out: &mut impl Write, text: &str) -> Result<()> {
    match out.write_all(legible_lines(text).as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        done => done.context("write to stdout"),
    }
}

/// The standard library opens /dev/null in the place of a closed stdout.
fn is_thrown_away(out: &impl std::os::fd::AsFd) -> bool {
    let (Ok(out), Ok(null)) = (rustix::fs::fstat(out), std::fs::metadata("/dev/null")) else {
        return false;
    };
    out.st_rdev == null.rdev() && out.st_mode & 0o170_000 == null.mode() & 0o170_000
}

/// A writer that takes everything: what cannot be written is lost, and nobody dies of it.
#[derive(Debug)]
pub(crate) struct BestEffort<W>(pub(crate) W);

impl<W: Write> Write for BestEffort<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        drop(self.0.write_all(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        drop(self.0.flush());
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A pipe whose reader is gone.
    pub(crate) fn closed() -> io::PipeWriter {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        writer
    }

    #[test]
    fn a_reader_who_is_gone_is_told_from_a_disk_that_is_full() {
        assert!(answer_to(&mut closed(), "x").unwrap_err().is::<ReaderGone>());
        let mut full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert!(!answer_to(&mut full, "x").unwrap_err().is::<ReaderGone>());
        let mut taken = Vec::new();
        answer_to(&mut taken, "x").unwrap();
        assert_eq!(taken, b"x");
    }

    #[test]
    fn only_the_null_device_throws_away() {
        let null = std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
        assert!(is_thrown_away(&null));
        assert!(!is_thrown_away(&closed()));
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert!(!is_thrown_away(&full));
        assert!(!is_thrown_away(&tempfile::tempfile().unwrap()));
    }

    #[test]
    fn a_log_line_that_cannot_be_written_is_lost_without_a_word() {
        let mut log = BestEffort(closed());
        assert!(log.write_all(b"line\n").is_ok() && log.flush().is_ok());
    }
}
