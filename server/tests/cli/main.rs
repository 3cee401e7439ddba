//! The binary as a new user and an operator run it.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod clock;
mod closed;
mod commands;
mod declared;
mod doctor;
mod front;
mod keys;
mod logging;
mod output;
mod proxy;
mod purges;
mod quotas;
mod scrape;
mod server;
mod sources;
mod standing;
mod unit;
