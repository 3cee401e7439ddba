//! Everything that the reading room works with, shared by its handlers.

use std::sync::Arc;

use nilometer_access::{Buffers, Keys, Quotas, Sessions, SignInCodes};
use nilometer_event::clock::Clock;
use nilometer_log::Log;
use nilometer_rollups::Store;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ask::Ask;
use crate::desk::Desk;
use crate::house::House;
use crate::live::Hub;
use crate::metrics::QueryMetrics;
use crate::settings::QuerySettings;
use crate::turns::{Limits, Turns};

/// Short reads of the house's state at once.
const STATUS_READS_AT_ONCE: usize = 2;

/// What the server hands to the reading room.
#[derive(Debug)]
pub struct QueryParts {
    /// The shelves.
    pub store: Arc<dyn Store>,
    /// The spine, for the tail, traces and dead letters.
    pub log: Arc<dyn Log>,
    /// The book of keys in force.
    pub keys: Arc<Keys>,
    /// Rates and numbers at once.
    pub quotas: Arc<Quotas>,
    /// Memory for bodies, which all rooms share.
    pub buffers: Buffers,
    /// Open sessions of browsers.
    pub sessions: Arc<Sessions>,
    /// One-time sign-in codes.
    pub codes: Arc<SignInCodes>,
    /// The house clock.
    pub clock: Arc<dyn Clock>,
    /// Readiness, replay and enrichment tables.
    pub house: Arc<dyn House>,
    /// What `/metrics` shows; complete before it is handed over.
    pub registry: Arc<Registry>,
    /// The room's own numbers, made by [`QueryMetrics::registered`] on that registry.
    pub metrics: QueryMetrics,
    /// Limits and origins.
    pub settings: QuerySettings,
    /// Cancelled when the house stops: subscriptions end with a close frame.
    pub stop: CancellationToken,
}

/// The reading room's shared state; cloning is cheap.
#[derive(Clone, Debug)]
pub struct QueryState(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    parts: QueryParts,
    desk: Arc<Desk>,
    hub: Arc<Hub>,
    scans: Turns,
    status_reads: Turns,
    tasks: TaskTracker,
}

impl QueryState {
    /// Puts the room together; nothing runs yet.
    #[must_use]
    pub fn new(parts: QueryParts) -> Self {
        let settings = &parts.settings;
        let reads =
            |name, at_once| Turns::new(name, Limits::alike(at_once, settings.scans_waiting_max));
        let scans = reads("log scans", settings.scans_at_once_max);
        let status_reads = reads("status reads", STATUS_READS_AT_ONCE);
        let desk = Arc::new(Desk::new(&parts));
        let tasks = TaskTracker::new();
        let hub = Arc::new(Hub::new(
            Arc::clone(&desk),
            Arc::clone(&parts.clock),
            settings.live_queries_max,
            tasks.clone(),
            parts.stop.clone(),
            parts.metrics.clone(),
        ));
        Self(Arc::new(Inner { parts, desk, hub, scans, status_reads, tasks }))
    }

    /// Waits until every subscription has ended, after `stop` was cancelled.
    pub async fn drained(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.0.parts.store
    }

    pub(crate) fn log(&self) -> &Arc<dyn Log> {
        &self.0.parts.log
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.0.parts.keys
    }

    pub(crate) fn quotas(&self) -> &Quotas {
        &self.0.parts.quotas
    }

    pub(crate) fn buffers(&self) -> &Buffers {
        &self.0.parts.buffers
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.0.parts.sessions
    }

    pub(crate) fn codes(&self) -> &SignInCodes {
        &self.0.parts.codes
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        self.0.parts.clock.as_ref()
    }

    pub(crate) fn house(&self) -> &dyn House {
        self.0.parts.house.as_ref()
    }

    /// The same question about what the log holds, where personal data is masked.
    pub(crate) fn masked(&self, ask: Ask) -> Ask {
        if ask.filters.is_empty() {
            return ask;
        }
        ask.masked(self.house(), &self.store().pin().plan)
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.0.parts.registry
    }

    pub(crate) fn metrics(&self) -> &QueryMetrics {
        &self.0.parts.metrics
    }

    pub(crate) fn settings(&self) -> &QuerySettings {
        &self.0.parts.settings
    }

    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.0.parts.stop
    }

    pub(crate) fn desk(&self) -> &Arc<Desk> {
        &self.0.desk
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.0.hub
    }

    pub(crate) fn scans(&self) -> &Turns {
        &self.0.scans
    }

    /// Short reads of the house's state, which long scans do not hold up.
    pub(crate) fn status_reads(&self) -> &Turns {
        &self.0.status_reads
    }

    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }
}
