//! One session's state, which does not depend on the order in which its events came.

use nilometer_event::EventTime;
use smallvec::SmallVec;

use super::open::{Span, minute_of};
use super::words::{Word, Words};

/// A session tells its events by so many types: those of more types by the least of them, in the
/// order of their texts, so that it is the same in whatever order they come. Nobody has so many who
/// does not mean to, and each event of another type would look through all before it.
pub(crate) const TYPES_MAX: usize = 256;

/// State of one maximal chain; words are the task's own.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) user: u64,
    pub(crate) first: EventTime,
    pub(crate) last: EventTime,
    pub(crate) events: u64,
    /// The journal entry that changed it last.
    pub(crate) seq: u64,
    pub(crate) counts: SmallVec<[(Word, u32); 3]>,
    /// (name, value) of what is not null, among the events at `first`.
    pub(crate) dims: SmallVec<[(Word, Word); 4]>,
}

impl Clone for State {
    /// Copies the lists as slices: the derived clone walks them, and every prolonged session is
    /// cloned once an entry.
    fn clone(&self) -> Self {
        Self {
            counts: SmallVec::from_slice(&self.counts),
            dims: SmallVec::from_slice(&self.dims),
            ..*self
        }
    }
}

/// A session's state as it lies in a run, with its texts.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) user: u64,
    pub(crate) first: EventTime,
    pub(crate) last: EventTime,
    pub(crate) events: u64,
    pub(crate) seq: u64,
    /// By event type, sorted.
    pub(crate) counts: Vec<(String, u32)>,
    /// By dimension's name, sorted.
    pub(crate) dims: Vec<(String, String)>,
}

/// An event as a session sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Touch<'a> {
    pub(crate) user: u64,
    pub(crate) time: EventTime,
    pub(crate) event_type: Word,
    pub(crate) dims: &'a [(Word, Word)],
}

impl State {
    /// The session of one event alone.
    pub(crate) fn starting(touch: Touch<'_>) -> Self {
        Self {
            user: touch.user,
            first: touch.time,
            last: touch.time,
            events: 1,
            seq: 0,
            counts: SmallVec::from_slice(&[(touch.event_type, 1)]),
            dims: SmallVec::from_slice(touch.dims),
        }
    }

    /// Adds one event.
    pub(crate) fn add(&mut self, touch: Touch<'_>, words: &Words) {
        self.take_dims(touch.time, touch.dims, words);
        self.first = self.first.min(touch.time);
        self.last = self.last.max(touch.time);
        self.events += 1;
        self.count(touch.event_type, 1, words);
    }

    /// Adds another session of the same user.
    pub(crate) fn merge(&mut self, other: &Self, words: &Words) {
        self.take_dims(other.first, &other.dims, words);
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.events += other.events;
        for &(event_type, events) in &other.counts {
            self.count(event_type, events, words);
        }
    }

    pub(crate) fn from_stored(stored: &Stored, words: &mut Words) -> Self {
        let counts = stored.counts.iter().map(|(text, events)| (words.number(text), *events));
        let counts = counts.collect();
        let dims = stored.dims.iter();
        let dims = dims.map(|(name, value)| (words.number(name), words.number(value))).collect();
        Self {
            user: stored.user,
            first: stored.first,
            last: stored.last,
            events: stored.events,
            seq: stored.seq,
            counts,
            dims,
        }
    }

    fn count(&mut self, event_type: Word, events: u32, words: &Words) {
        match self.counts.iter_mut().find(|(of, _)| *of == event_type) {
            // 2^32 events of one type within one session: more than one user ever sends.
            Some((_, count)) => *count = count.saturating_add(events),
            None => self.counts.push((event_type, events)),
        }
        while self.counts.len() > TYPES_MAX {
            let texts = self.counts.iter().map(|&(of, _)| words.text(of)).enumerate();
            if let Some((greatest, _)) = texts.max_by_key(|&(_, text)| text) {
                self.counts.swap_remove(greatest);
            }
        }
    }

    /// The dimensions of the earlier; of events at the same moment the least of each.
    fn take_dims(&mut self, first: EventTime, dims: &[(Word, Word)], words: &Words) {
        if first < self.first {
            self.dims = SmallVec::from_slice(dims);
        }
        if first != self.first {
            return;
        }
        for &(name, value) in dims {
            match self.dims.iter_mut().find(|(of, _)| *of == name) {
                Some((_, least)) if words.text(value) < words.text(*least) => *least = value,
                Some(_) => {}
                None => self.dims.push((name, value)),
            }
        }
    }
}

/// Where sessions have a moment that an event at `time` belongs to.
pub(crate) fn around(time: EventTime, gap_ms: i64) -> Span {
    (time.minus_ms(gap_ms), time.plus_ms(gap_ms))
}

/// True where an event at `time` is at most `gap_ms` away from `[first, last]`.
pub(crate) fn reaches(first: EventTime, last: EventTime, time: EventTime, gap_ms: i64) -> bool {
    first.minus_ms(gap_ms) <= time && time <= last.plus_ms(gap_ms)
}

/// True where a session is all that an event at `time` belongs to, as far as older runs with no
/// event after `latest` know.
///
/// At most one session near an event ends before it and at most one begins after it, and an older
/// state that overlaps this one is part of it.
pub(crate) fn is_all_near(
    (first, last): Span,
    time: EventTime,
    latest: EventTime,
    gap_ms: i64,
) -> bool {
    first <= time && (time <= last || (time <= last.plus_ms(gap_ms) && latest < time))
}

/// A session's state, as the cells see it.
#[derive(Clone, Copy, Debug)]
pub struct SessionRef<'a> {
    pub(crate) state: &'a State,
    pub(crate) words: &'a Words,
    pub(crate) dimensions: &'a [Word],
}

impl<'a> SessionRef<'a> {
    /// Its earliest event: decides the window that it counts in.
    #[must_use]
    pub const fn start(self) -> EventTime {
        self.state.first
    }

    /// Its latest event.
    #[must_use]
    pub const fn last(self) -> EventTime {
        self.state.last
    }

    /// From its earliest to its latest event, in milliseconds; 0 for a bounce.
    #[must_use]
    pub const fn duration_ms(self) -> i64 {
        self.state.last.since(self.state.first)
    }

    /// How many events.
    #[must_use]
    pub const fn events(self) -> u64 {
        self.state.events
    }

    /// How many events of each type, in no order; of more than 256 the least by their texts.
    pub fn counts(self) -> impl Iterator<Item = (&'a str, u64)> {
        let counts = self.state.counts.iter();
        counts.map(move |&(word, events)| (self.words.text(word), u64::from(events)))
    }

    /// As [`Self::counts`], with the task's number of each type.
    pub(crate) fn words(self) -> impl Iterator<Item = (Word, &'a str, u64)> {
        let counts = self.state.counts.iter();
        counts.map(move |&(word, events)| (word, self.words.text(word), u64::from(events)))
    }

    /// True where both count in the same cells: they start in one minute, and their dimensions
    /// are the same.
    pub(crate) fn counts_beside(self, other: Self) -> bool {
        minute_of(self.state.first) == minute_of(other.state.first)
            && self.state.dims == other.state.dims
    }

    /// How many events have a type that `wanted` likes.
    #[must_use]
    pub fn count_where(self, wanted: impl Fn(&str) -> bool) -> u64 {
        self.counts().filter(|(event_type, _)| wanted(event_type)).map(|(_, events)| events).sum()
    }

    /// The value of a dimension; `None` is null, as for every session begun before the dimension
    /// was declared.
    #[must_use]
    pub fn dim(self, name: &str) -> Option<&'a str> {
        let found = self.state.dims.iter().find(|(of, _)| self.words.text(*of) == name);
        found.map(|&(_, value)| self.words.text(value))
    }

    /// Fills `out` with the values of the plan's session dimensions, in their order.
    pub fn dims(self, out: &mut Vec<Option<&'a str>>) {
        out.clear();
        out.extend(self.values());
    }

    /// As [`Self::dims`], by the task's numbers of the texts.
    pub(crate) fn value_words(self) -> impl Iterator<Item = Option<Word>> {
        self.dimensions.iter().map(move |name| {
            let found = self.state.dims.iter().find(|(of, _)| of == name);
            found.map(|&(_, value)| value)
        })
    }

    /// The text of one of its words.
    pub(crate) fn text(self, word: Word) -> &'a str {
        self.words.text(word)
    }

    /// As [`Self::dims`], one by one.
    pub(crate) fn values(self) -> impl Iterator<Item = Option<&'a str>> {
        self.value_words().map(move |word| word.map(|word| self.words.text(word)))
    }
}

/// What one entry did to one session.
#[derive(Clone, Copy, Debug)]
pub struct SessionChange<'a> {
    /// States as they were before the entry, to be taken out: none for a session that began,
    /// several where the entry closed the gap between them.
    pub removed: &'a [SessionRef<'a>],
    /// The state as it is now, to be put in.
    pub added: SessionRef<'a>,
}
