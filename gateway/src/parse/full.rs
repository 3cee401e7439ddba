//! The full parser: any event that is JSON, and the words for what is wrong with it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use nilometer_event::{EventTime, NoTime};
use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;

use super::draft::{self, Draft, Name, TextField};
use super::skip::{self, Shape};
use crate::refusal::{
    EVENT_TOO_DEEP, EVENT_TOO_LARGE, INVALID_JSON, INVALID_UTF8, STRING_TOO_LONG,
    TOO_MANY_PROPERTIES,
};
use crate::{Limits, Refusal};

/// Reads one event; `raw` is one JSON value of the given shape.
///
/// # Errors
///
/// [`Refusal`]: the first thing that is wrong, limits before meaning.
pub(crate) fn event<'a>(
    raw: &'a [u8],
    shape: &Shape,
    limits: &Limits,
) -> Result<Draft<'a>, Refusal> {
    within_limits(raw, shape, limits)?;
    let text = std::str::from_utf8(raw).map_err(|invalid| {
        let at = invalid.valid_up_to();
        let message = format!("{}: not UTF-8 at byte {at} of the event", place_of(raw, at));
        Refusal::new(INVALID_UTF8, message)
    })?;
    if shape.lone_surrogate.is_some() {
        return Err(half_a_character(raw));
    }
    if !text.starts_with('{') {
        return Err(Refusal::schema(format!("expected an event (an object), found {text}")));
    }
    let members: Members<'a> =
        serde_json::from_str(text).map_err(|error| not_json("the event", text, &error))?;
    let mut draft = Draft::default();
    let (mut seen, mut unknown) = (0, Vec::new());
    for (name, value) in members.0 {
        match Name::of(&name) {
            None => unknown.push((name, value)),
            Some(known) if seen & known.bit() != 0 => return Err(twice(&name)),
            Some(known) => {
                seen |= known.bit();
                set(&mut draft, known, value, limits)?;
            }
        }
    }
    draft.properties = properties(draft.properties.take(), &unknown, limits)?;
    Ok(draft)
}

fn half_a_character(raw: &[u8]) -> Refusal {
    // In the event's own bytes.
    let at = skip::value(raw, 0).ok().and_then(|shape| shape.lone_surrogate).unwrap_or_default();
    let place = place_of(raw, at);
    Refusal::schema(format!(
        "{place}: half a character (a lone surrogate escape) at byte {at} of the event; send both \
         halves, or U+FFFD in its place"
    ))
}

/// What to call the place at byte `at` of an event, which is JSON but for its encoding, and within
/// its depth: the members that lead there, as in `field properties.a.b`.
fn place_of(raw: &[u8], at: usize) -> String {
    let (mut path, mut value) = (String::new(), 0);
    while let Some((name, inner)) = holder_of(raw, value, at) {
        if let Some(name) = name {
            let dot = if path.is_empty() { "field " } else { "." };
            path.push_str(dot);
            path.push_str(&name);
        }
        value = inner;
    }
    if path.is_empty() { "the event".to_owned() } else { path }
}

/// The member or element, of the value that begins at `start`, that byte `at` lies in: its name,
/// and where its own value begins. `None` for a name of a member.
fn holder_of(raw: &[u8], start: usize, at: usize) -> Option<(Option<String>, usize)> {
    let is_object = match raw.get(start)? {
        b'{' => true,
        b'[' => false,
        _ => return None,
    };
    let mut next = skip::white_space(raw, start + 1);
    while next <= at {
        let (mut name, mut value) = (None, next);
        if is_object {
            let end = skip::string(raw, next).ok()?;
            if at < end {
                return None;
            }
            let text = String::from_utf8_lossy(&raw[next..end]);
            name = Some(text_of(&text).unwrap_or_default().into_owned());
            value = skip::white_space(raw, skip::white_space(raw, end) + 1);
        }
        let end = skip::value(raw, value).ok()?.end;
        if at < end {
            return Some((name, value));
        }
        next = skip::white_space(raw, skip::white_space(raw, end) + 1);
    }
    None
}

fn not_json(what: &str, text: &str, error: &serde_json::Error) -> Refusal {
    let place = nilometer_event::json::fault_of(text.as_bytes(), error);
    Refusal::new(INVALID_JSON, format!("{what} is not JSON: {place}"))
}

fn within_limits(raw: &[u8], shape: &Shape, limits: &Limits) -> Result<(), Refusal> {
    let depth_max = usize::try_from(limits.depth_max).unwrap_or(usize::MAX);
    if raw.len() > limits.event_bytes_max {
        let (bytes, max) = (raw.len(), limits.event_bytes_max);
        let message = format!(
            "the event's size in bytes is {bytes}, over event_bytes_max = {max}; send less in one \
             event, or raise gateway.event_bytes_max"
        );
        return Err(Refusal::new(EVENT_TOO_LARGE, message));
    }
    if shape.depth > depth_max {
        let message = format!(
            "the event's nesting depth is {}, over depth_max = {depth_max}; send the inner part as \
             a text, or raise gateway.depth_max",
            shape.depth
        );
        return Err(Refusal::new(EVENT_TOO_DEEP, message));
    }
    if shape.string_bytes > limits.string_bytes_max {
        let max = limits.string_bytes_max;
        let found = std::str::from_utf8(raw).ok().and_then(|text| long_text(text, max));
        let what = match found {
            Some(Long { field, what, bytes }) if field.is_empty() => {
                format!("the event: {what} of {bytes} bytes")
            }
            Some(Long { field, what, bytes }) => format!("field {field}: {what} of {bytes} bytes"),
            None => format!("the event: a text of {} bytes", shape.string_bytes),
        };
        return Err(too_long(&what, max));
    }
    Ok(())
}

fn too_long(what: &str, max: usize) -> Refusal {
    let message = format!(
        "{what}, over string_bytes_max = {max}; shorten it, or raise gateway.string_bytes_max"
    );
    Refusal::new(STRING_TOO_LONG, message)
}

/// Where a text is over the limit.
struct Long {
    /// The members that lead there, joined by dots.
    field: String,
    what: &'static str,
    bytes: usize,
}

/// The first text of an event that is over `max` bytes; the depth is checked before. `None`
/// where it cannot be told, as in a name of half a character.
fn long_text(text: &str, max: usize) -> Option<Long> {
    let mut field = String::new();
    let mut value = text;
    loop {
        let inner = match value.as_bytes().first()? {
            b'{' => serde_json::from_str::<Members<'_>>(value).ok()?.0,
            b'[' => {
                let items: Vec<&RawValue> = serde_json::from_str(value).ok()?;
                items.into_iter().map(|item| (Cow::Borrowed(""), item)).collect()
            }
            _ => {
                let bytes = longest(value)?;
                return Some(Long { field, what: "a text", bytes });
            }
        };
        let over = |(name, value): &(Cow<'_, str>, &RawValue)| {
            name.len() > max || longest(value.get()).is_some_and(|bytes| bytes > max)
        };
        let (name, next) = inner.into_iter().find(over)?;
        if name.len() > max {
            return Some(Long { field, what: "a name", bytes: name.len() });
        }
        if !field.is_empty() && !name.is_empty() {
            field.push('.');
        }
        field.push_str(&name);
        value = next.get();
    }
}

/// Length of the longest text of a value.
fn longest(value: &str) -> Option<usize> {
    skip::value(value.as_bytes(), 0).ok().map(|shape| shape.string_bytes)
}

fn twice(name: &str) -> Refusal {
    Refusal::schema(format!("field {name}: occurs twice; readers would differ on which counts"))
}

/// Whether an event has a member of that name, known or not.
pub(crate) fn has_member(raw: &[u8], name: &str) -> bool {
    let members = serde_json::from_slice::<Members<'_>>(raw);
    members.is_ok_and(|members| members.0.iter().any(|(member, _)| member == name))
}

fn set<'a>(
    draft: &mut Draft<'a>,
    name: Name,
    value: &'a RawValue,
    limits: &Limits,
) -> Result<(), Refusal> {
    let raw = value.get();
    if raw == "null" {
        return Ok(());
    }
    match name {
        Name::Text(field) if field.is_id() => {
            let id = id_of(raw).ok_or_else(|| expected(field.name(), ID, raw))?;
            if id.len() > limits.string_bytes_max {
                return Err(long_id(field, id.len(), limits));
            }
            draft.texts[field as usize] = Some(id);
        }
        Name::Text(field) => {
            let text = text_of(raw).ok_or_else(|| expected(field.name(), "a string", raw))?;
            draft.texts[field as usize] = Some(text);
        }
        Name::Timestamp => draft.timestamp = Some(time_of("timestamp", raw)?),
        Name::SentAt => draft.sent_at = Some(time_of("sent_at", raw)?),
        Name::SessionDurationSec => {
            let field = "session_duration_sec";
            if !raw.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
                return Err(expected(field, "a number", raw));
            }
            let seconds = draft::duration_of_number(raw);
            let what = "a number from 0 up whose micro-seconds fit 64 bits";
            draft.session_duration_sec = Some(seconds.ok_or_else(|| expected(field, what, raw))?);
        }
        Name::Completed => match raw {
            "true" => draft.completed = Some(true),
            "false" => draft.completed = Some(false),
            _ => return Err(expected("completed", "true or false", raw)),
        },
        Name::Properties if raw.starts_with('{') => draft.properties = Some(Cow::Borrowed(raw)),
        Name::Properties => return Err(expected("properties", "an object", raw)),
    }
    Ok(())
}

fn expected(field: &str, what: &str, found: &str) -> Refusal {
    Refusal::schema(format!("field {field}: expected {what}, found {found}"))
}

/// The text of a JSON string, quotes included; `None` for what is no string.
pub(crate) fn text_of(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(raw).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// What an id can be.
const ID: &str = "a string, or an integer without fraction and exponent";

/// An id: a text, or the text of an integer.
fn id_of(raw: &str) -> Option<Cow<'_, str>> {
    text_of(raw).or_else(|| draft::id_of_number(raw).map(Cow::Borrowed))
}

fn long_id(field: TextField, bytes: usize, limits: &Limits) -> Refusal {
    let what = format!("field {}: a number of {bytes} digits", field.name());
    too_long(&what, limits.string_bytes_max)
}

/// A time as the text of a JSON value.
///
/// # Errors
///
/// [`Refusal`] that names `field`.
pub(crate) fn time_of(field: &str, raw: &str) -> Result<EventTime, Refusal> {
    let time = match text_of(raw) {
        Some(text) => {
            let time = EventTime::parse_rfc3339(&text);
            if time.is_none() && EventTime::is_absent_leap_second(&text) {
                return Err(Refusal::schema(format!(
                    "field {field}: there is no leap second at {text}; there may be one at \
                     23:59:60 UTC of the last day of a month"
                )));
            }
            time
        }
        None => match draft::time_of_number(raw) {
            Some(Err(seconds @ NoTime::Seconds { .. })) => {
                return Err(Refusal::schema(format!("field {field}: {seconds}")));
            }
            Some(Err(NoTime::OutOfYears { .. })) | None => None,
            Some(Ok(time)) => Some(time),
        },
    };
    time.ok_or_else(|| {
        let what = "an RFC 3339 time or epoch milliseconds, of the years 1 to 9999";
        expected(field, what, raw)
    })
}

/// Checks `properties` and moves into it what was unknown at the top level: nothing is lost.
fn properties<'a>(
    sent: Option<Cow<'a, str>>,
    unknown: &[(Cow<'a, str>, &'a RawValue)],
    limits: &Limits,
) -> Result<Option<Cow<'a, str>>, Refusal> {
    let object = sent.as_deref().unwrap_or("{}");
    let mut names = member_names(object)?;
    let count = names.len() + unknown.len();
    if count > limits.properties_max {
        let max = limits.properties_max;
        let message = format!(
            "the event has {count} properties, unknown fields included, over properties_max = \
             {max}; send fewer, or lists and objects of them, or raise gateway.properties_max"
        );
        return Err(Refusal::new(TOO_MANY_PROPERTIES, message));
    }
    if unknown.is_empty() {
        return Ok(sent);
    }
    // A checked object ends with its brace; an empty one may hold white space.
    let mut merged =
        if names.is_empty() { "{".to_owned() } else { object[..object.len() - 1].to_owned() };
    for (name, value) in unknown {
        check_names(value.get())?;
        if !names.insert(Cow::Borrowed(name)) {
            let is_own = unknown.iter().filter(|(other, _)| other == name).count() > 1;
            if is_own {
                return Err(twice(name));
            }
            return Err(Refusal::schema(format!(
                "field {name}: no field of an event, and properties, where it would go, has a \
                 member of this name; rename one of them"
            )));
        }
        if names.len() > 1 {
            merged.push(',');
        }
        let name = serde_json::to_string(name).map_err(|error| {
            Refusal::new(INVALID_JSON, format!("a name cannot be written: {error}"))
        })?;
        merged.push_str(&name);
        merged.push(':');
        merged.push_str(value.get());
    }
    merged.push('}');
    Ok(Some(Cow::Owned(merged)))
}

/// The names of an object's members; every object within has no name twice.
fn member_names(object: &str) -> Result<HashSet<Cow<'_, str>>, Refusal> {
    check_names(object)?;
    let members: Members<'_> =
        serde_json::from_str(object).map_err(|error| not_json("properties", object, &error))?;
    Ok(members.0.into_iter().map(|(name, _)| name).collect())
}

/// Refuses a value in which an object has a name twice: readers would differ on what it says.
pub(super) fn check_names(value: &str) -> Result<(), Refusal> {
    let mut repeated = None;
    let mut deserializer = serde_json::Deserializer::from_str(value);
    let outcome = Names { repeated: &mut repeated }.deserialize(&mut deserializer);
    match (repeated, outcome) {
        (Some(name), _) => Err(Refusal::schema(format!("field properties: {name} occurs twice"))),
        (None, Ok(())) => Ok(()),
        (None, Err(error)) => Err(not_json("properties", value, &error)),
    }
}

/// The members of an object in order, as sent.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// A name, borrowed where it has no escapes.
#[derive(Deserialize)]
struct MemberName<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(MemberName(name)) = map.next_key()? {
                    members.push((name, map.next_value()?));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}

/// Walks a value and notes a name that an object has twice; the depth is checked before.
struct Names<'n> {
    repeated: &'n mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for Names<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        // Numbers go past unread: whether one fits a machine type is not asked in properties.
        let raw: &RawValue = Deserialize::deserialize(deserializer)?;
        match raw.get().as_bytes().first() {
            Some(b'{' | b'[') => {
                let mut inner = serde_json::Deserializer::from_str(raw.get());
                inner.deserialize_any(self).map_err(D::Error::custom)
            }
            _ => Ok(()),
        }
    }
}

impl<'de> Visitor<'de> for Names<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(MemberName(name)) = map.next_key()? {
            if let Some(name) = names.replace(name) {
                *self.repeated = Some(name.into_owned());
                return Err(A::Error::custom("a name occurs twice"));
            }
            map.next_value_seed(Names { repeated: &mut *self.repeated })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(()) = seq.next_element_seed(Names { repeated: &mut *self.repeated })? {}
        Ok(())
    }
}

/// What can be read of a refused event, for its dead letter.
#[derive(Debug, Default)]
pub(crate) struct Glimpse {
    pub(crate) event_id: Option<String>,
    pub(crate) event_type: Option<String>,
    pub(crate) user_id: Option<String>,
    pub(crate) anonymous_id: Option<String>,
    pub(crate) service_name: Option<String>,
}

/// Reads what can be read of a refused event: the first text of each name, up to where its
/// bytes stop being JSON.
pub(crate) fn glimpse(raw: &[u8]) -> Glimpse {
    struct Peek<'g>(&'g mut Glimpse);

    impl<'de> Visitor<'de> for Peek<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some(MemberName(name)) = map.next_key()? {
                let field = TextField::from_name(&name);
                let slot = match field {
                    Some(TextField::EventId) => &mut self.0.event_id,
                    Some(TextField::EventType) => &mut self.0.event_type,
                    Some(TextField::UserId) => &mut self.0.user_id,
                    Some(TextField::AnonymousId) => &mut self.0.anonymous_id,
                    Some(TextField::ServiceName) => &mut self.0.service_name,
                    _ => {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                };
                let raw: &RawValue = map.next_value()?;
                let read = if field.is_some_and(TextField::is_id) { id_of } else { text_of };
                if slot.is_none() {
                    *slot = read(raw.get()).map(Cow::into_owned);
                }
            }
            Ok(())
        }
    }

    let mut glimpse = Glimpse::default();
    if let Ok(text) = std::str::from_utf8(raw) {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        // What was read before an error stays; the error itself was reported already.
        drop(deserializer.deserialize_map(Peek(&mut glimpse)));
    }
    glimpse
}
