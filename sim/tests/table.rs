//! The table of mutants in the crate's introduction names tests that exist.

use std::path::Path;

fn sources(dir: &Path, text: &mut String) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            text.push_str(&std::fs::read_to_string(&path).unwrap_or_default());
        }
    }
}

#[test]
fn every_mutant_has_a_test_that_exists() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let introduction = std::fs::read_to_string(own.join("src/lib.rs")).unwrap();
    let rows: Vec<&str> = introduction.lines().filter(|line| line.starts_with("//! | ")).collect();
    assert_eq!(rows.len(), 2 + 10, "a head and one row for each mutant of the acceptance list");
    for row in rows.iter().skip(2) {
        let named: Vec<(&str, &str)> =
            row.split('`').filter_map(|cited| cited.split_once(": ")).collect();
        assert!(!named.is_empty(), "no test in {row}");
        for (room, test) in named {
            let mut text = String::new();
            for part in ["src", "tests"] {
                sources(&own.join("..").join(room).join(part), &mut text);
            }
            assert!(text.contains(&format!("fn {test}(")), "{room} has no test {test}");
        }
    }
}
