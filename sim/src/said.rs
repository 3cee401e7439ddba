//! What a client says, and the record that a gateway makes of it.

use std::collections::BTreeMap;

use nilometer_event::{
    Event, EventTime, IdentityKey, Partition, PartitionCount, ReceiveTime, TimeCorrection, Topic,
    UserKey, avro,
};

/// A timestamp may be ahead of the receive time by so much.
const AHEAD_MS: i64 = 5 * 60_000;

/// Who sent an event.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Who {
    /// Signed in.
    User(String),
    /// Known by a client-made id.
    Anonymous(String),
    /// No user.
    Service(String),
}

impl Who {
    /// As the event room calls it.
    #[must_use]
    pub fn key(&self) -> UserKey<'_> {
        match self {
            Self::User(id) => UserKey::User(id),
            Self::Anonymous(id) => UserKey::Anonymous(id),
            Self::Service(name) => UserKey::Service(name),
        }
    }
}

/// One event as a client says it; a repeat says the same identity again.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    /// Who.
    pub who: Who,
    /// The key that it is sent with.
    pub key: Option<&'static str>,
    /// The client's id.
    pub id: String,
    /// What happened.
    pub event_type: &'static str,
    /// When, by the client's clock.
    pub sent_ms: i64,
    /// Where it goes.
    pub topic: Topic,
    /// Values by dimension.
    pub dims: BTreeMap<&'static str, String>,
    /// Half seconds, so that sums are exact.
    pub duration_halves: Option<u32>,
    /// Whether it was seen to its end.
    pub completed: Option<bool>,
}

impl Said {
    /// The shard that its user belongs to.
    #[must_use]
    pub fn partition(&self, identity: &IdentityKey, shards: PartitionCount) -> Partition {
        shards.partition_of(identity.user(self.who.key()))
    }

    /// The record, received at `now`: what lies in the future is set to the receive time.
    #[must_use]
    pub fn encode(&self, now: ReceiveTime) -> Vec<u8> {
        let dim = |name: &str| self.dims.get(name).map(String::as_str);
        let (mut user_id, mut anonymous_id, mut service_name) = (None, None, None);
        match &self.who {
            Who::User(id) => user_id = Some(id.as_str()),
            Who::Anonymous(id) => anonymous_id = Some(id.as_str()),
            Who::Service(name) => service_name = Some(name.as_str()),
        }
        let is_ahead = self.sent_ms > now.ms() + AHEAD_MS;
        let time_ms = if is_ahead { now.ms() } else { self.sent_ms };
        let event = Event {
            received_at: now,
            timestamp: EventTime::from_ms(time_ms),
            sent_timestamp: EventTime::from_ms(self.sent_ms),
            time_correction: if is_ahead {
                TimeCorrection::ToReceiveTime
            } else {
                TimeCorrection::None
            },
            key: self.key,
            event_id: &self.id,
            event_type: self.event_type,
            user_id,
            anonymous_id,
            service_name,
            country: dim("country"),
            device_type: dim("device_type"),
            content_category: dim("content_category"),
            content_id: dim("content_id"),
            app_version: dim("app_version"),
            subscription_tier: dim("subscription_tier"),
            cohort: dim("cohort"),
            channel: dim("channel"),
            session_duration_sec: self.duration_halves.map(|halves| f64::from(halves) / 2.0),
            completed: self.completed,
            ..Event::default()
        };
        let mut bytes = Vec::new();
        avro::encode(&event, &mut bytes);
        bytes
    }
}
