//! N2, N3, N4: every cell of every set and granularity equals the model's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nilometer_event::{EventTime, Granularity, ReceiveTime, TimeRange, Topic};
use nilometer_stream::cells::{CellSource, ScanRequest};
use nilometer_stream::declare::{Plan, SetKind};
use nilometer_stream::view::Views;
use nilometer_stream::{FoldSettings, StreamSettings};

use crate::model::Who;
use crate::world::World;

/// Everything cold: nothing stays in memory past a seal, and every entry seals.
pub(crate) fn cold() -> StreamSettings {
    StreamSettings {
        checkpoint_interval_ms: 1,
        entry_events_max: 40,
        fold: FoldSettings { hot_ms: 0, hot_ids_max: 1, hot_sessions_max: 1, ..hot().fold },
        ..hot()
    }
}

/// Everything hot.
pub(crate) fn hot() -> StreamSettings {
    StreamSettings { entry_events_max: 500, ..StreamSettings::default() }
}

fn walk(world: &mut World, rounds: usize) {
    for _ in 0..rounds {
        let events = world.rng.usize(0..60);
        world.send(events);
        if world.rng.u8(0..5) == 0 {
            world.append_raw(Topic::UserEvents, b"no event");
            world.append_raw(Topic::DeadLetters, b"whatever");
        }
        let ms = world.rng.i64(100..20_000);
        assert!(world.step_after(ms));
    }
    world.drain();
}

#[test]
fn every_cell_is_exact_with_everything_hot() {
    for seed in 0..3 {
        let mut world = World::started(seed, hot(), false);
        walk(&mut world, 30);
        world.verify();
    }
}

#[test]
fn every_cell_is_exact_with_everything_cold() {
    for seed in 0..3 {
        let mut world = World::started(seed, cold(), false);
        walk(&mut world, 30);
        world.verify();
    }
}

#[test]
fn every_cell_is_exact_over_a_sink_that_folds() {
    let mut world = World::started(7, cold(), true);
    walk(&mut world, 60);
    world.verify();
    let layers = world.disk.paths().into_iter().filter(|path| path.contains("/layer-")).count();
    assert!(layers <= 2, "{layers} layer files are kept though the sink is past them");
}

#[test]
fn the_watermark_follows_events_and_idle_time_but_neither_imports_nor_the_future() {
    let mut world = World::started(1, hot(), false);
    world.drain();
    let facts = |world: &World| world.views.pin()[0].facts();
    let lateness = i64::from(world.settings.fold.lateness_ms);
    let birth = world.now_ms();
    assert_eq!(facts(&world).watermark.ms(), birth - lateness);
    // Idle: now − 1 min − lateness, once that is more.
    world.step_after(600_000);
    assert_eq!(facts(&world).watermark.ms(), world.now_ms() - 60_000 - lateness);
    let before = facts(&world).watermark;
    world.send(0);
    let said = |world: &World, ahead_ms: i64, topic, corrected| crate::model::Said {
        source: None,
        who: Who::User("w".to_owned()),
        id: format!("w{ahead_ms}{corrected}"),
        event_type: "click".to_owned(),
        time_ms: world.now_ms() + ahead_ms,
        sent_ms: world.now_ms() + ahead_ms,
        corrected,
        topic,
        dims: std::collections::BTreeMap::new(),
        duration_halves: None,
        completed: None,
    };
    let import = said(&world, 200_000, Topic::Imports, false);
    world.say(import);
    let future = said(&world, 200_000, Topic::UserEvents, true);
    world.say(future);
    world.step_after(0);
    assert_eq!(facts(&world).watermark, before);
    let ahead = said(&world, 240_000, Topic::UserEvents, false);
    world.say(ahead);
    world.step_after(0);
    assert_eq!(facts(&world).watermark.ms(), world.now_ms() + 240_000 - lateness);
    assert_eq!(facts(&world).counters.late, 0);
    let late = said(&world, -3 * 3_600_000, Topic::UserEvents, false);
    world.say(late);
    world.step_after(1);
    assert_eq!(facts(&world).counters.late, 1);
    world.verify();
}

#[test]
fn an_event_in_a_closed_hour_goes_to_late_events_and_an_import_before_birth_counts() {
    let mut settings = cold();
    // Beyond the oldest live event that the world invents (3 days).
    settings.fold.horizon_hours = 5 * 24;
    let mut world = World::started(3, settings, false);
    world.send(20);
    world.drain();
    world.checkpoint();
    for _ in 0..10 {
        world.step_after(20 * 3_600_000);
        world.checkpoint();
    }
    let counted = world.counters();
    world.verify();
    let day_ms = 86_400_000;
    let mut said = world.model.events[0].clone();
    said.corrected = false;
    (said.id, said.topic) = ("old-live".to_owned(), Topic::UserEvents);
    (said.time_ms, said.sent_ms) = (world.now_ms() - 6 * day_ms, world.now_ms() - 6 * day_ms);
    let model = world.model.clone();
    world.say(said.clone());
    // It is late, so the model does not count it.
    world.model = model;
    (said.id, said.topic) = ("old-import".to_owned(), Topic::Imports);
    (said.time_ms, said.sent_ms) = (world.now_ms() - 30 * day_ms, world.now_ms() - 30 * day_ms);
    world.say(said);
    world.drain();
    world.verify();
    let now = world.counters();
    assert_eq!(now.late_pending, counted.late_pending + 1);
    assert_eq!(now.unique, counted.unique + 1);
    let end = world.log.bounds(Topic::LateEvents, nilometer_event::Partition::new(0)).end;
    assert_eq!(end.get(), 1);
    let _clock: ReceiveTime = ReceiveTime::from_ms(world.now_ms());
}

/// Reads until told to stop; every answer is of one seq, and none goes back. Returns how many
/// different ones there were.
fn watch(views: &Views, plan: &Arc<Plan>, stop: &AtomicBool) -> usize {
    let total = plan.set_for(SetKind::Events, &[]).unwrap();
    let range = TimeRange { start: EventTime::from_ms(-1 << 50), end: EventTime::from_ms(1 << 50) };
    let request = ScanRequest::new(Arc::clone(plan), total, Granularity::Minute, range);
    let (mut seqs, mut last) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let view = Arc::clone(&views.pin()[0]);
        let facts = view.facts();
        let open = view.open.read();
        assert!(last <= facts.seq && facts.seq <= open.facts.seq);
        let mut counted = request.empty();
        open.layer.scan(&request, &mut |cell| cell.aggregates.merge_into(&mut counted)).unwrap();
        let unique = i64::try_from(open.facts.counters.unique).unwrap();
        assert_eq!(counted.counts[0], unique, "half an entry shows");
        assert_eq!(open.facts.counters.residual(), 0);
        seqs += usize::from(open.facts.seq > last);
        last = open.facts.seq;
    }
    seqs
}

#[test]
fn a_reader_beside_the_fold_never_sees_half_an_entry() {
    let settings = StreamSettings { entry_events_max: 20_000, ..StreamSettings::default() };
    let mut world = World::started(5, settings, false);
    let plan = Arc::clone(&world.views.pin()[0].plan);
    let (views, stop) = (Arc::clone(&world.views), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| watch(&views, &plan, &stop));
        for _ in 0..6 {
            // Many records in one entry, so that readers come in its midst.
            world.send(3_000);
            world.step_after(1_000);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
    world.drain();
    world.verify();
}

/// The number of the open layer after 3,000 events, where memory alone seals, with so much of it
/// set aside for ids and sessions.
fn layers_at(hot_bytes_max: u64) -> u64 {
    let layer_bytes_max = 1 << 20;
    let checkpoint_interval_ms = u32::MAX;
    let settings =
        StreamSettings { checkpoint_interval_ms, layer_bytes_max, hot_bytes_max, ..hot() };
    let mut world = World::started(8, settings, false);
    for _ in 0..15 {
        world.send(200);
        assert!(world.step_after(1_000));
    }
    world.drain();
    world.verify();
    world.views.pin()[0].layer.get()
}

#[test]
fn layers_have_the_memory_that_ids_and_sessions_do_not_need_yet() {
    let own = layers_at(0);
    assert!(own > 3, "{own} layers");
    assert_eq!(layers_at(1), own, "what ids and sessions hold is not lent");
    assert_eq!(layers_at(1 << 30), 1, "all events fit into what is lent");
}

#[test]
fn what_the_guard_remembers_is_told_as_memory() {
    let mut world = World::started(9, hot(), false);
    world.send(50);
    world.drain();
    let before = world.views.memory()[0].guard;
    let mut said = world.model.events[0].clone();
    for n in 0..2_000 {
        said.id = format!("of-{n}");
        said.dims.insert("content_id", format!("of-{n}"));
        world.say(said.clone());
    }
    world.drain();
    world.verify();
    let grown = world.views.memory()[0].guard - before;
    // Hash and count of each value, in a table that is at least half full.
    assert!((2_000 * 12..2_000 * 200).contains(&grown), "{grown} bytes");
}

/// Catches: an entry as large as entries were, of records that each add a thousand times more.
#[test]
fn an_entry_ends_where_its_layer_has_no_room_for_what_its_records_add() {
    let layer_bytes_max = 4 << 20;
    let checkpoint_interval_ms = u32::MAX;
    let settings =
        StreamSettings { layer_bytes_max, checkpoint_interval_ms, ..StreamSettings::default() };
    let mut world = World::started(10, settings, false);
    for _ in 0..5 {
        world.send(2_000);
        world.drain();
    }
    let mut said = world.model.events[0].clone();
    said.topic = Topic::UserEvents;
    for n in 0..6_000 {
        said.id = format!("strange-{n}");
        // Fewer than a cell counts exactly.
        said.who = Who::User(format!("stranger-{}", n % 300));
        said.event_type = format!("type-{n}");
        for dimension in ["country", "device_type", "content_category", "channel"] {
            said.dims.insert(dimension, format!("{dimension}-{n}"));
        }
        world.say(said.clone());
    }
    let mut most = 0;
    for _ in 0..100 {
        world.step_after(100);
        let memory = world.views.memory()[0];
        most = most.max(memory.open + memory.sealing);
    }
    println!("6,000 strange events: layers held {most} bytes at most");
    world.drain();
    world.verify();
    // Two of them, with their scratch and what their lists have reserved; one entry of all the
    // records would take 60 MB.
    assert!(most < 8 * layer_bytes_max, "{most} bytes");
}
