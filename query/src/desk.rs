//! The desk: each distinct query is computed once, and its answer is shared by all who ask it.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hashbrown::HashMap;
use nilometer_access::{Problem, Status};
use nilometer_event::EventTime;
use nilometer_event::clock::Clock;
use nilometer_log::cpu_time;
use nilometer_rollups::Store;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::answer::{Answer, Revised, difference};
use crate::ask::Ask;
use crate::budget::{Budget, Held, NoRoom};
use crate::engine;
use crate::metrics::QueryMetrics;
use crate::shelves::Pin;
use crate::state::QueryParts;
use crate::turns::{Caller, Length, Limits, Turn, Turns};

/// The longest that an answer is shared.
const SHARED_MAX: Duration = Duration::from_secs(1);
/// An answer is shared for at least so many times what it cost, although the shelves have moved
/// on: however fast they move, one query takes at most a fifth of a core.
const SHARED_COSTS: u32 = 4;
/// A query that takes longer to compute is noted at level DEBUG.
const SLOW: Duration = Duration::from_millis(100);
/// A query that takes more of a processor is long work from then on: not one that has waited for it.
const MUCH: Duration = Duration::from_millis(100);
/// Long work that took less is tried as short work again.
const LITTLE: Duration = Duration::from_millis(20);
/// Revised windows that are remembered of one query.
const REVISED_MAX: usize = 10_000;

/// Computes and shares answers.
///
/// Bounded: so many queries computed at once, so many waiting (more are answered 503), so many
/// answers and bytes kept: what nobody shows makes room, the largest and the longest unused first.
#[derive(Debug)]
pub(crate) struct Desk {
    store: Arc<dyn Store>,
    changed: watch::Receiver<u64>,
    clock: Arc<dyn Clock>,
    turns: Turns,
    budget: Budget,
    metrics: QueryMetrics,
    entries: Mutex<HashMap<Arc<Ask>, Arc<Entry>>>,
    answers_max: usize,
    /// Grows with every use: the age of an entry.
    uses: AtomicU64,
}

/// One distinct query.
#[derive(Debug, Default)]
struct Entry {
    good: Mutex<Option<Good>>,
    /// Held while the answer is computed, so that it is once.
    computing: tokio::sync::Mutex<()>,
    /// Tells whoever waits for a turn that the answer is there.
    renewed: Notify,
    used: AtomicU64,
    /// Whether it was long work the last time.
    is_long: AtomicBool,
    /// Memory that its answer took the last time.
    bytes: AtomicUsize,
}

/// An answer, and what it holds of the memory for answers.
#[derive(Debug)]
pub(crate) struct Kept {
    answer: Answer,
    held: Held,
}

impl Deref for Kept {
    type Target = Answer;

    fn deref(&self) -> &Answer {
        &self.answer
    }
}

/// An answer and how long it may be shared.
#[derive(Clone, Debug)]
struct Good {
    answer: Arc<Kept>,
    version: u64,
    computed_at: Instant,
    cost: Duration,
    revised: Arc<BTreeSet<EventTime>>,
}

/// What was computed, before it has its memory.
struct Computed {
    answer: Answer,
    version: u64,
    cost: Duration,
    /// Processor time of that.
    worked: Duration,
    revised: BTreeSet<EventTime>,
}

impl Good {
    fn is_fresh(&self, version: u64) -> bool {
        let age = self.computed_at.elapsed();
        let whatever_comes = (self.cost * SHARED_COSTS).min(SHARED_MAX);
        age < whatever_comes || (self.version == version && age < SHARED_MAX)
    }
}

impl Entry {
    fn fresh(&self, version: u64) -> Option<Arc<Kept>> {
        let good = self.good.lock();
        good.as_ref().filter(|good| good.is_fresh(version)).map(|good| Arc::clone(&good.answer))
    }

    fn length(&self) -> Length {
        if self.is_long.load(Ordering::Relaxed) { Length::Long } else { Length::Short }
    }
}

impl Desk {
    pub(crate) fn new(parts: &QueryParts) -> Self {
        let settings = &parts.settings;
        let limits = Limits {
            long_at_once: settings.long_queries_at_once_max,
            ..Limits::alike(settings.queries_at_once_max, settings.queries_waiting_max)
        };
        Self {
            store: Arc::clone(&parts.store),
            changed: parts.store.changed(),
            clock: Arc::clone(&parts.clock),
            turns: Turns::new("queries", limits),
            budget: Budget::new(settings.answer_bytes_max, parts.metrics.answer_bytes.clone()),
            metrics: parts.metrics.clone(),
            entries: Mutex::default(),
            answers_max: settings.cached_answers_max.max(1),
            uses: AtomicU64::new(0),
        }
    }

    /// The answer to `ask`, at most a tick old. Whoever waits for its turn has the answer once
    /// anybody who asks the same has had one.
    ///
    /// # Errors
    ///
    /// As [`engine::answer`]; 503 `busy` where too many queries wait, or where answers that are
    /// still shown leave no memory for this one.
    pub(crate) async fn answer(
        &self,
        caller: &Caller,
        ask: &Arc<Ask>,
    ) -> Result<Arc<Kept>, Problem> {
        let entry = self.entry(ask);
        loop {
            let renewed = entry.renewed.notified();
            if let Some(answer) = self.shared(&entry) {
                return Ok(answer);
            }
            let turn = tokio::select! {
                biased;
                () = renewed => continue,
                turn = self.turn(caller, entry.length()) => turn?,
            };
            let Ok(_alone) = entry.computing.try_lock() else {
                // Somebody is at it: the turn is for others.
                drop(turn);
                drop(entry.computing.lock().await);
                continue;
            };
            if let Some(answer) = self.shared(&entry) {
                return Ok(answer);
            }
            let computed = self.renew(caller, ask, &entry, turn).await;
            entry.renewed.notify_waiters();
            match computed {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => entry.is_long.store(true, Ordering::Relaxed),
                Err(problem) => {
                    *entry.good.lock() = None;
                    // What may pass is known to be long, or large, the next time.
                    match problem.status.code().is_client_error() {
                        true => self.forget(ask, &entry),
                        false => self.make_room(),
                    }
                    return Err(problem);
                }
            }
        }
    }

    /// Memory for what is made of answers.
    pub(crate) const fn budget(&self) -> &Budget {
        &self.budget
    }

    /// A turn to compute.
    pub(crate) async fn turn(&self, caller: &Caller, length: Length) -> Result<Turn, Problem> {
        let begun = Instant::now();
        let turn = self.turns.take(caller, length).await?;
        self.metrics.turn_waited.observe(begun.elapsed().as_secs_f64());
        Ok(turn)
    }

    /// Of these the one whose turn comes first, about.
    pub(crate) fn first_of<'a>(&self, callers: &'a [Caller]) -> Option<&'a Caller> {
        self.turns.least_waiting(callers)
    }

    /// Queries that are kept.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        self.entries.lock().len()
    }

    fn shared(&self, entry: &Entry) -> Option<Arc<Kept>> {
        let answer = entry.fresh(*self.changed.borrow())?;
        self.metrics.cache_hits.inc();
        Some(answer)
    }

    /// Computes the answer anew; `None` where that is long work and this was a turn for short.
    async fn renew(
        &self,
        caller: &Caller,
        ask: &Arc<Ask>,
        entry: &Entry,
        turn: Turn,
    ) -> Result<Option<Arc<Kept>>, Problem> {
        // What had no room the last time is not made in vain.
        let expected = self.hold(caller, entry.bytes.load(Ordering::Relaxed))?;
        let length = turn.length();
        let before = entry.good.lock().clone();
        let Some(computed) = self.compute(ask, turn, before).await? else { return Ok(None) };
        self.metrics.cache_misses.inc();
        let Computed { answer, version, cost, worked, revised } = computed;
        let is_long = worked > if length == Length::Long { LITTLE } else { MUCH };
        entry.is_long.store(is_long, Ordering::Relaxed);
        entry.bytes.store(answer.bytes, Ordering::Relaxed);
        drop(expected);
        let held = self.hold(caller, answer.bytes)?;
        let answer = Arc::new(Kept { answer, held });
        let (computed_at, revised) = (Instant::now(), Arc::new(revised));
        let kept = Arc::clone(&answer);
        *entry.good.lock() = Some(Good { answer, version, computed_at, cost, revised });
        self.make_room();
        Ok(Some(kept))
    }

    async fn compute(
        &self,
        ask: &Arc<Ask>,
        turn: Turn,
        before: Option<Good>,
    ) -> Result<Option<Computed>, Problem> {
        let (store, ask) = (Arc::clone(&self.store), Arc::clone(ask));
        let (clock, length) = (Arc::clone(&self.clock), turn.length());
        // Read before the pin: what comes in between makes the answer look older than it is.
        let version = *self.changed.borrow();
        let took = self.metrics.took.clone();
        turn.run(move || {
            let (begun, worked_before) = (Instant::now(), cpu_time());
            let pin = Pin::new(store.pin());
            let Some(mut answer) = engine::answer(&ask, &pin, clock.now(), length)? else {
                return Ok(None);
            };
            let revised = revised(before.as_ref(), &answer);
            answer.meta.revised = summary(&revised);
            let cost = begun.elapsed();
            let worked = cpu_time().saturating_sub(worked_before);
            took.observe(cost.as_secs_f64());
            tell(&ask, answer.rows.len(), cost);
            Ok(Some(Computed { answer, version, cost, worked, revised }))
        })
        .await?
    }

    /// Memory for an answer: what is only kept gives way.
    fn hold(&self, caller: &Caller, bytes: usize) -> Result<Held, Problem> {
        loop {
            match self.budget.hold(&caller.key, bytes) {
                Ok(held) => return Ok(held),
                Err(why) if self.give_up_one(&caller.key, why) => {}
                Err(why) => return Err(no_room(why, bytes, self.budget.key_max())),
            }
        }
    }

    /// Lets go of one answer that nobody shows, where there is one; its memory times its age is
    /// the largest.
    fn give_up_one(&self, key: &str, why: NoRoom) -> bool {
        let entries = self.entries.lock();
        let now = self.uses.load(Ordering::Relaxed);
        let weight = |entry: &Entry| {
            let good = entry.good.lock();
            let kept = &good.as_ref()?.answer;
            let is_idle = Arc::strong_count(kept) == 1;
            let age = now.saturating_sub(entry.used.load(Ordering::Relaxed)).max(1);
            (is_idle && (why == NoRoom::OfAll || kept.held.is_of(key)))
                .then(|| u64::try_from(kept.bytes).unwrap_or(u64::MAX).saturating_mul(age))
        };
        let weighed = entries.values().filter_map(|entry| Some((weight(entry)?, entry)));
        let Some((_, entry)) = weighed.max_by_key(|(weight, _)| *weight) else { return false };
        let entry = Arc::clone(entry);
        // Thousands of rows are let go of with no lock held.
        drop(entries);
        let gone = entry.good.lock().take();
        drop(gone);
        true
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

    /// Lets go of the queries that were not asked for longest, where there are too many.
    fn make_room(&self) {
        let mut entries = self.entries.lock();
        if entries.len() > self.answers_max {
            let used = |entry: &Entry| entry.used.load(Ordering::Relaxed);
            let mut by_age: Vec<(u64, Arc<Ask>)> =
                entries.iter().map(|(ask, entry)| (used(entry), Arc::clone(ask))).collect();
            by_age.sort_unstable_by_key(|(used, _)| *used);
            // An eighth more than needed, so that this is not done for every new query.
            let goal = self.answers_max - self.answers_max / 8;
            for (_, ask) in by_age.into_iter().take(entries.len() - goal) {
                entries.remove(&ask);
            }
        }
        self.metrics.cached.set(i64::try_from(entries.len()).unwrap_or(i64::MAX));
    }
}

fn no_room(why: NoRoom, bytes: usize, key_max: usize) -> Problem {
    let mib = |bytes: usize| bytes.div_ceil(1 << 20);
    let whose = match why {
        NoRoom::OfKey => format!("this key has {} MiB for answers", mib(key_max)),
        NoRoom::OfAll => "all keys share the memory for answers".to_owned(),
    };
    let detail = format!(
        "the answer takes {} MiB, {whose}, and others that are still being taken leave no room;          try again, or ask for fewer rows (limit)",
        mib(bytes)
    );
    Problem::new(Status::Unavailable, "busy", "the server is busy", detail)
        .after(Duration::from_secs(1))
}

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

/// The final windows that have changed since the query was first answered.
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
