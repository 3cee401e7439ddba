//! Runs of ids: what their blocks say, and how they are written and read back.

use std::io;

use nilometer_event::{EventTime, ReceiveTime};
use nilometer_log::Disk;
use serde::{Deserialize, Serialize};

use super::filter::{Filter, ODD_BITS, ORDINARY_BITS};
use super::key::{Bucket, Hour, IdKey};
use super::run::{Kind, Run, RunWriter, le64};

/// Fingerprints and checks of 448 ids and a checksum: one page of 4 KiB.
const BLOCK_ROWS_MAX: usize = 448;
const FINGERPRINT_BYTES: usize = 8;
const DAY_MS: i64 = 86_400_000;
/// Odd ids are filed by the day of their arrival, below every bucket's number.
const ODD_BASE: i64 = -(1 << 40);
const ODD_END: i64 = ODD_BASE + (1 << 39);

/// What a manifest says about one run of ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdRunMeta {
    pub(crate) file: String,
    /// 0 for a layer's own run; how often it was merged.
    pub(crate) level: u8,
    pub(crate) first_layer: u64,
    pub(crate) last_layer: u64,
    /// Ids by the hour of their bucket, sorted.
    pub(crate) hours: Vec<(Hour, u64)>,
    /// Odd ids by the day of their arrival, sorted.
    pub(crate) odd_days: Vec<(i64, u64)>,
}

impl IdRunMeta {
    pub(crate) fn rows(&self) -> u64 {
        let hours: u64 = self.hours.iter().map(|&(_, rows)| rows).sum();
        hours + self.odd_rows()
    }

    pub(crate) fn odd_rows(&self) -> u64 {
        self.odd_days.iter().map(|&(_, rows)| rows).sum()
    }
}

/// A run of ids that is open for look-ups.
#[derive(Clone, Debug)]
pub(crate) struct IdRun {
    pub(crate) meta: IdRunMeta,
    pub(crate) run: Run,
}

/// Where rows of one kind lie in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Bucket(Bucket),
    OddDay(i64),
}

impl Group {
    pub(crate) fn of(bucket: Bucket, arrived: ReceiveTime) -> Self {
        match bucket {
            Bucket::ODD => Self::OddDay(arrived.ms().div_euclid(DAY_MS)),
            bucket => Self::Bucket(bucket),
        }
    }

    pub(crate) fn number(self) -> i64 {
        match self {
            Self::Bucket(bucket) => i64::from(bucket.number()),
            Self::OddDay(day) => ODD_BASE + day.clamp(0, ODD_END - ODD_BASE - 1),
        }
    }

    /// `None` for a number that no version of ours wrote.
    pub(crate) fn from_number(number: i64) -> Option<Self> {
        if (ODD_BASE..ODD_END).contains(&number) {
            return Some(Self::OddDay(number - ODD_BASE));
        }
        i32::try_from(number).ok().map(|number| Self::Bucket(Bucket::from_number(number)))
    }

    /// The bucket that ids of this group have.
    pub(crate) const fn bucket(self) -> Bucket {
        match self {
            Self::Bucket(bucket) => bucket,
            Self::OddDay(_) => Bucket::ODD,
        }
    }
}

/// True once every moment of that day is behind the horizon.
pub(crate) fn is_day_forgotten(day: i64, horizon: EventTime) -> bool {
    (day + 1).saturating_mul(DAY_MS) <= horizon.ms()
}

/// What is known of a run before its rows are.
#[derive(Clone, Debug)]
pub(crate) struct IdRunPlan {
    pub(crate) file: String,
    pub(crate) level: u8,
    pub(crate) first_layer: u64,
    pub(crate) last_layer: u64,
    pub(crate) rows: u64,
    pub(crate) odd_rows: u64,
}

/// Takes rows in the order of (group, fingerprint) and makes a run of them.
pub(crate) struct IdRunWriter<'d> {
    writer: RunWriter<'d>,
    meta: IdRunMeta,
    filter: Filter,
    odd_filter: Filter,
    group: i64,
    fingerprints: Vec<u8>,
    checks: Vec<u8>,
}

impl<'d> IdRunWriter<'d> {
    pub(crate) fn create(disk: &'d dyn Disk, plan: IdRunPlan) -> io::Result<Self> {
        Ok(Self {
            writer: RunWriter::create(disk, &plan.file, Kind::Ids)?,
            filter: Filter::for_keys(plan.rows.saturating_sub(plan.odd_rows), ORDINARY_BITS),
            odd_filter: Filter::for_keys(plan.odd_rows, ODD_BITS),
            meta: IdRunMeta {
                file: plan.file,
                level: plan.level,
                first_layer: plan.first_layer,
                last_layer: plan.last_layer,
                hours: Vec::new(),
                odd_days: Vec::new(),
            },
            group: i64::MIN,
            fingerprints: Vec::new(),
            checks: Vec::new(),
        })
    }

    pub(crate) fn push(&mut self, group: Group, fingerprint: u64, check: u8) -> io::Result<()> {
        let number = group.number();
        if number != self.group || self.checks.len() >= BLOCK_ROWS_MAX {
            self.flush()?;
            self.group = number;
        }
        match group {
            Group::Bucket(bucket) => {
                self.filter.insert(fingerprint);
                count(&mut self.meta.hours, bucket.hour().expect("the odd bucket is no group"));
            }
            Group::OddDay(day) => {
                self.odd_filter.insert(fingerprint);
                count(&mut self.meta.odd_days, day);
            }
        }
        self.fingerprints.extend_from_slice(&fingerprint.to_le_bytes());
        self.checks.push(check);
        Ok(())
    }

    pub(crate) fn finish(mut self) -> io::Result<IdRun> {
        self.flush()?;
        let run = self.writer.finish(self.filter, self.odd_filter)?;
        Ok(IdRun { meta: self.meta, run })
    }

    fn flush(&mut self) -> io::Result<()> {
        let rows = u32::try_from(self.checks.len()).expect("a block is small");
        if rows == 0 {
            return Ok(());
        }
        let first = le64(&self.fingerprints);
        self.fingerprints.append(&mut self.checks);
        self.writer.push(self.group, first, rows, &self.fingerprints)?;
        self.fingerprints.clear();
        Ok(())
    }
}

/// Writes the ids that one layer added; `None` when it added none.
pub(crate) fn write_layer(
    disk: &dyn Disk,
    file: String,
    layer: u64,
    sealed_at: ReceiveTime,
    keys: &[IdKey],
) -> io::Result<Option<IdRun>> {
    if keys.is_empty() {
        return Ok(None);
    }
    let row = |key: &IdKey| {
        let number = Group::of(key.filed(), sealed_at).number();
        packed(number, key.fingerprint.get(), key.check)
    };
    let mut rows: Vec<u128> = keys.iter().map(row).collect();
    rows.sort_unstable();
    let odd_rows = keys.iter().filter(|key| key.filed() == Bucket::ODD).count() as u64;
    let plan = IdRunPlan {
        file,
        level: 0,
        first_layer: layer,
        last_layer: layer,
        rows: rows.len() as u64,
        odd_rows,
    };
    let mut writer = IdRunWriter::create(disk, plan)?;
    for row in rows {
        let (number, fingerprint, check) = unpacked(row);
        let group = Group::from_number(number).expect("made above");
        writer.push(group, fingerprint, check)?;
    }
    writer.finish().map(Some)
}

/// A row as one number that sorts as (group, fingerprint, check) do: comparing those one after
/// the other took twice as long.
fn packed(group: i64, fingerprint: u64, check: u8) -> u128 {
    let group = u128::from((group - ODD_BASE).cast_unsigned());
    group << 72 | u128::from(fingerprint) << 8 | u128::from(check)
}

/// The row that [`packed`] made.
fn unpacked(row: u128) -> (i64, u64, u8) {
    let [check, a, b, c, d, e, f, g, h, group @ ..] = row.to_le_bytes();
    let fingerprint = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    let [i, j, k, l, m, n, o] = group;
    let group = u64::from_le_bytes([i, j, k, l, m, n, o, 0]);
    (group.cast_signed() + ODD_BASE, fingerprint, check)
}

/// The ids of one block, sorted by fingerprint; `None` where the length is wrong.
pub(crate) fn decode_block(payload: &[u8], rows: u32) -> Option<IdBlock<'_>> {
    let rows = usize::try_from(rows).ok()?;
    let split = rows.checked_mul(FINGERPRINT_BYTES)?;
    if payload.len() != split + rows {
        return None;
    }
    let (fingerprints, checks) = payload.split_at(split);
    Some(IdBlock { fingerprints: fingerprints.as_chunks().0, checks })
}

/// The ids of one block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdBlock<'a> {
    fingerprints: &'a [[u8; FINGERPRINT_BYTES]],
    checks: &'a [u8],
}

impl IdBlock<'_> {
    pub(crate) fn check_of(&self, fingerprint: u64) -> Option<u8> {
        let at = self.fingerprints.binary_search_by_key(&fingerprint, |&le| u64::from_le_bytes(le));
        at.ok().map(|index| self.checks[index])
    }

    pub(crate) fn rows(&self) -> Vec<(u64, u8)> {
        let fingerprints = self.fingerprints.iter().map(|&le| u64::from_le_bytes(le));
        fingerprints.zip(self.checks.iter().copied()).collect()
    }
}

fn count<K: PartialEq>(counts: &mut Vec<(K, u64)>, key: K) {
    match counts.last_mut() {
        Some((last, rows)) if *last == key => *rows += 1,
        _ => counts.push((key, 1)),
    }
}
