//! One event or session as what it adds to a cell: each slot is measured once, not per cube.

use std::borrow::Cow;

use nilometer_event::{Event, EventTime, UserHash};
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use super::coded::CodedEvents;
use super::dictionary::Dictionary;
use super::pending::{Columns, NO_BUCKET, PendingSessions, Wide, WideSlot};
use crate::aggregate::{bucket_of, bucket_of_wide};
use crate::declare::{
    EventFacts, Filter, Measure, NumberReading, NumberSource, Plan, SessionFact, Slot, Slots,
    Source, Unread,
};

/// How each slot of events is measured.
#[derive(Debug)]
pub(super) struct EventGauge {
    /// Each number that some slot needs, at its scale.
    numbers: Vec<(NumberSource, u8)>,
    counts: Vec<CountRule>,
    sums: Vec<NumberRule>,
    mins: Vec<NumberRule>,
    maxs: Vec<NumberRule>,
    histograms: Vec<NumberRule>,
    distincts: Vec<TextRule>,
    tops: Vec<TextRule>,
    /// The values of each top-k slot.
    pub(super) top_values: Vec<Dictionary>,
    /// Asked of events with a number that cannot be read.
    unread: Unread,
    /// Which counts by type alone each event type adds to, by the layer's code of the type.
    types: Vec<Option<u64>>,
}

#[derive(Debug)]
enum CountRule {
    /// Decided by the event's type: bit i of its mask.
    ByType(Filter),
    Number(usize, Filter),
    Text(Source, Filter),
    /// Decided by [`Event::completed`]: absent, false, true.
    Completed([bool; 3]),
    Filtered(Filter),
}

#[derive(Debug)]
struct NumberRule {
    number: usize,
    filter: Filter,
}

#[derive(Debug)]
struct TextRule {
    /// `None` counts the user.
    source: Option<Source>,
    filter: Filter,
}

impl EventGauge {
    pub(super) fn new(plan: &Plan) -> Self {
        let slots = &plan.event_slots;
        let mut numbers = Vec::new();
        let mut number = |source: &NumberSource, scale: u8| {
            let wanted = (source.clone(), scale);
            numbers.iter().position(|known| *known == wanted).unwrap_or_else(|| {
                numbers.push(wanted);
                numbers.len() - 1
            })
        };
        let counts = slots
            .counts
            .iter()
            .map(|slot| match &slot.measure {
                Measure::CarriesNumber(source, scale) => {
                    CountRule::Number(number(source, *scale), slot.filter.clone())
                }
                Measure::CarriesText(source) => {
                    CountRule::Text(source.clone(), slot.filter.clone())
                }
                _ if slot.filter.by_type_only() => CountRule::ByType(slot.filter.clone()),
                _ if slot.filter.by_completed_only() => {
                    CountRule::Completed([None, Some(false), Some(true)].map(|completed| {
                        let event = Event { completed, ..Event::default() };
                        slot.filter.matches(&EventFacts::new(&event))
                    }))
                }
                _ => CountRule::Filtered(slot.filter.clone()),
            })
            .collect();
        let mut rules = |list: &[Slot]| -> Vec<NumberRule> {
            list.iter()
                .map(|slot| match &slot.measure {
                    Measure::Number(source, scale) => {
                        NumberRule { number: number(source, *scale), filter: slot.filter.clone() }
                    }
                    other => panic!("C3: a slot of numbers measures {other:?}"),
                })
                .collect()
        };
        let sums = rules(&slots.sums);
        let mins = rules(&slots.mins);
        let maxs = rules(&slots.maxs);
        let histograms = rules(&slots.histograms);
        let top_values = slots.tops.iter().map(|slot| Dictionary::new(slot.definition)).collect();
        Self {
            numbers,
            counts,
            sums,
            mins,
            maxs,
            histograms,
            distincts: texts(&slots.distincts),
            tops: texts(&slots.tops),
            top_values,
            unread: Unread::of(plan),
            types: Vec::new(),
        }
    }

    /// Measures one event into the columns of `out`; `event_type` is the layer's code of its
    /// type.
    pub(super) fn measure(
        &self,
        facts: &EventFacts<'_>,
        event_type: Option<u32>,
        user: Option<UserHash>,
        out: &mut CodedEvents,
    ) {
        let mut values: SmallVec<[NumberReading; 4]> = SmallVec::new();
        for (source, scale) in &self.numbers {
            values.push(facts.number(source, *scale));
        }
        if values.contains(&NumberReading::Unread) {
            self.note_unread(facts, &mut out.columns);
        }
        let by_type = event_type.and_then(|code| self.types.get(code as usize).copied().flatten());
        let by_type = by_type.unwrap_or_else(|| self.type_mask(facts));
        let mask = self.counts.iter().enumerate().fold(by_type, |mask, (slot, rule)| {
            let counts = match rule {
                CountRule::ByType(_) => false,
                CountRule::Number(number, filter) => {
                    matches!(values[*number], NumberReading::Value(_)) && passes(filter, facts)
                }
                CountRule::Text(source, filter) => {
                    facts.text(source).is_some() && passes(filter, facts)
                }
                CountRule::Completed(counts) => {
                    counts[facts.event().completed.map_or(0, |yes| 1 + usize::from(yes))]
                }
                CountRule::Filtered(filter) => filter.matches(facts),
            };
            mask | u64::from(counts) << slot
        });
        let columns = &mut out.columns;
        let row = columns.counts.len();
        columns.counts.push(mask);
        let number = |rule: &NumberRule| match values[rule.number] {
            NumberReading::Value(value) if passes(&rule.filter, facts) => Some(value),
            _ => None,
        };
        let wide = &mut columns.wide;
        let mut narrow = |of: WideSlot, value: i128| {
            i64::try_from(value)
                .inspect_err(|_| wide.push(Wide { row: Columns::row(row), of, value }))
                .ok()
        };
        for (slot, (column, rule)) in columns.sums.iter_mut().zip(&self.sums).enumerate() {
            let value = number(rule).and_then(|value| narrow(WideSlot::Sum(slot), value));
            column.push(value.unwrap_or(0));
        }
        for (slot, (column, rule)) in columns.mins.iter_mut().zip(&self.mins).enumerate() {
            column.push(number(rule).and_then(|value| narrow(WideSlot::Min(slot), value)));
        }
        for (slot, (column, rule)) in columns.maxs.iter_mut().zip(&self.maxs).enumerate() {
            column.push(number(rule).and_then(|value| narrow(WideSlot::Max(slot), value)));
        }
        for (column, rule) in columns.histograms.iter_mut().zip(&self.histograms) {
            column.push(number(rule).map_or(NO_BUCKET, bucket_of_wide));
        }
        for (column, rule) in out.distincts.iter_mut().zip(&self.distincts) {
            column.push(if passes(&rule.filter, facts) { rule.hash(facts, user) } else { None });
        }
    }

    /// Notes the metrics that would count the event that is pushed next, and cannot.
    #[cold]
    fn note_unread(&self, facts: &EventFacts<'_>, columns: &mut Columns) {
        let row = Columns::row(columns.counts.len());
        self.unread.each(facts, |metric| {
            let metric = u16::try_from(metric).expect("a plan has a few hundred metrics");
            columns.unread.push((row, metric));
        });
    }

    /// What the top-k slots count of an event, slot by slot: `None` for nothing.
    pub(super) fn each_top(
        &self,
        facts: &EventFacts<'_>,
        mut take: impl FnMut(&Dictionary, Option<&str>),
    ) {
        for (rule, values) in self.tops.iter().zip(&self.top_values) {
            take(values, rule.text(facts).as_deref());
        }
    }

    /// As [`Self::each_top`], for counting.
    pub(super) fn each_top_mut(
        &mut self,
        facts: &EventFacts<'_>,
        mut take: impl FnMut(&mut Dictionary, Option<&str>),
    ) {
        for (rule, values) in self.tops.iter().zip(&mut self.top_values) {
            take(values, rule.text(facts).as_deref());
        }
    }

    /// Remembers what a type counts by its code.
    pub(super) fn learn_type(&mut self, code: u32, facts: &EventFacts<'_>) {
        let at = code as usize;
        if self.types.len() <= at {
            self.types.resize(at + 1, None);
        }
        if self.types[at].is_none() {
            self.types[at] = Some(self.type_mask(facts));
        }
    }

    fn type_mask(&self, facts: &EventFacts<'_>) -> u64 {
        self.counts.iter().enumerate().fold(0, |mask, (slot, rule)| match rule {
            CountRule::ByType(filter) if filter.matches(facts) => mask | 1_u64 << slot,
            _ => mask,
        })
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.top_values.iter().map(Dictionary::memory_bytes).sum::<usize>()
            + self.types.capacity() * 16
    }
}

fn texts(list: &[Slot]) -> Vec<TextRule> {
    list.iter()
        .map(|slot| TextRule {
            source: match &slot.measure {
                Measure::Text(source) => Some(source.clone()),
                _ => None,
            },
            filter: slot.filter.clone(),
        })
        .collect()
}

impl TextRule {
    fn text<'a>(&self, facts: &'a EventFacts<'_>) -> Option<Cow<'a, str>> {
        let text = self.source.as_ref().and_then(|source| facts.text(source));
        text.filter(|_| passes(&self.filter, facts))
    }

    fn hash(&self, facts: &EventFacts<'_>, user: Option<UserHash>) -> Option<u64> {
        match &self.source {
            None => user.map(UserHash::get),
            // Content, no person: needs no key.
            Some(source) => facts.text(source).map(|text| xxh3_64(text.as_bytes())),
        }
    }
}

fn passes(filter: &Filter, facts: &EventFacts<'_>) -> bool {
    filter.is_all() || filter.matches(facts)
}

/// What a session's measures are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionMeasure {
    /// Last − first.
    pub duration_ms: i64,
    /// Events.
    pub events: u64,
    /// Events of the view types.
    pub views: u64,
    /// Events of the conversion types.
    pub conversions: u64,
}

/// From this length a session is engaged.
const ENGAGED_MS: i64 = 10_000;
/// From so many views a session is engaged.
const ENGAGED_VIEWS: u64 = 2;

impl PendingSessions {
    /// Measures one session that comes (`sign` 1) or goes (−1).
    pub(super) fn measure(&mut self, slots: &Slots, session: &SessionMeasure, sign: i64) {
        for one in &slots.counts {
            self.counts.push(if holds(one, session) { sign } else { 0 });
        }
        self.durations_ms.push(session.duration_ms * sign);
        let bucket = bucket_of(session.duration_ms);
        let (comes, goes) = if sign > 0 { (bucket, NO_BUCKET) } else { (NO_BUCKET, bucket) };
        self.comes.push(comes);
        self.goes.push(goes);
    }

    /// Measures what a session's change adds: `new` comes and `old` goes.
    pub(super) fn measure_change(
        &mut self,
        slots: &Slots,
        old: &SessionMeasure,
        new: &SessionMeasure,
    ) {
        for one in &slots.counts {
            self.counts.push(i64::from(holds(one, new)) - i64::from(holds(one, old)));
        }
        // Neither is below 0.
        self.durations_ms.push(new.duration_ms - old.duration_ms);
        let (comes, goes) = (bucket_of(new.duration_ms), bucket_of(old.duration_ms));
        let moves = comes != goes;
        self.comes.push(if moves { comes } else { NO_BUCKET });
        self.goes.push(if moves { goes } else { NO_BUCKET });
    }
}

/// True where a session adds one to this count.
fn holds(slot: &Slot, session: &SessionMeasure) -> bool {
    match &slot.measure {
        Measure::Session(SessionFact::Bounced) => session.events == 1,
        Measure::Session(SessionFact::Engaged(_)) => {
            session.duration_ms >= ENGAGED_MS
                || session.views >= ENGAGED_VIEWS
                || session.conversions > 0
        }
        _ => true,
    }
}

/// The window that an event or a session counts in.
pub(super) const fn minute_of(time: EventTime) -> EventTime {
    time.window_start(nilometer_event::Granularity::Minute)
}
