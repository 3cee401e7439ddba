//! Questions as people and programs write them.

use nilometer_event::{EventTime, Granularity};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn ask(query: &[(&str, &str)]) -> Result<Ask, AskError> {
    Ask::from_params(query.iter().copied())
}

#[test]
fn the_same_question_in_a_url_and_in_json_is_equal() {
    let url = ask(&[
        ("metrics", "events,unique_users"),
        ("group_by", "country"),
        ("filter", "device_type:tv,mobile"),
        ("filter", "country:null"),
        ("from", "2026-11-21T20:15:00Z"),
        ("to", "1795294800000"),
        ("granularity", "1m"),
        ("order_by", "-events"),
        ("limit", "10"),
        ("compare", "previous_period"),
    ])
    .unwrap();
    let body = json!({
        "metrics": ["events", "unique_users"], "group_by": "country",
        "filter": {"country": null, "device_type": ["mobile", "tv"]},
        "from": "2026-11-21T20:15:00Z", "to": 1_795_294_800_000_i64, "granularity": "1m",
        "order_by": ["-events"], "limit": 10, "compare": "previous_period",
    });
    assert_eq!(Ask::from_json(&body).unwrap(), url);
    let again = Ask::from_json(&json!({
        "metrics": "events,unique_users", "group_by": ["country"],
        "filter": ["country:null", "device_type:mobile,tv,tv"],
        "from": "2026-11-21T20:15:00Z", "to": "1795294800000", "granularity": "1m",
        "order_by": "-events", "limit": 10, "compare": "previous_period", "window": null,
    }));
    assert_eq!(again.unwrap(), url);
}

#[test]
fn without_a_range_it_is_the_last_hour() {
    let asked = ask(&[("metrics", "events")]).unwrap();
    assert_eq!(asked.span, Span::Last { ms: 3_600_000 });
    assert_eq!((asked.limit, asked.granularity), (1_000, None));
}

#[test]
fn ranges_of_the_same_windows_are_the_same_question() {
    let between = |from: &str, to: &str, granularity: Option<&str>| {
        let mut query = vec![("metrics", "events"), ("from", from), ("to", to)];
        query.extend(granularity.map(|granularity| ("granularity", granularity)));
        ask(&query).unwrap()
    };
    for granularity in ["1m", "total"] {
        let whole = between("1795291200000", "1795294800000", Some(granularity));
        assert_eq!(between("1795291259999", "1795294740001", Some(granularity)), whole);
        assert_ne!(between("1795291260000", "1795294740001", Some(granularity)), whole);
        assert_ne!(between("1795291259999", "1795294740000", Some(granularity)), whole);
    }
    let day = |from, to| between(from, to, Some("1d"));
    assert_eq!(day("1795291259999", "1795294740001"), day("1795291200000", "1795300000000"));
    // Without a granularity the length of the range decides on the windows.
    let (one, other) = ("1795291259999", "1795291200000");
    assert_ne!(between(one, "1795294800000", None), between(other, "1795294800000", None));
}

#[test]
fn what_is_wrong_is_named() {
    /// Parameters, the code of the refusal, the parameter that it names.
    type Case = (&'static [(&'static str, &'static str)], &'static str, &'static str);
    let cases: &[Case] = &[
        (&[("metrics", "events"), ("granulrity", "1m")], "unknown_parameter", "granulrity"),
        (&[], "bad_parameter", "metrics"),
        (&[("metrics", "events"), ("granularity", "2m")], "bad_parameter", "granularity"),
        (&[("metrics", "events"), ("last", "1h"), ("from", "0")], "bad_parameter", "last"),
        (&[("metrics", "events"), ("from", "5"), ("to", "5")], "bad_parameter", "from"),
        (&[("metrics", "events"), ("to", "5")], "bad_parameter", "from"),
        (&[("metrics", "events"), ("from", "yesterday")], "bad_parameter", "from"),
        (&[("metrics", "events"), ("last", "0h")], "bad_parameter", "last"),
        (&[("metrics", "events"), ("last", "1µ")], "bad_parameter", "last"),
        (&[("metrics", "events"), ("limit", "0")], "bad_parameter", "limit"),
        (&[("metrics", "events"), ("limit", "100001")], "bad_parameter", "limit"),
        (&[("metrics", "events"), ("limit", "1"), ("limit", "2")], "bad_parameter", "limit"),
        (&[("metrics", "events"), ("filter", "country")], "bad_parameter", "filter"),
        (&[("metrics", "events"), ("filter", "country:DE,")], "bad_parameter", "filter"),
        (&[("metrics", "events"), ("filter", "country:DE\\")], "bad_parameter", "filter"),
        (&[("metrics", "events"), ("compare", "yesterday")], "bad_parameter", "compare"),
    ];
    for (query, code, parameter) in cases {
        let refused = ask(query).unwrap_err();
        assert_eq!((refused.code, refused.parameter.as_str()), (*code, *parameter), "{query:?}");
    }
    let near = ask(&[("metrics", "events"), ("granulrity", "1m")]).unwrap_err().near;
    assert_eq!(near, ["granularity"]);
}

#[test]
fn a_backslash_makes_commas_null_and_other_literal() {
    let filter = Filter::parse(r"title:a\,b,null,\null,__other__,\__other__,x:y,\\").unwrap();
    let text = |text: &str| Member::Text(text.into());
    assert_eq!(
        members(&filter),
        [
            text("a,b"),
            Member::Null,
            text("null"),
            Member::Other,
            text("__other__"),
            text("x:y"),
            text("\\"),
        ]
    );
}

#[test]
fn two_filters_of_one_dimension_must_both_hold() {
    let asked =
        ask(&[("metrics", "events"), ("filter", "country:DE,FR"), ("filter", "country:FR,GB")])
            .unwrap();
    assert_eq!(asked.filters.len(), 1);
    assert_eq!(members(&asked.filters[0]), [Member::Text("FR".into())]);
}

/// The values of a filter that has nothing else.
fn members(filter: &Filter) -> &[Member] {
    let any_of = filter.rule.any_of.as_ref().unwrap();
    assert!(any_of.prefixes.is_empty() && filter.rule.none_of == Values::default());
    &any_of.members
}

#[test]
fn a_filter_leaves_values_out_and_takes_them_by_how_they_begin() {
    let text = |text: &str| Member::Text(text.into());
    /// A filter, what it admits, what it does not.
    type Case<'a> = (&'a str, Vec<Member>, Vec<Member>);
    let cases: Vec<Case<'_>> = vec![
        ("d:DE", vec![text("DE")], vec![text("D"), text("DEN"), text(""), Member::Null]),
        ("d:!DE,!FR", vec![text("GB"), Member::Null, Member::Other], vec![text("DE"), text("FR")]),
        ("!d:DE,FR", vec![text("GB"), Member::Null, Member::Other], vec![text("DE"), text("FR")]),
        ("!d:c-*,null", vec![text("c"), Member::Other], vec![text("c-1"), Member::Null]),
        ("!d:DE,!FR", vec![], vec![]),
        ("d:!null", vec![text("null"), text(""), Member::Other], vec![Member::Null]),
        ("d:c-*", vec![text("c-"), text("c-1")], vec![text("c"), text("C-1"), Member::Null]),
        ("d:!c-*", vec![text("c"), Member::Null, Member::Other], vec![text("c-"), text("c-1")]),
        ("d:/shop*,!/shop/cart*", vec![text("/shop/a")], vec![text("/shop/cart"), text("/")]),
        ("d:*", vec![text(""), text("a")], vec![Member::Null, Member::Other]),
        ("d:!*", vec![Member::Null, Member::Other], vec![text(""), text("a")]),
        ("d:\"\"", vec![text("")], vec![Member::Null, text("\"\"")]),
        ("d:!\"\"", vec![text("a"), Member::Null], vec![text("")]),
        ("d:\"a,b\",c", vec![text("a,b"), text("c")], vec![text("a"), text("b")]),
        ("d:\"a,\"*", vec![text("a,"), text("a,b")], vec![text("a")]),
        ("d:\"a*\",\\!b", vec![text("a*"), text("!b")], vec![text("ab"), text("b")]),
        ("d:a\\*", vec![text("a*")], vec![text("ab")]),
        ("d:a*b,!", vec![], vec![]),
        ("d:a*b", vec![text("a*b")], vec![text("ab"), text("axb")]),
        ("d:\"null\",\"__other__\"", vec![text("null"), text("__other__")], vec![Member::Null]),
        ("d:\"a\\\"b\\\\\"", vec![text("a\"b\\")], vec![]),
        (r#"d:"C:\temp""#, vec![text(r"C:\temp")], vec![text("C:temp")]),
        (r#"d:"a\,b\*"*"#, vec![text(r"a\,b\*c")], vec![text("a,b*c")]),
        (r#"d:"\\","\\n""#, vec![text("\\"), text(r"\n")], vec![text(r"\\n")]),
        ("d:a\"b\"", vec![text("a\"b\"")], vec![text("ab")]),
    ];
    for (written, admitted, refused) in cases {
        let filter = Filter::parse(written);
        if admitted.is_empty() && refused.is_empty() {
            assert_eq!(filter.unwrap_err().parameter, "filter", "{written}");
            continue;
        }
        let filter = filter.unwrap_or_else(|error| panic!("{written}: {error}"));
        let asked = Ask::from_params([("metrics", "events"), ("filter", written)]).unwrap();
        for rule in [&filter.rule, &asked.filters[0].rule] {
            assert!(admitted.iter().all(|member| rule.admits(member)), "{written}: {rule:?}");
            assert!(!refused.iter().any(|member| rule.admits(member)), "{written}: {rule:?}");
        }
    }
    for written in ["d:", "d:\"a", "d:\"a\"b", "d:a,", "d:!", "d:\"a\\"] {
        assert!(Filter::parse(written).is_err(), "{written}");
    }
}

#[test]
fn a_filter_is_masked_by_what_its_dimension_is_read_from() {
    let declared = r#"{"dimension":[{"name":"exempt","source":"properties.mail"},
        {"name":"mail","source":"properties.exempt"}]}"#;
    let plan = Plan::compile(&serde_json::from_str(declared).unwrap()).unwrap();
    let filters = ["exempt", "mail", "country"].map(|dimension| {
        let filter = format!("{dimension}:ada@example.com");
        let asked = ask(&[("metrics", "events"), ("filter", &filter)]).unwrap();
        asked.masked(&crate::testing::PaperHouse, &plan).filters.remove(0)
    });
    let text = |text: &str| [Member::Text(text.into())];
    assert_eq!(
        filters.each_ref().map(members),
        [&text("em1_ada")[..], &text("ada@example.com"), &text("em1_ada")]
    );
}

#[test]
fn a_prefix_holds_as_it_is_written_and_with_its_addresses_masked() {
    let mask = |_dimension: &str, text: &str| {
        vec![text.replace("203.0.113.9", "ip1_a").replace("1.3.6.1", "ip1_b")]
    };
    for (written, admitted, refused) in [
        ("d:1.3.6.1*", &["1.3.6.1.4.1", "ip1_b", "ip1_b.4"][..], &["1.3.6.2", "ip1_a"][..]),
        ("d:203.0.113.9*", &["ip1_a", "ip1_a:443"], &["ip1_b", "203.0.113.8"]),
        ("d:203.0.*", &["203.0.x"], &["ip1_a"]),
        ("d:1.3.6.1*,!1.3.6.1.4*", &["1.3.6.1.5", "ip1_b"], &["1.3.6.1.4.1", "ip1_b.4"]),
        ("d:!203.0.113.9*", &["ip1_b", "1.3"], &["ip1_a/x"]),
        ("d:203.0.113.9", &["ip1_a"], &["203.0.113.9"]),
    ] {
        let rule = Filter::parse(written).unwrap().masked(&mask).rule;
        for (texts, expected) in [(admitted, true), (refused, false)] {
            for text in texts {
                assert_eq!(
                    rule.admits(&Member::Text((*text).into())),
                    expected,
                    "{written}: {text}"
                );
            }
        }
    }
}

#[test]
fn json_says_not_and_prefix_by_name_and_takes_text_as_it_is() {
    let filters = |filter: serde_json::Value| {
        Ask::from_json(&json!({"metrics": "events", "filter": filter})).map(|ask| ask.filters)
    };
    let url = |written: &[&str]| {
        let params = written.iter().map(|text| ("filter", *text));
        ask(&[("metrics", "events")].into_iter().chain(params).collect::<Vec<_>>()).unwrap().filters
    };
    for (json, written) in [
        (json!({"plan": {"not": ["free"]}}), &["plan:!free"][..]),
        (json!({"plan": {"not": null}}), &["plan:!null"]),
        (json!({"path": {"prefix": "/shop"}}), &["path:/shop*"]),
        (json!({"path": {"prefix": ["/a", "/b"]}}), &["path:/a*,/b*"]),
        (json!({"path": {"not": {"prefix": "/a"}}}), &["path:!/a*"]),
        (json!({"path": {"not": ["x", {"prefix": "/a"}], "in": ["y"]}}), &["path:y,!x,!/a*"]),
        (json!({"path": ["x", {"prefix": "/a"}]}), &["path:x,/a*"]),
        (json!({"a": "c-*", "b": "!DE"}), &["a:\"c-*\"", "b:\"!DE\""]),
        (json!({"a": ""}), &["a:\"\""]),
    ] {
        assert_eq!(filters(json.clone()).unwrap(), url(written), "{json}");
    }
    for json in [
        json!({"a": {}}),
        json!({"a": {"gt": 10}}),
        json!({"a": {"not": 7}}),
        json!({"a": [{"not": "x"}]}),
        json!({"a": {"prefix": null}}),
        json!({"a": true}),
    ] {
        assert_eq!(filters(json.clone()).unwrap_err().parameter, "filter", "{json}");
    }
}

#[test]
fn a_plus_that_a_url_turned_into_a_space_is_still_an_offset() {
    let expected = EventTime::parse_rfc3339("2026-11-21T20:15:00Z").unwrap();
    for text in [
        "2026-11-21T22:15:00 02:00",
        "2026-11-21 22:15:00 0200",
        "2026-11-21 22:15:00+02",
        "2026-11-21 20:15:00Z",
        " 2026-11-21T20:15:00Z ",
        "1795292100000",
    ] {
        assert_eq!(parse_moment("from", text).unwrap(), expected, "{text}");
    }
}

#[test]
fn seconds_and_offsets_that_no_clock_has_are_refused() {
    let words = |text: &str| parse_moment("to", text).unwrap_err().message;
    for text in ["1795292100", "+1795292100", "01795292100", "-1795292100", "999999999"] {
        assert!(words(text).contains("looks like seconds"), "{text}: {}", words(text));
    }
    for text in [
        "2026-11-21T20:15:00+24:00",
        "2026-11-21T20:15:00 25:00",
        "2026-11-21T20:15:00+14:00:30",
        "2026-11-21T20:15Z",
        "2026-11-21",
        "1795292100.5",
        "253402300800000",
        "9999-12-31T23:59:59-01:00",
    ] {
        assert!(parse_moment("to", text).is_err(), "{text}");
    }
    let by_json = |moment: serde_json::Value| {
        Ask::from_json(
            &serde_json::json!({"metrics": "events", "from": moment, "to": "9999-12-31T23:59:59Z"}),
        )
    };
    assert!(by_json(1_795_292_100_000_i64.into()).is_ok());
    let refused = by_json(1_795_292_100.into()).unwrap_err();
    assert!(refused.message.contains("looks like seconds"), "{refused}");
    assert!(by_json("1795292100".into()).is_err());
}

#[test]
fn a_granularity_is_read_by_its_name() {
    for granularity in Granularity::ALL {
        assert_eq!(Step::parse(granularity.name()), Ok(Step::Every(granularity)));
    }
    assert_eq!(Step::parse("total"), Ok(Step::Total));
}

fn escaped(value: &Member) -> String {
    match value {
        Member::Null => "null".to_owned(),
        Member::Other => "__other__".to_owned(),
        Member::Text(text) if text.is_empty() => "\"\"".to_owned(),
        Member::Text(text) => text.chars().flat_map(|c| ['\\', c]).collect(),
    }
}

proptest! {
    #[test]
    fn any_text_written_with_backslashes_or_quotes_reads_back(
        texts in prop::collection::vec(".{0,12}", 1..6),
    ) {
        let values: Vec<Member> = texts.into_iter().map(|text| Member::Text(text.into())).collect();
        let written: Vec<String> = values.iter().map(escaped).collect();
        let filter = Filter::parse(&format!("d:{}", written.join(","))).unwrap();
        prop_assert_eq!(members(&filter), &values);
        let quoted = |value: &Member| match value {
            Member::Text(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
            Member::Other | Member::Null => escaped(value),
        };
        let written: Vec<String> = values.iter().map(quoted).collect();
        let filter = Filter::parse(&format!("d:{}", written.join(","))).unwrap();
        prop_assert_eq!(members(&filter), &values);
    }

    #[test]
    fn a_backslash_within_quotes_is_one_where_it_protects_nothing(text in r#"([a-z:,!* ]|\\[a-z:,!* ]){1,10}"#) {
        let filter = Filter::parse(&format!("d:\"{text}\"")).unwrap();
        prop_assert_eq!(members(&filter), &[Member::Text(text.into())]);
    }

    #[test]
    fn filters_of_one_dimension_together_admit_what_each_of_them_does(
        written in prop::collection::vec("(!?(a|b|ab|\"\"|null)\\*?,){0,2}!?(a|aa|b|ba|null)\\*?", 1..4),
        asked in "[ab]{0,3}|null",
    ) {
        let member = if asked == "null" { Member::Null } else { Member::Text(asked.into()) };
        let each: Vec<Filter> =
            written.iter().map(|text| Filter::parse(&format!("d:{text}")).unwrap()).collect();
        let all = filter::normalise(each.clone()).unwrap();
        prop_assert_eq!(all.len(), 1);
        let expected = each.iter().all(|filter| filter.rule.admits(&member));
        prop_assert_eq!(all[0].rule.admits(&member), expected, "{:?}", all);
    }

    #[test]
    fn the_filter_parser_never_panics(text in ".{0,200}") {
        drop(Filter::parse(&text));
    }

    #[test]
    fn hostile_parameters_never_panic(
        params in prop::collection::vec(
            ("metrics|group_by|filter|from|to|last|granularity|window|compare|order_by|limit|.{0,5}", ".{0,40}"),
            0..8,
        ),
    ) {
        drop(Ask::from_params(params.iter().map(|(name, value)| (name.as_str(), value.as_str()))));
    }

    #[test]
    fn what_an_answer_shows_can_be_asked_for(text in r"(\\){0,3}(__other__|null|a)?") {
        let literal = Member::Text(text.as_str().into());
        prop_assert_eq!(Member::from_shown(&shown(&text)), literal);
    }
}

#[test]
fn a_filter_of_too_many_values_is_refused_by_their_number_whatever_follows() {
    let refused = Filter::parse(&format!("country:{}", "x,".repeat(FILTER_VALUES_MAX + 1)));
    assert!(refused.unwrap_err().message.contains("1000"));
    assert!(Filter::parse(&format!("country:{}x", "x,".repeat(FILTER_VALUES_MAX - 1))).is_ok());
}

/// Catches: a number that JSON Schema calls an integer, refused.
#[test]
fn a_whole_number_may_be_written_with_a_point() {
    let read = |text: &str| Ask::from_json(&serde_json::from_str(text).unwrap());
    let plain = read(r#"{"metrics":"events","limit":100,"from":1800000000000}"#).unwrap();
    for limit in ["100.0", "1e2"] {
        let text = format!(r#"{{"metrics":"events","limit":{limit},"from":1800000000000.0}}"#);
        assert_eq!(read(&text).unwrap(), plain, "{text}");
    }
    for limit in ["100.5", "-1.0", "1e300"] {
        let text = format!(r#"{{"metrics":"events","limit":{limit}}}"#);
        assert!(read(&text).is_err(), "{text}");
    }
}

/// Catches: a tree far larger than its text, of which many fill the memory.
#[test]
fn json_of_more_members_than_any_question_has_is_told_by_its_punctuation() {
    let zeros = |count: usize| format!("[{}0]", "0,".repeat(count));
    assert!(!has_too_many_members(zeros(65_000).as_bytes()));
    assert!(has_too_many_members(zeros(66_000).as_bytes()));
}
