//! The house under test: the shipped rooms over a disk that dies and a clock moved by hand.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fastrand::Rng;
use nilometer_event::clock::{Clock, ManualClock};
use nilometer_event::{IdentityKey, Partition, PartitionCount, ReceiveTime};
use nilometer_log::disk::sim::{Lie, SimDisk};
use nilometer_log::{AppendBatch, Disk, Log, LogSettings, SegmentLog, Threads};
use nilometer_rollups::purge::{Purging, purge};
use nilometer_rollups::{EmbeddedStore, FoldLimits, FoldReport, Pinned, Store, StoreSettings};
use nilometer_stream::declare::{CubeDecl, Declarations, DimensionDecl, Plan};
use nilometer_stream::purges::{self, Purge};
use nilometer_stream::shell::PlanBook;
use nilometer_stream::tables::TableBook;
use nilometer_stream::view::{LayerNumber, LayerSink, SealedLayerFile, Views};
use nilometer_stream::{FoldSettings, Shell, ShellConfig, StepReport, StreamSettings, Writing};

use crate::mutant::Mutant;

/// 2026-11-24T07:00:00Z, a UTC hour.
const START_MS: i64 = 1_795_503_600_000;
/// The store that loses layers loses each of these numbers.
const LOST_LAYERS: u64 = 3;

/// What the seed chose before the first event.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// Partitions of every topic.
    pub shards: PartitionCount,
    /// The shards'.
    pub stream: StreamSettings,
    /// The store's.
    pub store: StoreSettings,
    /// Size of a log segment.
    pub segment_bytes: u64,
    /// How long the log keeps records; as long as it does by itself where none is given.
    pub log_retention: Option<Duration>,
    /// Whether the operator declares a dimension of his own: another plan.
    pub declares: bool,
}

impl Knobs {
    /// Rolls small limits, so that everything that happens once a day happens once a storm.
    ///
    /// # Panics
    ///
    /// Never: the partition count is not 0.
    #[must_use]
    pub fn roll(rng: &mut Rng) -> Self {
        let store = StoreSettings {
            fold_layers_max: rng.choice([1, 3, 256]).unwrap_or(1),
            fold_bytes_max: rng.choice([64 << 10, 64 << 20]).unwrap_or(64 << 20),
            cache_bytes_max: rng.choice([0, 64 << 10, 64 << 20]).unwrap_or(0),
            ..StoreSettings::default()
        };
        Self {
            shards: PartitionCount::new(rng.u16(1..=3)).expect("1 to 3 is a count"),
            stream: Self::roll_stream(rng),
            store,
            segment_bytes: rng.choice([4 << 10, 16 << 10, 1 << 20]).unwrap_or(1 << 20),
            log_retention: None,
            declares: rng.bool(),
        }
    }

    /// The settings that an operator may change between two starts.
    #[must_use]
    pub fn roll_stream(rng: &mut Rng) -> StreamSettings {
        let base = StreamSettings::default();
        let fold = FoldSettings {
            hot_ms: rng.choice([0, 60_000, base.fold.hot_ms]).unwrap_or(0),
            hot_ids_max: rng.choice([1, 60, base.fold.hot_ids_max]).unwrap_or(1),
            hot_sessions_max: rng.choice([1, 5, base.fold.hot_sessions_max]).unwrap_or(1),
            ..base.fold
        };
        StreamSettings {
            entry_events_max: rng.choice([7, 40, 500]).unwrap_or(7),
            entry_bytes_max: rng.choice([2_000, 32 << 20]).unwrap_or(2_000),
            checkpoint_interval_ms: rng.choice([1, 5_000, 30_000]).unwrap_or(1),
            layer_bytes_max: rng.choice([200_000, base.layer_bytes_max]).unwrap_or(200_000),
            hot_bytes_max: rng.choice([0, 500_000, 64 << 20]).unwrap_or(0),
            fold,
            ..base
        }
    }
}

/// A machine with its disk, and the process on it while it runs.
#[derive(Debug)]
pub struct House {
    /// What the seed chose.
    pub knobs: Knobs,
    /// Survives everything, as far as it was synced.
    pub disk: SimDisk,
    /// Hashes user keys and event ids.
    pub identity: IdentityKey,
    clock: Arc<ManualClock>,
    mutant: Option<Mutant>,
    running: Option<Running>,
}

/// The process: what a power loss takes away.
#[derive(Debug)]
struct Running {
    log: Arc<SegmentLog>,
    store: Arc<EmbeddedStore>,
    tables: Arc<TableBook>,
    shells: Vec<Shell>,
}

impl House {
    /// An empty disk; nothing runs yet.
    #[must_use]
    pub fn new(seed: u64, knobs: Knobs, mutant: Option<Mutant>) -> Self {
        let disk = SimDisk::new(seed);
        if mutant == Some(Mutant::NoFsync) {
            disk.lie_about_sync(Lie::On);
        }
        Self {
            knobs,
            disk,
            identity: IdentityKey::new([9; 32]),
            clock: Arc::new(ManualClock::new(ReceiveTime::from_ms(START_MS))),
            mutant,
            running: None,
        }
    }

    /// The house clock.
    #[must_use]
    pub fn now(&self) -> ReceiveTime {
        self.clock.now()
    }

    /// Lets time pass.
    pub fn wait_ms(&self, ms: i64) {
        self.clock.advance_ms(ms);
    }

    /// Whether the process runs.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Starts the process: log, tables, store and shards, as the server does.
    ///
    /// # Errors
    ///
    /// What the disk refused; nothing runs then.
    pub fn start(&mut self) -> Result<()> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        purges::finish(disk.as_ref())?;
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let mut settings = LogSettings::new(self.knobs.shards);
        settings.threads = Threads::None;
        settings.segment_bytes = self.knobs.segment_bytes;
        settings.retention_age = self.knobs.log_retention.unwrap_or(settings.retention_age);
        let log = Arc::new(SegmentLog::open(Arc::clone(&disk), settings, Arc::clone(&clock))?);
        let shards = usize::from(self.knobs.shards.get());
        let stream = self.knobs.stream;
        let tables = TableBook::open(
            Arc::clone(&disk),
            shards,
            stream.table_rows_max,
            stream.table_bytes_max,
        )?;
        let tables = Arc::new(tables);
        let declarations = declarations(self.knobs.declares);
        let plan = Arc::new(Plan::compile(&declarations)?);
        let views = Arc::new(Views::new(self.knobs.shards));
        let store = Arc::new(EmbeddedStore::open(
            Arc::clone(&disk),
            self.knobs.store.clone(),
            Arc::clone(&views),
            Arc::clone(&plan),
        )?);
        let plans = Arc::new(PlanBook::new(Arc::clone(&disk), plan, declarations));
        let sink: Arc<dyn LayerSink> = match self.mutant {
            Some(Mutant::LayerLost) => Arc::new(Losing(Arc::clone(&store))),
            _ => Arc::clone(&store) as Arc<dyn LayerSink>,
        };
        let mut shells = Vec::new();
        for partition in self.knobs.shards.partitions() {
            let config = ShellConfig {
                partition,
                identity: self.identity.clone(),
                settings: stream,
                log: Arc::clone(&log) as Arc<dyn Log>,
                disk: Arc::clone(&disk),
                sink: Arc::clone(&sink),
                views: Arc::clone(&views),
                tables: Arc::clone(&tables),
                plans: Arc::clone(&plans),
                clock: Arc::clone(&clock),
                writing: Writing::Inline,
                mutant: self.mutant.and_then(Mutant::of_shell),
            };
            shells.push(Shell::recover(config)?);
        }
        self.running = Some(Running { log, store, tables, shells });
        Ok(())
    }

    /// Starts, and takes a key's events of a day out again; nothing runs afterwards.
    ///
    /// # Errors
    ///
    /// Why it was not done, or not known to be.
    pub fn purge(&mut self, key: &str, day: i64) -> Result<Purge> {
        self.start()?;
        let now = self.now();
        let running = self.running.take();
        let mut running = running.context("the process does not run")?;
        for shell in &mut running.shells {
            shell.settle()?;
        }
        let (disk, scratch): (Arc<dyn Disk>, Arc<dyn Disk>) =
            (Arc::new(self.disk.clone()), Arc::new(SimDisk::new(0)));
        let made = purge(
            &mut Purging {
                shells: &mut running.shells,
                store: &running.store,
                partitions: self.knobs.shards,
                disk: &disk,
                scratch: &scratch,
                now,
                progress: &|_folded| {},
            },
            key,
            day,
        );
        Ok(made?)
    }

    /// The machine loses power.
    pub fn lose_power(&mut self) {
        self.running = None;
        self.disk.crash();
    }

    /// The process dies; the machine goes on.
    pub fn kill(&mut self) {
        self.running = None;
        self.disk.kill();
    }

    /// Offers records to the log, as the gateway does.
    ///
    /// # Errors
    ///
    /// Where they are not acknowledged.
    pub fn append(&self, batches: Vec<AppendBatch>) -> Result<()> {
        let running = self.running.as_ref().context("nobody listens")?;
        running.log.append(batches)?;
        Ok(())
    }

    /// The log.
    ///
    /// # Errors
    ///
    /// Where the process does not run.
    pub fn log(&self) -> Result<&dyn Log> {
        let running = self.running.as_ref().context("the process does not run")?;
        Ok(running.log.as_ref())
    }

    /// Removes what the log no longer keeps.
    pub fn retain(&self) {
        self.running.iter().for_each(|running| running.log.retain());
    }

    /// The dimension tables.
    ///
    /// # Errors
    ///
    /// Where the process does not run.
    pub fn tables(&self) -> Result<&TableBook> {
        let running = self.running.as_ref().context("the process does not run")?;
        Ok(&running.tables)
    }

    /// What readers see now.
    ///
    /// # Errors
    ///
    /// Where the process does not run.
    pub fn pin(&self) -> Result<Pinned> {
        let running = self.running.as_ref().context("the process does not run")?;
        Ok(running.store.pin())
    }

    /// One step of one shard.
    ///
    /// # Errors
    ///
    /// What the step says; step again.
    pub fn step(&mut self, shard: Partition) -> Result<StepReport> {
        let now = self.now();
        let running = self.running.as_mut().context("the process does not run")?;
        let shell = running.shells.get_mut(shard.index()).context("no such shard")?;
        Ok(shell.step(now)?)
    }

    /// Asks a shard to seal with its next entry.
    pub fn request_seal(&mut self, shard: Partition) {
        let running = self.running.as_mut();
        if let Some(shell) = running.and_then(|running| running.shells.get_mut(shard.index())) {
            shell.request_seal();
        }
    }

    /// One fold of the store.
    ///
    /// # Errors
    ///
    /// What the fold says; fold again.
    pub fn fold(&self) -> Result<FoldReport> {
        let running = self.running.as_ref().context("the process does not run")?;
        Ok(running.store.fold_once(self.now(), FoldLimits::default())?)
    }

    /// Steps and folds until everything is folded and every checkpoint is written.
    ///
    /// # Errors
    ///
    /// Where that does not come, though nothing fails any more.
    pub fn settle(&mut self) -> Result<()> {
        let mut last = String::new();
        for _ in 0..400 {
            self.wait_ms(1_100);
            let mut is_quiet = true;
            for shard in self.knobs.shards.partitions() {
                match self.step(shard) {
                    Ok(report) => is_quiet &= report.caught_up && !self.is_sealing(shard),
                    Err(error) => {
                        is_quiet = false;
                        last = format!("{error:#}");
                    }
                }
            }
            if is_quiet {
                return Ok(());
            }
        }
        bail!("the shards do not catch up; the last error was {last:?}")
    }

    fn is_sealing(&self, shard: Partition) -> bool {
        let shells = self.running.as_ref().map(|running| &running.shells);
        shells.and_then(|shells| shells.get(shard.index())).is_some_and(Shell::is_sealing)
    }
}

/// What an operator declares beside what always exists.
fn declarations(declares: bool) -> Declarations {
    if !declares {
        return Declarations::default();
    }
    let plan = || "plan".to_owned();
    Declarations {
        dimensions: vec![DimensionDecl {
            name: plan(),
            source: "properties.plan".to_owned(),
            description: String::new(),
        }],
        cubes: vec![CubeDecl { dimensions: vec![plan(), "country".to_owned()], distinct: true }],
        ..Declarations::default()
    }
}

/// The mutant `layer-lost`: passes layers without their cells.
#[derive(Debug)]
struct Losing(Arc<EmbeddedStore>);

impl LayerSink for Losing {
    fn adopt(&self, sealed: SealedLayerFile) {
        if !sealed.layer.get().is_multiple_of(LOST_LAYERS) {
            self.0.adopt(sealed);
        }
    }

    fn folded_through(&self, partition: Partition) -> LayerNumber {
        self.0.folded_through(partition)
    }
}
