//! How cells are read: one request, many sources, cells that merge.

use std::sync::Arc;

use nilometer_event::{EventTime, Granularity, TimeRange};

use super::file::BlockCell;
use super::filter::DimFilter;
use super::layer::LayerCell;
use crate::aggregate::{Aggregates, SlotMask};
use crate::declare::{Plan, SetId};

/// A dimension's value in a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DimValue<'a> {
    /// The event lacks it.
    Null,
    /// As the client said it; may literally read `__other__`.
    Text(&'a str),
    /// What the cardinality guard folded, shown as `__other__`.
    Other,
}

/// A [`DimValue`] that owns its text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnedDimValue {
    /// The event lacks it.
    Null,
    /// As the client said it.
    Text(Box<str>),
    /// What the cardinality guard folded.
    Other,
}

impl DimValue<'_> {
    /// A copy that owns its text.
    #[must_use]
    pub fn into_owned(self) -> OwnedDimValue {
        match self {
            Self::Null => OwnedDimValue::Null,
            Self::Text(text) => OwnedDimValue::Text(text.into()),
            Self::Other => OwnedDimValue::Other,
        }
    }
}

impl OwnedDimValue {
    /// The value, borrowed.
    #[must_use]
    pub fn as_ref(&self) -> DimValue<'_> {
        match self {
            Self::Null => DimValue::Null,
            Self::Text(text) => DimValue::Text(text),
            Self::Other => DimValue::Other,
        }
    }
}

/// Which cells a reader wants.
#[derive(Clone, Debug)]
pub struct ScanRequest {
    /// The plan that `set` and `want` belong to; sources of another plan are projected.
    pub plan: Arc<Plan>,
    /// Dimensions of the cells.
    pub set: SetId,
    /// Coarsest granularity that helps; a source without it gives the 1-minute cells.
    pub granularity: Granularity,
    /// Windows; rounded outward to `granularity`.
    pub range: TimeRange,
    /// One for each dimension of the set: the values wanted, or all.
    pub filter: Vec<Option<DimFilter>>,
    /// Slots wanted.
    pub want: SlotMask,
}

impl ScanRequest {
    /// All cells and slots of a set over a range.
    #[must_use]
    pub fn new(plan: Arc<Plan>, set: SetId, granularity: Granularity, range: TimeRange) -> Self {
        let filter = vec![None; plan.set(set).dims.len()];
        Self { plan, set, granularity, range, filter, want: SlotMask::ALL }
    }

    /// The range rounded outward to the granularity.
    #[must_use]
    pub const fn outward(&self) -> TimeRange {
        self.range.outward(self.granularity)
    }

    /// The wanted slots that the plan's cells have.
    #[must_use]
    pub fn wanted(&self) -> SlotMask {
        self.want.intersection(self.plan.mask(self.plan.set(self.set).kind))
    }

    /// Empty aggregates for one answer: all slots of the kinds of which any is wanted.
    #[must_use]
    pub fn empty(&self) -> Aggregates {
        let kind = self.plan.set(self.set).kind;
        Aggregates::new(self.plan.slots(kind).shape().of_kinds(self.want))
    }
}

/// One stored cell. Cells of one scan may repeat a window with the same values; they add up.
#[derive(Clone, Copy, Debug)]
pub struct CellRef<'a> {
    /// Start of the stored cell's window.
    pub window: EventTime,
    /// Granularity of the stored cell; may be finer than asked, never coarser.
    pub granularity: Granularity,
    /// One for each dimension of the set, in the asking plan's order.
    pub dims: &'a [DimValue<'a>],
    /// What it holds.
    pub aggregates: CellView<'a>,
}

/// What a cell holds, wherever it lies.
#[derive(Clone, Copy, Debug)]
pub struct CellView<'a>(View<'a>);

#[derive(Clone, Copy, Debug)]
enum View<'a> {
    Whole(&'a Aggregates, SlotMask),
    Layer(LayerCell<'a>),
    Block(BlockCell<'a>),
}

impl<'a> CellView<'a> {
    /// Around aggregates that a store keeps.
    #[must_use]
    pub const fn whole(aggregates: &'a Aggregates, want: SlotMask) -> Self {
        Self(View::Whole(aggregates, want))
    }

    pub(super) const fn layer(cell: LayerCell<'a>) -> Self {
        Self(View::Layer(cell))
    }

    pub(super) const fn block(cell: BlockCell<'a>) -> Self {
        Self(View::Block(cell))
    }

    /// Adds the wanted slots to `into`, which is of [`ScanRequest::empty`].
    pub fn merge_into(&self, into: &mut Aggregates) {
        match &self.0 {
            View::Whole(aggregates, want) => merge_wanted(aggregates, *want, into),
            View::Layer(cell) => cell.merge_into(into),
            View::Block(cell) => cell.merge_into(into),
        }
    }
}

fn merge_wanted(from: &Aggregates, want: SlotMask, into: &mut Aggregates) {
    if want == SlotMask::ALL {
        into.merge(from);
        return;
    }
    let only = |mask: u64, len: usize| (0..len).filter(move |&slot| mask >> slot & 1 == 1);
    for slot in only(want.counts, from.counts.len()) {
        into.counts[slot] += from.counts[slot];
    }
    for slot in only(want.sums, from.sums.len()) {
        into.sums[slot] += from.sums[slot];
    }
    for slot in only(want.mins, from.mins.len()) {
        crate::aggregate::lower(&mut into.mins[slot], from.mins[slot]);
    }
    for slot in only(want.maxs, from.maxs.len()) {
        into.maxs[slot] = into.maxs[slot].max(from.maxs[slot]);
    }
    for slot in only(want.distincts, from.distincts.len()) {
        into.distincts[slot].merge(&from.distincts[slot]);
    }
    for slot in only(want.histograms, from.histograms.len()) {
        into.histograms[slot].merge(&from.histograms[slot]);
    }
    for slot in only(want.tops, from.tops.len()) {
        into.tops[slot].merge(&from.tops[slot]);
    }
}

/// What a source cannot say because it was counted under another plan: those windows read as
/// filling (null), never as 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Wanted slots that the source never counted; all of them where it lacks the set.
    pub missing: SlotMask,
    /// Windows of the asked granularity where the source holds cells. Empty where nothing is
    /// missing.
    pub filling: Vec<EventTime>,
}

/// Cells that cannot be read: their windows read as damaged, never as smaller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{file} is corrupt in cells from {} to {}: {reason}; restore the file or rebuild its windows",
    windows.start,
    windows.end
)]
pub struct CellsDamaged {
    /// The file's path on its disk.
    pub file: String,
    /// What cannot be read.
    pub windows: TimeRange,
    /// What is wrong.
    pub reason: String,
}

/// Something that holds cells.
pub trait CellSource: Send + Sync {
    /// Shows every cell of the request to `visit`, in no promised order. Every event that the
    /// source holds is in exactly one visited cell.
    ///
    /// # Errors
    ///
    /// [`CellsDamaged`] where a cell cannot be read; what was visited before is incomplete.
    fn scan(
        &self,
        request: &ScanRequest,
        visit: &mut dyn FnMut(CellRef<'_>),
    ) -> Result<(), CellsDamaged>;

    /// What the source cannot say of this request.
    fn coverage(&self, request: &ScanRequest) -> Coverage;
}
