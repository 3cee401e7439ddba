//! The documentation as a newcomer follows it, and as somebody reads it who believes every word.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod examples;
mod figures;
mod names;
mod page;
mod run;
