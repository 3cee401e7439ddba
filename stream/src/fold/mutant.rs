//! Deliberate bugs of the fold, for the simulator that must catch them.

use super::{Cold, State};
use crate::ids::{ColdIds, Verdict};
use crate::shell::Mutant;

impl State {
    /// The same state with a deliberate bug, or none.
    #[must_use]
    pub(crate) const fn under(mut self, mutant: Option<Mutant>) -> Self {
        self.mutant = mutant;
        self
    }

    pub(super) fn mutated_cold(&self, cold: &Cold) -> Option<Cold> {
        let ids = match self.mutant {
            Some(Mutant::ColdIdsLost) => ColdIds::empty(),
            Some(Mutant::UnreadableRunIsNew) => cold.ids.without_unreadable(),
            _ => return None,
        };
        Some(Cold { ids, sessions: cold.sessions.clone() })
    }

    pub(super) const fn mutated_verdict(&self, verdict: Verdict) -> Verdict {
        match (self.mutant, verdict) {
            (Some(Mutant::NoDeduplication), Verdict::Duplicate { .. }) => Verdict::New,
            _ => verdict,
        }
    }

    pub(super) fn keeps_old_sessions(&self) -> bool {
        self.mutant == Some(Mutant::SessionNotRetracted)
    }
}
