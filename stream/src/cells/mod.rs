//! Partial aggregates of one layer: counted in memory, sealed into a file, scanned by readers.
//!
//! Every event of an entry counts in the current [`Layer`], whatever its window. An event
//! touches one finest 1-minute cell per cube; at the entry's end counts go up the tree of
//! dimension sets and granularities. Codes and ordinals never leave a layer: bytes and cells
//! that leave hold strings and hashes.

mod source;
pub use source::{
    CellRef, CellSource, CellView, CellsDamaged, Coverage, DimValue, OwnedDimValue, ScanRequest,
};

mod filter;
pub use filter::{DimFilter, DimValues};

mod schema;

mod guard;
pub use guard::{
    FoldedDays, FoldedOf, FoldedOn, GUARDED_VALUE_BYTES, Guard, GuardDamaged, Sender, Tallies,
    text_hash,
};

mod dictionary;

mod users;

mod tally;

mod gauge;

mod pending;

mod coded;
pub(crate) use coded::CodedEvents;

mod rows;
mod table;

mod cube;
mod short;
mod shortcut;

mod scratch;

mod weigh;
pub(crate) use weigh::Weights;

mod layer;
pub(crate) use layer::{Counted, SessionCodes};
pub use layer::{Layer, SessionMeasure};

mod ranking;

mod scan;

mod file;
pub use file::{
    BlockPlace, BlockShelf, LayerBlock, LayerFile, LayerFileError, inflate, layer_bytes,
    write_layer,
};

#[cfg(test)]
mod tests;
