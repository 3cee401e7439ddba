//! A small set that says "certainly not here": a split-block Bloom filter.

use std::sync::atomic::{AtomicU32, Ordering};

/// Bits for each ordinary key: about 1 % false positives.
pub(crate) const ORDINARY_BITS: usize = 10;
/// Bits for each odd key, which every look-up asks for: about 1 in 10,000 false positives.
pub(crate) const ODD_BITS: usize = 24;
/// One block is one probe into memory.
///
/// Source: Putze, Sanders, Singler 2007, "Cache-, Hash- and Space-Efficient Bloom Filters",
/// with 256-bit blocks and eight probes.
const BLOCK_BYTES: usize = 32;
/// A filter that is to be fitted can be halved so many times.
const HALVINGS_MAX: u32 = 6;
/// Odd multipliers, one for each 32-bit word of a block: the golden ratio's bits, spread.
const SALTS: [u32; 8] = [
    0x9e37_79b1,
    0x85eb_ca77,
    0xc2b2_ae3d,
    0x27d4_eb2f,
    0x1656_67b1,
    0xd6e8_feb9,
    0xa0f5_1c4d,
    0x7feb_352d,
];

/// Keys are 64-bit hashes; a key that was inserted is always found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    blocks: Vec<[u32; 8]>,
}

impl Filter {
    /// Sized for that many keys at that many bits each.
    pub(crate) fn for_keys(keys: u64, bits: usize) -> Self {
        Self { blocks: vec![[0; 8]; blocks_for(keys, bits)] }
    }

    /// As [`Self::for_keys`] where fewer keys may come: [`Self::fit`] makes it smaller then.
    pub(crate) fn for_at_most(keys: u64, bits: usize) -> Self {
        let blocks = blocks_for(keys, bits).next_multiple_of(1 << HALVINGS_MAX);
        Self { blocks: vec![[0; 8]; blocks] }
    }

    /// Halves it as long as it stays large enough for that many keys; what was inserted is found.
    ///
    /// Multiply-shift puts a key into block ⌊i/2⌋ of half as many blocks where it is in block i,
    /// so neighbours become one.
    pub(crate) fn fit(mut self, keys: u64, bits: usize) -> Self {
        let wanted = blocks_for(keys, bits);
        while self.blocks.len().is_multiple_of(2) && self.blocks.len() / 2 >= wanted {
            let (pairs, _) = self.blocks.as_chunks::<2>();
            let joined = pairs.iter().map(|[one, two]| std::array::from_fn(|i| one[i] | two[i]));
            self.blocks = joined.collect();
        }
        self
    }

    pub(crate) fn insert(&mut self, key: u64) {
        let masks = masks(key);
        let index = block_of(key, self.blocks.len());
        for (word, mask) in self.blocks[index].iter_mut().zip(masks) {
            *word |= mask;
        }
    }

    /// False means that the key was never inserted.
    pub(crate) fn may_hold(&self, key: u64) -> bool {
        let block = &self.blocks[block_of(key, self.blocks.len())];
        block.iter().zip(masks(key)).fold(true, |all, (word, mask)| all & (word & mask != 0))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.blocks.len() * BLOCK_BYTES
    }

    /// Little-endian words, block by block.
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.blocks.iter().flatten().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// `None` where the length is not a whole number of blocks.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (blocks, rest) = bytes.as_chunks::<BLOCK_BYTES>();
        if blocks.is_empty() || !rest.is_empty() {
            return None;
        }
        let word = |block: &[u8; BLOCK_BYTES], index: usize| {
            let at = index * 4;
            u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
        };
        let blocks = blocks.iter().map(|block| std::array::from_fn(|i| word(block, i))).collect();
        Some(Self { blocks })
    }
}

/// A [`Filter`] that readers share while one writer inserts: what was inserted before whatever
/// told them of it is found.
#[derive(Debug)]
pub(crate) struct SharedFilter {
    blocks: Box<[[AtomicU32; 8]]>,
}

impl SharedFilter {
    /// As [`Filter::insert`]; of one writer at a time.
    pub(crate) fn insert(&self, key: u64) {
        for (word, mask) in self.blocks[block_of(key, self.blocks.len())].iter().zip(masks(key)) {
            word.store(word.load(Ordering::Relaxed) | mask, Ordering::Relaxed);
        }
    }

    /// As [`Filter::may_hold`].
    pub(crate) fn may_hold(&self, key: u64) -> bool {
        let block = &self.blocks[block_of(key, self.blocks.len())];
        block.iter().zip(masks(key)).all(|(word, mask)| word.load(Ordering::Relaxed) & mask != 0)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.blocks.len() * BLOCK_BYTES
    }

    /// A copy as it is now.
    pub(crate) fn now(&self) -> Filter {
        let word = |word: &AtomicU32| word.load(Ordering::Relaxed);
        Filter { blocks: self.blocks.iter().map(|block| block.each_ref().map(word)).collect() }
    }
}

impl From<Filter> for SharedFilter {
    fn from(filter: Filter) -> Self {
        Self { blocks: filter.blocks.into_iter().map(|block| block.map(AtomicU32::new)).collect() }
    }
}

fn block_of(key: u64, blocks: usize) -> usize {
    // Multiply-shift over the high word; the masks use the low one.
    let product = u64::from(high_word(key)) * blocks as u64;
    usize::try_from(product >> 32).expect("below the number of blocks")
}

fn blocks_for(keys: u64, bits: usize) -> usize {
    let keys = usize::try_from(keys).unwrap_or(usize::MAX);
    keys.saturating_mul(bits).div_ceil(BLOCK_BYTES * 8).max(1)
}

fn masks(key: u64) -> [u32; 8] {
    let [a, b, c, d, ..] = key.to_le_bytes();
    let low = u32::from_le_bytes([a, b, c, d]);
    SALTS.map(|salt| 1 << (low.wrapping_mul(salt) >> 27))
}

fn high_word(key: u64) -> u32 {
    let [.., a, b, c, d] = key.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&n.to_le_bytes())
    }

    #[test]
    fn what_was_inserted_is_found_and_of_strangers_less_than_two_in_a_hundred() {
        let mut filter = Filter::for_keys(50_000, ORDINARY_BITS);
        (0..50_000).for_each(|n| filter.insert(key(n)));
        assert!((0..50_000).all(|n| filter.may_hold(key(n))));
        let false_positives = (50_000..150_000).filter(|&n| filter.may_hold(key(n))).count();
        assert!(false_positives < 2_000, "{false_positives} of 100,000");
        assert_eq!(Filter::decode(&filter.encode()), Some(filter));
    }

    #[test]
    fn a_shared_filter_is_the_same_set() {
        let mut filter = Filter::for_keys(5_000, ODD_BITS);
        let shared = SharedFilter::from(filter.clone());
        (0..5_000).for_each(|n| {
            filter.insert(key(n));
            shared.insert(key(n));
        });
        assert_eq!((shared.bytes(), shared.now()), (filter.bytes(), filter.clone()));
        assert!((0..20_000).all(|n| shared.may_hold(key(n)) == filter.may_hold(key(n))));
    }

    #[test]
    fn a_filter_that_was_fitted_is_the_one_that_is_so_large_from_the_start() {
        for keys in [0, 1, 700, 25_000, 50_000] {
            let mut filter = Filter::for_at_most(50_000, ORDINARY_BITS);
            (0..keys).for_each(|n| filter.insert(key(n)));
            let fitted = filter.fit(keys, ORDINARY_BITS);
            let least = Filter::for_keys(keys, ORDINARY_BITS).bytes();
            assert!(fitted.bytes() >= least, "{keys} keys");
            assert!(fitted.bytes() < 2 * least || keys < 1_000, "{keys} keys: {}", fitted.bytes());
            let mut same = Filter { blocks: vec![[0; 8]; fitted.blocks.len()] };
            (0..keys).for_each(|n| same.insert(key(n)));
            assert_eq!(fitted, same, "{keys} keys");
        }
    }
}
