//! A pretended stream over a simulated disk, and a model that keeps lists and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nilometer_event::{
    Event, EventTime, Granularity, Partition, PartitionCount, ReceiveTime, TimeRange, UserHash,
};
use nilometer_log::disk::sim::SimDisk;
use nilometer_log::disk::{Disk, create_dir_durably};
use nilometer_rollups::cells::{
    Layer, OwnedDimValue, ScanRequest, SessionMeasure, Tallies, write_layer,
};
use nilometer_rollups::declare::{MetricKind, Plan, SetId, SetKind};
use nilometer_rollups::view::{
    CheckpointStatus, Counters, Facts, LayerNumber, LayerSink, OpenLayer, SealedLayerFile,
    ShardView, Views,
};
use nilometer_rollups::{EmbeddedStore, Pinned, ReadError, Row, Store, StoreSettings};

pub(crate) const MINUTE: i64 = 60_000;
pub(crate) const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;

/// Something that counted once.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    Event {
        time: EventTime,
        user: Option<u64>,
        dims: BTreeMap<&'static str, &'static str>,
        duration_sec: Option<u32>,
    },
    Session {
        start: EventTime,
        dims: BTreeMap<&'static str, &'static str>,
        duration_ms: i64,
        sign: i64,
    },
}

impl Seen {
    pub(crate) fn time(&self) -> EventTime {
        match self {
            Self::Event { time, .. } => *time,
            Self::Session { start, .. } => *start,
        }
    }

    const fn kind(&self) -> SetKind {
        match self {
            Self::Event { .. } => SetKind::Events,
            Self::Session { .. } => SetKind::Sessions,
        }
    }

    const fn dims(&self) -> &BTreeMap<&'static str, &'static str> {
        match self {
            Self::Event { dims, .. } | Self::Session { dims, .. } => dims,
        }
    }
}

/// A seeded chooser, so that a failing seed can be run again.
#[derive(Debug)]
pub(crate) struct Dice(fastrand::Rng);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0.u64(0..bound.max(1))
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.0.usize(0..from.len())]
    }

    /// An event or a session around `now`, some of them late.
    pub(crate) fn seen(&mut self, now: EventTime) -> Seen {
        let back = match self.below(10) {
            0 => self.0.i64(0..40 * DAY),
            1 | 2 => self.0.i64(0..8 * HOUR),
            _ => self.0.i64(0..3 * MINUTE),
        };
        let time = now.minus_ms(back);
        let mut dims = BTreeMap::new();
        let mut maybe = |name, values: &[&'static str]| {
            let place = self.0.usize(0..=values.len());
            if let Some(value) = values.get(place) {
                dims.insert(name, *value);
            }
        };
        maybe("country", &["DE", "FR", "EG"]);
        maybe("device_type", &["tv", "mobile"]);
        maybe("channel", &["ads"]);
        if self.one_in(4) {
            let duration_ms = self.0.i64(0..600_000);
            return Seen::Session { start: time, dims, duration_ms, sign: 1 };
        }
        let mut maybe = |name, values: &[&'static str]| {
            let place = self.0.usize(0..=values.len());
            if let Some(value) = values.get(place) {
                dims.insert(name, *value);
            }
        };
        maybe("content_category", &["drama", "__other__"]);
        maybe("content_id", &["c1", "c2", "c3", "c4"]);
        dims.insert("event_type", self.pick(&["view", "play", "click"]));
        let user = (!self.one_in(6)).then(|| self.below(40));
        let duration_sec = self.one_in(3).then(|| self.0.u32(0..1_000));
        Seen::Event { time, user, dims, duration_sec }
    }
}

/// One shard of the pretended stream.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) partition: Partition,
    pub(crate) number: LayerNumber,
    /// What the open layer has counted.
    pub(crate) open: Vec<Seen>,
    /// Layer files that a checkpoint lists.
    pub(crate) kept: Vec<SealedLayerFile>,
    pub(crate) all: Vec<Seen>,
}

/// The pretended stream, the store under test and the model.
pub(crate) struct House {
    pub(crate) disk: SimDisk,
    pub(crate) views: Arc<Views>,
    pub(crate) plan: Arc<Plan>,
    pub(crate) settings: StoreSettings,
    pub(crate) store: Arc<EmbeddedStore>,
    pub(crate) shards: Vec<Shard>,
    pub(crate) now: ReceiveTime,
    /// Whether layers come with the windows that they may hold.
    pub(crate) tells_windows: bool,
}

pub(crate) fn dyn_disk(disk: &SimDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

impl House {
    pub(crate) fn new(seed: u64, shards: u16) -> Self {
        let disk = SimDisk::new(seed);
        let plan = Arc::new(Plan::builtin());
        let count = PartitionCount::new(shards).unwrap();
        let views = Arc::new(Views::new(count));
        let settings = StoreSettings::default();
        let store = EmbeddedStore::open(
            dyn_disk(&disk),
            settings.clone(),
            Arc::clone(&views),
            Arc::clone(&plan),
        );
        let shards = count
            .partitions()
            .map(|partition| Shard {
                partition,
                number: LayerNumber::FIRST,
                open: Vec::new(),
                kept: Vec::new(),
                all: Vec::new(),
            })
            .collect();
        let now = ReceiveTime::from_ms(1_000 * DAY + 12_345);
        let house = Self {
            disk,
            views,
            plan,
            settings,
            store: Arc::new(store.unwrap()),
            shards,
            now,
            tells_windows: false,
        };
        house.publish_all();
        house
    }

    pub(crate) fn layer_of(&self, number: LayerNumber, seen: &[Seen]) -> Layer {
        layer_of(&self.plan, number, seen)
    }

    fn view(&self, shard: &Shard, sealing: Vec<Arc<OpenLayer>>) -> ShardView {
        let layer = self.layer_of(shard.number, &shard.open);
        let unique = shard.all.iter().filter(|seen| matches!(seen, Seen::Event { .. })).count();
        let facts = Facts {
            now: self.now,
            watermark: self.now.as_event_time().minus_ms(2 * HOUR),
            counters: Counters { unique: unique as u64, ..Counters::default() },
            ..Facts::default()
        };
        ShardView {
            partition: shard.partition,
            plan: Arc::clone(&self.plan),
            layer: shard.number,
            open: Arc::new(OpenLayer::new(shard.number, layer, facts)),
            sealing,
            checkpoint: CheckpointStatus::default(),
        }
    }

    pub(crate) fn publish(&self, shard: usize) {
        self.views.publish(self.view(&self.shards[shard], Vec::new()));
    }

    pub(crate) fn publish_all(&self) {
        for shard in 0..self.shards.len() {
            self.publish(shard);
        }
    }

    /// Counts and shows it.
    pub(crate) fn count(&mut self, shard: usize, seen: Vec<Seen>) {
        self.shards[shard].open.extend(seen.iter().cloned());
        self.shards[shard].all.extend(seen);
        self.publish(shard);
    }

    /// Seals the open layer: file, view with a sealing layer, adoption, view without it.
    /// `check` looks at the store between the steps.
    pub(crate) fn seal(&mut self, shard: usize, check: impl Fn(&Self)) {
        let number = self.shards[shard].number;
        let seen = std::mem::take(&mut self.shards[shard].open);
        let sealed = self.write_layer_file(shard, number, &seen);
        let sealing = Arc::new(OpenLayer::new(
            number,
            self.layer_of(number, &seen),
            Facts { now: self.now, ..Facts::default() },
        ));
        self.shards[shard].number = number.next();
        self.views.publish(self.view(&self.shards[shard], vec![sealing]));
        check(self);
        if !seen.is_empty() {
            self.shards[shard].kept.push(sealed.clone());
            self.store.adopt(sealed);
        }
        check(self);
        self.publish(shard);
        check(self);
    }

    fn write_layer_file(
        &self,
        shard: usize,
        number: LayerNumber,
        seen: &[Seen],
    ) -> SealedLayerFile {
        let partition = self.shards[shard].partition;
        let dir = format!("checkpoints/{partition}");
        create_dir_durably(&self.disk, &dir).unwrap();
        let path = format!("{dir}/layer-{}", number.get());
        if !seen.is_empty() {
            write_layer(&self.disk, &path, &self.layer_of(number, seen)).unwrap();
        }
        SealedLayerFile {
            partition,
            layer: number,
            seq_first: number.get(),
            seq_last: number.get(),
            plan: self.plan.id,
            path,
            windows: if self.tells_windows { self.windows_of(number, seen) } else { Vec::new() },
        }
    }

    fn windows_of(&self, number: LayerNumber, seen: &[Seen]) -> Vec<TimeRange> {
        let layer = self.layer_of(number, seen);
        let spans = [SetKind::Events, SetKind::Sessions].map(|kind| layer.span(kind));
        spans.into_iter().flatten().map(|span| span.outward(Granularity::Hour)).collect()
    }

    /// Removes the files that the store no longer needs.
    pub(crate) fn collect_garbage(&mut self) {
        for shard in &mut self.shards {
            let through = self.store.folded_through(shard.partition);
            let (gone, kept) = shard.kept.drain(..).partition(|file| file.layer <= through);
            shard.kept = kept;
            let gone: Vec<SealedLayerFile> = gone;
            for file in gone {
                self.disk.remove(&file.path).unwrap();
                self.disk.sync_dir(&format!("checkpoints/{}", file.partition)).unwrap();
            }
        }
    }

    /// Opens the store again, with whatever plan and settings the house has by now, and offers
    /// it every kept layer, as the stream's recovery does.
    pub(crate) fn reopen(&mut self) {
        self.views = Arc::new(Views::new(
            PartitionCount::new(u16::try_from(self.shards.len()).unwrap()).unwrap(),
        ));
        let store = EmbeddedStore::open(
            dyn_disk(&self.disk),
            self.settings.clone(),
            Arc::clone(&self.views),
            Arc::clone(&self.plan),
        );
        self.store = Arc::new(store.unwrap());
        for file in self.shards.iter().flat_map(|shard| &shard.kept) {
            self.store.adopt(file.clone());
        }
        self.publish_all();
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Seen> {
        self.shards.iter().flat_map(|shard| &shard.all)
    }

    pub(crate) fn request(
        &self,
        set: SetId,
        granularity: Granularity,
        range: TimeRange,
    ) -> ScanRequest {
        ScanRequest::new(Arc::clone(&self.plan), set, granularity, range)
    }

    pub(crate) fn sets(&self) -> Vec<SetId> {
        let sets = self.plan.sets.iter();
        sets.map(|set| self.plan.set_for(set.kind, &set.dims).unwrap()).collect()
    }

    pub(crate) fn set(&self, kind: SetKind, names: &[&str]) -> SetId {
        let dims: Vec<_> = names.iter().map(|name| self.plan.dimension(name).unwrap()).collect();
        self.plan.set_for(kind, &dims).unwrap()
    }

    /// The whole range that `granularity` still shows.
    pub(crate) fn kept_range(&self, granularity: Granularity) -> TimeRange {
        let end = self.now.as_event_time().plus_ms(HOUR);
        let start = self.store.pin().kept_from(granularity).max(end.minus_ms(500 * DAY));
        TimeRange { start: start.window_start(granularity), end }.outward(granularity)
    }

    /// Compares one set at one granularity with the model.
    pub(crate) fn check_set(&self, set: SetId, granularity: Granularity) {
        let range = self.kept_range(granularity);
        let request = self.request(set, granularity, range);
        let pinned = self.store.pin();
        let rows = pinned.read(&request).unwrap();
        let expected =
            model(&self.plan, self.all(), set, range, |time| time.window_start(granularity));
        assert_same(&self.plan, set, &rows, &expected);
        let estimated = pinned.read_estimated(&request).unwrap().rows;
        assert_same(&self.plan, set, &estimated, &expected);
    }

    /// Compares every set at every granularity with the model.
    pub(crate) fn check_all(&self) {
        for granularity in Granularity::ALL {
            for set in self.sets() {
                self.check_set(set, granularity);
            }
        }
    }

    /// Compares a few sets, chosen by the dice.
    pub(crate) fn check_some(&self, dice: &mut Dice) {
        let sets = self.sets();
        for _ in 0..4 {
            let granularity = dice.pick(&Granularity::ALL);
            self.check_set(dice.pick(&sets), granularity);
        }
    }

    pub(crate) fn total_events(&self) -> Result<i64, ReadError> {
        total_events(&self.store.pin(), self.kept_range(Granularity::Day))
    }
}

/// Events over a range, by days.
pub(crate) fn total_events(pinned: &Pinned, range: TimeRange) -> Result<i64, ReadError> {
    let plan = Arc::clone(&pinned.plan);
    let set = plan.set_for(SetKind::Events, &[]).unwrap();
    let request = ScanRequest::new(Arc::clone(&plan), set, Granularity::Day, range);
    let rows = pinned.read(&request)?;
    Ok(rows.iter().map(|row| row.aggregates.counts[count_slot(&plan, "events")]).sum())
}

pub(crate) fn layer_of(plan: &Arc<Plan>, number: LayerNumber, seen: &[Seen]) -> Layer {
    let mut tallies = Tallies::new();
    let mut layer = Layer::new(Arc::clone(plan), number.get());
    for one in seen {
        count_one(plan, &mut layer, &mut tallies, one);
    }
    layer.end_entry(&mut tallies);
    layer
}

fn count_one(plan: &Plan, layer: &mut Layer, tallies: &mut Tallies, seen: &Seen) {
    match seen {
        Seen::Event { time, user, dims, duration_sec } => {
            let text = |name| dims.get(name).copied();
            let event = Event {
                timestamp: *time,
                sent_timestamp: *time,
                event_id: "e",
                event_type: text("event_type").unwrap(),
                country: text("country"),
                device_type: text("device_type"),
                channel: text("channel"),
                cohort: text("cohort"),
                content_category: text("content_category"),
                content_id: text("content_id"),
                session_duration_sec: duration_sec.map(f64::from),
                ..Event::default()
            };
            layer.count(tallies, &event, user.map(UserHash::new));
        }
        Seen::Session { start, dims, duration_ms, sign } => {
            let names = plan.session_dims.iter().map(|dim| &plan.dimensions[dim.index()].name);
            let values: Vec<Option<&str>> =
                names.map(|name| dims.get(name.as_str()).copied()).collect();
            let measure =
                SessionMeasure { duration_ms: *duration_ms, events: 2, views: 0, conversions: 0 };
            layer.count_session(tallies, *start, &values, &measure, *sign);
        }
    }
}

/// What the model expects of a cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) count: i64,
    pub(crate) sum: i128,
    pub(crate) users: BTreeSet<u64>,
}

pub(crate) type Cells = BTreeMap<(EventTime, Vec<OwnedDimValue>), Expected>;

/// Every cell by brute force.
pub(crate) fn model<'a>(
    plan: &Plan,
    all: impl Iterator<Item = &'a Seen>,
    set: SetId,
    range: TimeRange,
    window: impl Fn(EventTime) -> EventTime,
) -> Cells {
    let set = plan.set(set);
    let mut cells = Cells::new();
    for seen in all.filter(|seen| seen.kind() == set.kind && range.contains(seen.time())) {
        let names = set.dims.iter().map(|dim| &plan.dimensions[dim.index()].name);
        let value = |name: &String| match seen.dims().get(name.as_str()) {
            Some(text) => OwnedDimValue::Text((*text).into()),
            None => OwnedDimValue::Null,
        };
        let key = (window(seen.time()), names.map(value).collect());
        let cell = cells.entry(key).or_default();
        match seen {
            Seen::Event { user, duration_sec, .. } => {
                cell.count += 1;
                cell.sum += i128::from(duration_sec.unwrap_or(0)) * 1_000_000;
                cell.users.extend(user);
            }
            Seen::Session { duration_ms, sign, .. } => {
                cell.count += sign;
                cell.sum += i128::from(*duration_ms) * i128::from(*sign);
            }
        }
    }
    cells.retain(|_, cell| cell.count != 0);
    cells
}

pub(crate) fn count_slot(plan: &Plan, metric: &str) -> usize {
    match plan.metric(metric).unwrap().kind {
        MetricKind::Count { slot } => slot,
        other => panic!("{metric} is {other:?}"),
    }
}

pub(crate) fn distinct_slot(plan: &Plan) -> usize {
    match plan.metric("unique_users").unwrap().kind {
        MetricKind::Distinct { slot } => slot,
        other => panic!("unique_users is {other:?}"),
    }
}

fn sum_slot(plan: &Plan, kind: SetKind) -> usize {
    match kind {
        SetKind::Events => match plan.metric("total_duration").unwrap().kind {
            MetricKind::Sum { slot, .. } => slot,
            other => panic!("total_duration is {other:?}"),
        },
        SetKind::Sessions => match plan.metric("avg_session_duration").unwrap().kind {
            MetricKind::Avg { sum, .. } => sum,
            other => panic!("avg_session_duration is {other:?}"),
        },
    }
}

/// Rows against the model: every cell, no other cell.
pub(crate) fn assert_same(plan: &Plan, set: SetId, rows: &[Row], expected: &Cells) {
    let kind = plan.set(set).kind;
    let count = match kind {
        SetKind::Events => count_slot(plan, "events"),
        SetKind::Sessions => count_slot(plan, "sessions"),
    };
    let sum = sum_slot(plan, kind);
    let mut found = Cells::new();
    for row in rows {
        let key = (row.window, row.dims.to_vec());
        let want = expected.get(&key);
        let users = want.map(|cell| cell.users.clone()).unwrap_or_default();
        if kind == SetKind::Events && plan.set(set).distinct {
            let estimate = row.distinct(distinct_slot(plan)).unwrap();
            assert!(estimate.exact, "few users are exact");
            assert!(
                (estimate.value - users.len() as f64).abs() < 0.5,
                "{key:?}: {} users, expected {}",
                estimate.value,
                users.len()
            );
        }
        let cell = Expected {
            count: row.aggregates.counts[count],
            sum: row.aggregates.sums[sum].narrow().unwrap(),
            users,
        };
        assert!(found.insert(key, cell).is_none(), "a row comes once");
    }
    assert_eq!(&found, expected, "set {:?} of {kind:?}", plan.set(set).dims);
    let sorted = rows
        .windows(2)
        .all(|pair| (pair[0].window, &pair[0].dims) < (pair[1].window, &pair[1].dims));
    assert!(sorted, "rows ascend");
}
