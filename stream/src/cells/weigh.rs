//! What an event would add to the memory of a layer, found without counting it.

use std::borrow::Cow;

use hashbrown::HashMap;
use nilometer_event::Event;
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use super::coded::CodedEvents;
use super::cube::Node;
use super::dictionary::{Dictionary, MISSING, NULL, OTHER};
use super::gauge::minute_of;
use super::guard::{Guard, Sender, combination_key, day_of};
use super::layer::Layer;
use super::schema::DIMS_MAX;
use super::table::{Key, Table};
use crate::aggregate::mix;
use crate::declare::EventFacts;

/// A text that a layer meets costs so much beside its bytes: its end, hash, verdict and places.
const TEXT_BYTES: usize = 40;
/// Codes of texts that the layer has not met: above all that it gives.
const UNMET: u32 = 1 << 31;

/// What some events of an entry would add, each thing told once.
#[derive(Debug, Default)]
pub(crate) struct Weights {
    /// By what is new, a cell or a text.
    news: HashMap<u64, News>,
    events: u32,
}

/// Something that no cell or text of the layer is yet.
#[derive(Clone, Copy, Debug)]
struct News {
    bytes: usize,
    /// The first event that makes it.
    first: u32,
    is_alone: bool,
}

impl Weights {
    fn add(&mut self, what: u64, bytes: usize) {
        let first = self.events;
        let own = self.news.entry(what).or_insert(News { bytes, first, is_alone: true });
        own.is_alone &= own.first == first;
    }

    /// How many of the events, each of which stands for `stride`, are the first to add more than
    /// `bytes`; `None` where all of them add less.
    ///
    /// What several of them have in common will be common to more; what one of them has alone is
    /// as good as any other such: each of those it stands for has something of its own.
    pub(crate) fn over(&self, bytes: u64, stride: u64) -> Option<u64> {
        let mut by_event = vec![0_u64; self.events as usize];
        for news in self.news.values() {
            let times = if news.is_alone { stride } else { 1 };
            by_event[news.first as usize] += news.bytes as u64 * times;
        }
        let mut sum = 0_u64;
        let place = by_event.iter().position(|own| {
            sum += own;
            sum > bytes
        });
        place.map(|place| place as u64)
    }
}

/// An event's value of a dimension, as its cells would have it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    code: u32,
    /// As [`Dictionary::stable_hash`] gives.
    hash: u64,
}

impl Seen {
    const OTHER: Self = Self { code: OTHER, hash: OTHER as u64 };
    const NULL: Self = Self { code: NULL, hash: NULL as u64 };
}

/// What weighing needs beside the layer.
struct Scales<'a> {
    guard: &'a Guard,
    weights: &'a mut Weights,
    window: i64,
    day: i64,
    sender: Sender,
}

impl Layer {
    /// The most that one event adds, beside its texts.
    pub(crate) fn event_bytes_max(&self) -> usize {
        self.tables.iter().map(Table::cell_bytes).sum()
    }

    /// Adds to `weights` what counting an event of `coded` would add to the layer, but for its
    /// user. `event` gives it, enriched already; asked for where it has texts that are not met.
    pub(crate) fn weigh<'e>(
        &self,
        coded: &CodedEvents,
        row: usize,
        guard: &Guard,
        weights: &mut Weights,
        event: impl FnOnce() -> Option<Event<'e>>,
    ) {
        let window = minute_of(coded.time(row));
        let (window, day, sender) = (window.ms(), day_of(window), coded.sender(row));
        let mut scales = Scales { guard, weights, window, day, sender };
        let event = if coded.is_known(row) { None } else { event() };
        let facts = event.as_ref().map(|event| EventFacts::by(event, self.plan.numbers));
        let mut seen: SmallVec<[Seen; 16]> = SmallVec::new();
        let raws = coded.codes(row).iter();
        for ((dictionary, dimension), &raw) in
            self.dictionaries.iter().zip(&self.plan.dimensions).zip(raws)
        {
            let text = || facts.as_ref().and_then(|facts| facts.text(&dimension.source));
            seen.push(self.seen(dictionary, raw, text, &mut scales));
        }
        if let Some(facts) = &facts {
            self.events.each_top(facts, |values, text| {
                self.seen(values, values.raw(text), || text.map(Cow::from), &mut scales);
            });
        }
        let cubes = &self.event_cubes;
        for cube in &cubes.finest {
            self.weigh_set((&cube.node, &cubes.derived), &seen, &mut scales);
        }
        let of_session: SmallVec<[Seen; 8]> =
            self.plan.session_dims.iter().map(|dim| seen[dim.index()]).collect();
        let cubes = &self.session_cubes;
        scales.sender = Sender::NOBODY;
        for cube in &cubes.finest {
            self.weigh_set((&cube.node, &cubes.derived), &of_session, &mut scales);
        }
        weights.events += 1;
    }

    /// What cells of the day have for a value, of which `raw` is known.
    fn seen<'t>(
        &self,
        dictionary: &Dictionary,
        raw: u32,
        text: impl FnOnce() -> Option<Cow<'t, str>>,
        scales: &mut Scales<'_>,
    ) -> Seen {
        let (hash, unmet) = match raw {
            NULL => return Seen::NULL,
            MISSING => match text() {
                None => return Seen::NULL,
                Some(text) => (xxh3_64(text.as_bytes()), Some(text.len())),
            },
            known => (dictionary.stable_hash(known), None),
        };
        let (day, sender, limits) = (scales.day, scales.sender, &self.plan.guard);
        if unmet.is_none() && dictionary.is_admitted(day, raw) {
            return Seen { code: raw, hash };
        }
        if scales.guard.folds((dictionary.key(), day), hash, sender, limits.values_max, limits) {
            return Seen::OTHER;
        }
        let Some(bytes) = unmet else { return Seen { code: raw, hash } };
        scales.weights.add(hash ^ dictionary.key(), TEXT_BYTES + bytes);
        Seen { code: UNMET | u32::try_from(hash >> 33).unwrap_or(0), hash }
    }

    /// The cell of a set, those that are derived from it, and where it is the rest, those that
    /// the event goes on to.
    fn weigh_set(&self, (node, derived): (&Node, &[Node]), seen: &[Seen], scales: &mut Scales<'_>) {
        let mut key = Key { window: scales.window, dims: [0; DIMS_MAX] };
        let own = || node.columns.iter().map(|&column| seen[column]);
        for (dim, value) in key.dims.iter_mut().zip(own()) {
            *dim = value.code;
        }
        // Where the cell is, those that are derived from it are.
        if self.tables[node.table].find(&key).is_some() {
            return;
        }
        if let Some(guarded) = node.guarded {
            let hashes: SmallVec<[u64; DIMS_MAX]> = own().map(|value| value.hash).collect();
            let (value, limits) = (combination_key(&hashes), &self.plan.guard);
            let (of, sender) = ((guarded, scales.day), scales.sender.of_combinations(limits));
            if scales.guard.folds(of, value, sender, limits.combinations_max, limits) {
                key = node.rest(&key);
            }
        }
        self.weigh_cells(node.table, &key, scales);
        if key.is_rest() {
            for &place in &node.behind {
                self.weigh_set((&derived[place], derived), seen, scales);
            }
        }
    }

    /// This cell and those that it adds to, as far as they are not there.
    fn weigh_cells(&self, table: usize, key: &Key, scales: &mut Scales<'_>) {
        let own = &self.tables[table];
        if own.find(key).is_some() {
            return;
        }
        scales.weights.add(key.hash() ^ mix(table as u64), own.cell_bytes());
        for edge in own.edges.iter().filter(|edge| edge.active) {
            if let Some(key) = edge.project(key) {
                self.weigh_cells(edge.to, &key, scales);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_events_share_counts_once_and_what_each_has_alone_for_all_that_it_stands_for() {
        let mut weights = Weights::default();
        for event in 0..10 {
            weights.add(1, 1_000);
            weights.add(100 + event, 10);
            weights.events += 1;
        }
        // 1,000 once, and 10 for each of 640.
        assert_eq!(weights.over(1_000 + 6_400, 64), None);
        assert_eq!(weights.over(1_000 + 6_400 - 1, 64), Some(9));
        assert_eq!(weights.over(1_000 + 640 * 2, 64), Some(2));
        assert_eq!(weights.over(999, 64), Some(0));
    }
}
