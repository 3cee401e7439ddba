//! Progress bars on long work, on a terminal only.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that counts `what`, with an end where it is known.
pub(crate) fn count(what: &'static str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{bar:32} {human_pos} of {human_len} {msg}, {per_sec}, {eta} left",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {human_pos} {msg}, {per_sec}, {elapsed}"),
    };
    style(bar, template).with_message(what)
}

/// A bar over the bytes of a file.
pub(crate) fn bytes(total: u64) -> ProgressBar {
    style(
        ProgressBar::new(total),
        "{bar:32} {bytes} of {total_bytes}, {msg}, {elapsed} gone, {eta} left",
    )
}

fn style(bar: ProgressBar, template: &str) -> ProgressBar {
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_invalid) => bar,
    }
}
