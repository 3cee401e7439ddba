//! A question written as JSON: the same names; lists may be arrays or comma-separated text.

use nilometer_event::EventTime;
use serde_json::{Map, Value};

use super::params::{comma_separated, once};
use super::{Ask, AskError, Draft, Filter, Member, Order, PARAMETERS, span::check_moment};

impl Ask {
    /// Reads a JSON object.
    ///
    /// `metrics`, `group_by` and `order_by` are text or arrays of text; `filter` is text or an
    /// array of text as in a URL, or an object of `{"dimension": value-or-array}` in which null is
    /// null and text is literal; moments are text or numbers.
    ///
    /// # Errors
    ///
    /// [`AskError`] naming the field that is unknown or wrong.
    pub fn from_json(value: &Value) -> Result<Self, AskError> {
        let Value::Object(fields) = value else {
            return Err(AskError::bad("query", "is not a JSON object"));
        };
        let mut draft = Draft::default();
        for (name, value) in fields {
            draft.take_json(name, value)?;
        }
        draft.finish()
    }
}

impl Draft {
    fn take_json(&mut self, name: &str, value: &Value) -> Result<(), AskError> {
        match (name, value) {
            (known, Value::Null) if PARAMETERS.contains(&known) => Ok(()),
            ("metrics", _) => extend_names(name, value, &mut self.metrics),
            ("group_by", _) => extend_names(name, value, &mut self.group_by),
            ("order_by", _) => {
                let mut names = Vec::new();
                extend_names(name, value, &mut names)?;
                self.order_by.extend(names.iter().map(|text| Order::parse(text)));
                Ok(())
            }
            ("filter", Value::Object(filters)) => self.take_filters(filters),
            ("filter", Value::Array(filters)) => {
                for filter in filters {
                    self.filters.push(Filter::parse(text_of(name, filter)?)?);
                }
                Ok(())
            }
            ("from", Value::Number(_)) => once(name, &mut self.from, moment_of(name, value)?),
            ("to", Value::Number(_)) => once(name, &mut self.to, moment_of(name, value)?),
            ("limit", Value::Number(number)) => {
                let limit = number.as_u64().and_then(|limit| usize::try_from(limit).ok());
                let limit = limit.ok_or_else(|| AskError::bad(name, "is not a whole number"))?;
                once(name, &mut self.limit, limit)
            }
            _ => {
                if !PARAMETERS.contains(&name) {
                    return Err(AskError::unknown_parameter(name, &PARAMETERS));
                }
                self.take(name, text_of(name, value)?)
            }
        }
    }

    fn take_filters(&mut self, filters: &Map<String, Value>) -> Result<(), AskError> {
        for (dimension, value) in filters {
            let values = match value {
                Value::Array(values) => {
                    values.iter().map(filter_value).collect::<Result<_, _>>()?
                }
                single => vec![filter_value(single)?],
            };
            self.filters.push(Filter { dimension: dimension.clone(), values });
        }
        Ok(())
    }
}

fn filter_value(value: &Value) -> Result<Member, AskError> {
    match value {
        Value::Null => Ok(Member::Null),
        Value::String(text) => Ok(Member::from_shown(text)),
        _ => Err(AskError::bad("filter", "has a value that is neither text nor null")),
    }
}

fn extend_names(name: &str, value: &Value, names: &mut Vec<String>) -> Result<(), AskError> {
    match value {
        Value::Array(values) => {
            for value in values {
                names.push(text_of(name, value)?.to_owned());
            }
        }
        _ => names.extend(comma_separated(text_of(name, value)?)),
    }
    Ok(())
}

fn text_of<'a>(name: &str, value: &'a Value) -> Result<&'a str, AskError> {
    value.as_str().ok_or_else(|| AskError::bad(name, "is not text"))
}

fn moment_of(name: &str, value: &Value) -> Result<EventTime, AskError> {
    let ms = value
        .as_i64()
        .ok_or_else(|| AskError::bad(name, "is not a whole number of milliseconds"))?;
    check_moment(name, EventTime::from_ms(ms))
}
