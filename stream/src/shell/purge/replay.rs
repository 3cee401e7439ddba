//! A shard's journal once more, without what purges take, into files of its own.

use std::sync::Arc;

use nilometer_event::Topic;
use nilometer_log::create_dir_durably;

use super::reach::{Begin, Taking, marks, read};
use super::{PurgeError, Scratch};
use crate::cells::{Guard, LayerFile, write_layer};
use crate::checkpoint::{FileRef, LayerRef, folder, windows_of};
use crate::fold::{Named, Purging, Sealed, Shard, State, day_of};
use crate::journal::{Reader, Replayed};
use crate::shell::ShellConfig;

/// Users of purged events that are remembered at once: 320 MB.
pub(super) const USERS_MAX: usize = 20_000_000;

/// A replay under way.
pub(super) struct Replay<'a> {
    config: &'a ShellConfig,
    scratch: &'a Scratch<'a>,
    pub(super) state: State,
}

impl<'a> Replay<'a> {
    /// Begins behind `begin`; `guard` is the shard's own.
    pub(super) fn begin(
        config: &'a ShellConfig,
        scratch: &'a Scratch<'a>,
        begin: &Begin,
        (takings, guard): (&[Taking], &Guard),
    ) -> Result<Self, PurgeError> {
        let partition = config.partition;
        let first_day = day_of(begin.from);
        // Days that are not replayed whole are as the shard knows them.
        let bytes = guard.snapshot_of(|day| begin.seq > 0 && day <= first_day);
        let guard =
            Guard::restore([bytes.as_slice()]).map_err(|error| PurgeError::Guard { error })?;
        let days: Vec<i64> = takings.iter().map(|taking| taking.day).collect();
        let dir = folder(partition);
        let birth = begin.from;
        let filter_bytes_max =
            usize::try_from(config.settings.filter_bytes_max).unwrap_or(usize::MAX);
        let shard = Shard { partition, identity: config.identity.clone(), filter_bytes_max };
        let plan = Arc::clone(config.plans.current());
        let purging = Purging::new(&days, &dir, birth);
        for number in 0..days.len() {
            scratch.create(&format!("{dir}/purge-{number}"))?;
        }
        for folder in [
            crate::checkpoint::ids_folder(partition),
            crate::checkpoint::sessions_folder(partition),
        ] {
            scratch.create(&folder)?;
        }
        let state = State::replaying(shard, plan, guard, begin.ends, purging);
        Ok(Self { config, scratch, state })
    }

    /// Folds the journal to entry `last`, and seals.
    pub(super) fn run(
        mut self,
        begin: &Begin,
        takings: &[Taking],
        last: u64,
    ) -> Result<State, PurgeError> {
        let (log, partition) = (self.config.log.as_ref(), self.config.partition);
        let start = log.bounds(Topic::Journal, partition).start;
        let mut reader = Reader::new(log, partition, start, begin.seq);
        let mut seq = begin.seq;
        while let Some(replayed) = reader.next_entry()? {
            if replayed.entry.seq > last {
                break;
            }
            if replayed.entry.seq != seq + 1 {
                return Err(PurgeError::Journal { partition, seq: seq + 1 });
            }
            seq = replayed.entry.seq;
            self.enter(replayed, takings, last)?;
        }
        if seq != last {
            return Err(PurgeError::Journal { partition, seq: seq + 1 });
        }
        Ok(self.state)
    }

    fn enter(
        &mut self,
        Replayed { mut entry, .. }: Replayed,
        takings: &[Taking],
        last: u64,
    ) -> Result<(), PurgeError> {
        let ShellConfig { log, partition, plans, tables, .. } = self.config;
        let disk = self.scratch.disk.as_ref();
        entry.seal |= entry.seq == last;
        let plan = plans.load(entry.plan)?;
        let named = Named { plan, tables: tables.load(entry.dims)? };
        let positions = self.state.next_offsets();
        let records = read(log.as_ref(), *partition, positions, entry.ends)?;
        let folded = records.len();
        if let Some(closed) = self.state.begin(&entry, named) {
            self.write(closed)?;
        }
        let prepared = self.state.prepare(&records);
        let cold = prepared.fetch(disk)?;
        self.state.mark(&prepared, marks(&records, takings), &entry, disk)?;
        let effects = self.state.enter(&entry, &prepared, &cold);
        self.state.recycle(prepared);
        if let Some(sealed) = effects.sealed {
            self.write(sealed)?;
        }
        if self.state.purging().users.len() > USERS_MAX {
            return Err(PurgeError::Users);
        }
        self.scratch.folded(folded);
        Ok(())
    }

    /// Writes what was sealed beside the shard's own files.
    fn write(&mut self, sealed: Sealed) -> Result<(), PurgeError> {
        let disk = self.scratch.disk.as_ref();
        let at = |source| PurgeError::scratch(source);
        self.state.seal_purged(&sealed, disk).map_err(at)?;
        let ids = sealed.ids.write(disk).map_err(at)?;
        let sessions = sealed.sessions.write(disk).map_err(at)?;
        self.state.ids_mut().installed(ids);
        self.state.sessions_mut().installed(sessions);
        if let Some(merge) = self.state.ids_mut().plan_merge() {
            let merged = merge.run(disk)?;
            self.state.ids_mut().merged(merged);
        }
        if let Some(merge) = self.state.sessions_mut().plan_merge() {
            let merged = merge.run(disk)?;
            self.state.sessions_mut().merged(merged);
        }
        self.offer(&sealed)
    }

    fn offer(&self, sealed: &Sealed) -> Result<(), PurgeError> {
        let (disk, partition) = (self.scratch.disk.as_ref(), self.config.partition);
        let open = sealed.layer.read();
        if open.layer.is_empty() {
            return Ok(());
        }
        let layer = sealed.layer.number();
        let path = format!("{}/layer-{:020}", folder(partition), layer.get());
        let at = |error: &dyn std::fmt::Display| {
            PurgeError::scratch(std::io::Error::other(error.to_string()))
        };
        write_layer(disk, &path, &open.layer).map_err(|error| at(&error))?;
        let written = LayerFile::open(disk, &path).map_err(|error| at(&error))?;
        let of = LayerRef {
            layer,
            seq_first: sealed.seq_first,
            seq_last: sealed.entry.seq,
            plan: sealed.plan.id,
            file: FileRef { path, bytes: 0, crc: 0 },
            windows: windows_of(&written),
        };
        self.scratch.sink.adopt(of.sealed(partition));
        Ok(())
    }
}

impl Scratch<'_> {
    fn create(&self, folder: &str) -> Result<(), PurgeError> {
        create_dir_durably(self.disk.as_ref(), folder).map_err(PurgeError::scratch)
    }
}
