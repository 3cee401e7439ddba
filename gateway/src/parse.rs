//! From bytes to a draft: two parsers with one verdict.
//!
//! [`scan`] is a straight loop over the shape that nearly every event has, and gives up on
//! anything unusual; [`full`] takes whatever is left and finds the words for what is wrong.

pub(crate) mod skip;

mod draft;
pub(crate) use draft::{Draft, TEXTS, TextField};

pub(crate) mod full;
pub(crate) use full::text_of;
pub(crate) mod scan;

#[cfg(test)]
mod tests;

use crate::{Limits, Refusal};

/// Where an event in a body ends, and what it says.
pub(crate) struct Parsed<'a> {
    /// The event's own bytes, as sent.
    pub(crate) raw: &'a [u8],
    pub(crate) verdict: Result<Draft<'a>, Refusal>,
}

/// Reads the value that begins at `at`, which is no white space. `text` is whether all of
/// `bytes` is UTF-8.
///
/// # Errors
///
/// [`skip::NotJson`] where no JSON value begins there.
pub(crate) fn value<'a>(
    bytes: &'a [u8],
    at: usize,
    text: Option<&'a str>,
    limits: &Limits,
) -> Result<Parsed<'a>, skip::NotJson> {
    if let Some(text) = text
        && let Some((draft, end)) = scan::event(text, at, limits)
    {
        return Ok(Parsed { raw: &bytes[at..end], verdict: Ok(draft) });
    }
    let shape = skip::value(bytes, at)?;
    let raw = &bytes[at..shape.end];
    Ok(Parsed { raw, verdict: full::event(raw, &shape, limits) })
}

/// True for a name that means something at the top of an event.
pub(crate) fn is_event_field(name: &str) -> bool {
    draft::Name::of(name).is_some()
}
