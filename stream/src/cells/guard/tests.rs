//! The guard against lists that are looked through each time.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::declare::{DimId, SetKind};

const KEY: u64 = 77;
const DAY_MS: i64 = 86_400_000;

#[derive(Clone, Debug)]
enum Step {
    Come { day: i64, value: u64, times: u32 },
    Seal,
    Restore { whole: bool },
}

#[derive(Clone, Debug, Default)]
struct NaiveDay {
    kept: Vec<u64>,
    admitted: Vec<u64>,
    counts: BTreeMap<u64, u64>,
    folded: bool,
    watched: BTreeMap<u64, u64>,
}

#[derive(Debug, Default)]
struct Naive {
    days: BTreeMap<i64, NaiveDay>,
    /// Counts since the last seal.
    open: BTreeMap<(i64, u64), u64>,
}

impl Naive {
    fn come(&mut self, day: i64, value: u64, times: u32, max: usize) -> bool {
        if !self.days.contains_key(&day) {
            let newest = self.days.keys().copied().fold(day, i64::max);
            self.days.range_mut(..newest - 7).for_each(|(_, old)| old.watched.clear());
            let mut sums: BTreeMap<u64, u64> = BTreeMap::new();
            for (_, before) in self.days.range(day - 7..day) {
                for (value, count) in before.counts.iter().chain(&before.watched) {
                    *sums.entry(*value).or_default() += count;
                }
            }
            let mut ranked: Vec<(u64, u64)> = sums.into_iter().collect();
            ranked.sort_by_key(|&(value, count)| (std::cmp::Reverse(count), value));
            let kept = ranked.into_iter().take(max / 2).map(|(value, _)| value).collect();
            for (of, idle) in &mut self.days {
                if ![day, day - 1, newest, newest - 1].contains(of) {
                    idle.kept.retain(|value| idle.admitted.contains(value));
                }
            }
            self.days.insert(day, NaiveDay { kept, ..NaiveDay::default() });
        }
        let own = self.days.get_mut(&day).unwrap();
        let is_stranger = !own.admitted.contains(&value) && !own.kept.contains(&value);
        if is_stranger && (own.folded || own.admitted.len() >= max) {
            own.folded = true;
            *own.watched.entry(value).or_default() += u64::from(times);
            return false;
        }
        if !own.admitted.contains(&value) {
            own.admitted.push(value);
        }
        *self.open.entry((day, value)).or_default() += u64::from(times);
        true
    }

    fn seal(&mut self) {
        for ((day, value), count) in std::mem::take(&mut self.open) {
            *self.days.get_mut(&day).unwrap().counts.entry(value).or_default() += count;
        }
    }
}

/// Junk is many values that come once each, and the rest few that come often.
fn step() -> impl Strategy<Value = Step> {
    let value = prop_oneof![0..6_u64, 0..6_u64, 100..400_u64];
    prop_oneof![
        24 => (0..12_i64, value, 1..9_u32)
            .prop_map(|(day, value, times)| Step::Come { day, value, times }),
        3 => Just(Step::Seal),
        1 => any::<bool>().prop_map(|whole| Step::Restore { whole }),
    ]
}

/// Whether a value was folded on some of these days.
fn is_folded(guard: &Guard, key: u64, days: (i64, i64), value: u64) -> bool {
    guard.folded().on(key, days).any(|day| !day.admits(value))
}

fn limits() -> GuardLimits {
    GuardLimits::default()
}

fn seal(guard: &mut Guard, open: &BTreeMap<(i64, u64), u64>) {
    for day in 0..12 {
        let counts = open.iter().filter(|((of, _), _)| *of == day);
        let counts = counts.map(|(&(_, value), &count)| (value, u32::try_from(count).unwrap()));
        guard.count(KEY, day, counts.collect());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn the_guard_admits_what_looking_through_all_days_does(
        max in 1..9_u32, steps in prop::collection::vec(step(), 1..400),
    ) {
        let (mut guard, mut naive) = (Guard::new(), Naive::default());
        let mut files: Vec<Vec<u8>> = Vec::new();
        for step in steps {
            match step {
                Step::Come { day, value, times } => {
                    let expected = naive.come(day, value, times, max as usize);
                    prop_assert_eq!(guard.admit(KEY, day, value, max, &limits()), expected);
                    for _ in 0..if expected { 0 } else { times } {
                        guard.watch(KEY, day, value, &limits());
                    }
                }
                Step::Seal => {
                    seal(&mut guard, &naive.open);
                    naive.seal();
                    files.push(guard.take_changes());
                }
                Step::Restore { whole } => {
                    files.push(guard.take_changes());
                    if whole {
                        files = vec![guard.snapshot()];
                    }
                    let restored = Guard::restore(files.iter().map(Vec::as_slice)).unwrap();
                    prop_assert_eq!(&restored, &guard);
                    guard = restored;
                }
            }
        }
        let entries: usize = naive.days.values().map(|day| {
            let strangers = day.admitted.iter().filter(|value| !day.kept.contains(value));
            strangers.count() + day.kept.len()
        }).sum();
        prop_assert_eq!(guard.entries(), entries as u64);
        for (&day, of_day) in &naive.days {
            for value in 0..400 {
                let whole = of_day.admitted.contains(&value) || of_day.kept.contains(&value);
                prop_assert_eq!(is_folded(&guard, KEY, (day, day), value), of_day.folded && !whole);
            }
        }
    }
}

#[test]
fn several_days_are_whole_only_where_each_is() {
    let mut guard = Guard::new();
    let come = |guard: &mut Guard, day, value| guard.admit(KEY, day, value, 1, &limits());
    assert!(come(&mut guard, 1, 5) && !come(&mut guard, 1, 6));
    assert!(come(&mut guard, 2, 6) && !come(&mut guard, 2, 5));
    assert!(come(&mut guard, 3, 6));
    let asked = |days, value| is_folded(&guard, KEY, days, value);
    assert!(!asked((1, 1), 5) && asked((1, 2), 5));
    assert!(!asked((2, 3), 6) && asked((1, 1), 6));
    assert!(!asked((3, 9), 5), "nothing was folded then");
}

/// Bytes as the first release wrote them, and what they said there.
#[test]
fn the_changes_of_the_first_release_are_read() {
    // [Admitted { 5, 2, 9 }, Admitted { 5, 2, 300 }, Closed { 5, 2 }, Admitted { 5, 1, 9 },
    //  Forgot { 2 }]
    let bytes = [5, 0, 5, 4, 9, 0, 5, 4, 0xac, 2, 1, 5, 4, 0, 5, 2, 9, 2, 4];
    let mut guard = Guard::restore([bytes.as_slice()]).unwrap();
    assert_eq!(guard.entries(), 2);
    assert!(guard.admit(5, 2, 300, 100, &limits()));
    assert!(!guard.admit(5, 2, 301, 100, &limits()), "the day is closed");
    assert!(guard.admit(5, 1, 10, 1, &limits()), "the other is forgotten");
}

#[test]
fn a_plan_of_a_release_that_kept_no_places_decides_as_it_did() {
    let old = GuardLimits { kept_percent: 0, ..limits() };
    let mut guard = Guard::new();
    assert!(guard.admit(KEY, 1, 5, 2, &old));
    guard.count(KEY, 1, vec![(5, 1_000)]);
    assert!(guard.admit(KEY, 2, 6, 2, &old) && guard.admit(KEY, 2, 7, 2, &old));
    assert!(!guard.admit(KEY, 2, 5, 2, &old), "first come");
    let json = r#"{"values_max":9,"combinations_max":9,"entries_max":9}"#;
    let read: GuardLimits = serde_json::from_str(json).unwrap();
    assert_eq!(read.kept_percent, 0);
}

/// Five of each day came the day before, too, and 60 are new.
#[test]
fn what_keeps_within_the_limit_is_never_folded_whatever_came_before() {
    let mut guard = Guard::new();
    for day in 0..20_u8 {
        let own = (0..65_u64).map(|at| if at < 5 { at } else { 1_000 * u64::from(day) + at });
        let day = i64::from(day);
        let mut counts = Vec::new();
        for value in own {
            assert!(guard.admit(KEY, day, value, 65, &limits()), "day {day}, value {value}");
            counts.push((value, 9));
        }
        guard.count(KEY, day, counts);
    }
    assert!(guard.folded().is_empty());
    // Of days that are past only what came takes room; the last two keep 32 places more at most.
    assert!((20 * 65..=20 * 65 + 2 * 32).contains(&guard.entries()), "{}", guard.entries());
}

#[test]
fn a_flood_of_one_dimension_takes_no_place_of_one_with_few_values() {
    const FLOODED: u64 = 78;
    let tight = GuardLimits { entries_max: 2_000, ..limits() };
    let mut guard = Guard::new();
    for day in 0..4_u8 {
        let first = 10_000 * u64::from(day);
        let day = i64::from(day);
        for junk in first..first + 2_000 {
            guard.admit(FLOODED, day, junk, 5_000, &tight);
        }
        for country in 0..200 {
            assert!(guard.admit(KEY, day, country, 5_000, &tight), "day {day}");
        }
    }
    assert!(!guard.admit(FLOODED, 3, 5, 5_000, &tight), "the flood has its thousand a day");
    assert!(!is_folded(&guard, FLOODED, (1, 1), 10_000) && is_folded(&guard, FLOODED, (1, 1), 9));
    let old = GuardLimits { kept_percent: 0, ..tight };
    assert!(!guard.admit(KEY, 9, 5, 5_000, &old), "plans of older releases decide as they did");
}

#[test]
fn past_the_horizon_days_that_folded_give_their_entries_back_once_half_are_taken() {
    let tight = GuardLimits { entries_max: 40, ..limits() };
    let mut guard = Guard::new();
    for day in 0..3 {
        for value in 0..9 {
            guard.admit(KEY, day, value, 8, &tight);
        }
    }
    assert_eq!(guard.entries(), 24);
    let horizon = EventTime::from_ms(2 * DAY_MS);
    guard.forget_before(horizon, &GuardLimits { kept_percent: 0, ..tight });
    assert_eq!(guard.entries(), 24, "plans of older releases forget none of them");
    guard.forget_before(horizon, &tight);
    assert_eq!(guard.entries(), 16, "the oldest day is enough");
    assert!(!guard.admit(KEY, 0, 3, 8, &tight), "what comes is folded");
    assert!(is_folded(&guard, KEY, (0, 0), 3));
    assert!(guard.admit(KEY, 1, 3, 8, &tight));
    let snapshot = guard.snapshot();
    let mut restored = Guard::restore([snapshot.as_slice()]).unwrap();
    guard.take_changes();
    restored.take_changes();
    assert_eq!(restored, guard);
}

/// Whether combinations of `country` and of (`event_type`, `country`) are in doubt on a day.
fn doubts(plan: &Plan, guard: &Guard, day: i64) -> [bool; 2] {
    let shards = [Arc::clone(guard.folded())];
    let dim = |name| plan.dimension(name).unwrap();
    let sets = [&["country"][..], &["event_type", "country"]];
    sets.map(|names| {
        let dims: Vec<DimId> = names.iter().map(|name| dim(name)).collect();
        let set = plan.set_for(SetKind::Events, &dims).unwrap();
        FoldedOf::new(plan, set, &shards).on((day, day)).any_combination()
    })
}

#[test]
fn of_combinations_a_set_lacks_what_it_was_derived_from_whatever_the_plan_is_since() {
    let plan = Plan::builtin();
    let finest = |names: &[&str]| -> (u64, Lacking) {
        let dims: Vec<DimId> = names.iter().map(|name| plan.dimension(name).unwrap()).collect();
        let key = combination_key(&plan.definitions(&dims));
        (key, derived(&plan, plan.set_for(SetKind::Events, &dims).unwrap()))
    };
    let mut guard = Guard::new();
    let fold = |guard: &mut Guard, day, key, lacking: &Lacking| {
        assert!(!guard.admit(key, day, 5, 0, &limits()));
        guard.note_lacking(key, day, lacking);
    };
    // Cells of countries come of another.
    let (own, of_own) = finest(&["event_type", "country"]);
    // A cube that no plan of today has, of which country was derived, and one of which it was not.
    let country: Lacking =
        [set_key(&plan.definitions(&[plan.dimension("country").unwrap()]))].into();
    fold(&mut guard, 1, own, &of_own);
    fold(&mut guard, 2, 12_345, &country);
    fold(&mut guard, 3, 12_345, &Lacking::default());
    // Values of a dimension that is gone are of no combination.
    assert!(!guard.admit(54_321, 4, 5, 0, &limits()));
    let expected = [(1, [false, true]), (2, [true, false]), (3, [false; 2]), (4, [false; 2])];
    for (day, expected) in expected {
        assert_eq!(doubts(&plan, &guard, day), expected, "day {day}");
    }
    let restored = Guard::restore([guard.take_changes().as_slice()]).unwrap();
    assert_eq!(Guard::restore([restored.snapshot().as_slice()]).unwrap(), restored);
    assert_eq!(restored, guard);
    let bytes = postcard::to_stdvec(&[Change::Lacking { key: 5, day: 2, sets: vec![9] }][..]);
    assert_eq!(bytes.unwrap(), [1, 7, 5, 4, 1, 9], "as it lies on disk");
    // The first releases noted no sets: what has no name today may be anything.
    let closed = |key: u64, day| Change::Closed { key, day };
    let values = plan.dimensions[0].definition;
    let old = [closed(own, 1), closed(12_345, 2), closed(values, 3)];
    let old = Guard::restore([postcard::to_stdvec(&old[..]).unwrap().as_slice()]).unwrap();
    for (day, expected) in [(1, [true, true]), (2, [true, true]), (3, [false; 2])] {
        assert_eq!(doubts(&plan, &old, day), expected, "day {day}");
    }
}
