//! From the numbers that a layer gives to values to those that sessions give to them: each text
//! is looked up once a layer, not once an event.

use crate::cells::{Counted, Layer};
use crate::declare::{DimId, EventFacts, Plan};
use crate::sessions::{Sessions, Word};

const UNKNOWN: Word = Word::MAX;

/// The sessions' words by dimension and code of the open layer.
#[derive(Debug, Default)]
pub(super) struct LayerWords(Vec<Vec<Word>>);

impl LayerWords {
    /// Forgets everything: another layer, or other words.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    /// The word of what the event that `layer` counted last says of `dim`.
    pub(super) fn of(
        &mut self,
        plan: &Plan,
        dim: DimId,
        layer: &Layer,
        facts: &EventFacts<'_>,
        sessions: &mut Sessions,
    ) -> Option<Word> {
        let counted = layer.counted(dim);
        if counted == Counted::Null {
            return None;
        }
        let mut word = || {
            let text = facts.text(&plan.dimensions[dim.index()].source)?;
            Some(sessions.word(&text))
        };
        let Counted::Text(code) = counted else { return word() };
        let (dim, code) = (dim.index(), code as usize);
        if self.0.len() <= dim {
            self.0.resize_with(dim + 1, Vec::new);
        }
        let known = &mut self.0[dim];
        if known.len() <= code {
            known.resize(code + 1, UNKNOWN);
        }
        if known[code] == UNKNOWN {
            known[code] = word()?;
        }
        Some(known[code])
    }
}
