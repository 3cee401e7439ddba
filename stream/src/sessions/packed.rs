//! Sessions on their way to a run file: a third of what they take while they are hot.

use nilometer_event::EventTime;

use super::session::State;
use crate::aggregate::{AggregateDamaged, Reader, put_varint};
use crate::ids::emptied;

/// States one after the other; words are the task's own. Never leaves memory.
#[derive(Clone, Debug, Default)]
pub(super) struct PackedStates {
    bytes: Vec<u8>,
    len: usize,
}

impl PackedStates {
    /// Its memory for the next seal, where that may need about as much.
    pub(super) fn emptied(self) -> Self {
        Self { bytes: emptied(self.bytes), len: 0 }
    }

    pub(super) fn push(&mut self, state: &State) {
        self.len += 1;
        let out = &mut self.bytes;
        let State { user, first, last, events, seq, counts, dims } = state;
        out.extend_from_slice(&user.to_le_bytes());
        out.extend_from_slice(&first.ms().to_le_bytes());
        put_varint(out, last.since(*first).cast_unsigned());
        put_varint(out, *events);
        put_varint(out, *seq);
        for list in [counts.as_slice(), dims.as_slice()] {
            put_varint(out, list.len() as u64);
            for &(one, other) in list {
                put_varint(out, u64::from(one));
                put_varint(out, u64::from(other));
            }
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn memory_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// All states, each with its place.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, State)> {
        let mut place = 0;
        std::iter::from_fn(move || {
            let rest = self.bytes.get(place..).filter(|rest| !rest.is_empty())?;
            let mut reader = Reader::new(rest);
            let state = read(&mut reader).expect("S5: a state is packed by `push`");
            let at = place;
            place = self.bytes.len() - reader.left();
            Some((at, state))
        })
    }

    /// The state at a place that [`Self::iter`] told.
    pub(super) fn at(&self, place: usize) -> State {
        read(&mut Reader::new(&self.bytes[place..])).expect("S5: a state is packed by `push`")
    }

    /// Reads what [`Self::at`] will read: a prefetch without `unsafe`.
    pub(super) fn warm(&self, place: usize) {
        std::hint::black_box(self.bytes.get(place).copied());
    }
}

fn read(reader: &mut Reader<'_>) -> Result<State, AggregateDamaged> {
    let narrow = |number: u64| u32::try_from(number).map_err(|_| AggregateDamaged("over 32 bits"));
    let user = reader.u64()?;
    let first = EventTime::from_ms(reader.u64()?.cast_signed());
    let mut state = State {
        user,
        first,
        last: first.plus_ms(reader.varint()?.cast_signed()),
        events: reader.varint()?,
        seq: reader.varint()?,
        counts: smallvec::SmallVec::new(),
        dims: smallvec::SmallVec::new(),
    };
    for _ in 0..reader.count()? {
        state.counts.push((narrow(reader.varint()?)?, narrow(reader.varint()?)?));
    }
    for _ in 0..reader.count()? {
        state.dims.push((narrow(reader.varint()?)?, narrow(reader.varint()?)?));
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state() -> impl Strategy<Value = State> {
        let list = || prop::collection::vec(any::<(u32, u32)>(), 0..6);
        let times = (-1_i64 << 50..1 << 50, 0..1_i64 << 50);
        (any::<(u64, u64, u64)>(), times, list(), list()).prop_map(
            |((user, events, seq), (first, length), counts, dims)| State {
                user,
                first: EventTime::from_ms(first),
                last: EventTime::from_ms(first + length),
                events,
                seq,
                counts: counts.into(),
                dims: dims.into(),
            },
        )
    }

    proptest! {
        #[test]
        fn states_come_back_as_they_were(states in prop::collection::vec(state(), 0..20)) {
            let mut packed = PackedStates::default();
            states.iter().for_each(|state| packed.push(state));
            prop_assert_eq!(packed.len(), states.len());
            let read: Vec<(usize, State)> = packed.iter().collect();
            prop_assert_eq!(read.len(), states.len());
            for ((place, read), state) in read.iter().zip(&states) {
                prop_assert_eq!(format!("{read:?}"), format!("{state:?}"));
                prop_assert_eq!(format!("{:?}", packed.at(*place)), format!("{state:?}"));
            }
            let emptied = packed.emptied();
            prop_assert_eq!((emptied.len(), emptied.iter().count()), (0, 0));
        }
    }
}
