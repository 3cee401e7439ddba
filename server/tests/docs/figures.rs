//! What was measured stands in bench/RESULTS.md; and no block of a page is nobody's.

use std::collections::BTreeSet;
use std::process::Command;

use regex::Regex;

use crate::page::{Page, root};

/// Who runs, reads or compares a block of this kind.
const KINDS: [(&str, &str); 8] = [
    ("sh", "server/tests/docs/examples.rs"),
    ("json", "server/tests/docs/examples.rs"),
    ("toml", "every_configuration_that_a_page_shows_is_one"),
    ("html", "dashboard/web/e2e/other-origin.mjs"),
    ("js", "dashboard/web/e2e/other-origin.mjs"),
    ("nginx", "server/tests/cli/proxy.rs"),
    ("yaml", "a scraper's, not ours"),
    ("text", "server/tests/docs/names.rs"),
];

#[test]
fn every_block_is_of_a_kind_that_some_test_runs() {
    let known: BTreeSet<&str> = KINDS.into_iter().map(|(kind, _)| kind).collect();
    let mut seen = BTreeSet::new();
    for page in Page::all() {
        for block in page.blocks() {
            let place = format!("{}:{}: {}", page.name, block.line, block.language);
            let kind = known.get(block.language.as_str());
            seen.insert(*kind.unwrap_or_else(|| panic!("{place}: nobody runs it")));
        }
    }
    assert_eq!(seen, known);
}

#[test]
fn every_configuration_that_a_page_shows_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nilometer.toml");
    for page in Page::all() {
        for block in page.blocks().iter().filter(|block| block.language == "toml") {
            std::fs::write(&file, &block.text).unwrap();
            let mut config = Command::new(env!("CARGO_BIN_EXE_nilometer"));
            let output = config.args(["config", "--config"]).arg(&file).env_clear().output();
            let stderr = String::from_utf8(output.unwrap().stderr).unwrap();
            assert_eq!(stderr, "", "{}:{}", page.name, block.line);
        }
    }
}

/// The section of bench/RESULTS.md with this title, which may be a line's first words.
fn section<'a>(results: &'a str, title: &str) -> &'a str {
    let at = [format!("\n## {title}\n"), format!("\n**{title}")]
        .iter()
        .find_map(|head| results.find(head))
        .unwrap_or_else(|| panic!("bench/RESULTS.md has no {title:?}"));
    let end = results[at + 1..].find("\n## ").map_or(results.len(), |end| at + 1 + end);
    &results[at..end]
}

/// Numbers with a unit behind them, and values of settings.
fn figures(text: &str) -> Vec<String> {
    let figure =
        Regex::new(r"\b([0-9][0-9,.]*) (million|events/s|µs|ms|MiB|GiB|%)|`[a-z_.]+ = ([0-9]+)`")
            .unwrap();
    let found = figure.captures_iter(text).map(|found| match (found.get(1), found.get(3)) {
        (Some(number), _) => format!("{} {}", number.as_str(), &found[2]).replace(" million", " M"),
        (None, Some(value)) => value.as_str().to_owned(),
        (None, None) => unreachable!("one of the two is there"),
    });
    found.collect()
}

/// Whole, not as a part of a longer number or unit.
fn stands(figure: &str, results: &str) -> bool {
    let whole = format!(r"(?:^|[^0-9.,\w]){}(?:$|[^0-9\w])", regex::escape(figure));
    Regex::new(&whole).unwrap().is_match(results)
}

#[test]
fn a_figure_that_a_page_has_from_the_results_stands_there() {
    let results = std::fs::read_to_string(root().join("bench/RESULTS.md")).unwrap();
    let cited = Regex::new(r#"RESULTS\.md`?, "([^"]+)""#).unwrap();
    let others = ["ARCHITECTURE.md", "CONTRIBUTING.md"].map(Page::read);
    let mut checked = 0;
    for page in Page::all().into_iter().chain(others) {
        for (number, line) in page.text.lines().enumerate() {
            if !line.contains("RESULTS.md") {
                continue;
            }
            let place = format!("{}:{}", page.name, number + 1);
            let source: &str = match cited.captures(line) {
                Some(title) => section(&results, &title[1]),
                None => &results,
            };
            for figure in figures(line) {
                assert!(stands(&figure, source), "{place}: {figure} is not in bench/RESULTS.md");
                checked += 1;
            }
        }
    }
    assert!(checked >= 4, "{checked} figures were found");
}

#[test]
fn figures_are_numbers_with_their_unit() {
    let text = "20 million ids need `memory_limit_mib = 830`, 3.7 µs (goal 1), 7 to 18 ms";
    assert_eq!(figures(text), ["20 M", "830", "3.7 µs", "18 ms"]);
    assert!(stands("18 ms", "13 and 18 ms") && stands("830", "(830)"));
    assert!(!stands("8 ms", "18 ms") && !stands("7 ms", "3.7 ms") && !stands("83", "830"));
}
