//! Walks the batches of one segment file, over damage as well.

use std::io;

use crate::DiskFile;
use crate::batch::{HEADER_BYTES, Header, count_despite_damage};

/// What comes next in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A good batch that begins with the expected offset, at `position`.
    Batch { header: Header, position: u64 },
    /// Damage: the records from the expected offset to `next` are lost, and the next good
    /// batch is at `resume`.
    Hole { next: u64, resume: u64 },
    /// Damage after which no good batch follows; `count` records are lost, where it is known.
    DamagedTail { count: Option<u32> },
    /// A batch that was never written whole.
    Torn,
    /// No more bytes, or only records that the next segment holds.
    End,
}

/// A window on one segment file.
pub(super) struct Scanner<'a> {
    file: &'a dyn DiskFile,
    /// Bytes of the file that count.
    end: u64,
    /// The file's bytes from `window_at` on.
    window: Vec<u8>,
    window_at: u64,
    /// How much is read at once.
    chunk: usize,
}

enum Probe {
    End,
    Torn,
    Damaged,
    Whole(Header),
}

impl<'a> Scanner<'a> {
    pub(super) const fn new(file: &'a dyn DiskFile, end: u64, chunk: usize) -> Self {
        Self { file, end, window: Vec::new(), window_at: 0, chunk }
    }

    /// The bytes `position..position + len`; fewer where the file ends.
    pub(super) fn bytes(&mut self, position: u64, len: usize) -> io::Result<&[u8]> {
        let len = len.min(usize::try_from(self.end.saturating_sub(position)).unwrap_or(len));
        let inside = position.checked_sub(self.window_at).and_then(|at| usize::try_from(at).ok());
        if let Some(at) = inside
            && at + len <= self.window.len()
        {
            return Ok(&self.window[at..at + len]);
        }
        let left = usize::try_from(self.end.saturating_sub(position)).unwrap_or(usize::MAX);
        self.window.resize(len.max(self.chunk).min(left), 0);
        self.window_at = position;
        let read = self.file.read_at(position, &mut self.window);
        // A window that could not be read holds nothing.
        self.window.truncate(*read.as_ref().unwrap_or(&0));
        read?;
        Ok(&self.window[..len.min(self.window.len())])
    }

    /// What comes at `position`, where the batch that begins with `expected` should be; records
    /// from `limit` on are the next segment's.
    pub(super) fn step(&mut self, position: u64, expected: u64, limit: u64) -> io::Result<Step> {
        match self.probe(position)? {
            Probe::End => Ok(Step::End),
            Probe::Torn => Ok(Step::Torn),
            Probe::Whole(header) if limit <= header.base => Ok(Step::End),
            Probe::Whole(header) if expected == header.base => Ok(Step::Batch { header, position }),
            Probe::Whole(header) if expected < header.base => {
                Ok(Step::Hole { next: header.base, resume: position })
            }
            Probe::Whole(_) | Probe::Damaged => self.over_damage(position, expected, limit),
        }
    }

    fn over_damage(&mut self, position: u64, expected: u64, limit: u64) -> io::Result<Step> {
        let mut from = position + 1;
        while let Some((resume, header)) = self.find(from)? {
            if limit <= header.base {
                break;
            }
            if expected <= header.base {
                return Ok(Step::Hole { next: header.base, resume });
            }
            from = resume + header.total as u64;
        }
        let left = usize::try_from(self.end - position).unwrap_or(usize::MAX);
        let rest = self.bytes(position, left)?;
        if rest.iter().all(|&byte| byte == 0) {
            // The file grew, but its bytes never came: what a crash leaves of a write.
            return Ok(Step::Torn);
        }
        Ok(Step::DamagedTail { count: count_despite_damage(rest) })
    }

    fn probe(&mut self, position: u64) -> io::Result<Probe> {
        let left = self.end.saturating_sub(position);
        let bytes = self.bytes(position, HEADER_BYTES)?;
        if left == 0 || bytes.is_empty() {
            return Ok(Probe::End);
        }
        let Some(first) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(Probe::Torn);
        };
        let Some(header) = Header::parse(first) else {
            return Ok(Probe::Damaged);
        };
        if left < header.total as u64 {
            return Ok(Probe::Torn);
        }
        let batch = self.bytes(position, header.total)?;
        Ok(if batch.len() < header.total {
            Probe::Torn
        } else if header.verify(batch) {
            Probe::Whole(header)
        } else {
            Probe::Damaged
        })
    }

    /// The first good batch at or after `from`.
    fn find(&mut self, from: u64) -> io::Result<Option<(u64, Header)>> {
        let mut position = from;
        while position + (HEADER_BYTES as u64) <= self.end {
            let window = self.bytes(position, self.chunk.max(HEADER_BYTES))?;
            if window.len() < HEADER_BYTES {
                return Ok(None);
            }
            let starts = window.len() - HEADER_BYTES + 1;
            let plausible = (0..starts).find(|&at| {
                window[at..].first_chunk().is_some_and(|first| Header::parse(first).is_some())
            });
            let Some(at) = plausible else {
                position += starts as u64;
                continue;
            };
            position += at as u64;
            if let Probe::Whole(header) = self.probe(position)? {
                return Ok(Some((position, header)));
            }
            position += 1;
        }
        Ok(None)
    }
}
