//! Flipped bits: a checkpoint falls back to the one before, a journal entry is read from its
//! successor.

use nilometer_event::{Partition, Topic};
use nilometer_stream::RecoverError;

use crate::exact::{cold, hot};
use crate::world::World;

fn newest(world: &World, part: &str) -> Vec<String> {
    let mut paths: Vec<String> =
        world.disk.paths().into_iter().filter(|path| path.contains(part)).collect();
    paths.sort();
    paths.reverse();
    paths
}

fn with_two_checkpoints(seed: u64) -> World {
    let mut world = World::started(seed, hot(), false);
    for _ in 0..3 {
        world.send(60);
        world.drain();
        world.checkpoint();
    }
    world.send(30);
    world.drain();
    world
}

#[test]
fn a_damaged_newest_manifest_falls_back_to_the_one_before() {
    let mut world = with_two_checkpoints(1);
    let manifests = newest(&world, "manifest-");
    assert_eq!(manifests.len(), 2);
    let (before, counters) = (world.views.pin()[0].facts().seq, world.counters());
    world.disk.flip_bit(&manifests[0], 40);
    world.crash();
    assert_eq!(world.views.pin()[0].facts().seq, before);
    assert_eq!(world.counters(), counters);
    world.verify();
}

#[test]
fn a_damaged_file_that_only_the_newest_manifest_lists_falls_back_too() {
    for part in ["/layer-", ".ids", ".sessions", "/guard-"] {
        let mut world = with_two_checkpoints(2);
        let counters = world.counters();
        let path = newest(&world, part).remove(0);
        let middle = world.disk.len_of(&path).unwrap() / 2;
        world.disk.flip_bit(&path, middle);
        world.crash();
        assert_eq!(world.counters(), counters, "{path}");
        world.verify();
    }
}

#[test]
fn with_every_manifest_damaged_the_journal_is_replayed_from_its_begin() {
    let mut world = with_two_checkpoints(3);
    for path in newest(&world, "manifest-") {
        world.disk.flip_bit(&path, 30);
    }
    world.crash();
    world.verify();
    world.send(20);
    world.drain();
    world.verify();
}

#[test]
fn a_damaged_journal_entry_is_read_from_its_successor() {
    for place in 1..12 {
        let mut world = World::started(4, hot(), false);
        for _ in 0..8 {
            world.send(20);
            world.step_after(2_000);
        }
        world.drain();
        let (seq, counters) = (world.views.pin()[0].facts().seq, world.counters());
        let path = newest(&world, "log/journal/").into_iter().find(|path| path.ends_with(".log"));
        let path = path.unwrap();
        let bytes = world.disk.len_of(&path).unwrap();
        // The last entry has no successor; damage anywhere before its batch.
        world.disk.flip_bit(&path, bytes * 10 / 12 * place / 12);
        world.crash();
        assert_eq!(world.views.pin()[0].facts().seq, seq, "place {place}");
        assert_eq!(world.counters(), counters);
        world.verify();
    }
}

#[test]
fn a_damaged_event_is_quarantined_and_counted() {
    let mut world = World::started(5, cold(), false);
    world.send(40);
    world.shell = None;
    let path = newest(&world, "log/user-events/").into_iter().find(|it| it.ends_with(".log"));
    let path = path.unwrap();
    let bytes = world.disk.len_of(&path).unwrap();
    world.disk.flip_bit(&path, bytes / 2);
    world.crash();
    world.drain();
    let counters = world.counters();
    assert_eq!(counters.residual(), 0);
    assert!(counters.quarantined > 0, "{counters:?}");
    let received: u64 = Topic::RECEIVED
        .map(|topic| world.log.bounds(topic, Partition::new(0)).end.get())
        .iter()
        .sum();
    assert_eq!(counters.received, received);
}

#[test]
fn another_partition_count_or_a_later_engine_is_refused_untouched() {
    let mut world = with_two_checkpoints(6);
    world.shell = None;
    let manifests = newest(&world, "manifest-");
    let bytes = nilometer_log::Disk::read(&world.disk, &manifests[0]).unwrap();
    let mut later = bytes.clone();
    // Magic of 8 bytes, version, then the engine.
    later[9] += 1;
    let body = later.len() - 4;
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &later[..body]);
    later[body..].copy_from_slice(&u32::try_from(crc).unwrap().to_le_bytes());
    nilometer_log::write_atomically(&world.disk, &manifests[0], &later).unwrap();
    let paths = world.disk.paths();
    let refused = world.recover().unwrap_err();
    assert!(matches!(refused, RecoverError::NewerEngine { .. }), "{refused}");
    assert_eq!(world.disk.paths(), paths);
    assert_eq!(nilometer_log::Disk::read(&world.disk, &manifests[0]).unwrap(), later);
}
