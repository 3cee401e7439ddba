//! Both stores under the port's suite.

use std::sync::Arc;

use nilometer_event::{PartitionCount, ReceiveTime};
use nilometer_log::disk::Disk;
use nilometer_log::disk::sim::SimDisk;
use nilometer_rollups::conformance::{self, Bench, Settle};
use nilometer_rollups::declare::Plan;
use nilometer_rollups::view::Views;
use nilometer_rollups::{EmbeddedStore, FoldLimits, MemoryStore, Store, StoreSettings};

#[derive(Debug)]
struct Folds(Arc<EmbeddedStore>);

impl Settle for Folds {
    fn settle(&self, now: ReceiveTime) {
        // A damaged layer stops a fold; what is shown then is what the suite asks about.
        drop(self.0.fold_once(now, FoldLimits::default()));
    }
}

#[derive(Debug)]
struct Nothing;

impl Settle for Nothing {
    fn settle(&self, _now: ReceiveTime) {}
}

fn with_embedded(judge: fn(&Bench<'_>)) {
    let disk = SimDisk::new(1);
    let plan = Arc::new(Plan::builtin());
    let views = Arc::new(Views::new(PartitionCount::new(1).unwrap()));
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let settings = StoreSettings::default();
    let store = EmbeddedStore::open(shared, settings, Arc::clone(&views), Arc::clone(&plan));
    let store = Arc::new(store.unwrap());
    let settle = Folds(Arc::clone(&store));
    judge(&Bench { store: &*store, views: &views, disk: &disk, plan: &plan, settle: &settle });
}

fn with_memory(judge: fn(&Bench<'_>)) {
    let disk = SimDisk::new(1);
    let plan = Arc::new(Plan::builtin());
    let views = Arc::new(Views::new(PartitionCount::new(1).unwrap()));
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let settings = StoreSettings::default();
    let store = MemoryStore::new(shared, settings, Arc::clone(&views), Arc::clone(&plan));
    judge(&Bench { store: &store, views: &views, disk: &disk, plan: &plan, settle: &Nothing });
}

const SUITE: [fn(&Bench<'_>); 4] =
    [conformance::once, conformance::whole, conformance::stable, conformance::kept];

#[test]
fn the_embedded_store_conforms() {
    SUITE.into_iter().for_each(with_embedded);
}

#[test]
fn the_memory_store_conforms() {
    SUITE.into_iter().for_each(with_memory);
}

#[test]
fn stores_are_held_as_the_port() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
    let plan = Arc::new(Plan::builtin());
    let views = Arc::new(Views::new(PartitionCount::new(1).unwrap()));
    let store: Arc<dyn Store> =
        Arc::new(MemoryStore::new(disk, StoreSettings::default(), views, plan));
    let mut registry = prometheus_client::registry::Registry::default();
    nilometer_rollups::metrics::register(&mut registry, store);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains("rollups_layers_waiting 0"), "{text}");
    assert!(text.contains("rollups_folds_total 0"), "{text}");
}
