//! Files of rows: NDJSON, CSV, TSV; plain, gzip, zstd or zip.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;
use rustix::fs::OFlags;

use super::is_stdin;
use super::rows::{Format, Row, rows};
use crate::progress;

/// Hands every row of the file to `visit`, in order; none has more than `row_bytes_max`.
///
/// # Errors
///
/// A file that cannot be read or is of no known kind, a line that is no row (by its number), or
/// whatever `visit` answers.
pub(super) fn for_each_row(
    path: &Path,
    row_bytes_max: usize,
    visit: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<()> {
    let mut rows =
        |read: &mut dyn Read, format: Format| rows(read, format, row_bytes_max, &mut *visit);
    if is_stdin(path) {
        return rows(&mut io::stdin().lock(), Format::Ndjson);
    }
    let name = path.to_string_lossy().to_lowercase();
    let file = open(path)?;
    let bar = progress::bytes(file.metadata().context("measure the file")?.len());
    bar.set_message("reading");
    if name.ends_with(".zip") {
        zip(file, &bar, rows)?;
    } else {
        let read = bar.wrap_read(file);
        let (name, mut read): (&str, Box<dyn Read>) = if let Some(inner) = name.strip_suffix(".gz")
        {
            (inner, Box::new(flate2::read::MultiGzDecoder::new(read)))
        } else if let Some(inner) = name.strip_suffix(".zst") {
            (inner, Box::new(zstd::Decoder::new(read).context("open as zstd")?))
        } else {
            (&name, Box::new(read))
        };
        rows(&mut read, format_of(name)?)?;
    }
    bar.finish_and_clear();
    Ok(())
}

/// Pipes and devices may never begin, and never end.
fn open(path: &Path) -> Result<File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.context("open the file")?;
    let is_file = file.metadata().context("measure the file")?.is_file();
    ensure!(
        is_file,
        "it is no regular file; NDJSON from a pipe is read by `nilometer import - <…`"
    );
    Ok(file)
}

fn format_of(name: &str) -> Result<Format> {
    match Path::new(name).extension().and_then(|ending| ending.to_str()) {
        Some("csv") => Ok(Format::Separated(b',')),
        Some("tsv") => Ok(Format::Separated(b'\t')),
        Some("ndjson" | "jsonl" | "json") => Ok(Format::Ndjson),
        _ => bail!(
            "{name}: expected a name that ends in .csv, .tsv, .ndjson or .jsonl, and then perhaps \
             in .gz, .zst or .zip"
        ),
    }
}

/// Every file of a zip archive that is of a known kind, in the archive's order.
fn zip(
    file: File,
    bar: &ProgressBar,
    mut rows: impl FnMut(&mut dyn Read, Format) -> Result<()>,
) -> Result<()> {
    let mut archive = zip::ZipArchive::new(file).context("open as zip")?;
    let mut total = 0;
    let mut known = Vec::new();
    for index in 0..archive.len() {
        let entry = archive.by_index(index).context("read the zip directory")?;
        let name = entry.name().to_lowercase();
        // Finder's shadow files are no data.
        if entry.is_file() && !name.starts_with("__macosx/") && format_of(&name).is_ok() {
            total += entry.size();
            known.push(index);
        }
    }
    ensure!(!known.is_empty(), "the zip archive has no .csv, .tsv, .ndjson or .jsonl file");
    bar.set_length(total);
    for index in known {
        let entry = archive.by_index(index).context("open a file of the zip archive")?;
        let format = format_of(&entry.name().to_lowercase())?;
        rows(&mut bar.wrap_read(entry), format)?;
    }
    Ok(())
}
