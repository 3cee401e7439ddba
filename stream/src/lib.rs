//! The workshop: a pure fold over each shard's journal that deduplicates, enriches, windows and
//! sessionises, and the thin shell that feeds it.

pub mod declare;

pub mod aggregate;

pub mod cells;

pub mod ids;

pub mod sessions;

pub mod tables;

pub mod journal;

pub mod fold;

pub mod checkpoint;

pub mod view;

pub mod shell;
