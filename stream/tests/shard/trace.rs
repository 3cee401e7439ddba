//! What is told of single copies afterwards is what the fold decided: its counters say which.

use std::collections::BTreeMap;

use nilometer_event::{EventTime, Identity, Partition, TimeCorrection, Topic, UserKey};
use nilometer_stream::trace::{Decided, SentCopy};
use nilometer_stream::{FoldSettings, StreamSettings};

use crate::exact::{cold, hot};
use crate::model::{Said, Who};
use crate::world::World;

/// Copies by id, each with what the counters said when it was folded.
type Told = BTreeMap<String, Vec<(SentCopy, bool)>>;

/// Sends one copy by itself, folds it, and notes whether it counted.
fn say(world: &mut World, told: &mut Told, id: &str, sent_ms: i64, corrected: bool) {
    let topic = if world.rng.u8(0..6) == 0 { Topic::Imports } else { Topic::UserEvents };
    let said = Said {
        source: None,
        who: Who::User("anna".to_owned()),
        id: id.to_owned(),
        event_type: "click".to_owned(),
        time_ms: if corrected { world.now_ms() } else { sent_ms },
        sent_ms,
        corrected,
        topic,
        dims: BTreeMap::new(),
        duration_halves: None,
        completed: None,
    };
    let offset = world.log.bounds(topic, Partition::new(0)).end;
    let before = world.counters();
    world.say(said);
    world.drain();
    let after = world.counters();
    assert_eq!(after.unique + after.duplicate, before.unique + before.duplicate + 1);
    let correction = if corrected { TimeCorrection::BySentAt } else { TimeCorrection::None };
    let copy = SentCopy { topic, offset, sent: EventTime::from_ms(sent_ms), correction };
    told.entry(id.to_owned()).or_default().push((copy, before.unique < after.unique));
}

fn of_anna<'a>(source: Option<&'a str>, event_id: &'a str) -> Identity<'a> {
    Identity { source, user: UserKey::User("anna"), event_id }
}

/// How exactly verdicts are known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// Of each copy.
    Copy,
    /// Of each bucket how many counted: ids went cold for want of memory, and their layers were
    /// merged since.
    Bucket,
}

/// Compares the verdicts of every id; returns how many copies counted again.
fn check(world: &mut World, told: &Told, case: &str, by: By) -> usize {
    let mut again = 0;
    for (id, copies) in told {
        let sent: Vec<SentCopy> = copies.iter().map(|(copy, _)| *copy).collect();
        let decided = world.shell().decided(of_anna(None, id), &sent).unwrap();
        let mut counted = false;
        let mut by_bucket: BTreeMap<i64, i32> = BTreeMap::new();
        for (at, (decided, (copy, counts))) in decided.iter().zip(copies).enumerate() {
            let truth = match (counts, counted) {
                (false, _) => Decided::Duplicate,
                (true, false) => Decided::First,
                (true, true) => Decided::Again,
            };
            counted |= counts;
            again += usize::from(truth == Decided::Again);
            if by == By::Copy {
                assert_eq!(*decided, truth, "{case}: copy {at} of {id}, sent {}", copy.sent);
            }
            if truth == Decided::First {
                assert_eq!(*decided, truth, "{case}: copy {at} of {id}");
            }
            let bucket = copy.sent.ms().div_euclid(600_000)
                * i64::from(copy.correction == TimeCorrection::None);
            *by_bucket.entry(bucket).or_default() += i32::from(*counts);
            *by_bucket.entry(bucket).or_default() -=
                i32::from(matches!(decided, Decided::First | Decided::Again));
        }
        assert!(by_bucket.values().all(|&difference| difference == 0), "{case}: {by_bucket:?}");
    }
    again
}

fn walk(seed: u64, settings: StreamSettings, crashes: bool, by: By) -> usize {
    let mut world = World::started(seed, settings, false);
    let mut told = Told::new();
    let mut again = 0;
    for round in 0..80 {
        let id = format!("e{}", world.rng.u8(0..6));
        // Few buckets, so that copies of one bucket meet others hot and cold.
        let bucket = world.rng.i64(0..5);
        let sent_ms = crate::world::START_MS - bucket * 3_600_000 + world.rng.i64(0..60_000);
        let corrected = world.rng.u8(0..12) == 0;
        say(&mut world, &mut told, &id, sent_ms, corrected);
        match world.rng.u8(0..8) {
            0 => world.checkpoint(),
            1 => assert!(world.step_after(90_000)),
            2 if crashes => world.crash(),
            _ => {}
        }
        if round % 40 == 39 {
            again += check(&mut world, &told, &format!("seed {seed} round {round}"), by);
        }
    }
    again
}

#[test]
fn the_verdict_of_each_copy_is_what_the_fold_decided() {
    let aged = FoldSettings { hot_ms: 40_000, ..hot().fold };
    let full = FoldSettings { hot_ids_max: 4, ..hot().fold };
    let mut again = 0;
    for seed in 0..3 {
        for (fold, by) in [(aged, By::Copy), (full, By::Bucket), (cold().fold, By::Copy)] {
            let settings = StreamSettings { checkpoint_interval_ms: 5_000, fold, ..hot() };
            again += walk(seed, settings, seed % 2 == 1, by);
        }
    }
    assert!(again > 50, "{again} copies counted again");
    assert_eq!(walk(9, hot(), true, By::Copy), 0, "while everything is hot nothing counts again");
}

#[test]
fn a_copy_that_is_not_folded_yet_waits_and_one_of_another_user_is_not_known() {
    let mut world = World::started(1, cold(), false);
    let mut told = Told::new();
    let now_ms = world.now_ms();
    say(&mut world, &mut told, "e", now_ms, false);
    let end = world.log.bounds(Topic::UserEvents, Partition::new(0)).end;
    let copies: Vec<SentCopy> = told["e"].iter().map(|(copy, _)| *copy).collect();
    let next = SentCopy { topic: Topic::UserEvents, offset: end.plus(3), ..copies[0] };
    let decided = world.shell().decided(of_anna(None, "e"), &[copies[0], next]).unwrap();
    assert_eq!(decided, [Decided::First, Decided::Waiting]);
    let elsewhere = world.shell().decided(of_anna(Some("shop"), "e"), &[copies[0]]).unwrap();
    assert_eq!(elsewhere, [Decided::Duplicate], "no count of this source is known");
}
