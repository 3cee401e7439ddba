//! The cardinality guard: first come, not withdrawn, the same after a restore.

use std::sync::Arc;

use nilometer_event::{EventTime, Granularity, TimeRange};

use super::model::{Fact, Model, Rng, plan_with};
use crate::cells::{CellSource, DimValue, FoldedOf, Guard, Layer, ScanRequest, Tallies, text_hash};
use crate::declare::{Declarations, GuardLimits, Plan, SetKind};

fn tight(values_max: u32, combinations_max: u32) -> Arc<Plan> {
    let guard = GuardLimits { values_max, combinations_max, ..GuardLimits::default() };
    plan_with(Declarations { guard, ..Declarations::default() })
}

fn facts(seed: u64, n: usize) -> Vec<Fact> {
    let mut rng = Rng(seed);
    (0..n)
        .map(|_| {
            let mut fact = Fact::random(&mut rng, 1_763_934_600_000, 4 * 3_600_000, 20);
            fact.texts.insert("content_id", format!("c-{}", rng.below(40)));
            fact
        })
        .collect()
}

#[test]
fn what_the_guard_folds_is_the_models_and_totals_stay_exact() {
    for (values, combinations, combinations_per_value) in
        [(3, 1_000, 2), (1_000, 5, 2), (2, 2, 2), (1_000, 5, 0), (2, 2, 0), (4, 20, 2)]
    {
        let guard = GuardLimits {
            values_max: values,
            combinations_max: combinations,
            combinations_per_value,
            ..GuardLimits::default()
        };
        let plan = plan_with(Declarations { guard, ..Declarations::default() });
        let (mut model, mut tallies) = (Model::new(&plan), Tallies::new());
        let mut layer = Layer::new(Arc::clone(&plan), 0);
        for (at, fact) in facts(u64::from(values), 500).iter().enumerate() {
            model.count(fact);
            layer.count(&mut tallies, &fact.event(), fact.user());
            if at % 90 == 0 {
                layer.end_entry(&mut tallies);
            }
        }
        layer.end_entry(&mut tallies);
        model.check(&[&layer]);
        assert!(!tallies.guard.folded().is_empty());
    }
}

#[test]
fn a_restored_guard_decides_exactly_as_it_did() {
    let plan = tight(4, 12);
    let facts = facts(11, 600);
    let mut tallies = Tallies::new();
    let mut layer = Layer::new(Arc::clone(&plan), 0);
    let mut deltas = Vec::new();
    for (at, fact) in facts.iter().enumerate() {
        layer.count(&mut tallies, &fact.event(), fact.user());
        if at % 100 == 99 {
            layer.end_entry(&mut tallies);
            deltas.push(tallies.guard.take_changes());
        }
        if at == 399 {
            let mut restored = Guard::restore(deltas.iter().map(Vec::as_slice)).unwrap();
            assert_eq!(restored, tallies.guard);
            let snapshot = restored.snapshot();
            assert_eq!(Guard::restore([snapshot.as_slice()]).unwrap(), tallies.guard);
            assert!(restored.take_changes().is_empty());
            tallies = Tallies::with_guard(restored);
            layer = Layer::new(Arc::clone(&plan), 1);
        }
    }
    // The same without a restore.
    let mut straight = Tallies::new();
    let mut whole = Layer::new(plan, 0);
    for (at, fact) in facts.iter().enumerate() {
        whole.count(&mut straight, &fact.event(), fact.user());
        if at % 100 == 99 {
            whole.end_entry(&mut straight);
        }
    }
    straight.guard.take_changes();
    tallies.guard.take_changes();
    assert_eq!(tallies.guard, straight.guard);
}

#[test]
fn damaged_changes_are_refused() {
    assert!(Guard::restore([[0xff_u8; 9].as_slice()]).is_err());
}

#[test]
fn a_forgotten_day_admits_again_and_a_folded_one_stays_closed() {
    let plan = tight(1, 1_000);
    let mut tallies = Tallies::new();
    let mut layer = Layer::new(Arc::clone(&plan), 0);
    let mut rng = Rng(1);
    let mut fact = Fact::random(&mut rng, 0, 1, 5);
    let mut count = |tallies: &mut Tallies, day: i64, cohort: &str| {
        fact.time = day * 86_400_000;
        fact.texts.insert("cohort", cohort.to_owned());
        layer.count(tallies, &fact.event(), fact.user());
    };
    count(&mut tallies, 0, "a");
    count(&mut tallies, 1, "a");
    count(&mut tallies, 1, "b");
    let before = tallies.guard.entries();
    tallies.guard.forget_before(EventTime::from_ms(2 * 86_400_000), &plan.guard);
    assert!(tallies.guard.entries() < before);
    let cohort = plan.set_for(SetKind::Events, &[plan.dimension("cohort").unwrap()]).unwrap();
    let shards = [Arc::clone(tallies.guard.folded())];
    let folded = FoldedOf::new(&plan, cohort, &shards);
    let asked = |day, value| folded.on((day, day)).value(0, text_hash(value));
    assert!(asked(1, "b") && !asked(1, "a"));
    assert!(folded.on((0, 0)).is_empty());
    let changes = tallies.guard.take_changes();
    assert_eq!(Guard::restore([changes.as_slice()]).unwrap(), tallies.guard);
    assert_eq!(super::model::fields().len(), 10);
}

/// Events of a `content_id` on a day, in cells of its own.
fn counted(layer: &Layer, plan: &Arc<Plan>, day: i64, value: &str) -> i64 {
    let set = plan.set_for(SetKind::Events, &[plan.dimension("content_id").unwrap()]).unwrap();
    let start = EventTime::from_ms(day * 86_400_000);
    let range = TimeRange { start, end: start.plus_ms(86_400_000) };
    let request = ScanRequest::new(Arc::clone(plan), set, Granularity::Day, range);
    let mut sum = request.empty();
    layer
        .scan(&request, &mut |cell| {
            if cell.dims == [DimValue::Text(value)] {
                cell.aggregates.merge_into(&mut sum);
            }
        })
        .unwrap();
    sum.counts[0]
}

#[test]
fn junk_that_comes_first_does_not_fold_away_what_counted_on_the_days_before() {
    for (kept_percent, expected) in [(50, 20), (0, 0)] {
        let guard = GuardLimits {
            values_max: 10,
            combinations_max: 1_000,
            kept_percent,
            ..GuardLimits::default()
        };
        let plan = plan_with(Declarations { guard, ..Declarations::default() });
        let mut tallies = Tallies::new();
        let mut layer = Layer::new(Arc::clone(&plan), 0);
        let mut fact = Fact::random(&mut Rng(5), 0, 1, 5);
        let mut say = |layer: &mut Layer, tallies: &mut Tallies, day: i64, id: String| {
            fact.time = day * 86_400_000 + 5_000;
            fact.texts.insert("content_id", id);
            layer.count(tallies, &fact.event(), fact.user());
        };
        // The day before: three pages with many views each, and some with one.
        for view in 0..60 {
            say(&mut layer, &mut tallies, 1, format!("/page-{}", view % 3));
        }
        (0..4).for_each(|at| say(&mut layer, &mut tallies, 1, format!("/rare-{at}")));
        layer.end_entry(&mut tallies);
        layer.rank(&mut tallies.guard);
        let mut layer = layer.successor(Arc::clone(&plan), 1);
        (0..40).for_each(|at| say(&mut layer, &mut tallies, 2, format!("/junk-{at}")));
        for view in 0..60 {
            say(&mut layer, &mut tallies, 2, format!("/page-{}", view % 3));
        }
        layer.end_entry(&mut tallies);
        for page in 0..3 {
            let own = counted(&layer, &plan, 2, &format!("/page-{page}"));
            assert_eq!(own, expected, "page {page}, {kept_percent} % kept");
        }
        // Junk has the ten that come first, and five beyond them are kept.
        let junk: i64 = (0..40).map(|at| counted(&layer, &plan, 2, &format!("/junk-{at}"))).sum();
        assert_eq!(junk, 10);
    }
}

/// A page that is new while a flood of junk takes each day's places from its first moment on.
#[test]
fn what_comes_up_while_a_flood_folds_it_has_a_place_the_day_after() {
    for (watched_max, expected) in [(20, 30), (0, 0)] {
        let guard = GuardLimits {
            values_max: 10,
            combinations_max: 1_000,
            watched_max,
            ..GuardLimits::default()
        };
        let plan = plan_with(Declarations { guard, ..Declarations::default() });
        let mut tallies = Tallies::new();
        let mut layer = Layer::new(Arc::clone(&plan), 0);
        let mut fact = Fact::random(&mut Rng(5), 0, 1, 5);
        for day in 1..4 {
            let mut say = |id: String| {
                fact.time = day * 86_400_000 + 5_000;
                fact.texts.insert("content_id", id);
                layer.count(&mut tallies, &fact.event(), fact.user());
            };
            for at in 0..300 {
                say(format!("/junk-{day}-{at}"));
                if day > 1 && at % 10 == 9 {
                    say("/new".to_owned());
                }
            }
            layer.end_entry(&mut tallies);
            let counts = [counted(&layer, &plan, day, "/new"), i64::from(day == 3) * expected];
            assert_eq!(counts[0], counts[1], "day {day}, {watched_max} watched");
            layer.rank(&mut tallies.guard);
            let written = tallies.guard.take_changes().len();
            assert!(written < 2_500, "the flood is not written: {written}");
            let restored = Guard::restore([tallies.guard.snapshot().as_slice()]).unwrap();
            tallies = Tallies::with_guard(restored);
            layer = layer.successor(Arc::clone(&plan), layer.number() + 1);
        }
    }
}
