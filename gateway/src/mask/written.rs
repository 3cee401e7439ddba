//! One character at a place of a text, in whatever way it is written: plain, or escaped for URLs,
//! HTML or JSON, also one within the other. Whoever looks for an address reads by this alone.

/// Escapes within one another that are read: `%2540` and `&amp;#64;` are two.
const LEVELS_MAX: usize = 3;

/// Bytes in which one character is written, at most: room for backslashes and zeros.
const BYTES_MAX: usize = 64;

/// Backslashes before an escape of JSON: five levels of JSON within JSON.
const SLASHES_MAX: usize = 32;

/// Signs that begin an escape within one escape, slashes aside: `%26%2364%3B` has three.
const STARTS_MAX: usize = 4;

/// The names that HTML has for what addresses, or escapes, are made of; all end with a semicolon.
const NAMES: [(&str, char); 14] = [
    ("commat", '@'),
    ("period", '.'),
    ("colon", ':'),
    ("amp", '&'),
    ("num", '#'),
    ("semi", ';'),
    ("percnt", '%'),
    ("bsol", '\\'),
    ("plus", '+'),
    ("lowbar", '_'),
    ("lsqb", '['),
    ("lbrack", '['),
    ("rsqb", ']'),
    ("rbrack", ']'),
];
const NAME_BYTES_MAX: usize = 6;

/// Whether an escape can begin with this byte.
pub(super) const fn begins_escape(byte: u8) -> bool {
    matches!(byte, b'%' | b'&' | b'\\')
}

/// The character at `at`, and how many bytes it takes. What is no UTF-8, plain or escaped, and no
/// character stands as U+FFFD.
#[inline]
pub(super) fn at(bytes: &[u8], at: usize) -> Option<(char, usize)> {
    let byte = *bytes.get(at)?;
    if byte.is_ascii() && !begins_escape(byte) {
        return Some((char::from(byte), 1));
    }
    read(&bytes[at..bytes.len().min(at + BYTES_MAX)], LEVELS_MAX)
}

/// The ASCII character at `at`, and how many bytes it takes.
#[inline]
pub(super) fn ascii(bytes: &[u8], at: usize) -> Option<(u8, usize)> {
    let (char, len) = self::at(bytes, at)?;
    Some((u8::try_from(char).ok().filter(u8::is_ascii)?, len))
}

/// The escape that ends before `at`: its character, and where it begins.
pub(super) fn escape_before(bytes: &[u8], at: usize) -> Option<(char, usize)> {
    let last = *bytes.get(at.checked_sub(1)?)?;
    if !last.is_ascii_alphanumeric() && last != b';' {
        return None;
    }
    // The longest: %2520 is one, and not what ends with %20.
    let ending = escapes_around(bytes, at).filter(|(.., end)| *end == at).last();
    ending.map(|(char, start, _)| (char, start))
}

/// Whether `at` lies within an escape: in `%20::`, the digits are no group.
pub(super) fn is_within_escape(bytes: &[u8], at: usize) -> bool {
    escapes_around(bytes, at).any(|(.., end)| end > at)
}

/// The characters whose escapes begin shortly before `at`, where they do, and where they end;
/// the nearest first.
fn escapes_around(bytes: &[u8], at: usize) -> impl Iterator<Item = (char, usize, usize)> {
    let from = at.saturating_sub(BYTES_MAX);
    let starts = memchr::memrchr3_iter(b'%', b'&', b'\\', &bytes[from..at]).take(STARTS_MAX);
    starts.filter_map(move |found| {
        let start = from + found;
        let (char, len) = self::at(bytes, start)?;
        (len > 1).then_some((char, start, start + len))
    })
}

/// `text` with every character plain.
pub(super) fn plain(text: &str) -> String {
    let (mut plain, mut at) = (String::with_capacity(text.len()), 0);
    while let Some((char, len)) = self::at(text.as_bytes(), at) {
        plain.push(char);
        at += len;
    }
    plain
}

/// Counts what is looked at, for the tests.
#[inline]
pub(super) fn looked() {
    #[cfg(test)]
    tests::LOOKS_LEFT.set(tests::LOOKS_LEFT.get().checked_sub(1).expect("it takes too long"));
}

/// The character that `bytes` begin with once so many levels of escapes are taken away.
fn read(bytes: &[u8], levels: usize) -> Option<(char, usize)> {
    looked();
    let first = *bytes.first()?;
    if levels == 0 || !begins_escape(first) {
        return unescaped(bytes, first);
    }
    let below = levels - 1;
    let (char, len) = read(bytes, below)?;
    let rest = &bytes[len..];
    let escaped = match char {
        '%' => percent(rest, below),
        '&' => reference(rest, below),
        // Of plain ones there may be many, so they are counted once.
        '\\' if len > 1 => json(rest, below, 1),
        '\\' if below == 0 => json(rest, below, SLASHES_MAX - 1),
        _ => None,
    };
    Some(escaped.map_or((char, len), |(char, more)| (char, len + more)))
}

fn unescaped(bytes: &[u8], first: u8) -> Option<(char, usize)> {
    if first.is_ascii() {
        return Some((char::from(first), 1));
    }
    let len = utf8_len(first);
    let char = bytes.get(..len).and_then(char_of);
    Some(char.map_or((char::REPLACEMENT_CHARACTER, 1), |char| (char, len)))
}

/// How many bytes the character takes that begins with this one.
const fn utf8_len(first: u8) -> usize {
    match first {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf7 => 4,
        _ => 1,
    }
}

fn char_of(utf8: &[u8]) -> Option<char> {
    std::str::from_utf8(utf8).ok()?.chars().next()
}

/// What stands behind a `%`.
fn percent(bytes: &[u8], levels: usize) -> Option<(char, usize)> {
    let (first, len) = hex_byte(bytes, levels)?;
    let mut utf8 = [first; 4];
    let whole = |utf8: &mut [u8]| {
        let mut end = len;
        for next in &mut utf8[1..] {
            let ('%', sign) = read(&bytes[end..], levels)? else { return None };
            let (byte, digits) = hex_byte(&bytes[end + sign..], levels)?;
            (*next, end) = (byte, end + sign + digits);
        }
        Some((char_of(utf8)?, end))
    };
    whole(&mut utf8[..utf8_len(first)]).or(Some((char::REPLACEMENT_CHARACTER, len)))
}

/// A byte as two hexadecimal digits.
fn hex_byte(bytes: &[u8], levels: usize) -> Option<(u8, usize)> {
    let (high, one) = digit(bytes, levels, 16)?;
    let (low, two) = digit(&bytes[one..], levels, 16)?;
    Some((u8::try_from(high << 4 | low).ok()?, one + two))
}

fn digit(bytes: &[u8], levels: usize, radix: u32) -> Option<(u32, usize)> {
    let (char, len) = read(bytes, levels)?;
    Some((char.to_digit(radix)?, len))
}

/// What stands behind an `&`: a reference of HTML by name or number.
fn reference(bytes: &[u8], levels: usize) -> Option<(char, usize)> {
    let (mut name, mut len) = ([0; NAME_BYTES_MAX], 0);
    for letters in 0..=NAME_BYTES_MAX {
        let (char, more) = read(&bytes[len..], levels)?;
        len += more;
        match char {
            '#' if letters == 0 => {
                let (char, more) = numbered(&bytes[len..], levels)?;
                return Some((char, len + more));
            }
            ';' => {
                let is_it = |known: &str| known.as_bytes().eq_ignore_ascii_case(&name[..letters]);
                return NAMES.iter().find(|(known, _)| is_it(known)).map(|(_, char)| (*char, len));
            }
            'a'..='z' | 'A'..='Z' => *name.get_mut(letters)? = u8::try_from(char).ok()?,
            _ => return None,
        }
    }
    None
}

/// `64;`, `0064;`, `x40;`; browsers do without the semicolon.
fn numbered(bytes: &[u8], levels: usize) -> Option<(char, usize)> {
    let (radix, start) = match read(bytes, levels)? {
        ('x' | 'X', len) => (16, len),
        _ => (10, 0),
    };
    let (mut value, mut len) = (0_u32, start);
    while let Some((digit, more)) = digit(&bytes[len..], levels, radix) {
        value = value.saturating_mul(radix).saturating_add(digit);
        len += more;
    }
    if len == start {
        return None;
    }
    if let Some((';', more)) = read(&bytes[len..], levels) {
        len += more;
    }
    Some((char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER), len))
}

/// What stands behind a backslash: `u0040`, with the backslashes before it that every level of
/// JSON within JSON doubles.
fn json(bytes: &[u8], levels: usize, slashes_max: usize) -> Option<(char, usize)> {
    let mut len = 0;
    for _ in 0..slashes_max {
        let ('\\', more) = read(&bytes[len..], levels)? else { break };
        len += more;
    }
    let ('u' | 'U', more) = read(&bytes[len..], levels)? else { return None };
    len += more;
    let mut unit = 0;
    for _ in 0..4 {
        let (digit, more) = digit(&bytes[len..], levels, 16)?;
        (unit, len) = (unit << 4 | digit, len + more);
    }
    Some((char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER), len))
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// How often may still be looked at a character, and escapes within it.
        pub(super) static LOOKS_LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
    }

    /// How many looks `work` takes; it panics with the first that is over `max`.
    pub(in crate::mask) fn looks(max: usize, work: impl FnOnce()) -> usize {
        LOOKS_LEFT.set(max);
        work();
        max - LOOKS_LEFT.replace(usize::MAX)
    }

    #[test]
    fn a_character_is_read_in_every_way_and_no_other() {
        for (text, char) in [
            ("@", '@'),
            ("é", 'é'),
            ("%40", '@'),
            ("%2540", '@'),
            ("%252540", '@'),
            ("%c3%A9", 'é'),
            ("%25C3%25A9", 'é'),
            ("&#64;", '@'),
            ("&#064;", '@'),
            ("&#0000000064;", '@'),
            ("&#x40;", '@'),
            ("&#X0040;", '@'),
            ("&#64", '@'),
            ("&commat;", '@'),
            ("&Period;", '.'),
            ("&amp;#64;", '@'),
            ("&amp;amp;commat;", '@'),
            ("&#38;#x40;", '@'),
            ("%26%2364%3B", '@'),
            ("%26commat%3b", '@'),
            ("&#37;40", '@'),
            ("&percnt;40", '@'),
            ("\\u0040", '@'),
            ("\\\\\\\\u0040", '@'),
            ("\\u002540", '@'),
            ("\\\\u0026#64;", '@'),
            ("%5Cu0040", '@'),
            ("%5C%5Cu0040", '@'),
            ("&bsol;u0040", '@'),
            ("&#xff20;", '\u{ff20}'),
            ("%EF%BC%A0", '\u{ff20}'),
            ("&#50;", '2'),
            // What is no character is one all the same.
            ("%ff", '\u{fffd}'),
            ("\\ud800", '\u{fffd}'),
            ("&#99999999999;", '\u{fffd}'),
        ] {
            assert_eq!(at(text.as_bytes(), 0), Some((char, text.len())), "{text}");
            let behind = format!("é{text} ");
            assert_eq!(at(behind.as_bytes(), 2), Some((char, text.len())), "{behind}");
            let before = escape_before(behind.as_bytes(), 2 + text.len());
            assert_eq!(before.is_some(), begins_escape(text.as_bytes()[0]), "{behind}");
            assert!(before.is_none_or(|(before, _)| before == char), "{behind}: {before:?}");
        }
        assert_eq!(plain("203&#46;0%2e113.%37%37"), "203.0.113.77");
    }

    #[test]
    fn what_is_no_escape_is_what_it_begins_with() {
        for text in [
            "%",
            "%4",
            "%4g",
            "& ",
            "&#;",
            "&#x;",
            "&#g",
            "&commat",
            "&commata;",
            "&at;",
            "&;",
            "\\",
            "\\n",
            "\\u004",
            "\\x40",
            "\\\\",
            "a&b",
            "%%40",
        ] {
            let first = text.chars().next().unwrap();
            assert_eq!(at(text.as_bytes(), 0), Some((first, 1)), "{text}");
        }
        // A fourth level stays closed.
        assert_eq!(at(b"%25252540", 0), Some(('%', 7)));
        assert_eq!(at(b"", 0), None);
        assert_eq!(at(b"a", 1), None);
    }
}
