//! How the cells of a chunk are read under a plan: sets and slots meet by their definitions.

use nilometer_stream::aggregate::SlotMask;
use nilometer_stream::cells::ScanRequest;
use nilometer_stream::declare::{DimensionSet, Plan, SetKind, Slot, Slots};

use crate::chunk::{Footer, SetDim, SetSchema, SlotDefinitions};

/// Kinds of slots, in the order of [`SlotDefinitions::lists`].
pub(crate) const KINDS: usize = 7;
pub(crate) const COUNTS: usize = 0;
pub(crate) const SUMS: usize = 1;
pub(crate) const MINS: usize = 2;
pub(crate) const MAXS: usize = 3;
pub(crate) const DISTINCTS: usize = 4;
pub(crate) const HISTOGRAMS: usize = 5;
pub(crate) const TOPS: usize = 6;

impl SlotDefinitions {
    /// Of a plan's slots, save those that are missing in what is written.
    pub(crate) fn of(slots: &Slots, missing: SlotMask) -> Self {
        let kept = |list: &[Slot], missing: u64| {
            let kept = list.iter().enumerate().filter(|(slot, _)| missing >> slot & 1 == 0);
            kept.map(|(_, slot)| slot.definition).collect()
        };
        Self {
            counts: kept(&slots.counts, missing.counts),
            sums: kept(&slots.sums, missing.sums),
            mins: kept(&slots.mins, missing.mins),
            maxs: kept(&slots.maxs, missing.maxs),
            distincts: kept(&slots.distincts, missing.distincts),
            histograms: kept(&slots.histograms, missing.histograms),
            tops: kept(&slots.tops, missing.tops),
        }
    }

    /// Every list, by kind.
    pub(crate) fn lists(&self) -> [&[u64]; KINDS] {
        [
            &self.counts,
            &self.sums,
            &self.mins,
            &self.maxs,
            &self.distincts,
            &self.histograms,
            &self.tops,
        ]
    }
}

impl SetSchema {
    /// Of a plan's set, save the slots that are missing in what is written.
    pub(crate) fn of(plan: &Plan, set: &DimensionSet, missing: SlotMask) -> Self {
        let dims = set.dims.iter().map(|dim| {
            let dimension = &plan.dimensions[dim.index()];
            SetDim { definition: dimension.definition, name: dimension.name.clone() }
        });
        Self {
            sessions: set.kind == SetKind::Sessions,
            dims: dims.collect(),
            distinct: set.distinct,
            slots: SlotDefinitions::of(plan.slots(set.kind), missing),
        }
    }
}

/// The lists of definitions that a plan's cells have, by kind.
fn definitions(slots: &Slots) -> [Vec<u64>; KINDS] {
    [
        &slots.counts,
        &slots.sums,
        &slots.mins,
        &slots.maxs,
        &slots.distincts,
        &slots.histograms,
        &slots.tops,
    ]
    .map(|list| list.iter().map(|slot| slot.definition).collect())
}

/// A mask's bits, by kind.
pub(crate) const fn bits(mask: SlotMask) -> [u64; KINDS] {
    [mask.counts, mask.sums, mask.mins, mask.maxs, mask.distincts, mask.histograms, mask.tops]
}

const fn mask_of(bits: [u64; KINDS]) -> SlotMask {
    let [counts, sums, mins, maxs, distincts, histograms, tops] = bits;
    SlotMask { counts, sums, mins, maxs, distincts, histograms, tops }
}

/// Where a chunk's slots and dimensions go in an answer.
#[derive(Clone, Debug)]
pub(crate) struct Projection {
    /// The chunk's set; `None` where it has no such cells.
    pub(crate) set: Option<usize>,
    /// For each dimension of the answer its place in the chunk's key.
    pub(crate) dims: Vec<usize>,
    /// (chunk's slot, answer's slot) of what is wanted, by kind.
    pub(crate) slots: [Vec<(usize, usize)>; KINDS],
    /// Wanted slots that the chunk never counted.
    pub(crate) missing: SlotMask,
}

impl Projection {
    pub(crate) fn new(footer: &Footer, request: &ScanRequest) -> Self {
        let plan = &request.plan;
        let asked = plan.set(request.set);
        let asked_dims: Vec<u64> =
            asked.dims.iter().map(|dim| plan.dimensions[dim.index()].definition).collect();
        let same = |set: &SetSchema| {
            set.sessions == (asked.kind == SetKind::Sessions)
                && set.dims.len() == asked_dims.len()
                && set.dims.iter().all(|dim| asked_dims.contains(&dim.definition))
        };
        let found = footer.sets.iter().enumerate().find(|(_, set)| same(set));
        let Some((place, set)) = found else {
            return Self {
                set: None,
                dims: Vec::new(),
                slots: Default::default(),
                missing: request.wanted(),
            };
        };
        let place_of = |wanted: &u64| set.dims.iter().position(|dim| dim.definition == *wanted);
        let (slots, missing) = map_slots(set, asked, plan, request.wanted());
        Self {
            set: Some(place),
            dims: asked_dims.iter().filter_map(place_of).collect(),
            slots,
            missing,
        }
    }

    /// True where a wanted slot of this kind is there.
    pub(crate) fn wants(&self, kind: usize) -> bool {
        !self.slots[kind].is_empty()
    }
}

/// The wanted slots that the chunk's set has, and those that it lacks.
fn map_slots(
    set: &SetSchema,
    asked: &DimensionSet,
    plan: &Plan,
    wanted: SlotMask,
) -> ([Vec<(usize, usize)>; KINDS], SlotMask) {
    let mut slots: [Vec<(usize, usize)>; KINDS] = Default::default();
    let mut missing = [0_u64; KINDS];
    let wanted = bits(wanted);
    let ours = definitions(plan.slots(asked.kind));
    for (kind, (ours, theirs)) in ours.iter().zip(set.slots.lists()).enumerate() {
        for (slot, definition) in ours.iter().enumerate() {
            if wanted[kind] >> slot & 1 == 0 {
                continue;
            }
            let place = theirs.iter().position(|their| their == definition);
            match place.filter(|_| kind != DISTINCTS || set.distinct) {
                Some(place) => slots[kind].push((place, slot)),
                // A set that counts no users under the asking plan either lacks nothing.
                None if kind == DISTINCTS && !asked.distinct => {}
                None => missing[kind] |= 1 << slot,
            }
        }
    }
    (slots, mask_of(missing))
}
