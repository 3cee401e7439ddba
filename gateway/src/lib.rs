//! The front door: authenticate, limit, decode, validate, mask, route.
//!
//! A body comes in, and an answer goes out once every event of it is durable: good ones on the
//! event topics, bad ones in the dead letters, each with its reason. This room does not
//! deduplicate, enrich or count: a repeated event is accepted.
//!
//! Guarantees: G1 nothing is read from a stranger's body, and nothing is parsed of a client's
//! that is over its limits; G2 every event of a body that was read is durable before the
//! answer, accepted or dead (N1, N3); G3 no address that the masker knows reaches the log, an
//! answer or our own log lines (N7); G4 memory is bounded, whatever comes (N6).

mod settings;
pub use settings::{
    AddressMasking, Detector, GatewayPlan, GatewaySettings, Limits, MaskingSettings, SettingsError,
};

mod refusal;
pub use refusal::Refusal;

mod parse;

mod mask;
pub use mask::Masker;

mod inflate;
pub use inflate::Encoding;

mod batch;
pub use batch::{BodyFormat, EventError, IngestAnswer, Source};

mod gateway;
pub use gateway::{Gateway, Replay};

mod metrics;

mod http;
pub use http::{closed_router, router};

/// The parts that benchmarks measure by themselves.
#[doc(hidden)]
pub mod bench;
