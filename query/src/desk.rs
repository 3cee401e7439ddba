//! The desk: each distinct query is computed once, and its answer is shared by all who ask it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hashbrown::HashMap;
use nilometer_access::Problem;
use nilometer_event::EventTime;
use nilometer_event::clock::Clock;
use nilometer_rollups::Store;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::answer::{Answer, Revised, difference};
use crate::ask::Ask;
use crate::engine;
use crate::metrics::QueryMetrics;
use crate::pool::Pool;
use crate::shelves::Pin;
use crate::state::QueryParts;

/// The longest that an answer is shared.
const SHARED_MAX: Duration = Duration::from_secs(1);
/// An answer is shared for at least so many times what it cost, although the shelves have moved
/// on: however fast they move, one query takes at most a fifth of a core.
const SHARED_COSTS: u32 = 4;
/// A query that takes longer to compute is noted at level DEBUG.
const SLOW: Duration = Duration::from_millis(100);
/// Revised windows that are remembered of one query.
const REVISED_MAX: usize = 10_000;

/// Computes and shares answers.
///
/// Bounded: so many queries computed at once, so many waiting (more are answered 503), so many
/// answers and rows kept (the ones unused for longest make room).
#[derive(Debug)]
pub(crate) struct Desk {
    store: Arc<dyn Store>,
    changed: watch::Receiver<u64>,
    clock: Arc<dyn Clock>,
    pool: Pool,
    metrics: QueryMetrics,
    entries: Mutex<HashMap<Arc<Ask>, Arc<Entry>>>,
    answers_max: usize,
    rows_max: usize,
    /// Grows with every use: the age of an entry.
    uses: AtomicU64,
}

/// One distinct query. Its lock is held while the answer is computed, so that it is once.
#[derive(Debug, Default)]
struct Entry {
    good: tokio::sync::Mutex<Option<Good>>,
    used: AtomicU64,
    rows: AtomicUsize,
}

/// An answer and how long it may be shared.
#[derive(Clone, Debug)]
struct Good {
    answer: Arc<Answer>,
    version: u64,
    computed_at: Instant,
    cost: Duration,
    revised: Arc<BTreeSet<EventTime>>,
}

impl Good {
    fn is_fresh(&self, version: u64) -> bool {
        let age = self.computed_at.elapsed();
        let whatever_comes = (self.cost * SHARED_COSTS).min(SHARED_MAX);
        age < whatever_comes || (self.version == version && age < SHARED_MAX)
    }
}

impl Desk {
    pub(crate) fn new(parts: &QueryParts) -> Self {
        let settings = &parts.settings;
        Self {
            store: Arc::clone(&parts.store),
            changed: parts.store.changed(),
            clock: Arc::clone(&parts.clock),
            pool: Pool::new("queries", settings.queries_at_once_max, settings.queries_waiting_max),
            metrics: parts.metrics.clone(),
            entries: Mutex::default(),
            answers_max: settings.cached_answers_max.max(1),
            rows_max: settings.cached_rows_max,
            uses: AtomicU64::new(0),
        }
    }

    /// The answer to `ask`, at most a tick old.
    ///
    /// # Errors
    ///
    /// As [`engine::answer`]; 503 `busy` where too many queries wait.
    pub(crate) async fn answer(&self, ask: &Arc<Ask>) -> Result<Arc<Answer>, Problem> {
        let entry = self.entry(ask);
        // Single flight: whoever holds the lock computes, the others wait and find it done.
        let mut good = entry.good.lock().await;
        if let Some(good) = good.as_ref().filter(|good| good.is_fresh(*self.changed.borrow())) {
            self.metrics.cache_hits.inc();
            return Ok(Arc::clone(&good.answer));
        }
        self.metrics.cache_misses.inc();
        let computed = self.compute(ask, good.clone()).await;
        match computed {
            Ok(computed) => {
                let answer = Arc::clone(&computed.answer);
                entry.rows.store(answer.rows.len(), Ordering::Relaxed);
                *good = Some(computed);
                drop(good);
                self.make_room();
                Ok(answer)
            }
            Err(problem) => {
                *good = None;
                drop(good);
                self.forget(ask, &entry);
                Err(problem)
            }
        }
    }

    /// Queries that are kept.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        self.entries.lock().len()
    }

    async fn compute(&self, ask: &Arc<Ask>, before: Option<Good>) -> Result<Good, Problem> {
        let (store, ask) = (Arc::clone(&self.store), Arc::clone(ask));
        let clock = Arc::clone(&self.clock);
        // Read before the pin: what comes in between makes the answer look older than it is.
        let version = *self.changed.borrow();
        let took = self.metrics.took.clone();
        self.pool
            .run(move || {
                let begun = Instant::now();
                let pin = Pin::new(store.pin());
                let mut answer = engine::answer(&ask, &pin, clock.now())?;
                let revised = revised(before.as_ref(), &answer);
                answer.meta.revised = summary(&revised);
                let cost = begun.elapsed();
                took.observe(cost.as_secs_f64());
                tell(&ask, answer.rows.len(), cost);
                let (answer, revised) = (Arc::new(answer), Arc::new(revised));
                Ok(Good { answer, version, computed_at: Instant::now(), cost, revised })
            })
            .await?
    }

    fn entry(&self, ask: &Arc<Ask>) -> Arc<Entry> {
        let mut entries = self.entries.lock();
        let entry = entries.entry(Arc::clone(ask)).or_default();
        entry.used.store(self.uses.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        Arc::clone(entry)
    }

    fn forget(&self, ask: &Arc<Ask>, entry: &Arc<Entry>) {
        let mut entries = self.entries.lock();
        if entries.get(ask).is_some_and(|kept| Arc::ptr_eq(kept, entry)) {
            entries.remove(ask);
        }
    }

    /// Lets go of the answers that were not used for longest.
    fn make_room(&self) {
        let mut entries = self.entries.lock();
        let rows: usize = entries.values().map(|entry| entry.rows.load(Ordering::Relaxed)).sum();
        if entries.len() > self.answers_max || rows > self.rows_max {
            let mut by_age: Vec<(u64, usize, Arc<Ask>)> = entries
                .iter()
                .map(|(ask, entry)| {
                    let used = entry.used.load(Ordering::Relaxed);
                    (used, entry.rows.load(Ordering::Relaxed), Arc::clone(ask))
                })
                .collect();
            by_age.sort_unstable_by_key(|(used, ..)| *used);
            // An eighth more than needed, so that this is not done for every new query.
            let (answers_goal, rows_goal) =
                (self.answers_max - self.answers_max / 8, self.rows_max - self.rows_max / 8);
            let mut rows_left = rows;
            for (_, rows, ask) in by_age {
                if entries.len() <= answers_goal && rows_left <= rows_goal {
                    break;
                }
                entries.remove(&ask);
                rows_left -= rows;
            }
        }
        self.metrics.cached.set(i64::try_from(entries.len()).unwrap_or(i64::MAX));
    }
}

/// The final windows that have changed since the query was first answered.
/// Notes a query that was computed: a slow one sooner. Names are the catalogue's; what it filters
/// by is somebody's data.
fn tell(ask: &Ask, rows: usize, cost: Duration) {
    let (span, filters, took_ms) = (ask.span, ask.filters.len(), cost.as_secs_f64() * 1e3);
    let by = |names: &[String]| names.join(",");
    if cost >= SLOW {
        let (metrics, by) = (by(&ask.metrics), by(&ask.group_by));
        tracing::debug!(metrics, by, filters, ?span, rows, took_ms, "query was slow");
    } else if tracing::enabled!(tracing::Level::TRACE) {
        let (metrics, by) = (by(&ask.metrics), by(&ask.group_by));
        tracing::trace!(metrics, by, filters, ?span, rows, took_ms, "query computed");
    }
}

fn revised(before: Option<&Good>, after: &Answer) -> BTreeSet<EventTime> {
    let Some(before) = before else { return BTreeSet::new() };
    let old = &before.answer;
    let mut revised: BTreeSet<EventTime> = before
        .revised
        .iter()
        .copied()
        .filter(|window| after.moments.range.contains(*window))
        .collect();
    // Where a limit cuts, rows come and go without anything having been revised.
    if old.meta.truncated || after.meta.truncated || old.moments.width_ms != after.moments.width_ms
    {
        return revised;
    }
    let delta = difference(old, after);
    for row in delta.changed.into_iter().chain(delta.removed) {
        let end = row.window.plus_ms(old.moments.width_ms);
        let seen_before = old.moments.range.contains(row.window);
        let seen_now = after.moments.range.contains(row.window);
        if seen_before && seen_now && end <= old.moments.final_until && revised.len() < REVISED_MAX
        {
            revised.insert(row.window);
        }
    }
    revised
}

fn summary(revised: &BTreeSet<EventTime>) -> Option<Revised> {
    let (from, to) = (revised.first()?, revised.last()?);
    Some(Revised { windows: revised.len(), from: from.to_string(), to: to.to_string() })
}

#[cfg(test)]
mod tests;
