//! The stream as the server runs it: a thread for each shard, real files, restart.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up is a failed test")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nilometer_event::clock::{Clock, HouseClock};
use nilometer_event::{Event, IdentityKey, Partition, PartitionCount, Topic, UserKey, avro};
use nilometer_log::{AppendBatch, Disk, Log, LogSettings, RealDisk, RecordsBuilder, SegmentLog};
use nilometer_stream::declare::{Declarations, Plan};
use nilometer_stream::tables::{TableName, parse_csv};
use nilometer_stream::view::{Counters, LayerNumber, LayerSink, SealedLayerFile, Views};
use nilometer_stream::{Stream, StreamConfig, StreamSettings};
use parking_lot::Mutex;

#[derive(Debug, Default)]
struct Sink(Mutex<BTreeMap<(u16, u64), String>>);

impl LayerSink for Sink {
    fn adopt(&self, sealed: SealedLayerFile) {
        self.0.lock().insert((sealed.partition.get(), sealed.layer.get()), sealed.path);
    }

    fn folded_through(&self, _partition: Partition) -> LayerNumber {
        LayerNumber::NONE
    }
}

struct House {
    log: Arc<SegmentLog>,
    stream: Stream,
    views: Arc<Views>,
    sink: Arc<Sink>,
    clock: Arc<HouseClock>,
    identity: IdentityKey,
    partitions: PartitionCount,
}

fn open(directory: &tempfile::TempDir) -> House {
    let partitions = PartitionCount::new(2).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(directory.path()).unwrap());
    let clock = Arc::new(HouseClock::default());
    let log = SegmentLog::open(
        Arc::clone(&disk),
        LogSettings::new(partitions),
        Arc::clone(&clock) as Arc<dyn Clock>,
    );
    let log = Arc::new(log.unwrap());
    let (views, sink) = (Arc::new(Views::new(partitions)), Arc::new(Sink::default()));
    let identity = IdentityKey::new([3; 32]);
    let stream = Stream::start(StreamConfig {
        identity: identity.clone(),
        settings: StreamSettings::default(),
        plan: Arc::new(Plan::builtin()),
        declarations: Declarations::default(),
        log: Arc::clone(&log) as Arc<dyn Log>,
        disk,
        sink: Arc::clone(&sink) as Arc<dyn LayerSink>,
        views: Arc::clone(&views),
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
    });
    House { log, stream: stream.unwrap(), views, sink, clock, identity, partitions }
}

impl House {
    fn send(&self, events: std::ops::Range<u32>) {
        for number in events {
            let now = self.clock.now();
            let (user, id) = (format!("u{}", number % 7), format!("e{number}"));
            let event = Event {
                received_at: now,
                timestamp: now.as_event_time(),
                sent_timestamp: now.as_event_time(),
                event_id: &id,
                event_type: "click",
                user_id: Some(&user),
                ..Event::default()
            };
            let mut value = Vec::new();
            avro::encode(&event, &mut value);
            let mut records = RecordsBuilder::new();
            records.push(now, None, &value);
            let partition = self.partitions.partition_of(self.identity.user(UserKey::User(&user)));
            let batch =
                AppendBatch { topic: Topic::UserEvents, partition, records: records.build() };
            self.log.append(vec![batch]).unwrap();
        }
    }

    fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        for view in self.views.pin() {
            sum.add(&view.facts().counters);
        }
        sum
    }

    /// Waits until so many events are shown; a condition, not a time, ends the wait.
    fn wait_for(&self, unique: u64) {
        let (_never, nothing) = std::sync::mpsc::channel::<()>();
        for _ in 0..400 {
            if self.counters().unique == unique {
                return;
            }
            let _nobody_sends = nothing.recv_timeout(Duration::from_millis(25));
        }
        panic!("{unique} events do not show: {:?}", self.counters());
    }
}

#[test]
fn events_are_shown_checkpointed_and_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let house = open(&directory);
    assert!(house.views.is_complete());
    house.send(0..50);
    house.wait_for(50);
    let fresh = house.views.pin().iter().filter_map(|view| view.facts().freshness).count();
    assert!(fresh > 0);
    let rows = parse_csv(b"user_id,country\nu1,DE\n", 10).unwrap();
    assert_eq!(house.stream.put_dimension_table(TableName::Users, rows).unwrap(), 1);
    assert!(house.stream.status().iter().all(|shard| shard.alive && shard.error.is_none()));
    house.send(50..60);
    let House { stream, views, sink, log, .. } = house;
    let report = stream.shutdown();
    assert_eq!(report.unfinished, []);
    let facts: Vec<_> = views.pin().iter().map(|view| view.facts()).collect();
    assert_eq!(facts.iter().map(|it| it.counters.unique).sum::<u64>(), 60, "drained");
    for view in views.pin() {
        assert!(view.sealing.is_empty());
        assert!(view.checkpoint.seq > 0);
        assert_eq!(view.checkpoint.seq, view.facts().seq);
    }
    assert!(!sink.0.lock().is_empty());
    log.close();
    drop((log, views));

    let house = open(&directory);
    assert_eq!(house.counters().unique, 60);
    assert_eq!(house.sink.0.lock().len(), sink.0.lock().len(), "layers are offered again");
    let table = house.stream.dimension_table(TableName::Users).unwrap();
    assert_eq!(table.version(), 1);
    // The same events again are repeats, whatever happened in between.
    house.send(0..60);
    house.send(60..61);
    house.wait_for(61);
    // Dropped without a shutdown: as after a crash of the process.
    drop(house.stream);
    house.log.close();
}
