//! Live subscriptions: a snapshot, then what changed, over one WebSocket for everything a page shows.
//!
//! Each distinct (query, interval) is materialised and serialised once a tick by its `Channel`;
//! viewers share the bytes, so cost follows distinct queries and not viewers. A slow reader
//! skips to the latest. Rows are the desk's, within its memory; a channel that cannot keep up is
//! slowed, and its viewers are told.

mod allowance;
mod channel;
mod frame;
mod handshake;
mod message;
mod pace;
mod socket;

pub(crate) use channel::Hub;
pub use message::{
    ClientMessage, INTERVAL_MS_DEFAULT, INTERVAL_MS_MAX, INTERVAL_MS_MIN, MessageError,
};
pub(crate) use socket::upgrade;

/// Bytes of a subscription's query at most: a longer one is answered, under its id.
pub use crate::ask::QUERY_BYTES_MAX;
/// Bytes of one message from a client at most: beyond it the connection ends.
pub const MESSAGE_BYTES_MAX: usize = 2 * QUERY_BYTES_MAX;
/// Bytes that a client may send before it is signed in.
const UNKNOWN_BYTES_MAX: usize = 64 << 10;
/// Subscriptions of one connection at most.
pub const SUBSCRIPTIONS_MAX: usize = 32;

#[cfg(test)]
mod tests;
