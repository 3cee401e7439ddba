//! A shard from outside: every cell against a naive model, over crashes, failing disks, damage
//! and deliberate bugs.

mod model;
mod world;

mod change;
mod crash;
mod damage;
mod exact;
mod mutants;
