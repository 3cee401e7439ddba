//! The reading room: typed queries, live subscriptions, the pipeline, traces and dead letters.

pub mod ask;
pub mod answer;
