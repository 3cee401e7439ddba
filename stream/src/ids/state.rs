//! The ids of one shard: admits, seals, recovers.

use std::collections::{HashMap, HashSet};

use nilometer_event::{EventTime, Fingerprint, ReceiveTime, TimeCorrection};
use nilometer_log::{Disk, DiskFile};

use super::cold::{Answer, ColdIds, ColdLookups, Probe};
use super::damage::{MergeRunsError, OnDamage, RecoverRunsError, RunDamaged, RunReadFailed};
use super::heat::{Eviction, Heat, HeatLimits};
use super::hours::ClosedHours;
use super::key::{Bucket, BucketWidth, Hour, IdKey, Source};
use super::manifest::IdsManifest;
use super::merge::{IdsMerge, IdsMerged, choose, forgotten_rows};
use super::run::{Kind, Run, Unreadable};
use super::sealed::{IdsSealed, IdsWritten};
use super::sight::{IdSight, Sighting, groups_of};
use super::store::{Group, IdRun, IdRunMeta, decode_block, is_day_forgotten};

/// What an operator may choose about ids.
#[derive(Clone, Debug)]
pub struct IdsSettings {
    /// Folder of the run files on the disk port, such as `checkpoints/0/ids`.
    pub dir: String,
    /// Width of a bucket; only a new shard takes it.
    pub bucket_width: BucketWidth,
    /// How long after their layer's seal ids stay hot.
    pub hot_ms: i64,
    /// How many ids stay hot.
    pub hot_ids_max: u64,
    /// How far behind the watermark an hour is forgotten.
    pub horizon_ms: i64,
    /// Memory for the filters of cold runs; what finds no room is asked on disk.
    pub filter_bytes_max: usize,
}

impl IdsSettings {
    /// The defaults: 10 min, 2 h, 20 M ids, 90 days, 64 MiB.
    #[must_use]
    pub fn new(dir: impl Into<String>) -> Self {
        Self {
            dir: dir.into(),
            bucket_width: BucketWidth::DEFAULT,
            hot_ms: 2 * 3_600_000,
            hot_ids_max: 20_000_000,
            horizon_ms: 90 * 86_400_000,
            filter_bytes_max: 64 << 20,
        }
    }
}

/// What to do with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// First of its id: count it.
    New,
    /// Its id was counted: drop it.
    Duplicate {
        /// True where the same id came with other content.
        conflict: bool,
    },
    /// Nobody can tell any more: to `late-events`.
    Closed,
}

/// The ids of one shard.
#[derive(Debug)]
pub struct Ids {
    settings: IdsSettings,
    width: BucketWidth,
    closed: ClosedHours,
    heat: Heat,
    runs: Vec<IdRun>,
    /// Which runs hold cold ids of a bucket, as indices into `runs`.
    cold: HashMap<Bucket, Vec<usize>>,
    /// Which runs hold cold odd ids, with the numbers of their groups.
    cold_odd: Vec<(usize, Vec<i64>)>,
    odd_lost: Vec<i64>,
    added: Vec<IdKey>,
    /// Memory of the layer written last, for the one after the open one.
    spare: Vec<IdKey>,
    sealed: Option<u64>,
    merging: bool,
    next_merge: u64,
    unmergeable: HashSet<String>,
}

impl Ids {
    /// Of a new shard, created at `birth`.
    #[must_use]
    pub fn new(settings: IdsSettings, birth: EventTime) -> Self {
        let width = settings.bucket_width;
        let closed = ClosedHours::new(birth, birth.minus_ms(settings.horizon_ms));
        Self::with(settings, width, closed, Eviction::default())
    }

    fn with(
        settings: IdsSettings,
        width: BucketWidth,
        closed: ClosedHours,
        eviction: Eviction,
    ) -> Self {
        Self {
            settings,
            width,
            closed,
            heat: Heat::new(eviction),
            runs: Vec::new(),
            cold: HashMap::new(),
            cold_odd: Vec::new(),
            odd_lost: Vec::new(),
            added: Vec::new(),
            spare: Vec::new(),
            sealed: None,
            merging: false,
            next_merge: 0,
            unmergeable: HashSet::new(),
        }
    }

    /// As it was right after the seal whose manifest this is: what was hot is hot again.
    ///
    /// The second value names what was closed because of damage, under [`OnDamage::Close`].
    ///
    /// # Errors
    ///
    /// [`RecoverRunsError::Damaged`] under [`OnDamage::Refuse`]: try the manifest before, and
    /// when that is damaged too, this one with [`OnDamage::Close`]. [`RecoverRunsError::Read`]
    /// when the disk refuses: try again.
    pub fn recover(
        disk: &dyn Disk,
        manifest: &IdsManifest,
        settings: IdsSettings,
        on_damage: OnDamage,
    ) -> Result<(Self, Vec<RunDamaged>), RecoverRunsError> {
        let (closed, eviction) = (manifest.closed.clone(), manifest.eviction.clone());
        let mut ids = Self::with(settings, manifest.width, closed, eviction);
        ids.odd_lost.clone_from(&manifest.odd_lost);
        ids.next_merge = manifest.next_merge;
        let mut damage = Vec::new();
        let mut known = HashMap::new();
        for meta in &manifest.runs {
            let restored = ids.restore_run(disk, meta, &mut known, &mut damage);
            if let Err(error) = restored {
                let odd_days = meta.odd_days.iter().map(|&(day, _)| day);
                let hours = meta.hours.iter().map(|&(hour, _)| hour).collect();
                damage.push(ids.lose(meta, (hours, odd_days.collect()), error)?);
            }
            if let (OnDamage::Refuse, Some(first)) = (on_damage, damage.first()) {
                return Err(first.clone().into());
            }
        }
        ids.refresh();
        Ok((ids, damage))
    }

    /// Takes over the settings of the next entry: how long and how many ids stay hot, and how
    /// far behind the watermark an hour is forgotten. They act at the next seal.
    pub fn configure(&mut self, hot_ms: i64, hot_ids_max: u64, horizon_ms: i64) {
        self.settings.hot_ms = hot_ms;
        self.settings.hot_ids_max = hot_ids_max;
        self.settings.horizon_ms = horizon_ms;
    }

    /// Where an event's id is asked for: by its timestamp as sent, so that a copy is found by the
    /// same, whatever our clock says then. Oddly where that lay in the future.
    #[must_use]
    pub fn bucket_of(&self, sent: EventTime, correction: TimeCorrection) -> Bucket {
        Bucket::of(sent, correction, self.width)
    }

    /// Where the id of a copy may lie: in its bucket, or with the odd ones.
    pub(crate) fn buckets_of(&self, sent: EventTime, correction: TimeCorrection) -> [Bucket; 2] {
        let bucket = self.bucket_of(sent, correction);
        match correction {
            TimeCorrection::ByOffset if self.is_closed(bucket) => [Bucket::ODD; 2],
            TimeCorrection::ByOffset => [bucket, Bucket::ODD],
            _ => [bucket; 2],
        }
    }

    /// True where an event goes to `late-events` for its age, without asking for its id: live
    /// events behind the horizon, and what falls in a closed hour.
    ///
    /// `sent` is the timestamp that decides the bucket; of a corrected event, the corrected one.
    #[must_use]
    pub fn is_forgotten(&self, sent: EventTime, source: Source) -> bool {
        self.closed.is_forgotten(sent, source)
    }

    /// The hours that take no event.
    #[must_use]
    pub const fn closed_hours(&self) -> &ClosedHours {
        &self.closed
    }

    /// What has to be read before these ids, the next entry's, can be admitted.
    #[must_use]
    pub fn plan_lookups(&self, keys: impl IntoIterator<Item = IdKey>) -> ColdLookups {
        let mut lookups = ColdLookups::default();
        if self.cold.is_empty() && self.cold_odd.is_empty() {
            return lookups;
        }
        let mut last: Option<(Bucket, &[usize])> = None;
        for key in keys {
            let of_bucket = match last {
                Some((bucket, runs)) if bucket == key.bucket => runs,
                _ => self.cold.get(&key.bucket).map_or(&[][..], Vec::as_slice),
            };
            last = Some((key.bucket, of_bucket));
            let may_be_cold = !of_bucket.is_empty() || !self.cold_odd.is_empty();
            if may_be_cold
                && !self.is_key_closed(key)
                && self.heat.find(key.fingerprint.get()).is_none()
            {
                self.probe(key, of_bucket, &mut lookups.probes);
            }
        }
        if !lookups.probes.is_empty() {
            lookups.runs = self.runs.iter().map(|run| run.run.clone()).collect();
        }
        lookups
    }

    /// Reads what admitting these ids will read, and does nothing with it: the reads overlap,
    /// which they do not once each waits for the one before.
    pub fn warm<'a>(&self, keys: impl Iterator<Item = &'a IdKey>) {
        keys.for_each(|key| self.heat.table.warm(key.fingerprint.get()));
    }

    /// Closes the hours of what a look-up found damaged; call it once, before the entry's ids
    /// are admitted.
    pub fn close_damaged(&mut self, cold: &ColdIds) {
        for hour in cold.damage().iter().flat_map(|damage| &damage.hours) {
            self.closed.close(*hour);
        }
    }

    /// Decides about one event, in the entry's order; `cold` answers the entry's look-ups.
    pub fn admit(&mut self, key: IdKey, cold: &ColdIds) -> Verdict {
        if self.is_key_closed(key) {
            return Verdict::Closed;
        }
        let fingerprint = key.fingerprint.get();
        if let Some(check) = self.heat.find(fingerprint) {
            return Verdict::Duplicate { conflict: check != key.check };
        }
        match cold.of(key) {
            Some(Answer::Found(check) | Answer::FoundOdd(check)) => {
                Verdict::Duplicate { conflict: check != key.check }
            }
            Some(Answer::Unreadable) => Verdict::Closed,
            None if key.filed() == Bucket::ODD && !self.odd_lost.is_empty() => Verdict::Closed,
            None => {
                self.heat.insert(fingerprint, key.check, key.filed());
                self.added.push(key);
                Verdict::New
            }
        }
    }

    /// Whether [`Self::admit`] would call the id a repeat; changes nothing.
    pub(crate) fn holds(&self, key: IdKey, cold: &ColdIds) -> bool {
        let is_cold = || matches!(cold.of(key), Some(Answer::Found(_) | Answer::FoundOdd(_)));
        self.heat.find(key.fingerprint.get()).is_some() || is_cold()
    }

    /// Where an id lies that may have counted in these buckets; `open` is the open layer.
    #[must_use]
    pub fn sight(&self, fingerprint: Fingerprint, buckets: &[Bucket], open: u64) -> IdSight {
        let hash = fingerprint.get();
        let hot = self.heat.place_of(hash).map(|(layer, bucket)| {
            let layer = layer.unwrap_or(open);
            Sighting { bucket, first: layer, last: layer }
        });
        let mut unknown = Vec::new();
        let mut probes = Vec::new();
        for &bucket in buckets {
            if self.is_closed(bucket) || (bucket == Bucket::ODD && !self.odd_lost.is_empty()) {
                unknown.push(bucket);
            }
            for IdRun { meta, run } in &self.runs {
                let (first, last) = (meta.first_layer, meta.last_layer);
                let sighting = Sighting { bucket: Some(bucket), first, last };
                let blocks = groups_of(run, bucket).into_iter();
                let blocks = blocks.filter_map(|group| run.find(group, hash));
                probes.extend(blocks.map(|block| (run.clone(), block, sighting)));
            }
        }
        IdSight { fingerprint, hot, unknown, probes }
    }

    /// Closes the open layer: its ids are to be written, older ones may go cold, and hours past
    /// the horizon are forgotten.
    ///
    /// Cold go, of layers before this one: layers sealed more than `hot_ms` of `now` ago; and,
    /// while there are more hot ids than `hot_ids_max` (or more than 16,384 pairs of bucket and
    /// layer), the oldest buckets, the odd one first, and of a bucket the oldest layers first. A
    /// layer's buckets past its first 16,384 go at the next seal.
    ///
    /// # Panics
    ///
    /// When the layer before was not [`Ids::installed`]: its ids would be nowhere.
    pub fn seal(&mut self, layer: u64, now: ReceiveTime, watermark: EventTime) -> IdsSealed {
        assert!(self.sealed.is_none(), "I1: layer {:?} was sealed but not installed", self.sealed);
        self.sealed = Some(layer);
        self.closed.forget_before(watermark.minus_ms(self.settings.horizon_ms));
        let limits =
            HeatLimits { hot_ms: self.settings.hot_ms, ids_max: self.settings.hot_ids_max };
        self.heat.seal(layer, now, limits);
        let (closed, horizon) = (&self.closed, self.closed.horizon());
        self.odd_lost.retain(|&day| !is_day_forgotten(day, horizon));
        self.runs.retain(|run| forgotten_rows(&run.meta, closed) < run.meta.rows());
        self.refresh();
        IdsSealed {
            layer,
            sealed_at: now,
            file: format!("{}/{layer:020}.ids", self.settings.dir),
            keys: std::mem::replace(&mut self.added, std::mem::take(&mut self.spare)),
            manifest: self.manifest(),
        }
    }

    /// Takes the layer's run into use, before the next seal.
    ///
    /// # Panics
    ///
    /// When another layer is awaited.
    pub fn installed(&mut self, written: IdsWritten) {
        assert!(self.sealed == Some(written.layer), "I1: layer {} was not sealed", written.layer);
        self.sealed = None;
        self.spare = written.spare;
        self.runs.extend(written.run);
        self.refresh();
    }

    /// Runs to merge, if any are worth it and no merge is under way.
    pub fn plan_merge(&mut self) -> Option<IdsMerge> {
        if self.merging {
            return None;
        }
        let mergeable: Vec<&IdRun> = self
            .runs
            .iter()
            .filter(|run| !self.unmergeable.contains(&run.meta.file) && self.is_cold(run))
            .collect();
        let (inputs, level) = choose(&mergeable, &self.closed)?;
        let inputs: Vec<IdRun> = inputs.into_iter().cloned().collect();
        let first = inputs.iter().map(|run| run.meta.first_layer).min()?;
        let file = format!("{}/{first:020}-{:010}.ids", self.settings.dir, self.next_merge);
        self.next_merge += 1;
        self.merging = true;
        Some(IdsMerge { inputs, file, level, closed: self.closed.clone() })
    }

    /// Takes a merged run into use in place of its inputs; any time between two entries.
    ///
    /// The inputs' files stay needed while a kept manifest lists them.
    pub fn merged(&mut self, merged: IdsMerged) {
        self.merging = false;
        let known = |file: &String| self.runs.iter().any(|run| run.meta.file == *file);
        if !merged.inputs.iter().all(known) {
            // An input was forgotten meanwhile; the others still answer for themselves.
            return;
        }
        self.runs.retain(|run| !merged.inputs.contains(&run.meta.file));
        self.runs.extend(merged.output);
        self.refresh();
    }

    /// Gives up the merge under way; a damaged input is left out of later ones.
    pub fn merge_failed(&mut self, error: &MergeRunsError) {
        self.merging = false;
        if let MergeRunsError::Damaged { file, .. } = error {
            self.unmergeable.insert(file.clone());
        }
    }

    /// How many ids are hot.
    #[must_use]
    pub fn hot_len(&self) -> u64 {
        self.heat.len()
    }

    /// The run files in use.
    #[must_use]
    pub fn files(&self) -> Vec<&str> {
        self.runs.iter().map(|run| run.meta.file.as_str()).collect()
    }

    /// How many run files are in use.
    #[must_use]
    pub const fn runs_len(&self) -> usize {
        self.runs.len()
    }

    /// Memory of the hot table, the open layer's ids, indices and filters.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let runs: usize = self.runs.iter().map(|run| run.run.memory_bytes()).sum();
        let added = self.added.capacity() + self.spare.capacity();
        self.heat.table.memory_bytes() + added * size_of::<IdKey>() + runs
    }

    fn manifest(&self) -> IdsManifest {
        IdsManifest {
            width: self.width,
            closed: self.closed.clone(),
            eviction: self.heat.eviction.clone(),
            odd_lost: self.odd_lost.clone(),
            next_merge: self.next_merge,
            runs: self.runs.iter().map(|run| run.meta.clone()).collect(),
        }
    }

    fn is_closed(&self, bucket: Bucket) -> bool {
        bucket.hour().is_some_and(|hour| self.closed.is_closed(hour))
    }

    /// Whether nobody can tell any more whether the id was counted.
    fn is_key_closed(&self, key: IdKey) -> bool {
        let is_lost = |hour: Hour| key.by_arrival && self.closed.is_lost(hour);
        self.is_closed(key.filed()) || key.bucket.hour().is_some_and(is_lost)
    }

    fn probe(&self, key: IdKey, of_bucket: &[usize], probes: &mut Vec<Probe>) {
        let hash = key.fingerprint.get();
        let mut push = |run: usize, group: i64| {
            let block = self.runs[run].run.find(group, hash);
            probes.extend(block.map(|block| Probe {
                run,
                block,
                fingerprint: key.fingerprint,
                asked: key.bucket,
            }));
        };
        for &run in of_bucket {
            if self.runs[run].run.filter.as_ref().is_none_or(|filter| filter.may_hold(hash)) {
                push(run, i64::from(key.bucket.number()));
            }
        }
        for (run, groups) in &self.cold_odd {
            let filter = &self.runs[*run].run.odd_filter;
            if filter.as_ref().is_none_or(|filter| filter.may_hold(hash)) {
                groups.iter().for_each(|&group| push(*run, group));
            }
        }
    }

    /// True where nothing of the run is hot any more; merged runs are cold entirely.
    fn is_cold(&self, run: &IdRun) -> bool {
        let groups = run.run.groups();
        let mut groups = groups.iter().map(|&(number, _)| known_group(number));
        let is_hot = |group: Group| self.heat.eviction.is_hot(run.meta.last_layer, group.bucket());
        run.meta.level > 0 || !groups.any(is_hot)
    }

    /// Finds out anew which runs hold what cold, and gives filters the memory there is.
    fn refresh(&mut self) {
        self.cold.clear();
        self.cold_odd.clear();
        let horizon = self.closed.horizon();
        for (index, run) in self.runs.iter().enumerate() {
            let mut odd = Vec::new();
            for (number, _) in run.run.groups() {
                let group = known_group(number);
                let bucket = group.bucket();
                let is_hot =
                    run.meta.level == 0 && self.heat.eviction.is_hot(run.meta.last_layer, bucket);
                match group {
                    _ if is_hot => {}
                    Group::OddDay(day) if is_day_forgotten(day, horizon) => {}
                    Group::OddDay(_) => odd.push(number),
                    Group::Bucket(_) if self.is_closed(bucket) => {}
                    Group::Bucket(_) => self.cold.entry(bucket).or_default().push(index),
                }
            }
            if !odd.is_empty() {
                self.cold_odd.push((index, odd));
            }
        }
        self.bound_filters();
    }

    /// Odd filters first, which every look-up asks; then those of the newest layers.
    fn bound_filters(&mut self) {
        let mut left = self.settings.filter_bytes_max;
        for run in &mut self.runs {
            keep_within(&mut run.run.odd_filter, &mut left);
        }
        let mut newest: Vec<&mut IdRun> = self.runs.iter_mut().collect();
        newest.sort_by_key(|run| std::cmp::Reverse(run.meta.last_layer));
        for run in newest {
            keep_within(&mut run.run.filter, &mut left);
        }
    }

    fn restore_run(
        &mut self,
        disk: &dyn Disk,
        meta: &IdRunMeta,
        known: &mut HashMap<(u64, Option<Bucket>), super::tags::Tag>,
        damage: &mut Vec<RunDamaged>,
    ) -> Result<(), Unreadable> {
        let run = Run::open(disk, &meta.file, Kind::Ids)?;
        let handle = disk.open_read(&meta.file)?;
        for (index, block) in run.blocks.iter().enumerate() {
            let group = Group::from_number(block.group)
                .ok_or_else(|| Unreadable::Damaged("a group is not of this version".to_owned()))?;
            let bucket = group.bucket();
            if meta.level > 0 || !self.heat.eviction.is_hot(meta.last_layer, bucket) {
                continue;
            }
            match read_rows(&run, &*handle, index) {
                Ok(rows) => self.heat.restore(known, (meta.last_layer, bucket), &rows),
                Err(Unreadable::Io(error)) => return Err(Unreadable::Io(error)),
                Err(error) => match self.lose(meta, reach_of(group), error) {
                    Ok(lost) => damage.push(lost),
                    Err(failed) => return Err(Unreadable::Io(failed.source)),
                },
            }
        }
        self.runs.push(IdRun { meta: meta.clone(), run });
        Ok(())
    }

    /// Closes what lay in these hours and odd days.
    fn lose(
        &mut self,
        meta: &IdRunMeta,
        (hours, odd_days): (Vec<Hour>, Vec<i64>),
        error: Unreadable,
    ) -> Result<RunDamaged, RunReadFailed> {
        let file = meta.file.clone();
        let reason = match error {
            Unreadable::Io(source) => return Err(RunReadFailed { file, source }),
            Unreadable::Damaged(reason) => reason,
        };
        hours.iter().for_each(|&hour| self.closed.close(hour));
        let odd = !odd_days.is_empty();
        self.odd_lost.extend(odd_days);
        Ok(RunDamaged { file, hours, odd, reason })
    }
}

/// A group of a run that is in use.
///
/// # Panics
///
/// Of a number that no version of ours wrote: such a run is not taken into use.
fn known_group(number: i64) -> Group {
    Group::from_number(number).expect("I3: the groups of a run in use are known")
}

/// The hour or the odd day of a group.
fn reach_of(group: Group) -> (Vec<Hour>, Vec<i64>) {
    match group {
        Group::Bucket(bucket) => (bucket.hour().into_iter().collect(), Vec::new()),
        Group::OddDay(day) => (Vec::new(), vec![day]),
    }
}

fn read_rows(run: &Run, handle: &dyn DiskFile, index: usize) -> Result<Vec<(u64, u8)>, Unreadable> {
    let payload = run.read_block(handle, index)?;
    decode_block(&payload, run.blocks[index].rows)
        .map(|block| block.rows())
        .ok_or_else(|| Unreadable::Damaged("a block is cut".to_owned()))
}

fn keep_within(filter: &mut Option<std::sync::Arc<super::filter::Filter>>, left: &mut usize) {
    let bytes = filter.as_ref().map_or(0, |filter| filter.bytes());
    if bytes <= *left { *left -= bytes } else { *filter = None }
}
