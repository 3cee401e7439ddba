//! Who is next: plain data, without threads or time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::shares::Shares;

/// Whoever waits: a key, and one connection of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) key: Arc<str>,
    pub(crate) connection: u64,
}

/// How long work takes, as far as is known before it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// Milliseconds.
    Short,
    /// Perhaps a second.
    Long,
}

/// How much at once, and how much may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) at_once: usize,
    /// Long work among it: what is left is for short work, which never waits for long work then.
    pub(crate) long_at_once: usize,
    pub(crate) waiting_max: usize,
    /// Of one key.
    pub(crate) key_waiting_max: usize,
}

impl Limits {
    /// So much at once, whether short or long; of what waits one key has at most half.
    pub(crate) const fn alike(at_once: usize, waiting_max: usize) -> Self {
        let key_waiting_max = waiting_max.div_ceil(2);
        Self { at_once, long_at_once: at_once, waiting_max, key_waiting_max }
    }
}

/// Too much waits already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    OfAll,
    OfKey,
}

/// A waiter's number, by which it can leave.
pub(super) type Ticket = u64;

/// Work that waits, short and long, and how much of it runs.
///
/// Of each length the key goes next that has had least of the processor, within a key connections
/// take turns, and within a connection whoever came first: where all work costs the same, everybody
/// else has one turn at most before it is somebody's. Where both wait for one place, short and long
/// work take turns.
#[derive(Debug)]
pub(super) struct Line<T> {
    limits: Limits,
    short: Round<T>,
    long: Round<T>,
    running: usize,
    long_running: usize,
    last: Length,
    tickets: Ticket,
}

impl<T> Line<T> {
    pub(super) fn new(limits: Limits) -> Self {
        let at_once = limits.at_once.max(1);
        let long_at_once = limits.long_at_once.clamp(1, at_once);
        let (short, long) = (Round::default(), Round::default());
        let limits = Limits { at_once, long_at_once, ..limits };
        Self { limits, short, long, running: 0, long_running: 0, last: Length::Long, tickets: 0 }
    }

    pub(super) const fn limits(&self) -> &Limits {
        &self.limits
    }

    fn round(&mut self, length: Length) -> &mut Round<T> {
        match length {
            Length::Short => &mut self.short,
            Length::Long => &mut self.long,
        }
    }

    /// Waits from now on.
    pub(super) fn enter(
        &mut self,
        caller: &Caller,
        length: Length,
        waiter: T,
    ) -> Result<Ticket, Full> {
        if self.waiting() >= self.limits.waiting_max {
            return Err(Full::OfAll);
        }
        if self.waiting_of(&caller.key) >= self.limits.key_waiting_max {
            return Err(Full::OfKey);
        }
        self.tickets += 1;
        let ticket = self.tickets;
        self.round(length).push(caller, ticket, waiter);
        Ok(ticket)
    }

    /// Waits no longer; nothing where it has had its turn.
    pub(super) fn leave(&mut self, caller: &Caller, length: Length, ticket: Ticket) {
        self.round(length).remove(caller, ticket);
    }

    /// Whose turn it is, which runs from now on; nobody's where all places are taken.
    pub(super) fn next(&mut self) -> Option<(T, Length)> {
        if self.running >= self.limits.at_once {
            return None;
        }
        let long_may = self.long_running < self.limits.long_at_once && self.long.waiting > 0;
        let length = match (self.short.waiting > 0, long_may) {
            (true, true) if self.last == Length::Short => Length::Long,
            (true, _) => Length::Short,
            (false, true) => Length::Long,
            (false, false) => return None,
        };
        let places = self.limits.at_once;
        let (waiter, length) = match self.round(length).pop(places) {
            Some(waiter) => (waiter, length),
            // Whose work is dear leaves this place, and it need not be empty.
            None if length == Length::Short && long_may => (self.long.pop(places)?, Length::Long),
            None => return None,
        };
        self.last = length;
        self.running += 1;
        self.long_running += usize::from(length == Length::Long);
        Some((waiter, length))
    }

    /// Some work of a key has ended, and cost so much, where that is known.
    pub(super) fn done(&mut self, key: &str, length: Length, cost: Option<Duration>) {
        self.round(length).shares.end(key, cost);
        self.running -= 1;
        self.long_running -= usize::from(length == Length::Long);
    }

    pub(super) const fn waiting(&self) -> usize {
        self.short.waiting + self.long.waiting
    }

    /// How much waits of a key.
    pub(super) fn waiting_of(&self, key: &str) -> usize {
        self.short.shares.waiting_of(key) + self.long.shares.waiting_of(key)
    }
}

/// Waiters of one length.
#[derive(Debug)]
struct Round<T> {
    keys: VecDeque<OfKey<T>>,
    waiting: usize,
    shares: Shares,
}

#[derive(Debug)]
struct OfKey<T> {
    key: Arc<str>,
    connections: VecDeque<OfConnection<T>>,
}

#[derive(Debug)]
struct OfConnection<T> {
    connection: u64,
    waiters: VecDeque<(Ticket, T)>,
}

impl<T> Default for Round<T> {
    fn default() -> Self {
        Self { keys: VecDeque::new(), waiting: 0, shares: Shares::default() }
    }
}

impl<T> Round<T> {
    fn push(&mut self, caller: &Caller, ticket: Ticket, waiter: T) {
        self.waiting += 1;
        self.shares.enter(&caller.key);
        let of_key = match self.keys.iter().position(|own| own.key == caller.key) {
            Some(at) => &mut self.keys[at],
            None => {
                let key = Arc::clone(&caller.key);
                self.keys.push_back(OfKey { key, connections: VecDeque::new() });
                let last = self.keys.len() - 1;
                &mut self.keys[last]
            }
        };
        let connection = caller.connection;
        let known = of_key.connections.iter_mut().find(|own| own.connection == connection);
        match known {
            Some(own) => own.waiters.push_back((ticket, waiter)),
            None => {
                let waiters = VecDeque::from([(ticket, waiter)]);
                of_key.connections.push_back(OfConnection { connection, waiters });
            }
        }
    }

    /// Whoever is next for one of `places`; its key and its connection go behind all others.
    fn pop(&mut self, places: usize) -> Option<T> {
        let keys = self.keys.iter().enumerate();
        let may = keys.filter(|(_, own)| self.shares.may(&own.key, places));
        let (next, _) = may.min_by_key(|(_, own)| self.shares.used_us(&own.key))?;
        let mut of_key = self.keys.remove(next)?;
        self.shares.begin(&of_key.key);
        let mut of_connection = of_key.connections.pop_front()?;
        let (_, waiter) = of_connection.waiters.pop_front()?;
        self.waiting -= 1;
        if !of_connection.waiters.is_empty() {
            of_key.connections.push_back(of_connection);
        }
        if !of_key.connections.is_empty() {
            self.keys.push_back(of_key);
        }
        Some(waiter)
    }

    fn remove(&mut self, caller: &Caller, ticket: Ticket) {
        let Some(key_at) = self.keys.iter().position(|own| own.key == caller.key) else { return };
        let of_key = &mut self.keys[key_at];
        let connection = caller.connection;
        let found = of_key.connections.iter().position(|own| own.connection == connection);
        let Some(at) = found else { return };
        let waiters = &mut of_key.connections[at].waiters;
        let Some(place) = waiters.iter().position(|(own, _)| *own == ticket) else { return };
        waiters.remove(place);
        self.shares.leave(&caller.key);
        self.waiting -= 1;
        if of_key.connections[at].waiters.is_empty() {
            of_key.connections.remove(at);
        }
        if of_key.connections.is_empty() {
            self.keys.remove(key_at);
        }
    }
}

#[cfg(test)]
mod tests;
