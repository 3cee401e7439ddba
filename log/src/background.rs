//! Threads that work for later: checkpoints, merges, folds of the base.

/// Lets the stream and whoever reads go first where the cores are busy, for the rest of the
/// calling thread's life: a thread of Linux has a niceness of its own. That it could not be had
/// costs only waiting.
pub fn step_back() {
    /// About a third of the weight of the threads beside (`sched(7)`).
    const NICENESS: i32 = 5;
    if cfg!(target_os = "linux") {
        let _niceness = rustix::process::nice(NICENESS);
    }
}
