//! What cells hold: slots, shared between metrics by the hash of their definition.

use xxhash_rust::xxh3::xxh3_64;

use super::filter::Filter;
use super::source::{NumberSource, Source};
use crate::aggregate::{Shape, SlotMask};

/// What one slot measures.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Measure {
    /// One for each event.
    Events,
    /// One for each event that has this text value.
    CarriesText(Source),
    /// One for each event that has this number.
    CarriesNumber(NumberSource, u8),
    /// This number at a scale of so many decimal digits.
    Number(NumberSource, u8),
    /// Whose the event is, where it is a user's.
    User,
    /// A text value.
    Text(Source),
    /// A fact of a session.
    Session(SessionFact),
}

/// What is measured of a session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SessionFact {
    /// One for each session.
    Sessions,
    /// One for each session of one event.
    Bounced,
    /// One for each session of at least 10 s, or 2 views, or with a conversion; the text names
    /// the types that decide.
    Engaged(String),
    /// Last − first, in milliseconds.
    DurationMs,
}

impl Measure {
    fn canonical(&self) -> String {
        match self {
            Self::Events => "events".to_owned(),
            Self::CarriesText(source) => format!("carries {source}"),
            Self::CarriesNumber(source, scale) => format!("carries number {source} e{scale}"),
            Self::Number(source, scale) => format!("number {source} e{scale}"),
            Self::User => "user".to_owned(),
            Self::Text(source) => format!("text {source}"),
            Self::Session(fact) => format!("session {fact:?}"),
        }
    }
}

/// One slot of a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Hash of kind, measure and filter: equal in every plan that defines it alike.
    pub definition: u64,
    /// What it measures.
    pub measure: Measure,
    /// Of which events.
    pub filter: Filter,
}

/// The slots of every cell of one domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// Numeric counts.
    pub counts: Vec<Slot>,
    /// Scaled sums.
    pub sums: Vec<Slot>,
    /// Minima.
    pub mins: Vec<Slot>,
    /// Maxima.
    pub maxs: Vec<Slot>,
    /// Distinct counters.
    pub distincts: Vec<Slot>,
    /// Histograms.
    pub histograms: Vec<Slot>,
    /// Counts per value.
    pub tops: Vec<Slot>,
}

/// The lists of [`Slots`], in the order of its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotKind {
    Count,
    Sum,
    Min,
    Max,
    Distinct,
    Histogram,
    Top,
}

/// Slots of one kind: a mask has 64 bits.
pub(super) const SLOTS_MAX: usize = 64;

impl Slots {
    /// How many of each kind.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        Shape {
            counts: self.counts.len(),
            sums: self.sums.len(),
            mins: self.mins.len(),
            maxs: self.maxs.len(),
            distincts: self.distincts.len(),
            histograms: self.histograms.len(),
            tops: self.tops.len(),
        }
    }

    /// Every slot that there is.
    #[must_use]
    pub fn mask(&self) -> SlotMask {
        let ones = |list: &Vec<Slot>| {
            list.iter().enumerate().fold(0, |mask, (slot, _)| mask | 1_u64 << slot)
        };
        SlotMask {
            counts: ones(&self.counts),
            sums: ones(&self.sums),
            mins: ones(&self.mins),
            maxs: ones(&self.maxs),
            distincts: ones(&self.distincts),
            histograms: ones(&self.histograms),
            tops: ones(&self.tops),
        }
    }

    /// Every list, in the order in which files hold them.
    pub(crate) const fn lists(&self) -> [&Vec<Slot>; 7] {
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

    /// The place of this slot, new or known; `None` where there is no room for another.
    pub(super) fn intern(
        &mut self,
        kind: SlotKind,
        measure: Measure,
        filter: Filter,
    ) -> Option<usize> {
        let text = format!("{kind:?}|{}|{}", measure.canonical(), filter.canonical());
        let definition = xxh3_64(text.as_bytes());
        let list = match kind {
            SlotKind::Count => &mut self.counts,
            SlotKind::Sum => &mut self.sums,
            SlotKind::Min => &mut self.mins,
            SlotKind::Max => &mut self.maxs,
            SlotKind::Distinct => &mut self.distincts,
            SlotKind::Histogram => &mut self.histograms,
            SlotKind::Top => &mut self.tops,
        };
        if let Some(slot) = list.iter().position(|slot| slot.definition == definition) {
            return Some(slot);
        }
        if list.len() == SLOTS_MAX {
            return None;
        }
        list.push(Slot { definition, measure, filter });
        Some(list.len() - 1)
    }
}
