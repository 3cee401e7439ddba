//! Dead letters, newest first, page by page.

use nilometer_access::Problem;
use nilometer_event::{DeadLetter, EventTime, Offset, Partition, ReceiveTime, Topic};
use nilometer_log::{Log, ReadError};
use serde::Serialize;
use utoipa::ToSchema;

use super::backwards::{Backwards, Kept, newest};
use super::{cursor, unreadable};
use crate::ask::{Filter, Member};

/// Letters of one page at most.
pub(crate) const LETTERS_LIMIT_MAX: usize = 500;
/// Letters that one page looks at in search of matches.
const SCANNED_MAX: usize = 20_000;
/// Bytes of bodies on one page, about.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// One refused event, masked, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Letter {
    /// `partition-offset`.
    pub id: String,
    /// When it was refused.
    pub received_at: String,
    /// The same, as a time.
    #[serde(skip)]
    pub at: ReceiveTime,
    /// When its envelope said that it was sent, by the client's clock.
    #[serde(skip)]
    pub sent_at: Option<EventTime>,
    /// Stable reason.
    pub code: String,
    /// The reason in words.
    pub message: String,
    /// The client's id, where one could be read.
    pub event_id: Option<String>,
    /// Whose it is, where that could be read.
    pub user_key: Option<String>,
    /// Its type, where that could be read.
    pub event_type: Option<String>,
    /// `events`, or `imports/NAME`.
    pub source: String,
    /// The id of the key that sent it; null where that was not kept.
    pub key: Option<String>,
    /// The key's source; null for the default one.
    pub key_source: Option<String>,
    /// The event's text, masked.
    pub body: String,
}

/// Which letters: all filters must hold.
#[derive(Clone, Debug, Default)]
pub struct LetterFilter(pub Vec<Filter>);

/// What letters can be filtered by.
const FIELDS: [&str; 7] =
    ["code", "event_type", "source", "user_key", "event_id", "key", "key_source"];

impl LetterFilter {
    /// Checks that every filter names a field of letters.
    ///
    /// # Errors
    ///
    /// 400 `unknown_dimension`.
    pub fn check(&self) -> Result<(), Problem> {
        let unknown = |filter: &&Filter| !FIELDS.contains(&filter.dimension.as_str());
        match self.0.iter().find(unknown) {
            None => Ok(()),
            Some(Filter { dimension, .. }) => {
                let code = "unknown_dimension";
                Err(crate::door::unknown(code, "filter", dimension, FIELDS.into_iter()))
            }
        }
    }

    fn admits(&self, letter: &Letter) -> bool {
        self.0.iter().all(|filter| {
            let found = match filter.dimension.as_str() {
                "code" => Some(letter.code.as_str()),
                "event_type" => letter.event_type.as_deref(),
                "source" => Some(letter.source.as_str()),
                "user_key" => letter.user_key.as_deref(),
                "key" => letter.key.as_deref(),
                "key_source" => letter.key_source.as_deref(),
                _ => letter.event_id.as_deref(),
            };
            filter.rule.admits(&Member::of(found))
        })
    }
}

/// One page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LetterPage {
    /// Newest first.
    pub letters: Vec<Letter>,
    /// The cursor of the next page; null on the last one.
    pub next: Option<String>,
}

/// Reads one page of letters, from the cursor `before` towards the past.
///
/// A page may hold fewer letters than `limit`, even none, and still have a next one: it stops
/// after looking at 20,000 letters or filling 4 MiB.
///
/// # Errors
///
/// 400 `bad_cursor`; 503 where the log cannot be read.
pub fn letters(
    log: &dyn Log,
    filter: &LetterFilter,
    before: Option<&str>,
    limit: usize,
) -> Result<LetterPage, Problem> {
    let partitions: Vec<Partition> = log.partitions().partitions().collect();
    let cursor = match before {
        Some(text) => Some(cursor::read("before", text, partitions.len())?),
        None => None,
    };
    let mut walks: Vec<Backwards<'_>> = Vec::with_capacity(partitions.len());
    for (index, partition) in partitions.into_iter().enumerate() {
        let bounds = log.bounds(Topic::DeadLetters, partition);
        let (start, end) = (bounds.start.get(), bounds.end.get());
        let before = cursor.as_ref().map_or(end, |cursor| cursor[index].clamp(start, end));
        walks.push(Backwards::new(log, Topic::DeadLetters, partition, start, before));
    }
    let (mut found, mut bytes, mut ended) = (Vec::new(), 0, false);
    for _ in 0..SCANNED_MAX {
        if found.len() >= limit || bytes >= PAGE_BYTES_MAX {
            break;
        }
        let Some(kept) = newest(&mut walks).map_err(|error| unreadable(&error))? else {
            ended = true;
            break;
        };
        let letter = letter_of(&kept);
        if filter.admits(&letter) {
            bytes += letter.body.len();
            found.push(letter);
        }
    }
    let next = (!ended).then(|| cursor::write(walks.iter().map(Backwards::before)));
    Ok(LetterPage { letters: found, next })
}

/// The letter with this `partition-offset`.
///
/// # Errors
///
/// 404 where there is none (any more); 503 where the log cannot be read.
pub fn find_letter(log: &dyn Log, id: &str) -> Result<Letter, Problem> {
    let missing = || {
        Problem::not_found(format!(
            "there is no dead letter {:?}: ids are partition-offset, as GET /v1/dead-letters gives them",
            id.chars().take(64).collect::<String>()
        ))
    };
    let (partition, offset) = id.split_once('-').ok_or_else(missing)?;
    let partition = Partition::new(partition.parse().map_err(|_| missing())?);
    let offset = Offset::new(offset.parse().map_err(|_| missing())?);
    if partition.get() >= log.partitions().get() {
        return Err(missing());
    }
    let fetched = match log.read(Topic::DeadLetters, partition, offset, 1) {
        Ok(fetched) => fetched,
        Err(ReadError::Io { file, source }) => {
            return Err(unreadable(&ReadError::Io { file, source }));
        }
        Err(_gone) => return Err(missing()),
    };
    let record = fetched.iter().find(|record| record.offset == offset).ok_or_else(missing)?;
    Ok(letter_from(partition, offset, record.timestamp, record.value))
}

fn letter_of(kept: &Kept) -> Letter {
    letter_from(kept.partition, kept.offset, kept.timestamp, &kept.value)
}

fn letter_from(
    partition: Partition,
    offset: Offset,
    timestamp: ReceiveTime,
    value: &[u8],
) -> Letter {
    let id = format!("{partition}-{offset}");
    let owned = |text: Option<&str>| text.map(str::to_owned);
    match DeadLetter::decode(value) {
        Ok(letter) => Letter {
            id,
            received_at: letter.received_at.to_string(),
            at: letter.received_at,
            sent_at: letter.sent_at,
            code: letter.code.to_owned(),
            message: letter.message.to_owned(),
            event_id: owned(letter.event_id),
            user_key: owned(letter.user_key),
            event_type: owned(letter.event_type),
            source: letter.source.to_owned(),
            key: owned(letter.key),
            key_source: owned(letter.key_source),
            body: letter.body.to_owned(),
        },
        // It lies on the topic, so it is shown: nothing is silent (N3).
        Err(error) => Letter {
            id,
            received_at: timestamp.to_string(),
            at: timestamp,
            sent_at: None,
            code: "unreadable_letter".to_owned(),
            message: error.to_string(),
            event_id: None,
            user_key: None,
            event_type: None,
            source: String::new(),
            key: None,
            key_source: None,
            body: String::new(),
        },
    }
}
