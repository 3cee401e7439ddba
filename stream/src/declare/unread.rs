//! Metrics that cannot take an event's number: it is none, or too large for its scale.

use super::filter::Filter;
use super::metric::MetricKind;
use super::plan::Plan;
use super::slot::{Measure, Slot};
use super::source::{EventFacts, NumberReading, NumberSource};

/// The declared metrics of a plan that read numbers, each with what it reads.
#[derive(Clone, Debug, Default)]
pub struct Unread(Vec<Rule>);

#[derive(Clone, Debug)]
struct Rule {
    /// Place in [`Plan::metrics`].
    metric: usize,
    source: NumberSource,
    scale: u8,
    filter: Filter,
}

impl Unread {
    /// Of the metrics of a plan.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let slots = &plan.event_slots;
        let slot_of = |kind: MetricKind| -> Option<&Slot> {
            match kind {
                MetricKind::Sum { slot, .. } => slots.sums.get(slot),
                MetricKind::Avg { sum, .. } => slots.sums.get(sum),
                MetricKind::Min { slot, .. } => slots.mins.get(slot),
                MetricKind::Max { slot, .. } => slots.maxs.get(slot),
                MetricKind::Quantile { slot, .. } => slots.histograms.get(slot),
                _ => None,
            }
        };
        let rules = plan.metrics.iter().enumerate().filter(|(_, metric)| !metric.builtin);
        let rules = rules.filter_map(|(metric, declared)| {
            let slot = slot_of(declared.kind)?;
            let Measure::Number(source, scale) = &slot.measure else { return None };
            let (source, filter) = (source.clone(), slot.filter.clone());
            Some(Rule { metric, source, scale: *scale, filter })
        });
        Self(rules.collect())
    }

    /// The places in [`Plan::metrics`] of those that read numbers.
    pub fn metrics(&self) -> impl Iterator<Item = usize> {
        self.0.iter().map(|rule| rule.metric)
    }

    /// The places in [`Plan::metrics`] of those that would count the event and cannot.
    pub fn each(&self, facts: &EventFacts<'_>, mut take: impl FnMut(usize)) {
        for rule in &self.0 {
            if facts.number(&rule.source, rule.scale) == NumberReading::Unread
                && rule.filter.matches(facts)
            {
                take(rule.metric);
            }
        }
    }
}
