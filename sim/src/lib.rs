//! The simulator: the shipped shell, log, journal, checkpoints and store over a simulated disk.
//!
//! One number decides everything: what clients send and in which order, when shards step, seal
//! and fold, how the clock moves, and what the disk does to them. Same seed, same storm, byte
//! for byte. After it every cell, session and counter is compared with a naive [`Model`], and
//! every acknowledged event is looked for.
//!
//! What the storm is aimed at, and which deliberate bug proves that it hits. A named test fails
//! when its mutant is not caught; the first column's mutants also run by hand with
//! `./test storm --mutant NAME`.
//!
//! | mutant | caught by |
//! | --- | --- |
//! | `no-fsync` | `sim: the_storm_catches_a_disk_that_lies_about_syncs`, `log: the_crash_test_catches_a_log_that_does_not_sync`, `rollups: the_crash_test_notices_a_disk_that_does_not_sync` |
//! | `no-deduplication` | `sim: the_storm_catches_a_fold_that_counts_repeats` |
//! | `publish-before-durable` | `sim: the_storm_catches_what_is_shown_before_it_is_durable`, `stream: publish_before_durable_is_caught` |
//! | `sealed-layer-twice` | `sim: the_storm_catches_a_sealed_layer_counted_twice`, `stream: a_sealed_layer_counted_twice_after_a_restore_is_caught` |
//! | `newest-tables-in-replay` | `sim: the_storm_catches_a_replay_with_other_tables`, `stream: a_dimension_table_changed_between_crash_and_replay_is_caught` |
//! | `cold-ids-lost` | `sim: the_storm_catches_cold_ids_that_are_lost`, `stream: the_tests_notice_when_cold_ids_are_lost` |
//! | `unreadable-run-is-new` | `sim: a_damaged_id_run_never_counts_an_event_twice`, `stream: i4_no_flipped_bit_in_a_run_makes_an_old_id_new` |
//! | `session-not-retracted` | `sim: the_storm_catches_a_session_that_is_not_taken_back`, `stream: the_tests_notice_when_a_session_is_not_retracted` |
//! | `layer-lost` | `sim: the_storm_catches_a_store_that_loses_a_layer`, `rollups: a_fold_that_forgot_a_layer_would_be_noticed` |
//! | registers depending on order | `stream: cells_past_512_users_are_estimated_and_equal_in_any_order`, `stream: registers_keep_the_greatest_rank_and_those_that_depend_on_order_are_caught`, `rollups: many_users_have_the_same_registers_however_they_were_folded` |
//!
//! This crate simulates no network: the gateway is tested where it is. It measures no speed.

mod said;
pub use said::{Said, Who};

mod client;
pub use client::Client;

mod model;
pub use model::{Cell, Fact, Key, Model};

mod house;
pub use house::{House, Knobs};

mod mutant;
pub use mutant::Mutant;

mod check;
pub use check::{Look, cells, conservation};

mod damage;
pub use damage::never_twice;

mod storm;
pub use storm::{Calm, run};
