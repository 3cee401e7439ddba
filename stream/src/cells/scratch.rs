//! Memory that goes from one layer to the next: fresh pages for each cost a tenth of the fold.

use std::sync::Arc;

use super::coded::CodedEvents;
use super::layer::Layer;
use super::pending::Pending;
use super::table::Added;
use crate::declare::Plan;

/// Memory that counting an entry needs and no layer keeps.
#[derive(Debug)]
struct Scratch {
    pending: Pending,
    one: CodedEvents,
    added: Vec<Added>,
}

/// Scratch of over this part of a layer is not handed on.
const SCRATCH_PART_MAX: usize = 4;

impl Layer {
    /// The layer after this one, which no event will touch any more: empty, with this one's
    /// scratch memory where both have one plan and it is not out of proportion.
    pub(crate) fn successor(&mut self, plan: Arc<Plan>, number: u64) -> Self {
        let before = self.memory_bytes();
        let mut next = Self::new(plan, number);
        if next.plan.id != self.plan.id {
            return next;
        }
        let (own, one) = (&mut self.pending, &mut self.one);
        let scratch = Scratch {
            pending: std::mem::replace(own, std::mem::take(&mut next.pending)),
            one: std::mem::take(one),
            added: self.tables.iter_mut().map(|table| std::mem::take(&mut table.added)).collect(),
        };
        if scratch.memory_bytes() * SCRATCH_PART_MAX <= before {
            next.pending = scratch.pending;
            next.one = scratch.one;
            for (table, added) in next.tables.iter_mut().zip(scratch.added) {
                table.added = added;
            }
        } else {
            next = Self::new(Arc::clone(&next.plan), number);
        }
        next
    }
}

impl Scratch {
    fn memory_bytes(&self) -> usize {
        self.pending.memory_bytes()
            + self.one.memory_bytes()
            + self.added.iter().map(Added::memory_bytes).sum::<usize>()
    }
}
