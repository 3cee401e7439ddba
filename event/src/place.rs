//! Where a record lies: topic, partition, offset.

use std::fmt;

use crate::UserHash;

/// A stream of records with one meaning.
///
/// All topics share one [`PartitionCount`] and one hash of the user key, so that partition i
/// of every topic belongs to shard i.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Topic {
    /// Events of users that are not content views.
    UserEvents = 0,
    /// Events of users that view content.
    ContentViews = 1,
    /// Events of services.
    ServerEvents = 2,
    /// History sent to `/v1/imports/{name}/events`.
    Imports = 3,
    /// What was refused, masked, with the reason.
    DeadLetters = 4,
    /// Events behind the cold horizon, emitted by the stream; none of them is *received*.
    LateEvents = 5,
    /// The stream's own journal, one partition per shard.
    Journal = 6,
}

impl Topic {
    /// Every topic, in the order in which an entry takes them.
    pub const ALL: [Self; 7] = [
        Self::UserEvents,
        Self::ContentViews,
        Self::ServerEvents,
        Self::Imports,
        Self::DeadLetters,
        Self::LateEvents,
        Self::Journal,
    ];

    /// The topics whose records are the producers' (N3 *received*), live ones first: the
    /// order in which the records of a journal entry are folded.
    pub const RECEIVED: [Self; 5] = [
        Self::UserEvents,
        Self::ContentViews,
        Self::ServerEvents,
        Self::DeadLetters,
        Self::Imports,
    ];

    /// The name that operators, files and Kafka see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UserEvents => "user-events",
            Self::ContentViews => "content-views",
            Self::ServerEvents => "server-events",
            Self::Imports => "imports",
            Self::DeadLetters => "dlq-events",
            Self::LateEvents => "late-events",
            Self::Journal => "journal",
        }
    }

    /// The topic of that name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.name() == name)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How many partitions every topic has; at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionCount(u16);

impl PartitionCount {
    /// `None` for 0.
    #[must_use]
    pub const fn new(count: u16) -> Option<Self> {
        if count == 0 { None } else { Some(Self(count)) }
    }

    /// The count.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The partitions, from 0.
    pub fn partitions(self) -> impl Iterator<Item = Partition> {
        (0..self.0).map(Partition)
    }

    /// The partition that owns this hash: partitions are equal ranges of the hash, in order.
    #[must_use]
    pub const fn partition_of(self, hash: UserHash) -> Partition {
        // Multiply-shift: the high word of hash × count, always below count.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "hash < 2^64, so the product >> 64 is below the count"
        )]
        Partition(((hash.get() as u128 * self.0 as u128) >> 64) as u16)
    }
}

/// One partition of every topic, which is also one shard of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(u16);

impl Partition {
    /// From its index, counted from 0.
    #[must_use]
    pub const fn new(index: u16) -> Self {
        Self(index)
    }

    /// Its index.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Its index, for slices.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Place of a record within one partition, counted in records from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(u64);

impl Offset {
    /// The first place of a partition.
    pub const ZERO: Self = Self(0);

    /// From a count of records.
    #[must_use]
    pub const fn new(offset: u64) -> Self {
        Self(offset)
    }

    /// The count of records before it.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Moves forward by `records`.
    ///
    /// # Panics
    ///
    /// Past `u64::MAX`, which no partition reaches.
    #[must_use]
    pub const fn plus(self, records: u64) -> Self {
        match self.0.checked_add(records) {
            Some(next) => Self(next),
            None => panic!("offset past u64::MAX"),
        }
    }

    /// Records from `earlier` to here; 0 if `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_equal_ranges_of_the_hash_in_order() {
        let four = PartitionCount::new(4).unwrap();
        let of = |hash| four.partition_of(UserHash::new(hash)).get();
        assert_eq!([of(0), of(u64::MAX / 4), of(u64::MAX / 4 + 1), of(u64::MAX)], [0, 0, 1, 3]);
    }

    #[test]
    fn a_topic_is_found_by_its_name() {
        for topic in Topic::ALL {
            assert_eq!(Topic::from_name(topic.name()), Some(topic));
        }
    }
}
