//! Quotas of new values and combinations by key: what is folded, against lists, over checkpoints, crashes and replay.

use std::collections::BTreeMap;

use nilometer_event::clock::Clock as _;
use nilometer_event::{Event, Topic, avro};
use nilometer_stream::declare::{Declarations, GuardLimits, Plan, SetKind};

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

/// How many new combinations of a cube each may bring for each of these.
const COMBINATIONS_PER_VALUE: u32 = 2;
const COMBINATIONS_MAX: usize = 40;
const DIMENSIONS: [&str; 3] = ["country", "device_type", "content_category"];

/// What is shown of a value: nothing where there is none.
type Shown = Option<String>;

fn folded() -> Shown {
    Some("(folded)".to_owned())
}

/// What came on a day under one name, in the order of its coming.
#[derive(Debug, Default)]
struct NaiveDay {
    admitted: Vec<Vec<Shown>>,
    refused: Vec<Vec<Shown>>,
    brought: [usize; KEYS.len()],
    is_closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Known,
    New,
    Folded,
}

/// One event, by dimension.
struct Sent {
    day: i64,
    by: usize,
    values: BTreeMap<String, Shown>,
}

#[derive(Debug, Default)]
struct Naive {
    /// By dimensions.
    days: BTreeMap<(Vec<String>, i64), NaiveDay>,
    events: BTreeMap<Vec<String>, BTreeMap<Vec<Shown>, i64>>,
    over_quota: BTreeMap<String, u64>,
}

impl Naive {
    fn ask(&mut self, names: &[String], sent: &Sent) -> Told {
        let own = self.days.entry((names.to_vec(), sent.day)).or_default();
        let value: Vec<Shown> = names.iter().map(|name| sent.values[name].clone()).collect();
        let (times, max) = match names.len() {
            1 => (1, VALUES_MAX),
            _ => (COMBINATIONS_PER_VALUE, COMBINATIONS_MAX),
        };
        let quota = KEYS[sent.by].1.map(|max| (max * times) as usize);
        if own.admitted.contains(&value) {
            return Told::Known;
        } else if own.is_closed || own.refused.contains(&value) {
            return Told::Folded;
        } else if quota.is_some_and(|quota| own.brought[sent.by] >= quota) {
            own.refused.push(value);
            return Told::Folded;
        } else if own.admitted.len() == max {
            own.is_closed = true;
            return Told::Folded;
        }
        own.admitted.push(value);
        own.brought[sent.by] += 1;
        Told::New
    }

    /// One more that counts as the rest.
    fn note_folded(&mut self, names: &[String], sent: &Sent) {
        if self.days[&(names.to_vec(), sent.day)].is_closed {
            return;
        }
        let (key, values_max) = KEYS[sent.by];
        let name = key.filter(|_| values_max.is_some()).unwrap_or("(others)");
        *self.over_quota.entry(name.to_owned()).or_default() += 1;
    }

    fn come(&mut self, plan: &Plan, mut sent: Sent) {
        for name in plan.dimensions.iter().map(|dimension| dimension.name.clone()) {
            let name = [name];
            if sent.values[&name[0]].is_some() && self.ask(&name, &sent) == Told::Folded {
                self.note_folded(&name, &sent);
                sent.values.insert(name[0].clone(), folded());
            }
        }
        for (at, set) in plan.sets.iter().enumerate() {
            if set.kind == SetKind::Events && set.parent.is_none() {
                self.touch(plan, at, &sent);
            }
        }
    }

    /// A set that looks at the values by itself.
    fn touch(&mut self, plan: &Plan, set: usize, sent: &Sent) {
        let names = names_of(plan, set);
        let told = if names.len() > 1 { self.ask(&names, sent) } else { Told::Known };
        if told == Told::New {
            for below in all_below(plan, set).into_iter().map(|set| names_of(plan, set)) {
                if below.len() > 1 {
                    self.ask(&below, sent);
                }
            }
        }
        if told == Told::Folded {
            self.note_folded(&names, sent);
            self.show(names.clone(), vec![folded(); names.len()]);
            below(plan, set).into_iter().for_each(|set| self.touch(plan, set, sent));
            return;
        }
        for names in all_below(plan, set).into_iter().map(|set| names_of(plan, set)).chain([names])
        {
            let values = names.iter().map(|name| sent.values[name].clone()).collect();
            self.show(names, values);
        }
    }

    fn show(&mut self, names: Vec<String>, values: Vec<Shown>) {
        *self.events.entry(names).or_default().entry(values).or_default() += 1;
    }
}

fn names_of(plan: &Plan, set: usize) -> Vec<String> {
    plan.sets[set].dims.iter().map(|dim| plan.dimensions[dim.index()].name.clone()).collect()
}

/// The sets that are derived from one.
fn below(plan: &Plan, set: usize) -> Vec<usize> {
    let is_below = |one: &usize| plan.sets[*one].parent.is_some_and(|own| own.index() == set);
    (0..plan.sets.len()).filter(is_below).collect()
}

fn all_below(plan: &Plan, set: usize) -> Vec<usize> {
    let own = below(plan, set);
    own.iter().flat_map(|&one| [vec![one], all_below(plan, one)].concat()).collect()
}

/// Sends an event of one of the keys and folds nothing.
fn say(world: &mut World, naive: &mut Naive, number: usize) {
    let by = world.rng.usize(0..KEYS.len());
    let days_ago = world.rng.i64(0..3);
    let country = format!("c{}", world.rng.u8(0..24));
    let device = format!("d{}", world.rng.u8(0..5));
    let category = format!("g{}", world.rng.u8(0..3));
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
        device_type: Some(&device),
        content_category: Some(&category),
        ..Event::default()
    };
    let mut bytes = Vec::new();
    avro::encode(&event, &mut bytes);
    world.append_raw(Topic::UserEvents, &bytes);
    let plan = Plan::compile(&world.declarations).unwrap();
    let mut values: BTreeMap<String, Shown> =
        plan.dimensions.iter().map(|dimension| (dimension.name.clone(), None)).collect();
    values.insert("event_type".to_owned(), Some("view".to_owned()));
    values.extend(
        DIMENSIONS.map(str::to_owned).into_iter().zip([country, device, category].map(Some)),
    );
    naive.come(&plan, Sent { day: timestamp.ms().div_euclid(DAY_MS), by, values });
}

fn check(world: &World, naive: &Naive, seed: u64) {
    for (names, events) in &naive.events {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let counted = world.count_by_all(SetKind::Events, "events", &names);
        assert_eq!(counted, *events, "seed {seed}, {names:?}");
    }
    let facts = world.views.pin()[0].facts();
    assert_eq!(*facts.over_quota, naive.over_quota, "seed {seed}");
    let sessions = world.count_by(SetKind::Sessions, "sessions", "country");
    let events = &naive.events[&vec!["country".to_owned()]];
    for (country, sessions) in sessions {
        let events = events.get(&vec![country.clone()]).copied().unwrap_or_default();
        assert!((0..=events).contains(&sessions), "seed {seed}: {country:?} {sessions} {events}");
    }
}

/// Values, combinations of cubes, and those of sets that are derived from them.
#[test]
fn what_is_folded_for_a_quota_is_the_models_over_a_hundred_crashes() {
    let (mut crashes, mut over_quota, mut full) = (0, 0, 0);
    let mut refused = BTreeMap::new();
    for seed in 0..6 {
        let settings = if seed % 2 == 0 { cold() } else { hot() };
        let mut world = World::new(seed, settings, false);
        let guard = GuardLimits {
            values_max: u32::try_from(VALUES_MAX).unwrap(),
            combinations_max: u32::try_from(COMBINATIONS_MAX).unwrap(),
            combinations_per_value: COMBINATIONS_PER_VALUE,
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
        for ((names, _), day) in &naive.days {
            *refused.entry(names.len()).or_insert(0) += day.refused.len();
        }
    }
    assert!(crashes > 100 && over_quota > 20 && full > 2, "{crashes} {over_quota} {full}");
    assert!([1, 2, 3].iter().all(|dims| refused[dims] > 10), "{refused:?}");
}
