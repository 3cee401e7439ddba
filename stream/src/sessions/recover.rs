//! The sessions as they were right after a seal: the open ones hot, the others cold.

use nilometer_log::Disk;

use super::block::{StoredBlock, StoredRow};
use super::cold::hours_of;
use super::manifest::SessionsManifest;
use super::session::State;
use super::shelf::Shelf;
use super::state::{Sessions, SessionsSettings};
use super::store::{SessionRun, SessionRunMeta, read_rows};
use crate::ids::run::{Kind, Run, Unreadable};
use crate::ids::{OnDamage, RecoverRunsError, RunDamaged, RunReadFailed};

impl Sessions {
    /// As it was right after the seal whose manifest this is, but for where sessions lie.
    ///
    /// The second value names what was lost because of damage, under [`OnDamage::Close`]. Call
    /// [`Self::set_dimensions`] before the first entry.
    ///
    /// # Errors
    ///
    /// [`RecoverRunsError::Damaged`] under [`OnDamage::Refuse`]: try the manifest before, and
    /// when that is damaged too, this one with [`OnDamage::Close`]. [`RecoverRunsError::Read`]
    /// when the disk refuses: try again.
    pub fn recover(
        disk: &dyn Disk,
        manifest: &SessionsManifest,
        settings: SessionsSettings,
        on_damage: OnDamage,
    ) -> Result<(Self, Vec<RunDamaged>), RecoverRunsError> {
        let mut sessions = Self::new(settings, nilometer_event::EventTime::MIN);
        sessions.closed.clone_from(&manifest.closed);
        sessions.watermark = manifest.watermark;
        sessions.open.evicted.clone_from(&manifest.evicted_open);
        sessions.lost.clone_from(&manifest.lost);
        sessions.unrevised = manifest.unrevised;
        sessions.next_merge = manifest.next_merge;
        let ended = manifest.watermark.minus_ms(sessions.settings.gap_ms);
        sessions.evicted_latest = manifest.evicted_latest.max(ended);
        let mut damage = Vec::new();
        let mut newest_first: Vec<&SessionRunMeta> = manifest.runs.iter().collect();
        newest_first.sort_by_key(|meta| std::cmp::Reverse(meta.last_layer));
        for meta in newest_first {
            if let Err(error) = sessions.restore_run(disk, meta, &mut damage) {
                damage.push(sessions.lose(meta, &meta.groups, error)?);
            }
            if let (OnDamage::Refuse, Some(first)) = (on_damage, damage.first()) {
                return Err(first.clone().into());
            }
        }
        sessions.runs.reverse();
        sessions.refresh();
        Ok((sessions, damage))
    }

    fn restore_run(
        &mut self,
        disk: &dyn Disk,
        meta: &SessionRunMeta,
        damage: &mut Vec<RunDamaged>,
    ) -> Result<(), Unreadable> {
        let run = Run::open(disk, &meta.file, Kind::Sessions)?;
        let handle = disk.open_read(&meta.file)?;
        let ended = self.watermark.minus_ms(self.settings.gap_ms);
        for (index, block) in run.blocks.iter().enumerate() {
            let shelf = Shelf::from_group(block.group)
                .ok_or_else(|| Unreadable::Damaged("a shelf is not of this version".to_owned()))?;
            if meta.latest < ended || shelf.hours().1 < crate::ids::Hour::of(ended) {
                continue;
            }
            match read_rows(&run, &*handle, index) {
                Ok(block) => {
                    block.rows().iter().for_each(|row| self.restore(&block, row));
                }
                Err(Unreadable::Io(error)) => return Err(Unreadable::Io(error)),
                Err(error) => match self.lose(meta, &[block.group], error) {
                    Ok(lost) => damage.push(lost),
                    Err(failed) => return Err(Unreadable::Io(failed.source)),
                },
            }
        }
        self.runs.push(SessionRun { meta: meta.clone(), run });
        Ok(())
    }

    /// Makes a state hot if it is open and the newest of its session.
    fn restore(&mut self, block: &StoredBlock, row: &StoredRow) {
        let stored = row.core;
        if stored.last.plus_ms(self.settings.gap_ms) < self.watermark {
            return;
        }
        let older: Vec<(u32, u64)> = self
            .hot
            .of_user(stored.user, (stored.first, stored.last))
            .map(|(slot, hot)| (slot, hot.seq))
            .collect();
        if older.iter().any(|&(_, seq)| seq >= stored.seq) {
            return;
        }
        for (slot, _) in older {
            self.open.unlist(slot);
            self.hot.remove(slot);
        }
        if self.hot.len() < self.len_max() {
            let state = State::from_stored(&block.stored(row), &mut self.words);
            let slot = self.hot.insert(state);
            self.open.list(slot, stored.first);
        } else {
            self.open.evict_open((stored.first, stored.last));
            self.evicted_latest = self.evicted_latest.max(stored.last);
        }
    }

    fn lose(
        &mut self,
        meta: &SessionRunMeta,
        groups: &[i64],
        error: Unreadable,
    ) -> Result<RunDamaged, RunReadFailed> {
        let file = meta.file.clone();
        let reason = match error {
            Unreadable::Io(source) => return Err(RunReadFailed { file, source }),
            Unreadable::Damaged(reason) => reason,
        };
        self.lost.extend(groups);
        self.evicted_latest = self.evicted_latest.max(meta.latest);
        let mut hours: Vec<_> = groups.iter().flat_map(|&group| hours_of(group)).collect();
        hours.sort_unstable();
        hours.dedup();
        Ok(RunDamaged { file, hours, odd: false, reason })
    }
}
