//! Places where an end-to-end test kills the process; nothing is there without `failpoints`.

/// Aborts the process where the fail point of that name is set to `return`
/// (`FAILPOINTS=checkpoint-before-manifest=return`).
#[cfg(feature = "failpoints")]
pub(crate) fn reach(name: &str) {
    fail::fail_point!(name, |_argument| std::process::abort());
}

/// Does nothing.
#[cfg(not(feature = "failpoints"))]
pub(crate) const fn reach(_name: &str) {}

/// Keeps the fail points of the environment variable `FAILPOINTS` set while it lives.
#[cfg(feature = "failpoints")]
pub struct FailPoints(
    #[expect(dead_code, reason = "held for its drop")] fail::FailScenario<'static>,
);

#[cfg(feature = "failpoints")]
impl FailPoints {
    /// Sets them.
    #[must_use]
    pub fn from_environment() -> Self {
        Self(fail::FailScenario::setup())
    }
}

#[cfg(feature = "failpoints")]
impl std::fmt::Debug for FailPoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FailPoints")
    }
}
