//! Answers: order, shape, difference.

use std::collections::BTreeMap;

use nilometer_rollups::aggregate::Sum;
use proptest::prelude::*;
use serde_json::json;

use super::order::SortKey;
use super::*;
use crate::ask::Direction;

fn columns() -> Columns {
    Columns {
        ends_after_ms: None,
        dimensions: vec!["country".to_owned()],
        metrics: vec!["events".to_owned()],
    }
}

fn row(minute: i64, country: Option<&str>, value: Value) -> Row {
    Row {
        window: EventTime::from_ms(minute * 60_000),
        members: [country.map_or(Member::Null, |text| Member::Text(text.into()))].into(),
        values: vec![value],
    }
}

fn answer(rows: Vec<Row>) -> Answer {
    Answer::new(columns(), rows, Meta::default(), Moments::default())
}

#[test]
fn an_answer_reads_as_the_interface_shows_it() {
    let rows = vec![
        row(0, Some("DE"), Value::Integer(812)),
        row(1, None, Value::Number(0.5)),
        Row { members: [Member::Other].into(), ..row(2, None, Value::Null) },
        row(3, Some("__other__"), Value::Integer(-1)),
        row(4, Some("\"<\u{0}"), Value::number(f64::NAN)),
    ];
    let answer = answer(rows);
    let body: serde_json::Value =
        serde_json::from_slice(&answer.body(&answer.meta).concat()).unwrap();
    assert_eq!(body["columns"], json!(["window_start", "country", "events"]));
    assert_eq!(
        body["rows"],
        json!([
            {"window_start": "1970-01-01T00:00:00Z", "country": "DE", "events": 812},
            {"window_start": "1970-01-01T00:01:00Z", "country": null, "events": 0.5},
            {"window_start": "1970-01-01T00:02:00Z", "country": "__other__", "events": null},
            {"window_start": "1970-01-01T00:03:00Z", "country": "\\__other__", "events": -1},
            {"window_start": "1970-01-01T00:04:00Z", "country": "\"<\u{0}", "events": null},
        ])
    );
    assert_eq!(body["meta"]["truncated"], json!(false));
}

#[test]
fn the_tag_follows_rows_and_not_meta() {
    let rows = || vec![row(0, Some("DE"), Value::Integer(1))];
    let other_meta = Meta { freshness_ms: 9, ..Meta::default() };
    let same = Answer::new(columns(), rows(), other_meta, Moments::default());
    assert_eq!(answer(rows()).etag(), same.etag());
    assert_ne!(answer(vec![row(0, Some("DE"), Value::Integer(2))]).etag(), same.etag());
}

#[test]
fn ties_go_by_the_members_and_nulls_come_last_either_way() {
    let mut rows = vec![
        row(0, None, Value::Integer(5)),
        row(0, Some("FR"), Value::Integer(5)),
        row(0, Some("GB"), Value::Null),
        row(0, Some("DE"), Value::Integer(5)),
        row(0, Some("US"), Value::Integer(7)),
    ];
    let order = |rows: &[Row]| -> Vec<String> {
        rows.iter().map(|row| format!("{:?}", row.members[0])).collect()
    };
    let truncated = sort_and_cut(&mut rows, &[(SortKey::Value(0), Direction::Descending)], 9);
    assert!(!truncated);
    assert_eq!(
        order(&rows),
        ["Text(\"US\")", "Text(\"DE\")", "Text(\"FR\")", "Null", "Text(\"GB\")"]
    );
    let truncated = sort_and_cut(&mut rows, &[(SortKey::Member(0), Direction::Descending)], 4);
    assert!(truncated);
    assert_eq!(order(&rows), ["Text(\"US\")", "Text(\"GB\")", "Text(\"FR\")", "Text(\"DE\")"]);
}

fn some_rows() -> impl Strategy<Value = BTreeMap<(i64, u8), i64>> {
    prop::collection::btree_map((0_i64..4, 0_u8..4), 0_i64..3, 0..12)
}

fn made(cells: &BTreeMap<(i64, u8), i64>) -> Answer {
    let rows = cells.iter().map(|((minute, country), value)| {
        row(*minute, Some(&country.to_string()), Value::Integer(*value))
    });
    answer(rows.collect())
}

proptest! {
    #[test]
    fn a_delta_turns_one_answer_into_the_next_and_holds_nothing_else(
        before in some_rows(), after in some_rows(),
    ) {
        let (old, new) = (made(&before), made(&after));
        let delta = difference(&old, &new);
        let mut shown: Vec<Row> = old.rows.clone();
        for removed in &delta.removed {
            shown.retain(|row| row != *removed);
        }
        for changed in &delta.changed {
            prop_assert!(!old.rows.contains(changed), "unchanged row in delta");
            shown.retain(|row| (row.window, &row.members) != (changed.window, &changed.members));
            shown.push((*changed).clone());
        }
        sort_and_cut(&mut shown, &[], 100);
        prop_assert_eq!(shown, new.rows);
    }

    #[test]
    fn cutting_gives_the_first_rows_of_the_whole_order(cells in some_rows(), limit in 1_usize..6) {
        let mut whole = made(&cells).rows;
        let mut cut = whole.clone();
        let keys = [(SortKey::Value(0), Direction::Descending)];
        sort_and_cut(&mut whole, &keys, usize::MAX);
        let truncated = sort_and_cut(&mut cut, &keys, limit);
        prop_assert_eq!(truncated, whole.len() > limit);
        whole.truncate(limit);
        prop_assert_eq!(cut, whole);
    }
}

#[test]
fn a_decimal_is_written_and_ordered_to_its_last_digit() {
    let sum = |value: Sum| Value::Decimal(Decimal { value, scale: 2, digits_min: 2 });
    let of = |value: i128| sum(value.into());
    let far = 12_345_678_901_234_567_890_123;
    let mut rows = vec![row(0, Some("a"), of(far)), row(0, Some("b"), of(6_000))];
    rows.push(row(0, Some("c"), of(far + 1)));
    let mut past_128_bits = Sum::from(i128::MAX);
    past_128_bits += past_128_bits;
    rows.push(row(0, Some("d"), sum(past_128_bits)));
    sort_and_cut(&mut rows, &[(SortKey::Value(0), Direction::Descending)], 9);
    let answer = answer(rows);
    let text = String::from_utf8(answer.body(&answer.meta).concat()).unwrap();
    let shown = [
        "3402823669209384634633746074317682114.54",
        "123456789012345678901.24",
        "123456789012345678901.23",
        "60.00",
    ];
    let found: Vec<_> =
        text.match_indices("\"events\":").map(|(at, name)| at + name.len()).collect();
    for (at, shown) in found.iter().zip(shown) {
        assert!(text[*at..].starts_with(&format!("{shown}}}")), "{shown}: {text}");
    }
    assert_eq!(found.len(), 4);
}

#[test]
fn numbers_of_one_column_are_ordered_to_the_last_digit_whatever_their_kind() {
    let decimal =
        |value: i128, scale| Value::Decimal(Decimal { value: value.into(), scale, digits_min: 1 });
    // The last that the shorter kind holds, and the next.
    let (short, far) = (999_999_999.999_999, 10_i128.pow(15));
    for (less, more) in [
        (Value::Integer(i64::MAX), decimal(1 << 63, 0)),
        (Value::Number(short), decimal(far, 6)),
        (decimal(-far, 6), Value::Number(-short)),
    ] {
        let order = |direction| {
            let mut rows = vec![row(0, Some("a"), more.clone()), row(0, Some("b"), less.clone())];
            sort_and_cut(&mut rows, &[(SortKey::Value(0), direction)], 9);
            rows.into_iter().map(|row| row.values[0].clone()).collect::<Vec<_>>()
        };
        assert_eq!(order(Direction::Ascending), [less.clone(), more.clone()]);
        assert_eq!(order(Direction::Descending), [more.clone(), less.clone()]);
    }
}
