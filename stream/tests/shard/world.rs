//! A shard with everything around it, in memory: a disk that crashes, a clock moved by hand, a
//! sink, and clients that repeat until they are acknowledged.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use nilometer_event::clock::{Clock, ManualClock};
use nilometer_event::{
    EventTime, Granularity, IdentityKey, Partition, PartitionCount, ReceiveTime, TimeRange, Topic,
};
use nilometer_log::disk::sim::SimDisk;
use nilometer_log::{AppendBatch, Disk, Log, LogSettings, RecordsBuilder, SegmentLog, Threads};
use nilometer_stream::aggregate::Aggregates;
use nilometer_stream::cells::{CellRef, CellSource, DimValue, LayerFile, ScanRequest};
use nilometer_stream::declare::{
    Declarations, MetricContext, MetricKind, MetricValue, Plan, SetId, SetKind,
};
use nilometer_stream::shell::{Mutant, PlanBook};
use nilometer_stream::tables::TableBook;
use nilometer_stream::view::{Counters, LayerNumber, LayerSink, SealedLayerFile, Views};
use nilometer_stream::{RecoverError, Shell, ShellConfig, StreamSettings, Writing};
use parking_lot::Mutex;

use crate::model::{Expected, Model, Said, Who};

/// 2026-11-24T07:00:00Z, a UTC hour.
pub(crate) const START_MS: i64 = 1_795_503_600_000;

/// Most keys have no source of their own.
const SOURCES: [Option<&str>; 4] = [None, Some("shop"), None, Some("web")];

const P0: Partition = Partition::new(0);

/// Keeps every layer file that it is offered, by number; once it has "folded" one, it no longer
/// needs the file: it has its own copy, which survives crashes.
#[derive(Debug)]
pub(crate) struct Sink {
    disk: Arc<dyn Disk>,
    copies: SimDisk,
    adopted: Mutex<BTreeMap<u64, String>>,
    folds: bool,
}

impl Sink {
    fn open(&self) -> Vec<(u64, LayerFile)> {
        let disk: &dyn Disk = if self.folds { &self.copies } else { self.disk.as_ref() };
        let adopted = self.adopted.lock();
        adopted.iter().map(|(&n, path)| (n, LayerFile::open(disk, path).unwrap())).collect()
    }
}

impl LayerSink for Sink {
    fn adopt(&self, sealed: SealedLayerFile) {
        let mut adopted = self.adopted.lock();
        if adopted.contains_key(&sealed.layer.get()) {
            return;
        }
        if self.folds {
            // The copy is made while nothing fails: it stands for a base of its own.
            let bytes = self.disk.read(&sealed.path).unwrap();
            self.copies.create_dir_all("checkpoints/0").unwrap();
            nilometer_log::write_atomically(&self.copies, &sealed.path, &bytes).unwrap();
        }
        adopted.insert(sealed.layer.get(), sealed.path);
    }

    fn folded_through(&self, _partition: Partition) -> LayerNumber {
        if !self.folds {
            return LayerNumber::NONE;
        }
        self.adopted.lock().keys().last().map_or(LayerNumber::NONE, |&n| LayerNumber::new(n))
    }
}

/// Everything around one shard.
pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) sink: Arc<Sink>,
    pub(crate) views: Arc<Views>,
    pub(crate) settings: StreamSettings,
    pub(crate) declarations: Declarations,
    pub(crate) shell: Option<Shell>,
    pub(crate) model: Model,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) rng: fastrand::Rng,
    /// Sent and not acknowledged: repeated until they are.
    unacknowledged: Vec<Said>,
    said: Vec<Said>,
    serial: u64,
}

impl World {
    pub(crate) fn new(seed: u64, settings: StreamSettings, folds: bool) -> Self {
        let disk = SimDisk::new(seed);
        let clock = Arc::new(ManualClock::new(ReceiveTime::from_ms(START_MS)));
        let log = open_log(&disk, &clock);
        let sink = Arc::new(Sink {
            disk: Arc::new(disk.clone()),
            copies: SimDisk::new(0),
            adopted: Mutex::new(BTreeMap::new()),
            folds,
        });
        Self {
            disk,
            log,
            clock,
            sink,
            views: Arc::new(Views::new(PartitionCount::new(1).unwrap())),
            settings,
            declarations: Declarations::default(),
            shell: None,
            model: Model::default(),
            mutant: None,
            rng: fastrand::Rng::with_seed(seed),
            unacknowledged: Vec::new(),
            said: Vec::new(),
            serial: 0,
        }
    }

    pub(crate) fn started(seed: u64, settings: StreamSettings, folds: bool) -> Self {
        let mut world = Self::new(seed, settings, folds);
        world.recover().unwrap();
        world
    }

    pub(crate) fn tables(&self) -> Arc<TableBook> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        Arc::new(TableBook::open(disk, 1, 1_000, 1 << 20).unwrap())
    }

    pub(crate) fn recover(&mut self) -> Result<(), RecoverError> {
        let tables = self.tables();
        self.recover_with(tables)
    }

    pub(crate) fn recover_with(&mut self, tables: Arc<TableBook>) -> Result<(), RecoverError> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let plan = Arc::new(Plan::compile(&self.declarations).unwrap());
        let plans = PlanBook::new(Arc::clone(&disk), plan, self.declarations.clone());
        let shell = Shell::recover(ShellConfig {
            partition: P0,
            identity: IdentityKey::new([9; 32]),
            settings: self.settings,
            log: Arc::clone(&self.log),
            disk,
            sink: Arc::clone(&self.sink) as Arc<dyn LayerSink>,
            views: Arc::clone(&self.views),
            tables,
            plans: Arc::new(plans),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            writing: Writing::Inline,
            mutant: self.mutant,
        })?;
        self.shell = Some(shell);
        Ok(())
    }

    /// The machine loses power; log and shard come back, over however many tries it takes.
    pub(crate) fn crash(&mut self) {
        self.shell = None;
        self.disk.crash();
        self.disk.heal();
        self.log = open_log(&self.disk, &self.clock);
        self.views = Arc::new(Views::new(PartitionCount::new(1).unwrap()));
        self.recover().unwrap();
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.now().ms()
    }

    pub(crate) fn shell(&mut self) -> &mut Shell {
        self.shell.as_mut().unwrap()
    }

    /// One step after `ms`; false when it failed.
    pub(crate) fn step_after(&mut self, ms: i64) -> bool {
        self.clock.advance_ms(ms);
        let now = self.clock.now();
        self.shell().step(now).is_ok()
    }

    /// Steps until everything is folded.
    pub(crate) fn drain(&mut self) {
        let mut last = None;
        for _ in 0..200 {
            self.clock.advance_ms(1_100);
            let now = self.clock.now();
            let stepped = self.shell().step(now);
            if stepped.as_ref().is_ok_and(|report| report.caught_up) {
                return;
            }
            last = Some(stepped);
        }
        panic!("the shard does not catch up: {last:?}");
    }

    /// Seals and waits for the checkpoint.
    pub(crate) fn checkpoint(&mut self) {
        self.shell().request_seal();
        for _ in 0..200 {
            self.step_after(1_100);
            if !self.shell().is_sealing() {
                return;
            }
        }
        panic!("the checkpoint does not come");
    }

    /// Sends what was refused before, and up to `events` more, some of them repeats.
    pub(crate) fn send(&mut self, events: usize) {
        let mut batch = std::mem::take(&mut self.unacknowledged);
        for _ in 0..events {
            let said = if !self.said.is_empty() && self.rng.f32() < 0.15 {
                let mut repeat = self.rng.choice(&self.said).unwrap().clone();
                if self.rng.f32() < 0.2 && !matches!(repeat.who, Who::Service(_)) {
                    repeat.topic = Topic::Imports;
                }
                // Another key has the same id for an event of its own.
                if self.rng.f32() < 0.3 {
                    repeat.source = *self.rng.choice(&SOURCES).unwrap();
                }
                repeat
            } else {
                self.invent()
            };
            self.said.push(said.clone());
            batch.push(said);
        }
        self.rng.shuffle(&mut batch);
        for said in batch {
            self.say(said);
        }
    }

    /// Sends one event; it counts once it is acknowledged.
    pub(crate) fn say(&mut self, said: Said) {
        let mut records = RecordsBuilder::new();
        let now = self.clock.now();
        records.push(now, None, &said.encode(now));
        let batch = AppendBatch { topic: said.topic, partition: P0, records: records.build() };
        match self.log.append(vec![batch]) {
            Ok(_) => self.model.say(&said),
            Err(_) => self.unacknowledged.push(said),
        }
    }

    /// Appends bytes that are no event.
    pub(crate) fn append_raw(&mut self, topic: Topic, value: &[u8]) {
        let mut records = RecordsBuilder::new();
        records.push(self.clock.now(), None, value);
        let batch = AppendBatch { topic, partition: P0, records: records.build() };
        drop(self.log.append(vec![batch]));
    }

    pub(crate) fn settle_clients(&mut self) {
        for _ in 0..50 {
            if self.unacknowledged.is_empty() {
                return;
            }
            self.clock.advance_ms(2_000);
            self.send(0);
        }
        panic!("the log does not take the events");
    }

    fn invent(&mut self) -> Said {
        self.serial += 1;
        let rng = &mut self.rng;
        let now_ms = self.clock.now().ms();
        let (who, mut topic) = match rng.u8(0..20) {
            0..13 => (Who::User(format!("u{}", rng.u8(0..12))), Topic::UserEvents),
            13..17 => (Who::Anonymous(format!("u{}", rng.u8(0..4))), Topic::ContentViews),
            _ => (Who::Service(format!("s{}", rng.u8(0..2))), Topic::ServerEvents),
        };
        let age_ms = match rng.u8(0..20) {
            0..12 => rng.i64(-60_000..300_000),
            12..16 => rng.i64(0..3 * 3_600_000),
            16..18 => rng.i64(0..3 * 86_400_000),
            _ => {
                topic = Topic::Imports;
                rng.i64(0..200 * 86_400_000)
            }
        };
        let time_ms = now_ms - age_ms;
        let corrected = topic != Topic::Imports && rng.u8(0..30) == 0;
        let mut dims = BTreeMap::new();
        for (name, values) in [
            ("country", 3u8),
            ("device_type", 2),
            ("content_category", 2),
            ("content_id", 4),
            ("channel", 2),
            ("subscription_tier", 2),
        ] {
            let value = rng.u8(0..=values);
            if value > 0 {
                dims.insert(name, format!("{}{value}", &name[..1]));
            }
        }
        let types = ["page_view", "click", "purchase", "play_start", "heartbeat"];
        Said {
            source: SOURCES[usize::try_from(self.serial).unwrap() % SOURCES.len()],
            who,
            id: format!("e{}", self.serial),
            event_type: (*rng.choice(types.iter()).unwrap()).to_owned(),
            time_ms: if corrected { now_ms } else { time_ms },
            sent_ms: if corrected { now_ms + 86_400_000 } else { time_ms },
            corrected,
            topic,
            dims,
            duration_halves: rng.bool().then(|| rng.u32(0..2_000)),
            completed: rng.bool().then(|| rng.bool()),
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        self.views.pin()[0].facts().counters
    }

    /// How many events have each value of a dimension.
    pub(crate) fn events_by(&self, dimension: &str) -> BTreeMap<Option<String>, i64> {
        self.count_by(SetKind::Events, "events", dimension)
    }

    /// The sums of a count by the values of a dimension.
    pub(crate) fn count_by(
        &self,
        kind: SetKind,
        metric: &str,
        dimension: &str,
    ) -> BTreeMap<Option<String>, i64> {
        let all = self.count_by_all(kind, metric, &[dimension]).into_iter();
        all.map(|(values, count)| (values[0].clone(), count)).collect()
    }

    /// The sums of a count by the values of several.
    pub(crate) fn count_by_all(
        &self,
        kind: SetKind,
        metric: &str,
        dimensions: &[&str],
    ) -> BTreeMap<Vec<Option<String>>, i64> {
        let plan = Arc::clone(&self.views.pin()[0].plan);
        let dims: Vec<_> = dimensions.iter().map(|name| plan.dimension(name).unwrap()).collect();
        let set = plan.set_for(kind, &dims).unwrap();
        let MetricKind::Count { slot } = plan.metric(metric).unwrap().kind else {
            panic!("{metric} are counted");
        };
        let mut events = BTreeMap::new();
        for ((_, dims), cell) in self.scan(&plan, set, Granularity::Day, &self.sink.open()) {
            *events.entry(dims).or_default() += cell.counts[slot];
        }
        events
    }

    /// Compares every cell of every set and granularity with the model, and the counters with
    /// what the log holds.
    pub(crate) fn verify(&self) {
        if let Err(difference) = self.differences() {
            panic!("{difference}");
        }
    }

    /// The first difference, for mutants.
    pub(crate) fn differences(&self) -> Result<(), String> {
        let counters = self.counters();
        if counters.residual() != 0 {
            return Err(format!("N3: residual {} in {counters:?}", counters.residual()));
        }
        let held: u64 =
            Topic::RECEIVED.map(|topic| self.log.bounds(topic, P0).end.get()).iter().sum();
        if counters.received != held {
            return Err(format!("N3: received {} of {held}", counters.received));
        }
        if counters.unique != self.model.events.len() as u64 {
            let model = self.model.events.len();
            return Err(format!("N2: unique {} where the model has {model}", counters.unique));
        }
        let plan = Arc::clone(&self.views.pin()[0].plan);
        let adopted = self.sink.open();
        for (index, set) in plan.sets.iter().enumerate() {
            let names: Vec<String> =
                set.dims.iter().map(|dim| plan.dimensions[dim.index()].name.clone()).collect();
            for granularity in Granularity::ALL {
                let expected = match set.kind {
                    SetKind::Events => self.model.events_by(&names, granularity),
                    SetKind::Sessions => self.model.sessions_by(&names, granularity),
                };
                let found = self.scan(&plan, set_id(&plan, index), granularity, &adopted);
                compare(&plan, index, granularity, &expected, &found)
                    .map_err(|what| format!("{names:?} {:?} {granularity}: {what}", set.kind))?;
            }
        }
        Ok(())
    }

    /// Cells of every source, merged: layers that the sink has, then what the view shows.
    fn scan(
        &self,
        plan: &Arc<Plan>,
        set: SetId,
        granularity: Granularity,
        adopted: &[(u64, LayerFile)],
    ) -> HashMap<(i64, Vec<Option<String>>), Aggregates> {
        let everything = TimeRange {
            start: EventTime::from_ms(-10_000_000_000_000),
            end: EventTime::from_ms(10_000_000_000_000),
        };
        let request = ScanRequest::new(Arc::clone(plan), set, granularity, everything);
        let mut cells = HashMap::new();
        let mut visit = |cell: CellRef<'_>| {
            let window = cell.window.ms().div_euclid(granularity.ms()) * granularity.ms();
            let dims = cell.dims.iter().map(|value| text(*value)).collect();
            let into = cells.entry((window, dims)).or_insert_with(|| request.empty());
            cell.aggregates.merge_into(into);
        };
        let view = self.views.pin().remove(0);
        for (_, file) in adopted {
            file.scan(&request, &mut visit).unwrap();
        }
        let held = |number: u64| adopted.iter().any(|(n, _)| *n == number);
        for layer in view.sealing.iter().chain([&view.open]) {
            if !held(layer.number().get()) {
                layer.read().layer.scan(&request, &mut visit).unwrap();
            }
        }
        cells
    }
}

fn set_id(plan: &Plan, index: usize) -> SetId {
    let set = &plan.sets[index];
    plan.set_for(set.kind, &set.dims).unwrap()
}

fn open_log(disk: &SimDisk, clock: &Arc<ManualClock>) -> Arc<dyn Log> {
    let mut settings = LogSettings::new(PartitionCount::new(1).unwrap());
    settings.threads = Threads::None;
    settings.segment_bytes = 64 << 10;
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    Arc::new(SegmentLog::open(disk, settings, clock).unwrap())
}

fn text(value: DimValue<'_>) -> Option<String> {
    match value {
        DimValue::Null => None,
        DimValue::Text(text) => Some(text.to_owned()),
        // No value of the model.
        DimValue::Other => Some("(folded)".to_owned()),
    }
}

fn compare(
    plan: &Plan,
    set: usize,
    granularity: Granularity,
    expected: &BTreeMap<(i64, Vec<Option<String>>), Expected>,
    found: &HashMap<(i64, Vec<Option<String>>), Aggregates>,
) -> Result<(), String> {
    // A session that was merged away leaves a cell of zeros, which no answer shows.
    for (key, aggregates) in found {
        if !expected.contains_key(key) && !is_nothing(plan, set, aggregates) {
            return Err(format!("unexpected cell {key:?}"));
        }
    }
    for (key, wanted) in expected {
        let Some(aggregates) = found.get(key) else { return Err(format!("no cell {key:?}")) };
        let (window, now) = (EventTime::from_ms(key.0), EventTime::MAX);
        let context = MetricContext::of(window, granularity, now);
        let value = |name: &str| plan.metric(name).unwrap().value(aggregates, &context);
        for (name, want) in wanted_values(plan, set, wanted) {
            let got = value(name).as_f64();
            if got != want {
                return Err(format!("{key:?} {name}: {got:?}, expected {want:?}"));
            }
        }
    }
    Ok(())
}

fn is_nothing(plan: &Plan, set: usize, aggregates: &Aggregates) -> bool {
    let context = MetricContext { window: EventTime::from_ms(0), elapsed_ms: 1 };
    plan.sets[set].kind == SetKind::Sessions
        && plan.metric("sessions").unwrap().value(aggregates, &context) == MetricValue::Integer(0)
}

fn wanted_values(plan: &Plan, set: usize, wanted: &Expected) -> Vec<(&'static str, Option<f64>)> {
    let whole = |value: i64| Some(value as f64);
    let set = &plan.sets[set];
    if set.kind == SetKind::Sessions {
        let sessions = wanted.sessions as f64;
        return vec![
            ("sessions", Some(sessions)),
            ("bounce_rate", Some(wanted.bounces as f64 / sessions)),
            ("avg_session_duration", Some(wanted.session_ms as f64 / (sessions * 1_000.0))),
        ];
    }
    let mut values = vec![
        ("events", whole(wanted.events)),
        ("total_duration", Some(wanted.duration_halves as f64 / 2.0)),
        ("completions", whole(wanted.completions)),
        ("content_views", whole(wanted.views)),
    ];
    if set.distinct {
        values.push(("unique_users", Some(wanted.users.len() as f64)));
    }
    values
}
