//! What walks through the house: the event, its units, its identity, its schema.
//!
//! This room knows nothing of ours and does no I/O. Every other room speaks in its words:
//! where a record lies ([`Topic`], [`Partition`], [`Offset`]), when something happened
//! ([`EventTime`]) and when we heard of it ([`ReceiveTime`]), whose it is ([`UserKey`],
//! [`UserHash`]) and which one it is ([`Fingerprint`]).

mod time;
pub use time::{EventTime, Granularity, NoTime, ReceiveTime, TimeRange};

pub mod clock;

mod place;
pub use place::{Offset, Partition, PartitionCount, Topic};

mod identity;
pub use identity::{Fingerprint, Identity, IdentityKey, SourceHash, UserHash, UserKey};

mod record;
pub use record::{Event, Field, TimeCorrection};

pub mod avro;
pub use avro::{DecodeError, KEYED_EVENT_SCHEMA, KEYED_SCHEMA_ID, SCHEMA_ID, USER_EVENT_SCHEMA};

mod letter;
pub use letter::{
    DEAD_LETTER_SCHEMA, DEAD_LETTER_SCHEMA_ID, DeadLetter, KEYED_LETTER_SCHEMA,
    KEYED_LETTER_SCHEMA_ID, SENT_LETTER_SCHEMA, SENT_LETTER_SCHEMA_ID,
};

pub mod json;

mod rfc3339;
