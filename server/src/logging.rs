//! Our own log: stderr, text on a terminal, JSON lines otherwise.

mod lines;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use self::lines::Lines;
use crate::config;
use crate::legible::{LegibleLog, legible_lines};
use crate::output::BestEffort;

/// What a server logs, until stderr takes it.
static LINES: Lines = Lines::new(LINES_BYTES_MAX);
/// Lines that find this much waiting are lost.
const LINES_BYTES_MAX: usize = 1 << 20;
/// How long the end waits for what is still to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// What is logged where nothing else is said.
const DEFAULT: &str = "info";
/// Levels that libraries may log at: below these they tell what passes through them.
const QUIET: [&str; 4] = ["off", "error", "warn", "info"];
const LOUD: [&str; 2] = ["debug", "trace"];

/// Starts logging; `RUST_LOG` narrows or widens it. A command waits for the reader of its stderr,
/// as commands do. Who `serves` others does not: one thread writes, and what it cannot keep up with
/// is lost.
///
/// # Errors
///
/// A `RUST_LOG` that is no filter; what is logged is then what it would be without. Where the
/// thread cannot be started, whoever logs writes.
pub(crate) fn start(serves: bool) -> Result<()> {
    let asked = config::log_filter().and_then(|asked| match asked {
        Some(asked) => filter(&asked).context("RUST_LOG"),
        None => filter(DEFAULT),
    });
    let (filter, started) = match asked {
        Ok(filter) => (filter, Ok(())),
        Err(error) => (filter(DEFAULT)?, Err(error)),
    };
    let writing = if serves { start_writing() } else { Ok(()) };
    let writer = if serves && writing.is_ok() {
        BoxMakeWriter::new(|| LegibleLog(&LINES))
    } else {
        BoxMakeWriter::new(|| LegibleLog(BestEffort(io::stderr())))
    };
    // The subscriber would tell stderr, by a macro that panics, that stderr cannot be written.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .log_internal_errors(false)
        .with_writer(writer);
    if io::stderr().is_terminal() {
        builder.with_target(false).compact().init();
    } else {
        builder.json().flatten_event(true).init();
    }
    started.and(writing)
}

/// From here on nobody else may write to stderr: the thread holds it while its reader is stuck.
fn start_writing() -> Result<()> {
    std::thread::Builder::new()
        .name("log-lines".to_owned())
        .spawn(write_lines)
        .context("start the thread that writes the log")?;
    std::panic::set_hook(Box::new(tell_panic));
    Ok(())
}

/// Ends with the process.
fn write_lines() {
    loop {
        LINES.write_next(&mut io::stderr(), |lost| {
            tracing::warn!(lost, "log lines were lost: nobody took them in time");
        });
    }
}

/// In the standard library's words, whatever the filter says; its own hook waits for the reader.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("<unnamed>");
    let mut text = format!("\nthread '{thread}' {panic}\n");
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        text += &backtrace.to_string();
    }
    LINES.push(legible_lines(&text).as_bytes());
}

/// Waits a moment until what was logged is written.
pub(crate) fn flush() {
    LINES.flush(FLUSH_TIMEOUT);
}

/// Lines of a server's log that nobody will read.
pub(crate) fn lines_lost() -> u64 {
    LINES.lost()
}

/// At the end of the process, however it comes, what was said last is written.
#[derive(Debug)]
pub(crate) struct FlushAtEnd;

impl Drop for FlushAtEnd {
    fn drop(&mut self) {
        flush();
    }
}

/// A level, or `target=level`, or several of them. A level by itself is Nilometer's: libraries
/// log no more than `info` unless they are named, for they would log what clients send.
fn filter(text: &str) -> Result<EnvFilter> {
    let mut parts = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (target, level) = part.rsplit_once('=').unwrap_or(("", part));
        let level = level.to_ascii_lowercase();
        let is_loud = LOUD.contains(&level.as_str());
        let is_target = |letter: char| letter.is_ascii_alphanumeric() || "_:-".contains(letter);
        ensure!(
            (is_loud || QUIET.contains(&level.as_str()))
                && target.chars().all(is_target)
                && target.is_empty() != part.contains('='),
            "{part:?} is no log filter; expected a level ({}, {}) or TARGET=LEVEL, several with \
             commas: \"info,nilometer_stream=debug\"",
            QUIET.join(", "),
            LOUD.join(", ")
        );
        match (target, is_loud) {
            ("", false) => parts.push(level),
            ("", true) => parts.extend([DEFAULT.to_owned(), format!("nilometer={level}")]),
            _ => parts.push(format!("{target}={level}")),
        }
    }
    EnvFilter::builder().parse(parts.join(",")).context("compile the log filter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_ours_and_a_library_is_loud_only_by_name() {
        let cases = [
            ("info", "info"),
            ("WARN", "warn"),
            ("debug", "nilometer=debug,info"),
            ("warn, nilometer_stream=debug,", "nilometer_stream=debug,warn"),
            ("debug,hyper=trace", "hyper=trace,nilometer=debug,info"),
            ("nilometer::serve=off", "nilometer::serve=off"),
        ];
        for (asked, meant) in cases {
            let split = |text: &str| {
                let mut parts: Vec<_> = text.split(',').map(str::to_owned).collect();
                parts.sort();
                parts
            };
            let got = filter(asked).unwrap().to_string();
            assert_eq!(split(&got), split(meant), "{asked}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused_by_its_part() {
        for asked in ["foo=bar=baz", "debgu", "info,hyper", "a=b", "=debug", "x[y]=info", "info=1"]
        {
            let error = filter(asked).unwrap_err().to_string();
            let part = asked.split(',').next_back().unwrap();
            assert!(error.contains(&format!("{part:?} is no log filter")), "{error}");
            assert!(error.contains("info,nilometer_stream=debug"), "{error}");
        }
    }
}
