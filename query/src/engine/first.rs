//! The first rows of many: for answers of which memory does not hold all.
//!
//! The shelves show one group after the other with all that belongs to it; its rows are made like
//! any others, and of all rows only the first `limit` are kept.

use std::sync::Arc;

use hashbrown::HashSet;
use nilometer_access::Problem;

use super::folds::{Lost, Rest};
use super::frame::Frame;
use super::job::{Job, overlap};
use super::question::{Question, Source};
use super::table::Table;
use super::version::{Cell, Cells, GroupScan, GroupedCells, GroupsOf, Moment, ScanNotes, Version};
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
    let mut groups = groups_of(question, jobs, &scans, version)?;
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
        rests,
        named: HashSet::new(),
    };
    tables.note_named();
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
    tables.add_lost_rows()?;
    tables.rows(frame).into_iter().for_each(|row| first.take(row));
    let previous = (!tables.older.is_empty()).then_some(&tables.previous);
    let approximate = approximate(ask, &tables.current, previous);
    let folded = folded(&tables.current, previous);
    let since = since(question, version, &tables.current, previous);
    let (rows, truncated) = first.finish();
    Ok(Found { rows, truncated, approximate, folded, since, moment })
}

/// Groups of one window each, of which a fine granularity has its rows one after the other; or of
/// all windows, where rows reach over several, or where folded values say that a filter names rows
/// of which there may be no cell: these are made with their group.
fn groups_of(
    question: &Question<'_>,
    jobs: &[Job<'_>],
    scans: &[GroupScan],
    version: &dyn Version,
) -> Result<GroupedCells, Problem> {
    if !overlap(jobs) {
        let groups = version.read_groups(scans, GroupsOf::WindowsAndValues)?;
        let is_folded = groups.notes.iter().any(|notes| !notes.rest.is_empty());
        if question.ask.filters.is_empty() || !is_folded {
            return Ok(groups);
        }
    }
    version.read_groups(scans, GroupsOf::Values)
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
    /// By scan, those of the older jobs last.
    rests: Vec<Rest<'a>>,
    /// Members of rows that may lack something whether there are cells of them or not.
    named: HashSet<Arc<[Member]>>,
}

impl Tables<'_> {
    /// The table and the columns of each scan.
    fn columns(&self) -> Vec<(bool, Vec<usize>)> {
        let of = |is_older: bool, jobs: &[Job<'_>]| -> Vec<(bool, Vec<usize>)> {
            let of_job = |job: &Job<'_>| vec![(is_older, job.columns.clone()); job.scans.len()];
            jobs.iter().flat_map(of_job).collect()
        };
        [of(false, &self.jobs), of(true, &self.older)].concat()
    }

    fn note_named(&mut self) {
        for (rest, (is_older, columns)) in self.rests.iter().zip(self.columns()) {
            let table = if is_older { &mut self.previous } else { &mut self.current };
            for lost in rest.named() {
                self.named.insert(Arc::clone(&lost.members));
                table.note_lost(&columns, lost);
            }
        }
    }

    /// Takes the cells of one group, by their scans.
    fn take(&mut self, group: Vec<(usize, Cell)>) -> Result<(), Problem> {
        let mut cells = vec![Cells::default(); self.rests.len()];
        let mut members = None;
        for (scan, cell) in group {
            members.get_or_insert_with(|| Arc::clone(&cell.members));
            cells[scan].cells.push(cell);
        }
        let Some(members) = members else { return Ok(()) };
        let lost = self.lost(&cells);
        let mut cells = cells.into_iter().map(Ok);
        self.current.take(&self.jobs, &mut cells)?;
        self.previous.take(&self.older, &mut cells)?;
        for (is_older, columns, lost) in lost {
            let table = if is_older { &mut self.previous } else { &mut self.current };
            table.note_lost(&columns, lost);
        }
        self.current.add_lost_rows_of(&members)?;
        self.previous.add_lost_rows_of(&members)
    }

    /// What may be missing in rows of these cells.
    fn lost(&self, cells: &[Cells]) -> Vec<(bool, Vec<usize>, Lost)> {
        let mut found = Vec::new();
        if self.rests.iter().all(Rest::is_empty) {
            return found;
        }
        for ((rest, cells), (is_older, columns)) in self.rests.iter().zip(cells).zip(self.columns())
        {
            let lost =
                cells.cells.iter().filter_map(|cell| rest.lost_at(cell.window, &cell.members));
            found.extend(lost.map(|lost| (is_older, columns.clone(), lost)));
        }
        found
    }

    fn add_lost_rows(&mut self) -> Result<(), Problem> {
        self.current.add_lost_rows()?;
        self.previous.add_lost_rows()
    }

    /// The rows so far; none of them stays, nor what is known of them alone.
    fn rows(&mut self, frame: &Frame) -> Vec<Row> {
        let rows = if self.older.is_empty() {
            self.current.drain()
        } else {
            side_by_side(&mut self.current, &mut self.previous, frame)
        };
        for row in rows.iter().filter(|row| !self.named.contains(&row.members)) {
            self.current.forget_lost(&row.members);
            self.previous.forget_lost(&row.members);
        }
        rows
    }
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
