//! Files of rows: NDJSON, CSV, TSV; plain, gzip, zstd or zip.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
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

/// Columns of a file at most; the server takes no more than some hundred properties of an event.
const COLUMNS_MAX: usize = 4_096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Ndjson,
    Separated(u8),
}

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

fn rows(
    read: &mut dyn Read,
    format: Format,
    row_bytes_max: usize,
    visit: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<()> {
    match format {
        Format::Ndjson => lines(&mut BufReader::with_capacity(1 << 16, read), row_bytes_max, visit),
        Format::Separated(separator) => separated(read, separator, row_bytes_max, visit),
    }
}

fn lines(
    read: &mut dyn BufRead,
    row_bytes_max: usize,
    visit: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<()> {
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let mut bounded = read.take(row_bytes_max as u64 + 1);
        if bounded.read_until(b'\n', &mut line).context("read a line")? == 0 {
            break;
        }
        ensure!(
            line.len() <= row_bytes_max,
            "line {number} has more than {row_bytes_max} bytes; where it is meant, see \
             --row-bytes-max"
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
    row_bytes_max: usize,
    visit: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<()> {
    let left = Cell::new(row_bytes_max);
    let rationed = Rationed { read, left: &left };
    let mut reader = csv::ReaderBuilder::new()
        .buffer_capacity(READ_AHEAD_BYTES)
        .delimiter(separator)
        .from_reader(rationed);
    let fault = |error: &csv::Error, line| row_fault(error, line, row_bytes_max);
    let header = reader.headers().map_err(|error| fault(&error, 1))?;
    ensure!(
        header.len() <= COLUMNS_MAX,
        "the header has {} columns, at most {COLUMNS_MAX} are read: is the separator the right one?",
        header.len()
    );
    let mut columns: Vec<String> = header.iter().map(str::to_owned).collect();
    if let Some(first) = columns.first_mut() {
        *first = first.trim_start_matches('\u{feff}').to_owned();
    }
    let mut record = csv::StringRecord::new();
    loop {
        left.set(row_bytes_max);
        let line = reader.position().line();
        if !reader.read_record(&mut record).map_err(|error| fault(&error, line))? {
            return Ok(());
        }
        // What is read ahead is another row's.
        ensure!(record.as_slice().len() <= row_bytes_max, "{}", too_long(line, row_bytes_max));
        let cells = columns.iter().zip(record.iter()).map(|(column, cell)| {
            let value = if cell.is_empty() { Value::Null } else { Value::String(cell.to_owned()) };
            (column.clone(), value)
        });
        visit(cells.collect())?;
    }
}

/// Bytes that are read ahead of a row.
const READ_AHEAD_BYTES: usize = 64 << 10;

/// Reads for one row no more than its share: else a row without an end is held whole.
struct Rationed<'a> {
    read: &'a mut dyn Read,
    left: &'a Cell<usize>,
}

impl Read for Rationed<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.read.read(into)?;
        match self.left.get().checked_sub(read) {
            Some(left) => self.left.set(left),
            // Of what is read at once a part may be another row's.
            None if self.left.get() > 0 => self.left.set(0),
            None => return Err(io::Error::other(RowTooLong)),
        }
        Ok(read)
    }
}

/// A row has no end within its share.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the row is too long")]
struct RowTooLong;

fn too_long(line: u64, row_bytes_max: usize) -> String {
    format!(
        "line {line}: the row that begins here has more than {row_bytes_max} bytes; close the \
         quote that it opens, or see --row-bytes-max where it is meant"
    )
}

/// What is wrong with a row, in our words.
fn row_fault(error: &csv::Error, began: u64, row_bytes_max: usize) -> anyhow::Error {
    let line = error.position().map_or_else(String::new, |at| format!("line {}: ", at.line()));
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            anyhow!("{line}{len} cells where the header has {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => anyhow!("{line}the text is not UTF-8"),
        csv::ErrorKind::Io(error) if error.get_ref().is_some_and(|it| it.is::<RowTooLong>()) => {
            anyhow!(too_long(began, row_bytes_max))
        }
        csv::ErrorKind::Io(error) => anyhow!("{line}{error}"),
        _ => anyhow!("{line}the row cannot be read"),
    }
}
