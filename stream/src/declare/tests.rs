//! What compiles, what is refused, and what a plan's id depends on.

use nilometer_event::{Event, EventTime, Field};

use super::*;
use crate::aggregate::Aggregates;

fn declared(toml: &str) -> Result<Plan, DeclareError> {
    let declarations: Declarations = toml_from(toml);
    Plan::compile(&declarations)
}

/// The shape of the TOML, written as JSON: serde reads both alike.
fn toml_from(json: &str) -> Declarations {
    serde_json::from_str(json).unwrap()
}

#[test]
fn what_always_exists_is_the_interfaces_table() {
    let plan = Plan::builtin();
    for name in [
        "events",
        "unique_users",
        "total_duration",
        "avg_duration",
        "completions",
        "completion_rate",
        "content_views",
        "click_through_rate",
        "sessions",
        "avg_session_duration",
        "bounce_rate",
        "engagement_rate",
        "dau",
        "wau",
        "mau",
        "events_per_second",
        "active_now",
        "p50_duration",
        "p95_duration",
        "p50_session_duration",
        "p95_session_duration",
    ] {
        assert!(plan.metric(name).is_some(), "{name}");
    }
    assert_eq!(plan.metrics.len(), 21);
    let names: Vec<_> = plan.dimensions.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, Field::ALL.map(Field::name));
}

#[test]
fn the_sets_are_the_interfaces_and_each_derives_from_one_finer() {
    let plan = Plan::builtin();
    let set = |kind, names: &[&str]| {
        let dims: Vec<_> = names.iter().map(|name| plan.dimension(name).unwrap()).collect();
        plan.set_for(kind, &dims)
    };
    for names in [
        &[][..],
        &["country"],
        &["device_type"],
        &["content_category"],
        &["content_category", "device_type"],
        &["country", "content_category"],
        &["device_type", "country"],
        &["device_type", "content_category", "country"],
        &["content_id"],
        &["service_name"],
        &["event_type"],
        &["country", "event_type"],
        &["app_version", "country"],
        &["app_version"],
        &["subscription_tier", "country"],
        &["subscription_tier"],
        &["cohort"],
        &["cohort", "country"],
        &["channel"],
        &["channel", "country"],
    ] {
        assert!(set(SetKind::Events, names).is_some(), "{names:?}");
    }
    for names in [&[][..], &["country"], &["device_type"], &["channel"], &["subscription_tier"]] {
        assert!(set(SetKind::Sessions, names).is_some(), "{names:?}");
    }
    assert_eq!(plan.sets.len(), 25);
    assert_eq!(set(SetKind::Events, &["content_id", "country"]), None);
    let finest = plan.sets.iter().filter(|set| set.parent.is_none()).count();
    assert_eq!(finest, 8 + 4);
    for (index, set) in plan.sets.iter().enumerate() {
        if let Some(parent) = set.parent {
            assert!(parent.index() < index, "finer first");
            let finer = plan.set(parent);
            assert_eq!((finer.dims.len(), finer.kind), (set.dims.len() + 1, set.kind));
            assert!(set.dims.iter().all(|dim| finer.dims.contains(dim)));
        }
    }
}

#[test]
fn an_unknown_key_is_refused_by_name() {
    let error = serde_json::from_str::<Declarations>(r#"{"metrik":[]}"#).unwrap_err();
    assert!(error.to_string().contains("metrik"));
    let typo = r#"{"metric":[{"name":"a","aggregate":"count","filtre":"x:y"}]}"#;
    assert!(serde_json::from_str::<Declarations>(typo).unwrap_err().to_string().contains("filtre"));
}

/// What is refused, the declaration that the refusal names, and its field.
const REFUSED: &[(&str, &str, &str)] = &[
    (r#"{"dimension":[{"name":"country","source":"cohort"}]}"#, "dimension \"country\"", "name"),
    (r#"{"dimension":[{"name":"Plan","source":"cohort"}]}"#, "dimension \"Plan\"", "name"),
    (r#"{"dimension":[{"name":"plan","source":"plan"}]}"#, "dimension \"plan\"", "source"),
    (r#"{"dimension":[{"name":"plan","source":"properties."}]}"#, "dimension \"plan\"", "source"),
    (r#"{"dimension":[{"name":"events","source":"cohort"}]}"#, "dimension \"events\"", "name"),
    (r#"{"cube":[{"dimensions":["nope"]}]}"#, "cube (nope)", "dimensions"),
    (r#"{"cube":[{"dimensions":[]}]}"#, "cube ()", "dimensions"),
    (r#"{"cube":[{"dimensions":["cohort","cohort"]}]}"#, "cube (cohort, cohort)", "dimensions"),
    (r#"{"metric":[{"name":"events","aggregate":"count"}]}"#, "metric \"events\"", "name"),
    (r#"{"metric":[{"name":"country","aggregate":"count"}]}"#, "metric \"country\"", "name"),
    (r#"{"metric":[{"name":"a_previous","aggregate":"count"}]}"#, "metric \"a_previous\"", "name"),
    (r#"{"metric":[{"name":"a","aggregate":"sum"}]}"#, "metric \"a\"", "field"),
    (r#"{"metric":[{"name":"a","aggregate":"sum","field":"country"}]}"#, "metric \"a\"", "field"),
    (r#"{"metric":[{"name":"a","aggregate":"count","quantile":0.5}]}"#, "metric \"a\"", "quantile"),
    (
        r#"{"metric":[{"name":"a","aggregate":"quantile","field":"session_duration_sec"}]}"#,
        "metric \"a\"",
        "quantile",
    ),
    (
        r#"{"metric":[{"name":"a","aggregate":"quantile","field":"session_duration_sec","quantile":1.5}]}"#,
        "metric \"a\"",
        "quantile",
    ),
    (
        r#"{"metric":[{"name":"a","aggregate":"sum","field":"properties.x","scale":12}]}"#,
        "metric \"a\"",
        "scale",
    ),
    (
        r#"{"metric":[{"name":"a","aggregate":"count","filter":"nope:1"}]}"#,
        "metric \"a\"",
        "filter",
    ),
    (
        r#"{"metric":[{"name":"a","aggregate":"count","filter":"country"}]}"#,
        "metric \"a\"",
        "filter",
    ),
    (r#"{"metric":[{"name":"a","aggregate":"count","filter":" "}]}"#, "metric \"a\"", "filter"),
    (
        r#"{"metric":[{"name":"a","aggregate":"ratio","numerator":"events"}]}"#,
        "metric \"a\"",
        "denominator",
    ),
    (
        r#"{"metric":[{"name":"a","aggregate":"ratio","numerator":"sessions","denominator":"events"}]}"#,
        "metric \"a\"",
        "numerator",
    ),
    (
        r#"{"metric":[{"name":"a","aggregate":"top_k","field":"country","k":0}]}"#,
        "metric \"a\"",
        "k",
    ),
];

#[test]
fn a_refusal_names_declaration_field_and_remedy() {
    for &(json, declaration, field) in REFUSED {
        let error = declared(json).unwrap_err();
        assert_eq!((error.declaration.as_str(), error.field), (declaration, field), "{error}");
        assert!(!error.remedy.is_empty());
    }
}

#[test]
fn the_id_depends_on_what_decides_results_and_on_nothing_else() {
    let id = |json: &str| declared(json).unwrap().id;
    let plain = id("{}");
    assert_eq!(id(r#"{"numbers":"alone"}"#), Plan::builtin().id);
    assert_ne!(plain, Plan::builtin().id);
    let metric =
        |rest: &str| id(&format!(r#"{{"metric":[{{"name":"a","aggregate":"count"{rest}}}]}}"#));
    assert_ne!(metric(""), plain);
    assert_eq!(metric(r#","title":"A","description":"x","unit":"y""#), metric(""));
    assert_eq!(
        metric(r#","filter":"country:FR,DE event_type:Buy""#),
        metric(r#","filter":"event_type:buy&country:DE,FR,DE""#),
    );
    assert_ne!(metric(r#","filter":"country:DE""#), metric(r#","filter":"!country:DE""#));
    assert_ne!(metric(r#","filter":"country:DE""#), metric(r#","filter":"country:de""#));
    assert_ne!(id(r#"{"view_types":["seen"]}"#), plain);
    assert_ne!(id(r#"{"conversion_types":["Signup"]}"#), plain);
    assert_eq!(id(r#"{"view_types":["VIEW","play_start","content_view","page_view"]}"#), plain);
    assert_ne!(id(r#"{"guard":{"values_max":5}}"#), plain);
    assert_ne!(id(r#"{"cube":[{"dimensions":["content_id","country"]}]}"#), plain);
    assert_ne!(
        id(r#"{"cube":[{"dimensions":["content_id","country"],"distinct":false}]}"#),
        id(r#"{"cube":[{"dimensions":["content_id","country"]}]}"#),
    );
}

#[test]
fn equal_declarations_share_a_slot() {
    let json = r#"{"metric":[
        {"name":"plays","aggregate":"count","filter":"event_type:view,page_view,content_view,play_start"},
        {"name":"time","aggregate":"sum","field":"session_duration_sec"}]}"#;
    let plan = declared(json).unwrap();
    let builtin = Plan::builtin();
    assert_eq!(plan.event_slots, builtin.event_slots);
    let definition = |name| plan.metric(name).unwrap().definition;
    assert_eq!(definition("plays"), definition("content_views"));
    assert_eq!(definition("time"), definition("total_duration"));
    assert_ne!(definition("dau"), definition("wau"));
}

#[test]
fn the_built_in_plan_keeps_its_id() {
    // Cells on disk name it: whoever changes it on purpose says so in the changelog.
    assert_eq!(Plan::builtin().id.to_string(), "0c56b4b599e6cc75");
    // As do those of releases in which whoever came first brought all combinations.
    let mut kept = Declarations::default();
    kept.guard.combinations_per_value = 0;
    assert_eq!(Plan::compile(&kept).unwrap().id.to_string(), "33164d6a56cea07b");
    // Or that watched nothing that is folded.
    kept.guard.watched_max = 0;
    assert_eq!(Plan::compile(&kept).unwrap().id.to_string(), "88a6085b74f4cb7c");
    // Or in which one number could hide what stands beside it.
    let digits = Declarations { numbers: NumberRules::Digits, ..kept };
    assert_eq!(Plan::compile(&digits).unwrap().id.to_string(), "20bcc561a7989d0e");
    // The first release kept no places of a day and read doubles: its plan is still that one.
    let mut first = Declarations::default();
    first.guard.kept_percent = 0;
    first.guard.watched_max = 0;
    first.guard.combinations_per_value = 0;
    first.numbers = NumberRules::Doubles;
    assert_eq!(Plan::compile(&first).unwrap().id.to_string(), "76fc0f3d9ac8b273");
}

fn value(plan: &Plan, name: &str, cell: &Aggregates) -> MetricValue {
    let context = MetricContext { window: EventTime::from_ms(0), elapsed_ms: 2_500 };
    plan.metric(name).unwrap().value(cell, &context)
}

#[test]
fn ratios_divide_last_and_nothing_divided_is_null() {
    let plan = Plan::builtin();
    let mut cell = plan.empty(SetKind::Events);
    assert_eq!(value(&plan, "events", &cell), MetricValue::Integer(0));
    for name in ["avg_duration", "completion_rate", "click_through_rate", "p50_duration"] {
        assert_eq!(value(&plan, name, &cell), MetricValue::Null, "{name}");
    }
    let MetricKind::Avg { sum, count, .. } = plan.metric("avg_duration").unwrap().kind else {
        panic!("a mean");
    };
    cell.sums[sum] = 1_000_001.into();
    cell.counts[count] = 4;
    assert_eq!(value(&plan, "avg_duration", &cell), MetricValue::Float(0.250_000_25));
    assert_eq!(value(&plan, "total_duration", &cell), MetricValue::Float(1.000_001));
    cell.counts[0] = 5;
    assert_eq!(value(&plan, "events_per_second", &cell), MetricValue::Float(2.0));
    let sessions = plan.empty(SetKind::Sessions);
    assert_eq!(value(&plan, "bounce_rate", &sessions), MetricValue::Null);
}

#[test]
fn only_estimates_have_an_error() {
    let plan = Plan::builtin();
    let mut cell = plan.empty(SetKind::Events);
    let error = |cell: &Aggregates, name: &str| plan.metric(name).unwrap().relative_error(cell);
    assert_eq!(error(&cell, "unique_users"), None);
    assert_eq!(error(&cell, "p95_duration"), None);
    for user in 0..600_u64 {
        cell.distincts[0].insert_mixed(user << 14 | user);
    }
    cell.histograms[0].record(5, 1);
    assert_eq!(error(&cell, "unique_users"), Some(0.016));
    assert_eq!(error(&cell, "mau"), Some(0.016));
    assert_eq!(error(&cell, "p95_duration"), Some(0.01));
    assert_eq!(error(&cell, "events"), None);
}

#[test]
fn properties_read_as_text_and_numbers_where_they_are_so() {
    let event = Event {
        event_type: "x",
        properties: Some(
            r#"{"plan":"pro","n":1.5,"yes":true,"deep":{"er":7},"list":[1],"no":null}"#,
        ),
        session_duration_sec: Some(1e300),
        ..Event::default()
    };
    let facts = EventFacts::new(&event);
    let text = |path: &str| {
        let source = Source::parse(&format!("properties.{path}")).unwrap();
        facts.text(&source).map(std::borrow::Cow::into_owned)
    };
    assert_eq!(text("plan").as_deref(), Some("pro"));
    assert_eq!(text("n").as_deref(), Some("1.5"));
    assert_eq!(text("yes").as_deref(), Some("true"));
    assert_eq!(text("deep.er").as_deref(), Some("7"));
    for absent in ["list", "no", "deep", "gone", "plan.x"] {
        assert_eq!(text(absent), None, "{absent}");
    }
    for rules in [NumberRules::Doubles, NumberRules::Digits, NumberRules::Alone] {
        let facts = EventFacts::by(&event, rules);
        let number = |path: &str| {
            facts.number(&NumberSource::parse(&format!("properties.{path}")).unwrap(), 2)
        };
        assert_eq!(number("n"), NumberReading::Value(150));
        assert_eq!(number("deep.er"), NumberReading::Value(700));
        for absent in ["gone", "no", "plan.x", "deep.gone", "list.0"] {
            assert_eq!(number(absent), NumberReading::Absent, "{absent}");
        }
        for other in ["plan", "yes", "list", "deep"] {
            assert_eq!(number(other), NumberReading::Unread, "{other}");
        }
        let huge = facts.number(&NumberSource::SessionDuration, 6);
        assert_eq!(huge, NumberReading::Unread, "does not fit 128 bits");
    }
}

#[test]
fn type_lists_compare_without_regard_to_case() {
    let plan = Plan::builtin();
    assert!(plan.is_view("Page_VIEW") && plan.is_conversion("SIGNUP"));
    assert!(!plan.is_view("page_views") && !plan.is_conversion("view"));
    let list = TypeList::new(&["ÄRGER".to_owned()]);
    assert!(list.contains("ärger") && list.contains("Ärger"));
}

fn counted(filter: &str) -> Result<Plan, DeclareError> {
    let filter = serde_json::Value::from(filter);
    declared(&format!(r#"{{"metric":[{{"name":"a","aggregate":"count","filter":{filter}}}]}}"#))
}

#[test]
fn a_metric_filters_in_the_words_of_questions() {
    let event = |content_id, country, event_type| Event {
        event_id: "e",
        content_id,
        country,
        event_type,
        ..Event::default()
    };
    let events = [
        event(Some("c-1"), Some("DE"), "Play_Start"),
        event(Some("c-2"), Some("FR"), "play_end"),
        event(Some("c*"), None, "view"),
        event(Some(""), Some("DE"), "view"),
        event(Some("a b,c"), Some("GB"), "view"),
        event(None, Some("!x"), "view"),
    ];
    for (filter, expected) in [
        ("content_id:c-*", &[0, 1][..]),
        ("content_id:!c-*", &[2, 3, 4, 5]),
        ("content_id:c-*,!c-2", &[0]),
        ("content_id:c* country:!FR", &[0, 2]),
        ("content_id:\"\"", &[3]),
        ("content_id:\"a b,c\"&country:GB", &[4]),
        ("content_id:a\\ b\\,c", &[4]),
        ("content_id:c\\*", &[2]),
        ("content_id:null,\"c*\"", &[2, 5]),
        ("content_id:*", &[0, 1, 2, 3, 4]),
        ("country:\\!x", &[5]),
        ("country:!DE,!FR", &[2, 4, 5]),
        ("!country:DE,FR", &[2, 4, 5]),
        ("event_type:PLAY_*", &[0, 1]),
    ] {
        let plan = counted(filter).unwrap_or_else(|error| panic!("{filter}: {error}"));
        let slot = plan.event_slots.counts.last().unwrap();
        let found: Vec<usize> = (0..events.len())
            .filter(|&n| slot.filter.matches(&EventFacts::new(&events[n])))
            .collect();
        assert_eq!(found, expected, "{filter}");
    }
    for filter in ["country:", "country:DE,", "country:\"DE", "country:\"D\"E", "!country:!DE"] {
        let refused = counted(filter).unwrap_err().to_string();
        assert!(refused.contains("filter"), "{filter}: {refused}");
    }
    let ids = ["country:!DE,!FR", "!country:FR,DE"].map(|filter| counted(filter).unwrap().id);
    assert_eq!(ids[0], ids[1], "what reads alike is one plan");
    assert_ne!(counted("country:D*").unwrap().id, counted("country:D\\*").unwrap().id);
}

#[test]
fn a_backslash_within_quotes_is_one_where_it_protects_nothing() {
    for (filter, admitted) in [
        (r#"content_id:"C:\temp""#, r"C:\temp"),
        (r#"content_id:"\\a\b \*""#, r"\a\b \*"),
        (r#"content_id:"a\"b\n""#, r#"a"b\n"#),
    ] {
        let plan = counted(filter).unwrap_or_else(|error| panic!("{filter}: {error}"));
        let slot = plan.event_slots.counts.last().unwrap();
        let event = Event { content_id: Some(admitted), ..Event::default() };
        assert!(slot.filter.matches(&EventFacts::new(&event)), "{filter}");
    }
}

#[test]
fn a_plan_of_before_filters_had_patterns_is_still_made_of_its_letters() {
    let before = |filter: &str| {
        let json =
            format!(r#"{{"metric":[{{"name":"a","aggregate":"count","filter":"{filter}"}}]}}"#);
        Plan::compile_literally(&serde_json::from_str(&json).unwrap()).unwrap().id
    };
    assert_eq!(before("country:D*,!x,"), counted("country:D\\*,\\!x").unwrap().id);
    assert_eq!(before("country:DE,FR"), counted("country:DE,FR").unwrap().id);
}

#[test]
fn numbers_are_read_by_the_rules_of_their_plan() {
    let properties = r#"{"a":1e13,"b":1.005,"c":1e30,"d":12345678901234567890123,"e":1e999}"#;
    let event = Event { properties: Some(properties), ..Event::default() };
    let read = |path: &str, rules, scale| {
        let source = NumberSource::parse(&format!("properties.{path}")).unwrap();
        EventFacts::by(&event, rules).number(&source, scale)
    };
    for (path, scale, value) in [
        ("a", 6, Some(10_i128.pow(19))),
        ("b", 2, Some(101)),
        ("c", 6, Some(10_i128.pow(36))),
        ("d", 0, Some(12_345_678_901_234_567_890_123)),
        ("e", 0, None),
    ] {
        let expected = value.map_or(NumberReading::Unread, NumberReading::Value);
        for rules in [NumberRules::Digits, NumberRules::Alone] {
            assert_eq!(read(path, rules, scale), expected, "{path}");
        }
    }
    // The first releases', byte for byte: a number past doubles hid all properties.
    for path in ["a", "b", "c", "d", "e"] {
        assert_eq!(read(path, NumberRules::Doubles, 6), NumberReading::Absent, "{path}");
    }
    let event = Event { properties: Some(r#"{"a":1e13,"b":1.005}"#), ..Event::default() };
    let facts = EventFacts::by(&event, NumberRules::Doubles);
    let number = |path: &str, scale| facts.number(&NumberSource::parse(path).unwrap(), scale);
    assert_eq!(number("properties.a", 6), NumberReading::Unread);
    assert_eq!(number("properties.b", 2), NumberReading::Value(100));
}

/// The text at a path into properties, by some rules.
fn text_at(properties: &str, path: &str, rules: NumberRules) -> Option<String> {
    let event = Event { properties: Some(properties), ..Event::default() };
    let facts = EventFacts::by(&event, rules);
    let source = Source::parse(&format!("properties.{path}")).unwrap();
    facts.text(&source).map(std::borrow::Cow::into_owned)
}

#[test]
fn a_number_that_no_machine_holds_hides_no_text_beside_it() {
    let properties = r#"{"plan":"pro","far":1e999,"cart":{"n":-1e400,"coupon":"x"},"ok":true,
        "id":12345678901234567890123,"other":12345678901234567890124,"minus":-0,"n":1.50,
        "e":1e3,"quoted":"a\"\u00e4","n\u00e4me":"b"}"#;
    let alone = |path| text_at(properties, path, NumberRules::Alone);
    for (path, text) in [
        ("plan", "pro"),
        ("far", "1e999"),
        ("cart.n", "-1e400"),
        ("cart.coupon", "x"),
        ("ok", "true"),
        // Two ids are two values.
        ("id", "12345678901234567890123"),
        ("other", "12345678901234567890124"),
        ("minus", "-0"),
        ("n", "1.5"),
        ("e", "1000.0"),
        ("quoted", "a\"ä"),
        ("näme", "b"),
    ] {
        assert_eq!(alone(path).as_deref(), Some(text), "{path}");
        // The older releases', byte for byte: it hid all of them.
        for rules in [NumberRules::Doubles, NumberRules::Digits] {
            assert_eq!(text_at(properties, path, rules), None, "{path}");
        }
    }
    for absent in ["cart", "gone", "cart.gone", "plan.x"] {
        assert_eq!(alone(absent), None, "{absent}");
    }
    let filtered = counted_by("properties.plan", "plan:pro");
    let event = Event { properties: Some(properties), ..Event::default() };
    let slot = filtered.event_slots.counts.last().unwrap();
    assert!(slot.filter.matches(&EventFacts::by(&event, filtered.numbers)));
}

/// A plan that counts what a dimension of that source admits.
fn counted_by(source: &str, filter: &str) -> Plan {
    let json = format!(
        r#"{{"numbers":"alone","dimension":[{{"name":"plan","source":{source:?}}}],
        "metric":[{{"name":"a","aggregate":"count","filter":{filter:?}}}]}}"#
    );
    declared(&json).unwrap()
}

mod alone {
    use proptest::prelude::*;

    use super::*;

    /// The text of a JSON value, and what it is as a text.
    fn value() -> impl Strategy<Value = (String, Option<String>)> {
        let same = |text: String| (text.clone(), Some(text));
        prop_oneof![
            "[a-zäß/ ]{0,6}".prop_map(|text| (format!("{text:?}"), Some(text))),
            any::<i64>().prop_map(move |number| same(number.to_string())),
            "-?[1-9][0-9]{25,60}".prop_map(same),
            "-?[1-9]e[1-9][0-9]{3,20}".prop_map(same),
            any::<bool>().prop_map(move |yes| same(yes.to_string())),
            prop::sample::select(vec!["null", "[1e999]", "{}", "[{\"a\":\"b\"}]"])
                .prop_map(|text| (text.to_owned(), None)),
        ]
    }

    proptest! {
        #[test]
        fn each_value_reads_as_it_would_without_the_others(
            values in prop::collection::vec(value(), 1..12),
            nested in any::<bool>(),
        ) {
            let members = values.iter().enumerate();
            let members = members.map(|(at, (json, _))| format!("\"m{at}\": {json}"));
            let object = format!("{{{}}}", members.collect::<Vec<_>>().join(" ,"));
            let (object, within) = match nested {
                true => (format!("{{\"far\":1e999,\"in\":{object}}}"), "in."),
                false => (object, ""),
            };
            for (at, (json, text)) in values.iter().enumerate() {
                let found = text_at(&object, &format!("{within}m{at}"), NumberRules::Alone);
                prop_assert_eq!(&found, text, "{} in {}", json, object);
            }
        }
    }
}

#[test]
fn a_plan_of_a_release_without_number_rules_is_the_same_plan() {
    let text = serde_json::to_value(Declarations::default()).unwrap();
    let mut old = text.as_object().unwrap().clone();
    old.remove("numbers");
    let guard = old["guard"].as_object_mut().unwrap();
    let later = ["kept_percent", "watched_max", "combinations_per_value"];
    guard.retain(|name, _| !later.contains(&name.as_str()));
    let old: Declarations = serde_json::from_value(old.into()).unwrap();
    assert_eq!(old.numbers, NumberRules::Doubles);
    let (old, new) = (Plan::compile(&old).unwrap(), Plan::builtin());
    assert_eq!(old.id.to_string(), "76fc0f3d9ac8b273", "as the first release's files name it");
    assert_ne!(old.id, new.id);
    // What is counted is the same, so that nothing has to be filled in.
    assert_eq!((old.event_slots, old.session_slots), (new.event_slots, new.session_slots));
}

#[test]
fn a_declared_scale_decides_the_digits_that_are_shown() {
    let metric = |scale: Option<u8>| {
        let scale = scale.map_or(String::new(), |scale| format!(r#","scale":{scale}"#));
        let text = format!(
            r#"{{"metric":[{{"name":"x","aggregate":"sum","field":"properties.x"{scale}}}]}}"#
        );
        Plan::compile(&serde_json::from_str(&text).unwrap()).unwrap()
    };
    let shown = |scale: Option<u8>, sum: i128| {
        let plan = metric(scale);
        let mut cell = plan.empty(SetKind::Events);
        let MetricKind::Sum { slot, .. } = plan.metric("x").unwrap().kind else { panic!("a sum") };
        cell.sums[slot] = sum.into();
        value(&plan, "x", &cell)
    };
    let text = |value: MetricValue| match value {
        MetricValue::Decimal(decimal) => decimal.to_string(),
        other => format!("{other:?}"),
    };
    assert_eq!(text(shown(Some(2), 5_995)), "59.95");
    assert_eq!(text(shown(Some(2), 6_000)), "60.00");
    assert_eq!(text(shown(Some(0), 60)), "Integer(60)");
    assert_eq!(text(shown(Some(0), 10_i128.pow(30))), format!("1{}", "0".repeat(30)));
    assert_eq!(text(shown(None, 59_950_000)), "Float(59.95)");
    let wide = 10_000_000_000_003 * 1_000_000 + 5;
    assert_eq!(text(shown(None, wide)), "10000000000003.000005");
    // To a double this is …740.992.
    assert_eq!(text(shown(None, (1 << 53) - 1)), "9007199254.740991");
    assert_eq!(text(shown(None, -999_999_999_999_999)), "Float(-999999999.999999)");
}
