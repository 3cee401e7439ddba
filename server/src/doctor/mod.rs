//! `nilometer doctor`: looks a configuration and a data directory over, and changes neither.

mod checks;
mod report;

use anyhow::{Result, ensure};
use indicatif::ProgressBar;

use self::report::Report;
use crate::cli::DoctorArgs;
use crate::output;

/// Checks everything that can be checked from outside, beside a running server too.
///
/// # Errors
///
/// When anything is wrong; what it is stands in the report on stdout.
pub(crate) fn run(args: &DoctorArgs) -> Result<()> {
    let mut report = Report::default();
    checks::all(&args.sources, &mut report);
    // Whoever reads no further has the verdict in the exit code.
    output::tell(&report.text(args.json)?);
    let wrong = report.wrong();
    ensure!(wrong == 0, "{wrong} {} wrong", if wrong == 1 { "thing is" } else { "things are" });
    Ok(())
}

/// A bar over all bytes that will be read.
fn bar(data_dir: &std::path::Path) -> ProgressBar {
    let parts = ["log", "checkpoints", "rollups"];
    let total = parts.iter().map(|part| folder_bytes(&data_dir.join(part))).sum();
    crate::progress::bytes(total).with_message("checked")
}

fn folder_bytes(folder: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_gone) => 0,
    };
    entries.flatten().map(bytes).sum()
}
