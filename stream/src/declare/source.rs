//! Where a value comes from: a field of the event, or a path into its properties.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;

use nilometer_event::{Event, Field};
use serde_json::Value;

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

/// One event as declared sources read it; its properties are parsed at the first need.
#[derive(Debug)]
pub struct EventFacts<'a> {
    event: &'a Event<'a>,
    properties: OnceCell<Value>,
}

impl<'a> EventFacts<'a> {
    /// Around an event.
    #[must_use]
    pub const fn new(event: &'a Event<'a>) -> Self {
        Self { event, properties: OnceCell::new() }
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
            Source::Property(path) => match self.property(path)? {
                Value::String(text) => Some(Cow::Borrowed(text)),
                Value::Bool(yes) => Some(Cow::Borrowed(if *yes { "true" } else { "false" })),
                Value::Number(number) => Some(Cow::Owned(number.to_string())),
                Value::Null | Value::Array(_) | Value::Object(_) => None,
            },
        }
    }

    /// The value as a number at `scale` decimal digits, rounded half away from zero; `None`
    /// for what is absent, no number, or does not fit 64 bits.
    #[must_use]
    pub fn scaled(&self, source: &NumberSource, scale: u8) -> Option<i64> {
        let value = match source {
            NumberSource::SessionDuration => self.event.session_duration_sec?,
            NumberSource::Property(path) => match self.property(path)? {
                Value::Number(number) => number.as_f64()?,
                _ => return None,
            },
        };
        scale_up(value, scale)
    }

    fn property(&self, path: &str) -> Option<&Value> {
        let text = self.event.properties?;
        // The gateway checked that it is one JSON object; anything else reads as empty.
        let root =
            self.properties.get_or_init(|| serde_json::from_str(text).unwrap_or(Value::Null));
        path.split('.').try_fold(root, |value, step| value.get(step))
    }
}

/// `value × 10^scale`, rounded half away from zero, where it fits.
fn scale_up(value: f64, scale: u8) -> Option<i64> {
    let scaled = (value * 10_f64.powi(i32::from(scale))).round();
    // 2^63 as a float; its predecessor fits.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    #[expect(clippy::cast_possible_truncation, reason = "integral and within the range of i64")]
    (-LIMIT..LIMIT).contains(&scaled).then_some(scaled as i64)
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
