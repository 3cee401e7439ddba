//! One event id followed through the log: accepted, repeated, late or dead, and where it counted.

use std::collections::BTreeMap;
use std::time::Duration;

use nilometer_access::Problem;
use nilometer_event::{
    DeadLetter, EventTime, Granularity, Offset, Partition, ReceiveTime, Topic, UserKey, avro,
};
use nilometer_log::{Log, ReadError};
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
    /// One for each user key that sent this id.
    pub events: Vec<TracedEvent>,
    /// False where the time ran out before the whole log was read: narrow `from` and `to`.
    pub complete: bool,
    /// Records looked at, newest first.
    pub scanned_records: u64,
}

/// One event: an id of one user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct TracedEvent {
    /// Its id.
    pub event_id: String,
    /// Whose it is; null where a dead letter does not say.
    pub user_key: Option<String>,
    /// `user`, `anonymous` or `service`; null for a dead letter.
    pub user_kind: Option<&'static str>,
    /// `counted`, `in_flight` (accepted, to be counted within seconds), `late_pending` or `dead`.
    pub status: &'static str,
    /// True where the log holds it as an accepted event.
    pub accepted: bool,
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
    /// True where it came more than two hours after it happened.
    pub late: bool,
    /// Why it was refused, for a dead letter.
    pub reason: Option<String>,
    /// How often it was sent again.
    pub duplicates: usize,
    /// Its copies, the first one first (at most 1,000).
    pub copies: Vec<Copy>,
    /// The start of the window in which it counted, by granularity.
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
    /// `first`, `duplicate`, `late_pending` or `dead`.
    pub verdict: &'static str,
}

/// A match, before its group is known.
#[derive(Clone, Debug)]
struct Found {
    received_at: ReceiveTime,
    topic: Topic,
    partition: Partition,
    offset: Offset,
    event_type: Option<String>,
    timestamp: Option<EventTime>,
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

    /// The order in which the stream counts them. Copies that it handed to late-events are no
    /// receipts; they tell the verdict, so they come first and are never let go.
    fn sort(&mut self) {
        self.kept.sort_by_key(|one| {
            (one.topic != Topic::LateEvents, one.received_at, one.topic, one.offset)
        });
    }
}

/// Whose id it is: kind and text; nobody where a dead letter does not say.
type Owner = (Option<&'static str>, Option<String>);

/// Looks for `event_id` in the log, newest records first, within `limits`.
///
/// `folded` says up to which offset the stream has counted a topic's partition.
///
/// # Errors
///
/// 404 where no record has this id, saying whether the whole log was read; 503 where the log
/// cannot be read.
pub fn trace(
    log: &dyn Log,
    event_id: &str,
    limits: TraceLimits,
    folded: &dyn Fn(Topic, Partition) -> Option<Offset>,
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
    let scanned_records = scan.scanned_records;
    let events = scan
        .found
        .into_iter()
        .map(|(owner, found)| traced(event_id, owner, found, limits.lateness, folded))
        .collect();
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
    scanned_records: u64,
}

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
        Ok(Self { log, event_id, finder, left, found: BTreeMap::new(), scanned_records: 0 })
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
                    self.check(place.topic, place.partition, record.offset, record.value);
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
    fn check(&mut self, topic: Topic, partition: Partition, offset: Offset, value: &[u8]) {
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
                event_type: letter.event_type.map(str::to_owned),
                timestamp: None,
                reason: Some(format!("{}: {}", letter.code, letter.message)),
            };
            ((None, letter.user_key.map(str::to_owned)), found)
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
                event_type: Some(event.event_type.to_owned()),
                timestamp: Some(event.timestamp),
                reason: None,
            };
            let user = event.user_key();
            ((user.map(kind_name), user.map(|user| UserKey::text(user).to_owned())), found)
        };
        self.found.entry(owner).or_default().push(found);
    }
}

/// One user's copies, put in the order in which the stream counts them.
fn traced(
    event_id: &str,
    (user_kind, user_key): Owner,
    mut copies: Copies,
    lateness: Duration,
    folded: &dyn Fn(Topic, Partition) -> Option<Offset>,
) -> TracedEvent {
    copies.sort();
    let (emitted, received): (Vec<Found>, Vec<Found>) =
        copies.kept.into_iter().partition(|one| one.topic == Topic::LateEvents);
    let late_pending = !emitted.is_empty();
    let sent = received.len() + copies.let_go;
    let found: Vec<Found> = received.into_iter().chain(emitted).collect();
    let first = &found[0];
    let accepted = first.topic != Topic::DeadLetters;
    let is_folded = folded(first.topic, first.partition).is_none_or(|next| first.offset < next);
    let status = match (accepted, late_pending, is_folded) {
        (false, ..) => "dead",
        (_, true, _) => "late_pending",
        (_, _, false) => "in_flight",
        _ => "counted",
    };
    let windows = match first.timestamp {
        Some(timestamp) if matches!(status, "counted" | "in_flight") => Granularity::ALL
            .into_iter()
            .map(|granularity| {
                (granularity.name(), timestamp.window_start(granularity).to_string())
            })
            .collect(),
        _ => BTreeMap::new(),
    };
    let lateness_ms = i64::try_from(lateness.as_millis()).unwrap_or(i64::MAX);
    let watermark = first.received_at.as_event_time().minus_ms(lateness_ms);
    // History is never late: it moves no watermark.
    let late = first.topic != Topic::Imports && first.timestamp.is_some_and(|at| at < watermark);
    TracedEvent {
        event_id: event_id.to_owned(),
        user_key,
        user_kind,
        status,
        accepted,
        topic: first.topic.name(),
        partition: first.partition.get(),
        offset: first.offset.get(),
        received_at: first.received_at.to_string(),
        event_type: first.event_type.clone(),
        timestamp: first.timestamp.map(|timestamp| timestamp.to_string()),
        late,
        reason: first.reason.clone(),
        duplicates: if accepted { sent.saturating_sub(1) } else { 0 },
        copies: found.iter().take(COPIES_MAX).enumerate().map(copy_of).collect(),
        windows,
        table: None,
        file: None,
    }
}

fn copy_of((index, found): (usize, &Found)) -> Copy {
    let verdict = match (found.topic, index) {
        (Topic::DeadLetters, _) => "dead",
        (Topic::LateEvents, _) => "late_pending",
        (_, 0) => "first",
        _ => "duplicate",
    };
    Copy {
        received_at: found.received_at.to_string(),
        topic: found.topic.name(),
        partition: found.partition.get(),
        offset: found.offset.get(),
        verdict,
    }
}
