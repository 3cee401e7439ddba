//! Sorted texts, one behind the other: a layer that waits for the base holds those of its file.

/// Texts in ascending order; each costs its bytes and four.
#[derive(Debug, Default)]
pub(super) struct Texts {
    all: String,
    ends: Vec<u32>,
}

impl Texts {
    pub(super) const NONE: Self = Self { all: String::new(), ends: Vec::new() };

    /// None, with room for so many.
    pub(super) fn with_room(texts: usize) -> Self {
        Self { all: String::new(), ends: Vec::with_capacity(texts) }
    }

    /// Adds one behind the others; false where they would be over 4 GB together.
    pub(super) fn push(&mut self, text: &str) -> bool {
        let Ok(end) = u32::try_from(self.all.len() + text.len()) else { return false };
        self.all.push_str(text);
        self.ends.push(end);
        true
    }

    /// Gives back what was reserved and is not needed.
    pub(super) fn shrink(&mut self) {
        self.all.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    pub(super) const fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, place: usize) -> Option<&str> {
        let end = *self.ends.get(place)? as usize;
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        self.all.get(start..end)
    }

    /// The place of a text.
    pub(super) fn find(&self, text: &str) -> Option<usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.get(middle)?.cmp(text) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    pub(super) const fn memory_bytes(&self) -> usize {
        self.all.capacity() + self.ends.capacity() * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_is_found_where_it_lies_and_no_other_is() {
        let mut texts = Texts::default();
        let sorted = ["", "a", "aa", "b", "é"];
        for text in sorted {
            assert!(texts.push(text));
        }
        texts.shrink();
        for (place, text) in sorted.into_iter().enumerate() {
            assert_eq!((texts.get(place), texts.find(text)), (Some(text), Some(place)));
        }
        assert_eq!((texts.get(5), texts.find("ab"), texts.find("z")), (None, None, None));
        assert_eq!(texts.memory_bytes(), 6 + 5 * 4);
    }
}
