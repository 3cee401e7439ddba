//! Where the next IP address lies in a text, with dots and colons plain or escaped for URLs.

use super::{Span, names};

/// Bytes of an address before its first dot or colon, at most: a group of IPv6.
const LEAD_BYTES_MAX: usize = 4;

/// What four numbers with dots between them are, by where they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbers {
    /// Addresses, but for what is written as only a version is.
    Addresses,
    /// In a text with a user agent that begins at this byte: behind it, and behind a product's
    /// name, they are its version.
    Agent(usize),
    /// In a version's field: a version.
    Versions,
}

impl Numbers {
    /// Of a text that nothing else is known of.
    pub(super) fn of(text: &str) -> Self {
        // So begins what every browser says of itself.
        match memchr::memmem::find(text.as_bytes(), b"Mozilla/") {
            Some(at) => Self::Agent(at),
            None => Self::Addresses,
        }
    }
}

/// The next address from `from`.
pub(super) fn next(text: &str, from: usize, numbers: Numbers) -> Option<Span> {
    let bytes = text.as_bytes();
    let mut at = from;
    // Every address has a separator within its first bytes; most texts have none at all.
    while let Some(found) = memchr::memchr3(b'.', b':', b'%', bytes.get(at..)?) {
        let separator = at + found;
        for start in at.max(separator.saturating_sub(LEAD_BYTES_MAX))..=separator {
            // Addresses are ASCII, so that spans fall between characters.
            if let Some(end) = v6_at(bytes, start).or_else(|| v4_at(bytes, start, numbers)) {
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
            v4_at(raw, start, Numbers::Addresses).is_some()
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

/// Where the IPv4 address that begins at `at` ends: four numbers up to 255, and no fifth.
pub(super) fn v4_at(bytes: &[u8], at: usize, numbers: Numbers) -> Option<usize> {
    let glued = at > 0 && bytes[at - 1].is_ascii_digit() && !follows_escape(bytes, at);
    if glued || numbers == Numbers::Versions || !bytes.get(at)?.is_ascii_digit() {
        return None;
    }
    let mut end = octet(bytes, at)?;
    let first = end;
    for _ in 0..3 {
        end = octet(bytes, end + dot(bytes, end)?)?;
    }
    // 1.3.6.1.4.1 names an object (OID), or is a version of many numbers.
    let goes_on =
        dot(bytes, end).is_some_and(|dot| bytes.get(end + dot).is_some_and(u8::is_ascii_digit));
    let network = bytes[first..end] == *b".0.0.0";
    let is_version = match product(bytes, at) {
        Product::None => names::is_suffixed(&bytes[end..]),
        // Chrome/120.0.0.0: a network of no host.
        Product::Slash => network || matches!(numbers, Numbers::Agent(from) if from < at),
        Product::Word => true,
    };
    (!(goes_on || is_version || follows_number(bytes, at))).then_some(end)
}

/// What stands before numbers and may say what they are.
enum Product {
    None,
    /// `Chrome/`, but `example/` as well.
    Slash,
    /// `v`, `version `.
    Word,
}

fn product(bytes: &[u8], at: usize) -> Product {
    let before = &bytes[..at];
    let is_word = |word: &[u8]| {
        before.len().checked_sub(word.len()).is_some_and(|start| {
            before[start..].eq_ignore_ascii_case(word)
                && !start.checked_sub(1).is_some_and(|last| before[last].is_ascii_alphanumeric())
        })
    };
    match before {
        [.., last, b'/'] if last.is_ascii_alphanumeric() => Product::Slash,
        _ if is_word(b"v") || is_word(b"version ") || is_word(b"version: ") => Product::Word,
        _ => Product::None,
    }
}

/// Whether a number and a dot stand before `at`.
fn follows_number(bytes: &[u8], at: usize) -> bool {
    let dot = [1, 3]
        .into_iter()
        .find(|len| at.checked_sub(*len).is_some_and(|start| dot(bytes, start) == Some(*len)));
    dot.and_then(|len| at.checked_sub(len + 1)).is_some_and(|last| bytes[last].is_ascii_digit())
}

/// Whether an escape of a URL ends before `at`: the digits of `%20` are nobody's.
fn follows_escape(bytes: &[u8], at: usize) -> bool {
    let escape = at.checked_sub(3).and_then(|start| bytes.get(start..at));
    matches!(escape, Some([b'%', high, low]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
}

fn octet(bytes: &[u8], at: usize) -> Option<usize> {
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
    (at < end && value <= 255).then_some(end)
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
        || follows_escape(bytes, at)
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
    let glued = is_word(at.checked_sub(1).and_then(|before| bytes.get(before)))
        || is_word(bytes.get(found.end));
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
            if let Some(end) = v4_tail(bytes, at)
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

fn v4_tail(bytes: &[u8], at: usize) -> Option<usize> {
    // Behind a colon no digit precedes, and the exception for versions cannot apply.
    bytes.get(at).filter(|byte| byte.is_ascii_digit())?;
    let mut end = octet(bytes, at)?;
    for _ in 0..3 {
        end = octet(bytes, end + dot(bytes, end)?)?;
    }
    Some(end)
}

/// The address without the escapes of URLs.
pub(super) fn plain(found: &str) -> String {
    found.replace("%3A", ":").replace("%3a", ":").replace("%2E", ".").replace("%2e", ".")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_next_address_is_the_one_that_a_look_at_every_byte_finds(
            text in "([0-9a-f.:%gv/]|%2e|%3A|::|127\\.0\\.0\\.1|2001:db8::1|fe80|ä){0,30}",
        ) {
            let bytes = text.as_bytes();
            for from in 0..=text.len() {
                for numbers in [Numbers::Addresses, Numbers::Agent(9), Numbers::Versions] {
                    let naive = (from..text.len()).find_map(|start| {
                        let v4 = || v4_at(bytes, start, numbers);
                        let end = v6_at(bytes, start).or_else(v4)?;
                        Some(Span { start, end })
                    });
                    prop_assert_eq!(next(&text, from, numbers), naive);
                }
            }
        }
    }
}
