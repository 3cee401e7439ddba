//! Where the next email address lies in a text, in whatever way its `@` is written.
//!
//! An address has something before its `@`, and a domain behind it: labels with dots between
//! them, of which one that is not the first begins with two letters. `root@localhost`,
//! `react@18.2.0` and `b@2x.png` are none.

use super::{ADDRESS_PREFIX, EMAIL_PREFIX, Span, address, chars, names};

/// Ways to write the `@`: plain, in URLs (once and twice), in HTML, in JSON within JSON, and
/// the wide letters of Unicode.
const SIGNS: [&str; 10] = [
    "@", "%40", "%2540", "&#64;", "&#x40;", "&commat;", "\\u0040", "\u{ff20}", "\u{fe6b}", "&#064;",
];

/// What a sign can begin with.
const SIGN_STARTS: [u8; 5] = [b'@', b'%', b'&', b'\\', 0xef];

/// Ways to write the dot of a domain, as for the sign; and those that IDNA takes for it.
const DOTS: [&str; 11] = [
    ".", "%2e", "%252e", "&#46;", "&#x2e;", "&period;", "\\u002e", "\u{ff0e}", "\u{3002}",
    "\u{ff61}", "&#046;",
];

/// Backslashes before an escape that is looked at: five levels of JSON within JSON.
const SLASHES_MAX: usize = 32;

/// Longest local part and domain that are looked at: RFC 5321's 64 and 255, and room for
/// escapes.
const LOCAL_BYTES_MAX: usize = 256;
const DOMAIN_BYTES_MAX: usize = 512;

/// Signs of one address that are looked at: `a@b@c.com`.
const SIGNS_MAX: usize = 4;

/// The next address from `from`, which is where the last one ended.
pub(super) fn next(text: &str, from: usize) -> Option<Span> {
    let bytes = text.as_bytes();
    let (mut at, mut walk) = (from, Walk::new(text, from));
    // Where the next of the three most likely starts lies, or the end: found once, so that a
    // text full of the other two is not read again for each.
    let mut likely: Option<usize> = None;
    while at < bytes.len() {
        let [one, two, three, four, five] = SIGN_STARTS;
        let likely = match likely {
            Some(known) if at <= known => known,
            _ => *likely.insert(
                memchr::memchr3(one, two, three, &bytes[at..])
                    .map_or(bytes.len(), |next| at + next),
            ),
        };
        at = memchr::memchr2(four, five, &bytes[at..likely]).map_or(likely, |next| at + next);
        if at == bytes.len() {
            break;
        }
        if let Some(sign) = sign_at(bytes, at) {
            if let Some(span) = walk.around(at, at + sign) {
                return Some(span);
            }
            at += sign;
        } else {
            at += 1;
        }
    }
    None
}

/// Whether a wide `@` begins at `at`.
pub(super) fn is_wide_at(bytes: &[u8], at: usize) -> bool {
    bytes[at..].starts_with("\u{ff20}".as_bytes()) || bytes[at..].starts_with("\u{fe6b}".as_bytes())
}

/// Whether HTML's name of the `@` occurs.
pub(super) fn has_named_at(bytes: &[u8]) -> bool {
    memchr::memmem::find(bytes, b"&commat;").is_some()
}

/// How many bytes the sign at `at` takes.
fn sign_at(bytes: &[u8], at: usize) -> Option<usize> {
    if SIGN_STARTS.contains(&bytes[at]) { written_at(bytes, at, &SIGNS, b"u0040") } else { None }
}

/// How many bytes the dot at `at` takes.
fn dot_at(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'.' => Some(1),
        b'%' | b'&' | b'\\' | 0xe3 | 0xef => written_at(bytes, at, &DOTS, b"u002e"),
        _ => None,
    }
}

/// How many bytes the way takes in which a character is written at `at`; `escape` is its name
/// in JSON.
fn written_at(bytes: &[u8], at: usize, ways: &[&str], escape: &[u8; 5]) -> Option<usize> {
    let rest = &bytes[at..];
    // JSON in JSON in JSON: every level doubles the backslashes.
    let slashes = rest.iter().take(SLASHES_MAX).take_while(|byte| **byte == b'\\').count();
    if slashes > 1 {
        let escaped = rest.get(slashes..slashes + 5)?;
        return escaped.eq_ignore_ascii_case(escape).then_some(slashes + 5);
    }
    ways.iter()
        .find(|way| {
            rest.len() >= way.len() && rest[..way.len()].eq_ignore_ascii_case(way.as_bytes())
        })
        .map(|way| way.len())
}

/// A walk from sign to sign, which looks at no character on either side of one again for the
/// next.
struct Walk<'t> {
    text: &'t str,
    from: usize,
    /// Where what a local part may have begins, unbroken, up to the last sign.
    local: usize,
    /// The last sign.
    seen: usize,
    /// What stands behind the last signs, ascending.
    runs: Vec<Run>,
}

impl<'t> Walk<'t> {
    const fn new(text: &'t str, from: usize) -> Self {
        Self { text, from, local: from, seen: from, runs: Vec::new() }
    }

    /// The address around the sign at `sign..after`. Signs come in ascending order.
    fn around(&mut self, sign: usize, after: usize) -> Option<Span> {
        let text = self.text;
        let start = self.local_start(sign);
        if start == sign {
            return None;
        }
        let (mut at, mut end) = (after, None);
        // a@b@c.com: whatever it is, all of it goes.
        for _ in 0..SIGNS_MAX {
            let run = self.run(at);
            end = run.domain_end.or(end);
            match text.as_bytes().get(run.end).and_then(|_| sign_at(text.as_bytes(), run.end)) {
                Some(sign) if at < run.end => at = run.end + sign,
                _ => break,
            }
        }
        let end = end?;
        let is_remote = names::is_remote_user(&text[start..sign])
            && names::is_remote(&text[..start], &text[end..]);
        (!is_remote).then_some(Span { start, end })
    }

    fn local_start(&mut self, sign: usize) -> usize {
        let text = self.text;
        let floor = text.ceil_char_boundary(self.from.max(sign.saturating_sub(LOCAL_BYTES_MAX)));
        if self.seen < floor {
            (self.seen, self.local) = (floor, floor);
        }
        for (at, char) in text[self.seen..sign].char_indices() {
            if !is_local(char) {
                self.local = self.seen + at + char.len_utf8();
            }
        }
        self.seen = sign;
        let before = &text[floor..sign];
        if let Some(quoted) = before.strip_suffix('"')
            && let Some(open) = quoted.rfind('"')
            && open + 1 < quoted.len()
        {
            return floor + open;
        }
        // Quotes and dashes of the sentence are not the address's, unless there is nothing else.
        let start = self.local.max(floor);
        let local = &text[start..sign];
        let is_sign = |char: char| char.is_ascii_punctuation() && char != '_';
        let core = local.trim_start_matches(is_sign);
        if core.is_empty() { start } else { sign - core.len() }
    }

    /// What stands behind the sign that ends at `at`.
    fn run(&mut self, at: usize) -> Run {
        if let Some(known) = self.runs.iter().find(|run| run.start == at) {
            return *known;
        }
        let run = run(self.text, at);
        if self.runs.len() == SIGNS_MAX {
            self.runs.remove(0);
        }
        self.runs.push(run);
        run
    }
}

/// RFC 5322's characters but for those that separate in URLs; of the others (RFC 6531) all
/// that do not separate, for letters of many scripts are written with marks and joiners.
fn is_local(char: char) -> bool {
    looked();
    if char.is_ascii() {
        return char.is_ascii_alphanumeric() || ".!#$%'*+-^_`{|}~".contains(char);
    }
    char.is_alphanumeric() || is_joiner(char) || !chars::separates(char)
}

const fn is_joiner(char: char) -> bool {
    matches!(char, '\u{200c}' | '\u{200d}')
}

/// A letter, or what is written onto one.
fn is_letter(char: char) -> bool {
    looked();
    if char.is_ascii() {
        return char.is_ascii_alphabetic();
    }
    char.is_alphabetic() || is_joiner(char) || chars::is_mark(char)
}

/// Counts characters that are looked at, for the tests.
fn looked() {
    #[cfg(test)]
    tests::LOOKS.set(tests::LOOKS.get() + 1);
}

/// What stands behind a sign.
#[derive(Clone, Copy)]
struct Run {
    start: usize,
    /// Where the labels end.
    end: usize,
    /// Where the domain ends; `None` where they are none.
    domain_end: Option<usize>,
}

fn run(text: &str, start: usize) -> Run {
    let rest = &text[start..text.floor_char_boundary(start + DOMAIN_BYTES_MAX)];
    let none = Run { start, end: start, domain_end: None };
    if rest.starts_with(EMAIL_PREFIX) || rest.starts_with(ADDRESS_PREFIX) {
        return none;
    }
    let whole = |len: usize| Run { start, end: start + len, domain_end: Some(start + len) };
    if let Some(literal) = rest.strip_prefix('[') {
        return match literal.find(']') {
            Some(end) if is_literal(&literal[..end]) => whole(end + 2),
            _ => none,
        };
    }
    if let Some(end) = address::v4_host(rest.as_bytes()) {
        return whole(end);
    }
    let (labels, end) = labels(rest);
    let domain_end = names::domain_end(&labels).map(|end| start + end);
    Run { start, end: start + end, domain_end }
}

/// An address in the place of a domain: `192.168.0.1`, `IPv6:2001:db8::1`.
fn is_literal(text: &str) -> bool {
    let tagged = text.get(..5).is_some_and(|tag| tag.eq_ignore_ascii_case("ipv6:"));
    let is_part = |char: char| char.is_ascii_hexdigit() || ".:%".contains(char);
    tagged || (text.contains(['.', ':']) && text.chars().all(is_part))
}

/// A label of a domain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Label<'t> {
    pub(super) text: &'t str,
    /// Where it ends, dashes at its end left out.
    pub(super) end: usize,
    /// Letters that it begins with.
    pub(super) letters: usize,
}

/// The labels that `rest` begins with, and where they end.
fn labels(rest: &str) -> (Vec<Label<'_>>, usize) {
    let bytes = rest.as_bytes();
    let (mut labels, mut at) = (Vec::new(), 0);
    loop {
        let start = at;
        let (mut letters, mut others) = (0, false);
        while let Some((len, is_letter)) = letter_at(rest, at) {
            others |= !is_letter;
            letters += usize::from(!others);
            at += len;
        }
        let text = &rest[start..at];
        let end = start + text.trim_end_matches(['-', '_']).len();
        labels.push(Label { text, end, letters });
        match dot_at(bytes, at) {
            Some(dot) => at += dot,
            None => return (labels, at),
        }
    }
}

/// How many bytes what a label can have at `at` takes, and whether it is a letter.
fn letter_at(rest: &str, at: usize) -> Option<(usize, bool)> {
    let char = rest[at..].chars().next()?;
    if is_letter(char) {
        return Some((char.len_utf8(), true));
    }
    if char.is_numeric() || matches!(char, '-' | '_') {
        return Some((char.len_utf8(), false));
    }
    // An escape of a URL: a dash, or a byte of a letter past ASCII.
    let [b'%', high, low, ..] = &rest.as_bytes()[at..] else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let value = digit(*high)? << 4 | digit(*low)?;
    (value >= 0x80 || value == u32::from(b'-')).then_some((3, value >= 0x80))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    thread_local! {
        /// Characters that were looked at.
        pub(super) static LOOKS: Cell<usize> = const { Cell::new(0) };
    }

    /// Looks at every byte, and remembers nothing.
    fn naive(text: &str, from: usize) -> Option<Span> {
        let mut at = from;
        while at < text.len() {
            let sign = sign_at(text.as_bytes(), at);
            let span = sign.and_then(|sign| Walk::new(text, from).around(at, at + sign));
            if span.is_some() {
                return span;
            }
            at += sign.unwrap_or(1);
        }
        None
    }

    proptest! {
        #[test]
        fn the_next_address_is_the_one_that_a_look_at_every_byte_finds(
            text in "([a-c.@%&\\\\;40\"\u{301}]|%40|%2540|&commat;|\\\\u0040|\u{ff20}|ä|a@b\\.cd){0,40}",
        ) {
            let bounds = (0..=text.len()).filter(|&at| text.is_char_boundary(at));
            for from in bounds {
                prop_assert_eq!(next(&text, from), naive(&text, from));
            }
        }
    }

    #[test]
    fn each_character_is_looked_at_once_on_either_side_of_a_sign() {
        let marks = "\u{301}".repeat(80);
        for part in [
            format!("{marks}@"),
            format!("{marks}.{marks}@"),
            format!("{marks}%40"),
            format!("{marks}\u{ff20}"),
            "ключ@".to_owned(),
            "ä@".to_owned(),
            "ä%40".to_owned(),
            "a%40".to_owned(),
            "अि्@अि्.".to_owned(),
            format!("@{}", "ä".repeat(300)),
            "a@b@c@".to_owned(),
        ] {
            let text = part.repeat(20_000 / part.len());
            LOOKS.set(0);
            let mut from = 0;
            while let Some(span) = next(&text, from) {
                from = span.end;
            }
            let (looks, chars) = (LOOKS.get(), text.chars().count());
            assert!(looks <= 3 * chars, "{looks} looks at {chars} characters of {part}…");
        }
    }
}
