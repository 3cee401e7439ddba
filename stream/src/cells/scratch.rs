//! Memory that counting an entry needs and no layer keeps: it goes from one layer to the next,
//! for fresh pages for each cost a tenth of the fold.

use std::sync::Arc;

use super::layer::Layer;
use super::table::News;
use crate::declare::Plan;

/// Scratch of over so many times what the layer keeps is out of proportion, and is given back.
const SCRATCH_PARTS_MAX: usize = 2;

impl Layer {
    /// The layer after this one, which no event will touch any more: empty; where both have one
    /// plan, with room for as many cells, and with this one's scratch memory if that is not out
    /// of proportion.
    pub(crate) fn successor(&mut self, plan: Arc<Plan>, number: u64) -> Self {
        let (scratch, memory) = (self.scratch_bytes(), self.memory_bytes());
        let fits = scratch <= memory.saturating_sub(scratch).saturating_mul(SCRATCH_PARTS_MAX);
        let has_one_plan = plan.id == self.plan.id;
        let mut next = Self::new(Arc::clone(&plan), number);
        std::mem::swap(&mut self.pending, &mut next.pending);
        std::mem::swap(&mut self.sessions, &mut next.sessions);
        std::mem::swap(&mut self.one, &mut next.one);
        std::mem::swap(&mut self.news, &mut next.news);
        for (own, next) in self.tables.iter_mut().zip(&mut next.tables) {
            std::mem::swap(&mut own.added, &mut next.added);
        }
        // A layer that waits to be written has no use for it either way.
        if !(fits && has_one_plan) {
            next = Self::new(plan, number);
        }
        if has_one_plan {
            for (own, next) in self.tables.iter().zip(&mut next.tables) {
                next.reserve_as(own);
            }
        }
        next
    }

    /// The part of [`Self::memory_bytes`] that a seal does not give back: the next layer's
    /// entries need about as much.
    pub(crate) fn scratch_bytes(&self) -> usize {
        let added = self.tables.iter().map(|table| table.added.memory_bytes());
        self.entry_bytes() + added.sum::<usize>()
    }

    /// What the layer itself needs to count an entry; the rest of the scratch is its tables'.
    pub(super) fn entry_bytes(&self) -> usize {
        let news = self.news.iter().map(News::memory_bytes);
        self.pending.memory_bytes()
            + self.sessions.memory_bytes()
            + self.one.memory_bytes()
            + news.sum::<usize>()
    }
}
