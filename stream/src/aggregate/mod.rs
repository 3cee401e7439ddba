//! What a cell holds: aggregates that are free of order and canonical in bytes.
//!
//! Counts, scaled sums, minima, maxima, distinct counters, histograms and exact counts per
//! value. Each merges with its like in any order and any grouping to the same bytes; none
//! depends on when something arrived.

mod aggregates;
pub use aggregates::{Aggregates, Shape, SlotMask};
pub(crate) use aggregates::{is_wide, lower, put_bound, put_sum, read_bound, read_sum};

mod bounds;
pub use bounds::Bounds;

mod sum;
pub use sum::{Sum, Sums};

mod distinct;
pub use distinct::{DISTINCT_ERROR, Distinct, EXACT_MAX};

mod registers;
pub(crate) use registers::{Mark, Registers};
pub use registers::{REGISTERS, mix};

mod histogram;
pub use histogram::{Histogram, QUANTILE_ERROR};
pub(crate) use histogram::{bucket_of, bucket_of_wide};

mod top;
pub use top::TopCounts;

mod wire;
pub use wire::AggregateDamaged;
pub(crate) use wire::{Reader, put_signed, put_varint};
