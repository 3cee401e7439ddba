//! What one entry does to the sessions: events touch them, and each that changed is told once.

use nilometer_event::{EventTime, UserHash};
use smallvec::SmallVec;

use super::cold::ColdSessions;
use super::hot::{NONE, WARM};
use super::session::{SessionChange, SessionRef, State, Touch, around};
use super::state::Sessions;
use super::words::Word;

/// A session that the entry changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touched {
    /// [`NONE`] once it is part of another.
    slot: u32,
    /// The states before the entry that are part of it now: the first of a list in `befores`.
    before: u32,
}

/// A session's state as it was before the entry.
#[derive(Debug)]
pub(super) struct Before {
    state: State,
    /// The next of the list, or [`NONE`].
    next: u32,
}

impl Sessions {
    /// As [`Self::touch`], by the numbers of the texts.
    pub(crate) fn touch_words(
        &mut self,
        (user, time): (UserHash, EventTime),
        event_type: Word,
        dims: &[Option<Word>],
        cold: &ColdSessions,
    ) {
        self.revive(user, time, cold);
        let mut values = std::mem::take(&mut self.scratch);
        values.clear();
        for (&name, value) in self.dimensions.iter().zip(dims) {
            if let Some(value) = *value {
                values.push((name, value));
            }
        }
        let touch = Touch { user: user.get(), time, event_type, dims: &values };
        match self.near(touch.user, time) {
            (None, _) => self.begin(touch),
            (Some(slot), None) => {
                self.note_before(slot);
                self.hot.change(slot).add(touch, &self.words);
            }
            (Some(slot), Some(other)) => {
                self.join(slot, other);
                self.hot.change(slot).add(touch, &self.words);
            }
        }
        self.scratch = values;
    }

    /// Tells each session that the entry changed, once; `seq` is the entry's.
    pub fn end_entry(&mut self, seq: u64, tell: &mut dyn FnMut(SessionChange<'_>)) {
        for index in 0..self.touched.len() {
            if index % WARM == 0 {
                let next = || self.touched[index..].iter().take(WARM).map(|touched| touched.slot);
                self.hot.warm_slots(next());
                self.open.warm(next());
            }
            let Touched { slot, before } = self.touched[index];
            if slot == NONE {
                continue;
            }
            let state = self.hot.change(slot);
            state.seq = seq;
            self.hot.settle(slot);
            self.open.list(slot, self.hot.state(slot).first);
            let (words, dimensions) = (&self.words, self.dimensions.as_slice());
            let session = |state| SessionRef { state, words, dimensions };
            let mut removed: SmallVec<[SessionRef<'_>; 1]> = SmallVec::new();
            let mut next = self.befores.get(before as usize);
            while let Some(before) = next {
                removed.push(session(&before.state));
                next = self.befores.get(before.next as usize);
            }
            tell(SessionChange { removed: &removed, added: session(self.hot.state(slot)) });
        }
        self.touched.clear();
        self.befores.clear();
    }

    /// Makes the user's cold sessions near `time` hot.
    fn revive(&mut self, user: UserHash, time: EventTime, cold: &ColdSessions) {
        let near = around(time, self.settings.gap_ms);
        let Some(states) = cold.of(user, near) else {
            self.unrevised += 1;
            return;
        };
        for stored in states {
            // What is hot and overlaps it grew out of it.
            let superseded = || self.hot.of_user(user.get(), (stored.first, stored.last)).next();
            if superseded().is_none() {
                let slot = self.hot.insert(State::from_stored(stored, &mut self.words));
                self.open.list(slot, stored.first);
            }
        }
    }

    /// The user's hot sessions that an event at `time` belongs to: at most one that ends before
    /// it and one that begins after it.
    fn near(&self, user: u64, time: EventTime) -> (Option<u32>, Option<u32>) {
        let mut near = self.hot.of_user(user, around(time, self.settings.gap_ms));
        let mut next = || near.next().map(|(slot, _)| slot);
        (next(), next())
    }

    fn begin(&mut self, touch: Touch<'_>) {
        let slot = self.hot.insert(State::starting(touch));
        self.hot.change(slot);
        self.list_touched(slot, NONE);
    }

    /// Keeps the state as it was before the entry.
    fn note_before(&mut self, slot: u32) {
        if *self.hot.touched(slot) == NONE {
            let before = index_of(self.befores.len());
            self.befores.push(Before { state: self.hot.state(slot).clone(), next: NONE });
            self.list_touched(slot, before);
        }
    }

    fn list_touched(&mut self, slot: u32, before: u32) {
        *self.hot.touched(slot) = index_of(self.touched.len());
        self.touched.push(Touched { slot, before });
    }

    /// Makes two sessions one, in `slot`.
    fn join(&mut self, slot: u32, other: u32) {
        self.note_before(slot);
        self.note_before(other);
        let from = &mut self.touched[*self.hot.touched(other) as usize];
        from.slot = NONE;
        let theirs = std::mem::replace(&mut from.before, NONE);
        self.append_before(slot, theirs);
        self.open.unlist(other);
        let joined = self.hot.remove(other);
        self.hot.change(slot).merge(&joined, &self.words);
    }

    /// Appends a list of states to those that `slot` had before the entry.
    fn append_before(&mut self, slot: u32, theirs: u32) {
        let Self { hot, touched, befores, .. } = self;
        let mut end = &mut touched[*hot.touched(slot) as usize].before;
        while *end != NONE {
            let last = *end as usize;
            end = &mut befores[last].next;
        }
        *end = theirs;
    }
}

fn index_of(len: usize) -> u32 {
    u32::try_from(len).expect("S4: an entry is far smaller than 2^32")
}
