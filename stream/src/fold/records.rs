//! The records that one entry takes, in the order in which they are folded.

use nilometer_event::{Offset, Topic};
use nilometer_log::{Fetched, Record};

/// Records of every received topic: what lies between the positions and an entry's ends.
#[derive(Debug, Default)]
pub struct EntryRecords {
    topics: [TopicRecords; Topic::RECEIVED.len()],
}

/// Records of one topic. Offsets that are missing from them were lost to damage.
#[derive(Debug, Default)]
pub struct TopicRecords {
    from: Offset,
    end: Offset,
    fetched: Vec<Fetched>,
}

impl EntryRecords {
    /// No records: every topic stands at its position.
    #[must_use]
    pub fn at(positions: [Offset; Topic::RECEIVED.len()]) -> Self {
        let topics = positions.map(|from| TopicRecords { from, end: from, fetched: Vec::new() });
        Self { topics }
    }

    /// The records of the topic at `index` of [`Topic::RECEIVED`].
    #[must_use]
    pub const fn topic(&self, index: usize) -> &TopicRecords {
        &self.topics[index]
    }

    /// For filling.
    pub const fn topic_mut(&mut self, index: usize) -> &mut TopicRecords {
        &mut self.topics[index]
    }

    /// How far each topic is taken, in the order of [`Topic::RECEIVED`].
    #[must_use]
    pub fn ends(&self) -> [u64; Topic::RECEIVED.len()] {
        std::array::from_fn(|index| self.topics[index].end.get())
    }

    /// Offsets taken, lost ones included.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.topics.iter().map(TopicRecords::len).sum()
    }

    /// True where no topic moves on.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps the first `count` records of events; those behind are left in the log.
    pub(crate) fn keep_first(&mut self, count: u64) {
        let mut left = usize::try_from(count).unwrap_or(usize::MAX);
        for (topic, own) in Topic::RECEIVED.into_iter().zip(&mut self.topics) {
            if topic != Topic::DeadLetters {
                left -= own.keep_first(left);
            }
        }
    }

    /// Bytes fetched.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.topics.iter().flat_map(|topic| &topic.fetched).map(Fetched::bytes).sum()
    }
}

impl TopicRecords {
    /// The first offset that it takes.
    #[must_use]
    pub const fn from(&self) -> Offset {
        self.from
    }

    /// The first offset that it does not take.
    #[must_use]
    pub const fn end(&self) -> Offset {
        self.end
    }

    /// Offsets taken, lost ones included.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.end.since(self.from)
    }

    /// True where the topic does not move on.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes everything up to `end`, of which `fetched` holds what is left.
    pub fn push(&mut self, fetched: Fetched, end: Offset) {
        if !fetched.is_empty() {
            self.fetched.push(fetched);
        }
        self.end = self.end.max(end);
    }

    /// Moves the end without records: they are lost.
    pub fn skip_to(&mut self, end: Offset) {
        self.end = self.end.max(end);
    }

    /// As [`EntryRecords::keep_first`]; returns how many are kept.
    fn keep_first(&mut self, count: usize) -> usize {
        let Some(left) = self.iter().nth(count).map(|record| record.offset) else {
            return self.iter().count();
        };
        self.end = left;
        let is_before = |record: Record<'_>| record.offset < left;
        self.fetched.retain(|fetched| fetched.iter().next().is_some_and(is_before));
        count
    }

    /// The records in offset order.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        self.fetched
            .iter()
            .flat_map(Fetched::iter)
            .filter(|record| self.from <= record.offset && record.offset < self.end)
    }
}

/// Goes along a topic's records to those that are asked for, in their order.
pub(super) struct Walk<'a> {
    records: Box<dyn Iterator<Item = Record<'a>> + 'a>,
    next: usize,
    at: Option<Record<'a>>,
}

impl<'a> Walk<'a> {
    pub(super) fn over(taken: &'a TopicRecords) -> Self {
        Self { records: Box::new(taken.iter()), next: 0, at: None }
    }

    /// The record of that number, the last one asked for or a later one.
    ///
    /// # Panics
    ///
    /// Where there are not so many records, or a later one was asked for already.
    pub(super) fn to(&mut self, number: usize) -> Record<'a> {
        if let Some(ahead) = number.checked_sub(self.next) {
            self.at = self.records.nth(ahead);
            self.next = number + 1;
        }
        let at = self.at.filter(|_| self.next == number + 1);
        at.expect("E2: a record is not where it was when the entry was prepared")
    }
}
