//! The guard against lists that are looked through each time.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::declare::{Declarations, DimId, SetKind};

const KEY: u64 = 77;
const NOBODY: Sender = Sender::NOBODY;
const DAY_MS: i64 = 86_400_000;

#[derive(Clone, Debug)]
enum Step {
    Come { day: i64, value: u64, times: u32, by: usize },
    Seal,
    Restore { whole: bool },
}

#[derive(Clone, Debug, Default)]
struct NaiveDay {
    kept: Vec<u64>,
    admitted: Vec<u64>,
    counts: BTreeMap<u64, u64>,
    closed: bool,
    watched: BTreeMap<u64, u64>,
    /// By sender.
    brought: [u32; SENDERS],
    refused: Vec<u64>,
}

/// The house, and keys that may bring so many values of a day.
const SENDERS: usize = 4;
const QUOTAS: [u32; SENDERS] = [u32::MAX, 2, 3, 1_000];

fn sender(by: usize) -> Sender {
    Sender::of(["", "write-a", "write-b", "server"][by], (by > 0).then_some(QUOTAS[by]))
}

#[derive(Debug, Default)]
struct Naive {
    days: BTreeMap<i64, NaiveDay>,
    /// Counts since the last seal.
    open: BTreeMap<(i64, u64), u64>,
}

impl Naive {
    fn come(&mut self, day: i64, value: u64, (times, by): (u32, usize), max: usize) -> bool {
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
        let is_folded = is_stranger && (own.closed || own.refused.contains(&value));
        let is_over = is_stranger && own.brought[by] >= QUOTAS[by];
        let is_full = is_stranger && own.admitted.len() >= max;
        if is_folded || is_over || is_full {
            if !is_folded && is_over {
                own.refused.push(value);
            } else if !is_folded {
                own.closed = true;
            }
            *own.watched.entry(value).or_default() += u64::from(times);
            return false;
        }
        own.brought[by] += u32::from(is_stranger);
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

fn hashed(value: u64) -> u64 {
    xxh3_64(&value.to_le_bytes())
}

/// Junk is many values that come once each, and the rest few that come often.
fn step() -> impl Strategy<Value = Step> {
    let value = prop_oneof![0..6_u64, 0..6_u64, 100..400_u64].prop_map(hashed);
    prop_oneof![
        24 => (0..12_i64, value, 1..9_u32, 0..SENDERS)
            .prop_map(|(day, value, times, by)| Step::Come { day, value, times, by }),
        3 => Just(Step::Seal),
        1 => any::<bool>().prop_map(|whole| Step::Restore { whole }),
    ]
}

/// Whether a value was folded on some of these days.
fn is_folded(guard: &Guard, key: u64, days: (i64, i64), value: u64) -> bool {
    guard.folded().on(key, days).any(|day| day.folds(value))
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
                Step::Come { day, value, times, by } => {
                    let expected = naive.come(day, value, (times, by), max as usize);
                    let sender = sender(by);
                    let admitted = guard.admit((KEY, day), value, sender, max, &limits());
                    prop_assert_eq!(admitted, expected);
                    for _ in 0..if expected { 0 } else { times } {
                        guard.watch((KEY, day), value, sender, &limits());
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
                    guard.publish();
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
        guard.publish();
        for (&day, of_day) in &naive.days {
            for value in (0..400).map(hashed) {
                let whole = of_day.admitted.contains(&value) || of_day.kept.contains(&value);
                let folded = (of_day.closed || of_day.refused.contains(&value)) && !whole;
                prop_assert_eq!(is_folded(&guard, KEY, (day, day), value), folded);
            }
        }
    }
}

/// A key with a quota of nine floods a day from its first moment on.
#[test]
fn what_one_key_floods_a_day_with_leaves_the_places_of_others() {
    let [hostile, honest] = ["write-junk", "write-shop"].map(|key| Sender::of(key, Some(9)));
    let mut guard = Guard::new();
    let come = |guard: &mut Guard, sender, value| {
        let admitted = guard.admit((KEY, 1), hashed(value), sender, 20, &limits());
        if !admitted {
            guard.watch((KEY, 1), hashed(value), sender, &limits());
        }
        admitted
    };
    let flood = (1_000..5_000).filter(|&junk| come(&mut guard, hostile, junk)).count();
    assert_eq!(flood, 9);
    assert!((0..9).all(|own| come(&mut guard, honest, own)));
    assert!(!come(&mut guard, honest, 9), "nobody has more than the quota");
    assert!(come(&mut guard, hostile, 3), "what is known already costs nothing");
    assert!(!come(&mut guard, Sender::NOBODY, 4_000), "what was folded is folded for the day");
    assert!(come(&mut guard, Sender::NOBODY, 10), "and the day goes on");
    let over = [(hostile.key(), 3_991), (honest.key(), 1), (NOBODY.key(), 1)];
    assert_eq!(guard.take_over_quota(), BTreeMap::from(over));
    guard.publish();
    for (value, expected) in [(5, false), (10, false), (9, true), (4_000, true), (77, false)] {
        assert_eq!(is_folded(&guard, KEY, (1, 1), hashed(value)), expected, "{value}");
    }
    let restored = Guard::restore([guard.take_changes().as_slice()]).unwrap();
    assert_eq!(restored, guard);
    assert_eq!(Guard::restore([restored.snapshot().as_slice()]).unwrap(), guard);
    assert!(guard.snapshot().len() < 80_000, "{}", guard.snapshot().len());
}

#[test]
fn what_quotas_are_made_of_lies_on_disk_as_it_did() {
    let (key, day) = (5, 2);
    let lies = |change: Change| postcard::to_stdvec(&[change][..]).unwrap();
    assert_eq!(lies(Change::Refused { key, day, values: vec![9] }), [1, 9, 5, 4, 1, 9]);
    assert_eq!(lies(Change::Brought { key, day, counts: vec![(9, 3)] }), [1, 11, 5, 4, 1, 9, 3]);
    let filters = vec![(1, vec![0; 32])];
    let expected = [&[1, 10, 5, 4, 1, 1, 32][..], &[0; 32]].concat();
    assert_eq!(lies(Change::RefusedAll { key, day, filters }), expected);
    let damaged = lies(Change::RefusedAll { key, day, filters: vec![(1, vec![0; 31])] });
    assert!(Guard::restore([damaged.as_slice()]).is_err());
}

#[test]
fn a_key_that_brings_values_of_many_days_has_a_quarter_of_all() {
    let tight = GuardLimits { entries_max: 16_000, ..limits() };
    let hostile = Sender::of("write-junk", Some(3_000));
    let mut guard = Guard::new();
    for (day, expected) in [(1, 3_000), (2, 1_000), (3, 1_000)] {
        let admits = |&junk: &u64| guard.admit((KEY, day), hashed(junk), hostile, 50_000, &tight);
        let first = 10_000 * u64::try_from(day).unwrap();
        assert_eq!((first..first + 5_000).filter(admits).count(), expected, "day {day}");
    }
    // A day that is forgotten gives its places back.
    let snapshot = guard.snapshot();
    let mut guard = Guard::restore([snapshot.as_slice()]).unwrap();
    for (day, expected) in [(4, 1_000), (5, 3_000)] {
        if day == 5 {
            let all = GuardLimits { entries_max: 2, ..tight };
            guard.forget_before(EventTime::from_ms(4 * DAY_MS), &all);
        }
        let first = 10_000 * u64::try_from(day).unwrap();
        let admits = |&junk: &u64| guard.admit((KEY, day), hashed(junk), hostile, 50_000, &tight);
        assert_eq!((first..first + 5_000).filter(admits).count(), expected, "day {day}");
    }
}

/// Keys without a place bring some values of many dimensions and days.
#[test]
fn where_too_much_is_refused_the_oldest_days_are_closed() {
    let none = Sender::of("write-junk", Some(0));
    let mut guard = Guard::new();
    let flood = |guard: &mut Guard, day: i64, values: u64| {
        for value in 0..values {
            assert!(!guard.admit((KEY, day), hashed(value), none, 9, &limits()));
        }
    };
    flood(&mut guard, 1, 10);
    flood(&mut guard, 2, 90_000);
    assert!(guard.admit((KEY, 1), hashed(200_000), NOBODY, 9, &limits()));
    flood(&mut guard, 3, 90_000);
    flood(&mut guard, 4, 90_000);
    let mut is_open = |day| guard.admit((KEY, day), hashed(300_000), NOBODY, 9, &limits());
    assert_eq!([1, 2, 3, 4].map(&mut is_open), [false, false, true, true]);
    guard.publish();
    let restored = Guard::restore([guard.take_changes().as_slice()]).unwrap();
    assert_eq!(restored, guard);
}

#[test]
fn several_days_are_whole_only_where_each_is() {
    let mut guard = Guard::new();
    let come = |guard: &mut Guard, day, value| guard.admit((KEY, day), value, NOBODY, 1, &limits());
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
    assert!(guard.admit((5, 2), 300, NOBODY, 100, &limits()));
    assert!(!guard.admit((5, 2), 301, NOBODY, 100, &limits()), "the day is closed");
    assert!(guard.admit((5, 1), 10, NOBODY, 1, &limits()), "the other is forgotten");
}

#[test]
fn a_plan_of_a_release_that_kept_no_places_decides_as_it_did() {
    let old = GuardLimits { kept_percent: 0, ..limits() };
    let mut guard = Guard::new();
    assert!(guard.admit((KEY, 1), 5, NOBODY, 2, &old));
    guard.count(KEY, 1, vec![(5, 1_000)]);
    assert!(guard.admit((KEY, 2), 6, NOBODY, 2, &old) && guard.admit((KEY, 2), 7, NOBODY, 2, &old));
    assert!(!guard.admit((KEY, 2), 5, NOBODY, 2, &old), "first come");
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
            assert!(
                guard.admit((KEY, day), value, NOBODY, 65, &limits()),
                "day {day}, value {value}"
            );
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
            guard.admit((FLOODED, day), junk, NOBODY, 5_000, &tight);
        }
        for country in 0..200 {
            assert!(guard.admit((KEY, day), country, NOBODY, 5_000, &tight), "day {day}");
        }
    }
    assert!(
        !guard.admit((FLOODED, 3), 5, NOBODY, 5_000, &tight),
        "the flood has its thousand a day"
    );
    assert!(!is_folded(&guard, FLOODED, (1, 1), 10_000) && is_folded(&guard, FLOODED, (1, 1), 9));
    let old = GuardLimits { kept_percent: 0, ..tight };
    assert!(
        !guard.admit((KEY, 9), 5, NOBODY, 5_000, &old),
        "plans of older releases decide as they did"
    );
}

#[test]
fn past_the_horizon_days_that_folded_give_their_entries_back_once_half_are_taken() {
    let tight = GuardLimits { entries_max: 40, ..limits() };
    let mut guard = Guard::new();
    for day in 0..3 {
        for value in 0..9 {
            guard.admit((KEY, day), value, NOBODY, 8, &tight);
        }
    }
    assert_eq!(guard.entries(), 24);
    let horizon = EventTime::from_ms(2 * DAY_MS);
    guard.forget_before(horizon, &GuardLimits { kept_percent: 0, ..tight });
    assert_eq!(guard.entries(), 24, "plans of older releases forget none of them");
    guard.forget_before(horizon, &tight);
    assert_eq!(guard.entries(), 16, "the oldest day is enough");
    assert!(!guard.admit((KEY, 0), 3, NOBODY, 8, &tight), "what comes is folded");
    assert!(is_folded(&guard, KEY, (0, 0), 3));
    assert!(guard.admit((KEY, 1), 3, NOBODY, 8, &tight));
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
    // As plans of the first releases say: what a cube folds those behind it fold.
    let guard = GuardLimits { combinations_per_value: 0, ..limits() };
    let plan = Plan::compile(&Declarations { guard, ..Declarations::default() }).unwrap();
    let finest = |names: &[&str]| -> (u64, Lacking) {
        let dims: Vec<DimId> = names.iter().map(|name| plan.dimension(name).unwrap()).collect();
        let key = combination_key(&plan.definitions(&dims));
        (key, lacking(&plan, plan.set_for(SetKind::Events, &dims).unwrap()))
    };
    let mut guard = Guard::new();
    let fold = |guard: &mut Guard, day, key, lacking: &Lacking| {
        assert!(!guard.admit((key, day), 5, NOBODY, 0, &limits()));
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
    assert!(!guard.admit((54_321, 4), 5, NOBODY, 0, &limits()));
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
