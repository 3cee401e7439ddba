//! A dead letter: one event that was refused, masked, with the reason.

use crate::avro::{self, Reader};
use crate::{DecodeError, EventTime, ReceiveTime};

/// The schema of records on `dlq-events` without a `sent_at`.
pub const DEAD_LETTER_SCHEMA: &str = include_str!("../schemas/dead-letter.avsc");

/// The id of [`DEAD_LETTER_SCHEMA`] in the frame.
pub const DEAD_LETTER_SCHEMA_ID: u32 = 2;

/// The schema of records on `dlq-events` with one.
pub const SENT_LETTER_SCHEMA: &str = include_str!("../schemas/dead-letter-sent.avsc");

/// The id of [`SENT_LETTER_SCHEMA`] in the frame.
pub const SENT_LETTER_SCHEMA_ID: u32 = 3;

/// The schema of records on `dlq-events` that tell which key sent the event.
pub const KEYED_LETTER_SCHEMA: &str = include_str!("../schemas/dead-letter-keyed.avsc");

/// The id of [`KEYED_LETTER_SCHEMA`] in the frame.
pub const KEYED_LETTER_SCHEMA_ID: u32 = 5;

/// One refused event. Strings borrow from the request or from the record's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetter<'a> {
    /// When it was refused.
    pub received_at: ReceiveTime,
    /// Stable reason: `schema_violation`, `event_too_large`, …
    pub code: &'a str,
    /// The reason in words, masked.
    pub message: &'a str,
    /// The client's id, where one could be read.
    pub event_id: Option<&'a str>,
    /// Whose it is, where that could be read; masked.
    pub user_key: Option<&'a str>,
    /// Its type, where that could be read; masked.
    pub event_type: Option<&'a str>,
    /// `events`, or `imports/NAME`.
    pub source: &'a str,
    /// The event's text as sent, masked, cut at the event size limit.
    pub body: &'a str,
    /// When its envelope said that it was sent: what its clock is judged by once more where the
    /// letter is replayed.
    pub sent_at: Option<EventTime>,
    /// The id of the key that sent it, and goes on sending it where the letter is replayed;
    /// `None` for the house itself, and in letters of releases that did not keep it.
    pub key: Option<&'a str>,
    /// The key's source; `None` for the default one.
    pub key_source: Option<&'a str>,
}

impl<'a> DeadLetter<'a> {
    /// Appends the framed record to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let is_keyed = self.key.is_some() || self.key_source.is_some();
        let schema = match self.sent_at {
            _ if is_keyed => KEYED_LETTER_SCHEMA_ID,
            Some(_) => SENT_LETTER_SCHEMA_ID,
            None => DEAD_LETTER_SCHEMA_ID,
        };
        avro::put_frame(out, schema);
        avro::put_long(out, self.received_at.ms());
        avro::put_text(out, self.code);
        avro::put_text(out, self.message);
        avro::put_optional_text(out, self.event_id);
        avro::put_optional_text(out, self.user_key);
        avro::put_optional_text(out, self.event_type);
        avro::put_text(out, self.source);
        avro::put_text(out, self.body);
        if is_keyed {
            out.push(if self.sent_at.is_some() { 2 } else { 0 });
        }
        if let Some(sent_at) = self.sent_at {
            avro::put_long(out, sent_at.ms());
        }
        if is_keyed {
            avro::put_optional_text(out, self.key);
            avro::put_optional_text(out, self.key_source);
        }
    }

    /// Reads a framed record.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] where `bytes` are not exactly one dead letter.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let known = &[DEAD_LETTER_SCHEMA_ID, SENT_LETTER_SCHEMA_ID, KEYED_LETTER_SCHEMA_ID];
        let (mut reader, schema) = Reader::framed(bytes, known)?;
        let is_keyed = schema == KEYED_LETTER_SCHEMA_ID;
        let mut letter = Self {
            received_at: ReceiveTime::from_ms(reader.long()?),
            code: reader.text()?,
            message: reader.text()?,
            event_id: reader.optional_text()?,
            user_key: reader.optional_text()?,
            event_type: reader.optional_text()?,
            source: reader.text()?,
            body: reader.text()?,
            sent_at: None,
            key: None,
            key_source: None,
        };
        if schema == SENT_LETTER_SCHEMA_ID || (is_keyed && reader.is_some()?) {
            letter.sent_at = Some(EventTime::from_ms(reader.long()?));
        }
        if is_keyed {
            letter.key = reader.optional_text()?;
            letter.key_source = reader.optional_text()?;
        }
        reader.end()?;
        Ok(letter)
    }
}

#[cfg(test)]
mod tests {
    use apache_avro::reader::datum::GenericDatumReader;
    use apache_avro::types::Value;
    use apache_avro::{Schema, from_value};
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Oracle {
        code: String,
        event_id: Option<String>,
        body: String,
        #[serde(default)]
        key: Option<String>,
        #[serde(default)]
        key_source: Option<String>,
    }

    #[test]
    fn a_letter_reads_back_here_and_in_apache_avro() {
        let letter = DeadLetter {
            received_at: ReceiveTime::from_ms(1_700_000_000_000),
            code: "schema_violation",
            message: "field country: expected text, found 7",
            event_id: Some("e-1"),
            user_key: None,
            event_type: Some("play"),
            source: "imports/old",
            body: "{\"country\":7}",
            sent_at: None,
            key: None,
            key_source: None,
        };
        let sent = DeadLetter { sent_at: Some(EventTime::from_ms(1_700_000_000_123)), ..letter };
        for (letter, schema, id) in [
            (letter, DEAD_LETTER_SCHEMA, 2),
            (sent, SENT_LETTER_SCHEMA, 3),
            (DeadLetter { key: Some("write-1"), ..letter }, KEYED_LETTER_SCHEMA, 5),
            (DeadLetter { key_source: Some("spam"), ..sent }, KEYED_LETTER_SCHEMA, 5),
        ] {
            let mut bytes = Vec::new();
            letter.encode(&mut bytes);
            assert_eq!(bytes[..avro::FRAME_BYTES], [0, 0, 0, 0, id]);
            assert_eq!(DeadLetter::decode(&bytes), Ok(letter));

            let schema = Schema::parse_str(schema).unwrap();
            let reader = GenericDatumReader::builder(&schema).build().unwrap();
            let mut rest = &bytes[avro::FRAME_BYTES..];
            let value = reader.read_value(&mut rest).unwrap();
            assert!(rest.is_empty());
            let oracle: Oracle = from_value(&value).unwrap();
            assert_eq!(oracle.code, letter.code);
            assert_eq!(oracle.event_id.as_deref(), letter.event_id);
            assert_eq!(oracle.body, letter.body);
            assert_eq!(oracle.key.as_deref(), letter.key);
            assert_eq!(oracle.key_source.as_deref(), letter.key_source);
            let Value::Record(fields) = value else { panic!("a record is one") };
            let sent_at = fields.into_iter().find(|(name, _)| *name == "sent_at");
            let sent_at = match sent_at.map(|(_, value)| value) {
                Some(Value::Union(_, inner)) => Some(*inner).filter(|inner| *inner != Value::Null),
                plain => plain,
            };
            assert_eq!(sent_at, letter.sent_at.map(|at| Value::TimestampMillis(at.ms())));
        }
    }
}
