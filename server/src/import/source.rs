//! Files of rows: NDJSON, CSV, TSV; plain, gzip, zstd or zip.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use indicatif::ProgressBar;
use nilometer_event::json;
use rustix::fs::OFlags;
use serde_json::Value;

use super::is_stdin;
use crate::progress;

/// Columns by name, in the file's order; an empty CSV cell is null.
pub(super) type Row = Vec<(String, Value)>;

/// Longest line of an NDJSON file.
const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Ndjson,
    Separated(u8),
}

/// Hands every row of the file to `visit`, in order.
///
/// # Errors
///
/// A file that cannot be read or is of no known kind, a line that is no row (by its number), or
/// whatever `visit` answers.
pub(super) fn for_each_row(path: &Path, visit: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    if is_stdin(path) {
        return rows(&mut std::io::stdin().lock(), Format::Ndjson, visit);
    }
    let name = path.to_string_lossy().to_lowercase();
    let file = open(path)?;
    let bar = progress::bytes(file.metadata().context("measure the file")?.len());
    bar.set_message("reading");
    if name.ends_with(".zip") {
        zip(file, &bar, visit)?;
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
        rows(&mut read, format_of(name)?, visit)?;
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
fn zip(file: File, bar: &ProgressBar, visit: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
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
        rows(&mut bar.wrap_read(entry), format, visit)?;
    }
    Ok(())
}

fn rows(
    read: &mut dyn Read,
    format: Format,
    visit: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<()> {
    match format {
        Format::Ndjson => lines(&mut BufReader::with_capacity(1 << 16, read), visit),
        Format::Separated(separator) => separated(read, separator, visit),
    }
}

fn lines(read: &mut dyn BufRead, visit: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let mut bounded = read.take(LINE_BYTES_MAX as u64 + 1);
        if bounded.read_until(b'\n', &mut line).context("read a line")? == 0 {
            break;
        }
        ensure!(
            line.len() <= LINE_BYTES_MAX,
            "line {number} is longer than {LINE_BYTES_MAX} bytes"
        );
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(Value::Object(fields)) => visit(fields.into_iter().collect())?,
            Ok(other) => bail!("line {number}: expected a JSON object, found {other}"),
            Err(error) => {
                let place = json::fault_of(&line, &error);
                bail!("line {number}, {}", place.strip_prefix("line 1, ").unwrap_or(&place))
            }
        }
    }
    Ok(())
}

fn separated(
    read: &mut dyn Read,
    separator: u8,
    visit: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<()> {
    let mut reader = csv::ReaderBuilder::new().delimiter(separator).from_reader(read);
    let header = reader.headers().map_err(|error| row_fault(&error))?;
    let mut columns: Vec<String> = header.iter().map(str::to_owned).collect();
    if let Some(first) = columns.first_mut() {
        *first = first.trim_start_matches('\u{feff}').to_owned();
    }
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(|error| row_fault(&error))? {
        let cells = columns.iter().zip(record.iter()).map(|(column, cell)| {
            let value = if cell.is_empty() { Value::Null } else { Value::String(cell.to_owned()) };
            (column.clone(), value)
        });
        visit(cells.collect())?;
    }
    Ok(())
}

/// What is wrong with a row, in our words.
fn row_fault(error: &csv::Error) -> anyhow::Error {
    let line = error.position().map_or_else(String::new, |at| format!("line {}: ", at.line()));
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            anyhow!("{line}{len} cells where the header has {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => anyhow!("{line}the text is not UTF-8"),
        csv::ErrorKind::Io(error) => anyhow!("{line}{error}"),
        _ => anyhow!("{line}the row cannot be read"),
    }
}
