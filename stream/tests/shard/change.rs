//! What changes while a shard lives: plans, tables, space on the disk.

use std::collections::HashSet;

use nilometer_event::{Offset, Partition, Topic};
use nilometer_stream::RecoverError;
use nilometer_stream::declare::{CubeDecl, Declarations, DimensionDecl};
use nilometer_stream::shell::PlanBook;
use nilometer_stream::tables::{TableName, parse_csv};

use crate::exact::{cold, hot};
use crate::model::{Said, Who};
use crate::world::World;

fn declared() -> Declarations {
    Declarations {
        dimensions: vec![DimensionDecl {
            name: "plan".to_owned(),
            source: "properties.plan".to_owned(),
            description: String::new(),
        }],
        cubes: vec![CubeDecl { dimensions: vec!["plan".to_owned()], distinct: true }],
        ..Declarations::default()
    }
}

#[test]
fn another_plan_closes_the_open_layer_and_replay_finds_the_old_one() {
    let mut world = World::started(1, hot(), false);
    world.send(50);
    world.drain();
    let before = world.views.pin().remove(0);
    world.declarations = declared();
    world.crash();
    // Replayed under the plan of its entries; the next entry closes the layer.
    assert_eq!(world.views.pin()[0].plan.id, before.plan.id);
    world.send(50);
    world.drain();
    let after = world.views.pin().remove(0);
    assert_ne!(after.plan.id, before.plan.id);
    assert!(before.layer < after.layer);
    // The old layer's cells count on, projected onto the new plan.
    assert_eq!(world.counters().unique, world.model.events.len() as u64);
    world.crash();
    assert_eq!(world.views.pin()[0].plan.id, after.plan.id);
    assert_eq!(world.counters().unique, world.model.events.len() as u64);
}

#[test]
fn an_entry_whose_plan_is_gone_is_refused_by_name() {
    let mut world = World::started(2, hot(), false);
    world.send(10);
    world.drain();
    let id = world.views.pin()[0].plan.id;
    world.shell = None;
    nilometer_log::Disk::remove(&world.disk, &PlanBook::path(id)).unwrap();
    world.declarations = declared();
    let refused = world.recover().unwrap_err();
    assert!(matches!(refused, RecoverError::Plan { .. }), "{refused}");
}

#[test]
fn an_entry_whose_plan_is_damaged_is_refused_with_the_file_and_the_remedy() {
    let mut world = World::started(2, hot(), false);
    world.send(10);
    world.drain();
    let path = PlanBook::path(world.views.pin()[0].plan.id);
    let first = world.declarations.clone();
    for place in [0, world.disk.len_of(&path).unwrap() / 2, world.disk.len_of(&path).unwrap() - 3] {
        world.shell = None;
        world.disk.flip_bit(&path, place);
        world.declarations = declared();
        let refused = world.recover().unwrap_err().to_string();
        assert!(refused.contains(&path) && refused.contains("damaged"), "{refused}");
        assert!(refused.contains("restore the file from a backup"), "{refused}");
        // The remedy: the configuration that it was made from writes it anew.
        world.declarations = first.clone();
        world.crash();
    }
    world.declarations = declared();
    world.crash();
    world.drain();
    assert_eq!(world.counters().unique, world.model.events.len() as u64);
}

/// The key is where an event was received, so that it does not depend on the entry that takes
/// it: a damaged last entry is replaced by another one.
#[test]
fn late_events_of_a_replay_carry_the_keys_of_the_first_time() {
    let mut settings = hot();
    // Beyond the oldest live event that the world invents (3 days).
    settings.fold.horizon_hours = 5 * 24;
    let mut world = World::started(3, settings, false);
    world.send(5);
    world.drain();
    world.checkpoint();
    let mut said = world.model.events[0].clone();
    let day_ms = 86_400_000;
    said.corrected = false;
    said.topic = Topic::UserEvents;
    (said.time_ms, said.sent_ms) = (world.now_ms() - 9 * day_ms, world.now_ms() - 9 * day_ms);
    for number in 0..5 {
        said.id = format!("late{number}");
        world.say(said.clone());
    }
    world.drain();
    world.crash();
    let shard = Partition::new(0);
    let end = world.log.bounds(Topic::LateEvents, shard).end;
    assert_eq!(end, Offset::new(10), "five, and five again");
    let fetched = world.log.read(Topic::LateEvents, shard, Offset::ZERO, 1 << 20).unwrap();
    let keys: HashSet<Vec<u8>> = fetched.iter().map(|it| it.key.unwrap().to_vec()).collect();
    let received = world.log.bounds(Topic::UserEvents, shard).end.get();
    let places = (received - 5..received).map(|offset| {
        let topic = Topic::UserEvents as u8;
        [&[topic, 0, 0][..], &offset.to_be_bytes()].concat()
    });
    assert_eq!(keys, places.collect());
    assert_eq!(world.counters().late_pending, 5);
}

#[test]
fn a_table_holds_from_the_next_entry_on_and_fills_only_what_is_missing() {
    let mut world = World::new(4, hot(), false);
    let tables = world.tables();
    world.recover_with(std::sync::Arc::clone(&tables)).unwrap();
    let mut said = Said {
        source: None,
        who: Who::User("w".to_owned()),
        id: "before".to_owned(),
        event_type: "click".to_owned(),
        time_ms: world.now_ms(),
        sent_ms: world.now_ms(),
        corrected: false,
        topic: Topic::UserEvents,
        dims: std::collections::BTreeMap::new(),
        duration_halves: None,
        completed: None,
    };
    world.say(said.clone());
    world.drain();
    let rows = parse_csv(b"user_id,country,device_type\nw,DE,tv\n", 10).unwrap();
    tables.put(TableName::Users, rows).unwrap();
    said.id = "after".to_owned();
    said.time_ms += 3 * 3_600_000;
    said.dims.insert("device_type", "mobile".to_owned());
    let mut enriched = said.clone();
    enriched.dims.insert("country", "DE".to_owned());
    let mut model = world.model.clone();
    model.say(&enriched);
    world.say(said);
    world.model = model;
    world.drain();
    world.verify();
    world.crash();
    // What the full disk took and did not acknowledge may be there after all.
    world.drain();
    world.verify();
}

#[test]
fn on_a_full_disk_reading_goes_on_and_writing_resumes_by_itself() {
    let mut world = World::started(5, cold(), false);
    world.send(40);
    world.drain();
    let counters = world.counters();
    world.disk.fill_up(0);
    for _ in 0..10 {
        world.send(5);
        world.step_after(2_000);
        assert_eq!(world.counters().residual(), 0);
    }
    assert!(world.counters().unique >= counters.unique);
    world.disk.fill_up(1 << 30);
    world.settle_clients();
    world.drain();
    world.checkpoint();
    world.verify();
    world.crash();
    // What the full disk took and did not acknowledge may be there after all.
    world.drain();
    world.verify();
}

#[test]
fn changed_settings_hold_from_the_next_entry_on_and_in_every_replay() {
    let mut world = World::started(6, cold(), false);
    for round in 0..6 {
        world.send(30);
        world.drain();
        // From cold to hot and back, over restarts.
        world.settings = if round % 2 == 0 { hot() } else { cold() };
        world.crash();
        world.drain();
        world.verify();
    }
}
