//! What the fold decided about the copies of one event, told afterwards.
//!
//! Nothing keeps a verdict a record. But each count of an id left a row, in the bucket of its
//! timestamp and in a layer, and the journal says which entry, of which layer, took each copy. So
//! the copies that counted are found again. Where more copies than one may have left a row (the
//! same bucket, in layers whose ids were merged since), the rule of the ids decides: the first
//! that came once every count before it was cold by its age. Of ids that went cold for want of
//! memory that is not known: then the last of these copies is named.

use nilometer_event::{EventTime, Offset, Partition, TimeCorrection, Topic};
use nilometer_log::Log;

use crate::error::JournalError;
use crate::ids::{Bucket, Sighting};
use crate::journal::Places;

/// A copy of an event in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentCopy {
    /// Where it lies; its partition is that of its user.
    pub topic: Topic,
    /// Where it lies.
    pub offset: Offset,
    /// Its timestamp as the client sent it.
    pub sent: EventTime,
    /// Whether that was corrected.
    pub correction: TimeCorrection,
}

/// What the fold made of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    /// It was not folded yet.
    Waiting,
    /// It counted, as the first of its id.
    First,
    /// It counted though the id had counted before: under another timestamp, and once that was
    /// cold.
    Again,
    /// It did not count.
    Duplicate,
}

/// What a shard remembers of an event.
#[derive(Debug)]
pub struct Remembered {
    /// The first offset of each received topic that is not folded.
    pub(crate) next: [Offset; Topic::RECEIVED.len()],
    /// The buckets of the copies, each of which may lie in two.
    pub(crate) buckets: Vec<[Bucket; 2]>,
    /// Every count in these.
    pub(crate) counts: Vec<Sighting>,
}

/// A folded copy, with its place in the order of the fold.
#[derive(Clone, Copy, Debug)]
struct Placed {
    copy: usize,
    order: (u64, usize, Offset),
    /// The layer that it was folded in; any up to the last where the journal does not reach back.
    layers: (u64, u64),
    buckets: [Bucket; 2],
}

impl Placed {
    fn may_be(&self, count: &Sighting) -> bool {
        let may_be = self.buckets.iter().any(|&bucket| count.may_be(bucket));
        may_be && self.layers.0 <= count.last && count.first <= self.layers.1
    }
}

/// The verdicts of `copies`, in their order.
///
/// # Errors
///
/// [`JournalError`]: ask again.
pub(crate) fn decide(
    log: &dyn Log,
    partition: Partition,
    copies: &[SentCopy],
    remembered: &Remembered,
) -> Result<Vec<Decided>, JournalError> {
    let places = Places::new(log, partition);
    let oldest = places.first(|_any| true)?.map(|oldest| oldest.seq);
    let mut decided = vec![Decided::Waiting; copies.len()];
    let mut placed = Vec::new();
    for (copy, (sent, &buckets)) in copies.iter().zip(&remembered.buckets).enumerate() {
        let Some(topic) = Topic::RECEIVED.iter().position(|&topic| topic == sent.topic) else {
            continue;
        };
        if remembered.next[topic] <= sent.offset {
            continue;
        }
        let Some(entry) = places.entry_of(sent.topic, sent.offset)? else { continue };
        decided[copy] = Decided::Duplicate;
        let layer = entry.layer.get();
        // Entries before the oldest that is kept may have taken it as well.
        let layers = (if oldest == Some(entry.seq) { 0 } else { layer }, layer);
        placed.push(Placed { copy, order: (entry.seq, topic, sent.offset), layers, buckets });
    }
    placed.sort_unstable_by_key(|one| one.order);
    for (copy, verdict) in claims(&placed, remembered.counts.clone(), &places)? {
        decided[copy] = verdict;
    }
    Ok(decided)
}

/// Which copies left the counts: the fold once more, in its order, but for what it could not know.
fn claims(
    placed: &[Placed],
    counts: Vec<Sighting>,
    places: &Places<'_>,
) -> Result<Vec<(usize, Decided)>, JournalError> {
    // Counts of copies that are no longer in the log.
    let (mut open, gone): (Vec<Sighting>, Vec<Sighting>) =
        counts.into_iter().partition(|count| placed.iter().any(|one| one.may_be(count)));
    let mut verdicts = Vec::new();
    let mut counted: Vec<u64> = Vec::new();
    for (at, one) in placed.iter().enumerate() {
        let Some(own) = open.iter().position(|count| one.may_be(count)) else { continue };
        let is_last = !placed[at + 1..].iter().any(|later| later.may_be(&open[own]));
        let before = gone.iter().map(|count| count.last).filter(|&layer| layer <= one.layers.1);
        let before: Vec<u64> = before.chain(counted.iter().copied()).collect();
        if !is_last && meets_hot(&before, one.layers.1, places)? {
            continue;
        }
        open.swap_remove(own);
        verdicts.push((one.copy, if before.is_empty() { Decided::First } else { Decided::Again }));
        counted.push(one.layers.1);
    }
    Ok(verdicts)
}

/// Whether an id that counted in these layers is hot in layer `at`.
fn meets_hot(counted: &[u64], at: u64, places: &Places<'_>) -> Result<bool, JournalError> {
    for &layer in counted {
        if is_hot(layer, at, places)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether an id that counted in layer `of` is hot in layer `at`, by its age alone.
fn is_hot(of: u64, at: u64, places: &Places<'_>) -> Result<bool, JournalError> {
    if at <= of.saturating_add(1) {
        return Ok(true);
    }
    let (Some(counted), Some(sealed)) = (places.last_of_layer(of)?, places.last_of_layer(at - 1)?)
    else {
        return Ok(false);
    };
    Ok(sealed.now.since(counted.now) <= i64::from(sealed.settings.hot_ms))
}
