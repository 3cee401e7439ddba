//! A page of the documentation: its blocks, its tables, the words that stand in code.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A fenced block.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) language: String,
    pub(crate) text: String,
    /// Of its first line, counted from 1.
    pub(crate) line: usize,
}

pub(crate) struct Page {
    pub(crate) name: &'static str,
    pub(crate) text: String,
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

impl Page {
    pub(crate) fn read(name: &'static str) -> Self {
        let text = std::fs::read_to_string(root().join(name)).unwrap();
        Self { name, text }
    }

    /// The pages that an operator and a client's author read.
    pub(crate) fn all() -> [Self; 4] {
        ["README.md", "docs/api.md", "docs/operations.md", "docs/configuration.md"].map(Self::read)
    }

    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut is_open = false;
        for (index, line) in self.text.lines().enumerate() {
            match (line.strip_prefix("```"), is_open) {
                (Some(language), false) => {
                    let (language, text) = (language.to_owned(), String::new());
                    blocks.push(Block { language, text, line: index + 2 });
                    is_open = true;
                }
                (Some(_), true) => is_open = false,
                (None, true) => {
                    let block = blocks.last_mut().unwrap();
                    block.text += line;
                    block.text.push('\n');
                }
                (None, false) => {}
            }
        }
        assert!(!is_open, "{}: a block is not closed", self.name);
        blocks
    }

    /// What stands in `code` outside of blocks.
    pub(crate) fn spans(&self) -> Vec<String> {
        let mut is_open = false;
        let mut spans = Vec::new();
        for line in self.text.lines() {
            if line.starts_with("```") {
                is_open = !is_open;
            } else if !is_open {
                spans.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
            }
        }
        spans
    }

    /// The rows of the table under this heading line (`| status | codes |`), as cells.
    pub(crate) fn table(&self, head: &str) -> Vec<Vec<String>> {
        let at = self.text.find(head).unwrap_or_else(|| panic!("{}: {head}", self.name));
        let rows = self.text[at..].lines().skip(2).take_while(|line| line.starts_with('|'));
        rows.map(|row| {
            row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
    }

    /// The section under `## title`.
    pub(crate) fn section(&self, title: &str) -> &str {
        let at = self.text.find(&format!("\n## {title}\n"));
        let at = at.unwrap_or_else(|| panic!("{}: ## {title}", self.name)) + 1;
        let end = self.text[at + 3..].find("\n## ").map_or(self.text.len(), |end| at + 3 + end);
        &self.text[at..end]
    }
}

/// What stands in `code` in a text.
pub(crate) fn in_code(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
