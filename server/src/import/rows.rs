//! Rows of a text: NDJSON, CSV, TSV. The fuzz target `import` reads them, too.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nilometer_event::json;
use serde_json::Value;

/// Columns by name, in the file's order; an empty CSV cell is null.
pub(super) type Row = Vec<(String, Value)>;

/// Columns of a file at most; the server takes no more than some hundred properties of an event.
const COLUMNS_MAX: usize = 4_096;

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Ndjson,
    Separated(u8),
}

/// Hands every row of the text to `visit`, in order.
pub(super) fn rows(
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
