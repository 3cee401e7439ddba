//! Confluent-framed Avro: the codec of the hot path, compiled by hand from the schema.
//!
//! A framed record is magic 0, the schema id (4 bytes, big endian) and Avro binary.
//! `apache-avro` is the oracle in the tests.

use thiserror::Error;

use crate::{Event, EventTime, ReceiveTime, TimeCorrection};

/// The schema of records on the event topics that do not tell which key sent them: the house's
/// own, and those of older releases.
pub const USER_EVENT_SCHEMA: &str = include_str!("../schemas/user-event.avsc");

/// The id of [`USER_EVENT_SCHEMA`] in the frame.
pub const SCHEMA_ID: u32 = 1;

/// The schema of records on the event topics that do.
pub const KEYED_EVENT_SCHEMA: &str = include_str!("../schemas/user-event-keyed.avsc");

/// The id of [`KEYED_EVENT_SCHEMA`] in the frame. Dead letters have 2, 3 and 5.
pub const KEYED_SCHEMA_ID: u32 = 4;

/// Bytes of the frame: magic and schema id.
pub const FRAME_BYTES: usize = 5;

/// Why bytes are no record of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end inside a field.
    #[error("record ends inside a field")]
    Short,
    /// The first byte is not 0.
    #[error("record does not begin with the magic byte 0")]
    Magic,
    /// The schema is not one that this reader knows.
    #[error("record has schema id {id}, this reader knows {known:?}")]
    Schema {
        /// Id found.
        id: u32,
        /// Ids that this reader decodes.
        known: &'static [u32],
    },
    /// A varint is longer than 64 bits.
    #[error("record has a number longer than 64 bits")]
    Number,
    /// A union branch or an enumeration that the schema does not have.
    #[error("record has a branch that the schema does not have")]
    Branch,
    /// Text that is not UTF-8.
    #[error("record has text that is not UTF-8")]
    Utf8,
    /// Bytes are left after the last field.
    #[error("record has bytes after its last field")]
    Trailing,
}

/// Appends the framed record of `event` to `out`.
pub fn encode(event: &Event<'_>, out: &mut Vec<u8>) {
    let is_keyed = event.key.is_some() || event.source.is_some() || event.values_max.is_some();
    put_frame(out, if is_keyed { KEYED_SCHEMA_ID } else { SCHEMA_ID });
    put_long(out, event.received_at.ms());
    put_long(out, event.timestamp.ms());
    put_long(out, event.time_correction as i64);
    out.push(u8::from(event.id_derived));
    if is_keyed {
        put_optional_text(out, event.key);
        put_optional_text(out, event.source);
        put_optional_int(out, event.values_max);
    }
    put_long(out, event.sent_timestamp.ms());
    put_text(out, event.event_id);
    put_text(out, event.event_type);
    for text in [
        event.user_id,
        event.anonymous_id,
        event.service_name,
        event.session_id,
        event.country,
        event.device_type,
        event.app_version,
        event.content_id,
        event.content_category,
        event.subscription_tier,
        event.cohort,
        event.channel,
    ] {
        put_optional_text(out, text);
    }
    match event.session_duration_sec {
        None => out.push(0),
        Some(value) => {
            out.push(2);
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
    match event.completed {
        None => out.push(0),
        Some(value) => out.extend_from_slice(&[2, u8::from(value)]),
    }
    put_optional_text(out, event.properties);
}

/// Reads a framed record; strings borrow from `bytes`.
///
/// # Errors
///
/// [`DecodeError`] where `bytes` are not exactly one record of this schema; it never panics.
pub fn decode(bytes: &[u8]) -> Result<Event<'_>, DecodeError> {
    decode_with_sent(bytes).map(|(event, _as_sent)| event)
}

/// As [`decode`], with the part that the client said, the server's stamps cut off: two records
/// of one event as sent have equal bytes there, whenever they were received.
///
/// # Errors
///
/// As [`decode`].
pub fn decode_with_sent(bytes: &[u8]) -> Result<(Event<'_>, &[u8]), DecodeError> {
    let (mut reader, schema) = Reader::framed(bytes, &[SCHEMA_ID, KEYED_SCHEMA_ID])?;
    let received_at = ReceiveTime::from_ms(reader.long()?);
    let timestamp = EventTime::from_ms(reader.long()?);
    let time_correction = reader.time_correction()?;
    let id_derived = reader.boolean()?;
    let sender_start = reader.at;
    let mut sender = [Place::NONE; 2];
    let (mut sender_end, mut values_max) = (sender_start, None);
    if schema == KEYED_SCHEMA_ID {
        for place in &mut sender {
            if reader.is_some()? {
                *place = reader.place()?;
            }
        }
        sender_end = reader.at;
        values_max = reader.optional_int()?;
    }
    let sender_texts = Texts::new(bytes, sender_start, sender_end);
    let as_sent = reader.rest();
    let sent_timestamp = EventTime::from_ms(reader.long()?);
    let texts_start = reader.at;
    let mut places = [Place::NONE; TEXTS];
    for place in &mut places[..REQUIRED_TEXTS] {
        *place = reader.place()?;
    }
    for place in &mut places[REQUIRED_TEXTS..] {
        if reader.is_some()? {
            *place = reader.place()?;
        }
    }
    let texts = Texts::new(bytes, texts_start, reader.at);
    let session_duration_sec = if reader.is_some()? { Some(reader.double()?) } else { None };
    let completed = if reader.is_some()? { Some(reader.boolean()?) } else { None };
    let properties = reader.optional_text()?;
    reader.end()?;
    let [event_id, event_type, optional @ ..] = places;
    let event = Event {
        received_at,
        timestamp,
        time_correction,
        id_derived,
        key: sender_texts.get_optional(sender[0])?,
        source: sender_texts.get_optional(sender[1])?,
        values_max,
        sent_timestamp,
        event_id: texts.get(event_id)?,
        event_type: texts.get(event_type)?,
        user_id: texts.get_optional(optional[0])?,
        anonymous_id: texts.get_optional(optional[1])?,
        service_name: texts.get_optional(optional[2])?,
        session_id: texts.get_optional(optional[3])?,
        country: texts.get_optional(optional[4])?,
        device_type: texts.get_optional(optional[5])?,
        app_version: texts.get_optional(optional[6])?,
        content_id: texts.get_optional(optional[7])?,
        content_category: texts.get_optional(optional[8])?,
        subscription_tier: texts.get_optional(optional[9])?,
        cohort: texts.get_optional(optional[10])?,
        channel: texts.get_optional(optional[11])?,
        session_duration_sec,
        completed,
        properties,
    };
    Ok((event, as_sent))
}

pub(crate) fn put_frame(out: &mut Vec<u8>, schema_id: u32) {
    out.push(0);
    out.extend_from_slice(&schema_id.to_be_bytes());
}

pub(crate) fn put_long(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while zigzag >= 0x80 {
        out.push((zigzag & 0x7f | 0x80).to_le_bytes()[0]);
        zigzag >>= 7;
    }
    out.push(zigzag.to_le_bytes()[0]);
}

pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_long(out, i64::try_from(text.len()).expect("a slice is at most isize::MAX bytes"));
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn put_optional_text(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        None => out.push(0),
        Some(text) => {
            out.push(2);
            put_text(out, text);
        }
    }
}

/// A number of 31 bits, which is all that Avro's `int` has above 0.
fn put_optional_int(out: &mut Vec<u8>, value: Option<u32>) {
    match value {
        None => out.push(0),
        Some(value) => {
            out.push(2);
            put_long(out, i64::from(value.min(i32::MAX.unsigned_abs())));
        }
    }
}

/// As [`DecodeError`], without what only the frame can tell: one byte, so that results with it
/// stay in registers (with a payload each text cost a stalled load, 40 % of decoding).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Short,
    Number,
    Branch,
    Utf8,
    Trailing,
}

impl From<Fault> for DecodeError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Short => Self::Short,
            Fault::Number => Self::Number,
            Fault::Branch => Self::Branch,
            Fault::Utf8 => Self::Utf8,
            Fault::Trailing => Self::Trailing,
        }
    }
}

/// Reads Avro binary from front to back.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Behind the frame, and which of the `known` schemas that names.
    pub(crate) fn framed(
        bytes: &'a [u8],
        known: &'static [u32],
    ) -> Result<(Self, u32), DecodeError> {
        let frame = bytes.first_chunk::<FRAME_BYTES>().ok_or(DecodeError::Short)?;
        if frame[0] != 0 {
            return Err(DecodeError::Magic);
        }
        let id = u32::from_be_bytes([frame[1], frame[2], frame[3], frame[4]]);
        if !known.contains(&id) {
            return Err(DecodeError::Schema { id, known });
        }
        Ok((Self { bytes, at: FRAME_BYTES }, id))
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    #[inline(always)]
    fn byte(&mut self) -> Result<u8, Fault> {
        let byte = *self.bytes.get(self.at).ok_or(Fault::Short)?;
        self.at += 1;
        Ok(byte)
    }

    #[inline(always)]
    pub(crate) fn long(&mut self) -> Result<i64, Fault> {
        if let Some(&byte) = self.bytes.get(self.at)
            && byte < 0x80
        {
            self.at += 1;
            return Ok(i64::from(byte >> 1) ^ -i64::from(byte & 1));
        }
        self.long_of_many_bytes()
    }

    /// Up to 8 bytes, which every time of this age has, are taken at once.
    #[inline]
    fn long_of_many_bytes(&mut self) -> Result<i64, Fault> {
        let Some(chunk) = self.rest().first_chunk::<8>() else { return self.long_byte_by_byte() };
        let word = u64::from_le_bytes(*chunk);
        let ends = !word & 0x8080_8080_8080_8080;
        if ends == 0 {
            return self.long_byte_by_byte();
        }
        // The lowest bit set is the top bit of the last byte.
        let bits = word & (ends ^ (ends - 1));
        // Seven bits of each byte are drawn together: pairs, then fours, then all eight.
        let bits = (bits & 0x007f_007f_007f_007f) | (bits & 0x7f00_7f00_7f00_7f00) >> 1;
        let bits = (bits & 0x0000_3fff_0000_3fff) | (bits & 0x3fff_0000_3fff_0000) >> 2;
        let zigzag = (bits & 0x0000_0000_0fff_ffff) | (bits & 0x0fff_ffff_0000_0000) >> 4;
        self.at += (ends.trailing_zeros() / 8) as usize + 1;
        Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
    }

    fn long_byte_by_byte(&mut self) -> Result<i64, Fault> {
        let mut zigzag = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                return Err(Fault::Number);
            }
            zigzag |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed());
            }
        }
        Err(Fault::Number)
    }

    fn boolean(&mut self) -> Result<bool, Fault> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Fault::Branch),
        }
    }

    fn double(&mut self) -> Result<f64, Fault> {
        let value = self.rest().first_chunk::<8>().ok_or(Fault::Short)?;
        self.at += size_of::<f64>();
        Ok(f64::from_le_bytes(*value))
    }

    fn time_correction(&mut self) -> Result<TimeCorrection, Fault> {
        i32::try_from(self.long()?).ok().and_then(TimeCorrection::from_number).ok_or(Fault::Branch)
    }

    /// Where a text lies; its bytes are not checked.
    #[inline(always)]
    fn place(&mut self) -> Result<Place, Fault> {
        let len = usize::try_from(self.long()?).map_err(|_negative| Fault::Short)?;
        let left = self.bytes.len() - self.at;
        if len > left {
            return Err(Fault::Short);
        }
        let start = self.at;
        self.at += len;
        Ok(Place { start, end: self.at })
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Fault> {
        let Place { start, end } = self.place()?;
        std::str::from_utf8(&self.bytes[start..end]).map_err(|_invalid| Fault::Utf8)
    }

    #[inline(always)]
    pub(crate) fn is_some(&mut self) -> Result<bool, Fault> {
        match self.byte()? {
            0 => Ok(false),
            2 => Ok(true),
            _ => Err(Fault::Branch),
        }
    }

    pub(crate) fn optional_text(&mut self) -> Result<Option<&'a str>, Fault> {
        if self.is_some()? { self.text().map(Some) } else { Ok(None) }
    }

    fn optional_int(&mut self) -> Result<Option<u32>, Fault> {
        if !self.is_some()? {
            return Ok(None);
        }
        let value = i32::try_from(self.long()?).map_err(|_too_long| Fault::Number)?;
        u32::try_from(value).map(Some).map_err(|_negative| Fault::Number)
    }

    pub(crate) fn end(&self) -> Result<(), Fault> {
        if self.at == self.bytes.len() { Ok(()) } else { Err(Fault::Trailing) }
    }
}

/// Texts of a record that follow each other, and how many of them are never null.
const TEXTS: usize = 14;
const REQUIRED_TEXTS: usize = 2;

/// Where a text lies in its record.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: usize,
    end: usize,
}

impl Place {
    /// A text that is null.
    const NONE: Self = Self { start: usize::MAX, end: 0 };
}

/// Texts that follow each other, and the bytes between them: one check of UTF-8 serves them all.
struct Texts<'a> {
    bytes: &'a [u8],
    start: usize,
    /// Lengths below 64 are ASCII, so the whole stretch is UTF-8 nearly always.
    text: Option<&'a str>,
}

impl<'a> Texts<'a> {
    fn new(bytes: &'a [u8], start: usize, end: usize) -> Self {
        Self { bytes, start, text: std::str::from_utf8(&bytes[start..end]).ok() }
    }

    #[inline(always)]
    fn get_optional(&self, place: Place) -> Result<Option<&'a str>, Fault> {
        if place.start == usize::MAX { Ok(None) } else { self.get(place).map(Some) }
    }

    #[inline(always)]
    fn get(&self, Place { start, end }: Place) -> Result<&'a str, Fault> {
        // A stretch of UTF-8 between two bounds of characters is UTF-8.
        match self.text.and_then(|text| text.get(start - self.start..end - self.start)) {
            Some(text) => Ok(text),
            None => std::str::from_utf8(&self.bytes[start..end]).map_err(|_invalid| Fault::Utf8),
        }
    }
}

#[cfg(test)]
mod tests;
