//! Each body is counted to its last event: accepted and rejected are what was sent.

use nilometer_event::{IdentityKey, PartitionCount, ReceiveTime};
use proptest::prelude::*;

use super::*;
use crate::batch::{Batch, Batched, Context, SentBy};
use crate::{GatewayPlan, GatewaySettings, Masker, Source};

/// What a body becomes, as its answer and its records say.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    accepted: usize,
    rejected: usize,
    named: Vec<usize>,
    records: usize,
    words: Vec<String>,
}

fn send(body: &[u8], format: BodyFormat) -> Result<Outcome, FrameError> {
    let plan = GatewayPlan::try_from(GatewaySettings::default()).unwrap();
    let masker = Masker::new(plan.masking.clone(), &[1; 32]);
    let identity = IdentityKey::new([2; 32]);
    let now = ReceiveTime::from_ms(1_795_291_200_000);
    let context = || Context {
        plan: &plan,
        masker: &masker,
        identity: &identity,
        partitions: PartitionCount::new(2).unwrap(),
        source: &Source::Events,
        principal: None,
        sent_by: SentBy::default(),
        now,
        received_at: now,
        wall: None,
    };
    let mut batch = Batch::new(context(), body.len());
    Frames::each(body, format, &plan.limits, &mut |framed| match framed {
        Framed::Event(parsed, sent_at) => batch.take(parsed, sent_at),
        Framed::Again => batch = Batch::new(context(), body.len()),
    })?;
    let Batched { batches, answer, .. } = batch.finish();
    Ok(Outcome {
        accepted: answer.accepted,
        rejected: answer.rejected,
        named: answer.errors.iter().map(|error| error.index).collect(),
        records: batches.iter().map(|batch| batch.records.len()).sum(),
        words: answer.errors.into_iter().map(|error| error.message).collect(),
    })
}

const GOOD: &str = r#"{"event_type":"a","user_id":"u","timestamp":1795291200000}"#;

/// Members of an event that is good without them.
const REST: &str = r#""user_id":"u","timestamp":1795291200000"#;

#[test]
fn an_object_is_an_envelope_only_where_it_is_no_event_by_itself() {
    // The body; accepted, rejected.
    let table: &[(String, usize, usize)] = &[
        (format!(r#"{{"event_type":"a",{REST},"events":[]}}"#), 1, 0),
        (format!(r#"{{"event_type":"a",{REST},"events":[1,{{}}]}}"#), 1, 0),
        (format!(r#"{{"event_type":"a",{REST},"events":[{GOOD},{GOOD}]}}"#), 1, 0),
        (format!(r#"{{"events":[],"event_type":"a",{REST}}}"#), 1, 0),
        (format!(r#"{{"events":[{GOOD},7],{REST},"event_type":"a"}}"#), 1, 0),
        (format!(r#"{{"events":[{GOOD}],"x":{{}},"event\u005ftype":"a",{REST}}}"#), 1, 0),
        (format!(r#"{{"events":[{}1],"event_type":"a",{REST}}}"#, "1,".repeat(10_001)), 1, 0),
        (format!(r#"{{"event_type":"a",{REST},"events":{{}}}}"#), 1, 0),
        (format!(r#"{{"event_type":"a",{REST},"events":null}}"#), 1, 0),
        // An event whose type is missing.
        (format!(r#"{{"events":[],{REST}}}"#), 0, 1),
        (r#"{"user_id":"u","events":[]}"#.to_owned(), 0, 1),
        (r#"{"event_type":null,"events":[]}"#.to_owned(), 0, 1),
        (r#"{"events":{}}"#.to_owned(), 0, 1),
        (r#"{"events":null}"#.to_owned(), 0, 1),
        (r#"{"events":"a"}"#.to_owned(), 0, 1),
        (format!(r#"{{"events":{GOOD}}}"#), 0, 1),
        (r"{}".to_owned(), 0, 1),
        // Readers differ on what a name that comes twice says.
        (format!(r#"{{"events":[{GOOD}],"events":[{GOOD}]}}"#), 0, 1),
        (format!(r#"{{"events":[{GOOD}],"events":{{}}}}"#), 0, 1),
        (format!(r#"{{"events":null,"events":[{GOOD}]}}"#), 0, 1),
        (format!(r#"{{"events":[{GOOD}],"\u0065vents":[{GOOD}]}}"#), 0, 1),
        // Envelopes.
        (r#"{"events":[]}"#.to_owned(), 0, 0),
        (r#"{"sent_at":1795291200000,"events":[]}"#.to_owned(), 0, 0),
        (format!(r#"{{"\u0065vents":[{GOOD}]}}"#), 1, 0),
        (format!(r#"{{"events":[{GOOD},{{}},7],"sent_at":1795291200000}}"#), 1, 2),
        (format!(r#"{{"context":{{"events":[]}},"events":[{GOOD}],"batch":[1]}}"#), 1, 0),
        (format!(r#"{{"user_id":"u","events":[{GOOD}]}}"#), 1, 0),
        ("[]".to_owned(), 0, 0),
        ("[[]]".to_owned(), 0, 1),
        (format!("[{GOOD},[{GOOD}],{{\"events\":[{GOOD}]}}]"), 1, 2),
    ];
    for (body, accepted, rejected) in table {
        let body = &body[..];
        let outcome = send(body.as_bytes(), BodyFormat::Json).unwrap();
        let shown = &body[..body.len().min(200)];
        assert_eq!((outcome.accepted, outcome.rejected), (*accepted, *rejected), "{shown}");
        assert_eq!(outcome.records, accepted + rejected, "{shown}");
    }
    let twice = format!(r#"{{"events":[{GOOD}],"events":[{GOOD}]}}"#);
    let words = send(twice.as_bytes(), BodyFormat::Json).unwrap().words;
    assert_eq!(words, ["field events: occurs twice; readers would differ on which counts"]);
    // Whoever meant an envelope is told why it is none.
    let words = |body: String| send(body.as_bytes(), BodyFormat::Json).unwrap().words;
    for body in [
        r#"{"events":5}"#.to_owned(),
        format!(r#"{{"events":{GOOD}}}"#),
        r#"{"events":null,"batch":1}"#.to_owned(),
        format!(r#"{{"events":[],{REST}}}"#),
        format!(r#"{{"\u0065vents":[{GOOD}],"event_type":""}}"#),
    ] {
        let words = words(body);
        assert!(words.len() == 1 && words[0].contains("no envelope"), "{words:?}");
    }
    let within = words(format!(r#"{{"properties":{{"events":[]}},{REST}}}"#));
    assert_eq!(within, ["field event_type: is required, not empty"]);
}

#[test]
fn several_documents_are_lines_or_nothing() {
    for body in [format!("{GOOD}{GOOD}"), format!("{GOOD}\n{GOOD}"), format!("[{GOOD}] 7")] {
        let error = send(body.as_bytes(), BodyFormat::Json).unwrap_err();
        assert!(matches!(error, FrameError::More { .. }), "{body}: {error}");
        assert!(error.to_string().contains("application/x-ndjson"), "{error}");
    }
    let lines = format!("\u{feff}\r\n{GOOD}\r\n \n\n[{GOOD}]\n\u{feff}{GOOD}\n\t{GOOD} {GOOD}\n");
    let outcome = send(lines.as_bytes(), BodyFormat::Lines).unwrap();
    assert_eq!((outcome.accepted, outcome.rejected), (1, 3));
    for blank in ["", "\u{feff}", " \r\n\t", "\u{feff}\n\n"] {
        for format in [BodyFormat::Json, BodyFormat::Lines] {
            assert_eq!(send(blank.as_bytes(), format), Err(FrameError::Empty), "{blank:?}");
        }
    }
}

/// What stands where an event is expected, with or without a type of its own.
fn item() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just(GOOD.to_owned()),
        1 => Just(format!(r#"{{"event_type":"a",{REST},"events":[{GOOD}]}}"#)),
        1 => prop::sample::select(vec![
            "{}", "[]", "null", "7", "\"a\"", "[{}]", "true", "-0.5e3",
            r#"{"events":[]}"#, r#"{"event_type":"a"}"#, r#"{"event_id":"x","country":7}"#,
        ])
        .prop_map(str::to_owned),
    ]
}

fn space() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "", " ", "\n", "\r\n\t "])
}

/// Members of an object of which nobody knows yet whether it is an envelope.
fn members() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let events = prop_oneof![
        3 => prop::collection::vec(item(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
        1 => prop::sample::select(vec!["null", "{}", "7", "\"\""]).prop_map(str::to_owned),
    ];
    let member = prop_oneof![
        3 => events.prop_map(|events| ("events", events)),
        1 => Just(("event_type", "\"a\"".to_owned())),
        1 => Just(("user_id", "\"u\"".to_owned())),
        1 => Just(("timestamp", "1795291200000".to_owned())),
        1 => Just(("sent_at", "1795291200000".to_owned())),
        1 => Just(("context", "{\"event_type\":\"a\",\"events\":[1]}".to_owned())),
    ];
    prop::collection::vec(member, 0..6)
}

/// How many events an object of these members is, by the words of docs/api.md.
fn sent_in(members: &[(&str, String)]) -> usize {
    let values = |wanted: &str| -> Vec<serde_json::Value> {
        let own = members.iter().filter(|(name, _)| *name == wanted);
        own.map(|(_, value)| serde_json::from_str(value).unwrap()).collect()
    };
    let events = values("events");
    let [serde_json::Value::Array(items)] = &events[..] else { return 1 };
    let own = ["user_id", "timestamp"].iter().any(|name| !values(name).is_empty());
    if !values("event_type").is_empty() || own && items.is_empty() { 1 } else { items.len() }
}

/// A body, its format, and how many events it has.
fn body() -> impl Strategy<Value = (String, BodyFormat, usize)> {
    let array = (prop::collection::vec(item(), 0..6), space()).prop_map(|(items, space)| {
        (format!("[{space}{}{space}]", items.join(&format!("{space},"))), items.len())
    });
    let object = (members(), space()).prop_map(|(members, space)| {
        let texts: Vec<_> =
            members.iter().map(|(name, value)| format!("\"{name}\"{space}:{value}")).collect();
        (format!("{{{}{space}}}", texts.join(",")), sent_in(&members))
    });
    let document = prop_oneof![
        array,
        object,
        item().prop_map(|one| {
            // An item by itself may be an envelope of nothing, or an array.
            let sent = match &one[..] {
                "[]" | r#"{"events":[]}"# => 0,
                _ => 1,
            };
            (one, sent)
        })
    ];
    let document = (space(), document, space()).prop_map(|(before, (text, sent), after)| {
        (format!("{before}{text}{after}"), BodyFormat::Json, sent)
    });
    let broken = prop::sample::select(vec!["{", "nonsense", "{\"a\":}", "]", "{} {}", "[1,]"]);
    let line = prop_oneof![
        4 => item().prop_map(|one| (one, 1)),
        1 => broken.prop_map(|one| (one.to_owned(), 1)),
        2 => prop::sample::select(vec!["", " ", "\t"]).prop_map(|blank| (blank.to_owned(), 0)),
    ];
    let lines = (prop::collection::vec(line, 0..8), prop::sample::select(vec!["\n", "\r\n"]));
    let lines = lines.prop_map(|(lines, end)| {
        let texts: Vec<&str> = lines.iter().map(|(text, _)| &text[..]).collect();
        (texts.join(end), BodyFormat::Lines, lines.iter().map(|(_, sent)| sent).sum())
    });
    (prop::sample::select(vec!["", "\u{feff}"]), prop_oneof![document, lines])
        .prop_map(|(mark, (text, format, sent))| (format!("{mark}{text}"), format, sent))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_sum_of_an_answer_is_what_was_sent((body, format, sent) in body()) {
        let blank = body.trim_start_matches('\u{feff}').trim().is_empty();
        match send(body.as_bytes(), format) {
            Ok(outcome) => {
                prop_assert_eq!(outcome.accepted + outcome.rejected, sent, "{}", body);
                prop_assert_eq!(outcome.named.len(), outcome.rejected, "{}", body);
                prop_assert!(outcome.named.is_sorted_by(|one, next| one < next), "{}", body);
                prop_assert!(outcome.named.iter().all(|index| *index < sent), "{}", body);
                prop_assert_eq!(outcome.records, sent, "{}", body);
            }
            Err(error) => prop_assert!(blank && error == FrameError::Empty, "{}: {}", body, error),
        }
    }
}
