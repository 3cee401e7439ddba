//! The fast parser: a straight loop over the shape that nearly every event has.
//!
//! It knows the schema, borrows everything and says no more than "this I know" or "ask the
//! full parser": unknown fields, escapes in fields, wrong types and anything over a limit are
//! the full parser's. Both give the same draft for the same bytes; a property test compares.

use std::borrow::Cow;

use nilometer_event::EventTime;

use super::draft::{self, Draft, Name};
use super::{full, skip};
use crate::Limits;

/// Members of `properties` whose names are compared pair by pair; more are the full parser's.
const NAMES_MAX: usize = 24;

/// Reads the event that begins at `at`; gives the draft and the byte after it.
pub(crate) fn event<'a>(text: &'a str, at: usize, limits: &Limits) -> Option<(Draft<'a>, usize)> {
    let mut scan = Scan { text, bytes: text.as_bytes(), at, limits };
    let draft = scan.event()?;
    let small = scan.at - at <= limits.event_bytes_max;
    small.then_some((draft, scan.at))
}

struct Scan<'a, 'l> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    limits: &'l Limits,
}

impl<'a> Scan<'a, '_> {
    fn event(&mut self) -> Option<Draft<'a>> {
        let mut draft = Draft::default();
        let mut seen = 0;
        self.expect(b'{')?;
        loop {
            self.space();
            let name = Name::of(self.plain()?)?;
            if seen & name.bit() != 0 {
                return None;
            }
            seen |= name.bit();
            self.space();
            self.expect(b':')?;
            self.space();
            self.member(&mut draft, name)?;
            self.space();
            match self.next()? {
                b',' => {}
                b'}' => return Some(draft),
                _ => return None,
            }
        }
    }

    #[inline]
    fn member(&mut self, draft: &mut Draft<'a>, name: Name) -> Option<()> {
        match (name, self.peek()?) {
            (_, b'n') => self.literal("null"),
            (Name::Text(field), b'"') => {
                draft.texts[field as usize] = Some(Cow::Borrowed(self.plain()?));
                Some(())
            }
            (Name::Text(field), b'-' | b'0'..=b'9') if field.is_id() => {
                let id = draft::id_of_number(self.scalar()?)?;
                draft.texts[field as usize] = Some(Cow::Borrowed(id));
                (id.len() <= self.limits.string_bytes_max).then_some(())
            }
            (Name::Timestamp, _) => {
                draft.timestamp = Some(self.time()?);
                Some(())
            }
            (Name::SentAt, _) => {
                draft.sent_at = Some(self.time()?);
                Some(())
            }
            (Name::SessionDurationSec, b'-' | b'0'..=b'9') => {
                draft.session_duration_sec = Some(draft::duration_of_number(self.scalar()?)?);
                Some(())
            }
            (Name::Completed, b't') => {
                draft.completed = Some(true);
                self.literal("true")
            }
            (Name::Completed, b'f') => {
                draft.completed = Some(false);
                self.literal("false")
            }
            (Name::Properties, b'{') => {
                let start = self.at;
                self.properties()?;
                draft.properties = Some(Cow::Borrowed(self.text.get(start..self.at)?));
                Some(())
            }
            _ => None,
        }
    }

    fn properties(&mut self) -> Option<()> {
        if self.limits.depth_max < 2 {
            return None;
        }
        let mut names = [""; NAMES_MAX];
        let mut count = 0;
        self.expect(b'{')?;
        self.space();
        if self.peek()? == b'}' {
            return self.expect(b'}');
        }
        loop {
            self.space();
            let name = self.plain()?;
            if names[..count].contains(&name) {
                return None;
            }
            *names.get_mut(count)? = name;
            count += 1;
            self.space();
            self.expect(b':')?;
            self.space();
            self.property()?;
            self.space();
            match self.next()? {
                b',' => {}
                b'}' => return (count <= self.limits.properties_max).then_some(()),
                _ => return None,
            }
        }
    }

    #[inline]
    fn property(&mut self) -> Option<()> {
        let start = self.at;
        if self.peek()? == b'"' {
            let end = skip::plain_end(self.bytes, start + 1);
            if self.bytes.get(end) == Some(&b'"') {
                self.at = end + 1;
                return (end - start - 1 <= self.limits.string_bytes_max).then_some(());
            }
        }
        let shape = skip::value(self.bytes, start).ok()?;
        self.at = shape.end;
        // The event and its properties are two levels of their own.
        let depth = u32::try_from(shape.depth).ok()?.checked_add(2)?;
        let fits = (shape.depth == 0 || depth <= self.limits.depth_max)
            && shape.string_bytes <= self.limits.string_bytes_max
            && shape.lone_surrogate.is_none();
        // Names are looked at by recursion: only within the depth that is allowed.
        if fits && shape.depth > 0 {
            full::check_names(self.text.get(start..shape.end)?).ok()?;
        }
        fits.then_some(())
    }

    fn time(&mut self) -> Option<EventTime> {
        if self.peek()? == b'"' {
            EventTime::parse_rfc3339(self.plain()?)
        } else {
            draft::time_of_number(self.scalar()?)?.ok()
        }
    }

    /// A string without escapes.
    #[inline]
    fn plain(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let end = skip::plain_end(self.bytes, self.at);
        if self.bytes.get(end) != Some(&b'"') || end - self.at > self.limits.string_bytes_max {
            return None;
        }
        let text = self.text.get(self.at..end)?;
        self.at = end + 1;
        Some(text)
    }

    /// The text of a number, true, false or null.
    fn scalar(&mut self) -> Option<&'a str> {
        let shape = skip::value(self.bytes, self.at).ok()?;
        if shape.depth > 0 {
            return None;
        }
        let text = self.text.get(self.at..shape.end)?;
        self.at = shape.end;
        Some(text)
    }

    fn literal(&mut self, word: &str) -> Option<()> {
        let rest = self.bytes.get(self.at..)?;
        self.at += word.len();
        rest.starts_with(word.as_bytes()).then_some(())
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    #[inline]
    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    fn space(&mut self) {
        self.at = skip::white_space(self.bytes, self.at);
    }
}
