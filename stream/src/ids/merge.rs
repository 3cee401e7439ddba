//! Merging of cold id runs: fewer files, the same answers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use nilometer_event::EventTime;
use nilometer_log::{Disk, DiskFile};

use super::damage::{MergeRunsError, RunReadFailed};
use super::hours::ClosedHours;
use super::run::Unreadable;
use super::store::{
    Group, IdRun, IdRunMeta, IdRunPlan, IdRunWriter, decode_block, is_day_forgotten,
};

/// Runs of one level that become one of the next.
const FAN_IN: usize = 8;
/// Eight layers of 30 s, merged five times, are eleven days.
const LEVEL_MAX: u8 = 5;
/// A run is not merged into one larger than this: about 600 MB.
const MERGED_ROWS_MAX: u64 = 1 << 26;

/// A merge to be run by the shell's writer; pure data.
#[derive(Clone, Debug)]
pub struct IdsMerge {
    pub(crate) inputs: Vec<IdRun>,
    pub(crate) file: String,
    pub(crate) level: u8,
    /// Rows of closed hours and forgotten days are left out.
    pub(crate) closed: ClosedHours,
}

/// A merge that was written, to be handed to [`super::Ids::merged`].
#[derive(Clone, Debug)]
pub struct IdsMerged {
    pub(crate) inputs: Vec<String>,
    /// `None` where no row was left.
    pub(crate) output: Option<IdRun>,
}

/// Chooses the runs to merge: the oldest eight of the lowest level that has so many cold ones, or
/// one run that is half forgotten.
pub(crate) fn choose<'a>(
    cold_runs: &[&'a IdRun],
    closed: &ClosedHours,
) -> Option<(Vec<&'a IdRun>, u8)> {
    for level in 0..LEVEL_MAX {
        let mut of_level: Vec<&IdRun> =
            cold_runs.iter().copied().filter(|run| run.meta.level == level).collect();
        of_level.sort_by_key(|run| run.meta.first_layer);
        of_level.truncate(FAN_IN);
        let rows: u64 = of_level.iter().map(|run| run.meta.rows()).sum();
        if of_level.len() == FAN_IN && rows <= MERGED_ROWS_MAX {
            return Some((of_level, level + 1));
        }
    }
    let half_forgotten = |run: &&&IdRun| {
        let forgotten = forgotten_rows(&run.meta, closed);
        forgotten > 0 && forgotten * 2 >= run.meta.rows()
    };
    cold_runs.iter().find(half_forgotten).map(|run| (vec![*run], run.meta.level))
}

/// Rows that no answer needs any more.
pub(crate) fn forgotten_rows(meta: &IdRunMeta, closed: &ClosedHours) -> u64 {
    let horizon = closed.horizon();
    let hours = meta.hours.iter().filter(|&&(hour, _)| closed.is_closed(hour));
    let days = meta.odd_days.iter().filter(|&&(day, _)| is_day_forgotten(day, horizon));
    hours.map(|&(_, rows)| rows).sum::<u64>() + days.map(|&(_, rows)| rows).sum::<u64>()
}

const SOME_INPUT: &str = "I6: a merge has inputs";

impl IdsMerge {
    /// Writes the merged run.
    ///
    /// # Errors
    ///
    /// [`MergeRunsError`]; hand it to [`super::Ids::merge_failed`]. Nothing was changed.
    ///
    /// # Panics
    ///
    /// Where it has no inputs.
    pub fn run(&self, disk: &dyn Disk) -> Result<IdsMerged, MergeRunsError> {
        let write = |source| MergeRunsError::Write { file: self.file.clone(), source };
        let metas = || self.inputs.iter().map(|input| &input.meta);
        let plan = IdRunPlan {
            file: self.file.clone(),
            level: self.level,
            first_layer: metas().map(|meta| meta.first_layer).min().expect(SOME_INPUT),
            last_layer: metas().map(|meta| meta.last_layer).max().expect(SOME_INPUT),
            rows: metas().map(IdRunMeta::rows).sum(),
            odd_rows: metas().map(IdRunMeta::odd_rows).sum(),
        };
        let mut writer = IdRunWriter::create(disk, plan).map_err(write)?;
        let horizon = self.closed.horizon();
        let mut cursors = Vec::with_capacity(self.inputs.len());
        let mut heap = BinaryHeap::new();
        for (index, input) in self.inputs.iter().enumerate() {
            let mut cursor = Cursor::open(disk, input)?;
            heap.extend(cursor.next()?.map(|row| Reverse((row, index))));
            cursors.push(cursor);
        }
        while let Some(Reverse(((number, fingerprint, check), index))) = heap.pop() {
            heap.extend(cursors[index].next()?.map(|row| Reverse((row, index))));
            let group = Group::from_number(number).ok_or_else(|| cursors[index].strange())?;
            if !self.is_forgotten(group, horizon) {
                writer.push(group, fingerprint, check).map_err(write)?;
            }
        }
        let output = writer.finish().map_err(write)?;
        Ok(IdsMerged {
            inputs: metas().map(|meta| meta.file.clone()).collect(),
            output: (output.meta.rows() > 0).then_some(output),
        })
    }

    fn is_forgotten(&self, group: Group, horizon: EventTime) -> bool {
        match group {
            Group::Bucket(bucket) => bucket.hour().is_some_and(|hour| self.closed.is_closed(hour)),
            Group::OddDay(day) => is_day_forgotten(day, horizon),
        }
    }
}

/// Reads a run's rows in order, a block at a time.
struct Cursor<'a> {
    input: &'a IdRun,
    handle: Box<dyn DiskFile>,
    next_block: usize,
    group: i64,
    rows: std::vec::IntoIter<(u64, u8)>,
}

impl<'a> Cursor<'a> {
    fn open(disk: &dyn Disk, input: &'a IdRun) -> Result<Self, MergeRunsError> {
        let handle = disk
            .open_read(&input.run.file)
            .map_err(|error| unreadable(input, Unreadable::from(error)))?;
        Ok(Self { input, handle, next_block: 0, group: 0, rows: Vec::new().into_iter() })
    }

    fn next(&mut self) -> Result<Option<(i64, u64, u8)>, MergeRunsError> {
        loop {
            if let Some((fingerprint, check)) = self.rows.next() {
                return Ok(Some((self.group, fingerprint, check)));
            }
            let Some(block) = self.input.run.blocks.get(self.next_block) else {
                return Ok(None);
            };
            let payload = self.input.run.read_block(&*self.handle, self.next_block);
            let payload = payload.map_err(|error| unreadable(self.input, error))?;
            let rows = decode_block(&payload, block.rows).ok_or_else(|| self.strange())?.rows();
            (self.group, self.rows) = (block.group, rows.into_iter());
            self.next_block += 1;
        }
    }

    fn strange(&self) -> MergeRunsError {
        unreadable(self.input, Unreadable::Damaged("a block is not of this version".to_owned()))
    }
}

fn unreadable(input: &IdRun, error: Unreadable) -> MergeRunsError {
    let file = input.run.file.clone();
    match error {
        Unreadable::Io(source) => RunReadFailed { file, source }.into(),
        Unreadable::Damaged(reason) => MergeRunsError::Damaged { file, reason },
    }
}
