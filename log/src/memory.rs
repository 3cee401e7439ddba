//! The reference log: obvious, and it forgets everything.

use nilometer_event::{Offset, Partition, PartitionCount, ReceiveTime, Topic};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::records::Decoded;
use crate::settings::BATCH_BYTES_MAX;
use crate::{
    AppendBatch, AppendError, Appended, Bounds, Fetched, Log, LogStats, Pending, Quarantined,
    ReadError, Records,
};

/// The reference log: obvious, and it forgets everything when dropped.
#[derive(Debug)]
pub struct MemoryLog {
    partitions: PartitionCount,
    places: Mutex<Places>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Places {
    /// By topic and partition.
    lists: Vec<List>,
    quarantined: Vec<Quarantined>,
    stats: LogStats,
    latest_ms: Option<i64>,
}

#[derive(Debug, Default)]
struct List {
    batches: Vec<Decoded>,
    end: u64,
}

impl MemoryLog {
    /// An empty log.
    #[must_use]
    pub fn new(partitions: PartitionCount) -> Self {
        let mut places = Places::default();
        places.lists.resize_with(usize::from(partitions.get()) * Topic::ALL.len(), List::default);
        Self { partitions, places: Mutex::new(places), changed: watch::Sender::new(0) }
    }

    fn index(&self, topic: Topic, partition: Partition) -> Option<usize> {
        (partition.get() < self.partitions.get())
            .then(|| partition.index() * Topic::ALL.len() + topic as usize)
    }

    fn appendable(&self, batch: &AppendBatch) -> Result<(), AppendError> {
        let bytes = batch.records.bytes();
        if bytes > BATCH_BYTES_MAX {
            let (limit, bytes_max) = ("batch_bytes_max", BATCH_BYTES_MAX);
            return Err(AppendError::TooLarge { limit, bytes, bytes_max });
        }
        match self.index(batch.topic, batch.partition) {
            Some(_exists) => Ok(()),
            None => Err(AppendError::NoSuchPartition {
                partition: batch.partition,
                count: self.partitions.get(),
            }),
        }
    }
}

impl Places {
    fn append(&mut self, index: usize, records: Records) -> Appended {
        let list = &mut self.lists[index];
        let first = list.end;
        list.end += u64::from(records.count);
        if !records.is_empty() {
            self.latest_ms = self.latest_ms.max(Some(records.max_timestamp));
            self.stats.records += u64::from(records.count);
            self.stats.bytes += records.section.len() as u64;
            list.batches.push(Decoded {
                base: first,
                first_timestamp: records.first_timestamp,
                count: records.count,
                section: records.section.into(),
            });
        }
        Appended { first: Offset::new(first), next: Offset::new(list.end) }
    }
}

impl List {
    fn fetch(&self, from: Offset, max_bytes: usize) -> Fetched {
        let start = self.batches.partition_point(|batch| batch.end() <= from.get());
        let mut taken = Vec::new();
        let mut bytes = 0;
        for batch in &self.batches[start..] {
            // A hole that follows is jumped over by the next read.
            if !taken.is_empty() && bytes + batch.section.len() > max_bytes {
                break;
            }
            bytes += batch.section.len();
            taken.push(batch.clone());
        }
        let next = taken.last().map_or(self.end, Decoded::end);
        Fetched::new(from, Offset::new(next), taken)
    }
}

impl Log for MemoryLog {
    fn submit(&self, batches: Vec<AppendBatch>) -> Result<Pending, AppendError> {
        for batch in &batches {
            self.appendable(batch)?;
        }
        let mut places = self.places.lock();
        let appended = batches
            .into_iter()
            .filter_map(|batch| {
                let index = self.index(batch.topic, batch.partition)?;
                Some(places.append(index, batch.records))
            })
            .collect();
        places.stats.commits += 1;
        drop(places);
        self.changed.send_modify(|commits| *commits += 1);
        Ok(Pending::ready(Ok(appended)))
    }

    fn read(
        &self,
        topic: Topic,
        partition: Partition,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Fetched, ReadError> {
        let index = self
            .index(topic, partition)
            .ok_or(ReadError::NoSuchPartition { partition, count: self.partitions.get() })?;
        let places = self.places.lock();
        let end = Offset::new(places.lists[index].end);
        if end < from {
            return Err(ReadError::PastEnd { topic, partition, from, end });
        }
        Ok(places.lists[index].fetch(from, max_bytes))
    }

    fn bounds(&self, topic: Topic, partition: Partition) -> Bounds {
        let end = self
            .index(topic, partition)
            .map_or(Offset::ZERO, |index| Offset::new(self.places.lock().lists[index].end));
        Bounds { start: Offset::ZERO, end }
    }

    fn offset_at(
        &self,
        topic: Topic,
        partition: Partition,
        time: ReceiveTime,
    ) -> Result<Offset, ReadError> {
        let all = self.read(topic, partition, Offset::ZERO, usize::MAX)?;
        let found = all.iter().find(|record| record.timestamp >= time);
        Ok(found.map_or(all.next(), |record| record.offset))
    }

    fn ensure_past(
        &self,
        topic: Topic,
        partition: Partition,
        named: Offset,
    ) -> Result<u64, AppendError> {
        let Some(index) = self.index(topic, partition) else {
            return Err(AppendError::NoSuchPartition { partition, count: self.partitions.get() });
        };
        let mut places = self.places.lock();
        let first = Offset::new(places.lists[index].end);
        let missing = named.since(first);
        if missing > 0 {
            places.lists[index].end = named.get();
            places.stats.quarantined_records += missing;
            places.quarantined.push(Quarantined {
                topic,
                partition,
                first,
                next: named,
                file: "memory".to_owned(),
                reason: "corrupt: the journal names records that the log does not hold".to_owned(),
            });
        }
        Ok(missing)
    }

    fn hold(&self, _topic: Topic, _partition: Partition, _floor: Offset) {
        // Nothing is ever removed.
    }

    fn quarantined(&self) -> Vec<Quarantined> {
        self.places.lock().quarantined.clone()
    }

    fn partitions(&self) -> PartitionCount {
        self.partitions
    }

    fn latest_timestamp(&self) -> Option<ReceiveTime> {
        self.places.lock().latest_ms.map(ReceiveTime::from_ms)
    }

    fn stats(&self) -> LogStats {
        self.places.lock().stats
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
