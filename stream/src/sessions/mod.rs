//! Sessions: maximal chains of one user's counted events with gaps of at most 30 minutes.
//!
//! - **S1** the states are a function of the set of events: neither their order nor their cut into
//!   entries and layers, neither where a session lies, hot or cold, nor merges of run files or
//!   recoveries change one.
//! - **S2** an entry tells each session that it changed once: the states before it to be taken
//!   out, and the state after it to be put in. So what was put in and not taken out is at any
//!   time the set of states.
//! - **S3** where a session run cannot be read, its sessions can no longer be revised: they stay
//!   counted as they are, an event near them joins a hot session or begins one of its own, and
//!   [`Sessions::unrevised`] counts it. Nothing is ever taken out that was not put in.
//!
//! [`Sessions`] never touches a disk. It plans what has to be read ([`ColdSessionLookups`]) or
//! written ([`SessionsSealed`], [`SessionsMerge`]), and the shell does it.

mod words;
pub(crate) use hot::WARM;
pub(crate) use words::Word;

mod session;
pub(crate) use session::Stored;
pub use session::{SessionChange, SessionRef};

mod shelf;

mod open;

mod hot;

mod packed;

mod block;

mod store;

mod cold;
pub use cold::{ColdSessionLookups, ColdSessions};

mod merge;
pub use merge::{SessionsMerge, SessionsMerged};

mod manifest;
pub use manifest::SessionsManifest;

mod state;
mod touch;
pub use state::{HOT_SESSION_BYTES, Sessions, SessionsSealed, SessionsSettings, SessionsWritten};

mod recover;

mod purge;
pub(crate) use purge::{Difference, SessionEdits};

#[cfg(test)]
mod tests;
