//! How often the values of a layer counted, by UTC day: what the guard keeps places by.

use nilometer_event::EventTime;

use super::dictionary::{Dictionary, NULL, OTHER};
use super::guard::{Guard, combination_key, day_of};
use super::layer::Layer;
use super::table::{Key, Table};
use crate::declare::{MetricKind, SetId, SetKind};

/// A day, a value and how often it counted there.
type Count = (i64, u64, u64);

impl Layer {
    /// Tells the guard how often each value and combination counted in this layer.
    pub(crate) fn rank(&self, guard: &mut Guard) {
        let Some(MetricKind::Count { slot }) = self.plan.metric("events").map(|one| one.kind)
        else {
            unreachable!("C2: every plan counts events");
        };
        for (place, dictionary) in self.dictionaries.iter().enumerate() {
            let dim = self.plan.dimensions[place].name.as_str();
            let set = self.plan.dimension(dim);
            // Where none of its cells is asked for, none of its values is folded.
            let set = set.and_then(|dim| self.plan.set_for(SetKind::Events, &[dim]));
            let Some(set) = set else { continue };
            let hash = |codes: &[u32]| text_hash(dictionary, codes[0]);
            tell(guard, dictionary.key(), counts_of(self.coarsest(set), slot, hash));
        }
        for (key, node) in self.event_cubes.guarded() {
            // Few derived sets ever fold anything.
            if !guard.knows(key) {
                continue;
            }
            let set = SetId::from_index(self.tables[node.table].set).expect("C3: sets are few");
            let hash = |codes: &[u32]| {
                let of = |(dim, &code): (&crate::declare::DimId, &u32)| {
                    self.dictionaries[dim.index()].stable_hash(code)
                };
                let hashes: Vec<u64> = node.dims.iter().zip(codes).map(of).collect();
                Some(combination_key(&hashes))
            };
            tell(guard, key, counts_of(self.coarsest(set), slot, hash));
        }
        self.rank_tops(guard);
    }

    /// The values of top-k slots are in no cell's key.
    fn rank_tops(&self, guard: &mut Guard) {
        let total = self.plan.set_for(SetKind::Events, &[]);
        let table = self.coarsest(total.expect("C3: every plan has the set of no dimension"));
        let shape = table.shape();
        for (slot, values) in self.events.top_values.iter().enumerate() {
            let of_cell = |(cell, key): (usize, &Key)| {
                let day = day_of(EventTime::from_ms(key.window));
                let told = table.rows.tops[cell * shape.tops + slot].iter();
                let told = told.filter(|(_, count)| *count != 0);
                told.filter_map(move |(code, count)| {
                    Some((day, text_hash(values, code)?, count.unsigned_abs()))
                })
            };
            let counts = table.keys.iter().enumerate().flat_map(of_cell).collect();
            tell(guard, values.key(), counts);
        }
    }

    /// The set's cells of days, or of minutes where it keeps none.
    fn coarsest(&self, set: SetId) -> &Table {
        let places = self.places[set.index()];
        let place = places.iter().rev().flatten().next();
        &self.tables[*place.expect("C3: every set keeps its minutes")]
    }
}

fn text_hash(values: &Dictionary, code: u32) -> Option<u64> {
    (code != NULL && code != OTHER).then(|| values.stable_hash(code))
}

/// Events of a table by day and by what `hash` makes of a cell's codes.
fn counts_of(table: &Table, slot: usize, hash: impl Fn(&[u32]) -> Option<u64>) -> Vec<Count> {
    let shape = table.shape();
    let of_cell = |(cell, key): (usize, &Key)| {
        let count = u64::try_from(table.rows.counts[cell * shape.counts + slot]).ok()?;
        if key.is_rest() {
            return None;
        }
        let hash = hash(&key.dims[..table.dims])?;
        (count > 0).then(|| (day_of(EventTime::from_ms(key.window)), hash, count))
    };
    table.keys.iter().enumerate().filter_map(of_cell).collect()
}

fn tell(guard: &mut Guard, key: u64, mut counts: Vec<Count>) {
    counts.sort_unstable();
    for of_day in counts.chunk_by(|one, next| one.0 == next.0) {
        let by_value = of_day.chunk_by(|one, next| one.1 == next.1);
        // Counts rank values: past 2^32 a day and layer all are equal.
        let told = by_value.map(|of_value| {
            let count: u64 = of_value.iter().map(|(_, _, count)| count).sum();
            (of_value[0].1, u32::try_from(count).unwrap_or(u32::MAX))
        });
        guard.count(key, of_day[0].0, told.collect());
    }
}
