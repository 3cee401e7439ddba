//! What always exists: the built-in dimensions, cubes and metrics.

use nilometer_event::Field;

/// Largest first dimension list of each cube; subsets come with it.
pub(super) const CUBES: [&[Field]; 8] = [
    &[Field::Country, Field::DeviceType, Field::ContentCategory],
    &[Field::ContentId],
    &[Field::ServiceName],
    &[Field::EventType, Field::Country],
    &[Field::AppVersion, Field::Country],
    &[Field::SubscriptionTier, Field::Country],
    &[Field::Cohort, Field::Country],
    &[Field::Channel, Field::Country],
];

/// Dimensions that sessions keep, each by itself.
pub(super) const SESSION_DIMENSIONS: [Field; 4] =
    [Field::Country, Field::DeviceType, Field::Channel, Field::SubscriptionTier];

pub(super) const fn describe(field: Field) -> &'static str {
    match field {
        Field::EventType => "What happened, such as page_view or play_start",
        Field::Country => "Where it happened, as an ISO 3166 code",
        Field::DeviceType => "What it happened on, such as tv, mobile or desktop",
        Field::ContentCategory => "The kind of content",
        Field::ContentId => "The piece of content",
        Field::AppVersion => "The version of the client's application",
        Field::SubscriptionTier => "The user's subscription, such as free or premium",
        Field::Cohort => "The user's experiment or acquisition cohort",
        Field::Channel => "The marketing channel",
        Field::ServiceName => "The service that sent the event",
    }
}

/// Decimal digits of `session_duration_sec`: microseconds.
pub(super) const DURATION_SCALE: u8 = 6;

/// How a built-in metric is read; [`super::compile`] finds its slots.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reading {
    Events,
    EventsPerSecond,
    Users,
    ActiveNow,
    Rolling(u32),
    DurationSum,
    DurationAvg,
    DurationQuantile(u32),
    Completions,
    CompletionRate,
    Views,
    ClickThroughRate,
    Sessions,
    SessionAvg,
    SessionQuantile(u32),
    BounceRate,
    EngagementRate,
}

/// Name, title, unit, reading, description.
pub(super) type Builtin = (&'static str, &'static str, &'static str, Reading, &'static str);

pub(super) const METRICS: [Builtin; 21] = [
    ("events", "Events", "", Reading::Events, "Events, each once"),
    (
        "events_per_second",
        "Events per second",
        "1/s",
        Reading::EventsPerSecond,
        "Events divided by the elapsed length of the window",
    ),
    (
        "unique_users",
        "Unique users",
        "",
        Reading::Users,
        "Distinct user_id, else anonymous_id; a service is no user",
    ),
    (
        "active_now",
        "Active now",
        "",
        Reading::ActiveNow,
        "Distinct users of the five minutes that end with the window",
    ),
    ("dau", "Daily active users", "", Reading::Rolling(1), "Distinct users of the UTC day"),
    (
        "wau",
        "Weekly active users",
        "",
        Reading::Rolling(7),
        "Distinct users of the 7 UTC days that end with the window's last",
    ),
    (
        "mau",
        "Monthly active users",
        "",
        Reading::Rolling(30),
        "Distinct users of the 30 UTC days that end with the window's last",
    ),
    ("total_duration", "Total duration", "s", Reading::DurationSum, "Sum of session_duration_sec"),
    (
        "avg_duration",
        "Average duration",
        "s",
        Reading::DurationAvg,
        "Mean of session_duration_sec over events that carry it",
    ),
    (
        "p50_duration",
        "Median duration",
        "s",
        Reading::DurationQuantile(500_000),
        "Median of session_duration_sec over events that carry it",
    ),
    (
        "p95_duration",
        "95th percentile of duration",
        "s",
        Reading::DurationQuantile(950_000),
        "95th percentile of session_duration_sec over events that carry it",
    ),
    ("completions", "Completions", "", Reading::Completions, "Events with completed true"),
    (
        "completion_rate",
        "Completion rate",
        "",
        Reading::CompletionRate,
        "Completions divided by events that carry completed",
    ),
    ("content_views", "Content views", "", Reading::Views, "Events of the view types"),
    (
        "click_through_rate",
        "Click-through rate",
        "",
        Reading::ClickThroughRate,
        "Events of the click types divided by events of the impression and view types",
    ),
    (
        "sessions",
        "Sessions",
        "",
        Reading::Sessions,
        "Sessions by their start; a gap over 30 minutes opens a new one",
    ),
    (
        "avg_session_duration",
        "Average session duration",
        "s",
        Reading::SessionAvg,
        "Mean of last minus first event",
    ),
    (
        "p50_session_duration",
        "Median session duration",
        "s",
        Reading::SessionQuantile(500_000),
        "Median of last minus first event",
    ),
    (
        "p95_session_duration",
        "95th percentile of session duration",
        "s",
        Reading::SessionQuantile(950_000),
        "95th percentile of last minus first event",
    ),
    ("bounce_rate", "Bounce rate", "", Reading::BounceRate, "Share of sessions with one event"),
    (
        "engagement_rate",
        "Engagement rate",
        "",
        Reading::EngagementRate,
        "Share of sessions of at least 10 s, or 2 views, or with a conversion",
    ),
];
