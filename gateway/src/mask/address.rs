//! Where the next IP address lies in a text, in whatever way its characters are written.

use std::ops::Range;

use super::{Span, Stops, names, written};

/// Bytes of an address before its first dot, colon or escape, at most: a group of IPv6.
const LEAD_BYTES_MAX: usize = 4;

/// What stands within these bytes: separators, and what escapes begin with.
const STOPS: ([u8; 3], [u8; 2]) = ([b'.', b':', b'%'], [b'&', b'\\']);

/// Numbers that the number of an object has at least: five may be an address and a port.
const OBJECT_NUMBERS_MIN: usize = 6;

/// The next address from `from`, which is the text's beginning or where the last one ended;
/// `versions` says where versions of products begin.
pub(super) fn next<'v>(
    text: &str,
    from: usize,
    versions: &dyn Fn() -> &'v [usize],
) -> Option<Span> {
    let bytes = text.as_bytes();
    let (mut at, mut stops) = (from, Stops::new(bytes, STOPS));
    // Numbers that are no address, by what they are written like or stand behind.
    let mut named = from..from;
    // Every address has a stop within its first bytes; most texts have none at all.
    while let Some(stop) = stops.next(at) {
        if named.end <= stop
            && let Some(run) = Run::at_first_dot(bytes, stop)
            && run.is_named(bytes, versions)
        {
            named = run.starts();
        }
        for start in at.max(stop.saturating_sub(LEAD_BYTES_MAX))..=stop {
            let v4 = || if named.contains(&start) { None } else { v4_at(bytes, start) };
            // What addresses are written with is ASCII, so that spans fall between characters.
            if let Some(end) = v6_at(bytes, start).or_else(v4) {
                return Some(Span { start, end });
            }
        }
        at = stop + 1;
    }
    None
}

/// Whether any address can lie in JSON text without escapes of any kind.
pub(super) fn is_suspicious(raw: &[u8]) -> bool {
    let mut colons = Colons::default();
    memchr::memchr2_iter(b'.', b':', raw).any(|at| match raw[at] {
        b'.' => is_suspicious_dot(raw, at),
        _ => colons.are_suspicious_at(raw, at),
    })
}

/// Whether an IPv4 address may have its first dot there.
fn is_suspicious_dot(raw: &[u8], dot: usize) -> bool {
    let mut start = dot;
    while start > 0 && raw[start - 1].is_ascii_digit() && dot - start < 4 {
        start -= 1;
    }
    start < dot
        && has_three_dots(raw, dot)
        && v4_at(raw, start).is_some_and(|end| !is_network(raw, start, end))
}

/// Whether two more dots and a number follow, where nothing is escaped: `5.2.0` and `312.5` are
/// told apart without reading numbers.
fn has_three_dots(raw: &[u8], dot: usize) -> bool {
    let mut at = dot + 1;
    for _ in 0..2 {
        at = digits_end_plain(raw, at);
        if raw.get(at) != Some(&b'.') {
            return false;
        }
        at += 1;
    }
    raw.get(at).is_some_and(u8::is_ascii_digit)
}

fn digits_end_plain(raw: &[u8], at: usize) -> usize {
    at + raw[at..].iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// Colons that were seen, each between hexadecimal digits and near the last.
#[derive(Default)]
struct Colons {
    chain: usize,
    last: usize,
}

impl Colons {
    /// Takes the next; whether it follows another at once, or is the seventh of a chain.
    fn are_suspicious_at(&mut self, raw: &[u8], at: usize) -> bool {
        // Most colons of JSON follow a quote.
        let before = at.checked_sub(1).and_then(|before| raw.get(before));
        if before == Some(&b':') {
            return true;
        }
        if !before.is_some_and(u8::is_ascii_hexdigit) {
            self.chain = 0;
            return false;
        }
        let is_near = self.chain > 0 && at - self.last <= 5;
        self.chain = if is_near { self.chain + 1 } else { 1 };
        self.last = at;
        self.chain >= 7
    }
}

/// Where the IPv4 address ends that `bytes` begin with, as the place of a mail's domain.
pub(super) fn v4_host(bytes: &[u8]) -> Option<usize> {
    let end = v4_at(bytes, 0)?;
    (!Run::read(bytes, 0).is_named(bytes, &|| &[])).then_some(end)
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
            && let next_end = digits_end(bytes, next)
            && next < next_end
        {
            (last, end, count) = (next, next_end, count + 1);
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
    fn is_named<'v>(&self, bytes: &[u8], versions: &dyn Fn() -> &'v [usize]) -> bool {
        let start = self.first.start;
        let is_four = self.count == 4;
        let is_version = || self.count >= 4 && versions().binary_search(&start).is_ok();
        self.is_object(bytes)
            || is_version()
            || follows_word(bytes, start)
            || (is_four && is_network(bytes, start, self.end))
            || (is_four && names::is_suffixed(&bytes[self.end..]))
            || (is_four && names::is_file(&bytes[self.end..]))
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

/// Whether a word before the numbers at `at` says what they are: a version, an object (RFC 3061).
fn follows_word(bytes: &[u8], at: usize) -> bool {
    let before = &bytes[..at];
    ["v", "version ", "version: ", "urn:oid:"].iter().any(|word| {
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
    let before = |at: usize| match written::escape_before(bytes, at) {
        Some(escaped) => Some(escaped),
        None => at.checked_sub(1).map(|before| (char::from(bytes[before]), before)),
    };
    let dot = before(at).filter(|(char, _)| *char == '.');
    dot.and_then(|(_, dot)| before(dot)).is_some_and(|(last, _)| last.is_ascii_digit())
}

/// Whether an escape ends before `at`, be it of JSON within JSON (`\n`): its letters and digits
/// are nobody's.
fn ends_escape(bytes: &[u8], at: usize) -> bool {
    matches!(&bytes[..at], [.., b'\\', b'b' | b'f' | b'n' | b'r' | b't'])
        || written::escape_before(bytes, at).is_some()
}

fn digits_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some((digit, len)) = written::ascii(bytes, at)
        && digit.is_ascii_digit()
    {
        at += len;
    }
    at
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
    let (mut value, mut end, mut digits) = (0, at, 0);
    while let Some((byte, len)) = written::ascii(bytes, end)
        && byte.is_ascii_digit()
    {
        value = value * 10 + u32::from(byte - b'0');
        (end, digits) = (end + len, digits + 1);
        if digits > 3 {
            return None;
        }
    }
    (digits > 0 && value <= 255).then_some((value, end))
}

/// Length of the dot at `at`.
fn dot(bytes: &[u8], at: usize) -> Option<usize> {
    length_of(b'.', bytes, at)
}

/// Length of the colon at `at`.
fn colon(bytes: &[u8], at: usize) -> Option<usize> {
    length_of(b':', bytes, at)
}

fn length_of(wanted: u8, bytes: &[u8], at: usize) -> Option<usize> {
    written::ascii(bytes, at).and_then(|(found, len)| (found == wanted).then_some(len))
}

/// Where the IPv6 address that begins at `at` ends: the longest that RFC 4291 allows there.
fn v6_at(bytes: &[u8], at: usize) -> Option<usize> {
    let (first, _) = written::ascii(bytes, at)?;
    if !first.is_ascii_hexdigit() && first != b':' {
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
    if !found.digits
        || found.pairs
        || found.is_path_of_code()
        || written::is_within_escape(bytes, at)
    {
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
    /// The first one, 0 where it is left out.
    first: u32,
    /// Whether a later one is written as words are: `Feed`.
    has_word: bool,
    end: usize,
}

impl Groups {
    /// Whether it is `D3::Feed`: a word, behind a group that begins nobody's addresses. Those
    /// that are given begin as IANA's registry of special and global unicast ones says.
    const fn is_path_of_code(&self) -> bool {
        let is_given =
            matches!(self.first, 0 | 0x64 | 0x100 | 0x2000..=0x3fff | 0x5f00 | 0xfc00..=0xffff);
        self.has_word && !is_given
    }

    fn read(bytes: &[u8], start: usize) -> Option<Self> {
        let (mut at, mut groups, mut compressed, mut digits) = (start, 0, false, false);
        let (mut are_pairs, mut first, mut has_word) = (true, 0, false);
        let mut best = None;
        if let Some(double) = double_colon(bytes, at) {
            (compressed, at) = (true, at + double);
        }
        while groups < 8 {
            if let Some(end) = octets(bytes, at)
                && (groups == 6 || (compressed && groups <= 5))
            {
                let (groups, pairs) = (groups + 2, false);
                return Some(Self { groups, digits: true, pairs, first, has_word: false, end });
            }
            let Some(group) = Group::read(bytes, at) else { break };
            if at == start {
                first = group.value;
            }
            digits |= group.has_digit;
            has_word |= at > start && group.is_word;
            are_pairs &= group.len == 2;
            (at, groups) = (group.end, groups + 1);
            if (groups == 8 && !compressed) || (compressed && groups <= 7) {
                let pairs = groups == 8 && are_pairs;
                best = Some(Self { groups, digits, pairs, first, has_word, end: at });
            }
            if groups == 8 {
                break;
            }
            if !compressed && let Some(double) = double_colon(bytes, at) {
                (compressed, at) = (true, at + double);
                if groups <= 7 {
                    best = Some(Self { groups, digits, pairs: false, first, has_word, end: at });
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

/// One to four hexadecimal digits.
struct Group {
    len: usize,
    value: u32,
    has_digit: bool,
    /// Whether a capital begins it and a small letter follows.
    is_word: bool,
    end: usize,
}

impl Group {
    fn read(bytes: &[u8], at: usize) -> Option<Self> {
        let mut group = Self { len: 0, value: 0, has_digit: false, is_word: false, end: at };
        let mut before = 0_u8;
        while let Some((byte, len)) = written::ascii(bytes, group.end)
            && let Some(digit) = char::from(byte).to_digit(16)
        {
            group.value = group.value << 4 | digit;
            group.has_digit |= byte.is_ascii_digit();
            group.is_word |=
                group.len == 1 && before.is_ascii_uppercase() && byte.is_ascii_lowercase();
            before = byte;
            (group.len, group.end) = (group.len + 1, group.end + len);
            if group.len > 4 {
                return None;
            }
        }
        (group.len > 0).then_some(group)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every address, found by a look at every byte; named numbers are looked for before.
    fn naive(text: &str) -> Vec<Span> {
        let bytes = text.as_bytes();
        let runs = (0..bytes.len()).filter_map(|at| Run::at_first_dot(bytes, at));
        let named: Vec<Run> = runs.filter(|run| run.is_named(bytes, &|| &[9])).collect();
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
            text in "([0-9a-f.:%gvn/&;\\\\]|%2e|%3A|::|\\\\u0022|&#46;|&colon;|&#5|127\\.0\\.0\\.1|1\\.3\\.6\\.1|2001:db8::1|fe80|ä){0,30}",
        ) {
            let mut spans = Vec::new();
            while let Some(span) = next(&text, spans.last().map_or(0, |last: &Span| last.end), &|| &[9]) {
                spans.push(span);
            }
            prop_assert_eq!(spans, naive(&text));
        }
    }
}
