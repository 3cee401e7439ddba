//! Rows of a dimension table from what an administrator sends: CSV or NDJSON, key first.

use nilometer_event::json;
use serde_json::value::RawValue;

use super::Rows;
use crate::error::DimensionTableError;

/// Reads CSV with a header line; an empty value is a missing one.
///
/// # Errors
///
/// [`DimensionTableError`] naming the row, and [`DimensionTableError::TooManyRows`] past
/// `rows_max`.
pub fn parse_csv(body: &[u8], rows_max: u64) -> Result<Rows, DimensionTableError> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(body);
    let malformed = |row: usize, error: &csv::Error| DimensionTableError::Malformed {
        row,
        reason: match error.kind() {
            csv::ErrorKind::Utf8 { .. } => "the text is not UTF-8".to_owned(),
            _ => "the line is no CSV".to_owned(),
        },
    };
    let header = reader.headers().map_err(|error| malformed(0, &error))?;
    check_columns(header.len())?;
    let mut rows = Rows { columns: header.iter().map(str::to_owned).collect(), rows: Vec::new() };
    for (index, record) in reader.records().enumerate() {
        let record = record.map_err(|error| malformed(index + 1, &error))?;
        let row = record.iter().map(|value| (!value.is_empty()).then(|| value.to_owned()));
        push(&mut rows, row.collect(), rows_max)?;
    }
    Ok(rows)
}

/// Reads one JSON object a line; the first key of the first line names the key column. Values
/// are text or null, of the key column also integers, for ids may be such; a line may leave
/// columns out.
///
/// # Errors
///
/// As [`parse_csv`].
pub fn parse_ndjson(body: &[u8], rows_max: u64) -> Result<Rows, DimensionTableError> {
    let mut rows = Rows::default();
    let lines = body.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    for (index, line) in lines.enumerate() {
        let number = index + 1;
        let object: Ordered<'_> = serde_json::from_slice(line).map_err(|error| {
            let reason = if error.is_data() {
                "expected an object, as in {\"user_id\":\"u-1\",\"cohort\":\"a\"}".to_owned()
            } else {
                let place = json::fault_of(line, &error);
                format!("not JSON: {}", place.strip_prefix("line 1, ").unwrap_or(&place))
            };
            DimensionTableError::Malformed { row: number, reason }
        })?;
        let mut row: Vec<Option<String>> = vec![None; rows.columns.len()];
        for (column, value) in object.0 {
            let at = column_index(&mut rows, &column);
            check_columns(rows.columns.len())?;
            if row.len() <= at {
                row.resize(at + 1, None);
            }
            let id = if at == 0 { integer(value) } else { None };
            row[at] = if id.is_some() { id } else { text(value, number, &column)? };
        }
        push(&mut rows, row, rows_max)?;
    }
    let width = rows.columns.len();
    for row in &mut rows.rows {
        row.resize(width, None);
    }
    Ok(rows)
}

fn column_index(rows: &mut Rows, column: &str) -> usize {
    rows.columns.iter().position(|known| known == column).unwrap_or_else(|| {
        rows.columns.push(column.to_owned());
        rows.columns.len() - 1
    })
}

/// The text of a plain integer, exactly, as events have it for an id.
fn integer(value: &RawValue) -> Option<String> {
    let text = value.get();
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && text != "-0";
    plain.then(|| text.to_owned())
}

fn text(value: &RawValue, row: usize, column: &str) -> Result<Option<String>, DimensionTableError> {
    let text = value.get();
    let found = match text.as_bytes().first() {
        Some(b'"') => {
            return serde_json::from_str(text).map(Some).map_err(|error| {
                let place = json::fault_of(text.as_bytes(), &error);
                DimensionTableError::Malformed {
                    row,
                    reason: format!("column {column:?}: {place}"),
                }
            });
        }
        Some(b'n') => return Ok(None),
        Some(b't' | b'f') => "a boolean",
        Some(b'[') => "an array",
        Some(b'{') => "an object",
        // Also one that no machine holds.
        _ => "a number",
    };
    Err(DimensionTableError::NotText { row, column: column.to_owned(), found: found.to_owned() })
}

fn push(
    rows: &mut Rows,
    row: Vec<Option<String>>,
    rows_max: u64,
) -> Result<(), DimensionTableError> {
    if u64::try_from(rows.rows.len()).is_ok_and(|len| len >= rows_max) {
        return Err(DimensionTableError::TooManyRows { rows_max });
    }
    rows.rows.push(row);
    Ok(())
}

/// Before anything is made of them: a line may name a million.
const fn check_columns(columns: usize) -> Result<(), DimensionTableError> {
    if columns <= super::COLUMNS_MAX {
        return Ok(());
    }
    Err(DimensionTableError::TooManyColumns { columns, columns_max: super::COLUMNS_MAX })
}

/// A JSON object with its keys in the order in which they stand: the first is the key column.
struct Ordered<'a>(Vec<(String, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Ordered<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Ordered<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Ordered<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}
