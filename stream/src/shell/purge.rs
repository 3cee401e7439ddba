//! A key's events of a day are taken out again, of a shard that nobody else works on.
//!
//! Everything is folded and checkpointed first ([`Shell::settle`]). Then the journal is folded once
//! more, as far back as the log reaches, without these events, into files of its own: from it come
//! the day's cells, what the guard knows of the day, and the sessions of their users. What of
//! these differs is written beside the shard's files, and becomes true with one manifest, which
//! [`Commit`](crate::purges::Commit) writes together with those of the other shards and the store.

mod reach;
mod replay;
use reach::{Begin, Taking, each_event, takings};
use replay::{Replay, USERS_MAX};

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::sync::Arc;

use nilometer_event::{EventTime, Granularity, Partition, TimeRange, avro};
use nilometer_log::{Disk, ReadError};

use super::{PlanLoadError, Shell, StreamConfig, Writing};
use crate::cells::{Guard, GuardDamaged};
use crate::checkpoint::{Job, Manifest, Scribe, folder};
use crate::error::{DimensionTableError, JournalError, StartError, StepError};
use crate::fold::{PurgeTally, State, day_of};
use crate::ids::{MergeRunsError, RunReadFailed};
use crate::purges::{Purge, PurgedShard};
use crate::sessions::{Difference, SessionEdits};
use crate::view::LayerSink;

/// Users whose sessions are compared at once: some 200 MB.
const USERS_AT_ONCE: usize = 200_000;

/// Where a replay writes, and who looks on.
pub struct Scratch<'a> {
    /// Files that are of no use afterwards.
    pub disk: Arc<dyn Disk>,
    /// Takes the layers of the replay.
    pub sink: &'a dyn LayerSink,
    /// Told how many records were folded, again and again.
    pub progress: &'a dyn Fn(u64),
}

impl std::fmt::Debug for Scratch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scratch").field("disk", &self.disk).finish_non_exhaustive()
    }
}

impl Scratch<'_> {
    fn folded(&self, records: u64) {
        (self.progress)(records);
    }
}

/// What a purge would take of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Events, repeats included.
    pub events: u64,
    /// Whose, by their hashes.
    pub users: HashSet<u64>,
    /// Minutes that have some of them, by their starts.
    pub minutes: BTreeSet<EventTime>,
    /// Records of all keys that a replay folds.
    pub replayed: u64,
    /// The first moment from which the log has all events.
    pub from: Option<EventTime>,
}

/// A shard without the events, ready to be made true.
#[derive(Debug)]
pub struct Without {
    /// The manifest's path and content.
    pub manifest: (String, Vec<u8>),
    /// Manifests that go.
    pub removes: Vec<String>,
    /// For the record of the purge.
    pub shard: PurgedShard,
    /// Events of the day that the shard has fewer: what had counted, but for what counts in place
    /// of it.
    pub fewer: i64,
    /// The first and the last day that anything of it concerns: it is right where the replay
    /// counts no other events of these days than were counted.
    pub days: (i64, i64),
}

/// Why events were not purged. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PurgeError {
    /// The log no longer has the day.
    #[error(
        "the log reaches back to {from} only, and what happened before that day's begin at \
         {start} counts for good: what retention has taken (log.retention_h, \
         log.retention_bytes) cannot be replayed"
    )]
    Reach {
        /// From there on it has everything.
        from: EventTime,
        /// The day's.
        start: EventTime,
    },
    /// The log has nothing that the journal speaks of.
    #[error("shard {partition}: the log no longer has any entry's records whole")]
    Empty {
        /// The shard.
        partition: Partition,
    },
    /// Hours of the day take no events any more.
    #[error(
        "shard {partition}: hours of that day are closed: they are past stream.horizon_days, or a \
         file of their ids was damaged"
    )]
    Closed {
        /// The shard.
        partition: Partition,
    },
    /// Records of the log were lost to damage.
    #[error(
        "shard {partition}: {lost} records of the log are lost to damage: a replay would lose \
         them, too; restore the segment from a backup (`nilometer doctor` names it)"
    )]
    Lost {
        /// The shard.
        partition: Partition,
        /// How many.
        lost: u64,
    },
    /// Entries of the journal were lost to damage.
    #[error("shard {partition}: journal entry {seq} is lost, so nothing can be replayed over it")]
    Journal {
        /// The shard.
        partition: Partition,
        /// The first.
        seq: u64,
    },
    /// Sessions that touch the day began before the log does.
    #[error(
        "{sessions} sessions of users of these events began before the log does, at {from}: what \
         they were without them cannot be told"
    )]
    Sessions {
        /// How many.
        sessions: usize,
        /// From there on the log has everything.
        from: EventTime,
    },
    /// More users than memory has room for.
    #[error("these events are of more than {USERS_MAX} users in one shard")]
    Users,
    /// More earlier purges than one replay can leave out.
    #[error("{purges} purges were made of what the log holds: wait until it no longer does")]
    TooMany {
        /// How many.
        purges: usize,
    },
    /// A replay gave fewer events than the shard has counted.
    #[error("shard {partition}: a replay finds more of these events than have counted")]
    Counters {
        /// The shard.
        partition: Partition,
    },
    /// The shards did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The shard did not come to rest.
    #[error("shard {partition} does not come to rest: {source}")]
    Step {
        /// The shard.
        partition: Partition,
        /// Why.
        source: StepError,
    },
    /// The guard's bytes are not what they were.
    #[error(transparent)]
    Guard {
        /// What is wrong.
        #[from]
        error: GuardDamaged,
    },
    /// The disk refused the replay's files.
    #[error("files of the replay: {source}")]
    Scratch {
        /// What it says.
        source: io::Error,
    },
    /// The disk refused the shard's files.
    #[error("{path}: {source}")]
    Disk {
        /// Which.
        path: String,
        /// What it says.
        source: io::Error,
    },
    /// The log could not be read.
    #[error("the log could not be read: {source}")]
    Read {
        /// Why.
        source: ReadError,
    },
    /// It could not be read as an entry says.
    #[error(transparent)]
    Reread(#[from] StepError),
    /// The journal could not be read.
    #[error(transparent)]
    Entry(#[from] JournalError),
    /// A plan that entries name cannot be had.
    #[error("a plan that the journal names: {0}")]
    Plan(#[from] PlanLoadError),
    /// A dimension table that entries name is gone.
    #[error("an older version of a dimension table that the journal names is needed: {0}")]
    Table(#[from] DimensionTableError),
    /// A run file could not be read.
    #[error(transparent)]
    Run(#[from] RunReadFailed),
    /// Run files could not be rewritten.
    #[error(transparent)]
    Runs(#[from] MergeRunsError),
}

impl PurgeError {
    const fn scratch(source: io::Error) -> Self {
        Self::Scratch { source }
    }
}

/// A UTC day.
#[must_use]
pub(super) fn range_of(day: i64) -> TimeRange {
    let start = EventTime::from_ms(day * Granularity::Day.ms());
    TimeRange { start, end: start.plus_ms(Granularity::Day.ms()) }
}

impl Shell {
    /// Recovers every shard of a house that nobody else works on, and lets it settle.
    ///
    /// # Errors
    ///
    /// [`PurgeError::Start`], [`PurgeError::Step`].
    pub fn all_settled(config: &StreamConfig) -> Result<Vec<Self>, PurgeError> {
        let (tables, plans) = config.books()?;
        let settled = |partition| {
            let shell = config.shell(partition, &tables, &plans, Writing::Inline);
            let mut shell = Self::recover(shell).map_err(StartError::from)?;
            shell.settle()?;
            Ok(shell)
        };
        config.log.partitions().partitions().map(settled).collect()
    }

    /// Folds what the log holds, seals and checkpoints; nothing is under way afterwards. Of a
    /// shell that writes its checkpoints itself.
    ///
    /// # Errors
    ///
    /// [`PurgeError::Step`].
    pub fn settle(&mut self) -> Result<(), PurgeError> {
        let clock = Arc::clone(&self.config.clock);
        let partition = self.config.partition;
        let stopped = |source| PurgeError::Step { partition, source };
        while !self.step(clock.now()).map_err(stopped)?.caught_up {}
        self.request_seal();
        while self.is_sealing() {
            self.step(clock.now()).map_err(stopped)?;
        }
        Ok(())
    }

    /// What a purge of these events would take. Changes nothing; of a shell that has settled.
    ///
    /// # Errors
    ///
    /// [`PurgeError`].
    pub fn survey(
        &self,
        (key, day): (&str, i64),
        purges: &[Purge],
        progress: &dyn Fn(u64),
    ) -> Result<Survey, PurgeError> {
        let (begin, takings) = self.reach((key, day), purges)?;
        let ends = self.state.next_offsets().map(|end| end.get());
        let mut survey = Survey { from: Some(begin.from), ..Survey::default() };
        let own = takings.len() - 1;
        let (log, partition) = (self.config.log.as_ref(), self.config.partition);
        let mut see = |value: &[u8], mark: crate::fold::Mark| {
            survey.replayed += 1;
            if mark.taken_by != Some(own) {
                return;
            }
            survey.events += 1;
            let Ok(event) = avro::decode(value) else { return };
            survey.minutes.insert(event.timestamp.window_start(Granularity::Minute));
            if let Some(user) = event.user_key() {
                survey.users.insert(self.config.identity.user(user).get());
            }
        };
        each_event(log, partition, &begin, ends, &mut see, &takings, progress)?;
        Ok(survey)
    }

    /// Where a replay begins, and what it leaves out.
    fn reach(
        &self,
        (key, day): (&str, i64),
        purges: &[Purge],
    ) -> Result<(Begin, Vec<Taking>), PurgeError> {
        let partition = self.config.partition;
        let start = range_of(day).start;
        let begin = Begin::find(self.config.log.as_ref(), partition)?;
        if start < begin.from {
            return Err(PurgeError::Reach { from: begin.from, start });
        }
        if self.state.closes_some_of(day) {
            return Err(PurgeError::Closed { partition });
        }
        let ends = self.state.next_offsets().map(|end| end.get());
        let own = Taking { key: key.to_owned(), day, ends };
        let takings = takings(purges, partition, &begin, own)?;
        Ok((begin, takings))
    }

    /// Replays the journal without these events, and writes what differs beside the shard's
    /// files. Of a shell that has settled and is of no use afterwards.
    ///
    /// # Errors
    ///
    /// [`PurgeError`].
    pub fn without(
        &mut self,
        (key, day): (&str, i64),
        purges: &[Purge],
        scratch: &Scratch<'_>,
    ) -> Result<Without, PurgeError> {
        let (begin, takings) = self.reach((key, day), purges)?;
        let replay = Replay::begin(&self.config, scratch, &begin, (&takings, self.state.guard()))?;
        let mut replayed = replay.run(&begin, &takings, self.state.seq())?;
        let (edits, days) = self.compare_sessions(&mut replayed, scratch, &begin, day)?;
        let tally = replayed.purging().tally;
        let partition = self.config.partition;
        let counters = tally.applied(*self.state.counters());
        let counters = counters.ok_or(PurgeError::Counters { partition })?;
        let guard = Guard::restore([
            self.state.guard().snapshot_of(|other| other != day).as_slice(),
            replayed.guard().snapshot_of(|other| other == day).as_slice(),
        ])?;
        drop(replayed);
        let without = self.write_without(counters, guard, &edits, tally)?;
        Ok(Without { days, ..without })
    }

    /// What becomes of the sessions of these events' users. Those that begin on other days are
    /// put right in the open layer. With the days that they lie on.
    fn compare_sessions(
        &mut self,
        replayed: &mut State,
        scratch: &Scratch<'_>,
        begin: &Begin,
        day: i64,
    ) -> Result<(SessionEdits, (i64, i64)), PurgeError> {
        let users = std::mem::take(&mut replayed.purging().users);
        let (disk, day_range) = (Arc::clone(&self.config.disk), range_of(day));
        let gap_ms = self.state.sessions().gap_ms();
        // Before it a session may have events that were not seen again: of that day nobody can
        // tell whether they all were.
        let from = match begin.seq {
            0 => EventTime::MIN,
            _ => begin.from.plus_ms(gap_ms).window_ceil(Granularity::Day),
        };
        let mut edits = SessionEdits::default();
        let (mut untold, mut days) = (0, (day, day));
        let slices = users.len().div_ceil(USERS_AT_ONCE) as u64;
        for slice in 0..slices {
            let is_wanted = |user: u64| user % slices == slice && users.contains(&user);
            let was = self.state.sessions().written(disk.as_ref(), begin.from, &is_wanted)?;
            let is = replayed.sessions().written(scratch.disk.as_ref(), begin.from, &is_wanted)?;
            let mut is = is;
            for (user, was) in was {
                let is = is.remove(&user).unwrap_or_default();
                let own = Difference::of(was, is, (day_range, from), gap_ms);
                untold += own.untold.len();
                if let Some((first, last)) = own.span() {
                    let (first, last) = (day_of(first), day_of(last));
                    days = (days.0.min(first), days.1.max(last));
                }
                self.state.correct_sessions(&own.gone, &own.added, day);
                edits.note(own);
            }
        }
        match untold {
            0 => Ok((edits, days)),
            sessions => Err(PurgeError::Sessions { sessions, from }),
        }
    }

    /// Writes the files of the shard as it is then, but for its manifest.
    fn write_without(
        &mut self,
        counters: crate::view::Counters,
        guard: Guard,
        edits: &SessionEdits,
        tally: PurgeTally,
    ) -> Result<Without, PurgeError> {
        let partition = self.config.partition;
        let disk = Arc::clone(&self.config.disk);
        let at = |path: String| move |source| PurgeError::Disk { path, source };
        let before = self.kept.newest().cloned();
        let before = before.filter(|it| it.seq() == self.state.seq());
        let before = before.ok_or(PurgeError::Journal { partition, seq: self.state.seq() })?;
        let (runs, next_merge) = {
            let place = (self.state.open().number().get(), self.state.seq());
            self.state.sessions().edited(disk.as_ref(), edits, place)?
        };
        let through = self.config.sink.folded_through(partition);
        let known = before.files();
        let job = Job {
            partition,
            partitions: before.partitions,
            journal_next: before.journal_next,
            layers: before.layers.iter().filter(|it| it.layer > through).cloned().collect(),
            guard: Vec::new(),
            before: known.clone(),
            sealed: self.state.seal_purge(counters, guard),
        };
        let scribe = Scribe::new(Arc::clone(&disk), Arc::clone(&self.config.clock));
        let written = scribe.write_files(&job).map_err(at(folder(partition)))?;
        let mut manifest = written.0;
        (manifest.sessions.runs, manifest.sessions.next_merge) = (runs, next_merge);
        manifest.name_fresh(disk.as_ref(), &known).map_err(at(folder(partition)))?;
        let path = Manifest::path(partition, manifest.seq());
        let bytes = manifest.to_bytes().map_err(at(path.clone()))?;
        let names = disk.list(&folder(partition)).map_err(at(folder(partition)))?;
        let others = names.iter().filter_map(|name| Manifest::seq_of(name));
        let others = others.filter(|&seq| seq != manifest.seq());
        let ends = self.state.next_offsets().map(|end| end.get());
        let erased = tally.counted + tally.repeated;
        Ok(Without {
            manifest: (path, bytes),
            removes: others.map(|seq| Manifest::path(partition, seq)).collect(),
            shard: PurgedShard { seq: manifest.seq(), ends, erased },
            fewer: i64::try_from(tally.counted).unwrap_or(i64::MAX)
                - i64::try_from(tally.revived).unwrap_or(i64::MAX),
            days: (i64::MAX, i64::MIN),
        })
    }
}
