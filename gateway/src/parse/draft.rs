//! A draft: what an event says, typed, before it is judged, masked and stamped.

use std::borrow::Cow;

use nilometer_event::{EventTime, NoTime};

/// The text fields of an event, in the order of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum TextField {
    EventId,
    EventType,
    UserId,
    AnonymousId,
    ServiceName,
    SessionId,
    Country,
    DeviceType,
    AppVersion,
    ContentId,
    ContentCategory,
    SubscriptionTier,
    Cohort,
    Channel,
}

/// How many text fields there are.
pub(crate) const TEXTS: usize = 14;

impl TextField {
    pub(crate) const ALL: [Self; TEXTS] = [
        Self::EventId,
        Self::EventType,
        Self::UserId,
        Self::AnonymousId,
        Self::ServiceName,
        Self::SessionId,
        Self::Country,
        Self::DeviceType,
        Self::AppVersion,
        Self::ContentId,
        Self::ContentCategory,
        Self::SubscriptionTier,
        Self::Cohort,
        Self::Channel,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::EventId => "event_id",
            Self::EventType => "event_type",
            Self::UserId => "user_id",
            Self::AnonymousId => "anonymous_id",
            Self::ServiceName => "service_name",
            Self::SessionId => "session_id",
            Self::Country => "country",
            Self::DeviceType => "device_type",
            Self::AppVersion => "app_version",
            Self::ContentId => "content_id",
            Self::ContentCategory => "content_category",
            Self::SubscriptionTier => "subscription_tier",
            Self::Cohort => "cohort",
            Self::Channel => "channel",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match Name::of(name)? {
            Name::Text(field) => Some(field),
            _ => None,
        }
    }

    pub(crate) const fn is_user_key(self) -> bool {
        matches!(self, Self::UserId | Self::AnonymousId | Self::ServiceName)
    }

    /// True for ids, which may come as integers: their decimal text is what counts.
    pub(crate) const fn is_id(self) -> bool {
        matches!(self, Self::EventId | Self::SessionId | Self::ContentId) || self.is_user_key()
    }
}

/// What a member of an event is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Text(TextField),
    Timestamp,
    SentAt,
    SessionDurationSec,
    Completed,
    Properties,
}

impl Name {
    /// The known member of that name. A match on a string compares lengths first.
    #[inline]
    pub(crate) fn of(name: &str) -> Option<Self> {
        Some(match name.as_bytes() {
            b"event_id" => Self::Text(TextField::EventId),
            b"event_type" => Self::Text(TextField::EventType),
            b"user_id" => Self::Text(TextField::UserId),
            b"anonymous_id" => Self::Text(TextField::AnonymousId),
            b"service_name" => Self::Text(TextField::ServiceName),
            b"session_id" => Self::Text(TextField::SessionId),
            b"country" => Self::Text(TextField::Country),
            b"device_type" => Self::Text(TextField::DeviceType),
            b"app_version" => Self::Text(TextField::AppVersion),
            b"content_id" => Self::Text(TextField::ContentId),
            b"content_category" => Self::Text(TextField::ContentCategory),
            b"subscription_tier" => Self::Text(TextField::SubscriptionTier),
            b"cohort" => Self::Text(TextField::Cohort),
            b"channel" => Self::Text(TextField::Channel),
            b"timestamp" => Self::Timestamp,
            b"sent_at" => Self::SentAt,
            b"session_duration_sec" => Self::SessionDurationSec,
            b"completed" => Self::Completed,
            b"properties" => Self::Properties,
            _ => return None,
        })
    }

    /// One bit each, to notice a member that comes twice.
    pub(crate) const fn bit(self) -> u32 {
        match self {
            Self::Text(field) => 1 << field as u32,
            Self::Timestamp => 1 << 14,
            Self::SentAt => 1 << 15,
            Self::SessionDurationSec => 1 << 16,
            Self::Completed => 1 << 17,
            Self::Properties => 1 << 18,
        }
    }
}

/// What an event says: types and limits are checked, meaning is not.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Draft<'a> {
    pub(crate) texts: [Option<Cow<'a, str>>; TEXTS],
    pub(crate) timestamp: Option<EventTime>,
    pub(crate) sent_at: Option<EventTime>,
    pub(crate) session_duration_sec: Option<f64>,
    pub(crate) completed: Option<bool>,
    /// The text of one JSON object, what was unknown at the top level included.
    pub(crate) properties: Option<Cow<'a, str>>,
}

impl Draft<'_> {
    pub(crate) fn text(&self, field: TextField) -> Option<&str> {
        self.texts[field as usize].as_deref()
    }
}

/// A time as the text of a JSON number: epoch milliseconds, a plain integer.
pub(crate) fn time_of_number(number: &str) -> Option<Result<EventTime, NoTime>> {
    let digits = number.strip_prefix('-').unwrap_or(number);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    number.parse().ok().map(EventTime::from_given_ms)
}

/// The text of a JSON number as an id, exactly: a plain integer of any length. There are
/// several ways to write `1.0`, `1e3` and `-0`, and each would be another id.
pub(crate) fn id_of_number(number: &str) -> Option<&str> {
    let digits = number.strip_prefix('-').unwrap_or(number);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    (plain && number != "-0").then_some(number)
}

/// A duration as the text of a JSON number, if it is not negative and its micro-seconds fit
/// 64 bits.
pub(crate) fn duration_of_number(number: &str) -> Option<f64> {
    // 2^63 is a double; everything below it rounds into 64 bits.
    const MICROS_END: f64 = 9_223_372_036_854_775_808.0;
    let seconds: f64 = number.parse().ok()?;
    let micros = (seconds * 1e6).round();
    // Of the two zeros the one without a sign.
    (seconds >= 0.0 && micros < MICROS_END).then_some(seconds.abs())
}
