//! Which events a metric counts: `field:a,b` clauses that must all hold.

use std::fmt::Write as _;

use nilometer_event::Field;

use super::source::{EventFacts, Source, same_type};

/// Compiled clauses, in canonical order: two filters that read alike are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    clauses: Vec<Clause>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Clause {
    source: Source,
    negated: bool,
    /// Ascending; event types in lower case. `None` is an absent value, written `null`.
    values: Vec<Option<String>>,
}

impl Filter {
    /// Parses clauses separated by spaces or `&`. `name` resolves a declared dimension.
    ///
    /// # Errors
    ///
    /// What is wrong, naming the clause.
    pub(super) fn parse(text: &str, name: impl Fn(&str) -> Option<Source>) -> Result<Self, String> {
        let mut clauses = Vec::new();
        for clause in text.split([' ', '&', '\t']).filter(|clause| !clause.is_empty()) {
            clauses.push(Clause::parse(clause, &name)?);
        }
        if clauses.is_empty() {
            return Err("the filter is empty".to_owned());
        }
        Ok(Self::of(clauses))
    }

    /// Events of any of these types.
    pub(super) fn types(names: &[String]) -> Self {
        Self::of(vec![Clause::new(
            Source::Field(Field::EventType),
            false,
            names.iter().map(|name| Some(name.clone())).collect(),
        )])
    }

    fn of(mut clauses: Vec<Clause>) -> Self {
        clauses.sort_by_cached_key(Clause::canonical);
        clauses.dedup();
        Self { clauses }
    }

    /// True where every clause holds.
    #[must_use]
    pub fn matches(&self, facts: &EventFacts<'_>) -> bool {
        self.clauses.iter().all(|clause| clause.matches(facts))
    }

    /// True where no event is left out.
    #[must_use]
    pub const fn is_all(&self) -> bool {
        self.clauses.is_empty()
    }

    /// True where only the event's type decides.
    #[must_use]
    pub fn by_type_only(&self) -> bool {
        self.clauses.iter().all(|clause| clause.source == Source::Field(Field::EventType))
    }

    /// True where only whether the content was seen to its end decides.
    #[must_use]
    pub fn by_completed_only(&self) -> bool {
        self.clauses.iter().all(|clause| clause.source == Source::Completed)
    }

    /// One text for all filters that read alike.
    #[must_use]
    pub fn canonical(&self) -> String {
        self.clauses.iter().map(Clause::canonical).collect::<Vec<_>>().join("&")
    }
}

impl Clause {
    fn new(source: Source, negated: bool, mut values: Vec<Option<String>>) -> Self {
        if source == Source::Field(Field::EventType) {
            for value in values.iter_mut().flatten() {
                *value = value.to_lowercase();
            }
        }
        values.sort_unstable();
        values.dedup();
        Self { source, negated, values }
    }

    fn parse(text: &str, name: &impl Fn(&str) -> Option<Source>) -> Result<Self, String> {
        let (negated, rest) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
        let Some((subject, values)) = rest.split_once(':') else {
            return Err(format!("clause {text:?} has no colon"));
        };
        let source = name(subject)
            .or_else(|| Source::parse(subject))
            .ok_or_else(|| format!("clause {text:?} names an unknown field {subject:?}"))?;
        let values: Vec<_> = values
            .split(',')
            .filter(|value| !value.is_empty())
            .map(|value| (value != "null").then(|| value.to_owned()))
            .collect();
        if values.is_empty() {
            return Err(format!("clause {text:?} names no value"));
        }
        Ok(Self::new(source, negated, values))
    }

    fn matches(&self, facts: &EventFacts<'_>) -> bool {
        let value = facts.text(&self.source);
        let is_type = self.source == Source::Field(Field::EventType);
        let found = self.values.iter().any(|wanted| match (wanted, &value) {
            (None, None) => true,
            (Some(wanted), Some(value)) if is_type => same_type(wanted, value),
            (Some(wanted), Some(value)) => wanted == value,
            _ => false,
        });
        found != self.negated
    }

    fn canonical(&self) -> String {
        let mut text = format!("{}{}:", if self.negated { "!" } else { "" }, self.source);
        for value in &self.values {
            // Quoted, so that no value can read as two.
            match value {
                Some(value) => {
                    let _infallible = write!(text, "{value:?},");
                }
                None => text.push_str("null,"),
            }
        }
        text
    }
}
