//! The hot sessions: by user, and by the minute in which they may go cold.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use nilometer_event::EventTime;

use super::open::{end_of, minute_of};
use super::packed::PackedStates;
use super::session::State;
use super::words::Word;

/// Sessions are read ahead so many at a time.
pub(crate) const WARM: usize = 64;

/// No slot, no touched session.
pub(crate) const NONE: u32 = u32::MAX;

/// Sessions in slots; a user's are a list.
#[derive(Debug, Default)]
pub(crate) struct HotSessions {
    slots: Slots,
    free: Vec<u32>,
    /// Users' hashes are keyed, so that a fixed hash of them is safe.
    heads: HashMap<u64, u32, foldhash::fast::FixedState>,
    /// Every session once, by the minute of its end or an earlier one.
    expiry: BTreeMap<i64, Vec<Handle>>,
    changed: Vec<Handle>,
    len: usize,
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

const PIECE: usize = 1 << 12;

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
    next: u32,
    generation: u32,
    is_live: bool,
    /// Changed in the open layer, so that no run file holds this state yet.
    is_changed: bool,
    /// Index among those touched by the entry.
    touched: u32,
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
            *head = self.heads.get(&user).copied().unwrap_or(NONE);
        }
        self.warm_slots(heads.into_iter());
    }

    /// As [`Self::warm`], by slots.
    pub(crate) fn warm_slots(&self, slots: impl Iterator<Item = u32>) {
        for slot in slots {
            if let Some(of) = self.slots.get(slot) {
                let (state, ends) = (&of.state, (of.next, of.touched));
                std::hint::black_box((state.last, state.counts.len(), state.dims.len(), ends));
            }
        }
    }

    /// Puts a session that a run file holds, or one that [`Self::change`] will be called for.
    pub(crate) fn insert(&mut self, state: State) -> u32 {
        let head = self.heads.entry(state.user).or_insert(NONE);
        let next = *head;
        let minute = minute_of(state.last);
        let slot = match self.free.pop() {
            Some(slot) => {
                let of = self.slots.of_mut(slot);
                let generation = of.generation;
                *of = Slot::new(state, next, generation);
                slot
            }
            None => self.slots.push(Slot::new(state, next, 0)),
        };
        *head = slot;
        let generation = self.slots.of(slot).generation;
        self.expiry.entry(minute).or_default().push(Handle { slot, generation });
        self.len += 1;
        slot
    }

    pub(crate) fn remove(&mut self, slot: u32) -> State {
        let (user, next) = {
            let of = self.slots.of_mut(slot);
            of.is_live = false;
            of.generation = of.generation.wrapping_add(1);
            (of.state.user, of.next)
        };
        let mut before = self.heads[&user];
        if before == slot {
            if next == NONE {
                self.heads.remove(&user);
            } else {
                self.heads.insert(user, next);
            }
        } else {
            while self.slots.of(before).next != slot {
                before = self.slots.of(before).next;
            }
            self.slots.of_mut(before).next = next;
        }
        self.free.push(slot);
        self.len -= 1;
        self.slots.of(slot).state.clone()
    }

    /// The user's sessions.
    pub(crate) fn of_user(&self, user: u64) -> impl Iterator<Item = (u32, &State)> {
        let mut next = self.heads.get(&user).copied().unwrap_or(NONE);
        std::iter::from_fn(move || {
            let of = self.slots.get(next)?;
            let slot = std::mem::replace(&mut next, of.next);
            Some((slot, &of.state))
        })
    }

    /// States that changed since this was asked last, added to `states`; from now on they count as
    /// written.
    pub(crate) fn take_changed(&mut self, states: &mut PackedStates) {
        let mut changed = std::mem::take(&mut self.changed);
        for some in changed.chunks(WARM) {
            self.warm_slots(some.iter().map(|handle| handle.slot));
            for handle in some {
                let of = self.slots.of_mut(handle.slot);
                if of.is_live && of.generation == handle.generation {
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
                let of = self.slots.of(handle.slot);
                if !of.is_live || of.generation != handle.generation {
                    continue;
                }
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
        self.slots.memory_bytes() + self.len * per_session
    }
}

impl Slot {
    const fn new(state: State, next: u32, generation: u32) -> Self {
        Self { state, next, generation, is_live: true, is_changed: false, touched: NONE }
    }
}
