//! The oldest open session, asked after every entry.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use nilometer_event::EventTime;

const MINUTE_MS: i64 = 60_000;
/// A session open longer than this does not hold `final_until`; it is counted instead.
const LONG_MS: i64 = 24 * 3_600_000;
/// Of a slot whose session was not open when last looked at, or that holds none.
const UNLISTED: EventTime = EventTime::MIN;
/// Starts lie together by so much of event time until theirs is the oldest.
const BUCKET_MS: i64 = 10_000;

/// Starts of hot sessions that were open when last looked at, and what is known of evicted ones.
#[derive(Debug, Default)]
pub(crate) struct Open {
    /// By slot: its start in `front` or `later`, or [`UNLISTED`]; a session in `long` keeps it, and
    /// is not listed again. What `front` and `later` say otherwise is out of date.
    listed: Vec<EventTime>,
    /// Starts before bucket `front_end`, in order.
    front: BinaryHeap<Reverse<(EventTime, u32)>>,
    front_end: i64,
    /// Slots by the bucket of their start, in none: nearly all of them are listed again, or
    /// closed, before their order matters.
    later: BTreeMap<i64, Vec<u32>>,
    long: BTreeSet<u32>,
    /// Earliest start by the minute of the end, of sessions that were evicted while open.
    pub(crate) evicted: BTreeMap<i64, EventTime>,
}

/// A hot session's first and last event.
pub(crate) type Span = (EventTime, EventTime);

const fn bucket_of(start: EventTime) -> i64 {
    start.ms().div_euclid(BUCKET_MS)
}

impl Open {
    /// Tells that the session in `slot` was touched, and where it starts now.
    pub(crate) fn list(&mut self, slot: u32, start: EventTime) {
        let index = slot as usize;
        if self.listed.len() <= index {
            self.listed.resize(index + 1, UNLISTED);
        }
        let before = std::mem::replace(&mut self.listed[index], start);
        if before == start {
            return;
        }
        if before != UNLISTED {
            self.long.remove(&slot);
        }
        let bucket = bucket_of(start);
        if bucket < self.front_end {
            self.front.push(Reverse((start, slot)));
        } else if before == UNLISTED || bucket_of(before) != bucket {
            self.later.entry(bucket).or_default().push(slot);
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
        let Some(listed) = self.listed.get_mut(slot as usize) else { return };
        if std::mem::replace(listed, UNLISTED) != UNLISTED {
            self.long.remove(&slot);
        }
    }

    /// Tells that a session that starts at `start` lies in another slot now.
    pub(crate) fn relist(&mut self, (from, to): (u32, u32), start: EventTime) {
        let is_listed = self.listed.get(from as usize).is_some_and(|&listed| listed != UNLISTED);
        self.unlist(from);
        if is_listed {
            self.list(to, start);
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
            let Some(&Reverse((start, slot))) = self.front.peek() else {
                if self.next_bucket() {
                    continue;
                }
                break None;
            };
            if self.listed[slot as usize] != start {
                self.front.pop();
                continue;
            }
            let (first, last) = span_of(slot);
            if is_open(last) && last.since(first) < LONG_MS {
                break Some(start);
            }
            self.front.pop();
            if is_open(last) {
                self.long.insert(slot);
            } else {
                self.listed[slot as usize] = UNLISTED;
            }
        };
        self.evicted.retain(|&minute, _| is_open(end_of(minute)));
        hot.into_iter().chain(self.evicted.values().copied()).min()
    }

    /// Puts the next bucket's starts in order; false where there is none.
    fn next_bucket(&mut self) -> bool {
        let Some((bucket, slots)) = self.later.pop_first() else { return false };
        self.front_end = bucket + 1;
        let starts = slots.into_iter().filter_map(|slot| {
            let start = self.listed[slot as usize];
            let is_listed = start != UNLISTED && bucket_of(start) == bucket;
            is_listed.then_some(Reverse((start, slot)))
        });
        self.front = starts.collect();
        true
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
        let later: usize = self.later.values().map(|slots| slots.capacity() * 4 + 64).sum();
        later
            + self.front.capacity() * size_of::<(EventTime, u32)>()
            + self.listed.len() * size_of::<EventTime>()
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
