//! Cells of layers, which come in no order of ours: packed into bytes, and sorted.

use std::sync::Arc;

use nilometer_event::EventTime;
use nilometer_stream::aggregate::{AggregateDamaged, Aggregates, Shape};

use super::account::{Account, Charge};

/// Bytes after which cells that add up are first added up, where no less is allowed.
const ADD_UP_AT: usize = 4 << 20;
/// Before a cell's key: how long key and aggregates are.
const HEADER_BYTES: usize = 4 + 4;
/// Question and window, after a cell's key.
const NAME_BYTES: usize = 2 + 8;
/// Cells come in blocks, so that growing copies nothing.
const BLOCK_BYTES_MIN: usize = 4 << 10;
const BLOCK_BYTES_MAX: usize = 256 << 10;

/// Some cells, sorted once all are in. What has no room is left out, which the account tells.
#[derive(Debug)]
pub(super) struct Packed {
    /// Of the questions' aggregates.
    shapes: Arc<[Shape]>,
    blocks: Vec<Block>,
    /// Of all blocks.
    bytes: usize,
    cells: usize,
    sorted: Vec<Place>,
    add_up_at: usize,
    /// Whether somebody waits for who adds cells: then nothing is sorted.
    is_waited_for: bool,
    account: Arc<Account>,
    /// The cell at hand; kept for its memory.
    cell: Vec<u8>,
}

#[derive(Debug)]
struct Block {
    /// Of each cell its header, key, question and window, aggregates.
    bytes: Vec<u8>,
    /// For the bytes, and the places of their cells.
    _charge: Charge,
}

/// Where a cell begins.
#[derive(Clone, Copy, Debug)]
struct Place {
    block: u32,
    at: u32,
}

impl Packed {
    pub(super) fn new(shapes: Arc<[Shape]>, account: &Arc<Account>) -> Self {
        Self {
            shapes,
            blocks: Vec::new(),
            bytes: 0,
            cells: 0,
            sorted: Vec::new(),
            add_up_at: ADD_UP_AT.min(account.bytes_max() / 4),
            is_waited_for: false,
            account: Arc::clone(account),
            cell: Vec::new(),
        }
    }

    /// Says whether somebody waits for who adds cells.
    pub(super) const fn set_waited_for(&mut self, is_waited_for: bool) {
        self.is_waited_for = is_waited_for;
    }

    /// Adds a cell whose key `put_key` appends.
    pub(super) fn push(
        &mut self,
        ask: u16,
        window: EventTime,
        aggregates: &Aggregates,
        put_key: impl FnOnce(&mut Vec<u8>),
    ) {
        if self.account.is_over() {
            return;
        }
        let mut cell = std::mem::take(&mut self.cell);
        cell.clear();
        cell.resize(HEADER_BYTES, 0);
        put_key(&mut cell);
        let key = cell.len() - HEADER_BYTES;
        cell.extend_from_slice(&ask.to_be_bytes());
        cell.extend_from_slice(&window.ms().to_be_bytes());
        let from = cell.len();
        aggregates.encode(&mut cell);
        for (place, bytes) in [(0, key), (4, cell.len() - from)] {
            let bytes = u32::try_from(bytes).expect("a cell is far below 4 GiB");
            cell[place..place + 4].copy_from_slice(&bytes.to_be_bytes());
        }
        if self.bytes >= self.add_up_at {
            self.make_room();
        }
        // Once more where there was too little room, and then it is too little for good.
        if !self.put(&cell, false) {
            self.make_room();
            self.put(&cell, true);
        }
        self.cell = cell;
    }

    /// Appends a cell; false where there is no room, which is noted where it `is_needed`.
    fn put(&mut self, cell: &[u8], is_needed: bool) -> bool {
        let free = |block: &Block| block.bytes.capacity() - block.bytes.len();
        if self.blocks.last().is_none_or(|block| free(block) < cell.len()) {
            let like_the_rest = self.bytes.clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX);
            let capacity = like_the_rest.min(self.account.room() / 2).max(cell.len());
            let mut charge = Charge::nothing(&self.account);
            // A cell has more than twice the bytes of its place.
            let bytes = capacity + capacity / 2;
            let has_room = if is_needed { charge.grow(bytes) } else { charge.try_grow(bytes) };
            if !has_room {
                return false;
            }
            self.blocks.push(Block { bytes: Vec::with_capacity(capacity), _charge: charge });
            self.bytes += capacity;
        }
        let Some(block) = self.blocks.last_mut() else { return false };
        block.bytes.extend_from_slice(cell);
        self.cells += 1;
        true
    }

    /// Adds up what has one name, where that is allowed and memory for the sum is there.
    pub(super) fn make_room(&mut self) {
        if self.is_waited_for || self.account.is_over() || self.cells < 2 {
            return;
        }
        let order = self.order();
        let mut sum = Self::new(Arc::clone(&self.shapes), &self.account);
        let repeats = order.windows(2).any(|pair| self.name(pair[0]) == self.name(pair[1]));
        let is_summed = repeats
            && order
                .chunk_by(|a, b| self.name(*a) == self.name(*b))
                .all(|same| sum.put(&self.sum_of(same), false));
        drop(order);
        if is_summed {
            *self = sum;
        }
        self.add_up_at = self.add_up_at.max(2 * self.bytes);
    }

    /// One cell in place of all that have its name.
    fn sum_of(&self, same: &[Place]) -> Vec<u8> {
        let (first, rest) = (same[0], &same[1..]);
        let (key, aggregates) = self.lengths(first);
        let end = HEADER_BYTES + key + NAME_BYTES;
        let own = self.bytes_from(first);
        if rest.is_empty() {
            return own[..end + aggregates].to_vec();
        }
        let mut sum = self.cell(first).aggregates;
        rest.iter().for_each(|cell| sum.merge(&self.cell(*cell).aggregates));
        let mut cell = own[..end].to_vec();
        sum.encode(&mut cell);
        let bytes = u32::try_from(cell.len() - end).expect("a cell is far below 4 GiB");
        cell[4..8].copy_from_slice(&bytes.to_be_bytes());
        cell
    }

    /// Sorts by key.
    pub(super) fn sort(&mut self) {
        self.sorted = self.order();
    }

    /// The places of all cells, those with one name together. No key is another's beginning.
    fn order(&self) -> Vec<Place> {
        let mut order = Vec::with_capacity(self.cells);
        for (block, own) in (0..).zip(&self.blocks) {
            let mut at = 0;
            while at < own.bytes.len() {
                let place = Place { block, at: u32::try_from(at).expect("blocks are small") };
                let (key, aggregates) = self.lengths(place);
                at += HEADER_BYTES + key + NAME_BYTES + aggregates;
                order.push(place);
            }
        }
        order.sort_unstable_by(|a, b| self.name(*a).cmp(self.name(*b)));
        order
    }

    /// Of cells that were sorted.
    pub(super) const fn len(&self) -> usize {
        self.sorted.len()
    }

    /// The key of the `n`-th cell.
    pub(super) fn key(&self, n: usize) -> &[u8] {
        let name = self.name(self.sorted[n]);
        &name[..name.len() - NAME_BYTES]
    }

    /// The `n`-th cell.
    pub(super) fn get(&self, n: usize) -> Unpacked {
        self.cell(self.sorted[n])
    }

    /// From where a cell begins to its block's end.
    fn bytes_from(&self, place: Place) -> &[u8] {
        &self.blocks[place.block as usize].bytes[place.at as usize..]
    }

    /// Of a cell's key and its aggregates.
    fn lengths(&self, place: Place) -> (usize, usize) {
        let own = self.bytes_from(place);
        let length = |at: usize| {
            u32::from_be_bytes(own[at..at + 4].try_into().expect("four bytes")) as usize
        };
        (length(0), length(4))
    }

    /// Key, question and window: equal for cells that add up.
    fn name(&self, place: Place) -> &[u8] {
        let (key, _) = self.lengths(place);
        &self.bytes_from(place)[HEADER_BYTES..HEADER_BYTES + key + NAME_BYTES]
    }

    fn cell(&self, place: Place) -> Unpacked {
        let (key, aggregates) = self.lengths(place);
        let rest = &self.bytes_from(place)[HEADER_BYTES + key..];
        let (name, rest) = rest.split_at(NAME_BYTES);
        let (ask, window) = name.split_at(2);
        let ask = u16::from_be_bytes(ask.try_into().expect("two bytes"));
        let window = i64::from_be_bytes(window.try_into().expect("eight bytes"));
        let shape = self.shapes[usize::from(ask)];
        let read: Result<Aggregates, AggregateDamaged> =
            Aggregates::decode(shape, &rest[..aggregates]);
        let aggregates = read.expect("what was encoded in memory decodes");
        Unpacked { ask, window: EventTime::from_ms(window), aggregates }
    }
}

/// A cell as it was put in.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub(super) ask: u16,
    pub(super) window: EventTime,
    pub(super) aggregates: Aggregates,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Question, window and key of a cell.
    type Name = (u16, i64, Vec<u8>);

    fn packed(account: &Arc<Account>) -> Packed {
        let shape = Shape { counts: 2, ..Shape::default() };
        Packed::new(vec![shape; 2].into(), account)
    }

    fn push(packed: &mut Packed, (ask, window, key): &Name, count: i64) {
        let mut aggregates = Aggregates::new(packed.shapes[usize::from(*ask)]);
        aggregates.counts.copy_from_slice(&[count, -count]);
        let window = EventTime::from_ms(*window);
        packed.push(*ask, window, &aggregates, |out| out.extend_from_slice(key));
    }

    /// Keys of one length: none begins another.
    fn name(dice: &mut fastrand::Rng, keys: usize) -> Name {
        let key = format!("{:06}{}", dice.usize(0..keys), "x".repeat(60));
        (dice.u16(0..2), dice.i64(0..2) * 60_000, key.into_bytes())
    }

    fn sums(packed: &Packed) -> BTreeMap<Name, i64> {
        let mut sums = BTreeMap::new();
        for n in 0..packed.len() {
            assert!(n == 0 || packed.key(n - 1) <= packed.key(n), "sorted");
            let cell = packed.get(n);
            let [plus, minus] = cell.aggregates.counts[..] else { panic!("two counts") };
            assert_eq!(plus, -minus);
            *sums.entry((cell.ask, cell.window.ms(), packed.key(n).to_vec())).or_default() += plus;
        }
        sums
    }

    #[test]
    fn cells_add_up_to_what_was_put_in_or_are_known_to_have_no_room() {
        let (mut kept, mut refused) = (0, 0);
        for (seed, bytes_max) in (0..40).zip([20 << 10, 200 << 10, 1 << 20, 30 << 20].repeat(10)) {
            let mut dice = fastrand::Rng::with_seed(seed);
            let account = Account::new(bytes_max);
            let mut packed = packed(&account);
            let mut model: BTreeMap<Name, i64> = BTreeMap::new();
            let keys = [10, 1_000, 100_000][dice.usize(0..3)];
            for n in 0..20_000 {
                let name = name(&mut dice, keys);
                push(&mut packed, &name, n);
                *model.entry(name).or_default() += n;
                let held = packed.blocks.iter().map(|block| block.bytes.capacity()).sum::<usize>()
                    + packed.cells * size_of::<Place>();
                assert!(held <= bytes_max - account.room(), "{held} is on the account");
            }
            assert!(account.most() <= bytes_max);
            if account.is_over() {
                refused += 1;
                continue;
            }
            packed.sort();
            assert_eq!(sums(&packed), model);
            kept += 1;
            drop(packed);
            assert_eq!(account.room(), bytes_max);
        }
        assert!(kept >= 10 && refused >= 10, "{kept} kept, {refused} refused");
    }

    #[test]
    fn while_somebody_waits_nothing_is_sorted_and_later_it_is() {
        let account = Account::new(8 << 20);
        let mut packed = packed(&account);
        let name = (0, 0, vec![b'x'; 60]);
        packed.set_waited_for(true);
        for _ in 0..40_000 {
            push(&mut packed, &name, 1);
        }
        assert_eq!(packed.cells, 40_000);
        assert!(packed.bytes > packed.add_up_at, "it would be due");
        packed.set_waited_for(false);
        packed.make_room();
        packed.sort();
        assert_eq!(packed.cells, 1);
        assert_eq!(sums(&packed), BTreeMap::from([(name, 40_000)]));
        assert!(!account.is_over());
    }
}
