//! When folds begin.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use nilometer_event::clock::ManualClock;
use nilometer_rollups::{FoldLimits, Pace, Store};

use crate::house::{Dice, House};

/// Layers that came, and whether a fold is expected before an hour is over.
fn folds(layers: u32, is_expected: bool) {
    let mut house = House::new(31, 1);
    let mut dice = Dice::new(31);
    let store = Arc::clone(&house.store);
    let (stop, stopped) = mpsc::channel();
    let pace = Pace { interval: Duration::from_secs(3_600), layers_many: 3 };
    let clock = ManualClock::new(house.now);
    let folding = std::thread::spawn(move || {
        nilometer_rollups::run(&store, &clock, FoldLimits::default(), pace, &stopped);
    });
    for _ in 0..layers {
        let seen = (0..10).map(|_| dice.seen(house.now.as_event_time())).collect();
        house.count(0, seen);
        house.seal(0, |_| {});
    }
    let looks = if is_expected { 3_000 } else { 150 };
    let folded = (0..looks).any(|_| {
        std::thread::park_timeout(Duration::from_millis(20));
        house.store.stats().folds > 0
    });
    assert_eq!(folded, is_expected, "{layers} layers");
    drop(stop);
    folding.join().unwrap();
}

#[test]
fn many_layers_are_folded_before_the_interval_is_over() {
    folds(3, true);
}

#[test]
fn a_few_layers_wait_for_the_interval() {
    folds(2, false);
}
