//! What events carry in their properties: by the rules of their plan, over checkpoints and replay.

use std::collections::BTreeMap;

use nilometer_event::clock::Clock as _;
use nilometer_event::{Event, Topic, avro};
use nilometer_log::{Disk as _, write_atomically};
use nilometer_stream::declare::{Declarations, NumberRules};

use crate::exact::hot;
use crate::world::World;

fn declared(numbers: NumberRules) -> Declarations {
    let declared = r#"{"dimension":[{"name":"plan","source":"properties.plan"}],"metric":[
        {"name":"revenue","aggregate":"sum","field":"properties.price"},
        {"name":"heaviest","aggregate":"max","field":"properties.kg"}]}"#;
    Declarations { numbers, ..serde_json::from_str(declared).unwrap() }
}

fn started(seed: u64, numbers: NumberRules) -> World {
    let mut world = World::new(seed, hot(), false);
    world.declarations = declared(numbers);
    world.recover().unwrap();
    world
}

/// One event with these properties is sent and folded.
fn say(world: &mut World, id: &str, properties: &str) {
    let now = world.clock.now();
    let event = Event {
        received_at: now,
        timestamp: now.as_event_time(),
        sent_timestamp: now.as_event_time(),
        event_id: id,
        event_type: "view",
        user_id: Some("u"),
        properties: Some(properties),
        ..Event::default()
    };
    let mut bytes = Vec::new();
    avro::encode(&event, &mut bytes);
    world.append_raw(Topic::UserEvents, &bytes);
    world.drain();
}

fn unread(world: &World) -> BTreeMap<String, u64> {
    world.views.pin()[0].facts().unread.as_ref().clone()
}

fn counts(of: &[(&str, u64)]) -> BTreeMap<String, u64> {
    of.iter().map(|&(metric, events)| (metric.to_owned(), events)).collect()
}

#[test]
fn a_journal_is_folded_by_the_rules_of_its_plan_and_what_comes_by_the_newest() {
    const FAR: &str = r#"{"price":1e999,"plan":"pro"}"#;
    let mut world = started(1, NumberRules::Digits);
    say(&mut world, "before", FAR);
    let hidden = BTreeMap::from([(None, 1)]);
    assert_eq!(world.events_by("plan"), hidden);
    world.declarations = declared(NumberRules::Alone);
    world.crash();
    assert_eq!(world.events_by("plan"), hidden, "replayed as it was folded");
    say(&mut world, "after", FAR);
    let both = BTreeMap::from([(None, 1), (Some("pro".to_owned()), 1)]);
    assert_eq!(world.events_by("plan"), both);
    world.crash();
    assert_eq!(world.events_by("plan"), both);
    assert_eq!(unread(&world), counts(&[("revenue", 2)]));
}

#[test]
fn events_without_their_number_are_told_over_checkpoints_and_replay() {
    let mut world = started(2, NumberRules::Alone);
    for (id, properties) in [
        ("text", r#"{"price":"19.99"}"#),
        ("far", r#"{"price":1e999,"kg":[],"plan":"pro"}"#),
        ("number", r#"{"price":5,"kg":null}"#),
        ("far", r#"{"price":1e999,"kg":[],"plan":"pro"}"#),
    ] {
        say(&mut world, id, properties);
    }
    let counted = counts(&[("heaviest", 1), ("revenue", 2)]);
    assert_eq!(unread(&world), counted, "a repeat counts once");
    world.checkpoint();
    world.crash();
    assert_eq!(unread(&world), counted, "from the checkpoint");
    say(&mut world, "heavy", r#"{"kg":"much"}"#);
    let counted = counts(&[("heaviest", 2), ("revenue", 2)]);
    for _ in 0..2 {
        world.crash();
        assert_eq!(unread(&world), counted, "some from the checkpoint, one from the journal");
    }
    // What a metric reads now is another number: nothing of it is unread yet.
    world.declarations.metrics[0].field = Some("properties.cents".to_owned());
    world.crash();
    assert_eq!(unread(&world), counted);
    say(&mut world, "new", "{}");
    assert_eq!(unread(&world), counts(&[("heaviest", 2)]));
    world.checkpoint();
    world.crash();
    assert_eq!(unread(&world), counts(&[("heaviest", 2)]));
}

#[test]
fn checkpoints_of_releases_that_did_not_keep_these_counts_are_read() {
    // The map near the manifest's end, and the empty ones around it.
    let (corrected, own, late) = (1, 1 + 1 + "revenue".len() + 1, 1);
    let (conflicts, over_quota) = (1, 1);
    let behind = late + conflicts + over_quota;
    for cut in [own + behind, corrected + own + behind] {
        let mut world = started(3, NumberRules::Alone);
        say(&mut world, "text", r#"{"price":"19.99","plan":"pro"}"#);
        world.checkpoint();
        let path = format!("checkpoints/0/manifest-{:020}", world.views.pin()[0].checkpoint.seq);
        let mut bytes = world.disk.read(&path).unwrap();
        bytes.truncate(bytes.len() - 4 - cut);
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes);
        bytes.extend_from_slice(&u32::try_from(crc).unwrap().to_le_bytes());
        write_atomically(&world.disk, &path, &bytes).unwrap();
        world.crash();
        assert_eq!(unread(&world), counts(&[]));
        assert_eq!(world.events_by("plan"), BTreeMap::from([(Some("pro".to_owned()), 1)]));
        say(&mut world, "other", r#"{"price":"19.99"}"#);
        assert_eq!(unread(&world), counts(&[("revenue", 1)]));
    }
}
