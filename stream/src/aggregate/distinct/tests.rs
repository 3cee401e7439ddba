//! Order, bytes and error of the distinct counter.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn of(users: impl IntoIterator<Item = u64>) -> Distinct {
    let mut distinct = Distinct::new();
    for x in users {
        distinct.insert_hash(UserHash::new(x));
    }
    distinct
}

fn bytes(distinct: &Distinct) -> Vec<u8> {
    let mut out = Vec::new();
    distinct.encode(&mut out);
    out
}

/// Spread over 64 bits as a keyed hash would be.
fn spread(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_order_and_partition_gives_equal_bytes(
        users in prop::collection::vec(0_u64..900, 0..1_400),
        cuts in prop::collection::vec(0_usize..1_400, 0..6),
        rotate in 0_usize..1_400,
    ) {
        let straight = of(users.iter().map(|&n| spread(n)));
        let mut turned = users.clone();
        turned.rotate_left(rotate.min(users.len()));
        let mut parts = vec![Distinct::new()];
        for (at, &n) in turned.iter().enumerate() {
            if cuts.contains(&at) {
                parts.push(Distinct::new());
            }
            parts.last_mut().unwrap().insert_hash(UserHash::new(spread(n)));
        }
        let mut merged = Distinct::new();
        let mut from_bytes = Distinct::new();
        for part in parts.iter().rev() {
            merged.merge(&Distinct::decode(&bytes(part)).unwrap());
            from_bytes.merge_encoded(&bytes(part)).unwrap();
        }
        prop_assert_eq!(bytes(&merged), bytes(&straight));
        prop_assert_eq!(bytes(&from_bytes), bytes(&straight));
        let truth = users.iter().collect::<BTreeSet<_>>().len();
        prop_assert_eq!(merged.is_exact(), truth <= EXACT_MAX);
        if truth <= EXACT_MAX {
            prop_assert!((merged.estimate() - truth as f64).abs() < 1e-9);
        }
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let decoded = Distinct::decode(&bytes);
        if let Ok(distinct) = &decoded {
            prop_assert!(distinct.estimate() >= 0.0);
        }
        for size in [0_u64, 9, 600] {
            prop_assert_eq!(of(0..size).merge_encoded(&bytes).is_ok(), decoded.is_ok());
        }
    }
}

/// Registers by their definition, with some rule for two ranks that meet in one.
fn registers_by(users: impl Iterator<Item = u64>, keep: impl Fn(u8, u8) -> u8) -> Vec<u8> {
    let mut registers = vec![0; REGISTERS];
    for x in users {
        let h = mix(x);
        let register = &mut registers[(h & 0x3fff) as usize];
        *register =
            keep(*register, u8::try_from((h >> 14 | 1 << 50).trailing_zeros()).unwrap() + 1);
    }
    registers
}

/// The property above would see it: of both mutants two orders give different registers.
#[test]
fn registers_keep_the_greatest_rank_and_those_that_depend_on_order_are_caught() {
    let (forth, back) = (|| (0..40_000).map(spread), || (0..40_000).rev().map(spread));
    let ranks = |distinct: &Distinct| match &distinct.0 {
        Form::Estimated(registers) => registers.ranks().to_vec(),
        Form::Exact(_) => Vec::new(),
    };
    let greatest = registers_by(forth(), u8::max);
    assert_eq!(ranks(&of(forth())), greatest);
    assert_eq!(ranks(&of(back())), greatest);
    let first_come = |own: u8, rank: u8| if own == 0 { rank } else { own };
    let last_come = |_own: u8, rank: u8| rank;
    assert_ne!(registers_by(forth(), first_come), registers_by(back(), first_come));
    assert_ne!(registers_by(forth(), last_come), registers_by(back(), last_come));
}

#[test]
fn the_form_turns_at_513_and_a_repeat_does_not_turn_it() {
    let mut distinct = of((0..512).map(spread));
    assert!(distinct.is_exact());
    assert!(!distinct.insert_hash(UserHash::new(spread(7))));
    assert!(distinct.is_exact());
    assert!(distinct.insert_hash(UserHash::new(spread(512))));
    assert!(!distinct.is_exact());
}

#[test]
fn estimates_keep_their_bound_at_every_size_over_twenty_populations() {
    for size in [513_u64, 1_000, 10_000, 41_000, 100_000] {
        let mut inside = 0;
        let mut sum = 0.0;
        for population in 0..20_u64 {
            let distinct = of((0..size).map(|n| spread(n + (population << 40))));
            let error = distinct.estimate() / size as f64 - 1.0;
            assert!(error.abs() < 2.5 * DISTINCT_ERROR, "{size}: {error}");
            inside += u32::from(error.abs() <= DISTINCT_ERROR);
            sum += error;
        }
        assert!(inside >= 17, "{size}: {inside} of 20 within the bound at 95 %");
        assert!((sum / 20.0_f64).abs() < 0.008, "{size}: biased by {}", sum / 20.0);
    }
    let million = of((0..1_000_000).map(spread));
    assert!((million.estimate() / 1e6 - 1.0).abs() < 2.0 * DISTINCT_ERROR);
}

#[test]
fn estimates_agree_with_datasketches() {
    use datasketches::hll::{HllSketch, HllType};
    for size in [2_000_u64, 50_000, 400_000] {
        let ours = of((0..size).map(spread)).estimate();
        let mut oracle = HllSketch::new(14, HllType::Hll8).unwrap();
        for n in 0..size {
            oracle.update(spread(n));
        }
        let apart = ours / oracle.estimate() - 1.0;
        assert!(apart.abs() < 0.04, "{size}: ours {ours}, theirs {}", oracle.estimate());
    }
}

#[test]
fn bytes_are_canonical_in_every_form() {
    for size in [0_u64, 1, 512, 513, 3_000, 6_500, 30_000, 300_000] {
        let distinct = of((0..size).map(spread));
        let encoded = bytes(&distinct);
        assert_eq!(Distinct::decode(&encoded).unwrap(), distinct, "{size}");
        assert!(encoded.len() <= 12_300);
        // Merged from bytes as from the counter, whatever form either has.
        for before in [0_u64, 20, 600, 9_000] {
            let sum = of((0..size).chain(size / 2..size / 2 + before).map(spread));
            let mut merged = of((size / 2..size / 2 + before).map(spread));
            merged.merge_encoded(&encoded).unwrap();
            assert_eq!(merged, sum, "{size} into {before}");
            assert!(merged.merge_encoded(&encoded[..encoded.len() - 1]).is_err());
        }
        let mut longer = encoded.clone();
        longer.push(0);
        assert!(Distinct::decode(&longer).is_err());
        assert!(Distinct::decode(&encoded[..encoded.len() - 1]).is_err());
    }
    assert!(Distinct::decode(&[EXACT, 2, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]).is_err());
}

#[test]
fn clickhouse_states_have_its_layout() {
    let h = |x: u64| mix(x).to_le_bytes();
    let one = of([5]).to_clickhouse();
    assert_eq!(one, [[1, 1].as_slice(), h(5).as_slice()].concat());
    assert_eq!(of(0..17).to_clickhouse()[..2], [2, 17]);
    assert_eq!(of(0..512).to_clickhouse().len(), 1 + 2 + 512 * 8);
    let large = of(0..5_000).to_clickhouse();
    assert_eq!((large.len(), large[0]), (12_499, 3));
    // The first three bytes hold ranks 0 to 3, six bits each, least significant first.
    let rank = |bucket: u64| {
        let hashes = (0..5_000).map(mix).filter(|h| h & 0x3fff == bucket);
        hashes.map(|h| (h >> 14 | 1 << 50).trailing_zeros() + 1).max().unwrap_or(0)
    };
    let bits = u32::from_le_bytes([large[1], large[2], large[3], 0]);
    assert_eq!([0, 6, 12, 18].map(|shift| bits >> shift & 63), [0, 1, 2, 3].map(rank));
    let counts: u32 = large[1 + 12_288..][..208]
        .chunks(4)
        .map(|four| u32::from_le_bytes(four.try_into().unwrap()))
        .sum();
    assert_eq!(counts, 16_384);
    assert_eq!(large[12_497..], large[1 + 12_288..][..2]);
}

#[test]
fn the_mixer_is_murmurs() {
    // Murmur3 fmix64 of 1, as ClickHouse's `intHash64` mixes.
    assert_eq!(mix(0), 0);
    assert_eq!(mix(1), 0xb456_bcfc_34c2_cb2c);
}
