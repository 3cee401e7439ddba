//! A block of sessions: its bytes, put together and taken apart.
//!
//! They are the postcard form (version 1) of the block's distinct texts and of its rows, which
//! name texts by number: `(Vec<String>, Vec<(user u64, first i64, last i64, events u64, seq u64,
//! counts Vec<(u32, u32)>, dims Vec<(u32, u32)>)>)`. Most rows that are read go into another
//! block or nowhere, so a row's texts are looked up only for who asks.

use nilometer_event::EventTime;

use super::session::{State, Stored};
use crate::aggregate::{AggregateDamaged, Reader, put_signed, put_varint};

/// What of a session names no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Core {
    pub(crate) user: u64,
    pub(crate) first: EventTime,
    pub(crate) last: EventTime,
    pub(crate) events: u64,
    pub(crate) seq: u64,
}

impl From<&State> for Core {
    fn from(&State { user, first, last, events, seq, .. }: &State) -> Self {
        Self { user, first, last, events, seq }
    }
}

impl From<&Stored> for Core {
    fn from(&Stored { user, first, last, events, seq, .. }: &Stored) -> Self {
        Self { user, first, last, events, seq }
    }
}

/// The rows of a block so far.
#[derive(Debug, Default)]
pub(super) struct BlockWriter {
    texts: Vec<String>,
    pub(super) rows: u32,
    pub(super) first_user: u64,
    bytes: Vec<u8>,
    /// The lists of the row at hand.
    pub(super) counts: Vec<(u32, u32)>,
    pub(super) dims: Vec<(u32, u32)>,
}

impl BlockWriter {
    pub(super) fn add_text(&mut self, text: &str) -> u32 {
        self.texts.push(text.to_owned());
        u32::try_from(self.texts.len() - 1).expect("a block is small")
    }

    /// Ends the row whose lists are in `counts` and `dims`.
    pub(super) fn push(&mut self, session: Core) {
        if self.rows == 0 {
            self.first_user = session.user;
        }
        self.rows += 1;
        let out = &mut self.bytes;
        put_varint(out, session.user);
        put_signed(out, session.first.ms());
        put_signed(out, session.last.ms());
        put_varint(out, session.events);
        put_varint(out, session.seq);
        for list in [&self.counts, &self.dims] {
            put_varint(out, list.len() as u64);
            for &(one, other) in list {
                put_varint(out, u64::from(one));
                put_varint(out, u64::from(other));
            }
        }
    }

    /// Puts the block's payload in place of what `payload` holds; empties the block.
    pub(super) fn take(&mut self, payload: &mut Vec<u8>) {
        payload.clear();
        put_varint(payload, self.texts.len() as u64);
        for text in self.texts.drain(..) {
            put_varint(payload, text.len() as u64);
            payload.extend_from_slice(text.as_bytes());
        }
        put_varint(payload, u64::from(self.rows));
        payload.append(&mut self.bytes);
        self.rows = 0;
    }
}

/// A block that was read.
#[derive(Debug, Default)]
pub(crate) struct StoredBlock {
    texts: Vec<String>,
    rows: Vec<StoredRow>,
    /// The lists of all rows, one after the other; every text that they name is there.
    pairs: Vec<(u32, u32)>,
}

/// A row of a block, and where its lists are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoredRow {
    pub(crate) core: Core,
    counts: usize,
    dims: usize,
    end: usize,
}

impl StoredBlock {
    /// Takes a payload apart; `None` where it is none of ours.
    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        Self::read(&mut Reader::new(payload)).ok()
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, AggregateDamaged> {
        let mut own = Self::default();
        for _ in 0..reader.count()? {
            let len = reader.count()?;
            let text = std::str::from_utf8(reader.take(len)?);
            own.texts.push(text.map_err(|_| AggregateDamaged("text is not UTF-8"))?.to_owned());
        }
        for _ in 0..reader.count()? {
            let core = Core {
                user: reader.varint()?,
                first: EventTime::from_ms(reader.signed()?),
                last: EventTime::from_ms(reader.signed()?),
                events: reader.varint()?,
                seq: reader.varint()?,
            };
            let counts = own.pairs.len();
            own.read_pairs(reader, false)?;
            let dims = own.pairs.len();
            own.read_pairs(reader, true)?;
            own.rows.push(StoredRow { core, counts, dims, end: own.pairs.len() });
        }
        let in_order = own.rows.is_sorted_by_key(|row| row.core.user);
        if in_order && reader.is_empty() { Ok(own) } else { Err(AggregateDamaged("no block")) }
    }

    /// Reads a list of a text each and a number, or of two texts each.
    fn read_pairs(
        &mut self,
        reader: &mut Reader<'_>,
        are_texts: bool,
    ) -> Result<(), AggregateDamaged> {
        let narrow =
            |number: u64| u32::try_from(number).map_err(|_| AggregateDamaged("over 32 bits"));
        for _ in 0..reader.count()? {
            let (one, other) = (narrow(reader.varint()?)?, narrow(reader.varint()?)?);
            let highest = if are_texts { one.max(other) } else { one };
            if highest as usize >= self.texts.len() {
                return Err(AggregateDamaged("unknown text"));
            }
            self.pairs.push((one, other));
        }
        Ok(())
    }

    pub(crate) fn rows(&self) -> &[StoredRow] {
        &self.rows
    }

    /// The user's rows.
    pub(crate) fn of_user(&self, user: u64) -> &[StoredRow] {
        let start = self.rows.partition_point(|row| row.core.user < user);
        let rest = &self.rows[start..];
        &rest[..rest.partition_point(|row| row.core.user == user)]
    }

    pub(super) fn texts(&self) -> &[String] {
        &self.texts
    }

    /// A row's counts by the numbers of their texts.
    pub(super) fn counts(&self, row: &StoredRow) -> &[(u32, u32)] {
        &self.pairs[row.counts..row.dims]
    }

    /// A row's dimensions by the numbers of their texts.
    pub(super) fn dims(&self, row: &StoredRow) -> &[(u32, u32)] {
        &self.pairs[row.dims..row.end]
    }

    /// A row with its texts.
    pub(crate) fn stored(&self, row: &StoredRow) -> Stored {
        let text = |number: u32| self.texts[number as usize].clone();
        let Core { user, first, last, events, seq } = row.core;
        let counts = self.counts(row).iter().map(|&(of, count)| (text(of), count)).collect();
        let dims = self.dims(row).iter().map(|&(name, of)| (text(name), text(of))).collect();
        Stored { user, first, last, events, seq, counts, dims }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};

    use super::*;

    type Pairs = Vec<(u32, u32)>;

    /// Version 1, as a derive writes it: how every block on a disk was first written.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Row {
        user: u64,
        first: EventTime,
        last: EventTime,
        events: u64,
        seq: u64,
        counts: Pairs,
        dims: Pairs,
    }

    fn row() -> impl Strategy<Value = Row> {
        let numbers = (any::<u64>(), any::<i64>(), any::<i64>(), any::<u64>(), any::<u64>());
        let lists = (
            prop::collection::vec((0..3_u32, any::<u32>()), 0..4),
            prop::collection::vec((0..3_u32, 0..3_u32), 0..4),
        );
        (numbers, lists).prop_map(|((user, first, last, events, seq), (counts, dims))| Row {
            user,
            first: EventTime::from_ms(first),
            last: EventTime::from_ms(last),
            events,
            seq,
            counts,
            dims,
        })
    }

    proptest! {
        #[test]
        fn a_block_is_the_postcard_form_of_its_texts_and_rows(
            mut rows in prop::collection::vec(row(), 0..20),
            texts in prop::collection::vec(".{0,40}", 3),
        ) {
            rows.sort_by_key(|row| row.user);
            let mut writer = BlockWriter::default();
            for text in &texts {
                writer.add_text(text);
            }
            for row in &rows {
                let &Row { user, first, last, events, seq, .. } = row;
                writer.counts.clone_from(&row.counts);
                writer.dims.clone_from(&row.dims);
                writer.push(Core { user, first, last, events, seq });
            }
            let mut payload = vec![1, 2, 3];
            writer.take(&mut payload);
            prop_assert_eq!(&payload, &postcard::to_stdvec(&(&texts, &rows)).unwrap());

            let block = StoredBlock::decode(&payload).unwrap();
            prop_assert_eq!(block.texts(), &texts[..]);
            prop_assert_eq!(block.rows().len(), rows.len());
            for (read, row) in block.rows().iter().zip(&rows) {
                let &Row { user, first, last, events, seq, .. } = row;
                prop_assert_eq!(read.core, Core { user, first, last, events, seq });
                prop_assert_eq!(block.counts(read), &row.counts[..]);
                prop_assert_eq!(block.dims(read), &row.dims[..]);
                let of_user = rows.iter().filter(|other| other.user == user).count();
                prop_assert_eq!(block.of_user(user).len(), of_user);
            }
        }

        #[test]
        fn hostile_bytes_never_panic(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(block) = StoredBlock::decode(&payload) {
                block.rows().iter().for_each(|row| drop(block.stored(row)));
            }
        }
    }

    #[test]
    fn a_row_that_names_a_text_that_is_not_there_is_damage() {
        let row = |counts, dims| {
            let zero = EventTime::from_ms(0);
            Row { user: 1, first: zero, last: zero, events: 1, seq: 1, counts, dims }
        };
        let decode =
            |row: Row| StoredBlock::decode(&postcard::to_stdvec(&(vec!["a"], vec![row])).unwrap());
        assert!(decode(row(vec![(0, 9)], vec![(0, 0)])).is_some());
        assert!(decode(row(vec![(1, 9)], vec![(0, 0)])).is_none());
        assert!(decode(row(vec![(0, 9)], vec![(0, 1)])).is_none());
    }
}
