//! A question as it was asked: texts checked for form, names not yet looked up.

mod filter;
mod json;
mod near;
mod params;
mod span;
mod written;

pub use filter::{Filter, Member, Rule, Values, shown};
pub(crate) use json::{has_too_many_members, too_many_members};
pub(crate) use near::near_names;
pub use span::{Span, parse_duration_ms, parse_moment};

use nilometer_event::Granularity;
use nilometer_rollups::declare::Plan;
use thiserror::Error;

use crate::house::House;

/// Rows of an answer where `limit` is not given.
pub const LIMIT_DEFAULT: usize = 1_000;
/// Rows of an answer at most.
pub const LIMIT_MAX: usize = 100_000;
/// Metrics of one query at most.
pub const METRICS_MAX: usize = 32;
/// Dimensions of `group_by` at most, and dimensions filtered at most.
pub const DIMENSIONS_MAX: usize = 8;
/// Values in all filters of one query at most.
pub const FILTER_VALUES_MAX: usize = 1_000;
/// Bytes of a query written as JSON at most: of a body, and of a live subscription.
pub const QUERY_BYTES_MAX: usize = 1 << 20;
/// Names in `order_by` at most.
pub const ORDER_MAX: usize = 8;

/// One typed query, in a form that is equal for equal questions: the key of the shared cache.
///
/// Metrics and `group_by` keep their order (it is the order of the columns); filters are
/// sorted by dimension, one each, in one form; a range between two moments is on whole windows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ask {
    /// Names of metrics, each once.
    pub metrics: Vec<String>,
    /// Names of dimensions, each once.
    pub group_by: Vec<String>,
    /// What rows must match, all of it.
    pub filters: Vec<Filter>,
    /// The range of time.
    pub span: Span,
    /// Width of the windows; `None` leaves it to the range.
    pub granularity: Option<Step>,
    /// Width of sliding windows in milliseconds.
    pub window_ms: Option<i64>,
    /// Whether columns of the previous period are asked for.
    pub compare: Compare,
    /// First key first.
    pub order_by: Vec<Order>,
    /// Rows at most.
    pub limit: usize,
}

impl Ask {
    /// The same question about what the log holds, where personal data is masked: by the rules of
    /// the field or property that a dimension is read from, not of its name.
    pub(crate) fn masked(mut self, house: &dyn House, plan: &Plan) -> Self {
        let mask = |name: &str, text: &str| {
            let masked = plan.dimension(name).map(|dimension| {
                let source = &plan.dimensions[dimension.index()].source;
                house.masked(&source.to_string(), text)
            });
            // A dimension that there is not is refused later on.
            Vec::from_iter(masked)
        };
        self.filters = self.filters.into_iter().map(|filter| filter.masked(&mask)).collect();
        self
    }
}

/// Width of an answer's windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Aligned windows.
    Every(Granularity),
    /// One window over the whole range.
    Total,
}

impl Step {
    /// As queries write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Every(granularity) => granularity.name(),
            Self::Total => "total",
        }
    }

    fn parse(text: &str) -> Result<Self, AskError> {
        if text == "total" {
            return Ok(Self::Total);
        }
        Granularity::from_name(text).map(Self::Every).ok_or_else(|| {
            AskError::bad("granularity", format!("{text:?} is none of 1m, 5m, 30m, 1h, 1d, total"))
        })
    }
}

/// What an answer is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compare {
    /// Nothing.
    Nothing,
    /// The range of equal length that ends where this one begins.
    PreviousPeriod,
}

impl Compare {
    fn parse(text: &str) -> Result<Self, AskError> {
        match text {
            "previous_period" => Ok(Self::PreviousPeriod),
            _ => Err(AskError::bad("compare", format!("{text:?} is not previous_period"))),
        }
    }
}

/// One key of `order_by`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Order {
    /// A column of the answer.
    pub column: String,
    /// Which end comes first.
    pub direction: Direction,
}

/// Which end comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Smallest first.
    Ascending,
    /// Largest first, written with a minus.
    Descending,
}

impl Order {
    fn parse(text: &str) -> Self {
        let (column, direction) = match text.strip_prefix('-') {
            Some(column) => (column, Direction::Descending),
            None => (text.strip_prefix('+').unwrap_or(text), Direction::Ascending),
        };
        Self { column: column.to_owned(), direction }
    }
}

/// Why a text is no question.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{parameter}: {message}")]
pub struct AskError {
    /// Stable code: `unknown_parameter` or `bad_parameter`.
    pub code: &'static str,
    /// The parameter that is meant.
    pub parameter: String,
    /// What is wrong and what would be right.
    pub message: String,
    /// Names that may have been meant.
    pub near: Vec<String>,
}

impl AskError {
    pub(crate) fn bad(parameter: &str, message: impl Into<String>) -> Self {
        Self {
            code: "bad_parameter",
            parameter: parameter.to_owned(),
            message: message.into(),
            near: Vec::new(),
        }
    }

    pub(crate) fn unknown_parameter(name: &str, known: &[&str]) -> Self {
        Self {
            code: "unknown_parameter",
            parameter: name.chars().take(64).collect(),
            message: format!("is no parameter of a query; there are {}", known.join(", ")),
            near: near_names(name, known.iter().copied()),
        }
    }
}

/// The parameters of a query, in the order of the documentation.
pub const PARAMETERS: [&str; 11] = [
    "metrics",
    "group_by",
    "filter",
    "from",
    "to",
    "last",
    "granularity",
    "window",
    "compare",
    "order_by",
    "limit",
];

/// What has been read of a question so far; [`Draft::finish`] checks it as a whole.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) metrics: Vec<String>,
    pub(crate) group_by: Vec<String>,
    pub(crate) filters: Vec<Filter>,
    pub(crate) from: Option<nilometer_event::EventTime>,
    pub(crate) to: Option<nilometer_event::EventTime>,
    pub(crate) last_ms: Option<i64>,
    pub(crate) granularity: Option<Step>,
    pub(crate) window_ms: Option<i64>,
    pub(crate) compare: Option<Compare>,
    pub(crate) order_by: Vec<Order>,
    pub(crate) limit: Option<usize>,
}

impl Draft {
    pub(crate) fn finish(self) -> Result<Ask, AskError> {
        let metrics = names("metrics", self.metrics, METRICS_MAX)?;
        if metrics.is_empty() {
            return Err(AskError::bad(
                "metrics",
                "is missing; name at least one, as in metrics=events",
            ));
        }
        if self.order_by.len() > ORDER_MAX {
            return Err(AskError::bad("order_by", format!("names more than {ORDER_MAX} columns")));
        }
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(AskError::bad("limit", format!("{limit} is not within 1 and {LIMIT_MAX}")));
        }
        Ok(Ask {
            metrics,
            group_by: names("group_by", self.group_by, DIMENSIONS_MAX)?,
            filters: filter::normalise(self.filters)?,
            span: Span::of(self.from, self.to, self.last_ms)?.on_whole_windows(self.granularity),
            granularity: self.granularity,
            window_ms: self.window_ms,
            compare: self.compare.unwrap_or(Compare::Nothing),
            order_by: self.order_by,
            limit,
        })
    }
}

/// Checks the count, drops repeats, keeps order.
fn names(parameter: &str, given: Vec<String>, max: usize) -> Result<Vec<String>, AskError> {
    if given.len() > max {
        return Err(AskError::bad(parameter, format!("names more than {max}")));
    }
    let mut kept: Vec<String> = Vec::with_capacity(given.len());
    for name in given {
        if !kept.contains(&name) {
            kept.push(name);
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests;
