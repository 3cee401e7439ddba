//! What has to be read for a question: metrics that reach over the same windows share their scans.

use std::collections::BTreeMap;

use nilometer_access::Problem;
use nilometer_event::{EventTime, Granularity, TimeRange};
use nilometer_rollups::aggregate::SlotMask;
use nilometer_rollups::declare::{Metric, MetricKind, Operand, SetKind};

use super::frame::{Frame, check_kept};
use super::question::{Question, Source};
use super::version::{Distincts, Scan, Version, Windows};
use crate::ask::Step;

/// Minutes that `active_now` reaches over.
const ACTIVE_MINUTES: i64 = 5;

/// Which windows a metric looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// The window itself.
    Window,
    /// The five minutes that end with the window, or with `as_of`.
    ActiveNow,
    /// So many days that end with the window.
    Days(u32),
}

impl Reach {
    pub(super) const fn of(metric: &Metric) -> Self {
        match metric.kind {
            MetricKind::ActiveNow { .. } => Self::ActiveNow,
            MetricKind::RollingDistinct { days, .. } => Self::Days(days),
            _ => Self::Window,
        }
    }

    /// The cells that a metric of this reach is read from, for one window.
    pub(super) fn span(self, window: EventTime, frame: &Frame, as_of: EventTime) -> TimeRange {
        match self {
            Self::Window => TimeRange { start: window, end: window.plus_ms(frame.width_ms) },
            Self::ActiveNow | Self::Days(_) => {
                let (granularity, steps) = self.steps();
                let first = self.first_step(window, frame, as_of);
                let moment = |step: i64| EventTime::from_ms(step * granularity.ms());
                TimeRange { start: moment(first), end: moment(first + steps) }
            }
        }
    }

    const fn steps(self) -> (Granularity, i64) {
        match self {
            Self::Window | Self::ActiveNow => (Granularity::Minute, ACTIVE_MINUTES),
            Self::Days(days) => (Granularity::Day, days as i64),
        }
    }

    /// The first minute or day that a window reaches back to.
    fn first_step(self, window: EventTime, frame: &Frame, as_of: EventTime) -> i64 {
        let (granularity, steps) = self.steps();
        let mut last = window.plus_ms(frame.width_ms - 1).ms().div_euclid(granularity.ms());
        if self == Self::ActiveNow {
            last = last.min(as_of.ms().div_euclid(granularity.ms()));
        }
        last - steps + 1
    }
}

/// Some metrics and what they are read from.
#[derive(Clone, Debug)]
pub(super) struct Job<'a> {
    pub(super) source: &'a Source,
    /// Places of the metrics in the question.
    pub(super) columns: Vec<usize>,
    pub(super) scans: Vec<Scan>,
    /// Windows that overlap; none where every window is its own.
    pub(super) slides: Option<Slides>,
}

/// Whether rows reach over several windows; of a question and its earlier period, both do.
pub(super) fn overlap(jobs: &[Job<'_>]) -> bool {
    jobs.iter().any(|job| job.slides.is_some())
}

/// Windows that overlap.
#[derive(Clone, Debug)]
pub(super) struct Slides {
    pub(super) granularity: Granularity,
    /// Steps of each.
    pub(super) steps: i64,
    /// By the first step: the rows that such a window gives.
    pub(super) windows: BTreeMap<i64, Vec<EventTime>>,
}

impl Job<'_> {
    /// Whether each cell is a row, of which estimates are asked.
    pub(super) fn is_single(&self) -> bool {
        self.scans.iter().all(|scan| scan.distincts == Distincts::Estimates)
    }
}

/// What has to be read for the windows of `frame`.
///
/// # Errors
///
/// 400 where minutes that `active_now` needs are past their retention, or where the windows are
/// too many.
pub(super) fn jobs<'a>(
    question: &'a Question<'_>,
    frame: &Frame,
    version: &dyn Version,
) -> Result<Vec<Job<'a>>, Problem> {
    let mut jobs = Vec::new();
    for kind in [SetKind::Events, SetKind::Sessions] {
        let Some(source) = question.source(kind) else { continue };
        let mut by_reach: BTreeMap<Reach, Vec<usize>> = BTreeMap::new();
        for (place, metric) in question.metrics.iter().enumerate() {
            if metric.domain == kind {
                by_reach.entry(Reach::of(metric)).or_default().push(place);
            }
        }
        for (reach, columns) in by_reach {
            let want = want(question, source, &columns);
            jobs.push(match reach {
                Reach::Window if frame.is_sliding() => sliding(source, frame, columns, want),
                Reach::Window => windows(question, source, frame, columns, want),
                Reach::ActiveNow | Reach::Days(_) => {
                    ending(source, frame, version, columns, want, reach)?
                }
            });
        }
    }
    Ok(jobs)
}

/// What the columns need, and the count that says whether anything happened at all.
fn want(question: &Question<'_>, source: &Source, columns: &[usize]) -> SlotMask {
    let presence = SlotMask { counts: 1 << source.presence, ..SlotMask::NONE };
    let slots = columns.iter().map(|&column| question.metrics[column].slots());
    slots.fold(presence, SlotMask::union)
}

fn windows<'a>(
    question: &Question<'_>,
    source: &'a Source,
    frame: &Frame,
    columns: Vec<usize>,
    want: SlotMask,
) -> Job<'a> {
    let windows = match frame.step {
        Step::Every(granularity) => Windows::Every(granularity),
        Step::Total => Windows::Total,
    };
    let mut scan = source.scan(windows, frame.starts, want);
    let estimates_do = columns.iter().all(|&column| reads_estimates(question.metrics[column]));
    if windows != Windows::Total && source.is_one_to_one() && estimates_do {
        scan.distincts = Distincts::Estimates;
    }
    Job { source, columns, scans: vec![scan], slides: None }
}

fn sliding<'a>(source: &'a Source, frame: &Frame, columns: Vec<usize>, want: SlotMask) -> Job<'a> {
    let granularity = match frame.step {
        Step::Every(granularity) => granularity,
        Step::Total => Granularity::Day,
    };
    let step = granularity.ms();
    let windows = frame.starts().map(|start| (start.ms().div_euclid(step), vec![start])).collect();
    let slides = Slides { granularity, steps: frame.width_ms / step, windows };
    let scan = source.scan(Windows::Every(granularity), frame.touched(), want);
    Job { source, columns, scans: vec![scan], slides: Some(slides) }
}

fn ending<'a>(
    source: &'a Source,
    frame: &Frame,
    version: &dyn Version,
    columns: Vec<usize>,
    want: SlotMask,
    reach: Reach,
) -> Result<Job<'a>, Problem> {
    frame.check_windows()?;
    let as_of = version.as_of().as_event_time();
    let (granularity, steps) = reach.steps();
    let mut windows: BTreeMap<i64, Vec<EventTime>> = BTreeMap::new();
    for start in frame.starts() {
        windows.entry(reach.first_step(start, frame, as_of)).or_default().push(start);
    }
    let mut scans = Vec::new();
    for range in runs(windows.keys().copied(), steps, granularity) {
        check_kept(granularity, range, version)?;
        scans.push(source.scan(Windows::Every(granularity), range, want));
    }
    Ok(Job { source, columns, scans, slides: Some(Slides { granularity, steps, windows }) })
}

/// The spans of `steps` cells that begin at `starts` (ascending), joined where they touch.
fn runs(starts: impl Iterator<Item = i64>, steps: i64, granularity: Granularity) -> Vec<TimeRange> {
    let mut joined: Vec<(i64, i64)> = Vec::new();
    for start in starts {
        match joined.last_mut() {
            Some((_, end)) if start <= *end => *end = start + steps,
            _ => joined.push((start, start + steps)),
        }
    }
    let moment = |step: i64| EventTime::from_ms(step * granularity.ms());
    joined
        .into_iter()
        .map(|(start, end)| TimeRange { start: moment(start), end: moment(end) })
        .collect()
}

/// Whether the metric can be read from an estimate in place of a counter.
const fn reads_estimates(metric: &Metric) -> bool {
    !matches!(
        metric.kind,
        MetricKind::Ratio { numerator: Operand::Distinct(_), .. }
            | MetricKind::Ratio { denominator: Operand::Distinct(_), .. }
    )
}
