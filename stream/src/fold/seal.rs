//! Closing a layer: the fold swaps in an empty one and hands the old one out, uncopied.

use std::sync::Arc;

use nilometer_event::{EventTime, Granularity, Topic};

use super::{HOUR_MS, State};
use crate::checkpoint::StateRecord;
use crate::declare::Plan;
use crate::ids::IdsSealed;
use crate::journal::Entry;
use crate::sessions::SessionsSealed;
use crate::view::{LayerNumber, OpenLayer};

/// After so many files of guard changes the guard is written whole.
const GUARD_CHANGES_MAX: usize = 32;

/// The cardinality guard's part of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardSealed {
    /// What changed since the last checkpoint; empty where nothing did.
    Changes(Vec<u8>),
    /// All of it, in place of what was written before.
    Whole(Vec<u8>),
}

/// A layer that was closed, with everything that a checkpoint of that moment needs.
#[derive(Debug)]
pub struct Sealed {
    /// The layer; nobody writes to it any more.
    pub layer: Arc<OpenLayer>,
    /// The plan that it was counted by.
    pub plan: Arc<Plan>,
    /// The first entry that counted in it.
    pub seq_first: u64,
    /// The last entry before the seal; its `seq` is the checkpoint's.
    pub entry: Entry,
    /// The small part of the state.
    pub state: StateRecord,
    /// Ids that came with the layer.
    pub ids: IdsSealed,
    /// Sessions that changed with the layer.
    pub sessions: SessionsSealed,
    /// Values that the guard admitted.
    pub guard: GuardSealed,
}

impl State {
    /// Closes the open layer after the last entry and opens the next.
    ///
    /// # Panics
    ///
    /// Before the first entry: there is nothing to close.
    pub(super) fn seal(&mut self) -> Sealed {
        let entry = self.last.clone().expect("E5: a layer is closed after its first entry");
        let number = self.open.number();
        let horizon = self.horizon(&entry);
        if self.plan.guard.kept_percent > 0 {
            self.open.read().layer.rank(&mut self.tallies.guard);
        }
        let oldest = horizon.window_start(Granularity::Day);
        self.tallies.guard.forget_before(oldest, &self.plan.guard);
        let sealed = Sealed {
            layer: Arc::clone(&self.open),
            plan: Arc::clone(&self.plan),
            seq_first: self.layer_seq_first,
            state: self.record(),
            ids: self.ids.seal(number.get(), entry.now, self.watermark),
            sessions: self.sessions.seal(number.get(), entry.now, self.watermark),
            guard: self.seal_guard(),
            entry,
        };
        self.open_layer(number.next());
        sealed
    }

    /// Swaps in an empty layer that begins with the facts of now.
    pub(super) fn open_layer(&mut self, number: LayerNumber) {
        let layer = self.open.write().layer.successor(Arc::clone(&self.plan), number.get());
        self.open = Arc::new(OpenLayer::new(number, layer, self.facts()));
        self.words.forget();
        self.layer_seq_first = self.seq() + 1;
    }

    /// What is older is neither remembered nor asked (Time 5).
    fn horizon(&self, entry: &Entry) -> EventTime {
        self.watermark.minus_ms(i64::from(entry.settings.horizon_hours) * HOUR_MS)
    }

    fn seal_guard(&mut self) -> GuardSealed {
        let changes = self.tallies.guard.take_changes();
        if changes.is_empty() {
            return GuardSealed::Changes(changes);
        }
        self.guard_changes_kept += 1;
        if self.guard_changes_kept <= GUARD_CHANGES_MAX {
            return GuardSealed::Changes(changes);
        }
        self.guard_changes_kept = 1;
        GuardSealed::Whole(self.tallies.guard.snapshot())
    }

    fn record(&self) -> StateRecord {
        let mut folded_to = [nilometer_event::ReceiveTime::default(); Topic::RECEIVED.len()];
        for (at, position) in folded_to.iter_mut().zip(self.positions.0) {
            *at = position.folded_to;
        }
        StateRecord {
            birth: self.birth,
            watermark: self.watermark,
            folded_to,
            counters: self.counters,
            imported_at: self.imported_at,
            corrected: self.corrected.as_ref().clone(),
            unread: self.unread.as_ref().clone(),
            over_quota: self.over_quota.as_ref().clone(),
            late: self.late.as_ref().clone(),
            conflicts: self.conflicts.as_ref().clone(),
        }
    }
}
