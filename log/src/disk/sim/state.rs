//! What the simulated machine holds: in its cache, and on its platters.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;

use super::{CAPACITY_BYTES, Fault, FaultKind, Lie, Names, Op};
use crate::disk::parent;

/// A crash loses unsynced bytes in units of this (a disk's sector).
const SECTOR_BYTES: usize = 512;

#[derive(Debug)]
pub(super) struct State {
    pub(super) rng: fastrand::Rng,
    /// Handles of an older generation are stale.
    pub(super) generation: u64,
    pub(super) capacity: u64,
    pub(super) faults: Vec<Fault>,
    /// Failures in a million calls.
    pub(super) rates: BTreeMap<Op, u32>,
    pub(super) calls: BTreeMap<Op, u64>,
    /// Calls until the power fails.
    pub(super) calls_left: Option<u64>,
    pub(super) lie: Lie,
    /// As programs see it.
    pub(super) names: Names,
    dirs: BTreeSet<String>,
    /// As a crash leaves it, but for `unsynced`.
    durable_names: Names,
    durable_dirs: BTreeSet<String>,
    /// Changes of names since, oldest first.
    unsynced: Vec<NameChange>,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
}

#[derive(Clone, Debug)]
enum NameChange {
    Dir(String),
    Link(String, u64),
    Unlink(String),
    Rename { from: String, to: String, inode: u64 },
}

#[derive(Debug, Default)]
pub(super) struct Inode {
    /// As programs see it.
    pub(super) data: Vec<u8>,
    /// As a crash leaves it, but for a prefix of what follows in `data`.
    durable: Vec<u8>,
    /// The shortest that the file was since the last sync: a cut not yet durable.
    cut: Option<usize>,
    /// Dropped by a failed sync: never durable, whatever a later sync says.
    lost: Vec<Range<usize>>,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            generation: 0,
            capacity: CAPACITY_BYTES,
            faults: Vec::new(),
            rates: BTreeMap::new(),
            calls: BTreeMap::new(),
            calls_left: None,
            lie: Lie::Off,
            names: Names::new(),
            dirs: BTreeSet::from([String::new()]),
            durable_names: Names::new(),
            durable_dirs: BTreeSet::from([String::new()]),
            unsynced: Vec::new(),
            inodes: BTreeMap::new(),
            next_inode: 0,
        }
    }

    /// Counts a call; fails it where a fault says so.
    pub(super) fn enter(&mut self, op: Op) -> io::Result<()> {
        match self.fault(op) {
            None => Ok(()),
            Some(FaultKind::NoSpace) => Err(no_space()),
            Some(FaultKind::Error | FaultKind::Short) => Err(injected(op)),
        }
    }

    fn fault(&mut self, op: Op) -> Option<FaultKind> {
        *self.calls.entry(op).or_default() += 1;
        if let Some(left) = &mut self.calls_left {
            let Some(fewer) = left.checked_sub(1) else { return Some(FaultKind::Error) };
            *left = fewer;
        }
        let mut hit = None;
        for fault in self.faults.iter_mut().filter(|fault| fault.op == op) {
            if fault.after > 0 {
                fault.after -= 1;
            } else if hit.is_none() && fault.times > 0 {
                fault.times -= 1;
                hit = Some(fault.kind);
            }
        }
        self.faults.retain(|fault| fault.times > 0);
        let rate = self.rates.get(&op).copied().unwrap_or(0);
        if hit.is_none() && rate > 0 && self.rng.u32(0..1_000_000) < rate {
            hit = Some(if self.rng.bool() { FaultKind::Error } else { FaultKind::Short });
        }
        hit
    }

    pub(super) fn used(&self) -> u64 {
        self.inodes.values().map(|inode| inode.data.len() as u64).sum()
    }

    pub(super) fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.used())
    }

    pub(super) fn inode(&self, inode: u64) -> io::Result<&Inode> {
        self.inodes.get(&inode).ok_or_else(|| not_found("the file of this handle"))
    }

    fn inode_mut(&mut self, inode: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&inode).ok_or_else(|| not_found("the file of this handle"))
    }

    pub(super) fn find(&self, path: &str) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| not_found(path))
    }

    pub(super) fn len_of(&self, path: &str) -> Option<u64> {
        let inode = self.names.get(path)?;
        Some(self.inodes.get(inode)?.data.len() as u64)
    }

    pub(super) fn create(&mut self, path: &str) -> io::Result<u64> {
        check_path(path)?;
        if !self.dirs.contains(parent(path)) {
            return Err(not_found(parent(path)));
        }
        if let Some(&inode) = self.names.get(path) {
            self.truncate(inode, 0)?;
            return Ok(inode);
        }
        let inode = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(inode, Inode::default());
        self.change(NameChange::Link(path.to_owned(), inode));
        Ok(inode)
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        check_path(to)?;
        let inode = self.find(from)?;
        if !self.dirs.contains(parent(to)) {
            return Err(not_found(parent(to)));
        }
        self.change(NameChange::Rename { from: from.to_owned(), to: to.to_owned(), inode });
        self.collect();
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &str) -> io::Result<()> {
        let _inode = self.find(path)?;
        self.change(NameChange::Unlink(path.to_owned()));
        Ok(())
    }

    pub(super) fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        if !dir.is_empty() {
            check_path(dir)?;
        }
        let within = |path: &String| {
            (!path.is_empty() && parent(path) == dir)
                .then(|| path.rsplit('/').next().unwrap_or(path).to_owned())
        };
        let mut names: Vec<String> =
            self.names.keys().chain(&self.dirs).filter_map(within).collect();
        names.sort_unstable();
        Ok(names)
    }

    pub(super) fn create_dir_all(&mut self, dir: &str) -> io::Result<()> {
        check_path(dir)?;
        let ends = dir.match_indices('/').map(|(at, _)| at).chain([dir.len()]);
        for end in ends {
            if !self.dirs.contains(&dir[..end]) {
                self.change(NameChange::Dir(dir[..end].to_owned()));
            }
        }
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, dir: &str) -> io::Result<()> {
        if !self.dirs.contains(dir) {
            return Err(not_found(dir));
        }
        if self.lie == Lie::Off {
            let changes = std::mem::take(&mut self.unsynced);
            let (synced, rest) = changes.into_iter().partition(|change| change.touches(dir));
            self.unsynced = rest;
            self.make_durable(synced);
        }
        Ok(())
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names, &mut self.dirs);
        self.unsynced.push(change);
    }

    fn make_durable(&mut self, changes: Vec<NameChange>) {
        for change in changes {
            change.apply(&mut self.durable_names, &mut self.durable_dirs);
        }
        self.collect();
    }

    /// Frees what no name leads to any more, now or after a crash.
    fn collect(&mut self) {
        let unsynced = self.unsynced.iter().filter_map(NameChange::inode);
        let live: BTreeSet<u64> = self
            .names
            .values()
            .chain(self.durable_names.values())
            .copied()
            .chain(unsynced)
            .collect();
        self.inodes.retain(|inode, _| live.contains(inode));
    }

    pub(super) fn write(&mut self, inode: u64, bytes: &[u8]) -> io::Result<()> {
        let fault = self.fault(Op::Write);
        let room = usize::try_from(self.free()).unwrap_or(usize::MAX);
        let (kept, answer) = match fault {
            Some(FaultKind::Error) => (0, Err(injected(Op::Write))),
            Some(FaultKind::Short) => {
                (self.rng.usize(0..=bytes.len()).min(room), Err(injected(Op::Write)))
            }
            Some(FaultKind::NoSpace) => {
                (self.rng.usize(0..=bytes.len()).min(room), Err(no_space()))
            }
            None if room < bytes.len() => (room, Err(no_space())),
            None => (bytes.len(), Ok(())),
        };
        self.inode_mut(inode)?.data.extend_from_slice(&bytes[..kept]);
        answer
    }

    pub(super) fn truncate(&mut self, inode: u64, len: u64) -> io::Result<()> {
        let inode = self.inode_mut(inode)?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        if len < inode.data.len() {
            inode.cut = Some(inode.cut.map_or(len, |cut| cut.min(len)));
            inode.lost.retain_mut(|range| {
                range.end = range.end.min(len);
                range.start < range.end
            });
        }
        inode.data.resize(len, 0);
        Ok(())
    }

    pub(super) fn sync(&mut self, inode: u64) -> io::Result<()> {
        let fault = self.fault(Op::Sync);
        if self.calls_left == Some(0) && fault.is_some() {
            // Nothing was asked of the platters: the crash decides what survives.
            return Err(injected(Op::Sync));
        }
        let lie = self.lie;
        let inode = self.inode_mut(inode)?;
        match fault {
            Some(FaultKind::NoSpace) => {
                inode.drop_dirty();
                Err(no_space())
            }
            Some(FaultKind::Error | FaultKind::Short) => {
                inode.drop_dirty();
                Err(injected(Op::Sync))
            }
            None => {
                if lie == Lie::Off {
                    inode.sync();
                }
                Ok(())
            }
        }
    }

    pub(super) fn flip(&mut self, path: &str, offset: u64, bit: u8) {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let inode = self.names.get(path).and_then(|inode| self.inodes.get_mut(inode));
        let Some(inode) = inode.filter(|inode| at < inode.data.len()) else {
            panic!("no byte {offset} in {path}");
        };
        inode.data[at] ^= 1 << bit;
        if let Some(byte) = inode.durable.get_mut(at) {
            *byte ^= 1 << bit;
        }
    }

    pub(super) fn kill(&mut self) {
        self.generation += 1;
    }

    pub(super) fn crash(&mut self) {
        self.generation += 1;
        let mut changes = std::mem::take(&mut self.unsynced);
        // A journal keeps the order of changes: the first few survive.
        changes.truncate(self.rng.usize(0..=changes.len()));
        self.make_durable(changes);
        // A name whose folder did not survive is gone with it.
        let dirs = &self.durable_dirs;
        let stands = |path: &str| ancestors(path).all(|dir| dirs.contains(dir));
        self.durable_names.retain(|path, _| stands(path));
        let standing = dirs.iter().filter(|dir| stands(dir)).cloned().collect();
        self.durable_dirs = standing;
        self.names = self.durable_names.clone();
        self.dirs = self.durable_dirs.clone();
        self.collect();
        for inode in self.inodes.values_mut() {
            inode.crash(&mut self.rng);
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut Names, dirs: &mut BTreeSet<String>) {
        match self {
            Self::Dir(dir) => {
                dirs.insert(dir.clone());
            }
            Self::Link(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Self::Unlink(path) => {
                names.remove(path);
            }
            Self::Rename { from, to, inode } => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
    }

    fn touches(&self, dir: &str) -> bool {
        match self {
            Self::Dir(path) | Self::Link(path, _) | Self::Unlink(path) => parent(path) == dir,
            Self::Rename { from, to, .. } => parent(from) == dir || parent(to) == dir,
        }
    }

    const fn inode(&self) -> Option<u64> {
        match self {
            Self::Link(_, inode) | Self::Rename { inode, .. } => Some(*inode),
            Self::Dir(_) | Self::Unlink(_) => None,
        }
    }
}

impl Inode {
    /// How much of `durable` is still as `data` has it.
    fn clean(&self) -> usize {
        self.durable.len().min(self.cut.unwrap_or(usize::MAX))
    }

    fn sync(&mut self) {
        let clean = self.clean();
        self.durable.truncate(clean);
        self.durable.extend_from_slice(&self.data[clean..]);
        for range in &self.lost {
            self.durable[range.clone()].fill(0);
        }
        self.cut = None;
    }

    fn drop_dirty(&mut self) {
        let clean = self.clean();
        if clean < self.data.len() {
            self.lost.push(clean..self.data.len());
        }
    }

    fn crash(&mut self, rng: &mut fastrand::Rng) {
        // A cut that was not synced may have happened or not.
        if self.cut.is_some() && rng.bool() {
            self.data.clone_from(&self.durable);
        } else {
            let clean = self.clean();
            let kept = rng.usize(clean..=self.data.len());
            self.data.truncate(kept);
            for range in &self.lost {
                let end = range.end.min(kept);
                self.data[range.start.min(end)..end].fill(0);
            }
            if clean < kept && rng.u8(0..4) == 0 {
                let sector = rng.usize(clean..kept) / SECTOR_BYTES * SECTOR_BYTES;
                let end = (sector + SECTOR_BYTES).min(kept);
                self.data[sector.max(clean)..end].fill(0);
            }
        }
        self.durable.clone_from(&self.data);
        self.cut = None;
        self.lost.clear();
    }
}

/// Folders above `path`, the root included.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| (!path.is_empty()).then(|| parent(path))).skip(1)
}

/// As [`crate::RealDisk`] does: nothing leaves the root.
fn check_path(path: &str) -> io::Result<()> {
    let inside = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if inside {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("path {path:?} leaves the disk's root"),
    ))
}

fn not_found(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no such file or folder: {what:?}"))
}

fn no_space() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "no space left on the simulated disk")
}

fn injected(op: Op) -> io::Error {
    io::Error::other(format!("injected fault: {op:?}"))
}
