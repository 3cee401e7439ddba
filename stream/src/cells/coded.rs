//! An entry's events as numbers: all that can be found out about them before any is counted.
//!
//! Records are decoded once, in the pass that looks for their identity. What that pass knows
//! of an event's cells is kept here, column by column and about a hundred bytes an event, so
//! that the pass that counts touches neither records nor texts.

use nilometer_event::EventTime;

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
    pub(super) fn push_row(&mut self, time: EventTime, is_known: bool) {
        self.times.push(time);
        self.is_known.push(is_known);
    }

    pub(super) fn push_code(&mut self, code: u32) {
        self.codes.push(code);
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.times.capacity() * (9 + 4 * self.stride + 9 * self.distincts.len())
            + self.columns.memory_bytes()
    }
}
