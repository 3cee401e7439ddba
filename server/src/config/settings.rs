//! What an operator may write: the file's sections, as plain scalars.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The whole file. Defaults are in `defaults.toml`, nowhere else.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) server: Server,
    pub(crate) gateway: Gateway,
    pub(crate) limits: Limits,
    pub(crate) masking: Masking,
    pub(crate) log: Log,
    pub(crate) stream: Stream,
    pub(crate) rollups: Rollups,
    pub(crate) query: Query,
    pub(crate) types: Types,
    #[serde(default)]
    pub(crate) dimension: Vec<nilometer_stream::declare::DimensionDecl>,
    #[serde(default)]
    pub(crate) metric: Vec<nilometer_stream::declare::MetricDecl>,
    #[serde(default)]
    pub(crate) cube: Vec<nilometer_stream::declare::CubeDecl>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Server {
    pub(crate) listen: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) behind_proxy: bool,
    pub(crate) memory_limit_mib: u32,
    pub(crate) shutdown_timeout_s: u32,
    pub(crate) allowed_origins: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gateway {
    pub(crate) body_bytes_max: usize,
    pub(crate) server_body_bytes_max: usize,
    pub(crate) inflated_bytes_max: usize,
    pub(crate) inflate_ratio_max: usize,
    pub(crate) batch_events_max: usize,
    pub(crate) event_bytes_max: usize,
    pub(crate) depth_max: usize,
    pub(crate) properties_max: usize,
    pub(crate) string_bytes_max: usize,
    pub(crate) header_timeout_ms: u64,
    pub(crate) body_timeout_ms: u64,
    pub(crate) no_user_ids: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    pub(crate) connections_max: u32,
    pub(crate) subscriptions_max: u32,
    pub(crate) queries_per_second: u32,
    pub(crate) events_per_second: u32,
    pub(crate) browser_key_quota: String,
    pub(crate) server_key_quota: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum IpMasking {
    Token,
    Truncate,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EmailMasking {
    Token,
    Off,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Masking {
    pub(crate) enabled: bool,
    pub(crate) email: EmailMasking,
    pub(crate) ip: IpMasking,
    pub(crate) exempt_fields: Vec<String>,
    pub(crate) token_fields: Vec<String>,
    pub(crate) drop_fields: Vec<String>,
    pub(crate) detectors: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Compression {
    Lz4,
    Zstd,
    None,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Log {
    pub(crate) partitions: u16,
    pub(crate) retention_h: u64,
    pub(crate) retention_bytes: u64,
    pub(crate) dead_letter_bytes_max: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) compression: Compression,
    pub(crate) queue_bytes_max: usize,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stream {
    pub(crate) checkpoint_interval_s: u32,
    pub(crate) lateness_min: u32,
    pub(crate) horizon_days: u32,
    pub(crate) hot_ids_max: usize,
    pub(crate) entry_events_max: usize,
    pub(crate) entry_interval_ms: u64,
    pub(crate) dimension_values_max: u32,
    pub(crate) window_cells_max: u32,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rollups {
    pub(crate) fold_interval_s: u32,
    pub(crate) retention_1m_days: u32,
    pub(crate) retention_5m_days: u32,
    pub(crate) retention_30m_days: u32,
    pub(crate) retention_1h_days: u32,
    pub(crate) cache_mib: u32,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Query {
    pub(crate) cache_entries_max: usize,
    pub(crate) concurrency: usize,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Types {
    pub(crate) view: Vec<String>,
    pub(crate) click: Vec<String>,
    pub(crate) impression: Vec<String>,
    pub(crate) conversion: Vec<String>,
}
