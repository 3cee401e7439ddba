//! One event id followed through the log: accepted, repeated, late or dead, and where it counted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nilometer_access::Problem;
use nilometer_event::{
    DeadLetter, EventTime, Granularity, Identity, Offset, Partition, ReceiveTime, TimeCorrection,
    Topic, UserKey, avro,
};
use nilometer_log::{Log, ReadError, Record};
use nilometer_rollups::trace::{Decided, SentCopy};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::tail::{EVENT_TOPICS, kind_name};
use super::unreadable;

/// Offsets that one step of the scan covers in one partition.
const STEP_RECORDS: u64 = 16_384;
/// Bytes that one read asks the log for.
const READ_BYTES: usize = 4 << 20;
/// Copies of one id that are listed; a storm of repeats has more.
const COPIES_MAX: usize = 1_000;

/// How far a trace looks, and what it calls late.
#[derive(Clone, Copy, Debug)]
pub struct TraceLimits {
    /// Receive time from which on it looks; the whole retention where absent.
    pub from: Option<ReceiveTime>,
    /// Receive time before which it looks; up to now where absent.
    pub to: Option<ReceiveTime>,
    /// How long it may read.
    pub time_max: Duration,
    /// A live event this far behind its receipt was behind the watermark.
    pub lateness: Duration,
}

/// Everything that is known of one event id.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Trace {
    /// One for each user key and source that sent this id.
    pub events: Vec<TracedEvent>,
    /// False where the time ran out before the whole log was read: narrow `from` and `to`.
    pub complete: bool,
    /// Records looked at, newest first.
    pub scanned_records: u64,
}

/// One event: an id of one user and source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct TracedEvent {
    /// Its id.
    pub event_id: String,
    /// Whose it is; null where a dead letter does not say.
    pub user_key: Option<String>,
    /// `user`, `anonymous` or `service`; null for a dead letter.
    pub user_kind: Option<&'static str>,
    /// The source of the keys that sent it; null for the default one.
    pub source: Option<String>,
    /// The id of the key that sent its first copy; null where that was not kept.
    pub key: Option<String>,
    /// `counted`, `in_flight` (accepted, to be counted within seconds), `late_pending` or `dead`.
    pub status: &'static str,
    /// True where the log holds it as an accepted event.
    pub accepted: bool,
    /// How many of its copies in the log counted: more than one where it came again under another
    /// timestamp, once its id was cold; 0 where the copy that counted is no longer in the log.
    pub counted: usize,
    /// Where its first copy lies.
    pub topic: &'static str,
    /// Where its first copy lies.
    pub partition: u16,
    /// Where its first copy lies.
    pub offset: u64,
    /// When its first copy was received.
    pub received_at: String,
    /// What happened.
    pub event_type: Option<String>,
    /// When it happened; null for a dead letter.
    pub timestamp: Option<String>,
    /// When it happened as its client sent it; null for a dead letter.
    pub sent_timestamp: Option<String>,
    /// Why these differ: `by_offset`, moved with its batch by how far its client's clock was off;
    /// `to_receive_time`, it was yet to come. Null where they do not.
    pub time_correction: Option<&'static str>,
    /// True where it came more than two hours after it happened.
    pub late: bool,
    /// Why it was refused, for a dead letter.
    pub reason: Option<String>,
    /// How many of its copies did not count, as repeats.
    pub duplicates: usize,
    /// Its copies, the first one first (at most 1,000).
    pub copies: Vec<Copy>,
    /// The start of the window in which it counted, by granularity; where it counted again, its
    /// copies say in which.
    pub windows: BTreeMap<&'static str, String>,
    /// The table that holds it; null while there is no lake.
    pub table: Option<String>,
    /// The table's file that holds it; null while there is no lake.
    pub file: Option<String>,
}

/// One copy of an event in the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
pub struct Copy {
    /// When it was received.
    pub received_at: String,
    /// Where it lies.
    pub topic: &'static str,
    /// Where it lies.
    pub partition: u16,
    /// Where it lies.
    pub offset: u64,
    /// When it happened, by this copy; null for a dead letter.
    pub timestamp: Option<String>,
    /// The id of the key that sent it; null where that was not kept.
    pub key: Option<String>,
    /// `first`, `counted_again`, `duplicate`, `in_flight`, `late_pending` or `dead`.
    pub verdict: &'static str,
    /// The windows in which it counted again.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub windows: BTreeMap<&'static str, String>,
}

/// A match, before its group is known.
#[derive(Clone, Debug)]
struct Found {
    received_at: ReceiveTime,
    topic: Topic,
    partition: Partition,
    offset: Offset,
    key: Option<String>,
    event_type: Option<String>,
    timestamp: Option<EventTime>,
    /// Its timestamp as sent, and whether that was corrected; of events alone.
    sent: Option<(EventTime, TimeCorrection)>,
    reason: Option<String>,
}

/// The copies of one owner: the earliest ones, and how many later ones were let go.
#[derive(Debug, Default)]
struct Copies {
    kept: Vec<Found>,
    let_go: usize,
}

impl Copies {
    fn push(&mut self, found: Found) {
        self.kept.push(found);
        // A storm of a million repeats must not fill the memory.
        if self.kept.len() >= 2 * COPIES_MAX {
            self.sort();
            self.let_go += self.kept.len() - COPIES_MAX;
            self.kept.truncate(COPIES_MAX);
        }
    }

    /// About the order in which the stream counts them.
    fn sort(&mut self) {
        self.kept.sort_by_key(|one| (one.received_at, one.topic, one.offset));
    }
}

/// Whose id it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Owner {
    /// Of a user key; `None` where a dead letter does not say.
    kind: Option<&'static str>,
    user: Option<String>,
    source: Option<String>,
}

impl Owner {
    /// What the stream knows this id by; nothing of a dead letter.
    fn identity<'a>(&'a self, event_id: &'a str) -> Option<Identity<'a>> {
        let user = user_of(self.kind?, self.user.as_deref()?)?;
        Some(Identity { source: self.source.as_deref(), user, event_id })
    }
}

/// What the stream made of copies of one event, in their order.
pub(crate) type Decide<'a> =
    dyn Fn(Identity<'_>, &[SentCopy]) -> Result<Vec<Decided>, Problem> + 'a;

/// Looks for `event_id` in the log, newest records first, within `limits`.
///
/// # Errors
///
/// 404 where no record has this id, saying whether the whole log was read; 503 where the log
/// cannot be read, and what `decide` says.
pub(crate) fn trace(
    log: &dyn Log,
    event_id: &str,
    limits: TraceLimits,
    decide: &Decide<'_>,
) -> Result<Trace, Problem> {
    let mut scan = Scan::new(log, event_id, limits).map_err(|error| unreadable(&error))?;
    let deadline = Instant::now() + limits.time_max;
    let mut complete = false;
    while Instant::now() < deadline {
        if !scan.step().map_err(|error| unreadable(&error))? {
            complete = true;
            break;
        }
    }
    if scan.found.is_empty() {
        let scanned = scan.scanned_records;
        let detail = if complete {
            format!("none of the {scanned} records in the log has this id")
        } else {
            format!(
                "none of the newest {scanned} records has this id, and the time ran out; narrow from and to"
            )
        };
        return Err(Problem::not_found(detail)
            .with("complete", complete)
            .with("scanned_records", scanned));
    }
    let Scan { scanned_records, found, late, .. } = scan;
    let mut events = Vec::with_capacity(found.len());
    for (owner, copies) in found {
        let story = Story { event_id, late: &late, lateness: limits.lateness };
        events.push(story.of(owner, copies, decide)?);
    }
    Ok(Trace { events, complete, scanned_records })
}

/// One partition that is left to read: `floor..before`.
#[derive(Debug)]
struct Left {
    topic: Topic,
    partition: Partition,
    floor: u64,
    before: u64,
}

struct Scan<'a> {
    log: &'a dyn Log,
    event_id: &'a str,
    finder: memchr::memmem::Finder<'a>,
    left: Vec<Left>,
    found: BTreeMap<Owner, Copies>,
    /// Places of the copies that the stream handed to `late-events`.
    late: BTreeSet<Place>,
    scanned_records: u64,
}

/// Where a copy lies.
type Place = (Topic, Partition, Offset);

impl<'a> Scan<'a> {
    fn new(log: &'a dyn Log, event_id: &'a str, limits: TraceLimits) -> Result<Self, ReadError> {
        let mut left = Vec::new();
        for topic in EVENT_TOPICS.into_iter().chain([Topic::DeadLetters, Topic::LateEvents]) {
            for partition in log.partitions().partitions() {
                let bounds = log.bounds(topic, partition);
                let (mut floor, mut before) = (bounds.start, bounds.end);
                if let Some(from) = limits.from {
                    floor = floor.max(log.offset_at(topic, partition, from)?);
                }
                if let Some(to) = limits.to {
                    before = before.min(log.offset_at(topic, partition, to)?);
                }
                left.push(Left { topic, partition, floor: floor.get(), before: before.get() });
            }
        }
        let finder = memchr::memmem::Finder::new(event_id);
        let (found, late) = (BTreeMap::new(), BTreeSet::new());
        Ok(Self { log, event_id, finder, left, found, late, scanned_records: 0 })
    }

    /// Reads one step back in every partition; false once all are read.
    fn step(&mut self) -> Result<bool, ReadError> {
        let mut left = std::mem::take(&mut self.left);
        for place in &mut left {
            let from = place.before.saturating_sub(STEP_RECORDS).max(place.floor);
            self.read(place, from)?;
            place.before = from;
        }
        left.retain(|place| place.floor < place.before);
        self.left = left;
        Ok(!self.left.is_empty())
    }

    fn read(&mut self, place: &mut Left, from: u64) -> Result<(), ReadError> {
        let mut at = Offset::new(from);
        while at.get() < place.before {
            let fetched = match self.log.read(place.topic, place.partition, at, READ_BYTES) {
                Ok(fetched) => fetched,
                // Retention went by while we read.
                Err(ReadError::BeforeStart { start, .. }) if at < start => {
                    place.floor = start.get().min(place.before);
                    at = start;
                    continue;
                }
                Err(error) => return Err(error),
            };
            for record in fetched.iter().filter(|record| record.offset.get() < place.before) {
                self.scanned_records += 1;
                if self.finder.find(record.value).is_some() {
                    self.check(place.topic, place.partition, &record);
                }
            }
            if fetched.next() <= at {
                break;
            }
            at = fetched.next();
        }
        Ok(())
    }

    /// Files a record whose bytes hold the id somewhere, if it is its id.
    fn check(&mut self, topic: Topic, partition: Partition, record: &Record<'_>) {
        let Record { offset, value, .. } = *record;
        if topic == Topic::LateEvents {
            self.late.extend(record.key.and_then(late_place));
            return;
        }
        let (owner, found) = if topic == Topic::DeadLetters {
            let Ok(letter) = DeadLetter::decode(value) else { return };
            if letter.event_id != Some(self.event_id) {
                return;
            }
            let found = Found {
                received_at: letter.received_at,
                topic,
                partition,
                offset,
                key: letter.key.map(str::to_owned),
                event_type: letter.event_type.map(str::to_owned),
                timestamp: None,
                sent: None,
                reason: Some(format!("{}: {}", letter.code, letter.message)),
            };
            let user = letter.user_key.map(str::to_owned);
            (Owner { kind: None, user, source: letter.key_source.map(str::to_owned) }, found)
        } else {
            let Ok(event) = avro::decode(value) else { return };
            if event.event_id != self.event_id {
                return;
            }
            let found = Found {
                received_at: event.received_at,
                topic,
                partition,
                offset,
                key: event.key.map(str::to_owned),
                event_type: Some(event.event_type.to_owned()),
                timestamp: Some(event.timestamp),
                sent: Some((event.sent_timestamp, event.time_correction)),
                reason: None,
            };
            let user = event.user_key();
            let owner = Owner {
                kind: user.map(kind_name),
                user: user.map(|user| user.text().to_owned()),
                source: event.source.map(str::to_owned),
            };
            (owner, found)
        };
        self.found.entry(owner).or_default().push(found);
    }
}

/// The place that the key of a record of `late-events` names: topic, partition, offset.
fn late_place(key: &[u8]) -> Option<Place> {
    let &[topic, p0, p1, ref offset @ ..] = key else { return None };
    let topic = Topic::ALL.into_iter().find(|known| *known as u8 == topic)?;
    let offset = u64::from_be_bytes(offset.try_into().ok()?);
    Some((topic, Partition::new(u16::from_be_bytes([p0, p1])), Offset::new(offset)))
}

/// What became of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Dead,
    LatePending,
    Folded(Decided),
}

impl Fate {
    const fn verdict(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::LatePending => "late_pending",
            Self::Folded(Decided::Waiting) => "in_flight",
            Self::Folded(Decided::First) => "first",
            Self::Folded(Decided::Again) => "counted_again",
            Self::Folded(Decided::Duplicate) => "duplicate",
        }
    }

    const fn counted(self) -> bool {
        matches!(self, Self::Folded(Decided::First | Decided::Again))
    }
}

/// What the copies of one id have in common.
struct Story<'a> {
    event_id: &'a str,
    late: &'a BTreeSet<Place>,
    lateness: Duration,
}

impl Story<'_> {
    /// One owner's copies and what became of each.
    fn of(
        &self,
        owner: Owner,
        mut copies: Copies,
        decide: &Decide<'_>,
    ) -> Result<TracedEvent, Problem> {
        copies.sort();
        copies.let_go += copies.kept.len().saturating_sub(COPIES_MAX);
        copies.kept.truncate(COPIES_MAX);
        let fates = self.fates(&owner, &copies.kept, decide)?;
        Ok(self.told(owner, &copies, &fates))
    }

    fn fates(
        &self,
        owner: &Owner,
        found: &[Found],
        decide: &Decide<'_>,
    ) -> Result<Vec<Fate>, Problem> {
        let is_late = |one: &Found| self.late.contains(&(one.topic, one.partition, one.offset));
        let sent = found.iter().filter(|one| !is_late(one)).filter_map(|one| {
            let (sent, correction) = one.sent?;
            Some(SentCopy { topic: one.topic, offset: one.offset, sent, correction })
        });
        let sent: Vec<SentCopy> = sent.collect();
        let decided = match owner.identity(self.event_id) {
            Some(event) if !sent.is_empty() => decide(event, &sent)?,
            _ => Vec::new(),
        };
        let mut decided = decided.into_iter();
        let fates = found.iter().map(|one| match one.sent {
            None => Fate::Dead,
            Some(_) if is_late(one) => Fate::LatePending,
            Some(_) => Fate::Folded(decided.next().unwrap_or(Decided::Waiting)),
        });
        Ok(fates.collect())
    }

    fn told(&self, owner: Owner, copies: &Copies, fates: &[Fate]) -> TracedEvent {
        let found = &copies.kept;
        let count = |fate: Fate| fates.iter().filter(|own| **own == fate).count();
        let duplicates = count(Fate::Folded(Decided::Duplicate)) + copies.let_go;
        let counted = fates.iter().filter(|fate| fate.counted()).count();
        let accepted = fates.iter().any(|fate| *fate != Fate::Dead);
        // The copy that counted first, else the first that there is.
        let main = fates.iter().position(|fate| *fate == Fate::Folded(Decided::First));
        let main = main.or_else(|| fates.iter().position(|fate| fate.counted())).unwrap_or(0);
        let first = &found[main];
        let status = match fates[main] {
            Fate::Dead => "dead",
            // A repeat of a copy that is no longer in the log.
            _ if count(Fate::Folded(Decided::Duplicate)) > 0 => "counted",
            Fate::Folded(Decided::Waiting) => "in_flight",
            Fate::LatePending if count(Fate::Folded(Decided::Waiting)) > 0 => "in_flight",
            Fate::LatePending => "late_pending",
            Fate::Folded(_) => "counted",
        };
        let shows_windows = fates[main].counted() || status == "in_flight";
        let windows = first.timestamp.filter(|_| shows_windows).map(windows_of);
        let lateness_ms = i64::try_from(self.lateness.as_millis()).unwrap_or(i64::MAX);
        let watermark = first.received_at.as_event_time().minus_ms(lateness_ms);
        // History is never late: it moves no watermark.
        let late =
            first.topic != Topic::Imports && first.timestamp.is_some_and(|at| at < watermark);
        TracedEvent {
            event_id: self.event_id.to_owned(),
            user_key: owner.user,
            user_kind: owner.kind,
            source: owner.source,
            key: first.key.clone(),
            status,
            accepted,
            counted,
            topic: first.topic.name(),
            partition: first.partition.get(),
            offset: first.offset.get(),
            received_at: first.received_at.to_string(),
            event_type: first.event_type.clone(),
            timestamp: first.timestamp.map(|timestamp| timestamp.to_string()),
            sent_timestamp: first.sent.map(|(sent, _)| sent.to_string()),
            time_correction: first.sent.and_then(|(_, correction)| correction.name()),
            late,
            reason: first.reason.clone(),
            duplicates: if accepted { duplicates } else { 0 },
            copies: found.iter().zip(fates).map(copy_of).collect(),
            windows: windows.unwrap_or_default(),
            table: None,
            file: None,
        }
    }
}

fn user_of<'a>(kind: &str, text: &'a str) -> Option<UserKey<'a>> {
    let kinds = [UserKey::User(text), UserKey::Anonymous(text), UserKey::Service(text)];
    kinds.into_iter().find(|user| kind_name(*user) == kind)
}

fn windows_of(timestamp: EventTime) -> BTreeMap<&'static str, String> {
    let start = |granularity| timestamp.window_start(granularity).to_string();
    Granularity::ALL
        .into_iter()
        .map(|granularity| (granularity.name(), start(granularity)))
        .collect()
}

fn copy_of((found, fate): (&Found, &Fate)) -> Copy {
    let again = found.timestamp.filter(|_| *fate == Fate::Folded(Decided::Again));
    Copy {
        received_at: found.received_at.to_string(),
        topic: found.topic.name(),
        partition: found.partition.get(),
        offset: found.offset.get(),
        timestamp: found.timestamp.map(|timestamp| timestamp.to_string()),
        key: found.key.clone(),
        verdict: fate.verdict(),
        windows: again.map(windows_of).unwrap_or_default(),
    }
}
