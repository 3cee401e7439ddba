//! A synthetic audience: who is there, what they like, when they come and what they do.
//!
//! People have a home country with its own evening, a device, a tier, favourite categories and
//! a habit of coming back; content is popular by Zipf's law. A visit is a walk through a
//! funnel: land, look around, play, finish, sometimes subscribe or buy. The same seed gives the
//! same audience.

mod people;
mod visit;

pub(crate) use people::Audience;
pub(crate) use visit::Visit;

/// How lively an hour of the local day is, against the mean of 1: quiet nights, a small noon,
/// the evening's peak. The shape of video traffic, smoothed.
const DAILY_RHYTHM: [f64; 24] = [
    0.70, 0.45, 0.28, 0.20, 0.17, 0.20, 0.32, 0.52, 0.72, 0.85, 0.95, 1.05, 1.18, 1.15, 1.05, 1.02,
    1.08, 1.22, 1.45, 1.75, 2.00, 2.02, 1.70, 1.17,
];

/// Liveliness at a moment for people whose clock is `offset_h` ahead of UTC, interpolated
/// between the hours.
pub(crate) fn rhythm(time_ms: i64, offset_h: i8) -> f64 {
    let local_ms = time_ms + i64::from(offset_h) * 3_600_000;
    let of_day = local_ms.rem_euclid(86_400_000);
    let hour = usize::try_from(of_day / 3_600_000).unwrap_or(0);
    #[expect(clippy::cast_precision_loss, reason = "a part of an hour")]
    let part = (of_day % 3_600_000) as f64 / 3_600_000.0;
    let (now, next) = (DAILY_RHYTHM[hour], DAILY_RHYTHM[(hour + 1) % 24]);
    let weekend = if (local_ms.div_euclid(86_400_000) + 3).rem_euclid(7) >= 5 { 1.2 } else { 1.0 };
    (now + (next - now) * part) * weekend
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_evening_is_livelier_than_a_night() {
        let (evening, night) = (20 * 3_600_000, 4 * 3_600_000);
        assert!(rhythm(evening, 0) > 5.0 * rhythm(night, 0));
        assert!((rhythm(evening, 0) - rhythm(evening - 3_600_000, 1)).abs() < 1e-9);
    }
}
