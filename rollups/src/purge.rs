//! Taking a key's events of a day out again, of a house that nobody else works on.
//!
//! Each shard's journal is folded once more without them ([`Shell::without`]), into a store beside
//! this one, and the day's cells are taken from there. One file then makes it true, of all shards
//! and the store at once: before it nothing has changed, and after it the next opening of the
//! directory does what is left ([`nilometer_stream::purges`]).

use std::sync::Arc;

use nilometer_event::{EventTime, Granularity, Partition, PartitionCount, ReceiveTime, TimeRange};
use nilometer_log::Disk;
use nilometer_stream::declare::PlanId;
use nilometer_stream::purges::{self, Commit, Purge, PurgeFileError};
use nilometer_stream::shell::PlanBook;
use nilometer_stream::view::{LayerNumber, LayerSink, SealedLayerFile, Views};
use nilometer_stream::{PurgeError, Scratch, Shell};
use parking_lot::Mutex;
use thiserror::Error;

use crate::embedded::{EmbeddedStore, PlanFinder};
use crate::error::{FoldError, OpenError, ReplaceError};
use crate::fold::FoldLimits;

/// The replay's layers are folded once so many wait.
const LAYERS_AT_ONCE: usize = 64;

/// A house whose shards have settled, with nobody else at work on it.
pub struct Purging<'a> {
    /// Its shards; of no use afterwards.
    pub shells: &'a mut [Shell],
    /// Its store; to be opened anew afterwards.
    pub store: &'a EmbeddedStore,
    /// How many shards there are.
    pub partitions: PartitionCount,
    /// Its directory.
    pub disk: &'a Arc<dyn Disk>,
    /// Where the replay writes; empty, and of no use afterwards.
    pub scratch: &'a Arc<dyn Disk>,
    /// The house clock.
    pub now: ReceiveTime,
    /// Told how many records were folded, again and again.
    pub progress: &'a dyn Fn(u64),
}

impl std::fmt::Debug for Purging<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Purging").field("store", &self.store).finish_non_exhaustive()
    }
}

/// Why a purge was not made.
#[derive(Debug, Error)]
pub enum MakePurgeError {
    /// A shard could not tell what it is without these events.
    #[error(transparent)]
    Shard(#[from] PurgeError),
    /// The store could not be folded.
    #[error(transparent)]
    Fold(#[from] FoldError),
    /// The replay's store could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The day's cells could not be replaced.
    #[error(transparent)]
    Replace(#[from] ReplaceError),
    /// The replay counts the day otherwise than it was counted.
    #[error(
        "of the day that begins at {day} the log gives {replayed} events where {counted} were \
         counted: some were judged by what is no longer in the log, and cannot be told anew"
    )]
    Numbers {
        /// Which.
        day: EventTime,
        /// As shown.
        counted: i64,
        /// As replayed, had nothing been purged.
        replayed: i64,
    },
    /// Its files could not be written; the purge may have been made.
    #[error("{0}; start again: what was made is finished first")]
    Files(#[from] PurgeFileError),
    /// No more layers come into the base.
    #[error("{layers} layers cannot be folded into the base; `nilometer doctor` says why")]
    Stuck {
        /// How many.
        layers: u64,
    },
}

/// A UTC day, by its number since 1970.
#[must_use]
pub fn range_of(day: i64) -> TimeRange {
    let start = EventTime::from_ms(day.saturating_mul(Granularity::Day.ms()));
    TimeRange { start, end: start.plus_ms(Granularity::Day.ms()) }
}

impl EmbeddedStore {
    /// Folds every layer that there is.
    ///
    /// # Errors
    ///
    /// [`MakePurgeError::Fold`], [`MakePurgeError::Stuck`].
    pub fn fold_all(&self, now: ReceiveTime) -> Result<(), MakePurgeError> {
        loop {
            let report = self.fold_once(now, FoldLimits::default())?;
            let layers = self.version().layers.len() as u64;
            match (layers, report.layers) {
                (0, _) => return Ok(()),
                (layers, 0) => return Err(MakePurgeError::Stuck { layers }),
                _ => {}
            }
        }
    }
}

/// Takes the events of `key` on `day` out, for good.
///
/// # Errors
///
/// [`MakePurgeError`]; nothing has changed, but for [`MakePurgeError::Files`].
pub fn purge(house: &mut Purging<'_>, key: &str, day: i64) -> Result<Purge, MakePurgeError> {
    let before = purges::load(house.disk.as_ref())?;
    house.store.fold_all(house.now)?;
    let views = Arc::new(Views::new(house.partitions));
    let plans = PlanBook::all(house.disk.as_ref());
    let find: PlanFinder = {
        let plans = plans.clone();
        Arc::new(move |id: PlanId| plans.iter().find(|plan| plan.id == id).cloned())
    };
    let with = EmbeddedStore::with_plans(
        Arc::clone(house.scratch),
        house.store.settings.clone(),
        views,
        Arc::clone(&house.store.plan),
        find,
    )?;
    let mut commit = Commit::default();
    let (mut shards, mut fewer, mut days) = (Vec::new(), 0, (day, day));
    let sink = Folding { store: &with, now: house.now, failed: Mutex::default() };
    for shell in &mut *house.shells {
        let (disk, progress) = (Arc::clone(house.scratch), house.progress);
        let scratch = Scratch { disk, sink: &sink, progress };
        let without = shell.without((key, day), &before, &scratch)?;
        if let Some(error) = sink.failed.lock().take() {
            return Err(error);
        }
        commit.writes.push(without.manifest);
        commit.removes.extend(without.removes);
        shards.push(without.shard);
        fewer += without.fewer;
        days = (without.days.0.min(days.0), without.days.1.max(days.1));
    }
    with.fold_all(house.now)?;
    for of in days.0..=days.1 {
        let counted = house.store.events_on(range_of(of))?;
        let replayed = with.events_on(range_of(of))? + if of == day { fewer } else { 0 };
        if counted != replayed {
            let day = range_of(of).start;
            return Err(MakePurgeError::Numbers { day, counted, replayed });
        }
    }
    let mut known = plans;
    known.push(Arc::clone(&house.store.plan));
    let replaced = house.store.replaced(range_of(day), &with, &known, house.now)?;
    commit.writes.push(replaced.manifest);
    commit.removes.extend(replaced.removes);
    let number = before.last().map_or(1, |last| last.number + 1);
    let made = Purge { number, key: key.to_owned(), day, at: house.now, shards };
    commit.make(house.disk.as_ref(), &made)?;
    purges::finish(house.disk.as_ref())?;
    Ok(made)
}

/// Folds the replay's layers as they come.
#[derive(Debug)]
struct Folding<'a> {
    store: &'a EmbeddedStore,
    now: ReceiveTime,
    failed: Mutex<Option<MakePurgeError>>,
}

impl LayerSink for Folding<'_> {
    fn adopt(&self, sealed: SealedLayerFile) {
        self.store.adopt(sealed);
        if self.store.version().layers.len() >= LAYERS_AT_ONCE
            && let Err(error) = self.store.fold_all(self.now)
        {
            *self.failed.lock() = Some(error);
        }
    }

    fn folded_through(&self, partition: Partition) -> LayerNumber {
        self.store.folded_through(partition)
    }
}
