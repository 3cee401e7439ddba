//! Which granularity is kept for how long, and which stored windows tile a range.

use std::sync::Arc;

use nilometer_event::{EventTime, Granularity, ReceiveTime, TimeRange};

use crate::dropped::Dropped;
use crate::settings::SettingsError;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// How much longer than promised a granularity stays on disk, so that a reader whose `as_of`
/// trails the store's clock still finds every window whole.
pub(crate) const GRACE_MS: i64 = HOUR_MS;

/// How long each granularity is kept, by the house clock's `now`.
///
/// A coarser granularity is never kept shorter than a finer one, and days are kept for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Milliseconds by [`Granularity`]; `None` is for good.
    kept_ms: [Option<i64>; 5],
}

impl Default for Retention {
    /// 1 m 14 days, 5 m 30 days, 30 m 90 days, 1 h a year, 1 d for good.
    fn default() -> Self {
        Self {
            kept_ms: [
                Some(14 * DAY_MS),
                Some(30 * DAY_MS),
                Some(90 * DAY_MS),
                Some(365 * DAY_MS),
                None,
            ],
        }
    }
}

impl Retention {
    /// From days for 1 m, 5 m, 30 m and 1 h; 1 d is kept for good.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] when one is zero, too long for the clock, or shorter than a finer one.
    pub fn from_days(days: [u32; 4]) -> Result<Self, SettingsError> {
        let mut kept_ms = [None; 5];
        let mut finer = 0;
        for ((kept, days), granularity) in kept_ms.iter_mut().zip(days).zip(Granularity::ALL) {
            if days == 0 || days < finer || days > Self::DAYS_MAX {
                return Err(SettingsError::Retention { granularity, days, at_least: finer.max(1) });
            }
            finer = days;
            *kept = Some(i64::from(days) * DAY_MS);
        }
        Ok(Self { kept_ms })
    }

    /// The longest that a granularity other than the day may be kept: a hundred years.
    pub const DAYS_MAX: u32 = 36_500;

    /// The first window of `granularity` that may still be read at `now`.
    #[must_use]
    pub fn kept_from(&self, granularity: Granularity, now: ReceiveTime) -> EventTime {
        match self.kept_ms[granularity as usize] {
            Some(kept) => now.as_event_time().minus_ms(kept).window_start(granularity),
            None => EventTime::MIN,
        }
    }

    /// The first window of `granularity` that a fold at `now` still writes.
    pub(crate) fn written_from(&self, granularity: Granularity, now: ReceiveTime) -> EventTime {
        match self.kept_ms[granularity as usize] {
            Some(kept) => now.as_event_time().minus_ms(kept + GRACE_MS).window_start(granularity),
            None => EventTime::MIN,
        }
    }
}

/// What a reader may read: per granularity the windows that are whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// What retention promises.
    from: [EventTime; 5],
    /// What it has taken before, maybe when it was shorter.
    dropped: Arc<Dropped>,
}

impl Kept {
    /// At a reader's `as_of`, on a store that last folded at `folded_at` and has `dropped` so far.
    #[must_use]
    pub(crate) fn new(
        retention: &Retention,
        as_of: ReceiveTime,
        folded_at: Option<ReceiveTime>,
        dropped: Arc<Dropped>,
    ) -> Self {
        let from = Granularity::ALL.map(|granularity| {
            let promised = retention.kept_from(granularity, as_of);
            let written =
                folded_at.map_or(EventTime::MIN, |now| retention.written_from(granularity, now));
            promised.max(written)
        });
        Self { from, dropped }
    }

    /// The first window of `granularity` from which on every one may be read; some before it may
    /// be, too ([`Kept::keeps`]).
    #[must_use]
    pub fn from(&self, granularity: Granularity) -> EventTime {
        self.from[granularity as usize].max(self.dropped.end(granularity))
    }

    /// Whether every window of `granularity` that touches `range` may be read.
    #[must_use]
    pub fn keeps(&self, granularity: Granularity, range: TimeRange) -> bool {
        let range = range.outward(granularity);
        self.from[granularity as usize] <= range.start && !self.dropped.meets(granularity, range)
    }

    /// The finest granularity that is kept all over `range`; days always are.
    #[must_use]
    pub fn finest_over(&self, range: TimeRange) -> Granularity {
        Granularity::ALL
            .into_iter()
            .find(|&granularity| self.keeps(granularity, range))
            .unwrap_or(Granularity::Day)
    }

    /// The finest granularity that is kept at `time`; a day always is.
    #[must_use]
    pub fn finest_at(&self, time: EventTime) -> Granularity {
        self.finest_over(TimeRange { start: time, end: time.plus_ms(1) })
    }

    /// Rounds a range outward to what `total` can be read from: each end to the finest
    /// granularity that is kept at its age.
    #[must_use]
    pub fn outward(&self, range: TimeRange) -> TimeRange {
        let finest = self.finest_at(range.start);
        let starts = Granularity::ALL.map(|granularity| range.start.window_start(granularity));
        let ends = Granularity::ALL.map(|granularity| range.end.window_ceil(granularity));
        // A window of an end's own age may begin or end where only a coarser granularity goes on:
        // then that end goes outward to its boundary. To a day always works.
        for start in starts.into_iter().skip(finest as usize) {
            let fits = |&end: &EventTime| self.tiles(TimeRange { start, end }).is_some();
            if let Some(end) = ends.into_iter().find(fits) {
                return TimeRange { start, end };
            }
        }
        range.outward(Granularity::Day)
    }

    /// Cuts `range` into the fewest runs of whole stored windows, the coarsest that fit,
    /// in order and without gaps; `None` when an end lies inside a window of the finest
    /// granularity kept there (see [`Kept::outward`]).
    #[must_use]
    pub fn tiles(&self, range: TimeRange) -> Option<Vec<Tile>> {
        let mut tiles: Vec<Tile> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let granularity = self.coarsest_that_fits(at, range.end)?;
            // As many windows as fit before a coarser one could begin.
            let stop = match granularity.coarser() {
                Some(coarser) if at.window_start(coarser) == at => {
                    range.end.window_start(granularity)
                }
                Some(coarser) => at.window_ceil(coarser).min(range.end.window_start(granularity)),
                None => range.end.window_start(granularity),
            };
            // What was dropped ends the run; the next tile, coarser or finer, goes on there.
            let dropped = self.dropped.next(granularity, at);
            let stop = dropped.map_or(stop, |dropped| stop.min(dropped.start));
            tiles.push(Tile { granularity, range: TimeRange { start: at, end: stop } });
            at = stop;
        }
        Some(tiles)
    }

    fn coarsest_that_fits(&self, at: EventTime, end: EventTime) -> Option<Granularity> {
        Granularity::ALL.into_iter().rev().find(|&granularity| {
            at.window_start(granularity) == at
                && at.plus_ms(granularity.ms()) <= end
                && self.keeps(granularity, TimeRange { start: at, end: at.plus_ms(1) })
        })
    }
}

/// A run of stored windows of one granularity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Of the windows.
    pub granularity: Granularity,
    /// What they cover; both ends lie on windows.
    pub range: TimeRange,
}

/// Width of the span of time that one chunk holds.
#[must_use]
pub(crate) const fn span_ms(granularity: Granularity) -> i64 {
    match granularity {
        Granularity::Minute => HOUR_MS,
        Granularity::FiveMinutes => 6 * HOUR_MS,
        Granularity::HalfHour => 2 * DAY_MS,
        Granularity::Hour => 7 * DAY_MS,
        Granularity::Day => 60 * DAY_MS,
    }
}

/// The span of the chunk that holds the window of `granularity` around `time`.
#[must_use]
pub(crate) const fn span_of(granularity: Granularity, time: EventTime) -> TimeRange {
    let span = span_ms(granularity);
    let start = time.minus_ms(time.ms().rem_euclid(span));
    TimeRange { start, end: start.plus_ms(span) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn minutes(minutes: i64) -> EventTime {
        EventTime::from_ms(minutes * 60_000)
    }

    #[test]
    fn defaults_are_those_of_the_design() {
        let retention = Retention::default();
        let now = ReceiveTime::from_ms(1_000 * DAY_MS);
        let days =
            |granularity| now.as_event_time().since(retention.kept_from(granularity, now)) / DAY_MS;
        assert_eq!(days(Granularity::Minute), 14);
        assert_eq!(days(Granularity::FiveMinutes), 30);
        assert_eq!(days(Granularity::HalfHour), 90);
        assert_eq!(days(Granularity::Hour), 365);
        assert_eq!(retention.kept_from(Granularity::Day, now), EventTime::MIN);
        assert_eq!(Retention::from_days([14, 30, 90, 365]).unwrap(), retention);
    }

    #[test]
    fn a_coarser_granularity_is_not_kept_shorter_than_a_finer_one() {
        assert!(Retention::from_days([30, 14, 90, 365]).is_err());
        assert!(Retention::from_days([0, 14, 90, 365]).is_err());
    }

    #[test]
    fn a_reader_never_goes_before_what_a_fold_at_a_later_now_has_kept() {
        let retention = Retention::default();
        let folded = ReceiveTime::from_ms(1_000 * DAY_MS);
        let trailing = folded.plus_ms(-DAY_MS);
        let kept = Kept::new(&retention, trailing, Some(folded), Arc::default());
        assert_eq!(
            kept.from(Granularity::Minute),
            retention.written_from(Granularity::Minute, folded)
        );
        // Within the grace the promise holds to the window.
        let near = folded.plus_ms(-60_000);
        let kept = Kept::new(&retention, near, Some(folded), Arc::default());
        assert_eq!(kept.from(Granularity::Minute), retention.kept_from(Granularity::Minute, near));
    }

    #[test]
    fn a_span_holds_whole_windows_before_1970_too() {
        for granularity in Granularity::ALL {
            let span = span_of(granularity, EventTime::from_ms(-1));
            assert_eq!(span.end, EventTime::from_ms(0));
            assert_eq!(span.start.window_start(granularity), span.start);
        }
    }

    proptest! {
        #[test]
        fn tiles_cover_the_range_once_with_kept_windows(
            start in -4_000_i64..600_000,
            length in 0_i64..600_000,
            now in 500_000_i64..700_000,
            cuts in prop::collection::vec((0_usize..4, 0_i64..700_000, 1_i64..60_000), 0..6),
        ) {
            let retention = Retention::from_days([14, 30, 90, 365]).unwrap();
            let mut dropped = Dropped::default();
            for (granularity, start, length) in cuts {
                let granularity = Granularity::ALL[granularity];
                let range = TimeRange { start: minutes(start), end: minutes(start + length) };
                dropped.add(granularity, range.outward(granularity), EventTime::MIN);
            }
            let now = ReceiveTime::from_ms(now * 60_000);
            let kept = Kept::new(&retention, now, None, Arc::new(dropped));
            let asked = TimeRange { start: minutes(start), end: minutes(start + length) };
            let range = kept.outward(asked);
            prop_assert!(range.start <= asked.start && asked.end <= range.end);
            let days = asked.outward(Granularity::Day);
            prop_assert!(days.start <= range.start && range.end <= days.end);
            let tiles = kept.tiles(range).expect("an outward range tiles");
            let mut at = range.start;
            for tile in &tiles {
                prop_assert_eq!(tile.range.start, at);
                prop_assert!(tile.range.start < tile.range.end);
                prop_assert!(kept.keeps(tile.granularity, tile.range));
                prop_assert_eq!(tile.range.start.window_start(tile.granularity), tile.range.start);
                prop_assert_eq!(tile.range.end.window_start(tile.granularity), tile.range.end);
                at = tile.range.end;
            }
            prop_assert_eq!(at.max(range.start), range.end.max(range.start));
        }
    }
}
