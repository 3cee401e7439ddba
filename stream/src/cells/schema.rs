//! What cells are about, by definitions: how a source of one plan is read under another.

use super::source::ScanRequest;
use crate::aggregate::SlotMask;
use crate::declare::{Plan, PlanId, SetKind, Slots};

/// Dimensions of a cell's key.
pub(crate) const DIMS_MAX: usize = 4;

/// Sets by their dimensions' definitions and slots by theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schema {
    pub(crate) plan: PlanId,
    pub(crate) sets: Vec<SetSchema>,
    /// Definitions of the seven slot lists, for events and for sessions.
    pub(crate) slots: [[Vec<u64>; 7]; 2],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SetSchema {
    pub(crate) kind: SetKind,
    pub(crate) dims: Vec<SchemaDim>,
    pub(crate) distinct: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SchemaDim {
    pub(crate) definition: u64,
    /// For people who look into a file.
    pub(crate) name: String,
}

pub(crate) const fn kind_index(kind: SetKind) -> usize {
    match kind {
        SetKind::Events => 0,
        SetKind::Sessions => 1,
    }
}

impl Schema {
    pub(crate) fn of(plan: &Plan) -> Self {
        let dims = |set: &crate::declare::DimensionSet| {
            set.dims
                .iter()
                .map(|dim| {
                    let dimension = &plan.dimensions[dim.index()];
                    let name = dimension.name.clone();
                    SchemaDim { definition: dimension.definition, name }
                })
                .collect()
        };
        let sets = plan
            .sets
            .iter()
            .map(|set| SetSchema { kind: set.kind, dims: dims(set), distinct: set.distinct })
            .collect();
        let definitions = |slots: &Slots| {
            slots.lists().map(|list| list.iter().map(|slot| slot.definition).collect())
        };
        Self {
            plan: plan.id,
            sets,
            slots: [definitions(&plan.event_slots), definitions(&plan.session_slots)],
        }
    }
}

/// Where a source's slots and dimensions go in an answer.
#[derive(Clone, Debug)]
pub(crate) struct Projection {
    /// The source's set; `None` where it has no cells of these dimensions.
    pub(crate) set: Option<usize>,
    /// For each dimension of the answer its place in the source's key.
    pub(crate) dims: Vec<usize>,
    /// (source's slot, answer's slot), per kind of slot, of what is wanted.
    pub(crate) slots: [Vec<(usize, usize)>; 7],
    /// Wanted slots that the source never counted.
    pub(crate) missing: SlotMask,
}

impl Projection {
    pub(crate) fn new(source: &Schema, request: &ScanRequest) -> Self {
        let plan = &request.plan;
        let asked = plan.set(request.set);
        let wanted = request.wanted();
        let asked_dims: Vec<u64> =
            asked.dims.iter().map(|dim| plan.dimensions[dim.index()].definition).collect();
        let set = source.sets.iter().position(|set| {
            set.kind == asked.kind
                && set.dims.len() == asked_dims.len()
                && set.dims.iter().all(|dim| asked_dims.contains(&dim.definition))
        });
        let mut own = Self {
            set,
            dims: Vec::new(),
            slots: Default::default(),
            missing: if set.is_some() { SlotMask::NONE } else { wanted },
        };
        let Some(set) = set.map(|set| &source.sets[set]) else { return own };
        own.dims = asked_dims
            .iter()
            .filter_map(|&wanted| set.dims.iter().position(|dim| dim.definition == wanted))
            .collect();
        own.map_slots(source, set, plan.slots(asked.kind), wanted, asked.distinct);
        own
    }

    fn map_slots(
        &mut self,
        source: &Schema,
        set: &SetSchema,
        slots: &Slots,
        wanted: SlotMask,
        asked_distinct: bool,
    ) {
        const DISTINCTS: usize = 4;
        let mut missing = [0_u64; 7];
        let wanted = masks(wanted);
        for (kind, list) in slots.lists().into_iter().enumerate() {
            let theirs = &source.slots[kind_index(set.kind)][kind];
            for (slot, definition) in list.iter().map(|slot| slot.definition).enumerate() {
                if wanted[kind] >> slot & 1 == 0 {
                    continue;
                }
                let place = theirs.iter().position(|&their| their == definition);
                match place.filter(|_| kind != DISTINCTS || set.distinct) {
                    Some(place) => self.slots[kind].push((place, slot)),
                    // A set that counts no users under the asking plan either lacks nothing.
                    None if kind == DISTINCTS && !asked_distinct => {}
                    None => missing[kind] |= 1 << slot,
                }
            }
        }
        self.missing = mask_of(missing);
    }

    /// True where numbers alone answer.
    pub(crate) fn numbers_only(&self) -> bool {
        self.slots[4..].iter().all(Vec::is_empty)
    }
}

const fn masks(mask: SlotMask) -> [u64; 7] {
    [mask.counts, mask.sums, mask.mins, mask.maxs, mask.distincts, mask.histograms, mask.tops]
}

const fn mask_of(masks: [u64; 7]) -> SlotMask {
    let [counts, sums, mins, maxs, distincts, histograms, tops] = masks;
    SlotMask { counts, sums, mins, maxs, distincts, histograms, tops }
}
