//! The masker: no address that it knows leaves this room, in any byte (N7).
//!
//! A token is a keyed HMAC-SHA256 of the exact text, cut to 128 bits: the same text gives the
//! same token, so that a user whose id is an email keeps one key; a token tells nothing
//! without the secret, and contains nothing that would be masked again. Tokens carry the
//! version of their making, as in `em1_…`.

mod address;
mod agent;
mod chars;
mod email;
mod json;
mod names;
mod stops;
mod written;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::cell::LazyCell;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

pub(crate) use self::chars::is_blank;
use self::stops::Stops;
use crate::settings::{AddressMasking, MaskingPlan};

/// What tokens begin with.
const EMAIL_PREFIX: &str = "em1_";
const ADDRESS_PREFIX: &str = "ip1_";
const FIELD_PREFIX: &str = "fd1_";

/// Bytes of the HMAC that a token keeps.
const TOKEN_BYTES: usize = 16;

/// How often a text is searched again after a change; two are the rule.
const ROUNDS_MAX: usize = 8;

/// Where something to mask lies: `start..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: usize,
    end: usize,
}

/// Finds personal data in any text and replaces it.
pub struct Masker {
    plan: MaskingPlan,
    keyed: Hmac<Sha256>,
}

impl fmt::Debug for Masker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Masker").field("plan", &self.plan).finish_non_exhaustive()
    }
}

/// `text` with `mask` of all that `next` finds in its place; `None` where there is nothing.
fn replaced(
    text: &str,
    next: impl Fn(&str, usize) -> Option<Span>,
    mask: impl Fn(&str) -> String,
) -> Option<String> {
    let mut found = next(text, 0)?;
    let mut masked = String::with_capacity(text.len() + 32);
    let mut copied = 0;
    loop {
        masked.push_str(&text[copied..found.start]);
        masked.push_str(&mask(&text[found.start..found.end]));
        copied = found.end;
        match next(text, copied) {
            Some(span) => found = span,
            None => break,
        }
    }
    masked.push_str(&text[copied..]);
    Some(masked)
}

/// Whether anything that is masked, or escapes, can have this byte.
const fn begins_something(byte: u8) -> bool {
    matches!(byte, b'@' | b'.' | b':' | 0xef) || written::begins_escape(byte)
}

/// Whether no address can lie in these bytes, be they JSON or its text: three passes, of as many
/// bytes as one can look for. False says nothing.
fn is_plain(raw: &[u8]) -> bool {
    // Escapes can hide anything; so can wide letters.
    let hides = |at: usize| match raw[at] {
        b'&' => written::at(raw, at).is_some_and(|(_, len)| len > 1),
        _ => email::is_wide_at(raw, at),
    };
    memchr::memchr3(b'@', b'\\', b'%', raw).is_none()
        && !memchr::memchr2_iter(b'&', 0xef, raw).any(hides)
        && !address::is_suspicious(raw)
}

/// What the rules say about a field's whole value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldRule {
    /// Its texts are searched like any other.
    Search,
    /// It stays as it is.
    Exempt,
    /// It becomes one token.
    Tokenise,
    /// It is removed.
    Drop,
}

impl Masker {
    pub(crate) fn new(plan: MaskingPlan, secret: &[u8; 32]) -> Self {
        let keyed = Hmac::new_from_slice(secret).expect("HMAC takes a key of any length");
        Self { plan, keyed }
    }

    /// Replaces everything in `text` that must not be seen; borrowed where there is nothing.
    #[must_use]
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.search(text, "")
    }

    /// [`Masker::text`] of a field of that name: where it is named like a version, and the whole
    /// text is written as one, the numbers stay that the text begins with.
    fn search<'a>(&self, text: &'a str, field: &str) -> Cow<'a, str> {
        if self.is_clean_text(text) {
            return Cow::Borrowed(text);
        }
        let mut masked = self.once(text, field);
        // A token can complete what was no address before it: x@a10.0.0.1@ is one such text.
        for _ in 1..ROUNDS_MAX {
            let Cow::Owned(before) = &masked else { break };
            if self.is_clean_text(before) {
                break;
            }
            let Cow::Owned(again) = self.once(before, field) else { break };
            masked = Cow::Owned(again);
        }
        masked
    }

    /// What the log holds where an event's field, or a member of its properties, of that name
    /// had `text`: what a filter must look for. A field that is dropped is found nowhere.
    #[must_use]
    pub fn field<'a>(&self, name: &str, text: &'a str) -> Cow<'a, str> {
        match self.rule(name) {
            FieldRule::Search | FieldRule::Drop => self.search(text, name),
            FieldRule::Exempt => Cow::Borrowed(text),
            FieldRule::Tokenise => Cow::Owned(self.whole(text)),
        }
    }

    /// A field's text as it may be written; `None` where a rule removes it.
    #[must_use]
    pub fn value<'a>(&self, name: &str, text: &'a str) -> Option<Cow<'a, str>> {
        (self.rule(name) != FieldRule::Drop).then(|| self.field(name, text))
    }

    /// What the log holds where an event had `text` at `path`: a field, or a property and where
    /// it lies, as in `properties.client.version`. What holds a field may exempt it, too.
    #[must_use]
    pub fn at<'a>(&self, path: &str, text: &'a str) -> Cow<'a, str> {
        let (holders, name) = path.rsplit_once('.').unwrap_or(("", path));
        if holders.split('.').any(|holder| self.rule(holder) == FieldRule::Exempt) {
            return Cow::Borrowed(text);
        }
        self.field(name, text)
    }

    /// Borrowed where nothing changed.
    fn once<'a>(&self, text: &'a str, field: &str) -> Cow<'a, str> {
        let mut masked = Cow::Borrowed(text);
        if self.plan.emails {
            let changed = replaced(&masked, email::next, |found| self.token(EMAIL_PREFIX, found));
            masked = changed.map_or(masked, Cow::Owned);
        }
        if self.plan.addresses != AddressMasking::Off {
            let versions: LazyCell<Vec<usize>, _> = LazyCell::new(|| {
                let is_version = names::is_version_field(field);
                let own = is_version.then(|| names::version_start(&masked)).flatten();
                own.into_iter().chain(agent::versions(&masked)).collect()
            });
            let next = |text: &str, from: usize| address::next(text, from, &|| &versions);
            let changed = replaced(&masked, next, |found| self.address(found));
            masked = changed.map_or(masked, Cow::Owned);
        }
        for (name, regex) in &self.plan.detectors {
            let prefix = format!("{name}1_");
            let changed = regex.replace_all(&masked, |found: &regex::Captures<'_>| {
                // An empty match, or a token of this detector's, is nothing to hide.
                if found[0].is_empty() || found[0].starts_with(&prefix) {
                    found[0].to_owned()
                } else {
                    self.token(&prefix, &found[0])
                }
            });
            if let Cow::Owned(changed) = changed {
                masked = Cow::Owned(changed);
            }
        }
        match masked {
            Cow::Owned(same) if same == text => Cow::Borrowed(text),
            masked => masked,
        }
    }

    /// [`Masker::text`] in every string of `json`, names included, and the rules for fields.
    /// `json` is one JSON value; so is the result. `note` hears the name of the member that
    /// each changed value belongs to.
    pub(crate) fn json<'a>(&self, json: &'a str, note: &mut dyn FnMut(&str)) -> Cow<'a, str> {
        json::rewrite(self, json, note)
    }

    /// A refused event, which may be anything: as JSON where it is JSON, as text where not.
    /// `note` hears of each value that was changed.
    pub(crate) fn body(&self, raw: &[u8], note: &mut dyn FnMut(&str)) -> String {
        if let Ok(text) = std::str::from_utf8(raw)
            && crate::parse::skip::value(raw, crate::parse::skip::white_space(raw, 0))
                .is_ok_and(|shape| crate::parse::skip::white_space(raw, shape.end) == raw.len())
        {
            return self.json(text, note).into_owned();
        }
        let text = String::from_utf8_lossy(raw);
        let text = json::without_ascii_escapes(&text);
        let masked = self.text(&text);
        if *masked != *text {
            note("");
        }
        masked.into_owned()
    }

    /// The rule for the field, or the member of `properties`, of that name.
    pub(crate) fn rule(&self, name: &str) -> FieldRule {
        let has = |list: &[String]| list.iter().any(|listed| listed.eq_ignore_ascii_case(name));
        if has(&self.plan.drop_fields) {
            FieldRule::Drop
        } else if has(&self.plan.tokenise_fields) {
            FieldRule::Tokenise
        } else if has(&self.plan.exempt_fields) {
            FieldRule::Exempt
        } else {
            FieldRule::Search
        }
    }

    /// The token of a field's whole value.
    pub(crate) fn whole(&self, value: &str) -> String {
        // A replayed dead letter brings the token back.
        if value.starts_with(FIELD_PREFIX) && value.len() == FIELD_PREFIX.len() + 22 {
            return value.to_owned();
        }
        self.token(FIELD_PREFIX, value)
    }

    /// True where nothing in an event's JSON text can need masking: one pass over the bytes,
    /// so that the usual event pays for no more. False says nothing.
    pub(crate) fn is_clean(&self, raw: &[u8]) -> bool {
        let plan = &self.plan;
        if !plan.detectors.is_empty()
            || !plan.tokenise_fields.is_empty()
            || !plan.drop_fields.is_empty()
        {
            return false;
        }
        if !plan.emails && plan.addresses == AddressMasking::Off {
            return true;
        }
        is_plain(raw)
    }

    /// Whether one look says that nothing in `text` changes; false says nothing.
    fn is_clean_text(&self, text: &str) -> bool {
        self.plan.detectors.is_empty()
            && (!text.bytes().any(begins_something) || is_plain(text.as_bytes()))
    }

    fn token(&self, prefix: &str, text: &str) -> String {
        let mut mac = self.keyed.clone();
        mac.update(prefix.as_bytes());
        mac.update(text.as_bytes());
        let hash = mac.finalize().into_bytes();
        format!("{prefix}{}", URL_SAFE_NO_PAD.encode(&hash[..TOKEN_BYTES]))
    }

    fn address(&self, found: &str) -> String {
        if self.plan.addresses == AddressMasking::Truncate {
            let plain = written::plain(found);
            if let Ok(v4) = plain.parse::<Ipv4Addr>() {
                let [a, b, c, _] = v4.octets();
                return Ipv4Addr::new(a, b, c, 0).to_string();
            }
            if let Ok(v6) = plain.parse::<Ipv6Addr>()
                && v6.to_ipv4_mapped().is_none()
            {
                let [a, b, c, ..] = v6.segments();
                return Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).to_string();
            }
        }
        self.token(ADDRESS_PREFIX, found)
    }
}
