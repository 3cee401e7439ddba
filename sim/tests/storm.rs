//! A small dose of the storm, and that no deliberate bug weathers it.

use nilometer_sim::{Mutant, never_twice, run};

/// A mutant is to be noticed within so many seeds.
const SEEDS_MAX: u64 = 40;

fn weather(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        if let Err(error) = run(seed, None) {
            panic!("{error:#}\nreplay: ./test storm --seed {seed}");
        }
    }
}

// In three parts, so that they run beside each other.

#[test]
fn storms_leave_every_acknowledged_event_counted_once() {
    weather(0..12);
}

#[test]
fn more_storms_leave_every_acknowledged_event_counted_once() {
    weather(12..24);
}

#[test]
fn the_same_seed_is_the_same_storm_and_others_differ() {
    let calms: Vec<_> = (100..104).map(|seed| run(seed, None).unwrap()).collect();
    assert!(calms.windows(2).all(|pair| pair[0].digest != pair[1].digest));
    assert!(calms.iter().all(|calm| calm.unique > 50 && calm.starts > 0));
    assert!(calms.iter().map(|calm| calm.refusals).sum::<u64>() > 0, "the disk refused nothing");
    assert!(calms.iter().map(|calm| calm.purges).sum::<u64>() > 0, "nothing was purged");
    for (seed, calm) in (100..102).zip(calms) {
        assert_eq!(run(seed, None).unwrap(), calm, "seed {seed}: other bytes the second time");
    }
}

/// The first seed whose storm notices.
fn caught(mutant: Mutant) -> u64 {
    let noticed = |&seed: &u64| {
        let storm = std::panic::catch_unwind(|| run(seed, Some(mutant)));
        storm.is_err() || storm.is_ok_and(|calm| calm.is_err())
    };
    (0..SEEDS_MAX).find(noticed).unwrap_or_else(|| panic!("{mutant:?} weathers {SEEDS_MAX} storms"))
}

#[test]
fn the_storm_catches_a_disk_that_lies_about_syncs() {
    caught(Mutant::NoFsync);
}

#[test]
fn the_storm_catches_a_fold_that_counts_repeats() {
    caught(Mutant::NoDeduplication);
}

#[test]
fn the_storm_catches_what_is_shown_before_it_is_durable() {
    caught(Mutant::PublishBeforeDurable);
}

#[test]
fn the_storm_catches_a_sealed_layer_counted_twice() {
    caught(Mutant::SealedLayerTwice);
}

#[test]
fn the_storm_catches_a_replay_with_other_tables() {
    caught(Mutant::NewestTablesInReplay);
}

#[test]
fn the_storm_catches_cold_ids_that_are_lost() {
    caught(Mutant::ColdIdsLost);
}

#[test]
fn the_storm_catches_a_session_that_is_not_taken_back() {
    caught(Mutant::SessionNotRetracted);
}

#[test]
fn the_storm_catches_a_store_that_loses_a_layer() {
    caught(Mutant::LayerLost);
}

#[test]
fn a_damaged_id_run_never_counts_an_event_twice() {
    for seed in 0..5 {
        never_twice(seed, None).unwrap();
    }
    let noticed = (0..5).any(|seed| never_twice(seed, Some(Mutant::UnreadableRunIsNew)).is_err());
    assert!(noticed, "the mutant counts nothing twice");
}
