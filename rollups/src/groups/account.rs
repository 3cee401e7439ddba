//! What one answer in groups holds in memory, and how much it may.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::error::ReadError;

/// Bytes that one answer holds, about: never more than it may.
#[derive(Debug)]
pub(super) struct Account {
    bytes: AtomicUsize,
    most: AtomicUsize,
    bytes_max: usize,
    is_over: AtomicBool,
}

impl Account {
    pub(super) fn new(bytes_max: usize) -> Arc<Self> {
        let (bytes, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { bytes, most, bytes_max, is_over: AtomicBool::new(false) })
    }

    pub(super) const fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// The most that was held at one time.
    pub(super) fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    pub(super) fn room(&self) -> usize {
        self.bytes_max.saturating_sub(self.bytes.load(Ordering::Relaxed))
    }

    /// Whether something had no room: what was read since is not all that there is.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    pub(super) fn check(&self) -> Result<(), ReadError> {
        let bytes_max = self.bytes_max;
        if self.is_over() { Err(ReadError::TooLarge { bytes_max }) } else { Ok(()) }
    }

    fn take(&self, bytes: usize) -> bool {
        let held = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if held > self.bytes_max {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.most.fetch_max(held, Ordering::Relaxed);
        true
    }
}

/// Bytes on an account, until it is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    account: Arc<Account>,
    bytes: usize,
}

impl Charge {
    pub(super) fn nothing(account: &Arc<Account>) -> Self {
        Self { account: Arc::clone(account), bytes: 0 }
    }

    /// Takes more; false where there is no room for it, and then the answer is too large.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let has_room = self.try_grow(bytes);
        if !has_room {
            self.account.is_over.store(true, Ordering::Relaxed);
        }
        has_room
    }

    /// Takes over what another holds.
    pub(super) fn join(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// As [`Charge::grow`], for what can be done without.
    pub(super) fn try_grow(&mut self, bytes: usize) -> bool {
        let has_room = self.account.take(bytes);
        self.bytes += if has_room { bytes } else { 0 };
        has_room
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
