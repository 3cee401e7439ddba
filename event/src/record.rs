//! The event as rooms hand it on: borrowed, validated, masked and stamped.

use crate::{EventTime, ReceiveTime, UserKey};

/// What the server did to an event's timestamp, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TimeCorrection {
    /// The client's time stands.
    #[default]
    None = 0,
    /// As [`Self::ByOffset`], of a time that lies more than a day ahead as sent; in logs of older
    /// releases any that lay more than 5 min ahead. Its id is filed by arrival.
    BySentAt = 1,
    /// More than 5 min in the future: set to the receive time. Its id is filed by arrival.
    ToReceiveTime = 2,
    /// Shifted by how far `sent_at` was off our clock, as all that was sent with it.
    ByOffset = 3,
}

impl TimeCorrection {
    /// As traces call it; `None` where nothing was done.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::BySentAt | Self::ByOffset => Some("by_offset"),
            Self::ToReceiveTime => Some("to_receive_time"),
        }
    }

    /// From its number on disk.
    #[must_use]
    pub const fn from_number(number: i32) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            1 => Some(Self::BySentAt),
            2 => Some(Self::ToReceiveTime),
            3 => Some(Self::ByOffset),
            _ => None,
        }
    }
}

/// One accepted event. Strings are borrowed from the request or from the record's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Event<'a> {
    /// When it was accepted.
    pub received_at: ReceiveTime,
    /// When it happened, corrected: decides windows and sessions.
    pub timestamp: EventTime,
    /// Whether and how `timestamp` differs from `sent_timestamp`.
    pub time_correction: TimeCorrection,
    /// True where the server derived `event_id` from the content.
    pub id_derived: bool,
    /// The id of the key that sent it; `None` for the house itself, and in records of releases
    /// that did not keep it.
    pub key: Option<&'a str>,
    /// The key's source, a part of the event's identity; `None` for the default one.
    pub source: Option<&'a str>,
    /// How many new values of a dimension its key may bring to a shard's day, as of then; `None`
    /// for the house itself, and in records of releases that did not keep it.
    pub values_max: Option<u32>,
    /// When it happened as the client wrote it: decides the bucket of its id.
    pub sent_timestamp: EventTime,
    /// The client's id, or the derived one.
    pub event_id: &'a str,
    /// What happened.
    pub event_type: &'a str,
    /// The signed-in user.
    pub user_id: Option<&'a str>,
    /// The client-made id of an unknown user.
    pub anonymous_id: Option<&'a str>,
    /// The service that sent it.
    pub service_name: Option<&'a str>,
    /// The client's own session id; kept, not used for sessions.
    pub session_id: Option<&'a str>,
    /// ISO country code or whatever the client says.
    pub country: Option<&'a str>,
    /// `tv`, `mobile`, `desktop`, …
    pub device_type: Option<&'a str>,
    /// Version of the client's application.
    pub app_version: Option<&'a str>,
    /// What was viewed.
    pub content_id: Option<&'a str>,
    /// The kind of content.
    pub content_category: Option<&'a str>,
    /// `free`, `premium`, …
    pub subscription_tier: Option<&'a str>,
    /// Experiment or acquisition cohort.
    pub cohort: Option<&'a str>,
    /// Marketing channel.
    pub channel: Option<&'a str>,
    /// Length in seconds; finite.
    pub session_duration_sec: Option<f64>,
    /// Whether the content was seen to its end.
    pub completed: Option<bool>,
    /// Everything else: the text of one JSON object, masked.
    pub properties: Option<&'a str>,
}

/// A text field of an event that can be a dimension or a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// [`Event::event_type`]
    EventType,
    /// [`Event::country`]
    Country,
    /// [`Event::device_type`]
    DeviceType,
    /// [`Event::content_category`]
    ContentCategory,
    /// [`Event::content_id`]
    ContentId,
    /// [`Event::app_version`]
    AppVersion,
    /// [`Event::subscription_tier`]
    SubscriptionTier,
    /// [`Event::cohort`]
    Cohort,
    /// [`Event::channel`]
    Channel,
    /// [`Event::service_name`]
    ServiceName,
}

impl Field {
    /// Every field, in the order of the built-in dimensions.
    pub const ALL: [Self; 10] = [
        Self::EventType,
        Self::Country,
        Self::DeviceType,
        Self::ContentCategory,
        Self::ContentId,
        Self::AppVersion,
        Self::SubscriptionTier,
        Self::Cohort,
        Self::Channel,
        Self::ServiceName,
    ];

    /// The name in JSON, in queries and in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EventType => "event_type",
            Self::Country => "country",
            Self::DeviceType => "device_type",
            Self::ContentCategory => "content_category",
            Self::ContentId => "content_id",
            Self::AppVersion => "app_version",
            Self::SubscriptionTier => "subscription_tier",
            Self::Cohort => "cohort",
            Self::Channel => "channel",
            Self::ServiceName => "service_name",
        }
    }

    /// The field of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == name)
    }
}

impl<'a> Event<'a> {
    /// Whose it is; `None` where the event names nobody, which the gateway never accepts.
    #[must_use]
    pub fn user_key(&self) -> Option<UserKey<'a>> {
        self.user_id
            .map(UserKey::User)
            .or(self.anonymous_id.map(UserKey::Anonymous))
            .or(self.service_name.map(UserKey::Service))
    }

    /// The value of a text field.
    #[must_use]
    #[inline]
    pub const fn text(&self, field: Field) -> Option<&'a str> {
        match field {
            Field::EventType => Some(self.event_type),
            Field::Country => self.country,
            Field::DeviceType => self.device_type,
            Field::ContentCategory => self.content_category,
            Field::ContentId => self.content_id,
            Field::AppVersion => self.app_version,
            Field::SubscriptionTier => self.subscription_tier,
            Field::Cohort => self.cohort,
            Field::Channel => self.channel,
            Field::ServiceName => self.service_name,
        }
    }
}
