//! Which sets of dimensions have cells, and from which finer set each is derived.

use std::collections::BTreeSet;

use nilometer_event::Field;

use super::plan::{DimId, Dimension, SetId};
use super::source::Source;

/// What the cells of a set count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetKind {
    /// Events, by their timestamp.
    Events,
    /// Sessions, by their start.
    Sessions,
}

/// Dimensions that have cells together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DimensionSet {
    /// Ascending.
    pub dims: Vec<DimId>,
    /// What its cells count.
    pub kind: SetKind,
    /// The finer set whose cells add up to this one's; `None` for the finest, which events
    /// touch.
    pub parent: Option<SetId>,
    /// Whether an open layer keeps granularities over one minute (while they are few).
    pub eager_coarse: bool,
    /// Whether its cells count distinct users and values.
    pub distinct: bool,
}

/// A cube whose dimensions are resolved.
#[derive(Clone, Debug)]
pub(super) struct Cube {
    pub(super) dims: Vec<DimId>,
    pub(super) kind: SetKind,
    pub(super) distinct: bool,
}

/// Sets of at most so many likely combinations keep their coarse granularities in the open
/// layer: with those of every set, distinct users took 955 ns of an event, without them 203
/// (bench/RESULTS.md, "The prototype").
const EAGER_COMBINATIONS_MAX: u64 = 300;

/// Values that a dimension likely has; decides cost, never results.
fn likely_values(dimension: &Dimension) -> u64 {
    match dimension.source {
        Source::Field(Field::EventType) => 60,
        Source::Field(Field::Country) => 250,
        Source::Field(Field::DeviceType | Field::SubscriptionTier) => 8,
        Source::Field(Field::ContentCategory | Field::Cohort | Field::Channel) => 40,
        Source::Field(Field::ContentId) => 100_000,
        Source::Field(Field::AppVersion | Field::ServiceName) => 100,
        Source::Completed => 2,
        Source::Property(_) => 200,
    }
}

fn likely_combinations(dims: &[DimId], dimensions: &[Dimension]) -> u64 {
    dims.iter().map(|dim| likely_values(&dimensions[dim.index()])).fold(1, u64::saturating_mul)
}

/// All subsets of every cube, finer before coarser, each with the finer set of one more
/// dimension that has the fewest cells.
pub(super) fn close(cubes: &[Cube], dimensions: &[Dimension]) -> Vec<DimensionSet> {
    let mut keys = BTreeSet::new();
    for cube in cubes {
        for subset in 0..1_u32 << cube.dims.len() {
            let chosen = cube.dims.iter().enumerate();
            let dims: Vec<_> =
                chosen.filter(|(bit, _)| subset >> bit & 1 == 1).map(|(_, dim)| *dim).collect();
            keys.insert((cube.kind, std::cmp::Reverse(dims.len()), dims));
        }
    }
    let mut sets: Vec<DimensionSet> = keys
        .into_iter()
        .map(|(kind, _, dims)| DimensionSet {
            distinct: cubes
                .iter()
                .any(|cube| cube.kind == kind && cube.distinct && is_subset(&dims, &cube.dims)),
            eager_coarse: likely_combinations(&dims, dimensions) <= EAGER_COMBINATIONS_MAX,
            dims,
            kind,
            parent: None,
        })
        .collect();
    for index in 0..sets.len() {
        sets[index].parent = parent_of(&sets, index, dimensions);
    }
    sets
}

fn is_subset(dims: &[DimId], of: &[DimId]) -> bool {
    dims.iter().all(|dim| of.contains(dim))
}

fn parent_of(sets: &[DimensionSet], index: usize, dimensions: &[Dimension]) -> Option<SetId> {
    let own = &sets[index];
    sets.iter()
        .enumerate()
        .filter(|(_, finer)| {
            finer.kind == own.kind
                && finer.dims.len() == own.dims.len() + 1
                && is_subset(&own.dims, &finer.dims)
                && (finer.distinct || !own.distinct)
        })
        .min_by_key(|(_, finer)| likely_combinations(&finer.dims, dimensions))
        .and_then(|(place, _)| SetId::from_index(place))
}
