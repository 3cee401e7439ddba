//! Which events a metric counts: `field:a,b` clauses that must all hold.
//!
//! Values are written as in questions: `field:!a`, `field:prefix*`, `field:"any text"`.

use std::fmt::Write as _;

use nilometer_event::Field;

use super::source::{EventFacts, Source, same_type};
use super::written::{ValueReader, Written};

/// What parts clauses.
const BETWEEN: [char; 3] = [' ', '&', '\t'];

/// How values of clauses are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grammar {
    /// As questions write them.
    Written,
    /// As text, whatever it holds: how plans were read before they had any other.
    Literal,
}

/// Compiled clauses, in canonical order: two filters that read alike are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    clauses: Vec<Clause>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Clause {
    source: Source,
    negated: bool,
    /// Ascending; event types in lower case.
    values: Vec<Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Value {
    /// Written `null`.
    Absent,
    Text(String),
    /// Every text that begins so.
    Prefix(String),
}

impl Filter {
    /// Parses clauses separated by spaces or `&`. `name` resolves a declared dimension.
    ///
    /// # Errors
    ///
    /// What is wrong, naming the clause.
    pub(super) fn parse(
        text: &str,
        grammar: Grammar,
        name: impl Fn(&str) -> Option<Source>,
    ) -> Result<Self, String> {
        let mut clauses = Vec::new();
        let mut rest = text.trim_start_matches(BETWEEN).to_owned();
        while !rest.is_empty() {
            let (read, after) = match grammar {
                Grammar::Written => Clause::written(&rest, &name)?,
                Grammar::Literal => Clause::literal(&rest, &name)?,
            };
            clauses.extend(read);
            rest = after.trim_start_matches(BETWEEN).to_owned();
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
            names.iter().map(|name| Value::Text(name.clone())).collect(),
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
    fn new(source: Source, negated: bool, mut values: Vec<Value>) -> Self {
        if source == Source::Field(Field::EventType) {
            for value in &mut values {
                if let Value::Text(text) | Value::Prefix(text) = value {
                    *text = text.to_lowercase();
                }
            }
        }
        values.sort_unstable();
        values.dedup();
        Self { source, negated, values }
    }

    /// The field of the first clause, whether it must not be what follows, and what follows.
    fn subject<'t>(
        text: &'t str,
        name: &impl Fn(&str) -> Option<Source>,
    ) -> Result<(bool, Source, &'t str), String> {
        let (negated, rest) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
        let clause = text.split(BETWEEN).next().unwrap_or(text);
        let Some((subject, values)) = rest.split_once(':').filter(|_| clause.contains(':')) else {
            return Err(format!("clause {clause:?} has no colon"));
        };
        let source = name(subject)
            .or_else(|| Source::parse(subject))
            .ok_or_else(|| format!("clause {clause:?} names an unknown field {subject:?}"))?;
        Ok((negated, source, values))
    }

    /// The first clause (two, where it has values with and without `!`), and the rest.
    fn written(
        text: &str,
        name: &impl Fn(&str) -> Option<Source>,
    ) -> Result<(Vec<Self>, String), String> {
        let (negated, source, values) = Self::subject(text, name)?;
        let clause = text.split(BETWEEN).next().unwrap_or(text);
        let mut reader = ValueReader::new(values, &BETWEEN);
        let read: Result<Vec<(bool, Written)>, _> = reader.by_ref().collect();
        let read = read.map_err(|error| format!("clause {clause:?} {error}"))?;
        if negated && read.iter().any(|(is_not, _)| *is_not) {
            return Err(format!("clause {clause:?} has a ! before its field and before a value"));
        }
        let value = |written: Written| match written {
            Written::Bare(word) if word == "null" => Value::Absent,
            Written::Bare(text) | Written::Text(text) => Value::Text(text),
            Written::Prefix(text) => Value::Prefix(text),
        };
        let (without, with): (Vec<_>, Vec<_>) =
            read.into_iter().partition(|(is_not, _)| *is_not || negated);
        let clauses = [(true, without), (false, with)]
            .into_iter()
            .filter(|(_, values)| !values.is_empty())
            .map(|(negated, values)| {
                let values = values.into_iter().map(|(_, written)| value(written)).collect();
                Self::new(source.clone(), negated, values)
            });
        Ok((clauses.collect(), reader.rest()))
    }

    /// The first clause and the rest, of a plan that was made before values had a grammar.
    fn literal(
        text: &str,
        name: &impl Fn(&str) -> Option<Source>,
    ) -> Result<(Vec<Self>, String), String> {
        let (clause, after) = text.split_at(text.find(BETWEEN).unwrap_or(text.len()));
        let (negated, source, values) = Self::subject(clause, name)?;
        let value = |value: &str| match value {
            "null" => Value::Absent,
            text => Value::Text(text.to_owned()),
        };
        let values: Vec<_> =
            values.split(',').filter(|value| !value.is_empty()).map(value).collect();
        if values.is_empty() {
            return Err(format!("clause {clause:?} names no value"));
        }
        Ok((vec![Self::new(source, negated, values)], after.to_owned()))
    }

    fn matches(&self, facts: &EventFacts<'_>) -> bool {
        let value = facts.text(&self.source);
        let is_type = self.source == Source::Field(Field::EventType);
        let found = self.values.iter().any(|wanted| match (wanted, &value) {
            (Value::Absent, None) => true,
            (Value::Text(wanted), Some(value)) if is_type => same_type(wanted, value),
            (Value::Text(wanted), Some(value)) => wanted == value,
            (Value::Prefix(prefix), Some(value)) if is_type => {
                value.to_lowercase().starts_with(prefix)
            }
            (Value::Prefix(prefix), Some(value)) => value.starts_with(prefix),
            _ => false,
        });
        found != self.negated
    }

    fn canonical(&self) -> String {
        let mut text = format!("{}{}:", if self.negated { "!" } else { "" }, self.source);
        for value in &self.values {
            // Quoted, so that no value can read as two.
            match value {
                Value::Text(value) => {
                    let _infallible = write!(text, "{value:?},");
                }
                Value::Prefix(value) => {
                    let _infallible = write!(text, "{value:?}*,");
                }
                Value::Absent => text.push_str("null,"),
            }
        }
        text
    }
}
