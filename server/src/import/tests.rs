//! Rows to events: formats, mapping, ids.

use std::io::Write;

use clap::Parser;
use serde_json::{Map, Value, json};

use super::*;
use crate::cli::{Cli, Command};

const CSV: &str =
    "ts,who,what,seen,note\n1465413032,-88,VIEW,true,\"a, b\"\n1465413033.5,7,LIKE,,\n";

const ROW_BYTES_MAX: usize = 1 << 20;

fn args(flags: &[&str]) -> ImportArgs {
    let words = ["nilometer", "import", "--write-key", "k"];
    let cli = Cli::try_parse_from(words.iter().chain(flags)).unwrap();
    let Command::Import(args) = cli.command else { panic!("import was asked") };
    args
}

fn events(name: &str, bytes: &[u8], flags: &[&str]) -> Vec<Map<String, Value>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let text = path.to_string_lossy();
    let args = args(&[flags, &[text.as_ref()]].concat());
    let mapping = Mapping::new(&args).unwrap();
    let mut ids = RowIds::new("history");
    let mut events = Vec::new();
    source::for_each_row(&path, ROW_BYTES_MAX, &mut |row| {
        let id = ids.next(&row)?;
        events.push(mapping.event(row, id));
        Ok(())
    })
    .unwrap();
    events
}

const MAPS: [&str; 10] = [
    "--map",
    "ts=timestamp",
    "--map",
    "who=user_id",
    "--map",
    "what=event_type",
    "--map",
    "seen=completed",
    "--time-unit",
    "s",
];

#[test]
fn columns_become_fields_and_the_rest_properties() {
    let events = events("h.csv", CSV.as_bytes(), &MAPS);
    assert_eq!(events[0]["timestamp"], json!(1_465_413_032_000_i64));
    assert_eq!(events[0]["user_id"], json!("-88"));
    assert_eq!(events[0]["completed"], json!(true));
    assert_eq!(events[0]["properties"], json!({"note": "a, b"}));
    assert_eq!(events[1]["timestamp"], json!(1_465_413_033_500_i64));
    assert!(!events[1].contains_key("completed") && !events[1].contains_key("properties"));
    assert!(events.iter().all(|event| mapping::problem(event).is_none()));
}

#[test]
fn seconds_that_were_not_said_to_be_seconds_are_found_before_they_are_sent() {
    let maps = &MAPS[..8];
    let rows = "{\"ts\":1465413032,\"who\":\"a\",\"what\":\"VIEW\"}\n\
                {\"ts\":1465413032000000,\"who\":\"a\",\"what\":\"VIEW\"}\n\
                {\"ts\":0,\"who\":\"a\",\"what\":\"VIEW\"}\n";
    let problems = |flags: &[&str]| -> Vec<Option<&str>> {
        events("h.ndjson", rows.as_bytes(), flags).iter().map(mapping::problem).collect()
    };
    let seconds = "timestamp looks like seconds: see --time-unit";
    let out = "timestamp lies outside the years 1 to 9999: see --time-unit";
    assert_eq!(problems(maps), [Some(seconds), Some(out), None]);
    let as_ms = [maps, &["--time-unit", "ms"]].concat();
    assert_eq!(problems(&as_ms), [Some(seconds), Some(out), None]);
    assert_eq!(problems(&MAPS), [None, Some(out), None]);
}

#[test]
fn every_packing_of_a_file_gives_the_same_events() {
    let plain = events("h.csv", CSV.as_bytes(), &MAPS);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(CSV.as_bytes()).unwrap();
    assert_eq!(events("h.csv.gz", &gzip.finish().unwrap(), &MAPS), plain);
    let zstd = zstd::encode_all(CSV.as_bytes(), 1).unwrap();
    assert_eq!(events("h.csv.zst", &zstd, &MAPS), plain);
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("inner.csv", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(CSV.as_bytes()).unwrap();
    assert_eq!(events("h.zip", &zip.finish().unwrap().into_inner(), &MAPS), plain);
    let tsv =
        "ts\twho\twhat\tseen\tnote\n1465413032\t-88\tVIEW\ttrue\ta, b\n1465413033.5\t7\tLIKE\t\t\n";
    assert_eq!(events("h.tsv", tsv.as_bytes(), &MAPS), plain);
}

#[test]
fn a_repeated_row_has_an_id_of_its_own_and_a_reordered_file_has_the_same_ids() {
    let rows = ["1,u,VIEW", "1,u,VIEW", "2,u,VIEW"];
    let ids = |order: [usize; 3]| {
        let body: String = order.iter().map(|&index| format!("{}\n", rows[index])).collect();
        let text = format!("ts,who,what\n{body}");
        let mut ids: Vec<String> = events("h.csv", text.as_bytes(), &MAPS[..6])
            .iter()
            .map(|event| event["event_id"].as_str().unwrap().to_owned())
            .collect();
        ids.sort();
        ids
    };
    let mut once = ids([0, 1, 2]);
    assert_eq!(once, ids([2, 1, 0]));
    once.dedup();
    assert_eq!(once.len(), 3);
}

#[test]
fn a_column_order_does_not_matter_to_ids() {
    let one = events("h.csv", b"ts,who,what\n1,u,VIEW\n", &MAPS[..6]);
    let two = events("h.csv", b"what,ts,who\nVIEW,1,u\n", &MAPS[..6]);
    assert_eq!(one, two);
}

#[test]
fn ndjson_keeps_its_own_ids_and_properties() {
    let text = br#"{"event_id":"e1","event_type":"x","user_id":"u","timestamp":5,"properties":{"a":1},"b":2}"#;
    let events = events("h.ndjson", text, &["--time-unit", "ms"]);
    assert_eq!(events[0]["event_id"], json!("e1"));
    assert_eq!(events[0]["properties"], json!({"a": 1, "b": 2}));
}

#[test]
fn a_map_to_no_field_names_the_fields() {
    let error = Mapping::new(&args(&["--map", "a=contry", "f.csv"])).unwrap_err().to_string();
    assert!(error.contains("contry") && error.contains("country"), "{error}");
}

#[test]
fn a_row_whose_user_is_an_integer_is_sent_as_it_is() {
    let row = b"{\"event_type\":\"a\",\"timestamp\":1465413032000,\"user_id\":9007199254740993}\n";
    let event = &events("rows.ndjson", row, &[])[0];
    assert_eq!(event["user_id"].to_string(), "9007199254740993");
    assert_eq!(mapping::problem(event), None);
}

/// Catches: a file that takes all memory for one row.
#[test]
fn a_row_without_an_end_is_refused_once_it_is_too_long() {
    let long = |begin: &str, byte: &str, count: usize| begin.to_owned() + &byte.repeat(count);
    let max = ROW_BYTES_MAX;
    let told = |line: u64| format!("line {line}: the row that begins here has more than 1048576");
    let quoted = long("a,b\n1,2\n3,\"", "x", 8 * max);
    let lines_in_quotes = long("a,b\n1,2\n3,\"", "x,y\n", 2 * max);
    let row = long("a,b\n1,", "x", max) + "\n3,4\n";
    let many = format!("{}\n1\n", "a,".repeat(5_000));
    for (name, text, told) in [
        ("a.csv", &quoted, told(3)),
        ("b.csv", &lines_in_quotes, told(3)),
        ("c.tsv", &long("", "x", 2 * max), told(1)),
        ("d.csv", &row, told(2)),
        ("e.csv", &many, "the header has 5001 columns, at most 4096".to_owned()),
        ("f.ndjson", &long("{}\n{\"", "x", 2 * max), "line 2 has more than 1048576".to_owned()),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let error = source::for_each_row(&path, ROW_BYTES_MAX, &mut |_row| Ok(())).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains(&told) && error.len() < 500, "{name}: {error}");
        assert!(name == "e.csv" || error.contains("--row-bytes-max"), "{name}: {error}");
    }
    // What is just short enough is taken, however the rows lie in what is read at once.
    let row = format!("1,{}\n", "x".repeat(max - 10));
    let text = format!("a,b\n{}1,2\n{row}", row.repeat(3));
    assert_eq!(events("h.csv", text.as_bytes(), &[]).len(), 5);
}

#[test]
fn neither_pipes_nor_devices_are_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("rows.csv");
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
    for path in [pipe.as_path(), Path::new("/dev/zero"), folder.path()] {
        let error = source::for_each_row(path, ROW_BYTES_MAX, &mut |_row| Ok(())).unwrap_err();
        assert!(format!("{error:#}").contains("no regular file"), "{error:#}");
    }
}

#[test]
fn a_row_that_cannot_be_read_is_told_with_its_place_in_our_words() {
    for (name, bytes, told) in [
        ("a.ndjson", &b"{\"a\":1}\n{'a':1}\n"[..], "line 2, column 2: found '"),
        ("b.ndjson", b"{\"a\":1", "line 1, column 7: the text ends before its JSON does"),
        ("c.ndjson", b"\n[1]\n", "line 2: expected a JSON object, found [1]"),
        ("d.csv", b"a,b\n1,2\n3\n", "line 3: 1 cells where the header has 2"),
        ("e.csv", b"a,b\n1,\xff\n", "line 2: the text is not UTF-8"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = source::for_each_row(&path, ROW_BYTES_MAX, &mut |_row| Ok(())).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains(told), "{name}: {error}");
        assert!(!error.contains("CSV error") && !error.contains("expected value"), "{error}");
    }
}
