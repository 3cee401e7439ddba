//! What folds have met so far.

use std::collections::HashMap;

use nilometer_event::ReceiveTime;

use crate::manifest::ChunkKey;

/// After a layer's file was refused by the disk, its shard is folded again after so long; each
/// further time after twice as long, up to the longest.
const REFUSED_WAIT_MS: i64 = 30_000;
const REFUSED_WAIT_MS_MAX: i64 = 600_000;

/// What a fold remembers for the next one, until the store is closed.
#[derive(Debug, Default)]
pub(crate) struct Trials {
    /// By key how many cells layers added last time: what they will add is known only once a
    /// file is written, and one fold is like the one before.
    pub(crate) added: HashMap<ChunkKey, u64>,
    /// By file how many folds have found it damaged.
    pub(crate) damaged: HashMap<String, u32>,
    /// By file what the disk refused.
    pub(crate) refused: HashMap<String, Refused>,
}

/// A file that the disk refuses to read: it is tried again, for good.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused {
    tries: u32,
    not_before: ReceiveTime,
}

impl Trials {
    pub(crate) fn refuse(&mut self, file: &str, now: ReceiveTime) -> u32 {
        let first = Refused { tries: 0, not_before: now };
        let refused = self.refused.entry(file.to_owned()).or_insert(first);
        let wait_ms = REFUSED_WAIT_MS << refused.tries.min(10);
        refused.tries = refused.tries.saturating_add(1);
        refused.not_before = now.plus_ms(wait_ms.min(REFUSED_WAIT_MS_MAX));
        refused.tries
    }

    pub(crate) fn is_to_wait(&self, file: &str, now: ReceiveTime) -> bool {
        self.refused.get(file).is_some_and(|refused| now < refused.not_before)
    }
}
