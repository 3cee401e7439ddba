//! The compiled plan: dimensions, sets, slots and metrics that one entry's records count by.

use std::fmt;

use nilometer_event::Field;
use serde::{Deserialize, Serialize};

use super::filter::Grammar;
use super::metric::Metric;
use super::raw::{Declarations, GuardLimits, NumberRules};
use super::sets::{DimensionSet, SetKind};
use super::slot::Slots;
use super::source::{Source, TypeList};
use super::{DeclareError, compile};
use crate::aggregate::{Aggregates, SlotMask};

/// Hash of everything in a plan that decides results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PlanId(u64);

impl PlanId {
    /// From its bits.
    #[must_use]
    pub const fn new(bits: u64) -> Self {
        Self(bits)
    }

    /// Its bits.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for PlanId {
    /// Sixteen hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A dimension within one plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DimId(u8);

impl DimId {
    pub(super) fn from_index(index: usize) -> Option<Self> {
        u8::try_from(index).ok().map(Self)
    }

    /// Its place in [`Plan::dimensions`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A set of dimensions within one plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(u16);

impl SetId {
    pub(crate) fn from_index(index: usize) -> Option<Self> {
        u16::try_from(index).ok().map(Self)
    }

    /// Its place in [`Plan::sets`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What cells can be keyed by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dimension {
    /// Its name in queries.
    pub name: String,
    /// For the catalogue.
    pub description: String,
    /// Where its values come from.
    pub source: Source,
    /// True for the ten that always exist.
    pub builtin: bool,
    /// Hash of name and source: equal in every plan that declares it alike.
    pub definition: u64,
}

/// Everything that counting and reading need, compiled once.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Hash of everything here that decides results.
    pub id: PlanId,
    /// In the order of [`DimId`]s; the ten built-in ones first.
    pub dimensions: Vec<Dimension>,
    /// In the order of [`SetId`]s; each before the sets that are derived from it.
    pub sets: Vec<DimensionSet>,
    /// Built-in ones first, then as declared.
    pub metrics: Vec<Metric>,
    /// What cells of events hold.
    pub event_slots: Slots,
    /// What cells of sessions hold.
    pub session_slots: Slots,
    /// Dimensions that sessions keep, in the order in which [`crate::cells::Layer`] takes them.
    pub session_dims: Vec<DimId>,
    /// Event types that are content views.
    pub view_types: TypeList,
    /// Event types that make a session engaged.
    pub conversion_types: TypeList,
    /// How many values a shard admits.
    pub guard: GuardLimits,
    /// How properties of events are read.
    pub numbers: NumberRules,
}

impl Plan {
    /// Compiles what an operator declared, beside what always exists.
    ///
    /// # Errors
    ///
    /// [`DeclareError`] for the first declaration that cannot be; nothing is skipped.
    pub fn compile(declarations: &Declarations) -> Result<Self, DeclareError> {
        compile::compile(declarations, Grammar::Written)
    }

    /// As [`Plan::compile`], but that values of filters are texts whatever they hold: plans of
    /// releases that had no other values were made so, and what they counted stays.
    ///
    /// # Errors
    ///
    /// As [`Plan::compile`].
    pub fn compile_literally(declarations: &Declarations) -> Result<Self, DeclareError> {
        compile::compile(declarations, Grammar::Literal)
    }

    /// The plan of an empty configuration.
    ///
    /// # Panics
    ///
    /// Never: a test compiles it.
    #[must_use]
    pub fn builtin() -> Self {
        Self::compile(&Declarations::default()).expect("what always exists compiles")
    }

    /// The set of exactly these dimensions, in any order.
    #[must_use]
    pub fn set_for(&self, kind: SetKind, dims: &[DimId]) -> Option<SetId> {
        let mut dims = dims.to_vec();
        dims.sort_unstable();
        let place = self.sets.iter().position(|set| set.kind == kind && set.dims == dims)?;
        SetId::from_index(place)
    }

    /// The set of that id.
    ///
    /// # Panics
    ///
    /// Where the id is another plan's.
    #[must_use]
    pub fn set(&self, id: SetId) -> &DimensionSet {
        &self.sets[id.index()]
    }

    /// What each dimension is, in whatever plan.
    pub(crate) fn definitions(&self, dims: &[DimId]) -> Vec<u64> {
        dims.iter().map(|dim| self.dimensions[dim.index()].definition).collect()
    }

    /// The dimension of that name.
    #[must_use]
    pub fn dimension(&self, name: &str) -> Option<DimId> {
        let place = self.dimensions.iter().position(|dimension| dimension.name == name)?;
        DimId::from_index(place)
    }

    /// The dimension of a field; each has one.
    #[must_use]
    pub fn dimension_of(&self, field: Field) -> Option<DimId> {
        self.dimension(field.name())
    }

    /// The metric of that name.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|metric| metric.name == name)
    }

    /// What the cells of a domain hold.
    #[must_use]
    pub const fn slots(&self, kind: SetKind) -> &Slots {
        match kind {
            SetKind::Events => &self.event_slots,
            SetKind::Sessions => &self.session_slots,
        }
    }

    /// Empty aggregates for a cell of a domain.
    #[must_use]
    pub fn empty(&self, kind: SetKind) -> Aggregates {
        Aggregates::new(self.slots(kind).shape())
    }

    /// The slots that these sets' cells have.
    #[must_use]
    pub fn mask(&self, kind: SetKind) -> SlotMask {
        self.slots(kind).mask()
    }

    /// True where an event of this type is a content view.
    #[must_use]
    pub fn is_view(&self, event_type: &str) -> bool {
        self.view_types.contains(event_type)
    }

    /// True where an event of this type makes its session engaged.
    #[must_use]
    pub fn is_conversion(&self, event_type: &str) -> bool {
        self.conversion_types.contains(event_type)
    }
}
