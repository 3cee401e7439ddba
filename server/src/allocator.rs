//! What the allocator holds: what was asked of it, and what lies between that and the kernel's count.

use tikv_jemalloc_ctl::{Access, AsName, Mib, arenas, epoch, stats};

/// Bytes, as the allocator counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// In use by the house.
    pub(crate) allocated: u64,
    /// Pages that hold at least one of these bytes.
    pub(crate) active: u64,
    /// Its own books.
    pub(crate) metadata: u64,
    /// Active pages, books, and pages that were freed and are not given back yet.
    pub(crate) resident: u64,
    /// Addresses that it keeps without memory behind them.
    pub(crate) retained: u64,
}

impl Held {
    /// Pages that were freed and are not given back yet.
    pub(crate) const fn freed(&self) -> u64 {
        self.resident.saturating_sub(self.active).saturating_sub(self.metadata)
    }
}

/// What it holds now; `None` where it does not say.
pub(crate) fn held() -> Option<Held> {
    epoch::advance().ok()?;
    let wide = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
    Some(Held {
        allocated: wide(stats::allocated::read().ok()?),
        active: wide(stats::active::read().ok()?),
        metadata: wide(stats::metadata::read().ok()?),
        resident: wide(stats::resident::read().ok()?),
        retained: wide(stats::retained::read().ok()?),
    })
}

/// Gives the pages that were freed back to the system, which it does by itself within some ten
/// seconds, and only in arenas that somebody uses.
pub(crate) fn give_back() -> Result<(), tikv_jemalloc_ctl::Error> {
    let arenas = usize::try_from(arenas::narenas::read()?).unwrap_or(0);
    let mut decay: Mib<[usize; 3]> = "arena.0.dirty_decay_ms\0".name().mib()?;
    for arena in 0..arenas {
        decay[1] = arena;
        // One that nobody has used is not there.
        let Ok(usual) = Access::<isize>::read(&decay) else { continue };
        // What it may keep for no time it gives back at once.
        Access::<isize>::write(&decay, 0)?;
        Access::<isize>::write(&decay, usual)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_freed_goes_back_to_the_system_when_it_is_told_to() {
        const BYTES: usize = 64 << 20;
        // Below the size from which jemalloc gives back by itself.
        let pages: Vec<Vec<u8>> = (0..64).map(|_| vec![1; BYTES / 64]).collect();
        let before = held().unwrap();
        assert!(before.allocated >= BYTES as u64, "{before:?}");
        drop(pages);
        let freed = held().unwrap();
        give_back().unwrap();
        let after = held().unwrap();
        let given = freed.resident.saturating_sub(after.resident);
        assert!(given >= BYTES as u64 / 2, "{freed:?} became {after:?}");
    }
}
