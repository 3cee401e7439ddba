//! A dead letter: one event that was refused, masked, with the reason.

use crate::avro::{self, Reader};
use crate::{DecodeError, EventTime, ReceiveTime};

/// The schema of records on `dlq-events` without a `sent_at`.
pub const DEAD_LETTER_SCHEMA: &str = include_str!("../schemas/dead-letter.avsc");

/// The id of [`DEAD_LETTER_SCHEMA`] in the frame.
pub const DEAD_LETTER_SCHEMA_ID: u32 = 2;

/// The schema of records on `dlq-events` with one: older releases read all others.
pub const SENT_LETTER_SCHEMA: &str = include_str!("../schemas/dead-letter-sent.avsc");

/// The id of [`SENT_LETTER_SCHEMA`] in the frame.
pub const SENT_LETTER_SCHEMA_ID: u32 = 3;

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
}

impl<'a> DeadLetter<'a> {
    /// Appends the framed record to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let schema =
            if self.sent_at.is_some() { SENT_LETTER_SCHEMA_ID } else { DEAD_LETTER_SCHEMA_ID };
        avro::put_frame(out, schema);
        avro::put_long(out, self.received_at.ms());
        avro::put_text(out, self.code);
        avro::put_text(out, self.message);
        avro::put_optional_text(out, self.event_id);
        avro::put_optional_text(out, self.user_key);
        avro::put_optional_text(out, self.event_type);
        avro::put_text(out, self.source);
        avro::put_text(out, self.body);
        if let Some(sent_at) = self.sent_at {
            avro::put_long(out, sent_at.ms());
        }
    }

    /// Reads a framed record.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] where `bytes` are not exactly one dead letter.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let sent = Reader::framed(bytes, SENT_LETTER_SCHEMA_ID);
        let is_sent = sent.is_ok();
        let mut reader = sent.or_else(|_| Reader::framed(bytes, DEAD_LETTER_SCHEMA_ID))?;
        let letter = Self {
            received_at: ReceiveTime::from_ms(reader.long()?),
            code: reader.text()?,
            message: reader.text()?,
            event_id: reader.optional_text()?,
            user_key: reader.optional_text()?,
            event_type: reader.optional_text()?,
            source: reader.text()?,
            body: reader.text()?,
            sent_at: match is_sent {
                true => Some(EventTime::from_ms(reader.long()?)),
                false => None,
            },
        };
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
        };
        let sent = DeadLetter { sent_at: Some(EventTime::from_ms(1_700_000_000_123)), ..letter };
        for (letter, schema, id) in [(letter, DEAD_LETTER_SCHEMA, 2), (sent, SENT_LETTER_SCHEMA, 3)]
        {
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
            let Value::Record(fields) = value else { panic!("a record is one") };
            let last = fields.last().map(|(name, value)| (name.as_str(), value.clone()));
            let sent_at = letter.sent_at.map(|at| ("sent_at", Value::TimestampMillis(at.ms())));
            assert_eq!(last.filter(|(name, _)| *name == "sent_at"), sent_at);
        }
    }
}
