//! Every shard on a thread of its own: what the server starts and stops.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use nilometer_event::clock::Clock;
use nilometer_event::{IdentityKey, Partition, PartitionCount, ReceiveTime};
use nilometer_log::{Disk, Log, Precedence, cpu_time};
use parking_lot::Mutex;

use super::tracer::{Tracer, Wanted};
use super::{PlanBook, Shell, ShellConfig, StepReport};
use crate::checkpoint::{Turns, Writing};
use crate::declare::{Declarations, Plan};
use crate::error::{DimensionTableError, StartError, StepError};
use crate::settings::StreamSettings;
use crate::tables::{Rows, Table, TableBook, TableName};
use crate::view::{LayerSink, Views};

/// How often a shard that has folded everything looks at the log again, in milliseconds: a larger
/// entry costs less an event, and half a second is within every freshness goal.
const TICK_MS: i64 = 500;

/// The moments at which a shard looks at the log: each half second, one shard after the other, so
/// that not all of them keep the cores busy at one moment of it.
#[derive(Clone, Copy, Debug)]
struct Moments {
    phase_ms: i64,
}

impl Moments {
    fn of(partition: Partition, partitions: PartitionCount) -> Self {
        let (shard, shards) = (i64::from(partition.get()), i64::from(partitions.get()));
        Self { phase_ms: TICK_MS * shard / shards }
    }

    /// How long a shard waits after a step; not at all while there is more to fold.
    fn pause_after(
        self,
        stepped: &Result<StepReport, StepError>,
        now: ReceiveTime,
    ) -> Option<Duration> {
        match stepped {
            Ok(report) if report.held_back => Some(HELD_BACK),
            // A step begins at each moment, however long the one before took: freshness would be
            // the sum of the two otherwise.
            Ok(report) if report.caught_up => Some(self.next_in(now)),
            Ok(_) => None,
            Err(_) => Some(RETRY),
        }
    }

    /// How long until the next.
    fn next_in(self, now: ReceiveTime) -> Duration {
        let passed_ms = (now.ms() - self.phase_ms).rem_euclid(TICK_MS);
        Duration::from_millis(u64::try_from(TICK_MS - passed_ms).unwrap_or(0))
    }
}

/// How long a shard waits that may take no records until a layer is written.
const HELD_BACK: Duration = Duration::from_millis(10);

/// How long a shard waits after a step that failed.
const RETRY: Duration = Duration::from_millis(500);

/// What the stream is wired to.
#[derive(Clone, Debug)]
pub struct StreamConfig {
    /// Hashes user keys and event ids; the gateway's.
    pub identity: IdentityKey,
    /// The knobs.
    pub settings: StreamSettings,
    /// What is measured.
    pub plan: Arc<Plan>,
    /// What `plan` was compiled from; kept in the data directory.
    pub declarations: Declarations,
    /// Where records and the journal lie.
    pub log: Arc<dyn Log>,
    /// The data directory.
    pub disk: Arc<dyn Disk>,
    /// Who reads the sealed layers.
    pub sink: Arc<dyn LayerSink>,
    /// Where readers look; made for as many partitions as the log has.
    pub views: Arc<Views>,
    /// The house clock.
    pub clock: Arc<dyn Clock>,
}

impl StreamConfig {
    /// The tables and plans of all shards.
    pub(super) fn books(&self) -> Result<(Arc<TableBook>, Arc<PlanBook>), StartError> {
        let settings = &self.settings;
        let shards = usize::from(self.log.partitions().get());
        let disk = || Arc::clone(&self.disk);
        let tables =
            TableBook::open(disk(), shards, settings.table_rows_max, settings.table_bytes_max)
                .map_err(|source| StartError::Tables { source })?;
        let plans = PlanBook::new(disk(), Arc::clone(&self.plan), self.declarations.clone());
        Ok((Arc::new(tables), Arc::new(plans)))
    }

    /// One shard's part.
    pub(super) fn shell(
        &self,
        partition: Partition,
        tables: &Arc<TableBook>,
        plans: &Arc<PlanBook>,
        writing: Writing,
    ) -> ShellConfig {
        ShellConfig {
            partition,
            identity: self.identity.clone(),
            settings: self.settings,
            log: Arc::clone(&self.log),
            disk: Arc::clone(&self.disk),
            sink: Arc::clone(&self.sink),
            views: Arc::clone(&self.views),
            tables: Arc::clone(tables),
            plans: Arc::clone(plans),
            clock: Arc::clone(&self.clock),
            writing,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }
}

/// How a shard is doing, beside its view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardStatus {
    /// Why its last step failed; `None` while all is well.
    pub error: Option<String>,
    /// When the last step ended.
    pub stepped_at: ReceiveTime,
    /// Whether its thread is there.
    pub alive: bool,
    /// Whether all that the log held is folded.
    pub caught_up: bool,
}

/// The running stream.
#[derive(Debug)]
pub struct Stream {
    views: Arc<Views>,
    tables: Arc<TableBook>,
    shards: Vec<Running>,
    tracer: Tracer,
    clock: Arc<dyn Clock>,
    shutdown_ms_max: u32,
}

#[derive(Debug)]
struct Running {
    commands: Sender<Command>,
    done: Receiver<()>,
    status: Arc<Mutex<ShardStatus>>,
}

#[derive(Debug)]
pub(super) enum Command {
    Seal,
    /// Say what is remembered of an event.
    Sight(Box<Wanted>),
    /// Fold what is there, seal, checkpoint and end, by then at the latest.
    Shutdown(ReceiveTime),
}

/// How a shutdown ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Shards that did not checkpoint in time; their journal is replayed at the next start.
    pub unfinished: Vec<Partition>,
}

impl Stream {
    /// Recovers every shard, side by side, and starts their threads. Returns once all are
    /// shown: the stream is ready then.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing is left running.
    pub fn start(config: StreamConfig) -> Result<Self, StartError> {
        let partitions = config.log.partitions();
        let settings = config.settings;
        let (tables, plans) = config.books()?;
        let mut running = Vec::with_capacity(usize::from(partitions.get()));
        let (ready, recovered) = channel();
        let turns = Turns::for_this_machine();
        for partition in partitions.partitions() {
            let writing = Writing::Threads(turns.clone());
            let shell = config.shell(partition, &tables, &plans, writing);
            running.push(spawn(shell, ready.clone())?);
        }
        drop(ready);
        for _ in 0..running.len() {
            // A thread that ended without a word has panicked.
            recovered.recv().map_err(|_gone| StartError::Panicked)??;
        }
        let tracer = Tracer {
            shards: running.iter().map(|shard| shard.commands.clone()).collect(),
            identity: config.identity,
            log: config.log,
            disk: config.disk,
        };
        Ok(Self {
            views: config.views,
            tables,
            shards: running,
            tracer,
            clock: config.clock,
            shutdown_ms_max: settings.shutdown_ms_max,
        })
    }

    /// What the shards show.
    #[must_use]
    pub const fn views(&self) -> &Arc<Views> {
        &self.views
    }

    /// Tells what became of single events.
    #[must_use]
    pub const fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// The dimension tables.
    #[must_use]
    pub const fn tables(&self) -> &Arc<TableBook> {
        &self.tables
    }

    /// Replaces a dimension table; durable when this returns, and used by every shard from its
    /// next entry on. Returns its version.
    ///
    /// # Errors
    ///
    /// [`DimensionTableError`]; nothing was changed.
    pub fn put_dimension_table(
        &self,
        name: TableName,
        rows: Rows,
    ) -> Result<u64, DimensionTableError> {
        self.tables.put(name, rows)
    }

    /// The newest version of a dimension table.
    #[must_use]
    pub fn dimension_table(&self, name: TableName) -> Option<Arc<Table>> {
        self.tables.latest().table(name).map(Arc::clone)
    }

    /// Makes every shard seal and checkpoint with its next entry.
    pub fn request_seal(&self) {
        for shard in &self.shards {
            // A shard that has ended has nothing to seal.
            let _ended = shard.commands.send(Command::Seal);
        }
    }

    /// How the shards are doing, by partition.
    #[must_use]
    pub fn status(&self) -> Vec<ShardStatus> {
        self.shards.iter().map(|shard| shard.status.lock().clone()).collect()
    }

    /// Folds what the log holds, seals, checkpoints, and ends the threads, within
    /// `shutdown_ms_max`. Close the gateway before and the log after.
    #[must_use]
    pub fn shutdown(self) -> ShutdownReport {
        let deadline = self.clock.now().plus_ms(i64::from(self.shutdown_ms_max));
        for shard in &self.shards {
            let _ended = shard.commands.send(Command::Shutdown(deadline));
        }
        let mut report = ShutdownReport::default();
        for (index, shard) in (0u16..).zip(&self.shards) {
            let left_ms = u64::try_from(deadline.since(self.clock.now())).unwrap_or(0);
            match shard.done.recv_timeout(Duration::from_millis(left_ms)) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    report.unfinished.push(Partition::new(index));
                }
            }
        }
        report
    }
}

fn spawn(
    config: ShellConfig,
    ready: Sender<Result<(), StartError>>,
) -> Result<Running, StartError> {
    let name = format!("stream-{}", config.partition);
    let moments = Moments::of(config.partition, config.log.partitions());
    let (commands, inbox) = channel();
    let (finished, done) = channel();
    let status = Arc::new(Mutex::new(ShardStatus { alive: true, ..ShardStatus::default() }));
    let shared = Arc::clone(&status);
    std::thread::Builder::new()
        .name(name.clone())
        .spawn(move || {
            let _alive = Alive(Arc::clone(&shared));
            let partition = config.partition;
            until_broken(partition, &shared, || {
                let clock = Arc::clone(&config.clock);
                let mut shell = match Shell::recover(config) {
                    Ok(shell) => shell,
                    Err(error) => {
                        drop(ready.send(Err(error.into())));
                        return;
                    }
                };
                // So that a new shard is not shown as of 1970; an error is met again in a moment.
                let _first = shell.step(clock.now());
                let heard = ready.send(Ok(())).is_ok();
                drop(ready);
                if heard && run(&mut shell, clock.as_ref(), moments, &inbox, &shared) {
                    let _waiting = finished.send(());
                }
            });
        })
        .map_err(|source| StartError::Thread { name, source })?;
    Ok(Running { commands, done, status })
}

/// Does a shard's work; where an invariant does not hold, the shard ends there, and says which
/// it was and whose. The next start goes on from the last checkpoint.
fn until_broken(partition: Partition, status: &Mutex<ShardStatus>, work: impl FnOnce()) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(work)) else { return };
    let texts = [panic.downcast_ref::<String>().map(String::as_str), panic.downcast_ref().copied()];
    let broken = texts.into_iter().flatten().next().unwrap_or("a panic without words");
    let error = format!("shard {partition} has stopped: {broken}");
    tracing::error!(%partition, broken, "a shard has stopped: an invariant does not hold");
    status.lock().error = Some(error);
}

/// Says that the thread has ended, also when it panics.
struct Alive(Arc<Mutex<ShardStatus>>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.lock().alive = false;
    }
}

/// Steps until it is told to end; true when it ended with a checkpoint.
fn run(
    shell: &mut Shell,
    clock: &dyn Clock,
    moments: Moments,
    inbox: &Receiver<Command>,
    status: &Mutex<ShardStatus>,
) -> bool {
    let mut precedence = Precedence::default();
    loop {
        let (began, worked_before) = (clock.now(), cpu_time());
        let stepped = shell.step(began);
        let now = clock.now();
        if let Ok(report) = stepped.as_ref()
            && report.entered
        {
            let took_ms = u64::try_from(now.since(began)).unwrap_or(0);
            let worked = cpu_time().saturating_sub(worked_before);
            shell.note_step(report, Duration::from_millis(took_ms), worked);
        }
        // Who is up to date takes short steps, and readers wait for each. Who catches up, with
        // years of an import, would keep everything else waiting.
        precedence.go_first(stepped.as_ref().is_ok_and(|report| report.caught_up));
        note(&stepped, now, status);
        let command = match moments.pause_after(&stepped, now) {
            None => inbox.try_recv().ok(),
            Some(pause) => match inbox.recv_timeout(pause) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                // The stream was dropped without a shutdown: the next start replays.
                Err(RecvTimeoutError::Disconnected) => return false,
            },
        };
        match command {
            Some(Command::Seal) => shell.request_seal(),
            Some(Command::Sight(wanted)) => shell.sight(&wanted),
            Some(Command::Shutdown(deadline)) => {
                return finish(shell, clock, moments, deadline, inbox, status);
            }
            None => {}
        }
    }
}

/// Folds to the log's end, or for half of the time, then seals and checkpoints; false when the
/// time was up before.
fn finish(
    shell: &mut Shell,
    clock: &dyn Clock,
    moments: Moments,
    deadline: ReceiveTime,
    inbox: &Receiver<Command>,
    status: &Mutex<ShardStatus>,
) -> bool {
    let mut asked = false;
    let began = clock.now();
    let half = began.plus_ms(deadline.since(began) / 2);
    while clock.now() < deadline {
        let stepped = shell.step(clock.now());
        let now = clock.now();
        note(&stepped, now, status);
        let pause = moments.pause_after(&stepped, now);
        let caught_up = stepped.is_ok_and(|report| report.caught_up);
        if (caught_up || half <= clock.now()) && !asked && !shell.is_sealing() {
            shell.request_seal();
            asked = true;
        } else if asked && !shell.is_sealing() {
            return true;
        } else if pause.is_some() {
            // Nobody sends any more; the wait is for the writer.
            let _none = inbox.recv_timeout(Duration::from_millis(5));
            std::thread::yield_now();
        }
    }
    false
}

/// Writes down how the step went.
fn note(stepped: &Result<StepReport, StepError>, now: ReceiveTime, status: &Mutex<ShardStatus>) {
    let mut status = status.lock();
    status.stepped_at = now;
    match stepped {
        Ok(report) => {
            status.error = None;
            status.caught_up = report.caught_up;
        }
        Err(error) => {
            let error = error.to_string();
            if status.error.as_ref() != Some(&error) {
                tracing::warn!(%error, "a stream step is tried again");
            }
            status.error = Some(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_whose_invariant_does_not_hold_ends_and_says_which_and_whose() {
        let status = Mutex::new(ShardStatus { alive: true, ..ShardStatus::default() });
        until_broken(Partition::new(3), &status, || panic!("E1: a record was {} once", "an event"));
        let said = status.lock().error.clone().unwrap();
        assert_eq!(said, "shard 3 has stopped: E1: a record was an event once");
        until_broken(Partition::new(4), &status, || panic!("S2: a seal within an entry"));
        let said = status.lock().error.clone().unwrap();
        assert_eq!(said, "shard 4 has stopped: S2: a seal within an entry");
        until_broken(Partition::new(5), &status, || {});
        assert!(status.lock().error.as_ref().is_some_and(|error| error.starts_with("shard 4")));
    }

    #[test]
    fn shards_take_turns_within_a_tick_and_a_moment_that_was_missed_is_not_made_up() {
        let four = PartitionCount::new(4).unwrap();
        let moments: Vec<Moments> =
            four.partitions().map(|partition| Moments::of(partition, four)).collect();
        let next_ms = |shard: usize, now_ms: i64| {
            moments[shard].next_in(ReceiveTime::from_ms(now_ms)).as_millis()
        };
        assert_eq!([0, 1, 2, 3].map(|shard| next_ms(shard, 10_000)), [500, 125, 250, 375]);
        assert_eq!([0, 1, 2, 3].map(|shard| next_ms(shard, 10_300)), [200, 325, 450, 75]);
        // A step of 740 ms from its moment on: the next is 260 ms away, not overdue.
        assert_eq!(next_ms(0, 10_740), 260);
    }
}
