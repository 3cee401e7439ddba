//! Distinct users in memory: 32-bit ordinals up to 512, then registers.

use hashbrown::HashTable;

use super::pending::NONE;
use crate::aggregate::{Distinct, EXACT_MAX, Mark, REGISTERS, Registers, mix};

/// The users of one layer, numbered in the order of their first coming.
#[derive(Debug, Default)]
pub(super) struct Ordinals {
    hashes: Vec<u64>,
    index: HashTable<u32>,
}

impl Ordinals {
    /// The ordinal of a keyed hash.
    ///
    /// # Panics
    ///
    /// Past 2^32 users, which no memory cap admits.
    pub(super) fn of(&mut self, x: u64) -> u32 {
        let h = mix(x);
        if let Some(&known) = self.index.find(h, |&one| self.hashes[one as usize] == h) {
            return known;
        }
        // u32::MAX marks an empty place in a set.
        let next = u32::try_from(self.hashes.len()).ok().filter(|&next| next < u32::MAX);
        let next = next.expect("C4: users of a layer are below 2^32");
        self.hashes.push(h);
        let hashes = &self.hashes;
        self.index.insert_unique(h, next, |&one| hashes[one as usize]);
        next
    }

    /// Reads the places of these hashes and does nothing with them: a prefetch without `unsafe`.
    pub(super) fn warm(&self, hashes: impl Iterator<Item = u64>) {
        for x in hashes {
            let h = mix(x);
            std::hint::black_box(self.index.find(h, |&one| self.hashes[one as usize] == h));
        }
    }

    pub(super) fn hash(&self, ordinal: u32) -> u64 {
        self.hashes[ordinal as usize]
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.hashes.capacity() * 8 + self.index.capacity() * 5
    }
}

/// A user on the way to the sets.
#[derive(Clone, Copy, Debug)]
pub(super) struct User {
    /// [`NONE`] where there is nobody.
    pub(super) ordinal: u32,
    pub(super) mark: Mark,
}

impl User {
    pub(super) fn new(ordinal: Option<u32>, ordinals: &Ordinals) -> Self {
        let mark = ordinal.map_or(Mark::default(), |one| Mark::of(ordinals.hash(one)));
        Self { ordinal: ordinal.unwrap_or(NONE), mark }
    }
}

const EMPTY: u32 = u32::MAX;
const FEW: usize = 4;
/// Places of the smallest [`Many`].
const MANY_MIN: usize = 16;

/// The users of one cell.
#[derive(Debug)]
pub(super) enum UserSet {
    Few(u8, [u32; FEW]),
    Many(Many),
    Dense(Registers),
}

/// Open addressing, at most half full.
#[derive(Debug)]
pub(super) struct Many {
    places: Box<[u32]>,
    len: u32,
}

impl Default for UserSet {
    fn default() -> Self {
        Self::Few(0, [EMPTY; FEW])
    }
}

impl Many {
    fn with_capacity(capacity: usize) -> Self {
        Self { len: 0, places: vec![EMPTY; capacity].into_boxed_slice() }
    }

    /// True where one user more calls for more places, or for registers.
    const fn is_tight(&self) -> bool {
        let next = self.len as usize + 1;
        next > EXACT_MAX || next * 2 > self.places.len()
    }

    #[inline]
    fn insert(&mut self, ordinal: u32) -> bool {
        let mask = self.places.len() - 1;
        let mut place = self.home(ordinal);
        loop {
            let found = self.places[place];
            if found == ordinal {
                return false;
            }
            if found == EMPTY {
                self.places[place] = ordinal;
                self.len += 1;
                return true;
            }
            place = (place + 1) & mask;
        }
    }

    /// Fibonacci hashing: ordinals of one minute are neighbours.
    fn home(&self, ordinal: u32) -> usize {
        (ordinal.wrapping_mul(0x9e37_79b1) >> 7) as usize & (self.places.len() - 1)
    }

    fn ordinals(&self) -> impl Iterator<Item = u32> {
        self.places.iter().copied().filter(|&one| one != EMPTY)
    }
}

impl UserSet {
    /// True where the user was new, or raised a register. `heap` follows the bytes held.
    #[inline]
    pub(super) fn insert(&mut self, user: User, ordinals: &Ordinals, heap: &mut usize) -> bool {
        let User { ordinal, mark } = user;
        match self {
            Self::Dense(registers) => registers.mark(mark),
            Self::Many(many) if !many.is_tight() => many.insert(ordinal),
            Self::Few(len, few) if usize::from(*len) < FEW => {
                let used = usize::from(*len);
                let is_new = !few[..used].contains(&ordinal);
                if is_new {
                    few[used] = ordinal;
                    *len += 1;
                }
                is_new
            }
            _ => self.insert_and_grow(ordinal, ordinals, heap),
        }
    }

    /// As [`Self::insert`], where another user needs another form.
    #[inline(never)]
    fn insert_and_grow(&mut self, ordinal: u32, ordinals: &Ordinals, heap: &mut usize) -> bool {
        match self {
            Self::Dense(registers) => return registers.insert(ordinals.hash(ordinal)),
            Self::Few(_, few) => {
                if few.contains(&ordinal) {
                    return false;
                }
                let mut many = Many::with_capacity(MANY_MIN);
                for &one in few.iter() {
                    many.insert(one);
                }
                many.insert(ordinal);
                *heap += MANY_MIN * 4;
                *self = Self::Many(many);
            }
            Self::Many(many) => {
                if !many.insert(ordinal) {
                    return false;
                }
                let (len, capacity) = (many.len as usize, many.places.len());
                if len > EXACT_MAX {
                    let mut registers = Registers::new();
                    for one in many.ordinals() {
                        registers.insert(ordinals.hash(one));
                    }
                    *heap += REGISTERS;
                    *heap -= capacity * 4;
                    *self = Self::Dense(registers);
                } else if len * 2 > capacity && len < EXACT_MAX {
                    let mut grown = Many::with_capacity(capacity * 2);
                    for one in many.ordinals() {
                        grown.insert(one);
                    }
                    *heap += capacity * 4;
                    *many = grown;
                }
            }
        }
        true
    }

    /// Reads what inserting will read first, and does nothing with it.
    pub(super) fn warm(&self, User { ordinal, mark }: User) {
        match self {
            Self::Few(..) => {}
            Self::Many(many) => {
                std::hint::black_box(many.places[many.home(ordinal)]);
            }
            Self::Dense(registers) => registers.warm(mark),
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        matches!(self, Self::Few(0, _))
    }

    /// Adds the users to a counter that leaves the layer.
    pub(super) fn merge_into(&self, ordinals: &Ordinals, into: &mut Distinct) {
        match self {
            Self::Few(len, few) => {
                for &one in &few[..usize::from(*len)] {
                    into.insert_mixed(ordinals.hash(one));
                }
            }
            Self::Many(many) => {
                let mut hashes: Vec<u64> = many.ordinals().map(|one| ordinals.hash(one)).collect();
                hashes.sort_unstable();
                into.merge_sorted(&hashes);
            }
            Self::Dense(registers) => into.merge_registers(registers),
        }
    }
}
