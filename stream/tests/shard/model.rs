//! The naive model: a list of events, counted by brute force. It shares no logic with the crate.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use nilometer_event::{Event, EventTime, Granularity, ReceiveTime, TimeCorrection, Topic, avro};

const GAP_MS: i64 = 30 * 60_000;
const VIEWS: [&str; 4] = ["page_view", "content_view", "play_start", "view"];

/// Who sent an event.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Who {
    User(String),
    Anonymous(String),
    Service(String),
}

/// An event that owns its texts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Said {
    /// Of the key that sent it.
    pub(crate) source: Option<&'static str>,
    pub(crate) who: Who,
    pub(crate) id: String,
    pub(crate) event_type: String,
    pub(crate) time_ms: i64,
    pub(crate) sent_ms: i64,
    pub(crate) corrected: bool,
    pub(crate) topic: Topic,
    /// By dimension name.
    pub(crate) dims: BTreeMap<&'static str, String>,
    pub(crate) duration_halves: Option<u32>,
    pub(crate) completed: Option<bool>,
}

impl Said {
    pub(crate) fn encode(&self, received_at: ReceiveTime) -> Vec<u8> {
        let dim = |name: &str| self.dims.get(name).map(String::as_str);
        let (mut user_id, mut anonymous_id, mut service_name) = (None, None, None);
        match &self.who {
            Who::User(id) => user_id = Some(id.as_str()),
            Who::Anonymous(id) => anonymous_id = Some(id.as_str()),
            Who::Service(id) => service_name = Some(id.as_str()),
        }
        let event = Event {
            received_at,
            timestamp: EventTime::from_ms(self.time_ms),
            sent_timestamp: EventTime::from_ms(self.sent_ms),
            time_correction: if self.corrected {
                TimeCorrection::ToReceiveTime
            } else {
                TimeCorrection::None
            },
            key: self.source.map(|_| "write-1"),
            source: self.source,
            event_id: &self.id,
            event_type: &self.event_type,
            user_id,
            anonymous_id,
            service_name,
            country: dim("country"),
            device_type: dim("device_type"),
            content_category: dim("content_category"),
            content_id: dim("content_id"),
            channel: dim("channel"),
            subscription_tier: dim("subscription_tier"),
            session_duration_sec: self.duration_halves.map(|halves| f64::from(halves) / 2.0),
            completed: self.completed,
            ..Event::default()
        };
        let mut bytes = Vec::new();
        avro::encode(&event, &mut bytes);
        bytes
    }

    fn dim(&self, name: &str) -> Option<&str> {
        match (name, &self.who) {
            ("event_type", _) => Some(&self.event_type),
            ("service_name", Who::Service(id)) => Some(id),
            _ => self.dims.get(name).map(String::as_str),
        }
    }
}

/// What a cell holds, by brute force.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Expected {
    pub(crate) events: i64,
    pub(crate) users: BTreeSet<Who>,
    pub(crate) duration_halves: i64,
    pub(crate) completions: i64,
    pub(crate) views: i64,
    pub(crate) sessions: i64,
    pub(crate) bounces: i64,
    pub(crate) session_ms: i64,
}

/// A cell's key: window start, and the values of its dimensions.
pub(crate) type Key = (i64, Vec<Option<String>>);

/// The events that were acknowledged, once each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    seen: HashSet<(Option<&'static str>, Who, String)>,
    pub(crate) events: Vec<Said>,
}

/// A session by brute force.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chain {
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) events: i64,
    pub(crate) dims: HashMap<String, String>,
}

impl Model {
    /// Takes an event; a repeat changes nothing.
    pub(crate) fn say(&mut self, said: &Said) {
        if self.seen.insert((said.source, said.who.clone(), said.id.clone())) {
            self.events.push(said.clone());
        }
    }

    /// Every cell of a set of event dimensions.
    pub(crate) fn events_by(
        &self,
        dims: &[String],
        granularity: Granularity,
    ) -> BTreeMap<Key, Expected> {
        let mut cells: BTreeMap<Key, Expected> = BTreeMap::new();
        for event in &self.events {
            let values = dims.iter().map(|dim| event.dim(dim).map(str::to_owned)).collect();
            let cell = cells.entry((floor(event.time_ms, granularity), values)).or_default();
            cell.events += 1;
            cell.duration_halves += i64::from(event.duration_halves.unwrap_or(0));
            cell.completions += i64::from(event.completed == Some(true));
            cell.views += i64::from(VIEWS.contains(&event.event_type.as_str()));
            if !matches!(event.who, Who::Service(_)) {
                cell.users.insert(event.who.clone());
            }
        }
        cells
    }

    /// Every cell of a set of session dimensions.
    pub(crate) fn sessions_by(
        &self,
        dims: &[String],
        granularity: Granularity,
    ) -> BTreeMap<Key, Expected> {
        let mut cells: BTreeMap<Key, Expected> = BTreeMap::new();
        for chain in self.chains() {
            let values = dims.iter().map(|dim| chain.dims.get(dim).cloned()).collect();
            let cell = cells.entry((floor(chain.first, granularity), values)).or_default();
            cell.sessions += 1;
            cell.bounces += i64::from(chain.events == 1);
            cell.session_ms += chain.last - chain.first;
        }
        cells
    }

    /// Sorts each user's events and splits them at gaps.
    fn chains(&self) -> Vec<Chain> {
        let mut by_user: BTreeMap<&Who, Vec<&Said>> = BTreeMap::new();
        for event in self.events.iter().filter(|event| !matches!(event.who, Who::Service(_))) {
            by_user.entry(&event.who).or_default().push(event);
        }
        let mut chains = Vec::new();
        for mut events in by_user.into_values() {
            events.sort_by_key(|event| event.time_ms);
            for chain in events.chunk_by(|one, next| next.time_ms - one.time_ms <= GAP_MS) {
                chains.push(chain_of(chain));
            }
        }
        chains
    }
}

fn chain_of(events: &[&Said]) -> Chain {
    let first = events[0].time_ms;
    let mut dims: HashMap<String, String> = HashMap::new();
    for event in events.iter().filter(|event| event.time_ms == first) {
        for (name, value) in &event.dims {
            let least = dims.entry((*name).to_owned()).or_insert_with(|| value.clone());
            *least = value.min(least).clone();
        }
    }
    let last = events[events.len() - 1].time_ms;
    Chain { first, last, events: i64::try_from(events.len()).unwrap(), dims }
}

fn floor(time_ms: i64, granularity: Granularity) -> i64 {
    time_ms.div_euclid(granularity.ms()) * granularity.ms()
}
