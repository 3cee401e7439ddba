//! An entry's events as numbers: all that can be found out about them before any is counted.
//!
//! Records are decoded once, in the pass that looks for their identity. What that pass knows
//! of an event's cells is kept here, column by column and about a hundred bytes an event, so
//! that the pass that counts touches neither records nor texts.

use nilometer_event::EventTime;

use super::guard::Sender;
use super::pending::Columns;
use crate::aggregate::Shape;

/// Events in the order of their records.
#[derive(Debug, Default)]
pub(crate) struct CodedEvents {
    times: Vec<EventTime>,
    /// Codes that an event has: dimensions, then subjects of top-k slots.
    stride: usize,
    /// As [`super::dictionary::Dictionary::raw`] says.
    codes: Vec<u32>,
    /// False where some text is new to the layer: such an event is counted from its record.
    is_known: Vec<bool>,
    senders: Senders,
    pub(super) columns: Columns,
    /// What each distinct counter would count, by slot.
    pub(super) distincts: Vec<Vec<Option<u64>>>,
}

impl CodedEvents {
    /// Empties it for events of a plan; keeps its memory.
    pub(super) fn reset(&mut self, shape: Shape, stride: usize) {
        self.times.clear();
        self.codes.clear();
        self.is_known.clear();
        self.senders.clear();
        self.stride = stride;
        self.columns.reset(shape);
        self.distincts.resize_with(shape.distincts, Vec::new);
        self.distincts.iter_mut().for_each(Vec::clear);
    }

    /// How many rows there are.
    pub(crate) const fn len(&self) -> usize {
        self.times.len()
    }

    /// True where the layer knew every text of the event.
    pub(crate) fn is_known(&self, row: usize) -> bool {
        self.is_known[row]
    }

    pub(super) fn time(&self, row: usize) -> EventTime {
        self.times[row]
    }

    pub(super) fn codes(&self, row: usize) -> &[u32] {
        &self.codes[row * self.stride..][..self.stride]
    }

    /// Ends a row whose codes and columns were pushed.
    pub(super) fn push_row(
        &mut self,
        time: EventTime,
        is_known: bool,
        key: Option<&str>,
        values_max: Option<u32>,
    ) {
        self.senders.note(self.times.len(), key, values_max);
        self.times.push(time);
        self.is_known.push(is_known);
    }

    /// Whose key sent the event.
    pub(super) fn sender(&self, row: usize) -> Sender {
        self.senders.of(row)
    }

    /// The keys that sent events, and what they are called.
    pub(crate) fn senders(&self) -> impl Iterator<Item = (Sender, &str)> {
        self.senders.named()
    }

    pub(super) fn push_code(&mut self, code: u32) {
        self.codes.push(code);
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.times.capacity() * (9 + 4 * self.stride + 9 * self.distincts.len())
            + self.columns.memory_bytes()
            + self.senders.memory_bytes()
    }
}

/// Who sent the events, in runs: those of one body follow each other.
#[derive(Debug, Default)]
struct Senders {
    runs: Vec<Run>,
    /// The ids of their keys.
    names: String,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    /// Its first row; it goes on to the next one's.
    first: usize,
    sender: Sender,
    /// Where its key's id begins in the names; it goes on to the next one's.
    name: usize,
    values_max: Option<u32>,
}

impl Senders {
    fn clear(&mut self) {
        self.runs.clear();
        self.names.clear();
    }

    /// The event of `row` is of that key.
    #[inline]
    fn note(&mut self, row: usize, key: Option<&str>, values_max: Option<u32>) {
        let name = key.unwrap_or_default();
        let is_same = |last: &Run| {
            self.names.as_bytes()[last.name..] == *name.as_bytes() && last.values_max == values_max
        };
        if !self.runs.last().is_some_and(is_same) {
            self.begin(row, name, values_max);
        }
    }

    #[inline(never)]
    fn begin(&mut self, first: usize, name: &str, values_max: Option<u32>) {
        let sender = Sender::of(name, values_max);
        self.runs.push(Run { first, sender, name: self.names.len(), values_max });
        self.names.push_str(name);
    }

    fn of(&self, row: usize) -> Sender {
        let after = self.runs.partition_point(|run| run.first <= row);
        after.checked_sub(1).map_or(Sender::NOBODY, |run| self.runs[run].sender)
    }

    fn named(&self) -> impl Iterator<Item = (Sender, &str)> {
        let ends = self.runs.iter().skip(1).map(|next| next.name).chain([self.names.len()]);
        self.runs.iter().zip(ends).map(|(run, end)| (run.sender, &self.names[run.name..end]))
    }

    fn memory_bytes(&self) -> usize {
        self.runs.capacity() * size_of::<Run>() + self.names.capacity()
    }
}
