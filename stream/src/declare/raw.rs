//! Declarations as an operator writes them; nothing here is checked.

use serde::{Deserialize, Serialize};

/// Everything that an operator declares beside what always exists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Declarations {
    /// `[[dimension]]`
    #[serde(rename = "dimension")]
    pub dimensions: Vec<DimensionDecl>,
    /// `[[metric]]`
    #[serde(rename = "metric")]
    pub metrics: Vec<MetricDecl>,
    /// `[[cube]]`
    #[serde(rename = "cube")]
    pub cubes: Vec<CubeDecl>,
    /// Event types that are content views.
    pub view_types: Vec<String>,
    /// Event types that are clicks.
    pub click_types: Vec<String>,
    /// Event types that are impressions.
    pub impression_types: Vec<String>,
    /// Event types that make a session engaged.
    pub conversion_types: Vec<String>,
    /// How many values a shard admits.
    pub guard: GuardLimits,
    /// How properties of events are read.
    #[serde(default = "doubles")]
    pub numbers: NumberRules,
}

/// How properties of events are read. Journals have to be folded as they were, so what once was
/// a rule stays one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NumberRules {
    /// Numbers as doubles, where they fit 64 bits at their scale. One that is past doubles, such
    /// as `1e999`, hides all that stands beside it.
    Doubles,
    /// Numbers by their digits, exactly, where they fit 128 bits at their scale. One that is past
    /// doubles hides the texts beside it.
    Digits,
    /// As [`Self::Digits`], each value alone: what one of them is hides no other. As text, a
    /// number that machines do not hold exactly is the digits that were sent.
    #[default]
    Alone,
}

/// What plans say that were written before there was anything to say.
const fn doubles() -> NumberRules {
    NumberRules::Doubles
}

impl Default for Declarations {
    fn default() -> Self {
        let list = |types: &[&str]| types.iter().map(|&name| name.to_owned()).collect();
        Self {
            dimensions: Vec::new(),
            metrics: Vec::new(),
            cubes: Vec::new(),
            view_types: list(&["page_view", "content_view", "play_start", "view"]),
            click_types: list(&["click", "content_clicked"]),
            impression_types: list(&["impression"]),
            conversion_types: list(&["purchase", "signup", "subscribe"]),
            guard: GuardLimits::default(),
            numbers: NumberRules::default(),
        }
    }
}

/// One more dimension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DimensionDecl {
    /// Its name in queries.
    pub name: String,
    /// An event field (`country`) or a path into properties (`properties.plan`).
    pub source: String,
    /// For the catalogue.
    #[serde(default)]
    pub description: String,
}

/// How a declared metric aggregates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AggregateDecl {
    /// Events that pass the filter (and carry `field`, where given).
    Count,
    /// Sum of `field`.
    Sum,
    /// Mean of `field` over the events that carry it.
    Avg,
    /// Smallest value of `field`.
    Min,
    /// Largest value of `field`.
    Max,
    /// Distinct users, or distinct values of `field`.
    Distinct,
    /// The `quantile` of `field`.
    Quantile,
    /// `numerator` ÷ `denominator`.
    Ratio,
    /// The `k` most frequent values of `field`.
    TopK,
}

impl AggregateDecl {
    /// As an operator writes it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Min => "min",
            Self::Max => "max",
            Self::Distinct => "distinct",
            Self::Quantile => "quantile",
            Self::Ratio => "ratio",
            Self::TopK => "top_k",
        }
    }
}

/// One more metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricDecl {
    /// Its name in queries.
    pub name: String,
    /// For people; the name where absent.
    #[serde(default)]
    pub title: Option<String>,
    /// For the catalogue.
    #[serde(default)]
    pub description: String,
    /// Such as `EUR` or `s`.
    #[serde(default)]
    pub unit: String,
    /// How it aggregates.
    pub aggregate: AggregateDecl,
    /// An event field or a path into properties.
    #[serde(default)]
    pub field: Option<String>,
    /// Decimal digits that sums and bounds keep; 6 where absent.
    #[serde(default)]
    pub scale: Option<u8>,
    /// Between 0 and 1.
    #[serde(default)]
    pub quantile: Option<f64>,
    /// How many values `top_k` shows; 10 where absent.
    #[serde(default)]
    pub k: Option<u32>,
    /// `field:a,b other:c`, all of which must hold; `field:!a` (or `!field:a`) for what must not,
    /// `field:prefix*`, `field:"any text"` as in queries.
    #[serde(default)]
    pub filter: Option<String>,
    /// The name of a count, sum or distinct metric, or a filter whose events are counted.
    #[serde(default)]
    pub numerator: Option<String>,
    /// As `numerator`.
    #[serde(default)]
    pub denominator: Option<String>,
}

/// Dimensions that can be asked for together; all subsets come with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CubeDecl {
    /// Names of dimensions.
    pub dimensions: Vec<String>,
    /// Whether users are counted per cell, which is what costs most.
    #[serde(default = "yes")]
    pub distinct: bool,
}

const fn yes() -> bool {
    true
}

/// How many values a shard admits per UTC day of the window; the rest is `__other__`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuardLimits {
    /// Values of one dimension.
    pub values_max: u32,
    /// Combinations of one cube.
    pub combinations_max: u32,
    /// Values and combinations over all days; bounds the guard's memory (some 30 bytes each).
    pub entries_max: u32,
    /// How many places a day has beyond its limit, in percent of it, for the values that counted
    /// most on the seven days before. None by plans of releases that did not know it.
    #[serde(default = "none")]
    pub kept_percent: u32,
    /// How many folded values of a day are watched, so that those that count most have places on
    /// the next. None by plans of releases that did not know it.
    #[serde(default = "none")]
    pub watched_max: u32,
    /// How many new combinations of a cube a key may bring to a day for each new value that it may
    /// bring. None by plans of releases in which whoever came first could bring all, and in which
    /// the sets that are derived from a cube lack what it folds.
    #[serde(default = "none")]
    pub combinations_per_value: u32,
}

impl GuardLimits {
    /// Whether what a cube folds is folded in the sets that are derived from it, too.
    #[must_use]
    pub const fn carries_rest(&self) -> bool {
        self.combinations_per_value == 0
    }
}

const fn none() -> u32 {
    0
}

impl Default for GuardLimits {
    fn default() -> Self {
        Self {
            values_max: 100_000,
            combinations_max: 100_000,
            entries_max: 8_000_000,
            kept_percent: 50,
            watched_max: 4_096,
            combinations_per_value: 2,
        }
    }
}
