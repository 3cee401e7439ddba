//! `import`, by libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nilometer_fuzz::import(data));
