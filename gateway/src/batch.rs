//! One body to records: every event judged, masked, stamped and routed, in one pass.

mod frame;
pub use frame::BodyFormat;
pub(crate) use frame::{FrameError, Framed, Frames};

mod time;
pub(crate) use time::Corrected;
use time::Receipt;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::num::NonZeroU32;

use nilometer_access::{Principal, Quotas, SourceName};
use nilometer_event::{
    DeadLetter, Event, EventTime, IdentityKey, PartitionCount, ReceiveTime, TimeCorrection, Topic,
    UserHash, UserKey, avro,
};
use nilometer_log::{AppendBatch, RecordsBuilder};
use serde::Serialize;

use crate::mask::FieldRule;
use crate::parse::{Draft, Parsed, TextField, full};
use crate::refusal::{self, CODES, EVENT_TYPE_NOT_ALLOWED, Refusal, USER_ID_INVALID};
use crate::{GatewayPlan, Masker};

/// By which door events came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `/v1/events`
    Events,
    /// `/v1/imports/{name}/events`
    Import {
        /// The import's name as sent; masked wherever it is written.
        name: String,
    },
}

impl Source {
    /// From the text of a dead letter: `events`, or `imports/NAME`.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        match text.strip_prefix("imports/") {
            Some(name) => Self::Import { name: name.to_owned() },
            None => Self::Events,
        }
    }

    fn text(&self, masker: &Masker) -> String {
        match self {
            Self::Events => "events".to_owned(),
            Self::Import { name } => format!("imports/{}", masker.text(name)),
        }
    }
}

/// One rejected event, as the answer names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventError {
    /// Place in the body, from 0.
    pub index: usize,
    /// The client's id, masked, where one could be read.
    pub event_id: Option<String>,
    /// Stable reason.
    pub code: &'static str,
    /// The reason in words, masked.
    pub message: String,
}

/// The answer to a body that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IngestAnswer {
    /// Events that are durable on the event topics.
    pub accepted: usize,
    /// Events that are durable in the dead letters.
    pub rejected: usize,
    /// The first hundred rejected events.
    pub errors: Vec<EventError>,
    /// All rejected events by their code, where there are more than `errors` names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rejected_by_code: BTreeMap<&'static str, u64>,
}

/// What all events of a batch have in common.
pub(crate) struct Context<'c> {
    pub(crate) plan: &'c GatewayPlan,
    pub(crate) masker: &'c Masker,
    pub(crate) identity: &'c IdentityKey,
    pub(crate) partitions: PartitionCount,
    pub(crate) source: &'c Source,
    /// What narrows the key; `None` for the house itself, and for letters that are sent once more.
    pub(crate) principal: Option<&'c Principal>,
    pub(crate) sent_by: SentBy<'c>,
    pub(crate) now: ReceiveTime,
    /// When it came first: earlier than now for a letter that is sent once more.
    pub(crate) received_at: ReceiveTime,
    /// The wall clock, where the house clock is far ahead of it: what clients are taken to go by
    /// who do not say.
    pub(crate) wall: Option<EventTime>,
}

/// The key that records carry, and what of it decides results.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SentBy<'c> {
    /// The key's id; `None` for the house itself.
    pub(crate) key: Option<&'c str>,
    /// `None` for the default one.
    pub(crate) source: Option<&'c str>,
    /// How many new values of a dimension the key may bring to a shard's day.
    pub(crate) values_max: Option<u32>,
}

impl<'c> SentBy<'c> {
    /// A key, as of now.
    pub(crate) fn of(principal: &'c Principal, quotas: &Quotas) -> Self {
        Self {
            key: Some(&principal.key_id),
            source: principal.source.as_ref().map(SourceName::as_str),
            values_max: quotas.quota_of(principal).values_per_day.map(NonZeroU32::get),
        }
    }
}

/// Rejected events that an answer names one by one; all of them are dead letters.
const ERRORS_MAX: usize = 100;

/// A builder begins with so much room at most; where more comes, it grows.
const BUILDER_BYTES_MAX: usize = 64 << 10;

/// A body's records under construction.
pub(crate) struct Batch<'c> {
    context: Context<'c>,
    source: String,
    /// By topic and partition.
    builders: Vec<Option<RecordsBuilder>>,
    /// Room that a builder begins with: its part of a body whose users are spread evenly.
    builder_bytes: usize,
    record: Vec<u8>,
    id: String,
    content: Vec<u8>,
    count: usize,
    record_bytes: usize,
    answer: IngestAnswer,
    codes: [u64; CODES.len()],
    masked: MaskedFields,
    corrected: Corrected,
}

/// How many values masking changed, by field: `user_id`, `properties.NAME`, `dead letter`.
pub(crate) type MaskedFields = BTreeMap<String, u64>;

/// What a body became.
pub(crate) struct Batched {
    pub(crate) batches: Vec<AppendBatch>,
    pub(crate) answer: IngestAnswer,
    /// Rejected events by code, in the order of [`CODES`].
    pub(crate) codes: [u64; CODES.len()],
    pub(crate) masked: MaskedFields,
    pub(crate) corrected: Corrected,
}

/// When the envelope was sent, looked for once.
pub(crate) type SentAt<'s> = &'s dyn Fn() -> Result<Option<EventTime>, Refusal>;

impl<'c> Batch<'c> {
    /// For the events of a body of so many bytes.
    pub(crate) fn new(context: Context<'c>, body_bytes: usize) -> Self {
        let places = Topic::ALL.len() * usize::from(context.partitions.get());
        Self {
            source: context.source.text(context.masker),
            builders: (0..places).map(|_| None).collect(),
            builder_bytes: (body_bytes / usize::from(context.partitions.get()))
                .min(BUILDER_BYTES_MAX),
            record: Vec::with_capacity(1_024),
            id: String::new(),
            content: Vec::new(),
            count: 0,
            record_bytes: 0,
            answer: IngestAnswer::default(),
            codes: [0; CODES.len()],
            masked: MaskedFields::new(),
            corrected: Corrected::default(),
            context,
        }
    }

    /// Takes the next event, good or bad.
    pub(crate) fn take(&mut self, parsed: Parsed<'_>, sent_at: SentAt<'_>) {
        let raw = parsed.raw;
        let outcome = parsed.verdict.and_then(|draft| self.accept(raw, &draft, sent_at));
        match outcome {
            Ok(()) => self.answer.accepted += 1,
            // A time that is none is no word of the envelope.
            Err(refusal) => self.reject(raw, &refusal, sent_at().ok().flatten()),
        }
        self.count += 1;
    }

    /// Events taken so far.
    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// Bytes of records made so far.
    pub(crate) const fn record_bytes(&self) -> usize {
        self.record_bytes
    }

    pub(crate) fn finish(mut self) -> Batched {
        let partitions = self.context.partitions;
        let places = Topic::ALL
            .into_iter()
            .flat_map(|topic| partitions.partitions().map(move |partition| (topic, partition)));
        let batches = places
            .zip(self.builders.iter_mut().map(Option::take))
            .filter_map(|((topic, partition), builder)| {
                Some(AppendBatch { topic, partition, records: builder?.build() })
            })
            .collect();
        let Self { mut answer, codes, masked, corrected, .. } = self;
        if answer.rejected > answer.errors.len() {
            let counts = CODES.into_iter().zip(codes).filter(|(_, count)| *count > 0);
            answer.rejected_by_code = counts.collect();
        }
        Batched { batches, answer, codes, masked, corrected }
    }

    /// Judges, masks, stamps, encodes and routes one event; nothing is kept of a refused one.
    pub(crate) fn accept(
        &mut self,
        raw: &[u8],
        draft: &Draft<'_>,
        sent_at: SentAt<'_>,
    ) -> Result<(), Refusal> {
        let sent_timestamp = judge(raw, draft, self.context.plan, self.context.principal)?;
        let masked = Masked::of(self.context.masker, raw, draft, &mut self.masked);
        let id_derived = draft.text(TextField::EventId).is_none();
        if id_derived {
            self.derive_id(raw);
        }
        let (timestamp, time_correction) = self.counted_at(draft, sent_timestamp, sent_at)?;
        let event = Event {
            received_at: self.context.now,
            timestamp,
            time_correction,
            id_derived,
            key: self.context.sent_by.key,
            source: self.context.sent_by.source,
            values_max: self.context.sent_by.values_max,
            sent_timestamp,
            event_id: masked.text(draft, TextField::EventId).unwrap_or(&self.id),
            event_type: masked.text(draft, TextField::EventType).unwrap_or_default(),
            user_id: masked.key(draft, TextField::UserId),
            anonymous_id: masked.key(draft, TextField::AnonymousId),
            service_name: masked.key(draft, TextField::ServiceName),
            session_id: masked.text(draft, TextField::SessionId),
            country: masked.text(draft, TextField::Country),
            device_type: masked.text(draft, TextField::DeviceType),
            app_version: masked.text(draft, TextField::AppVersion),
            content_id: masked.text(draft, TextField::ContentId),
            content_category: masked.text(draft, TextField::ContentCategory),
            subscription_tier: masked.text(draft, TextField::SubscriptionTier),
            cohort: masked.text(draft, TextField::Cohort),
            channel: masked.text(draft, TextField::Channel),
            session_duration_sec: masked.session_duration_sec,
            completed: masked.completed,
            properties: masked.properties.as_deref().or(draft.properties.as_deref()),
        };
        let Some(user_key) = event.user_key() else {
            return Err(Refusal::schema(NO_USER_KEY));
        };
        let topic = self.topic(draft, user_key);
        self.record.clear();
        avro::encode(&event, &mut self.record);
        self.push(topic, self.context.identity.user(user_key));
        self.corrected.note(time_correction);
        Ok(())
    }

    fn topic(&self, draft: &Draft<'_>, user_key: UserKey<'_>) -> Topic {
        if matches!(self.context.source, Source::Import { .. }) {
            return Topic::Imports;
        }
        if !user_key.is_user() {
            return Topic::ServerEvents;
        }
        let event_type = draft.text(TextField::EventType).unwrap_or_default();
        let views = &self.context.plan.view_types;
        if views.iter().any(|view| view.eq_ignore_ascii_case(event_type)) {
            Topic::ContentViews
        } else {
            Topic::UserEvents
        }
    }

    /// From the bytes exactly as sent, before masking and correction (docs/api.md, "Sending
    /// events").
    fn derive_id(&mut self, raw: &[u8]) {
        let content = match self.context.source {
            Source::Events => self.context.identity.content(raw),
            Source::Import { name } => {
                self.content.clear();
                self.content.extend_from_slice(name.as_bytes());
                self.content.push(0);
                self.content.extend_from_slice(raw);
                self.context.identity.content(&self.content)
            }
        };
        self.id.clear();
        write!(self.id, "d-{content:032x}").expect("a string takes any text");
    }

    /// The time at which an event counts, and what was done to it.
    fn counted_at(
        &self,
        draft: &Draft<'_>,
        time: EventTime,
        sent_at: SentAt<'_>,
    ) -> Result<(EventTime, TimeCorrection), Refusal> {
        // The envelope speaks for all of its events, in whatever they say.
        let of_envelope = sent_at()?;
        let context = &self.context;
        let receipt = Receipt {
            now: context.now,
            received_at: context.received_at,
            sent_at: of_envelope.or(draft.sent_at).or(context.wall),
            tolerance_ms: context.plan.future_ms_max,
        };
        match context.source {
            Source::Events => Ok(receipt.live(time)),
            Source::Import { .. } => Ok((receipt.imported(time)?, TimeCorrection::None)),
        }
    }

    fn push(&mut self, topic: Topic, hash: UserHash) {
        self.record_bytes += self.record.len();
        let partitions = self.context.partitions;
        let place =
            topic as usize * usize::from(partitions.get()) + partitions.partition_of(hash).index();
        let builder = self.builders[place]
            .get_or_insert_with(|| RecordsBuilder::with_capacity(self.builder_bytes));
        builder.push(self.context.now, None, &self.record);
    }

    fn reject(&mut self, raw: &[u8], refusal: &Refusal, sent_at: Option<EventTime>) {
        let masker = self.context.masker;
        let glimpse = full::glimpse(raw);
        let mask = |field: TextField, text: Option<String>| {
            text.filter(|text| !text.is_empty()).and_then(|text| masked_value(masker, field, &text))
        };
        let event_id = mask(TextField::EventId, glimpse.event_id);
        let event_type = mask(TextField::EventType, glimpse.event_type);
        let user_id = mask(TextField::UserId, glimpse.user_id);
        let anonymous_id = mask(TextField::AnonymousId, glimpse.anonymous_id);
        let service_name = mask(TextField::ServiceName, glimpse.service_name);
        let user_key = user_id
            .as_deref()
            .map(UserKey::User)
            .or(anonymous_id.as_deref().map(UserKey::Anonymous))
            .or(service_name.as_deref().map(UserKey::Service));
        let mut changed = 0;
        let body = masker.body(raw, &mut |_name| changed += 1);
        if changed > 0 {
            *self.masked.entry("dead letter".to_owned()).or_default() += changed;
        }
        let message = masker.text(&refusal.message);
        let message = refusal::cut(&message);
        let letter = DeadLetter {
            received_at: self.context.now,
            code: refusal.code,
            message: &message,
            event_id: event_id.as_deref(),
            user_key: user_key.map(UserKey::text),
            event_type: event_type.as_deref(),
            source: &self.source,
            body: &body[..body.floor_char_boundary(self.context.plan.limits.event_bytes_max)],
            sent_at,
            key: self.context.sent_by.key,
            key_source: self.context.sent_by.source,
        };
        self.record.clear();
        letter.encode(&mut self.record);
        let hash = match user_key {
            Some(user_key) => self.context.identity.user(user_key),
            None => self.context.identity.keyless(letter.body.as_bytes()),
        };
        self.push(Topic::DeadLetters, hash);
        if let Some(code) = CODES.iter().position(|code| *code == refusal.code) {
            self.codes[code] += 1;
        }
        if self.answer.errors.len() < ERRORS_MAX {
            let (event_id, message) = (event_id.map(shown), message.into_owned());
            let error = EventError { index: self.count, event_id, code: refusal.code, message };
            self.answer.errors.push(error);
        }
        self.answer.rejected += 1;
    }

    /// The one error of a batch that was only tried, as of [`Batch::accept`].
    pub(crate) fn error(&self, raw: &[u8], refusal: &Refusal) -> EventError {
        let masker = self.context.masker;
        let event_id = full::glimpse(raw)
            .event_id
            .and_then(|text| masked_value(masker, TextField::EventId, &text));
        let message = refusal::cut(&masker.text(&refusal.message)).into_owned();
        let event_id = event_id.map(shown);
        EventError { index: self.count, event_id, code: refusal.code, message }
    }
}

/// An id as an answer repeats it: no answer grows with what was sent.
fn shown(event_id: String) -> String {
    refusal::cut(&event_id).into_owned()
}

const NO_ENVELOPE: &str = "field event_type: is required, not empty; the object is no envelope, which has no event_type, \
     and one member events, an array, not an empty one beside fields of an event";

const NO_USER_KEY: &str = "one of user_id, anonymous_id, service_name: is required, not empty";

/// What an event must have beyond right types; gives its time.
fn judge(
    raw: &[u8],
    draft: &Draft<'_>,
    plan: &GatewayPlan,
    principal: Option<&Principal>,
) -> Result<EventTime, Refusal> {
    let event_type = match draft.text(TextField::EventType) {
        Some(event_type) if !event_type.is_empty() => event_type,
        // Who wrote an envelope, or meant to, is told why it is none.
        _ if full::has_member(raw, "events") => return Err(Refusal::schema(NO_ENVELOPE)),
        _ => return Err(Refusal::schema("field event_type: is required, not empty")),
    };
    let Some(timestamp) = draft.timestamp else {
        return Err(Refusal::schema(
            "field timestamp: is required, an RFC 3339 time or epoch milliseconds",
        ));
    };
    if draft.text(TextField::EventId) == Some("") {
        return Err(Refusal::schema("field event_id: must not be empty; leave it out instead"));
    }
    let named = [TextField::UserId, TextField::AnonymousId, TextField::ServiceName]
        .into_iter()
        .any(|field| draft.text(field).is_some_and(|key| !key.is_empty()));
    if !named {
        return Err(Refusal::schema(NO_USER_KEY));
    }
    for field in [TextField::UserId, TextField::AnonymousId] {
        let id = draft.text(field).filter(|id| !id.is_empty());
        if let Some(id) = id.filter(|id| plan.names_nobody(id)) {
            let name = field.name();
            let message = format!(
                "field {name}: {id:?} names nobody, and would make one user of all who have it; \
                 leave the field out (gateway.no_user_ids)"
            );
            return Err(Refusal::new(USER_ID_INVALID, message));
        }
    }
    if principal.is_some_and(|principal| !principal.allows_event_type(event_type)) {
        let message = format!(
            "field event_type: this key may not send {event_type}; send it by another key \
             (nilometer keys create)"
        );
        return Err(Refusal::new(EVENT_TYPE_NOT_ALLOWED, message));
    }
    Ok(timestamp)
}

/// The fields of a draft that masking changed; empty for the usual event.
struct Masked {
    texts: Option<Box<[Option<Option<String>>; crate::parse::TEXTS]>>,
    properties: Option<String>,
    session_duration_sec: Option<f64>,
    completed: Option<bool>,
}

impl Masked {
    fn of(masker: &Masker, raw: &[u8], draft: &Draft<'_>, counts: &mut MaskedFields) -> Self {
        let mut masked = Self {
            texts: None,
            properties: None,
            session_duration_sec: draft.session_duration_sec,
            completed: draft.completed,
        };
        if masker.is_clean(raw) {
            return masked;
        }
        for field in TextField::ALL {
            let Some(text) = draft.text(field) else { continue };
            let value = masked_value(masker, field, text);
            if value.as_deref() != Some(text) {
                *counts.entry(field.name().to_owned()).or_default() += 1;
                masked.texts.get_or_insert_default()[field as usize] = Some(value);
            }
        }
        if let Some(properties) = draft.properties.as_deref()
            && masker.rule("properties") != FieldRule::Exempt
        {
            let mut note = |name: &str| {
                *counts.entry(format!("properties.{name}")).or_default() += 1;
            };
            if let Cow::Owned(changed) = masker.json(properties, &mut note) {
                masked.properties = Some(changed);
            }
        }
        if masker.rule("properties") == FieldRule::Drop {
            masked.properties = Some("{}".to_owned());
        }
        if masker.rule("session_duration_sec") == FieldRule::Drop {
            masked.session_duration_sec = None;
        }
        if masker.rule("completed") == FieldRule::Drop {
            masked.completed = None;
        }
        masked
    }

    fn text<'t>(&'t self, draft: &'t Draft<'_>, field: TextField) -> Option<&'t str> {
        match self.texts.as_ref().and_then(|texts| texts[field as usize].as_ref()) {
            Some(changed) => changed.as_deref(),
            None => draft.text(field),
        }
    }

    /// A part of the user key; an empty one names nobody.
    fn key<'t>(&'t self, draft: &'t Draft<'_>, field: TextField) -> Option<&'t str> {
        self.text(draft, field).filter(|key| !key.is_empty())
    }
}

/// A field's text as it may be written; `None` where a rule removes it.
fn masked_value(masker: &Masker, field: TextField, text: &str) -> Option<String> {
    masker.value(field.name(), text).map(Cow::into_owned)
}
