//! Looking a journal over, record by record, as another room reads the log.

use std::collections::BTreeMap;

use nilometer_event::{Partition, Topic};
use nilometer_log::{Finding, Record};

use super::JournalRecord;
use crate::error::JournalError;

/// What the journals' records tell, taken in the order of the log.
#[derive(Debug, Default)]
pub struct JournalInspection {
    /// By shard the seq that was told last.
    last: BTreeMap<Partition, u64>,
    /// Entries that were told.
    pub entries: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl JournalInspection {
    /// Takes a record of the topic `journal`.
    pub fn take(&mut self, partition: Partition, record: &Record<'_>) {
        let place = format!("log/{}/{partition}", Topic::Journal);
        let found = match JournalRecord::decode(record.value) {
            Ok(found) => found,
            Err(JournalError::Corrupt) => {
                // Its successor repeats it, so the entry itself is not lost.
                let reason = format!("the journal entry at offset {} is damaged", record.offset);
                let lost_records = Some(1);
                return self.findings.push(Finding { file: place, reason, lost_records });
            }
            Err(error) => {
                let reason = format!("the journal entry at offset {}: {error}", record.offset);
                return self.findings.push(Finding::new(place, reason));
            }
        };
        let first = found.predecessor.as_ref().map_or(found.entry.seq, |before| before.seq);
        let last = self.last.get(&partition).copied();
        if let Some(last) = last.filter(|&last| last + 1 < first) {
            let lost = first - last - 1;
            let reason = format!("journal entries {} to {} are lost", last + 1, first - 1);
            self.findings.push(Finding { file: place, reason, lost_records: Some(lost) });
        }
        if last.is_none_or(|last| last < found.entry.seq) {
            self.last.insert(partition, found.entry.seq);
            self.entries += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use nilometer_event::{Offset, ReceiveTime};

    use super::*;
    use crate::journal::tests::entry;

    const P0: Partition = Partition::new(0);

    fn told(values: &[Vec<u8>]) -> JournalInspection {
        let mut inspection = JournalInspection::default();
        for (offset, value) in (0..).zip(values) {
            let timestamp = ReceiveTime::from_ms(0);
            let record = Record { offset: Offset::new(offset), timestamp, key: None, value };
            inspection.take(P0, &record);
        }
        inspection
    }

    fn record(seq: u64) -> Vec<u8> {
        let predecessor = (seq > 1).then(|| entry(seq - 1));
        JournalRecord { entry: entry(seq), predecessor }.encode().unwrap()
    }

    #[test]
    fn repeats_are_fine_damage_is_named_and_a_gap_is_counted() {
        let good = told(&[record(4), record(5), record(5), record(6)]);
        assert_eq!((good.entries, good.findings.len()), (3, 0));
        let damaged = told(&[record(1), b"what was entry 2".to_vec(), record(3)]);
        assert_eq!(damaged.findings.len(), 1, "its successor repeats it");
        assert_eq!(damaged.findings[0].lost_records, Some(1));
        let gap = told(&[record(1), record(5)]);
        assert_eq!(gap.findings[0].reason, "journal entries 2 to 3 are lost");
        assert_eq!(gap.findings[0].lost_records, Some(2));
    }
}
