//! Where the next email address lies in a text, in whatever way its `@` is written.

use super::{ADDRESS_PREFIX, EMAIL_PREFIX, Span, address};

/// Ways to write the `@`: plain, in URLs (once and twice), in HTML, in JSON within JSON, and
/// the wide letters of Unicode.
const SIGNS: [&str; 10] = [
    "@", "%40", "%2540", "&#64;", "&#x40;", "&commat;", "\\u0040", "\u{ff20}", "\u{fe6b}", "&#064;",
];

/// What a sign can begin with.
const SIGN_STARTS: [u8; 5] = [b'@', b'%', b'&', b'\\', 0xef];

/// Backslashes before an escape that is looked at: five levels of JSON within JSON.
const SLASHES_MAX: usize = 32;

/// Longest local part and domain that are looked at: RFC 5321's 64 and 255, and room for
/// escapes.
const LOCAL_BYTES_MAX: usize = 256;
const DOMAIN_BYTES_MAX: usize = 512;

/// The next address from `from`, which is where the last one ended.
pub(super) fn next(text: &str, from: usize) -> Option<Span> {
    let bytes = text.as_bytes();
    let mut at = from;
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
            if let Some(span) = around(text, from, at, at + sign) {
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
    if !SIGN_STARTS.contains(&bytes[at]) {
        return None;
    }
    let rest = &bytes[at..];
    // JSON in JSON in JSON: every level doubles the backslashes.
    let slashes = rest.iter().take(SLASHES_MAX).take_while(|byte| **byte == b'\\').count();
    if slashes > 1 {
        return rest[slashes..].starts_with(b"u0040").then_some(slashes + 5);
    }
    SIGNS
        .iter()
        .find(|sign| {
            rest.len() >= sign.len() && rest[..sign.len()].eq_ignore_ascii_case(sign.as_bytes())
        })
        .map(|sign| sign.len())
}

/// The address around the sign at `sign..after`, not reaching before `from`.
fn around(text: &str, from: usize, sign: usize, after: usize) -> Option<Span> {
    let start = local_start(text, from, sign);
    if start == sign {
        return None;
    }
    let mut end = domain_end(text, after)?;
    // a@b@c: whatever it is, all of it goes.
    while end < text.len()
        && let Some(sign) = sign_at(text.as_bytes(), end)
        && let Some(further) = domain_end(text, end + sign)
    {
        end = further;
    }
    Some(Span { start, end })
}

fn local_start(text: &str, from: usize, sign: usize) -> usize {
    let floor = text.ceil_char_boundary(from.max(sign.saturating_sub(LOCAL_BYTES_MAX)));
    let before = &text[floor..sign];
    if let Some(quoted) = before.strip_suffix('"')
        && let Some(open) = quoted.rfind('"')
        && open + 1 < quoted.len()
    {
        return floor + open;
    }
    let mut start = sign;
    for (at, char) in before.char_indices().rev() {
        if !is_local(char) {
            break;
        }
        start = floor + at;
    }
    // Quotes and dashes of the sentence are not the address's, unless there is nothing else.
    let local = &text[start..sign];
    let core = local.trim_start_matches(|char: char| !char.is_alphanumeric() && char != '_');
    if core.is_empty() { start } else { sign - core.len() }
}

fn is_local(char: char) -> bool {
    char.is_alphanumeric()
        || matches!(
            char,
            '.' | '_'
                | '%'
                | '+'
                | '-'
                | '!'
                | '#'
                | '$'
                | '\''
                | '*'
                | '^'
                | '`'
                | '{'
                | '|'
                | '}'
                | '~'
        )
}

/// Where the domain from `at` ends; `None` where there is no domain.
fn domain_end(text: &str, at: usize) -> Option<usize> {
    let rest = &text[at..text.floor_char_boundary(at + DOMAIN_BYTES_MAX)];
    if rest.starts_with(EMAIL_PREFIX) || rest.starts_with(ADDRESS_PREFIX) {
        return None;
    }
    if rest.starts_with('[') {
        return rest.find(']').filter(|end| 1 < *end).map(|end| at + end + 1);
    }
    if let Some(end) = address::v4_at(rest.as_bytes(), 0) {
        return Some(at + end);
    }
    let mut end = 0;
    while let Some(char) = rest[end..].chars().next() {
        if char.is_alphanumeric() || matches!(char, '.' | '-' | '_') {
            end += char.len_utf8();
        } else if let Some(escape) = domain_escape(&rest.as_bytes()[end..]) {
            end += escape;
        } else {
            break;
        }
    }
    let mut domain = &rest[..end];
    loop {
        let shorter = domain.trim_end_matches(['.', '-', '_']);
        let shorter = strip_suffix_dot(shorter);
        if shorter.len() == domain.len() {
            break;
        }
        domain = shorter;
    }
    // `react@18.2.0` is no address: a last label is never all digits.
    let last = domain.rsplit('.').next().unwrap_or(domain);
    last.chars().any(char::is_alphabetic).then_some(at + domain.len())
}

fn strip_suffix_dot(text: &str) -> &str {
    text.strip_suffix("%2E").or_else(|| text.strip_suffix("%2e")).unwrap_or(text)
}

/// An escape of a URL that can be part of a domain: a dot, a dash, or a letter past ASCII.
fn domain_escape(bytes: &[u8]) -> Option<usize> {
    let [b'%', high, low, ..] = bytes else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let value = digit(*high)? << 4 | digit(*low)?;
    (value >= 0x80 || value == u32::from(b'.') || value == u32::from(b'-')).then_some(3)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Looks at every byte.
    fn naive(text: &str, from: usize) -> Option<Span> {
        let mut at = from;
        while at < text.len() {
            let sign = sign_at(text.as_bytes(), at);
            let span = sign.and_then(|sign| around(text, from, at, at + sign));
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
            text in "([a-c.@%&\\\\;40]|%2540|&commat;|\\\\u0040|\u{ff20}|ä|a@b\\.c){0,40}",
        ) {
            let bounds = (0..=text.len()).filter(|&at| text.is_char_boundary(at));
            for from in bounds {
                prop_assert_eq!(next(&text, from), naive(&text, from));
            }
        }
    }
}
