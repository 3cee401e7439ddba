//! One consistent version over all shards, and how it is read.

mod known;
mod values;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use nilometer_event::{EventTime, Granularity, Partition, ReceiveTime, TimeRange};
use nilometer_stream::cells::{CellSource, Layer, ScanRequest};
use nilometer_stream::declare::{Plan, SetKind};
use nilometer_stream::view::{
    ConflictsBySource, CorrectedHours, Counters, Facts, LateDays, OpenGuard, ShardView, Views,
};

use crate::base::Base;
use crate::cache::{Cache, share};
use crate::error::ReadError;
use crate::gather::{Gather, Into, Limits, Sketches, may_be_taken_back};
use crate::port::{Answer, DamagedWindows, Row};
use crate::retention::{Kept, Retention, Tile};
use crate::version::{AdoptedLayer, CachedLayer, Version};

/// Times that a pin is tried again because a shard sealed and was adopted in between.
const PIN_TRIES: usize = 4;

/// One version of the store, and one picture of each shard: nothing missing, nothing twice.
///
/// Adopted cells do not change while it is held; the shards' open layers go on counting.
/// A reader who wants cells and facts of one moment uses [`Pinned::read_together`].
#[derive(Debug)]
pub struct Pinned {
    /// The plan that requests belong to.
    pub plan: Arc<Plan>,
    views: Vec<Arc<ShardView>>,
    moment: Moment,
    version: Arc<Version>,
    kept: Kept,
    complete: bool,
    limits: Limits,
    /// Of what is read at once: less where memory is short, for the same can be read in groups.
    at_once: Limits,
    cache: Option<Arc<Cache>>,
}

/// What holds of all shards at one moment.
#[derive(Clone, Debug, Default)]
pub struct Moment {
    /// In partition order.
    shards: Vec<(Partition, Facts)>,
}

/// One question of many that are answered at one moment.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Which cells.
    pub request: ScanRequest,
    /// How windows become rows.
    pub rows: Rows,
    /// True where estimates may stand in place of distinct counters ([`Row::distinct`]).
    pub estimated: bool,
    /// More rows than this are an error ([`ReadError::TooMany`]), as more than the store allows.
    pub rows_max: usize,
}

/// How windows become rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// A row for each window of the request's granularity.
    Windows,
    /// One row over the whole range, whose ends lie on kept windows ([`Pinned::outward`]);
    /// the request's granularity does not matter.
    Total,
}

impl Pinned {
    /// Pins the shards first and the store second: a layer leaves a shard's view only after
    /// the store adopted it, and one that the store holds is skipped in the view.
    pub(crate) fn new(
        views: &Views,
        version: impl Fn() -> Arc<Version>,
        plan: Arc<Plan>,
        retention: &Retention,
        limits: Limits,
        cache: Option<Arc<Cache>>,
    ) -> Self {
        let read_percent = views.read_percent();
        let mut complete = views.is_complete();
        let mut pinned = views.pin();
        let mut held = version();
        for _ in 1..PIN_TRIES {
            // Sealed and adopted in between: right all the same, but its facts are older.
            let passed = |view: &Arc<ShardView>| view.layer <= held.through(view.partition);
            if !pinned.iter().any(passed) {
                break;
            }
            complete = views.is_complete();
            pinned = views.pin();
            held = version();
        }
        pinned.sort_by_key(|view| view.partition);
        let facts = pinned.iter().map(|view| (view.partition, view.facts()));
        let moment = Moment { shards: facts.collect() };
        let dropped = Arc::clone(&held.dropped);
        let kept = Kept::new(retention, moment.as_of(), held.folded_at, dropped);
        let at_once = Limits { bytes_max: share(limits.bytes_max, read_percent), ..limits };
        Self { plan, views: pinned, moment, version: held, kept, complete, limits, at_once, cache }
    }

    /// A row for each window and each combination of values in which anything happened.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn read(&self, request: &ScanRequest) -> Result<Vec<Row>, ReadError> {
        self.answer(request).map(|answer| answer.rows)
    }

    /// As [`Pinned::read`], with what is filling and folded.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn answer(&self, request: &ScanRequest) -> Result<Answer, ReadError> {
        self.one(request, Rows::Windows, false)
    }

    /// As [`Pinned::answer`]; a row that is one closed cell of the base carries estimates, and
    /// no sketch is read for it. Ask such rows for [`Row::distinct`].
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn read_estimated(&self, request: &ScanRequest) -> Result<Answer, ReadError> {
        self.one(request, Rows::Windows, true)
    }

    /// One row per combination over the whole range, from the coarsest stored windows that
    /// tile it; its window is the range's start.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; [`ReadError::Misaligned`] where the range is not [`Pinned::outward`].
    pub fn total(&self, request: &ScanRequest) -> Result<Answer, ReadError> {
        self.one(request, Rows::Total, false)
    }

    fn one(&self, request: &ScanRequest, rows: Rows, estimated: bool) -> Result<Answer, ReadError> {
        let ask = Ask { request: request.clone(), rows, estimated, rows_max: usize::MAX };
        let (mut answers, _) = self.read_together(std::slice::from_ref(&ask));
        answers.pop().unwrap_or_else(|| Ok(Answer::default()))
    }

    /// Answers all questions of one moment, which it returns too: the cells hold exactly what
    /// the moment's facts count.
    ///
    /// A shard waits only while its own open layer is read. One that is folding an entry just
    /// now is read last: everything else is read meanwhile.
    #[must_use]
    pub fn read_together(&self, asks: &[Ask]) -> (Vec<Result<Answer, ReadError>>, Moment) {
        let mut gathers: Vec<Begun> = asks.iter().map(|ask| self.begin(ask)).collect();
        let moment = self.read_all(&mut gathers);
        let finish = |begun: Begun| begun.and_then(|(gather, _)| gather.finish());
        (gathers.into_iter().map(finish).collect(), moment)
    }

    /// Shows everything that there is to `intake`; returns the facts of what it was shown.
    pub(crate) fn read_all(&self, intake: &mut dyn Intake) -> Moment {
        let mut facts: Vec<Option<Facts>> = vec![None; self.views.len()];
        for (view, facts) in self.views.iter().zip(&mut facts) {
            intake.make_room();
            *facts = view.open.try_read().map(|open| self.take_open(view, &open, intake));
        }
        self.take_sealed(intake);
        intake.take_base(&self.version.base);
        let shards = self.views.iter().zip(facts).map(|(view, facts)| {
            let late = || {
                intake.make_room();
                self.take_open(view, &view.open.read(), intake)
            };
            (view.partition, facts.unwrap_or_else(late))
        });
        Moment { shards: shards.collect() }
    }

    /// Takes a shard's open layer, if the store does not hold it; returns the facts of its cells.
    fn take_open(&self, view: &ShardView, open: &OpenGuard<'_>, intake: &mut dyn Intake) -> Facts {
        if self.version.through(view.partition) < view.layer {
            intake.take_open(&open.layer);
        }
        open.facts.clone()
    }

    /// Takes the sealed layers that the base does not hold.
    fn take_sealed(&self, intake: &mut dyn Intake) {
        for (view, layer) in
            self.views.iter().flat_map(|view| view.sealing.iter().map(move |layer| (view, layer)))
        {
            if self.version.through(view.partition) < layer.number() {
                intake.take(&layer.read().layer);
            }
        }
        for layer in &self.version.layers {
            match (&layer.file, &self.cache) {
                (Ok(file), None) => intake.take(file),
                (Ok(file), Some(cache)) => {
                    let path = layer.sealed.path.as_str().into();
                    intake.take(&CachedLayer { file, path, cache });
                }
                (Err(unopened), _) => intake.note_unopened(layer, &unopened.reason),
            }
        }
    }

    pub(crate) fn begin(&self, ask: &Ask) -> Begun {
        let mut request = ask.request.clone();
        if may_be_taken_back(&request) {
            request.want.counts = u64::MAX;
        }
        let (into, tiles) = match ask.rows {
            Rows::Windows => {
                request.range = request.outward();
                self.check_kept(&request)?;
                let tile = Tile { granularity: request.granularity, range: request.range };
                (Into::Windows(request.granularity), vec![tile])
            }
            Rows::Total => {
                let TimeRange { start, end } = request.range;
                let tiles = self.kept.tiles(request.range);
                (Into::One(start), tiles.ok_or(ReadError::Misaligned { start, end })?)
            }
        };
        let tile_request = |tile: Tile| ScanRequest {
            granularity: tile.granularity,
            range: tile.range,
            ..request.clone()
        };
        // Days first: the few users of a minute go quickly into the many of a day, and the other
        // way round every union of two small sets is made on the way.
        let mut tiles: Vec<ScanRequest> = tiles.into_iter().map(tile_request).collect();
        tiles.sort_by_key(|tile| Reverse(tile.granularity));
        let sketches = if ask.estimated { Sketches::Estimated } else { Sketches::Merged };
        let rows_max = self.at_once.rows_max.min(ask.rows_max);
        let limits = Limits { rows_max, ..self.at_once };
        Ok((Gather::new(request, into, sketches, limits), tiles))
    }

    fn check_kept(&self, request: &ScanRequest) -> Result<(), ReadError> {
        let granularity = request.granularity;
        if request.range.start < request.range.end && !self.keeps(granularity, request.range) {
            let finest = self.finest_over(request.range);
            let kept_from = self.kept_from(granularity);
            return Err(ReadError::Expired { granularity, kept_from, finest });
        }
        Ok(())
    }

    /// The first window of `granularity` from which on every one may be read.
    #[must_use]
    pub fn kept_from(&self, granularity: Granularity) -> EventTime {
        self.kept.from(granularity)
    }

    /// Whether every window of `granularity` that touches `range` may be read.
    #[must_use]
    pub fn keeps(&self, granularity: Granularity, range: TimeRange) -> bool {
        self.kept.keeps(granularity, range)
    }

    /// The finest granularity that is kept at `time`.
    #[must_use]
    pub fn finest_at(&self, time: EventTime) -> Granularity {
        self.kept.finest_at(time)
    }

    /// The finest granularity that is kept all over `range`.
    #[must_use]
    pub fn finest_over(&self, range: TimeRange) -> Granularity {
        self.kept.finest_over(range)
    }

    /// Rounds `range` outward to what [`Pinned::total`] takes.
    #[must_use]
    pub fn outward(&self, range: TimeRange) -> TimeRange {
        self.kept.outward(range)
    }

    pub(crate) const fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) const fn limits_at_once(&self) -> Limits {
        self.at_once
    }

    pub(crate) fn base(&self) -> &Base {
        &self.version.base
    }

    /// Windows that have lost cells for good.
    #[must_use]
    pub fn damaged(&self) -> Vec<DamagedWindows> {
        self.version.base.damaged()
    }

    /// Whether every shard has recovered: before that, answers lack some.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// The shards' views, in partition order.
    #[must_use]
    pub fn shards(&self) -> &[Arc<ShardView>] {
        &self.views
    }

    /// What held when this was pinned.
    #[must_use]
    pub const fn moment(&self) -> &Moment {
        &self.moment
    }

    /// The lowest `now` of the shards: rows hold everything that was folded up to it.
    #[must_use]
    pub fn as_of(&self) -> ReceiveTime {
        self.moment.as_of()
    }

    /// The lowest watermark.
    #[must_use]
    pub fn watermark(&self) -> EventTime {
        self.moment.watermark()
    }

    /// Windows of this kind that end at or before it are complete but for late events.
    #[must_use]
    pub fn final_until(&self, kind: SetKind) -> EventTime {
        self.moment.final_until(kind)
    }

    /// The counters of all shards together.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.moment.counters()
    }
}

impl Moment {
    /// The facts of each shard, in partition order.
    #[must_use]
    pub fn shards(&self) -> &[(Partition, Facts)] {
        &self.shards
    }

    /// The lowest `now`; 1970 where no shard is shown.
    #[must_use]
    pub fn as_of(&self) -> ReceiveTime {
        self.shards.iter().map(|(_, facts)| facts.now).min().unwrap_or_default()
    }

    /// The lowest watermark.
    #[must_use]
    pub fn watermark(&self) -> EventTime {
        self.shards.iter().map(|(_, facts)| facts.watermark).min().unwrap_or_default()
    }

    /// The lowest watermark; for sessions not past the oldest open session's start.
    #[must_use]
    pub fn final_until(&self, kind: SetKind) -> EventTime {
        let oldest = self.shards.iter().filter_map(|(_, facts)| facts.oldest_open_session).min();
        match (kind, oldest) {
            (SetKind::Sessions, Some(oldest)) => self.watermark().min(oldest),
            _ => self.watermark(),
        }
    }

    /// By metric, all events that were counted without their number.
    #[must_use]
    pub fn unread(&self) -> BTreeMap<String, u64> {
        let mut sum = BTreeMap::new();
        for (metric, events) in self.shards.iter().flat_map(|(_, facts)| facts.unread.iter()) {
            *sum.entry(metric.clone()).or_default() += events;
        }
        sum
    }

    /// Conflicts of all shards by the source of the keys that sent them.
    #[must_use]
    pub fn conflicts_by_source(&self) -> BTreeMap<String, u64> {
        let of_shards = self.shards.iter().map(|(_, facts)| facts);
        let conflicts = of_shards.map(|facts| (&*facts.conflicts, facts.counters.conflicts));
        ConflictsBySource::of_all(conflicts)
    }

    /// The counters of all shards together.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        for (_, facts) in &self.shards {
            sum.add(&facts.counters);
        }
        sum
    }

    /// The events from the future, of each shard that has any.
    #[must_use]
    pub fn corrected(&self) -> Vec<Arc<CorrectedHours>> {
        let of_shards = self.shards.iter().map(|(_, facts)| &facts.corrected);
        of_shards.filter(|corrected| !corrected.is_empty()).cloned().collect()
    }

    /// The events that are late, pending, of each shard that has any.
    #[must_use]
    pub fn late(&self) -> Vec<Arc<LateDays>> {
        let of_shards = self.shards.iter().map(|(_, facts)| &facts.late);
        of_shards.filter(|late| !late.is_empty()).cloned().collect()
    }

    /// Whether any shard counts imported history.
    #[must_use]
    pub fn import_running(&self) -> bool {
        self.shards.iter().any(|(_, facts)| facts.import_running)
    }
}

/// An answer under construction and the requests that it takes.
pub(crate) type Begun = Result<(Gather, Vec<ScanRequest>), ReadError>;

/// What is put together of all that a pin holds.
pub(crate) trait Intake {
    /// Comes before each open layer: what can be put in order is, as no fold waits yet.
    fn make_room(&mut self) {}
    /// Takes an open layer, for which its shard's fold waits.
    fn take_open(&mut self, layer: &Layer) {
        self.take(layer);
    }
    /// Takes a layer.
    fn take(&mut self, source: &dyn CellSource);
    /// Notes a layer that does not open: it damages what it may hold of each request.
    fn note_unopened(&mut self, layer: &AdoptedLayer, reason: &str);
    /// Takes the base.
    fn take_base(&mut self, base: &Base);
}

impl Intake for Vec<Begun> {
    fn take(&mut self, source: &dyn CellSource) {
        for (gather, tiles) in self.iter_mut().flatten() {
            tiles.iter().for_each(|tile| gather.take(source, tile));
        }
    }

    fn note_unopened(&mut self, layer: &AdoptedLayer, reason: &str) {
        for (gather, tiles) in self.iter_mut().flatten() {
            note_unopened(gather, tiles, layer, reason);
        }
    }

    fn take_base(&mut self, base: &Base) {
        for (gather, tiles) in self.iter_mut().flatten() {
            tiles.iter().for_each(|tile| base.gather(tile, gather));
        }
    }
}

pub(crate) fn note_unopened(
    gather: &mut Gather,
    tiles: &[ScanRequest],
    layer: &AdoptedLayer,
    reason: &str,
) {
    for damage in tiles.iter().filter_map(|tile| layer.damage(reason, tile.outward())) {
        gather.note_damage(damage);
    }
}
