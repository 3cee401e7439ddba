//! Two clocks by hand.

use proptest::prelude::*;

use super::*;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
const NOW_MS: i64 = 1_795_291_200_000;

/// A machine with a true time that it does not know, and a wall clock that is off by so much.
struct Machine {
    judge: Judge,
    true_ms: i64,
    off_ms: i64,
}

impl Machine {
    fn new() -> Self {
        let mut machine = Self { judge: Judge::default(), true_ms: NOW_MS, off_ms: 0 };
        assert_eq!(machine.now(), NOW_MS);
        machine
    }

    const fn reading(&self) -> Reading {
        Reading { wall_ms: self.true_ms + self.off_ms, steady_ms: self.true_ms - NOW_MS + 77 }
    }

    fn now(&mut self) -> i64 {
        let reading = self.reading();
        self.judge.now_ms(reading)
    }

    /// Lets time pass, a reading every second.
    fn pass(&mut self, ms: i64) -> i64 {
        let end = self.true_ms + ms;
        while self.true_ms < end {
            self.true_ms = end.min(self.true_ms + 1_000);
            self.now();
        }
        self.now()
    }
}

#[test]
fn a_jump_ahead_of_a_few_seconds_changes_nothing() {
    let mut machine = Machine::new();
    machine.off_ms = 100 * DAY_MS;
    assert_eq!(machine.now(), machine.true_ms);
    assert_eq!(machine.pass(3_000), machine.true_ms);
    let standing = machine.judge.standing();
    assert_eq!((standing.ahead_ms, standing.follows_in_ms), (100 * DAY_MS, STOOD_MS - 3_000));
    machine.off_ms = 0;
    assert_eq!(machine.now(), machine.true_ms);
    assert_eq!(machine.judge.standing(), Standing::default());
    assert_eq!(machine.pass(HOUR_MS), machine.true_ms);
}

#[test]
fn a_jump_ahead_that_stays_is_followed_after_ten_minutes() {
    let mut machine = Machine::new();
    machine.pass(HOUR_MS);
    machine.off_ms = 2 * HOUR_MS;
    assert_eq!(machine.pass(0), machine.true_ms);
    assert_eq!(machine.pass(STOOD_MS - 1), machine.true_ms);
    assert_eq!(machine.pass(1), machine.true_ms + 2 * HOUR_MS);
    assert_eq!(machine.judge.standing(), Standing::default());
}

#[test]
fn a_clock_that_goes_on_jumping_is_not_followed_until_it_stands() {
    let mut machine = Machine::new();
    for _ in 0..60 {
        machine.off_ms += 6 * MINUTE_MS;
        assert_eq!(machine.pass(5 * MINUTE_MS), machine.true_ms);
    }
    assert_eq!(machine.pass(5 * MINUTE_MS + 1_000), machine.true_ms + machine.off_ms);
    // Small steps add up to no more than one.
    let mut machine = Machine::new();
    for _ in 0..100 {
        machine.off_ms += 4 * MINUTE_MS;
        machine.pass(1_000);
    }
    assert!(machine.now() - machine.true_ms <= AHEAD_MS_MAX);
}

#[test]
fn an_operator_may_say_that_the_wall_clock_is_right() {
    let mut machine = Machine::new();
    machine.off_ms = 100 * DAY_MS;
    assert_eq!(machine.pass(1_000), machine.true_ms);
    let reading = machine.reading();
    machine.judge.believe(reading);
    assert_eq!(machine.now(), machine.true_ms + 100 * DAY_MS);
    assert_eq!(machine.judge.standing(), Standing::default());
}

#[test]
fn small_steps_are_followed_at_once() {
    let mut machine = Machine::new();
    machine.off_ms = AHEAD_MS_MAX;
    assert_eq!(machine.now(), machine.true_ms + AHEAD_MS_MAX);
    machine.pass(HOUR_MS);
    machine.off_ms += AHEAD_MS_MAX;
    assert_eq!(machine.now(), machine.true_ms + 2 * AHEAD_MS_MAX);
}

#[test]
fn a_machine_that_slept_has_not_jumped() {
    let mut machine = Machine::new();
    machine.true_ms += 3 * DAY_MS;
    assert_eq!(machine.now(), machine.true_ms);
    assert_eq!(machine.judge.standing(), Standing::default());
}

#[test]
fn a_clock_that_is_set_back_is_waited_for() {
    let mut machine = Machine::new();
    machine.off_ms = -20 * MINUTE_MS;
    for _ in 0..19 {
        assert_eq!(machine.pass(MINUTE_MS), NOW_MS);
    }
    assert_eq!(machine.judge.standing().behind_ms, MINUTE_MS);
    assert_eq!(machine.pass(2 * MINUTE_MS), NOW_MS + MINUTE_MS);
    assert_eq!(machine.judge.standing(), Standing::default());
    // Forward again by what it was set back: believed only once it has stood there.
    machine.off_ms = 0;
    let before = machine.pass(0);
    assert_eq!(machine.pass(MINUTE_MS), before + MINUTE_MS);
    machine.pass(STOOD_MS);
    assert_eq!(machine.now(), machine.true_ms);
}

#[test]
fn far_ahead_of_the_wall_clock_the_house_goes_at_half_speed_until_that_is_there() {
    let mut machine = Machine::new();
    machine.judge.not_before(NOW_MS + 2 * HOUR_MS);
    assert_eq!(machine.now(), NOW_MS + 2 * HOUR_MS);
    assert!(machine.judge.standing().is_slow);
    // However often it is asked.
    for _ in 0..1_001 {
        machine.true_ms += 1;
        machine.now();
    }
    assert_eq!(machine.now(), NOW_MS + 2 * HOUR_MS + 500);
    machine.pass(2 * HOUR_MS);
    let standing = machine.judge.standing();
    assert_eq!(machine.now() - machine.true_ms, standing.behind_ms);
    assert!(standing.is_slow && standing.behind_ms <= HOUR_MS, "{standing:?}");
    machine.pass(2 * HOUR_MS);
    assert_eq!(machine.now(), machine.true_ms);
    assert_eq!(machine.judge.standing(), Standing::default());
}

#[test]
fn a_wall_clock_that_starts_in_1970_is_followed_once_it_is_right() {
    let mut judge = Judge::default();
    judge.not_before(NOW_MS);
    let at = |wall_ms, steady_ms| Reading { wall_ms, steady_ms };
    assert_eq!(judge.now_ms(at(0, 0)), NOW_MS);
    assert!(judge.standing().is_slow);
    // The network has told the time: the log was a day old.
    let right = |steady_ms| at(NOW_MS + DAY_MS + steady_ms, steady_ms);
    let first = judge.now_ms(right(30_000));
    assert!((NOW_MS..NOW_MS + MINUTE_MS).contains(&first));
    assert!(judge.standing().ahead_ms > 23 * HOUR_MS);
    assert_eq!(judge.now_ms(right(30_000 + STOOD_MS)), NOW_MS + DAY_MS + 30_000 + STOOD_MS);
}

proptest! {
    /// Whatever is done to the wall clock: time never runs backwards, never runs ahead of the wall
    /// clock and the steady one, and never faster than believed.
    #[test]
    fn the_house_never_runs_backwards_nor_ahead(
        steps in prop::collection::vec((0..20 * MINUTE_MS, -200 * DAY_MS..200 * DAY_MS, 0..4u8), 1..60),
    ) {
        let mut machine = Machine::new();
        let mut latest = machine.now();
        let mut furthest = 0;
        for (passed, off, kind) in steps {
            machine.true_ms += passed;
            if kind == 0 {
                machine.off_ms = off;
            }
            furthest = furthest.max(machine.off_ms);
            let now = machine.now();
            prop_assert!(latest <= now);
            prop_assert!(now <= machine.true_ms + furthest);
            let standing = machine.judge.standing();
            let wall = machine.true_ms + machine.off_ms;
            prop_assert_eq!(now - wall, standing.behind_ms - standing.ahead_ms);
            latest = now;
        }
    }
}
