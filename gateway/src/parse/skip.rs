//! The strict grammar of JSON (RFC 8259), walked without recursion and without a value tree.
//!
//! Any bytes from 0x80 up are taken inside strings: whether they are UTF-8 is asked per event,
//! so that one poisoned event does not take its batch with it.

use thiserror::Error;

/// No JSON begins, or goes on, here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not JSON at byte {at}")]
pub(crate) struct NotJson {
    /// Byte of the body, from 0.
    pub(crate) at: usize,
}

/// What was learnt about a value on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The byte after the value.
    pub(crate) end: usize,
    /// How deep objects and arrays nest; 0 for a scalar.
    pub(crate) depth: usize,
    /// Decoded length of the longest text, names included.
    pub(crate) string_bytes: usize,
    /// Where the first escape is that names half a character.
    pub(crate) lone_surrogate: Option<usize>,
}

/// Walks the value that begins at `at`.
pub(crate) fn value(bytes: &[u8], at: usize) -> Result<Shape, NotJson> {
    let mut walk = Walk { bytes, at, shape: Shape::default(), open: Open::default() };
    walk.value()?;
    walk.shape.end = walk.at;
    Ok(walk.shape)
}

/// The first byte from `at` that is no white space; the length where there is none.
pub(crate) fn white_space(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(at) {
        at += 1;
    }
    at
}

/// Walks the string whose opening quote is at `at`; gives the byte after the closing one.
pub(crate) fn string(bytes: &[u8], at: usize) -> Result<usize, NotJson> {
    let mut walk = Walk { bytes, at, shape: Shape::default(), open: Open::default() };
    walk.string()?;
    Ok(walk.at)
}

/// The first byte from `at` that ends a plain stretch of a string: a quote, a backslash or a
/// control character; the length where there is none.
#[inline]
pub(crate) fn plain_end(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // Eight bytes at a time: a byte of `hit` is marked where the byte is below 0x20, a quote or
    // a backslash. Borrows can mark bytes above the first hit, never below it, and only the
    // first counts. Source: Mycroft, "hasless" and "haszero".
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let quote = word ^ (ONES * 0x22);
        let backslash = word ^ (ONES * 0x5c);
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let hit = (control
            | (quote.wrapping_sub(ONES) & !quote)
            | (backslash.wrapping_sub(ONES) & !backslash))
            & HIGHS;
        if hit != 0 {
            return at + (hit.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while let Some(&byte) = bytes.get(at) {
        if byte < 0x20 || byte == b'"' || byte == b'\\' {
            break;
        }
        at += 1;
    }
    at
}

/// Which containers are open, one bit each: a million nested arrays cost 125 kB.
#[derive(Default)]
struct Open {
    depth: usize,
    /// The innermost 64, innermost lowest; 1 is an object.
    bits: u64,
    outer: Vec<u64>,
}

impl Open {
    fn push(&mut self, object: bool) {
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.outer.push(self.bits);
        }
        self.bits = self.bits << 1 | u64::from(object);
        self.depth += 1;
    }

    fn pop(&mut self) {
        self.depth -= 1;
        self.bits >>= 1;
        if self.depth > 0
            && self.depth.is_multiple_of(64)
            && let Some(bits) = self.outer.pop()
        {
            self.bits = bits;
        }
    }

    const fn in_object(&self) -> bool {
        self.bits & 1 == 1
    }
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    shape: Shape,
    open: Open,
}

impl Walk<'_> {
    const fn fail<T>(&self) -> Result<T, NotJson> {
        Err(NotJson { at: self.at })
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        self.at = white_space(self.bytes, self.at);
    }

    fn value(&mut self) -> Result<(), NotJson> {
        loop {
            self.space();
            let closes = match self.peek() {
                Some(b'{') => b'}',
                Some(b'[') => b']',
                Some(_) => {
                    self.scalar()?;
                    if self.ended()? {
                        return Ok(());
                    }
                    continue;
                }
                None => return self.fail(),
            };
            self.at += 1;
            self.open.push(closes == b'}');
            self.shape.depth = self.shape.depth.max(self.open.depth);
            self.space();
            if self.peek() == Some(closes) {
                self.at += 1;
                self.open.pop();
                if self.ended()? {
                    return Ok(());
                }
            } else if closes == b'}' {
                self.name()?;
            }
        }
    }

    /// After a value: true where it was the outermost, false where another value follows.
    fn ended(&mut self) -> Result<bool, NotJson> {
        while self.open.depth > 0 {
            self.space();
            match (self.peek(), self.open.in_object()) {
                (Some(b','), true) => {
                    self.at += 1;
                    self.space();
                    self.name()?;
                    return Ok(false);
                }
                (Some(b','), false) => {
                    self.at += 1;
                    return Ok(false);
                }
                (Some(b'}'), true) | (Some(b']'), false) => {
                    self.at += 1;
                    self.open.pop();
                }
                _ => return self.fail(),
            }
        }
        Ok(true)
    }

    fn name(&mut self) -> Result<(), NotJson> {
        if self.peek() != Some(b'"') {
            return self.fail();
        }
        self.string()?;
        self.space();
        if self.peek() != Some(b':') {
            return self.fail();
        }
        self.at += 1;
        Ok(())
    }

    fn scalar(&mut self) -> Result<(), NotJson> {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            _ => self.number(),
        }
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), NotJson> {
        if self.bytes[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(())
        } else {
            self.fail()
        }
    }

    fn digits(&mut self) -> Result<(), NotJson> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { self.fail() } else { Ok(()) }
    }

    fn number(&mut self) -> Result<(), NotJson> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn string(&mut self) -> Result<(), NotJson> {
        self.at += 1;
        let start = self.at;
        let mut saved = 0;
        loop {
            self.at = plain_end(self.bytes, self.at);
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => saved += self.escape()?,
                _ => return self.fail(),
            }
        }
        let decoded = self.at - start - saved;
        self.shape.string_bytes = self.shape.string_bytes.max(decoded);
        self.at += 1;
        Ok(())
    }

    /// Walks one escape; gives how many bytes shorter it becomes decoded.
    fn escape(&mut self) -> Result<usize, NotJson> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(1)
            }
            Some(b'u') => self.unicode(),
            _ => self.fail(),
        }
    }

    fn unicode(&mut self) -> Result<usize, NotJson> {
        let start = self.at;
        let Some(unit) = hex4(self.bytes, start + 2) else { return self.fail() };
        self.at += 6;
        match char::from_u32(unit) {
            Some(char) => Ok(6 - char.len_utf8()),
            None if unit < 0xdc00
                && self.bytes[self.at..].starts_with(b"\\u")
                && hex4(self.bytes, self.at + 2)
                    .is_some_and(|low| (0xdc00..0xe000).contains(&low)) =>
            {
                self.at += 6;
                Ok(12 - 4)
            }
            None => {
                self.shape.lone_surrogate.get_or_insert(start);
                // It would be read as U+FFFD, which takes three bytes.
                Ok(3)
            }
        }
    }
}

/// Four hexadecimal digits from `at`.
pub(crate) fn hex4(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 4)?;
    digits.iter().try_fold(0, |unit, &byte| Some(unit << 4 | char::from(byte).to_digit(16)?))
}
