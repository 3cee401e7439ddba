//! N1, N2, N3 over power loss and failing calls, with clients that repeat in another order.

use nilometer_log::disk::sim::{Fault, FaultKind, Op};

use crate::exact::{cold, hot};
use crate::world::World;

fn storm(seed: u64, folds: bool) {
    let settings = if seed.is_multiple_of(2) { cold() } else { hot() };
    let mut world = World::started(seed, settings, folds);
    let mut shown = 0;
    for round in 0..40 {
        match world.rng.u8(0..8) {
            0 => {
                let ops = [Op::Write, Op::Sync, Op::Rename, Op::Create, Op::SyncDir, Op::Read];
                let op = *world.rng.choice(ops.iter()).unwrap();
                let after = world.rng.u64(0..6);
                world.disk.fail_next(Fault { op, after, kind: FaultKind::Error, times: 1 });
            }
            1 => {
                world.crash();
                let seq = world.views.pin()[0].facts().seq;
                assert!(seq >= shown, "seed {seed} round {round}: shown {shown}, back at {seq}");
            }
            _ => {}
        }
        let events = world.rng.usize(0..25);
        world.send(events);
        let ms = world.rng.i64(100..15_000);
        world.step_after(ms);
        shown = world.views.pin()[0].facts().seq;
    }
    world.disk.heal();
    world.settle_clients();
    world.drain();
    world.verify();
    let before = world.counters();
    world.crash();
    world.drain();
    world.verify();
    assert_eq!(world.counters(), before, "seed {seed}");
}

#[test]
fn a_storm_of_crashes_and_failures_leaves_every_cell_exact() {
    for seed in 0..8 {
        storm(seed, false);
    }
}

#[test]
#[ignore = "the full dose: minutes; ./test storm runs it"]
fn a_storm_at_full_dose_leaves_every_cell_exact() {
    for seed in 1_000..1_200 {
        storm(seed, false);
    }
}

#[test]
fn a_storm_over_a_sink_that_folds_leaves_every_cell_exact() {
    // The sink copies what it adopts, so reads fail only outside of it.
    for seed in 100..104 {
        storm_without_faults(seed);
    }
}

fn storm_without_faults(seed: u64) {
    let mut world = World::started(seed, cold(), true);
    for _ in 0..40 {
        if world.rng.u8(0..6) == 0 {
            world.crash();
        }
        let events = world.rng.usize(0..25);
        world.send(events);
        let ms = world.rng.i64(100..15_000);
        world.step_after(ms);
    }
    world.settle_clients();
    world.drain();
    world.verify();
}

#[test]
fn recovered_cells_are_those_of_the_uninterrupted_run_byte_for_byte() {
    let run = |crashes: bool| {
        let mut world = World::started(5, hot(), false);
        let mut bytes = Vec::new();
        for round in 0..20 {
            world.send(30);
            world.step_after(4_000);
            if crashes && round % 3 == 0 {
                world.crash();
            }
        }
        world.checkpoint();
        for path in world.disk.paths().iter().filter(|path| path.contains("/layer-")) {
            let read = nilometer_log::Disk::read(&world.disk, path).unwrap();
            bytes.push((path.clone(), read));
        }
        bytes
    };
    let (whole, broken) = (run(false), run(true));
    assert!(!whole.is_empty());
    assert!(whole == broken, "layers differ from those of the uninterrupted run");
}
