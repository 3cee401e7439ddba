//! Where versions of products stand in what browsers say of themselves (RFC 9110, 10.1.5): the
//! last four numbers of `Mozilla/5.0 (X11; Linux) Acme/5.2.0.1` are no address.
//!
//! An agent begins with `Mozilla/` and goes on as long as products, comments in parentheses and a
//! few words follow one another. Whatever else comes ends it: behind `GET` or `https://x/` four
//! numbers are an address again.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::written;

/// What every browser begins with.
const BEGINNING: &str = "Mozilla/";

/// Made once: every text that may hold an address is searched for it.
static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(BEGINNING));

/// Words that agents have, beside products.
const WORDS: [&str; 10] =
    ["like", "Gecko", "Mobile", "Tablet", "TV", "SmartTV", "VR", "Large", "Screen", "Ubuntu"];

/// Where versions of four numbers or more begin, ascending.
pub(super) fn versions(text: &str) -> Vec<usize> {
    let bytes = text.as_bytes();
    let (mut versions, mut at) = (Vec::new(), 0);
    while let Some(found) = FINDER.find(&bytes[at..]) {
        let start = at + found;
        let is_part = |before: u8| before.is_ascii_alphanumeric() || b"-._/".contains(&before);
        at = start + BEGINNING.len();
        if start == 0 || !is_part(bytes[start - 1]) {
            // Where no version follows nothing is read of it.
            at = at.max(agent(bytes, start, &mut versions));
        }
    }
    versions
}

/// Notes the versions of the agent that begins at `at`; gives how far it was read.
fn agent(bytes: &[u8], mut at: usize, versions: &mut Vec<usize>) -> usize {
    loop {
        let part = match bytes.get(at) {
            Some(b'(') => comment(bytes, at, versions),
            _ => product(bytes, at, versions).or_else(|| word(bytes, at)).ok_or(at),
        };
        match part {
            Ok(end) => at = end,
            Err(read) => return read,
        }
        at += bytes[at..].iter().take_while(|byte| **byte == b' ').count();
    }
}

/// Where the comment that begins at `at` ends, or how far it was read in search of its end:
/// what is cut, or has quotes in it, is none.
fn comment(bytes: &[u8], mut at: usize, versions: &mut Vec<usize>) -> Result<usize, usize> {
    let noted = versions.len();
    let mut depth = 0_usize;
    while let Some(&byte) = bytes.get(at) {
        written::looked();
        at += 1;
        match byte {
            b'(' => depth += 1,
            b')' if depth == 1 => return Ok(at),
            b')' => depth -= 1,
            b' ' | b';' => {}
            b'"' | b'\\' => break,
            b'!'..=b'~' => continue,
            _ => break,
        }
        // Here a word begins.
        at = product(bytes, at, versions).unwrap_or(at);
    }
    versions.truncate(noted);
    Err(at)
}

/// Where the product that begins at `at` ends: a name without dots, which hosts have, a slash
/// and a version.
fn product(bytes: &[u8], at: usize, versions: &mut Vec<usize>) -> Option<usize> {
    let name = name_end(bytes, at);
    if name == at || bytes.get(name) != Some(&b'/') {
        return None;
    }
    let start = name + 1;
    let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || b"._+-".contains(byte);
    let version = &bytes[start..]
        [..bytes[start..].iter().take_while(is_part).inspect(|_byte| written::looked()).count()];
    let end = start + version.len();
    if version.is_empty() || !ends_word(bytes.get(end)) {
        return None;
    }
    let dots = version.iter().filter(|byte| **byte == b'.').count();
    if dots >= 3 && version[0].is_ascii_digit() {
        versions.push(start);
    }
    Some(end)
}

/// Where the word that begins at `at` ends, if agents have it.
fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let end = name_end(bytes, at);
    let is_one = WORDS.iter().any(|word| word.as_bytes() == &bytes[at..end]);
    (is_one && ends_word(bytes.get(end))).then_some(end)
}

fn name_end(bytes: &[u8], at: usize) -> usize {
    let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || b"_+-".contains(byte);
    at + bytes[at..].iter().take_while(is_part).inspect(|_byte| written::looked()).count()
}

/// Whether a word ends before this byte: ports, paths and hosts go on.
fn ends_word(next: Option<&u8>) -> bool {
    next.is_none_or(|next| next.is_ascii_whitespace() || b"();,\"'\\<>[]{}|&".contains(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Versions of the agents in `text`, to the end of each word.
    fn found(text: &str) -> Vec<&str> {
        let end = |at: usize| {
            text[at..].find([' ', ';', ')', '"', ',']).map_or(text.len(), |len| at + len)
        };
        versions(text).into_iter().map(|at| &text[at..end(at)]).collect()
    }

    #[test]
    fn versions_of_products_are_found_as_long_as_the_agent_goes_on() {
        for (text, expected) in [
            ("Mozilla/5.0 (X11) Acme/5.2.0.1 Edg/120.0.0.0", &["5.2.0.1", "120.0.0.0"][..]),
            ("agent=Mozilla/5.0 Acme/5.2.0.1", &["5.2.0.1"]),
            ("\"Mozilla/5.0 A/1.2.3.4\" \"Mozilla/5.0 B/1.2.3.5\"", &["1.2.3.4", "1.2.3.5"]),
            ("Mozilla/5.0 (compatible; Bot/1.2.3.4; +https://x.example/5.6.7.8)", &["1.2.3.4"]),
            ("Mozilla/5.0 (a (b/1.2.3.4) c) d/1.2.3.5", &["1.2.3.4", "1.2.3.5"]),
            ("Mozilla/5.0 (KHTML, like Gecko) like Gecko Mobile Acme/5.2.0.1.7", &["5.2.0.1.7"]),
            ("Mozilla/5.0 A/1.2.3.4-beta", &["1.2.3.4-beta"]),
            // What is none of an agent's parts ends it.
            ("Mozilla/5.0 (X11) GET https://shop.example/203.0.113.9", &[]),
            ("Mozilla/5.0 GET a/203.0.113.9", &[]),
            ("Mozilla/5.0 shop.example/203.0.113.9", &[]),
            ("Mozilla/5.0 a/203.0.113.9:80 b/203.0.113.8", &[]),
            ("Mozilla/5.0 a/203.0.113.9/b", &[]),
            ("Mozilla/5.0 (a/203.0.113.9", &[]),
            ("Mozilla/5.0 (a/203.0.113.9\") b/203.0.113.8", &[]),
            ("Mozilla/5.0 (http://a/203.0.113.9 b:c/203.0.113.8 d/e/203.0.113.7)", &[]),
            ("https://x.example/Mozilla/5.0 a/203.0.113.9", &[]),
            // Nor is there one where no version follows.
            ("Mozilla/", &[]),
            ("Mozilla/ A/203.0.113.9 Mozilla/é A/203.0.113.9", &[]),
            ("Acme/5.2.0.1", &[]),
        ] {
            assert_eq!(found(text), expected, "{text}");
        }
    }
}
