//! What clients say over `/v1/live`.

use std::collections::HashMap;

use nilometer_event::json;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::ask::{Ask, AskError, QUERY_BYTES_MAX, has_too_many_members, too_many_members};

/// The shortest interval of a subscription.
pub const INTERVAL_MS_MIN: u64 = 1_000;
/// The longest interval of a subscription.
pub const INTERVAL_MS_MAX: u64 = 30_000;
/// The interval of a subscription that names none.
pub const INTERVAL_MS_DEFAULT: u64 = 10_000;
/// Characters of a subscription's id at most.
const ID_CHARS_MAX: usize = 64;

/// One message of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// Signs in, where the upgrade did not.
    Auth {
        /// A read or admin token.
        token: String,
    },
    /// Follows a query under an id of the client's choice; an id in use is replaced.
    Subscribe {
        /// The client's name for it.
        id: String,
        /// What to follow.
        query: Box<Ask>,
        /// How often.
        interval_ms: u64,
    },
    /// Ends a subscription.
    Unsubscribe {
        /// The client's name for it.
        id: String,
    },
    /// Asks for a pong.
    Ping,
}

/// Why a text is no message; the connection goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageError {
    /// The subscription that was meant, where the message says.
    pub id: Option<String>,
    /// Stable code.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// Names that may have been meant.
    pub near: Vec<String>,
}

impl MessageError {
    fn bad(id: Option<&str>, message: impl Into<String>) -> Self {
        let id = id.map(str::to_owned);
        Self { id, code: "bad_message", message: message.into(), near: Vec::new() }
    }

    fn ask(id: &str, error: AskError) -> Self {
        let message = error.to_string();
        Self { id: Some(id.to_owned()), code: error.code, message, near: error.near }
    }
}

impl ClientMessage {
    /// Reads one message.
    ///
    /// # Errors
    ///
    /// [`MessageError`] where the text is no message; it names the subscription if it can.
    pub fn parse(text: &str) -> Result<Self, MessageError> {
        if has_too_many_members(text.as_bytes()) {
            return Err(MessageError {
                code: "message_too_large",
                ..MessageError::bad(None, too_many_members())
            });
        }
        let value: Value = serde_json::from_str(text).map_err(|error| {
            let place = json::fault_of(text.as_bytes(), &error);
            MessageError::bad(None, format!("the message is not JSON: {place}"))
        })?;
        let id = value.get("id").and_then(Value::as_str).filter(|id| is_id(id));
        if let Some(bytes) = query_bytes(text).filter(|bytes| *bytes > QUERY_BYTES_MAX) {
            let message = format!("the query has {bytes} bytes, and at most {QUERY_BYTES_MAX}");
            return Err(MessageError {
                code: "message_too_large",
                ..MessageError::bad(id, message)
            });
        }
        let kind = value.get("type").and_then(Value::as_str);
        match kind {
            Some("ping") => Ok(Self::Ping),
            Some("auth") => match value.get("token").and_then(Value::as_str) {
                Some(token) => Ok(Self::Auth { token: token.to_owned() }),
                None => Err(MessageError::bad(None, "auth: token is missing")),
            },
            Some("unsubscribe") => Ok(Self::Unsubscribe { id: needed(id)?.to_owned() }),
            Some("subscribe") => Self::subscribe(needed(id)?, &value),
            _ => Err(MessageError::bad(id, "type is none of auth, subscribe, unsubscribe, ping")),
        }
    }

    /// The subscription that is meant.
    pub(super) fn id(&self) -> Option<&str> {
        match self {
            Self::Subscribe { id, .. } | Self::Unsubscribe { id } => Some(id),
            Self::Auth { .. } | Self::Ping => None,
        }
    }

    fn subscribe(id: &str, value: &Value) -> Result<Self, MessageError> {
        let query = value
            .get("query")
            .ok_or_else(|| MessageError::bad(Some(id), "subscribe: query is missing"))?;
        let query = Ask::from_json(query).map_err(|error| MessageError::ask(id, error))?;
        let interval_ms = match value.get("interval_ms") {
            None | Some(Value::Null) => INTERVAL_MS_DEFAULT,
            Some(given) => given
                .as_u64()
                .filter(|ms| (INTERVAL_MS_MIN..=INTERVAL_MS_MAX).contains(ms))
                .ok_or_else(|| {
                    MessageError::bad(
                        Some(id),
                        format!(
                            "interval_ms is not within {INTERVAL_MS_MIN} and {INTERVAL_MS_MAX}"
                        ),
                    )
                })?,
        };
        Ok(Self::Subscribe { id: id.to_owned(), query: Box::new(query), interval_ms })
    }
}

/// The bytes of the query of a message, as `POST /v1/query` counts them: without what stands around
/// it. `None` where there is none, or the whole message is no longer than a query may be.
fn query_bytes(text: &str) -> Option<usize> {
    if text.len() <= QUERY_BYTES_MAX {
        return None;
    }
    let members: HashMap<String, &RawValue> = serde_json::from_str(text).ok()?;
    members.get("query").map(|query| query.get().len())
}

fn is_id(id: &str) -> bool {
    !id.is_empty() && id.chars().count() <= ID_CHARS_MAX
}

fn needed(id: Option<&str>) -> Result<&str, MessageError> {
    id.ok_or_else(|| {
        MessageError::bad(None, format!("id is not a text of 1 to {ID_CHARS_MAX} characters"))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_read_as_the_interface_writes_them() {
        let text =
            r#"{"type":"subscribe","id":"q1","query":{"metrics":["events"]},"interval_ms":1000}"#;
        let Ok(ClientMessage::Subscribe { id, query, interval_ms }) = ClientMessage::parse(text)
        else {
            panic!("no subscription: {:?}", ClientMessage::parse(text))
        };
        assert_eq!((id.as_str(), interval_ms), ("q1", 1_000));
        assert_eq!(query.metrics, ["events"]);
        assert_eq!(ClientMessage::parse(r#"{"type":"ping"}"#), Ok(ClientMessage::Ping));
        let unsubscribe = ClientMessage::parse(r#"{"type":"unsubscribe","id":"q1"}"#);
        assert_eq!(unsubscribe, Ok(ClientMessage::Unsubscribe { id: "q1".to_owned() }));
    }

    #[test]
    fn what_is_wrong_names_the_subscription() {
        let cases = [
            ("", None, "bad_message"),
            ("[]", None, "bad_message"),
            (r#"{"type":"subscribe","query":{}}"#, None, "bad_message"),
            (r#"{"type":"subscribe","id":"a"}"#, Some("a"), "bad_message"),
            (r#"{"type":"subscribe","id":"a","query":{"metrics":[]}}"#, Some("a"), "bad_parameter"),
            (
                r#"{"type":"subscribe","id":"a","query":{"metrix":[]}}"#,
                Some("a"),
                "unknown_parameter",
            ),
            (
                r#"{"type":"subscribe","id":"a","query":{"metrics":["events"]},"interval_ms":999}"#,
                Some("a"),
                "bad_message",
            ),
            (r#"{"type":"dance","id":"a"}"#, Some("a"), "bad_message"),
            (r#"{"type":"auth"}"#, None, "bad_message"),
        ];
        for (text, id, code) in cases {
            let error = ClientMessage::parse(text).unwrap_err();
            assert_eq!((error.id.as_deref(), error.code), (id, code), "{text}");
        }
    }

    #[test]
    fn a_query_may_be_as_long_as_one_in_a_body_whatever_stands_around_it() {
        let subscribe = |bytes: usize, around: &str| {
            let query = r#"{"metrics":["events"],"group_by":[]"#;
            let padding = " ".repeat(bytes - query.len() - 1);
            let query = format!("{query}{padding}}}");
            assert_eq!(query.len(), bytes);
            format!(r#"{{"type":"subscribe","id":"a",{around}"query":{query}{around} }}"#)
        };
        let around = " ".repeat(9_000);
        for around in ["", around.as_str()] {
            let text = subscribe(QUERY_BYTES_MAX, around);
            let read = ClientMessage::parse(&text);
            assert!(matches!(read, Ok(ClientMessage::Subscribe { .. })), "{:?}", read.err());
            let error = ClientMessage::parse(&subscribe(QUERY_BYTES_MAX + 1, around)).unwrap_err();
            assert_eq!((error.id.as_deref(), error.code), (Some("a"), "message_too_large"));
            assert_eq!(error.message, "the query has 1048577 bytes, and at most 1048576");
        }
        // A long message without a query is what it is.
        let ping = format!(r#"{{"type":"ping"{}}}"#, " ".repeat(QUERY_BYTES_MAX));
        assert_eq!(ClientMessage::parse(&ping), Ok(ClientMessage::Ping));
    }

    proptest! {
        #[test]
        fn hostile_messages_never_panic(text in ".{0,300}") {
            drop(ClientMessage::parse(&text));
        }

        #[test]
        fn near_messages_never_panic(
            kind in "(auth|subscribe|unsubscribe|ping)",
            field in "(id|query|interval_ms|token|metrics)",
            value in r#"(null|1|-1|1e99|"x"|\[\]|\{\}|\{"metrics":\["events"\]\}|\[\[\[\[)"#,
        ) {
            drop(ClientMessage::parse(&format!(r#"{{"type":"{kind}","id":"a","{field}":{value}}}"#)));
        }
    }
}
