//! Where the next IP address lies in a text, with dots and colons plain or escaped for URLs.

use std::ops::Range;

use super::{Span, names};

/// Bytes of an address before its first dot or colon, at most: a group of IPv6.
const LEAD_BYTES_MAX: usize = 4;

/// Numbers that the number of an object has at least: five may be an address and a port.
const OBJECT_NUMBERS_MIN: usize = 6;

/// The next address from `from`, which is the text's beginning or where the last one ended;
/// `versions` are where versions of products begin.
pub(super) fn next(text: &str, from: usize, versions: &[usize]) -> Option<Span> {
    let bytes = text.as_bytes();
    let mut at = from;
    // Numbers that are no address, by what they are written like or stand behind.
    let mut named = from..from;
    // Every address has a separator within its first bytes; most texts have none at all.
    while let Some(found) = memchr::memchr3(b'.', b':', b'%', bytes.get(at..)?) {
        let separator = at + found;
        if named.end <= separator
            && let Some(run) = Run::at_first_dot(bytes, separator)
            && run.is_named(bytes, versions)
        {
            named = run.starts();
        }
        for start in at.max(separator.saturating_sub(LEAD_BYTES_MAX))..=separator {
            let v4 = || if named.contains(&start) { None } else { v4_at(bytes, start) };
            // Addresses are ASCII, so that spans fall between characters.
            if let Some(end) = v6_at(bytes, start).or_else(v4) {
                return Some(Span { start, end });
            }
        }
        at = separator + 1;
    }
    None
}

/// Whether any address can lie in JSON text without escapes of any kind.
pub(super) fn is_suspicious(raw: &[u8]) -> bool {
    let starts = |at: usize| at > 0 && raw[at - 1].is_ascii_digit();
    let dotted = memchr::memchr_iter(b'.', raw).any(|dot| {
        starts(dot) && {
            let mut start = dot;
            while start > 0 && raw[start - 1].is_ascii_digit() && dot - start < 4 {
                start -= 1;
            }
            v4_at(raw, start).is_some_and(|end| !is_network(raw, start, end))
        }
    });
    dotted || is_suspicious_v6(raw)
}

/// Two colons together, or seven each between hexadecimal digits.
fn is_suspicious_v6(raw: &[u8]) -> bool {
    let (mut chain, mut last) = (0, 0);
    for at in memchr::memchr_iter(b':', raw) {
        // Most colons of JSON follow a quote.
        let before = at.checked_sub(1).and_then(|before| raw.get(before));
        if before == Some(&b':') {
            return true;
        }
        if !before.is_some_and(u8::is_ascii_hexdigit) {
            chain = 0;
            continue;
        }
        chain = if chain > 0 && at - last <= 5 { chain + 1 } else { 1 };
        last = at;
        if chain >= 7 {
            return true;
        }
    }
    false
}

/// Where the IPv4 address ends that `bytes` begin with, as the place of a mail's domain.
pub(super) fn v4_host(bytes: &[u8]) -> Option<usize> {
    let end = v4_at(bytes, 0)?;
    (!Run::read(bytes, 0).is_named(bytes, &[])).then_some(end)
}

/// Where the IPv4 address that begins at `at` ends: four numbers up to 255.
fn v4_at(bytes: &[u8], at: usize) -> Option<usize> {
    let glued = at > 0 && bytes[at - 1].is_ascii_digit() && !ends_escape(bytes, at);
    if glued {
        return None;
    }
    let end = octets(bytes, at)?;
    // In %208.8.8.8 it begins behind the escape.
    let begins_later = |at: usize| {
        bytes.get(at).is_some_and(u8::is_ascii_digit)
            && ends_escape(bytes, at)
            && octets(bytes, at).is_some()
    };
    (!begins_later(at + 1) && !begins_later(at + 2)).then_some(end)
}

/// Numbers with dots between them, as many as there are.
struct Run {
    first: Range<usize>,
    second: Range<usize>,
    /// Where the last one begins.
    last: usize,
    end: usize,
    count: usize,
}

impl Run {
    /// The numbers whose first dot is at `at`.
    fn at_first_dot(bytes: &[u8], at: usize) -> Option<Self> {
        dot(bytes, at)?;
        let mut start = at;
        while start > 0 && bytes[start - 1].is_ascii_digit() && !ends_escape(bytes, start) {
            start -= 1;
        }
        (start < at && !follows_number(bytes, start)).then(|| Self::read(bytes, start))
    }

    fn read(bytes: &[u8], start: usize) -> Self {
        let first = start..digits_end(bytes, start);
        let (mut second, mut last, mut end, mut count) = (first.clone(), start, first.end, 1);
        while let Some(next) = dot(bytes, end).map(|dot| end + dot)
            && bytes.get(next).is_some_and(u8::is_ascii_digit)
        {
            (last, end, count) = (next, digits_end(bytes, next), count + 1);
            if count == 2 {
                second = last..end;
            }
        }
        Self { first, second, last, end, count }
    }

    /// Where an address could begin in them.
    const fn starts(&self) -> Range<usize> {
        self.first.start..self.last
    }

    /// Whether what they are written like, or stand behind, says that they are no address.
    fn is_named(&self, bytes: &[u8], versions: &[usize]) -> bool {
        let start = self.first.start;
        let is_four = self.count == 4;
        self.is_object(bytes)
            || versions.binary_search(&start).is_ok()
            || follows_version_word(bytes, start)
            || (is_four && is_network(bytes, start, self.end))
            || (is_four && names::is_suffixed(&bytes[self.end..]))
    }

    /// Whether they number an object (OID): 1.3.6.1.4.1. There are three roots (X.660), with 40
    /// numbers below the first two each, and some 50 given below the third.
    fn is_object(&self, bytes: &[u8]) -> bool {
        let second_max = match &bytes[self.first.clone()] {
            [b'0' | b'1'] => 39,
            [b'2'] => 51,
            _ => return false,
        };
        let second = octet(bytes, self.second.start);
        self.count >= OBJECT_NUMBERS_MIN && second.is_some_and(|(second, _)| second <= second_max)
    }
}

/// Whether `v` or `version` stands before the numbers at `at`.
fn follows_version_word(bytes: &[u8], at: usize) -> bool {
    let before = &bytes[..at];
    ["v", "version ", "version: "].iter().any(|word| {
        before.len().checked_sub(word.len()).is_some_and(|start| {
            let begins = start == 0 || !before[start - 1].is_ascii_alphanumeric();
            (begins || ends_escape(bytes, start))
                && before[start..].eq_ignore_ascii_case(word.as_bytes())
        })
    })
}

/// Whether the four numbers at `at..end` are a network of no host behind a name and a slash:
/// Chrome/120.0.0.0.
fn is_network(bytes: &[u8], at: usize, end: usize) -> bool {
    let goes_on =
        || dot(bytes, end).is_some_and(|dot| bytes.get(end + dot).is_some_and(u8::is_ascii_digit));
    matches!(&bytes[..at], [.., name, b'/'] if name.is_ascii_alphanumeric())
        && bytes[at..end].strip_suffix(b".0.0.0").is_some_and(|first| !first.contains(&b'.'))
        && !goes_on()
}

/// Whether a number and a dot stand before `at`.
fn follows_number(bytes: &[u8], at: usize) -> bool {
    let dot = [1, 3]
        .into_iter()
        .find(|len| at.checked_sub(*len).is_some_and(|start| dot(bytes, start) == Some(*len)));
    dot.and_then(|len| at.checked_sub(len + 1)).is_some_and(|last| bytes[last].is_ascii_digit())
}

/// Whether an escape ends before `at`: its letters and digits are nobody's. Of a URL, `%20` or
/// `%2520`; of JSON within JSON, `\n` or `\u0022`.
fn ends_escape(bytes: &[u8], at: usize) -> bool {
    let are_hex = |digits: &[u8]| digits.iter().all(u8::is_ascii_hexdigit);
    match &bytes[..at] {
        [.., b'%', b'2', b'5', a, b] | [.., b'%', a, b] if are_hex(&[*a, *b]) => true,
        [.., b'\\', b'u', a, b, c, d] => are_hex(&[*a, *b, *c, *d]),
        [.., b'\\', b'b' | b'f' | b'n' | b'r' | b't'] => true,
        _ => false,
    }
}

fn digits_end(bytes: &[u8], at: usize) -> usize {
    at + bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// Where the four numbers up to 255 that begin at `at` end.
fn octets(bytes: &[u8], at: usize) -> Option<usize> {
    let (_, mut end) = octet(bytes, at)?;
    for _ in 0..3 {
        (_, end) = octet(bytes, end + dot(bytes, end)?)?;
    }
    Some(end)
}

/// The number up to 255 that begins at `at`, and where it ends.
fn octet(bytes: &[u8], at: usize) -> Option<(u32, usize)> {
    let mut value = 0u32;
    let mut end = at;
    while let Some(byte) = bytes.get(end)
        && byte.is_ascii_digit()
    {
        value = value * 10 + u32::from(byte - b'0');
        end += 1;
        if end - at > 3 {
            return None;
        }
    }
    (at < end && value <= 255).then_some((value, end))
}

/// Length of the dot at `at`, plain or escaped.
fn dot(bytes: &[u8], at: usize) -> Option<usize> {
    separator(bytes, at, b'.', b"%2e")
}

/// Length of the colon at `at`, plain or escaped.
fn colon(bytes: &[u8], at: usize) -> Option<usize> {
    separator(bytes, at, b':', b"%3a")
}

fn separator(bytes: &[u8], at: usize, plain: u8, escaped: &[u8; 3]) -> Option<usize> {
    match bytes.get(at)? {
        byte if *byte == plain => Some(1),
        b'%' if bytes.get(at..at + 3)?.eq_ignore_ascii_case(escaped) => Some(3),
        _ => None,
    }
}

/// Where the IPv6 address that begins at `at` ends: the longest that RFC 4291 allows there.
fn v6_at(bytes: &[u8], at: usize) -> Option<usize> {
    let first = *bytes.get(at)?;
    let begins = first.is_ascii_hexdigit() || first == b':' || first == b'%';
    if !begins {
        return None;
    }
    let group_begins = at == 0
        || !bytes[at - 1].is_ascii_hexdigit()
        || ends_escape(bytes, at)
        || is_long_group(bytes, at);
    if first.is_ascii_hexdigit() && !group_begins {
        return None;
    }
    let found = Groups::read(bytes, at)?;
    // Feed::Add is a name, and :: alone is nobody's; 00:1b:44:ff:fe:11:3a:b7 is a device's
    // number (EUI-64), or part of a fingerprint.
    if !found.digits || found.pairs {
        return None;
    }
    // std::vec and App::Error are no addresses; ip6:2001:db8::1 holds one.
    let is_word =
        |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let before = at.checked_sub(1).and_then(|before| bytes.get(before));
    let glued = (is_word(before) && !ends_escape(bytes, at)) || is_word(bytes.get(found.end));
    let surely = found.groups >= 3;
    (!glued || surely).then_some(found.end)
}

/// Whether `at` is within a run of hexadecimal digits too long for a group, at its last four.
fn is_long_group(bytes: &[u8], at: usize) -> bool {
    let mut end = at;
    while bytes.get(end).is_some_and(u8::is_ascii_hexdigit) && end - at <= 4 {
        end += 1;
    }
    end - at == 4 && at >= 1 && bytes[at - 1].is_ascii_hexdigit()
}

struct Groups {
    groups: usize,
    digits: bool,
    /// Whether these are eight groups of two digits each.
    pairs: bool,
    end: usize,
}

impl Groups {
    fn read(bytes: &[u8], start: usize) -> Option<Self> {
        let (mut at, mut groups, mut compressed, mut digits) = (start, 0, false, false);
        let mut are_pairs = true;
        let mut best = None;
        if let Some(double) = double_colon(bytes, at) {
            (compressed, at) = (true, at + double);
        }
        while groups < 8 {
            if let Some(end) = octets(bytes, at)
                && (groups == 6 || (compressed && groups <= 5))
            {
                return Some(Self { groups: groups + 2, digits: true, pairs: false, end });
            }
            let Some(end) = group(bytes, at) else { break };
            digits |= bytes[at..end].iter().any(u8::is_ascii_digit);
            are_pairs &= end - at == 2;
            (at, groups) = (end, groups + 1);
            if (groups == 8 && !compressed) || (compressed && groups <= 7) {
                let pairs = groups == 8 && are_pairs;
                best = Some(Self { groups, digits, pairs, end: at });
            }
            if groups == 8 {
                break;
            }
            if !compressed && let Some(double) = double_colon(bytes, at) {
                (compressed, at) = (true, at + double);
                if groups <= 7 {
                    best = Some(Self { groups, digits, pairs: false, end: at });
                }
            } else if let Some(single) = colon(bytes, at) {
                at += single;
            } else {
                break;
            }
        }
        best
    }
}

fn double_colon(bytes: &[u8], at: usize) -> Option<usize> {
    let first = colon(bytes, at)?;
    Some(first + colon(bytes, at + first)?)
}

/// Where the group of one to four hexadecimal digits at `at` ends.
fn group(bytes: &[u8], at: usize) -> Option<usize> {
    let len = bytes[at.min(bytes.len())..]
        .iter()
        .take(5)
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    (1..=4).contains(&len).then_some(at + len)
}

/// The address without the escapes of URLs.
pub(super) fn plain(found: &str) -> String {
    found.replace("%3A", ":").replace("%3a", ":").replace("%2E", ".").replace("%2e", ".")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every address, found by a look at every byte; named numbers are looked for before.
    fn naive(text: &str) -> Vec<Span> {
        let bytes = text.as_bytes();
        let runs = (0..bytes.len()).filter_map(|at| Run::at_first_dot(bytes, at));
        let named: Vec<Run> = runs.filter(|run| run.is_named(bytes, &[9])).collect();
        let (mut spans, mut start, mut from) = (Vec::new(), 0, 0);
        while start < bytes.len() {
            // What is left of numbers whose beginning was part of an address has no name.
            let mut whole = named.iter().filter(|run| from <= run.first.end);
            let is_named = whole.any(|run| run.starts().contains(&start));
            let v4 = || if is_named { None } else { v4_at(bytes, start) };
            match v6_at(bytes, start).or_else(v4) {
                Some(end) => {
                    spans.push(Span { start, end });
                    (start, from) = (end, end);
                }
                None => start += 1,
            }
        }
        spans
    }

    proptest! {
        #[test]
        fn the_next_address_is_the_one_that_a_look_at_every_byte_finds(
            text in "([0-9a-f.:%gvn/\\\\]|%2e|%3A|::|\\\\u0022|127\\.0\\.0\\.1|1\\.3\\.6\\.1|2001:db8::1|fe80|ä){0,30}",
        ) {
            let mut spans = Vec::new();
            while let Some(span) = next(&text, spans.last().map_or(0, |last: &Span| last.end), &[9]) {
                spans.push(span);
            }
            prop_assert_eq!(spans, naive(&text));
        }
    }
}
