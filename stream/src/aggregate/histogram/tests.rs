//! Bounds of quantiles against the sorted values.

use proptest::prelude::*;

use super::*;

fn bytes(histogram: &Histogram) -> Vec<u8> {
    let mut out = Vec::new();
    histogram.encode(&mut out);
    out
}

fn value() -> impl Strategy<Value = i128> {
    prop_oneof![
        -60_i128..60,
        -5_000_000_i128..5_000_000,
        any::<i64>().prop_map(i128::from),
        any::<i128>(),
        (any::<i128>(), 0_u32..128).prop_map(|(value, bits)| value >> bits),
        Just(i64::MIN.into()),
        Just(i64::MAX.into()),
        Just(i128::MIN),
        Just(i128::MAX),
    ]
}

fn record(histogram: &mut Histogram, value: i128, count: i64) {
    histogram.add(bucket_of_wide(value), count);
}

proptest! {
    #[test]
    fn a_quantile_is_within_one_percent_of_the_nearest_rank(
        values in prop::collection::vec(value(), 1..300),
        parts in 1_u32..=1_000_000,
    ) {
        let mut histogram = Histogram::new();
        for &one in &values {
            record(&mut histogram, one, 1);
        }
        let mut sorted = values.clone();
        sorted.sort_unstable();
        let rank = (u128::from(parts) * sorted.len() as u128).div_ceil(1_000_000).max(1);
        let exact = sorted[usize::try_from(rank).unwrap() - 1] as f64;
        let got = histogram.quantile(parts).unwrap();
        prop_assert!((got - exact).abs() <= QUANTILE_ERROR * exact.abs() * (1.0 + 1e-12), "{got} for {exact}");
    }

    #[test]
    fn any_order_grouping_and_taking_back_gives_equal_bytes(
        values in prop::collection::vec((value(), any::<bool>()), 0..200),
        cut in 0_usize..200,
    ) {
        let mut straight = Histogram::new();
        for &(one, _) in values.iter().filter(|(_, gone)| !gone) {
            record(&mut straight, one, 1);
        }
        let (mut left, mut right) = (Histogram::new(), Histogram::new());
        for (at, &(one, gone)) in values.iter().rev().enumerate() {
            let half = if at < cut { &mut left } else { &mut right };
            record(half, one, 1);
            if gone {
                // Taken back elsewhere than it came, as a session in a later layer is.
                record(&mut right, one, -1);
            }
        }
        left.merge(&Histogram::decode(&bytes(&right)).unwrap());
        prop_assert_eq!(bytes(&left), bytes(&straight));
    }

    #[test]
    fn hostile_bytes_never_panic(hostile in prop::collection::vec(any::<u8>(), 0..60)) {
        if let Ok(histogram) = Histogram::decode(&hostile) {
            prop_assert_eq!(Histogram::decode(&bytes(&histogram)), Ok(histogram));
        }
    }
}

#[test]
fn nothing_counted_has_no_quantile() {
    assert_eq!(Histogram::new().quantile(500_000), None);
    let mut cancelled = Histogram::new();
    cancelled.record(5, 1);
    cancelled.record(5, -1);
    assert_eq!((cancelled.quantile(1), cancelled.is_empty()), (None, true));
}

#[test]
fn every_bucket_is_as_narrow_as_its_bound_and_they_follow_each_other() {
    for bucket in 0..BUCKETS {
        let (low, last) = (LOWS[bucket], last_of(LOWS[bucket]));
        assert!(u128::from(last) * 99 <= u128::from(low) * 101);
        assert_eq!(LOWS[bucket + 1], last.saturating_add(1));
        let number = i16::try_from(bucket + 1).unwrap();
        if let Ok(low) = i64::try_from(low) {
            assert_eq!((bucket_of(low), bucket_of(-low)), (number, -number));
        }
    }
    for (bucket, &low) in WIDE_LOWS.iter().enumerate() {
        let last = wide_last_of(low);
        assert!(last - low <= low / 99 * 2 + 2);
        assert_eq!(WIDE_LOWS.get(bucket + 1).copied().unwrap_or(last + 1), last + 1);
        let number = i16::try_from(BUCKETS + bucket + 1).unwrap();
        if let (Ok(low), Ok(last)) = (i128::try_from(low), i128::try_from(last)) {
            assert_eq!((bucket_of_wide(low), bucket_of_wide(-low)), (number, -number));
            assert_eq!((bucket_of_wide(last), bucket_of_wide(-last)), (number, -number));
        }
    }
    assert_eq!(WIDE_LOWS[0], u128::from(LOWS[BUCKETS]));
    assert_eq!(bucket_of_wide(i128::from(i64::MAX) + 1), 2016, "the last of 64 bits");
    assert_eq!(usize::from(bucket_of_wide(i128::MIN).unsigned_abs()), BUCKETS + WIDE_BUCKETS);
    // Frozen: files hold bucket numbers.
    assert_eq!((BUCKETS, bucket_of(1_000_000), bucket_of(i64::MIN)), (2016, 524, -2016));
}
