//! Quotas of new values by key: what is folded, against lists, over checkpoints, crashes and replay.

use std::collections::BTreeMap;

use nilometer_event::clock::Clock as _;
use nilometer_event::{Event, Topic, avro};
use nilometer_stream::declare::{Declarations, GuardLimits, SetKind};

use crate::exact::{cold, hot};
use crate::world::World;

const DAY_MS: i64 = 86_400_000;
/// Values of a day and dimension.
const VALUES_MAX: usize = 14;
/// Keys, with how many of them each may bring.
const KEYS: [(Option<&str>, Option<u32>); 5] = [
    (Some("write-a"), Some(2)),
    (Some("write-b"), Some(4)),
    (Some("server-c"), Some(1_000)),
    (Some("of an older release"), None),
    (None, None),
];

/// What came on a day, in the order of its coming.
#[derive(Debug, Default)]
struct NaiveDay {
    admitted: Vec<String>,
    refused: Vec<String>,
    brought: [usize; KEYS.len()],
    is_closed: bool,
}

#[derive(Debug, Default)]
struct Naive {
    days: BTreeMap<i64, NaiveDay>,
    events: BTreeMap<Option<String>, i64>,
    over_quota: BTreeMap<String, u64>,
}

impl Naive {
    fn come(&mut self, day: i64, country: &str, by: usize) {
        let (key, values_max) = KEYS[by];
        let own = self.days.entry(day).or_default();
        let country = country.to_owned();
        let mut is_admitted = own.admitted.contains(&country);
        if !is_admitted && !own.is_closed && !own.refused.contains(&country) {
            if values_max.is_some_and(|max| own.brought[by] >= max as usize) {
                own.refused.push(country.clone());
            } else if own.admitted.len() == VALUES_MAX {
                own.is_closed = true;
            } else {
                own.admitted.push(country.clone());
                own.brought[by] += 1;
                is_admitted = true;
            }
        }
        if !is_admitted && !own.is_closed {
            let is_known = key.is_some() && values_max.is_some();
            let name = key.filter(|_| is_known).unwrap_or("(others)");
            *self.over_quota.entry(name.to_owned()).or_default() += 1;
        }
        let shown = if is_admitted { country } else { "(folded)".to_owned() };
        *self.events.entry(Some(shown)).or_default() += 1;
    }
}

/// Sends an event of one of the keys and folds nothing.
fn say(world: &mut World, naive: &mut Naive, number: usize) {
    let by = world.rng.usize(0..KEYS.len());
    let days_ago = world.rng.i64(0..3);
    let country = format!("c{}", world.rng.u8(0..24));
    let now = world.clock.now();
    let timestamp = now.as_event_time().minus_ms(days_ago * DAY_MS);
    let (id, user) = (format!("e{number}"), format!("u{}", world.rng.u8(0..12)));
    let (key, values_max) = KEYS[by];
    let event = Event {
        received_at: now,
        timestamp,
        sent_timestamp: timestamp,
        key,
        values_max,
        event_id: &id,
        event_type: "view",
        user_id: Some(&user),
        country: Some(&country),
        ..Event::default()
    };
    let mut bytes = Vec::new();
    avro::encode(&event, &mut bytes);
    world.append_raw(Topic::UserEvents, &bytes);
    naive.come(timestamp.ms().div_euclid(DAY_MS), &country, by);
}

fn check(world: &World, naive: &Naive, seed: u64) {
    assert_eq!(world.events_by("country"), naive.events, "seed {seed}");
    let facts = world.views.pin()[0].facts();
    assert_eq!(*facts.over_quota, naive.over_quota, "seed {seed}");
    let sessions = world.count_by(SetKind::Sessions, "sessions", "country");
    for (country, sessions) in sessions {
        let events = naive.events.get(&country).copied().unwrap_or_default();
        assert!((0..=events).contains(&sessions), "seed {seed}: {country:?} {sessions} {events}");
    }
}

#[test]
fn what_is_folded_for_a_quota_is_the_models_over_a_hundred_crashes() {
    let (mut crashes, mut over_quota, mut full) = (0, 0, 0);
    for seed in 0..6 {
        let settings = if seed % 2 == 0 { cold() } else { hot() };
        let mut world = World::new(seed, settings, false);
        let guard = GuardLimits {
            values_max: u32::try_from(VALUES_MAX).unwrap(),
            kept_percent: 0,
            ..GuardLimits::default()
        };
        world.declarations = Declarations { guard, ..Declarations::default() };
        world.recover().unwrap();
        let mut naive = Naive::default();
        for round in 0..40 {
            for event in 0..world.rng.usize(0..8) {
                say(&mut world, &mut naive, round * 10 + event);
            }
            match world.rng.u8(0..4) {
                0 => world.checkpoint(),
                1 => drop(world.step_after(2_000)),
                _ => {
                    world.crash();
                    crashes += 1;
                }
            }
        }
        world.drain();
        check(&world, &naive, seed);
        world.crash();
        world.drain();
        check(&world, &naive, seed);
        over_quota += naive.over_quota.values().sum::<u64>();
        full += naive.days.values().filter(|day| day.is_closed).count();
    }
    assert!(crashes > 100 && over_quota > 20 && full > 2, "{crashes} {over_quota} {full}");
}
