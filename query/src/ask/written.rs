//! Filters as URLs write them: `dimension:value,!value,prefix*,"any text"`.
//!
//! A backslash makes what follows literal: `\,` is a comma, `\null` the text null, `\!` and `\*`
//! are these characters. So do quotes, within which only `\"` and `\\` are special: `""` is the
//! empty text, `"a,b"*` what begins with `a,b`. After the first colon a colon is a colon.

use std::iter::Peekable;
use std::str::Chars;

use super::AskError;
use super::filter::{Filter, Member, OTHER, Pattern, Rule};

impl Filter {
    /// Parses `dimension:value,value`.
    ///
    /// # Errors
    ///
    /// [`AskError`] where the colon, a value, a quote, or what a backslash escapes is missing.
    pub fn parse(text: &str) -> Result<Self, AskError> {
        let (dimension, rest) =
            text.split_once(':').ok_or_else(|| bad("has no colon; write dimension:value,value"))?;
        let mut reader = Reader { rest: rest.chars().peekable() };
        let mut rule = Rule::default();
        loop {
            let is_not = reader.rest.next_if_eq(&'!').is_some();
            let pattern = match reader.rest.next_if_eq(&'"') {
                Some(_) => reader.quoted()?,
                None => reader.bare()?,
            };
            rule.take(pattern, is_not)?;
            match reader.rest.next() {
                None => return Ok(Self { dimension: dimension.trim().to_owned(), rule }),
                Some(',') => {}
                Some(_) => return Err(bad("goes on after a quoted value; write a comma there")),
            }
        }
    }
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
}

impl Reader<'_> {
    /// What stands within quotes, the first of which is read.
    fn quoted(&mut self) -> Result<Pattern, AskError> {
        let unended = || bad("has a quote without its end; write \\\" for one that is meant");
        let mut text = String::new();
        loop {
            match self.rest.next().ok_or_else(unended)? {
                '"' => break,
                '\\' => text.push(self.rest.next().ok_or_else(unended)?),
                other => text.push(other),
            }
        }
        Ok(match self.rest.next_if_eq(&'*') {
            Some(_) => Pattern::Prefix(text.into()),
            None => Pattern::Member(Member::Text(text.into())),
        })
    }

    /// Up to the next comma that no backslash protects.
    fn bare(&mut self) -> Result<Pattern, AskError> {
        let (mut text, mut escaped, mut star) = (String::new(), false, false);
        while let Some(next) = self.rest.next_if(|next| *next != ',') {
            star = next == '*';
            if next == '\\' {
                let literal = self.rest.next();
                text.push(literal.ok_or_else(|| bad("ends in a backslash; write \\\\ for one"))?);
                escaped = true;
            } else {
                text.push(next);
            }
        }
        if star {
            text.pop();
            return Ok(Pattern::Prefix(text.into()));
        }
        Ok(Pattern::Member(match text.as_str() {
            "" => {
                return Err(bad(
                    "has an empty value; write dimension:\"\" for the empty text, dimension:null \
                     for events without the dimension",
                ));
            }
            "null" if !escaped => Member::Null,
            OTHER if !escaped => Member::Other,
            _ => Member::Text(text.into()),
        }))
    }
}

fn bad(message: &str) -> AskError {
    AskError::bad("filter", message)
}
