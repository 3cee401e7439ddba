//! From a row's columns to an event's fields.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result, bail, ensure};
use nilometer_event::{EventTime, NoTime};
use serde_json::{Map, Number, Value};

use super::rows::Row;
use crate::cli::{ImportArgs, TimeUnit};

/// The fields of an event that a column can become, besides `properties.NAME`.
const FIELDS: [&str; 18] = [
    "event_id",
    "event_type",
    "user_id",
    "anonymous_id",
    "service_name",
    "session_id",
    "timestamp",
    "country",
    "device_type",
    "app_version",
    "content_id",
    "content_category",
    "subscription_tier",
    "cohort",
    "channel",
    "session_duration_sec",
    "completed",
    "properties",
];

/// What becomes of each column.
#[derive(Debug)]
pub(super) struct Mapping {
    /// Column to field.
    columns: HashMap<String, String>,
    drops: HashSet<String>,
    time_unit: TimeUnit,
    event_type: Option<String>,
}

impl Mapping {
    /// # Errors
    ///
    /// A `--map` that is not COLUMN=FIELD or names no field.
    pub(super) fn new(args: &ImportArgs) -> Result<Self> {
        let mut columns = HashMap::new();
        let mut fields = HashSet::new();
        for map in &args.maps {
            let (column, field) = map
                .split_once('=')
                .with_context(|| format!("--map {map}: expected COLUMN=FIELD"))?;
            let is_field = FIELDS.contains(&field)
                || field.strip_prefix("properties.").is_some_and(|name| !name.is_empty());
            if !is_field {
                bail!(
                    "--map {map}: no field {field:?}; fields are {} and properties.NAME",
                    FIELDS.join(", ")
                );
            }
            ensure!(fields.insert(field), "--map {map}: {field} is mapped twice");
            let before = columns.insert(column.to_owned(), field.to_owned());
            ensure!(before.is_none(), "--map {map}: column {column:?} is mapped twice");
        }
        Ok(Self {
            columns,
            drops: args.drops.iter().cloned().collect(),
            time_unit: args.time_unit,
            event_type: args.event_type.clone(),
        })
    }

    /// The event of a row. What cannot be an event is sent as it is, so that the server names
    /// what is wrong and keeps it as a dead letter.
    pub(super) fn event(&self, row: Row, id: String) -> Map<String, Value> {
        let mut event = Map::new();
        let mut properties = Map::new();
        for (column, value) in row {
            if self.drops.contains(&column) || value.is_null() {
                continue;
            }
            let field = match self.columns.get(&column) {
                Some(field) => field.clone(),
                None if FIELDS.contains(&column.as_str()) => column,
                None => format!("properties.{column}"),
            };
            match (field.strip_prefix("properties."), value) {
                (Some(name), value) => {
                    properties.insert(name.to_owned(), value);
                }
                (None, Value::Object(inner)) if field == "properties" => properties.extend(inner),
                (None, value) => {
                    let value = self.typed(&field, value);
                    event.insert(field, value);
                }
            }
        }
        if let Some(event_type) = &self.event_type {
            event.entry("event_type").or_insert_with(|| event_type.clone().into());
        }
        event.entry("event_id").or_insert(Value::String(id));
        if !properties.is_empty() {
            event.insert("properties".to_owned(), properties.into());
        }
        event
    }

    /// Text becomes what the field wants, where it is that; anything else stays as it was.
    fn typed(&self, field: &str, value: Value) -> Value {
        match (field, value) {
            ("timestamp", value) => self.timestamp(value),
            ("session_duration_sec", Value::String(text)) => {
                let number = text.trim().parse().ok().and_then(Number::from_f64);
                number.map_or(Value::String(text), Value::Number)
            }
            ("completed", Value::String(text)) => match text.trim() {
                "true" | "TRUE" | "True" | "1" => true.into(),
                "false" | "FALSE" | "False" | "0" => false.into(),
                _ => text.into(),
            },
            (_, value) => value,
        }
    }

    fn timestamp(&self, value: Value) -> Value {
        let text = match &value {
            Value::String(text) => text.trim().to_owned(),
            Value::Number(number) => number.to_string(),
            _ => return value,
        };
        let scaled = match self.time_unit {
            TimeUnit::Rfc3339 => return value,
            TimeUnit::S => scaled_ms(&text, 1000.0),
            TimeUnit::Ms => scaled_ms(&text, 1.0),
            TimeUnit::Us => scaled_ms(&text, 0.001),
        };
        scaled.map_or(value, Value::from)
    }
}

/// A number of some unit as whole milliseconds, digits past them cut off.
fn scaled_ms(text: &str, ms_per_unit: f64) -> Option<i64> {
    // Whole numbers stay exact beyond 2^53.
    if let Ok(whole) = text.parse::<i64>() {
        return if ms_per_unit >= 1.0 {
            #[expect(clippy::cast_possible_truncation, reason = "1 or 1000")]
            whole.checked_mul(ms_per_unit as i64)
        } else {
            Some(whole.div_euclid(1000))
        };
    }
    let value = text.parse::<f64>().ok()?;
    let ms = (value * ms_per_unit + 1e-6).floor();
    #[expect(clippy::cast_possible_truncation, reason = "checked to be within 2^53")]
    (ms.abs() < 9.0e15).then_some(ms as i64)
}

/// Why the server would refuse this event, as far as can be told here.
pub(super) fn problem(event: &Map<String, Value>) -> Option<&'static str> {
    let is_text = |field: &str| event.get(field).is_some_and(|value| value.is_string());
    match event.get("timestamp") {
        None => return Some("no timestamp: map a column to it"),
        Some(Value::Number(number)) if number.is_i64() => {
            match number.as_i64().map(EventTime::from_given_ms) {
                Some(Err(NoTime::Seconds { .. })) => {
                    return Some("timestamp looks like seconds: see --time-unit");
                }
                Some(Err(NoTime::OutOfYears { .. })) => {
                    return Some("timestamp lies outside the years 1 to 9999: see --time-unit");
                }
                Some(Ok(_)) | None => {}
            }
        }
        Some(Value::String(text)) if EventTime::parse_rfc3339(text).is_some() => {}
        Some(_) => return Some("timestamp is neither RFC 3339 nor epoch: see --time-unit"),
    }
    if !is_text("event_type") {
        return Some("no event_type: map a column to it, or give --event-type");
    }
    let is_id = |field: &str| {
        is_text(field) || event.get(field).is_some_and(|value| value.is_i64() || value.is_u64())
    };
    if !["user_id", "anonymous_id", "service_name"].into_iter().any(is_id) {
        return Some("no user_id, anonymous_id or service_name: map a column to one of them");
    }
    None
}
