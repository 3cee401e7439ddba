//! What the doctor says: one line a check, or JSON.

use std::fmt::Write;

use anyhow::Result;
use serde::Serialize;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// As it should be.
    Ok,
    /// It works and somebody should look.
    Warning,
    /// It does not work.
    Wrong,
    /// Bytes are not as they were written.
    Corrupt,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Wrong => "wrong",
            Self::Corrupt => "corrupt",
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Line {
    pub(super) check: &'static str,
    pub(super) state: State,
    /// The damaged file, relative to the data directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<String>,
    pub(super) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lost_records: Option<u64>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mend: Option<&'static str>,
}

/// Everything that was checked, in the order in which it was.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) checks: Vec<Line>,
}

impl Report {
    /// A check that found nothing.
    pub(super) fn ok(&mut self, check: &'static str, message: impl Into<String>) {
        let (message, state) = (message.into(), State::Ok);
        self.checks.push(Line {
            check,
            state,
            file: None,
            message,
            lost_records: None,
            mend: None,
        });
    }

    /// A check that found something.
    pub(super) fn found(
        &mut self,
        check: &'static str,
        state: State,
        message: impl Into<String>,
        mend: &'static str,
    ) {
        let (message, mend) = (message.into(), Some(mend));
        self.checks.push(Line { check, state, file: None, message, lost_records: None, mend });
    }

    /// Damage in a file.
    pub(super) fn corrupt(
        &mut self,
        check: &'static str,
        finding: nilometer_log::Finding,
        mend: &'static str,
    ) {
        let nilometer_log::Finding { file, reason, lost_records } = finding;
        let (state, file, mend) = (State::Corrupt, Some(file), Some(mend));
        self.checks.push(Line { check, state, file, message: reason, lost_records, mend });
    }

    /// How many lines are not `ok`.
    pub(super) fn wrong(&self) -> usize {
        self.checks.iter().filter(|line| line.state != State::Ok).count()
    }

    /// The report as it is printed.
    pub(super) fn text(&self, as_json: bool) -> Result<String> {
        let mut out = String::new();
        if as_json {
            let healthy = self.wrong() == 0;
            let report = serde_json::json!({ "healthy": healthy, "checks": self.checks });
            writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
            return Ok(out);
        }
        for line in &self.checks {
            let file = line.file.as_ref().map(|file| format!("{file}: ")).unwrap_or_default();
            let lost = match line.lost_records {
                Some(1) => "; 1 record is lost".to_owned(),
                Some(lost) => format!("; {lost} records are lost"),
                None => String::new(),
            };
            let (state, check, message) = (line.state.name(), line.check, &line.message);
            writeln!(out, "{state:<8} {check:<14} {file}{message}{lost}")?;
            if let Some(mend) = line.mend {
                writeln!(out, "{:<23} {mend}", "")?;
            }
        }
        Ok(out)
    }
}
