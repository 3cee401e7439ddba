//! Tail, traces and dead letters against a log in memory.

use std::time::Duration;

use nilometer_event::{
    DeadLetter, Event, EventTime, Identity, Partition, PartitionCount, ReceiveTime, Topic, avro,
};
use nilometer_log::{AppendBatch, Log, MemoryLog, RecordsBuilder};
use nilometer_rollups::declare::Plan;
use nilometer_rollups::trace::{Decided, SentCopy};

use super::*;
use crate::ask::Filter;

fn log() -> MemoryLog {
    MemoryLog::new(PartitionCount::new(2).unwrap())
}

fn append(log: &MemoryLog, topic: Topic, partition: u16, received_ms: i64, value: &[u8]) {
    let mut records = RecordsBuilder::new();
    records.push(ReceiveTime::from_ms(received_ms), None, value);
    let partition = Partition::new(partition);
    log.append(vec![AppendBatch { topic, partition, records: records.build() }]).unwrap();
}

fn tell(log: &MemoryLog, topic: Topic, partition: u16, received_ms: i64, event: Event<'_>) {
    let received_at = ReceiveTime::from_ms(received_ms);
    let mut bytes = Vec::new();
    avro::encode(&Event { received_at, ..event }, &mut bytes);
    append(log, topic, partition, received_ms, &bytes);
}

fn view<'a>(event_id: &'a str, user: &'a str) -> Event<'a> {
    Event {
        event_id,
        event_type: "view",
        user_id: Some(user),
        timestamp: EventTime::from_ms(90_000),
        properties: Some("{\"a\":[1,\"x\"]}"),
        ..Event::default()
    }
}

fn refuse(log: &MemoryLog, partition: u16, received_ms: i64, code: &str, event_id: Option<&str>) {
    let letter = DeadLetter {
        received_at: ReceiveTime::from_ms(received_ms),
        code,
        message: "field country: expected text",
        event_id,
        user_key: Some("u1"),
        event_type: Some("view"),
        source: "events",
        body: "{\"country\":7}",
        sent_at: None,
        key: Some("write-1"),
        key_source: Some("web"),
    };
    let mut bytes = Vec::new();
    letter.encode(&mut bytes);
    append(log, Topic::DeadLetters, partition, received_ms, &bytes);
}

fn ids(tail: &Tail) -> Vec<&str> {
    tail.events.iter().map(|event| event.event_id.as_str()).collect()
}

#[test]
fn the_tail_shows_the_newest_of_all_partitions_and_then_only_what_came_since() {
    let log = log();
    let none = TailFilter::default();
    for (at, id) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        let (partition, topic) = [(0, Topic::UserEvents), (1, Topic::ContentViews)][at % 2];
        tell(&log, topic, partition, i64::try_from(at).unwrap(), view(id, "u"));
    }
    let first = tail(&log, &Plan::builtin(), &none, None, 3).unwrap();
    assert_eq!((ids(&first), first.skipped), (vec!["c", "d", "e"], false));
    assert_eq!(first.events[0].properties.as_ref().unwrap().get(), "{\"a\":[1,\"x\"]}");

    let nothing = tail(&log, &Plan::builtin(), &none, Some(&first.cursor), 3).unwrap();
    assert_eq!((ids(&nothing), nothing.skipped), (vec![], false));

    for (at, id) in ["f", "g", "h", "i"].into_iter().enumerate() {
        tell(&log, Topic::UserEvents, 0, 10 + i64::try_from(at).unwrap(), view(id, "u"));
    }
    let next = tail(&log, &Plan::builtin(), &none, Some(&nothing.cursor), 3).unwrap();
    assert_eq!((ids(&next), next.skipped), (vec!["g", "h", "i"], true));
}

#[test]
fn the_tail_filters_by_fields_and_by_whose_it_is() {
    let log = log();
    tell(&log, Topic::UserEvents, 0, 1, view("a", "u1"));
    let sent = Event { key: Some("write-1"), source: Some("web"), ..view("b", "u2") };
    tell(&log, Topic::UserEvents, 0, 2, Event { country: Some("DE"), ..sent });
    let by = |text: &str| TailFilter(vec![Filter::parse(text).unwrap()]);
    assert_eq!(ids(&tail(&log, &Plan::builtin(), &by("country:DE"), None, 9).unwrap()), ["b"]);
    assert_eq!(ids(&tail(&log, &Plan::builtin(), &by("country:null"), None, 9).unwrap()), ["a"]);
    assert_eq!(
        ids(&tail(&log, &Plan::builtin(), &by("user_key:u1,u2"), None, 9).unwrap()),
        ["a", "b"]
    );
    assert_eq!(ids(&tail(&log, &Plan::builtin(), &by("country:!DE"), None, 9).unwrap()), ["a"]);
    assert_eq!(ids(&tail(&log, &Plan::builtin(), &by("user_key:u*,!u2"), None, 9).unwrap()), ["a"]);
    for one in ["key:write-1", "source:web", "source:!null"] {
        assert_eq!(ids(&tail(&log, &Plan::builtin(), &by(one), None, 9).unwrap()), ["b"], "{one}");
    }
    assert_eq!(by("planet:mars").check().unwrap_err().code, "unknown_dimension");
}

#[test]
fn the_tail_names_the_metrics_that_count_an_event_without_its_number() {
    let log = log();
    let declared = r#"{"numbers":"alone","metric":[
        {"name":"revenue","aggregate":"sum","field":"properties.price","filter":"event_type:view"},
        {"name":"refunds","aggregate":"sum","field":"properties.price","filter":"event_type:x"},
        {"name":"dearest","aggregate":"max","field":"properties.price"}]}"#;
    let plan = Plan::compile(&serde_json::from_str(declared).unwrap()).unwrap();
    let prices = ["19.99", "\"19.99\"", "null", "1e30", "1e300"];
    let properties = prices.map(|price| format!("{{\"price\":{price}}}"));
    for (properties, at) in properties.iter().zip(0..) {
        let event = Event { properties: Some(properties), ..view("a", "u1") };
        tell(&log, Topic::UserEvents, 0, at, event);
    }
    let shown = tail(&log, &plan, &TailFilter::default(), None, 9).unwrap().events;
    let unread: Vec<_> = shown.iter().map(|event| event.unread.join(",")).collect();
    assert_eq!(unread, ["", "revenue,dearest", "", "", "revenue,dearest"]);
}

#[test]
fn a_cursor_that_is_not_ours_is_refused() {
    let log = log();
    for cursor in ["", "x", "1.2", "0.0.0.0.0.0.0.0.0", "+1.0.0.0.0.0.0.0"] {
        let refused =
            tail(&log, &Plan::builtin(), &TailFilter::default(), Some(cursor), 3).unwrap_err();
        assert_eq!(refused.code, "bad_cursor", "{cursor}");
    }
    // One from a log that was longer is brought within the bounds.
    assert!(
        tail(&log, &Plan::builtin(), &TailFilter::default(), Some("ff.ff.ff.ff.ff.ff.ff.ff"), 3)
            .is_ok()
    );
}

#[test]
fn letters_come_newest_first_page_by_page_and_each_once() {
    let log = log();
    for at in 0..700 {
        let code = if at % 7 == 0 { "event_too_large" } else { "schema_violation" };
        refuse(&log, u16::from(at % 3 == 0), at, code, None);
    }
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = letters(&log, &LetterFilter::default(), before.as_deref(), 64).unwrap();
        seen.extend(page.letters);
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 700);
    let newest = ReceiveTime::from_ms(699).to_string();
    assert_eq!(seen[0].received_at, newest);
    let mut order: Vec<&str> = seen.iter().map(|letter| letter.id.as_str()).collect();
    order.sort_unstable();
    order.dedup();
    assert_eq!(order.len(), 700, "each letter once");

    let filter = LetterFilter(vec![Filter::is("code", "event_too_large")]);
    let page = letters(&log, &filter, None, 500).unwrap();
    assert_eq!((page.letters.len(), page.next), (100, None));
    let by = |texts: &[&str]| {
        let filters = texts.iter().map(|text| Filter::parse(text).unwrap()).collect();
        let filter = LetterFilter(filters);
        filter.check().map(|()| letters(&log, &filter, None, 500).unwrap().letters.len())
    };
    assert_eq!(by(&["code:!schema_violation"]).unwrap(), 100);
    assert_eq!(by(&["code:event_*", "source:ev*", "event_id:null"]).unwrap(), 100);
    assert_eq!(by(&["code:event_*", "user_key:!u1"]).unwrap(), 0);
    assert_eq!(by(&["code:event_*", "key:write-1", "key_source:web"]).unwrap(), 100);
    assert_eq!(by(&["key:!write-1"]).unwrap(), 0);
    assert_eq!(by(&["planet:mars"]).unwrap_err().code, "unknown_dimension");
}

#[test]
fn a_letter_is_found_by_its_id_and_another_id_by_none() {
    let log = log();
    refuse(&log, 1, 5, "schema_violation", Some("e1"));
    let letter = find_letter(&log, "1-0").unwrap();
    assert_eq!((letter.event_id.as_deref(), letter.body.as_str()), (Some("e1"), "{\"country\":7}"));
    for id in ["1-1", "0-0", "9-0", "1", "x-y", "1-0-0", "-1-0"] {
        assert_eq!(find_letter(&log, id).unwrap_err().code, "not_found", "{id}");
    }
}

#[test]
fn bytes_that_are_no_letter_are_shown_as_such() {
    let log = log();
    append(&log, Topic::DeadLetters, 0, 5, b"garbage");
    let page = letters(&log, &LetterFilter::default(), None, 9).unwrap();
    assert_eq!(page.letters[0].code, "unreadable_letter");
}

const LIMITS: TraceLimits = TraceLimits {
    from: None,
    to: None,
    time_max: Duration::from_secs(60),
    lateness: Duration::from_secs(7_200),
};

#[test]
fn a_trace_tells_users_apart_and_the_first_copy_from_its_repeats() {
    let log = log();
    tell(&log, Topic::UserEvents, 0, 100_000, view("e1", "anna"));
    tell(&log, Topic::UserEvents, 1, 100_001, view("e1", "ben"));
    tell(&log, Topic::UserEvents, 0, 100_002, view("e1", "anna"));
    tell(&log, Topic::UserEvents, 0, 100_003, view("e10", "anna"));
    refuse(&log, 0, 100_004, "schema_violation", Some("e1"));
    let decide = |event: Identity<'_>, copies: &[SentCopy]| {
        assert_eq!(event.event_id, "e1");
        match event.user.text() {
            "ben" => Ok(vec![Decided::Waiting]),
            _ => once(event, copies),
        }
    };
    let trace = trace(&log, "e1", LIMITS, &decide).unwrap();
    assert!(trace.complete);
    let summary: Vec<_> = trace
        .events
        .iter()
        .map(|event| (event.user_key.as_deref(), event.status, event.duplicates))
        .collect();
    assert_eq!(
        summary,
        [(Some("u1"), "dead", 0), (Some("anna"), "counted", 1), (Some("ben"), "in_flight", 0)]
    );
    let anna = &trace.events[1];
    assert_eq!((anna.offset, anna.windows["1m"].as_str()), (0, "1970-01-01T00:01:00Z"));
    assert_eq!(verdicts(anna), ["first", "duplicate"]);
}

#[test]
fn a_trace_tells_sources_apart_and_names_the_keys_of_the_copies() {
    let log = log();
    let spam = Event { key: Some("write-2"), source: Some("spam"), ..view("e1", "anna") };
    tell(&log, Topic::UserEvents, 0, 1, spam);
    for (key, at) in [("write-1", 2), ("write-3", 3)] {
        tell(&log, Topic::UserEvents, 0, at, Event { key: Some(key), ..view("e1", "anna") });
    }
    let asked = std::cell::RefCell::new(Vec::new());
    let decide = |event: Identity<'_>, copies: &[SentCopy]| {
        asked.borrow_mut().push((event.source.map(str::to_owned), copies.len()));
        once(event, copies)
    };
    let trace = trace(&log, "e1", LIMITS, &decide).unwrap();
    assert_eq!(asked.into_inner(), [(None, 2), (Some("spam".to_owned()), 1)]);
    let told: Vec<_> = trace
        .events
        .iter()
        .map(|event| (event.source.as_deref(), event.key.as_deref(), event.status))
        .collect();
    let expected = [(None, Some("write-1"), "counted"), (Some("spam"), Some("write-2"), "counted")];
    assert_eq!(told, expected);
    assert_eq!(trace.events[0].copies[1].key.as_deref(), Some("write-3"));
    assert_eq!(verdicts(&trace.events[0]), ["first", "duplicate"]);
}

#[test]
fn what_the_stream_handed_to_late_events_is_pending() {
    let log = log();
    tell(&log, Topic::UserEvents, 0, 9_000_000, view("e1", "anna"));
    emit_late(&log, 0);
    let decided = trace(&log, "e1", LIMITS, &once).unwrap();
    let event = &decided.events[0];
    assert_eq!((event.status, event.late, event.duplicates), ("late_pending", true, 0));
    assert!(event.windows.is_empty(), "it counts nowhere yet");
    assert_eq!((event.topic, event.counted, event.copies.len()), ("user-events", 0, 1));

    // A copy of another time counts, and the late one is still pending.
    let today = EventTime::from_ms(8_990_000);
    tell(&log, Topic::UserEvents, 0, 9_000_001, Event { timestamp: today, ..view("e1", "anna") });
    let decided = trace(&log, "e1", LIMITS, &once).unwrap();
    let event = &decided.events[0];
    assert_eq!((event.status, event.counted, event.offset), ("counted", 1, 1));
    assert_eq!(verdicts(event), ["late_pending", "first"]);
}

/// As the stream does: the key is the place of the copy.
fn emit_late(log: &MemoryLog, offset: u64) {
    let mut key = vec![Topic::UserEvents as u8, 0, 0];
    key.extend(offset.to_be_bytes());
    let mut bytes = Vec::new();
    avro::encode(&view("e1", "anna"), &mut bytes);
    let mut records = RecordsBuilder::new();
    records.push(ReceiveTime::from_ms(9_000_000), Some(&key), &bytes);
    let (topic, partition) = (Topic::LateEvents, Partition::new(0));
    log.append(vec![AppendBatch { topic, partition, records: records.build() }]).unwrap();
}

/// A stream in which everything is hot: the first copy counts.
fn once(_: Identity<'_>, copies: &[SentCopy]) -> Result<Vec<Decided>, Problem> {
    let decided = (0..copies.len()).map(|at| match at {
        0 => Decided::First,
        _ => Decided::Duplicate,
    });
    Ok(decided.collect())
}

fn verdicts(event: &TracedEvent) -> Vec<&str> {
    event.copies.iter().map(|copy| copy.verdict).collect()
}

#[test]
fn a_copy_that_counted_again_is_no_duplicate_and_says_where() {
    let log = log();
    for at_ms in [90_000, 90_000, 7_290_000] {
        let timestamp = EventTime::from_ms(at_ms);
        let copy = Event { timestamp, sent_timestamp: timestamp, ..view("e1", "anna") };
        tell(&log, Topic::UserEvents, 0, 9_000_000, copy);
    }
    let decide = |_: Identity<'_>, copies: &[SentCopy]| {
        assert_eq!(copies[2].sent, EventTime::from_ms(7_290_000));
        Ok(vec![Decided::First, Decided::Duplicate, Decided::Again])
    };
    let trace = trace(&log, "e1", LIMITS, &decide).unwrap();
    let event = &trace.events[0];
    assert_eq!((event.status, event.counted, event.duplicates), ("counted", 2, 1));
    assert_eq!(verdicts(event), ["first", "duplicate", "counted_again"]);
    assert_eq!(event.windows["1m"], "1970-01-01T00:01:00Z");
    assert_eq!(event.copies[2].windows["1m"], "1970-01-01T02:01:00Z");
    assert!(event.copies[1].windows.is_empty());
}

/// Catches: "first" for a repeat whose original retention took.
#[test]
fn a_repeat_of_what_the_log_no_longer_holds_counts_nowhere_here() {
    let log = log();
    tell(&log, Topic::UserEvents, 0, 9_000_000, view("e1", "anna"));
    let repeat = |_: Identity<'_>, _: &[SentCopy]| Ok(vec![Decided::Duplicate]);
    let trace = trace(&log, "e1", LIMITS, &repeat).unwrap();
    let event = &trace.events[0];
    assert_eq!((event.status, event.counted, event.duplicates), ("counted", 0, 1));
    assert!(event.windows.is_empty());
}

/// Catches: a lateness other than the configured one, and history that is called late.
#[test]
fn late_is_what_the_configured_lateness_says_and_never_history() {
    let log = log();
    tell(&log, Topic::UserEvents, 0, 9_000_000, view("e1", "anna"));
    tell(&log, Topic::Imports, 0, 9_000_000, view("e2", "anna"));
    let late = |id: &str, lateness_s| {
        let limits = TraceLimits { lateness: Duration::from_secs(lateness_s), ..LIMITS };
        trace(&log, id, limits, &once).unwrap().events[0].late
    };
    assert!(late("e1", 7_200));
    assert!(!late("e1", 10_000));
    assert!(!late("e2", 7_200));
}

#[test]
fn a_trace_that_found_nothing_says_whether_it_looked_everywhere() {
    let log = log();
    tell(&log, Topic::UserEvents, 0, 1, view("e1", "anna"));
    let refused = trace(&log, "e2", LIMITS, &once).unwrap_err();
    assert_eq!((refused.code, &refused.extra["complete"]), ("not_found", &true.into()));
    let no_time = TraceLimits { time_max: Duration::ZERO, ..LIMITS };
    let refused = trace(&log, "e1", no_time, &once).unwrap_err();
    assert_eq!(refused.extra["complete"], false);
    let later = TraceLimits { from: Some(ReceiveTime::from_ms(2)), ..LIMITS };
    assert!(trace(&log, "e1", later, &once).is_err());
}

#[test]
fn a_storm_of_repeats_is_counted_and_not_listed() {
    let log = log();
    let mut records = RecordsBuilder::new();
    for at in 0..5_000 {
        let received_at = ReceiveTime::from_ms(at);
        let mut bytes = Vec::new();
        avro::encode(&Event { received_at, ..view("e1", "anna") }, &mut bytes);
        records.push(received_at, None, &bytes);
    }
    let (topic, partition) = (Topic::UserEvents, Partition::new(0));
    log.append(vec![AppendBatch { topic, partition, records: records.build() }]).unwrap();
    let trace = trace(&log, "e1", LIMITS, &once).unwrap();
    let event = &trace.events[0];
    assert_eq!((event.duplicates, event.copies.len(), event.offset), (4_999, 1_000, 0));
}
