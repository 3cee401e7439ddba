//! Deliberate bugs, each seen to be caught by the check that names it.

use nilometer_event::Topic;
use nilometer_log::disk::sim::{Fault, FaultKind, Op};
use nilometer_stream::shell::Mutant;
use nilometer_stream::tables::{TableName, parse_csv};

use crate::exact::hot;
use crate::model::{Said, Who};
use crate::world::World;

/// Shows an entry whose append fails, loses power, and says how far back the shard is.
fn shown_and_back(mutant: Option<Mutant>) -> (u64, u64) {
    let mut world = World::started(1, hot(), false);
    world.mutant = mutant;
    world.crash();
    world.send(30);
    world.step_after(2_000);
    world.send(30);
    world.disk.fail_next(Fault { op: Op::Sync, after: 0, kind: FaultKind::Error, times: 1 });
    world.step_after(2_000);
    let shown = world.views.pin()[0].facts().seq;
    world.crash();
    (shown, world.views.pin()[0].facts().seq)
}

#[test]
fn publish_before_durable_is_caught() {
    let (shown, back) = shown_and_back(None);
    assert!(shown <= back);
    let (shown, back) = shown_and_back(Some(Mutant::PublishBeforeDurable));
    assert!(shown > back, "the mutant showed {shown} and came back at {back}");
}

#[test]
fn a_sealed_layer_counted_twice_after_a_restore_is_caught() {
    for mutant in [None, Some(Mutant::SealedLayerTwice)] {
        let mut world = World::started(2, hot(), false);
        world.send(60);
        world.drain();
        world.checkpoint();
        world.send(10);
        world.drain();
        world.mutant = mutant;
        world.crash();
        assert_eq!(world.differences().is_err(), mutant.is_some(), "{mutant:?}");
    }
}

#[test]
fn a_dimension_table_changed_between_crash_and_replay_is_caught() {
    for mutant in [None, Some(Mutant::NewestTablesInReplay)] {
        let mut world = World::new(3, hot(), false);
        let tables = world.tables();
        let rows = |country: &str| {
            parse_csv(format!("user_id,country\nw,{country}\n").as_bytes(), 10).unwrap()
        };
        tables.put(TableName::Users, rows("DE")).unwrap();
        world.recover_with(tables).unwrap();
        let mut said = Said {
            source: None,
            who: Who::User("w".to_owned()),
            id: "one".to_owned(),
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
        // The model counts the event as the table of its entry had it.
        world.model = crate::model::Model::default();
        said.dims.insert("country", "DE".to_owned());
        world.model.say(&said);
        world.verify();
        world.tables().put(TableName::Users, rows("FR")).unwrap();
        world.mutant = mutant;
        world.crash();
        assert_eq!(world.differences().is_err(), mutant.is_some(), "{mutant:?}");
    }
}
