//! Ids for rows that have none: from the import's name, the row's content and how often that
//! content has come before in the file.

use anyhow::{Result, ensure};
use hashbrown::HashMap;
use sha2::{Digest, Sha256};

use super::rows::Row;

/// Different contents that one file may have; about 3 GB of memory. Beyond it, map an id column.
const CONTENTS_MAX: usize = 100_000_000;

/// Counts the occurrences of each content of one file.
pub(super) struct RowIds {
    name: String,
    seen: HashMap<u64, u32, foldhash::fast::RandomState>,
}

impl RowIds {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), seen: HashMap::default() }
    }

    /// The id of the next row: the same content in the same place of its repetitions gives the
    /// same id, wherever in the file it stands.
    pub(super) fn next(&mut self, row: &Row) -> Result<String> {
        let content = self.content(row);
        let (head, _) = content.split_first_chunk::<8>().expect("SHA-256 has 32 bytes");
        let count = self.seen.entry(u64::from_le_bytes(*head)).or_insert(0);
        let occurrence = *count;
        *count += 1;
        ensure!(
            self.seen.len() <= CONTENTS_MAX,
            "the file has more than {CONTENTS_MAX} different rows; map a column to event_id"
        );
        let mut hash = Sha256::new();
        hash.update(content);
        hash.update(occurrence.to_le_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let mut id = String::with_capacity(34);
        id.push_str("i-");
        for byte in &digest[..16] {
            id.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
            id.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
        }
        Ok(id)
    }

    /// Columns in the order of their names, so that a file with its columns in another order
    /// has the same contents.
    fn content(&self, row: &Row) -> [u8; 32] {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&one, &two| row[one].0.cmp(&row[two].0));
        let mut hash = Sha256::new();
        hash.update(self.name.as_bytes());
        for index in order {
            let (column, value) = &row[index];
            for part in [column.as_bytes(), value.to_string().as_bytes()] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        hash.finalize().into()
    }
}
