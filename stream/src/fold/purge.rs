//! A replay without the events of a key on a day, and what comes of it for the shard itself.
//!
//! Verdicts stay what they were, but for the events that are purged and for what was a repeat of
//! them alone: an event of another key with the same id counts in their place, where it is of the
//! same day, for only that day is told anew.

use std::collections::HashSet;
use std::sync::Arc;

use nilometer_event::{EventTime, Granularity, Offset, Topic};
use nilometer_log::Disk;

use super::enter::TypeKinds;
use super::{GuardSealed, Key, Prepared, Sealed, Shard, State, ids_settings};
use crate::cells::{Guard, Tallies};
use crate::declare::Plan;
use crate::ids::{ColdIds, Ids, IdsSettings, RunReadFailed, Verdict};
use crate::journal::Entry;
use crate::sessions::Stored;
use crate::view::Counters;

/// What of a record concerns purges.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mark {
    /// The purge that takes it.
    pub(crate) taken_by: Option<usize>,
    /// The purges before which it was there, as bits.
    pub(crate) before: u64,
}

/// The events that a replay leaves out, purge by purge, in the order in which they were made; the
/// last is the one that is being made.
#[derive(Debug)]
pub(crate) struct Purging {
    purges: Vec<Yielding>,
    /// Of the entry's records on the topics of events, in their order.
    marks: Vec<Mark>,
    /// What the files of each purge's ids say.
    cold: Vec<ColdIds>,
    pub(crate) tally: PurgeTally,
    /// Whose sessions may change.
    pub(crate) users: HashSet<u64>,
}

/// Ids that were only those of purged events.
#[derive(Debug)]
struct Yielding {
    day: i64,
    ids: Ids,
}

/// What becomes of events by the purge that is being made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PurgeTally {
    /// They had counted.
    pub(crate) counted: u64,
    /// They were repeats.
    pub(crate) repeated: u64,
    /// They were repeats of those, and count now.
    pub(crate) revived: u64,
}

impl PurgeTally {
    /// The counters once these events are erased; `None` where there were never so many.
    pub(crate) fn applied(self, to: Counters) -> Option<Counters> {
        Some(Counters {
            unique: (to.unique + self.revived).checked_sub(self.counted)?,
            duplicate: to.duplicate.checked_sub(self.repeated + self.revived)?,
            erased: to.erased + self.counted + self.repeated,
            ..to
        })
    }
}

pub(crate) const fn day_of(time: EventTime) -> i64 {
    time.ms().div_euclid(Granularity::Day.ms())
}

impl Purging {
    /// Purges of these days; `dir` is for what their ids need on disk.
    pub(crate) fn new(days: &[i64], dir: &str, birth: EventTime) -> Self {
        let yielding = |(number, &day): (usize, &i64)| {
            let settings = IdsSettings::new(format!("{dir}/purge-{number}"));
            Yielding { day, ids: Ids::new(settings, birth) }
        };
        Self {
            purges: days.iter().enumerate().map(yielding).collect(),
            marks: Vec::new(),
            cold: Vec::new(),
            tally: PurgeTally::default(),
            users: HashSet::new(),
        }
    }

    /// The verdict about an event; `None` where it is purged.
    pub(super) fn judge(
        &mut self,
        ids: &mut Ids,
        key: &Key,
        place: usize,
        cold: &ColdIds,
    ) -> Option<Verdict> {
        let mark = self.marks[place];
        let newest = self.purges.len() - 1;
        let is_repeat = ids.holds(key.id, cold) || self.is_held(key, mark);
        let Some(by) = mark.taken_by else {
            if is_repeat && !ids.holds(key.id, cold) {
                return Some(Verdict::Duplicate { conflict: false });
            }
            let is_revived = self.purges[newest].ids.holds(key.id, &self.cold[newest]);
            let verdict = ids.admit(key.id, cold);
            if verdict == Verdict::New && is_revived {
                self.tally.revived += 1;
                self.note_user(key);
            }
            return Some(verdict);
        };
        let is_first =
            !is_repeat && self.purges[by].ids.admit(key.id, &self.cold[by]) == Verdict::New;
        if by == newest {
            self.tally.counted += u64::from(is_first);
            self.tally.repeated += u64::from(!is_first);
            self.note_user(key);
        }
        None
    }

    /// Whether the event stays a repeat of one that was purged: it came behind the purge, or is
    /// of another day.
    fn is_held(&self, key: &Key, mark: Mark) -> bool {
        let day = day_of(key.time);
        self.purges.iter().zip(&self.cold).enumerate().any(|(number, (purge, cold))| {
            let yields = purge.day == day && mark.before >> number & 1 == 1;
            !yields && purge.ids.holds(key.id, cold)
        })
    }

    fn note_user(&mut self, key: &Key) {
        if key.is_user {
            self.users.insert(key.user.get());
        }
    }
}

impl State {
    /// The state of a replay from the middle of a journal: `guard` knows the days before it,
    /// `ends` is how far the topics were read.
    pub(crate) fn replaying(
        shard: Shard,
        plan: Arc<Plan>,
        guard: Guard,
        ends: [Offset; Topic::RECEIVED.len()],
        purging: Purging,
    ) -> Self {
        let mut state = Self::new(shard, plan);
        state.tallies = Tallies::with_guard(guard);
        for (position, end) in state.positions.0.iter_mut().zip(ends) {
            position.next = end;
        }
        state.purging = Some(Box::new(purging));
        state
    }

    /// What is left out of a replay.
    ///
    /// # Panics
    ///
    /// Of any other state.
    pub(crate) fn purging(&mut self) -> &mut Purging {
        self.purging.as_mut().expect("P1: a replay knows what it leaves out")
    }

    /// What the entry's records are to the purges; before each [`Self::enter`].
    pub(crate) fn mark(
        &mut self,
        prepared: &Prepared<'_>,
        marks: Vec<Mark>,
        entry: &Entry,
        disk: &dyn Disk,
    ) -> Result<(), RunReadFailed> {
        let own = ids_settings(&self.shard, &entry.settings);
        let Purging { purges, marks: known, cold, .. } = self.purging();
        *known = marks;
        cold.clear();
        for purge in purges {
            purge.ids.configure(own.hot_ms, own.hot_ids_max, own.horizon_ms);
            let keys = prepared.keys.iter().flatten().map(|key| key.id);
            cold.push(purge.ids.plan_lookups(keys).fetch(disk)?);
        }
        Ok(())
    }

    /// Seals the ids of purged events with a layer that was sealed.
    pub(crate) fn seal_purged(&mut self, sealed: &Sealed, disk: &dyn Disk) -> std::io::Result<()> {
        let (layer, now) = (sealed.layer.number().get(), sealed.entry.now);
        for purge in &mut self.purging().purges {
            let written = purge.ids.seal(layer, now, sealed.state.watermark).write(disk)?;
            purge.ids.installed(written);
        }
        Ok(())
    }

    /// The cardinality guard.
    pub(crate) const fn guard(&self) -> &Guard {
        &self.tallies.guard
    }

    /// Whether hours of a day take no events any more: they lie past the horizon, or a file of
    /// their ids was damaged.
    pub(crate) fn closes_some_of(&self, day: i64) -> bool {
        let closed = self.ids.closed_hours();
        let start = EventTime::from_ms(day * Granularity::Day.ms());
        let is_damaged = closed.damaged().any(|hour| day_of(hour.start()) == day);
        start < closed.horizon() || is_damaged
    }

    /// Takes sessions out of the cells of their starts, and puts others in; those that start on
    /// `day` are told by who tells the day anew.
    pub(crate) fn correct_sessions(&mut self, gone: &[Stored], added: &[Stored], day: i64) {
        let open = Arc::clone(&self.open);
        let mut guard = open.write();
        let Self { sessions, tallies, plan, words, .. } = self;
        let mut kinds = TypeKinds::new(plan);
        let changes = gone.iter().map(|one| (one, -1)).chain(added.iter().map(|one| (one, 1)));
        for (stored, sign) in changes.filter(|(one, _)| day_of(one.first) != day) {
            let layer = &mut guard.layer;
            sessions.show(stored, &mut |session| {
                let measure = kinds.measure(session);
                let codes = words.codes_of(plan, layer, tallies, session);
                layer.count_coded_session(session.start(), &codes, &measure, sign);
            });
        }
        guard.layer.end_entry(tallies);
    }

    /// The layer of these corrections, closed, with the state once the events are erased; the
    /// state itself is of no more use.
    pub(crate) fn seal_purge(&mut self, counters: Counters, guard: Guard) -> Sealed {
        self.counters = counters;
        self.tallies.guard = guard;
        let whole = self.tallies.guard.snapshot();
        Sealed { guard: GuardSealed::Whole(whole), ..self.seal() }
    }
}
