//! What reaches a shard's state: entries, one about a second, durable before they are folded.
//!
//! Two readers of one journal have the same state, byte for byte, because nothing else reaches
//! it: an entry names how far each topic is read, the house's `now`, the plan, the versions of
//! the dimension tables and the settings that decide results.
//!
//! On the log an entry is one record of [`Topic::Journal`]:
//! a version byte, postcard of `(entry, its predecessor)`, and the CRC-32C of both, little
//! endian. As each entry repeats its predecessor, one damaged entry is read from the next.

mod inspect;
pub use inspect::JournalInspection;
mod places;
pub use places::Places;
mod reader;
pub use reader::{Reader, Replayed};

use nilometer_event::{Offset, ReceiveTime, Topic};
use serde::{Deserialize, Serialize};

use crate::declare::PlanId;
use crate::error::JournalError;
use crate::settings::FoldSettings;
use crate::tables::TableVersions;
use crate::view::LayerNumber;

/// Version of the form on the log. A reader refuses a newer one: it drains with its release.
pub const JOURNAL_VERSION: u8 = 1;

/// One step of a shard's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number, counted from 1 without gaps.
    pub seq: u64,
    /// The layer that its records count in; a higher one than the open layer closes that first.
    pub layer: LayerNumber,
    /// How far each topic of [`Topic::RECEIVED`] is read, in that order.
    pub ends: [u64; Topic::RECEIVED.len()],
    /// Whether the live topics were read to their ends.
    pub caught_up: bool,
    /// The house's clock.
    pub now: ReceiveTime,
    /// The plan that its records are counted by.
    pub plan: PlanId,
    /// The settings that decide results.
    pub settings: FoldSettings,
    /// The dimension tables that enrich its records.
    pub dims: TableVersions,
    /// Users erased by it; none in this release.
    pub erasures: Vec<u64>,
    /// Whether the layer is sealed after its records.
    pub seal: bool,
}

impl Entry {
    /// The first offset of `topic` that it does not take.
    #[must_use]
    pub fn end(&self, topic: Topic) -> Option<Offset> {
        let index = Topic::RECEIVED.iter().position(|&received| received == topic)?;
        Some(Offset::new(self.ends[index]))
    }
}

/// An entry as it lies on the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalRecord {
    /// The entry.
    pub entry: Entry,
    /// The one before it.
    pub predecessor: Option<Entry>,
}

impl JournalRecord {
    /// The bytes of the record; the same for the same entries.
    ///
    /// # Errors
    ///
    /// [`JournalError::Encode`], which only memory can cause.
    pub fn encode(&self) -> Result<Vec<u8>, JournalError> {
        let mut bytes = postcard::to_extend(self, vec![JOURNAL_VERSION])
            .map_err(|source| JournalError::Encode { source })?;
        let crc = crate::checkpoint::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        Ok(bytes)
    }

    /// Reads a record.
    ///
    /// # Errors
    ///
    /// [`JournalError::Corrupt`] for damaged bytes: read on, the next record repeats the
    /// entry. [`JournalError::Newer`] for a form of a later release: stop, change nothing.
    pub fn decode(bytes: &[u8]) -> Result<Self, JournalError> {
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(JournalError::Corrupt)?;
        if crate::checkpoint::crc32c(body) != u32::from_le_bytes(*crc) {
            return Err(JournalError::Corrupt);
        }
        let (&version, body) = body.split_first().ok_or(JournalError::Corrupt)?;
        if version != JOURNAL_VERSION {
            return Err(JournalError::Newer { version, known: JOURNAL_VERSION });
        }
        postcard::from_bytes(body).map_err(|_shape| JournalError::Corrupt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(in crate::journal) fn entry(seq: u64) -> Entry {
        Entry {
            seq,
            layer: LayerNumber::FIRST,
            ends: [seq, 0, 0, 0, 7],
            caught_up: true,
            now: ReceiveTime::from_ms(1_000),
            plan: PlanId::new(9),
            settings: FoldSettings::default(),
            dims: TableVersions::default(),
            erasures: Vec::new(),
            seal: false,
        }
    }

    #[test]
    fn a_record_reads_back_and_every_flipped_bit_is_found() {
        let record = JournalRecord { entry: entry(2), predecessor: Some(entry(1)) };
        let bytes = record.encode().unwrap();
        assert_eq!(JournalRecord::decode(&bytes).unwrap(), record);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(JournalRecord::decode(&damaged), Err(JournalError::Corrupt)));
        }
    }

    #[test]
    fn a_later_release_is_told_from_damage() {
        let record = JournalRecord { entry: entry(1), predecessor: None };
        let mut bytes = record.encode().unwrap();
        bytes[0] = JOURNAL_VERSION + 1;
        let body = bytes.len() - 4;
        let crc = crate::checkpoint::crc32c(&bytes[..body]);
        bytes[body..].copy_from_slice(&crc.to_le_bytes());
        assert!(matches!(JournalRecord::decode(&bytes), Err(JournalError::Newer { .. })));
    }
}
