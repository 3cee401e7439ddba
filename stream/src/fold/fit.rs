//! Which records of the next entry memory has room for: told from some of them, before it is made.
//!
//! What records added before says nothing of those that come: the first entry of a flood of
//! strange values is foreseen by looking at it alone.

use xxhash_rust::xxh3::xxh3_64;

use super::enter::decoded_again;
use super::{Named, Prepared, State};
use crate::cells::Weights;
use crate::journal::Entry;

/// One event of so many is weighed: a flood that would fill a layer's share several times over is
/// seen by dozens of its events, and weighing costs about a hundredth of the fold.
const STRIDE: usize = 64;

impl State {
    /// Whether `entry` counts in the open layer.
    pub(crate) fn counts_on(&self, entry: &Entry, named: &Named) -> bool {
        named.plan.id == self.plan.id && entry.layer == self.open.number()
    }

    /// Whether `entry` names what the state has already, so that [`State::begin`] changes nothing
    /// of what is prepared before it.
    pub(crate) fn stands_at(&self, entry: &Entry, named: &Named) -> bool {
        let has_tables = named.tables.versions() == self.tables.versions();
        self.last.is_some() && has_tables && self.counts_on(entry, named)
    }

    /// The most that one event adds to the open layer, beside its texts.
    pub(crate) fn event_bytes_max(&self) -> u64 {
        self.open.read().layer.event_bytes_max().max(1) as u64
    }

    /// How many records the open layer can take while it grows by `bytes`, about; `None` where it
    /// can take all of them. `prepared` is of this state.
    pub(crate) fn fit(&self, prepared: &Prepared<'_>, bytes: u64) -> Option<u64> {
        let events = prepared.coded.len();
        let open = self.open.read();
        if (events as u64).saturating_mul(open.layer.event_bytes_max() as u64) <= bytes {
            return None;
        }
        let mut weights = Weights::default();
        // Nobody outside knows which are weighed.
        let salt = (self.seq(), self.now().ms(), prepared.received_at.len());
        let first = xxh3_64(format!("{salt:?}").as_bytes()) % STRIDE as u64;
        let first = usize::try_from(first).unwrap_or(0);
        for row in (first..events).step_by(STRIDE) {
            let record = || {
                let unknown = &prepared.unknown;
                let at = unknown.binary_search_by_key(&row, |&(own, _)| own).ok();
                at.map(|at| unknown[at].1)
            };
            let event = || {
                let mut event = decoded_again(record()?);
                self.tables.enrich(&mut event);
                Some(event)
            };
            open.layer.weigh(&prepared.coded, row, &self.tallies.guard, &mut weights, event);
        }
        let over = usize::try_from(weights.over(bytes, STRIDE as u64)?).unwrap_or(usize::MAX);
        let row = first.saturating_add(over.saturating_mul(STRIDE));
        // From events to records, of which some are none.
        let mut rows = prepared.keys.iter().enumerate().filter(|(_, key)| key.is_some());
        rows.nth(row).map(|(record, _)| record as u64)
    }
}
