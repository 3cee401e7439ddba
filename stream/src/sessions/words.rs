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
    /// What the texts themselves take.
    bytes: usize,
}

impl Words {
    pub(crate) fn number(&mut self, text: &str) -> Word {
        if let Some(&word) = self.numbers.get(text) {
            return word;
        }
        let word = Word::try_from(self.texts.len()).expect("S4: texts are far below 2^32");
        let text: Arc<str> = text.into();
        self.bytes += bytes_of(&text);
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

    /// Keeps the texts that are asked for, which keep their order, and gives every word its new
    /// number in place. `visit` is called twice, and calls its argument for the same words.
    ///
    /// In place, for made anew they would be there twice for a while.
    pub(crate) fn forget_unused(&mut self, mut visit: impl FnMut(&mut dyn FnMut(&mut Word))) {
        let mut renamed = vec![UNUSED; self.texts.len()];
        visit(&mut |word| renamed[*word as usize] = *word);
        let used = renamed.iter_mut().filter(|name| **name != UNUSED);
        for (next, name) in (0..).zip(used) {
            *name = next;
        }
        visit(&mut |word| *word = renamed[*word as usize]);
        self.numbers.retain(|_, word| {
            *word = renamed[*word as usize];
            *word != UNUSED
        });
        let mut place = 0;
        self.texts.retain(|text| {
            let is_used = renamed[place] != UNUSED;
            place += 1;
            if !is_used {
                self.bytes -= bytes_of(text);
            }
            is_used
        });
        self.used = self.texts.len();
        // As many may come again until this is done again.
        let room = self.used.saturating_mul(2);
        self.texts.shrink_to(room);
        self.numbers.shrink_to(room);
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes
            + self.texts.capacity() * size_of::<Arc<str>>()
            + self.numbers.capacity() * 8 / 7 * (size_of::<(Arc<str>, Word)>() + 1)
    }
}

/// A text that nothing names any more.
const UNUSED: Word = Word::MAX;

/// Each text lies behind two counts, in pieces of 16 bytes.
const fn bytes_of(text: &str) -> usize {
    (text.len() + 16).next_multiple_of(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_use_goes_and_what_stays_is_renamed_in_order() {
        let mut words = Words::default();
        let numbers: Vec<Word> = (0..100).map(|n| words.number(&format!("text {n}"))).collect();
        let full = words.bytes;
        let mut kept: Vec<Word> = numbers.iter().copied().filter(|word| word % 10 == 3).collect();
        words.forget_unused(|visit| kept.iter_mut().for_each(&mut *visit));
        assert_eq!(kept, (0..10).collect::<Vec<Word>>());
        let texts: Vec<&str> = kept.iter().map(|&word| words.text(word)).collect();
        let expected: Vec<String> = (0..10).map(|n| format!("text {}", n * 10 + 3)).collect();
        assert_eq!(texts, expected);
        assert_eq!((words.number("text 13"), words.number("text 4")), (1, 10));
        assert_eq!(words.bytes, full / 100 * 11);
    }
}
