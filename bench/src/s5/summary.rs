//! Many durations as a few numbers.

use serde_json::{Value, json};

use crate::round;

/// Quantiles by nearest rank, in the unit of the samples.
pub(crate) fn summary(mut samples: Vec<f64>) -> Value {
    samples.sort_by(f64::total_cmp);
    let at = |q: f64| samples.get(rank(q, samples.len())).copied().map(round);
    json!({
        "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": samples.last().copied().map(round),
        "samples": samples.len(),
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "an index within a list"
)]
fn rank(q: f64, len: usize) -> usize {
    ((q * len as f64).ceil() as usize).max(1) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hundredth_of_a_hundred_is_above_the_p99() {
        let figures = summary((1..=100).map(f64::from).collect());
        assert_eq!((&figures["p50"], &figures["p99"]), (&json!(50.0), &json!(99.0)));
        assert_eq!(figures["max"], json!(100.0));
        assert!(summary(Vec::new())["p99"].is_null());
    }
}
