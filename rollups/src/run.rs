//! Drives folding in production; the simulator calls [`EmbeddedStore::fold_once`] itself.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use nilometer_event::clock::Clock;

use crate::embedded::EmbeddedStore;
use crate::fold::FoldLimits;

/// Folds every `interval` until `stop` is sent to or dropped; blocks its thread.
///
/// A fold that fails is logged and repeated at the next interval.
pub fn run(
    store: &EmbeddedStore,
    clock: &dyn Clock,
    limits: FoldLimits,
    interval: Duration,
    stop: &Receiver<()>,
) {
    while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(interval) {
        let begun = clock.now();
        match store.fold_once(begun, limits) {
            Ok(report) if report.switched() => {
                let took_ms = clock.now().since(begun);
                store.note_fold_took(u64::try_from(took_ms).unwrap_or(0));
                tracing::debug!(took_ms, ?report, "folded");
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "fold failed"),
        }
    }
}
