//! A disk in memory that forgets what was not synced, and fails when told to.
//!
//! The same seed and the same calls give the same disk, crash by crash. Where several threads
//! use it, the order of their calls decides.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::{Disk, DiskFile};

mod state;
use state::State;

/// Size of a disk that nobody has limited.
pub const CAPACITY_BYTES: u64 = 1 << 40;

/// A kind of call to a [`SimDisk`], to be failed or counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// [`Disk::create`].
    Create,
    /// [`Disk::open_append`].
    OpenAppend,
    /// [`Disk::open_read`].
    OpenRead,
    /// [`Disk::read`] and [`DiskFile::read_at`].
    Read,
    /// [`DiskFile::write_all`].
    Write,
    /// [`DiskFile::sync`].
    Sync,
    /// [`DiskFile::truncate`].
    Truncate,
    /// [`Disk::rename`].
    Rename,
    /// [`Disk::remove`].
    Remove,
    /// [`Disk::list`].
    List,
    /// [`Disk::create_dir_all`].
    CreateDir,
    /// [`Disk::sync_dir`].
    SyncDir,
}

impl Op {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::Create,
        Self::OpenAppend,
        Self::OpenRead,
        Self::Read,
        Self::Write,
        Self::Sync,
        Self::Truncate,
        Self::Rename,
        Self::Remove,
        Self::List,
        Self::CreateDir,
        Self::SyncDir,
    ];
}

/// What an injected failure looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The call fails and does nothing. A sync drops the unsynced bytes, as Linux does: they
    /// can still be read, and no later sync makes them durable.
    Error,
    /// A write leaves part of its bytes behind, then fails; other calls fail.
    Short,
    /// The disk says that it is full; a write leaves part of its bytes behind.
    NoSpace,
}

/// A failure to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which kind of call.
    pub op: Op,
    /// How many such calls still succeed first.
    pub after: u64,
    /// How it fails.
    pub kind: FaultKind,
    /// How many calls fail in a row; `u64::MAX` for ever.
    pub times: u64,
}

impl Fault {
    /// The next call of that kind fails, once.
    #[must_use]
    pub const fn next(op: Op) -> Self {
        Self { op, after: 0, kind: FaultKind::Error, times: 1 }
    }

    /// Lets `calls` succeed first.
    #[must_use]
    pub const fn after(self, calls: u64) -> Self {
        Self { after: calls, ..self }
    }

    /// Fails in another way.
    #[must_use]
    pub const fn kind(self, kind: FaultKind) -> Self {
        Self { kind, ..self }
    }

    /// Fails until [`SimDisk::heal`].
    #[must_use]
    pub const fn for_ever(self) -> Self {
        Self { times: u64::MAX, ..self }
    }
}

/// A disk in memory that forgets what was not synced. Clones share one disk.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    /// An empty disk; the seed decides what crashes leave and which calls a rate fails.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State::new(seed))))
    }

    /// The machine loses power: of every unsynced tail a prefix survives, perhaps torn within;
    /// of the unsynced creations, renamings and removals the first few do. Handles opened
    /// before fail from now on.
    pub fn crash(&self) {
        self.0.lock().crash();
    }

    /// The process dies: nothing is lost, but handles opened before fail from now on.
    pub fn kill(&self) {
        self.0.lock().kill();
    }

    /// Adds a failure to come.
    pub fn fail_next(&self, fault: Fault) {
        self.0.lock().faults.push(fault);
    }

    /// Fails calls of one kind at random, so many in a million; 0 ends it.
    pub fn set_fault_rate(&self, op: Op, per_million: u32) {
        self.0.lock().rates.insert(op, per_million);
    }

    /// The power fails after so many more calls of any kind: from then on every call fails and
    /// does nothing, until [`SimDisk::heal`]. [`SimDisk::crash`] then loses what was not synced.
    pub fn die_after(&self, calls: u64) {
        self.0.lock().calls_left = Some(calls);
    }

    /// Forgets all failures to come; a full disk stays full.
    pub fn heal(&self) {
        let mut state = self.0.lock();
        state.faults.clear();
        state.rates.clear();
        state.calls_left = None;
    }

    /// Leaves exactly `free_bytes` free: more when that is more than now.
    pub fn fill_up(&self, free_bytes: u64) {
        let mut state = self.0.lock();
        state.capacity = state.used().saturating_add(free_bytes);
    }

    /// A disk of that size; what it holds stays, so that it may be over-full.
    pub fn set_capacity(&self, bytes: u64) {
        self.0.lock().capacity = bytes;
    }

    /// Flips one bit of the byte at `offset`, in what is read and in what survives; the seed
    /// chooses which.
    ///
    /// # Panics
    ///
    /// Where the file does not exist or is shorter.
    pub fn flip_bit(&self, path: &str, offset: u64) {
        let mut state = self.0.lock();
        let bit = state.rng.u8(0..8);
        state.flip(path, offset, bit);
    }

    /// Flips bit `bit` (0 to 7) of the byte at `offset`.
    ///
    /// # Panics
    ///
    /// Where the file does not exist or is shorter.
    pub fn flip_bit_at(&self, path: &str, offset: u64, bit: u8) {
        self.0.lock().flip(path, offset, bit);
    }

    /// The deliberate bug "no fsync": while on, syncs say `Ok` and do nothing. Crash tests must
    /// notice.
    pub fn lie_about_sync(&self, lie: Lie) {
        self.0.lock().lie = lie;
    }

    /// The disk stalls: every call waits until the guard is dropped.
    #[must_use]
    pub fn stall(&self) -> Stalled<'_> {
        Stalled(self.0.lock())
    }

    /// Paths of all files, sorted.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        self.0.lock().names.keys().cloned().collect()
    }

    /// Length of a file, if it exists.
    #[must_use]
    pub fn len_of(&self, path: &str) -> Option<u64> {
        self.0.lock().len_of(path)
    }

    /// How many calls of that kind there were, failed ones too.
    #[must_use]
    pub fn calls(&self, op: Op) -> u64 {
        self.0.lock().calls.get(&op).copied().unwrap_or(0)
    }

    fn handle(&self, inode: u64, generation: u64) -> Box<dyn DiskFile> {
        Box::new(SimFile { disk: self.clone(), inode, generation })
    }
}

/// While it lives, every call to its disk waits.
#[derive(Debug)]
pub struct Stalled<'a>(#[expect(dead_code, reason = "held, not used")] MutexGuard<'a, State>);

/// Whether syncs are true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Syncs make bytes and names durable.
    Off,
    /// Syncs say `Ok` and do nothing.
    On,
}

impl Disk for SimDisk {
    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.enter(Op::Create)?;
        let inode = state.create(path)?;
        Ok(self.handle(inode, state.generation))
    }

    fn open_append(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.enter(Op::OpenAppend)?;
        let inode = state.find(path)?;
        Ok(self.handle(inode, state.generation))
    }

    fn open_read(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.enter(Op::OpenRead)?;
        let inode = state.find(path)?;
        Ok(self.handle(inode, state.generation))
    }

    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut state = self.0.lock();
        state.enter(Op::Read)?;
        let inode = state.find(path)?;
        Ok(state.inode(inode)?.data.clone())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.enter(Op::Rename)?;
        state.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.enter(Op::Remove)?;
        state.remove(path)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut state = self.0.lock();
        state.enter(Op::List)?;
        state.list(dir)
    }

    fn create_dir_all(&self, dir: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.enter(Op::CreateDir)?;
        state.create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.enter(Op::SyncDir)?;
        state.sync_dir(dir)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.0.lock().free())
    }

    fn total_bytes(&self) -> io::Result<u64> {
        Ok(self.0.lock().capacity)
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: u64,
    generation: u64,
}

impl SimFile {
    fn with<T>(&self, call: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.0.lock();
        if state.generation == self.generation {
            call(&mut state)
        } else {
            Err(io::Error::other("stale handle: the simulated machine crashed"))
        }
    }
}

impl DiskFile for SimFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.with(|state| state.write(self.inode, bytes))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.with(|state| state.sync(self.inode))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.with(|state| {
            state.enter(Op::Read)?;
            let data = &state.inode(self.inode)?.data;
            let start = usize::try_from(offset).map_or(data.len(), |at| at.min(data.len()));
            let read = buf.len().min(data.len() - start);
            buf[..read].copy_from_slice(&data[start..start + read]);
            Ok(read)
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state| Ok(state.inode(self.inode)?.data.len() as u64))
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.with(|state| {
            state.enter(Op::Truncate)?;
            state.truncate(self.inode, len)
        })
    }

    fn try_clone(&self) -> io::Result<Box<dyn DiskFile>> {
        self.with(|_state| Ok(()))?;
        Ok(self.disk.handle(self.inode, self.generation))
    }
}

/// By path; sorted, so that nothing depends on a hash seed.
type Names = BTreeMap<String, u64>;
