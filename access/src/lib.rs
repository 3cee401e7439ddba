//! The doorkeeper's book: keys, tokens, quotas, sign-in, and how a refusal reads.
//!
//! Knows nothing of ours and does no I/O: the server owns the book's file, the clock and the
//! sockets, and hands over bodies. Times are milliseconds since 1970 UTC, given by the caller.
//!
//! Guarantees: A1 a token is never kept, only its SHA-256; A2 a token is compared in constant
//! time; A3 a revoked key opens nothing, neither by token nor by session; A4 everything that a
//! stranger can make grow is bounded.

mod token;
pub use token::{RandomnessMissing, SecretString, TokenHash};

mod principal;
pub use principal::{KeyKind, Principal, Right};

mod source;
pub use source::{NoSourceName, SourceName};

mod keys;
pub use keys::{BookError, ENVIRONMENT, KEYS_MAX, KeyBook, KeyError, KeyOptions, KeyRecord, Keys};

mod quotas;
pub use quotas::{
    ClientAddress, DayCounts, Load, MayNotSend, OverQuota, Quota, QuotaError, QuotaSettings,
    Quotas, SenderCounts, Sending, Slot, TRACKED_MAX, Told, TooMany,
};

mod signed_out;
pub use signed_out::{SIGNED_OUT_MAX, SignedOut, SignedOutError};

mod sign_in;
pub use sign_in::{
    CODES_MAX, COOKIE_NAME, CodeRefused, Cookie, Keeper, SessionParts, Sessions, SignInCodes,
    session_cookie,
};

mod codes;
pub use codes::CODES;

mod problem;
pub use problem::{PROBLEM_TYPE, Problem, Status};

pub mod body;
mod buffers;
pub use body::{BodyError, BodyTimeout};
pub use buffers::{Accounted, Buffers, Share};

pub mod credentials;

pub mod preflight;
