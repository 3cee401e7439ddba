//! Why one event was rejected: a stable code and words.

use std::borrow::Cow;

/// Longest found value that a message shows, in bytes; applied after masking.
const MESSAGE_BYTES_MAX: usize = 300;

/// Why one event was rejected. The message may quote what was sent: it is masked and cut
/// before anybody sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Stable, for programs.
    pub code: &'static str,
    /// What is wrong, naming the field or the limit.
    pub message: Cow<'static, str>,
}

/// Every code a rejected event can have, in the order of the metric's labels.
pub(crate) const CODES: [&str; 10] = [
    SCHEMA_VIOLATION,
    INVALID_JSON,
    INVALID_UTF8,
    EVENT_TOO_LARGE,
    EVENT_TOO_DEEP,
    STRING_TOO_LONG,
    TOO_MANY_PROPERTIES,
    EVENT_TYPE_NOT_ALLOWED,
    USER_ID_INVALID,
    TIMESTAMP_IN_FUTURE,
];

pub(crate) const SCHEMA_VIOLATION: &str = "schema_violation";
pub(crate) const INVALID_JSON: &str = "invalid_json";
pub(crate) const INVALID_UTF8: &str = "invalid_utf8";
pub(crate) const EVENT_TOO_LARGE: &str = "event_too_large";
pub(crate) const EVENT_TOO_DEEP: &str = "event_too_deep";
pub(crate) const STRING_TOO_LONG: &str = "string_too_long";
pub(crate) const TOO_MANY_PROPERTIES: &str = "too_many_properties";
pub(crate) const EVENT_TYPE_NOT_ALLOWED: &str = "event_type_not_allowed";
pub(crate) const USER_ID_INVALID: &str = "user_id_invalid";
pub(crate) const TIMESTAMP_IN_FUTURE: &str = "timestamp_in_future";

impl Refusal {
    pub(crate) fn new(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn schema(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(SCHEMA_VIOLATION, message)
    }
}

/// Cuts a masked message to a length that an answer can carry.
pub(crate) fn cut(message: &str) -> Cow<'_, str> {
    if message.len() <= MESSAGE_BYTES_MAX {
        return Cow::Borrowed(message);
    }
    let end = message.floor_char_boundary(MESSAGE_BYTES_MAX);
    Cow::Owned(format!("{}…", &message[..end]))
}
