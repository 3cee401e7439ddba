//! Sessions that change though no event came: of users some of whose events were purged.

use std::collections::HashMap;

use nilometer_event::{EventTime, TimeRange};
use nilometer_log::Disk;

use super::block::Core;
use super::merge::{strange, unreadable};
use super::packed::PackedStates;
use super::session::{SessionRef, State, Stored, reaches};
use super::shelf::Shelf;
use super::state::Sessions;
use super::store::{
    BlockNumbers, SessionRun, SessionRunMeta, SessionRunPlan, SessionRunWriter, newest_only,
    read_rows, write_layer,
};
use crate::ids::MergeRunsError;
use crate::ids::run::Unreadable;

/// Sessions by user.
pub(crate) type ByUser = HashMap<u64, Vec<Stored>>;

/// Sessions that are to go, and those that take their place.
#[derive(Debug, Default)]
pub(crate) struct SessionEdits {
    /// From the first to the last event.
    gone: HashMap<u64, Vec<(EventTime, EventTime)>>,
    added: Vec<Stored>,
}

/// How a user's sessions differ.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    pub(crate) gone: Vec<Stored>,
    pub(crate) added: Vec<Stored>,
    /// Those that began before `from`, so that nobody can tell what became of them.
    pub(crate) untold: Vec<Stored>,
}

impl Difference {
    /// Between one user's sessions and those that he has without his events of `day` that were
    /// purged; from `from` on all of his events were seen again. What differs elsewhere is not
    /// told.
    pub(crate) fn of(
        was: Vec<Stored>,
        mut is: Vec<Stored>,
        (day, from): (TimeRange, EventTime),
        gap_ms: i64,
    ) -> Self {
        let near = (day.start.minus_ms(gap_ms), day.end.plus_ms(gap_ms));
        let is_near = |one: &Stored| one.first < near.1 && near.0 <= one.last;
        let mut own = Self::default();
        for before in was {
            match is.iter().position(|after| after.is_like(&before)) {
                Some(same) => drop(is.swap_remove(same)),
                None if !is_near(&before) => {}
                None if before.first < from => own.untold.push(before),
                None => own.gone.push(before),
            }
        }
        let is_part =
            |after: &Stored, whole: &Stored| reaches(whole.first, whole.last, after.first, gap_ms);
        is.retain(|after| {
            let of_gone = || own.gone.iter().any(|whole| is_part(after, whole));
            let of_untold = || own.untold.iter().any(|whole| is_part(after, whole));
            after.first >= from && (is_near(after) || of_gone()) && !of_untold()
        });
        own.added = is;
        own
    }

    /// The first and the last moment of what is told.
    pub(crate) fn span(&self) -> Option<(EventTime, EventTime)> {
        let told = || self.gone.iter().chain(&self.added);
        Some((told().map(|one| one.first).min()?, told().map(|one| one.last).max()?))
    }
}

impl Stored {
    /// True where both are made of the same events, whichever entry changed them last.
    fn is_like(&self, other: &Self) -> bool {
        (self.first, self.last, self.events) == (other.first, other.last, other.events)
            && self.counts == other.counts
            && self.dims == other.dims
    }
}

impl SessionEdits {
    /// Notes what becomes of a user's sessions.
    pub(crate) fn note(&mut self, difference: Difference) {
        for gone in difference.gone {
            self.gone.entry(gone.user).or_default().push((gone.first, gone.last));
        }
        self.added.extend(difference.added);
    }

    /// Whether a state goes: an older state of a session lies within it.
    fn takes(&self, state: Core) -> bool {
        self.gone.get(&state.user).is_some_and(|gone| {
            gone.iter().any(|&(first, last)| first <= state.last && state.first <= last)
        })
    }
}

impl Sessions {
    /// The sessions of some users that end at `from` or later, as the runs on `disk` hold them:
    /// everything is written.
    pub(crate) fn written(
        &self,
        disk: &dyn Disk,
        from: EventTime,
        is_wanted: &dyn Fn(u64) -> bool,
    ) -> Result<ByUser, MergeRunsError> {
        let mut found = ByUser::new();
        for run in self.runs.iter().filter(|run| run.meta.latest >= from) {
            each_block(disk, run, &mut |_, block, _| {
                let is_wanted = |core: Core| core.last >= from && is_wanted(core.user);
                for row in block.rows().iter().filter(|row| is_wanted(row.core)) {
                    found.entry(row.core.user).or_default().push(block.stored(row));
                }
                Ok(())
            })?;
        }
        for states in found.values_mut() {
            newest_only(states, |stored| Core::from(stored));
        }
        Ok(found)
    }

    /// Shows a session as the cells see it.
    pub(crate) fn show(&mut self, stored: &Stored, see: &mut dyn FnMut(SessionRef<'_>)) {
        let state = State::from_stored(stored, &mut self.words);
        see(SessionRef { state: &state, words: &self.words, dimensions: &self.dimensions });
    }

    /// How long a silence a session may have.
    pub(crate) const fn gap_ms(&self) -> i64 {
        self.settings.gap_ms
    }

    /// Writes the runs that hold what goes once more, without it, and a run of what is added, as
    /// of entry `seq` and layer `layer`; what is in use stays as it is. Returns all that is to be
    /// in use then, and the number of the next merge.
    pub(crate) fn edited(
        &self,
        disk: &dyn Disk,
        edits: &SessionEdits,
        (layer, seq): (u64, u64),
    ) -> Result<(Vec<SessionRunMeta>, u64), MergeRunsError> {
        let mut next = self.next_merge;
        let mut name = |first: u64| {
            next += 1;
            format!("{}/{first:020}-{:010}.sessions", self.settings.dir, next - 1)
        };
        let mut metas = Vec::new();
        for run in &self.runs {
            if edits.gone.is_empty() {
                metas.push(run.meta.clone());
                continue;
            }
            let without = write_without(disk, run, name(run.meta.first_layer), edits)?;
            metas.extend(without.map(|run| run.meta));
        }
        let mut words = self.words.clone();
        let mut packed = PackedStates::default();
        for stored in &edits.added {
            packed.push(&State { seq, ..State::from_stored(stored, &mut words) });
        }
        let file = name(layer);
        let texts = words.texts();
        let added = write_layer(disk, file.clone(), layer, &packed, &texts)
            .map_err(|source| MergeRunsError::Write { file, source })?;
        metas.extend(added.map(|run| run.meta));
        Ok((metas, next))
    }
}

/// A run without the sessions that go; `None` where none is left.
fn write_without(
    disk: &dyn Disk,
    run: &SessionRun,
    file: String,
    edits: &SessionEdits,
) -> Result<Option<SessionRun>, MergeRunsError> {
    let SessionRunMeta { level, first_layer, last_layer, rows, .. } = run.meta;
    let plan =
        SessionRunPlan { file: file.clone(), level, first_layer, last_layer, rows_max: rows };
    let write = |source| MergeRunsError::Write { file: file.clone(), source };
    let mut writer = SessionRunWriter::create(disk, plan).map_err(write)?;
    each_block(disk, run, &mut |shelf, block, numbers| {
        for row in block.rows().iter().filter(|row| !edits.takes(row.core)) {
            writer.push_stored(shelf, (block, &mut *numbers), row).map_err(write)?;
        }
        Ok(())
    })?;
    let written = writer.finish().map_err(write)?;
    Ok((written.meta.rows > 0).then_some(written))
}

/// Shows every block of a run with its shelf, in order.
fn each_block(
    disk: &dyn Disk,
    run: &SessionRun,
    see: &mut dyn FnMut(
        Shelf,
        &super::block::StoredBlock,
        &mut BlockNumbers,
    ) -> Result<(), MergeRunsError>,
) -> Result<(), MergeRunsError> {
    let handle =
        disk.open_read(&run.run.file).map_err(|error| unreadable(run, Unreadable::from(error)))?;
    let mut numbers = BlockNumbers::default();
    for (index, of) in run.run.blocks.iter().enumerate() {
        let block = read_rows(&run.run, &*handle, index).map_err(|error| unreadable(run, error))?;
        numbers.reset(&block);
        let shelf = Shelf::from_group(of.group).ok_or_else(|| strange(&run.run.file))?;
        see(shelf, &block, &mut numbers)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(first: i64, last: i64, events: u64) -> Stored {
        let at = |minute: i64| EventTime::from_ms(minute * 60_000);
        Stored {
            user: 1,
            first: at(first),
            last: at(last),
            events,
            seq: u64::MAX - events,
            counts: Vec::new(),
            dims: Vec::new(),
        }
    }

    fn told(sessions: &[Stored]) -> Vec<(i64, i64)> {
        sessions.iter().map(|it| (it.first.ms() / 60_000, it.last.ms() / 60_000)).collect()
    }

    #[test]
    fn sessions_that_differ_go_and_come_and_those_from_before_the_log_are_told_apart() {
        let was = vec![
            session(-900, -800, 5),
            session(-50, 140, 9),
            session(200, 300, 7),
            session(400, 400, 1),
            session(500, 510, 3),
            session(900, 910, 3),
        ];
        let mut same = session(500, 510, 3);
        same.seq = 1;
        let is = vec![
            session(-900, -800, 4),
            session(0, 10, 2),
            session(200, 220, 3),
            session(290, 300, 2),
            same,
            session(900, 920, 4),
        ];
        let at = |minute: i64| EventTime::from_ms(minute * 60_000);
        let day = TimeRange { start: at(100), end: at(600) };
        let own = Difference::of(was, is, (day, at(0)), 30 * 60_000);
        assert_eq!(told(&own.gone), [(200, 300), (400, 400)]);
        let mut added = told(&own.added);
        added.sort_unstable();
        assert_eq!(added, [(200, 220), (290, 300)]);
        assert_eq!(told(&own.untold), [(-50, 140)]);
        assert_eq!(own.span(), Some((at(200), at(400))));
    }
}
