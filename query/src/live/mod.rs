//! Live subscriptions: a snapshot, then what changed, over one WebSocket for everything a page shows.
//!
//! Each distinct (query, interval) is materialised and serialised once a tick by its `Channel`;
//! viewers share the bytes, so cost follows distinct queries and not viewers. A slow reader
//! skips to the latest.

mod channel;
mod message;
mod socket;

pub(crate) use channel::Hub;
pub use message::{
    ClientMessage, INTERVAL_MS_DEFAULT, INTERVAL_MS_MAX, INTERVAL_MS_MIN, MessageError,
};
pub(crate) use socket::upgrade;

/// Bytes of one message from a client at most.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Subscriptions of one connection at most.
pub const SUBSCRIPTIONS_MAX: usize = 32;

#[cfg(test)]
mod tests;
