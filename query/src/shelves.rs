//! The store's pinned version, as the engine reads it.

use std::sync::Arc;

use hashbrown::HashMap;
use nilometer_access::{Problem, Status};
use nilometer_event::{EventTime, Granularity, ReceiveTime, TimeRange};
use nilometer_rollups::aggregate::SlotMask;
use nilometer_rollups::cells::{DimFilter, DimValues, OwnedDimValue, ScanRequest};
use nilometer_rollups::declare::{Plan, SetId, SetKind};
use nilometer_rollups::{Ask, Group, GroupAsk, GroupsOf, Pinned, ReadError, Row, Rows};

use crate::ask::{Member, Rule, Values};
use crate::engine::{
    Cell, Cells, Distincts, Estimate, GroupScan, GroupedCells, Moment, Scan, ScanNotes, Version,
    Windows,
};

/// One pinned version.
#[derive(Debug)]
pub(crate) struct Pin(Pinned);

impl Pin {
    pub(crate) const fn new(pinned: Pinned) -> Self {
        Self(pinned)
    }
}

impl Version for Pin {
    fn plan(&self) -> &Plan {
        &self.0.plan
    }

    fn kept_from(&self, granularity: Granularity) -> EventTime {
        self.0.kept_from(granularity)
    }

    fn keeps(&self, granularity: Granularity, range: TimeRange) -> bool {
        self.0.keeps(granularity, range)
    }

    fn finest_over(&self, range: TimeRange) -> Granularity {
        self.0.finest_over(range)
    }

    fn outward(&self, range: TimeRange) -> TimeRange {
        self.0.outward(range)
    }

    fn as_of(&self) -> ReceiveTime {
        self.0.as_of()
    }

    fn known_from(&self, set: SetId, slots: SlotMask, range: TimeRange) -> Option<EventTime> {
        let plan = Arc::clone(&self.0.plan);
        let mut request = ScanRequest::new(plan, set, Granularity::Minute, range);
        request.want = slots;
        self.0.known_from(&request)
    }

    fn read(&self, scans: &[Scan], rows_max: usize) -> (Vec<Result<Cells, Problem>>, Moment) {
        let asks: Vec<Ask> = scans.iter().map(|scan| asked(&self.0.plan, scan, rows_max)).collect();
        let (answers, moment) = self.0.read_together(&asks);
        let cells = answers.into_iter().map(|answer| match answer {
            Ok(answer) => Ok(Cells {
                cells: cells(answer.rows),
                filling: answer.filling,
                folded: answer.folded,
            }),
            Err(error) => Err(unreadable(&error)),
        });
        (cells.collect(), moment_of(&moment))
    }

    fn has_too_many(&self, scans: &[Scan], rows_max: usize) -> bool {
        scans.iter().any(|scan| self.0.has_too_many(&asked(&self.0.plan, scan, rows_max)))
    }

    fn read_groups(&self, scans: &[GroupScan], of: GroupsOf) -> Result<GroupedCells, Problem> {
        let ask = |own: &GroupScan| GroupAsk {
            ask: asked(&self.0.plan, &own.scan, usize::MAX),
            by: own.by.clone(),
            wanted: own.wanted.iter().map(|rule| rule.as_ref().map(filter_of)).collect(),
            shift_ms: own.shift_ms,
        };
        let asks: Vec<GroupAsk> = scans.iter().map(ask).collect();
        let mut groups = self.0.groups(&asks, of).map_err(|error| unreadable(&error))?;
        let moment = moment_of(&groups.moment);
        let members = |dims: &Arc<[OwnedDimValue]>| dims.iter().cloned().map(member).collect();
        let notes = std::mem::take(&mut groups.notes).into_iter().map(|notes| ScanNotes {
            cells: Cells { cells: Vec::new(), filling: notes.filling, folded: notes.folded },
            rest: notes.rest.iter().map(|(window, dims)| (*window, members(dims))).collect(),
        });
        let notes = notes.collect();
        let groups = groups.map(|group| group.map(cells_of).map_err(|error| unreadable(&error)));
        Ok(GroupedCells { moment, notes, groups: Box::new(groups) })
    }
}

fn moment_of(moment: &nilometer_rollups::Moment) -> Moment {
    Moment {
        as_of: moment.as_of(),
        watermark: moment.watermark(),
        final_events: moment.final_until(SetKind::Events),
        final_sessions: moment.final_until(SetKind::Sessions),
        import_running: moment.import_running(),
        folded: moment.shards().iter().map(|(_, facts)| Arc::clone(&facts.folded)).collect(),
        corrected: moment.corrected(),
        late: moment.late(),
        unread: moment.unread(),
    }
}

/// By scan the cells of a group, as the engine takes them.
fn cells_of(Group { dims, rows }: Group) -> Vec<(usize, Cell)> {
    let members: Arc<[Member]> = dims.iter().cloned().map(member).collect();
    let cell = |(scan, window, aggregates)| {
        let members = Arc::clone(&members);
        (scan, Cell { window, members, estimates: Vec::new(), aggregates })
    };
    rows.into_iter().map(cell).collect()
}

fn asked(plan: &Arc<Plan>, scan: &Scan, rows_max: usize) -> Ask {
    let (granularity, rows) = match scan.windows {
        Windows::Every(granularity) => (granularity, Rows::Windows),
        Windows::Total => (Granularity::Minute, Rows::Total),
    };
    let filter = scan.members.iter().map(|rule| rule.as_ref().map(filter_of)).collect();
    let request = ScanRequest {
        plan: Arc::clone(plan),
        set: scan.set,
        granularity,
        range: scan.range,
        filter,
        want: scan.want,
    };
    Ask { request, rows, estimated: scan.distincts == Distincts::Estimates, rows_max }
}

fn filter_of(rule: &Rule) -> DimFilter {
    let values = |values: &Values| {
        DimValues::new(values.members.iter().map(value), values.prefixes.iter().cloned())
    };
    DimFilter::new(rule.any_of.as_ref().map(values), values(&rule.none_of))
}

fn value(member: &Member) -> OwnedDimValue {
    match member {
        Member::Text(text) => OwnedDimValue::Text(text.clone()),
        Member::Other => OwnedDimValue::Other,
        Member::Null => OwnedDimValue::Null,
    }
}

pub(crate) fn member(value: OwnedDimValue) -> Member {
    match value {
        OwnedDimValue::Text(text) => Member::Text(text),
        OwnedDimValue::Other => Member::Other,
        OwnedDimValue::Null => Member::Null,
    }
}

/// The rows as the engine takes them. Rows that share their dimension values share their
/// members.
fn cells(mut rows: Vec<Row>) -> Vec<Cell> {
    let mut known: HashMap<*const OwnedDimValue, Arc<[Member]>> = HashMap::new();
    let mut members = |dims: &mut Arc<[OwnedDimValue]>| match Arc::get_mut(dims) {
        // A row that has them for itself gives its texts away.
        Some(own) => {
            own.iter_mut().map(|own| member(std::mem::replace(own, OwnedDimValue::Null))).collect()
        }
        // Every row holds its values, so that no address is used twice.
        None => {
            let members = || dims.iter().cloned().map(member).collect();
            Arc::clone(known.entry(dims.as_ptr()).or_insert_with(members))
        }
    };
    let members: Vec<Arc<[Member]>> = rows.iter_mut().map(|row| members(&mut row.dims)).collect();
    let cell = |(row, members): (Row, Arc<[Member]>)| {
        let estimates = row.estimates.into_iter().map(|estimate| {
            estimate.map(|estimate| Estimate { value: estimate.value, exact: estimate.exact })
        });
        let estimates = estimates.collect();
        Cell { window: row.window, members, estimates, aggregates: row.aggregates }
    };
    rows.into_iter().zip(members).map(cell).collect()
}

/// Why the shelves gave nothing, for the caller.
pub(crate) fn unreadable(error: &ReadError) -> Problem {
    match error {
        ReadError::Damaged { file, windows } => {
            let named: Vec<serde_json::Value> = windows
                .iter()
                .take(100)
                .map(|range| {
                    serde_json::json!({"from": range.start.to_string(), "to": range.end.to_string()})
                })
                .collect();
            Problem::new(
                Status::Unavailable,
                "windows_damaged",
                "windows of the range cannot be read",
                "a file that holds cells of these windows is corrupt; ask for a range without them",
            )
            .with("windows", named)
            .logged(format!("{file}: {error}"))
        }
        ReadError::Expired { granularity, kept_from, finest } => Problem::new(
            Status::BadRequest,
            "granularity_expired",
            "the granularity is past its retention",
            format!(
                "granularity {granularity} is kept from {kept_from} on; ask for {finest} or coarser"
            ),
        )
        .with("finest", finest.name())
        .with("kept_from", kept_from.to_string()),
        ReadError::TooMany { rows_max } => Problem::new(
            Status::BadRequest,
            "too_many_rows",
            "the query has too many rows",
            format!(
                "more than {rows_max} rows would be read; narrow the range, the filter or the dimensions"
            ),
        ),
        ReadError::TooLarge { .. } => Problem::new(
            Status::BadRequest,
            "query_too_large",
            "the query needs too much memory",
            error.to_string(),
        ),
        ReadError::Misaligned { .. } => Problem::internal(error.to_string()),
    }
}
