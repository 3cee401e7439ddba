//! What an answer says about itself: how fresh, how final, how exact.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

/// `meta` of an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Meta {
    /// Everything received up to this moment of the house clock is counted.
    pub as_of: String,
    /// Windows that end by then are complete but for late events.
    pub final_until: String,
    /// Lowest watermark of the shards.
    pub watermark: String,
    /// Milliseconds from `as_of` to now.
    pub freshness_ms: i64,
    /// Relative error at 95 % of each metric that is estimated in this answer.
    pub approximate: BTreeMap<String, f64>,
    /// Milliseconds that this request took.
    pub took_ms: f64,
    /// Where the rows come from.
    pub source: &'static str,
    /// The range that was used, after rounding outward.
    pub range: MetaRange,
    /// True where `limit` cut rows off.
    pub truncated: bool,
    /// Rows whose window ends after `final_until`.
    pub provisional_rows: usize,
    /// Dimensions of which some values are folded into `__other__`. Numbers that may lack something
    /// for that are null; the others are exact.
    pub folded: Vec<String>,
    /// Columns that are not known in all of the range, as a metric that was declared within it,
    /// each with the moment from which on it is. What reaches back before that is null: ask from
    /// that moment on for what there is.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub since: BTreeMap<String, String>,
    /// Metrics whose older windows are being computed now. Nothing computes them in this version.
    pub filling: Vec<String>,
    /// Events in the hours of the range that claimed to be yet to come, by more than 5 minutes, and
    /// count at their receipt instead; of the last month.
    pub corrected: u64,
    /// Events of the days of the range that were accepted and are counted nowhere, because they came
    /// later than ids are remembered: sent again as an import they count. Of the latest 4,096 days
    /// that have any, and for good: those that came in by an import since are not taken off.
    pub late_pending: u64,
    /// Metrics of the answer that counted events without their number, since they were declared
    /// as they are, each with how many: what stood there was no number, or too large.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unread: BTreeMap<String, u64>,
    /// True while imports are being read: history may still grow.
    pub import_running: bool,
    /// Final windows whose rows changed since this server first answered the query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revised: Option<Revised>,
}

/// The range of an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct MetaRange {
    /// First moment inside.
    pub from: String,
    /// First moment after.
    pub to: String,
    /// `1m`, `5m`, `30m`, `1h`, `1d` or `total`.
    pub granularity: &'static str,
    /// Width of a sliding window in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_ms: Option<i64>,
    /// Where the compared range starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_from: Option<String>,
}

/// Final windows that changed after all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Revised {
    /// How many windows.
    pub windows: usize,
    /// The earliest of them.
    pub from: String,
    /// The latest of them.
    pub to: String,
}
