//! Every code that a refusal of the house can have, by status; docs/api.md has the same table.

/// Statuses, each with its codes. A code has one status, and stays what it is for good.
pub const CODES: [(u16, &[&str]); 13] = [
    (
        400,
        &[
            "bad_body",
            "bad_cursor",
            "bad_json",
            "bad_parameter",
            "bad_replay",
            "bad_request",
            "bad_sign_in",
            "body_corrupt",
            "body_empty",
            "body_not_json",
            "body_truncated",
            "granularity_expired",
            "import_name_invalid",
            "no_such_cube",
            "query_too_large",
            "table_invalid",
            "too_many_rows",
            "unknown_column",
            "unknown_dimension",
            "unknown_metric",
            "unknown_parameter",
            "websocket_expected",
        ],
    ),
    (401, &["code_expired", "code_unknown", "code_used", "unauthorized"]),
    (403, &["forbidden", "origin_not_allowed"]),
    (404, &["not_found"]),
    (405, &["method_not_allowed"]),
    (408, &["body_timeout", "head_timeout"]),
    (413, &["batch_too_large", "body_too_large"]),
    (414, &["uri_too_long"]),
    (415, &["unsupported_content_encoding", "unsupported_content_type", "unsupported_media_type"]),
    (429, &["quota_exceeded", "rate_limited", "too_many_connections"]),
    (431, &["headers_too_large"]),
    (500, &["internal"]),
    (
        503,
        &[
            "busy",
            "disk_full",
            "log_full",
            "log_unavailable",
            "log_unreadable",
            "not_ready",
            "overloaded",
            "shutting_down",
            "starting",
            "too_many_live_queries",
            "windows_damaged",
        ],
    ),
];

/// Whether a refusal with this status may have this code.
#[must_use]
pub(crate) fn is_known(status: u16, code: &str) -> bool {
    CODES.iter().any(|(own, codes)| *own == status && codes.contains(&code))
}
