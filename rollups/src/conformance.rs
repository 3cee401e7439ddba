//! The numbered guarantees of a store, as functions that each implementation runs.
//!
//! Each takes a store that holds nothing yet, over `views` of one shard that nothing was
//! published in, and the disk that layer files are written to.

use std::sync::Arc;

use nilometer_event::{Event, EventTime, Granularity, Partition, ReceiveTime, TimeRange, UserHash};
use nilometer_log::disk::{Disk, create_dir_durably};
use nilometer_stream::cells::{Layer, ScanRequest, Tallies, write_layer};
use nilometer_stream::declare::{MetricKind, Plan, SetKind};
use nilometer_stream::view::{
    CheckpointStatus, Counters, Facts, LayerNumber, OpenLayer, SealedLayerFile, ShardView, Views,
};

use crate::error::ReadError;
use crate::port::Store;

const NOW: ReceiveTime = ReceiveTime::from_ms(1_700_000_000_000);
const SHARD: Partition = Partition::new(0);

/// A store to be judged, and what it stands on.
#[derive(Clone, Copy, Debug)]
pub struct Bench<'a> {
    /// Holds nothing yet.
    pub store: &'a dyn Store,
    /// Of one shard.
    pub views: &'a Views,
    /// Where layer files lie.
    pub disk: &'a dyn Disk,
    /// What layers are counted by and what the store was opened with.
    pub plan: &'a Arc<Plan>,
    /// Makes the store fold what it has, if it folds at all.
    pub settle: &'a dyn Settle,
}

/// What a store does in the background, done now.
pub trait Settle: std::fmt::Debug {
    /// Returns once nothing is left to do.
    fn settle(&self, now: ReceiveTime);
}

impl Bench<'_> {
    fn layer(&self, number: LayerNumber, events: u64) -> Layer {
        let mut layer = Layer::new(Arc::clone(self.plan), number.get());
        let mut tallies = Tallies::new();
        for user in 0..events {
            let event = Event {
                timestamp: NOW.as_event_time(),
                event_id: "e",
                event_type: "view",
                country: Some("EG"),
                ..Event::default()
            };
            layer.count(&mut tallies, &event, Some(UserHash::new(user)));
        }
        layer.end_entry(&mut tallies);
        layer
    }

    fn open(&self, number: LayerNumber, events: u64) -> Arc<OpenLayer> {
        let facts = Facts {
            now: NOW,
            counters: Counters { unique: events, ..Counters::default() },
            ..Facts::default()
        };
        Arc::new(OpenLayer::new(number, self.layer(number, events), facts))
    }

    fn show(&self, number: LayerNumber, events: u64, sealing: Vec<Arc<OpenLayer>>) {
        self.views.publish(ShardView {
            partition: SHARD,
            plan: Arc::clone(self.plan),
            layer: number,
            open: self.open(number, events),
            sealing,
            checkpoint: CheckpointStatus::default(),
        });
    }

    fn seal(&self, number: LayerNumber, events: u64) -> SealedLayerFile {
        let dir = "checkpoints/0";
        create_dir_durably(self.disk, dir).expect("the disk makes a folder");
        let path = format!("{dir}/layer-{}", number.get());
        write_layer(self.disk, &path, &self.layer(number, events)).expect("the disk writes");
        SealedLayerFile {
            partition: SHARD,
            layer: number,
            seq_first: number.get(),
            seq_last: number.get(),
            plan: self.plan.id,
            path,
            windows: Vec::new(),
        }
    }

    /// Events by country over the last day, as the store sees them.
    fn events(&self) -> Result<i64, ReadError> {
        let country = self.plan.dimension("country").expect("country always exists");
        let set = self.plan.set_for(SetKind::Events, &[country]).expect("so does its set");
        let end = NOW.as_event_time().plus_ms(Granularity::Day.ms());
        let start = EventTime::from_ms(0);
        let range = TimeRange { start, end };
        let request = ScanRequest::new(Arc::clone(self.plan), set, Granularity::Day, range);
        let slot = match self.plan.metric("events").map(|metric| metric.kind) {
            Some(MetricKind::Count { slot }) => slot,
            other => panic!("events is a count, not {other:?}"),
        };
        let rows = self.store.pin().read(&request)?;
        Ok(rows.iter().filter_map(|row| row.aggregates.counts.get(slot)).sum())
    }
}

/// Turns the manifests of a store that is closed into those of version 1, which did not tell what
/// retention had taken: a store of an older release.
///
/// # Errors
///
/// The disk's.
pub fn as_version_1(disk: &dyn Disk) -> std::io::Result<()> {
    crate::manifest::write_as_v1(disk)
}

/// R1 once: a layer counts once while it is open, sealing, adopted, folded and offered again.
///
/// # Panics
///
/// When the store breaks R1.
pub fn once(bench: &Bench<'_>) {
    let first = LayerNumber::FIRST;
    bench.show(first, 10, Vec::new());
    assert_eq!(bench.events(), Ok(10), "R1 open");
    let sealed = bench.seal(first, 10);
    bench.show(first.next(), 5, vec![bench.open(first, 10)]);
    assert_eq!(bench.events(), Ok(15), "R1 sealing");
    bench.store.adopt(sealed.clone());
    assert_eq!(bench.events(), Ok(15), "R1 adopted and still in the view");
    bench.show(first.next(), 5, Vec::new());
    assert_eq!(bench.events(), Ok(15), "R1 adopted");
    bench.store.adopt(sealed.clone());
    assert_eq!(bench.events(), Ok(15), "R1 offered again");
    bench.settle.settle(NOW);
    assert_eq!(bench.events(), Ok(15), "R1 settled");
    bench.store.adopt(sealed);
    bench.settle.settle(NOW);
    assert_eq!(bench.events(), Ok(15), "R1 settled and offered again");
}

/// R2 whole: a damaged layer file is an error, not a smaller number.
///
/// # Panics
///
/// When the store breaks R2.
pub fn whole(bench: &Bench<'_>) {
    let first = LayerNumber::FIRST;
    bench.show(first.next(), 5, Vec::new());
    let sealed = bench.seal(first, 10);
    let mut bytes = bench.disk.read(&sealed.path).expect("it was just written");
    let middle = bytes.len() / 2;
    for byte in bytes.iter_mut().skip(16).take(middle) {
        *byte ^= 0x55;
    }
    let mut file = bench.disk.create(&sealed.path).expect("the disk creates");
    file.write_all(&bytes).expect("the disk writes");
    bench.store.adopt(sealed);
    assert!(matches!(bench.events(), Err(ReadError::Damaged { .. })), "R2 whole");
}

/// R3 stable: a pinned version reads the same whatever is adopted and folded meanwhile.
///
/// # Panics
///
/// When the store breaks R3.
pub fn stable(bench: &Bench<'_>) {
    let (first, second) = (LayerNumber::FIRST, LayerNumber::FIRST.next());
    bench.show(second, 0, Vec::new());
    bench.store.adopt(bench.seal(first, 10));
    let request = {
        let set = bench.plan.set_for(SetKind::Events, &[]).expect("the empty set always exists");
        let start = NOW.as_event_time();
        let range = TimeRange { start, end: start.plus_ms(1) };
        ScanRequest::new(Arc::clone(bench.plan), set, Granularity::Hour, range)
    };
    let pinned = bench.store.pin();
    let before = pinned.read(&request).expect("it reads");
    assert_eq!(before.len(), 1, "R3 there is a row");
    bench.store.adopt(bench.seal(second, 7));
    bench.show(second.next(), 0, Vec::new());
    bench.settle.settle(NOW);
    bench.settle.settle(NOW.plus_ms(1));
    assert_eq!(pinned.read(&request).as_ref(), Ok(&before), "R3 stable");
    assert_eq!(bench.events(), Ok(17), "R3 and a new pin sees more");
}

/// R4 kept: no file is given up that a kept version, or a pin, reads.
///
/// # Panics
///
/// When the store breaks R4.
pub fn kept(bench: &Bench<'_>) {
    let (first, second) = (LayerNumber::FIRST, LayerNumber::FIRST.next());
    bench.show(second, 0, Vec::new());
    assert_eq!(bench.store.folded_through(SHARD), LayerNumber::NONE, "R4 at first");
    bench.store.adopt(bench.seal(first, 10));
    let pinned = bench.store.pin();
    for round in 1..4 {
        bench.settle.settle(NOW.plus_ms(round));
        bench.store.adopt(bench.seal(LayerNumber::new(1 + round.unsigned_abs()), 1));
    }
    assert_eq!(bench.store.folded_through(SHARD), LayerNumber::NONE, "R4 while it is pinned");
    drop(pinned);
    let through = bench.store.folded_through(SHARD);
    assert!(through < LayerNumber::new(4), "R4 the last one is in no base");
}
