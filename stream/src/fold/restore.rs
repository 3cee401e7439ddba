//! The state as a checkpoint's manifest and files tell it.

use std::io;
use std::sync::Arc;

use nilometer_event::Offset;
use nilometer_log::Disk;

use super::words::LayerWords;
use super::{Named, Shard, Spare, State, ids_settings, sessions_settings};
use crate::cells::{Guard, Layer, Tallies};
use crate::checkpoint::{Manifest, StateRecord};
use crate::ids::{Ids, OnDamage, RecoverRunsError, RunDamaged};
use crate::sessions::Sessions;
use crate::view::{Facts, OpenLayer, Position, Positions};

/// What came of restoring a checkpoint.
#[derive(Debug)]
pub enum Restored {
    /// The state after the checkpoint's last entry.
    Good(Box<State>),
    /// A file is damaged; it was named in the log.
    Damaged,
    /// The disk refused: to be tried again.
    Refused {
        /// The file.
        path: String,
        /// What the disk says.
        source: io::Error,
    },
}

impl State {
    /// The state after the last entry of `manifest`. Under [`OnDamage::Close`] what is damaged
    /// closes its hours instead.
    #[must_use]
    pub fn restore(
        shard: Shard,
        manifest: &Manifest,
        named: Named,
        disk: &dyn Disk,
        on_damage: OnDamage,
    ) -> Restored {
        let guard = match restore_guard(manifest, disk, on_damage) {
            Ok(guard) => guard,
            Err(not_good) => return not_good,
        };
        let settings = &manifest.entry.settings;
        let ids = match Ids::recover(disk, &manifest.ids, ids_settings(&shard, settings), on_damage)
        {
            Ok((ids, damage)) => {
                damage.iter().for_each(name_damage);
                ids
            }
            Err(error) => return not_good(error),
        };
        let sessions = match Sessions::recover(
            disk,
            &manifest.sessions,
            sessions_settings(&shard, settings),
            on_damage,
        ) {
            Ok((sessions, damage)) => {
                damage.iter().for_each(name_damage);
                sessions
            }
            Err(error) => return not_good(error),
        };
        Restored::Good(Box::new(Self::assemble(shard, manifest, named, guard, ids, sessions)))
    }

    fn assemble(
        shard: Shard,
        manifest: &Manifest,
        named: Named,
        guard: Guard,
        ids: Ids,
        sessions: Sessions,
    ) -> Self {
        let StateRecord {
            birth,
            watermark,
            folded_to,
            counters,
            imported_at,
            corrected,
            unread,
            late,
            conflicts,
            over_quota,
        } = manifest.state.clone();
        let mut positions = Positions::default();
        let known = manifest.entry.ends.into_iter().zip(folded_to);
        for (position, (end, folded_to)) in positions.0.iter_mut().zip(known) {
            *position = Position { next: Offset::new(end), folded_to };
        }
        let number = manifest.layer.next();
        let layer = Layer::new(Arc::clone(&named.plan), number.get());
        let mut state = Self {
            shard,
            plan: named.plan,
            tables: named.tables,
            birth,
            watermark,
            positions,
            counters,
            imported_at,
            corrected: Arc::new(corrected),
            unread: Arc::new(unread),
            over_quota: Arc::new(over_quota),
            late: Arc::new(late),
            conflicts: Arc::new(conflicts),
            ids,
            sessions,
            tallies: Tallies::with_guard(guard),
            open: Arc::new(OpenLayer::new(number, layer, Facts::default())),
            words: LayerWords::default(),
            spare: Spare::default(),
            layer_seq_first: manifest.seq() + 1,
            guard_changes_kept: manifest.guard.len(),
            purging: None,
            last: Some(manifest.entry.clone()),
            #[cfg(feature = "mutants")]
            mutant: None,
        };
        state.name_session_dims();
        state.open_layer(number);
        state
    }
}

fn restore_guard(
    manifest: &Manifest,
    disk: &dyn Disk,
    on_damage: OnDamage,
) -> Result<Guard, Restored> {
    let mut changes = Vec::new();
    for file in &manifest.guard {
        let path = &file.path;
        match disk.read(path) {
            Ok(bytes) if crate::checkpoint::crc32c(&bytes) == file.crc => changes.push(bytes),
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Restored::Refused { path: path.clone(), source });
            }
            Ok(_) | Err(_) => {
                tracing::error!(%path, "file of the cardinality guard is corrupt");
                if on_damage == OnDamage::Refuse {
                    return Err(Restored::Damaged);
                }
            }
        }
    }
    Guard::restore(changes.iter().map(Vec::as_slice)).or_else(|error| {
        tracing::error!(%error, "files of the cardinality guard are corrupt");
        if on_damage == OnDamage::Refuse { Err(Restored::Damaged) } else { Ok(Guard::new()) }
    })
}

fn name_damage(damage: &RunDamaged) {
    tracing::error!(%damage, "state is corrupt");
}

fn not_good(error: RecoverRunsError) -> Restored {
    match error {
        RecoverRunsError::Damaged(damage) => {
            name_damage(&damage);
            Restored::Damaged
        }
        RecoverRunsError::Read(failed) => {
            Restored::Refused { path: failed.file, source: failed.source }
        }
    }
}
