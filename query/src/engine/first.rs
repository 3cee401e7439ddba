//! The first rows of many: for answers of which memory does not hold all.
//!
//! The shelves show one group after the other with all that belongs to it; its rows are made like
//! any others, and of all rows only the first `limit` are kept.

use std::sync::Arc;

use hashbrown::HashSet;
use nilometer_access::Problem;
use nilometer_event::EventTime;

use super::folds::Rest;
use super::frame::Frame;
use super::job::{Job, overlap};
use super::question::{Question, Source};
use super::table::Table;
use super::version::{Cell, Cells, GroupScan, GroupsOf, Moment, ScanNotes, Version};
use super::{Found, approximate, folded, side_by_side, since};
use crate::answer::{Row, SortKey, sort_and_cut};
use crate::ask::{Direction, Member};

/// Rows that are kept beside the first ones, so that sorting is not done for each.
const ROOM: usize = 4_096;

/// The first rows of an order.
struct First<'a> {
    order: &'a [(SortKey, Direction)],
    limit: usize,
    rows: Vec<Row>,
    /// Whether any row was let go.
    cut: bool,
}

impl First<'_> {
    fn take(&mut self, row: Row) {
        self.rows.push(row);
        if self.rows.len() >= 2 * self.limit + ROOM {
            self.cut |= sort_and_cut(&mut self.rows, self.order, self.limit);
        }
    }

    fn finish(mut self) -> (Vec<Row>, bool) {
        self.cut |= sort_and_cut(&mut self.rows, self.order, self.limit);
        (self.rows, self.cut)
    }
}

/// Answers the question from groups of cells.
///
/// # Errors
///
/// As the shelves say.
pub(super) fn first_rows(
    question: &Question<'_>,
    frame: &Frame,
    version: &dyn Version,
    [jobs, older]: [&[Job<'_>]; 2],
) -> Result<Found, Problem> {
    let mut scans = Vec::new();
    let mut orders = Vec::new();
    for (jobs, shift_ms) in [(jobs, 0), (older, frame.length_ms())] {
        for job in jobs {
            let mut by = job.source.places.clone();
            by.sort_unstable();
            let place = |place: &usize| by.iter().position(|own| own == place);
            let order: Vec<usize> = job.source.places.iter().filter_map(place).collect();
            for scan in &job.scans {
                let (scan, by, wanted) = (scan.clone(), by.clone(), job.source.rules().to_vec());
                scans.push(GroupScan { scan, by, wanted, shift_ms });
                orders.push(order.clone());
            }
        }
    }
    // A group is of one window, of which a fine granularity has its rows one after the other; or of
    // all windows, where rows reach over several.
    let of = if overlap(jobs) { GroupsOf::Values } else { GroupsOf::WindowsAndValues };
    let mut groups = version.read_groups(&scans, of)?;
    let moment = groups.moment.clone();
    let notes = std::mem::take(&mut groups.notes);
    let rests = rests(question, &scans, [jobs, older], &notes, &moment);
    // Cells come with the members that rows have, in their order.
    let flat: Vec<Source> = jobs.iter().chain(older).map(|job| job.source.flat()).collect();
    let (now, before) = flat.split_at(jobs.len());
    let (jobs, older) = (on(jobs, now), on(older, before));
    let older_frame = frame.previous();
    let mut notes = notes.into_iter().map(|notes| Ok(notes.cells));
    let mut tables = Tables {
        current: Table::fill(question, frame, &moment, &jobs, &mut notes)?,
        previous: Table::fill(question, &older_frame, &moment, &older, &mut notes)?,
        jobs,
        older,
        shift_ms: (of == GroupsOf::WindowsAndValues).then(|| frame.length_ms()),
    };
    tables.add_rests(rests);
    let ask = question.ask;
    let mut first =
        First { order: &question.order, limit: ask.limit, rows: Vec::new(), cut: false };
    for group in groups.groups {
        let mut cells = Vec::new();
        for (scan, mut cell) in group? {
            cell.members = orders[scan].iter().map(|&place| cell.members[place].clone()).collect();
            cells.push((scan, cell));
        }
        tables.take(cells)?;
        tables.rows(frame).into_iter().for_each(|row| first.take(row));
    }
    for members in tables.absent() {
        tables.add_lost_rows(&members, None)?;
        tables.rows(frame).into_iter().for_each(|row| first.take(row));
    }
    let previous = (!tables.older.is_empty()).then_some(&tables.previous);
    let approximate = approximate(ask, &tables.current, previous);
    let folded = folded(&tables.current, previous);
    let since = since(question, version, &tables.current, previous);
    let (rows, truncated) = first.finish();
    Ok(Found { rows, truncated, approximate, folded, since, moment })
}

/// By scan what its folded values say about rows.
fn rests<'a>(
    question: &Question<'_>,
    scans: &[GroupScan],
    jobs: [&'a [Job<'_>]; 2],
    notes: &[ScanNotes],
    moment: &'a Moment,
) -> Vec<Rest<'a>> {
    let jobs = jobs.into_iter().flatten();
    let sources = jobs.flat_map(|job| job.scans.iter().map(|_| job.source));
    let of_scan = |((source, scan), notes): ((&'a Source, &GroupScan), &ScanNotes)| {
        Rest::of(question.plan, source, &scan.scan, &notes.rest, &moment.folded)
    };
    sources.zip(scans).zip(notes).map(of_scan).collect()
}

/// Both periods under construction.
struct Tables<'a> {
    current: Table<'a>,
    previous: Table<'a>,
    jobs: Vec<Job<'a>>,
    /// None where nothing is compared.
    older: Vec<Job<'a>>,
    /// Where groups are of one window: how far before it the older one is.
    shift_ms: Option<i64>,
}

impl<'a> Tables<'a> {
    /// Takes what folded values say, by scan.
    fn add_rests(&mut self, rests: Vec<Rest<'a>>) {
        let mut rests = rests.into_iter();
        let tables = [(&mut self.current, &self.jobs), (&mut self.previous, &self.older)];
        for (table, jobs) in tables {
            for job in jobs {
                let of_job = rests.by_ref().take(job.scans.len());
                of_job.for_each(|rest| table.add_rest(&job.columns, rest));
            }
        }
    }

    /// Takes the cells of one group, by their scans.
    fn take(&mut self, group: Vec<(usize, Cell)>) -> Result<(), Problem> {
        let [current, older] = [&self.jobs, &self.older].map(|jobs| scans_of(jobs));
        let mut cells = vec![Cells::default(); current + older];
        let Some((scan, cell)) = group.first() else { return Ok(()) };
        let members = Arc::clone(&cell.members);
        let window = self.shift_ms.map(|shift_ms| match *scan >= current {
            true => cell.window.plus_ms(shift_ms),
            false => cell.window,
        });
        for (scan, cell) in group {
            cells[scan].cells.push(cell);
        }
        let mut cells = cells.into_iter().map(Ok);
        self.current.take(&self.jobs, &mut cells)?;
        self.previous.take(&self.older, &mut cells)?;
        self.add_lost_rows(&members, window)
    }

    /// Members of rows that may lack something and of which there was no cell.
    fn absent(&self) -> HashSet<Arc<[Member]>> {
        self.current.absent().chain(self.previous.absent()).cloned().collect()
    }

    /// Adds those with these members, in one window or in all.
    fn add_lost_rows(
        &mut self,
        members: &Arc<[Member]>,
        window: Option<EventTime>,
    ) -> Result<(), Problem> {
        let older = window.zip(self.shift_ms).map(|(window, shift_ms)| window.minus_ms(shift_ms));
        self.current.add_lost_rows_of(members, window)?;
        self.previous.add_lost_rows_of(members, older)
    }

    /// The rows so far; none of them stays.
    fn rows(&mut self, frame: &Frame) -> Vec<Row> {
        if self.older.is_empty() {
            return self.current.drain();
        }
        side_by_side(&mut self.current, &mut self.previous, frame)
    }
}

fn scans_of(jobs: &[Job<'_>]) -> usize {
    jobs.iter().map(|job| job.scans.len()).sum()
}

/// The same jobs on other sources.
fn on<'a>(jobs: &[Job<'_>], sources: &'a [Source]) -> Vec<Job<'a>> {
    let one = |(job, source): (&Job<'_>, &'a Source)| Job {
        source,
        columns: job.columns.clone(),
        scans: job.scans.clone(),
        slides: job.slides.clone(),
    };
    jobs.iter().zip(sources).map(one).collect()
}
