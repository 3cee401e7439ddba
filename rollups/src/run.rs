//! Drives folding in production; the simulator calls [`EmbeddedStore::fold_once`] itself.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use nilometer_event::clock::Clock;

use crate::embedded::EmbeddedStore;
use crate::fold::{FoldLimits, FoldReport};

/// How often it looks whether many layers wait.
const LOOK: Duration = Duration::from_secs(1);

/// When to fold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From fold to fold, where nothing hurries.
    pub interval: Duration,
    /// A fold begins within a second where so many layers came since the last, over all shards:
    /// each question looks into all of them, and where memory is short a layer is sealed every
    /// other second.
    pub layers_many: usize,
}

/// Folds at `pace` until `stop` is sent to or dropped; blocks its thread.
///
/// A fold that fails is logged, and repeated as if it had taken what waits; after one that left
/// layers to the next, the next begins at once.
pub fn run(
    store: &EmbeddedStore,
    clock: &dyn Clock,
    limits: FoldLimits,
    pace: Pace,
    stop: &Receiver<()>,
) {
    let (mut after, mut left) = (pace.interval, 0);
    while wait(store, after, pace.layers_many.saturating_add(left), stop) {
        let waiting = store.version().layers.len();
        let FoldReport { layers, waiting: ready, .. } = fold(store, clock, limits);
        after = if ready > 0 { Duration::ZERO } else { pace.interval };
        // Those that it could not take.
        left = waiting.saturating_sub(layers);
    }
}

/// Waits until a fold is due, `after` a while or once `layers_many` wait; false where none is any
/// more.
fn wait(
    store: &EmbeddedStore,
    mut after: Duration,
    layers_many: usize,
    stop: &Receiver<()>,
) -> bool {
    loop {
        let look = after.min(LOOK);
        if stop.recv_timeout(look) != Err(RecvTimeoutError::Timeout) {
            return false;
        }
        after -= look;
        if after.is_zero() || store.version().layers.len() >= layers_many {
            return true;
        }
    }
}

/// Folds once; tells nothing where it failed.
fn fold(store: &EmbeddedStore, clock: &dyn Clock, limits: FoldLimits) -> FoldReport {
    let begun = clock.now();
    let folded = catch_unwind(AssertUnwindSafe(|| store.fold_once(begun, limits)));
    let Ok(folded) = folded else {
        // The panic's own message says which; what it was about is not switched in.
        store.note_fold_broken();
        tracing::error!("fold broke off: an invariant does not hold; it is repeated");
        return FoldReport::default();
    };
    let report = folded.unwrap_or_else(|error| {
        tracing::error!(%error, "fold failed");
        FoldReport::default()
    });
    if report.switched() {
        let took_ms = clock.now().since(begun);
        store.note_fold_took(u64::try_from(took_ms).unwrap_or(0));
        tracing::debug!(took_ms, ?report, "folded");
    }
    report
}
