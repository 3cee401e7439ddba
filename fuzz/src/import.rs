//! Files of history: what `nilometer import` reads of CSV and NDJSON.

use rows::{Format, rows};

use crate::in_time;

#[path = "../../server/src/import/rows.rs"]
mod rows;

/// Longest row that is read.
const ROW_BYTES_MAX: usize = 4 << 10;

/// A file's text, as CSV, as TSV and as lines.
///
/// # Panics
///
/// Where rows hold more than the file does, or one more than it may.
pub fn import(data: &[u8]) {
    for format in [Format::Separated(b','), Format::Separated(b'\t'), Format::Ndjson] {
        let (mut whole, mut longest) = (0, 0);
        let mut take = |row: Vec<(String, serde_json::Value)>| {
            let texts = row.iter().filter_map(|(_, value)| value.as_str()).map(str::len);
            let bytes = texts.sum::<usize>();
            whole += bytes;
            longest = longest.max(bytes);
            anyhow::Ok(())
        };
        // Each row repeats the names of its columns.
        let cost = data.len() + data.len().min(ROW_BYTES_MAX) * 64;
        let done = in_time(cost, || rows(&mut &*data, format, ROW_BYTES_MAX, &mut take));
        assert!(whole <= data.len() && longest <= ROW_BYTES_MAX, "{whole}, {longest}");
        if let Err(error) = done {
            let told = error.to_string().len();
            assert!(told <= 1_024 + ROW_BYTES_MAX * 6, "{told} bytes of words");
        }
    }
}
