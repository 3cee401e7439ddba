//! From a question to its answer: names to slots, ranges to windows, cells to rows.
//!
//! Pure and blocking: it reads one pinned [`Version`] and knows no clock but the `now` it is given.

mod first;
mod folds;
mod frame;
mod job;
mod question;
mod slide;
mod table;
mod version;

pub(crate) use frame::Frame;
pub(crate) use question::{Question, cubes};
pub(crate) use version::{
    Cell, Cells, Distincts, Estimate, GroupScan, GroupedCells, Moment, Scan, ScanNotes, Version,
    Windows,
};

use std::collections::{BTreeMap, BTreeSet};

use nilometer_access::Problem;
use nilometer_event::{EventTime, ReceiveTime, TimeRange};
use nilometer_rollups::declare::SetKind;

use crate::answer::{Answer, Columns, Meta, MetaRange, Moments, Row, Value, sort_and_cut};
use crate::ask::{Ask, Compare};
use crate::turns::Length;
use first::first_rows;
use job::{Job, jobs, overlap};
use table::{Key, Table};

/// Cells that are read all at once for an answer of few rows.
const AT_ONCE_MAX: usize = 50_000;
/// So many times the rows of an answer are read all at once, where that is more.
const AT_ONCE_TIMES: usize = 4;
/// Cells that short work reads: some tens of milliseconds and MiB. One browser key cannot bring so
/// many values of a dimension, by default and in four shards.
const SHORT_MAX: usize = 12_000;

/// Cells that may be held all at once for an answer of at most `ask.limit` rows: memory is of the
/// order of what is shown, and little is read in vain where there are more. Windows that overlap
/// have many cells to a row.
fn at_once_max(ask: &Ask, jobs: &[Job<'_>]) -> usize {
    if overlap(jobs) {
        return usize::MAX;
    }
    ask.limit.saturating_mul(AT_ONCE_TIMES).max(AT_ONCE_MAX)
}

/// Answers `ask` from one version of the shelves at `now`; `None` where that is no short work, and
/// only short work may be done.
///
/// `took_ms` is left 0: whoever serves the answer knows how long that took.
///
/// # Errors
///
/// 400 where the question names what there is not, 503 where its windows are damaged.
pub(crate) fn answer(
    ask: &Ask,
    version: &dyn Version,
    now: ReceiveTime,
    length: Length,
) -> Result<Option<Answer>, Problem> {
    let question = Question::resolve(ask, version.plan())?;
    let frame = Frame::resolve(ask, version, now)?;
    let jobs = jobs(&question, &frame, version)?;
    let older = match ask.compare {
        Compare::Nothing => Vec::new(),
        Compare::PreviousPeriod => job::jobs(&question, &frame.previous(), version)?,
    };
    let scans: Vec<Scan> =
        jobs.iter().chain(&older).flat_map(|job| job.scans.iter().cloned()).collect();
    let rows_max = match length {
        Length::Short => SHORT_MAX,
        Length::Long => at_once_max(ask, &jobs),
    };
    let jobs: [&[Job<'_>]; 2] = [&jobs, &older];
    let at_once = if version.has_too_many(&scans, rows_max) {
        None
    } else {
        match all_rows(&question, &frame, version, jobs, (&scans, rows_max)) {
            Err(problem) if is_too_much(&problem) => None,
            found => Some(found?),
        }
    };
    let found = match (at_once, length) {
        (Some(found), _) => found,
        (None, Length::Short) => return Ok(None),
        (None, Length::Long) => first_rows(&question, &frame, version, jobs)?,
    };
    let (rows, moment) = (found.rows, found.moment);
    let final_until = final_until(&question, &moment);
    let mut meta = meta(&question, &frame, &moment, now);
    meta.provisional_rows =
        rows.iter().filter(|row| final_until < row.window.plus_ms(frame.width_ms)).count();
    meta.truncated = found.truncated;
    meta.approximate = found.approximate;
    (meta.folded, meta.since) = (found.folded, found.since);
    let moments =
        Moments { as_of: moment.as_of, final_until, range: frame.starts, width_ms: frame.width_ms };
    Ok(Some(Answer::new(columns(ask), rows, meta, moments)))
}

/// The rows of an answer, sorted and cut to its limit, and what is known of them.
struct Found {
    rows: Vec<Row>,
    truncated: bool,
    approximate: BTreeMap<String, f64>,
    folded: Vec<String>,
    since: BTreeMap<String, String>,
    moment: Moment,
}

/// Reads all rows at once, which is fastest while they are few.
fn all_rows(
    question: &Question<'_>,
    frame: &Frame,
    version: &dyn Version,
    [jobs, older]: [&[Job<'_>]; 2],
    (scans, rows_max): (&[Scan], usize),
) -> Result<Found, Problem> {
    let (cells, moment) = version.read(scans, rows_max);
    let mut cells = cells.into_iter();
    let ask = question.ask;
    let older_frame = frame.previous();
    let mut current = Table::fill(question, frame, &moment, jobs, &mut cells)?;
    let mut previous = match ask.compare {
        Compare::Nothing => None,
        Compare::PreviousPeriod => {
            Some(Table::fill(question, &older_frame, &moment, older, &mut cells)?)
        }
    };
    let approximate = approximate(ask, &current, previous.as_ref());
    let folded = folded(&current, previous.as_ref());
    let since = since(question, version, &current, previous.as_ref());
    let mut rows = match &mut previous {
        None => current.drain(),
        Some(previous) => side_by_side(&mut current, previous, frame),
    };
    let truncated = sort_and_cut(&mut rows, &question.order, ask.limit);
    Ok(Found { rows, truncated, approximate, folded, since, moment })
}

/// Whether the answer is right to ask for, and only its rows are too many to hold.
fn is_too_much(problem: &Problem) -> bool {
    ["too_many_rows", "query_too_large"].contains(&problem.code)
}

fn columns(ask: &Ask) -> Columns {
    let mut metrics = Vec::with_capacity(ask.metrics.len());
    for name in &ask.metrics {
        metrics.push(name.clone());
        if ask.compare == Compare::PreviousPeriod {
            metrics.push(format!("{name}_previous"));
        }
    }
    Columns { ends_after_ms: ask.window_ms, dimensions: ask.group_by.clone(), metrics }
}

fn approximate(
    ask: &Ask,
    current: &Table<'_>,
    previous: Option<&Table<'_>>,
) -> BTreeMap<String, f64> {
    let mut errors = BTreeMap::new();
    for (place, name) in ask.metrics.iter().enumerate() {
        if let Some(error) = current.error(place) {
            errors.insert(name.clone(), error);
        }
        if let Some(error) = previous.and_then(|previous| previous.error(place)) {
            errors.insert(format!("{name}_previous"), error);
        }
    }
    errors
}

/// Names of folded dimensions.
fn folded<'a>(current: &Table<'a>, previous: Option<&Table<'a>>) -> Vec<String> {
    let tables = [Some(current), previous].into_iter().flatten();
    let folded: BTreeSet<String> = tables.flat_map(Table::folded).collect();
    folded.into_iter().collect()
}

/// From when on each metric is known that is not known all over the range.
fn since<'a>(
    question: &Question<'_>,
    version: &dyn Version,
    current: &Table<'a>,
    previous: Option<&Table<'a>>,
) -> BTreeMap<String, String> {
    let mut since = BTreeMap::new();
    for (place, metric) in question.metrics.iter().enumerate() {
        let tables = [("", Some(current)), ("_previous", previous)];
        for (suffix, table) in tables {
            let gap = table.and_then(|table| table.gap(place));
            let source = question.source(metric.domain);
            let Some((gap, source)) = gap.zip(source) else { continue };
            let known = version.known_from(source.set, metric.slots(), gap).unwrap_or(gap.end);
            since.insert(format!("{}{suffix}", metric.name), known.to_string());
        }
    }
    since
}

/// Rows of both periods: one wherever something happened in either.
fn side_by_side(current: &mut Table<'_>, previous: &mut Table<'_>, frame: &Frame) -> Vec<Row> {
    let shift = frame.length_ms();
    let named = |row: Row| ((row.window.plus_ms(shift), row.members), row.values);
    let mut before: BTreeMap<Key, Vec<Value>> = previous.drain().into_iter().map(named).collect();
    let mut rows = Vec::new();
    for row in current.drain() {
        let key = (row.window, row.members);
        let old = before.remove(&key);
        let old = old.unwrap_or_else(|| previous.nothing(key.0.minus_ms(shift), &key.1));
        rows.push(interleaved(key, row.values, old));
    }
    for (key, old) in before {
        let now = current.nothing(key.0, &key.1);
        rows.push(interleaved(key, now, old));
    }
    rows
}

fn interleaved((window, members): Key, now: Vec<Value>, before: Vec<Value>) -> Row {
    let values = now.into_iter().zip(before).flat_map(|(now, before)| [now, before]).collect();
    Row { window, members, values }
}

fn final_until(question: &Question<'_>, moment: &Moment) -> EventTime {
    match (question.uses(SetKind::Events), question.uses(SetKind::Sessions)) {
        (true, true) => moment.final_events.min(moment.final_sessions),
        (false, true) => moment.final_sessions,
        (_, false) => moment.final_events,
    }
}

/// All that the answer looks at, what it compares with and what lies between included.
fn looked_at(question: &Question<'_>, frame: &Frame) -> TimeRange {
    let mut range = frame.touched();
    if question.ask.compare == Compare::PreviousPeriod {
        range.start = frame.previous().touched().start;
    }
    range
}

/// How many events each metric that was asked for counted without their number, where any.
fn unread(question: &Question<'_>, moment: &Moment) -> BTreeMap<String, u64> {
    let names = question.metrics.iter().map(|metric| metric.name.as_str());
    names
        .filter_map(|name| moment.unread.get_key_value(name))
        .map(|(n, e)| (n.clone(), *e))
        .collect()
}

fn meta(question: &Question<'_>, frame: &Frame, moment: &Moment, now: ReceiveTime) -> Meta {
    let compared = question.ask.compare == Compare::PreviousPeriod;
    let range = looked_at(question, frame);
    Meta {
        as_of: moment.as_of.to_string(),
        final_until: final_until(question, moment).to_string(),
        watermark: moment.watermark.to_string(),
        freshness_ms: now.since(moment.as_of).max(0),
        source: "rollups",
        range: MetaRange {
            from: frame.range.start.to_string(),
            // The last window of the year 9999 ends where no time can be written any more.
            to: frame.range.end.min(EventTime::LATEST).to_string(),
            granularity: frame.step.name(),
            window_ms: question.ask.window_ms,
            previous_from: compared.then(|| frame.previous().range.start.to_string()),
        },
        import_running: moment.import_running,
        corrected: moment.corrected.iter().map(|hours| hours.within(range)).sum(),
        late_pending: moment.late.iter().map(|days| days.within(range)).sum(),
        unread: unread(question, moment),
        ..Meta::default()
    }
}

#[cfg(test)]
mod tests;
