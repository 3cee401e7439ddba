//! The room from outside: both stores under the port's suite, and the embedded one against a model.
#![expect(clippy::unwrap_used, reason = "a test says with its line what it did not get")]

mod cache;
mod conformance;
mod exactly_once;
mod faults;
mod groups;
mod house;
mod pace;
mod plans_and_ages;
