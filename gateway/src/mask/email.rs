//! Where the next email address lies in a text, in whatever way its `@` is written.
//!
//! An address has something before its `@`, and a domain behind it: labels with dots between
//! them, of which one that is not the first begins with two letters. `root@localhost`,
//! `react@18.2.0` and `b@2x.png` are none.

use super::{ADDRESS_PREFIX, EMAIL_PREFIX, Span, Stops, address, chars, names, written};

/// What an `@` begins with: itself, escapes, and the wide ones of Unicode.
const SIGN_STARTS: ([u8; 3], [u8; 2]) = ([b'@', b'%', b'&'], [b'\\', 0xef]);

/// Longest local part and domain that are looked at: RFC 5321's 64 and 255, and room for
/// escapes.
const LOCAL_BYTES_MAX: usize = 512;
const DOMAIN_BYTES_MAX: usize = 1024;

/// Longest address in brackets: RFC 4291's 45, and room for a tag and a zone.
const LITERAL_BYTES_MAX: usize = 100;

/// Signs of one address that are looked at: `a@b@c.com`.
const SIGNS_MAX: usize = 4;

/// The next address from `from`, which is where the last one ended.
pub(super) fn next(text: &str, from: usize) -> Option<Span> {
    let bytes = text.as_bytes();
    let (mut at, mut walk) = (from, Walk::new(text, from));
    let mut stops = Stops::new(bytes, SIGN_STARTS);
    while let Some(stop) = stops.next(at) {
        let sign = sign_at(bytes, stop);
        if let Some(sign) = sign
            && let Some(span) = walk.around(stop, stop + sign)
        {
            return Some(span);
        }
        at = stop + sign.unwrap_or(1);
    }
    None
}

/// Whether a wide `@` begins at `at`.
pub(super) fn is_wide_at(bytes: &[u8], at: usize) -> bool {
    bytes[at..].starts_with("\u{ff20}".as_bytes()) || bytes[at..].starts_with("\u{fe6b}".as_bytes())
}

/// How many bytes the sign at `at` takes.
fn sign_at(bytes: &[u8], at: usize) -> Option<usize> {
    let (char, len) = written::at(bytes, at)?;
    matches!(char, '@' | '\u{ff20}' | '\u{fe6b}').then_some(len)
}

/// Whether it parts the labels of a domain: the dot, and what IDNA takes for it.
const fn is_dot(char: char) -> bool {
    matches!(char, '.' | '\u{ff0e}' | '\u{3002}' | '\u{ff61}')
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
        let mut at = self.seen;
        while at < sign
            && let Some((char, len)) = written::at(text.as_bytes(), at)
        {
            at += len;
            if !is_local(char) {
                self.local = at;
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
        let start = self.local.max(floor).min(sign);
        core(text, start, sign).unwrap_or(start)
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

/// Where the local part at `start..end` begins without the quotes and dashes of its sentence;
/// `None` where there is nothing else.
fn core(text: &str, mut start: usize, end: usize) -> Option<usize> {
    while start < end
        && let Some((char, len)) = written::at(text.as_bytes(), start)
    {
        if !char.is_ascii_punctuation() || char == '_' {
            return Some(start);
        }
        start += len;
    }
    None
}

/// RFC 5322's characters but for those that separate in URLs; of the others (RFC 6531) all
/// that do not separate, for letters of many scripts are written with marks and joiners.
fn is_local(char: char) -> bool {
    written::looked();
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
    written::looked();
    if char.is_ascii() {
        return char.is_ascii_alphabetic();
    }
    // A byte that is no UTF-8 is a letter of some other encoding.
    let is_foreign = char == char::REPLACEMENT_CHARACTER;
    char.is_alphabetic() || is_joiner(char) || is_foreign || chars::is_mark(char)
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
    if let Some(('[', open)) = written::at(rest.as_bytes(), 0) {
        return literal_end(rest, open).map_or(none, whole);
    }
    if let Some(end) = address::v4_host(rest.as_bytes()) {
        return whole(end);
    }
    let (labels, end) = labels(rest);
    let domain_end = names::domain_end(&labels).map(|end| start + end);
    Run { start, end: start + end, domain_end }
}

/// Where the brackets close that stand open before `start`, if an address is in them.
fn literal_end(rest: &str, start: usize) -> Option<usize> {
    let (mut literal, mut at) = (String::new(), start);
    while let Some((char, len)) = written::at(rest.as_bytes(), at)
        && literal.len() <= LITERAL_BYTES_MAX
    {
        at += len;
        if char == ']' {
            return is_literal(&literal).then_some(at);
        }
        literal.push(char);
    }
    None
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
        let behind = loop {
            let Some((char, len)) = written::at(bytes, at) else { break None };
            let is_letter = is_letter(char);
            if !is_letter && !char.is_numeric() && !matches!(char, '-' | '_') {
                break is_dot(char).then_some(at + len);
            }
            others |= !is_letter;
            letters += usize::from(!others);
            at += len;
        };
        let text = &rest[start..at];
        let end = start + text.trim_end_matches(['-', '_']).len();
        labels.push(Label { text, end, letters });
        match behind {
            Some(next) => at = next,
            None => return (labels, at),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            text in "([a-c.@%&\\\\;40\"\u{301}]|%40|%2540|&commat;|&#0064|&amp;|&#9|\\\\u0040|\u{ff20}|ä|a@b\\.cd){0,40}",
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
            let chars = text.chars().count();
            written::tests::looks(16 * chars, || {
                let mut from = 0;
                while let Some(span) = next(&text, from) {
                    from = span.end;
                }
            });
        }
    }
}
