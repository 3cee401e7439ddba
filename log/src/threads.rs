//! What a thread asks of the scheduler, and what it has cost.

use std::time::Duration;

/// A thread that steps back by it has about a third of the weight of those beside (`sched(7)`).
const BACK: i32 = 5;
/// A thread that goes first by it has nine times the weight of those beside: of a core that it
/// shares with two of them it has four fifths.
const FIRST: i32 = 10;

/// Lets the stream and whoever reads go first where the cores are busy, for the rest of the
/// calling thread's life: a thread of Linux has a niceness of its own. For threads that work for
/// later: checkpoints, merges, folds of the base. That it could not be had costs only waiting.
pub fn step_back() {
    if cfg!(target_os = "linux") {
        let _niceness = rustix::process::nice(BACK);
    }
}

/// Whether the calling thread goes before those beside; it begins as one of them.
///
/// To go first needs the right to lower a niceness: root, `CAP_SYS_NICE`, or a `RLIMIT_NICE` that
/// allows it (`LimitNICE=` of systemd). Without it the thread stays where it is, which costs only
/// waiting.
#[derive(Debug, Default)]
pub struct Precedence {
    /// The niceness to go back to, while it goes first.
    usual: Option<i32>,
    refused: bool,
}

impl Precedence {
    /// Goes first from now on, or no longer. Costs system calls only where that is a change.
    pub fn go_first(&mut self, first: bool) {
        if cfg!(not(target_os = "linux")) || self.refused {
            return;
        }
        let changed = match (self.usual, first) {
            (None, true) => rustix::process::getpriority_process(None).and_then(|usual| {
                rustix::process::setpriority_process(None, usual - FIRST)?;
                self.usual = Some(usual);
                Ok(())
            }),
            (Some(usual), false) => {
                self.usual = None;
                rustix::process::setpriority_process(None, usual)
            }
            _ => Ok(()),
        };
        self.refused = changed.is_err();
    }
}

/// The processor time that the calling thread has used.
#[must_use]
pub fn cpu_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = u64::try_from(used.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(used.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn niceness() -> i32 {
        rustix::process::getpriority_process(None).unwrap()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn who_goes_first_goes_back_to_where_it_was_and_who_may_not_stays_there() {
        let before = niceness();
        let mut precedence = Precedence::default();
        precedence.go_first(false);
        assert_eq!(niceness(), before);
        for _ in 0..2 {
            precedence.go_first(true);
            precedence.go_first(true);
            let first = if precedence.refused { before } else { before - FIRST };
            assert_eq!(niceness(), first.max(-20));
            precedence.go_first(false);
            assert_eq!(niceness(), before);
        }
        step_back();
        assert_eq!(niceness(), before + BACK);
    }

    #[test]
    fn the_processor_time_of_a_thread_is_its_own() {
        let work = |until: Duration| while cpu_time() < until {};
        let before = cpu_time();
        work(before + Duration::from_millis(20));
        let another = std::thread::spawn(cpu_time).join().unwrap();
        assert!(another < Duration::from_millis(20), "{another:?}");
        assert!(cpu_time() >= before + Duration::from_millis(20));
    }
}
