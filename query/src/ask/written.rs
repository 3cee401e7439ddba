//! Filters as URLs write them: `dimension:value,!value,prefix*,"any text"`, or `!dimension:value`
//! where none of the values is admitted.
//!
//! `\null` and `\__other__` are these texts themselves, as are `"null"` and `"__other__"`. After
//! the first colon a colon is a colon.

use nilometer_rollups::declare::{ValueReader, Written};

use super::AskError;
use super::filter::{Filter, Member, OTHER, Pattern, Rule};

impl Filter {
    /// Parses `dimension:value,value`.
    ///
    /// # Errors
    ///
    /// [`AskError`] where the colon, a value, a quote, or what a backslash escapes is missing.
    pub fn parse(text: &str) -> Result<Self, AskError> {
        let (dimension, rest) = text
            .split_once(':')
            .ok_or_else(|| AskError::bad("filter", "has no colon; write dimension:value,value"))?;
        let dimension = dimension.trim();
        let (none, dimension) =
            dimension.strip_prefix('!').map_or((false, dimension), |dimension| (true, dimension));
        let mut rule = Rule::default();
        for value in ValueReader::new(rest, &[]) {
            let (is_not, value) =
                value.map_err(|error| AskError::bad("filter", error.to_string()))?;
            if none && is_not {
                let twice = "has a ! before its dimension and before a value: one is enough";
                return Err(AskError::bad("filter", twice));
            }
            rule.take(pattern(value), none || is_not)?;
        }
        Ok(Self { dimension: dimension.to_owned(), rule })
    }
}

fn pattern(value: Written) -> Pattern {
    match value {
        Written::Prefix(text) => Pattern::Prefix(text.into()),
        Written::Bare(text) if text == "null" => Pattern::Member(Member::Null),
        Written::Bare(text) if text == OTHER => Pattern::Member(Member::Other),
        Written::Bare(text) | Written::Text(text) => Pattern::Member(Member::Text(text.into())),
    }
}
