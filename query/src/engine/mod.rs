//! From a question to its answer: names to slots, ranges to windows, cells to rows.
//!
//! Pure and blocking: it reads one pinned [`Version`] and knows no clock but the `now` it is given.

mod folds;
mod frame;
mod job;
mod question;
mod slide;
mod table;
mod version;

pub(crate) use frame::Frame;
pub(crate) use question::{Question, cubes};
pub(crate) use version::{Cell, Cells, Distincts, Estimate, Moment, Scan, Version, Windows};

use std::collections::{BTreeMap, BTreeSet};

use nilometer_access::Problem;
use nilometer_event::{EventTime, ReceiveTime};
use nilometer_rollups::declare::SetKind;

use crate::answer::{Answer, Columns, Meta, MetaRange, Moments, Row, Value, sort_and_cut};
use crate::ask::{Ask, Compare};
use job::jobs;
use table::{Key, Table};

/// Answers `ask` from one version of the shelves at `now`.
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
) -> Result<Answer, Problem> {
    let question = Question::resolve(ask, version.plan())?;
    let frame = Frame::resolve(ask, version, now)?;
    let older_frame = frame.previous();
    let jobs = jobs(&question, &frame, version)?;
    let older = match ask.compare {
        Compare::Nothing => Vec::new(),
        Compare::PreviousPeriod => job::jobs(&question, &older_frame, version)?,
    };
    let scans: Vec<Scan> =
        jobs.iter().chain(&older).flat_map(|job| job.scans.iter().cloned()).collect();
    let (cells, moment) = version.read(&scans);
    let mut cells = cells.into_iter();
    let current = Table::fill(&question, &frame, &moment, &jobs, &mut cells)?;
    let previous = match ask.compare {
        Compare::Nothing => None,
        Compare::PreviousPeriod => {
            Some(Table::fill(&question, &older_frame, &moment, &older, &mut cells)?)
        }
    };
    let columns = columns(ask);
    let approximate = approximate(ask, &current, previous.as_ref());
    let folded = folded(&current, previous.as_ref());
    let since = since(&question, version, &current, previous.as_ref());
    let mut rows = match previous {
        None => current.into_rows(),
        Some(previous) => side_by_side(current, previous, &frame),
    };
    let truncated = sort_and_cut(&mut rows, &question.order, ask.limit);
    let final_until = final_until(&question, &moment);
    let mut meta = meta(&question, &frame, &moment, now);
    meta.provisional_rows =
        rows.iter().filter(|row| final_until < row.window.plus_ms(frame.width_ms)).count();
    meta.truncated = truncated;
    (meta.approximate, meta.folded, meta.since) = (approximate, folded, since);
    let moments =
        Moments { as_of: moment.as_of, final_until, range: frame.starts, width_ms: frame.width_ms };
    Ok(Answer::new(columns, rows, meta, moments))
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
fn folded(current: &Table<'_>, previous: Option<&Table<'_>>) -> Vec<String> {
    let tables = [Some(current), previous].into_iter().flatten();
    let folded: BTreeSet<String> = tables.flat_map(Table::folded).collect();
    folded.into_iter().collect()
}

/// From when on each metric is known that is not known all over the range.
fn since(
    question: &Question<'_>,
    version: &dyn Version,
    current: &Table<'_>,
    previous: Option<&Table<'_>>,
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
fn side_by_side(current: Table<'_>, previous: Table<'_>, frame: &Frame) -> Vec<Row> {
    let shift = frame.length_ms();
    let mut before: BTreeMap<Key, Vec<Value>> = BTreeMap::new();
    let nothing_before = |window: EventTime| previous.nothing(window.minus_ms(shift));
    let mut rows = Vec::new();
    for row in previous.clone().into_rows() {
        before.insert((row.window.plus_ms(shift), row.members), row.values);
    }
    let nothing_now: Vec<(Key, Vec<Value>)> = before
        .keys()
        .filter(|key| !current.has(key))
        .map(|key| (key.clone(), current.nothing(key.0)))
        .collect();
    for row in current.into_rows() {
        let key = (row.window, row.members);
        let old = before.remove(&key).unwrap_or_else(|| nothing_before(key.0));
        rows.push(interleaved(key, row.values, old));
    }
    for (key, values) in nothing_now {
        if let Some(old) = before.remove(&key) {
            rows.push(interleaved(key, values, old));
        }
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

fn meta(question: &Question<'_>, frame: &Frame, moment: &Moment, now: ReceiveTime) -> Meta {
    let compared = question.ask.compare == Compare::PreviousPeriod;
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
        ..Meta::default()
    }
}

#[cfg(test)]
mod tests;
