//! Rows under construction: cells become windows, windows become values.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use nilometer_access::{Problem, Status};
use nilometer_event::{EventTime, Granularity, TimeRange};
use nilometer_rollups::aggregate::{Aggregates, DISTINCT_ERROR};
use nilometer_rollups::cells::FoldedDays;
use nilometer_rollups::declare::{DimId, MetricContext, MetricKind, MetricValue};

use super::folds::{self, Rest};
use super::frame::Frame;
use super::job::{Job, Reach, Slides};
use super::question::{Question, Source};
use super::slide::slide;
use super::version::{Cell, Cells, Moment, Scan, Windows};
use crate::answer::{Row, Value};
use crate::ask::Member;

/// Rows that one question may build before they are cut to its limit.
const ROWS_MAX: usize = 2_000_000;

/// What names a row.
pub(super) type Key = (EventTime, Arc<[Member]>);

/// All rows of one frame.
pub(super) struct Table<'a> {
    question: &'a Question<'a>,
    frame: &'a Frame,
    as_of: EventTime,
    /// What each shard folded.
    shards: &'a [Arc<FoldedDays>],
    rows: HashMap<Key, Vec<Option<Value>>>,
    /// The largest relative error of each metric.
    errors: Vec<Option<f64>>,
    /// Where the cells that each metric is read from lack it, in order and joined.
    gaps: Vec<Vec<TimeRange>>,
    /// Dimensions of which values are folded.
    folded: BTreeSet<DimId>,
    /// Metrics of whose own field values are folded, by place.
    folded_metrics: BTreeSet<usize>,
    /// What folded values say about rows, by scan, with the metrics that are read from it.
    rests: Vec<(Vec<usize>, Rest<'a>)>,
    /// By scan where rows of windows that overlap may lack something: of the rows drained last.
    lacking: RefCell<Lacking>,
    /// Windows in which nothing else is known of a row that may lack something.
    absent: HashMap<Arc<[Member]>, BTreeSet<EventTime>>,
}

/// By scan and members the windows of which such rows may lack something.
type Lacking = HashMap<(usize, Arc<[Member]>), Vec<TimeRange>>;

/// A sparse series by step, for each combination of members.
type Series = BTreeMap<Arc<[Member]>, BTreeMap<i64, Aggregates>>;

impl<'a> Table<'a> {
    /// Builds the rows from what the jobs' scans gave, taken from `cells` in their order.
    pub(super) fn fill(
        question: &'a Question<'a>,
        frame: &'a Frame,
        moment: &'a Moment,
        jobs: &[Job<'a>],
        cells: &mut impl Iterator<Item = Result<Cells, Problem>>,
    ) -> Result<Self, Problem> {
        let mut table = Self {
            question,
            frame,
            as_of: moment.as_of.as_event_time(),
            shards: &moment.folded,
            rows: HashMap::new(),
            errors: vec![None; question.metrics.len()],
            gaps: vec![Vec::new(); question.metrics.len()],
            folded: BTreeSet::new(),
            folded_metrics: BTreeSet::new(),
            rests: Vec::new(),
            lacking: RefCell::default(),
            absent: HashMap::new(),
        };
        table.take(jobs, cells)?;
        table.gaps.iter_mut().for_each(join);
        table.add_lost_rows()?;
        Ok(table)
    }

    /// Adds the rows of more cells; their gaps are known.
    pub(super) fn take(
        &mut self,
        jobs: &[Job<'a>],
        cells: &mut impl Iterator<Item = Result<Cells, Problem>>,
    ) -> Result<(), Problem> {
        for job in jobs {
            let mut found = Vec::new();
            for (scan, read) in job.scans.iter().zip(&mut *cells) {
                found.extend(self.note(job, scan, read?));
            }
            match &job.slides {
                Some(slides) => self.sliding(job, slides, found)?,
                None if job.is_single() => self.single_cells(job, found)?,
                None => self.windows(job, found)?,
            }
        }
        Ok(())
    }

    /// The largest relative error of a metric's values; `None` where all are exact.
    pub(super) fn error(&self, metric: usize) -> Option<f64> {
        self.errors[metric]
    }

    /// Names of the dimensions, and of the metrics with a field of their own, of which values are
    /// folded.
    pub(super) fn folded(&self) -> impl Iterator<Item = String> + '_ {
        let dims = self.folded.iter().map(|dim| &self.question.plan.dimensions[dim.index()].name);
        let metrics = self.folded_metrics.iter().map(|&at| &self.question.metrics[at].name);
        dims.chain(metrics).cloned()
    }

    /// The first and the last moment between which a metric is not known everywhere.
    pub(super) fn gap(&self, metric: usize) -> Option<TimeRange> {
        let (first, last) = (self.gaps[metric].first()?, self.gaps[metric].last()?);
        Some(TimeRange { start: first.start, end: last.end })
    }

    /// The values of a row that has none: nothing happened in it, or it was folded.
    pub(super) fn nothing(&self, window: EventTime, members: &Arc<[Member]>) -> Vec<Value> {
        let lost = self.lost(window, members);
        let value = |metric: usize| match lost.contains(&metric) {
            true => Value::Null,
            false => self.nothing_of(metric, window),
        };
        (0..self.question.metrics.len()).map(value).collect()
    }

    /// The rows so far, in no order; none of them stays.
    pub(super) fn drain(&mut self) -> Vec<Row> {
        self.lacking.get_mut().clear();
        let mut rows = std::mem::take(&mut self.rows);
        let row = |((window, members), values): (Key, Vec<Option<Value>>)| {
            let lost = self.lost(window, &members);
            let values = values
                .into_iter()
                .enumerate()
                .map(|(metric, value)| match value {
                    _ if lost.contains(&metric) => Value::Null,
                    Some(value) if !self.is_gap(metric, window) => value,
                    _ => self.nothing_of(metric, window),
                })
                .collect();
            Row { window, members, values }
        };
        let drained = rows.drain().map(row).collect();
        self.rows = rows;
        drained
    }

    fn nothing_of(&self, metric: usize, window: EventTime) -> Value {
        if self.is_gap(metric, window) {
            return Value::Null;
        }
        let metric = self.question.metrics[metric];
        let empty = self.question.plan.empty(metric.domain);
        shown(metric.value(&empty, &self.context(window)))
    }

    /// Whether the metric is not known in all that it reaches over from this window.
    fn is_gap(&self, metric: usize, window: EventTime) -> bool {
        self.reaches_into(&self.gaps[metric], metric, window)
    }

    /// The metrics of a row that may lack something because values were folded, whether there is a
    /// cell of it or not.
    fn lost(&self, window: EventTime, members: &Arc<[Member]>) -> Vec<usize> {
        let rests = self.rests.iter().enumerate();
        let lost = rests.filter(|(scan, _)| self.lacks(*scan, window, members));
        lost.flat_map(|(_, (columns, _))| columns).copied().collect()
    }

    fn lacks(&self, scan: usize, window: EventTime, members: &Arc<[Member]>) -> bool {
        let (columns, rest) = &self.rests[scan];
        // Metrics that are read from one scan reach equally far.
        let Some(&metric) = columns.first() else { return false };
        if self.is_own(metric) {
            return rest.lacks_at(window, members);
        }
        let mut known = self.lacking.borrow_mut();
        let ranges = known.entry((scan, Arc::clone(members))).or_insert_with(|| {
            let mut ranges = rest.lacking(members);
            join(&mut ranges);
            ranges
        });
        self.reaches_into(ranges, metric, window)
    }

    /// Whether the metric looks at the window alone that its row is of.
    fn is_own(&self, metric: usize) -> bool {
        Reach::of(self.question.metrics[metric]) == Reach::Window && !self.frame.is_sliding()
    }

    /// Whether what the metric reaches over from this window touches some of these ranges.
    fn reaches_into(&self, ranges: &[TimeRange], metric: usize, window: EventTime) -> bool {
        if ranges.is_empty() {
            return false;
        }
        let reached = Reach::of(self.question.metrics[metric]).span(window, self.frame, self.as_of);
        let after = ranges.partition_point(|range| range.end <= reached.start);
        ranges.get(after).is_some_and(|range| range.start < reached.end)
    }

    /// Rows of which everything may be folded: they are there, and say nothing.
    fn add_lost_rows(&mut self) -> Result<(), Problem> {
        let absent: Vec<Arc<[Member]>> = self.absent.keys().cloned().collect();
        absent.iter().try_for_each(|members| self.add_lost_rows_of(members, None))
    }

    /// Those with these members: all, or where each window has its rows by itself, those of one.
    pub(super) fn add_lost_rows_of(
        &mut self,
        members: &Arc<[Member]>,
        window: Option<EventTime>,
    ) -> Result<(), Problem> {
        let windows: BTreeSet<EventTime> = match window {
            Some(window) => {
                let absent = self.absent.get_mut(members);
                absent.and_then(|absent| absent.take(&window)).into_iter().collect()
            }
            None => self.absent.remove(members).unwrap_or_default(),
        };
        if windows.is_empty() {
            return Ok(());
        }
        let width = self.question.metrics.len();
        for window in self.lost_windows(members, &windows) {
            self.rows.entry((window, Arc::clone(members))).or_insert_with(|| vec![None; width]);
        }
        if self.rows.len() > ROWS_MAX { Err(too_many_rows()) } else { Ok(()) }
    }

    /// Members of such rows that are not added yet.
    pub(super) fn absent(&self) -> impl Iterator<Item = &Arc<[Member]>> {
        self.absent.keys()
    }

    /// Takes what folded values of a scan say about rows of these metrics.
    pub(super) fn add_rest(&mut self, columns: &[usize], rest: Rest<'a>) {
        if rest.is_empty() {
            return;
        }
        for (window, members) in rest.named() {
            self.absent.entry(members).or_default().insert(window);
        }
        self.rests.push((columns.to_vec(), rest));
    }

    /// The windows in which some metric may lack something; `cells` are those of the cells that
    /// say so.
    fn lost_windows(&self, members: &Arc<[Member]>, cells: &BTreeSet<EventTime>) -> Vec<EventTime> {
        let is_lost = |start: &EventTime| !self.lost(*start, members).is_empty();
        if (0..self.question.metrics.len()).all(|metric| self.is_own(metric)) {
            return cells.iter().copied().filter(is_lost).collect();
        }
        self.frame.starts().filter(is_lost).collect()
    }

    /// Takes the cells of a scan, noting what it says about gaps and folds.
    fn note(&mut self, job: &Job<'a>, scan: &Scan, read: Cells) -> Vec<Cell> {
        for (window, missing) in read.filling {
            let end = match scan.windows {
                Windows::Every(granularity) => window.plus_ms(granularity.ms()),
                Windows::Total => scan.range.end,
            };
            let gap = TimeRange { start: window, end };
            for &column in &job.columns {
                if !self.question.metrics[column].slots().intersection(missing).is_empty() {
                    self.gaps[column].push(gap);
                }
            }
        }
        let dims = &self.question.plan.set(scan.set).dims;
        if !read.folded.contains(&true) {
            return read.cells;
        }
        let folded = dims.iter().zip(read.folded).filter(|(_, folded)| *folded);
        self.folded.extend(folded.map(|(dim, _)| *dim));
        let (cells, rest) =
            folds::told(self.question.plan, job.source, scan, read.cells, self.shards);
        self.add_rest(&job.columns, rest);
        cells
    }

    fn context(&self, window: EventTime) -> MetricContext {
        MetricContext { window, elapsed_ms: self.as_of.since(window).clamp(0, self.frame.width_ms) }
    }

    /// Puts the columns' values, read from `aggregates`, into the row of `key`.
    fn put(&mut self, key: Key, columns: &[usize], aggregates: &Aggregates) -> Result<(), Problem> {
        let values = self.values(key.0, columns, aggregates);
        self.put_values(key, columns, values)
    }

    /// What `aggregates` give for the columns, noting how exact that is.
    fn values(
        &mut self,
        window: EventTime,
        columns: &[usize],
        aggregates: &Aggregates,
    ) -> Vec<Value> {
        let context = self.context(window);
        let mut values = Vec::with_capacity(columns.len());
        for &column in columns {
            let metric = self.question.metrics[column];
            if let Some(error) = metric.relative_error(aggregates) {
                self.note_error(column, error);
            }
            if metric.is_folded(aggregates) {
                self.folded_metrics.insert(column);
                values.push(Value::Null);
            } else {
                values.push(shown(metric.value(aggregates, &context)));
            }
        }
        values
    }

    fn note_error(&mut self, column: usize, error: f64) {
        let largest = &mut self.errors[column];
        *largest = Some(largest.map_or(error, |before: f64| before.max(error)));
    }

    fn put_values(
        &mut self,
        key: Key,
        columns: &[usize],
        values: Vec<Value>,
    ) -> Result<(), Problem> {
        if self.rows.len() >= ROWS_MAX {
            return Err(too_many_rows());
        }
        let width = self.question.metrics.len();
        match self.rows.entry(key) {
            // Columns ascend: so many are all of them.
            Entry::Vacant(row) if columns.len() == width => {
                row.insert(values.into_iter().map(Some).collect());
            }
            row => {
                let row = row.or_insert_with(|| vec![None; width]);
                for (&column, value) in columns.iter().zip(values) {
                    row[column] = Some(value);
                }
            }
        }
        Ok(())
    }

    /// Metrics of tumbling windows, and of totals.
    fn windows(&mut self, job: &Job<'_>, found: Vec<Cell>) -> Result<(), Problem> {
        let mut merged: HashMap<Key, Aggregates> = HashMap::new();
        for cell in found {
            let key = (cell.window, grouped(job.source, &cell.members));
            merge_into(&mut merged, key, cell.aggregates);
            if merged.len() > ROWS_MAX {
                return Err(too_many_rows());
            }
        }
        for (key, aggregates) in merged {
            if happened(job.source, &aggregates) {
                self.put(key, &job.columns, &aggregates)?;
            }
        }
        Ok(())
    }

    /// Metrics of tumbling windows where each cell is a row: stored estimates will do.
    fn single_cells(&mut self, job: &Job<'_>, found: Vec<Cell>) -> Result<(), Problem> {
        self.rows.reserve(found.len().min(ROWS_MAX));
        for cell in found {
            if !happened(job.source, &cell.aggregates) {
                continue;
            }
            let mut values = self.values(cell.window, &job.columns, &cell.aggregates);
            for (&column, value) in job.columns.iter().zip(&mut values) {
                let MetricKind::Distinct { slot } = self.question.metrics[column].kind else {
                    continue;
                };
                let Some(estimate) = cell.estimates.get(slot).copied().flatten() else { continue };
                *value = whole(estimate.value);
                if !estimate.exact {
                    self.note_error(column, DISTINCT_ERROR);
                }
            }
            let key = (cell.window, grouped(job.source, &cell.members));
            self.put_values(key, &job.columns, values)?;
        }
        Ok(())
    }

    /// Metrics of windows that overlap: sliding windows, and those that reach over the minutes or
    /// days that end with a window.
    fn sliding(&mut self, job: &Job<'_>, slides: &Slides, found: Vec<Cell>) -> Result<(), Problem> {
        let starts: Vec<i64> = slides.windows.keys().copied().collect();
        for (members, cells) in series(job.source, slides.granularity, found) {
            let mut reached = Vec::new();
            slide(&cells, slides.steps, &starts, |start, merged| reached.push((start, merged)));
            for (start, merged) in reached {
                let of_start = slides.windows.get(&start).map_or(&[][..], Vec::as_slice);
                // Many windows end with one day: its users are estimated once.
                let Some(&any) = of_start.first() else { continue };
                let values = self.values(any, &job.columns, &merged);
                for &window in of_start {
                    let key = (window, Arc::clone(&members));
                    self.put_values(key, &job.columns, values.clone())?;
                }
            }
        }
        Ok(())
    }
}

/// Cells by combination of members and by step; what was taken back whole is left out.
fn series(source: &Source, granularity: Granularity, found: Vec<Cell>) -> Series {
    let mut series = Series::new();
    for cell in found {
        let step = cell.window.ms().div_euclid(granularity.ms());
        let steps = series.entry(grouped(source, &cell.members)).or_default();
        match steps.get_mut(&step) {
            Some(before) => before.merge(&cell.aggregates),
            None => {
                steps.insert(step, cell.aggregates);
            }
        }
    }
    for steps in series.values_mut() {
        steps.retain(|_, aggregates| happened(source, aggregates));
    }
    series
}

/// Whether a cell counts anything: of what was taken back nothing is left.
pub(super) fn happened(source: &Source, aggregates: &Aggregates) -> bool {
    aggregates.counts.get(source.presence).is_some_and(|&count| count != 0)
}

/// The members that rows are grouped by, out of those of a cell.
pub(super) fn grouped(source: &Source, members: &Arc<[Member]>) -> Arc<[Member]> {
    if source.places.iter().copied().eq(0..members.len()) {
        return Arc::clone(members);
    }
    source.places.iter().map(|&place| members[place].clone()).collect()
}

fn merge_into(merged: &mut HashMap<Key, Aggregates>, key: Key, aggregates: Aggregates) {
    match merged.get_mut(&key) {
        Some(before) => before.merge(&aggregates),
        None => {
            merged.insert(key, aggregates);
        }
    }
}

fn shown(value: MetricValue) -> Value {
    match value {
        MetricValue::Null => Value::Null,
        MetricValue::Integer(value) => Value::Integer(value),
        MetricValue::Float(value) => Value::number(value),
        MetricValue::Decimal(value) => Value::Decimal(value),
        MetricValue::Top(values) => Value::Top(values.into()),
    }
}

/// An estimate as a whole number of users.
fn whole(estimate: f64) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "a rounded count of users, below 2^63")]
    Value::Integer(estimate.round() as i64)
}

/// Sorts ranges and joins those that touch.
fn join(ranges: &mut Vec<TimeRange>) {
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    let mut joined: Vec<TimeRange> = Vec::new();
    for range in ranges.drain(..) {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    *ranges = joined;
}

fn too_many_rows() -> Problem {
    Problem::new(
        Status::BadRequest,
        "too_many_rows",
        "the query has too many rows",
        format!(
            "more than {ROWS_MAX} rows would be built; narrow the range, the filter or the dimensions"
        ),
    )
}
