//! Merging in any order and grouping, and the bytes.

use proptest::prelude::*;

use super::*;
use nilometer_event::UserHash;

const SHAPE: Shape =
    Shape { counts: 2, sums: 1, mins: 1, maxs: 1, distincts: 1, histograms: 1, tops: 1 };

fn cell() -> impl Strategy<Value = Aggregates> {
    let small = -1_000_i64..1_000;
    (small.clone(), any::<i64>(), prop::option::of(small.clone()), 0_u64..2_000, small).prop_map(
        |(count, big, bound, user, value)| {
            let mut cell = Aggregates::new(SHAPE);
            cell.counts = vec![count, 1];
            cell.sums = vec![i128::from(big) * 4];
            cell.mins = vec![bound];
            cell.maxs = vec![bound];
            cell.distincts[0].insert_hash(UserHash::new(user));
            cell.histograms[0].record(value, 1);
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
