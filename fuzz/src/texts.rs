//! Texts: bodies of events, filters, messages of live clients, the book of keys, and the masker.

use std::fmt::Write as _;
use std::sync::LazyLock;

use nilometer_access::{KEYS_MAX, KeyBook};
use nilometer_event::{PartitionCount, ReceiveTime};
use nilometer_gateway::bench::Pipeline;
use nilometer_gateway::{BodyFormat, GatewayPlan, GatewaySettings, IngestAnswer};
use nilometer_query::ask::{Filter, Member, Values};
use nilometer_query::live::{ClientMessage, MessageError};
use serde::de::IgnoredAny;

use crate::in_time;

static PIPELINE: LazyLock<Pipeline> = LazyLock::new(|| {
    let plan = GatewayPlan::try_from(GatewaySettings::default());
    Pipeline::new(plan.expect("the defaults are a plan"))
});

const NOW: ReceiveTime = ReceiveTime::from_ms(1_790_000_000_000);
/// What an event's record may have beside its text, a dead letter's reason included.
const RECORD_BYTES_MAX: usize = 2 << 10;
/// How many times longer masking may make a text: `a@b.co` becomes a token of 26.
const MASKED_FACTOR_MAX: usize = 8;

/// A body of events, as JSON and as lines.
///
/// # Panics
///
/// Where the answer does not add up, records are larger than what came, or what is JSON is seen
/// otherwise than by another parser.
pub fn ingest(body: &[u8]) {
    let partitions = PartitionCount::new(3).expect("3 is not 0");
    let take = |format| in_time(body.len(), || PIPELINE.take_as(format, body, partitions, NOW));
    for format in [BodyFormat::Json, BodyFormat::Lines] {
        let Ok((answer, record_bytes)) = take(format) else { continue };
        let events = adds_up(&answer);
        assert!(record_bytes <= events * RECORD_BYTES_MAX + body.len() * MASKED_FACTOR_MAX);
    }
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let is_json = serde_json::from_slice::<IgnoredAny>(text).is_ok();
    match take(BodyFormat::Json) {
        Ok((answer, _)) => {
            assert!(is_json, "this is no JSON");
            if let Ok(events) = serde_json::from_slice::<Vec<IgnoredAny>>(text) {
                assert_eq!(adds_up(&answer), events.len());
            }
        }
        Err(refusal) if refusal.contains("not JSON") => assert!(!is_json, "{refusal}"),
        Err(_) => {}
    }
}

/// How many events an answer speaks of, each of them once.
fn adds_up(answer: &IngestAnswer) -> usize {
    let events = answer.accepted + answer.rejected;
    assert!(answer.errors.len() <= answer.rejected);
    assert!(answer.errors.is_sorted_by(|one, next| one.index < next.index));
    assert!(answer.errors.last().is_none_or(|last| last.index < events));
    events
}

/// A filter of a query.
///
/// # Panics
///
/// Where one that is read is not read again, equal, when it is written with every value in quotes.
pub fn filter(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(filter) = in_time(data.len(), || Filter::parse(&text)) else { return };
    // Written at the beginning, these would be read otherwise; there is no such dimension.
    if filter.dimension.starts_with('!') || filter.dimension.trim() != filter.dimension {
        return;
    }
    let mut written = format!("{}:", filter.dimension);
    for (not, values) in [("", filter.rule.any_of.as_ref()), ("!", Some(&filter.rule.none_of))] {
        for value in values.into_iter().flat_map(quoted) {
            write!(written, "{not}{value},").expect("a string takes any text");
        }
    }
    let again = Filter::parse(written.trim_end_matches(','));
    assert_eq!(again.as_ref(), Ok(&filter), "{written}");
}

fn quoted(values: &Values) -> Vec<String> {
    let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let members = values.members.iter().map(|member| match member {
        Member::Text(text) => quote(text),
        Member::Other => "__other__".to_owned(),
        Member::Null => "null".to_owned(),
    });
    members.chain(values.prefixes.iter().map(|prefix| quote(prefix) + "*")).collect()
}

/// A message of a live client.
///
/// # Panics
///
/// Where it means something else once it is written anew, or the answer repeats more than an id.
pub fn message(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let read = in_time(data.len(), || ClientMessage::parse(&text));
    if let Err(MessageError { message, near, id, .. }) = &read {
        let said = message.len() + near.iter().map(String::len).sum::<usize>();
        assert!(id.as_ref().is_none_or(|id| id.chars().count() <= 64));
        assert!(said <= 4 << 10 || said <= 2 * text.len(), "{said} bytes for {}", text.len());
    }
    let Ok(value) = serde_json::from_str::<serde_json::Value>(&text) else {
        assert!(read.is_err());
        return;
    };
    let pretty = serde_json::to_string_pretty(&value).expect("a value is written");
    assert_eq!(ClientMessage::parse(&pretty).ok(), read.ok());
}

/// Any text on its way to the log.
///
/// # Panics
///
/// Where an address stays, masking changes what is masked, or JSON is none any more.
pub fn mask(data: &[u8]) {
    const PLANTED: [&str; 3] = ["planted@mail.example", "203.0.113.77", "2001:db8::77:77"];
    let text = String::from_utf8_lossy(data);
    let masker = PIPELINE.masker();
    let masked = in_time(data.len(), || masker.text(&text));
    assert!(masked.len() <= RECORD_BYTES_MAX + text.len() * MASKED_FACTOR_MAX);
    assert_eq!(masker.text(&masked), masked, "masked twice");
    for planted in PLANTED {
        let with = format!("{text}\n{planted}\n{text}");
        let masked = masker.text(&with);
        assert!(!masked.contains(planted), "{masked}");
        let json = serde_json::json!({"properties": {"note": &*with}}).to_string();
        let masked = in_time(json.len(), || PIPELINE.mask_body(json.as_bytes()));
        assert!(serde_json::from_str::<serde_json::Value>(&masked).is_ok(), "{masked}");
        assert!(!masked.contains(planted), "{masked}");
    }
    let body = in_time(data.len(), || PIPELINE.mask_body(data));
    if let Ok(text) = std::str::from_utf8(data)
        && serde_json::from_str::<IgnoredAny>(text).is_ok()
    {
        assert!(serde_json::from_str::<IgnoredAny>(&body).is_ok(), "{body}");
    }
}

/// The book of keys.
///
/// # Panics
///
/// Where one that is read is not read again, equal, when it is written, or opens to a token that is
/// none of its own.
pub fn key_book(data: &[u8]) {
    let Ok(book) = in_time(data.len(), || KeyBook::parse(data)) else { return };
    assert!(book.records().len() <= KEYS_MAX);
    let written = book.to_bytes();
    let again = KeyBook::parse(&written).expect("what was written reads");
    assert_eq!(again.to_bytes(), written);
    for record in book.records() {
        assert!(book.authenticate(&record.id).is_none() && book.authenticate("").is_none());
        assert_eq!(book.principal(&record.id).is_some(), record.revoked_ms.is_none());
    }
}
