//! Merging in any order and grouping, and the bytes.

use proptest::prelude::*;

use super::*;
use nilometer_event::UserHash;

use crate::aggregate::bucket_of_wide;

const SHAPE: Shape =
    Shape { counts: 2, sums: 1, mins: 1, maxs: 1, distincts: 1, histograms: 1, tops: 1 };

fn cell() -> impl Strategy<Value = Aggregates> {
    let small = -1_000_i64..1_000;
    let wide = || prop_oneof![-1_000_i128..1_000, any::<i64>().prop_map(i128::from), any::<i128>()];
    (small.clone(), wide(), prop::option::of(wide()), 0_u64..2_000, wide()).prop_map(
        |(count, big, bound, user, value)| {
            let mut cell = Aggregates::new(SHAPE);
            cell.counts = vec![count, 1];
            cell.sums = vec![big.into()];
            cell.mins = vec![bound];
            cell.maxs = vec![bound];
            cell.distincts[0].insert_hash(UserHash::new(user));
            cell.histograms[0].add(bucket_of_wide(value), 1);
            cell.tops[0].add((value > 0).then_some(if user % 2 == 0 { "a" } else { "b" }), 1);
            cell
        },
    )
}

proptest! {
    #[test]
    fn merging_in_any_order_and_grouping_gives_equal_bytes(
        cells in prop::collection::vec(cell(), 0..40),
        cut in 0_usize..40,
    ) {
        let merged = |cells: &mut dyn Iterator<Item = &Aggregates>| {
            let mut all = Aggregates::new(SHAPE);
            cells.for_each(|cell| all.merge(cell));
            all
        };
        let straight = merged(&mut cells.iter());
        let (left, right) = cells.split_at(cut.min(cells.len()));
        let halves = [merged(&mut right.iter().rev()), merged(&mut left.iter().rev())];
        let grouped = merged(&mut halves.iter());
        let bytes = |cell: &Aggregates| { let mut out = Vec::new(); cell.encode(&mut out); out };
        prop_assert_eq!(bytes(&grouped), bytes(&straight));
        prop_assert_eq!(Aggregates::decode(SHAPE, &bytes(&straight)).unwrap(), straight);
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        drop(Aggregates::decode(SHAPE, &bytes));
    }
}

#[test]
fn an_empty_cell_is_empty_until_something_is_added() {
    let mut cell = Aggregates::new(SHAPE);
    assert!(cell.is_empty());
    cell.maxs[0] = Some(0);
    assert!(!cell.is_empty());
}

#[test]
fn what_fits_64_bits_has_the_bytes_of_the_first_version_and_is_not_wide() {
    let mut cell = Aggregates::new(Shape { sums: 3, mins: 2, maxs: 1, ..Shape::default() });
    cell.sums = [300, -1, i128::from(i64::MAX) + 1].map(Into::into).to_vec();
    cell.mins = vec![None, Some(-2)];
    cell.maxs = vec![Some(i128::from(i64::MAX))];
    let mut bytes = Vec::new();
    cell.encode(&mut bytes);
    // Frozen: files of the first version hold them.
    let frozen = [
        &[0, 0xd8, 4, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 1][..],
        &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
    ]
    .concat();
    assert_eq!(bytes, frozen);
    assert!(!cell.is_wide());
    for wide in [i128::from(i64::MAX) + 1, i128::from(i64::MIN) - 1] {
        let mut cell = cell.clone();
        cell.mins[0] = Some(wide);
        assert!(cell.is_wide());
    }
    cell.sums[0] += i128::MAX.into();
    assert!(cell.is_wide());
}
