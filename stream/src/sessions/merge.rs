//! Merging of session runs: fewer files, the same answers.

use nilometer_log::{Disk, DiskFile};

use super::block::{Core, StoredBlock, StoredRow};
use super::shelf::Shelf;
use super::store::{
    BlockNumbers, SessionRun, SessionRunMeta, SessionRunPlan, SessionRunWriter, newest_only,
    read_rows,
};
use crate::ids::run::Unreadable;
use crate::ids::{ClosedHours, MergeRunsError, RunReadFailed};

/// Runs of one level that become one of the next.
const FAN_IN: usize = 8;
/// Eight layers of 30 s, merged five times, are eleven days.
const LEVEL_MAX: u8 = 5;
/// A run is not merged into one larger than this: about 1 GB.
const MERGED_ROWS_MAX: u64 = 1 << 24;

/// A merge to be run by the shell's writer; pure data.
#[derive(Clone, Debug)]
pub struct SessionsMerge {
    pub(crate) inputs: Vec<SessionRun>,
    pub(crate) file: String,
    pub(crate) level: u8,
    pub(crate) closed: ClosedHours,
    pub(crate) gap_ms: i64,
}

/// A merge that was written, to be handed to [`super::Sessions::merged`].
#[derive(Clone, Debug)]
pub struct SessionsMerged {
    pub(crate) inputs: Vec<String>,
    /// `None` where no row was left.
    pub(crate) output: Option<SessionRun>,
}

/// Chooses the runs to merge: the oldest eight of the lowest level that has so many.
pub(crate) fn choose<'a>(runs: &[&'a SessionRun]) -> Option<(Vec<&'a SessionRun>, u8)> {
    (0..LEVEL_MAX).find_map(|level| {
        let mut of_level: Vec<&SessionRun> =
            runs.iter().copied().filter(|run| run.meta.level == level).collect();
        of_level.sort_by_key(|run| run.meta.first_layer);
        of_level.truncate(FAN_IN);
        let rows: u64 = of_level.iter().map(|run| run.meta.rows).sum();
        (of_level.len() == FAN_IN && rows <= MERGED_ROWS_MAX).then_some((of_level, level + 1))
    })
}

const SOME_INPUT: &str = "S6: a merge has inputs";

impl SessionsMerge {
    /// Writes the merged run: of states that grew out of each other only the newest, and none that
    /// lies in forgotten hours alone.
    ///
    /// # Errors
    ///
    /// [`MergeRunsError`]; hand it to [`super::Sessions::merge_failed`]. Nothing was changed.
    ///
    /// # Panics
    ///
    /// Where it has no inputs.
    pub fn run(&self, disk: &dyn Disk) -> Result<SessionsMerged, MergeRunsError> {
        let write = |source| MergeRunsError::Write { file: self.file.clone(), source };
        let metas = || self.inputs.iter().map(|input| &input.meta);
        let plan = SessionRunPlan {
            file: self.file.clone(),
            level: self.level,
            first_layer: metas().map(|meta| meta.first_layer).min().expect(SOME_INPUT),
            last_layer: metas().map(|meta| meta.last_layer).max().expect(SOME_INPUT),
            rows_max: metas().map(|meta| meta.rows).sum(),
        };
        let mut writer = SessionRunWriter::create(disk, plan).map_err(write)?;
        let mut cursors: Vec<Cursor<'_>> = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            cursors.push(Cursor::open(disk, input)?);
        }
        let mut found: Vec<(usize, StoredRow)> = Vec::new();
        while let Some(key) = cursors.iter().filter_map(Cursor::key).min() {
            found.clear();
            for (index, cursor) in cursors.iter().enumerate() {
                if cursor.key() == Some(key) {
                    found.extend(cursor.of_user(key.1).iter().map(|&row| (index, row)));
                }
            }
            newest_only(&mut found, |(_, row)| row.core);
            let shelf = Shelf::from_group(key.0).ok_or_else(|| strange(&self.file))?;
            for (index, row) in found.iter().filter(|(_, row)| !self.is_forgotten(row.core)) {
                writer.push_stored(shelf, cursors[*index].source(), row).map_err(write)?;
            }
            for cursor in cursors.iter_mut().filter(|cursor| cursor.key() == Some(key)) {
                cursor.pass(key.1)?;
            }
        }
        let output = writer.finish().map_err(write)?;
        Ok(SessionsMerged {
            inputs: metas().map(|meta| meta.file.clone()).collect(),
            output: (output.meta.rows > 0).then_some(output),
        })
    }

    fn is_forgotten(&self, state: Core) -> bool {
        is_forgotten(&self.closed, state.first, state.last, self.gap_ms)
    }
}

/// True where no event that is still taken can reach `[first, last]`.
pub(crate) fn is_forgotten(
    closed: &ClosedHours,
    first: nilometer_event::EventTime,
    last: nilometer_event::EventTime,
    gap_ms: i64,
) -> bool {
    closed.spans_forgotten(first.minus_ms(gap_ms), last.plus_ms(gap_ms))
}

/// True where nothing of the run can be reached any more.
pub(crate) fn is_run_forgotten(meta: &SessionRunMeta, closed: &ClosedHours, gap_ms: i64) -> bool {
    is_forgotten(closed, meta.earliest, meta.latest, gap_ms)
}

/// Reads a run's rows in order, a block at a time.
struct Cursor<'a> {
    input: &'a SessionRun,
    handle: Box<dyn DiskFile>,
    next_block: usize,
    group: i64,
    block: StoredBlock,
    numbers: BlockNumbers,
    /// The first row that was not passed.
    next_row: usize,
}

impl<'a> Cursor<'a> {
    fn open(disk: &dyn Disk, input: &'a SessionRun) -> Result<Self, MergeRunsError> {
        let handle = disk
            .open_read(&input.run.file)
            .map_err(|error| unreadable(input, Unreadable::from(error)))?;
        let mut cursor = Self {
            input,
            handle,
            next_block: 0,
            group: 0,
            block: StoredBlock::default(),
            numbers: BlockNumbers::default(),
            next_row: 0,
        };
        cursor.advance()?;
        Ok(cursor)
    }

    /// The shelf and the user whose rows are next.
    fn key(&self) -> Option<(i64, u64)> {
        self.rest().first().map(|row| (self.group, row.core.user))
    }

    fn rest(&self) -> &[StoredRow] {
        &self.block.rows()[self.next_row..]
    }

    /// The next rows, as far as they are this user's: all of a user and shelf are in one block.
    fn of_user(&self, user: u64) -> &[StoredRow] {
        let rest = self.rest();
        let others = rest.iter().position(|row| row.core.user != user);
        &rest[..others.unwrap_or(rest.len())]
    }

    /// The block that the next rows are of, to be written into another.
    const fn source(&mut self) -> (&StoredBlock, &mut BlockNumbers) {
        (&self.block, &mut self.numbers)
    }

    /// Goes on behind a user's rows.
    fn pass(&mut self, user: u64) -> Result<(), MergeRunsError> {
        self.next_row += self.of_user(user).len();
        self.advance()
    }

    fn advance(&mut self) -> Result<(), MergeRunsError> {
        while self.rest().is_empty() && self.next_block < self.input.run.blocks.len() {
            let block = read_rows(&self.input.run, &*self.handle, self.next_block);
            self.block = block.map_err(|error| unreadable(self.input, error))?;
            self.numbers.reset(&self.block);
            self.group = self.input.run.blocks[self.next_block].group;
            self.next_row = 0;
            self.next_block += 1;
        }
        Ok(())
    }
}

pub(super) fn unreadable(input: &SessionRun, error: Unreadable) -> MergeRunsError {
    let file = input.run.file.clone();
    match error {
        Unreadable::Io(source) => RunReadFailed { file, source }.into(),
        Unreadable::Damaged(reason) => MergeRunsError::Damaged { file, reason },
    }
}

pub(super) fn strange(file: &str) -> MergeRunsError {
    let reason = "a shelf is not of this version".to_owned();
    MergeRunsError::Damaged { file: file.to_owned(), reason }
}
