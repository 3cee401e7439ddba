//! Rules of the house that the compiler does not know.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Who may import whom, as ARCHITECTURE.md draws it.
const WALK: [(&str, &[&str]); 10] = [
    ("event", &[]),
    ("access", &[]),
    ("log", &["event"]),
    ("gateway", &["access", "event", "log"]),
    ("stream", &["event", "log"]),
    ("rollups", &["event", "log", "stream"]),
    ("query", &["access", "event", "log", "rollups"]),
    ("dashboard", &[]),
    ("sim", &["event", "log", "stream", "rollups"]),
    ("server", &["access", "event", "log", "gateway", "stream", "rollups", "query", "dashboard"]),
];

/// Production lines that a file may have (STYLE: a file fits a sitting).
const FILE_LINES_MAX: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Names of our rooms in a manifest's `[dependencies]`.
fn imports(room: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join(room).join("Cargo.toml")).unwrap();
    let manifest: toml_edit::DocumentMut = text.parse().unwrap();
    manifest["dependencies"]
        .as_table()
        .unwrap()
        .iter()
        .filter_map(|(name, _)| name.strip_prefix("nilometer-").map(str::to_owned))
        .collect()
}

#[test]
fn imports_follow_the_walk() {
    for (room, allowed) in WALK {
        for import in imports(room) {
            assert!(
                allowed.contains(&import.as_str()),
                "{room}/Cargo.toml imports {import}; see ARCHITECTURE.md"
            );
        }
    }
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_file_introduces_itself_and_fits_a_sitting() {
    let mut files = Vec::new();
    for (room, _) in WALK {
        rust_files(&root().join(room).join("src"), &mut files);
    }
    assert!(files.len() > 50, "the rooms were not found");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//! "), "{} does not introduce itself", file.display());
        let production = text.split("#[cfg(test)]\nmod ").next().unwrap().lines().count();
        let is_test =
            file.ends_with("tests.rs") || file.components().any(|part| part.as_os_str() == "tests");
        assert!(
            is_test || production <= FILE_LINES_MAX,
            "{} has {production} production lines, at most {FILE_LINES_MAX} fit a sitting",
            file.display()
        );
    }
}
