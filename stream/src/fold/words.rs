//! Between the numbers that a layer gives to values and those that sessions give to them: each
//! text is looked up once a layer, not once an event.

use nilometer_event::{EventTime, Granularity};

use crate::cells::{Counted, Layer, SessionCodes, Tallies};
use crate::declare::{DimId, Plan};
use crate::sessions::{SessionRef, Sessions, Word};

const UNKNOWN: Word = Word::MAX;

/// Codes are remembered of so many words: those that many sessions have come first.
const TOLD_MAX: usize = 1 << 14;

/// What is known of the open layer's numbers.
#[derive(Debug, Default)]
pub(super) struct LayerWords {
    /// The sessions' words by dimension and the layer's code.
    words: Vec<Vec<Word>>,
    /// The layer's codes by session dimension and word, each for the UTC day that asked last:
    /// what the guard says of a value holds for a day.
    codes: Vec<Vec<Known>>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    day: EventTime,
    code: u32,
}

const NOTHING_KNOWN: Known = Known { day: EventTime::MIN, code: 0 };

impl LayerWords {
    /// Forgets everything: another layer, or other words.
    pub(super) fn forget(&mut self) {
        self.words.clear();
        self.codes.clear();
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let codes = self.codes.iter().map(|known| known.capacity() * size_of::<Known>());
        let words = self.words.iter().map(|known| known.capacity() * size_of::<Word>());
        codes.sum::<usize>() + words.sum::<usize>()
    }

    /// The codes of a session's dimensions in the cells of its start.
    pub(super) fn codes_of(
        &mut self,
        plan: &Plan,
        layer: &mut Layer,
        tallies: &mut Tallies,
        session: SessionRef<'_>,
    ) -> SessionCodes {
        let day = session.start().window_start(Granularity::Day);
        self.codes.resize_with(plan.session_dims.len(), Vec::new);
        let mut values = session.value_words();
        let mut codes = SessionCodes::new();
        for (known, &dim) in self.codes.iter_mut().zip(&plan.session_dims) {
            let Some(word) = values.next().flatten() else {
                codes.push(layer.code(tallies, dim, session.start(), None));
                continue;
            };
            let at = word as usize;
            let mut ask = || layer.code(tallies, dim, session.start(), Some(session.text(word)));
            if at >= TOLD_MAX {
                codes.push(ask());
                continue;
            }
            if known.len() <= at {
                known.resize(at + 1, NOTHING_KNOWN);
            }
            if known[at].day != day {
                known[at] = Known { day, code: ask() };
            }
            codes.push(known[at].code);
        }
        codes
    }

    /// The word of what the event that `layer` counted last says of `dim`; `folded` tells the
    /// value where the guard folded it.
    pub(super) fn of(
        &mut self,
        dim: DimId,
        layer: &Layer,
        sessions: &mut Sessions,
        folded: impl FnOnce() -> Option<String>,
    ) -> Option<Word> {
        let code = match layer.counted(dim) {
            Counted::Null => return None,
            Counted::Other => {
                let text = folded().expect("E4: the guard folded a value that the event has");
                return Some(sessions.word(&text));
            }
            Counted::Text(code) => code,
        };
        let (index, at) = (dim.index(), code as usize);
        if self.words.len() <= index {
            self.words.resize_with(index + 1, Vec::new);
        }
        let known = &mut self.words[index];
        if known.len() <= at {
            known.resize(at + 1, UNKNOWN);
        }
        if known[at] == UNKNOWN {
            known[at] = sessions.word(layer.text(dim, code));
        }
        Some(known[at])
    }
}
