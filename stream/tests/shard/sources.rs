//! Ids of one source say nothing about those of another, and conflicts are told by source.

use std::collections::{BTreeMap, HashMap};

use nilometer_event::clock::Clock as _;
use nilometer_event::{Event, EventTime, Topic, avro};
use nilometer_stream::view::ConflictsBySource;

use crate::exact::{cold, hot};
use crate::world::World;

const SOURCES: [Option<&str>; 4] = [None, Some("shop"), Some("spam"), Some("web")];
const USERS: [&str; 3] = ["alice", "bob", "carol"];
const IDS: [&str; 4] = ["order-1001", "order-1002", "e", "f"];
const CONTENTS: [&str; 2] = [r#"{"price":1}"#, r#"{"price":2}"#];

/// Lists of what was sent: shares no logic with the crate.
#[derive(Default)]
struct Naive {
    /// The content of the first of each identity.
    first: HashMap<(Option<&'static str>, &'static str, &'static str), &'static str>,
    duplicates: u64,
    conflicts: BTreeMap<String, u64>,
}

impl Naive {
    fn say(
        &mut self,
        source: Option<&'static str>,
        user: &'static str,
        id: &'static str,
        what: &'static str,
    ) {
        match self.first.get(&(source, user, id)) {
            None => drop(self.first.insert((source, user, id), what)),
            Some(first) => {
                self.duplicates += 1;
                let conflicts = self.conflicts.entry(source.unwrap_or("default").to_owned());
                *conflicts.or_default() += u64::from(*first != what);
            }
        }
    }
}

fn send(world: &mut World, naive: &mut Naive, sent_ms: i64) {
    let rng = &mut world.rng;
    let [source, user] = [rng.usize(0..SOURCES.len()), rng.usize(0..USERS.len())];
    let [id, content] = [rng.usize(0..IDS.len()), rng.usize(0..CONTENTS.len())];
    let (source, user, id, content) = (SOURCES[source], USERS[user], IDS[id], CONTENTS[content]);
    let event = Event {
        received_at: world.clock.now(),
        timestamp: EventTime::from_ms(sent_ms),
        sent_timestamp: EventTime::from_ms(sent_ms),
        key: Some("write-1"),
        source,
        event_id: id,
        event_type: "purchase",
        user_id: Some(user),
        properties: Some(content),
        ..Event::default()
    };
    let mut bytes = Vec::new();
    avro::encode(&event, &mut bytes);
    world.append_raw(Topic::UserEvents, &bytes);
    naive.say(source, user, id, content);
}

#[test]
fn an_event_is_a_repeat_within_its_source_alone_hot_and_cold_over_checkpoints_and_crashes() {
    // With these seeds no two contents of one id have the same check, which is a byte.
    for (seed, settings) in [(1, hot()), (2, cold())] {
        let mut world = World::started(seed, settings, false);
        let mut naive = Naive::default();
        let sent_ms = world.now_ms();
        for round in 0..60 {
            for _ in 0..5 {
                send(&mut world, &mut naive, sent_ms);
            }
            world.drain();
            match round % 15 {
                4 => world.checkpoint(),
                9 => world.crash(),
                _ => {}
            }
        }
        let counters = world.counters();
        assert_eq!(counters.unique, naive.first.len() as u64);
        assert_eq!(counters.duplicate, naive.duplicates);
        assert_eq!(counters.conflicts, naive.conflicts.values().sum::<u64>());
        let facts = world.views.pin()[0].facts();
        let told = ConflictsBySource::of_all([(&*facts.conflicts, counters.conflicts)]);
        assert_eq!(told, naive.conflicts);
        assert!(told.len() == SOURCES.len() && told.values().all(|&count| count > 10), "{told:?}");
    }
}
