//! Texts of event types and dimension values, each kept once.

use std::collections::HashMap;
use std::sync::Arc;

/// Number of a text; never leaves the task.
pub(crate) type Word = u32;

/// Below this many texts nothing is worth forgetting.
const WORDS_MIN: usize = 4_096;

/// Texts by number and numbers by text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Words {
    texts: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, Word, foldhash::fast::RandomState>,
    /// Texts that were in use when those out of use were last forgotten.
    used: usize,
}

impl Words {
    pub(crate) fn number(&mut self, text: &str) -> Word {
        if let Some(&word) = self.numbers.get(text) {
            return word;
        }
        let word = Word::try_from(self.texts.len()).expect("S4: texts are far below 2^32");
        let text: Arc<str> = text.into();
        self.texts.push(Arc::clone(&text));
        self.numbers.insert(text, word);
        word
    }

    pub(crate) fn text(&self, word: Word) -> &str {
        &self.texts[word as usize]
    }

    /// The texts as they are now, for a writer on another thread.
    pub(crate) fn texts(&self) -> Vec<Arc<str>> {
        self.texts.clone()
    }

    /// True when at least half of the texts may be out of use.
    pub(crate) fn is_worth_forgetting(&self) -> bool {
        self.texts.len() >= WORDS_MIN.max(self.used.saturating_mul(2))
    }

    /// Keeps the texts for which `visit` calls its argument, and gives every such word, in
    /// place, its new number.
    pub(crate) fn forget_unused(&mut self, visit: impl FnOnce(&mut dyn FnMut(&mut Word))) {
        let mut kept = Self::default();
        let texts = std::mem::take(&mut self.texts);
        visit(&mut |word| *word = kept.number(&texts[*word as usize]));
        kept.used = kept.texts.len();
        *self = kept;
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        // Each behind two counts, in pieces of 16 bytes.
        let texts: usize =
            self.texts.iter().map(|text| (text.len() + 16).next_multiple_of(16)).sum();
        texts
            + self.texts.capacity() * size_of::<Arc<str>>()
            + self.numbers.capacity() * 8 / 7 * (size_of::<(Arc<str>, Word)>() + 1)
    }
}
