//! Turns: so many writers of all shards work at once, the others wait.

use std::num::NonZeroUsize;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// Shared by the writers of all shards.
///
/// A writer keeps a core busy for some hundred milliseconds. When shards seal at one moment,
/// writers on every core would keep the fold and whoever reads waiting for just as long.
#[derive(Clone, Debug)]
pub struct Turns {
    checkpoints: Arc<Gate>,
    merges: Arc<Gate>,
}

impl Turns {
    /// Half of the cores write at once, and at least one.
    #[must_use]
    pub fn for_this_machine() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self::new(cores / 2)
    }

    /// So many checkpoints at once, and beside them as many merges; at least one.
    #[must_use]
    pub fn new(at_once: usize) -> Self {
        let gate = || Arc::new(Gate::new(at_once.max(1)));
        Self { checkpoints: gate(), merges: gate() }
    }

    pub(super) fn checkpoints(&self) -> Arc<Gate> {
        Arc::clone(&self.checkpoints)
    }

    pub(super) fn merges(&self) -> Arc<Gate> {
        Arc::clone(&self.merges)
    }
}

/// Lets so many through at once.
#[derive(Debug)]
pub(super) struct Gate {
    free: Mutex<usize>,
    returned: Condvar,
}

/// A turn; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a Gate);

impl Gate {
    fn new(at_once: usize) -> Self {
        Self { free: Mutex::new(at_once), returned: Condvar::new() }
    }

    /// Waits for a turn.
    pub(super) fn take(&self) -> Turn<'_> {
        let mut free = self.free.lock();
        self.returned.wait_while(&mut free, |free| *free == 0);
        *free -= 1;
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Tally {
        working: AtomicUsize,
        most: AtomicUsize,
        done: AtomicUsize,
    }

    impl Tally {
        fn work(&self) {
            let now = self.working.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            std::thread::yield_now();
            self.working.fetch_sub(1, Ordering::SeqCst);
            self.done.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn so_many_work_at_once_and_all_come_to_their_turn() {
        let (gate, tally) = (Turns::new(2).checkpoints(), Tally::default());
        let writer = || {
            for _ in 0..50 {
                let _turn = gate.take();
                tally.work();
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(writer);
            }
        });
        assert_eq!(tally.done.into_inner(), 400);
        assert!(tally.most.into_inner() <= 2);
    }

    #[test]
    fn a_writer_that_panics_gives_its_turn_back() {
        let gate = Turns::new(0).merges();
        let theirs = Arc::clone(&gate);
        let broken = std::thread::spawn(move || {
            let _turn = theirs.take();
            panic!("as a broken merge would");
        });
        assert!(broken.join().is_err());
        drop(gate.take());
    }
}
