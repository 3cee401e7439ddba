//! What an operator may set of the store, and how it is checked.

use nilometer_event::Granularity;
use thiserror::Error;

use crate::gather::Limits;
use crate::retention::Retention;

/// The store's settings, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// How long each granularity is kept.
    pub retention: Retention,
    /// Decoded blocks that are kept in memory, in bytes.
    pub cache_bytes_max: usize,
    /// What one fold may hold in memory of one dimension set, in bytes (about).
    pub fold_bytes_max: usize,
    /// Rows that one answer may have before it is cut to its limit.
    pub read_rows_max: usize,
    /// Memory that one answer's rows may take, in bytes (about).
    pub read_bytes_max: usize,
    /// Layers that one fold takes at most, over all shards.
    pub fold_layers_max: usize,
    /// Bytes of layers' files that one fold takes, about (at least one layer): history that was
    /// imported goes into the base piece by piece.
    pub fold_file_bytes_max: u64,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            retention: Retention::default(),
            cache_bytes_max: 64 << 20,
            fold_bytes_max: 64 << 20,
            read_rows_max: 500_000,
            read_bytes_max: 192 << 20,
            fold_layers_max: 256,
            fold_file_bytes_max: 128 << 20,
        }
    }
}

impl StoreSettings {
    pub(crate) const fn limits(&self) -> Limits {
        Limits { rows_max: self.read_rows_max, bytes_max: self.read_bytes_max }
    }
}

/// A setting that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// A retention that is zero, endless or shorter than that of a finer granularity.
    #[error(
        "retention of {granularity} is {days} days: expected {at_least} (a coarser granularity \
         is kept at least as long as a finer one) to {max}", max = Retention::DAYS_MAX
    )]
    Retention {
        /// Whose.
        granularity: Granularity,
        /// As set.
        days: u32,
        /// The least that is allowed.
        at_least: u32,
    },
}
