//! The oldest open session, asked after every entry.

use std::collections::{BTreeMap, BTreeSet};

use nilometer_event::EventTime;

const MINUTE_MS: i64 = 60_000;
/// A session open longer than this does not hold `final_until`; it is counted instead.
const LONG_MS: i64 = 24 * 3_600_000;

/// Starts of hot sessions that were open when last looked at, and what is known of evicted ones.
#[derive(Debug, Default)]
pub(crate) struct Open {
    starts: BTreeSet<(EventTime, u32)>,
    long: BTreeSet<u32>,
    /// By slot: its start in `starts`; a session in `long` keeps it, and is not listed again.
    listed: Vec<Option<EventTime>>,
    /// Earliest start by the minute of the end, of sessions that were evicted while open.
    pub(crate) evicted: BTreeMap<i64, EventTime>,
}

/// A hot session's first and last event.
pub(crate) type Span = (EventTime, EventTime);

impl Open {
    /// Tells that the session in `slot` was touched, and where it starts now.
    pub(crate) fn list(&mut self, slot: u32, start: EventTime) {
        let index = slot as usize;
        if self.listed.len() <= index {
            self.listed.resize(index + 1, None);
        }
        if self.listed[index] != Some(start) {
            self.unlist(slot);
            self.listed[index] = Some(start);
            self.starts.insert((start, slot));
        }
    }

    /// Reads what [`Self::list`] will read: a prefetch without `unsafe`.
    pub(crate) fn warm(&self, slots: impl Iterator<Item = u32>) {
        for slot in slots {
            std::hint::black_box(self.listed.get(slot as usize).copied());
        }
    }

    /// Tells that `slot` holds no session any more.
    pub(crate) fn unlist(&mut self, slot: u32) {
        if let Some(start) = self.listed.get_mut(slot as usize).and_then(Option::take) {
            self.starts.remove(&(start, slot));
            self.long.remove(&slot);
        }
    }

    /// Remembers a session that is evicted while it is open.
    pub(crate) fn evict_open(&mut self, (first, last): Span) {
        let kept = self.evicted.entry(minute_of(last)).or_insert(first);
        *kept = first.min(*kept);
    }

    /// The earliest start of a session that an event at the watermark could still prolong.
    pub(crate) fn oldest(
        &mut self,
        watermark: EventTime,
        gap_ms: i64,
        span_of: impl Fn(u32) -> Span,
    ) -> Option<EventTime> {
        let is_open = |last: EventTime| last.plus_ms(gap_ms) >= watermark;
        let hot = loop {
            let Some(&(start, slot)) = self.starts.first() else { break None };
            let (first, last) = span_of(slot);
            if is_open(last) && last.since(first) < LONG_MS {
                break Some(start);
            }
            self.starts.pop_first();
            if is_open(last) {
                self.long.insert(slot);
            } else {
                self.listed[slot as usize] = None;
            }
        };
        self.evicted.retain(|&minute, _| is_open(end_of(minute)));
        hot.into_iter().chain(self.evicted.values().copied()).min()
    }

    /// How many sessions are open over 24 h, of those that were the oldest once.
    pub(crate) fn long_open(
        &self,
        watermark: EventTime,
        gap_ms: i64,
        span_of: impl Fn(u32) -> Span,
    ) -> usize {
        let is_open = |&&slot: &&u32| span_of(slot).1.plus_ms(gap_ms) >= watermark;
        self.long.iter().filter(is_open).count()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.starts.len() * 2 * size_of::<(EventTime, u32)>()
            + self.listed.len() * size_of::<Option<EventTime>>()
    }
}

/// The minute since 1970 that a moment falls in.
pub(crate) const fn minute_of(time: EventTime) -> i64 {
    time.ms().div_euclid(MINUTE_MS)
}

/// The last moment of a minute.
pub(crate) const fn end_of(minute: i64) -> EventTime {
    EventTime::from_ms(minute.saturating_mul(MINUTE_MS)).plus_ms(MINUTE_MS - 1)
}
