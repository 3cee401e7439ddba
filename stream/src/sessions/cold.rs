//! Look-ups of sessions that are not hot: planned without I/O, read by the shell, used in the fold.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use nilometer_event::{EventTime, UserHash};
use nilometer_log::{Disk, DiskFile};
use smallvec::SmallVec;

use super::block::{Core, StoredBlock};
use super::open::Span;
use super::session::{Stored, is_all_near};
use super::shelf::Shelf;
use super::store::{SessionRun, newest_only, read_rows};
use crate::ids::run::{Run, Unreadable};
use crate::ids::{Hour, RunDamaged, RunReadFailed};

/// Blocks to read before an entry can be folded.
#[derive(Clone, Debug)]
pub struct ColdSessionLookups {
    pub(crate) gap_ms: i64,
    /// No session that is not hot has a later event.
    pub(crate) latest: EventTime,
    pub(crate) runs: Vec<SessionRun>,
    pub(crate) probes: Vec<Probe>,
    /// Users whose events lie where a whole run was lost.
    pub(crate) lost: HashSet<u64>,
}

/// One user in one block of one run, for an event at `time`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Probe {
    pub(crate) run: usize,
    pub(crate) block: usize,
    pub(crate) user: u64,
    pub(crate) time: EventTime,
}

/// What the cold runs said about the users of one entry.
#[derive(Clone, Debug, Default)]
pub struct ColdSessions {
    states: HashMap<u64, Vec<Stored>>,
    known: HashMap<u64, Known>,
    lost: HashSet<u64>,
    damage: Vec<RunDamaged>,
}

/// How far the states of one user reach that begin by a moment: by their begins, and only those that
/// reach further than all before. A user may have thousands, and each of an entry's events asks.
#[derive(Clone, Debug, Default)]
struct Known(BTreeMap<EventTime, EventTime>);

impl Known {
    fn add(&mut self, (first, last): Span) {
        if self.reaches(first).is_some_and(|reaches| reaches >= last) {
            return;
        }
        let short = self.0.range(first..).take_while(|&(_, &reaches)| reaches <= last);
        let short: SmallVec<[EventTime; 4]> = short.map(|(&first, _)| first).collect();
        for first in short {
            self.0.remove(&first);
        }
        self.0.insert(first, last);
    }

    /// The last moment of the states that begin by `time`.
    fn reaches(&self, time: EventTime) -> Option<EventTime> {
        self.0.range(..=time).next_back().map(|(_, &last)| last)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OnRefusal {
    Fail,
    CallItDamage,
}

impl ColdSessionLookups {
    /// Of sessions a gap apart, none of which that is not hot has an event after `latest`.
    pub(crate) fn new(gap_ms: i64, latest: EventTime) -> Self {
        Self { gap_ms, latest, runs: Vec::new(), probes: Vec::new(), lost: HashSet::new() }
    }

    /// True where nothing has to be read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.probes.is_empty() && self.lost.is_empty()
    }

    /// How many blocks are asked, repeats included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.probes.len()
    }

    /// Reads what the look-ups need.
    ///
    /// A block whose bytes are wrong or missing is damage, told by [`ColdSessions::damage`].
    ///
    /// # Errors
    ///
    /// [`RunReadFailed`] when the disk refuses: nothing is known, so try again, and after some
    /// tries call [`Self::fetch_anyway`].
    pub fn fetch(&self, disk: &dyn Disk) -> Result<ColdSessions, RunReadFailed> {
        self.read(disk, OnRefusal::Fail)
    }

    /// As [`Self::fetch`], but what the disk refuses to read counts as damaged.
    ///
    /// # Panics
    ///
    /// Where it does not.
    #[must_use]
    pub fn fetch_anyway(&self, disk: &dyn Disk) -> ColdSessions {
        let read = self.read(disk, OnRefusal::CallItDamage);
        read.expect("S3: what the disk refuses counts as damaged, never as nothing")
    }

    /// Reads the newest runs first, and of older ones only what the newer leave open: the session
    /// of a user who stays lies in every run since it began.
    fn read(&self, disk: &dyn Disk, on_refusal: OnRefusal) -> Result<ColdSessions, RunReadFailed> {
        let mut probes = self.probes.clone();
        let last_layer = |probe: &Probe| self.runs[probe.run].meta.last_layer;
        probes.sort_unstable_by_key(|probe| (Reverse(last_layer(probe)), *probe));
        probes.dedup();
        let mut cold = ColdSessions { lost: self.lost.clone(), ..ColdSessions::default() };
        let mut newer_from = u64::MAX;
        for of_run in probes.chunk_by(|one, next| one.run == next.run) {
            let SessionRun { meta, run } = &self.runs[of_run[0].run];
            let is_older = meta.last_layer < newer_from;
            newer_from = newer_from.min(meta.first_layer);
            let latest = meta.latest.min(self.latest);
            let mut asked = of_run.to_vec();
            asked.retain(|probe| !(is_older && cold.answers(probe, latest, self.gap_ms)));
            if asked.is_empty() {
                continue;
            }
            let handle = disk.open_read(&run.file).map_err(Unreadable::from);
            for of_block in asked.chunk_by(|one, next| one.block == next.block) {
                match read(run, &handle, of_block[0].block) {
                    Ok(block) => cold.take(of_block, &block),
                    Err(Unreadable::Io(source)) if on_refusal == OnRefusal::Fail => {
                        return Err(RunReadFailed { file: run.file.clone(), source });
                    }
                    Err(error) => cold.unreadable(run, of_block, &error),
                }
            }
        }
        cold.known.clear();
        for states in cold.states.values_mut() {
            newest_only(states, |stored| Core::from(stored));
        }
        Ok(cold)
    }
}

impl ColdSessions {
    /// What is known when nothing had to be read.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// What could not be read; log each, once.
    #[must_use]
    pub fn damage(&self) -> &[RunDamaged] {
        &self.damage
    }

    /// The user's newest cold states that have a moment between the two, near the times that were
    /// asked; `None` where some are lost.
    pub(crate) fn of(&self, user: UserHash, (first, last): Span) -> Option<&[Stored]> {
        if self.lost.contains(&user.get()) {
            return None;
        }
        // They lie in order, and none overlaps another.
        let states = self.states.get(&user.get()).map_or(&[][..], Vec::as_slice);
        let from = states.partition_point(|state| state.last < first);
        let until = states.partition_point(|state| state.first <= last);
        Some(states.get(from..until).unwrap_or_default())
    }

    /// True where a run older than those read, with no event after `latest`, has nothing to add.
    fn answers(&self, probe: &Probe, latest: EventTime, gap_ms: i64) -> bool {
        let Probe { user, time, .. } = *probe;
        // Where any of them is near, the one that reaches furthest is.
        let furthest = self.known.get(&user).and_then(|known| known.reaches(time));
        self.lost.contains(&user)
            || furthest
                .is_some_and(|last| is_all_near((time.min(last), last), time, latest, gap_ms))
    }

    fn take(&mut self, probes: &[Probe], block: &StoredBlock) {
        for of_user in probes.chunk_by(|one, next| one.user == next.user) {
            let user = of_user[0].user;
            let rows = block.of_user(user);
            if !rows.is_empty() {
                let states = self.states.entry(user).or_default();
                states.extend(rows.iter().map(|row| block.stored(row)));
                let known = self.known.entry(user).or_default();
                rows.iter().for_each(|row| known.add((row.core.first, row.core.last)));
            }
        }
    }

    fn unreadable(&mut self, run: &Run, probes: &[Probe], error: &Unreadable) {
        self.damage.push(RunDamaged {
            file: run.file.clone(),
            hours: hours_of(run.blocks[probes[0].block].group),
            odd: false,
            reason: error.reason(),
        });
        self.lost.extend(probes.iter().map(|probe| probe.user));
    }
}

/// The first and the last hour of a group's shelf.
pub(crate) fn hours_of(group: i64) -> Vec<Hour> {
    let Some(shelf) = Shelf::from_group(group) else { return Vec::new() };
    let (first, last) = shelf.hours();
    if first == last { vec![first] } else { vec![first, last] }
}

fn read(
    run: &Run,
    handle: &Result<Box<dyn DiskFile>, Unreadable>,
    block: usize,
) -> Result<StoredBlock, Unreadable> {
    match handle {
        Ok(handle) => read_rows(run, &**handle, block),
        Err(error) => Err(error.again()),
    }
}
