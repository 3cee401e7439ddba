//! Masking within JSON text: every string is decoded, masked, and encoded again if it changed.

use std::borrow::Cow;

use super::{FieldRule, Masker};
use crate::parse::skip;

/// How a name is told that was itself masked.
const MASKED_NAME: &str = "(masked name)";

/// Masks every string of `json`, which is one JSON value, and applies the rules for fields.
pub(super) fn rewrite<'a>(
    masker: &Masker,
    json: &'a str,
    note: &mut dyn FnMut(&str),
) -> Cow<'a, str> {
    let bytes = json.as_bytes();
    let mut out = String::new();
    let (mut at, mut copied) = (0, 0);
    // The last member's name, how it is told, and where its value begins.
    let (mut member, mut told, mut value_at) = (Cow::Borrowed(""), None, None);
    while let Some(found) = memchr::memchr(b'"', &bytes[at.min(bytes.len())..]) {
        let start = at + found;
        // The text was walked before, so a string ends where it should.
        let Ok(end) = skip::string(bytes, start) else { break };
        let text = decode(&json[start + 1..end - 1]);
        // Of what lies in a list or an object, its name says nothing.
        let is_value = value_at == Some(start);
        let masked = masker.search(&text, if is_value { &member } else { "" });
        let is_changed = *masked != *text;
        if is_changed {
            out.push_str(&json[copied..start]);
            push_string(&mut out, &masked);
            copied = end;
        }
        at = end;
        let colon = skip::white_space(bytes, end);
        if bytes.get(colon) != Some(&b':') {
            if is_changed {
                note(told.unwrap_or(&member));
            }
            continue;
        }
        let rule = masker.rule(&text);
        if is_changed {
            note(MASKED_NAME);
        }
        // Tokens would be names without end.
        told = is_changed.then_some(MASKED_NAME);
        member = text;
        let value = skip::white_space(bytes, colon + 1);
        value_at = Some(value);
        if rule == FieldRule::Search {
            continue;
        }
        let Ok(shape) = skip::value(bytes, value) else { break };
        match rule {
            FieldRule::Search => {}
            FieldRule::Exempt => at = shape.end,
            FieldRule::Tokenise | FieldRule::Drop => {
                out.push_str(&json[copied..value]);
                push_ruled(&mut out, masker, rule, &json[value..shape.end]);
                (at, copied) = (shape.end, shape.end);
                note(told.unwrap_or(&member));
            }
        }
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    out.push_str(&json[copied..]);
    Cow::Owned(out)
}

/// Writes the value of a field that a rule hides; null stays null.
fn push_ruled(out: &mut String, masker: &Masker, rule: FieldRule, value: &str) {
    if rule == FieldRule::Drop || value == "null" {
        out.push_str("null");
    } else if value.starts_with('"') {
        push_string(out, &masker.whole(&decode(&value[1..value.len() - 1])));
    } else {
        push_string(out, &masker.whole(value));
    }
}

fn push_string(out: &mut String, text: &str) {
    match serde_json::to_string(text) {
        Ok(quoted) => out.push_str(&quoted),
        // Text always serialises; were it not so, nothing may leak.
        Err(_impossible) => out.push_str("null"),
    }
}

/// The text of a string without its quotes; half characters become U+FFFD.
pub(super) fn decode(inner: &str) -> Cow<'_, str> {
    let Some(first) = memchr::memchr(b'\\', inner.as_bytes()) else {
        return Cow::Borrowed(inner);
    };
    let mut text = inner[..first].to_owned();
    let mut rest = &inner[first..];
    while let Some(escape) = rest.strip_prefix('\\') {
        let (decoded, len) = unescape(escape);
        text.push(decoded);
        rest = &escape[len..];
        let plain = memchr::memchr(b'\\', rest.as_bytes()).unwrap_or(rest.len());
        text.push_str(&rest[..plain]);
        rest = &rest[plain..];
    }
    Cow::Owned(text)
}

/// The character of an escape behind its backslash, and how many bytes say it.
fn unescape(escape: &str) -> (char, usize) {
    let Some(kind) = escape.chars().next() else { return ('\\', 0) };
    match kind {
        'b' => ('\u{8}', 1),
        'f' => ('\u{c}', 1),
        'n' => ('\n', 1),
        'r' => ('\r', 1),
        't' => ('\t', 1),
        'u' => unicode(escape),
        other => (other, other.len_utf8()),
    }
}

fn unicode(escape: &str) -> (char, usize) {
    let bytes = escape.as_bytes();
    let Some(high) = skip::hex4(bytes, 1) else { return ('u', 1) };
    if let Some(char) = char::from_u32(high) {
        return (char, 5);
    }
    if high < 0xdc00
        && bytes[5..].starts_with(b"\\u")
        && let Some(low) = skip::hex4(bytes, 7)
        && (0xdc00..0xe000).contains(&low)
        && let Some(char) = char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00))
    {
        return (char, 11);
    }
    (char::REPLACEMENT_CHARACTER, 5)
}

/// Text that is no JSON, with the escapes that JSON would have for ASCII decoded: what hides
/// behind `\u0040` in a broken line is found all the same.
pub(super) fn without_ascii_escapes(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        plain.push_str(&rest[..at]);
        // JSON within JSON: the backslashes of all levels stand before one escape.
        let escape = rest[at..].trim_start_matches('\\');
        let slashes = &rest[at..rest.len() - escape.len()];
        let (decoded, len) = unescape(escape);
        if escape.starts_with('u') && len == 5 && decoded.is_ascii_graphic() {
            plain.push(decoded);
            rest = &escape[len..];
        } else if let Some(after) = escape.strip_prefix('/') {
            plain.push('/');
            rest = after;
        } else {
            plain.push_str(slashes);
            rest = escape;
        }
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}
