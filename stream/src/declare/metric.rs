//! How a metric is read from merged aggregates: sums add, sketches merge, ratios divide last.

use nilometer_event::{EventTime, Granularity};

use super::decimal::Decimal;
use super::sets::SetKind;
use crate::aggregate::{Aggregates, DISTINCT_ERROR, QUANTILE_ERROR, SlotMask, Sum};

/// One metric of the catalogue.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Its name in queries.
    pub name: String,
    /// For people.
    pub title: String,
    /// For the catalogue.
    pub description: String,
    /// Such as `s`; empty for a plain number.
    pub unit: String,
    /// Decimal digits that its values are shown with: the declared scale.
    pub digits: Option<u8>,
    /// How it is read.
    pub kind: MetricKind,
    /// Whether it counts events or sessions.
    pub domain: SetKind,
    /// Hash of everything that decides its values.
    pub definition: u64,
    /// True for what always exists.
    pub builtin: bool,
}

/// From which slots a metric is read, and how. Slots count within their kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MetricKind {
    /// A count.
    Count {
        /// Of [`Aggregates::counts`].
        slot: usize,
    },
    /// A sum.
    Sum {
        /// Of [`Aggregates::sums`].
        slot: usize,
        /// Decimal digits.
        scale: u8,
    },
    /// A mean.
    Avg {
        /// Of [`Aggregates::sums`].
        sum: usize,
        /// Of [`Aggregates::counts`].
        count: usize,
        /// Decimal digits of the sum.
        scale: u8,
    },
    /// The smallest value.
    Min {
        /// Of [`Aggregates::mins`].
        slot: usize,
        /// Decimal digits.
        scale: u8,
    },
    /// The largest value.
    Max {
        /// Of [`Aggregates::maxs`].
        slot: usize,
        /// Decimal digits.
        scale: u8,
    },
    /// One divided by another; null where that is 0.
    Ratio {
        /// What is divided.
        numerator: Operand,
        /// By what.
        denominator: Operand,
    },
    /// Distinct users or values of the window.
    Distinct {
        /// Of [`Aggregates::distincts`].
        slot: usize,
    },
    /// A nearest-rank quantile.
    Quantile {
        /// Of [`Aggregates::histograms`].
        slot: usize,
        /// Parts in a million.
        parts: u32,
        /// Decimal digits.
        scale: u8,
    },
    /// The most frequent values.
    TopK {
        /// Of [`Aggregates::tops`].
        slot: usize,
        /// How many.
        k: usize,
    },
    /// A count ÷ the elapsed seconds of the window.
    PerSecond {
        /// Of [`Aggregates::counts`].
        slot: usize,
    },
    /// Distinct users of the five one-minute cells that end with the window's last minute:
    /// the reader merges those five.
    ActiveNow {
        /// Of [`Aggregates::distincts`].
        slot: usize,
    },
    /// Distinct users of the `days` UTC days that end with the last day that the window
    /// touches: the reader merges those days.
    RollingDistinct {
        /// Of [`Aggregates::distincts`].
        slot: usize,
        /// 1, 7 or 30.
        days: u32,
    },
}

/// Half of a ratio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// Slot of [`Aggregates::counts`].
    Count(usize),
    /// Slot of [`Aggregates::sums`] and its scale.
    Sum(usize, u8),
    /// Slot of [`Aggregates::distincts`].
    Distinct(usize),
}

/// What a value depends on beside the aggregates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricContext {
    /// Start of the window.
    pub window: EventTime,
    /// How much of the window has passed, in milliseconds: its length, or less while open.
    pub elapsed_ms: i64,
}

impl MetricContext {
    /// A window of `granularity` as seen at `now`.
    #[must_use]
    pub fn of(window: EventTime, granularity: Granularity, now: EventTime) -> Self {
        Self { window, elapsed_ms: now.since(window).clamp(0, granularity.ms()) }
    }
}

/// A metric's value.
#[derive(Clone, Debug, PartialEq)]
pub enum MetricValue {
    /// Nothing to say: no values, or a division by 0.
    Null,
    /// Exact.
    Integer(i64),
    /// A quotient, an estimate, or a sum with a fraction.
    Float(f64),
    /// Exact, with a fraction that was declared or more digits than a float has.
    Decimal(Decimal),
    /// The most frequent values with their counts.
    Top(Vec<(String, i64)>),
}

impl MetricValue {
    /// The value as a number; `None` for null and lists.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Decimal(value) => Some(value.as_f64()),
            Self::Integer(value) => Some(*value as f64),
            Self::Float(value) => Some(*value),
            Self::Null | Self::Top(_) => None,
        }
    }
}

impl Metric {
    /// The value that merged aggregates give. For [`MetricKind::ActiveNow`] and
    /// [`MetricKind::RollingDistinct`] they are those of the span, not of the window.
    #[must_use]
    pub fn value(&self, aggregates: &Aggregates, context: &MetricContext) -> MetricValue {
        let read = self.read(aggregates, context);
        read.unwrap_or(MetricValue::Null)
    }

    fn read(&self, aggregates: &Aggregates, context: &MetricContext) -> Option<MetricValue> {
        match self.kind {
            MetricKind::Count { slot } => {
                aggregates.counts.get(slot).map(|&count| MetricValue::Integer(count))
            }
            MetricKind::Sum { slot, scale } => Some(self.exact(*aggregates.sums.get(slot)?, scale)),
            MetricKind::Avg { sum, count, scale } => divide(
                aggregates.sums.get(sum)?.as_f64(),
                *aggregates.counts.get(count)? as f64 * power(scale),
            ),
            MetricKind::Min { slot, scale } => {
                aggregates.mins.get(slot)?.map(|value| self.exact(value.into(), scale))
            }
            MetricKind::Max { slot, scale } => {
                aggregates.maxs.get(slot)?.map(|value| self.exact(value.into(), scale))
            }
            MetricKind::Ratio { numerator, denominator } => {
                // One division: the scales meet on whichever side they belong.
                let (over, over_scale) = numerator.read(aggregates)?;
                let (under, under_scale) = denominator.read(aggregates)?;
                divide(over * power(under_scale), under * power(over_scale))
            }
            MetricKind::Distinct { slot }
            | MetricKind::ActiveNow { slot }
            | MetricKind::RollingDistinct { slot, .. } => {
                let distinct = aggregates.distincts.get(slot)?;
                Some(whole(distinct.estimate()))
            }
            MetricKind::Quantile { slot, parts, scale } => {
                let value = aggregates.histograms.get(slot)?.quantile(parts)?;
                Some(MetricValue::Float(value / power(scale)))
            }
            MetricKind::TopK { slot, k } => {
                let top = aggregates.tops.get(slot)?.top(k);
                let owned = top.into_iter().map(|(value, n)| (value.to_owned(), n)).collect();
                Some(MetricValue::Top(owned))
            }
            MetricKind::PerSecond { slot } => {
                divide(*aggregates.counts.get(slot)? as f64 * 1_000.0, context.elapsed_ms as f64)
            }
        }
    }

    /// A scaled sum: an integer where it is one, else as exact as it can be shown.
    fn exact(&self, sum: Sum, scale: u8) -> MetricValue {
        // A double shows every number of 15 digits (IEEE 754, DBL_DIG), wherever its point stands;
        // of those of 16 it takes some for one another.
        const FLOAT_MAX: u128 = 999_999_999_999_999;
        if let Some(value) = sum.narrow() {
            match i64::try_from(value) {
                Ok(integer) if scale == 0 => return MetricValue::Integer(integer),
                _ if self.digits.is_none() && value.unsigned_abs() <= FLOAT_MAX => {
                    return MetricValue::Float(value as f64 / power(scale));
                }
                _ => {}
            }
        }
        let digits_min = self.digits.unwrap_or(1).min(scale);
        MetricValue::Decimal(Decimal { value: sum, scale, digits_min })
    }

    /// Relative error of the value at 95 %; `None` where it is exact.
    #[must_use]
    pub fn relative_error(&self, aggregates: &Aggregates) -> Option<f64> {
        let estimated = |slot: usize| {
            aggregates.distincts.get(slot).is_some_and(|distinct| !distinct.is_exact())
        };
        match self.kind {
            MetricKind::Distinct { slot }
            | MetricKind::ActiveNow { slot }
            | MetricKind::RollingDistinct { slot, .. } => estimated(slot).then_some(DISTINCT_ERROR),
            MetricKind::Quantile { slot, .. } => {
                aggregates.histograms.get(slot)?.count().is_positive().then_some(QUANTILE_ERROR)
            }
            MetricKind::Ratio { numerator, denominator } => {
                let estimates = [numerator, denominator]
                    .into_iter()
                    .filter(|half| matches!(half, Operand::Distinct(slot) if estimated(*slot)))
                    .count();
                // Two independent estimates add in squares; 2 × is the careful bound.
                (estimates > 0).then_some(DISTINCT_ERROR * estimates as f64)
            }
            MetricKind::Count { .. }
            | MetricKind::Sum { .. }
            | MetricKind::Avg { .. }
            | MetricKind::Min { .. }
            | MetricKind::Max { .. }
            | MetricKind::TopK { .. }
            | MetricKind::PerSecond { .. } => None,
        }
    }

    /// Whether the value may lack something because the cardinality guard folded values of the
    /// metric's own field: a list of the most frequent ones, of which a true first may be one.
    #[must_use]
    pub fn is_folded(&self, aggregates: &Aggregates) -> bool {
        let MetricKind::TopK { slot, .. } = self.kind else { return false };
        aggregates.tops.get(slot).is_some_and(|top| top.other() != 0)
    }

    /// The slots that the value is read from.
    #[must_use]
    pub fn slots(&self) -> SlotMask {
        let none = SlotMask::NONE;
        match self.kind {
            MetricKind::Count { slot } | MetricKind::PerSecond { slot } => {
                SlotMask { counts: 1 << slot, ..none }
            }
            MetricKind::Sum { slot, .. } => SlotMask { sums: 1 << slot, ..none },
            MetricKind::Avg { sum, count, .. } => {
                SlotMask { sums: 1 << sum, counts: 1 << count, ..none }
            }
            MetricKind::Min { slot, .. } => SlotMask { mins: 1 << slot, ..none },
            MetricKind::Max { slot, .. } => SlotMask { maxs: 1 << slot, ..none },
            MetricKind::Ratio { numerator, denominator } => {
                numerator.slots().union(denominator.slots())
            }
            MetricKind::Distinct { slot }
            | MetricKind::ActiveNow { slot }
            | MetricKind::RollingDistinct { slot, .. } => SlotMask { distincts: 1 << slot, ..none },
            MetricKind::Quantile { slot, .. } => SlotMask { histograms: 1 << slot, ..none },
            MetricKind::TopK { slot, .. } => SlotMask { tops: 1 << slot, ..none },
        }
    }

    /// How it is read from what happened, in the words of a declaration; `rate` is a count by the
    /// second. Of `avg`, `min`, `max`, `quantile` and `ratio` there is none where nothing happened.
    #[must_use]
    pub const fn aggregate(&self) -> &'static str {
        match self.kind {
            MetricKind::Count { .. } => "count",
            MetricKind::Sum { .. } => "sum",
            MetricKind::Avg { .. } => "avg",
            MetricKind::Min { .. } => "min",
            MetricKind::Max { .. } => "max",
            MetricKind::Ratio { .. } => "ratio",
            MetricKind::Distinct { .. }
            | MetricKind::ActiveNow { .. }
            | MetricKind::RollingDistinct { .. } => "distinct",
            MetricKind::Quantile { .. } => "quantile",
            MetricKind::TopK { .. } => "top_k",
            MetricKind::PerSecond { .. } => "rate",
        }
    }

    /// The JSON type of its values, for the catalogue.
    #[must_use]
    pub const fn value_type(&self) -> &'static str {
        match self.kind {
            MetricKind::Count { .. }
            | MetricKind::Distinct { .. }
            | MetricKind::ActiveNow { .. }
            | MetricKind::RollingDistinct { .. } => "integer",
            MetricKind::TopK { .. } => "array",
            MetricKind::Sum { .. }
            | MetricKind::Avg { .. }
            | MetricKind::Min { .. }
            | MetricKind::Max { .. }
            | MetricKind::Ratio { .. }
            | MetricKind::Quantile { .. }
            | MetricKind::PerSecond { .. } => "number",
        }
    }
}

impl Operand {
    /// The number before its scale is divided out, and the scale.
    fn read(self, aggregates: &Aggregates) -> Option<(f64, u8)> {
        match self {
            Self::Count(slot) => Some((*aggregates.counts.get(slot)? as f64, 0)),
            Self::Sum(slot, scale) => Some((aggregates.sums.get(slot)?.as_f64(), scale)),
            Self::Distinct(slot) => Some((aggregates.distincts.get(slot)?.estimate(), 0)),
        }
    }

    const fn slots(self) -> SlotMask {
        let none = SlotMask::NONE;
        match self {
            Self::Count(slot) => SlotMask { counts: 1 << slot, ..none },
            Self::Sum(slot, _) => SlotMask { sums: 1 << slot, ..none },
            Self::Distinct(slot) => SlotMask { distincts: 1 << slot, ..none },
        }
    }
}

fn power(scale: u8) -> f64 {
    10_f64.powi(i32::from(scale))
}

fn divide(over: f64, under: f64) -> Option<MetricValue> {
    (under != 0.0).then(|| MetricValue::Float(over / under))
}

/// An estimate as a whole number of users.
fn whole(estimate: f64) -> MetricValue {
    #[expect(clippy::cast_possible_truncation, reason = "at most 2^64 / 2^14 per register")]
    MetricValue::Integer(estimate.round() as i64)
}
