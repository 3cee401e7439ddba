//! The windows of an answer: range, step and width, rounded outward and checked for retention.

use nilometer_access::{Problem, Status};
use nilometer_event::{EventTime, Granularity, ReceiveTime, TimeRange};

use super::version::Version;
use crate::ask::{Ask, Compare, Span, Step};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Windows that are named one by one, for sliding and rolling metrics, at most.
pub(crate) const WINDOWS_MAX: i64 = 50_000;
/// Steps of one sliding window at most.
const SLIDING_STEPS_MAX: i64 = 10_080;

/// The windows of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// What was asked for, on whole steps.
    pub(crate) range: TimeRange,
    /// Where windows start: all over the range; of sliding windows so that each ends in it.
    pub(crate) starts: TimeRange,
    /// How far apart they start.
    pub(crate) step: Step,
    /// How long each is.
    pub(crate) width_ms: i64,
}

impl Frame {
    /// Rounds the asked range outward at `now`.
    pub(crate) fn resolve(
        ask: &Ask,
        version: &dyn Version,
        now: ReceiveTime,
    ) -> Result<Self, Problem> {
        let asked = asked_range(ask.span, now)?;
        // A sliding window reaches back from where it ends.
        let start = asked.start.minus_ms(ask.window_ms.unwrap_or(0));
        let earliest = match ask.compare {
            Compare::Nothing => start,
            Compare::PreviousPeriod => start.minus_ms(asked.end.since(asked.start)),
        };
        let frame = Self::of_step(ask, asked, earliest, version)?;
        // Every time of an answer can be asked for.
        let begins_too_early = |frame: &Self| frame.starts.start < EventTime::EARLIEST;
        if begins_too_early(&frame) {
            return Err(bad("window", "reaches back before the year 1"));
        }
        if ask.compare == Compare::PreviousPeriod && begins_too_early(&frame.previous()) {
            return Err(bad("compare", "the period before begins before the year 1"));
        }
        Ok(frame)
    }

    fn of_step(
        ask: &Ask,
        asked: TimeRange,
        earliest: EventTime,
        version: &dyn Version,
    ) -> Result<Self, Problem> {
        let step =
            ask.granularity.unwrap_or_else(|| Step::Every(step_for(asked, earliest, version)));
        match step {
            Step::Total => Self::total(ask, asked, earliest, version),
            Step::Every(granularity) => Self::every(ask, granularity, asked, version),
        }
    }

    fn total(
        ask: &Ask,
        asked: TimeRange,
        earliest: EventTime,
        version: &dyn Version,
    ) -> Result<Self, Problem> {
        if ask.window_ms.is_some() {
            return Err(bad("window", "needs a granularity other than total"));
        }
        let range = match ask.compare {
            Compare::Nothing => version.outward(asked),
            // Both periods are as long as each other, so both go by the age of the older one.
            Compare::PreviousPeriod => {
                let both = TimeRange { start: earliest, end: asked.end };
                asked.outward(version.finest_over(both))
            }
        };
        let frame = Self::of_total(range);
        let older = frame.previous().range;
        let is_whole = |range| version.outward(range) == range;
        if ask.compare == Compare::PreviousPeriod && !(is_whole(older) && is_whole(frame.range)) {
            // One of them begins at a boundary that only a coarser granularity still has.
            return Ok(Self::of_total(asked.outward(Granularity::Day)));
        }
        Ok(frame)
    }

    const fn of_total(range: TimeRange) -> Self {
        let width_ms = range.end.since(range.start);
        Self { range, starts: range, step: Step::Total, width_ms }
    }

    fn every(
        ask: &Ask,
        granularity: Granularity,
        asked: TimeRange,
        version: &dyn Version,
    ) -> Result<Self, Problem> {
        let step_ms = granularity.ms();
        let width_ms = ask.window_ms.unwrap_or(step_ms);
        if width_ms % step_ms != 0 || width_ms / step_ms > SLIDING_STEPS_MAX {
            return Err(bad(
                "window",
                format!("is not 1 to {SLIDING_STEPS_MAX} whole steps of granularity {granularity}"),
            ));
        }
        let range = asked.outward(granularity);
        let starts = match ask.window_ms {
            None => range,
            Some(width_ms) => ending_in(range, granularity, width_ms, version.as_of()),
        };
        let frame = Self { range, starts, step: Step::Every(granularity), width_ms };
        let oldest = match ask.compare {
            Compare::Nothing => frame.starts.start,
            Compare::PreviousPeriod => frame.previous().starts.start,
        };
        let touched = TimeRange { start: oldest, end: frame.touched().end };
        check_kept(granularity, touched, version)?;
        if frame.is_sliding() {
            frame.check_windows()?;
        }
        Ok(frame)
    }

    /// The frame of equal length that ends where this one begins.
    pub(crate) fn previous(&self) -> Self {
        let earlier = |range: TimeRange| TimeRange {
            start: range.start.minus_ms(self.length_ms()),
            end: range.end.minus_ms(self.length_ms()),
        };
        Self { range: earlier(self.range), starts: earlier(self.starts), ..self.clone() }
    }

    pub(crate) const fn length_ms(&self) -> i64 {
        self.range.end.since(self.range.start)
    }

    /// From the first window's start to the last window's end.
    pub(crate) fn touched(&self) -> TimeRange {
        let beyond = match self.step {
            Step::Every(granularity) => self.width_ms - granularity.ms(),
            Step::Total => 0,
        };
        TimeRange { start: self.starts.start, end: self.starts.end.plus_ms(beyond) }
    }

    pub(crate) fn is_sliding(&self) -> bool {
        matches!(self.step, Step::Every(granularity) if granularity.ms() < self.width_ms)
    }

    /// How far apart windows start.
    pub(crate) const fn step_ms(&self) -> i64 {
        match self.step {
            Step::Every(granularity) => granularity.ms(),
            Step::Total => self.length_ms(),
        }
    }

    /// Where the windows start.
    pub(crate) fn starts(&self) -> impl Iterator<Item = EventTime> + use<> {
        let (start, step, count) = (self.starts.start, self.step_ms(), self.count());
        (0..count).map(move |index| start.plus_ms(index * step))
    }

    fn count(&self) -> i64 {
        let length_ms = self.starts.end.since(self.starts.start);
        if self.step_ms() <= 0 { 0 } else { length_ms.max(0) / self.step_ms() }
    }

    /// Refuses frames with too many windows to name each.
    pub(crate) fn check_windows(&self) -> Result<(), Problem> {
        if self.count() > WINDOWS_MAX {
            return Err(bad(
                "granularity",
                format!(
                    "gives {} windows, more than {WINDOWS_MAX}; ask for a coarser one or a shorter range",
                    self.count()
                ),
            ));
        }
        Ok(())
    }
}

/// Where windows of `width_ms` start that end at a step within (start, end] of `range`, and not
/// after `as_of`: one that ends later would be smaller for what is yet to come.
fn ending_in(
    range: TimeRange,
    granularity: Granularity,
    width_ms: i64,
    as_of: ReceiveTime,
) -> TimeRange {
    let last = range.end.min(as_of.as_event_time().window_start(granularity)).max(range.start);
    let back_ms = width_ms - granularity.ms();
    TimeRange { start: range.start.minus_ms(back_ms), end: last.minus_ms(back_ms) }
}

/// Refuses what is past its retention, or was when it was counted.
pub(crate) fn check_kept(
    granularity: Granularity,
    range: TimeRange,
    version: &dyn Version,
) -> Result<(), Problem> {
    if version.keeps(granularity, range) {
        return Ok(());
    }
    let finest = version.finest_over(range);
    let kept_from = version.kept_from(granularity);
    let start = range.start;
    let detail = format!(
        "granularity {granularity} is kept from {kept_from} on; for {start} ask for {finest} or coarser"
    );
    Err(Problem::new(
        Status::BadRequest,
        "granularity_expired",
        "the granularity is past its retention",
        detail,
    )
    .with("parameter", "granularity")
    .with("finest", finest.name())
    .with("kept_from", kept_from.to_string()))
}

fn asked_range(span: Span, now: ReceiveTime) -> Result<TimeRange, Problem> {
    // A range up to now holds this very millisecond.
    let until = now.as_event_time().plus_ms(1);
    let range = match span {
        Span::Last { ms } => TimeRange { start: now.as_event_time().minus_ms(ms), end: until },
        Span::Since { from } => TimeRange { start: from, end: until },
        Span::Between { from, to } => TimeRange { start: from, end: to },
    };
    if range.start < range.end {
        Ok(range)
    } else {
        Err(bad("from", "lies in the future; give to as well"))
    }
}

/// At most a few hundred windows, of a granularity that is kept.
fn step_for(asked: TimeRange, earliest: EventTime, version: &dyn Version) -> Granularity {
    let length = asked.end.since(asked.start);
    // A little more than the round numbers, for what was asked as a range up to now.
    let wished = if length <= 6 * HOUR_MS + 60_000 {
        Granularity::Minute
    } else if length <= DAY_MS + 60_000 {
        Granularity::FiveMinutes
    } else if length <= 7 * DAY_MS + HOUR_MS {
        Granularity::HalfHour
    } else if length <= 31 * DAY_MS {
        Granularity::Hour
    } else {
        Granularity::Day
    };
    let mut granularity = wished;
    while !version.keeps(granularity, TimeRange { start: earliest, end: asked.end }) {
        match granularity.coarser() {
            Some(coarser) => granularity = coarser,
            None => break,
        }
    }
    granularity
}

pub(crate) fn bad(parameter: &str, message: impl std::fmt::Display) -> Problem {
    Problem::new(
        Status::BadRequest,
        "bad_parameter",
        "the query cannot be read",
        format!("{parameter}: {message}"),
    )
    .with("parameter", parameter)
}
