//! Where the events of a body lie: an object, an array, an envelope, or lines.

use std::borrow::Cow;
use std::cell::OnceCell;

use nilometer_event::{EventTime, json};
use thiserror::Error;

use crate::Limits;
use crate::parse::{self, Parsed, full, is_event_field, skip, text_of};
use crate::refusal::{INVALID_JSON, Refusal};

use super::SentAt;

/// How a body holds its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFormat {
    /// One JSON value: an event, an array of events, or an envelope.
    Json,
    /// NDJSON: one event a line; blank lines are no events.
    Lines,
}

impl BodyFormat {
    /// The format of a media type; `None` for an unknown one.
    #[must_use]
    pub fn from_media_type(media_type: &str) -> Option<Self> {
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        match essence.to_ascii_lowercase().as_str() {
            // A beacon cannot always choose: the last two are what browsers send by themselves.
            "application/json"
            | "text/json"
            | "text/plain"
            | "application/x-www-form-urlencoded"
            | "" => Some(Self::Json),
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines" => Some(Self::Lines),
            other if other.starts_with("application/") && other.ends_with("+json") => {
                Some(Self::Json)
            }
            _ => None,
        }
    }
}

/// Why a body was refused whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum FrameError {
    /// No JSON.
    #[error("the body is not JSON: it goes wrong at byte {at}")]
    NotJson { at: usize },
    /// More than one value.
    #[error(
        "the body is one JSON value up to byte {at}, and more comes after it: send several \
         events as an array, or one a line as application/x-ndjson"
    )]
    More { at: usize },
    /// Nothing there.
    #[error("the body is empty")]
    Empty,
    /// Too many events.
    #[error("the body has more than batch_events_max = {max} events")]
    TooMany { max: usize },
}

impl From<skip::NotJson> for FrameError {
    fn from(error: skip::NotJson) -> Self {
        Self::NotJson { at: error.at }
    }
}

/// What a body gives, in order.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, on the stack")]
pub(crate) enum Framed<'a, 's> {
    /// The next event.
    Event(Parsed<'a>, SentAt<'s>),
    /// What was given so far was no event by itself but a part of one, which comes next.
    Again,
}

/// Who takes what a body gives.
type Take<'t, 'a> = &'t mut dyn FnMut(Framed<'a, '_>);

/// A body whose events are handed out one by one.
pub(crate) struct Frames<'a> {
    bytes: &'a [u8],
    text: Option<&'a str>,
    limits: &'a Limits,
    count: usize,
}

impl<'a> Frames<'a> {
    /// Gives every event of the body to `take`, in order.
    ///
    /// # Errors
    ///
    /// [`FrameError`] where the body as a whole cannot be used: drop what was taken.
    pub(crate) fn each(
        body: &'a [u8],
        format: BodyFormat,
        limits: &'a Limits,
        take: Take<'_, 'a>,
    ) -> Result<(), FrameError> {
        let bytes = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        let text = std::str::from_utf8(bytes).ok();
        let mut frames = Self { bytes, text, limits, count: 0 };
        let first = skip::white_space(bytes, 0);
        if first == bytes.len() {
            return Err(FrameError::Empty);
        }
        match format {
            BodyFormat::Lines => frames.lines(take),
            BodyFormat::Json => {
                let end = frames.json(first, take)?;
                let end = skip::white_space(bytes, end);
                if end < bytes.len() { Err(FrameError::More { at: end }) } else { Ok(()) }
            }
        }
    }

    fn json(&mut self, at: usize, take: Take<'_, 'a>) -> Result<usize, FrameError> {
        if self.bytes[at] == b'[' {
            return self.array(at, &|| Ok(None), take);
        }
        if self.bytes[at] == b'{'
            && let Some(text) = self.text
            && let Some((draft, end)) = parse::scan::event(text, at, self.limits)
        {
            self.admit()?;
            let parsed = Parsed { raw: &self.bytes[at..end], verdict: Ok(draft) };
            take(Framed::Event(parsed, &|| Ok(None)));
            return Ok(end);
        }
        if self.bytes[at] == b'{'
            && let Some(end) = self.envelope(at, take)?
        {
            return Ok(end);
        }
        let parsed = parse::value(self.bytes, at, self.text, self.limits)?;
        let end = at + parsed.raw.len();
        self.admit()?;
        take(Framed::Event(parsed, &|| Ok(None)));
        Ok(end)
    }

    /// The array at `at`; every element is an event.
    fn array(
        &mut self,
        at: usize,
        sent_at: SentAt<'_>,
        take: Take<'_, 'a>,
    ) -> Result<usize, FrameError> {
        let mut at = skip::white_space(self.bytes, at + 1);
        if self.bytes.get(at) == Some(&b']') {
            return Ok(at + 1);
        }
        loop {
            let parsed = parse::value(self.bytes, at, self.text, self.limits)?;
            at += parsed.raw.len();
            self.admit()?;
            take(Framed::Event(parsed, sent_at));
            at = skip::white_space(self.bytes, at);
            match self.bytes.get(at) {
                Some(b',') => at = skip::white_space(self.bytes, at + 1),
                Some(b']') => return Ok(at + 1),
                _ => return Err(FrameError::NotJson { at }),
            }
        }
    }

    /// The object at `start`, if it is an envelope (docs/api.md, "Sending events"): its one
    /// member `events` is an array, and it has no `event_type`, nor another field of an event
    /// where that array is empty. Its other members are the client's own business, but for
    /// `sent_at`.
    ///
    /// What comes behind the array may say that the object is an event after all. That is rare:
    /// the events of the array are taken first, and taken back then.
    fn envelope(&mut self, start: usize, take: Take<'_, 'a>) -> Result<Option<usize>, FrameError> {
        let bytes = self.bytes;
        let (mut found, mut has_fields) = (false, false);
        // Looked for once, however many events ask.
        let sent_at = OnceCell::new();
        let mut at = skip::white_space(bytes, start + 1);
        if bytes.get(at) == Some(&b'}') {
            return Ok(None);
        }
        let end = loop {
            let (name, value) = member(bytes, at)?;
            let is_array = bytes.get(value) == Some(&b'[');
            if name == "event_type" || name == "events" && (found || !is_array) {
                return Ok(self.take_back(found, take));
            }
            has_fields |= name != "sent_at" && is_event_field(&name);
            if name == "events" {
                found = true;
                let ask = || sent_at.get_or_init(|| sent_at_of(bytes, start)).clone();
                at = match self.array(value, &ask, take) {
                    Err(error @ FrameError::TooMany { .. }) => {
                        end_within_event(bytes, value)?.ok_or(error)?
                    }
                    outcome => outcome?,
                };
            } else {
                at = skip::value(bytes, value)?.end;
            }
            at = skip::white_space(bytes, at);
            match bytes.get(at) {
                Some(b',') => at = skip::white_space(bytes, at + 1),
                Some(b'}') => break at + 1,
                _ => return Err(FrameError::NotJson { at }),
            }
        };
        if found && !(has_fields && self.count == 0) {
            return Ok(Some(end));
        }
        Ok(self.take_back(found, take))
    }

    /// The object that was begun is an event, and no envelope.
    fn take_back(&mut self, taken: bool, take: Take<'_, 'a>) -> Option<usize> {
        if taken {
            self.count = 0;
            take(Framed::Again);
        }
        None
    }

    fn lines(&mut self, take: Take<'_, 'a>) -> Result<(), FrameError> {
        let mut start = 0;
        while start < self.bytes.len() {
            let rest = &self.bytes[start..];
            let line = &rest[..memchr::memchr(b'\n', rest).unwrap_or(rest.len())];
            let first = start + skip::white_space(line, 0);
            let next = start + line.len() + 1;
            if first < start + line.len() {
                let line = self.bytes[first..start + line.len()].trim_ascii_end();
                let parsed = self.line(line, first);
                self.admit()?;
                take(Framed::Event(parsed, &|| Ok(None)));
            }
            start = next;
        }
        Ok(())
    }

    /// One line, which a broken one does not spoil for the others.
    fn line(&self, line: &'a [u8], first: usize) -> Parsed<'a> {
        let text = self.text.and_then(|text| text.get(first..first + line.len()));
        match parse::value(line, 0, text, self.limits) {
            Ok(parsed) if parsed.raw.len() == line.len() => parsed,
            Ok(parsed) => broken(line, parsed.raw.len()),
            Err(error) => broken(line, error.at),
        }
    }

    const fn admit(&mut self) -> Result<(), FrameError> {
        self.count += 1;
        let max = self.limits.batch_events_max;
        if self.count > max { Err(FrameError::TooMany { max }) } else { Ok(()) }
    }
}

fn broken(line: &[u8], at: usize) -> Parsed<'_> {
    let place = json::fault(line, at);
    // One line is all there is of it.
    let place = place.strip_prefix("line 1, ").unwrap_or(&place);
    let message = format!("the line is not JSON: {place}");
    Parsed { raw: line, verdict: Err(Refusal::new(INVALID_JSON, message)) }
}

/// The end of the array `events` that begins at `at` and has too many elements for an envelope,
/// if a member behind it makes the object an event: events have other limits.
fn end_within_event(bytes: &[u8], at: usize) -> Result<Option<usize>, FrameError> {
    let end = skip::value(bytes, at)?.end;
    let mut at = end;
    loop {
        at = skip::white_space(bytes, at);
        match bytes.get(at) {
            Some(b',') => at = skip::white_space(bytes, at + 1),
            Some(b'}') => return Ok(None),
            _ => return Err(FrameError::NotJson { at }),
        }
        let (name, value) = member(bytes, at)?;
        if name == "event_type" || name == "events" {
            return Ok(Some(end));
        }
        at = skip::value(bytes, value)?.end;
    }
}

/// The member whose name begins at `at`: the name, empty where it is no text, and where the value
/// begins.
fn member(bytes: &[u8], at: usize) -> Result<(Cow<'_, str>, usize), FrameError> {
    if bytes.get(at) != Some(&b'"') {
        return Err(FrameError::NotJson { at });
    }
    let end = skip::string(bytes, at)?;
    let colon = skip::white_space(bytes, end);
    if bytes.get(colon) != Some(&b':') {
        return Err(FrameError::NotJson { at: colon });
    }
    let name = std::str::from_utf8(&bytes[at..end]).ok().and_then(text_of).unwrap_or_default();
    Ok((name, skip::white_space(bytes, colon + 1)))
}

/// The `sent_at` of the envelope that begins at `start`.
///
/// # Errors
///
/// [`Refusal`] where it is no time: then nobody can tell by how much the client's clock is off,
/// and each event of the batch is refused with it.
fn sent_at_of(bytes: &[u8], start: usize) -> Result<Option<EventTime>, Refusal> {
    // Most envelopes have none: found so without walking over their events.
    let rest = &bytes[start..];
    let may_be_written = |how: &[u8]| memchr::memmem::find(rest, how).is_some();
    if !may_be_written(b"\"sent_at\"") && !may_be_written(b"\\u") {
        return Ok(None);
    }
    let mut at = skip::white_space(bytes, start + 1);
    loop {
        let Ok((name, value)) = member(bytes, at) else { return Ok(None) };
        let Ok(shape) = skip::value(bytes, value) else { return Ok(None) };
        let raw = &bytes[value..shape.end];
        if name == "sent_at" && raw != b"null" {
            let raw = String::from_utf8_lossy(raw);
            return full::time_of("sent_at of the envelope", &raw).map(Some);
        }
        at = skip::white_space(bytes, shape.end);
        if bytes.get(at) != Some(&b',') {
            return Ok(None);
        }
        at = skip::white_space(bytes, at + 1);
    }
}

#[cfg(test)]
mod tests;
