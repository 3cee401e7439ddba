//! The hot sessions: by user, and by the minute in which they may go cold.
//!
//! A user's are a gap apart, so that the order of their first events is that of their last ones,
//! and no event changes it.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use nilometer_event::EventTime;

use super::open::{Span, end_of, minute_of};
use super::packed::PackedStates;
use super::session::State;
use super::words::Word;

/// Sessions are read ahead so many at a time.
pub(crate) const WARM: usize = 64;

/// No slot, no touched session.
pub(crate) const NONE: u32 = u32::MAX;

/// Sessions in slots.
#[derive(Debug, Default)]
pub(crate) struct HotSessions {
    slots: Slots,
    free: Vec<u32>,
    /// Users' hashes are keyed, so that a fixed hash of them is safe.
    heads: HashMap<u64, Head, foldhash::fast::FixedState>,
    /// Of users who have several: their slots in order of time. Nobody says how many they may be.
    several: HashMap<u64, Vec<u32>, foldhash::fast::FixedState>,
    /// Every session once, by the minute of its end or an earlier one.
    expiry: BTreeMap<i64, Vec<Handle>>,
    changed: Vec<Handle>,
    len: usize,
    /// Counts insertions: no two sessions in one slot have the same.
    inserted: u32,
    /// What lists of more counts or dimensions than a slot has room for take, as of the end of
    /// the entry that changed them.
    lists_bytes: usize,
}

/// What a user with several sessions takes beside them: a place in the map, and a list of four.
const SEVERAL_BYTES: usize = size_of::<(u64, Vec<u32>)>() + 1 + 16;

/// Where a user's sessions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    One(u32),
    Several,
}

/// A slot and which of its sessions is meant.
#[derive(Clone, Copy, Debug)]
struct Handle {
    slot: u32,
    generation: u32,
}

/// Slots in pieces of one size: growing copies nothing, where doubling one list stalled the fold.
#[derive(Debug, Default)]
struct Slots(Vec<Vec<Slot>>);

/// Few in tests, so that sessions move there, too.
const PIECE: usize = if cfg!(test) { 4 } else { 1 << 12 };

impl Slots {
    fn push(&mut self, slot: Slot) -> u32 {
        if self.0.last().is_none_or(|piece| piece.len() == PIECE) {
            self.0.push(Vec::with_capacity(PIECE));
        }
        let pieces = self.0.len() - 1;
        let piece = &mut self.0[pieces];
        piece.push(slot);
        let place = pieces * PIECE + piece.len() - 1;
        u32::try_from(place).expect("S4: hot sessions are far below 2^32")
    }

    fn get(&self, slot: u32) -> Option<&Slot> {
        self.0.get(slot as usize / PIECE)?.get(slot as usize % PIECE)
    }

    fn of(&self, slot: u32) -> &Slot {
        &self.0[slot as usize / PIECE][slot as usize % PIECE]
    }

    fn of_mut(&mut self, slot: u32) -> &mut Slot {
        &mut self.0[slot as usize / PIECE][slot as usize % PIECE]
    }

    fn len(&self) -> usize {
        self.0.last().map_or(0, |last| (self.0.len() - 1) * PIECE + last.len())
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.0.iter_mut().flatten()
    }

    const fn memory_bytes(&self) -> usize {
        self.0.len() * PIECE * size_of::<Slot>()
    }
}

#[derive(Clone, Debug)]
struct Slot {
    state: State,
    generation: u32,
    is_live: bool,
    /// Changed in the open layer, so that no run file holds this state yet.
    is_changed: bool,
    /// Index among those touched by the entry.
    touched: u32,
    /// Its part of [`HotSessions::lists_bytes`].
    lists_bytes: u16,
}

impl HotSessions {
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// How many [`Self::take_changed`] would look at.
    pub(crate) const fn changed_len(&self) -> usize {
        self.changed.len()
    }

    pub(crate) fn state(&self, slot: u32) -> &State {
        &self.slots.of(slot).state
    }

    /// For a change, which the layer's run will hold.
    pub(crate) fn change(&mut self, slot: u32) -> &mut State {
        let of = self.slots.of_mut(slot);
        if !of.is_changed {
            of.is_changed = true;
            self.changed.push(Handle { slot, generation: of.generation });
        }
        &mut of.state
    }

    pub(crate) fn touched(&mut self, slot: u32) -> &mut u32 {
        &mut self.slots.of_mut(slot).touched
    }

    /// Reads the sessions of up to [`WARM`] users and does nothing with them: a prefetch without
    /// `unsafe`.
    pub(crate) fn warm(&self, users: impl Iterator<Item = u64>) {
        let mut heads = [NONE; WARM];
        for (head, user) in heads.iter_mut().zip(users) {
            if let Some(Head::One(slot)) = self.heads.get(&user) {
                *head = *slot;
            }
        }
        self.warm_slots(heads.into_iter());
    }

    /// As [`Self::warm`], by slots.
    pub(crate) fn warm_slots(&self, slots: impl Iterator<Item = u32>) {
        for slot in slots {
            if let Some(of) = self.slots.get(slot) {
                let (state, touched) = (&of.state, of.touched);
                std::hint::black_box((state.last, state.counts.len(), state.dims.len(), touched));
            }
        }
    }

    /// Puts a session that a run file holds, or one that [`Self::change`] will be called for; a gap
    /// away from the user's others.
    pub(crate) fn insert(&mut self, state: State) -> u32 {
        let (user, minute) = (state.user, minute_of(state.last));
        self.inserted = self.inserted.wrapping_add(1);
        let generation = self.inserted;
        let slot = match self.free.pop() {
            Some(slot) => {
                *self.slots.of_mut(slot) = Slot::new(state, generation);
                slot
            }
            None => self.slots.push(Slot::new(state, generation)),
        };
        self.list_of_user(user, slot);
        self.expiry.entry(minute).or_default().push(Handle { slot, generation });
        self.len += 1;
        self.settle(slot);
        slot
    }

    fn list_of_user(&mut self, user: u64, slot: u32) {
        let Self { slots, heads, several, .. } = self;
        let first_of = |slot: u32| slots.of(slot).state.first;
        match heads.entry(user) {
            Entry::Vacant(entry) => {
                entry.insert(Head::One(slot));
            }
            Entry::Occupied(mut entry) => {
                let before = entry.insert(Head::Several);
                let own = several.entry(user).or_default();
                if let Head::One(only) = before {
                    own.push(only);
                }
                let place = own.partition_point(|&other| first_of(other) < first_of(slot));
                own.insert(place, slot);
            }
        }
    }

    fn unlist_of_user(&mut self, user: u64, slot: u32) {
        let Self { slots, heads, several, .. } = self;
        if let Some(Head::One(_)) = heads.get(&user) {
            heads.remove(&user);
            return;
        }
        let own = several.get_mut(&user).expect("S7: who has several sessions has a list of them");
        let first_of = |slot: u32| slots.of(slot).state.first;
        let place = own.partition_point(|&other| first_of(other) < first_of(slot));
        let beside = own[place..].iter().position(|&other| other == slot);
        own.remove(place + beside.expect("S7: a user's sessions lie in order of time"));
        if let [only] = own[..] {
            heads.insert(user, Head::One(only));
            several.remove(&user);
        }
    }

    /// Not touched by an entry any more; measured anew.
    pub(crate) fn settle(&mut self, slot: u32) {
        let of = self.slots.of_mut(slot);
        of.touched = NONE;
        self.lists_bytes -= usize::from(of.lists_bytes);
        of.lists_bytes = lists_bytes(&of.state);
        self.lists_bytes += usize::from(of.lists_bytes);
    }

    pub(crate) fn remove(&mut self, slot: u32) -> State {
        let of = self.slots.of_mut(slot);
        self.lists_bytes -= usize::from(std::mem::take(&mut of.lists_bytes));
        of.is_live = false;
        let state = of.state.clone();
        self.unlist_of_user(state.user, slot);
        self.free.push(slot);
        self.len -= 1;
        state
    }

    /// The user's sessions that have a moment between the two, both included, in order of time.
    pub(crate) fn of_user(
        &self,
        user: u64,
        (first, last): Span,
    ) -> impl Iterator<Item = (u32, &State)> {
        let mut one = NONE;
        let mut several: &[u32] = &[];
        match self.heads.get(&user) {
            None => {}
            Some(Head::One(slot)) => one = *slot,
            Some(Head::Several) => {
                let own = &self.several[&user];
                let ends_before = |&slot: &u32| self.slots.of(slot).state.last < first;
                several = &own[own.partition_point(ends_before)..];
            }
        }
        let slots = Some(one).filter(|&one| one != NONE).into_iter().chain(several.iter().copied());
        let states = slots.map(|slot| (slot, &self.slots.of(slot).state));
        let begins_by = move |&(_, state): &(u32, &State)| state.first <= last;
        states.take_while(begins_by).filter(move |(_, state)| state.last >= first)
    }

    /// States that changed since this was asked last, added to `states`; from now on they count as
    /// written.
    pub(crate) fn take_changed(&mut self, states: &mut PackedStates) {
        let mut changed = std::mem::take(&mut self.changed);
        for some in changed.chunks(WARM) {
            self.warm_slots(some.iter().map(|handle| handle.slot));
            for handle in some {
                let of = self.slots.of_mut(handle.slot);
                if of.is(*handle) {
                    of.is_changed = false;
                    states.push(&of.state);
                }
            }
        }
        changed.clear();
        self.changed = changed;
    }

    /// Removes sessions that ended a gap before the watermark, and, while there are more than
    /// `len_max`, those that ended earliest; never one that changed in the open layer.
    pub(crate) fn evict(
        &mut self,
        watermark: EventTime,
        gap_ms: i64,
        len_max: usize,
        mut evicted: impl FnMut(u32, &State),
    ) {
        let mut kept: Vec<(i64, Handle)> = Vec::new();
        while let Some(first) = self.expiry.first_entry() {
            let minute = *first.key();
            let is_behind = end_of(minute).plus_ms(gap_ms) < watermark;
            if !is_behind && self.len <= len_max {
                break;
            }
            for handle in first.remove() {
                // Gone, or in another slot.
                let Some(of) = self.slots.get(handle.slot).filter(|of| of.is(handle)) else {
                    continue;
                };
                let ends = minute_of(of.state.last);
                if ends > minute {
                    self.expiry.entry(ends).or_default().push(handle);
                } else if of.is_changed || !(is_behind || self.len > len_max) {
                    kept.push((minute, handle));
                } else {
                    evicted(handle.slot, &of.state);
                    self.remove(handle.slot);
                }
            }
        }
        for (minute, handle) in kept {
            self.expiry.entry(minute).or_default().push(handle);
        }
    }

    /// Gives memory back where less than two thirds of the slots are in use: sessions in the last
    /// ones go into free ones before, and `moved` is told from where to where and their begin.
    /// Right after [`Self::take_changed`].
    pub(crate) fn compact(&mut self, mut moved: impl FnMut(u32, u32, EventTime)) {
        if self.slots.len().saturating_sub(PIECE) <= self.len / 2 * 3 {
            return;
        }
        let pieces = (self.len + self.len / 8).div_ceil(PIECE);
        let end = u32::try_from(pieces * PIECE).expect("S4: hot sessions are far below 2^32");
        self.free.retain(|&slot| slot < end);
        let last: Vec<Vec<Slot>> = self.slots.0.drain(pieces..).collect();
        for (from, of) in (end..).zip(last.into_iter().flatten()).filter(|(_, of)| of.is_live) {
            let to = self.free.pop().expect("S8: there are free slots for all that lie beyond");
            let (user, first, minute) = (of.state.user, of.state.first, minute_of(of.state.last));
            self.move_of_user(user, from, to);
            let handle = Handle { slot: to, generation: of.generation };
            self.expiry.entry(minute).or_default().push(handle);
            *self.slots.of_mut(to) = of;
            moved(from, to, first);
        }
    }

    fn move_of_user(&mut self, user: u64, from: u32, to: u32) {
        if let Some(Head::One(slot)) = self.heads.get_mut(&user) {
            *slot = to;
            return;
        }
        let own = self.several.get_mut(&user);
        let own = own.expect("S7: who has several sessions has a list of them");
        let place = own.iter().position(|&slot| slot == from);
        own[place.expect("S7: a user's sessions lie in order of time")] = to;
    }

    /// Every word that a session names.
    pub(crate) fn for_each_word(&mut self, visit: &mut dyn FnMut(&mut Word)) {
        for of in self.slots.iter_mut().filter(|of| of.is_live) {
            for (event_type, _) in &mut of.state.counts {
                visit(event_type);
            }
            for (name, value) in &mut of.state.dims {
                visit(name);
                visit(value);
            }
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let per_session = size_of::<(u64, u32)>() + 2 * size_of::<Handle>();
        let several = self.several.capacity() * SEVERAL_BYTES;
        self.slots.memory_bytes() + self.len * per_session + self.lists_bytes + several
    }

    /// What sessions take beside their slots and places in the indices.
    pub(crate) const fn lists_bytes(&self) -> usize {
        self.lists_bytes
    }
}

/// What does not fit into a state's slot; at most 64 KiB, where a release kept more event types.
fn lists_bytes(state: &State) -> u16 {
    let State { counts, dims, .. } = state;
    let mut bytes = 0;
    if counts.spilled() {
        bytes += counts.capacity() * size_of::<(Word, u32)>();
    }
    if dims.spilled() {
        bytes += dims.capacity() * size_of::<(Word, Word)>();
    }
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

impl Slot {
    /// Whether it holds the session that is meant.
    const fn is(&self, handle: Handle) -> bool {
        self.is_live && self.generation == handle.generation
    }

    const fn new(state: State, generation: u32) -> Self {
        Self { state, generation, is_live: true, is_changed: false, touched: NONE, lists_bytes: 0 }
    }
}
