//! Which values dimensions have: a help for who writes filters.

use std::cmp::Reverse;
use std::sync::Arc;

use nilometer_event::{Granularity, TimeRange};
use nilometer_stream::aggregate::{Aggregates, SlotMask};
use nilometer_stream::cells::{OwnedDimValue, ScanRequest};
use nilometer_stream::declare::{DimId, MetricKind, SetKind};

use super::{Ask, Pinned, Rows};
use crate::error::ReadError;
use crate::groups::{Group, GroupAsk, GroupsOf};
use crate::port::Answer;

/// Days over which [`Pinned::known_values`] looks.
const KNOWN_DAYS: i64 = 30;
/// Values that are kept beside the most frequent, so that sorting is not done for each.
const KNOWN_ROOM: usize = 1_024;
/// Dimensions of at most so many values are read all at once, each of the others by itself.
const AT_ONCE_MAX: usize = 1_024;

impl Pinned {
    /// Of each dimension the values that it had in the last 30 days, the most frequent first.
    #[must_use]
    pub fn known_values(
        &self,
        dimensions: &[DimId],
        limit: usize,
    ) -> Vec<Result<Vec<OwnedDimValue>, ReadError>> {
        let Some(MetricKind::Count { slot: events }) =
            self.plan.metric("events").map(|metric| metric.kind)
        else {
            return dimensions.iter().map(|_| Ok(Vec::new())).collect();
        };
        let asks: Vec<Option<Ask>> =
            dimensions.iter().map(|dimension| self.values_of(*dimension, events)).collect();
        let is_small = |ask: &&Ask| !self.has_too_many(ask);
        let small: Vec<Option<&Ask>> =
            asks.iter().map(|ask| ask.as_ref().filter(is_small)).collect();
        let at_once: Vec<Ask> = small.iter().copied().flatten().cloned().collect();
        let mut answers = self.read_together(&at_once).0.into_iter();
        let most = || Most { events, limit, values: Vec::new() };
        let known = asks.iter().zip(&small).map(|(ask, small)| {
            let Some(ask) = ask else { return Ok(Vec::new()) };
            match small.and_then(|_| answers.next()) {
                None | Some(Err(ReadError::TooMany { .. } | ReadError::TooLarge { .. })) => {
                    self.known_of_many(ask, most())
                }
                Some(answer) => answer.map(|answer| known_of_few(answer, most())),
            }
        });
        known.collect()
    }

    /// The question for the values of a dimension, where its cells are kept.
    fn values_of(&self, dimension: DimId, events: usize) -> Option<Ask> {
        let set = self.plan.set_for(SetKind::Events, &[dimension])?;
        let end = self.as_of().as_event_time().plus_ms(Granularity::Day.ms());
        let start = end.minus_ms((KNOWN_DAYS + 1) * Granularity::Day.ms());
        let range = TimeRange { start, end };
        let mut request = ScanRequest::new(Arc::clone(&self.plan), set, Granularity::Day, range);
        request.range = self.outward(range.outward(Granularity::Day));
        request.want = SlotMask { counts: 1 << events, ..SlotMask::NONE };
        Some(Ask { request, rows: Rows::Total, estimated: false, rows_max: AT_ONCE_MAX })
    }

    fn known_of_many(&self, ask: &Ask, mut most: Most) -> Result<Vec<OwnedDimValue>, ReadError> {
        let ask = GroupAsk { ask: ask.clone(), by: vec![0], wanted: vec![None], shift_ms: 0 };
        for group in self.groups(&[ask], GroupsOf::Values)? {
            let Group { dims, rows } = group?;
            most.take(dims, rows.iter().map(|(.., row)| row));
        }
        Ok(most.finish())
    }
}

fn known_of_few(answer: Answer, mut most: Most) -> Vec<OwnedDimValue> {
    for row in answer.rows {
        most.take(row.dims, std::iter::once(&row.aggregates));
    }
    most.finish()
}

/// The most frequent values so far, and some more.
struct Most {
    /// The slot that counts them.
    events: usize,
    limit: usize,
    values: Vec<(Reverse<i64>, Arc<[OwnedDimValue]>)>,
}

impl Most {
    fn take<'a>(&mut self, dims: Arc<[OwnedDimValue]>, rows: impl Iterator<Item = &'a Aggregates>) {
        let count = rows.filter_map(|row| row.counts.get(self.events)).sum();
        self.values.push((Reverse(count), dims));
        // However many values there are, few are kept.
        if self.values.len() > 2 * self.limit + KNOWN_ROOM {
            self.values.sort_unstable();
            self.values.truncate(self.limit);
        }
    }

    fn finish(mut self) -> Vec<OwnedDimValue> {
        self.values.sort_unstable();
        self.values.truncate(self.limit);
        self.values.iter().filter_map(|(_, dims)| dims.last().cloned()).collect()
    }
}
