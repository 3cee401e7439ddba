//! What the engine needs of the shelves: one version of every cell, read at one moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use nilometer_access::Problem;
use nilometer_event::{EventTime, Granularity, ReceiveTime, TimeRange};
use nilometer_rollups::aggregate::{Aggregates, SlotMask};
use nilometer_rollups::cells::FoldedDays;
use nilometer_rollups::declare::{Plan, SetId};
use nilometer_rollups::view::{CorrectedHours, LateDays};

use crate::ask::{Member, Rule};

/// Which cells.
#[derive(Clone, Debug)]
pub(crate) struct Scan {
    /// The dimensions.
    pub(crate) set: SetId,
    /// How windows become cells.
    pub(crate) windows: Windows,
    /// On whole windows that are kept.
    pub(crate) range: TimeRange,
    /// For each dimension of the set, what it must be; `None` for anything.
    pub(crate) members: Vec<Option<Rule>>,
    /// What is read of each.
    pub(crate) want: SlotMask,
    /// Whether a cell may carry estimates in place of its distinct counters.
    pub(crate) distincts: Distincts,
}

/// How windows become cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Windows {
    /// A cell for each.
    Every(Granularity),
    /// One cell over the whole range, at its start.
    Total,
}

/// What stands for the distinct users of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Distincts {
    /// Counters, which merge.
    Counters,
    /// Estimates where they are stored, which do not.
    Estimates,
}

/// The distinct users or values of one cell, already estimated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) value: f64,
    pub(crate) exact: bool,
}

/// The cells of one scan.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cells {
    /// Each once, in any order.
    pub(crate) cells: Vec<Cell>,
    /// Windows in which wanted slots are not known yet, because older cells lack them.
    pub(crate) filling: Vec<(EventTime, SlotMask)>,
    /// For each dimension of the set whether some of its values are folded into the rest.
    pub(crate) folded: Vec<bool>,
}

/// One cell, merged over all shards and layers.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) window: EventTime,
    /// In the order of the set's dimensions.
    pub(crate) members: Arc<[Member]>,
    pub(crate) aggregates: Aggregates,
    /// By distinct slot, what stands in place of that slot's counter.
    pub(crate) estimates: Vec<Option<Estimate>>,
}

/// Which cells, to be shown group by group.
#[derive(Clone, Debug)]
pub(crate) struct GroupScan {
    pub(crate) scan: Scan,
    /// Places of the set's dimensions that make a group, ascending.
    pub(crate) by: Vec<usize>,
    /// For each dimension of the set, what a cell must be to belong to a group: the scan may show
    /// folded values beside that.
    pub(crate) wanted: Vec<Option<Rule>>,
    /// What is added to windows where they make groups.
    pub(crate) shift_ms: i64,
}

pub(crate) use nilometer_rollups::GroupsOf;

/// What is known of a scan's cells.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScanNotes {
    /// Without any cell.
    pub(crate) cells: Cells,
    /// Window and members of each cell with folded values, wanted or not.
    pub(crate) rest: Vec<(EventTime, Arc<[Member]>)>,
}

/// Cells of one group by their scan; their members are those of the group.
pub(crate) type GroupCells = Vec<(usize, Cell)>;

/// Cells in the order of their groups.
pub(crate) struct GroupedCells {
    pub(crate) moment: Moment,
    /// By scan.
    pub(crate) notes: Vec<ScanNotes>,
    /// Each once.
    pub(crate) groups: Box<dyn Iterator<Item = Result<GroupCells, Problem>>>,
}

/// What holds of cells that were read together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Everything received up to here is counted.
    pub(crate) as_of: ReceiveTime,
    pub(crate) watermark: EventTime,
    /// Up to where windows of events are complete but for late ones.
    pub(crate) final_events: EventTime,
    /// Up to where windows of sessions are.
    pub(crate) final_sessions: EventTime,
    pub(crate) import_running: bool,
    /// What each shard folded.
    pub(crate) folded: Vec<Arc<FoldedDays>>,
    /// Of each shard that has any, the events from the future.
    pub(crate) corrected: Vec<Arc<CorrectedHours>>,
    /// Of each shard that has any, the events that are late, pending.
    pub(crate) late: Vec<Arc<LateDays>>,
    /// By metric, events that were counted without their number since it was declared.
    pub(crate) unread: BTreeMap<String, u64>,
}

/// One pinned version of the shelves.
pub(crate) trait Version {
    fn plan(&self) -> &Plan;
    /// The first window of a granularity from which on all may be read.
    fn kept_from(&self, granularity: Granularity) -> EventTime;
    /// Whether every window of a granularity that touches `range` may be read.
    fn keeps(&self, granularity: Granularity, range: TimeRange) -> bool;
    /// The finest granularity that is kept all over `range`.
    fn finest_over(&self, range: TimeRange) -> Granularity;
    /// Rounds outward to what a total can be read from.
    fn outward(&self, range: TimeRange) -> TimeRange;
    /// The moment of the pin; what is read may be a little newer.
    fn as_of(&self) -> ReceiveTime;
    /// The end of the last window of `range` in which cells of the set lack some of these slots.
    fn known_from(&self, set: SetId, slots: SlotMask, range: TimeRange) -> Option<EventTime>;
    /// Answers all scans of one moment, each in at most `rows_max` cells.
    fn read(&self, scans: &[Scan], rows_max: usize) -> (Vec<Result<Cells, Problem>>, Moment);
    /// Whether the cells of some scan are known to be more than [`Version::read`] may hold.
    fn has_too_many(&self, scans: &[Scan], rows_max: usize) -> bool;
    /// Answers all scans of one moment in memory of a few groups.
    fn read_groups(&self, scans: &[GroupScan], of: GroupsOf) -> Result<GroupedCells, Problem>;
}
