//! Where a value comes from: a field of the event, or a path into its properties.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;

use nilometer_event::{Event, Field};
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Number, Value};
use smallvec::SmallVec;

use super::decimal;
use super::raw::NumberRules;

/// A text value of an event: a dimension, a filter's subject, what a top-k counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A field of the event.
    Field(Field),
    /// Whether the content was seen to its end: `true` or `false`.
    Completed,
    /// A path into properties, its steps joined by dots.
    Property(Box<str>),
}

/// A number of an event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NumberSource {
    /// [`Event::session_duration_sec`]
    SessionDuration,
    /// A path into properties, its steps joined by dots.
    Property(Box<str>),
}

const PROPERTIES: &str = "properties.";

fn property(text: &str) -> Option<Box<str>> {
    let path = text.strip_prefix(PROPERTIES)?;
    (!path.is_empty() && path.split('.').all(|step| !step.is_empty())).then(|| path.into())
}

impl Source {
    /// From `country`, `completed` or `properties.plan`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "completed" {
            return Some(Self::Completed);
        }
        Field::from_name(text).map(Self::Field).or_else(|| property(text).map(Self::Property))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(field) => f.write_str(field.name()),
            Self::Completed => f.write_str("completed"),
            Self::Property(path) => write!(f, "{PROPERTIES}{path}"),
        }
    }
}

impl NumberSource {
    /// From `session_duration_sec` or `properties.price`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "session_duration_sec" {
            return Some(Self::SessionDuration);
        }
        property(text).map(Self::Property)
    }
}

impl fmt::Display for NumberSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SessionDuration => f.write_str("session_duration_sec"),
            Self::Property(path) => write!(f, "{PROPERTIES}{path}"),
        }
    }
}

/// What an event says where a number is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberReading {
    /// Nothing.
    Absent,
    /// A number, at the scale that was asked for.
    Value(i128),
    /// Something that is no number, or does not fit.
    Unread,
}

/// One event as declared sources read it; its properties are parsed at the first need.
#[derive(Debug)]
pub struct EventFacts<'a> {
    event: &'a Event<'a>,
    members: OnceCell<Members<'a>>,
    /// The properties as one value, by the rules of before.
    whole: OnceCell<Value>,
    numbers: NumberRules,
}

/// The members of an object in order, each with its value as it was sent.
type Members<'t> = SmallVec<[(Cow<'t, str>, &'t str); 8]>;

impl<'a> EventFacts<'a> {
    /// Around an event whose properties are read by the newest rules, or not at all.
    #[must_use]
    pub const fn new(event: &'a Event<'a>) -> Self {
        Self::by(event, NumberRules::Alone)
    }

    /// Around an event whose properties are read by these rules.
    #[must_use]
    pub const fn by(event: &'a Event<'a>, numbers: NumberRules) -> Self {
        Self { event, members: OnceCell::new(), whole: OnceCell::new(), numbers }
    }

    /// The event.
    #[must_use]
    pub const fn event(&self) -> &'a Event<'a> {
        self.event
    }

    /// The value as text; numbers and booleans of properties as JSON writes them. `None` for
    /// what is absent, null, an array or an object.
    #[must_use]
    pub fn text(&self, source: &Source) -> Option<Cow<'_, str>> {
        match source {
            Source::Field(field) => self.event.text(*field).map(Cow::Borrowed),
            Source::Completed => {
                self.event.completed.map(|yes| Cow::Borrowed(if yes { "true" } else { "false" }))
            }
            Source::Property(path) if self.numbers == NumberRules::Alone => {
                text_of(self.sent(path)?)
            }
            Source::Property(path) => match self.property(path)? {
                Value::String(text) => Some(Cow::Borrowed(text)),
                Value::Bool(yes) => Some(Cow::Borrowed(if *yes { "true" } else { "false" })),
                Value::Number(number) => Some(Cow::Owned(number.to_string())),
                Value::Null | Value::Array(_) | Value::Object(_) => None,
            },
        }
    }

    /// The value as a number at `scale` decimal digits, rounded half away from zero.
    #[must_use]
    pub fn number(&self, source: &NumberSource, scale: u8) -> NumberReading {
        match (source, self.numbers) {
            (NumberSource::SessionDuration, rules) => match self.event.session_duration_sec {
                None => NumberReading::Absent,
                Some(seconds) => read(scale_up(seconds, scale, rules)),
            },
            (NumberSource::Property(path), NumberRules::Doubles) => match self.property(path) {
                None | Some(Value::Null) => NumberReading::Absent,
                Some(Value::Number(number)) => {
                    read(number.as_f64().and_then(|value| scale_up(value, scale, self.numbers)))
                }
                Some(_) => NumberReading::Unread,
            },
            (NumberSource::Property(path), NumberRules::Digits | NumberRules::Alone) => {
                match self.sent(path) {
                    None | Some("null") => NumberReading::Absent,
                    Some(text) if is_number(text) => read(decimal::scaled(text, scale)),
                    Some(_) => NumberReading::Unread,
                }
            }
        }
    }

    /// The value at a path into the properties, as it was sent.
    fn sent(&self, path: &str) -> Option<&'a str> {
        let properties = self.event.properties?;
        let (first, deeper) = match path.split_once('.') {
            Some((first, deeper)) => (first, Some(deeper)),
            None => (path, None),
        };
        // Several sources read one event: its properties are gone through once.
        let value = member(self.members.get_or_init(|| members(properties)), first)?;
        let mut steps = deeper.into_iter().flat_map(|deeper| deeper.split('.'));
        steps.try_fold(value, |value, step| member(&members(value), step))
    }

    fn property(&self, path: &str) -> Option<&Value> {
        let text = self.event.properties?;
        // The gateway checked that it is one JSON object; anything else reads as empty.
        let root = self.whole.get_or_init(|| serde_json::from_str(text).unwrap_or(Value::Null));
        path.split('.').try_fold(root, |value, step| value.get(step))
    }
}

fn is_number(value: &str) -> bool {
    value.starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

/// A JSON value as text; `None` for null, arrays and objects.
fn text_of(value: &str) -> Option<Cow<'_, str>> {
    match value.as_bytes().first()? {
        b'"' => serde_json::from_str(value).ok().map(|Text(text)| text),
        b't' | b'f' => Some(Cow::Borrowed(value)),
        _ if is_number(value) => Some(text_of_number(value)),
        _ => None,
    }
}

/// A number in one form, however it was written: 1.50 is 1.5. What machines do not hold, or an
/// integer that they round, is its digits as they were sent.
fn text_of_number(number: &str) -> Cow<'_, str> {
    let is_integer = !number.contains(['.', 'e', 'E']);
    match serde_json::from_str::<Number>(number) {
        Ok(held) if !(is_integer && held.is_f64()) => Cow::Owned(held.to_string()),
        _ => Cow::Borrowed(number),
    }
}

fn read(value: Option<i128>) -> NumberReading {
    value.map_or(NumberReading::Unread, NumberReading::Value)
}

/// `value × 10^scale`, rounded half away from zero, where it fits.
fn scale_up(value: f64, scale: u8, rules: NumberRules) -> Option<i128> {
    let scaled = (value * 10_f64.powi(i32::from(scale))).round();
    // 2^63 and 2^127 as floats; their predecessors fit.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    const WIDE_LIMIT: f64 = LIMIT * LIMIT * 2.0;
    #[expect(clippy::cast_possible_truncation, reason = "integral and within the range")]
    if (-LIMIT..LIMIT).contains(&scaled) {
        Some(i128::from(scaled as i64))
    } else if rules != NumberRules::Doubles && scaled.abs() < WIDE_LIMIT {
        Some(scaled as i128)
    } else {
        None
    }
}

/// The value of a member; the last one of its name, as a parser of the whole would keep it.
fn member<'t>(members: &Members<'t>, name: &str) -> Option<&'t str> {
    members.iter().rev().find(|(own, _)| own == name).map(|&(_, value)| value)
}

/// The members of the text of an object; what is none has no members.
fn members(object: &str) -> Members<'_> {
    let mut deserializer = serde_json::Deserializer::from_str(object);
    deserializer.deserialize_map(MembersVisitor).unwrap_or_default()
}

struct MembersVisitor;

/// A text, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Text<'t>(#[serde(borrow)] Cow<'t, str>);

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Members::new();
        while let Some(Text(name)) = map.next_key()? {
            members.push((name, map.next_value::<&'de RawValue>()?.get()));
        }
        Ok(members)
    }
}

/// Names of event types; they compare without regard to case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TypeList(Vec<String>);

impl TypeList {
    /// From names in any case and order.
    #[must_use]
    pub fn new(names: &[String]) -> Self {
        let mut names: Vec<_> = names.iter().map(|name| name.to_lowercase()).collect();
        names.sort_unstable();
        names.dedup();
        Self(names)
    }

    /// True where the list names this type.
    #[must_use]
    pub fn contains(&self, event_type: &str) -> bool {
        self.0.iter().any(|name| same_type(name, event_type))
    }

    /// The names, in lower case and ascending.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }
}

/// True where `event_type` is `lower` but for its case.
pub(super) fn same_type(lower: &str, event_type: &str) -> bool {
    lower.eq_ignore_ascii_case(event_type)
        || (!event_type.is_ascii() && lower == event_type.to_lowercase())
}
