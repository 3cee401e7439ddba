//! Dimension tables: what is refused, what is joined, what survives.

use nilometer_event::Event;
use nilometer_event::Partition;
use nilometer_log::RealDisk;

use super::*;

fn rows(csv: &str) -> Rows {
    parse_csv(csv.as_bytes(), 100).unwrap()
}

fn book(directory: &tempfile::TempDir) -> TableBook {
    let disk = Arc::new(RealDisk::open(directory.path()).unwrap());
    TableBook::open(disk, 1, 100, 1 << 20).unwrap()
}

#[test]
fn a_column_fills_the_field_of_its_name_or_the_one_that_it_stands_for() {
    assert_eq!(TableName::Content.field_of("category"), Some("content_category"));
    assert_eq!(TableName::Content.field_of("content_category"), Some("content_category"));
    assert_eq!(TableName::Users.field_of("cohort"), Some("cohort"));
    assert_eq!(TableName::Users.field_of("note"), None);
}

fn enriched<'a>(tables: &'a Tables, mut event: Event<'a>) -> Event<'a> {
    tables.enrich(&mut event);
    event
}

#[test]
fn a_table_fills_only_what_the_event_lacks() {
    let users = Table::new(TableName::Users, 1, rows("user_id,country,cohort\nu,DE,a\nv,,b\n"));
    let content = Table::new(TableName::Content, 1, rows("content_id,category,title\nc,drama,T\n"));
    let tables =
        Tables::new([Some(Arc::new(users.unwrap())), Some(Arc::new(content.unwrap())), None]);
    let event = enriched(
        &tables,
        Event {
            user_id: Some("u"),
            cohort: Some("own"),
            content_id: Some("c"),
            ..Event::default()
        },
    );
    assert_eq!(event.country, Some("DE"));
    assert_eq!(event.cohort, Some("own"));
    assert_eq!(event.content_category, Some("drama"));
    let other = enriched(&tables, Event { user_id: Some("v"), ..Event::default() });
    assert_eq!((other.country, other.cohort), (None, Some("b")));
    let anonymous = enriched(&tables, Event { anonymous_id: Some("u"), ..Event::default() });
    assert_eq!(anonymous.country, None, "an anonymous id of the same text is a stranger");
}

#[test]
fn errors_name_the_row_and_the_column() {
    let error = |csv: &str| Table::new(TableName::Users, 1, rows(csv)).unwrap_err().to_string();
    assert_eq!(error("id,a\nu,1\nu,2\n"), "row 2: key \"u\" stands in row 1 already");
    assert_eq!(error("id,a\n,1\n"), "row 1: column \"id\" (the key) is empty");
    assert_eq!(error("id,a\nu,1,2\n"), "row 1: 3 values for 2 columns");
    assert_eq!(error("id,a,a\n"), "column \"a\" stands twice");
    for number in ["7", "-1e999"] {
        let line = format!("{{\"id\":\"u\",\"tier\":{number}}}");
        let refused = parse_ndjson(line.as_bytes(), 10).unwrap_err().to_string();
        assert_eq!(refused, "row 1, column \"tier\": expected text or null, found a number");
    }
    assert!(parse_ndjson(b"{\"id\":\"u\"}\n{\"id\":\"v\"}", 1).is_err());
}

#[test]
fn whatever_stands_in_a_column_is_refused_in_our_words() {
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for (value, told) in [
        ("1e999", "expected text or null, found a number"),
        ("-0", "expected text or null, found a number"),
        ("true", "expected text or null, found a boolean"),
        ("[1e999]", "expected text or null, found an array"),
        (deep.as_str(), "expected text or null, found an array"),
        ("{\"a\":\"\\ud800\"}", "expected text or null, found an object"),
    ] {
        let line = format!("{{\"id\":\"u\",\"tier\":{value}}}");
        let error = parse_ndjson(line.as_bytes(), 10).unwrap_err().to_string();
        assert_eq!(error, format!("row 1, column \"tier\": {told}"), "{value}");
    }
    let error = parse_ndjson(br#"{"id":"u","tier":"a\ud800b"}"#, 10).unwrap_err().to_string();
    let told = "row 1: column \"tier\": line 1, column ";
    assert!(error.starts_with(told) && error.ends_with("none of JSON's escapes"), "{error}");
    // The key column takes integers, and nothing else either.
    let error = parse_ndjson(b"{\"id\":1e999}", 10).unwrap_err().to_string();
    assert_eq!(error, "row 1, column \"id\": expected text or null, found a number");
}

#[test]
fn a_key_may_be_an_integer_as_an_events_id_may() {
    let lines = b"{\"id\":123456789012345678901234567890,\"tier\":\"a\"}\n{\"id\":-7}";
    let rows = parse_ndjson(lines, 10).unwrap();
    let keys: Vec<_> = rows.rows.iter().map(|row| row[0].as_deref()).collect();
    assert_eq!(keys, [Some("123456789012345678901234567890"), Some("-7")]);
    for key in ["1.0", "1e3", "-0", "true", "[1]"] {
        let error = parse_ndjson(format!("{{\"id\":{key}}}").as_bytes(), 10).unwrap_err();
        assert!(error.to_string().contains("expected text or null"), "{key}: {error}");
    }
}

#[test]
fn ndjson_and_csv_of_the_same_rows_are_one_table() {
    let lines = b"{\"id\":\"u\",\"country\":\"DE\"}\n\n{\"id\":\"v\",\"tier\":\"free\"}\n";
    let csv = rows("id,country,tier\nu,DE,\nv,,free\n");
    assert_eq!(parse_ndjson(lines, 10).unwrap(), csv);
}

#[test]
fn an_older_version_is_read_again_and_a_damaged_one_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let one = book(&directory);
    assert_eq!(one.put(TableName::Users, rows("id,country\nu,DE\n")).unwrap(), 1);
    assert_eq!(one.put(TableName::Users, rows("id,country\nu,FR\n")).unwrap(), 2);
    let again = book(&directory);
    assert_eq!(again.latest().versions(), TableVersions([2, 0, 0]));
    let old = again.load(TableVersions([1, 0, 0])).unwrap();
    let event = enriched(&old, Event { user_id: Some("u"), ..Event::default() });
    assert_eq!(event.country, Some("DE"));

    let path = directory.path().join("dimensions/users-2.table");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[10] ^= 4;
    std::fs::write(&path, bytes).unwrap();
    let third = book(&directory);
    assert_eq!(third.latest().versions(), TableVersions([1, 0, 0]));
    assert_eq!(third.put(TableName::Users, rows("id\nu\n")).unwrap(), 3, "2 is used up");
}

#[test]
fn the_oldest_versions_go_once_no_shard_needs_them_and_there_are_too_many() {
    let directory = tempfile::tempdir().unwrap();
    let book = book(&directory);
    for _ in 0..12 {
        book.put(TableName::Users, rows("id\nu\n")).unwrap();
    }
    let left = || (1..=13).filter(|&it| book.load(TableVersions([it, 0, 0])).is_ok()).count();
    assert_eq!(left(), 12, "a shard may need them");
    book.need(Partition::new(0), TableVersions([12, 0, 0]));
    book.put(TableName::Users, rows("id\nu\n")).unwrap();
    assert!((3..12).contains(&left()), "{}", left());
    assert!(book.load(TableVersions([1, 0, 0])).is_err());
    for needed in [11, 12, 13] {
        assert!(book.load(TableVersions([needed, 0, 0])).is_ok(), "{needed}");
    }
}
