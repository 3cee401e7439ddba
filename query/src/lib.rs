//! The reading room: typed queries, live subscriptions, the pipeline, traces and dead letters.
//!
//! A question ([`ask`]) is looked up in the catalogue and answered from one pinned version of the
//! shelves (`engine`), once for all who ask it (`desk`), in turns by key and connection (`turns`); [`live`] follows answers and sends what
//! changed; [`records`] reads single events from the log; `paths` are the doors, `door` their keeper.
//! This room writes nothing: replay and enrichment tables go through [`House`].
//!
//! Guarantees: Q1 every row of an answer is of one moment, which `meta` names; Q2 an answer is
//! never smaller than the truth: what cannot be read is an error; Q3 each distinct query is
//! computed once a tick, however many ask; Q4 whatever a caller sends, memory and work are bounded.

pub mod ask;

pub mod answer;

mod engine;

mod shelves;

mod turns;

mod budget;

mod desk;

pub mod live;

pub mod records;

mod house;
pub use house::{House, Memory, Readiness, Replay, Replayed, TableFormat, TableStatus};

mod settings;
pub use settings::QuerySettings;

mod exposition;
pub use exposition::Exposition;

mod metrics;
pub use metrics::{QueryMetrics, RequestLabels};

mod state;
pub use state::{QueryParts, QueryState};

mod door;

mod paths;
pub use paths::{openapi, router};

#[cfg(test)]
mod testing;
