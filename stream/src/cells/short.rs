//! Texts of at most 16 bytes as two numbers: most values of dimensions are such, and are found
//! without a look at bytes elsewhere.

use std::hash::BuildHasher;

use hashbrown::HashTable;

/// Longer texts are not kept here.
const BYTES_MAX: usize = 16;

/// A text, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    first: u64,
    last: u64,
    len: usize,
}

impl Word {
    /// The first and the last eight bytes, which overlap in the middle; or four, or all three.
    #[inline]
    fn of(text: &[u8]) -> Option<Self> {
        let len = text.len();
        let (first, last) = match (text.first_chunk::<8>(), text.last_chunk::<8>()) {
            (Some(first), Some(last)) if len <= BYTES_MAX => {
                (u64::from_le_bytes(*first), u64::from_le_bytes(*last))
            }
            (Some(_), _) => return None,
            _ => match (text.first_chunk::<4>(), text.last_chunk::<4>()) {
                (Some(first), Some(last)) => {
                    (u32::from_le_bytes(*first).into(), u32::from_le_bytes(*last).into())
                }
                _ => (text.iter().fold(0, |word, &byte| word << 8 | u64::from(byte)), 0),
            },
        };
        Some(Self { first, last, len })
    }
}

/// Numbers by short texts.
#[derive(Debug)]
pub(super) struct ShortTexts {
    places: HashTable<(Word, u32)>,
    /// Different in every process, so that nobody can send texts that collide.
    seeds: [u64; 2],
}

impl Default for ShortTexts {
    fn default() -> Self {
        let random = foldhash::fast::RandomState::default();
        Self { places: HashTable::new(), seeds: [random.hash_one(0_u8), random.hash_one(1_u8)] }
    }
}

impl ShortTexts {
    /// The number of a text; `None` where it is too long to be kept here, `Some(None)` where it
    /// is not known.
    #[inline]
    pub(super) fn find(&self, text: &[u8]) -> Option<Option<u32>> {
        let word = Word::of(text)?;
        let known = self.places.find(hash(self.seeds, word), |(own, _)| *own == word);
        Some(known.map(|&(_, place)| place))
    }

    /// Keeps the number of a text that is not known; false where it is too long.
    pub(super) fn insert(&mut self, text: &[u8], place: u32) -> bool {
        let Some(word) = Word::of(text) else { return false };
        let seeds = self.seeds;
        self.places.insert_unique(hash(seeds, word), (word, place), |(own, _)| hash(seeds, *own));
        true
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.places.capacity() * (size_of::<(Word, u32)>() + 1)
    }
}

/// One folded multiplication, as foldhash does it.
#[inline]
const fn hash([one, two]: [u64; 2], Word { first, last, len }: Word) -> u64 {
    let product =
        ((first ^ one) as u128).wrapping_mul((last.rotate_left(8) ^ two ^ len as u64) as u128);
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    let lower = product as u64;
    let upper = (product >> 64) as u64;
    lower ^ upper
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Few letters, so that texts of other lengths have the same beginnings and ends.
        #[test]
        fn short_texts_are_found_as_a_map_finds_them(
            texts in prop::collection::vec("[ab\\x00]{0,18}", 1..400),
        ) {
            let (mut own, mut map) = (ShortTexts::default(), HashMap::new());
            for text in &texts {
                let next = u32::try_from(map.len()).unwrap();
                let bytes = text.as_bytes();
                let found = own.find(bytes);
                if text.len() > 16 {
                    prop_assert!(found.is_none() && !own.insert(bytes, next));
                    continue;
                }
                prop_assert_eq!(found, Some(map.get(text).copied()));
                if !map.contains_key(text) {
                    prop_assert!(own.insert(bytes, next));
                    map.insert(text.clone(), next);
                }
            }
        }
    }
}
