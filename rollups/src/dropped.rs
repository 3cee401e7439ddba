//! Which windows retention has taken, for good.

use std::collections::BTreeSet;
use std::sync::Arc;

use nilometer_event::{EventTime, Granularity, TimeRange};
use nilometer_stream::aggregate::SlotMask;
use nilometer_stream::cells::ScanRequest;
use nilometer_stream::declare::{MetricKind, Plan, SetKind};
use serde::{Deserialize, Serialize};

use crate::base::Base;
use crate::gather::{Gather, Into, Limits, Sketches};

/// Ranges that are told apart in each granularity. Beyond, the two that lie nearest become one, of
/// those between which retention keeps nothing now: what is kept is never joined away, and where
/// only such gaps are left, there may be more. What was between is expired for good, though it
/// were counted anew under a longer retention.
const DROPPED_RANGES_MAX: usize = 1_024;

/// Per granularity the windows that may lack cells: those that were dropped when they grew old,
/// and those that were too old to be written when their events were folded. However long
/// retention becomes later, they are never whole again. Days are never among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dropped {
    /// By [`Granularity`]: from and to, on whole windows, ascending, none touching another.
    ranges: [Vec<(EventTime, EventTime)>; 5],
}

impl Dropped {
    /// Notes that windows of `range` may lack cells; those from `kept_from` on are kept.
    pub(crate) fn add(&mut self, granularity: Granularity, range: TimeRange, kept_from: EventTime) {
        if range.end <= range.start {
            return;
        }
        let ranges = &mut self.ranges[granularity as usize];
        let first = ranges.partition_point(|&(_, end)| end < range.start);
        let after = ranges.partition_point(|&(start, _)| start <= range.end);
        let met = &ranges[first..after];
        let start = met.first().map_or(range.start, |&(start, _)| start.min(range.start));
        let end = met.last().map_or(range.end, |&(_, end)| end.max(range.end));
        ranges.splice(first..after, [(start, end)]);
        while ranges.len() > DROPPED_RANGES_MAX && join_nearest(ranges, kept_from) {}
    }

    /// Whether a window of `range` may lack cells.
    pub(crate) fn meets(&self, granularity: Granularity, range: TimeRange) -> bool {
        self.next(granularity, range.start).is_some_and(|next| next.start < range.end)
    }

    /// The first such range that ends after `time`.
    pub(crate) fn next(&self, granularity: Granularity, time: EventTime) -> Option<TimeRange> {
        let ranges = &self.ranges[granularity as usize];
        let next = ranges.get(ranges.partition_point(|&(_, end)| end <= time));
        next.map(|&(start, end)| TimeRange { start, end })
    }

    /// Where the windows begin of which none lacks a cell.
    pub(crate) fn end(&self, granularity: Granularity) -> EventTime {
        self.ranges[granularity as usize].last().map_or(EventTime::MIN, |&(_, end)| end)
    }
}

/// Makes one of the two ranges that lie nearest with nothing kept between them; false where there
/// are no such two.
fn join_nearest(ranges: &mut Vec<(EventTime, EventTime)>, kept_from: EventTime) -> bool {
    let behind = ranges.partition_point(|&(start, _)| start <= kept_from);
    let gap = |place: &usize| ranges[place + 1].0.since(ranges[*place].1);
    let Some(place) = (0..behind.saturating_sub(1)).min_by_key(gap) else { return false };
    let (_, end) = ranges.remove(place + 1);
    ranges[place].1 = end;
    true
}

/// What a base has dropped that an older release wrote, which did not tell: of each granularity
/// the days of which it holds other events or sessions than the day's own cells do. A day that
/// cannot be compared, because a file is damaged, counts as dropped.
pub(crate) fn dropped_before(base: &Base, plan: &Arc<Plan>) -> Dropped {
    let mut dropped = Dropped::default();
    let mut days = BTreeSet::new();
    for chunk in base.all().filter(|chunk| chunk.meta.key.granularity == Granularity::Day) {
        let TimeRange { start, end } = chunk.meta.windows();
        let windows = end.since(start) / Granularity::Day.ms();
        days.extend((0..windows).map(|day| start.plus_ms(day * Granularity::Day.ms())));
    }
    for start in days {
        let day = TimeRange { start, end: start.plus_ms(Granularity::Day.ms()) };
        let all = counts(base, plan, Granularity::Day, day);
        for granularity in Granularity::ALL.into_iter().filter(|&it| it != Granularity::Day) {
            if all.is_none() || counts(base, plan, granularity, day) != all {
                // How long they are kept is not known here: none is joined.
                dropped.add(granularity, day, EventTime::MIN);
            }
        }
    }
    dropped
}

/// The events and the sessions of a range, by the cells of one granularity; `None` where they
/// cannot be read.
fn counts(
    base: &Base,
    plan: &Arc<Plan>,
    granularity: Granularity,
    range: TimeRange,
) -> Option<[i64; 2]> {
    let count = |kind, metric| count(base, plan, (kind, metric), granularity, range);
    Some([count(SetKind::Events, "events")?, count(SetKind::Sessions, "sessions")?])
}

/// What cells of one granularity count in a range; `None` where they cannot be read.
pub(crate) fn count(
    base: &Base,
    plan: &Arc<Plan>,
    (kind, metric): (SetKind, &str),
    granularity: Granularity,
    range: TimeRange,
) -> Option<i64> {
    let set = plan.set_for(kind, &[])?;
    let MetricKind::Count { slot } = plan.metric(metric)?.kind else { return None };
    let mut request = ScanRequest::new(Arc::clone(plan), set, granularity, range);
    request.want = SlotMask { counts: 1 << slot, ..SlotMask::NONE };
    let limits = Limits { rows_max: usize::MAX, bytes_max: usize::MAX };
    let into = Into::One(range.start);
    let mut gather = Gather::new(request.clone(), into, Sketches::Merged, limits);
    base.gather(&request, &mut gather);
    let rows = gather.finish().ok()?.rows;
    Some(rows.iter().filter_map(|row| row.aggregates.counts.get(slot)).sum())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE_MS: i64 = 60_000;

    fn range(start: i64, end: i64) -> TimeRange {
        let at = |minute: i64| EventTime::from_ms(minute * MINUTE_MS);
        TimeRange { start: at(start), end: at(end) }
    }

    proptest! {
        #[test]
        fn what_was_dropped_is_met_and_nothing_else(
            added in prop::collection::vec((0_i64..300, 0_i64..20), 0..40),
            asked in prop::collection::vec((0_i64..330, 1_i64..20), 20),
        ) {
            let mut dropped = Dropped::default();
            let mut naive = BTreeSet::new();
            for (start, length) in added {
                dropped.add(Granularity::Minute, range(start, start + length), EventTime::MIN);
                naive.extend(start..start + length);
            }
            for (start, length) in asked {
                let meets = (start..start + length).any(|minute| naive.contains(&minute));
                let asked = range(start, start + length);
                prop_assert_eq!(dropped.meets(Granularity::Minute, asked), meets);
                prop_assert!(!dropped.meets(Granularity::Hour, asked));
            }
            let last = naive.last().map_or(EventTime::MIN, |&last| range(0, last + 1).end);
            prop_assert_eq!(dropped.end(Granularity::Minute), last);
        }
    }

    #[test]
    fn ranges_are_bounded_and_the_nearest_become_one() {
        let mut dropped = Dropped::default();
        let far = range(1_440 * 4_000, 1_440 * 4_000).start;
        let numbers = 0..4_000;
        // Pairs that lie a minute apart, each a day from the next.
        let at = |number: i64| 1_440 * (number / 2) + 2 * (number % 2);
        for number in numbers.clone() {
            dropped.add(Granularity::Minute, range(at(number), at(number) + 1), far);
        }
        assert_eq!(dropped.ranges[0].len(), DROPPED_RANGES_MAX);
        for number in numbers {
            let own = range(at(number), at(number) + 1);
            assert!(dropped.meets(Granularity::Minute, own), "{number}");
        }
        assert!(!dropped.meets(Granularity::Minute, range(-5, 0)));
        let behind = range(1_440 * 1_999 + 3, 1_440 * 6_000);
        assert!(!dropped.meets(Granularity::Minute, behind));
    }

    #[test]
    fn what_is_kept_between_two_ranges_is_never_joined_away() {
        let mut dropped = Dropped::default();
        let from = |minute: i64| range(minute, minute).start;
        // Every other minute was dropped while retention was short.
        let minutes = 0..700;
        let add = |dropped: &mut Dropped, minute: i64, kept_from: i64| {
            dropped.add(Granularity::Minute, range(minute, minute + 1), from(kept_from));
        };
        for minute in minutes.clone() {
            add(&mut dropped, 2 * minute, 10_000);
        }
        let whole = |dropped: &Dropped| {
            let whole = |minute: &i64| {
                let (gone, kept) = (2 * minute, 2 * minute + 1);
                dropped.meets(Granularity::Minute, range(gone, gone + 1))
                    && !dropped.meets(Granularity::Minute, range(kept, kept + 1))
            };
            minutes.clone().filter(whole).count()
        };
        assert_eq!(whole(&dropped), 700);
        // It is longer now, and far more goes that is older: days apart.
        for day in 1..3_000 {
            add(&mut dropped, -1_440 * day, 0);
            assert!(dropped.ranges[0].len() <= DROPPED_RANGES_MAX);
        }
        assert_eq!(whole(&dropped), 700);
        assert!((1..3_000).all(|day| {
            dropped.meets(Granularity::Minute, range(-1_440 * day, -1_440 * day + 1))
        }));
        // Retention that keeps more gaps than there may be ranges keeps them all the same.
        for minute in 700..1_500 {
            add(&mut dropped, 2 * minute, 0);
        }
        assert_eq!(whole(&dropped), 700);
        assert_eq!(dropped.ranges[0].len(), 1_500);
        // Short again, it finds nothing kept between them.
        add(&mut dropped, 4_000, 10_000);
        assert_eq!(dropped.ranges[0].len(), DROPPED_RANGES_MAX);
    }
}
