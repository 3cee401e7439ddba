//! The live tail: the newest events as they lie in the log.

use nilometer_access::Problem;
use nilometer_event::{Event, Field, Partition, Topic, UserKey, avro};
use nilometer_log::Log;
use nilometer_rollups::declare::{EventFacts, Plan, Unread};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::backwards::{Backwards, Kept, newest};
use super::{cursor, unreadable};
use crate::ask::{Filter, Member};

/// Events of one answer at most.
pub const TAIL_LIMIT_MAX: usize = 500;
/// Records that one answer looks at in search of matches.
const SCANNED_MAX: usize = 20_000;
/// Topics that hold events of producers.
pub(super) const EVENT_TOPICS: [Topic; 4] =
    [Topic::UserEvents, Topic::ContentViews, Topic::ServerEvents, Topic::Imports];

/// One event as it lies in the log, masked; it may be a repeat.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TailEvent {
    /// Where it lies.
    pub topic: &'static str,
    /// Where it lies.
    pub partition: u16,
    /// Where it lies.
    pub offset: u64,
    /// When it was accepted.
    pub received_at: String,
    /// When it happened.
    pub timestamp: String,
    /// Its id.
    pub event_id: String,
    /// What happened.
    pub event_type: String,
    /// Whose it is.
    pub user_key: String,
    /// `user`, `anonymous` or `service`.
    pub user_kind: &'static str,
    /// The id of the key that sent it; absent where that was not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key's source; absent for the default one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The client's session id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Its dimensions, those that it carries.
    #[serde(flatten)]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub dimensions: std::collections::BTreeMap<&'static str, String>,
    /// Length in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_duration_sec: Option<f64>,
    /// Whether the content was seen to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed: Option<bool>,
    /// Everything else.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub properties: Option<Box<RawValue>>,
    /// Metrics that count the event without its number, which is none or does not fit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<String>,
}

/// The newest events.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Tail {
    /// Oldest first.
    pub events: Vec<TailEvent>,
    /// Give it back as `after` for what comes next.
    pub cursor: String,
    /// True where more came since `after` than one answer shows: the older ones were skipped.
    pub skipped: bool,
}

/// What events can be filtered by beside their fields.
const BESIDE_FIELDS: [&str; 3] = ["user_key", "key", "source"];

/// Which events: all filters must hold.
#[derive(Clone, Debug, Default)]
pub struct TailFilter(pub Vec<Filter>);

impl TailFilter {
    /// Checks that every filter names a field of events.
    ///
    /// # Errors
    ///
    /// 400 `unknown_dimension`.
    pub fn check(&self) -> Result<(), Problem> {
        for filter in &self.0 {
            let name = filter.dimension.as_str();
            if !BESIDE_FIELDS.contains(&name) && Field::from_name(name).is_none() {
                let known = Field::ALL.into_iter().map(Field::name).chain(BESIDE_FIELDS);
                return Err(crate::door::unknown(
                    "unknown_dimension",
                    "filter",
                    &filter.dimension,
                    known,
                ));
            }
        }
        Ok(())
    }

    fn admits(&self, event: &Event<'_>) -> bool {
        self.0.iter().all(|filter| {
            let found = match (Field::from_name(&filter.dimension), filter.dimension.as_str()) {
                (Some(field), _) => event.text(field),
                (None, "key") => event.key,
                (None, "source") => event.source,
                (None, _) => event.user_key().map(UserKey::text),
            };
            filter.rule.admits(&Member::of(found))
        })
    }
}

/// Reads the newest `limit` events that match, or those that came since the cursor `after`;
/// `plan` has the metrics that count them.
///
/// # Errors
///
/// 400 `bad_cursor`; 503 where the log cannot be read.
pub fn tail(
    log: &dyn Log,
    plan: &Plan,
    filter: &TailFilter,
    after: Option<&str>,
    limit: usize,
) -> Result<Tail, Problem> {
    let places: Vec<(Topic, Partition)> = EVENT_TOPICS
        .into_iter()
        .flat_map(|topic| log.partitions().partitions().map(move |partition| (topic, partition)))
        .collect();
    let after = match after {
        Some(text) => Some(cursor::read("after", text, places.len())?),
        None => None,
    };
    let mut walks = Vec::with_capacity(places.len());
    let mut ends = Vec::with_capacity(places.len());
    for (index, (topic, partition)) in places.into_iter().enumerate() {
        let bounds = log.bounds(topic, partition);
        let (start, end) = (bounds.start.get(), bounds.end.get());
        let floor = after.as_ref().map_or(start, |after| after[index].clamp(start, end));
        walks.push(Backwards::new(log, topic, partition, floor, end));
        ends.push(end);
    }
    let unread = Unread::of(plan);
    let mut events = Vec::new();
    let mut skipped = after.is_some();
    for _ in 0..SCANNED_MAX {
        if events.len() >= limit {
            break;
        }
        let Some(kept) = newest(&mut walks).map_err(|error| unreadable(&error))? else {
            skipped = false;
            break;
        };
        // What is no event is quarantined by the stream, which names it.
        if let Ok(event) = avro::decode(&kept.value)
            && filter.admits(&event)
        {
            let mut shown = shown(&kept, &event);
            unread.each(&EventFacts::by(&event, plan.numbers), |metric| {
                shown.unread.push(plan.metrics[metric].name.clone());
            });
            events.push(shown);
        }
    }
    if skipped {
        skipped = anything_left(&mut walks)?;
    }
    events.reverse();
    Ok(Tail { events, cursor: cursor::write(ends), skipped })
}

fn anything_left(walks: &mut [Backwards<'_>]) -> Result<bool, Problem> {
    for walk in walks {
        if walk.peek().map_err(|error| unreadable(&error))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn shown(kept: &Kept, event: &Event<'_>) -> TailEvent {
    let user = event.user_key();
    let dimensions = Field::ALL
        .into_iter()
        .filter(|field| *field != Field::EventType)
        .filter_map(|field| Some((field.name(), event.text(field)?.to_owned())))
        .collect();
    TailEvent {
        topic: kept.topic.name(),
        partition: kept.partition.get(),
        offset: kept.offset.get(),
        received_at: event.received_at.to_string(),
        timestamp: event.timestamp.to_string(),
        event_id: event.event_id.to_owned(),
        event_type: event.event_type.to_owned(),
        user_key: user.map_or_else(String::new, |user| user.text().to_owned()),
        user_kind: user.map_or("", kind_name),
        key: event.key.map(str::to_owned),
        source: event.source.map(str::to_owned),
        session_id: event.session_id.map(str::to_owned),
        dimensions,
        session_duration_sec: event.session_duration_sec,
        completed: event.completed,
        properties: event.properties.and_then(|text| RawValue::from_string(text.to_owned()).ok()),
        unread: Vec::new(),
    }
}

pub(super) const fn kind_name(user: UserKey<'_>) -> &'static str {
    match user {
        UserKey::User(_) => "user",
        UserKey::Anonymous(_) => "anonymous",
        UserKey::Service(_) => "service",
    }
}
