//! The window: web pages compiled into the binary, and the router that serves them.
//!
//! The pages are written in `web/` (TypeScript, Preact) and built into `assets/`, which is
//! committed, so that `cargo run` needs no Node. `npm run build` in `web/` renews them; a test
//! compares the sources with the stamp that the build left and fails when they have parted.
//!
//! This room reads no event and answers no question: the pages ask `query` over HTTP and
//! WebSocket, as any other client does.

mod asset;
mod negotiate;
mod serve;

pub use serve::{PAGES, router};

#[cfg(test)]
mod tests;
