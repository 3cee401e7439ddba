//! Decoded blocks that outlive a scan.

use std::sync::Arc;

use super::block::Block;

/// Where a reader keeps decoded blocks from one scan to the next, under the file's name.
pub trait BlockShelf: std::fmt::Debug {
    /// A block that was put, by its place in the file, if it is still there.
    fn get(&self, place: BlockPlace) -> Option<Arc<LayerBlock>>;

    /// Keeps a block, or not.
    fn put(&self, place: BlockPlace, block: &Arc<LayerBlock>);
}

/// Which block of a file, and how much of it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockPlace {
    /// Its number in the file.
    pub block: u32,
    /// Whether its sketches are decoded beside its numbers.
    pub sketches: bool,
}

/// A decoded block of a layer's file.
#[derive(Debug)]
pub struct LayerBlock(pub(super) Block);

impl LayerBlock {
    /// Bytes in memory, about.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.0.memory_bytes()
    }
}
