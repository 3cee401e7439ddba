//! Our own log: stderr, text on a terminal, JSON lines otherwise.

use std::io::IsTerminal;

use anyhow::{Context, Result, ensure};
use tracing_subscriber::EnvFilter;

use crate::config;
use crate::output::BestEffort;

/// What is logged where nothing else is said.
const DEFAULT: &str = "info";
/// Levels that libraries may log at: below these they tell what passes through them.
const QUIET: [&str; 4] = ["off", "error", "warn", "info"];
const LOUD: [&str; 2] = ["debug", "trace"];

/// Starts logging; `RUST_LOG` narrows or widens it.
///
/// # Errors
///
/// A `RUST_LOG` that is no filter; what is logged is then what it would be without.
pub(crate) fn start() -> Result<()> {
    let asked = config::log_filter().and_then(|asked| match asked {
        Some(asked) => filter(&asked).context("RUST_LOG"),
        None => filter(DEFAULT),
    });
    let (filter, started) = match asked {
        Ok(filter) => (filter, Ok(())),
        Err(error) => (filter(DEFAULT)?, Err(error)),
    };
    // The subscriber would tell stderr, by a macro that panics, that stderr cannot be written.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .log_internal_errors(false)
        .with_writer(|| BestEffort(std::io::stderr()));
    if std::io::stderr().is_terminal() {
        builder.with_target(false).compact().init();
    } else {
        builder.json().flatten_event(true).init();
    }
    started
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
