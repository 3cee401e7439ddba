//! Sixteen bits that stand for one (layer, bucket) in the hot table, and which of them are alive.

/// Number of one (layer, bucket) in the table.
pub(crate) type Tag = u16;

/// The tag of an empty slot.
pub(crate) const FREE: Tag = 0;

const TAGS: usize = 1 << 16;

/// Which tags stand for hot ids.
#[derive(Debug)]
pub(crate) struct Tags {
    alive: Box<[u64; TAGS / 64]>,
}

impl Tags {
    pub(crate) fn new() -> Self {
        Self { alive: Box::new([0; TAGS / 64]) }
    }

    pub(crate) fn is_alive(&self, tag: Tag) -> bool {
        self.alive[usize::from(tag / 64)] >> (tag % 64) & 1 == 1
    }

    pub(crate) fn revive(&mut self, tag: Tag) {
        assert!(tag != FREE, "I4: the tag of empty slots is never alive");
        self.alive[usize::from(tag / 64)] |= 1 << (tag % 64);
    }

    pub(crate) fn kill(&mut self, tag: Tag) {
        self.alive[usize::from(tag / 64)] &= !(1 << (tag % 64));
    }
}
