//! Two parsers, one verdict; the walker against serde_json.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

const LIMITS: Limits = Limits {
    body_bytes_max: 1 << 20,
    server_body_bytes_max: 1 << 20,
    inflated_bytes_max: 1 << 20,
    inflation_ratio_max: 100,
    batch_events_max: 100,
    event_bytes_max: 700,
    depth_max: 5,
    properties_max: 4,
    string_bytes_max: 40,
};

type Scanned<'a> = Option<(Draft<'a>, usize)>;
type Full<'a> = Option<Result<Draft<'a>, Refusal>>;

fn both(bytes: &[u8]) -> (Scanned<'_>, Full<'_>) {
    let scanned = std::str::from_utf8(bytes).ok().and_then(|text| scan::event(text, 0, &LIMITS));
    let walked = skip::value(bytes, 0).ok();
    let full = walked.map(|shape| full::event(&bytes[..shape.end], &shape, &LIMITS));
    (scanned, full)
}

/// Whatever the fast parser takes, the full one takes alike.
fn agree(bytes: &[u8]) -> Result<(), TestCaseError> {
    let (scanned, full) = both(bytes);
    if let Some((draft, end)) = scanned {
        let shape = skip::value(bytes, 0).unwrap();
        prop_assert_eq!(shape.end, end, "{}", String::from_utf8_lossy(bytes));
        prop_assert_eq!(full.unwrap(), Ok(draft), "{}", String::from_utf8_lossy(bytes));
    }
    Ok(())
}

fn scalar() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9 .:äß]{0,12}".prop_map(|text| format!("\"{text}\"")),
        "[a-z]{35,45}".prop_map(|text| format!("\"{text}\"")),
        Just(r#""with \"escapes\" \u00e4 \ud83d\ude00""#.to_owned()),
        Just(r#""\ud800""#.to_owned()),
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        (-99_999_999_999i64..99_999_999_999).prop_map(|number| number.to_string()),
        any::<f64>()
            .prop_filter("finite", |number| number.is_finite())
            .prop_map(|number| format!("{number:e}")),
        Just("1e999".to_owned()),
        Just("9223372036854775808".to_owned()),
        Just("-0.0".to_owned()),
        Just("-0".to_owned()),
        Just("0".to_owned()),
        Just("-7".to_owned()),
        Just("7.0".to_owned()),
        "[1-9][0-9]{17,45}",
        Just("1700000000000".to_owned()),
        Just("\"2026-11-21T20:15:03.120Z\"".to_owned()),
        Just("\"2026-02-30T00:00:00Z\"".to_owned()),
    ]
}

fn name() -> impl Strategy<Value = String> {
    let known = TextField::ALL.map(TextField::name).to_vec();
    prop_oneof![
        8 => prop::sample::select(known).prop_map(str::to_owned),
        2 => Just("timestamp".to_owned()),
        1 => Just("sent_at".to_owned()),
        1 => Just("session_duration_sec".to_owned()),
        1 => Just("completed".to_owned()),
        3 => Just("properties".to_owned()),
        1 => Just("un\\u006bnown".to_owned()),
        1 => "[a-c]{1,2}",
    ]
}

fn any_value() -> impl Strategy<Value = String> {
    scalar().prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|items| format!("[{}]", items.join(", "))),
            prop::collection::vec(("[a-d]{1,2}", inner), 0..5).prop_map(|members| {
                let members: Vec<_> =
                    members.iter().map(|(name, value)| format!("\"{name}\" : {value}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

fn event() -> impl Strategy<Value = String> {
    prop::collection::vec((name(), any_value()), 0..9).prop_map(|members| {
        let members: Vec<_> =
            members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", members.join(", "))
    })
}

/// A whole, good event of the common shape.
const GOOD: &str = r#"{"event_id":"e-1","event_type":"play","user_id":"u-1","timestamp":"2026-11-21T20:15:03.120Z","country":"DE","session_duration_sec":312.5,"completed":true,"properties":{"a":1,"b":"x","c":[1,{"d":null}]}}"#;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn two_parsers_give_one_verdict_on_any_event(event in event()) {
        agree(event.as_bytes())?;
    }

    #[test]
    fn two_parsers_give_one_verdict_on_a_mutated_event(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..4),
    ) {
        let mut bytes = GOOD.as_bytes().to_vec();
        for (at, byte, kind) in edits {
            let at = at.index(bytes.len());
            // Bytes that matter to a parser are likelier than the rest.
            let special = b"\"\\{}[]:,0-.eun \n\x01\x80";
            let byte = if byte < 128 { special[usize::from(byte) % special.len()] } else { byte };
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => {
                    bytes.remove(at);
                }
            }
        }
        agree(&bytes)?;
    }

    #[test]
    fn the_walker_takes_exactly_what_serde_json_takes(value in any_value(), cut in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = value.into_bytes();
        let at = cut.index(bytes.len());
        bytes[at] = byte;
        let ours = skip::value(&bytes, 0).is_ok_and(|shape| skip::white_space(&bytes, shape.end) == bytes.len());
        // serde_json asks for UTF-8 only where it reads a string; the walker leaves it to others.
        if let Ok(text) = std::str::from_utf8(&bytes) {
            let leading = text.len() - text.trim_start_matches([' ', '\n', '\r', '\t']).len();
            let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text[leading..]).is_ok();
            let ours = if leading == 0 { ours } else { skip::value(&bytes, leading).is_ok_and(|shape| skip::white_space(&bytes, shape.end) == bytes.len()) };
            prop_assert_eq!(ours, theirs, "{}", text);
        }
    }

    #[test]
    fn the_walker_measures_strings_and_depth_as_they_are_decoded(value in any_value()) {
        let shape = skip::value(value.as_bytes(), 0).unwrap();
        if let Ok(tree) = serde_json::from_str::<Value>(&value) {
            prop_assert!(shape.lone_surrogate.is_none());
            let (depth, longest) = measure(&tree);
            // A repeated name hides what came first from the tree, never from the walker.
            prop_assert!(shape.depth >= depth, "{}", value);
            if full::check_names(&value).is_ok() {
                prop_assert_eq!((shape.depth, shape.string_bytes), (depth, longest), "{}", value);
            }
            prop_assert!(shape.string_bytes >= longest, "{}", value);
        }
    }

    #[test]
    fn plain_ends_where_a_naive_search_says(bytes in prop::collection::vec(any::<u8>(), 0..40), from in 0..8usize) {
        let naive = (from..bytes.len())
            .find(|at| bytes[*at] < 0x20 || bytes[*at] == b'"' || bytes[*at] == b'\\')
            .unwrap_or(bytes.len().max(from));
        prop_assert_eq!(skip::plain_end(&bytes, from), naive);
    }
}

fn measure(tree: &Value) -> (usize, usize) {
    match tree {
        Value::String(text) => (0, text.len()),
        Value::Array(items) => nested(items.iter().map(measure)),
        Value::Object(members) => nested(members.iter().map(|(name, value)| {
            let (depth, longest) = measure(value);
            (depth, longest.max(name.len()))
        })),
        _ => (0, 0),
    }
}

fn nested(parts: impl Iterator<Item = (usize, usize)>) -> (usize, usize) {
    let (depth, longest) = parts.fold((0, 0), |all, part| (all.0.max(part.0), all.1.max(part.1)));
    (depth + 1, longest)
}

fn verdict(event: &str) -> Result<Draft<'_>, Refusal> {
    value(event.as_bytes(), 0, Some(event), &LIMITS).unwrap().verdict
}

#[test]
fn the_common_shape_takes_the_fast_way() {
    let (draft, end) = scan::event(GOOD, 0, &LIMITS).unwrap();
    assert_eq!(end, GOOD.len());
    assert_eq!(draft.text(TextField::Country), Some("DE"));
    assert_eq!(draft.session_duration_sec, Some(312.5));
    assert_eq!(draft.properties.as_deref(), Some(r#"{"a":1,"b":"x","c":[1,{"d":null}]}"#));
}

#[test]
#[expect(clippy::too_many_lines, reason = "the cases are data")]
fn what_is_wrong_is_said_by_field_and_limit() {
    let long = "x".repeat(41);
    let table: &[(String, &str, &str)] = &[
        (
            r#"{"country":7}"#.to_owned(),
            "schema_violation",
            "field country: expected a string, found 7",
        ),
        (
            r#"{"session_duration_sec":"long"}"#.to_owned(),
            "schema_violation",
            "field session_duration_sec: expected a number, found \"long\"",
        ),
        (r#"{"session_duration_sec":1e300}"#.to_owned(), "schema_violation", "fit 64 bits"),
        (r#"{"session_duration_sec":-0.5}"#.to_owned(), "schema_violation", "from 0 up"),
        (r#"{"session_duration_sec":-1e-9}"#.to_owned(), "schema_violation", "from 0 up"),
        (r#"{"session_duration_sec":-1e300}"#.to_owned(), "schema_violation", "from 0 up"),
        (
            r#"{"user_id":1.0}"#.to_owned(),
            "schema_violation",
            "field user_id: expected a string, or an integer without fraction and exponent, \
             found 1.0",
        ),
        (r#"{"event_id":1e3}"#.to_owned(), "schema_violation", "field event_id: expected"),
        (r#"{"session_id":-0}"#.to_owned(), "schema_violation", "field session_id: expected"),
        (r#"{"content_id":true}"#.to_owned(), "schema_violation", "field content_id: expected"),
        (r#"{"service_name":[1]}"#.to_owned(), "schema_violation", "field service_name"),
        (
            format!(r#"{{"anonymous_id":{}}}"#, "7".repeat(41)),
            "string_too_long",
            "field anonymous_id: a number of 41 digits, over string_bytes_max = 40",
        ),
        (r#"{"session_duration_sec":1e999}"#.to_owned(), "schema_violation", "fit 64 bits"),
        (
            r#"{"completed":"yes"}"#.to_owned(),
            "schema_violation",
            "field completed: expected true or false, found \"yes\"",
        ),
        (
            r#"{"properties":[1]}"#.to_owned(),
            "schema_violation",
            "field properties: expected an object, found [1]",
        ),
        (r#"{"timestamp":"yesterday"}"#.to_owned(), "schema_violation", "field timestamp"),
        (r#"{"timestamp":1.5}"#.to_owned(), "schema_violation", "field timestamp"),
        (r#"{"timestamp":9223372036854775808}"#.to_owned(), "schema_violation", "field timestamp"),
        (r#"{"timestamp":253402300800000}"#.to_owned(), "schema_violation", "years 1 to 9999"),
        (
            r#"{"timestamp":1795000000}"#.to_owned(),
            "schema_violation",
            "field timestamp: 1795000000 looks like seconds",
        ),
        (r#"{"sent_at":-100000000}"#.to_owned(), "schema_violation", "-100000000 looks like"),
        (r#"{"timestamp":"1795000000"}"#.to_owned(), "schema_violation", "RFC 3339"),
        (r#"{"timestamp":"2026-11-21T20:15:03+24:00"}"#.to_owned(), "schema_violation", "RFC 3339"),
        (
            r#"{"country":"DE","country":"DE"}"#.to_owned(),
            "schema_violation",
            "field country: occurs twice",
        ),
        (
            r#"{"country":"DE","\u0063ountry":"FR"}"#.to_owned(),
            "schema_violation",
            "field country: occurs twice",
        ),
        (r#"{"properties":{"a":1,"a":2}}"#.to_owned(), "schema_violation", "a occurs twice"),
        (
            r#"{"properties":{"o":[{"a":1,"\u0061":2}]}}"#.to_owned(),
            "schema_violation",
            "a occurs twice",
        ),
        (r#"{"odd":1,"odd":2}"#.to_owned(), "schema_violation", "field odd"),
        (r#"{"odd":1,"properties":{"odd":2}}"#.to_owned(), "schema_violation", "field odd"),
        (r#"{"odd":{"a":1,"a":2}}"#.to_owned(), "schema_violation", "a occurs twice"),
        (
            r#"{"country":"\ud800"}"#.to_owned(),
            "schema_violation",
            "field country: half a character (a lone surrogate escape) at byte 12 of the event",
        ),
        (
            r#"{"properties":{"a":[1,{"\u00e9": "é\udc00x"}]}}"#.to_owned(),
            "schema_violation",
            "field properties.a.é: half a character (a lone surrogate escape) at byte 36",
        ),
        (r#"{"odd" : "x", "\udbff":1}"#.to_owned(), "schema_violation", "the event: half a"),
        (
            r#"{"properties" :{"a": {}, "b\ud800" : 1}}"#.to_owned(),
            "schema_violation",
            "field properties: half a character (a lone surrogate escape) at byte 27",
        ),
        (
            r#"{"timestamp":"2024-03-10T12:34:60Z"}"#.to_owned(),
            "schema_violation",
            "field timestamp: there is no leap second at 2024-03-10T12:34:60Z",
        ),
        ("7".to_owned(), "schema_violation", "expected an event (an object), found 7"),
        (
            format!(r#"{{"country":"{long}"}}"#),
            "string_too_long",
            "field country: a text of 41 bytes, over string_bytes_max = 40",
        ),
        (
            format!(r#"{{"channel":"web","properties":{{"a":1,"b":[{{"c":"{long}"}}]}}}}"#),
            "string_too_long",
            "field properties.b.c: a text of 41 bytes, over string_bytes_max = 40",
        ),
        (
            format!(r#"{{"properties":{{"{long}":1}}}}"#),
            "string_too_long",
            "field properties: a name of 41 bytes, over string_bytes_max = 40",
        ),
        (
            format!(r#"{{"{long}":1}}"#),
            "string_too_long",
            "the event: a name of 41 bytes, over string_bytes_max = 40",
        ),
        (r#"{"properties":{"a":[[[[1]]]]}}"#.to_owned(), "event_too_deep", "depth_max = 5"),
        (
            r#"{"properties":{"a":1,"b":1,"c":1,"d":1,"e":1}}"#.to_owned(),
            "too_many_properties",
            "properties_max = 4",
        ),
        (
            r#"{"e":1,"properties":{"a":1,"b":1,"c":1,"d":1}}"#.to_owned(),
            "too_many_properties",
            "properties_max = 4",
        ),
        (
            format!("{{{}\"country\":\"DE\"}}", " ".repeat(700)),
            "event_too_large",
            "event_bytes_max = 700",
        ),
    ];
    for (event, code, words) in table {
        let refusal = verdict(event).unwrap_err();
        assert_eq!(refusal.code, *code, "{event}: {refusal:?}");
        assert!(refusal.message.contains(words), "{event}: {refusal:?}");
    }
}

#[test]
fn an_id_that_is_an_integer_is_its_decimal_text() {
    let long = format!("-{}", "123456789".repeat(4));
    for field in TextField::ALL.into_iter().filter(|field| field.is_id()) {
        for id in ["0", "7", "-7", "9007199254740993", "18446744073709551616", &long] {
            // The fast way, and, for the unknown member, the full one.
            for rest in ["", ",\"odd\":1"] {
                let event = format!("{{\"{}\":{id}{rest}}}", field.name());
                assert_eq!(verdict(&event).unwrap().text(field), Some(id), "{event}");
                let (scanned, full) = both(event.as_bytes());
                assert_eq!(scanned.is_some(), rest.is_empty(), "{event}");
                assert_eq!(full.unwrap().unwrap().text(field), Some(id), "{event}");
            }
        }
    }
    let glimpse = full::glimpse(br#"{"event_id":7,"user_id":8,"country":7,"anonymous_id":"#);
    assert_eq!((glimpse.event_id.as_deref(), glimpse.user_id.as_deref()), (Some("7"), Some("8")));
}

#[test]
fn no_duration_has_a_sign() {
    for zero in ["0", "-0", "-0.0", "0e9"] {
        let event = format!("{{\"session_duration_sec\":{zero}}}");
        let seconds = verdict(&event).unwrap().session_duration_sec.unwrap();
        assert!(seconds == 0.0 && seconds.is_sign_positive(), "{zero}");
    }
}

#[test]
fn bytes_that_are_no_utf8_are_that_events_fault() {
    let bytes = b"{\"country\":\"\xff\"}";
    let parsed = value(bytes, 0, None, &LIMITS).unwrap();
    assert_eq!(parsed.raw, bytes);
    assert_eq!(parsed.verdict.unwrap_err().code, "invalid_utf8");
    // The event is named by its own bytes, wherever it stands in the body.
    for (event, place) in [
        (&b"{\"country\":\"a\xff\"}"[..], "field country: not UTF-8 at byte 13 of the event"),
        (
            b"{\"a\":1, \"properties\":{\"x\":[[\"\xc3\"]]}}",
            "field properties.x: not UTF-8 at byte 29",
        ),
        (b"{\"a\":1, \"\xff\":2}", "the event: not UTF-8 at byte 9 of the event"),
        (b"{\"properties\":{\"a\xff\":\"\xff\"}}", "field properties: not UTF-8 at byte 17"),
        (b"[\"\xff\"]", "the event: not UTF-8 at byte 2 of the event"),
        (b"\"\xff\"", "the event: not UTF-8 at byte 1 of the event"),
    ] {
        let body = [b"[ ", event, b"]"].concat();
        let refusal = value(&body, 2, None, &LIMITS).unwrap().verdict.unwrap_err();
        assert!(refusal.message.starts_with(place), "{refusal:?}");
    }
}

#[test]
fn a_limit_is_named_with_its_setting_and_with_what_to_do() {
    let long = "x".repeat(41);
    for (event, setting) in [
        (format!(r#"{{"country":"{long}"}}"#), "gateway.string_bytes_max"),
        (format!(r#"{{"user_id":{}}}"#, "7".repeat(41)), "gateway.string_bytes_max"),
        (r#"{"properties":{"a":[[[[1]]]]}}"#.to_owned(), "gateway.depth_max"),
        (r#"{"a":1,"b":1,"c":1,"d":1,"e":1}"#.to_owned(), "gateway.properties_max"),
        (format!("{{{}}}", " ".repeat(700)), "gateway.event_bytes_max"),
    ] {
        let message = verdict(&event).unwrap_err().message.into_owned();
        let remedy = message.split_once("; ").map(|(_, remedy)| remedy.to_owned());
        assert!(remedy.is_some_and(|remedy| remedy.ends_with(setting)), "{message}");
    }
}

#[test]
fn null_is_absent_and_unknown_fields_move_into_properties() {
    let draft = verdict(r#"{"country":null,"properties":null,"odd":1,"event_type":"a"}"#).unwrap();
    assert_eq!(draft.text(TextField::Country), None);
    assert_eq!(draft.properties.as_deref(), Some(r#"{"odd":1}"#));
    let draft = verdict(r#"{"odd":{"x":[]},"properties":{"a":{}} , "even\n":null}"#).unwrap();
    assert_eq!(draft.properties.as_deref(), Some(r#"{"a":{},"odd":{"x":[]},"even\n":null}"#));
    let draft = verdict(r#"{"odd":1,"properties":{ }}"#).unwrap();
    assert_eq!(draft.properties.as_deref(), Some(r#"{"odd":1}"#));
}

#[test]
fn a_million_brackets_cost_no_stack() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(1_000_000), close.repeat(1_000_000));
        let parsed = value(deep.as_bytes(), 0, Some(&deep), &Limits::default()).unwrap();
        assert_eq!(parsed.verdict.unwrap_err().code, "event_too_large");
        let shape = skip::value(deep.as_bytes(), 0).unwrap();
        assert_eq!(shape.depth, 1_000_000);
        assert!(skip::value(&deep.as_bytes()[..deep.len() - 1], 0).is_err());
        let within = format!("{{\"properties\":{{\"a\":{deep}}}}}");
        assert!(scan::event(&within, 0, &Limits::default()).is_none());
    }
}

#[test]
fn mixed_nesting_past_64_levels_closes_in_order() {
    let (mut open, mut close) = (String::new(), String::new());
    for level in 0..200u32 {
        let (begin, end) = if level.is_multiple_of(3) { ("{\"a\":", '}') } else { ("[", ']') };
        open.push_str(begin);
        close.insert(0, end);
    }
    assert!(skip::value(format!("{open}1{close}").as_bytes(), 0).is_ok());
    let swapped = close.replacen("]]}", "]}]", 1);
    assert!(skip::value(format!("{open}1{swapped}").as_bytes(), 0).is_err());
}
