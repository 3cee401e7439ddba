//! RecordBatch v2 (under construction).
