//! How long events wait from their receipt until they are shown: a histogram of the last minutes.

use nilometer_event::ReceiveTime;

/// Buckets: two per doubling, from 1 ms to about 2^32 ms.
const BUCKETS: usize = 64;

/// How long one of the two histograms is filled before the other takes over.
const TURN_MS: i64 = 60_000;

/// Receive-to-shown latency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freshness {
    /// Half of the events waited no longer.
    pub p50_ms: u64,
    /// 99 % of the events waited no longer.
    pub p99_ms: u64,
    /// How many events that is about.
    pub events: u64,
}

/// Two histograms that take turns, so that a reading covers the last one to two minutes.
#[derive(Clone, Debug)]
pub struct FreshnessMeter {
    current: [u64; BUCKETS],
    before: [u64; BUCKETS],
    turn_began: ReceiveTime,
}

impl Default for FreshnessMeter {
    fn default() -> Self {
        Self { current: [0; BUCKETS], before: [0; BUCKETS], turn_began: ReceiveTime::default() }
    }
}

impl FreshnessMeter {
    /// Counts `events` received at `received_at` and shown at `shown_at`.
    pub fn record(&mut self, received_at: ReceiveTime, shown_at: ReceiveTime, events: u64) {
        if shown_at.since(self.turn_began) >= TURN_MS {
            let both_old = shown_at.since(self.turn_began) >= 2 * TURN_MS;
            self.before = if both_old { [0; BUCKETS] } else { self.current };
            self.current = [0; BUCKETS];
            self.turn_began = shown_at;
        }
        let waited_ms = u64::try_from(shown_at.since(received_at)).unwrap_or(0);
        self.current[bucket_of(waited_ms)] += events;
    }

    /// The reading; `None` where nothing was recorded lately.
    #[must_use]
    pub fn read(&self) -> Option<Freshness> {
        let sum = |index: usize| self.current[index] + self.before[index];
        let events: u64 = (0..BUCKETS).map(sum).sum();
        if events == 0 {
            return None;
        }
        let quantile = |hundredths: u64| {
            // Nearest rank, in integers: ceil(events × hundredths / 100), at least 1.
            let rank = (u128::from(events) * u128::from(hundredths)).div_ceil(100).max(1);
            let mut seen = 0u128;
            for index in 0..BUCKETS {
                seen += u128::from(sum(index));
                if seen >= rank {
                    return bucket_end(index);
                }
            }
            bucket_end(BUCKETS - 1)
        };
        Some(Freshness { p50_ms: quantile(50), p99_ms: quantile(99), events })
    }
}

/// Bucket of a wait: bucket 0 is 0 ms; then two per doubling.
fn bucket_of(waited_ms: u64) -> usize {
    let Some(log2) = waited_ms.checked_ilog2() else { return 0 };
    let upper_half = log2 > 0 && waited_ms >> (log2 - 1) & 1 == 1;
    let index = 1 + 2 * log2 + u32::from(upper_half);
    usize::try_from(index).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

/// The longest wait that falls into a bucket, in milliseconds.
fn bucket_end(index: usize) -> u64 {
    let Some(position) = index.checked_sub(1) else { return 0 };
    let base = 1u64 << (position / 2);
    let next = if position % 2 == 0 { base + base / 2 } else { base * 2 };
    next.max(base + 1) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wait_lies_in_its_bucket() {
        for waited in (0..5_000u64).chain([1 << 20, (1 << 30) + 5]) {
            let bucket = bucket_of(waited);
            assert!(waited <= bucket_end(bucket), "{waited} in {bucket}");
            assert!(bucket == 0 || waited > bucket_end(bucket - 1), "{waited} in {bucket}");
        }
    }

    #[test]
    fn quantiles_are_read_over_the_last_minutes_only() {
        let mut meter = FreshnessMeter::default();
        let at = ReceiveTime::from_ms;
        meter.record(at(0), at(900_000), 1_000);
        meter.record(at(1_000_000), at(1_000_100), 90);
        meter.record(at(1_000_000), at(1_001_000), 10);
        // The old wait is still within two turns.
        assert_eq!(meter.read().map(|reading| reading.events), Some(1_100));
        meter.record(at(2_000_000), at(2_000_100), 98);
        meter.record(at(2_000_000), at(2_001_000), 2);
        let reading = meter.read().unwrap();
        assert_eq!(reading.events, 100);
        assert!((100..128).contains(&reading.p50_ms), "{reading:?}");
        assert!((1_000..1_536).contains(&reading.p99_ms), "{reading:?}");
    }
}
