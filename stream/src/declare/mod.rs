//! What is measured: declarations as an operator writes them, compiled once into a plan.
//!
//! A metric is an aggregate, a filter and, for rates, a numerator and a denominator. The
//! [`Plan`] lists the dimensions, the sets of dimensions that have cells, the slots that each
//! cell holds (shared between metrics by their definition's hash) and how a metric is read
//! from them. Whatever decides a result is in its [`PlanId`].

mod raw;
pub use raw::{
    AggregateDecl, CubeDecl, Declarations, DimensionDecl, GuardLimits, MetricDecl, NumberRules,
};

mod error;
pub use error::DeclareError;

mod decimal;
pub use decimal::Decimal;

mod source;
pub use source::{EventFacts, NumberReading, NumberSource, Source, TypeList};

mod written;
pub use written::{ValueReader, Written, WrittenError};

mod filter;
pub use filter::Filter;

mod slot;
pub use slot::{Measure, SessionFact, Slot, Slots};

mod sets;
pub use sets::{DimensionSet, SetKind};

mod metric;
pub use metric::{Metric, MetricContext, MetricKind, MetricValue, Operand};

mod unread;
pub use unread::Unread;

mod builtin;

mod plan;
pub use plan::{DimId, Dimension, Plan, PlanId, SetId};

mod compile;

mod declared;

#[cfg(test)]
mod tests;
