//! Values as filters write them, in declarations and in questions: `a,!b,prefix*,"any text"`.
//!
//! A backslash makes what follows literal. So do quotes, within which only `\"` and `\\` are
//! special, and any other backslash is one; `"a,b"*` is what begins with `a,b`.

use std::iter::Peekable;
use std::str::Chars;

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// As it stands, with nothing escaped: it may be a word with a meaning, such as `null`.
    Bare(String),
    /// Exactly this text.
    Text(String),
    /// Every text that begins so.
    Prefix(String),
}

/// What is wrong with a value, and what would be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrittenError {
    /// Nothing stands where a value must.
    #[error("has an empty value; write \"\" for the empty text, null for what is missing")]
    Empty,
    /// A quote that does not end.
    #[error("has a quote without its end; write \\\" for one that is meant")]
    OpenQuote,
    /// A backslash with nothing after it.
    #[error("ends in a backslash; write \\\\ for one")]
    OpenBackslash,
    /// Text between a value in quotes and the next comma.
    #[error("goes on after a quoted value; write a comma there")]
    AfterQuote,
}

/// Reads values that commas part, up to the end of the text or of what is theirs.
#[derive(Debug)]
pub struct ValueReader<'a> {
    rest: Peekable<Chars<'a>>,
    /// What ends the list; left unread.
    ends: &'static [char],
    is_done: bool,
}

impl Iterator for ValueReader<'_> {
    /// A value, and whether a `!` stands before it; after an error comes nothing.
    type Item = Result<(bool, Written), WrittenError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let value = self.value();
        self.is_done = value.is_err() || self.rest.next_if_eq(&',').is_none();
        let goes_on = self.rest.peek().is_some_and(|next| !self.ends.contains(next));
        match value {
            Ok(_) if self.is_done && goes_on => Some(Err(WrittenError::AfterQuote)),
            value => Some(value),
        }
    }
}

impl<'a> ValueReader<'a> {
    /// Reads `text` up to one of `ends` that is neither quoted nor escaped.
    #[must_use]
    pub fn new(text: &'a str, ends: &'static [char]) -> Self {
        Self { rest: text.chars().peekable(), ends, is_done: false }
    }

    /// What is left unread.
    #[must_use]
    pub fn rest(self) -> String {
        self.rest.collect()
    }

    fn value(&mut self) -> Result<(bool, Written), WrittenError> {
        let is_not = self.rest.next_if_eq(&'!').is_some();
        let value = match self.rest.next_if_eq(&'"') {
            Some(_) => self.quoted()?,
            None => self.bare()?,
        };
        Ok((is_not, value))
    }

    /// What stands within quotes, the first of which is read.
    fn quoted(&mut self) -> Result<Written, WrittenError> {
        let mut text = String::new();
        loop {
            match self.rest.next().ok_or(WrittenError::OpenQuote)? {
                '"' => break,
                '\\' => {
                    let special = self.rest.next_if(|next| matches!(next, '"' | '\\'));
                    text.push(special.unwrap_or('\\'));
                }
                other => text.push(other),
            }
        }
        let begins = self.rest.next_if_eq(&'*').is_some();
        Ok(if begins { Written::Prefix(text) } else { Written::Text(text) })
    }

    /// Up to the next comma or end that no backslash protects.
    fn bare(&mut self) -> Result<Written, WrittenError> {
        let (mut text, mut escaped, mut star) = (String::new(), false, false);
        let ends = self.ends;
        while let Some(next) = self.rest.next_if(|next| *next != ',' && !ends.contains(next)) {
            star = next == '*';
            if next == '\\' {
                text.push(self.rest.next().ok_or(WrittenError::OpenBackslash)?);
                escaped = true;
            } else {
                text.push(next);
            }
        }
        if star {
            text.pop();
            return Ok(Written::Prefix(text));
        }
        match (text.is_empty(), escaped) {
            (true, _) => Err(WrittenError::Empty),
            (false, true) => Ok(Written::Text(text)),
            (false, false) => Ok(Written::Bare(text)),
        }
    }
}
