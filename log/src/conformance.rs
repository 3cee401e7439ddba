//! The promises as functions (under construction).
