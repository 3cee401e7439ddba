//! Memory that counting an entry needs and no layer keeps: it goes from one layer to the next,
//! for fresh pages for each cost a tenth of the fold.

use std::sync::Arc;

use super::layer::Layer;
use crate::declare::Plan;

/// Scratch of over this part of a layer is not handed on.
const SCRATCH_PART_MAX: usize = 2;

impl Layer {
    /// The layer after this one, which no event will touch any more: empty; where both have one
    /// plan, with room for as many cells, and with this one's scratch memory if that is not out
    /// of proportion.
    pub(crate) fn successor(&mut self, plan: Arc<Plan>, number: u64) -> Self {
        let mut next = Self::new(plan, number);
        if next.plan.id != self.plan.id {
            return next;
        }
        for (own, next) in self.tables.iter().zip(&mut next.tables) {
            next.reserve_as(own);
        }
        if self.scratch_bytes() * SCRATCH_PART_MAX <= self.memory_bytes() {
            std::mem::swap(&mut self.pending, &mut next.pending);
            std::mem::swap(&mut self.sessions, &mut next.sessions);
            std::mem::swap(&mut self.one, &mut next.one);
            for (own, next) in self.tables.iter_mut().zip(&mut next.tables) {
                std::mem::swap(&mut own.added, &mut next.added);
            }
        }
        next
    }

    fn scratch_bytes(&self) -> usize {
        self.pending.memory_bytes()
            + self.sessions.memory_bytes()
            + self.one.memory_bytes()
            + self.tables.iter().map(|table| table.added.memory_bytes()).sum::<usize>()
    }
}
