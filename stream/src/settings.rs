//! What an operator may set about the stream, with its defaults.

use serde::{Deserialize, Serialize};

/// The knobs of every shard. They are cost, but for [`FoldSettings`], which every journal
/// entry carries: a change holds from the next entry on, and never for entries of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamSettings {
    /// Records that one journal entry takes at most.
    pub entry_events_max: u32,
    /// Bytes of records that one journal entry takes at most (at least one batch a topic).
    pub entry_bytes_max: u64,
    /// An entry is made at least this often, so that `now` and the watermark move.
    pub entry_interval_ms: u32,
    /// How often a layer is sealed.
    pub checkpoint_interval_ms: u32,
    /// Memory of the open layer, in bytes, that seals it sooner, beside what it is lent of
    /// `hot_bytes_max`. The open layer and those that are being written stay under twice as much,
    /// about: records wait in the log for it.
    pub layer_bytes_max: u64,
    /// Memory set aside for ids and sessions, their filters included, in bytes. Of what they do not
    /// need yet a part is lent to layers: in larger ones fewer cells are made and written twice.
    pub hot_bytes_max: u64,
    /// Memory for the filters of ids and sessions that lie on disk, in bytes; what finds no room
    /// is asked on disk.
    pub filter_bytes_max: u64,
    /// Rows of one dimension table.
    pub table_rows_max: u64,
    /// Bytes of one dimension table.
    pub table_bytes_max: u64,
    /// How long a shutdown may take; what is not sealed by then is replayed at the next start.
    pub shutdown_ms_max: u32,
    /// What decides results.
    pub fold: FoldSettings,
}

/// The settings that decide which ids and hours a shard remembers, and thereby results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FoldSettings {
    /// How far the watermark stays behind the newest event time (P6).
    pub lateness_ms: u32,
    /// How old an event may be, measured from the watermark, to be deduplicated at once.
    pub horizon_hours: u32,
    /// How long an id is hot after it came.
    pub hot_ms: u32,
    /// Ids kept hot in each shard at most; older ones lie on disk.
    pub hot_ids_max: u64,
    /// Sessions kept hot in each shard at most; older ones lie on disk. A layer that changed so
    /// many is sealed: until then they are all in memory.
    pub hot_sessions_max: u64,
}

impl FoldSettings {
    /// As it is, with so many percent of the ids and sessions hot.
    pub(crate) fn with_hot_percent(self, percent: u32) -> Self {
        let part = |whole: u64| whole.saturating_mul(percent.into()) / 100;
        let (hot_ids_max, hot_sessions_max) = (part(self.hot_ids_max), part(self.hot_sessions_max));
        Self { hot_ids_max, hot_sessions_max, ..self }
    }
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            entry_events_max: 65_536,
            entry_bytes_max: 32 << 20,
            entry_interval_ms: 1_000,
            checkpoint_interval_ms: 30_000,
            layer_bytes_max: 96 << 20,
            hot_bytes_max: 0,
            filter_bytes_max: 64 << 20,
            table_rows_max: 1_000_000,
            table_bytes_max: 64 << 20,
            shutdown_ms_max: 30_000,
            fold: FoldSettings::default(),
        }
    }
}

impl Default for FoldSettings {
    fn default() -> Self {
        Self {
            lateness_ms: 2 * 3_600_000,
            horizon_hours: 90 * 24,
            hot_ms: 2 * 3_600_000,
            // 20 M a house with the default of 4 shards.
            hot_ids_max: 5_000_000,
            hot_sessions_max: 500_000,
        }
    }
}
