//! Sums over sliding windows of a sparse series, with three merges a window whatever its width.
//!
//! Source: van Herk 1992 and Gil & Werman 1993: every window of w steps is the end of one block
//! of w and the beginning of the next. The blocks do not overlap, so counts add up as well.

use std::collections::BTreeMap;

use nilometer_rollups::aggregate::Aggregates;

/// For each of `starts` (ascending), what the steps `start..start + width` hold together; windows
/// that hold nothing are left out.
pub(super) fn slide(
    series: &BTreeMap<i64, Aggregates>,
    width: i64,
    starts: &[i64],
    mut give: impl FnMut(i64, Aggregates),
) {
    let mut block: Option<Block> = None;
    for &start in starts {
        let number = start.div_euclid(width);
        let current = match block.take() {
            Some(current) if current.number == number => current,
            _ => Block::at(series, width, number),
        };
        if let Some(merged) = current.window(start, width) {
            give(start, merged);
        }
        block = Some(current);
    }
}

/// One block and the next: what lies from each step to the block's end, and what lies from the
/// next block's begin up to each step.
struct Block {
    number: i64,
    /// Ascending by step.
    to_the_end: Vec<(i64, Aggregates)>,
    /// Ascending by step.
    from_the_next: Vec<(i64, Aggregates)>,
}

impl Block {
    fn at(series: &BTreeMap<i64, Aggregates>, width: i64, number: i64) -> Self {
        let begin = number * width;
        let running = |steps: &mut dyn Iterator<Item = (&i64, &Aggregates)>| {
            let mut sums: Vec<(i64, Aggregates)> = Vec::new();
            for (&step, aggregates) in steps {
                let mut sum = aggregates.clone();
                if let Some((_, before)) = sums.last() {
                    sum.merge(before);
                }
                sums.push((step, sum));
            }
            sums
        };
        let mut to_the_end = running(&mut series.range(begin..begin + width).rev());
        to_the_end.reverse();
        let from_the_next = running(&mut series.range(begin + width..begin + 2 * width));
        Self { number, to_the_end, from_the_next }
    }

    fn window(&self, start: i64, width: i64) -> Option<Aggregates> {
        let end_of = self.to_the_end.partition_point(|(step, _)| *step < start);
        let first = self.to_the_end.get(end_of).map(|(_, sum)| sum);
        let begin_of = self.from_the_next.partition_point(|(step, _)| *step < start + width);
        let second = begin_of.checked_sub(1).map(|index| &self.from_the_next[index].1);
        match (first, second) {
            (Some(first), Some(second)) => {
                let mut merged = first.clone();
                merged.merge(second);
                Some(merged)
            }
            (one, other) => one.or(other).cloned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use nilometer_rollups::aggregate::Shape;
    use proptest::prelude::*;

    use super::*;

    fn counted(count: i64) -> Aggregates {
        let mut aggregates = Aggregates::new(Shape { counts: 1, ..Shape::default() });
        aggregates.counts[0] = count;
        aggregates
    }

    proptest! {
        #[test]
        fn every_window_holds_what_lies_in_it_and_no_more(
            cells in prop::collection::btree_map(-40_i64..40, 1_i64..100, 0..30),
            width in 1_i64..15,
            mut starts in prop::collection::vec(-60_i64..60, 0..40),
        ) {
            starts.sort_unstable();
            starts.dedup();
            let series = cells.iter().map(|(&step, &count)| (step, counted(count))).collect();
            let mut got = BTreeMap::new();
            slide(&series, width, &starts, |start, merged| {
                got.insert(start, merged.counts[0]);
            });
            let naive: BTreeMap<i64, i64> = starts
                .iter()
                .map(|&start| (start, cells.range(start..start + width).map(|(_, count)| count).sum()))
                .filter(|(_, sum)| *sum > 0)
                .collect();
            prop_assert_eq!(got, naive);
        }
    }
}
