//! Filters: `dimension:value,value`, with a backslash before what is meant literally.
//!
//! `null` is an event without the dimension, `__other__` what the cardinality guard folded.
//! `\null` and `\__other__` are these texts themselves; `\,` is a comma, `\\` a backslash. After
//! the first colon a colon needs no backslash. In JSON a string is literal and null is null; only
//! `"__other__"` keeps its meaning, and `"\\__other__"` is the text, exactly as answers show it.

use super::{AskError, DIMENSIONS_MAX, FILTER_VALUES_MAX};

/// The folded rest of a dimension, as queries and answers write it.
const OTHER: &str = "__other__";

/// What one dimension must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Name of the dimension.
    pub dimension: String,
    /// Any of these; none of them means that nothing can match.
    pub values: Vec<Member>,
}

/// One value of a dimension. In order: texts by their bytes, then the rest, then null.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    /// Exactly this text.
    Text(Box<str>),
    /// Folded by the cardinality guard.
    Other,
    /// The event lacks the dimension.
    Null,
}

impl Member {
    /// From a JSON string, the inverse of [`shown`].
    pub(crate) fn from_shown(text: &str) -> Self {
        if text == OTHER {
            return Self::Other;
        }
        match text.strip_prefix('\\') {
            Some(rest) if is_escaped_other(rest) => Self::Text(rest.into()),
            _ => Self::Text(text.into()),
        }
    }
}

/// How an answer shows a text: as it is, but for `__other__` itself (which means the folded
/// rest), which is shown with one more backslash.
#[must_use]
pub fn shown(text: &str) -> std::borrow::Cow<'_, str> {
    if is_escaped_other(text) { format!("\\{text}").into() } else { text.into() }
}

fn is_escaped_other(text: &str) -> bool {
    text.ends_with(OTHER) && text.trim_start_matches('\\') == OTHER
}

impl Filter {
    /// Parses `dimension:value,value`.
    ///
    /// # Errors
    ///
    /// [`AskError`] where the colon, a value, or what a backslash escapes is missing.
    pub fn parse(text: &str) -> Result<Self, AskError> {
        let (dimension, rest) = text
            .split_once(':')
            .ok_or_else(|| AskError::bad("filter", "has no colon; write dimension:value,value"))?;
        let values = split_values(rest)?;
        Ok(Self { dimension: dimension.trim().to_owned(), values })
    }
}

impl Filter {
    /// The filter on what the log holds: `mask` gets the dimension and each text.
    pub(crate) fn masked(mut self, mask: &dyn Fn(&str, &str) -> String) -> Self {
        for value in &mut self.values {
            if let Member::Text(text) = value {
                *text = mask(&self.dimension, text).into();
            }
        }
        self.values.sort();
        self.values.dedup();
        self
    }
}

fn split_values(text: &str) -> Result<Vec<Member>, AskError> {
    let mut values = Vec::new();
    let (mut value, mut escaped) = (String::new(), false);
    let mut chars = text.chars();
    loop {
        match chars.next() {
            Some('\\') => {
                let Some(literal) = chars.next() else {
                    return Err(AskError::bad("filter", "ends in a backslash; write \\\\ for one"));
                };
                value.push(literal);
                escaped = true;
            }
            Some(other) if other != ',' => value.push(other),
            end => {
                values.push(finished(std::mem::take(&mut value), escaped)?);
                escaped = false;
                if values.len() > FILTER_VALUES_MAX {
                    return Err(too_many());
                }
                if end.is_none() {
                    return Ok(values);
                }
            }
        }
    }
}

fn finished(value: String, escaped: bool) -> Result<Member, AskError> {
    match value.as_str() {
        "" if !escaped => Err(AskError::bad(
            "filter",
            "has an empty value; write dimension:null for events without the dimension",
        )),
        "null" if !escaped => Ok(Member::Null),
        OTHER if !escaped => Ok(Member::Other),
        _ => Ok(Member::Text(value.into())),
    }
}

fn too_many() -> AskError {
    AskError::bad("filter", format!("has more than {FILTER_VALUES_MAX} values"))
}

/// One filter a dimension: repeats of a dimension must all hold, so they intersect.
pub(super) fn normalise(given: Vec<Filter>) -> Result<Vec<Filter>, AskError> {
    let mut kept: Vec<Filter> = Vec::new();
    let mut values = 0;
    for mut filter in given {
        filter.values.sort();
        filter.values.dedup();
        values += filter.values.len();
        match kept.iter_mut().find(|other| other.dimension == filter.dimension) {
            Some(other) => other.values.retain(|value| filter.values.contains(value)),
            None => kept.push(filter),
        }
        if kept.len() > DIMENSIONS_MAX {
            return Err(AskError::bad(
                "filter",
                format!("names more than {DIMENSIONS_MAX} dimensions"),
            ));
        }
        if values > FILTER_VALUES_MAX {
            return Err(too_many());
        }
    }
    kept.sort_by(|a, b| a.dimension.cmp(&b.dimension));
    Ok(kept)
}
