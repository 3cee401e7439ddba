//! Who is connected. There are so many seats; when all are taken, those who have been silent
//! longest lose theirs, so that whoever comes is served, whatever others hold on to.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nilometer_access::{Share, Slot};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::keeper;

/// When all seats are taken, one in so many is emptied at once: looking for them costs a walk.
const EMPTIED_SHARE: usize = 64;

/// All connections of a listener.
#[derive(Debug)]
pub(super) struct Seats {
    max: usize,
    /// HTTP/2 connections at most, for each may have a window full of bodies that wait.
    windows_max: usize,
    begun: Instant,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    seats: HashMap<u64, Arc<Seat>>,
}

/// One connection's own. It is held by what the connection reads and writes with, so it lasts as
/// long as the socket, also where that became a WebSocket.
#[derive(Debug)]
pub(super) struct Seat {
    /// When bytes last came or went, in milliseconds since the listener began.
    heard_ms: AtomicU64,
    is_http2: AtomicBool,
    begun: Instant,
    gone: CancellationToken,
    is_overdue: AtomicBool,
    /// What its address holds.
    slots: Mutex<Vec<Slot>>,
    exchanges: Mutex<Exchanges>,
}

/// Requests that are being answered.
#[derive(Debug, Default)]
struct Exchanges {
    next: u64,
    /// Each with when its answer last went on; `None` before there is an answer.
    open: HashMap<u64, Option<Instant>>,
    ended: Option<Instant>,
}

/// A seat that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Seated {
    seats: Arc<Seats>,
    number: u64,
    pub(super) seat: Arc<Seat>,
}

impl Seats {
    pub(super) fn new(max: usize, windows_max: usize) -> Arc<Self> {
        let (begun, taken) = (Instant::now(), Mutex::default());
        Arc::new(Self { max: max.max(1), windows_max: windows_max.max(1), begun, taken })
    }

    /// Takes a seat. Where none is free some are emptied.
    pub(super) fn take(self: &Arc<Self>) -> Seated {
        let seat = Arc::new(Seat {
            heard_ms: AtomicU64::new(0),
            is_http2: AtomicBool::new(false),
            begun: self.begun,
            gone: CancellationToken::new(),
            is_overdue: AtomicBool::new(false),
            slots: Mutex::default(),
            exchanges: Mutex::default(),
        });
        seat.hear();
        let mut taken = self.taken.lock();
        let over = (taken.seats.len() + 1).saturating_sub(self.max_now());
        if over > 0 {
            taken.empty(over + self.max / EMPTIED_SHARE, |_| true);
        }
        let number = taken.next;
        taken.next += 1;
        taken.seats.insert(number, Arc::clone(&seat));
        Seated { seats: Arc::clone(self), number, seat }
    }

    /// Fewer where memory is short.
    fn max_now(&self) -> usize {
        let percent = usize::try_from(keeper::memory_percent()).unwrap_or(100);
        (self.max * percent / 100).max(1)
    }

    /// Empties a few of the most silent: the process is out of descriptors.
    pub(super) fn empty_some(&self) {
        self.taken.lock().empty(1 + self.max / EMPTIED_SHARE, |_| true);
    }
}

impl Taken {
    /// Those of `whose` who were silent longest lose their seats.
    fn empty(&mut self, count: usize, whose: impl Fn(&Seat) -> bool) {
        let candidates = self.seats.iter().filter(|(_, seat)| whose(seat));
        let mut silent: Vec<(u64, u64)> = candidates
            .map(|(number, seat)| (seat.heard_ms.load(Ordering::Relaxed), *number))
            .collect();
        let count = count.min(silent.len());
        if count == 0 {
            return;
        }
        silent.select_nth_unstable(count - 1);
        for (_, number) in &silent[..count] {
            if let Some(seat) = self.seats.remove(number) {
                seat.gone.cancel();
            }
        }
        tracing::debug!(count, "connections closed: they were silent longest, and others came");
    }
}

impl Seated {
    /// Says that this is HTTP/2; where there are too many such, some are closed.
    pub(super) fn speaks_http2(&self) {
        let mut taken = self.seats.taken.lock();
        let is_http2 = |seat: &Seat| seat.is_http2.load(Ordering::Relaxed);
        let count = taken.seats.values().filter(|seat| is_http2(seat)).count();
        if count >= self.seats.windows_max {
            taken.empty(1 + self.seats.windows_max / EMPTIED_SHARE, is_http2);
        }
        self.seat.is_http2.store(true, Ordering::Relaxed);
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.seats.taken.lock().seats.remove(&self.number);
    }
}

impl Seat {
    /// Bytes came or went.
    pub(super) fn hear(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard_ms.store(now, Ordering::Relaxed);
    }

    /// Cancelled when the seat was taken away.
    pub(super) const fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    /// The head of a request did not come in time.
    pub(super) fn set_overdue(&self) {
        self.is_overdue.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_overdue(&self) -> bool {
        self.is_overdue.load(Ordering::Relaxed)
    }

    /// Holds this as long as the connection.
    pub(super) fn keep(&self, slot: Slot) {
        self.slots.lock().push(slot);
    }

    /// Whether the head of a request is still to come, of which nothing is known yet.
    pub(super) fn is_between(&self) -> bool {
        !self.is_http2.load(Ordering::Relaxed) && self.exchanges.lock().open.is_empty()
    }

    /// A request begins.
    pub(super) fn exchange(self: &Arc<Self>) -> Exchange {
        let mut exchanges = self.exchanges.lock();
        let number = exchanges.next;
        exchanges.next += 1;
        exchanges.open.insert(number, None);
        Exchange { seat: Arc::clone(self), number, slot: None, _share: None }
    }

    /// Waits until an answer has not gone on for `patience`, or nothing was asked for as long:
    /// HTTP/2 keeps either up for ever by pings.
    pub(super) async fn stalled(&self, patience: Duration) {
        let mut tick = tokio::time::interval((patience / 4).max(Duration::from_millis(10)));
        let begun = Instant::now();
        loop {
            tick.tick().await;
            let exchanges = self.exchanges.lock();
            let is_over = |since: Instant| since.elapsed() > patience;
            let idle_since = exchanges.ended.unwrap_or(begun);
            let idle = exchanges.open.is_empty() && is_over(idle_since);
            if idle || exchanges.open.values().flatten().any(|since| is_over(*since)) {
                return;
            }
        }
    }
}

/// A request that is being answered; dropped with the last of the answer.
#[derive(Debug)]
pub(super) struct Exchange {
    seat: Arc<Seat>,
    number: u64,
    slot: Option<Slot>,
    /// What it holds of the memory for exchanges.
    _share: Option<Share>,
}

impl Exchange {
    /// Holds this as long as it lasts itself.
    pub(super) fn hold(&mut self, slot: Slot) {
        self.slot = Some(slot);
    }

    /// Holds this memory as long as it lasts itself.
    pub(super) fn lend(&mut self, share: Share) {
        self._share = Some(share);
    }

    /// What was a request is a connection of its own kind now, which holds on.
    pub(super) fn upgraded(mut self) {
        self.seat.slots.lock().extend(self.slot.take());
    }

    /// The answer goes on.
    pub(super) fn goes_on(&self) {
        self.seat.exchanges.lock().open.insert(self.number, Some(Instant::now()));
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut exchanges = self.seat.exchanges.lock();
        exchanges.open.remove(&self.number);
        exchanges.ended = Some(Instant::now());
    }
}
