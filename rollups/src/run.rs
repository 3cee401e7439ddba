//! Drives folding in production; the simulator calls [`EmbeddedStore::fold_once`] itself.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use nilometer_event::clock::Clock;

use crate::embedded::EmbeddedStore;
use crate::fold::FoldLimits;

/// Folds every `interval` until `stop` is sent to or dropped; blocks its thread.
///
/// A fold that fails is logged and repeated at the next interval; after one that left layers to
/// the next, the next begins at once.
pub fn run(
    store: &EmbeddedStore,
    clock: &dyn Clock,
    limits: FoldLimits,
    interval: Duration,
    stop: &Receiver<()>,
) {
    let mut wait = interval;
    while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(wait) {
        let begun = clock.now();
        wait = interval;
        let folded = catch_unwind(AssertUnwindSafe(|| store.fold_once(begun, limits)));
        let Ok(folded) = folded else {
            // The panic's own message says which; what it was about is not switched in.
            store.note_fold_broken();
            tracing::error!("fold broke off: an invariant does not hold; it is repeated");
            continue;
        };
        match folded {
            Ok(report) if report.switched() => {
                if report.waiting > 0 {
                    wait = Duration::ZERO;
                }
                let took_ms = clock.now().since(begun);
                store.note_fold_took(u64::try_from(took_ms).unwrap_or(0));
                tracing::debug!(took_ms, ?report, "folded");
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "fold failed"),
        }
    }
}
