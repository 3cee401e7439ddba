//! The open layer: counts events and sessions into cells, and carries them up at an entry's end.

use std::sync::Arc;

use nilometer_event::{Event, EventTime, Field, Granularity, TimeRange, UserHash};
use smallvec::SmallVec;

use super::coded::CodedEvents;
use super::cube::{Around, Cubes, Late, take_late};
use super::dictionary::{Dictionary, MISSING, NULL, OTHER};
use super::gauge::{EventGauge, minute_of};
use super::guard::{Sender, Tallies, day_of, text_hash};
use super::pending::{NONE, Pending, PendingSessions};
use super::schema::{Projection, Schema};
use super::table::{Edge, News, Step, Table};
use super::users::Ordinals;
use crate::aggregate::Aggregates;
use crate::declare::{DimId, EventFacts, Plan, SetId, SetKind, Source};

pub use super::gauge::SessionMeasure;

/// A set of events keeps its coarser granularities in memory up to so many cells of a day;
/// past it they are merged from the 1-minute cells when read.
const COARSE_CELLS_MAX: usize = 1_024;

/// The cells of one layer of one shard under one plan.
///
/// Equal events and sessions give an equal layer, whatever their order and however they were
/// split into entries. What is read holds everything up to the last [`Layer::end_entry`].
#[derive(Debug)]
pub struct Layer {
    pub(super) plan: Arc<Plan>,
    number: u64,
    pub(super) schema: Schema,
    pub(super) ordinals: Ordinals,
    /// One for each dimension.
    pub(super) dictionaries: Vec<Dictionary>,
    pub(super) events: EventGauge,
    /// Events since the last entry's end.
    pub(super) pending: Pending,
    /// Sessions since the last entry's end.
    pub(super) sessions: PendingSessions,
    /// Each before the tables that are derived from it.
    pub(super) tables: Vec<Table>,
    /// For each set its tables by granularity.
    pub(super) places: Vec<[Option<usize>; 5]>,
    /// What events touch.
    pub(super) event_cubes: Cubes,
    pub(super) session_cubes: Cubes,
    /// Codes of the event at hand, by dimension.
    codes: Vec<u32>,
    /// The event at hand, where it came by itself; kept for its memory.
    pub(super) one: CodedEvents,
    /// Memory for tables with users on their way; kept for the next entry.
    pub(super) news: Vec<News>,
}

/// The codes of a session's dimensions, in the plan's order.
pub(crate) type SessionCodes = SmallVec<[u32; 8]>;

/// What the cells of one event say of a dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    /// The event lacks it.
    Null,
    /// The guard folded its value.
    Other,
    /// The layer's number of its value.
    Text(u32),
}

impl Layer {
    /// An empty layer.
    #[must_use]
    pub fn new(plan: Arc<Plan>, number: u64) -> Self {
        let (tables, places) = tables(&plan);
        let minutes = |set: SetId| places[set.index()][0];
        let session_column =
            |dim: DimId| plan.session_dims.iter().position(|&session_dim| session_dim == dim);
        let dictionaries =
            plan.dimensions.iter().map(|one| Dictionary::new(one.definition)).collect();
        Self {
            number,
            schema: Schema::of(&plan),
            ordinals: Ordinals::default(),
            dictionaries,
            events: EventGauge::new(&plan),
            pending: Pending::new(plan.event_slots.shape(), plan.dimensions.len()),
            sessions: PendingSessions::new(plan.session_dims.len()),
            event_cubes: Cubes::of(&plan, SetKind::Events, minutes, |dim| Some(dim.index())),
            session_cubes: Cubes::of(&plan, SetKind::Sessions, minutes, session_column),
            codes: vec![0; plan.dimensions.len()],
            one: CodedEvents::default(),
            news: Vec::new(),
            tables,
            places,
            plan,
        }
    }

    /// The plan that it counts by.
    #[must_use]
    pub const fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Its number within the shard.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Counts one event, enriched already. `user` is whose it is, `None` for a service.
    ///
    /// # Panics
    ///
    /// Where a top-k slot has no column: they are made of one plan.
    pub fn count(&mut self, tallies: &mut Tallies, event: &Event<'_>, user: Option<UserHash>) {
        let facts = EventFacts::by(event, self.plan.numbers);
        let window = minute_of(event.timestamp);
        let (day, sender) = (day_of(window), sender_of(event));
        for (dim, dimension) in self.plan.dimensions.iter().enumerate() {
            let (dictionary, guard) = (&mut self.dictionaries[dim], &mut tallies.guard);
            let text = facts.text(&dimension.source);
            let limits = &self.plan.guard;
            self.codes[dim] = dictionary.code(guard, limits, (day, sender), text.as_deref());
            if let (OTHER, Some(text)) = (self.codes[dim], &text) {
                guard.watch((dictionary.key(), day), text_hash(text), sender, limits);
            }
        }
        if let Some(code) = self.type_code(&facts) {
            self.events.learn_type(code, &facts);
        }
        let (guard, limits) = (&mut tallies.guard, &self.plan.guard);
        let mut tops = self.pending.tops.iter_mut();
        self.events.each_top_mut(&facts, |values, text| {
            let code = values.code(guard, limits, (day, sender), text);
            if let (OTHER, Some(text)) = (code, text) {
                guard.watch((values.key(), day), text_hash(text), sender, limits);
            }
            tops.next().expect("C2: a column for each top-k slot").push(top_of(code));
        });
        let mut one = std::mem::take(&mut self.one);
        self.reset(&mut one);
        self.look_up(event, user, &mut one);
        self.pending.touches.begin(sender);
        self.pending.touches.push(window, &self.codes);
        self.pending.push(&one, 0, &mut self.ordinals);
        self.one = one;
    }

    /// Empties `coded` for events of this layer.
    pub(crate) fn reset(&self, coded: &mut CodedEvents) {
        let shape = self.plan.event_slots.shape();
        coded.reset(shape, self.plan.dimensions.len() + shape.tops);
    }

    /// Adds to `coded` what is known of an event, enriched already, and counts nothing. Holds
    /// while the layer is open.
    pub(crate) fn look_up(
        &self,
        event: &Event<'_>,
        user: Option<UserHash>,
        coded: &mut CodedEvents,
    ) {
        let facts = EventFacts::by(event, self.plan.numbers);
        let mut is_known = true;
        let mut event_type = None;
        for (dimension, dictionary) in self.plan.dimensions.iter().zip(&self.dictionaries) {
            let code = match &dimension.source {
                Source::Field(field) => dictionary.raw(event.text(*field)),
                other => dictionary.raw(facts.text(other).as_deref()),
            };
            is_known &= code != MISSING;
            if dimension.source == Source::Field(Field::EventType) {
                event_type = Some(code);
            }
            coded.push_code(code);
        }
        self.events.each_top(&facts, |values, text| {
            let code = values.raw(text);
            is_known &= code != MISSING;
            coded.push_code(code);
        });
        self.events.measure(&facts, event_type, user, coded);
        coded.push_row(event.timestamp, is_known, event.key, event.values_max);
    }

    /// Counts one event of `coded`, whose texts are all known, as [`Self::count`] would.
    pub(crate) fn count_known(&mut self, tallies: &mut Tallies, coded: &CodedEvents, row: usize) {
        let window = minute_of(coded.time(row));
        let day = day_of(window);
        let (dims, tops) = coded.codes(row).split_at(self.dictionaries.len());
        let (guard, limits) = (&mut tallies.guard, &self.plan.guard);
        let sender = || coded.sender(row);
        for ((own, dictionary), &raw) in self.codes.iter_mut().zip(&mut self.dictionaries).zip(dims)
        {
            *own = dictionary.admitted(guard, limits, (day, sender), raw);
            if *own == OTHER {
                let value = dictionary.stable_hash(raw);
                guard.watch((dictionary.key(), day), value, sender(), limits);
            }
        }
        let columns = self.pending.tops.iter_mut().zip(&mut self.events.top_values);
        for ((column, values), &raw) in columns.zip(tops) {
            let code = values.admitted(guard, limits, (day, sender), raw);
            if code == OTHER {
                let value = values.stable_hash(raw);
                guard.watch((values.key(), day), value, sender(), limits);
            }
            column.push(top_of(code));
        }
        self.pending.touches.begin(sender());
        self.pending.touches.push(window, &self.codes);
        self.pending.push(coded, row, &mut self.ordinals);
    }

    /// The layer's code of the event's type, where types are a dimension.
    fn type_code(&self, facts: &EventFacts<'_>) -> Option<u32> {
        let dim = self.plan.dimension_of(Field::EventType)?;
        let code = self.dictionaries[dim.index()].raw(Some(facts.event().event_type));
        (code != MISSING).then_some(code)
    }

    /// Counts a session that comes (`sign` 1) or goes (−1), in the window of its `start`.
    /// `dims` has one value for each of [`Plan::session_dims`], in that order.
    pub fn count_session(
        &mut self,
        tallies: &mut Tallies,
        start: EventTime,
        dims: &[Option<&str>],
        measure: &SessionMeasure,
        sign: i64,
    ) {
        let codes = self.session_codes(tallies, start, dims);
        self.count_coded_session(start, &codes, measure, sign);
    }

    /// As [`Self::count_session`], by [`Self::code`]s of the dimensions.
    pub(crate) fn count_coded_session(
        &mut self,
        start: EventTime,
        codes: &[u32],
        measure: &SessionMeasure,
        sign: i64,
    ) {
        self.sessions.measure(&self.plan.session_slots, measure, sign);
        self.sessions.touches.push(minute_of(start), codes);
    }

    /// Counts a session's change from `old` to `new`, as two calls of
    /// [`Self::count_coded_session`] would, where both have this minute of start and these codes.
    pub(crate) fn revise_coded_session(
        &mut self,
        start: EventTime,
        codes: &[u32],
        old: &SessionMeasure,
        new: &SessionMeasure,
    ) {
        self.sessions.measure_change(&self.plan.session_slots, old, new);
        self.sessions.touches.push(minute_of(start), codes);
    }

    /// The number of a dimension's value in the cells of `time`'s day; the same for every moment
    /// of that day while the layer is open.
    pub(crate) fn code(
        &mut self,
        tallies: &mut Tallies,
        dim: DimId,
        time: EventTime,
        value: Option<&str>,
    ) -> u32 {
        let dictionary = &mut self.dictionaries[dim.index()];
        // A session's values are those of one of its events, which came first and was judged.
        let by = (day_of(time), Sender::NOBODY);
        dictionary.code(&mut tallies.guard, &self.plan.guard, by, value)
    }

    fn session_codes(
        &mut self,
        tallies: &mut Tallies,
        start: EventTime,
        dims: &[Option<&str>],
    ) -> SessionCodes {
        let plan = Arc::clone(&self.plan);
        let values = dims.iter().copied().chain(std::iter::repeat(None));
        let coded = plan.session_dims.iter().zip(values);
        coded.map(|(&dim, value)| self.code(tallies, dim, start, value)).collect()
    }

    /// What the cells of the event counted last say of this dimension.
    pub(crate) fn counted(&self, dim: DimId) -> Counted {
        match self.codes[dim.index()] {
            NULL => Counted::Null,
            OTHER => Counted::Other,
            code => Counted::Text(code),
        }
    }

    /// The text of [`Counted::Text`].
    ///
    /// # Panics
    ///
    /// Where the code is no text's.
    pub(crate) fn text(&self, dim: DimId, code: u32) -> &str {
        match self.dictionaries[dim.index()].value(code) {
            super::DimValue::Text(text) => text,
            other => panic!("C1: code {code} of a text is {other:?}"),
        }
    }

    /// Reads what counting these users will read, and does nothing with it: the reads overlap,
    /// which they do not once each waits for the one before.
    pub(crate) fn warm(&self, users: impl Iterator<Item = UserHash>) {
        self.ordinals.warm(users.map(UserHash::get));
    }

    /// Adds what was counted since the last call to its cells, carries it up the sets and
    /// granularities, and tells readers what the guard made of it.
    pub fn end_entry(&mut self, tallies: &mut Tallies) {
        let mut around = Around {
            tables: &mut self.tables,
            dictionaries: &self.dictionaries,
            guard: &mut tallies.guard,
            limits: &self.plan.guard,
        };
        let mut cells = std::mem::take(&mut self.pending.cells);
        if !self.pending.is_empty() {
            let Self { pending, ordinals, news, event_cubes, .. } = self;
            let Cubes { finest, derived, late } = event_cubes;
            for cube in finest {
                let behind = (&**derived, &mut **late);
                cube.find_cells(&pending.touches, &mut around, &mut cells, behind);
                let table = &mut around.tables[cube.node.table];
                table.add_pending(pending, (&cells, None), ordinals, news);
                for (table, Late { rows, cells }) in take_late((derived, late)) {
                    let named = (&*cells, Some(&*rows));
                    around.tables[table].add_pending(pending, named, ordinals, news);
                }
            }
            self.pending.clear(self.plan.event_slots.shape());
        }
        if !self.sessions.is_empty() {
            let Self { sessions, session_cubes, .. } = self;
            let Cubes { finest, derived, late } = session_cubes;
            for cube in finest {
                let behind = (&**derived, &mut **late);
                cube.find_cells(&sessions.touches, &mut around, &mut cells, behind);
                around.tables[cube.node.table].add_sessions(sessions, &cells, None);
                for (table, Late { rows, cells }) in take_late((derived, late)) {
                    around.tables[table].add_sessions(sessions, &cells, Some(&rows));
                }
            }
            self.sessions.clear();
        }
        self.pending.cells = cells;
        for table in 0..self.tables.len() {
            let (before, later) = self.tables.split_at_mut(table + 1);
            before[table].propagate(later, table + 1, &self.ordinals, &mut self.news);
        }
        self.drop_wide_sets();
        tallies.guard.publish();
    }

    /// Coarse cells of a set of many combinations cost more than they save. What is dropped
    /// follows from the cells alone, never from their order.
    fn drop_wide_sets(&mut self) {
        for set in 0..self.places.len() {
            let [Some(minute), coarse @ ..] = self.places[set] else { continue };
            let Some(day) = coarse[3] else { continue };
            let is_sessions = self.plan.sets[set].kind == SetKind::Sessions;
            if is_sessions || self.tables[day].len() <= COARSE_CELLS_MAX {
                continue;
            }
            for edge in &mut self.tables[minute].edges {
                if matches!(edge.step, Step::Wider(_)) {
                    edge.active = false;
                }
            }
            for place in coarse.into_iter().flatten() {
                self.tables[place].drop_cells();
            }
            self.places[set] = [Some(minute), None, None, None, None];
        }
    }

    /// By metric of the plan how many events it counted without their number, because that
    /// could not be read; nothing afterwards. Shorter than the plan's list where there are none.
    pub(crate) fn take_unread(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.pending.unread)
    }

    /// Bytes in memory, about, with all that is reserved.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.tables.iter().map(Table::held_bytes).sum::<usize>() + self.bytes_beside()
    }

    /// Bytes in use, about: how full it is.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.tables.iter().map(Table::memory_bytes).sum::<usize>() + self.bytes_beside()
    }

    fn bytes_beside(&self) -> usize {
        self.dictionaries.iter().map(Dictionary::memory_bytes).sum::<usize>()
            + self.ordinals.memory_bytes()
            + self.events.memory_bytes()
            + self.entry_bytes()
            + self.event_cubes.memory_bytes()
            + self.session_cubes.memory_bytes()
    }

    /// Cells of every set and granularity.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.tables.iter().map(Table::len).sum()
    }

    /// True where nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.iter().all(|table| table.len() == 0)
    }

    /// The windows that hold cells of a domain, from the first to the last minute's end.
    #[must_use]
    pub fn span(&self, kind: SetKind) -> Option<TimeRange> {
        let windows = self.minutes(kind);
        let minute = Granularity::Minute.ms();
        Some(TimeRange { start: *windows.first()?, end: windows.last()?.plus_ms(minute) })
    }

    /// The minutes that hold cells of a domain, ascending.
    pub(super) fn minutes(&self, kind: SetKind) -> Vec<EventTime> {
        let total = self.plan.sets.iter().position(|set| set.kind == kind && set.dims.is_empty());
        let table = total.and_then(|set| self.places[set][0]).map(|place| &self.tables[place]);
        let Some(table) = table else { return Vec::new() };
        let cells = table.keys.iter().enumerate().filter(|(cell, _)| !table.is_blank(*cell));
        let mut windows: Vec<_> = cells.map(|(_, key)| EventTime::from_ms(key.window)).collect();
        windows.sort_unstable();
        windows
    }
}

/// Whose key sent an event.
fn sender_of(event: &Event<'_>) -> Sender {
    Sender::of(event.key.unwrap_or_default(), event.values_max)
}

/// What a top-k slot counts of a value.
const fn top_of(code: u32) -> u32 {
    if code == NULL { NONE } else { code }
}

/// A table for each set at each granularity that it keeps, wired from fine to coarse.
fn tables(plan: &Plan) -> (Vec<Table>, Vec<[Option<usize>; 5]>) {
    let mut tables: Vec<Table> = Vec::new();
    let mut places: Vec<[Option<usize>; 5]> = Vec::new();
    for (index, set) in plan.sets.iter().enumerate() {
        let mut shape = plan.slots(set.kind).shape();
        if !set.distinct {
            shape.distincts = 0;
        }
        let minute = tables.len();
        tables.push(Table::new(index, Granularity::Minute, set.dims.len(), shape));
        if let Some(parent) = set.parent {
            let finer = plan.set(parent);
            let place = |dim: &DimId| finer.dims.iter().position(|own| own == dim);
            let kept = set.dims.iter().map(place).collect::<Option<Vec<usize>>>();
            let step = Step::Dims(kept.expect("C3: a set is derived from one that has its dims"));
            let from = places[parent.index()][0].expect("C3: a set comes behind its parent");
            tables[from].edges.push(Edge { to: minute, step, active: true });
        }
        let mut own = [Some(minute), None, None, None, None];
        if set.eager_coarse {
            for (place, granularity) in Granularity::ALL.into_iter().enumerate().skip(1) {
                let to = tables.len();
                tables[to - 1].edges.push(Edge {
                    to,
                    step: Step::Wider(granularity),
                    active: true,
                });
                tables.push(Table::new(index, granularity, set.dims.len(), shape));
                own[place] = Some(to);
            }
        }
        places.push(own);
    }
    (tables, places)
}

/// One cell of a layer, as a reader sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerCell<'a> {
    pub(super) layer: &'a Layer,
    pub(super) table: &'a Table,
    pub(super) cell: usize,
    pub(super) projection: &'a Projection,
}

impl LayerCell<'_> {
    pub(super) fn merge_into(&self, into: &mut Aggregates) {
        let (shape, rows, cell) = (self.table.shape(), &self.table.rows, self.cell);
        let [counts, sums, mins, maxs, distincts, histograms, tops] = &self.projection.slots;
        for &(from, to) in counts {
            into.counts[to] += rows.counts[cell * shape.counts + from];
        }
        for &(from, to) in sums {
            into.sums[to] += rows.sums.get(cell * shape.sums + from);
        }
        for &(from, to) in mins {
            crate::aggregate::lower(&mut into.mins[to], rows.mins[cell * shape.mins + from]);
        }
        for &(from, to) in maxs {
            into.maxs[to] = into.maxs[to].max(rows.maxs[cell * shape.maxs + from]);
        }
        for &(from, to) in distincts {
            if let Some(users) = self.table.users(cell, from) {
                users.merge_into(&self.layer.ordinals, &mut into.distincts[to]);
            }
        }
        for &(from, to) in histograms {
            into.histograms[to].merge(&rows.histograms[cell * shape.histograms + from]);
        }
        for &(from, to) in tops {
            let values = &self.layer.events.top_values[from];
            for (code, count) in rows.tops[cell * shape.tops + from].iter() {
                match values.value(code) {
                    super::DimValue::Text(text) => into.tops[to].add(Some(text), count),
                    _ => into.tops[to].add(None, count),
                }
            }
        }
    }
}
