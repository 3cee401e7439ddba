//! The `nilometer` binary.
fn main() {}
