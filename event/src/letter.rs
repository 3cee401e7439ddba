//! A dead letter: one event that was refused, masked, with the reason.

use crate::avro::{self, Reader};
use crate::{DecodeError, ReceiveTime};

/// The schema of records on `dlq-events`.
pub const DEAD_LETTER_SCHEMA: &str = include_str!("../schemas/dead-letter.avsc");

/// The id of [`DEAD_LETTER_SCHEMA`] in the frame.
pub const DEAD_LETTER_SCHEMA_ID: u32 = 2;

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
}

impl<'a> DeadLetter<'a> {
    /// Appends the framed record to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        avro::put_frame(out, DEAD_LETTER_SCHEMA_ID);
        avro::put_long(out, self.received_at.ms());
        avro::put_text(out, self.code);
        avro::put_text(out, self.message);
        avro::put_optional_text(out, self.event_id);
        avro::put_optional_text(out, self.user_key);
        avro::put_optional_text(out, self.event_type);
        avro::put_text(out, self.source);
        avro::put_text(out, self.body);
    }

    /// Reads a framed record.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] where `bytes` are not exactly one dead letter.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::framed(bytes, DEAD_LETTER_SCHEMA_ID)?;
        let letter = Self {
            received_at: ReceiveTime::from_ms(reader.long()?),
            code: reader.text()?,
            message: reader.text()?,
            event_id: reader.optional_text()?,
            user_key: reader.optional_text()?,
            event_type: reader.optional_text()?,
            source: reader.text()?,
            body: reader.text()?,
        };
        reader.end()?;
        Ok(letter)
    }
}

#[cfg(test)]
mod tests {
    use apache_avro::reader::datum::GenericDatumReader;
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
        };
        let mut bytes = Vec::new();
        letter.encode(&mut bytes);
        assert_eq!(DeadLetter::decode(&bytes), Ok(letter));

        let schema = Schema::parse_str(DEAD_LETTER_SCHEMA).unwrap();
        let reader = GenericDatumReader::builder(&schema).build().unwrap();
        let value = reader.read_value(&mut &bytes[avro::FRAME_BYTES..]).unwrap();
        let oracle: Oracle = from_value(&value).unwrap();
        assert_eq!(oracle.code, letter.code);
        assert_eq!(oracle.event_id.as_deref(), letter.event_id);
        assert_eq!(oracle.body, letter.body);
    }
}
