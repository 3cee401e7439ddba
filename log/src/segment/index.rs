//! The sparse index beside a segment: a hint where to start reading, never the truth.
//!
//! Each entry carries its own check, so that a torn or damaged file is used up to the damage
//! and rebuilt from the segment. It is never synced.

use crc_fast::CrcAlgorithm;

/// An entry is made about every so many bytes of a segment.
pub(super) const INTERVAL_BYTES: u64 = 64 << 10;

/// Bytes of an entry on disk: offset, position, newest timestamp, check.
const ENTRY_BYTES: usize = 32;

/// A batch that begins with `offset` begins at `position`; before it, no record of the segment
/// is newer than `max_timestamp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) position: u64,
    pub(super) max_timestamp: i64,
}

impl Entry {
    /// The entry that every segment has.
    pub(super) const fn first(base: u64) -> Self {
        Self { offset: base, position: 0, max_timestamp: i64::MIN }
    }

    /// The bytes of the entry in the index of the segment at `base`.
    pub(super) fn encode(self, base: u64) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..8].copy_from_slice(&self.offset.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.position.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.max_timestamp.to_be_bytes());
        let check = check(base, &bytes[..24]);
        bytes[24..].copy_from_slice(&check);
        bytes
    }
}

/// The entries of an index file up to its first damage, without [`Entry::first`].
pub(super) fn decode(base: u64, bytes: &[u8]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for bytes in bytes.chunks_exact(ENTRY_BYTES) {
        let last = entries.last().copied().unwrap_or(Entry::first(base));
        match decode_entry(base, bytes) {
            Some(entry) if last.offset < entry.offset && last.position < entry.position => {
                entries.push(entry);
            }
            _ => break,
        }
    }
    entries
}

fn decode_entry(base: u64, bytes: &[u8]) -> Option<Entry> {
    let (fields, rest) = bytes.split_first_chunk::<24>()?;
    if rest != check(base, fields) {
        return None;
    }
    let (offset, fields) = fields.split_first_chunk::<8>()?;
    let (position, max_timestamp) = fields.split_first_chunk::<8>()?;
    Some(Entry {
        offset: u64::from_be_bytes(*offset),
        position: u64::from_be_bytes(*position),
        max_timestamp: i64::from_be_bytes(max_timestamp.try_into().ok()?),
    })
}

fn check(base: u64, fields: &[u8]) -> [u8; 8] {
    let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme);
    digest.update(&base.to_be_bytes());
    digest.update(fields);
    digest.finalize().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_index_is_used_up_to_its_damage() {
        let entry = |n: u64| Entry { offset: 100 + n, position: n * 10, max_timestamp: 7 };
        let entries: Vec<Entry> = (1..4).map(entry).collect();
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.encode(100)).collect();
        assert_eq!(decode(100, &bytes), entries);
        assert_eq!(decode(101, &bytes), [], "an index belongs to one segment");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(100, &flipped), entries[..bit / 8 / ENTRY_BYTES]);
        }
        for len in 0..bytes.len() {
            assert_eq!(decode(100, &bytes[..len]), entries[..len / ENTRY_BYTES]);
        }
    }
}
