//! An entry's events and sessions before they are added: column by column, so that each cell is
//! visited once an entry with all that it gets.

use nilometer_event::EventTime;

use super::coded::CodedEvents;
use super::guard::Sender;
use super::users::{Ordinals, User};
use crate::aggregate::Shape;

/// No user, no value.
pub(super) const NONE: u32 = u32::MAX;
/// No number.
pub(super) const NO_BUCKET: i16 = i16::MIN;

/// What events add to each cell that they touch, but for users and values.
#[derive(Debug, Default)]
pub(super) struct Columns {
    /// Bit i: the event adds one to count i.
    pub(super) counts: Vec<u64>,
    pub(super) sums: Vec<Vec<i64>>,
    pub(super) mins: Vec<Vec<Option<i64>>>,
    pub(super) maxs: Vec<Vec<Option<i64>>>,
    pub(super) histograms: Vec<Vec<i16>>,
    /// Values past 64 bits, which are nothing in the columns; rows ascend.
    pub(super) wide: Vec<Wide>,
    /// Rows, ascending, each with a metric of the plan that cannot take the row's number.
    pub(super) unread: Vec<(u32, u16)>,
}

/// A value past 64 bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wide {
    pub(super) row: u32,
    pub(super) of: WideSlot,
    pub(super) value: i128,
}

/// The slot that it adds to.
#[derive(Clone, Copy, Debug)]
pub(super) enum WideSlot {
    Sum(usize),
    Min(usize),
    Max(usize),
}

impl Columns {
    /// The values past 64 bits of a row.
    pub(super) fn wide_of(&self, row: u32) -> &[Wide] {
        let start = self.wide.partition_point(|one| one.row < row);
        let len = self.wide[start..].partition_point(|one| one.row == row);
        &self.wide[start..start + len]
    }

    /// The metrics that cannot take a row's number.
    pub(super) fn unread_of(&self, row: u32) -> &[(u32, u16)] {
        let start = self.unread.partition_point(|&(own, _)| own < row);
        let len = self.unread[start..].partition_point(|&(own, _)| own == row);
        &self.unread[start..start + len]
    }

    /// The number of the row that is pushed next, or of the last one once its counts are.
    pub(super) fn row(rows: usize) -> u32 {
        u32::try_from(rows).expect("an entry has fewer than 2^32 events")
    }

    /// Empties them, and makes them of this shape; keeps their memory.
    pub(super) fn reset(&mut self, shape: Shape) {
        fn columns<T>(list: &mut Vec<Vec<T>>, slots: usize) {
            list.resize_with(slots, Vec::new);
            list.iter_mut().for_each(Vec::clear);
        }
        self.counts.clear();
        self.wide.clear();
        self.unread.clear();
        columns(&mut self.sums, shape.sums);
        columns(&mut self.mins, shape.mins);
        columns(&mut self.maxs, shape.maxs);
        columns(&mut self.histograms, shape.histograms);
    }

    fn push(&mut self, other: &Self, row: usize) {
        fn copy<T: Copy>(own: &mut [Vec<T>], theirs: &[Vec<T>], row: usize) {
            for (own, theirs) in own.iter_mut().zip(theirs) {
                own.push(theirs[row]);
            }
        }
        if !other.wide.is_empty() {
            let own = Self::row(self.counts.len());
            let wide = other.wide_of(Self::row(row)).iter();
            self.wide.extend(wide.map(|&one| Wide { row: own, ..one }));
        }
        self.counts.push(other.counts[row]);
        copy(&mut self.sums, &other.sums, row);
        copy(&mut self.mins, &other.mins, row);
        copy(&mut self.maxs, &other.maxs, row);
        copy(&mut self.histograms, &other.histograms, row);
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let columns = 8
            + 8 * self.sums.len()
            + 16 * (self.mins.len() + self.maxs.len())
            + 2 * self.histograms.len();
        self.counts.capacity() * columns
            + self.wide.capacity() * size_of::<Wide>()
            + self.unread.capacity() * size_of::<(u32, u16)>()
    }
}

/// Which cells are touched, in the order of coming.
#[derive(Debug, Default)]
pub(super) struct Touches {
    /// Starts of minutes, in milliseconds.
    pub(super) windows: Vec<i64>,
    /// Codes by dimension.
    pub(super) codes: Vec<Vec<u32>>,
    /// Who brings them, each from that touch on; nobody does before the first.
    senders: Vec<(usize, Sender)>,
}

impl Touches {
    fn new(dims: usize) -> Self {
        Self { windows: Vec::new(), codes: vec![Vec::new(); dims], senders: Vec::new() }
    }

    /// A touch in the minute that begins at `window`; `codes` has one for each dimension.
    pub(super) fn push(&mut self, window: EventTime, codes: &[u32]) {
        self.windows.push(window.ms());
        for (column, &code) in self.codes.iter_mut().zip(codes) {
            column.push(code);
        }
    }

    /// Touches from here on are brought by `sender`.
    #[inline]
    pub(super) fn begin(&mut self, sender: Sender) {
        if self.senders.last().is_none_or(|(_, last)| *last != sender) {
            self.senders.push((self.windows.len(), sender));
        }
    }

    pub(super) fn sender(&self, row: usize) -> Sender {
        let after = self.senders.partition_point(|(first, _)| *first <= row);
        after.checked_sub(1).map_or(Sender::NOBODY, |last| self.senders[last].1)
    }

    fn clear(&mut self) {
        self.windows.clear();
        self.codes.iter_mut().for_each(Vec::clear);
        self.senders.clear();
    }

    const fn bytes_each(&self) -> usize {
        8 + 4 * self.codes.len()
    }
}

/// What the events of one entry add, in the order of their coming.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) touches: Touches,
    pub(super) columns: Columns,
    pub(super) distincts: Vec<Vec<User>>,
    pub(super) tops: Vec<Vec<u32>>,
    /// Of the cube at hand the cell that each event or session touches; kept for its memory.
    pub(super) cells: Vec<u32>,
    /// By metric of the plan how many events it counted without their number; since the layer's
    /// begin, and empty before the first.
    pub(super) unread: Vec<u64>,
}

impl Pending {
    pub(super) fn new(shape: Shape, dims: usize) -> Self {
        let mut columns = Columns::default();
        columns.reset(shape);
        Self {
            touches: Touches::new(dims),
            columns,
            distincts: vec![Vec::new(); shape.distincts],
            tops: vec![Vec::new(); shape.tops],
            cells: Vec::new(),
            unread: Vec::new(),
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.columns.counts.is_empty()
    }

    /// Takes what one event adds; its touch and its values of top-k slots are pushed beside.
    pub(super) fn push(&mut self, coded: &CodedEvents, row: usize, ordinals: &mut Ordinals) {
        self.columns.push(&coded.columns, row);
        if !coded.columns.unread.is_empty() {
            self.count_unread(coded.columns.unread_of(Columns::row(row)));
        }
        for (column, hashes) in self.distincts.iter_mut().zip(&coded.distincts) {
            let ordinal = hashes[row].map(|x| ordinals.of(x));
            column.push(User::new(ordinal, ordinals));
        }
    }

    #[cold]
    fn count_unread(&mut self, unread: &[(u32, u16)]) {
        for &(_, metric) in unread {
            let metric = usize::from(metric);
            if self.unread.len() <= metric {
                self.unread.resize(metric + 1, 0);
            }
            self.unread[metric] += 1;
        }
    }

    /// Empties it for another entry; keeps its memory.
    pub(super) fn clear(&mut self, shape: Shape) {
        self.touches.clear();
        self.columns.reset(shape);
        self.distincts.iter_mut().for_each(Vec::clear);
        self.tops.iter_mut().for_each(Vec::clear);
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let beside = self.touches.bytes_each()
            + 4 * self.tops.len()
            + size_of::<User>() * self.distincts.len();
        self.columns.memory_bytes()
            + self.columns.counts.capacity() * beside
            + self.cells.capacity() * 4
            + self.touches.senders.capacity() * size_of::<(usize, Sender)>()
    }
}

/// What the sessions of one entry add: those that come, those that go, and those that change.
#[derive(Debug, Default)]
pub(super) struct PendingSessions {
    pub(super) touches: Touches,
    /// So many for each session as there are counts.
    pub(super) counts: Vec<i64>,
    pub(super) durations_ms: Vec<i64>,
    /// The bucket of a duration that comes, and of one that goes; or [`NO_BUCKET`].
    pub(super) comes: Vec<i16>,
    pub(super) goes: Vec<i16>,
}

impl PendingSessions {
    pub(super) fn new(dims: usize) -> Self {
        Self { touches: Touches::new(dims), ..Self::default() }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.durations_ms.is_empty()
    }

    /// Empties it for another entry; keeps its memory.
    pub(super) fn clear(&mut self) {
        self.touches.clear();
        self.counts.clear();
        self.durations_ms.clear();
        self.comes.clear();
        self.goes.clear();
    }

    pub(super) const fn memory_bytes(&self) -> usize {
        let each = 12 + self.touches.bytes_each();
        self.counts.capacity() * 8 + self.durations_ms.capacity() * each
    }
}
