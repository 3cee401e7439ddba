//! What strangers' bytes may do to each parser: nothing but be read or refused, in time and memory
//! that grow with their length, and what was read says the same when it is written again.
//!
//! `fuzz_targets/` gives these functions to libFuzzer (`./test fuzz`), `tests/corpora.rs` a fixed
//! number of mutations of `corpus/` to each, in every run of the tests. A target panics where
//! something does not hold.

mod import;
mod texts;
mod wire;

use std::time::Duration;

pub use import::import;
pub use texts::{filter, ingest, key_book, mask, message};
pub use wire::{avro, inflate, log_batch, manifest};

/// Takes any bytes, and panics where they break something.
pub type Target = fn(&[u8]);

/// Every target by its name, which is that of its folder in `corpus/`.
pub const TARGETS: [(&str, Target); 10] = [
    ("avro", avro),
    ("filter", filter),
    ("import", import),
    ("inflate", inflate),
    ("ingest", ingest),
    ("key_book", key_book),
    ("log_batch", log_batch),
    ("manifest", manifest),
    ("mask", mask),
    ("message", message),
];

/// What a call may cost whatever its input is, an unoptimised build and a sanitizer included.
const TIME_BASE: Duration = Duration::from_millis(500);
/// What each byte of the input may add to that.
const TIME_PER_BYTE: Duration = Duration::from_micros(20);

/// Runs `work` on `bytes` bytes.
///
/// # Panics
///
/// Where that takes more of the processor's time than a parser's that reads each byte a few times.
fn in_time<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let before = nilometer_log::cpu_time();
    let done = work();
    let took = nilometer_log::cpu_time().saturating_sub(before);
    let allowed = TIME_BASE + TIME_PER_BYTE * u32::try_from(bytes).unwrap_or(u32::MAX);
    assert!(took <= allowed, "{bytes} bytes took {took:?}, more than {allowed:?}");
    done
}
