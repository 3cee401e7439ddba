//! Filters: what one dimension must be, as questions write it and as they mean it.
//!
//! A filter names values (`DE`), beginnings of texts (`c-*`) and either of them with a `!`: it
//! admits any of those without, and none of those with. `null` is an event without the dimension,
//! `__other__` what the cardinality guard folded: values like others, so that `!DE` admits both.

use super::{AskError, DIMENSIONS_MAX, FILTER_VALUES_MAX};

/// The folded rest of a dimension, as queries and answers write it.
pub(super) const OTHER: &str = "__other__";

/// What one dimension must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Name of the dimension.
    pub dimension: String,
    /// Which values it admits.
    pub rule: Rule,
}

/// Which values are admitted: any of some, and none of others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rule {
    /// `None` for anything; where there are none nothing can match.
    pub any_of: Option<Values>,
    /// What is left out.
    pub none_of: Values,
}

/// Some values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Values {
    /// By name.
    pub members: Vec<Member>,
    /// Every text that begins so.
    pub prefixes: Vec<Box<str>>,
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

/// A value that a filter names, or how its texts begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    Member(Member),
    Prefix(Box<str>),
}

impl Member {
    /// What an event has.
    pub(crate) fn of(text: Option<&str>) -> Self {
        text.map_or(Self::Null, |text| Self::Text(text.into()))
    }

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

impl Values {
    fn len(&self) -> usize {
        self.members.len() + self.prefixes.len()
    }

    fn contain(&self, member: &Member) -> bool {
        let begins = |text: &str| self.prefixes.iter().any(|prefix| text.starts_with(&**prefix));
        self.members.contains(member) || matches!(member, Member::Text(text) if begins(text))
    }

    /// What both hold.
    fn meet(&self, other: &Self) -> Self {
        let in_both = |own: &Self, theirs: &Self| -> Vec<Member> {
            own.members.iter().filter(|member| theirs.contain(member)).cloned().collect()
        };
        let members = [in_both(self, other), in_both(other, self)].concat();
        let mut prefixes = Vec::new();
        for own in &self.prefixes {
            for theirs in &other.prefixes {
                if own.starts_with(&**theirs) {
                    prefixes.push(own.clone());
                } else if theirs.starts_with(&**own) {
                    prefixes.push(theirs.clone());
                }
            }
        }
        Self { members, prefixes }
    }

    /// One form for all that hold the same.
    fn sort(&mut self) {
        self.prefixes.sort_unstable();
        self.prefixes.dedup_by(|longer, shorter| longer.starts_with(&**shorter));
        let members = std::mem::take(&mut self.members);
        self.members = members.into_iter().filter(|member| !self.contain(member)).collect();
        self.members.sort_unstable();
        self.members.dedup();
    }
}

impl Rule {
    /// Takes one more value; `is_not` where it is to be left out.
    pub(super) fn take(&mut self, pattern: Pattern, is_not: bool) -> Result<(), AskError> {
        let values = if is_not { &mut self.none_of } else { self.any_of.get_or_insert_default() };
        match pattern {
            Pattern::Member(member) => values.members.push(member),
            Pattern::Prefix(prefix) => values.prefixes.push(prefix),
        }
        if self.len() > FILTER_VALUES_MAX { Err(too_many()) } else { Ok(()) }
    }

    /// Whether a value is admitted.
    #[must_use]
    pub fn admits(&self, member: &Member) -> bool {
        self.any_of.as_ref().is_none_or(|values| values.contain(member))
            && !self.none_of.contain(member)
    }

    /// Whether at most one value is admitted, whatever there is.
    pub(crate) fn is_single(&self) -> bool {
        let single = |values: &Values| values.prefixes.is_empty() && values.members.len() <= 1;
        self.any_of.as_ref().is_some_and(single)
    }

    fn len(&self) -> usize {
        self.any_of.as_ref().map_or(0, Values::len) + self.none_of.len()
    }

    /// What both admit.
    fn meet(&mut self, other: Self) {
        self.any_of = match (self.any_of.take(), other.any_of) {
            (Some(own), Some(theirs)) => Some(own.meet(&theirs)),
            (one, other) => one.or(other),
        };
        self.none_of.members.extend(other.none_of.members);
        self.none_of.prefixes.extend(other.none_of.prefixes);
        self.sort();
    }

    /// One form for all rules that read alike.
    fn sort(&mut self) {
        self.none_of.sort();
        if let Some(any_of) = &mut self.any_of {
            any_of.members.retain(|member| !self.none_of.contain(member));
            any_of.sort();
        }
    }
}

impl Filter {
    /// Exactly this text.
    pub(crate) fn is(dimension: &str, text: &str) -> Self {
        let values = Values { members: vec![Member::of(Some(text))], ..Values::default() };
        let rule = Rule { any_of: Some(values), ..Rule::default() };
        Self { dimension: dimension.to_owned(), rule }
    }

    /// The filter on what the log holds: `mask` gets the dimension and each text, and gives what
    /// may stand in its place.
    pub(crate) fn masked(mut self, mask: &dyn Fn(&str, &str) -> Vec<String>) -> Self {
        let (rule, dimension) = (&mut self.rule, &self.dimension);
        for values in rule.any_of.iter_mut().chain([&mut rule.none_of]) {
            let mut members = Vec::with_capacity(values.members.len());
            for member in values.members.drain(..) {
                match member {
                    Member::Text(text) => {
                        let masked = mask(dimension, &text).into_iter();
                        members.extend(masked.map(|text| Member::Text(text.into())));
                    }
                    Member::Other | Member::Null => members.push(member),
                }
            }
            values.members = members;
            // A prefix may end within what is no address before its end, so that it holds as it
            // is written, and beside that with every address in it masked.
            let masked = values.prefixes.iter().flat_map(|prefix| mask(dimension, prefix));
            let masked: Vec<Box<str>> = masked.map(Into::into).collect();
            values.prefixes.extend(masked);
        }
        rule.sort();
        self
    }
}

fn too_many() -> AskError {
    AskError::bad("filter", format!("has more than {FILTER_VALUES_MAX} values"))
}

/// One filter a dimension: repeats of a dimension must all hold.
pub(super) fn normalise(given: Vec<Filter>) -> Result<Vec<Filter>, AskError> {
    let mut kept: Vec<Filter> = Vec::new();
    let mut values = 0;
    for mut filter in given {
        filter.rule.sort();
        values += filter.rule.len();
        if values > FILTER_VALUES_MAX {
            return Err(too_many());
        }
        match kept.iter_mut().find(|other| other.dimension == filter.dimension) {
            Some(other) => other.rule.meet(filter.rule),
            None => kept.push(filter),
        }
        if kept.len() > DIMENSIONS_MAX {
            return Err(AskError::bad(
                "filter",
                format!("names more than {DIMENSIONS_MAX} dimensions"),
            ));
        }
    }
    kept.sort_by(|a, b| a.dimension.cmp(&b.dimension));
    Ok(kept)
}
