//! Looking a log over without opening it: every batch checked, nothing changed, no lock taken.

use std::io;

use nilometer_event::{Offset, Partition, Topic};

use super::scan::{Scanner, Step};
use super::{LAYOUT_FILE, LAYOUT_VERSION, Layout, place, recovery};
use crate::Disk;
use crate::records::{Decoded, Record};

/// How much is read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file or folder, relative to the disk's root.
    pub file: String,
    /// What is wrong with it.
    pub reason: String,
    /// How many records it costs, where that is known and it costs any.
    pub lost_records: Option<u64>,
}

impl Finding {
    /// Of a file, without a count of records.
    #[must_use]
    pub fn new(file: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { file: file.into(), reason: reason.into(), lost_records: None }
    }
}

/// One topic of one partition, as it lies on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InspectedPlace {
    /// Which stream.
    pub topic: Topic,
    /// Which shard.
    pub partition: Partition,
    /// The oldest offset kept.
    pub start: Offset,
    /// The offset after its last good record.
    pub end: Offset,
}

/// What [`inspect`] saw.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Segment files that were read.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Good records.
    pub records: u64,
    /// How many partitions the folder was made for; `None` before the first start.
    pub partitions: Option<u16>,
    /// Every place that has a segment.
    pub places: Vec<InspectedPlace>,
}

/// Who looks on while a log is inspected.
pub trait Onlooker {
    /// So many bytes more were checked.
    fn checked(&mut self, bytes: u64);

    /// A good record.
    fn record(&mut self, topic: Topic, partition: Partition, record: &Record<'_>);
}

/// Checks every batch of the log below `log/` of the disk; a running server may write beside it.
///
/// A batch at the end that was not written whole is none yet and no finding. A segment that
/// retention removes meanwhile is passed over.
pub fn inspect(disk: &dyn Disk, onlooker: &mut dyn Onlooker) -> Inspection {
    let mut inspection = Inspection::default();
    inspect_layout(disk, &mut inspection);
    for topic in Topic::ALL {
        let dir = format!("log/{topic}");
        let names = match disk.list(&dir) {
            Ok(names) => names,
            Err(error) => {
                inspection.findings.push(Finding::new(dir, error.to_string()));
                continue;
            }
        };
        let mut partitions: Vec<u16> = names.iter().filter_map(|name| name.parse().ok()).collect();
        partitions.sort_unstable();
        for partition in partitions {
            let mut look = Look { disk, onlooker, topic, partition: Partition::new(partition) };
            look.place(&mut inspection);
        }
    }
    inspection
}

fn inspect_layout(disk: &dyn Disk, inspection: &mut Inspection) {
    let bytes = match disk.read(LAYOUT_FILE) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            return inspection.findings.push(Finding::new(LAYOUT_FILE, error.to_string()));
        }
    };
    match Layout::decode(&bytes) {
        None => inspection.findings.push(Finding::new(LAYOUT_FILE, "its checksum is wrong")),
        Some(layout) => {
            if layout.version > LAYOUT_VERSION {
                let reason = format!(
                    "layout {} is of a newer release; this one reads up to {LAYOUT_VERSION}",
                    layout.version
                );
                inspection.findings.push(Finding::new(LAYOUT_FILE, reason));
            }
            inspection.partitions = Some(layout.partitions);
        }
    }
}

struct Look<'a> {
    disk: &'a dyn Disk,
    onlooker: &'a mut dyn Onlooker,
    topic: Topic,
    partition: Partition,
}

/// One pass over a segment.
#[derive(Default)]
struct Pass {
    findings: Vec<Finding>,
    records: u64,
    bytes: u64,
    /// The offset after its last good record.
    next: u64,
}

impl Look<'_> {
    fn place(&mut self, inspection: &mut Inspection) {
        let dir = place::dir(self.topic, self.partition);
        let names = match self.disk.list(&dir) {
            Ok(names) => names,
            Err(error) => {
                return inspection.findings.push(Finding::new(dir, error.to_string()));
            }
        };
        let mut bases: Vec<u64> = names.iter().filter_map(|name| recovery::base_of(name)).collect();
        bases.sort_unstable();
        let mut seen: Option<InspectedPlace> = None;
        for (at, &base) in bases.iter().enumerate() {
            let limit = bases.get(at + 1).copied();
            let path = place::log_file(&dir, base);
            let mut pass = self.segment(&path, base, limit, true);
            if limit.is_none() && pass.as_ref().is_ok_and(|pass| !pass.findings.is_empty()) {
                // The writer may have been at work there: damage is still there the next time.
                pass = self.segment(&path, base, limit, false);
            }
            let pass = match pass {
                Ok(pass) => pass,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    let lost_records = limit.map(|limit| limit - base);
                    let reason = error.to_string();
                    inspection.findings.push(Finding { file: path, reason, lost_records });
                    continue;
                }
            };
            let start = seen.map_or(Offset::new(base), |place| place.start);
            let (topic, partition, end) = (self.topic, self.partition, Offset::new(pass.next));
            seen = Some(InspectedPlace { topic, partition, start, end });
            inspection.segments += 1;
            inspection.bytes += pass.bytes;
            inspection.records += pass.records;
            inspection.findings.extend(pass.findings);
        }
        inspection.places.extend(seen);
    }

    /// Checks one file; `limit` is where the next segment begins.
    fn segment(
        &mut self,
        path: &str,
        base: u64,
        limit: Option<u64>,
        shown: bool,
    ) -> io::Result<Pass> {
        let file = self.disk.open_read(path)?;
        let len = file.len()?;
        let mut scanner = Scanner::new(&*file, len, CHUNK_BYTES);
        let until = limit.unwrap_or(u64::MAX);
        let mut pass = Pass { next: base, bytes: len, ..Pass::default() };
        let mut position = 0;
        let lost = |first: u64, next: u64, what: &str| Finding {
            file: path.to_owned(),
            reason: format!("{what} (offsets {first} to {})", next - 1),
            lost_records: Some(next - first),
        };
        let mut ending = "records are missing before the next segment";
        loop {
            match scanner.step(position, pass.next, until)? {
                Step::Batch { header, position: start } => {
                    let next = header.next().unwrap_or(pass.next);
                    if let Some(batch) = header.decode(scanner.bytes(start, header.total)?) {
                        pass.records += next - header.base;
                        self.show(&batch, shown);
                    } else {
                        let what = "a batch cannot be decompressed";
                        pass.findings.push(lost(header.base, next, what));
                    }
                    let after = start + header.total as u64;
                    if shown {
                        self.onlooker.checked(after.saturating_sub(position));
                    }
                    (position, pass.next) = (after, next);
                }
                Step::Hole { next, resume } => {
                    pass.findings.push(lost(pass.next, next, "a batch is damaged"));
                    (position, pass.next) = (resume, next);
                }
                Step::DamagedTail { count } => {
                    ending = "the last batch is damaged";
                    if limit.is_none() {
                        let reason = format!("{ending} (from offset {})", pass.next);
                        let lost_records = count.map(u64::from);
                        pass.findings.push(Finding { file: path.to_owned(), reason, lost_records });
                    }
                    break;
                }
                Step::Torn | Step::End => break,
            }
        }
        if let Some(limit) = limit.filter(|&limit| pass.next < limit) {
            pass.findings.push(lost(pass.next, limit, ending));
        }
        Ok(pass)
    }

    fn show(&mut self, batch: &Decoded, shown: bool) {
        if !shown {
            return;
        }
        for record in batch.iter() {
            self.onlooker.record(self.topic, self.partition, &record);
        }
    }
}
