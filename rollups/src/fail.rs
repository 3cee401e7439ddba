//! Places where an end-to-end test kills the process.

/// Aborts the process where the fail point of that name is set to `return`
/// (`FAILPOINTS=fold-before-manifest=return`).
#[cfg(feature = "failpoints")]
pub(crate) fn reach(name: &str) {
    fail::fail_point!(name, |_argument| std::process::abort());
}

/// Does nothing.
#[cfg(not(feature = "failpoints"))]
pub(crate) const fn reach(_name: &str) {}
