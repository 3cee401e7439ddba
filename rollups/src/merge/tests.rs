//! Merges whose scans fail after so many cells, against what lies in the layers.

use std::sync::Arc;

use nilometer_stream::cells::{CellSource, CellView, Coverage, DimValue};
use nilometer_stream::declare::{MetricKind, Plan, SetKind};
use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;

const MINUTE_MS: i64 = 60_000;
const COUNTRIES: [&str; 3] = ["DE", "EG", "FR"];

/// A layer whose scans fail by a list, each after so many cells; once it is through, none does.
#[derive(Debug)]
struct Scripted {
    plan: Arc<Plan>,
    name: String,
    /// Minute, country, events.
    cells: Vec<(i64, usize, i64)>,
    script: Mutex<Vec<Option<usize>>>,
}

impl Scripted {
    fn in_range(&self, range: TimeRange) -> impl Iterator<Item = &(i64, usize, i64)> {
        self.cells.iter().filter(move |cell| range.contains(minute(cell.0)))
    }
}

fn minute(number: i64) -> EventTime {
    EventTime::from_ms(number * MINUTE_MS)
}

fn events_slot(plan: &Plan) -> usize {
    match plan.metric("events").unwrap().kind {
        MetricKind::Count { slot } => slot,
        other => panic!("{other:?}"),
    }
}

impl CellSource for Scripted {
    fn scan(
        &self,
        request: &ScanRequest,
        visit: &mut dyn FnMut(CellRef<'_>),
    ) -> Result<(), CellsDamaged> {
        let fails = self.script.lock().pop().flatten();
        for (place, &(window, country, events)) in self.in_range(request.range).enumerate() {
            if fails.is_some_and(|after| place >= after) {
                break;
            }
            let mut aggregates = request.empty();
            aggregates.counts[events_slot(&self.plan)] = events;
            visit(CellRef {
                window: minute(window),
                granularity: request.granularity,
                dims: &[DimValue::Text(COUNTRIES[country])],
                aggregates: CellView::whole(&aggregates, request.want),
            });
        }
        let damaged =
            || CellsDamaged { file: self.name.clone(), windows: request.range, reason: "x".into() };
        if fails.is_some() { Err(damaged()) } else { Ok(()) }
    }

    fn coverage(&self, _request: &ScanRequest) -> Coverage {
        Coverage::default()
    }
}

#[derive(Debug, Default)]
struct Written(Vec<((EventTime, String), i64)>);

impl CellOut for Written {
    fn cell(
        &mut self,
        window: EventTime,
        dims: &[OwnedDimValue],
        aggregates: &Aggregates,
    ) -> Result<(), FoldError> {
        let events = aggregates.counts.iter().sum();
        self.0.push(((window, format!("{dims:?}")), events));
        Ok(())
    }

    fn added(&mut self, _window: EventTime, _cells: u64) {}
}

/// What a list of sources holds, but for those that are lost in a window.
fn expected(
    sources: &[Scripted],
    lost: &[(String, String, TimeRange)],
) -> BTreeMap<(EventTime, String), i64> {
    let mut sums = BTreeMap::new();
    for source in sources {
        for &(window, country, events) in &source.cells {
            let window = minute(window);
            let gone = |(file, _, range): &(String, String, TimeRange)| {
                *file == source.name && range.contains(window)
            };
            if !lost.iter().any(gone) {
                let dims = [OwnedDimValue::Text(COUNTRIES[country].into())];
                *sums.entry((window, format!("{dims:?}"))).or_default() += events;
            }
        }
    }
    sums
}

fn merged(
    plan: &Arc<Plan>,
    sources: &[Scripted],
    minutes: std::ops::Range<i64>,
    bytes_max: usize,
) -> (Written, Vec<(String, String, TimeRange)>) {
    let country = plan.dimension("country").unwrap();
    let set = plan.set_for(SetKind::Events, &[country]).unwrap();
    let range = TimeRange { start: minute(minutes.start), end: minute(minutes.end) };
    let request = ScanRequest::new(Arc::clone(plan), set, Granularity::Minute, range);
    let folded: Vec<FoldSource<'_>> =
        sources.iter().map(|source| FoldSource::Layer(source as &dyn CellSource)).collect();
    loop {
        let mut out = Written::default();
        match merge(&request, &folded, bytes_max, &mut out).unwrap() {
            Merged::All => return (out, Vec::new()),
            Merged::Lost(lost) => return (out, lost),
            // Another fold tries again.
            Merged::Torn(..) => {}
            Merged::ChunkDamaged => panic!("there is no chunk"),
        }
    }
}

fn source(
    plan: &Arc<Plan>,
    name: usize,
    cells: Vec<(i64, usize, i64)>,
    mut script: Vec<Option<usize>>,
) -> Scripted {
    script.reverse();
    Scripted { plan: Arc::clone(plan), name: format!("{name}"), cells, script: Mutex::new(script) }
}

#[test]
fn a_layer_that_fails_only_once_others_are_left_out_is_lost_too() {
    let plan = Arc::new(Plan::builtin());
    let one = |place: usize, script| source(&plan, place, vec![(3, 0, 1 << place)], script);
    // The first does not read; while the window is read without it, the second does not either.
    let sources = [one(0, vec![Some(0)]), one(1, vec![None, Some(0)]), one(2, Vec::new())];
    let (written, lost) = merged(&plan, &sources, 3..4, usize::MAX / 8);
    let files: Vec<&str> = lost.iter().map(|(file, ..)| file.as_str()).collect();
    assert_eq!(files, ["0", "1"]);
    let written: BTreeMap<_, _> = written.0.into_iter().collect();
    assert_eq!(written, expected(&sources, &lost));
}

/// A table that is made over its bound, cell by cell.
#[test]
fn a_window_of_more_cells_than_memory_holds_is_taken_in_parts() {
    let plan = Arc::new(Plan::builtin());
    let country = plan.dimension("country").unwrap();
    let set = plan.set_for(SetKind::Events, &[country]).unwrap();
    let range = TimeRange { start: minute(0), end: minute(1) };
    let request = ScanRequest::new(Arc::clone(&plan), set, Granularity::Minute, range);
    let aggregates = request.empty();
    let each = cell_bytes(&aggregates, &RowKey::of(&[DimValue::Text("00")]));
    let mut table = Table::of_part(&request, 10 * each, Part::default());
    let mut most = 0;
    for number in (0..100).rev() {
        table.add(&CellRef {
            window: minute(0),
            granularity: Granularity::Minute,
            dims: &[DimValue::Text(&format!("{number:02}"))],
            aggregates: CellView::whole(&aggregates, request.want),
        });
        most = table.bytes.max(most);
    }
    assert!(most <= 10 * each, "{most} bytes, a cell has {each}");
    let last = table.part.as_ref().unwrap().through.as_ref().unwrap();
    let kept: Vec<_> = table.windows.values().flat_map(HashMap::keys).collect();
    assert!(kept.iter().all(|key| key.0 <= last.0), "{kept:?} through {last:?}");
    let first = RowKey::of(&[DimValue::Text("00")]);
    assert!(kept.contains(&&first) && kept.len() >= 5, "{kept:?}");
}

proptest! {
    #[test]
    fn what_is_written_is_all_but_what_is_told_as_lost(
        sources in prop::collection::vec(
            (
                prop::collection::btree_map((0_i64..12, 0_usize..3), 1_i64..100, 0..12),
                prop::collection::vec(prop::option::weighted(0.4, 0_usize..3), 0..14),
            ),
            1..4,
        ),
        bytes_max in prop::sample::select(vec![1_usize, 3_000, 40_000, 1 << 30]),
    ) {
        let plan = Arc::new(Plan::builtin());
        let mut scripted = Vec::new();
        for (place, (cells, script)) in sources.into_iter().enumerate() {
            let cells = cells.into_iter().map(|((at, country), n)| (at, country, n));
            scripted.push(source(&plan, place, cells.collect(), script));
        }
        let sources = scripted;
        let (written, lost) = merged(&plan, &sources, 0..12, bytes_max);
        let keys: Vec<_> = written.0.iter().map(|(key, _)| key.clone()).collect();
        prop_assert!(keys.is_sorted(), "cells ascend");
        let found: BTreeMap<_, _> = written.0.into_iter().collect();
        prop_assert_eq!(found.len(), keys.len(), "a cell comes once");
        prop_assert_eq!(found, expected(&sources, &lost));
    }
}
