//! `log_batch`, by libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nilometer_fuzz::log_batch(data));
