//! The rows of the group at hand.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use nilometer_event::EventTime;
use nilometer_stream::aggregate::Aggregates;
use nilometer_stream::cells::ScanRequest;

use super::account::{Account, Charge};
use super::run::Unread;
use crate::gather::{ROW_BYTES, is_nothing, may_be_taken_back, sketch_bytes};

/// By question and window what was counted.
#[derive(Debug)]
pub(super) struct GroupRows {
    requests: Arc<[ScanRequest]>,
    rows: BTreeMap<(usize, EventTime), Aggregates>,
    charge: Charge,
}

impl GroupRows {
    pub(super) fn new(requests: &Arc<[ScanRequest]>, account: &Arc<Account>) -> Self {
        let charge = Charge::nothing(account);
        Self { requests: Arc::clone(requests), rows: BTreeMap::new(), charge }
    }

    /// Adds what `merge` adds to a row.
    pub(super) fn add(
        &mut self,
        ask: u16,
        window: EventTime,
        merge: impl FnOnce(&mut Aggregates) -> Result<(), Unread>,
    ) -> Result<(), Unread> {
        let ask = usize::from(ask);
        let row = match self.rows.entry((ask, window)) {
            Entry::Occupied(row) => row.into_mut(),
            Entry::Vacant(row) => {
                let empty = self.requests[ask].empty();
                if !self.charge.grow(empty.memory_bytes() + ROW_BYTES) {
                    return Err(Unread::NoRoom);
                }
                row.insert(empty)
            }
        };
        let before = sketch_bytes(row);
        merge(row)?;
        let grown = sketch_bytes(row).saturating_sub(before);
        if self.charge.grow(grown) { Ok(()) } else { Err(Unread::NoRoom) }
    }

    /// The rows in which anything is left.
    pub(super) fn finish(mut self) -> Vec<(usize, EventTime, Aggregates)> {
        let requests = &self.requests;
        self.rows.retain(|(ask, _), aggregates| {
            !may_be_taken_back(&requests[*ask]) || !is_nothing(aggregates)
        });
        self.rows.into_iter().map(|((ask, window), own)| (ask, window, own)).collect()
    }
}
