//! A question written as JSON: the same names; lists may be arrays or comma-separated text.

use nilometer_event::EventTime;
use serde_json::{Map, Number, Value};

use super::filter::{Pattern, Rule};
use super::params::{comma_separated, once};
use super::{Ask, AskError, Draft, Filter, Member, Order, PARAMETERS, span::moment_of_number};

/// Members of a question's JSON at most: the tree that they become is far larger than the text.
/// That is sixty times the values that filters may have.
const MEMBERS_MAX: usize = 1 << 16;

/// Whether the tree of this JSON would be larger than any question needs; by its punctuation, that
/// within texts included.
pub(crate) fn has_too_many_members(json: &[u8]) -> bool {
    json.len() > MEMBERS_MAX
        && json.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count() > MEMBERS_MAX
}

/// As it is said to whoever sent it.
pub(crate) fn too_many_members() -> String {
    format!("the JSON has more than {MEMBERS_MAX} members; no question needs as many")
}

impl Ask {
    /// Reads a JSON object.
    ///
    /// `metrics`, `group_by` and `order_by` are text or arrays of text; `filter` is text or an
    /// array of text as in a URL, or an object of dimensions in which null is null and text is
    /// literal: `{"country": ["DE", null], "plan": {"not": ["free"]}, "path": {"prefix": "/shop"}}`.
    /// An object may hold `in`, `not` and `prefix` together; a value anywhere may be a
    /// `{"prefix": …}`. Moments are text or numbers.
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
                let limit = whole(number).and_then(|limit| usize::try_from(limit).ok());
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
            let mut rule = Rule::default();
            match value {
                Value::Object(parts) if !parts.is_empty() => {
                    for (name, value) in parts {
                        take_part(&mut rule, name, value)?;
                    }
                }
                values => take_values(&mut rule, values, false)?,
            }
            self.filters.push(Filter { dimension: dimension.clone(), rule });
        }
        Ok(())
    }
}

fn take_part(rule: &mut Rule, name: &str, value: &Value) -> Result<(), AskError> {
    match name {
        "in" => take_values(rule, value, false),
        "not" => take_values(rule, value, true),
        "prefix" => take_prefixes(rule, value, false),
        _ => {
            let name: String = name.chars().take(64).collect();
            Err(AskError::bad("filter", format!("{name:?} is none of in, not, prefix")))
        }
    }
}

/// One value or an array of them.
fn take_values(rule: &mut Rule, value: &Value, is_not: bool) -> Result<(), AskError> {
    match value {
        Value::Array(values) => {
            // An empty list admits nothing, and leaves out nothing.
            if !is_not {
                rule.any_of.get_or_insert_default();
            }
            values.iter().try_for_each(|value| take_value(rule, value, is_not))
        }
        single => take_value(rule, single, is_not),
    }
}

fn take_value(rule: &mut Rule, value: &Value, is_not: bool) -> Result<(), AskError> {
    match value {
        Value::Null => rule.take(Pattern::Member(Member::Null), is_not),
        Value::String(text) => rule.take(Pattern::Member(Member::from_shown(text)), is_not),
        Value::Object(parts) if parts.len() == 1 && parts.contains_key("prefix") => {
            take_prefixes(rule, &parts["prefix"], is_not)
        }
        _ => Err(AskError::bad(
            "filter",
            "has a value that is neither text nor null nor {\"prefix\": text}",
        )),
    }
}

/// One text or an array of them.
fn take_prefixes(rule: &mut Rule, value: &Value, is_not: bool) -> Result<(), AskError> {
    let prefixes = match value {
        Value::Array(prefixes) => prefixes.as_slice(),
        single => std::slice::from_ref(single),
    };
    for prefix in prefixes {
        let text = prefix.as_str();
        let text = text.ok_or_else(|| AskError::bad("filter", "has a prefix that is not text"))?;
        rule.take(Pattern::Prefix(text.into()), is_not)?;
    }
    Ok(())
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

/// A whole number, which JSON may write as `100.0` too.
fn whole(number: &Number) -> Option<i64> {
    let written = || {
        let float = number.as_f64().filter(|float| float.fract() == 0.0)?;
        format!("{float:.0}").parse().ok()
    };
    number.as_i64().or_else(written)
}

fn moment_of(name: &str, value: &Value) -> Result<EventTime, AskError> {
    let ms = value
        .as_number()
        .and_then(whole)
        .ok_or_else(|| AskError::bad(name, "is not a whole number of milliseconds"))?;
    moment_of_number(name, ms)
}
