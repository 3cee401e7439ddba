//! A shard from outside: every cell against a naive model, over crashes, failing disks, damage
//! and deliberate bugs.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up is a failed test")]

mod model;
mod trace;
mod world;

mod change;
mod crash;
mod damage;
mod exact;
mod mutants;
mod properties;
mod quotas;
mod sources;
